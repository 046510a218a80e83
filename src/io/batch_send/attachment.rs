//! Frames to an attachment: out of its device, with its tag where it is on a VLAN.

use std::os::fd::AsFd;

use eastgate_dataplane::pipeline::batch::{Batch, Emit};
use eastgate_vtep::offload::coalesce::{Coalescer, MAX_SEGMENTS};
use eastgate_wire::{AttachmentId, DropReason, Offload, View, VlanId};

use super::{Message, Piece, Sender, header_len, may_merge, piece, slice};
use crate::io::{
    mmsg::{RecvBatch, VnetHeader},
    worker::Sockets,
};

/// Bytes of a VLAN tag (IEEE 802.1Q section 9.3), and of the addresses in front of it
const TAG_LEN: u16 = 4;
const MACS: u32 = 12;

impl Sender {
    pub(super) fn send_to_attachment(
        &mut self,
        to: AttachmentId,
        group: &[Emit],
        batch: &Batch,
        received: &RecvBatch,
        sockets: &Sockets,
    ) {
        let at = sockets.attached.egress(to);
        let Some((socket, vlan)) =
            at.and_then(|(ifindex, vlan)| Some((sockets.devices.get(&ifindex)?, vlan)))
        else {
            return self.drop_group(group, DropReason::PortGone);
        };
        self.clear();
        let bytes = |emit: &Emit| slice(emit, batch, received);
        let mut rest = group;
        while let Some(first) = rest.first() {
            let begin = self.pieces.len() as u32;
            let mut taken = 1;
            if let Some(vlan) = vlan {
                self.push_tagged(first, bytes(first), vlan);
            } else {
                if rest.len() > 1 && first.offload == Offload::default() && may_merge(bytes(first)) {
                    taken = self.merge(rest, &bytes);
                }
                if taken == 1 {
                    let header_len = header_len(bytes(first), &first.offload);
                    self.vnet_piece(VnetHeader::for_frame(&first.offload, header_len));
                    self.pieces.push(piece(first));
                }
            }
            self.messages.push(Message {
                pieces: begin..self.pieces.len() as u32,
                frames: taken as u32,
                vni: first.vni,
                segment: None,
                outer: None,
            });
            rest = rest.get(taken..).unwrap_or_default();
        }
        let sent = self.transmit(socket.as_fd(), None, batch, received, |error| match error.raw_os_error() {
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => DropReason::PortGone,
            Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM) => DropReason::QueueFull,
            Some(libc::EMSGSIZE) => DropReason::TooBig,
            _ => DropReason::DeviceError,
        });
        self.report.to_ports += sent;
    }

    /// A frame with the tag of its attachment behind its addresses.
    fn push_tagged(&mut self, emit: &Emit, bytes: &[u8], vlan: VlanId) {
        let header_len = header_len(bytes, &emit.offload);
        let mut offload = emit.offload;
        if let Some(sum) = &mut offload.checksum {
            sum.start += TAG_LEN;
        }
        let header_len = if header_len > 0 { header_len + TAG_LEN } else { 0 };
        self.vnet_piece(VnetHeader::for_frame(&offload, header_len));
        let whole = piece(emit);
        let (addresses, rest) = (whole.len.min(MACS), whole.len.saturating_sub(MACS));
        self.pieces.push(Piece { len: addresses, ..whole });
        let [high, low] = vlan.get().to_be_bytes();
        self.scratch_piece(&[0x81, 0x00, high, low]);
        self.pieces.push(Piece { start: whole.start + addresses, len: rest, ..whole });
    }

    /// Merges as many frames from the front of `group` as make one GSO packet and pushes its pieces; 1, and
    /// nothing pushed, when there is nothing to merge.
    fn merge<'a>(&mut self, group: &[Emit], bytes: &impl Fn(&Emit) -> &'a [u8]) -> usize {
        let mut run = Coalescer::new();
        let mut taken = 0;
        for emit in group.iter().take(MAX_SEGMENTS).take_while(|emit| emit.offload == Offload::default()) {
            let frame = bytes(emit);
            match View::parse(frame) {
                Ok(view) if run.push(frame, &view) => taken += 1,
                _ => break,
            }
        }
        let Some(merged) = run.finish().filter(|merged| !merged.payloads.is_empty()) else { return 1 };
        self.vnet_piece(VnetHeader::for_frame(&merged.offload, merged.header.len() as u16));
        self.scratch_piece(merged.header);
        for (emit, payload) in group.iter().zip(merged.payloads) {
            // A frame that was merged ends with its payload: no padding.
            let whole = piece(emit);
            let start = whole.start + whole.len - payload.len() as u32;
            self.pieces.push(Piece { start, len: payload.len() as u32, ..whole });
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, sync::Arc, time::Duration};

    use eastgate_dataplane::pipeline::batch::Egress;
    use eastgate_wire::{Attachment, Vni};

    use super::*;
    use crate::io::{
        clock,
        packet_socket::{self, PacketSocket, Received},
    };

    /// A frame to an attachment on a VLAN of one end of a veth pair is heard at the other end with that tag.
    fn tagged_as_its_attachment_is() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        for words in ["link add tag0 type veth peer name tag1", "link set tag0 up", "link set tag1 up"] {
            assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
        }
        // A device throws away what it is given before the kernel has seen to it that it is up.
        eastgate_testkit::wait::wait_for("the pair is up", || {
            let links = Command::new("ip").args(["-o", "link", "show", "up"]).output().unwrap();
            String::from_utf8_lossy(&links.stdout).matches("state UP").count() == 2
        });
        let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        let heard = PacketSocket::open(index("tag1"), 1).unwrap().remove(0);
        let mut sockets = Sockets::default();
        sockets.devices.insert(index("tag0"), PacketSocket::open_sender(index("tag0")).unwrap());
        let access = Attachment::access("tag0".into());
        let attached = Arc::make_mut(&mut sockets.attached);
        attached.attach(
            AttachmentId(1),
            index("tag0"),
            &Attachment { vlan: VlanId::new_checked(100), ..access.clone() },
        );
        attached.attach(AttachmentId(2), index("tag0"), &access);

        let frame = eastgate_testkit::frames::udp(11, 12, 4000, 443);
        let vni = Vni::new_checked(5001).unwrap();
        let mut batch = Batch::default();
        for to in [1, 2] {
            batch.send_made(&[&frame], Egress::Attachment(AttachmentId(to)), vni);
        }
        batch.group();
        let mut received = RecvBatch::new();
        let report = Sender::new().send(&batch, &received, &sockets);
        assert_eq!((report.to_ports, report.dropped.len()), (2, 0));
        let (mut tags, until) = (Vec::new(), clock::now() + Duration::from_secs(10));
        while tags.len() < 2 && clock::now() < until {
            // What the kernel says by itself on a new device is not ours.
            let count = heard.recv(&mut received).unwrap_or_default();
            for message in 0..count {
                let found = packet_socket::received(&mut received, message).unwrap();
                let vlan = found.vlan().map(VlanId::get);
                if Received::without_tag(found).bytes() == frame {
                    tags.push(vlan);
                }
            }
        }
        tags.sort_unstable();
        assert_eq!(tags, [None, Some(100)]);
    }

    #[test]
    fn frames_leave_with_the_tag_of_their_attachment() {
        if nix::unistd::geteuid().is_root() {
            std::thread::spawn(tagged_as_its_attachment_is)
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}
