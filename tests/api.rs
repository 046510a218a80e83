//! The HTTP API, asked by curl: at the control socket and over TLS, by those who may and those who may not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

#[path = "api/attacks.rs"]
mod attacks;
#[path = "api/hostile.rs"]
mod hostile;
#[path = "api/lab.rs"]
mod lab;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use common::{EASTGATE, site::*, wait_for};
use eastgate_api::{Method, PAGES, Page, ROUTES, Role, Route, Takes};
use lab::{Answer, Lab, body, certificate, new_token, private, replace};
use serde_json::{Value, json};

const OPS: (&str, &str, Option<&str>) = ("ops", "administer", None);

/// What is sent along with a route, so that it can be done.
fn arguments(lab: &Lab, route: &Route) -> Vec<String> {
    match route.takes {
        Takes::Nothing(_) | Takes::Query(_) => Vec::new(),
        Takes::Filter(_) => body(r#"{"vni":5001}"#).into(),
        Takes::Packet(_) => {
            body(r#"{"vni":5001,"proto":17,"src":"10.1.0.11","dst":"10.1.0.12","sport":1,"dport":7001}"#)
                .into()
        }
        Takes::Probe(_) => {
            body(r#"{"kind":"arp","from":"acme/web1","to":"10.1.0.12","count":1,"wait_ms":1000}"#).into()
        }
        Takes::File(_) => body(&json!({ "config": lab.site.config }).to_string()).into(),
    }
}

fn ask(lab: &Lab, token: Option<&str>, route: &Route) -> Answer {
    let more = arguments(lab, route);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    match token {
        Some(token) => lab.ask(token, route.method.name(), route.path, &more),
        None => lab.ask_socket(route.method.name(), route.path, &more),
    }
}

/// Where the schema of an answer is.
fn schema(route: &Route) -> String {
    let path = route.path.replace('/', "~1");
    let method = route.method.name().to_lowercase();
    format!("/paths/{path}/{method}/responses/200/content/application~1json/schema")
}

/// What of these answers does not fit the description, as somebody else's validator says.
fn unfit(api: &Value, answers: &[(String, Value)]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/validate.py");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let question = json!({ "api": api, "answers": answers }).to_string();
    child.stdin.take().unwrap().write_all(question.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "python3-jsonschema is there: `cargo xtask test` fetches it: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_route_answers_as_it_is_described() {
    let Some(lab) = Lab::start(&[OPS]) else { return };
    lab.make_something_happen();
    let api = lab.ask("ops", "GET", "/v1/openapi.json", &[]).json();
    assert_eq!(api, lab.ask_socket("GET", "/v1/openapi.json", &[]).json());
    let described: usize =
        api["paths"].as_object().unwrap().values().map(|it| it.as_object().unwrap().len()).sum();
    assert_eq!(described, ROUTES.len() + PAGES.len(), "nothing is described that there is not");
    let mut answers = Vec::new();
    // What is staged is shown before it is thrown away.
    let is_last = |route: &&Route| matches!(route.path, "/v1/flows/kill") || route.method == Method::Delete;
    let staged = ROUTES.iter().find(|route| route.path == "/v1/stage").unwrap();
    for token in [None, Some("ops")] {
        let order = std::iter::once(staged)
            .chain(ROUTES.iter().filter(|route| !is_last(route)))
            .chain(ROUTES.iter().filter(is_last));
        for route in order {
            let answer = ask(&lab, token, route);
            assert_eq!(answer.status, 200, "{}: {answer:?}", route.name());
            answers.push((schema(route), answer.json()));
        }
        for (path, page, ..) in PAGES {
            let answer = match token {
                Some(token) => lab.ask(token, "GET", path, &[]),
                None => lab.ask_socket("GET", path, &[]),
            };
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            let is_json = matches!(page, Page::OpenApi | Page::Caller);
            assert_eq!(answer.head.contains("content-type: application/json"), is_json, "{answer:?}");
        }
    }
    let failure = "/components/schemas/Failure".to_owned();
    for (status, target) in [(404, "/v1/flow"), (400, "/v1/flows?vni=x"), (422, "/v1/flows?endpoint=nobody")]
    {
        let answer = lab.ask("ops", "GET", target, &[]);
        assert_eq!(answer.status, status, "{answer:?}");
        answers.push((failure.clone(), answer.json()));
    }
    let rows = |name: &str| {
        let of = |(_, answer): &(String, Value)| answer[name].as_array().map_or(0, Vec::len);
        answers.iter().map(of).max().unwrap_or_default()
    };
    for list in
        ["endpoints", "fdb", "flows", "neighbors", "drops", "rules", "policy", "events", "ports", "steps"]
    {
        assert!(rows(list) > 0, "no answer has {list}: what is empty says nothing");
    }
    let wrong = unfit(&api, &answers);
    assert!(wrong.is_empty(), "{wrong}");
    let mut changed = answers[0].1.clone();
    changed["epoch"] = json!("seven");
    assert!(
        unfit(&api, &[(answers[0].0.clone(), changed)]).contains("epoch"),
        "the validator sees what is wrong"
    );
}

/// What the repository has is what is served.
#[test]
fn the_description_is_in_the_repository() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let wanted = serde_json::to_string_pretty(&eastgate_api::openapi()).unwrap() + "\n";
    if std::env::var_os("EASTGATE_BLESS").is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "EASTGATE_BLESS=1 cargo test --test api    writes docs/openapi.json anew");
}

#[test]
fn a_role_is_good_for_what_it_says() {
    let tokens = [("reader", "read", None), ("operator", "operate", None), OPS];
    let Some(lab) = Lab::start(&tokens) else { return };
    for (token, role) in [("reader", Role::Read), ("operator", Role::Operate), ("ops", Role::Administer)] {
        for route in &ROUTES {
            let answer = ask(&lab, Some(token), route);
            if role >= route.role() {
                assert_eq!(answer.status, 200, "{token} {}: {answer:?}", route.name());
            } else {
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (403, "forbidden"),
                    "{token}: {answer:?}"
                );
                assert!(answer.body.contains(route.role().name()), "{answer:?}");
            }
        }
    }
    let log = lab.alpha.log();
    assert!(
        log.contains("POST /v1/reload") && log.contains("ops"),
        "who has changed something is told: {log}"
    );
}

#[test]
fn a_token_of_a_tenant_sees_nothing_of_others() {
    let tokens = [
        ("watch", "read", Some("acme")),
        ("kill", "operate", Some("acme")),
        ("chief", "administer", Some("acme")),
        OPS,
    ];
    let Some(lab) = Lab::start(&tokens) else { return };
    lab.make_something_happen();
    let others = ["initech", "secret", "\"vni\":6001", "veth-sec", "10.1.0.13", "10.1.0.14"];
    for route in ROUTES.iter().filter(|route| route.method == Method::Get) {
        let all = lab.ask("ops", "GET", route.path, &[]);
        let own = lab.ask("watch", "GET", route.path, &[]);
        assert_eq!((all.status, own.status), (200, 200), "{}: {own:?}", route.name());
        for word in others {
            assert!(!own.body.contains(word), "{} tells of {word}: {}", route.name(), own.body);
        }
        if matches!(route.path, "/v1/endpoints" | "/v1/flows" | "/v1/drops" | "/v1/events" | "/v1/status") {
            assert!(all.body.contains("\"vni\":6001"), "{}: {}", route.name(), all.body);
            assert!(own.body.contains("\"vni\":5001"), "{}: {}", route.name(), own.body);
        }
    }
    // Nor do counts, whose changes would say what others do: flows are its own, and what is of the host is left out.
    let status = lab.ask("watch", "GET", "/v1/status", &[]).json();
    let total =
        |token: &str, target: &str| lab.ask(token, "GET", target, &[]).json()["total"].as_u64().unwrap();
    let (own, all) = (total("watch", "/v1/flows"), total("ops", "/v1/flows"));
    assert!(0 < own && own < all, "{own} of {all}");
    let count = |name: &str| status["flows"][name].as_u64().unwrap();
    assert_eq!(count("replied") + count("unreplied"), own, "{status}");
    let of_host = lab.ask("ops", "GET", "/v1/status", &[]).json();
    assert!(of_host["traffic"]["from_ports"].as_u64() > Some(0), "{of_host}");
    let is_nothing = |value: &Value| value.as_u64().is_none_or(|count| count == 0);
    for part in ["traffic", "helpers", "memory", "punts"] {
        let counts = status[part].as_object().unwrap();
        assert!(counts.values().all(is_nothing), "{part}: {status}");
    }
    // The other routes that read, asked for all that there is.
    let posts = ROUTES.iter().filter(|route| route.method == Method::Post && route.role() == Role::Read);
    for route in posts {
        let own = ask(&lab, Some("watch"), route);
        for word in others {
            assert!(!own.body.contains(word), "{} tells of {word}: {}", route.name(), own.body);
        }
    }
    // What is another's and what is nobody's is the same.
    for (theirs, nobodys) in [
        ("/v1/flows?vni=6001", "/v1/flows?vni=6002"),
        ("/v1/fdb?vni=6001", "/v1/fdb?vni=6002"),
        ("/v1/drops?vni=6001", "/v1/drops?vni=6002"),
        ("/v1/endpoints?endpoint=initech/secret1", "/v1/endpoints?endpoint=nobody/secret1"),
        ("/v1/flows?endpoint=secret1", "/v1/flows?endpoint=secret9"),
        ("/v1/events?tenant=initech", "/v1/events?tenant=nobody"),
        ("/v1/events?group=everybody", "/v1/events?group=everyone"),
        ("/v1/events?network=lab", "/v1/events?network=lob"),
    ] {
        let [theirs, nobodys] = [theirs, nobodys].map(|target| lab.ask("watch", "GET", target, &[]));
        assert_eq!(theirs.status, nobodys.status);
        let plain = |answer: &Answer| {
            let text = answer.body.replace("initech", "nobody").replace("secret9", "secret1");
            text.replace("everyone", "everybody").replace("6001", "6002")
        };
        assert_eq!(plain(&theirs), plain(&nobodys));
    }
    let packet = r#"{"vni":6001,"proto":17,"src":"10.1.0.13","dst":"10.1.0.14"}"#;
    let trace = |packet: &str| {
        let more = body(packet);
        lab.ask("watch", "POST", "/v1/trace", &more.each_ref().map(String::as_str))
    };
    let (theirs, nobodys) = (trace(packet), trace(&packet.replace("6001", "6002")));
    assert_eq!(theirs.status, 422);
    assert_eq!(theirs.body.replace("6001", "6002"), nobodys.body);
    for (method, target) in [("POST", "/v1/reload"), ("DELETE", "/v1/staged"), ("GET", "/metrics")] {
        assert_eq!(lab.ask("chief", method, target, &[]).status, 403, "{target}");
    }
    // Nothing of another is changed.
    let live = |vni: u64| {
        let flows = lab.ask("ops", "GET", &format!("/v1/flows?vni={vni}"), &[]).json();
        flows["total"].as_u64().unwrap()
    };
    assert!(live(6001) > 0 && live(5001) > 0);
    let before = live(6001);
    for json in [r#"{"all":true}"#, r#"{"vni":6001}"#] {
        let more = body(json);
        let more = more.each_ref().map(String::as_str);
        assert_eq!(lab.ask("kill", "POST", "/v1/flows/kill", &more).status, 200);
        assert_eq!(
            lab.ask("kill", "POST", "/v1/fdb/flush", &body("{}").each_ref().map(String::as_str)).status,
            200
        );
    }
    assert_eq!((live(6001), live(5001)), (before, 0));
}

/// A stream of events that curl reads. It is killed when it goes out of scope.
struct Follower {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Follower {
    fn start(lab: &Lab, token: &str, target: &str) -> Self {
        Self::start_from(lab, token, target, "127.0.0.1")
    }

    /// One that connects from this address.
    fn start_from(lab: &Lab, token: &str, target: &str, from: &str) -> Self {
        let mut command = lab.site.alpha.command("curl");
        command.args(["-q", "-sSN", "--interface", from, "--cacert"]).arg(lab.path("api.pem"));
        command.args(["--resolve", &format!("{}:{}:127.0.0.1", lab::NAME, lab::PORT)]);
        command.args(["-H", &format!("Authorization: Bearer {}", lab.token(token))]);
        command.arg(format!("https://{}:{}{target}", lab::NAME, lab::PORT)).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// It has not ended.
    fn is_on(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The next line that begins like this; nothing when it is over.
    fn next(&mut self, begin: &str) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(rest) = line.strip_prefix(begin) {
                return Some(rest.trim_end().to_owned());
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_are_followed_until_the_token_is_taken_back() {
    let Some(lab) = Lab::start(&[("watch", "read", Some("acme")), OPS]) else { return };
    let mut follower = Follower::start(&lab, "watch", "/v1/events?follow=true&limit=0");
    assert_eq!(follower.next(":").as_deref(), Some(" these are events of eastgate"));
    lab.make_something_happen();
    let mut kinds = std::collections::BTreeSet::new();
    let mut last = 0;
    while !(kinds.contains("begun") && kinds.contains("denied")) {
        let id: u64 = follower.next("id: ").unwrap().parse().unwrap();
        let event: Value = serde_json::from_str(&follower.next("data: ").unwrap()).unwrap();
        assert_eq!((event["seq"].as_u64(), event["vni"].as_u64()), (Some(id), Some(5001)), "{event}");
        assert!(id > last, "{id} after {last}");
        last = id;
        kinds.insert(event["event"].as_str().unwrap().to_owned());
    }
    // Where it was broken off it goes on.
    let resume = format!("Last-Event-ID: {}", last - 1);
    let more = ["-H", &resume, "--max-time", "2"];
    let again = lab.ask("watch", "GET", "/v1/events?follow=true", &more);
    assert!(again.body.contains(&format!("id: {last}\n")), "{again:?}");
    assert!(again.head.contains("content-type: text/event-stream"), "{again:?}");

    private(&lab.path("tokens.toml"), "");
    assert_eq!(follower.next("event: ").as_deref(), Some("failure"));
    assert!(follower.next("data: ").unwrap().contains("unauthenticated"));
    assert_eq!(follower.next("data: "), None, "and that is all");
    let answer = lab.ask("watch", "GET", "/v1/status", &[]);
    assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"));
    assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");

    // One that comes is good at once; a broken file takes nobody away, and is told of.
    let (token, table) = new_token("late", "read", None);
    private(&lab.path("tokens.toml"), &table);
    assert_eq!(lab.show(&token, "GET", "/v1/status", &[]).status, 200);
    private(&lab.path("tokens.toml"), &table.replace("read", "reed"));
    assert_eq!(lab.show(&token, "GET", "/v1/status", &[]).status, 200);
    let log = lab.alpha.log();
    assert!(log.contains("tokens.toml:3:8") && log.contains("did you mean `read`?"), "{log}");
    let trouble = || lab.alpha.ask(&["status"])["api_error"].as_str().map(str::to_owned);
    let says = |words: &str| trouble().is_some_and(|text| text.contains(words));
    wait_for("the status says so", || says("tokens.toml:3:8"));

    // Without a file nobody is let in, told once; the daemon carries on, and the socket's owner sees that it does.
    std::fs::remove_file(lab.path("tokens.toml")).unwrap();
    for _ in 0..2 {
        assert_eq!(lab.show(&token, "GET", "/v1/status", &[]).status, 401);
    }
    assert_eq!(lab.alpha.log().matches("the file of tokens is gone").count(), 1);
    assert_eq!(lab.ask_socket("GET", "/readyz", &[]).status, 200);
    wait_for("the status says so", || says("is gone"));
    private(&lab.path("tokens.toml"), &table);
    assert_eq!(lab.show(&token, "GET", "/v1/status", &[]).status, 200);
    wait_for("it is no longer so", || trouble().is_none());
}

#[test]
fn a_certificate_is_taken_when_it_is_another() {
    let Some(lab) = Lab::start(&[OPS]) else { return };
    assert_eq!(lab.ask("ops", "GET", "/v1/status", &[]).status, 200);
    certificate(&lab.site, "second");
    // A certificate without its key is no pair, and the old one stays.
    let first = std::fs::read_to_string(lab.path("api.pem")).unwrap();
    replace(&lab.path("second.pem"), &lab.path("api.pem"));
    private(&lab.path("trusted.pem"), &first);
    let status = |authority: &str| {
        let mut command = lab.site.alpha.command("curl");
        command
            .args(["-q", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
            .arg(lab.path(authority));
        command.args(["--resolve", &format!("{}:{}:127.0.0.1", lab::NAME, lab::PORT)]);
        let output = command.arg(format!("https://{}:{}/healthz", lab::NAME, lab::PORT)).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(status("trusted.pem"), "200");
    assert_eq!(status("second.pem"), "000");
    assert!(lab.alpha.log().contains("the API's certificate is as before"), "{}", lab.alpha.log());
    replace(&lab.path("second.key"), &lab.path("api.key"));
    assert_eq!(status("second.pem"), "200");
    assert_eq!(status("trusted.pem"), "000");
    // A reload looks, too, whether somebody connects or not.
    private(&lab.path("api.key"), "nothing");
    assert!(lab.alpha.run(&["reload"]).status.success());
    wait_for("the log tells of it", || lab.alpha.log().contains("no private key in PEM"));
    assert_eq!(status("second.pem"), "200");
}

#[test]
fn what_is_not_as_it_is_to_be_is_told_at_the_start() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    certificate(&site, "api");
    private(&site.world.path("tokens.toml"), "[token.x]\nrole = \"read\"\n");
    let path = |name: &str| site.world.path(name).to_str().unwrap().to_owned();
    let (pem, key, tokens) = (path("api.pem"), path("api.key"), path("tokens.toml"));
    let start = |options: &[&str]| {
        let options = [&["--dataplane", "userspace", "--api", "127.0.0.1:8443"], options].concat();
        let mut alpha = common::Daemon::launch(&site.world, &site.alpha, &site.config, "alpha", &options);
        (alpha.wait().code(), alpha.log())
    };
    let (code, log) = start(&[]);
    assert!(code == Some(2) && log.contains("--api-certificate"), "{log}");
    let all = ["--api-certificate", &pem, "--api-key", &key, "--api-tokens", &tokens];
    let (code, log) = start(&all);
    assert!(code == Some(3) && log.contains("tokens.toml:1:8"), "{code:?} {log}");
    assert!(log.contains("eastgate token new"), "{log}");
    private(&site.world.path("tokens.toml"), "");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, log) = start(&all);
    assert!(code == Some(1) && log.contains("chmod 0640"), "{code:?} {log}");
    let planned = Command::new(EASTGATE)
        .args(["plan", "--dataplane", "userspace", "--host", "alpha", "--api", "127.0.0.1:8443"])
        .args(all)
        .arg("--config")
        .arg(&site.config)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&planned.stdout).contains("HTTP API over TLS"), "{planned:?}");
}

/// An answer that is written to nobody ends nothing but the conversation.
#[test]
fn clients_that_leave_end_nothing() {
    let Some(lab) = Lab::start(&[OPS]) else { return };
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    for _ in 0..50 {
        let mut stream = UnixStream::connect(lab.alpha.socket()).unwrap();
        stream.write_all(&request.repeat(20)).unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        lab.site.alpha.enter(|| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:9473").unwrap();
            stream.write_all(request).unwrap();
            // What is unread when it is closed is answered by a reset.
            socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        });
    }
    assert_eq!(lab.alpha.ask(&["status"])["ready"], true);
    assert_eq!(lab.ask("ops", "GET", "/v1/status", &[]).status, 200);
}

#[test]
fn old_and_new_tell_each_other_apart() {
    let Some(lab) = Lab::start(&[]) else { return };
    // An old command line says a line of JSON, and reads one.
    let mut stream = UnixStream::connect(lab.alpha.socket()).unwrap();
    stream.write_all(b"{\"status\":{}}\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    assert!(told["error"].as_str().unwrap().contains("the daemon is newer than this command line"), "{told}");

    // An old daemon answers a line of JSON to each line.
    let path = lab.path("old.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let old = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut some = [0; 64];
        let _ = stream.read(&mut some).unwrap();
        stream
            .write_all(b"{\"error\":\"this is no request: expected value\",\"code\":\"malformed\"}\n")
            .unwrap();
    });
    let output = Command::new(EASTGATE).args(["status", "--socket"]).arg(&path).output().unwrap();
    old.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("is older than this command line"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}
