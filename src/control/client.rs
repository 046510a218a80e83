//! The command line's side of the conversation.

use std::{
    io::{BufRead, BufReader, Error, ErrorKind, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use eastgate_api::{ErrorCode, Failure, Request};
use serde::{Deserialize, de::DeserializeOwned};
use socket2::{Domain, SockAddr, Socket, Type};

use super::socket::is_socket;

/// How long a request waits before it is made again that a busy daemon has refused.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a daemon may take to take up a conversation, where that is all that is asked.
const KNOCK: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at {}: {source}\n  is it running? `eastgate run --config FILE --host NAME`; another socket: --socket PATH", .path.display())]
    Connect {
        /// Where
        path: PathBuf,
        /// Why
        #[source]
        source: Error,
    },
    /// The socket may not be opened.
    #[error("{} may not be opened: {source}\n  it belongs to the daemon's user, who alone may ask: try again as root (sudo)", .path.display())]
    Denied {
        /// Where
        path: PathBuf,
        /// Why
        #[source]
        source: Error,
    },
    /// It listens, and says nothing.
    #[error("the daemon at {} has not answered within {seconds} s: it is busy, or hangs\n  --timeout SECONDS waits longer", .path.display())]
    Late {
        /// Where
        path: PathBuf,
        /// How long
        seconds: u64,
    },
    /// The conversation broke off.
    #[error("the daemon at {} broke off: {source}", .path.display())]
    Broken {
        /// Where
        path: PathBuf,
        /// Why
        #[source]
        source: Error,
    },
    /// The answer is not of the form expected: another version.
    #[error("the daemon's answer is not understood, is it of another version? {0}")]
    Form(#[from] serde_json::Error),
    /// The daemon refused.
    #[error(transparent)]
    Refused(Failure),
}

#[derive(Deserialize)]
struct Answer<T> {
    ok: Option<T>,
    #[serde(flatten)]
    failure: Option<Failure>,
}

/// What is at the path of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Nothing
    Nothing,
    /// A socket that nobody listens on
    Dead,
    /// A socket that somebody listens on, whether they answer or not
    Alive,
    /// Something that is no socket
    Other,
}

impl Presence {
    /// Knocks.
    ///
    /// # Errors
    /// When it cannot be told: without permission above all.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        match is_socket(path) {
            Ok(true) => {}
            Ok(false) => return Ok(Self::Other),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) => return Err(error),
        }
        match connect(path, KNOCK) {
            Ok(_) => Ok(Self::Alive),
            Err(error) if is_late(&error) => Ok(Self::Alive),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Self::Dead),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::Nothing),
            Err(error) => Err(error),
        }
    }
}

/// Connects, and waits no longer than that for a daemon that takes no more conversations.
fn connect(path: &Path, within: Duration) -> std::io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(within))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(UnixStream::from(OwnedFd::from(socket)))
}

fn is_late(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Asks the daemon at `path`, and waits for its answer no longer than that; where others wait before, as long as that too.
///
/// # Errors
/// When there is no daemon, no answer, or the answer is no.
pub fn ask<T: DeserializeOwned>(path: &Path, request: &Request, within: Duration) -> Result<T, ClientError> {
    let deadline = Instant::now() + within;
    loop {
        match ask_once(path, request, within, deadline) {
            Err(ClientError::Refused(failure))
                if failure.code == ErrorCode::Busy && Instant::now() + 2 * AGAIN < deadline =>
            {
                std::thread::sleep(AGAIN);
            }
            answer => return answer,
        }
    }
}

fn ask_once<T: DeserializeOwned>(
    path: &Path,
    request: &Request,
    within: Duration,
    deadline: Instant,
) -> Result<T, ClientError> {
    let failed = |source: Error| {
        let path = path.to_owned();
        if is_late(&source) {
            ClientError::Late { path, seconds: within.as_secs() }
        } else {
            ClientError::Broken { path, source }
        }
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let mut stream = connect(path, left).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => ClientError::Denied { path: path.to_owned(), source },
        _ if is_late(&source) => failed(source),
        _ => ClientError::Connect { path: path.to_owned(), source },
    })?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(failed)?;
    let answer = read_line(stream, deadline).map_err(failed)?;
    if answer.is_empty() {
        return Err(failed(ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_slice(&answer)? {
        Answer { ok: Some(value), .. } => Ok(value),
        Answer { failure, .. } => Err(ClientError::Refused(
            failure.unwrap_or_else(|| Failure::new(ErrorCode::Unknown, "no reason was given")),
        )),
    }
}

/// One line, which must be there by the deadline however slowly it comes.
fn read_line(stream: UnixStream, deadline: Instant) -> std::io::Result<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        reader.get_ref().set_read_timeout(Some(left))?;
        let part = match reader.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            part => part?,
        };
        let end = part.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(part.len(), |end| end + 1);
        line.extend_from_slice(part.get(..taken).unwrap_or_default());
        reader.consume(taken);
        if end.is_some() || taken == 0 {
            return Ok(line);
        }
    }
}
