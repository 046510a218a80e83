//! Flows of endpoints that say how long these last: the pipeline begins them, the programs carry them.

use super::*;

pub(super) fn ends_that_have_their_own() {
    const OWN: &str = "timeouts = { udp_first = 77, tcp_established = 9000 }";
    for scene in [MESH, HUB] {
        let text = |of_11: &str| {
            let endpoints = [(11, of_11), (12, OWN), (21, ""), (22, OWN)];
            network(scene, "", EVERYONE, &[], &endpoints)
        };
        let mut pair = Pair::new(scene, &text(""), 1000);
        pair.prime(11, 21);
        each_kind(&mut pair, 11, 21, true);
        for own in [12, 22] {
            each_kind(&mut pair, 11, own, false);
            if own == 12 {
                each_kind(&mut pair, own, 21, false);
            }
            // Nor are policy-cache entries left for others like it.
            for sport in [1, 2] {
                assert_eq!(pair.send(11, &unconfigured(own, sport, 9)), (Outcome::Forward, false));
            }
            // What has settled is carried.
            let talk = Talk { a: 11, b: own, sport: 3000, dport: 443 };
            for (from, frame) in [(11, talk.syn()), (own, talk.syn_ack()), (11, talk.data(b""))] {
                assert_eq!(pair.send(from, &frame), (Outcome::Forward, false));
            }
            assert_eq!(pair.send(own, &talk.answer(b"rows")).0, Outcome::Forward);
            // It stays for a few packets first.
            let carried = (0..8).map(|_| pair.send(11, &talk.data(b"ask"))).find(|(_, carried)| *carried);
            assert_eq!(carried, Some((Outcome::Forward, true)));
        }
        // Flows that have begun in the kernel before an end of theirs had any
        pair.install(&text(OWN));
        pair.sweep();
        for (port, frame) in [(2000, udp(11, 21, 2000, 443)), (2001, udp(11, 21, 2001, 443))] {
            assert_eq!(pair.send(11, &frame), (Outcome::Forward, false), "from port {port}");
        }
        pair.same();
        // And those that begin when none has them any more
        pair.install(&text(""));
        assert_eq!(pair.send(11, &udp(11, 21, 2002, 443)), (Outcome::Forward, true));
        pair.same();
    }
}
