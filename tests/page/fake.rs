//! A daemon that says what a test wants: very much, what nobody should believe, or that it is too busy.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Instant,
};

use serde_json::{Value, json};

use crate::common::{Space, bind_tcp, wait_for};

/// Where it listens, in its namespace. Browsers take the loopback for as good as TLS.
pub(crate) const ORIGIN: &str = "http://127.0.0.1:8080";

/// What it says.
#[derive(Clone, Default)]
pub(crate) struct Tales {
    pub(crate) endpoints: Vec<Value>,
    pub(crate) flows: Vec<Value>,
    pub(crate) drops: Vec<Value>,
    pub(crate) events: Vec<Value>,
    pub(crate) policy: Vec<Value>,
    pub(crate) rules: Vec<Value>,
    pub(crate) matrix: Vec<Value>,
    pub(crate) trace: Value,
    pub(crate) role: &'static str,
}

struct State {
    tales: Tales,
    /// The next answers, before any other: status and the header `Retry-After`
    refusals: Mutex<VecDeque<(u16, u32)>>,
    asked: Mutex<Vec<(Instant, String)>>,
    silent: AtomicBool,
}

/// It. It ends when it goes out of scope.
pub(crate) struct Fake {
    state: Arc<State>,
    space: Space,
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(space: &Space, tales: Tales) -> Self {
        let state = Arc::new(State {
            tales,
            refusals: Mutex::default(),
            asked: Mutex::default(),
            silent: AtomicBool::new(false),
        });
        let over = Arc::new(AtomicBool::new(false));
        let (its, ended) = (state.clone(), over.clone());
        let listener = space.enter(|| bind_tcp("127.0.0.1:8080"));
        let thread = thread::spawn(move || serve(&listener, &its, &ended));
        Self { state, space: space.clone(), over, thread: Some(thread) }
    }

    /// What was asked for of the API, and when.
    pub(crate) fn asked(&self) -> Vec<(Instant, String)> {
        self.state.asked.lock().unwrap().clone()
    }

    /// Answers the next requests with this status.
    pub(crate) fn refuse(&self, times: usize, status: u16, retry_after: u32) {
        self.state.refusals.lock().unwrap().extend(std::iter::repeat_n((status, retry_after), times));
    }

    /// Breaks every conversation off from now on, or no more.
    pub(crate) fn be_silent(&self, silent: bool) {
        self.state.silent.store(silent, SeqCst);
    }

    /// Waits until so many more were asked for.
    pub(crate) fn wait_for_more(&self, more: usize) {
        let before = self.asked().len();
        wait_for("the page asks", || self.asked().len() >= before + more);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        // Whoever waits for somebody to connect is woken.
        let _ = self.space.enter(|| TcpStream::connect("127.0.0.1:8080").map(drop));
        self.thread.take().map(thread::JoinHandle::join);
    }
}

fn serve(listener: &TcpListener, state: &Arc<State>, over: &Arc<AtomicBool>) {
    for stream in listener.incoming() {
        if over.load(SeqCst) {
            return;
        }
        let (state, over) = (state.clone(), over.clone());
        // One that breaks off is the browser's.
        thread::spawn(move || stream.and_then(|stream| answer(stream, &state, &over)));
    }
}

fn answer(mut stream: TcpStream, state: &State, over: &AtomicBool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut authorized, mut length) = (false, 0);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        let header = header.trim().to_lowercase();
        authorized |= header == "authorization: bearer secret";
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    reader.take(length).read_to_end(&mut Vec::new())?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let Some(path) = path.strip_prefix("/v1/") else { return asset(&mut stream, path) };
    state.asked.lock().unwrap().push((Instant::now(), target.clone()));
    if state.silent.load(SeqCst) {
        return Ok(());
    }
    if let Some((status, later)) = state.refusals.lock().unwrap().pop_front() {
        return send(
            &mut stream,
            status,
            &format!("Retry-After: {later}\r\n"),
            "application/json",
            b"{\"error\":\"asked too often\",\"code\":\"busy\"}",
        );
    }
    if !authorized {
        return send(
            &mut stream,
            401,
            "",
            "application/json",
            b"{\"error\":\"a token is needed\",\"code\":\"unauthenticated\"}",
        );
    }
    if query.contains("follow=true") {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: at once\n\n")?;
        while !over.load(SeqCst) && stream.write_all(b": nothing\n\n").is_ok() {
            thread::sleep(std::time::Duration::from_millis(200));
        }
        return Ok(());
    }
    let body = tell(path, query, &state.tales).to_string();
    send(&mut stream, 200, "", "application/json", body.as_bytes())
}

fn tell(path: &str, query: &str, tales: &Tales) -> Value {
    let number = |name: &str| {
        let values = query.split('&').filter_map(|pair| pair.split_once('='));
        values.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse::<usize>().ok())
    };
    let part = |name: &str, rows: &[Value]| {
        let (from, limit) = (number("after").unwrap_or(0), number("limit").unwrap_or(rows.len()));
        let to = rows.len().min(from + limit);
        let next = (to < rows.len()).then(|| to.to_string());
        json!({ name: rows[from.min(to)..to], "total": rows.len(), "next": next })
    };
    match path {
        "status" => status(),
        "token" => json!({ "name": "test", "role": tales.role }),
        "endpoints" => part("endpoints", &tales.endpoints),
        "flows" => part("flows", &tales.flows),
        "drops" => part("drops", &tales.drops),
        "policy" => part("policy", &tales.policy),
        "rules" => part("rules", &tales.rules),
        "matrix" => part("matrix", &tales.matrix),
        "events" => json!({ "events": tales.events, "next": "1", "lost": 0, "instance": 1 }),
        "staged" => {
            json!({ "config": null, "since_s": 0, "flows": 0, "lost": 0, "more": 0, "rows": [], "total": 0 })
        }
        "trace" => tales.trace.clone(),
        _ => json!({ "count": 1, "epoch": 2 }),
    }
}

fn status() -> Value {
    json!({
        "ready": true, "host": "alpha", "version": "1", "epoch": 1, "uptime_s": 60, "config": "/etc/eastgate/eastgate.toml", "digest": "0",
        "problems": [], "reload_error": null, "dataplane": "ebpf", "workers": 2, "networks": 1, "ports": [], "excluded": [],
        "vtep": { "address": "192.0.2.1", "port": 4789, "device": "underlay0", "up": true, "mtu": 1600, "tenant_mtu": 1550, "listening": true },
        "flows": { "replied": 0, "unreplied": 0, "made_room": {} },
        "traffic": { "from_ports": 0, "from_underlay": 0, "to_ports": 0, "to_underlay": 0, "answers": 0, "dropped": 0, "would_deny": 0 },
    })
}

/// A file of the page, with the policy that the daemon sends it with.
fn asset(stream: &mut TcpStream, path: &str) -> std::io::Result<()> {
    let name = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/page").join(name);
    let kind = match name.rsplit('.').next() {
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("svg") => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    };
    let policy = "Content-Security-Policy: default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'\r\n";
    match std::fs::read(file) {
        Ok(bytes) => send(stream, 200, policy, kind, &bytes),
        Err(_) => send(stream, 404, "", "text/plain", b"no"),
    }
}

fn send(stream: &mut TcpStream, status: u16, headers: &str, kind: &str, body: &[u8]) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} told\r\n{headers}Content-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}
