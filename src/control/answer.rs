//! How an answer is written: one line of JSON of bounded length.

use std::io::{Error, Write};

use eastgate_api::{ErrorCode, Failure, Reply};
use serde::Serialize;

/// The most bytes of an answer.
pub(super) const MAX_ANSWER: usize = 64 << 20;

/// The form of an answer.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Ok { ok: &'a Reply },
    Failed(&'a Failure),
}

/// The line that is sent. An answer that is too long is one that says so.
pub(super) fn line(result: &Result<Reply, Failure>) -> Vec<u8> {
    line_within(MAX_ANSWER, result)
}

fn line_within(most: usize, result: &Result<Reply, Failure>) -> Vec<u8> {
    let answer = match result {
        Ok(ok) => Answer::Ok { ok },
        Err(failure) => Answer::Failed(failure),
    };
    let failure = match written(most, &answer) {
        Ok(line) => return line,
        Err(None) => {
            let text = format!(
                "the answer has more than {most} bytes: ask for less, with --limit or another filter"
            );
            Failure::new(ErrorCode::TooLarge, text)
        }
        Err(Some(error)) => Failure::new(ErrorCode::Failed, format!("the answer cannot be written: {error}")),
    };
    written(usize::MAX, &Answer::Failed(&failure)).unwrap_or_default()
}

/// Fails with nothing when it is too long.
fn written(most: usize, answer: &Answer<'_>) -> Result<Vec<u8>, Option<serde_json::Error>> {
    let mut line = Bounded { bytes: Vec::new(), most };
    match serde_json::to_writer(&mut line, answer) {
        Ok(()) => {
            line.bytes.push(b'\n');
            Ok(line.bytes)
        }
        Err(error) if error.is_io() => Err(None),
        Err(error) => Err(Some(error)),
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
        let whole = line(&done);
        assert!(whole.starts_with(b"{\"ok\":{\"count\":0,") && whole.ends_with(b"}}\n"));
        let short = line_within(100, &done);
        let text = String::from_utf8(short).unwrap();
        assert!(text.contains("--limit") && text.ends_with("\"code\":\"too-large\"}\n"), "{text}");
    }
}
