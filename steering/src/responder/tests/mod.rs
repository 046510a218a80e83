//! Every statement of RFC 826, 1027, 4389, 4861, 5227, 6980 and 9161 that the responder keeps, on frames from
//! an encoder of its own.

mod arp;
mod frames;
mod host;
mod nd;
mod noise;

use std::{collections::BTreeMap, net::IpAddr};

use eastgate_wire::{Addr, EndpointId, Location, MacAddr, PortId, View, Vni, VtepAddr};

use super::*;

const A: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x0a]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x0b]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x01]);
const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x77]);
const STRANGER: MacAddr = MacAddr([2, 0, 0, 0, 9, 9]);
const VNI: Vni = Vni::from_wire([0, 0x13, 0x88]);
const PROXY: MacAddr = MacAddr([0xe2, 0x67, 0x77, 0, 0x13, 0x88]);

const PORT_A: Location = Location::Local(PortId(1));
const PORT_B: Location = Location::Local(PortId(2));
const PORT_GUEST: Location = Location::Local(PortId(3));

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn vtep(last: u8) -> Location {
    Location::Remote(VtepAddr(IpAddr::from([192, 0, 2, last])))
}

/// A and B at ports of this host, a router behind a VTEP, and a host that nobody configured.
struct World {
    bindings: BTreeMap<Addr, Binding>,
    /// Traffic with this endpoint does not go through the appliance.
    unsteered: Option<EndpointId>,
}

impl World {
    fn new() -> Self {
        let hosts = [
            (A, Some(0), PORT_A, false, ["10.1.0.10", "fd00::10"]),
            (B, Some(1), PORT_B, false, ["10.1.0.11", "fd00::11"]),
            (ROUTER, Some(2), vtep(1), true, ["10.1.0.1", "fd00::1"]),
            (GUEST, None, PORT_GUEST, false, ["10.1.0.77", "fd00::77"]),
        ];
        let mut bindings = BTreeMap::new();
        for (mac, endpoint, at, router, addresses) in hosts {
            for address in addresses {
                let endpoint = endpoint.map(EndpointId);
                bindings.insert(addr(address), Binding { mac, endpoint, at, router });
            }
        }
        Self { bindings, unsteered: None }
    }

    fn answer(&self, frame: &[u8], asker: &Asker<'_>, mode: &Mode) -> (Answer, Vec<u8>) {
        let view = View::parse(frame).unwrap();
        let mut reply = b"left over".to_vec();
        let answer = answer(frame, &view, asker, self, mode, &mut reply);
        (answer, reply)
    }
}

impl Bindings for World {
    fn by_address(&self, address: Addr) -> Option<Binding> {
        self.bindings.get(&address).copied()
    }

    fn steered(&self, asker: &Asker<'_>, target: &Binding) -> bool {
        let apart = |endpoint: Option<EndpointId>| endpoint.is_some() && endpoint == self.unsteered;
        !apart(target.endpoint) && !apart(asker.identity.endpoint)
    }
}

const SUPPRESS: Mode = Mode { answers: Answers::Suppress, unknown: Unknown::Flood, hub: false };
const OFF: Mode = Mode { answers: Answers::Off, ..SUPPRESS };
const PROXIED: Mode = Mode { answers: Answers::Proxy { mac: PROXY }, ..SUPPRESS };
const CLOSED: Mode = Mode { unknown: Unknown::Drop, ..SUPPRESS };
const CLOSED_PROXY: Mode = Mode { unknown: Unknown::Drop, ..PROXIED };
const HUB: Mode = Mode { hub: true, ..SUPPRESS };

/// Leaks a few bytes a test, which keeps the tables of cases free of bindings.
fn addresses(list: &[&str]) -> &'static [Addr] {
    list.iter().map(|text| addr(text)).collect::<Vec<_>>().leak()
}

fn a() -> Asker<'static> {
    let identity = Identity {
        endpoint: Some(EndpointId(0)),
        mac: A,
        addresses: addresses(&["10.1.0.10", "fd00::10"]),
        allowed: &[],
    };
    Asker { origin: PORT_A, identity, port_security: true }
}

fn b() -> Asker<'static> {
    let identity = Identity {
        endpoint: Some(EndpointId(1)),
        mac: B,
        addresses: addresses(&["10.1.0.11", "fd00::11"]),
        allowed: &[],
    };
    Asker { origin: PORT_B, identity, port_security: true }
}

