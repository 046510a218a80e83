//! Rules without state: each packet goes on in the kernel by itself, and is counted as in the pipeline.

use std::sync::atomic::Ordering::Relaxed;

use eastgate_dataplane::snapshot::state::EndpointState;

use super::*;

/// Each packet has a rule but for what comes from port 9.
const STATELESS: &str = "[tenant.acme.group.all]\nstateful = false\n\
     egress = [{ proto = \"tcp\", to = \"any\" }, { proto = \"udp\", source_ports = [\"10-65535\"], to = \"any\" }, \
     { proto = \"icmp\", to = \"any\" }]\n\
     ingress = [{ proto = \"tcp\", source_ports = [\"10-65535\"], from = \"any\" }, { proto = \"udp\", from = \"any\" }, \
     { proto = \"icmp\", from = \"any\" }]\n\
     [tenant.acme.group.keeps]\negress = [{ to = \"any\" }]\ningress = [{ from = \"any\" }]\n";

fn segment(a: u8, b: u8, sport: u16, dport: u16, change: impl FnOnce(&mut TcpHeader)) -> Vec<u8> {
    let mut tcp = TcpHeader::new(sport, dport, 77_000, 65535);
    change(&mut tcp);
    let mut out = Vec::new();
    ip4(a, b, df).tcp_header(tcp).write(&mut out, b"data").unwrap();
    out
}

pub(super) fn each_packet_by_itself() {
    let text = network(HUB, "", STATELESS, &[2], &[(11, ""), (12, ""), (21, ""), (31, "")]);
    let mut pair = Pair::new(HUB, &text, 1000);
    let (forward, by_programs) = ((Outcome::Forward, true), true);
    for (a, b) in [(11, 12), (12, 11), (11, 21), (21, 11), (21, 31), (31, 12)] {
        let talk = Talk { a, b, sport: 40_000, dport: 443 };
        // In no order that a connection has
        for frame in [
            segment(a, b, 443, 40_000, |tcp| tcp.ack = true),
            segment(a, b, 443, 40_000, |tcp| (tcp.fin, tcp.psh) = (true, true)),
            segment(a, b, 443, 40_000, |tcp| tcp.rst = true),
            segment(a, b, 443, 40_000, |_| ()),
            talk.data(b"x"),
            talk.syn(),
            talk.syn(),
            udp(a, b, 4000, 53),
            udp6(a, b, 53, 4000),
            pong(a, b, 7),
            ping(a, b, 7),
        ] {
            assert_eq!(pair.send(a, &frame), forward, "from {a} to {b}: {frame:02x?}");
        }
        // What no rule allows: of what would begin a flow the programs say so.
        let of_sender = HUB.vtep_of(a) != Some(3);
        let denied = if of_sender { DropReason::EgressDenied } else { DropReason::IngressDenied };
        if of_sender {
            assert_eq!(pair.send(a, &udp(a, b, 9, 53)), (Outcome::Drop(denied), by_programs));
        }
        if HUB.vtep_of(b) != Some(3) {
            let late = segment(a, b, 9, 443, |tcp| tcp.ack = true);
            assert_eq!(pair.send(a, &late), (Outcome::Drop(DropReason::IngressDenied), false));
        }
        assert_eq!(pair.send(a, &udp(a, b, 5000, 53)), forward);
        pair.same();
    }
    for host in [&pair.alone, &pair.twin] {
        assert_eq!(host.flows().len(), 0);
    }
    // What has fragments goes the pipeline's way, all of it.
    let whole = udp_of(ip4(11, 12, |_| ()), 4000, 53, &[7; 100]);
    for (number, (at, body)) in pieces(&whole, 40).iter().enumerate() {
        assert_eq!(pair.send(11, &fragment(11, 12, 5, *at, number < 2, body)), (Outcome::Forward, false));
    }
    pair.same();
    let passed = |host: &Host| {
        let snapshot = host.shared.snapshot_arc();
        let network = snapshot.network(VNI.try_into().unwrap()).unwrap();
        let of = |state: &EndpointState| {
            [&state.tx_frames, &state.tx_bytes, &state.rx_frames, &state.rx_bytes]
                .map(|count| count.load(Relaxed))
        };
        network.endpoints().map(|endpoint| of(&endpoint.state)).collect::<Vec<_>>()
    };
    assert_eq!(passed(&pair.alone), passed(&pair.twin), "frames and bytes of each endpoint");
}

/// A flow that one end keeps state of, which is here as the other one is, stays with the pipeline; one that both keep state of
/// does not.
pub(super) fn state_at_one_end() {
    let groups = |group: &str| format!("groups = [\"{group}\"]");
    let (all, keeps) = (groups("all"), groups("keeps"));
    let ends = [(11, &*all), (12, &*keeps), (21, &*all), (31, &*keeps)];
    let mut pair = Pair::new(HUB, &network(HUB, "", STATELESS, &[2], &ends), 1000);
    let talk = Talk { a: 11, b: 12, sport: 40_000, dport: 443 };
    for (from, frame) in
        [(11, talk.syn()), (12, talk.syn_ack()), (11, talk.data(b"x")), (11, talk.data(b"x"))]
    {
        assert_eq!(pair.send(from, &frame), (Outcome::Forward, false));
    }
    for _ in 0..20 {
        assert_eq!(pair.send(12, &udp(12, 11, 4000, 53)), (Outcome::Forward, false));
    }
    let late = Outcome::Drop(DropReason::NotSyn);
    assert_eq!(pair.send(11, &Talk { sport: 40_001, ..talk }.data(b"x")), (late, false), "12 keeps state");
    // The end without state has no rule for this answer, whatever the other one knows of it.
    assert_eq!(pair.send(12, &udp(12, 11, 4000, 9)), (Outcome::Forward, false));
    let denied = Outcome::Drop(DropReason::EgressDenied);
    assert_eq!(pair.send(11, &udp(11, 12, 9, 4000)), (denied, false));
    // 31's rules are asked where it is: here, only the other end keeps or does not keep state.
    assert_eq!(pair.send(11, &Talk { b: 31, ..talk }.data(b"x")), (Outcome::Forward, true));
    assert_eq!(pair.send(12, &Talk { a: 12, b: 31, ..talk }.syn()), (Outcome::Forward, true));
    assert_eq!(pair.send(31, &Talk { a: 12, b: 31, ..talk }.syn_ack()), (Outcome::Forward, true));
    pair.same();
}
