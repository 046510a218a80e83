//! Neighbour discovery.

use eastgate_wire::DropReason::{self, NdMalformed, NdSpoofed, NeighborOwn, NeighborUnknown};

use super::{
    frames::{ALL, Nd, ZERO, option, v6},
    *,
};

const A6: &str = "fd00::10";
const B6: &str = "fd00::11";
const R6: &str = "fd00::1";
const G6: &str = "fd00::77";
const NOBODY: &str = "fd00::99";
const NODES: &str = "ff02::1";

const S: u8 = 0x40;
const O: u8 = 0x20;
const R: u8 = 0x80;

fn drop(reason: DropReason) -> Answer {
    Answer::Drop(reason)
}

#[test]
fn solicitations() {
    let ask = |target| Nd::ns(A, A6, target).bytes();
    let poll = |dst, target| Nd::poll(A, A6, dst, target).bytes();
    let says = |mac, target, flags| Nd::na(mac, target, A, A6, flags).bytes();
    check(
        &World::new(),
        vec![
            case("suppress", ask(B6), a(), SUPPRESS, Answer::Reply).saying(says(B, B6, S | O)),
            case("proxy", ask(B6), a(), PROXIED, Answer::Reply).saying(says(PROXY, B6, S | O)),
            case("router", ask(R6), a(), SUPPRESS, Answer::Reply).saying(says(ROUTER, R6, R | S | O)),
            case("router, proxy", ask(R6), a(), PROXIED, Answer::Reply).saying(says(PROXY, R6, R | S | O)),
            case("learned", ask(G6), a(), SUPPRESS, Answer::Reply).saying(says(GUEST, G6, S | O)),
            case("off", ask(B6), a(), OFF, Answer::Pass),
            case("poll, suppress", poll(B, B6), a(), SUPPRESS, Answer::Pass),
            case("poll to the appliance", poll(PROXY, B6), a(), PROXIED, Answer::Reply).saying(says(
                PROXY,
                B6,
                S | O,
            )),
            case("poll to the real MAC, proxy", poll(B, B6), a(), PROXIED, Answer::Reply).saying(says(
                PROXY,
                B6,
                S | O,
            )),
            case("own", ask(A6), a(), SUPPRESS, drop(NeighborOwn)),
            case("own link-local", ask("fe80::ff:fe00:10a"), a(), SUPPRESS, drop(NeighborOwn)),
            case("unknown, flood", ask(NOBODY), a(), SUPPRESS, Answer::Pass),
            case("unknown, drop", ask(NOBODY), a(), CLOSED, drop(NeighborUnknown)),
            case("unknown, drop, proxy", ask(NOBODY), a(), CLOSED_PROXY, drop(NeighborUnknown)),
            case("unknown, flood, proxy: asked in our name", ask(NOBODY), a(), PROXIED, Answer::Ask)
                .saying(Nd::ns(PROXY, A6, NOBODY).bytes()),
        ],
    );
    let from_link_local = Nd::ns(A, "fe80::ff:fe00:10a", B6).bytes();
    let wants = Nd::na(B, B6, A, "fe80::ff:fe00:10a", S | O).bytes();
    check(
        &World::new(),
        vec![case("link-local", from_link_local, a(), SUPPRESS, Answer::Reply).saying(wants)],
    );
}

/// What an answer depends on is in the question; what is addressed as no stack does asks none.
#[test]
fn questions() {
    let of = |frame: Vec<u8>| question(&frame, &View::parse(&frame).unwrap());
    let plain = Question { sender: addr(A6), target: addr(B6), to_all: true, names_mac: true };
    assert_eq!(of(Nd::ns(A, A6, B6).bytes()), Some(plain));
    let silent = Nd { options: Vec::new(), ..Nd::ns(A, A6, B6) };
    assert_eq!(of(silent.bytes()), Some(Question { names_mac: false, ..plain }));
    let poll = of(Nd::poll(A, A6, B, B6).bytes());
    assert!(poll.is_some_and(|poll| !poll.to_all && poll.target == plain.target));
    let mut astray = Nd::ns(A, A6, B6).bytes();
    astray[..6].copy_from_slice(&B.0);
    assert_eq!(of(astray), None, "for the group, and sent to one");
    assert_eq!(of(Nd::na(A, A6, B, B6, S).bytes()), None);
    assert_eq!(of(Nd::ns(A, "::", B6).bytes()), None);
}

/// RFC 4861 section 4.3 has the option in multicast solicitations and section 7.1.1 does not ask for it.
#[test]
fn a_solicitation_without_options_is_answered() {
    let frame = Nd { options: Vec::new(), ..Nd::ns(A, A6, B6) }.bytes();
    let wants = Nd::na(B, B6, A, A6, S | O).bytes();
    check(&World::new(), vec![case("no options", frame, a(), SUPPRESS, Answer::Reply).saying(wants)]);
}

