//! What only a hub does: a GSO packet from one VTEP goes on to another one as it is, and counts once.

use std::sync::Arc;

use eastgate_dataplane::pipeline::Outcome;
use eastgate_testkit::frames::*;
use eastgate_wire::Offload;

use super::{Host, PASS_ON, REDIRECT, SCENES, VNI, devices, tables};
use crate::io::{clock, fastpath::KernelPath};

/// Bytes of a GSO packet's payload, and of its segments: three of them, or too large ones.
const PAYLOAD: usize = 2500;
const SEGMENT: u16 = 1000;
const TOO_LARGE: u16 = 1420;

fn gso_packets_go_on() {
    let scene = SCENES.into_iter().find(|scene| scene.hub && scene.neighbors == "suppress").unwrap();
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], super::gso::TUNNEL_PORT).unwrap());
    let mut host = Host::new(scene, &scene.config(true), Some((kernel.clone(), &devices)));
    let talk = |sport| Talk { a: 21, b: 31, sport, dport: 443 };
    for sport in [2000, 2001] {
        assert_eq!(host.underlay(2, 0, &talk(sport).syn(), Offload::default()).0, Outcome::Forward);
        assert_eq!(host.underlay(3, 0, &talk(sport).syn_ack(), Offload::default()).0, Outcome::Forward);
        assert_eq!(host.underlay(2, 0, &talk(sport).data(b""), Offload::default()).0, Outcome::Forward);
    }
    let carried = host.carried;
    assert!(carried >= 3, "no connection began in the kernel");
    let counts = |host: &Host| {
        let mut counts = None;
        host.shared.for_each_created(clock::now(), |flow| {
            if flow.key.sport == 2001 {
                counts = Some(flow.original);
            }
        });
        counts.expect("a flow that was created")
    };
    let before = (counts(&host), kernel.stats().unwrap());

    let inner = talk(2001).data(&[7; PAYLOAD]);
    let outer = scene.datagram(2, 0, &vxlan(VNI, &inner));
    let run = |segment| kernel.programs().try_program("underlay", &outer, devices[2], segment).unwrap();
    for segment in [TOO_LARGE, 0] {
        let trial = run(segment);
        assert_eq!((trial.verdict, trial.frame), (PASS_ON, outer.clone()), "segments of {segment} bytes");
    }
    let trial = run(SEGMENT);
    assert_eq!(trial.verdict, REDIRECT);
    assert_eq!(scene.read(&trial.frame), (scene.address(3), 0, 64, vxlan(VNI, &inner)));

    let after = (counts(&host), kernel.stats().unwrap());
    assert_eq!(after.0.packets - before.0.packets, PAYLOAD.div_ceil(SEGMENT.into()) as u64);
    assert_eq!(after.0.bytes - before.0.bytes, inner.len() as u64);
    let counted = [
        after.1.from_underlay - before.1.from_underlay,
        after.1.to_underlay - before.1.to_underlay,
        after.1.to_ports - before.1.to_ports,
    ];
    assert_eq!(counted, [1, 1, 0]);
}

#[test]
fn gso_packets_go_from_one_vtep_to_another_as_they_are() {
    if nix::unistd::geteuid().is_root() {
        std::thread::spawn(gso_packets_go_on).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
