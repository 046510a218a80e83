//! Pages over HTTP/1.1 for those who watch: nothing can be changed by it, and all that clients can make it hold is bounded.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::Result,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::Mutex,
    task::{AbortHandle, JoinError, JoinSet},
    time::timeout,
};

use crate::io::serving::Serving;

/// Connections at one time. The oldest that has not asked yet makes room for another, or if all have, the oldest.
const CONNECTIONS: usize = 64;

/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// And how many times as long for all: asking, waiting for the page and reading it.
const IN_ALL: u32 = 6;

/// Bytes of a request: its line and its headers.
const MAX_REQUEST: usize = 16 << 10;

/// Those who ask for a page so soon after another get the same one: however many there are, it is made twice a second.
const SAME_PAGE: Duration = Duration::from_millis(500);

/// Why there is no page where making it has panicked.
const FAILED: &str = "making the page failed: the daemon's log says where";

/// What is served.
pub trait Site: Send + Sync + 'static {
    /// The metrics, in the text format of Prometheus. It is called where it may take its time.
    ///
    /// # Errors
    /// Why there are none.
    fn metrics(&self) -> std::result::Result<Vec<u8>, String>;

    /// What keeps it from doing what it is there for; nothing if nothing does.
    fn problems(&self) -> Vec<String>;
}

/// Whoever serves, on a thread of its own, beside which one page is made at a time. Dropped, it serves nobody any more.
#[derive(Debug)]
pub struct Server {
    _thread: Serving,
}

impl Server {
    /// Serves whoever connects.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start<S: Site>(listener: TcpListener, site: Arc<S>) -> Result<Self> {
        Self::start_with(listener, site, PATIENCE)
    }

    fn start_with<S: Site>(listener: TcpListener, site: Arc<S>, patience: Duration) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let pages = Arc::new(Pages::new(site));
        let begin = move || Ok(serve(tokio::net::TcpListener::from_std(listener)?, pages, patience));
        Ok(Self { _thread: Serving::start("http", begin)? })
    }
}

/// Answers for ever.
async fn serve<S: Site>(listener: tokio::net::TcpListener, pages: Arc<Pages<S>>, patience: Duration) {
    let mut connections = JoinSet::new();
    let mut oldest: VecDeque<(AbortHandle, Arc<AtomicBool>)> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "no connection was taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        oldest.retain(|(task, _)| !task.is_finished());
        if oldest.len() >= CONNECTIONS {
            let silent = oldest.iter().position(|(_, asked)| !asked.load(Relaxed)).unwrap_or_default();
            if let Some((slowest, _)) = oldest.remove(silent) {
                slowest.abort();
            }
        }
        let asked = Arc::new(AtomicBool::new(false));
        oldest.push_back((connections.spawn(answer(stream, pages.clone(), asked.clone(), patience)), asked));
    }
}

async fn answer<S: Site>(
    stream: TcpStream,
    pages: Arc<Pages<S>>,
    asked: Arc<AtomicBool>,
    patience: Duration,
) {
    let service = service_fn(|request| {
        asked.store(true, Relaxed);
        page(request, &pages)
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_REQUEST)
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(IN_ALL * patience, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP client was not served"),
        Err(_) => tracing::debug!("an HTTP client took too long"),
    }
}

/// The pages, each made no more often than it is worth.
pub(crate) struct Pages<S> {
    site: Arc<S>,
    metrics: Made<std::result::Result<Bytes, String>>,
    problems: Made<Vec<String>>,
}

impl<S: Site> Pages<S> {
    /// Those of this site.
    pub(crate) fn new(site: Arc<S>) -> Self {
        Self { site, metrics: Made::default(), problems: Made::default() }
    }

    /// What is counted, in [`prometheus::TEXT_FORMAT`]; why it is not told, otherwise.
    pub(crate) async fn metrics(&self) -> std::result::Result<Bytes, String> {
        let site = self.site.clone();
        self.metrics.get(move || site.metrics().map(Bytes::from)).await.and_then(|page| page)
    }

    /// What keeps it from doing what it is there for; why that is not told, otherwise.
    pub(crate) async fn problems(&self) -> std::result::Result<Vec<String>, String> {
        let site = self.site.clone();
        self.problems.get(move || site.problems()).await
    }
}

/// What was made last, and when.
struct Made<T>(Arc<Mutex<Option<(Instant, T)>>>);

impl<T> Default for Made<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + 'static> Made<T> {
    /// The same as before, or what `make` makes if that is too old.
    async fn get(&self, make: impl FnOnce() -> T + Send + 'static) -> std::result::Result<T, String> {
        let mut last = self.0.clone().lock_owned().await;
        if let Some((made, it)) = &*last
            && made.elapsed() < SAME_PAGE
        {
            return Ok(it.clone());
        }
        // It is made whether or not the client that asked for it stays: the next one gets it.
        let making = tokio::spawn(async move {
            let it = tokio::task::spawn_blocking(make).await?;
            *last = Some((Instant::now(), it.clone()));
            Ok::<T, JoinError>(it)
        });
        making.await.and_then(|it| it).map_err(|_| FAILED.to_owned())
    }
}