/// Options that nobody here knows are skipped (RFC 4861 section 4.6); a nonce (RFC 3971) is one.
#[test]
fn unknown_options_are_skipped() {
    let options = [vec![14, 1, 1, 2, 3, 4, 5, 6], option(1, A), vec![200, 2], vec![0; 14]].concat();
    let frame = Nd { options, ..Nd::ns(A, A6, B6) }.bytes();
    let wants = Nd::na(B, B6, A, A6, S | O).bytes();
    check(&World::new(), vec![case("others", frame, a(), SUPPRESS, Answer::Reply).saying(wants)]);
}

#[test]
fn tags_stay() {
    let tags = &[0x81, 0, 0x20, 0x64];
    let frame = Nd { tags, ..Nd::ns(A, A6, B6) }.bytes();
    let wants = Nd { tags, ..Nd::na(B, B6, A, A6, S | O) }.bytes();
    check(&World::new(), vec![case("tagged", frame, a(), SUPPRESS, Answer::Reply).saying(wants)]);
}

#[test]
fn duplicate_address_detection() {
    let world = World::new();
    let probe = |target| Nd::ns(A, "::", target).bytes();
    let says = |mac, target, flags| Nd::na(mac, target, A, NODES, flags).bytes();
    let taken = |reply, tell| conflict(&world, B6, A, reply, tell);
    let open = Requester { port_security: false, ..a() };
    check(
        &world,
        vec![
            case("own, all hosts known", probe(A6), a(), CLOSED, drop(NeighborOwn)),
            case("own, somebody may have it", probe(A6), a(), SUPPRESS, Answer::Pass),
            case("B's", probe(B6), a(), SUPPRESS, taken(true, false)).saying(says(B, B6, O)),
            case("B's, proxy", probe(B6), a(), PROXIED, taken(true, false)).saying(says(PROXY, B6, O)),
            case("the router's", probe(R6), a(), SUPPRESS, conflict(&world, R6, A, true, false))
                .saying(says(ROUTER, R6, R | O)),
            case("without port security both see it", probe(B6), open, SUPPRESS, taken(true, true))
                .saying(says(B, B6, O)),
            case("off", probe(B6), a(), OFF, taken(false, true)),
            case("free", probe(NOBODY), a(), SUPPRESS, Answer::Pass),
            case("free, proxy", probe(NOBODY), a(), PROXIED, Answer::Pass),
            case("free, drop", probe(NOBODY), a(), CLOSED, drop(NeighborUnknown)),
        ],
    );
}

#[test]
fn malformed() {
    let ns = || Nd::ns(A, A6, B6);
    let na = || Nd::na(A, A6, B, B6, S | O);
    let dad = || Nd::ns(A, "::", B6);
    let bad = |what, frame: Nd| case(what, frame.bytes(), a(), SUPPRESS, drop(NdMalformed));
    let unit = |kind, units| [vec![kind, units], vec![0; 14]].concat();
    check(
        &World::new(),
        vec![
            bad("hop limit 254", Nd { hop_limit: 254, ..ns() }),
            bad("hop limit 254, NA", Nd { hop_limit: 254, ..na() }),
            bad("hop limit 254, RS", Nd { hop_limit: 254, ..Nd::rs(A, A6) }),
            bad("checksum", Nd { checksum_off_by: 1, ..ns() }),
            bad("code", Nd { code: 1, ..ns() }),
            bad("too short", Nd { target: vec![0; 12], options: Vec::new(), ..ns() }),
            bad("multicast target", Nd { target: v6(NODES).to_vec(), ip_dst: v6(NODES), ..ns() }),
            bad("unspecified target", Nd::ns(A, A6, "::")),
            bad("loopback target", Nd::ns(A, A6, "::1")),
            bad("option of length zero", Nd { options: unit(14, 0), ..ns() }),
            bad("option beyond the end", Nd { options: unit(14, 3), ..ns() }),
            bad("half an option", Nd { options: vec![14], ..ns() }),
            bad("long MAC option", Nd { options: unit(1, 2), ..ns() }),
            bad("DAD with a MAC option", Nd { options: option(1, A), ..dad() }),
            bad("DAD to one", Nd { ip_dst: v6(B6), dst: B, ..dad() }),
            bad(
                "group of another target",
                Nd { ip_dst: v6("ff02::1:ff00:12"), dst: MacAddr([0x33, 0x33, 0xff, 0, 0, 0x12]), ..ns() },
            ),
            bad("foreign unicast destination", Nd { ip_dst: v6(R6), dst: ROUTER, ..ns() }),
            bad("Ethernet group of another", Nd { dst: MacAddr([0x33, 0x33, 0xff, 0, 0, 0x12]), ..ns() }),
            bad("Ethernet broadcast", Nd { dst: ALL, ..ns() }),
            bad(
                "unicast by Ethernet multicast",
                Nd { dst: MacAddr([0x33, 0x33, 0, 0, 0, 1]), ..Nd::poll(A, A6, B, B6) },
            ),
            bad("multicast source", Nd { ip_src: v6(NODES), ..ns() }),
            bad("loopback source", Nd { ip_src: v6("::1"), ..ns() }),
            bad("zero source MAC", Nd { src: ZERO, ..ns() }),
            bad("NA: multicast and solicited", Nd { flags: S | O, ..Nd::unsolicited(A, A6) }),
            bad(
                "NA: to another group",
                Nd {
                    ip_dst: v6("ff02::2"),
                    dst: MacAddr([0x33, 0x33, 0, 0, 0, 2]),
                    ..Nd::unsolicited(A, A6)
                },
            ),
            bad("NA: from nowhere", Nd { ip_src: [0; 16], ..na() }),
            bad("RS: from nowhere with a MAC option", Nd { options: option(1, A), ..Nd::rs(A, "::") }),
            bad("RS: bad option", Nd { options: unit(1, 0), ..Nd::rs(A, A6) }),
        ],
    );
}

