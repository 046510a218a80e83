//! Verdicts that say more than to pass or to drop, and rules that tell flows of one pair and service apart.

use etherparse::TcpHeader;

use super::*;

/// The programs carry out what says no more than to pass or to drop. The rest is the pipeline's, also after it has let one
/// such flow begin, and where a policy-cache entry would stand for others like it.
pub(super) fn more_than_to_pass_or_to_drop() {
    let scene = Scene { policy: tiers::by_port, ..MESH };
    let text = network(scene, "", EVERYONE, &[], &[(11, ""), (12, ""), (21, "")]);
    let mut pair = Pair::new(scene, &text, 1000);
    pair.prime(11, 12);
    let refused = Outcome::Drop(DropReason::EgressRule);
    let verdicts = [
        (2001, Outcome::Forward, true),
        (2002, Outcome::Forward, false),
        (2003, Outcome::Forward, false),
        (2004, Outcome::Forward, false),
        (2005, refused, false),
        (2006, refused, true),
        (2007, refused, true),
        (2008, Outcome::Forward, true),
        (2009, Outcome::Forward, true),
    ];
    for (port, outcome, plain) in verdicts {
        for (b, sport) in [(12, 4000), (12, 4001), (21, 4002)] {
            assert_eq!(pair.send(11, &udp(11, b, sport, port)), (outcome, plain), "port {port}");
        }
        let allowed = plain && outcome == Outcome::Forward;
        for (sport, by_programs) in [(4000, false), (4001, allowed)] {
            let found = pair.send(11, &unconfigured_to(12, sport, port, 9));
            assert_eq!(found, (outcome, by_programs), "port {port}, of nobody's address");
        }
    }
    pair.same();
}

fn with_dscp(a: u8, b: u8, sport: u16, dport: u16, dscp: u8) -> Vec<u8> {
    udp_of(ip4(a, b, |ip| ip.dscp = dscp.try_into().unwrap()), sport, dport, b"first")
}

/// A SYN with these flags beside it
fn syn_with(b: u8, sport: u16, ece: bool, psh: bool) -> Vec<u8> {
    let mut tcp = TcpHeader::new(sport, 443, 1000, 65535);
    (tcp.syn, tcp.ece, tcp.cwr, tcp.psh) = (true, ece, ece, psh);
    let mut out = Vec::new();
    ip4(11, b, |_| ()).tcp_header(tcp).write(&mut out, &[]).unwrap();
    out
}

/// A pair under the rules of `tiers::by_fields`
fn asking() -> Pair {
    let scene = Scene { policy: tiers::by_fields, ..MESH };
    let mut pair =
        Pair::new(scene, &network(scene, "", EVERYONE, &[], &[(11, ""), (12, ""), (21, "")]), 1000);
    pair.prime(11, 12);
    pair
}

pub(super) fn dscp_and_tcp_flags() {
    let mut pair = asking();
    let refused = Outcome::Drop(DropReason::EgressRule);
    for b in [12, 21] {
        for (port, dscp, outcome) in [
            (2001, 46, Outcome::Forward),
            (2001, 45, refused),
            (2001, 0, refused),
            (2002, 0, Outcome::Forward),
            (2002, 34, refused),
            (2002, 35, Outcome::Forward),
            // Of two fields below each other, each as it must be
            (2003, 10, Outcome::Forward),
            (2003, 11, refused),
        ] {
            let sport = 4000 + u16::from(dscp);
            let frame = with_dscp(11, b, sport, port, dscp);
            assert_eq!(pair.send(11, &frame), (outcome, true), "to port {port} with {dscp}");
        }
        assert_eq!(pair.send(11, &with_dscp(11, b, 5000, 2003, 10)), (refused, true), "from port 5000");
        for (sport, ece, psh, outcome) in [
            (1, false, false, Outcome::Forward),
            (2, true, false, refused),
            (3, true, true, Outcome::Forward),
            (4, false, true, Outcome::Forward),
        ] {
            assert_eq!(pair.send(11, &syn_with(b, sport, ece, psh)), (outcome, true), "ECN {ece}, PSH {psh}");
        }
    }
    pair.same();
}

/// What comes later has another DSCP, and is of the flow all the same; also where the policy is asked again.
pub(super) fn a_flow_is_decided_by_what_it_began_with() {
    let mut pair = asking();
    let text =
        |more: &str| network(MESH, "", &format!("{EVERYONE}{more}"), &[], &[(11, ""), (12, ""), (21, "")]);
    for b in [12, 21] {
        assert_eq!(pair.send(11, &with_dscp(11, b, 4000, 2001, 46)), (Outcome::Forward, true));
        assert_eq!(pair.send(11, &with_dscp(11, b, 4000, 2001, 0)), (Outcome::Forward, true));
        assert_eq!(pair.send(b, &with_dscp(b, 11, 2001, 4000, 0)), (Outcome::Forward, true));
    }
    pair.install(&text("").replace("to = \"any\"", "to = \"0.0.0.0/0\""));
    for b in [12, 21] {
        assert_eq!(pair.send(11, &with_dscp(11, b, 4000, 2001, 0)).0, Outcome::Forward);
        assert_eq!(pair.send(b, &with_dscp(b, 11, 2001, 4000, 0)).0, Outcome::Forward);
        assert_eq!(pair.send(11, &with_dscp(11, b, 4001, 2001, 0)).0, Outcome::Drop(DropReason::EgressRule));
    }
    pair.same();
}

/// A policy-cache entry says nothing of other source ports where a rule asks for them.
pub(super) fn no_policy_cache_entry_by_source_port() {
    let groups = "[tenant.acme.group.all]\negress = [{ proto = \"udp\", source_ports = [1], to = \"any\" }]\n\
         ingress = [{ from = \"any\" }]\n";
    let mut pair = Pair::new(MESH, &network(MESH, "", groups, &[], &[(11, ""), (12, "")]), 1000);
    assert_eq!(pair.send(11, &udp(11, 12, 1, 443)), (Outcome::Forward, true));
    assert_eq!(pair.send(11, &unconfigured(12, 1, 9)), (Outcome::Forward, false));
    let denied = Outcome::Drop(DropReason::EgressDenied);
    assert_eq!(pair.send(11, &unconfigured(12, 2, 9)), (denied, false));
    pair.same();
}

/// Nor of other values of DSCP.
pub(super) fn no_policy_cache_entry_by_dscp() {
    let mut pair = asking();
    for _ in 0..2 {
        assert_eq!(pair.send(11, &unconfigured_to(12, 4000, 2002, 9)), (Outcome::Forward, false));
    }
    let mut marked = unconfigured_to(12, 4001, 2002, 9);
    // Traffic class 0x88: DSCP 34
    (marked[14], marked[15]) = (0x68, 0x80);
    assert_eq!(pair.send(11, &marked), (Outcome::Drop(DropReason::EgressRule), false));
    pair.same();
}
