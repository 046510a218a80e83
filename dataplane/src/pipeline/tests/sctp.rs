//! SCTP on its path: who may begin an association, by which tags it passes, and what it counts for.

use std::time::Duration;

use eastgate_testkit::{
    parse,
    sctp::{chunk, frame, init, packet},
};
use eastgate_wire::Addr;

use super::{net::Net, scene::*};

const CLIENTS: u32 = 0xaaaa;
const SERVERS: u32 = 0xbbbb;
const DATA: u8 = 0;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

/// The scene, in which web servers may reach port 3868 of databases.
fn text(network: &str, more: &str) -> String {
    let groups = format!(
        "[tenant.acme.group.web]\negress = [{{ proto = \"sctp\", to = \"any\" }}]\n\
         [tenant.acme.group.db]\ningress = [{{ proto = \"sctp\", ports = 3868, from = \"any\"{more} }}]\n"
    );
    scene_with(network, &groups)
}

fn between(a: u8, b: u8, ports: (u16, u16), tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mac = |number| [2, 0, 0, 0, 0, number];
    frame([mac(a), mac(b)], [[10, 1, 0, a], [10, 1, 0, b]], &packet(ports, tag, chunks))
}

/// From web1's port to a database, and back
#[derive(Clone, Copy)]
struct Talk {
    to: u8,
    sport: u16,
}

impl Talk {
    fn there(self, tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
        between(WEB1, self.to, (self.sport, 3868), tag, chunks)
    }

    fn back(self, tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
        between(self.to, WEB1, (3868, self.sport), tag, chunks)
    }

    fn init(self) -> Vec<u8> {
        self.there(0, &[init(false, CLIENTS)])
    }

    fn handshake(self, net: &mut Net) {
        let server = format!("db{}", self.to - 20);
        let server = server.as_str();
        assert_eq!(net.send("web1", self.init()), server);
        assert_eq!(net.send(server, self.back(CLIENTS, &[init(true, SERVERS)])), "web1");
        assert_eq!(net.send("web1", self.there(SERVERS, &[chunk(COOKIE_ECHO, 0, &[1; 8])])), server);
        assert_eq!(net.send(server, self.back(CLIENTS, &[chunk(COOKIE_ACK, 0, &[])])), "web1");
    }
}

fn data() -> Vec<u8> {
    chunk(DATA, 3, &[7; 20])
}

#[test]
fn an_association_passes_by_its_tags_where_the_rules_let_it_begin() {
    for (to, server, host) in [(DB1, "db1", "alpha"), (DB2, "db2", "alpha")] {
        let mut net = Net::new(&text("", ""));
        let talk = Talk { to, sport: 4000 };
        // Nothing but an INIT begins one, to where a rule allows it.
        assert_eq!(net.send("web1", talk.there(SERVERS, &[data()])), "not-init at alpha");
        let other = between(WEB1, to, (4000, 3869), 0, &[init(false, CLIENTS)]);
        assert!(net.send("web1", other).to_string().starts_with("ingress-denied"));
        let called = between(to, WEB1, (4000, 3868), 0, &[init(false, CLIENTS)]);
        assert!(net.send(server, called).to_string().starts_with("egress-denied"));
        talk.handshake(&mut net);
        assert_eq!(net.send("web1", talk.there(SERVERS, &[data()])), server);
        assert_eq!(net.send(server, talk.back(CLIENTS, &[data()])), "web1");
        let at = |reason: &str| format!("{reason} at {host}");
        assert_eq!(net.send("web1", talk.there(SERVERS + 1, &[data()])), at("sctp-tag").as_str());
        assert_eq!(net.send("web1", talk.there(SERVERS, &[])), "bad-l4-header at alpha");
        let mut damaged = talk.there(SERVERS, &[chunk(ABORT, 0, &[])]);
        damaged[44] ^= 1;
        assert_eq!(net.send("web1", damaged), "bad-checksum at alpha", "its receiver would not believe it");
        assert_eq!(net.send("web1", talk.there(SERVERS, &[data()])), server);
        assert_eq!(net.send("web1", talk.there(SERVERS, &[chunk(ABORT, 0, &[])])), server);
        let again = talk.there(SERVERS, &[chunk(COOKIE_ECHO, 0, &[1; 8])]);
        assert_eq!(net.send("web1", again), at("sctp-state").as_str(), "the cookie may still be good");
        net.pass(Duration::from_secs(10));
        assert_eq!(net.send("web1", talk.there(SERVERS, &[data()])), "not-init at alpha");
        talk.handshake(&mut net);
    }
}

