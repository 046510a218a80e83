//! The control socket: HTTP/1.1 for whoever may open it.

use std::{
    io::Error,
    os::{fd::AsRawFd as _, unix::net::UnixListener as Listener},
    sync::Arc,
    time::Duration,
};

use eastgate_api::{Failure, Reply, Request, Scope};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::MsgFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::{
    answer::{MAX_ANSWER, line_for_old_clients},
    places::{Bounds, Place, Table},
    service::{Gate, Peer, Service},
    timed::Timed,
};
use crate::{http::Site, io::serving::Serving};

/// Conversations at one time. The one that has said nothing for longest makes room for another.
const CONVERSATIONS: usize = 32;

const BOUNDS: Bounds =
    Bounds { all: CONVERSATIONS, of_a_source: CONVERSATIONS, newcomers: 0, unread: 4 * MAX_ANSWER };

/// Those of them that are streams.
const STREAMS: usize = 16;

/// How long an asker may be silent, and how long it may take to read a part of an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a request: its line and its headers.
const MAX_HEAD: usize = 16 << 10;

/// Headers of a request.
const MAX_HEADERS: usize = 64;

/// Who answers requests, and whose pages are served.
pub trait Handler: Site {
    /// Answers what changes nothing, as far as the scope goes. It is called on threads where it may take its time, and holds nobody up.
    ///
    /// # Errors
    /// Why there is no answer.
    fn query(&self, request: Request, scope: &Scope) -> Result<Reply, Failure>;

    /// Carries out what changes something, as far as the scope goes.
    fn change(&self, request: Request, scope: &Scope) -> impl Future<Output = Result<Reply, Failure>> + Send;
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
        let service = Arc::new(Service::new("", handler, Gate::Owner, STREAMS)?);
        let begin = move || Ok(serve(UnixListener::from_std(listener)?, service));
        Ok(Self { _thread: Serving::start("control", begin)? })
    }
}

/// Answers for ever.
async fn serve<H: Handler>(listener: UnixListener, service: Arc<Service<H>>) {
    let table = Table::new(BOUNDS);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket took no connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        table.wait_for_room().await;
        let (service, place) = (service.clone(), Arc::new(Place::new(&table, None, true)));
        let peer = Arc::new(Peer::new(None, None, place.clone()));
        let task = tokio::spawn(async move {
            if let Err(error) = welcome(stream, service, peer).await {
                tracing::debug!(error, "a control conversation broke off");
            }
        });
        place.is_served_by(task.abort_handle());
    }
}

/// A command line of before there was an HTTP API gets an answer, too.
async fn welcome<H: Handler>(
    mut stream: UnixStream,
    service: Arc<Service<H>>,
    peer: Arc<Peer>,
) -> Result<(), String> {
    let first = timeout(PATIENCE, peek(&stream)).await.map_err(|_| "nothing came".to_owned())?;
    if first.map_err(|error| error.to_string())? == Some(b'{') {
        let told = timeout(PATIENCE, stream.write_all(&line_for_old_clients())).await;
        return told.map_err(|_| "it does not read".to_owned())?.map_err(|error| error.to_string());
    }
    converse(stream, service, peer, PATIENCE).await
}

/// The first byte, which stays to be read; none where the other end is closed.
async fn peek(stream: &UnixStream) -> Result<Option<u8>, Error> {
    let mut first = [0];
    let looked = stream.async_io(Interest::READABLE, || {
        nix::sys::socket::recv(stream.as_raw_fd(), &mut first, MsgFlags::MSG_PEEK).map_err(Error::from)
    });
    Ok((looked.await? > 0).then_some(first[0]))
}

