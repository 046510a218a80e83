//! Policy is apart from placement: in a network of 10,000 endpoints with 100,000 live flows an endpoint comes, one goes, one
//! changes its groups, and nobody else's flows are looked at again.
//!
//! `EASTGATE_PLACEMENT` says how many flows there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{fmt::Write as _, time::Duration};

use common::{Requester, bind_udp, site::*, wait_within};
use serde_json::Value;

const ENDPOINTS: u32 = 10_000;
/// Destination ports that each source port sends to
const PORTS: u16 = 4_000;
const FIRST_PORT: u16 = 10_000;

fn flows() -> u64 {
    std::env::var("EASTGATE_PLACEMENT").ok().and_then(|flows| flows.parse().ok()).unwrap_or(100_000)
}

/// An endpoint on the other host.
fn far(number: u32, groups: &str) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!(
        "[tenant.acme.endpoint.vm{number}]\nnetwork = \"lan\"\nhost = \"beta\"\nport = \"veth-vm{number}\"\n\
         mac = \"02:00:01:{a:02x}:{b:02x}:{c:02x}\"\naddresses = [\"10.1.{}.{}\"]\ngroups = [{groups}]\n",
        128 + number / 250,
        1 + number % 250
    )
}

/// The site's network, with many more endpoints and room for many flows.
fn fill_network(site: &Site, flows: u64) {
    site.rewrite(|text| {
        let limits = format!("flows = {0}\nunreplied = {0}\n", 2 * flows);
        let mut text =
            text.replace("ports = [7000]", "ports = \"1024-65535\"").replace("10.1.0.0/24", "10.1.0.0/16");
        let _ = write!(
            text,
            "\n[limits]\n{limits}\n[tenant.acme.network.lan.limits]\n{limits}endpoint_unreplied = {0}\n\
             [tenant.acme.network.lan.timeouts]\nudp_first = 86400\n\
             [tenant.acme.group.few]\ningress = [{{ proto = \"tcp\", ports = 22, from = \"group:all\" }}]\n",
            2 * flows
        );
        (0..ENDPOINTS).for_each(|number| text += &far(number, "\"all\""));
        text
    });
}

/// Sends a datagram of each of so many flows from web1 to web2.
fn send_all(site: &Site, flows: u64) {
    site.web1.enter(move || {
        for source in 0..flows.div_ceil(u64::from(PORTS)) {
            let socket = bind_udp(udp(11, FIRST_PORT + source as u16));
            for port in 0..PORTS {
                let _ = socket.send_to(b"x", udp(12, FIRST_PORT + port));
                if port % 250 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
    });
}

fn nobody_else_notices(dataplane: &str) {
    let flows = flows();
    let Some(site) = Site::alone(HOSTS_V4) else { return };
    fill_network(&site, flows);
    let alpha = site.run_more("alpha", &["--dataplane", dataplane, "--workers", "1"]);
    let mut requester = Requester::new(alpha.socket());
    assert!(site.web1.ping("10.1.0.12"));
    let total = |requester: &mut Requester| {
        requester.timed("GET /v1/flows?limit=0&proto=17").0["total"].as_u64().unwrap()
    };
    for _ in 0..10 {
        send_all(&site, flows);
        if total(&mut requester) >= flows {
            break;
        }
    }
    assert!(total(&mut requester) >= flows, "{:?}", alpha.drops());

    let punts = |status: &Value| status["punts"]["stale"].as_u64().unwrap_or(0);
    let again = |status: &Value| status["traffic"]["decided_again"].as_u64().unwrap();
    let (before, _) = requester.timed("GET /v1/status");
    let mut took = Vec::new();
    // One comes, one goes, one changes its groups, and back.
    let changes: [(&str, &dyn Fn(String) -> String); 4] = [
        ("comes", &|text| text + &far(ENDPOINTS, "\"all\"")),
        ("goes", &|text| text.replace(&far(7, "\"all\""), "")),
        ("changes", &|text| text.replace(&far(8, "\"all\""), &far(8, "\"all\", \"few\""))),
        ("is back", &|text| text + &far(7, "\"all\"")),
    ];
    for (what, change) in changes {
        site.rewrite(change);
        let (done, time) = requester.timed("POST /v1/reload");
        assert_eq!(
            done["changes"]["endpoints"]
                .as_object()
                .map(|all| all.values().filter(|it| it.as_array().is_some_and(|it| !it.is_empty())).count()),
            Some(1),
            "{done:#}"
        );
        took.push((what, done["in_force_after"].as_u64().unwrap(), time.as_millis()));
    }
    // All that is live goes on as it was.
    send_all(&site, flows);
    let (after, _) = requester.timed("GET /v1/status");
    assert_eq!(again(&after) - again(&before), 0, "flows were decided again");
    assert_eq!(punts(&after) - punts(&before), 0, "packets were punted as stale");
    println!(
        "{dataplane}: {flows} flows, {ENDPOINTS} endpoints; ms until it is in force, and until it is answered: {took:?}"
    );

    // One end of all of them changes: then each is decided again, and none passes as it was.
    let web2 = |text: String| {
        let at = text.find("[tenant.acme.endpoint.web2]").unwrap();
        let groups = at + text[at..].find("groups = [\"all\"]").unwrap();
        format!(
            "{}groups = [\"all\", \"few\"]{}",
            &text[..groups],
            &text[groups + "groups = [\"all\"]".len()..]
        )
    };
    site.rewrite(web2);
    let (_, time) = requester.timed("POST /v1/reload");
    println!("{dataplane}: one end of all flows changes: {} ms", time.as_millis());
    send_all(&site, 1);
    wait_within(Duration::from_secs(20), "they are decided again", || {
        again(&requester.timed("GET /v1/status").0) > again(&after)
    });
    assert!(alpha.stop().success());
}

#[test]
fn nobody_else_notices_in_userspace() {
    nobody_else_notices("userspace");
}

#[test]
fn nobody_else_notices_with_the_fast_path() {
    nobody_else_notices("ebpf");
}
