//! The page of a real daemon, over TLS with a token: from "my connection is refused" to the rule's line by keyboard alone, and what a page of
//! another origin gets.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

use serde_json::json;

use crate::{
    browser::{Browser, DESK, DOWN, ENTER, ESCAPE, PHONE, RIGHT, Size, TAB},
    common::{
        Daemon, Space, Stream, bind_tcp,
        page::{self, ORIGIN},
        site::*,
        wait_for,
    },
    looks::pictures,
    sign_in,
};

/// Pictures in the documentation have at most so many bytes.
const SMALL: u64 = 80_000;
/// And are of a window of this size.
const SHOWN: Size = Size { width: 1060, height: 600, phone: false };

const GROUPS: &str = r#"
[tenant.acme.group.web]
egress = [{ to = "any" }]
ingress = [{ proto = "icmp", from = "any" }]

[tenant.acme.group.db]
ingress = [
  { proto = "udp", ports = 7000, from = "group:web" },
  { proto = "tcp", ports = ["22", "5432"], from = "group:web" },
]

# Nobody logs in at the database, whatever its group says.
[tenant.acme.policy.lockdown]
applies_to = "group:db"
ingress = [
  { action = "deny", proto = "tcp", ports = 22, from = "any" },
]

# To be denied some day
[tenant.acme.policy.planned]
order = 200
mode = "audit"
applies_to = "group:db"
ingress = [{ action = "deny", proto = "udp", ports = 7000, from = "10.1.0.12" }]
"#;

/// Two hosts with three machines, of which web1 is refused at port 22 of db1.
struct Served {
    site: Site,
    beta: Daemon,
    alpha: Daemon,
    token: String,
}

impl Served {
    fn new(role: &[&str]) -> Option<Self> {
        let site = Site::new(HOSTS_V4)?;
        site.rewrite(|text| {
            let (head, endpoints) = text.split_once("\n[tenant.acme.endpoint.web1]").unwrap();
            let hosts = head.split_once("\n[tenant.acme.group.all]").unwrap().0;
            let (webs, db) = endpoints.split_once("\n[tenant.acme.endpoint.db1]").unwrap();
            let (webs, db) = (webs.replace("[\"all\"]", "[\"web\"]"), db.replace("[\"all\"]", "[\"db\"]"));
            format!("{hosts}{GROUPS}\n[tenant.acme.endpoint.web1]{webs}\n[tenant.acme.endpoint.db1]{db}")
        });
        site.beta.ip("link set lo up");
        let (page, token) = page::options(&site.world, role);
        let page = page.iter().map(String::as_str);
        let options: Vec<&str> = ["--dataplane", "userspace"].into_iter().chain(page).collect();
        let beta = site.run_more("beta", &options);
        let alpha = site.run("alpha");
        Some(Self { site, beta, alpha, token })
    }

    /// Web1 is refused, and both speak to db1, one of them as long as that is tried out.
    fn traffic(&self) -> [Stream; 2] {
        let streams = [(&self.site.web1, 11), (&self.site.web2, 12)]
            .map(|(from, number)| Stream::start(from, udp(number, 9000), udp(21, ALLOWED)));
        wait_for("a connection is refused", || {
            let refused =
                self.site.web1.enter(|| TcpStream::connect_timeout(&tcp(21, 22), Duration::from_millis(200)));
            assert!(refused.is_err());
            self.beta.drops().contains_key("ingress-rule")
        });
        wait_for("what would be denied is told", || {
            self.beta.ask(&["show", "drops", "--audit"])["drops"]
                .as_array()
                .is_some_and(|rows| !rows.is_empty())
        });
        streams
    }

    fn browser(&self) -> Browser {
        Browser::start(&self.site.world, &self.site.beta)
    }

    /// The line of the configuration that a place names
    fn line(&self, place: &str) -> String {
        let mut parts = place.rsplitn(3, ':');
        let (_column, line, file) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
        assert_eq!(Path::new(file).canonicalize().unwrap(), self.site.config.canonicalize().unwrap());
        let text = fs::read_to_string(file).unwrap();
        text.lines().nth(line.parse::<usize>().unwrap() - 1).unwrap().to_owned()
    }

    fn stop(self) {
        [self.alpha, self.beta].into_iter().for_each(|daemon| assert!(daemon.stop().success()));
    }
}

/// What has the keyboard can be seen to have it.
fn focus_is_seen(browser: &Browser) {
    let seen = browser.run(
        "const it = document.activeElement; return it !== document.body && it.checkVisibility() && (it.matches('h2, h3, main') || it.matches(':focus-visible'))",
    );
    assert_eq!(seen, true, "{}", browser.focused());
}

