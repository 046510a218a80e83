//! Every statement of RFC 826, 1027, 4389, 4861, 5227, 6980 and 9161 that the responder keeps, on frames from
//! an encoder of its own.

mod arp;
mod frames;
mod host;
mod nd;
mod noise;

use std::{collections::BTreeMap, net::IpAddr};

use eastgate_wire::{Addr, AddressPair, AttachmentId, EndpointId, Location, MacAddr, View, Vni, VtepAddr};

use super::*;

const A: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x0a]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x0b]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x01]);
const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 1, 0x77]);
const UNKNOWN_HOST: MacAddr = MacAddr([2, 0, 0, 0, 9, 9]);
const VNI: Vni = Vni::from_wire([0, 0x13, 0x88]);
const PROXY: MacAddr = MacAddr([0xe2, 0x67, 0x77, 0, 0x13, 0x88]);

const PORT_A: Location = Location::Local(AttachmentId(1));
const PORT_B: Location = Location::Local(AttachmentId(2));
const PORT_GUEST: Location = Location::Local(AttachmentId(3));

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

    fn answer(&self, frame: &[u8], requester: &Requester<'_>, mode: &Mode) -> (Answer, Vec<u8>) {
        let view = View::parse(frame).unwrap();
        let mut reply = b"left over".to_vec();
        let answer = answer(frame, &view, requester, self, mode, &mut reply);
        (answer, reply)
    }
}

impl Bindings for World {
    fn by_address(&self, address: Addr) -> Option<Binding> {
        self.bindings.get(&address).copied()
    }

    fn steered(&self, requester: &Requester<'_>, target: &Binding) -> bool {
        let apart = |endpoint: Option<EndpointId>| endpoint.is_some() && endpoint == self.unsteered;
        !apart(target.endpoint) && !apart(requester.holdings.endpoint)
    }
}

const SUPPRESS: Mode = Mode { answers: Answers::Suppress, unknown: Unknown::Flood, hub: false };
const OFF: Mode = Mode { answers: Answers::Off, ..SUPPRESS };
const PROXIED: Mode = Mode { answers: Answers::Proxy { mac: PROXY }, ..SUPPRESS };
const CLOSED: Mode = Mode { unknown: Unknown::Drop, ..SUPPRESS };
const CLOSED_PROXY: Mode = Mode { unknown: Unknown::Drop, ..PROXIED };
const HUB: Mode = Mode { hub: true, ..SUPPRESS };

/// Leaks a few bytes a test, which keeps the tables of cases free of bindings.
fn holdings(
    endpoint: Option<u32>,
    mac: MacAddr,
    addresses: &[&str],
    pairs: &[(MacAddr, &str, u8)],
) -> &'static Holdings {
    let pair = |(mac, network, len): &(MacAddr, &str, u8)| AddressPair {
        mac: *mac,
        network: addr(network),
        len: *len,
    };
    Box::leak(Box::new(Holdings {
        routes: Vec::new(),
        endpoint: endpoint.map(EndpointId),
        mac,
        addresses: addresses.iter().map(|text| addr(text)).collect(),
        pairs: pairs.iter().map(pair).collect(),
    }))
}

fn requester(origin: Location, holdings: &'static Holdings) -> Requester<'static> {
    let port_security = holdings.endpoint.is_some();
    let ownership = Box::leak(Box::new(Ownership::new([holdings])));
    Requester { origin, holdings, ownership, port_security, behind_eastgate: false }
}

fn a() -> Requester<'static> {
    requester(PORT_A, holdings(Some(0), A, &["10.1.0.10", "fd00::10"], &[]))
}

fn b() -> Requester<'static> {
    requester(PORT_B, holdings(Some(1), B, &["10.1.0.11", "fd00::11"], &[]))
}

/// A port without port security, whose host nobody configured.
fn unknown_host() -> Requester<'static> {
    requester(Location::Local(AttachmentId(9)), holdings(None, MacAddr::ZERO, &[], &[]))
}

fn router() -> Requester<'static> {
    requester(vtep(1), holdings(Some(2), ROUTER, &["10.1.0.1", "fd00::1"], &[]))
}

fn remote_unknown_host() -> Requester<'static> {
    Requester { origin: vtep(2), ..unknown_host() }
}

/// One row of a table.
struct Case {
    what: &'static str,
    frame: Vec<u8>,
    requester: Requester<'static>,
    mode: Mode,
    wants: Answer,
    reply: Vec<u8>,
}

fn check(world: &World, cases: Vec<Case>) {
    for case in cases {
        let (answer, reply) = world.answer(&case.frame, &case.requester, &case.mode);
        assert_eq!(answer, case.wants, "{}", case.what);
        assert_eq!(reply, case.reply, "{}: the reply", case.what);
    }
}

fn case(
    what: &'static str,
    frame: Vec<u8>,
    requester: Requester<'static>,
    mode: Mode,
    wants: Answer,
) -> Case {
    Case { what, frame, requester, mode, wants, reply: Vec::new() }
}

impl Case {
    fn saying(self, reply: Vec<u8>) -> Self {
        Self { reply, ..self }
    }
}

fn announce(address: &str, mac: MacAddr, onward: Onward) -> Answer {
    Answer::Announce { address: Some(addr(address)), mac, onward, news: true }
}

fn repeat(address: &str, mac: MacAddr, onward: Onward) -> Answer {
    Answer::Announce { address: Some(addr(address)), mac, onward, news: false }
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

/// What a question is made of is all that a request for an answer to it has to have.
#[test]
fn a_request_asks_its_question() {
    for [sender, target] in [["10.1.0.10", "10.1.0.11"], ["fd00::10", "fd00::11"]].map(|both| both.map(addr))
    {
        for to_all in [true, false] {
            for names_mac in [true, false] {
                // An ARP request has no part without it.
                let asked = Question { sender, target, to_all, names_mac: names_mac && !sender.is_v4() };
                let mut frame = Vec::new();
                request(&asked, A, B, &mut frame);
                let view = View::parse(&frame).unwrap();
                assert_eq!(question(&frame, &view), Some(asked), "{frame:02x?}");
                assert_eq!((view.src, view.dst == B), (A, !to_all));
            }
        }
    }
}

/// A host that only ever announces what is known stays learned; one that lies does not get in.
#[test]
fn what_is_dropped_as_known_is_believed() {
    let world = World::new();
    let believed =
        |frame: frames::Arp, requester, mode| world.answer(&frame.bytes(), &requester, &mode).0.is_believed();
    let guest = Requester { origin: PORT_GUEST, ..unknown_host() };
    assert!(believed(frames::Arp::request(GUEST, "10.1.0.77", "10.1.0.77"), guest, SUPPRESS));
    assert!(believed(frames::Arp::request(GUEST, "10.1.0.77", "10.1.0.99"), guest, CLOSED));
    assert!(believed(frames::Arp::request(GUEST, "10.1.0.77", "10.1.0.11"), guest, SUPPRESS));
    assert!(!believed(frames::Arp::request(GUEST, "10.1.0.11", "10.1.0.11"), guest, SUPPRESS), "a conflict");
    assert!(!believed(frames::Arp::request(A, "10.1.0.11", "10.1.0.11"), a(), SUPPRESS), "forged");
}