/// A port without port security, whose host nobody configured.
fn stranger() -> Asker<'static> {
    Asker { origin: Location::Local(PortId(9)), identity: Identity::default(), port_security: false }
}

fn router() -> Asker<'static> {
    let identity = Identity {
        endpoint: Some(EndpointId(2)),
        mac: ROUTER,
        addresses: addresses(&["10.1.0.1", "fd00::1"]),
        allowed: &[],
    };
    Asker { origin: vtep(1), identity, port_security: true }
}

fn remote_stranger() -> Asker<'static> {
    Asker { origin: vtep(2), ..stranger() }
}

/// One row of a table.
struct Case {
    what: &'static str,
    frame: Vec<u8>,
    asker: Asker<'static>,
    mode: Mode,
    wants: Answer,
    reply: Vec<u8>,
}

fn check(world: &World, cases: Vec<Case>) {
    for case in cases {
        let (answer, reply) = world.answer(&case.frame, &case.asker, &case.mode);
        assert_eq!(answer, case.wants, "{}", case.what);
        assert_eq!(reply, case.reply, "{}: the reply", case.what);
    }
}

fn case(what: &'static str, frame: Vec<u8>, asker: Asker<'static>, mode: Mode, wants: Answer) -> Case {
    Case { what, frame, asker, mode, wants, reply: Vec::new() }
}

impl Case {
    fn saying(self, reply: Vec<u8>) -> Self {
        Self { reply, ..self }
    }
}

fn announce(address: &str, mac: MacAddr, onward: Onward) -> Answer {
    Answer::Announce { address: Some(addr(address)), mac, onward }
}

fn conflict(world: &World, address: &str, claimant: MacAddr, reply: bool, tell_owner: bool) -> Answer {
    let address = addr(address);
    let owner = world.by_address(address).unwrap();
    Answer::Conflict(Conflict { address, owner, claimant, reply, tell_owner })
}

#[test]
fn the_proxy_mac_of_the_tests_is_the_networks() {
    assert_eq!(crate::proxy_mac(VNI), PROXY);
}

#[test]
fn an_identity_owns_what_it_is_configured_with() {
    let allowed = [
        AllowedPair { mac: None, network: addr("10.2.0.0"), prefix_len: 96 + 16 },
        AllowedPair { mac: Some(STRANGER), network: addr("10.3.0.9"), prefix_len: 128 },
    ];
    let identity = Identity { allowed: &allowed, ..a().identity };
    assert!(identity.owns(A, addr("10.1.0.10")) && identity.owns(A, addr("fd00::10")));
    assert!(identity.owns(A, addr("fe80::ff:fe00:10a")), "the link-local address of its MAC");
    assert!(identity.owns(A, addr("10.2.200.1")) && identity.owns(STRANGER, addr("10.3.0.9")));
    for (mac, address) in
        [(A, "10.1.0.11"), (B, "10.1.0.10"), (STRANGER, "10.1.0.10"), (A, "10.3.0.9"), (STRANGER, "10.2.0.1")]
    {
        assert!(!identity.owns(mac, addr(address)), "{mac} {address}");
    }
    assert!(!identity.owns(B, addr("fe80::ff:fe00:10b")));
}

/// A host that only ever announces what is known stays learned; one that lies does not get in.
#[test]
fn what_is_dropped_as_known_is_believed() {
    let world = World::new();
    let believed =
        |frame: frames::Arp, asker, mode| world.answer(&frame.bytes(), &asker, &mode).0.is_believed();
    let guest = Asker { origin: PORT_GUEST, ..stranger() };
    assert!(believed(frames::Arp::request(GUEST, "10.1.0.77", "10.1.0.77"), guest, SUPPRESS));
    assert!(believed(frames::Arp::request(GUEST, "10.1.0.77", "10.1.0.99"), guest, CLOSED));
    assert!(believed(frames::Arp::request(GUEST, "10.1.0.77", "10.1.0.11"), guest, SUPPRESS));
    assert!(!believed(frames::Arp::request(GUEST, "10.1.0.11", "10.1.0.11"), guest, SUPPRESS), "a conflict");
    assert!(!believed(frames::Arp::request(A, "10.1.0.11", "10.1.0.11"), a(), SUPPRESS), "forged");
}