/// Attack 15, RFC 6980: nothing between the IPv6 header and the message, an atomic fragment header included.
#[test]
fn no_extension_headers_and_no_fragments() {
    let hop_by_hop = (0, vec![58, 0, 1, 4, 0, 0, 0, 0]);
    let destination = (60, vec![58, 0, 1, 4, 0, 0, 0, 0]);
    let atomic = (44, vec![58, 0, 0, 0, 0, 0, 0, 1]);
    let first = (44, vec![58, 0, 0, 1, 0, 0, 0, 1]);
    for chain in [hop_by_hop, destination, atomic, first] {
        for frame in [Nd::ns(A, A6, B6), Nd::na(A, A6, B, B6, S | O), Nd::rs(A, A6)] {
            let frame = Nd { chain: Some(chain.clone()), ..frame }.bytes();
            check(&World::new(), vec![case("chain", frame, a(), SUPPRESS, drop(NdMalformed))]);
        }
    }
}

#[test]
fn spoofed() {
    for mode in [OFF, SUPPRESS, PROXIED, CLOSED, HUB] {
        let spoof = |what, frame: Nd| case(what, frame.bytes(), a(), mode, drop(NdSpoofed));
        check(
            &World::new(),
            vec![
                spoof("NS as B", Nd::ns(A, B6, R6)),
                spoof("NS from B's MAC", Nd::ns(B, A6, R6)),
                spoof("NS naming B's MAC", Nd { options: option(1, B), ..Nd::ns(A, A6, R6) }),
                spoof(
                    "NS naming two",
                    Nd { options: [option(1, A), option(1, B)].concat(), ..Nd::ns(A, A6, R6) },
                ),
                spoof("NA for B", Nd::na(A, B6, ROUTER, R6, S | O)),
                spoof("NA for B from A", Nd { ip_src: v6(A6), ..Nd::na(A, B6, ROUTER, R6, S | O) }),
                spoof("NA for A from B", Nd { ip_src: v6(B6), ..Nd::na(A, A6, ROUTER, R6, S | O) }),
                spoof("NA naming B's MAC", Nd { options: option(2, B), ..Nd::na(A, A6, ROUTER, R6, S | O) }),
                spoof("unsolicited for B", Nd::unsolicited(A, B6)),
                spoof("DAD from B's MAC", Nd::ns(B, "::", NOBODY)),
                spoof("RS as B", Nd::rs(A, B6)),
                spoof("RS naming B's MAC", Nd { options: option(1, B), ..Nd::rs(A, A6) }),
            ],
        );
    }
}

#[test]
fn advertisements() {
    let mut world = World::new();
    let frame = || Nd::na(A, A6, B, B6, S | O).bytes();
    let news = || Nd::na(UNKNOWN_HOST, NOBODY, PROXY, B6, S | O).bytes();
    check(
        &world,
        vec![
            case("off", frame(), a(), OFF, Answer::Pass),
            case("suppress", frame(), a(), SUPPRESS, Answer::Pass),
            case("proxy: the real MAC stays here", frame(), a(), PROXIED, drop(NeighborOwn)),
            case(
                "proxy: news",
                news(),
                unknown_host(),
                PROXIED,
                announce(NOBODY, UNKNOWN_HOST, Onward::Overlay),
            ),
            case(
                "proxy: news from afar",
                news(),
                remote_unknown_host(),
                PROXIED,
                announce(NOBODY, UNKNOWN_HOST, Onward::Nowhere),
            ),
        ],
    );
    world.unsteered = Some(EndpointId(1));
    check(&world, vec![case("proxy, not steered", frame(), a(), PROXIED, Answer::Pass)]);
}

