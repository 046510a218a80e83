//! The daemon's side of the conversation.

use std::{
    fs,
    io::{Error, ErrorKind},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use eastgate_api::{ErrorCode, Failure, Reply, Request};
use nix::sys::stat::{Mode, umask};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Notify,
    task::AbortHandle,
    time::timeout,
};

use super::{MAX_REQUEST, client::Presence};

/// Conversations at one time. The one that has said nothing for longest makes room for another.
const CONVERSATIONS: usize = 32;

/// How long an asker may be silent, and how long it may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of an oversized request that are read and thrown away.
const MAX_REST: u64 = 1 << 20;

/// Who answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Reply, Failure>> + Send;
}

/// The file of a socket that was made here, and is told from any other that takes its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: Option<Identity>,
}

/// What has become of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketState {
    /// It is there.
    There,
    /// There is nothing in its place.
    Gone,
    /// There is something else in its place.
    Replaced,
}

impl SocketFile {
    fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), id: identity(path).ok() }
    }

    /// What has become of it.
    #[must_use]
    pub fn state(&self) -> SocketState {
        match identity(&self.path) {
            Ok(id) if Some(id) == self.id => SocketState::There,
            Err(error) if error.kind() == ErrorKind::NotFound => SocketState::Gone,
            _ => SocketState::Replaced,
        }
    }

    /// Removes it, and nothing else that stands in its place.
    pub fn remove(&self) {
        if self.state() == SocketState::There {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device, inode, and when it was made: the number of an inode is soon another file's.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> std::io::Result<Identity> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

/// Listens at `path`, which only the daemon's user may open. A socket that nobody listens on is replaced; any other file is
/// left as it is.
///
/// # Errors
/// When another daemon listens there, something else is there, or the kernel refuses.
pub fn listen(path: &Path) -> std::io::Result<(UnixListener, SocketFile)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match Presence::of(path)? {
        Presence::Nothing => {}
        Presence::Dead => fs::remove_file(path)?,
        Presence::Alive => {
            let text =
                format!("another eastgate listens at {}; give this one its own --socket", path.display());
            return Err(Error::new(ErrorKind::AddrInUse, text));
        }
        Presence::Other => {
            let text = format!(
                "{} is there and is no socket; it is left as it is: give another --socket",
                path.display()
            );
            return Err(Error::new(ErrorKind::AlreadyExists, text));
        }
    }
    // From its first moment on nobody else may open it.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    Ok((listener?, SocketFile::of(path)))
}

/// Whether a file is a socket.
pub(super) fn is_socket(path: &Path) -> std::io::Result<bool> {
    fs::symlink_metadata(path).map(|file| file.file_type().is_socket())
}

/// Answers until the task is dropped.
pub async fn serve<H: Handler>(listener: UnixListener, handler: Arc<H>) {
    let table = Arc::new(Table::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket took no connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        table.make_room().await;
        let (handler, place) = (handler.clone(), Place::new(&table));
        let number = place.number;
        let task = tokio::spawn(async move {
            if let Err(error) = converse(stream, &*handler, &place).await {
                tracing::debug!(%error, "a control conversation broke off");
            }
        });
        table.with(|places| {
            if let Some(entry) = places.iter_mut().find(|entry| entry.number == number) {
                entry.task = Some(task.abort_handle());
            }
        });
    }
}

/// The conversations that there are.
#[derive(Debug, Default)]
struct Table {
    places: Mutex<Vec<Entry>>,
    freed: Notify,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// Since when it waits for the asker; none while it is worked on an answer
    waits_since: Option<Instant>,
    task: Option<AbortHandle>,
}

impl Table {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        work(&mut self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when there is room for one more: the asker that has kept us waiting for longest goes, or if none has, an
    /// answer that is under way is waited for.
    async fn make_room(&self) {
        loop {
            let freed = self.freed.notified();
            let full = self.with(|places| {
                if places.len() < CONVERSATIONS {
                    return false;
                }
                let idle = places.iter().filter(|entry| entry.task.is_some() && entry.waits_since.is_some());
                if let Some(task) =
                    idle.min_by_key(|entry| entry.waits_since).and_then(|entry| entry.task.as_ref())
                {
                    task.abort();
                }
                true
            });
            if !full {
                return;
            }
            freed.await;
        }
    }
}

/// A conversation's place in the table, given up when it ends in whatever way.
struct Place {
    table: Arc<Table>,
    number: u64,
}

impl Place {
    fn new(table: &Arc<Table>) -> Self {
        let number = table.with(|places| {
            let number = places.last().map_or(0, |last| last.number + 1);
            places.push(Entry { number, waits_since: Some(Instant::now()), task: None });
            number
        });
        Self { table: table.clone(), number }
    }

    fn waits(&self, waits: bool) {
        self.table.with(|places| {
            if let Some(entry) = places.iter_mut().find(|entry| entry.number == self.number) {
                entry.waits_since = waits.then(Instant::now);
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.with(|places| places.retain(|entry| entry.number != self.number));
        self.table.freed.notify_one();
    }
}

/// The form of an answer.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Ok { ok: Reply },
    Failed(Failure),
}

async fn converse<H: Handler>(stream: UnixStream, handler: &H, place: &Place) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let late = |_| Error::from(ErrorKind::TimedOut);
    loop {
        let mut line = Vec::new();
        let reading = (&mut reader).take(MAX_REQUEST as u64 + 1);
        let got = timeout(PATIENCE, async { { reading }.read_until(b'\n', &mut line).await })
            .await
            .map_err(late)??;
        if got == 0 {
            return Ok(());
        }
        place.waits(false);
        let too_long = line.len() > MAX_REQUEST;
        let answer = if too_long {
            Err(Failure::new(ErrorCode::TooLong, format!("a request has at most {MAX_REQUEST} bytes")))
        } else {
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => handler.handle(request).await,
                Err(error) => Err(Failure::new(ErrorCode::Malformed, format!("this is no request: {error}"))),
            }
        };
        let mut answer = serde_json::to_vec(&match answer {
            Ok(ok) => Answer::Ok { ok },
            Err(failure) => Answer::Failed(failure),
        })?;
        answer.push(b'\n');
        place.waits(true);
        for part in answer.chunks(1 << 16) {
            timeout(PATIENCE, writer.write_all(part)).await.map_err(late)??;
        }
        if too_long {
            // Closing with bytes unread would take the answer away from the asker.
            let rest = async { tokio::io::copy(&mut reader.take(MAX_REST), &mut tokio::io::sink()).await };
            timeout(PATIENCE, rest).await.map_err(late)??;
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use eastgate_api::Done;

    use super::*;

    struct Echo;
    impl Handler for Echo {
        async fn handle(&self, request: Request) -> Result<Reply, Failure> {
            match request {
                Request::Status {} => Ok(Reply::Done(Done::default())),
                other => Err(Failure::new(ErrorCode::Failed, format!("not {other:?}"))),
            }
        }
    }

    async fn talk(lines: &[u8]) -> String {
        let (client, server) = UnixStream::pair().unwrap();
        let place = Place::new(&Arc::default());
        let task = tokio::spawn(async move { converse(server, &Echo, &place).await });
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
        assert_eq!(
            answer,
            "{\"ok\":{\"count\":0,\"epoch\":0}}\n{\"error\":\"not Reload\",\"code\":\"failed\"}\n"
        );
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

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("eastgate-control-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[tokio::test]
    async fn who_says_nothing_makes_room_for_who_does() {
        let folder = folder("idle");
        let path = folder.join("sock");
        let (listener, _) = listen(&path).unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Echo)));
        let mut idle = Vec::new();
        for _ in 0..4 * CONVERSATIONS {
            idle.push(UnixStream::connect(&path).await.unwrap());
        }
        for _ in 0..4 {
            let mut asker = UnixStream::connect(&path).await.unwrap();
            asker.write_all(b"{\"status\":{}}\n").await.unwrap();
            let mut answer = String::new();
            let mut reader = BufReader::new(&mut asker);
            timeout(Duration::from_secs(10), reader.read_line(&mut answer)).await.unwrap().unwrap();
            assert_eq!(answer, "{\"ok\":{\"count\":0,\"epoch\":0}}\n");
            idle.push(asker);
        }
        server.abort();
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn only_a_dead_socket_is_replaced() {
        let folder = folder("file");
        let path = folder.join("sock");
        fs::write(&path, "precious").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(folder.join("nowhere"), &path).unwrap();
        assert!(listen(&path).is_err());
        fs::remove_file(&path).unwrap();

        let (listener, file) = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(listen(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(listener);
        let (_listener, again) = listen(&path).unwrap();
        file.remove();
        assert_eq!((file.state(), again.state()), (SocketState::Replaced, SocketState::There));
        again.remove();
        assert_eq!(again.state(), SocketState::Gone);
        fs::remove_dir_all(folder).unwrap();
    }
}
