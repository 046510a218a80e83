//! What helpers expect: the programs leave it, and nothing else that the rules refuse, to the pipeline; and they carry what has begun.

use super::*;

/// All ask and serve.
const FILES: &str = "[tenant.acme.group.all]\n\
     egress = [{ proto = \"udp\", ports = 69, to = \"any\", helper = \"tftp\" }, \
     { proto = \"tcp\", ports = 21, to = \"any\", helper = \"ftp\" }]\n\
     ingress = [{ proto = \"udp\", ports = 69, from = \"any\", helper = \"tftp\" }, \
     { proto = \"tcp\", ports = 21, from = \"any\", helper = \"ftp\" }]\n";

fn datagram(a: u8, b: u8, ports: [u16; 2], payload: &[u8], v6: bool) -> Vec<u8> {
    let ip = if v6 { ip6(a, b) } else { ip4(a, b, |_| ()) };
    udp_of(ip, ports[0], ports[1], payload)
}

const REQUEST: &[u8] = b"\0\x01file\0octet\0";
/// Of a length that the programs take out of any tunnel
const DATA: &[u8] = b"\0\x03\0\x01thirty-three bytes altogether";

fn transfers_in(scene: Scene) {
    let text = network(scene, "", FILES, &[], &[(11, ""), (12, ""), (21, "")]);
    let mut pair = Pair::new(scene, &text, 1000);
    let expected = |pair: &Pair| {
        pair.kernel.programs().punts().unwrap()[PUNTS.iter().position(|name| *name == "expected").unwrap()]
    };
    let (by_programs, by_pipeline) = (true, false);
    for (v6, (client, server)) in
        [false, true].into_iter().flat_map(|v6| [(11, 12), (11, 21), (21, 12)].map(|ends| (v6, ends)))
    {
        let what = format!("{client} from {server}, v6: {v6}");
        // The rules of who is behind another eastgate are asked there.
        let why = if scene.vtep_of(server).is_some() {
            DropReason::IngressDenied
        } else {
            DropReason::EgressDenied
        };
        let denied = (Outcome::Drop(why), by_programs);
        let forward = |by| (Outcome::Forward, by);
        let data = |sport, dport| datagram(server, client, [sport, dport], DATA, v6);
        assert_eq!(pair.send(server, &data(50_000, 40_000)), denied, "{what}: before it is asked");
        let punted = expected(&pair);
        let request = datagram(client, server, [40_000, 69], REQUEST, v6);
        assert_eq!(pair.send(client, &request), forward(by_pipeline), "{what}");
        assert_eq!(pair.send(server, &data(50_000, 40_001)), denied, "{what}: another port");
        assert_eq!(pair.send(server, &data(50_000, 40_000)), forward(by_pipeline), "{what}");
        assert_eq!(expected(&pair), punted + 1);
        assert_eq!(pair.send(server, &data(50_001, 40_000)), denied, "{what}: again");
        for _ in 0..8 {
            let _ = pair.send(server, &data(50_000, 40_000));
        }
        assert_eq!(pair.send(server, &data(50_000, 40_000)), forward(by_programs), "{what}: it has settled");
        // The control flow never does.
        for _ in 0..20 {
            assert_eq!(pair.send(client, &request), forward(by_pipeline), "{what}");
        }
        // That has made the same expected again.
        pair.alone.shared.end_flows(&|flow| flow.key.dport == 69, 9, clock::now());
        pair.twin.shared.end_flows(&|flow| flow.key.dport == 69, 9, clock::now());
        assert_eq!(pair.send(server, &data(50_002, 40_000)), denied, "{what}: without its control flow");
        pair.same();
    }
    let talk = Talk { a: 11, b: 12, sport: 40_000, dport: 21 };
    let passive = b"227 Entering Passive Mode (10,1,0,12,195,80)\r\n";
    let data = Talk { sport: 40_001, dport: 50_000, ..talk };
    assert_eq!(pair.send(11, &data.syn()), (Outcome::Drop(DropReason::EgressDenied), by_programs));
    for (from, frame) in
        [(11, talk.syn()), (12, talk.syn_ack()), (11, talk.data(b"PASV\r\n")), (12, talk.answer(passive))]
    {
        assert_eq!(pair.send(from, &frame), (Outcome::Forward, by_pipeline));
    }
    assert_eq!(pair.send(11, &data.syn()), (Outcome::Forward, by_pipeline));
    assert_eq!(
        pair.send(11, &Talk { sport: 40_002, ..data }.syn()),
        (Outcome::Drop(DropReason::EgressDenied), by_programs)
    );
    pair.same();
    // Without its helper none of it passes any more, and with the next packet all know.
    let transfer = datagram(12, 11, [50_000, 40_000], DATA, false);
    assert_eq!(pair.send(12, &transfer), (Outcome::Forward, by_programs));
    pair.install(&text.replace(", helper = \"tftp\"", ""));
    assert_eq!(pair.send(12, &transfer), (Outcome::Drop(DropReason::PolicyChanged), by_pipeline));
    assert_eq!(pair.send(12, &transfer), (Outcome::Drop(DropReason::EgressDenied), by_programs));
    pair.same();
}

pub(super) fn what_is_expected() {
    for scene in [MESH, MESH_V6, HUB] {
        transfers_in(scene);
    }
}
