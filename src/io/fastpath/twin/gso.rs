//! Frames that stand for several (GSO). From a port they are carried as they are. From the underlay they are only
//! sent on to the kernel's own tunnel device, where the flow is asked again: a trial has no such device, so that here
//! the pipeline has the last word, and may not refuse what the program took for one that passes.

use eastgate_dataplane::pipeline::Outcome;
use eastgate_testkit::frames::vxlan;
use eastgate_vtep::offload::note_unfinished_checksum;
use eastgate_wire::{Frame, Gso, GsoKind, Offload, View};

use super::{Conversation, Dice, Entry, Host, PASS_ON, Scene, VNI, Verdict, segment};

/// Where the kernel's own tunnel device listens.
pub(super) const TUNNEL_PORT: u16 = 14_789;
/// A trial has one page for the frame, and for what the kernel needs around it.
const MOST: usize = 3000;

/// The payload that a GSO packet of this conversation carries, and its segments: mostly a few that fit, sometimes one,
/// sometimes such as do not fit.
pub(super) fn roll(dice: &mut Dice, talk: &Conversation) -> (usize, Offload) {
    let size: u16 = [16, 100, 500, 1000, 1390, 1410, 1440][dice.roll(7)];
    let len = (usize::from(size) * dice.roll(4) + dice.roll(usize::from(size))).min(MOST);
    let kind = match (talk.tcp, talk.v6) {
        (true, false) => GsoKind::TcpV4,
        (true, true) => GsoKind::TcpV6,
        (false, _) => GsoKind::Udp,
    };
    (len, Offload { checksum: None, gso: Some(Gso { kind, segment: size }) })
}

/// What is left to cut of the next frame of this conversation. A trial says nothing of the kind of a GSO packet, without
/// which the kernel makes no room in front of it: what TCP sends into the tunnel is tried uncut by the labs alone. What
/// goes from one VTEP to another is tried in `hub`.
pub(super) fn as_tried(scene: Scene, talk: &Conversation, sender: u8, offload: Offload) -> Offload {
    let into_the_tunnel = talk.ends.iter().any(|end| *end != sender && scene.vtep_of(*end).is_some());
    let from_it = scene.vtep_of(sender).is_some();
    if into_the_tunnel && (talk.tcp || from_it) { Offload::default() } else { offload }
}

/// Would the pipeline take the frame for one of this very machine that nobody has cut? Of frames that come from another
/// one 1 in 65,536 looks so; the programs are told by the kernel.
pub(super) fn seems_uncut(frame: &[u8]) -> bool {
    let Ok(view) = View::parse(frame) else { return false };
    let mut bytes = frame.to_vec();
    let mut frame = Frame::new(&mut bytes, 0, usize::MAX, Offload::default());
    note_unfinished_checksum(&mut frame, &view);
    frame.offload.checksum.is_some()
}

impl Host {
    /// A GSO packet from the underlay. What the program decides is nothing yet that the flow remembers.
    pub(super) fn underlay_uncut(&mut self, from: u8, tos: u8, frame: &[u8], offload: Offload) -> Verdict {
        let to_device = self.kernel.as_ref().is_some_and(|kernel| {
            let outer = self.scene.datagram(from, tos, &vxlan(VNI, frame));
            // Behind it are the UDP header's length and checksum, and the VXLAN header.
            let port = self.scene.around() - 14..self.scene.around() - 12;
            let trial =
                kernel.programs().try_program("underlay", &outer, self.ports[2], segment(&offload)).unwrap();
            assert_eq!((trial.verdict, trial.segment), (PASS_ON, segment(&offload)));
            let changed = trial.frame[port.clone()] == TUNNEL_PORT.to_be_bytes();
            let mut expected = outer;
            if changed {
                expected[port].copy_from_slice(&TUNNEL_PORT.to_be_bytes());
            }
            assert_eq!(trial.frame, expected, "only the port may change");
            changed
        });
        self.decapsulated += u64::from(to_device);
        self.punted += u64::from(!to_device && self.kernel.is_some());
        let verdict = self.pipeline(Entry::Vtep(from, tos), &vxlan(VNI, frame), offload);
        assert!(!to_device || verdict.0 == Outcome::Forward, "{verdict:?} of what the program lets pass");
        verdict
    }
}
