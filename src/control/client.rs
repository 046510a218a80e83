//! The command line's side of the conversation.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

use super::protocol::Request;

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
        source: std::io::Error,
    },
    /// The conversation broke off.
    #[error("the daemon at {} broke off: {source}", .path.display())]
    Broken {
        /// Where
        path: PathBuf,
        /// Why
        #[source]
        source: std::io::Error,
    },
    /// The answer is not of the form expected: another version.
    #[error("the daemon's answer is not understood, is it of another version? {0}")]
    Form(#[from] serde_json::Error),
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer<T> {
    Ok(T),
    Error(String),
}

/// Asks the daemon at `path`.
///
/// # Errors
/// When there is no daemon, no answer, or the answer is no.
pub fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, ClientError> {
    let mut stream =
        UnixStream::connect(path).map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
    let broken = |source| ClientError::Broken { path: path.to_owned(), source };
    stream.set_read_timeout(Some(Duration::from_secs(120))).map_err(broken)?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(broken)?;
    if answer.is_empty() {
        return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&answer)? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(text) => Err(ClientError::Refused(text)),
    }
}
