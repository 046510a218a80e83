//! A daemon with 100,000 rules of 10,000 groups: one of them changes beside traffic, and what passes is what the rules in force say.
//!
//! `EASTGATE_GROUPS` says how many groups there are, of ten rules each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fmt::Write as _;

use common::{Requester, Sink, Stream, site::*};
use eastgate_testkit::{RULES_OF_A_GROUP, large_group};

const CHANGES: u16 = 5;
/// A port of web2's that its own group names, and another one each time
const FIRST_PORT: u16 = 20_000;

fn groups() -> usize {
    std::env::var("EASTGATE_GROUPS").ok().and_then(|groups| groups.parse().ok()).unwrap_or(10_000)
}

/// Groups with rules about each other, about prefixes and about everyone; each has a member on the other host.
fn many() -> String {
    let (groups, mut text) = (groups(), String::new());
    for group in 0..groups {
        let [_, a, b, c] = (group as u32).to_be_bytes();
        text += &large_group("acme", group, groups);
        writeln!(
            text,
            "[tenant.acme.endpoint.vm{group}]\nnetwork = \"lan\"\nhost = \"beta\"\nport = \"veth-vm{group}\"\n\
             mac = \"02:00:01:{a:02x}:{b:02x}:{c:02x}\"\naddresses = [\"10.1.{}.{}\"]\ngroups = [\"g{group}\"]",
            128 + group / 250,
            1 + group % 250
        )
        .unwrap();
    }
    text
}

fn own(port: u16) -> String {
    format!("\n[tenant.acme.group.own]\ningress = [{{ proto = \"udp\", ports = {port}, from = \"any\" }}]\n")
}

fn one_of_them_changes(dataplane: &str) {
    let Some(site) = Site::alone(HOSTS_V4) else { return };
    let plain = std::fs::read_to_string(&site.config).unwrap();
    let alpha = site.run_more("alpha", &["--dataplane", dataplane, "--workers", "1"]);
    let sink = Sink::start(&site.web2, udp(12, ALLOWED));
    let stream = Stream::start(&site.web1, udp(11, 4000), udp(12, ALLOWED));
    stream.arrives(&format!("{dataplane}: a stream that goes on"), &sink);
    let (begun, arrived) = (sink.last(), sink.count());
    let mut requester = Requester::new(alpha.socket());

    // All of them come at once.
    let (before, after) = plain.split_at(plain.find("[tenant.acme.endpoint.web2]").unwrap());
    let after = after.replacen("groups = [\"all\"]", "groups = [\"all\", \"own\"]", 1);
    let large = format!("{before}{after}{}", many()).replace("10.1.0.0/24", "10.1.0.0/16");
    site.rewrite(|_| large.clone() + &own(FIRST_PORT));
    let (done, _) = requester.timed("POST /v1/reload");
    let loaded = done["in_force_after"].as_u64().unwrap();
    stream.arrives(&format!("{dataplane}: it goes on with {} rules", groups() * RULES_OF_A_GROUP), &sink);

    // One of them changes again and again: what it allowed is denied, and what it allows passes.
    let mut took = Vec::new();
    for change in 0..CHANGES {
        let [old, new] = [FIRST_PORT + change, FIRST_PORT + change + 1];
        let [old_sink, new_sink] = [old, new].map(|port| Sink::start(&site.web2, udp(12, port)));
        let allowed = Stream::start(&site.web1, udp(11, 5000 + change), udp(12, old));
        allowed.arrives(&format!("{dataplane}: {old} is allowed"), &old_sink);
        let denied = Stream::start(&site.web1, udp(11, 6000 + change), udp(12, new));
        denied.send_more(20);
        assert_eq!(new_sink.count(), 0, "{dataplane}: {new} is denied");
        site.rewrite(|_| large.clone() + &own(new));
        let (done, _) = requester.timed("POST /v1/reload");
        took.push(done["in_force_after"].as_u64().unwrap());
        assert!(allowed.is_cut(&old_sink, 50), "{dataplane}: {old} is denied now");
        denied.arrives(&format!("{dataplane}: {new} is allowed now"), &new_sink);
    }
    stream.arrives(&format!("{dataplane}: the stream goes on"), &sink);
    let (sent, arrived) = (sink.last() - begun, sink.count() - arrived);
    println!(
        "{dataplane}: {} rules in force after {loaded} ms, a change of one of them after {took:?} ms; of {sent} datagrams beside it {arrived} arrived",
        groups() * RULES_OF_A_GROUP,
    );
    // Neither a load nor a change loses what passes before and after it.
    assert!(arrived >= sent, "{dataplane}: {:?}", sink.gaps());
    let memory = &requester.timed("GET /v1/status").0["memory"];
    assert!(memory["policies"].as_u64().unwrap() > 1 << 20, "{memory:#}");
    assert!(alpha.stop().success());
}

#[test]
fn one_of_a_hundred_thousand_rules_changes_beside_traffic_in_the_kernel() {
    one_of_them_changes("ebpf");
}

#[test]
fn one_of_a_hundred_thousand_rules_changes_beside_traffic_in_userspace() {
    one_of_them_changes("userspace");
}