/// By drops to the rule and its line, on to the walk, and the same from the form.
#[test]
fn from_my_connection_is_refused_to_the_line_by_keyboard_alone() {
    let Some(served) = Served::new(&["--role", "administer"]) else { return };
    let streams = served.traffic();
    let browser = served.browser();
    sign_in(&browser, ORIGIN, &served.token);
    focus_is_seen(&browser);

    browser.press("d");
    browser.wait("the drops", "[...document.querySelectorAll('.grid-body .grid-row:not([hidden])')].some(row => row.textContent.includes(':22'))");
    browser.press_until(TAB, 40, "document.activeElement.matches('.grid-scroll')");
    focus_is_seen(&browser);
    let current = "document.querySelector('.grid-row.current').textContent.includes(':22')";
    if browser.run(&format!("return {current}")) != true {
        browser.press_until(DOWN, 20, current);
    }
    browser.press(&ENTER.to_string());
    browser.wait("what is told of it has the keyboard", "document.activeElement.id === 'detail-title'");
    let text = browser.text();
    assert!(
        text.contains("acme/policy lockdown ingress #1")
            && text.contains("acme/web1")
            && text.contains("acme/db1"),
        "{text}"
    );
    let place = browser.run("return document.querySelector('#detail .rule .place code').textContent");
    let place = place.as_str().unwrap();
    assert!(served.line(place).contains(r#"{ action = "deny", proto = "tcp", ports = 22"#), "{place}");

    browser.press_until(TAB, 12, "document.activeElement.textContent === 'Walk this packet'");
    focus_is_seen(&browser);
    browser.press(&ENTER.to_string());
    browser.wait("the walk", "document.activeElement.id === 'trace-outcome'");
    let because = "return document.querySelector('.because .place code').textContent";
    assert_eq!(browser.run(because), place);
    let hosts = browser
        .run("return [...document.querySelectorAll('.walk .leg h4')].map(it => it.textContent).join()");
    assert_eq!(hosts, "alpha,tunnel → beta");
    browser.wait(
        "what was really refused",
        "document.querySelector('.trace-result').innerText.includes('What was really refused')",
    );
    browser.resize(SHOWN);
    shown(&browser, &served, "trace");
    browser.resize(DESK);

    // The same from nothing but the question.
    browser.press("m");
    browser.wait("the map", "document.querySelector('canvas.map')");
    browser.press("w");
    browser.wait("the form", "document.activeElement.name === 'src'");
    focus_is_seen(&browser);
    browser.run("document.querySelector('.trace-form').reset()");
    browser.press(&format!("acme/web1{TAB}{TAB}acme/db1{TAB}22{ENTER}"));
    browser
        .wait("the walk", "document.activeElement.id === 'trace-outcome' && document.querySelector('.walk')");
    assert_eq!(browser.run(because), place);

    // What is answered is what the terminal says.
    let flows = served.beta.ask(&["show", "flows"])["total"].as_u64().unwrap();
    browser.press("f");
    browser.wait(
        "the flows",
        &format!(
            "document.querySelector('.table-view [role=status]').textContent.startsWith('{flows} flow')"
        ),
    );
    assert!(browser.text().contains("audit"), "{}", browser.text());
    browser.press("p");
    browser.wait("the matrix", "document.querySelector('.matrix button .did')");
    browser.press_until(TAB, 30, "document.activeElement.closest('.matrix')");
    browser.press_until(
        RIGHT,
        4,
        "document.activeElement.getAttribute('aria-label').startsWith('acme/db to acme/web')",
    );
    browser.press_until(
        DOWN,
        4,
        "document.activeElement.getAttribute('aria-label').startsWith('acme/web to acme/web')",
    );
    browser.press_until(
        '\u{e012}',
        4,
        "document.activeElement.getAttribute('aria-label').startsWith('acme/web to acme/db')",
    );
    browser.press(&ENTER.to_string());
    browser.wait("what is told of it", "document.activeElement.id === 'detail-title'");
    let text = browser.text();
    assert!(text.contains("udp 7000") && text.contains("would have been denied"), "{text}");
    browser.resize(SHOWN);
    shown(&browser, &served, "policy");
    browser.press(&ESCAPE.to_string());
    assert_eq!(
        browser.run(
            "return document.activeElement.getAttribute('aria-label').startsWith('acme/web to acme/db')"
        ),
        true
    );

    browser.press("m");
    browser.wait("all that is live", "document.querySelector('#tally-refused').textContent.trim() !== '0' && document.querySelector('#tally-audit').textContent.trim() !== '0'");
    browser.run_to_end("setTimeout(() => requestAnimationFrame(done), 900)");
    shown(&browser, &served, "map");
    for (name, size, theme) in
        [("real-dark", DESK, "dark"), ("real-light", DESK, "light"), ("real-phone", PHONE, "light")]
    {
        browser.resize(size);
        browser.prefer("prefers-color-scheme", theme);
        browser.run_to_end("setTimeout(() => requestAnimationFrame(done), 600)");
        browser.picture(&pictures().join(format!("{name}.png")));
    }

    // Nothing was asked for elsewhere, and no address has the token.
    assert_eq!(browser.complaints(), [""; 0]);
    let asked = browser.asked();
    assert!(asked.len() > 20, "{asked:?}");
    for url in asked {
        assert!(url.starts_with(&format!("{ORIGIN}/")) || url.starts_with("data:"), "{url}");
        assert!(!url.contains(&served.token), "{url}");
    }
    drop(streams);
    drop(browser);
    served.stop();
}

/// Keeps a picture; where they are to be made anew, the documentation's. The test's folder is shown as that of a configuration.
fn shown(browser: &Browser, served: &Served, name: &str) {
    let folder = json!(served.site.config.parent().unwrap().to_str());
    browser.run(&format!(
        "const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
         for (let it = walker.nextNode(); it; it = walker.nextNode()) it.data = it.data.replaceAll({folder}, '/etc/eastgate')"
    ));
    let path = pictures().join(format!("docs-{name}.png"));
    browser.picture(&path);
    if std::env::var_os("EASTGATE_BLESS").is_some() {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/pictures/page-{name}.png"));
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        let mut pngquant = Command::new("pngquant");
        assert!(
            pngquant
                .args(["--force", "--output"])
                .arg(&kept)
                .arg("64")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
    }
}

#[test]
fn pictures_of_the_documentation_are_there_and_small() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let text = fs::read_to_string(docs.join("operations.md")).unwrap();
    for name in ["map", "trace", "policy"] {
        let picture = format!("pictures/page-{name}.png");
        assert!(text.contains(&format!("]({picture})")), "{picture} is not in operations.md");
        let bytes = fs::metadata(docs.join(&picture)).unwrap().len();
        assert!(bytes <= SMALL, "{picture} has {bytes} bytes");
    }
}

/// A server of somebody else's page on the same machine, which says nothing to whoever asks for more.
fn other_site(space: &Space) {
    let listener = space.enter(|| bind_tcp("127.0.0.1:8080"));
    // It ends with the test's process: nobody waits for it.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                line.clear();
            }
            let page = "<!doctype html><title>other</title><link rel=icon href=data:,><p>somebody else's";
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
                page.len()
            );
        }
    });
}

