//! Addresses that are learned: who may have them, on which hosts they hold, and who cannot take, flood or race for them.

use std::time::Duration;

use eastgate_config::Effective;
use eastgate_testkit::parse;
use eastgate_wire::DropReason;
use etherparse::PacketBuilder;

use super::{net::Net, scene::*};
use crate::pipeline::snoop::{LearningEvent, LearningNews};

const SERVER: u8 = 2;

/// Databases have no addresses but those that are learned; the server is at alpha, with db2.
fn text(network: &str) -> String {
    let mut text = scene(network);
    for db in [DB1, DB2, DB3] {
        text = text.replace(&format!("addresses = [\"10.1.0.{db}\", \"fd00:1::{db:x}\"]\n"), "");
    }
    text + &endpoint("acme", "server", "alpha", SERVER, "db", "dhcp_server = true")
}

/// A site whose hosts put in force what they learn.
struct Learning {
    net: Net,
    effective: std::collections::BTreeMap<String, Effective>,
}

impl Learning {
    fn new(text: &str) -> Self {
        let config = parse(text);
        let effective = |host: &&str| {
            (host.to_string(), Effective::new(config.clone(), <_>::default(), <_>::default(), None))
        };
        Self { net: Net::of(&config), effective: ["alpha", "beta", "gamma"].iter().map(effective).collect() }
    }

    /// Each host puts in force what it has heard, and tells the others.
    fn settle(&mut self) -> Vec<(String, LearningNews)> {
        let mut all = Vec::new();
        for _ in 0..3 {
            for (host, before) in &mut self.effective {
                let now = self.net.now();
                let news = self.net.shared(host).take_snooped(now);
                let learned = self.net.snapshot(host).learned_addresses();
                if learned != *before.learned() {
                    *before = Effective::new(before.written().clone(), learned, <_>::default(), Some(before));
                    self.net.install_on(host, before.config());
                    self.net.shared(host).follow_learned(now);
                }
                self.net.shared(host).tell_of(&news);
                all.extend(news.into_iter().map(|news| (host.clone(), news)));
            }
            let _ = self.net.announcements();
        }
        all
    }

    fn addresses(&self, host: &str, endpoint: &str) -> Vec<String> {
        let snapshot = self.net.snapshot(host);
        let network = snapshot.networks()[0];
        let found = network.endpoints.iter().find(|it| *it.name == *endpoint).unwrap();
        found.holdings().addresses.iter().map(ToString::to_string).collect()
    }

    fn on_all(&self, endpoint: &str) -> Vec<Vec<String>> {
        ["alpha", "beta", "gamma"].map(|host| self.addresses(host, endpoint)).to_vec()
    }
}

fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

/// A DHCP message of an endpoint: `options` behind the cookie.
fn dhcp(from: u8, to: [u8; 6], op: u8, chaddr: u8, xid: u32, yiaddr: u8, options: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 240];
    (body[0], body[1], body[2]) = (op, 1, 6);
    body[4..8].copy_from_slice(&xid.to_be_bytes());
    if yiaddr != 0 {
        let at = if op == 2 { 16 } else { 12 };
        body[at..at + 4].copy_from_slice(&[10, 1, 0, yiaddr]);
    }
    body[28..34].copy_from_slice(&mac(chaddr));
    body[236..240].copy_from_slice(&[99, 130, 83, 99]);
    body.extend_from_slice(options);
    body.push(255);
    let (source, destination, ports) = match (op, options) {
        (1, [53, 1, 7, ..]) => ([10, 1, 0, yiaddr], [10, 1, 0, SERVER], (68, 67)),
        (1, _) => ([0; 4], [255; 4], (68, 67)),
        _ if to == [0xff; 6] => ([10, 1, 0, from], [255; 4], (67, 68)),
        _ => ([10, 1, 0, from], [10, 1, 0, yiaddr], (67, 68)),
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(from), to)
        .ipv4(source, destination, 64)
        .udp(ports.0, ports.1)
        .write(&mut frame, &body)
        .unwrap();
    frame
}

fn request(client: u8, xid: u32) -> Vec<u8> {
    dhcp(client, [0xff; 6], 1, client, xid, 0, &[53, 1, 3])
}

fn ack(client: u8, xid: u32, address: u8, seconds: u32) -> Vec<u8> {
    let mut options = vec![53, 1, 5, 51, 4];
    options.extend_from_slice(&seconds.to_be_bytes());
    dhcp(SERVER, mac(client), 2, client, xid, address, &options)
}

