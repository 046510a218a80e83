//! The page in a real browser, Debian's Chromium: what a person finds there by keyboard alone, what hostile names and other origins get, how
//! it is with very much to show, and that it asks for nothing that is not the daemon's.
//!
//! Pictures of it are in `target/page-pictures`; `EASTGATE_BLESS=1` writes those of the documentation anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

#[path = "page/browser.rs"]
mod browser;
#[path = "page/fake.rs"]
mod fake;
#[path = "page/looks.rs"]
mod looks;
#[path = "page/real.rs"]
mod real;

use common::{Space, World};
use serde_json::{Value, json};

use self::{
    browser::{Browser, DOWN, ENTER, ESCAPE, TAB},
    fake::{Fake, ORIGIN, Tales},
};

/// A namespace with a loopback, as a browser and a daemon need it.
fn space(world: &mut World) -> Space {
    let space = world.space("desk");
    space.ip("link set lo up");
    space
}

/// Goes to the page, gives the token by keyboard, and waits for the map.
fn sign_in(browser: &Browser, origin: &str, token: &str) {
    browser.open(&format!("{origin}/"));
    browser.wait("a token is asked for", "document.activeElement?.id === 'token'");
    browser.press(&format!("{token}{ENTER}"));
    browser.wait(
        "the map",
        "document.querySelector('canvas.map') && document.querySelector('#map-tells').textContent",
    );
}

fn endpoint(vni: usize, tenant: &str, name: &str, number: usize, host: &str, group: &str) -> Value {
    json!({
        "vni": vni, "endpoint": format!("{tenant}/{name}"), "network": "lan", "host": host, "port": format!("veth-{name}"),
        "mac": format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256),
        "addresses": [format!("10.{}.{}.{}", vni % 200, number / 250, number % 250 + 1)],
        "groups": [group], "userspace": null, "tx_frames": 1, "rx_frames": 1,
    })
}

fn rule(name: &str, line: usize) -> Value {
    json!({ "rule": name, "at": format!("/etc/eastgate/eastgate.toml:{line}:11") })
}

fn flow(number: usize, from: &Value, to: &Value) -> Value {
    json!({
        "vni": from["vni"], "proto": "tcp", "src": from["addresses"][0], "sport": 20_000 + number % 40_000, "dst": to["addresses"][0], "dport": 443,
        "state": "established", "packets": number, "bytes": 64 * number, "reply_packets": number, "reply_bytes": number, "offloaded": true,
        "expires_s": 60, "egress_rule": null, "ingress_rule": rule("acme/web ingress #1", 12), "audit": number.is_multiple_of(40),
        "id": number, "epoch": 1,
    })
}

fn denied(number: u64, from: &Value, to: &Value) -> Value {
    json!({
        "seq": number, "time_ms": std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64,
        "event": "denied", "verdict": "dropped", "vni": from["vni"], "network": "acme/lan", "proto": "tcp", "src": from["addresses"][0],
        "sport": 40_000, "src_endpoint": from["endpoint"], "dst": to["addresses"][0], "dport": 22, "dst_endpoint": to["endpoint"],
        "reason": "ingress-denied", "text": "no rule allows it", "packets": 1, "refused_by": rule("default deny: no rule of acme/web allows it", 24),
    })
}

