//! Datagrams of which the pipeline has a fragment that the programs could not read: nothing of them passes there.

use eastgate_wire::{Gso, GsoKind};

use super::*;

const GSO: Offload = Offload { checksum: None, gso: Some(Gso { kind: GsoKind::Udp, segment: 8 }) };

fn first_of(id: u16, len: usize) -> Vec<u8> {
    let mut body = vec![0; len];
    body[..6].copy_from_slice(&[0x0b, 0xb8, 0, 53, 0, 200]);
    fragment(11, 12, id, 0, true, &body)
}

fn what_the_programs_cannot_read() {
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    let mut alone = Host::new(scene, &scene.config(true), None);
    let mut twin = Host::new(scene, &scene.config(true), Some((kernel, &devices)));
    let mut both = |frame: &[u8], offload| {
        let (expected, found) = (alone.tenant(11, frame, offload), twin.tenant(11, frame, offload));
        assert_eq!(expected, found);
        (expected.0, twin.carried)
    };
    // The flow is there, so that fragments of it pass in the kernel.
    let (outcome, _) = both(&first_of(1, 64), Offload::default());
    assert_eq!(outcome, Outcome::Forward);
    let (outcome, carried) = both(&first_of(2, 64), Offload::default());
    assert_eq!((outcome, carried > 0), (Outcome::Forward, true));
    let overlap = Outcome::Drop(DropReason::FragmentOverlap);
    // A tag of VLAN 0 says nothing of a network.
    for (id, frame, offload) in
        [(3, tagged(&first_of(3, 64), 0), Offload::default()), (4, first_of(4, 64), GSO)]
    {
        assert_eq!(both(&frame, offload), (Outcome::Forward, carried));
        assert_eq!(both(&first_of(id, 32), Offload::default()), (overlap, carried), "over datagram {id}");
    }
}

#[test]
fn nothing_passes_over_a_fragment_that_the_programs_cannot_read() {
    if nix::unistd::geteuid().is_root() {
        std::thread::spawn(what_the_programs_cannot_read)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
