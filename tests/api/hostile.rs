//! A thousand clients that are slow, silent or without end: packets pass, and the owner of the control socket is answered.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use crate::{
    Follower, OPS,
    common::{Sink, Stream, site::*, wait_for},
    lab::{Lab, NAME, PORT, body},
};

/// How many there are.
const CLIENTS: usize = 1_000;

/// Threads that they are on.
const THREADS: usize = 20;

/// Addresses that they come from, so that no bound on one of them is what holds.
const SOURCES: usize = 50;

/// Seconds in which whoever has a token has its answer from the first connection that it makes.
const ANSWERED_WITHIN: &str = "10";

/// What a client does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It says nothing.
    Silent,
    /// It begins a handshake, and does not go on.
    HalfOpen,
    /// It says what is no TLS.
    Noise,
    /// It sends one byte of a request now and then.
    Slow,
    /// Its headers do not end.
    Headers,
    /// Its body does not end.
    Body,
    /// It asks again and again without a token.
    Eager,
    /// It follows events, and reads none.
    Unread,
}

const KINDS: [Kind; 8] = [
    Kind::Silent,
    Kind::HalfOpen,
    Kind::Noise,
    Kind::Slow,
    Kind::Headers,
    Kind::Body,
    Kind::Eager,
    Kind::Unread,
];

type Tls = StreamOwned<ClientConnection, TcpStream>;

struct Client {
    kind: Kind,
    plain: Option<TcpStream>,
    tls: Option<Box<Tls>>,
}

/// What all of them know.
struct Plan {
    tls: Arc<ClientConfig>,
    token: String,
    connected: AtomicU64,
    over: AtomicBool,
}

impl Client {
    fn connect(number: usize, plan: &Plan) -> Option<Self> {
        let kind = KINDS[number % KINDS.len()];
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
        let source = Ipv4Addr::new(127, 0, 1, (number % SOURCES) as u8 + 1);
        socket.bind(&SocketAddr::from((source, 0)).into()).ok()?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        socket.connect_timeout(&to.into(), Duration::from_secs(5)).ok()?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
        stream.set_write_timeout(Some(Duration::from_millis(500))).ok()?;
        plan.connected.fetch_add(1, SeqCst);
        let mut client = Self { kind, plain: None, tls: None };
        if matches!(kind, Kind::Silent | Kind::HalfOpen | Kind::Noise) {
            client.plain = Some(stream);
        } else {
            let name = ServerName::try_from(NAME).unwrap();
            let connection = ClientConnection::new(plan.tls.clone(), name).unwrap();
            client.tls = Some(Box::new(StreamOwned::new(connection, stream)));
        }
        client.begin(plan)?;
        Some(client)
    }

    fn begin(&mut self, plan: &Plan) -> Option<()> {
        let head = |line: &str| {
            format!("{line} HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: Bearer {}\r\n", plan.token)
        };
        let begin = match self.kind {
            Kind::Silent => Vec::new(),
            // A record of a ClientHello of 512 bytes, of which 6 come.
            Kind::HalfOpen => b"\x16\x03\x01\x02\x00\x01".to_vec(),
            Kind::Noise => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(64),
            Kind::Slow => b"GET /v1/sta".to_vec(),
            Kind::Headers => head("GET /v1/status").into_bytes(),
            Kind::Body => {
                let more = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
                (head("POST /v1/fdb/flush") + more).into_bytes()
            }
            Kind::Eager => Vec::new(),
            Kind::Unread => (head("GET /v1/events?follow=true") + "\r\n").into_bytes(),
        };
        self.say(&begin)
    }