#[test]
fn unsolicited_advertisements() {
    let world = World::new();
    let frame = || Nd::unsolicited(A, A6).bytes();
    let moved = Requester { origin: vtep(2), ..a() };
    let foreign = |address| Nd::unsolicited(UNKNOWN_HOST, address).bytes();
    let humble = |address| Nd { flags: 0, ..Nd::unsolicited(UNKNOWN_HOST, address) }.bytes();
    let taken = conflict(&world, B6, UNKNOWN_HOST, true, true);
    check(
        &world,
        vec![
            case("known", frame(), a(), SUPPRESS, repeat(A6, A, Onward::Everywhere)),
            case("off", frame(), a(), OFF, announce(A6, A, Onward::Everywhere)),
            case("moved", frame(), moved, SUPPRESS, announce(A6, A, Onward::Everywhere)),
            case("moved, proxy", frame(), moved, PROXIED, announce(A6, A, Onward::Nowhere)),
            case(
                "new",
                foreign(NOBODY),
                unknown_host(),
                SUPPRESS,
                announce(NOBODY, UNKNOWN_HOST, Onward::Everywhere),
            ),
            case(
                "learned moves",
                foreign(G6),
                unknown_host(),
                SUPPRESS,
                announce(G6, UNKNOWN_HOST, Onward::Everywhere),
            ),
            case("no override: nothing moves", humble(G6), unknown_host(), SUPPRESS, Answer::Pass),
            case("no override, proxy", humble(G6), unknown_host(), PROXIED, drop(NeighborOwn)),
            case(
                "no override, new",
                humble(NOBODY),
                unknown_host(),
                SUPPRESS,
                announce(NOBODY, UNKNOWN_HOST, Onward::Everywhere),
            ),
            case("B's", foreign(B6), unknown_host(), SUPPRESS, taken)
                .saying(Nd::na(B, B6, UNKNOWN_HOST, NODES, O).bytes()),
        ],
    );
}

#[test]
fn router_discovery_goes_its_way() {
    let ra = Nd { kind: 134, target: vec![0; 8], ..Nd::unsolicited(ROUTER, R6) };
    let redirect = Nd { kind: 137, ..Nd::unsolicited(ROUTER, R6) };
    let echo = Nd { kind: 128, ..Nd::unsolicited(A, A6) };
    for mode in [OFF, SUPPRESS, PROXIED, CLOSED] {
        check(
            &World::new(),
            vec![
                case("RS", Nd::rs(A, A6).bytes(), a(), mode, Answer::Pass),
                case("RS from nowhere", Nd::rs(A, "::").bytes(), a(), mode, Answer::Pass),
                case("RA", ra.bytes(), router(), mode, Answer::NotNeighbor),
                case("redirect", redirect.bytes(), router(), mode, Answer::NotNeighbor),
                case("echo", echo.bytes(), a(), mode, Answer::NotNeighbor),
            ],
        );
    }
}

#[test]
fn one_answer_in_a_mesh() {
    let mut world = World::new();
    world.bindings.insert(addr(B6), Binding { at: vtep(3), ..world.bindings[&addr(B6)] });
    let ask = |target| Nd::ns(ROUTER, R6, target).bytes();
    check(
        &world,
        vec![
            case("local", ask(A6), router(), SUPPRESS, Answer::Reply)
                .saying(Nd::na(A, A6, ROUTER, R6, S | O).bytes()),
            case("behind another VTEP", ask(B6), router(), SUPPRESS, Answer::Elsewhere),
            case("as in any switch", ask(B6), router(), OFF, Answer::Pass),
            case("at the hub", ask(B6), router(), HUB, Answer::Reply)
                .saying(Nd::na(B, B6, ROUTER, R6, S | O).bytes()),
        ],
    );
}

#[test]
fn what_is_claimed() {
    let says = |frame: Nd| {
        let frame = frame.bytes();
        claim(&frame, &View::parse(&frame).unwrap())
    };
    let mine = Some(Claim { address: addr(A6), mac: A });
    assert_eq!(says(Nd::ns(A, A6, B6)), mine);
    assert_eq!(says(Nd::rs(A, A6)), mine);
    assert_eq!(says(Nd::na(A, A6, B, B6, S | O)), mine);
    assert_eq!(says(Nd { options: Vec::new(), ..Nd::ns(A, A6, B6) }), None, "it says nothing of a MAC");
    assert_eq!(says(Nd::ns(A, "::", A6)), None);
}
