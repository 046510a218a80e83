//! The command line's side of the conversation.

use std::{
    io::{Error, ErrorKind},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use eastgate_api::{Call, ErrorCode, Failure, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::timeout;

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
    /// It speaks as daemons did before there was an HTTP API.
    #[error("the daemon at {} is older than this command line, which asks over HTTP (eastgate {})\n  use the `eastgate` that it was started from, or restart it", .path.display(), env!("CARGO_PKG_VERSION"))]
    Older {
        /// Where
        path: PathBuf,
    },
    /// The answer is not of the form expected: another version.
    #[error("the daemon's answer is not understood, is it of another version? {0}")]
    Form(#[from] serde_json::Error),
    /// The daemon refused.
    #[error(transparent)]
    Refused(Failure),
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
    let left = || deadline.saturating_duration_since(Instant::now());
    let stream = connect(path, left()).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => ClientError::Denied { path: path.to_owned(), source },
        _ if is_late(&source) => failed(source),
        _ => ClientError::Connect { path: path.to_owned(), source },
    })?;
    let Some(call) = request.call() else {
        let text = "there is no way to ask this over HTTP";
        return Err(ClientError::Refused(Failure::new(ErrorCode::NotApplicable, text)));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let exchange = async { timeout(left(), exchange(stream, call)).await };
    let (status, body) = match runtime.block_on(exchange) {
        Err(_) => return Err(failed(ErrorKind::TimedOut.into())),
        Ok(Ok(answer)) => answer,
        // An old daemon answers in JSON what is no JSON.
        Ok(Err(Exchange::Http(error))) if error.is_parse() => {
            return Err(ClientError::Older { path: path.to_owned() });
        }
        Ok(Err(Exchange::Http(error))) if error.is_incomplete_message() => {
            return Err(failed(ErrorKind::UnexpectedEof.into()));
        }
        Ok(Err(Exchange::Http(error))) => return Err(failed(Error::other(error))),
        Ok(Err(Exchange::Io(error))) => return Err(failed(error)),
    };
    if status == StatusCode::OK {
        return Ok(serde_json::from_slice(&body)?);
    }
    Err(ClientError::Refused(serde_json::from_slice(&body)?))
}

/// Why a request came back without an answer.
#[derive(Debug, thiserror::Error)]
enum Exchange {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Io(#[from] Error),
}

/// Sends a request, and takes what is answered.
async fn exchange(stream: UnixStream, call: Call) -> Result<(StatusCode, Bytes), Exchange> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(stream)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::builder()
        .method(call.method.name())
        .uri(call.target)
        .header(HOST, "eastgate")
        .header(CONNECTION, "close")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(call.body.unwrap_or_default())))
        .map_err(Error::other)?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok::<_, Exchange>((status, response.into_body().collect().await?.to_bytes()))
    };
    // The connection goes on for as long as the answer is read from it.
    let (answer, connected) = tokio::join!(answer, connection);
    match (answer, connected) {
        (Ok(answer), _) => Ok(answer),
        // What went wrong there says more than that the request was given up for it.
        (Err(Exchange::Http(error)), Err(connected)) if error.is_canceled() => Err(connected.into()),
        (Err(error), _) => Err(error),
    }
}