/// A network of few, in which names are as they are given.
fn few(names: &[&str], group: &str) -> Tales {
    let endpoints: Vec<Value> = (0..)
        .zip(names)
        .map(|(number, name)| endpoint(5001, "acme", name, number, ["alpha", "beta"][number % 2], group))
        .collect();
    let (first, last) = (&endpoints[0], &endpoints[names.len() - 1]);
    let group_name = format!("acme/{group}");
    let row = json!({ "vni": 5001, "network": "acme/lan", "from": group_name, "to": group_name, "pairs": 2, "passing": 1, "flows": 1, "refused": 3,
        "passages": [{ "services": ["tcp 443"], "pairs": 1, "egress": null, "ingress": rule(&format!("{group_name} ingress #1"), 12) }],
        "refused_by": [rule(&format!("default deny: no rule of {group_name} allows it"), 24)] });
    let count = json!({ "vni": 5001, "rule": format!("{group_name} ingress #1"), "at": "/etc/eastgate/eastgate.toml:12:11", "action": "allow",
        "log": false, "audit": false, "flows": 1, "packets": 1, "bytes": 1, "would_deny": 0, "first_s": 1, "last_s": 1 });
    let text = format!(
        "tcp {}:40000 -> {}:22",
        first["addresses"][0].as_str().unwrap(),
        last["addresses"][0].as_str().unwrap()
    );
    Tales {
        flows: vec![flow(1, first, last)],
        events: vec![denied(1, first, last)],
        drops: vec![
            json!({ "vni": 5001, "reason": "ingress-denied", "text": "no rule allows it", "class": "refusal", "from": names[0], "port": null,
            "rule": format!("default deny: no rule of {group_name} allows it"), "at": "/etc/eastgate/eastgate.toml:24:20", "frames": 3, "bytes": 180,
            "last": text, "last_s": 1, "src_mac": first["mac"], "dst_mac": last["mac"], "kinds": 1, "recent": [] }),
        ],
        policy: vec![
            json!({ "vni": 5001, "network": "acme/lan", "rules": 1, "rulesets": 1, "identities": 1, "lists": 1, "bytes": 1,
            "groups": [{ "group": group_name, "members": names, "rules": [{ "rule": format!("{group_name} ingress #1"), "text": "{ proto = \"tcp\", ports = 443 }", "at": "x:1:1", "flows": 1 }] }] }),
        ],
        rules: vec![count],
        matrix: vec![row],
        trace: json!({ "packet": text, "verdict": "ingress-denied", "to_pass": [], "steps": [
            { "step": "decide ingress", "host": "beta", "result": "drop", "text": "nothing allows it", "at": "/etc/eastgate/eastgate.toml:24:20" }] }),
        role: "administer",
        endpoints,
    }
}

/// A thousand endpoints of five tenants on twenty hosts, and ten thousand flows between them.
fn very_many() -> Tales {
    let endpoints: Vec<Value> = (0..1_000)
        .map(|number| {
            let (tenant, own) = (number / 200, number % 200);
            let (name, group) = (format!("vm{own:03}"), format!("g{}", own % 12));
            endpoint(
                5_000 + tenant,
                &format!("t{tenant}"),
                &name,
                own,
                &format!("host{:02}", own % 20),
                &group,
            )
        })
        .collect();
    let pair = |number: usize| {
        let (tenant, from, to) = (number % 5, number * 7 % 200, number * 13 % 199);
        (&endpoints[tenant * 200 + from], &endpoints[tenant * 200 + if to == from { 199 } else { to }])
    };
    let flows = (0..10_000)
        .map(|number| {
            let (from, to) = pair(number);
            flow(number, from, to)
        })
        .collect();
    let events = (1..=300)
        .map(|number| {
            let (from, to) = pair(number * 3);
            denied(number as u64, from, to)
        })
        .collect();
    Tales { flows, events, endpoints, ..few(&["vm"], "g0") }
}

const HOSTILE: [&str; 5] = [
    "<img src=x onerror=document.title='pwned'>",
    "<script>document.title='pwned'</script>",
    "\"><svg onload=document.title='pwned'>",
    "javascript:document.title='pwned'",
    "\u{202e}drawkcab</td></tr></table>",
];

/// Whatever the daemon says is text, in every view and in what is told of each thing.
#[test]
fn what_a_name_says_is_never_markup() {
    let Some(mut world) = World::new() else { return };
    let space = space(&mut world);
    let mut tales = few(&HOSTILE, HOSTILE[0]);
    tales.trace["steps"][0]["text"] = HOSTILE[1].into();
    tales.trace["steps"][0]["near"] = json!([HOSTILE[2]]);
    tales.events[0]["what"] = HOSTILE[3].into();
    tales.flows[0]["via"] = HOSTILE[0].into();
    let _fake = Fake::start(&space, tales);
    let browser = Browser::start(&world, &space);
    sign_in(&browser, ORIGIN, "secret");
    let tables = ".grid-scroll";
    for view in [
        "map",
        "flows",
        "events",
        "drops",
        "policy?part=rules",
        "policy?part=staged",
        "policy",
        "trace",
        "host",
    ] {
        browser.run(&format!("location.hash = '#/{view}'"));
        browser
            .wait("the view", &format!("location.hash === '#/{view}' && document.querySelector('main h2')"));
        if ["map", "flows", "events", "drops", "policy?part=rules"].contains(&view) {
            browser.wait("a row", "document.querySelector('.grid-body .grid-row:not([hidden])')");
            browser.run(&format!("document.querySelector('main {tables}').focus()"));
            browser.press(&format!("{DOWN}{ENTER}"));
            browser.wait("what is told of it", "!document.querySelector('#detail').hidden");
            let told = browser.text();
            assert!(
                told.contains("<img src=x") || told.contains("onerror") || told.contains("<script>"),
                "{view}: {told}"
            );
            let marked = browser.run("return document.querySelectorAll('main img, main script, aside img, aside script, main svg, aside svg').length");
            assert_eq!(marked, 0, "{view}");
            browser.press(&ESCAPE.to_string());
        }
    }
    browser.run("location.hash = '#/trace?vni=5001&proto=tcp&src=10.1.0.1&dst=10.1.0.2&dport=22'");
    browser.wait("the walk", "document.querySelector('.walk')");
    assert!(browser.text().contains(HOSTILE[1]) && browser.text().contains(HOSTILE[2]));
    assert_eq!(browser.run("return document.title.includes('pwned')"), false);
    assert_eq!(
        browser.run(
            "return document.querySelectorAll('img, main script, main svg, a[href^=javascript]').length"
        ),
        0
    );
    assert_eq!(browser.complaints(), [""; 0]);
}

