//! The daemon's side of the conversation.

use std::{
    io::{Error, ErrorKind},
    os::unix::net::UnixListener as Listener,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use eastgate_api::{Class, ErrorCode, Failure, Reply, Request};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Notify,
    task::AbortHandle,
    time::timeout,
};

use super::{
    MAX_REQUEST,
    answer::{MAX_ANSWER, line as line_of},
    queries::Queries,
};
use crate::io::serving::Serving;

/// Conversations at one time. The one that has said nothing for longest makes room for another.
const CONVERSATIONS: usize = 32;

/// Bytes of answers that were not read yet. The asker who has taken longest to read its own makes room.
const UNREAD: usize = 4 * MAX_ANSWER;

/// How long an asker may be silent, and how long it may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of an oversized request that are read and thrown away.
const MAX_REST: u64 = 1 << 20;

/// Who answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers what changes nothing. It is called on threads where it may take its time, and holds nobody up.
    ///
    /// # Errors
    /// Why there is no answer.
    fn query(&self, request: Request) -> Result<Reply, Failure>;

    /// Carries out what changes something.
    fn change(&self, request: Request) -> impl Future<Output = Result<Reply, Failure>> + Send;
}

/// Whoever serves the socket, on a thread of its own. Dropped, it takes no request any more, and what was asked stays
/// without an answer.
#[derive(Debug)]
pub struct Server {
    _thread: Serving,
}

impl Server {
    /// Answers whoever connects.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start<H: Handler>(listener: Listener, handler: Arc<H>) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let queries = Arc::new(Queries::start(&handler)?);
        let begin = move || Ok(serve(UnixListener::from_std(listener)?, handler, queries));
        Ok(Self { _thread: Serving::start("control", begin)? })
    }
}