/// Multi-homing: each pair of addresses is a path, and the rules say of each whether it may be.
#[test]
fn another_path_is_tried_out_where_the_rules_allow_it() {
    let mut net = Net::new(&text("", ""));
    let heartbeat = |kind| chunk(kind, 0, &[0, 1, 0, 8, 1, 2, 3, 4]);
    let talk = Talk { to: DB1, sport: 4000 };
    assert_eq!(net.send("web1", talk.there(SERVERS, &[heartbeat(HEARTBEAT)])), "db1");
    assert_eq!(
        net.send("db1", talk.back(CLIENTS, &[data()])),
        "sctp-tag at beta",
        "not before it is answered"
    );
    assert_eq!(net.send("db1", talk.back(CLIENTS, &[heartbeat(HEARTBEAT_ACK)])), "web1");
    assert_eq!(net.send("db1", talk.back(CLIENTS, &[data()])), "web1");
    // The other end tries out a path by which it may not call.
    let other = Talk { to: DB1, sport: 4001 };
    assert_eq!(net.send("db1", other.back(CLIENTS, &[heartbeat(HEARTBEAT)])), "egress-denied at beta");
}

#[test]
fn a_rule_grants_each_source_so_many_associations() {
    let mut net = Net::new(&text("", ", connections = 1"));
    let (first, second) = (Talk { to: DB1, sport: 4000 }, Talk { to: DB1, sport: 4001 });
    let counted = |net: &Net| {
        let snapshot = net.snapshot("beta");
        let network = snapshot.networks()[0];
        let db1 = network.endpoints.iter().find(|it| &*it.name == "db1").unwrap().id;
        let limit = (0..20).find_map(|number| network.limits.get(number)).unwrap();
        limit.flows(db1, Addr::v4([10, 1, 0, WEB1]))
    };
    first.handshake(&mut net);
    assert_eq!((counted(&net), net.send("web1", second.init()).reached("db1")), (1, false));
    // By a tag that is not the association's, nor by an ABORT that its server passes over, it is over for nobody.
    for (tag, chunks) in [
        (SERVERS + 1, vec![chunk(ABORT, 0, &[])]),
        (SERVERS, vec![chunk(0x3f, 0, &[]), chunk(ABORT, 0, &[])]),
        (SERVERS, vec![chunk(ABORT, 0, &[0, 12, 0, 99])]),
    ] {
        let _ = net.send("web1", first.there(tag, &chunks));
        assert_eq!((counted(&net), net.send("web1", second.init()).reached("db1")), (1, false));
    }
    assert_eq!(net.send("web1", first.there(SERVERS, &[chunk(ABORT, 0, &[])])), "db1");
    assert_eq!(counted(&net), 0);
    second.handshake(&mut net);
}

#[test]
fn a_change_of_policy_and_a_network_without_state_are_as_for_others() {
    let talk = Talk { to: DB1, sport: 4000 };
    let mut net = Net::new(&text("", ""));
    talk.handshake(&mut net);
    net.install(&parse(&text("", "").replace("ports = 3868", "ports = [3868, 9]")));
    assert_eq!(net.send("web1", talk.there(SERVERS, &[data()])), "db1", "it is decided again");
    net.install(&parse(&text("", "").replace("3868", "9")));
    assert_eq!(net.send("web1", talk.there(SERVERS, &[data()])), "policy-changed at beta");
    // Found in mid-stream, from either end
    for server_first in [false, true] {
        let mut net = Net::new(&text("tcp = \"loose\"", ""));
        if server_first {
            assert_eq!(net.send("db1", talk.back(CLIENTS, &[data()])), "web1");
        }
        assert_eq!(net.send("web1", talk.there(SERVERS, &[data()])), "db1");
        assert_eq!(net.send("db1", talk.back(CLIENTS, &[data()])), "web1");
        assert_eq!(net.send("web1", talk.there(SERVERS + 1, &[data()])), "sctp-tag at alpha");
    }
    // Groups that keep no state: each packet by itself
    let stateless = text("", "")
        .replace("\negress", "\nstateful = false\negress")
        .replace("\ningress", "\nstateful = false\ningress");
    let mut net = Net::new(&stateless);
    assert_eq!(net.send("web1", talk.there(SERVERS, &[data()])), "db1");
    assert_eq!(net.send("db1", talk.back(CLIENTS, &[data()])), "egress-denied at beta");
}
