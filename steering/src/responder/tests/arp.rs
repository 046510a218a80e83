//! ARP and RARP.

use eastgate_wire::DropReason::{self, ArpMalformed, ArpSpoofed, NeighborOwn, NeighborUnknown, SplitHorizon};

use super::{
    frames::{ALL, Arp, ZERO, ethernet},
    *,
};

const A4: &str = "10.1.0.10";
const B4: &str = "10.1.0.11";
const R4: &str = "10.1.0.1";
const G4: &str = "10.1.0.77";
const NOBODY: &str = "10.1.0.99";

fn drop(reason: DropReason) -> Answer {
    Answer::Drop(reason)
}

#[test]
fn requests() {
    let ask = |target| Arp::request(A, A4, target);
    let says = |mac, target| Arp::reply(mac, target, A, A4).bytes();
    check(
        &World::new(),
        vec![
            case("broadcast, suppress", ask(B4).bytes(), a(), SUPPRESS, Answer::Reply).saying(says(B, B4)),
            case("broadcast, proxy", ask(B4).bytes(), a(), PROXIED, Answer::Reply).saying(says(PROXY, B4)),
            case("for a remote host", ask(R4).bytes(), a(), SUPPRESS, Answer::Reply).saying(says(ROUTER, R4)),
            case("for a learned host", ask(G4).bytes(), a(), SUPPRESS, Answer::Reply).saying(says(GUEST, G4)),
            case("off", ask(B4).bytes(), a(), OFF, Answer::Pass),
            case("poll, suppress", ask(B4).to(B).bytes(), a(), SUPPRESS, Answer::Pass),
            case("poll, off", ask(B4).to(B).bytes(), a(), OFF, Answer::Pass),
            case("poll to the appliance", ask(B4).to(PROXY).bytes(), a(), PROXIED, Answer::Reply)
                .saying(says(PROXY, B4)),
            case("poll to the real MAC, proxy", ask(B4).to(B).bytes(), a(), PROXIED, Answer::Reply)
                .saying(says(PROXY, B4)),
            case("own address", ask(A4).bytes(), a(), SUPPRESS, repeat(A4, A, Onward::Everywhere)),
            case("unknown, flood", ask(NOBODY).bytes(), a(), SUPPRESS, Answer::Pass),
            case("unknown, drop", ask(NOBODY).bytes(), a(), CLOSED, drop(NeighborUnknown)),
            case("unknown, poll", ask(NOBODY).to(B).bytes(), a(), CLOSED, Answer::Pass),
            case("unknown, drop, proxy", ask(NOBODY).bytes(), a(), CLOSED_PROXY, drop(NeighborUnknown)),
            case("unknown, flood, proxy: asked in our name", ask(NOBODY).bytes(), a(), PROXIED, Answer::Ask)
                .saying(Arp::request(PROXY, A4, NOBODY).bytes()),
            case("unknown, poll to us", ask(NOBODY).to(PROXY).bytes(), a(), PROXIED, Answer::Ask)
                .saying(Arp::request(PROXY, A4, NOBODY).bytes()),
        ],
    );
}

/// An asker that may use a whole prefix is still told who has an address in it, and so is one with two
/// addresses; only its very own are not answered.
#[test]
fn own_is_what_is_configured_not_what_is_allowed() {
    let requester = requester(PORT_A, holdings(Some(0), A, &[A4, "10.1.0.12"], &[(A, "10.1.0.0", 96 + 24)]));
    let mut world = World::new();
    world.bindings.insert(addr("10.1.0.13"), Binding { endpoint: None, ..world.bindings[&addr(A4)] });
    check(
        &world,
        vec![
            case("in the prefix", Arp::request(A, A4, B4).bytes(), requester, SUPPRESS, Answer::Reply)
                .saying(Arp::reply(B, B4, A, A4).bytes()),
            case(
                "second one",
                Arp::request(A, A4, "10.1.0.12").bytes(),
                requester,
                SUPPRESS,
                drop(NeighborOwn),
            ),
            case(
                "bound to its MAC",
                Arp::request(A, A4, "10.1.0.13").bytes(),
                requester,
                SUPPRESS,
                drop(NeighborOwn),
            ),
        ],
    );
}