/// Answers for ever.
async fn serve<H: Handler>(listener: UnixListener, handler: Arc<H>, queries: Arc<Queries>) {
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
        let (handler, queries, place) = (handler.clone(), queries.clone(), Place::new(&table));
        let number = place.number;
        let task = tokio::spawn(async move {
            if let Err(error) = converse(stream, &*handler, &queries, &place).await {
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
    /// Bytes of an answer that it has not read yet
    unread: usize,
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

impl Table {
    /// Ends conversations whose askers have not read their answers, those that take longest first, until what waits to be
    /// read is within its bound. The one with the newest answer stays.
    fn bound_unread(&self, newest: u64) {
        self.with(|places| {
            let mut unread: usize = places.iter().map(|entry| entry.unread).sum();
            while unread > UNREAD {
                let others = places.iter_mut().filter(|entry| entry.unread > 0 && entry.number != newest);
                let Some(slowest) = others.min_by_key(|entry| entry.waits_since) else { return };
                if let Some(task) = &slowest.task {
                    task.abort();
                }
                unread -= std::mem::take(&mut slowest.unread);
            }
        });
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
            places.push(Entry { number, waits_since: Some(Instant::now()), unread: 0, task: None });
            number
        });
        Self { table: table.clone(), number }
    }

    /// It is worked on an answer.
    fn works(&self) {
        self.set(None, 0);
    }

    /// The asker has so much to read, or nothing, and something to ask.
    fn waits(&self, unread: usize) {
        self.set(Some(Instant::now()), unread);
        self.table.bound_unread(self.number);
    }

    fn set(&self, since: Option<Instant>, bytes: usize) {
        self.table.with(|places| {
            if let Some(entry) = places.iter_mut().find(|entry| entry.number == self.number) {
                (entry.waits_since, entry.unread) = (since, bytes);
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

async fn converse<H: Handler>(
    stream: UnixStream,
    handler: &H,
    queries: &Queries,
    place: &Place,
) -> std::io::Result<()> {
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
        place.works();
        let too_long = line.len() > MAX_REQUEST;
        let answer = if too_long {
            refused(ErrorCode::TooLong, format!("a request has at most {MAX_REQUEST} bytes"))
        } else {
            match serde_json::from_slice(&line) {
                Ok(request) => answer(request, handler, queries).await,
                Err(error) => refused(ErrorCode::Malformed, format!("this is no request: {error}")),
            }
        };
        place.waits(answer.len());
        for part in answer.chunks(1 << 16) {
            timeout(PATIENCE, writer.write_all(part)).await.map_err(late)??;
        }
        place.waits(0);
        if too_long {
            // Closing with bytes unread would take the answer away from the asker.
            let rest = async { tokio::io::copy(&mut reader.take(MAX_REST), &mut tokio::io::sink()).await };
            timeout(PATIENCE, rest).await.map_err(late)??;
            return Ok(());
        }
    }
}

/// The line that answers a request.
async fn answer<H: Handler>(request: Request, handler: &H, queries: &Queries) -> Vec<u8> {
    if let Err(failure) = request.check() {
        return line_of(&Err(failure));
    }
    match request.class() {
        Class::Summary | Class::List => queries.ask(request).await,
        Class::Change => line_of(&handler.change(request).await),
    }
}

fn refused(code: ErrorCode, text: String) -> Vec<u8> {
    line_of(&Err(Failure::new(code, text)))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
        thread,
    };

    use eastgate_api::Done;

    use super::*;
    use crate::control::socket::listen;

    /// Says that it is done, after a while where a list is asked for.
    struct Echo;
    impl Handler for Echo {
        fn query(&self, request: Request) -> Result<Reply, Failure> {
            match request {
                Request::Status {} => Ok(Reply::from(Done::default())),
                Request::Trace(_) => panic!("on purpose"),
                _ => {
                    thread::sleep(SLOW);
                    Ok(Reply::from(Done { count: 1, ..Done::default() }))
                }
            }
        }

        async fn change(&self, request: Request) -> Result<Reply, Failure> {
            Err(Failure::new(ErrorCode::Failed, format!("not {request:?}")))
        }
    }

    const FINE: &str = "{\"ok\":{\"count\":0,\"epoch\":0}}\n";
    const SLOW: Duration = Duration::from_millis(200);

    async fn talk(lines: &[u8]) -> String {
        let (client, server) = UnixStream::pair().unwrap();
        let place = Place::new(&Arc::default());
        let queries = Queries::start(&Arc::new(Echo)).unwrap();
        let task = tokio::spawn(async move { converse(server, &Echo, &queries, &place).await });
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

    async fn ask(path: &Path, request: &str) -> String {
        let mut requester = UnixStream::connect(path).await.unwrap();
        requester.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let mut reader = BufReader::new(&mut requester);
        timeout(Duration::from_secs(10), reader.read_line(&mut answer)).await.unwrap().unwrap();
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
        let server = Server::start(listener, Arc::new(Echo)).unwrap();
        let mut idle = Vec::new();
        for _ in 0..4 * CONVERSATIONS {
            idle.push(UnixStream::connect(&path).await.unwrap());
        }
        for _ in 0..4 {
            assert_eq!(ask(&path, "{\"status\":{}}\n").await, FINE);
        }
        drop(server);
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_summary_waits_for_no_list_and_those_that_wait_are_bounded() {
        let folder = folder("lists");
        let path = folder.join("sock");
        let (listener, _) = listen(&path).unwrap();
        let server = Server::start(listener, Arc::new(Echo)).unwrap();
        let lists: Vec<_> = (0..20)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move { ask(&path, "{\"flows\":{}}\n").await })
            })
            .collect();
        let begun = Instant::now();
        for _ in 0..10 {
            assert_eq!(ask(&path, "{\"status\":{}}\n").await, FINE);
        }
        assert!(begun.elapsed() < 2 * SLOW, "{:?}", begun.elapsed());
        let mut answered = 0;
        for list in lists {
            let answer = list.await.unwrap();
            let refused = answer.ends_with("\"code\":\"busy\"}\n");
            assert!(refused || answer.starts_with("{\"ok\":{\"count\":1,"), "{answer}");
            answered += u32::from(!refused);
        }
        assert!((8..=10).contains(&answered), "{answered} of 20");
        drop(server);
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_query_that_fails_fails_alone() {
        let trace = "{\"trace\":{\"vni\":1,\"proto\":6,\"src\":\"10.1.0.1\",\"dst\":\"10.1.0.2\"}}\n";
        let answers = talk(
            format!("{trace}{{\"flows\":{{\"mac\":\"02:00:00:00:00:01\"}}}}\n{{\"fdb\":{{}}}}\n").as_bytes(),
        )
        .await;
        let answers: Vec<&str> = answers.lines().collect();
        assert!(answers[0].contains("\"code\":\"failed\""), "{answers:?}");
        assert!(answers[1].contains("\"code\":\"not-applicable\""), "{answers:?}");
        assert!(answers[2].starts_with("{\"ok\":"), "{answers:?}");
    }

    #[tokio::test]
    async fn who_does_not_read_makes_room_for_who_does() {
        let table: Arc<Table> = Arc::default();
        let places: Vec<Place> = (0..5).map(|_| Place::new(&table)).collect();
        let tasks: Vec<_> = places.iter().map(|_| tokio::spawn(std::future::pending::<()>())).collect();
        table.with(|entries| {
            for (entry, task) in entries.iter_mut().zip(&tasks) {
                entry.task = Some(task.abort_handle());
            }
        });
        for place in &places {
            place.waits(UNREAD / 4);
        }
        let mut ended = Vec::new();
        for (number, task) in tasks.into_iter().enumerate() {
            tokio::task::yield_now().await;
            if task.is_finished() {
                ended.push(number);
            }
        }
        assert_eq!(ended, [0], "the one that has had its answer for longest");
    }
}