/// Frame times are told, not bounded: how long a frame takes is the machine's business. That work does not grow with what there is, is held.
#[test]
fn a_thousand_endpoints_and_ten_thousand_flows_stay_smooth() {
    let Some(mut world) = World::alone() else { return };
    let space = space(&mut world);
    let fake = Fake::start(&space, very_many());
    let browser = Browser::start(&world, &space);
    sign_in(&browser, ORIGIN, "secret");
    browser.wait(
        "all of it",
        "document.querySelector('#map-tells').textContent.startsWith('1,000 endpoints, 10,000 live flows')",
    );
    browser.picture(&looks::pictures().join("many.png"));
    for what in ["nothing", "pan", "zoom", "hover", "scroll"] {
        let times = browser.run_to_end(&format!("const what = '{what}'; {}", looks::MEASURE));
        println!("{what}: {}", times.as_str().unwrap());
    }
    // Rows that are seen are elements, and no others are.
    for view in ["map", "flows", "events"] {
        browser.run(&format!("location.hash = '#/{view}'"));
        browser.wait("rows", "document.querySelector('.grid-body .grid-row:not([hidden])')");
        for end in ["1e9", "0"] {
            browser.run(&format!("document.querySelector('.grid-scroll').scrollTop = {end}"));
            browser.run_to_end("requestAnimationFrame(() => requestAnimationFrame(done))");
            let rows = browser.run("return document.querySelectorAll('.grid-row').length").as_u64().unwrap();
            assert!(rows < 100, "{view}: {rows} rows are elements");
        }
        let elements = browser.run("return document.querySelectorAll('*').length").as_u64().unwrap();
        assert!(elements < 3_000, "{view}: {elements} elements");
    }
    // The last of all rows can be reached, and is told.
    browser.run("location.hash = '#/flows'");
    browser.wait("the flows", "document.querySelector('main #flows-title')");
    browser.run("document.querySelector('main .grid-scroll').focus()");
    browser.press(&format!("\u{e010}{ENTER}"));
    browser
        .wait("the last flow", "document.querySelector('#detail').innerText.includes('acme/web ingress #1')");

    // Once all was asked for, nothing is asked faster than each second.
    fake.wait_for_more(6);
    let asked = browser.run(
        "return performance.getEntriesByType('resource').filter(it => it.name.includes('/v1/') && !it.name.includes('events')).map(it => it.startTime)",
    );
    let times: Vec<f64> = asked.as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect();
    let later = &times[25.min(times.len() - 2)..];
    assert!(later.len() > 1 && later.windows(2).all(|two| two[1] - two[0] > 990.0), "{later:?}");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// What keeps the page from being up to date is said; it is asked again later, and not while nobody looks.
#[test]
fn a_daemon_that_is_busy_or_gone_is_asked_again_later() {
    let Some(mut world) = World::new() else { return };
    let space = space(&mut world);
    let fake = Fake::start(&space, few(&["web1", "web2"], "web"));
    let browser = Browser::start(&world, &space);
    sign_in(&browser, ORIGIN, "secret");
    browser.wait("endpoints", "document.querySelector('#map-tells').textContent.startsWith('2 endpoints')");
    let trouble = "document.querySelector('#trouble')";
    fake.refuse(2, 429, 3);
    browser.wait("it is said", &format!("!{trouble}.hidden && {trouble}.innerText.includes('busy')"));
    assert!(browser.run(&format!("return {trouble}.innerText")).as_str().unwrap().contains("again in"));
    browser.wait("it is over", &format!("{trouble}.hidden"));
    fake.be_silent(true);
    browser.wait(
        "it is said",
        &format!("!{trouble}.hidden && {trouble}.innerText.includes('cannot be reached')"),
    );
    // What is known stays, and can be read.
    assert!(
        browser
            .run("return document.querySelector('#map-tells').textContent")
            .as_str()
            .unwrap()
            .starts_with("2 endpoints")
    );
    fake.be_silent(false);
    // Whoever does not want to wait asks at once.
    browser.run(&format!("{trouble}.querySelector('button').focus()"));
    browser.press(&ENTER.to_string());
    browser.wait("it is over", &format!("{trouble}.hidden"));

    // Nobody looks: another tab is in front.
    browser.in_another_tab(|| {
        browser.run_to_end("setTimeout(done, 2500)");
        let before = fake.asked().len();
        browser.run_to_end("setTimeout(done, 5000)");
        assert_eq!(fake.asked().len(), before, "nobody looks");
    });
    fake.wait_for_more(2);

    // A token that is good no more is asked for again.
    fake.refuse(1, 401, 0);
    browser.wait("the token is asked for", "document.activeElement?.id === 'token'");
    browser.press(&format!("wrong{ENTER}"));
    browser.wait(
        "it is not the one",
        "document.querySelector('.token-form .error').innerText.includes('does not know')",
    );
    assert_eq!(browser.run("return [location.href.includes('secret'), sessionStorage.length, JSON.stringify(localStorage).includes('secret')]"), json!([false, 0, false]));
}

/// Whoever may only look finds nothing to press.
#[test]
fn what_the_role_does_not_allow_is_not_offered() {
    let Some(mut world) = World::new() else { return };
    let space = space(&mut world);
    let offered = |role| {
        let fake = Fake::start(&space, Tales { role, ..few(&["web1", "web2"], "web") });
        let browser = Browser::start(&world, &space);
        sign_in(&browser, ORIGIN, "secret");
        browser.press("h");
        browser.wait("the host", "document.querySelector('#host-title')");
        let buttons = "return [...document.querySelectorAll('main button')].filter(it => it.checkVisibility()).map(it => it.textContent).join()";
        let of_host = browser.run(buttons).as_str().unwrap().to_owned();
        browser.run("location.hash = '#/policy?part=staged'");
        browser.wait("staged", "document.querySelector('#staged-title')");
        let of_staged = browser.run("return document.querySelector('#stage-path').checkVisibility()") == true;
        if role == "administer" {
            // Nothing is done without being asked twice.
            browser.press("h");
            browser.wait("the host", "document.querySelector('#host-title')");
            browser.press_until(TAB, 30, "document.activeElement.textContent.startsWith('Reload')");
            browser.press(&ENTER.to_string());
            browser.wait(
                "it is asked",
                "document.querySelector('#confirm').open && document.activeElement.textContent === 'Cancel'",
            );
            browser.press(&ENTER.to_string());
            browser.wait("it is left", "!document.querySelector('#confirm').open");
            assert!(!fake.asked().iter().any(|(_, target)| target.contains("reload")));
            browser.press_until(TAB, 30, "document.activeElement.textContent.startsWith('Reload')");
            browser.press(&format!("{ENTER}"));
            browser.wait("it is asked", "document.querySelector('#confirm').open");
            browser.press(&format!("{TAB}{ENTER}"));
            browser.wait(
                "it is done",
                "document.querySelector('.outcome-text').innerText.includes('in force as epoch 2')",
            );
            assert!(fake.asked().iter().any(|(_, target)| target.contains("reload")));
        }
        assert_eq!(browser.complaints(), [""; 0]);
        (of_host, of_staged)
    };
    assert_eq!(offered("read"), (String::new(), false));
    assert_eq!(offered("operate"), ("Forget learned MACs…,End all flows…".to_owned(), false));
    assert_eq!(
        offered("administer"),
        ("Reload the configuration…,Forget learned MACs…,End all flows…".to_owned(), true)
    );
}
