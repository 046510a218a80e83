//! The daemon's side of the conversation.

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use super::{MAX_REQUEST, protocol::Request};

/// Conversations at one time; more wait in the socket's queue.
const CONVERSATIONS: usize = 32;

/// Bytes of an oversized request that are read and thrown away.
const MAX_REST: u64 = 1 << 20;

/// Who answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; the error is for a person to read.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Value, String>> + Send;
}

/// Listens at `path`, which only the daemon's user may open. A socket file that nobody listens on is replaced.
///
/// # Errors
/// When another daemon listens there, or the kernel refuses.
pub fn listen(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::Error::new(
                std::io::ErrorKind::AddrInUse,
                format!("another eastgate listens at {}; give this one its own --socket", path.display()),
            ));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until the task is dropped.
pub async fn serve<H: Handler>(listener: UnixListener, handler: Arc<H>) {
    let places = Arc::new(Semaphore::new(CONVERSATIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket took no connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &*handler).await {
                tracing::debug!(%error, "a control conversation broke off");
            }
            drop(place);
        });
    }
}

async fn converse<H: Handler>(stream: UnixStream, handler: &H) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let got = (&mut reader).take(MAX_REQUEST as u64 + 1).read_until(b'\n', &mut line).await?;
        if got == 0 {
            return Ok(());
        }
        let too_long = line.len() > MAX_REQUEST;
        let answer = if too_long {
            Err(format!("a request has at most {MAX_REQUEST} bytes"))
        } else {
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => handler.handle(request).await,
                Err(error) => Err(format!("this is no request: {error}")),
            }
        };
        let answer = match answer {
            Ok(value) => json!({ "ok": value }),
            Err(text) => json!({ "error": text }),
        };
        writer.write_all(format!("{answer}\n").as_bytes()).await?;
        if too_long {
            // Closing with bytes unread would take the answer away from the asker.
            tokio::io::copy(&mut reader.take(MAX_REST), &mut tokio::io::sink()).await?;
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;
    impl Handler for Echo {
        async fn handle(&self, request: Request) -> Result<Value, String> {
            match request {
                Request::Status {} => Ok(json!("fine")),
                other => Err(format!("not {other:?}")),
            }
        }
    }

    async fn talk(lines: &[u8]) -> String {
        let (client, server) = UnixStream::pair().unwrap();
        let task = tokio::spawn(async move { converse(server, &Echo).await });
        let (mut reader, mut writer) = client.into_split();
        let lines = lines.to_vec();
        let write = tokio::spawn(async move {
            let _ = writer.write_all(&lines).await;
        });
        let mut answer = String::new();
        let _ = reader.read_to_string(&mut answer).await;
        write.await.unwrap();
        let _ = task.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn requests_are_answered_one_a_line() {
        let answer = talk(b"{\"status\":{}}\n{\"reload\":{}}\n").await;
        assert_eq!(answer, "{\"ok\":\"fine\"}\n{\"error\":\"not Reload\"}\n");
    }

    #[tokio::test]
    async fn malformed_and_oversized_requests_are_refused() {
        for bad in [
            "{}\n",
            "[]\n",
            "{\"statu\":{}}\n",
            "{\"flows\":{\"vni\":99999999}}\n",
            "\u{0}\n",
            "{\"flows\":{\"x\":1}}\n",
        ] {
            let answer = talk(bad.as_bytes()).await;
            assert!(answer.starts_with("{\"error\":\"this is no request"), "{bad}: {answer}");
        }
        let answer = talk(&vec![b'x'; MAX_REQUEST * 2]).await;
        assert!(answer.starts_with("{\"error\":\"a request has at most"), "{answer}");
    }
}
