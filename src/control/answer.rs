//! How an answer is written: JSON of bounded length, and the HTTP status that goes with it.

use std::io::{Error, Write};

use eastgate_api::{ErrorCode, Failure, Reply};
use hyper::{StatusCode, body::Bytes};
use serde::Serialize;

/// The most bytes of an answer.
pub(super) const MAX_ANSWER: usize = 64 << 20;

/// An answer, as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// JSON, and a newline for whoever looks at it
    pub(super) json: Bytes,
}

impl Answer {
    /// Of a request that was carried out, or was not. One that is too long is one that says so.
    pub(super) fn of(result: &Result<Reply, Failure>) -> Self {
        Self::within(MAX_ANSWER, result)
    }

    fn within(most: usize, result: &Result<Reply, Failure>) -> Self {
        let failure = match result {
            Ok(reply) => match written(most, reply) {
                Ok(json) => return Self { status: StatusCode::OK, json },
                Err(failure) => failure,
            },
            Err(failure) => failure.clone(),
        };
        Self::failed(&failure)
    }

    /// Of a request that was not carried out.
    pub(super) fn failed(failure: &Failure) -> Self {
        let status = StatusCode::from_u16(failure.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, json: written(usize::MAX, failure).unwrap_or_default() }
    }
}

/// For a command line of before there was an HTTP API, which has sent a line of JSON: a line of JSON that it understands.
pub(super) fn line_for_old_clients() -> Bytes {
    let text = format!(
        "the daemon is newer than this command line: it is eastgate {}, which is asked over HTTP; use the `eastgate` of that version",
        env!("CARGO_PKG_VERSION")
    );
    written(usize::MAX, &Failure::new(ErrorCode::Malformed, text)).unwrap_or_default()
}

/// Fails when it is too long.
fn written(most: usize, answer: &impl Serialize) -> Result<Bytes, Failure> {
    let mut line = Bounded { bytes: Vec::new(), most };
    match serde_json::to_writer(&mut line, answer) {
        Ok(()) => {
            line.bytes.push(b'\n');
            Ok(line.bytes.into())
        }
        Err(error) if error.is_io() => {
            let text = format!(
                "the answer has more than {most} bytes: ask for less, with a limit or another filter"
            );
            Err(Failure::new(ErrorCode::TooLarge, text))
        }
        Err(error) => Err(Failure::new(ErrorCode::Failed, format!("the answer cannot be written: {error}"))),
    }
}

/// Takes so many bytes and no more.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(Error::other("the answer is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use eastgate_api::Done;

    use super::*;

    #[test]
    fn an_answer_is_a_line_and_one_that_is_too_long_says_so() {
        let done = Ok(Reply::from(Done { warnings: vec!["x".repeat(100)], ..Done::default() }));
        let whole = Answer::of(&done);
        assert_eq!(whole.status, StatusCode::OK);
        assert!(whole.json.starts_with(b"{\"count\":0,") && whole.json.ends_with(b"}\n"));
        let short = Answer::within(100, &done);
        let text = String::from_utf8(short.json.to_vec()).unwrap();
        assert_eq!(short.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(text.contains("ask for less") && text.ends_with("\"code\":\"too-large\"}\n"), "{text}");
    }

    #[test]
    fn a_failure_has_the_status_of_its_code() {
        for (code, status) in
            [(ErrorCode::Busy, 503), (ErrorCode::Configuration, 422), (ErrorCode::Forbidden, 403)]
        {
            assert_eq!(Answer::of(&Err(Failure::new(code, "no"))).status.as_u16(), status);
        }
        assert!(line_for_old_clients().starts_with(b"{\"error\":\"the daemon is newer"));
    }
}