    /// Goes on with it; nothing when the other end has had enough.
    fn go_on(&mut self) -> Option<()> {
        match self.kind {
            Kind::Silent | Kind::HalfOpen | Kind::Noise | Kind::Unread => Some(()),
            Kind::Slow => self.say(b"t"),
            Kind::Headers => self.say(format!("X-More: {}\r\n", "x".repeat(1000)).as_bytes()),
            Kind::Body => self.say(&[b"1000\r\n", &[b'x'; 0x1000][..], b"\r\n"].concat()),
            Kind::Eager => {
                self.say(format!("GET /v1/flows HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes())?;
                let mut answer = [0; 4096];
                let tls = self.tls.as_mut()?;
                tls.read(&mut answer).ok().filter(|read| *read > 0).map(|_| ())
            }
        }
    }

    fn say(&mut self, bytes: &[u8]) -> Option<()> {
        match (&mut self.plain, &mut self.tls) {
            (Some(plain), _) => plain.write_all(bytes).ok(),
            (None, Some(tls)) => tls.write_all(bytes).and_then(|()| tls.flush()).ok(),
            (None, None) => None,
        }
    }
}

/// The clients. They end when this is dropped.
struct Clients {
    plan: Arc<Plan>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(lab: &Lab) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(lab.path("api.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let plan = Arc::new(Plan {
            tls: Arc::new(tls),
            token: lab.token("rogue").to_owned(),
            connected: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let threads = (0..THREADS).map(|thread| {
            let plan = plan.clone();
            lab.site.alpha.spawn(move || {
                let numbers: Vec<usize> = (thread..CLIENTS).step_by(THREADS).collect();
                let mut clients: Vec<Option<Client>> = numbers.iter().map(|_| None).collect();
                // Whoever is thrown out comes again.
                while !plan.over.load(SeqCst) {
                    for (client, number) in clients.iter_mut().zip(&numbers) {
                        if plan.over.load(SeqCst) {
                            break;
                        }
                        if client.as_mut().and_then(Client::go_on).is_none() {
                            *client = Client::connect(*number, &plan);
                        }
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            })
        });
        let threads = threads.collect();
        Self { plan, threads }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.plan.over.store(true, SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

#[test]
fn a_thousand_hostile_clients_harm_neither_traffic_nor_control() {
    let Some(lab) = Lab::start(&[OPS, ("rogue", "operate", None)]) else { return };
    let sink = Sink::start(&lab.site.db1, udp(21, ALLOWED));
    let stream = Stream::start(&lab.site.web1, udp(11, 4000), udp(21, ALLOWED));
    stream.arrives("before they come", &sink);
    // One has asked before from there, and one follows events.
    let from = |address: &'static str| ["--interface", address, "--max-time", ANSWERED_WITHIN];
    assert_eq!(lab.ask("ops", "GET", "/v1/status", &from("127.0.9.1")).status, 200);
    let mut follower = Follower::start_from(&lab, "ops", "/v1/events?follow=true&limit=0", "127.0.9.2");
    assert!(follower.next(":").is_some());
    let clients = Clients::start(&lab);
    wait_for("all of them have come", || clients.plan.connected.load(SeqCst) >= CLIENTS as u64);
    let begun = sink.last();
    for _ in 0..20 {
        assert_eq!(lab.alpha.ask(&["status"])["ready"], true);
        assert!(lab.alpha.run(&["show", "flows"]).status.success());
    }
    assert!(lab.alpha.run(&["reload"]).status.success());
    stream.send_more(500);
    // Whoever has a token is answered meanwhile, where it has asked from before and where it has not.
    for address in ["127.0.9.1", "127.0.9.1", "127.0.9.1", "127.0.9.3", "127.0.9.4", "127.0.9.5"] {
        let answer = lab.try_ask("ops", "GET", "/v1/status", &from(address));
        assert_eq!(answer.map(|answer| answer.status), Some(200), "from {address}");
    }
    assert!(follower.is_on(), "the stream of events goes on");
    let connected = clients.plan.connected.load(SeqCst);
    drop(clients);
    wait_for("they are gone", || {
        let more = body("{\"vni\":6001}");
        let answer = lab.try_ask("ops", "POST", "/v1/fdb/flush", &more.each_ref().map(String::as_str));
        answer.is_some_and(|answer| answer.status == 200)
    });
    let last = stream.finish();
    wait_for("all that was sent is there", || sink.last() == last);
    println!("{connected} connections; {} datagrams meanwhile", last - begun);
    let missing: Vec<_> = sink.gaps().into_iter().filter(|gap| gap.after >= begun).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(!lab.alpha.log().contains("panicked"), "{}", lab.alpha.log());
    let metrics = lab.ask_socket("GET", "/metrics", &[]).body;
    assert!(metrics.contains("eastgate_api_refusals_total{why=\"connection\"}"), "{metrics}");
}
