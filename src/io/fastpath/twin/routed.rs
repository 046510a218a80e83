//! Scenes in which the kernel routes between the endpoints of this host.

use eastgate_wire::{Attachment, AttachmentId, checksum::checksum};

use super::{
    Host, VNI,
    scene::Scene,
    traffic::{self, Dice},
};
use crate::io::fastpath::KernelAttachment;

/// Where a frame that a program carries leaves. What the kernel is to route has the MAC of its device, whoever it is for.
pub(super) fn receiver(host: &Host, frame: &[u8]) -> AttachmentId {
    let snapshot = host.shared.snapshot();
    let network = snapshot.network(VNI.try_into().unwrap()).unwrap();
    let entry = network.kernel_entry.filter(|_| frame[..6] == network.proxy_mac.0);
    entry.unwrap_or_else(|| host.port(frame[5]))
}

/// How an endpoint of this host is attached; where the kernel routes, with a device by which it would get packets.
pub(super) fn attachment(
    scene: Scene,
    devices: &[u32],
    attachment: Attachment,
    ifindex: u32,
) -> KernelAttachment {
    let entry = scene.is_routed().then_some(devices[2]);
    KernelAttachment { attachment, ifindex, is_veth: true, entry }
}

/// The programs answer most requests again, but for those that are the kernel's to answer.
pub(super) fn enough_answers(scene: Scene, repeated: u64, answered: u64) {
    let enough = repeated * 4 > answered || scene.is_routed();
    assert!(enough, "the programs answered only {repeated} of {answered} requests");
}

/// Changes some frames; where the kernel routes, gives some packets a TTL or hop limit that ends at the next router, too.
pub(super) fn disturb(scene: Scene, is_request: bool, dice: &mut Dice, frame: &mut Vec<u8>) {
    // Each takes its flow back from the programs for a while.
    if scene.is_routed() && !is_request && dice.one_in(200) {
        end_there(frame);
    }
    traffic::disturb(dice, frame);
}

fn end_there(frame: &mut [u8]) {
    match frame.get(12..14) {
        Some([0x86, 0xdd]) if frame.len() > 21 => frame[21] = 1,
        Some([0x08, 0x00]) if frame.len() > 14 => {
            let len = usize::from(frame[14] & 0x0f) * 4;
            let Some(header) = frame.get_mut(14..14 + len).filter(|header| header.len() >= 20) else {
                return;
            };
            header[8] = 1;
            header[10..12].fill(0);
            let sum = checksum(header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
        }
        _ => {}
    }
}