/// Even with a token that is good.
#[test]
fn a_page_of_another_origin_gets_nothing() {
    let Some(served) = Served::new(&["--role", "administer"]) else { return };
    other_site(&served.site.beta);
    let browser = served.browser();
    // The browser has taken the certificate, and is signed in, before the other page is opened.
    sign_in(&browser, ORIGIN, &served.token);
    let epoch = served.beta.ask(&["status"])["epoch"].clone();
    browser.open("http://127.0.0.1:8080/");
    let script = r#"
        const origin = "ORIGIN";
        const token = { Authorization: "Bearer TOKEN" };
        const got = {};
        const tried = async (name, work) => { try { got[name] = await work(); } catch (error) { got[name] = "nothing"; } };
        const told = async (response) => `${response.type} ${response.status} ${(await response.text()).length}`;
        const loaded = (element, where) => new Promise((resolve) => {
          element.onload = () => resolve(element.contentDocument ? element.contentDocument.body.innerHTML : element.contentWindow ? "nothing" : "loaded");
          element.onerror = () => resolve("nothing");
          where.append(element);
        });
        const made = (name, values) => Object.assign(document.createElement(name), values);
        (async () => {
          await tried("read", async () => told(await fetch(`${origin}/v1/status`)));
          await tried("read with the token", async () => told(await fetch(`${origin}/v1/status`, { headers: token })));
          await tried("reload with the token", async () => told(await fetch(`${origin}/v1/reload`, { method: "POST", headers: token })));
          await tried("reload blindly", async () => told(await fetch(`${origin}/v1/reload`, { method: "POST", mode: "no-cors", body: "{}" })));
          await tried("read blindly", async () => told(await fetch(`${origin}/v1/status`, { mode: "no-cors" })));
          await tried("the page's script", () => loaded(made("script", { src: `${origin}/app.js` }), document.head));
          await tried("the page's picture", () => loaded(made("img", { src: `${origin}/icon.svg` }), document.body));
          await tried("the page in a frame", () => loaded(made("iframe", { src: `${origin}/` }), document.body));
          await tried("events", () => new Promise((resolve) => { const it = new EventSource(`${origin}/v1/events?follow=true`); it.onmessage = () => resolve("events"); it.onerror = () => resolve("nothing"); }));
          done(got);
        })();"#;
    let got = browser.run_to_end(&script.replace("ORIGIN", ORIGIN).replace("TOKEN", &served.token));
    for (what, it) in got.as_object().unwrap() {
        // An answer that is opaque has neither a status nor a body for whoever asked.
        assert!(it == "nothing" || it == "opaque 0 0", "{what}: {it}");
    }
    assert_eq!(got.as_object().unwrap().len(), 9);
    assert_eq!(served.beta.ask(&["status"])["epoch"], epoch, "nothing was reloaded");
    // By itself the token is good: it is the origin that is not.
    browser.open(&format!("{ORIGIN}/"));
    let own = format!(
        "fetch('/v1/status', {{ headers: {{ Authorization: 'Bearer {}' }} }}).then(it => done(it.status))",
        served.token
    );
    assert_eq!(browser.run_to_end(&own), json!(200));
    drop(browser);
    served.stop();
}