#[test]
fn tags_stay() {
    for tags in [&[0x81, 0, 0x20, 0x64][..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7], &[0x81, 0, 0, 0]] {
        let frame = Arp::request(A, A4, B4).tagged(tags).bytes();
        for (mode, mac) in [(SUPPRESS, B), (PROXIED, PROXY)] {
            let wants = Arp::reply(mac, B4, A, A4).tagged(tags).bytes();
            check(&World::new(), vec![case("tagged", frame.clone(), a(), mode, Answer::Reply).saying(wants)]);
        }
        let forged = Arp::request(A, B4, B4).tagged(tags).bytes();
        check(&World::new(), vec![case("forged behind tags", forged, a(), SUPPRESS, drop(ArpSpoofed))]);
    }
}

/// Ethernet pads short frames; what stands behind the ARP packet is nobody's business.
#[test]
fn padding_is_ignored() {
    let mut frame = Arp::request(A, A4, B4).bytes();
    frame.resize(60, 0xee);
    check(
        &World::new(),
        vec![case("padded", frame, a(), SUPPRESS, Answer::Reply).saying(Arp::reply(B, B4, A, A4).bytes())],
    );
}

/// What an answer depends on is in the question; what is addressed as no stack does asks none.
#[test]
fn questions() {
    let of = |frame: Vec<u8>| question(&frame, &View::parse(&frame).unwrap());
    let plain = Question { sender: addr(A4), target: addr(B4), to_all: true, names_mac: false };
    let ask = Arp::request(A, A4, B4);
    assert_eq!(of(ask.bytes()), Some(plain));
    assert_eq!(of(Arp { tha: ALL, ..ask }.bytes()), Some(plain));
    assert_eq!(of(ask.to(B).bytes()), Some(Question { to_all: false, ..plain }));
    assert_eq!(of(ask.to(MacAddr([0x33, 0x33, 0, 0, 0, 1])).bytes()), None);
    for other in [Arp::request(A, A4, A4), Arp::request(A, "0.0.0.0", B4), Arp::reply(A, A4, B, B4)] {
        assert_eq!(of(other.bytes()), None);
    }
}

#[test]
fn malformed() {
    let good = Arp::request(A, A4, B4);
    let bad = |frame: Arp| case("", frame.bytes(), a(), SUPPRESS, drop(ArpMalformed));
    let reply = Arp::reply(A, A4, B, B4);
    check(
        &World::new(),
        vec![
            Case { what: "hardware type", ..bad(Arp { head: [0, 6, 8, 0, 6, 4], ..good }) },
            Case { what: "protocol type", ..bad(Arp { head: [0, 1, 0x86, 0xdd, 6, 4], ..good }) },
            Case { what: "hardware length", ..bad(Arp { head: [0, 1, 8, 0, 8, 4], ..good }) },
            Case { what: "protocol length", ..bad(Arp { head: [0, 1, 8, 0, 6, 16], ..good }) },
            Case { what: "lengths beyond the frame", ..bad(Arp { head: [0, 1, 8, 0, 255, 255], ..good }) },
            Case { what: "operation 0", ..bad(Arp { op: 0, ..good }) },
            Case { what: "operation 8, InARP", ..bad(Arp { op: 8, ..good }) },
            Case { what: "RARP under ARP's ethertype", ..bad(Arp { op: 3, ..good }) },
            Case { what: "sender unlike Ethernet source", ..bad(Arp { sha: B, ..good }) },
            Case { what: "Ethernet source unlike sender", ..bad(Arp { src: B, ..good }) },
            Case { what: "multicast sender MAC", ..bad(Arp { src: ALL, sha: ALL, ..good }) },
            Case { what: "zero sender MAC", ..bad(Arp { src: ZERO, sha: ZERO, ..good }) },
            Case { what: "multicast sender", ..bad(Arp::request(A, "224.0.0.1", B4)) },
            Case { what: "broadcast sender", ..bad(Arp::request(A, "255.255.255.255", B4)) },
            Case { what: "loopback sender", ..bad(Arp::request(A, "127.0.0.1", B4)) },
            Case { what: "target that no host has", ..bad(Arp::request(A, A4, "224.0.0.9")) },
            Case { what: "no target", ..bad(Arp::request(A, A4, "0.0.0.0")) },
            Case { what: "reply without sender", ..bad(Arp { spa: [0; 4], ..reply }) },
            Case { what: "reply to another than it names", ..bad(Arp { tha: ROUTER, ..reply }) },
        ],
    );
    let whole = good.bytes();
    for len in 14..whole.len() {
        check(
            &World::new(),
            vec![case("cut short", whole[..len].to_vec(), a(), SUPPRESS, drop(ArpMalformed))],
        );
    }
}