/// Speaks HTTP until it is over.
pub(super) async fn converse<H: Handler, S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    service: Arc<Service<H>>,
    peer: Arc<Peer>,
    patience: Duration,
) -> Result<(), String> {
    let answer = service_fn(|request| service.clone().respond(peer.clone(), request));
    http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .serve_connection(TokioIo::new(Timed::new(stream, patience)), answer)
        .await
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{BufRead as _, BufReader, Read as _, Write as _},
        os::unix::net::UnixStream as Stream,
        path::{Path, PathBuf},
        thread,
        time::Instant,
    };

    use eastgate_api::{Done, ErrorCode, MAX_BODY};

    use super::*;
    use crate::control::socket::listen;

    /// Says that it is done, after a while where a list is asked for.
    struct Echo;

    impl Site for Echo {
        fn metrics(&self) -> Result<Vec<u8>, String> {
            Ok(b"eastgate_echo 1\n".to_vec())
        }

        fn problems(&self) -> Vec<String> {
            vec!["not ready: on purpose".to_owned()]
        }
    }

    impl Handler for Echo {
        fn query(&self, request: Request, _: &Scope) -> Result<Reply, Failure> {
            match request {
                Request::Status {} => Ok(Reply::from(Done::default())),
                Request::Trace(_) => panic!("on purpose"),
                Request::Events(_) => Ok(Reply::Events(eastgate_api::Events::default())),
                _ => {
                    thread::sleep(SLOW);
                    Ok(Reply::from(Done { count: 1, ..Done::default() }))
                }
            }
        }

        async fn change(&self, request: Request, _: &Scope) -> Result<Reply, Failure> {
            Err(Failure::new(ErrorCode::Failed, format!("not {request:?}")))
        }
    }

    const FINE: &str = "{\"count\":0,\"epoch\":0}\n";
    const SLOW: Duration = Duration::from_millis(200);

    /// Serves in a folder of its own, which goes with it.
    struct Served {
        folder: PathBuf,
        path: PathBuf,
        server: Option<Server>,
    }

    impl Served {
        fn start(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("eastgate-control-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            let path = folder.join("sock");
            let (listener, _) = listen(&path).unwrap();
            let server = Server::start(listener, Arc::new(Echo)).unwrap();
            Self { folder, path, server: Some(server) }
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.server.take();
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    /// What is answered to these bytes, until the conversation is over.
    fn say(path: &Path, bytes: &[u8]) -> String {
        let mut stream = Stream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn ask(path: &Path, line: &str, more: &str) -> String {
        say(path, format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n").as_bytes())
    }

    fn post(path: &Path, target: &str, body: &str, kind: &str) -> String {
        let head = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        let head = format!("POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n{body}");
        say(path, head.as_bytes())
    }

    #[test]
    fn requests_are_answered_one_after_the_other() {
        let served = Served::start("two");
        let both = say(
            &served.path,
            b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\nPOST /v1/reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        );
        assert!(both.starts_with("HTTP/1.1 200 OK\r\n") && both.contains(FINE), "{both}");
        assert!(both.ends_with("{\"error\":\"not Reload\",\"code\":\"failed\"}\n"), "{both}");
        for header in
            ["content-type: application/json", "x-content-type-options: nosniff", "cache-control: no-store"]
        {
            assert!(both.contains(header), "{both}");
        }
        assert!(!both.contains("access-control-"), "{both}");
    }

    #[test]
    fn pages_are_served_and_only_read() {
        let served = Served::start("pages");
        assert!(ask(&served.path, "GET /healthz", "").ends_with("\r\n\r\nok\n"));
        let ready = ask(&served.path, "GET /readyz", "");
        assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("not ready: on purpose\n"), "{ready}");
        assert!(ask(&served.path, "GET /metrics", "").ends_with("eastgate_echo 1\n"));
        assert!(ask(&served.path, "GET /v1/openapi.json", "").contains("\"openapi\": \"3.1.0\""));
        let page = ask(&served.path, "GET /", "");
        assert!(page.contains("default-src 'self'") && page.contains("<title>eastgate"), "{page}");
        assert!(ask(&served.path, "HEAD /", "").ends_with("\r\n\r\n"));
        for path in ["/metrics", "/", "/v1/openapi.json"] {
            let put = ask(&served.path, &format!("PUT {path}"), "");
            assert!(put.starts_with("HTTP/1.1 405 ") && put.contains("allow: GET, HEAD"), "{put}");
        }
    }

    #[test]
    fn malformed_and_oversized_requests_are_refused() {
        let served = Served::start("bad");
        let answer = ask(&served.path, "GET /v1/statu", "");
        assert!(
            answer.starts_with("HTTP/1.1 404 ") && answer.contains("did you mean /v1/status?"),
            "{answer}"
        );
        let answer = ask(&served.path, "PATCH /v1/staged", "");
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, DELETE"), "{answer}");
        let answer = ask(&served.path, "GET /v1/flows?vni=99999999", "");
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("out of range"), "{answer}");
        let answer = post(&served.path, "/v1/fdb/flush", "{\"x\":1}", "application/json");
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("unknown field"), "{answer}");
        let answer = post(&served.path, "/v1/fdb/flush", "{\"vni\":1}", "text/plain");
        assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
        let answer = post(&served.path, "/v1/trace", &"x".repeat(2 * MAX_BODY), "application/json");
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("at most"), "{answer}");
        let answer = ask(&served.path, &format!("GET /{}", "x".repeat(4 * MAX_HEAD)), "");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        for origin in ["https://evil.example", "null", "http://x", "https://x"] {
            let answer = ask(&served.path, "GET /v1/status", &format!("Origin: {origin}\r\n"));
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        }
    }

    #[test]
    fn a_command_line_of_before_is_told_what_to_use() {
        let served = Served::start("old");
        let mut stream = Stream::connect(&served.path).unwrap();
        stream.write_all(b"{\"status\":{}}\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(
            line.contains("the daemon is newer") && line.ends_with("\"code\":\"malformed\"}\n"),
            "{line}"
        );
    }

    #[test]
    fn who_says_nothing_makes_room_for_who_does() {
        let served = Served::start("idle");
        let idle: Vec<_> = (0..4 * BOUNDS.all).map(|_| Stream::connect(&served.path).unwrap()).collect();
        for _ in 0..4 {
            assert!(ask(&served.path, "GET /v1/status", "").ends_with(FINE));
        }
        drop(idle);
    }

    #[test]
    fn a_summary_waits_for_no_list_and_those_that_wait_are_bounded() {
        let served = Served::start("lists");
        let lists: Vec<_> = (0..20)
            .map(|_| {
                let path = served.path.clone();
                thread::spawn(move || ask(&path, "GET /v1/flows", ""))
            })
            .collect();
        let begun = Instant::now();
        for _ in 0..10 {
            assert!(ask(&served.path, "GET /v1/status", "").ends_with(FINE));
        }
        assert!(begun.elapsed() < 2 * SLOW, "{:?}", begun.elapsed());
        let mut answered = 0;
        for list in lists {
            let answer = list.join().unwrap();
            let refused = answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1");
            assert!(refused || answer.contains("{\"count\":1,"), "{answer}");
            answered += u32::from(!refused);
        }
        assert!((8..=10).contains(&answered), "{answered} of 20");
    }

    #[test]
    fn a_query_that_fails_fails_alone() {
        let served = Served::start("panic");
        let packet = r#"{"vni":1,"proto":6,"src":"10.1.0.1","dst":"10.1.0.2"}"#;
        let answer = post(&served.path, "/v1/trace", packet, "application/json");
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("\"code\":\"failed\""), "{answer}");
        let answer = ask(&served.path, "GET /v1/flows?mac=02:00:00:00:00:01", "");
        assert!(answer.contains("\"code\":\"not-applicable\""), "{answer}");
        assert!(ask(&served.path, "GET /v1/fdb", "").contains("{\"count\":1,"));
    }

    #[test]
    fn streams_begin_at_once_and_are_bounded() {
        let served = Served::start("streams");
        let follow = || {
            let mut stream = Stream::connect(&served.path).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut begin = [0; 12];
            stream.read_exact(&mut begin).unwrap();
            (stream, begin)
        };
        let all: Vec<_> = (0..STREAMS).map(|_| follow()).collect();
        assert!(all.iter().all(|(_, begin)| begin == b"HTTP/1.1 200"));
        assert_eq!(&follow().1, b"HTTP/1.1 503");
        assert!(ask(&served.path, "GET /v1/status", "").ends_with(FINE));
    }
}