/// A token of one tenant that may only read: it is said, and nothing is offered that it may not.
#[test]
fn a_token_that_may_only_look_at_one_tenant_says_so() {
    let Some(served) = Served::new(&["--role", "read", "--tenant", "acme"]) else { return };
    let browser = served.browser();
    sign_in(&browser, ORIGIN, &served.token);
    assert_eq!(browser.run("return document.querySelector('#role').textContent"), "read · acme");
    browser.wait("endpoints", "document.querySelector('#map-tells').textContent.startsWith('3 endpoints')");
    browser.press("h");
    browser.wait("the host", "document.querySelector('#host-title')");
    assert_eq!(
        browser.run(
            "return [...document.querySelectorAll('main button')].filter(it => it.checkVisibility()).length"
        ),
        0
    );
    browser.press("p");
    browser.wait("the matrix", "document.querySelector('.matrix button')");
    assert_eq!(browser.complaints(), [""; 0]);
    drop(browser);
    served.stop();
}

/// Ending a flow ends that one: not another from the same address and port, nor its like from elsewhere.
#[test]
fn the_flow_that_is_ended_is_the_one_that_was_chosen() {
    let Some(served) = Served::new(&["--role", "operate"]) else { return };
    served.site.rewrite(|text| {
        text.replace(
            "proto = \"udp\", ports = 7000, from = \"group:web\"",
            "proto = \"udp\", ports = \"7000-7001\", from = \"group:web\"",
        )
    });
    assert!(served.beta.run(&["reload"]).status.success());
    for (from, number, port) in
        [(&served.site.web1, 11, 7000), (&served.site.web1, 11, 7001), (&served.site.web2, 12, 7001)]
    {
        from.enter(|| {
            let socket = std::net::UdpSocket::bind(udp(number, 9000)).unwrap();
            socket.send_to(b"once", udp(21, port)).unwrap();
        });
    }
    let flows = || {
        let rows = served.beta.ask(&["show", "flows", "--proto", "udp"]);
        let end = |row: &serde_json::Value| format!("{} {}", row["src"].as_str().unwrap(), row["dport"]);
        let mut ends: Vec<String> = rows["flows"].as_array().unwrap().iter().map(end).collect();
        ends.sort_unstable();
        ends
    };
    wait_for("the flows are there", || flows() == ["10.1.0.11 7000", "10.1.0.11 7001", "10.1.0.12 7001"]);
    let browser = served.browser();
    sign_in(&browser, ORIGIN, &served.token);
    browser.run("location.hash = '#/flows?text=10.1.0.11:9000%2010.1.0.21:7001'");
    browser.wait("the flow", "document.querySelector('.table-view [role=status]').textContent === '1 flow'");
    browser.run("document.querySelector('main .grid-scroll').focus()");
    browser.press(&ENTER.to_string());
    browser.wait("its details", "!document.querySelector('#detail').hidden");
    browser.press_until(TAB, 12, "document.activeElement.textContent.startsWith('End this flow')");
    browser.press(&ENTER.to_string());
    browser.wait(
        "it is asked",
        "document.querySelector('#confirm').open && document.querySelector('#confirm').innerText.includes('10.1.0.11:9000 to 10.1.0.21:7001')",
    );
    browser.press(&format!("{TAB}{ENTER}"));
    wait_for("it has ended, alone", || flows() == ["10.1.0.11 7000", "10.1.0.12 7001"]);
    assert_eq!(browser.complaints(), [""; 0]);
    drop(browser);
    served.stop();
}