/// Attack 12: each kind of ARP with a sender that the port does not own, in every mode.
#[test]
fn spoofed() {
    for mode in [OFF, SUPPRESS, PROXIED, CLOSED, HUB] {
        let spoof = |what, frame: Arp| case(what, frame.bytes(), a(), mode, drop(ArpSpoofed));
        check(
            &World::new(),
            vec![
                spoof("request as B", Arp::request(A, B4, R4)),
                spoof("request as nobody", Arp::request(A, NOBODY, R4)),
                spoof("request from B's MAC", Arp::request(B, A4, R4)),
                spoof("announcement of B", Arp::request(A, B4, B4)),
                spoof("gratuitous reply for B", Arp { tha: A, ..Arp::reply(A, B4, ALL, B4) }),
                spoof("reply for B", Arp::reply(A, B4, ROUTER, R4)),
                spoof("probe from B's MAC", Arp::request(B, "0.0.0.0", NOBODY)),
            ],
        );
    }
    let nobody = Requester { port_security: true, ..unknown_host() };
    let frame = Arp::request(UNKNOWN_HOST, NOBODY, B4).bytes();
    check(&World::new(), vec![case("a secured port of nobody", frame, nobody, SUPPRESS, drop(ArpSpoofed))]);
}

#[test]
fn probes() {
    let world = World::new();
    let probe = |target| Arp::request(A, "0.0.0.0", target).bytes();
    let says = |mac, target| Arp::reply(mac, target, A, "0.0.0.0").bytes();
    let free = |frame| -> Vec<u8> { frame };
    let taken = |reply, tell| conflict(&world, B4, A, reply, tell);
    let open = Requester { port_security: false, ..a() };
    check(
        &world,
        vec![
            case("own, all hosts known", probe(A4), a(), CLOSED, drop(NeighborOwn)),
            case("own, all hosts known, proxy", probe(A4), a(), CLOSED_PROXY, drop(NeighborOwn)),
            case("own, somebody may have it", probe(A4), a(), SUPPRESS, Answer::Pass),
            case("own, somebody may have it, proxy", probe(A4), a(), PROXIED, Answer::Pass),
            case("B's", probe(B4), a(), SUPPRESS, taken(true, false)).saying(says(B, B4)),
            case("B's, proxy", probe(B4), a(), PROXIED, taken(true, false)).saying(says(PROXY, B4)),
            case("B's, by a port without security", probe(B4), open, SUPPRESS, taken(true, true))
                .saying(says(B, B4)),
            case("B's, off: B has to answer", probe(B4), a(), OFF, taken(false, true)),
            case("free", free(probe(NOBODY)), a(), SUPPRESS, Answer::Pass),
            case("free, proxy: a probe teaches no MAC", probe(NOBODY), a(), PROXIED, Answer::Pass),
            case("free, drop", probe(NOBODY), a(), CLOSED, drop(NeighborUnknown)),
        ],
    );
}

#[test]
fn announcements() {
    let mut world = World::new();
    let frame = Arp::request(A, A4, A4);
    let gratuitous = Arp { tha: ALL, ..Arp::reply(A, A4, ALL, A4) };
    for (what, frame) in [("request", frame), ("reply", gratuitous)] {
        let case = |requester, mode, wants| case(what, frame.bytes(), requester, mode, wants);
        let moved = Requester { origin: vtep(2), ..a() };
        check(
            &world,
            vec![
                case(a(), SUPPRESS, repeat(A4, A, Onward::Everywhere)),
                case(a(), PROXIED, repeat(A4, A, Onward::Overlay)),
                case(a(), OFF, announce(A4, A, Onward::Everywhere)),
                case(moved, SUPPRESS, announce(A4, A, Onward::Everywhere)),
                case(moved, PROXIED, announce(A4, A, Onward::Nowhere)),
            ],
        );
    }
    // B had it until now, and A may have it too (an address that moves between two).
    let requester = requester(PORT_A, holdings(Some(0), A, &[A4], &[(A, "10.1.0.50", 128)]));
    world.bindings.insert(addr("10.1.0.50"), world.bindings[&addr(B4)]);
    let frame = Arp::request(A, "10.1.0.50", "10.1.0.50").bytes();
    check(
        &world,
        vec![
            case(
                "taken over",
                frame.clone(),
                requester,
                SUPPRESS,
                announce("10.1.0.50", A, Onward::Everywhere),
            ),
            case("taken over, proxy", frame, requester, PROXIED, announce("10.1.0.50", A, Onward::Overlay)),
        ],
    );
}