/// ARP by an endpoint: an announcement where both addresses are the same, a probe where it has none.
fn arp(from: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &mac(from), &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.extend_from_slice(&mac(from));
    frame.extend_from_slice(&sender);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target);
    frame
}

fn announce(from: u8, address: u8) -> Vec<u8> {
    arp(from, [10, 1, 0, address], [10, 1, 0, address])
}

/// UDP 53 from an endpoint with the address to another.
fn packet(from: (u8, u8), to: (u8, u8)) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(from.0), mac(to.0))
        .ipv4([10, 1, 0, from.1], [10, 1, 0, to.1], 64)
        .udp(4000 + u16::from(from.1), 53)
        .write(&mut frame, b"x")
        .unwrap();
    frame
}

/// A SYN to a database: `web` may send it to `group:db` alone.
fn syn(from: u8, to: (u8, u8)) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(from), mac(to.0))
        .ipv4([10, 1, 0, from], [10, 1, 0, to.1], 64)
        .tcp(4000 + u16::from(from), 5432, 1, 1000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

fn refused(news: &[(String, LearningNews)]) -> Vec<String> {
    let refused = news.iter().filter_map(|(host, news)| match &news.what {
        LearningEvent::Refused(why) => Some(format!("{} at {host}: {why}", news.endpoint)),
        _ => None,
    });
    refused.collect()
}

#[test]
fn a_lease_holds_on_every_host() {
    let mut site = Learning::new(&text("learn = \"dhcp\""));
    assert_eq!(site.net.send("web1", syn(WEB1, (DB1, 77))), "egress-denied at alpha", "nobody's yet");
    assert_eq!(site.net.send("db1", request(DB1, 7)), "server", "a client asks");
    assert_eq!(site.net.send("server", ack(DB1, 7, 77, 600)), "db1", "and is answered");
    let spoofed = site.net.send("db1", packet((DB1, 77), (WEB1, 11)));
    assert_eq!(spoofed, "ip-spoofed at beta", "what is not in force yet is not its own");
    let news = site.settle();
    assert!(refused(&news).is_empty(), "{news:?}");
    assert_eq!(
        site.on_all("db1"),
        vec![["10.1.0.77"]; 3],
        "its host, the server's, and one that heard of it"
    );
    // The groups know it wherever the other end is.
    for web in ["web1", "web2", "web3"] {
        let number = web[3..].parse::<u8>().unwrap() + 10;
        assert_eq!(site.net.send(web, syn(number, (DB1, 77))), "db1", "{web}");
    }
    // It ends with its time, and a renewal gives it more.
    site.net.pass(Duration::from_secs(400));
    assert_eq!(site.net.send("db1", request(DB1, 8)), "server");
    assert_eq!(site.net.send("server", ack(DB1, 8, 77, 600)), "db1");
    site.settle();
    let expire =
        |site: &Learning, host: &str| site.net.shared(host).expire_learned(site.net.now(), |_, _| true);
    site.net.pass(Duration::from_secs(400));
    assert!(expire(&site, "beta").is_empty(), "it was renewed");
    site.net.pass(Duration::from_secs(201));
    assert_eq!(expire(&site, "beta").len(), 1, "also though it is in use");
    site.settle();
    assert!(site.addresses("beta", "db1").is_empty());
}

#[test]
fn a_lease_is_given_back_declined_and_refused() {
    for (what, end) in [
        ("release", dhcp(DB1, mac(SERVER), 1, DB1, 9, 77, &[53, 1, 7])),
        ("decline", dhcp(DB1, [0xff; 6], 1, DB1, 9, 0, &[53, 1, 4, 50, 4, 10, 1, 0, 77])),
    ] {
        let mut site = leased();
        assert_eq!(site.net.send("db1", end), "server", "{what}");
        site.settle();
        assert!(site.addresses("beta", "db1").is_empty(), "{what}");
        assert!(site.addresses("alpha", "db1").is_empty(), "{what} at the server's host");
    }
    let mut site = leased();
    let nak = dhcp(SERVER, [0xff; 6], 2, DB1, 10, 0, &[53, 1, 6]);
    let _ = site.net.send("server", &nak);
    site.settle();
    assert_eq!(site.addresses("beta", "db1"), ["10.1.0.77"], "nobody had asked");
    assert_eq!(site.net.send("db1", request(DB1, 10)), "server");
    let _ = site.net.send("server", &nak);
    site.settle();
    assert!(site.addresses("beta", "db1").is_empty(), "refused");
}

fn leased() -> Learning {
    let mut site = Learning::new(&text("learn = \"dhcp\""));
    assert_eq!(site.net.send("db1", request(DB1, 7)), "server");
    assert_eq!(site.net.send("server", ack(DB1, 7, 77, 600)), "db1");
    site.settle();
    assert_eq!(site.addresses("beta", "db1"), ["10.1.0.77"]);
    site
}

/// The server and web1's client, which had the lease before, are on one host, and the next client on another: what that one knows
/// of the old lease it has from the first host, which tells nobody when it ends.
#[test]
fn a_lease_that_has_ended_on_its_host_is_somebody_elses_within_moments() {
    let one_host = text("learn = \"dhcp\"").replace(
        "endpoint.db1]\nnetwork = \"app\"\nhost = \"beta\"",
        "endpoint.db1]\nnetwork = \"app\"\nhost = \"alpha\"",
    );
    let tick = |site: &mut Learning| {
        site.net.pass(Duration::from_secs(1));
        let now = site.net.now();
        let expire = |host: &str| site.net.shared(host).expire_learned(now, |_, _| false);
        let news = ["alpha", "beta", "gamma"].map(|host| (host, expire(host)));
        site.settle();
        news.iter().for_each(|(host, news)| site.net.shared(host).tell_of(news));
        site.settle();
    };
    for released in [true, false] {
        let mut site = Learning::new(&one_host);
        assert_eq!(site.net.send("db1", request(DB1, 7)), "server");
        assert_eq!(site.net.send("server", ack(DB1, 7, 77, 600)), "db1");
        site.settle();
        assert_eq!(site.on_all("db1"), vec![["10.1.0.77"]; 3]);
        if released {
            assert_eq!(site.net.send("db1", dhcp(DB1, mac(SERVER), 1, DB1, 9, 77, &[53, 1, 7])), "server");
            site.settle();
            assert!(site.addresses("alpha", "db1").is_empty());
            assert_eq!(site.addresses("gamma", "db1"), ["10.1.0.77"], "nobody has told it");
        }
        assert_eq!(site.net.send("db3", request(DB3, 8)), "server");
        assert_eq!(site.net.send("server", ack(DB3, 8, 77, 600)), "db3");
        site.settle();
        assert!(site.addresses("gamma", "db3").is_empty(), "its holder's host is asked first");
        (0..4).for_each(|_| tick(&mut site));
        if released {
            assert_eq!(site.on_all("db3"), vec![["10.1.0.77"]; 3]);
            assert!(site.on_all("db1").concat().is_empty());
        } else {
            // A server that has forgotten its lease takes it from nobody elsewhere.
            assert_eq!(site.on_all("db1"), vec![["10.1.0.77"]; 3]);
            assert!(site.on_all("db3").concat().is_empty());
            // It is asked again while the lease lasts, and has it when the other one has given it back.
            assert_eq!(site.net.send("db1", dhcp(DB1, mac(SERVER), 1, DB1, 9, 77, &[53, 1, 7])), "server");
            (0..40).for_each(|_| tick(&mut site));
            assert_eq!(site.on_all("db3"), vec![["10.1.0.77"]; 3]);
        }
    }
}

#[test]
fn an_endpoint_keeps_nobody_busy_with_ever_new_addresses() {
    let mut site = Learning::new(&text("learn = \"any\"\nlearn_limit = 3"));
    let released = |site: &mut Learning, address| {
        let _ = site.net.send("db1", dhcp(DB1, mac(SERVER), 1, DB1, 9, address, &[53, 1, 7]));
    };
    // What it has by its own word it does not give back by a word to a server.
    let _ = site.net.send("db1", announce(DB1, 77));
    site.settle();
    released(&mut site, 77);
    site.settle();
    assert_eq!(site.on_all("db1"), vec![["10.1.0.77"]; 3]);
    // Leases come and go by the server's word and its own: as many at once as it may have, and then one a second.
    let mut site = Learning::new(&text("learn = \"dhcp\"\nlearn_limit = 3"));
    let mut changes = 0;
    for (round, xid) in (0..50u8).zip(100..) {
        let address = 100 + round % 2;
        assert_eq!(site.net.send("db1", request(DB1, xid)), "server");
        let _ = site.net.send("server", ack(DB1, xid, address, 600));
        let news = site.settle();
        changes += news
            .iter()
            .filter(|(host, it)| host == "beta" && matches!(it.what, LearningEvent::Learned { .. }))
            .count();
        released(&mut site, address);
        site.settle();
        site.net.pass(Duration::from_millis(100));
    }
    assert!((3..=3 + 5).contains(&changes), "{changes} in five seconds");
    // A lease that came too soon is not lost.
    assert_eq!(site.net.send("db1", request(DB1, 999)), "server");
    assert_eq!(site.net.send("server", ack(DB1, 999, 120, 600)), "db1");
    for _ in 0..3 {
        site.settle();
        site.net.pass(Duration::from_secs(1));
    }
    assert!(site.addresses("beta", "db1").contains(&"10.1.0.120".to_owned()));
}

#[test]
fn only_a_server_that_was_asked_leases() {
    let mut site = Learning::new(&text("learn = \"dhcp\""));
    // Another endpoint plays the server.
    let mut forged = ack(DB1, 7, 77, 600);
    forged[6..12].copy_from_slice(&mac(WEB2));
    assert_eq!(site.net.send("db1", request(DB1, 7)), "server");
    assert_eq!(site.net.send("web2", &forged), "ip-spoofed at beta");
    let own = dhcp(WEB2, mac(DB1), 2, DB1, 7, 77, &[53, 1, 5, 51, 4, 0, 0, 2, 0]);
    assert_eq!(site.net.send("web2", own), "dhcp-server-guard at beta");
    // The server answers what nobody asked, or what somebody asked in another's name.
    assert_eq!(site.net.send("server", ack(DB1, 8, 78, 600)), "db1");
    let in_its_name = dhcp(WEB2, [0xff; 6], 1, DB1, 9, 0, &[53, 1, 3]);
    assert_eq!(site.net.send("web2", in_its_name), "server");
    assert_eq!(site.net.send("server", ack(DB1, 9, 79, 600)), "db1");
    site.settle();
    assert!(site.on_all("db1").concat().is_empty());
    // What the endpoint says itself counts for nothing.
    assert_eq!(site.net.send("db1", announce(DB1, 77)), "arp-spoofed at beta");
    assert_eq!(site.net.send("db1", packet((DB1, 77), (WEB1, 11))), "ip-spoofed at beta");
    site.settle();
    assert!(site.on_all("db1").concat().is_empty());
}

#[test]
fn a_probe_teaches_no_other_host_what_its_senders_own_does_not_learn() {
    let mut site = Learning::new(&text("learn = \"dhcp\""));
    let to_all = arp(DB1, [0; 4], [10, 1, 0, 77]);
    let mut to_one = to_all.clone();
    to_one[..6].copy_from_slice(&mac(DB2));
    for _ in 0..2 {
        assert_eq!(site.net.send("db1", &to_one), "db2", "it is passed on to who might object");
        let _ = site.net.send("db1", &to_all);
        site.settle();
        assert!(site.on_all("db1").concat().is_empty(), "{:?}", site.on_all("db1"));
    }
}

#[test]
fn what_was_learned_on_wider_terms_ends_with_them() {
    let any = text("learn = \"any\"");
    let mut site = Learning::new(&any);
    let _ = site.net.send("db1", announce(DB1, 77));
    site.settle();
    assert_eq!(site.on_all("db1"), [["10.1.0.77"]; 3]);
    // On its own host: the others take that one's word until it is not given any more.
    let stricter = parse(&any.replace("learn = \"any\"", "learn = \"dhcp\""));
    for (host, before) in &mut site.effective {
        *before = Effective::new(stricter.clone(), before.learned().clone(), <_>::default(), None);
        site.net.install_on(host, before.config());
        let now = site.net.now();
        site.net.shared(host).follow_learned(now);
    }
    site.settle();
    assert!(site.addresses("beta", "db1").is_empty(), "{:?}", site.on_all("db1"));
}

#[test]
fn no_lease_is_of_somebody_elses_address() {
    let mut site = Learning::new(&text("learn = \"dhcp\"\nlearn_except = [\"10.1.0.1\"]"));
    let mut xid = 100;
    for address in [11, SERVER, 1, 0, 255] {
        xid += 1;
        assert_eq!(site.net.send("db1", request(DB1, xid)), "server");
        let _ = site.net.send("server", ack(DB1, xid, address, 600));
    }
    let news = site.settle();
    assert!(site.on_all("db1").concat().is_empty());
    assert!(refused(&news).iter().any(|why| why == "db1 at beta: it is configured"), "{news:?}");
    // A server that leases an address again takes it from whom it was leased to before, on the same host.
    let one_host = text("learn = \"dhcp\"").replace(
        "endpoint.db1]\nnetwork = \"app\"\nhost = \"beta\"",
        "endpoint.db1]\nnetwork = \"app\"\nhost = \"alpha\"",
    );
    let mut site = Learning::new(&one_host);
    for client in [DB1, DB2] {
        let name = format!("db{}", client - 20);
        assert_eq!(site.net.send(&name, request(client, 200)), "server");
        assert_eq!(site.net.send("server", ack(client, 200, 77, 600)), name.as_str());
        site.settle();
    }
    assert_eq!(site.on_all("db2"), vec![["10.1.0.77"]; 3]);
    assert!(site.on_all("db1").concat().is_empty());
}

#[test]
fn who_comes_first_has_it() {
    let mut site = Learning::new(&text("learn = \"nd\""));
    // A probe is as good as an announcement, and before it.
    let _ = site.net.send("db1", arp(DB1, [0; 4], [10, 1, 0, 77]));
    site.settle();
    assert_eq!(site.on_all("db1"), vec![["10.1.0.77"]; 3]);
    assert_eq!(site.net.send("db1", packet((DB1, 77), (WEB1, 11))), "egress-denied at beta", "admitted");
    site.net.pass(Duration::from_secs(10));
    for (thief, number, host) in [("db2", DB2, "alpha"), ("db3", DB3, "gamma")] {
        for frame in [announce(number, 77), arp(number, [0; 4], [10, 1, 0, 77])] {
            let fate = site.net.send(thief, frame);
            assert!(!fate.drops.is_empty() || fate.deliveries.is_empty(), "{fate:?}");
        }
        assert_eq!(
            site.net.send(thief, packet((number, 77), (WEB1, 11))),
            format!("ip-spoofed at {host}").as_str()
        );
        site.settle();
        assert_eq!(site.on_all("db1"), vec![["10.1.0.77"]; 3], "{thief} does not get it");
        assert!(site.on_all(thief).concat().is_empty());
    }
    // Packets say nothing here.
    let _ = site.net.send("db2", packet((DB2, 78), (WEB1, 11)));
    site.settle();
    assert!(site.on_all("db2").concat().is_empty());
}

#[test]
fn a_flood_of_addresses_is_the_flooders_own_loss() {
    let mut site = Learning::new(&text("learn = \"any\"\nlearn_limit = 4"));
    assert_eq!(
        site.net.send("db2", packet((DB2, 200), (WEB1, 11))),
        "unlearned at alpha",
        "the first packet"
    );
    for address in 30..190 {
        let _ = site.net.send("db1", packet((DB1, address), (WEB1, 11)));
        let _ = site.net.send("db1", announce(DB1, address));
    }
    let news = site.settle();
    assert_eq!(site.addresses("beta", "db1").len(), 4);
    assert!(
        refused(&news).iter().all(|why| why.ends_with("the endpoint has as many as `learn_limit`")),
        "{news:?}"
    );
    assert_eq!(site.on_all("db2"), vec![["10.1.0.200"]; 3], "another is learned all the same");
    let first = site.addresses("beta", "db1");
    for address in 30..190 {
        let _ = site.net.send("db1", announce(DB1, address));
    }
    site.settle();
    assert_eq!(site.addresses("beta", "db1"), first, "and what it has stays");
    let unlearned = site.net.drops("beta").into_iter().find(|row| row.reason == DropReason::Unlearned);
    assert!(unlearned.is_some_and(|row| row.frames > 4), "counted under a reason of its own");
}

#[test]
fn two_at_once_on_two_hosts_are_both_refused_and_then_one_is_first() {
    let mut site = Learning::new(&text("learn = \"nd\"\nunknown_neighbors = \"drop\""));
    let _ = site.net.send("db1", announce(DB1, 77));
    let _ = site.net.send("db2", announce(DB2, 77));
    site.settle();
    let has = |site: &Learning, endpoint: &str| !site.on_all(endpoint).concat().is_empty();
    assert!(!(has(&site, "db1") && has(&site, "db2")), "never both");
    site.net.pass(Duration::from_secs(5));
    let _ = site.net.send("db1", announce(DB1, 77));
    site.settle();
    assert_eq!(site.on_all("db1"), vec![["10.1.0.77"]; 3]);
    assert!(!has(&site, "db2"));
}

#[test]
fn a_locked_endpoint_has_its_first_address() {
    let mut site = Learning::new(&text("learn = \"any\"\nlearn_lock = true"));
    let _ = site.net.send("db1", packet((DB1, 77), (WEB1, 11)));
    site.settle();
    let _ = site.net.send("db1", packet((DB1, 78), (WEB1, 11)));
    let news = site.settle();
    assert_eq!(site.on_all("db1"), vec![["10.1.0.77"]; 3]);
    assert!(refused(&news).iter().any(|why| why.contains("locked")), "{news:?}");
    site.net.pass(Duration::from_secs(10_000_000));
    assert!(site.net.shared("beta").expire_learned(site.net.now(), |_, _| false).is_empty());
    let snapshot = site.net.snapshot("beta");
    let network = snapshot.networks()[0];
    let db1 = network.endpoints.iter().find(|it| &*it.name == "db1").unwrap();
    assert_eq!(site.net.shared("beta").forget_learned_at(network, db1).len(), 1, "until its port goes");
}

#[test]
fn what_another_host_says_lasts_as_long_as_it_says_so_and_moves_with_the_endpoint() {
    let plain = text("learn = \"nd\"");
    let mut site = Learning::new(&plain);
    let _ = site.net.send("db1", announce(DB1, 77));
    site.settle();
    site.net.pass(Duration::from_secs(900));
    site.net.shared("beta").tell_learned_again();
    site.settle();
    site.net.pass(Duration::from_secs(900));
    assert!(site.net.shared("gamma").expire_learned(site.net.now(), |_, _| false).is_empty(), "told again");
    // It comes to gamma, which has it already; nothing is heard of it any more.
    let moved = parse(&plain.replace(
        "endpoint.db1]\nnetwork = \"app\"\nhost = \"beta\"",
        "endpoint.db1]\nnetwork = \"app\"\nhost = \"gamma\"",
    ));
    for (host, effective) in &mut site.effective {
        let learned = site.net.snapshot(host).learned_addresses();
        *effective = Effective::new(moved.clone(), learned, <_>::default(), Some(effective));
        site.net.install_on(host, effective.config());
        assert!(site.net.shared(host).follow_learned(site.net.now()).is_empty());
    }
    assert_eq!(site.on_all("db1"), vec![["10.1.0.77"]; 3]);
    assert_eq!(site.net.send("web1", syn(WEB1, (DB1, 77))), "db1", "at once");
    site.net.pass(Duration::from_secs(5000));
    assert!(
        site.net.shared("gamma").expire_learned(site.net.now(), |_, _| false).is_empty(),
        "it is gamma's own now"
    );
    assert_eq!(
        site.net.shared("beta").expire_learned(site.net.now(), |_, _| false).len(),
        1,
        "nobody says so at beta"
    );
}

/// A machine that was an unknown host behind another VTEP becomes an endpoint here: its own MAC is no other one's.
#[test]
fn what_was_heard_of_an_endpoint_before_it_was_one_is_its_own() {
    const OTHER: u8 = 0x55;
    const DB4: u8 = 0x44;
    let db4 = endpoint("acme", "db4", "gamma", DB4, "db", "");
    let of_db4 = format!("addresses = [\"10.1.0.{DB4}\", \"fd00:1::{DB4:x}\"]\n");
    let with = text("learn = \"nd\"\nlearning = true") + &db4.replace(&of_db4, "");
    let own = format!("02:00:00:00:00:{DB3:02x}");
    assert!(with.contains(&own));
    let mut site = Learning::new(&with.replace(&own, "02:00:00:00:00:99"));
    for (number, address) in [(DB3, 77), (OTHER, 78)] {
        let _ = site.net.encap_to("gamma", "beta", VNI, announce(number, address));
    }
    let config = parse(&with);
    for (host, effective) in &mut site.effective {
        *effective = Effective::new(config.clone(), <_>::default(), <_>::default(), None);
        site.net.install_on(host, effective.config());
    }
    let _ = site.net.send("db3", announce(DB3, 78));
    site.settle();
    assert!(site.addresses("gamma", "db3").is_empty(), "an unknown host has it");
    let _ = site.net.send("db3", announce(DB3, 77));
    site.settle();
    assert_eq!(site.addresses("gamma", "db3"), ["10.1.0.77"]);
    assert_eq!(site.net.send("web1", syn(WEB1, (DB3, 77))), "db3");
    assert_eq!(
        site.net.send("db4", announce(DB4, 77)),
        "unlearned at gamma",
        "it is an endpoint's, like any"
    );
    assert_eq!(
        site.net.send("db4", announce(DB4, 78)),
        "arp-spoofed at gamma",
        "an unknown host has it still"
    );
}