async fn page<S: Site>(
    request: Request<Incoming>,
    pages: &Arc<Pages<S>>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "this can only be read: GET or HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    Ok(match request.uri().path() {
        "/metrics" => match pages.metrics().await {
            Ok(page) => {
                let mut response = text(StatusCode::OK, page);
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
                response
            }
            Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, why + "\n"),
        },
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match pages.problems().await {
            Ok(problems) if problems.is_empty() => text(StatusCode::OK, "ok\n"),
            Ok(problems) => text(StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n"),
            Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, why + "\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
    })
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use super::*;

    #[derive(Default)]
    struct Counted {
        made: AtomicUsize,
        problems: Vec<String>,
    }

    impl Site for Counted {
        fn metrics(&self) -> std::result::Result<Vec<u8>, String> {
            self.made.fetch_add(1, SeqCst);
            Ok(vec![b'x'; 1 << 20])
        }

        fn problems(&self) -> Vec<String> {
            self.problems.clone()
        }
    }

    fn start(site: Counted) -> (Server, SocketAddr, Arc<Counted>) {
        start_with(site, PATIENCE)
    }

    fn start_with(site: Counted, patience: Duration) -> (Server, SocketAddr, Arc<Counted>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, site) = (listener.local_addr().unwrap(), Arc::new(site));
        (Server::start_with(listener, site.clone(), patience).unwrap(), address, site)
    }

    /// What a request is answered with, as far as an answer comes.
    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // Of what is too long the rest is not read.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    #[test]
    fn pages_are_read_and_nothing_else() {
        let (_server, address, _) = start(Counted::default());
        let metrics = get(address, "/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n") && metrics.len() > 1 << 20, "{}", metrics.len());
        assert!(
            metrics.to_lowercase().contains("content-type: text/plain; version=0.0.4"),
            "{}",
            &metrics[..300]
        );
        let head = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.len() < 500, "{}", head.len());
        assert!(get(address, "/healthz").ends_with("\r\n\r\nok\n"));
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/").starts_with("HTTP/1.1 404 "));
        assert!(get(address, "/metrics/../etc").starts_with("HTTP/1.1 404 "));
        let put = ask(address, "PUT /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert!(put.starts_with("HTTP/1.1 405 ") && put.to_lowercase().contains("allow: get, head"), "{put}");
    }

    #[test]
    fn one_that_is_not_ready_says_why() {
        let problems = vec!["not ready: nothing passes yet".to_owned()];
        let (_server, address, _) = start(Counted { problems, ..Counted::default() });
        let answer = get(address, "/readyz");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("nothing passes yet\n"), "{answer}");
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let (_server, address, _) = start_with(Counted::default(), Duration::from_secs(1));
        for bad in
            ["\r\n\r\n\r\n", "GET\r\n\r\n", "\u{16}\u{3}\u{1}\r\n\r\n", "GET /metrics HTTP/9.9\r\n\r\n"]
        {
            let answer = ask(address, bad);
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{bad:?}: {answer}");
        }
        let endless = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(4 * MAX_REQUEST));
        let answer = ask(address, &endless);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(get(address, "/healthz").ends_with("ok\n"));
    }

    /// Clients that send half a request, or do not read what they asked for, many more than there is room for.
    #[test]
    fn slow_clients_keep_nobody_out() {
        const EVER: Duration = Duration::from_secs(3_600);
        let begun = Instant::now();
        let (_server, address, site) = start_with(Counted::default(), EVER);
        let mut slow = Vec::new();
        for number in 0..4 * CONNECTIONS {
            let mut stream = TcpStream::connect(address).unwrap();
            let end = if number % 2 == 0 { "\r\n" } else { "" };
            stream.write_all(format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{end}").as_bytes()).unwrap();
            slow.push(stream);
        }
        for _ in 0..10 {
            assert!(get(address, "/metrics").len() > 1 << 20);
        }
        let most = 1 + (begun.elapsed().as_nanos() / SAME_PAGE.as_nanos()) as usize;
        assert!(site.made.load(SeqCst) <= most, "{} of {most} pages", site.made.load(SeqCst));
        drop(slow);
    }

    #[test]
    fn a_client_that_says_nothing_is_let_go() {
        let (_server, address, _) = start_with(Counted::default(), Duration::from_millis(100));
        assert_eq!(ask(address, "GET /metrics HTTP/1.1\r\n"), "");
    }
}