#[test]
fn a_unknown_hosts_announcement() {
    let world = World::new();
    let frame = |address| Arp::request(UNKNOWN_HOST, address, address).bytes();
    let defended = Arp::reply(B, B4, UNKNOWN_HOST, "0.0.0.0").bytes();
    check(
        &world,
        vec![
            case(
                "free",
                frame(NOBODY),
                unknown_host(),
                SUPPRESS,
                announce(NOBODY, UNKNOWN_HOST, Onward::Everywhere),
            ),
            case(
                "learned",
                frame(G4),
                unknown_host(),
                SUPPRESS,
                announce(G4, UNKNOWN_HOST, Onward::Everywhere),
            ),
            case("B's", frame(B4), unknown_host(), SUPPRESS, conflict(&world, B4, UNKNOWN_HOST, true, true))
                .saying(defended.clone()),
            case("B's, off", frame(B4), unknown_host(), OFF, conflict(&world, B4, UNKNOWN_HOST, false, true)),
            case(
                "B's, from afar",
                frame(B4),
                remote_unknown_host(),
                SUPPRESS,
                conflict(&world, B4, UNKNOWN_HOST, true, true),
            )
            .saying(defended),
            case("remote, from afar: not ours", frame(R4), remote_unknown_host(), SUPPRESS, drop(ArpSpoofed)),
        ],
    );
}

/// A request or a reply claims an address as much as an announcement does.
#[test]
fn claims_in_passing() {
    let world = World::new();
    let defended = || Arp::reply(PROXY, B4, UNKNOWN_HOST, "0.0.0.0").bytes();
    let taken = conflict(&world, B4, UNKNOWN_HOST, true, true);
    check(
        &world,
        vec![
            case("request", Arp::request(UNKNOWN_HOST, B4, R4).bytes(), unknown_host(), PROXIED, taken)
                .saying(defended()),
            case("reply", Arp::reply(UNKNOWN_HOST, B4, A, A4).bytes(), unknown_host(), PROXIED, taken)
                .saying(defended()),
        ],
    );
}

#[test]
fn replies() {
    let mut world = World::new();
    let frame = Arp::reply(A, A4, B, B4).bytes();
    let news = Arp::reply(UNKNOWN_HOST, NOBODY, PROXY, B4).bytes();
    check(
        &world,
        vec![
            case("off", frame.clone(), a(), OFF, Answer::Pass),
            case("suppress", frame.clone(), a(), SUPPRESS, Answer::Pass),
            case("proxy: the real MAC stays here", frame.clone(), a(), PROXIED, drop(NeighborOwn)),
            case(
                "proxy: news",
                news.clone(),
                unknown_host(),
                PROXIED,
                announce(NOBODY, UNKNOWN_HOST, Onward::Overlay),
            ),
            case(
                "proxy: news from afar",
                news,
                remote_unknown_host(),
                PROXIED,
                announce(NOBODY, UNKNOWN_HOST, Onward::Nowhere),
            ),
        ],
    );
    world.unsteered = Some(EndpointId(1));
    check(&world, vec![case("proxy, not steered", frame, a(), PROXIED, Answer::Pass)]);
}

#[test]
fn pairs_that_are_not_steered_find_each_other() {
    let world = World { unsteered: Some(EndpointId(1)), ..World::new() };
    let ask = |target| Arp::request(A, A4, target).bytes();
    check(
        &world,
        vec![
            case("not steered", ask(B4), a(), PROXIED, Answer::Pass),
            case("steered", ask(R4), a(), PROXIED, Answer::Reply)
                .saying(Arp::reply(PROXY, R4, A, A4).bytes()),
        ],
    );
}

/// A request flooded through a mesh is answered once: by the host of the endpoint.
#[test]
fn one_answer_in_a_mesh() {
    let world = World::new();
    let ask = |src, spa, target| Arp::request(src, spa, target).bytes();
    let poll = || Arp::request(ROUTER, R4, B4).to(B).bytes();
    let for_local = || Arp::reply(A, A4, ROUTER, R4).bytes();
    let mut remote = World::new();
    remote.bindings.insert(addr(B4), Binding { at: vtep(3), ..remote.bindings[&addr(B4)] });
    check(
        &world,
        vec![case("local", ask(ROUTER, R4, A4), router(), SUPPRESS, Answer::Reply).saying(for_local())],
    );
    check(
        &remote,
        vec![
            case("behind another VTEP", ask(ROUTER, R4, B4), router(), SUPPRESS, Answer::Elsewhere),
            case("in proxy mode", ask(ROUTER, R4, B4), router(), PROXIED, Answer::Elsewhere),
            case("as in any switch", ask(ROUTER, R4, B4), router(), OFF, Answer::Pass),
            case("probe", ask(ROUTER, "0.0.0.0", B4), router(), SUPPRESS, Answer::Elsewhere),
            case("astray", poll(), router(), SUPPRESS, drop(SplitHorizon)),
            case("astray in a switch", poll(), router(), OFF, drop(SplitHorizon)),
            case("at the hub", ask(ROUTER, R4, B4), router(), HUB, Answer::Reply)
                .saying(Arp::reply(B, B4, ROUTER, R4).bytes()),
        ],
    );
}

#[test]
fn rarp_tells_where_a_mac_is() {
    let rarp =
        |src: MacAddr| Arp { kind: [0x80, 0x35], op: 3, tha: src, ..Arp::request(src, "0.0.0.0", "0.0.0.0") };
    let here = |onward| Answer::Announce { address: None, mac: A, onward, news: true };
    check(
        &World::new(),
        vec![
            case("own", rarp(A).bytes(), a(), SUPPRESS, here(Onward::Everywhere)),
            case("own, proxy", rarp(A).bytes(), a(), PROXIED, here(Onward::Overlay)),
            case("B's MAC", rarp(B).bytes(), a(), SUPPRESS, drop(ArpSpoofed)),
            case("for another", Arp { tha: B, ..rarp(A) }.bytes(), a(), SUPPRESS, drop(ArpMalformed)),
            case("reply", Arp { op: 4, ..rarp(A) }.bytes(), a(), SUPPRESS, drop(ArpMalformed)),
            case(
                "with an address",
                Arp { spa: [10, 1, 0, 10], ..rarp(A) }.bytes(),
                a(),
                SUPPRESS,
                drop(ArpMalformed),
            ),
        ],
    );
}

/// The same address in two networks: each has its own bindings, and neither hears of the other.
#[test]
fn networks_do_not_meet() {
    let mut other = World::new();
    other.bindings.insert(addr(B4), Binding { mac: UNKNOWN_HOST, ..other.bindings[&addr(B4)] });
    let frame = Arp::request(A, A4, B4).bytes();
    check(
        &World::new(),
        vec![
            case("one", frame.clone(), a(), SUPPRESS, Answer::Reply).saying(Arp::reply(B, B4, A, A4).bytes()),
        ],
    );
    check(
        &other,
        vec![
            case("other", frame, a(), SUPPRESS, Answer::Reply)
                .saying(Arp::reply(UNKNOWN_HOST, B4, A, A4).bytes()),
        ],
    );
}

#[test]
fn what_is_none_of_ours() {
    let lldp = ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]), A, &[], [0x88, 0xcc], &[0; 50]);
    let snap = ethernet(ALL, A, &[], [0, 36], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    let three_tags = Arp::request(A, B4, B4).tagged(&[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3]).bytes();
    for frame in [lldp, snap, three_tags] {
        check(&World::new(), vec![case("none of ours", frame, a(), SUPPRESS, Answer::NotNeighbor)]);
    }
}

#[test]
fn what_is_claimed() {
    let says = |frame: Arp| {
        let frame = frame.bytes();
        claim(&frame, &View::parse(&frame).unwrap())
    };
    let mine = Some(Claim { address: addr(A4), mac: A });
    assert_eq!(says(Arp::request(A, A4, B4)), mine);
    assert_eq!(says(Arp::request(A, A4, A4)), mine);
    assert_eq!(says(Arp::reply(A, A4, B, B4)), mine);
    assert_eq!(says(Arp::request(A, "0.0.0.0", B4)), None);
    assert_eq!(says(Arp { sha: B, ..Arp::request(A, A4, B4) }), None);
}
