//! Frames to an attachment: out of its device, with its tag where it is on a VLAN, and with the MACs that a segment is to forward by where it
//! is shared.

use std::os::fd::AsFd;

use eastgate_dataplane::pipeline::batch::{Batch, Emit};
use eastgate_steering::proxy_mac;
use eastgate_vtep::offload::coalesce::{Coalescer, MAX_SEGMENTS};
use eastgate_wire::{AttachmentId, DropReason, Offload, VLAN_TYPE, View, Vni};

use super::{Message, Piece, Sender, header_len, may_merge, piece, slice};
use crate::io::{
    attached::Way,
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
        let Some((socket, way)) = at.and_then(|way| Some((&sockets.devices.get(&way.ifindex)?.socket, way)))
        else {
            return self.drop_group(group, DropReason::PortGone, batch, received);
        };
        self.clear();
        let bytes = |emit: &Emit| slice(emit, batch.made(), received);
        let mut rest = group;
        while let Some(first) = rest.first() {
            let begin = self.pieces.len() as u32;
            let mut taken = 1;
            if rest.len() > 1 && first.offload == Offload::default() && may_merge(bytes(first)) {
                taken = self.merge(rest, &bytes, way, first.vni);
            }
            if taken == 1 {
                self.push_vnet(&first.offload, header_len(bytes(first), &first.offload), way);
                self.push_addressed(piece(first), way, first.vni);
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

    /// The virtio-net header of a frame that gets this tag on top of its own headers, which have `header_len` bytes.
    fn push_vnet(&mut self, offload: &Offload, header_len: u16, way: Way) {
        let tag = if way.vlan.is_some() { TAG_LEN } else { 0 };
        let mut offload = *offload;
        if let Some(sum) = &mut offload.checksum {
            sum.start += tag;
        }
        let header_len = if header_len > 0 { header_len + tag } else { 0 };
        self.vnet_piece(VnetHeader::for_frame(&offload, header_len));
    }

    /// A frame, or its headers, with the tag of its attachment behind the addresses. On a segment that is shared no frame may come from a
    /// machine that is elsewhere on it, and only one is to hear it: what is for many goes to each of them by itself.
    fn push_addressed(&mut self, whole: Piece, way: Way, vni: Vni) {
        if way.vlan.is_none() && way.station.is_none() {
            return self.pieces.push(whole);
        }
        let (addresses, rest) = (whole.len.min(MACS), whole.len.saturating_sub(MACS));
        match way.station {
            Some(station) => self.scratch_piece([station.0, proxy_mac(vni).0].as_flattened()),
            None => self.pieces.push(Piece { len: addresses, ..whole }),
        }
        if let Some(vlan) = way.vlan {
            let ([kind, of_tag], [high, low]) = (VLAN_TYPE.to_be_bytes(), vlan.get().to_be_bytes());
            self.scratch_piece(&[kind, of_tag, high, low]);
        }
        self.pieces.push(Piece { start: whole.start + addresses, len: rest, ..whole });
    }

    /// Merges as many frames from the front of `group` as make one GSO packet and pushes its pieces; 1, and
    /// nothing pushed, when there is nothing to merge.
    fn merge<'a>(&mut self, group: &[Emit], bytes: &impl Fn(&Emit) -> &'a [u8], way: Way, vni: Vni) -> usize {
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
        self.push_vnet(&merged.offload, merged.header.len() as u16, way);
        let headers = self.add_to_scratch(merged.header);
        self.push_addressed(headers, way, vni);
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
    use eastgate_testkit::frames::{Talk, mend};
    use eastgate_wire::{Attachment, Gso, GsoKind, MacAddr, OuterTag, VlanId};

    use super::*;
    use crate::io::{
        clock,
        packet_socket::{self, PacketSocket},
        worker::Device,
    };

    const TRUNK: [&str; 2] = ["tag0", "tag1"];

    fn vni() -> Vni {
        Vni::new_checked(5001).unwrap()
    }

    /// What is heard at the other end of a trunk's cable: VLAN, bytes without the tag, and what is left undone in them.
    fn heard_of(batch: &mut Batch, count: usize) -> Vec<(Option<u16>, Vec<u8>, Offload)> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        for words in ["link add tag0 type veth peer name tag1", "link set tag0 up", "link set tag1 up"] {
            assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
        }
        // A device throws away what it is given before the kernel has seen to it that it is up.
        eastgate_testkit::wait::wait_for("the pair is up", || {
            let links = Command::new("ip").args(["-o", "link", "show", "up"]).output().unwrap();
            String::from_utf8_lossy(&links.stdout).matches("state UP").count() == 2
        });
        let [trunk, other] = TRUNK.map(|name| nix::net::if_::if_nametoindex(name).unwrap());
        let heard = PacketSocket::open(other, 1).unwrap().remove(0);
        let mut sockets = Sockets::default();
        let socket = PacketSocket::open_sender(trunk).unwrap();
        sockets.devices.insert(trunk, Device { socket, trunk: Some(AttachmentId(2)) });
        let attached = Arc::make_mut(&mut sockets.attached);
        for (id, vlan) in [(1, VlanId::new_checked(100)), (2, None)] {
            attached.attach(AttachmentId(id), trunk, &Attachment::trunk(TRUNK[0].into(), vlan));
        }
        for (id, vlan) in [(3, VlanId::new_checked(300)), (4, VlanId::new_checked(300))] {
            let station = MacAddr(eastgate_testkit::frames::mac(id as u8));
            attached.attach(AttachmentId(id), trunk, &Attachment::shared(TRUNK[0].into(), vlan, station));
        }
        batch.group();
        let mut received = RecvBatch::new();
        let report = Sender::new().send(batch, &received, &sockets);
        assert_eq!((report.to_ports, report.dropped.len()), (batch.emits().len() as u64, 0));
        let (mut all, until) = (Vec::new(), clock::now() + Duration::from_secs(10));
        while all.len() < count && clock::now() < until {
            let messages = heard.recv(&mut received).unwrap_or_default();
            for message in 0..messages {
                let found = packet_socket::received(&mut received, message).unwrap();
                let vlan = match found.outer_tag() {
                    OuterTag::Vlan(vlan) => Some(vlan.get()),
                    _ => None,
                };
                let frame = found.without_tag();
                // What the kernel says by itself on a new device is not ours.
                let own = [MacAddr(eastgate_testkit::frames::mac(11)), proxy_mac(vni())];
                if own.iter().any(|mac| frame.bytes()[6..12] == mac.0) {
                    all.push((vlan, frame.bytes().to_vec(), frame.offload));
                }
            }
        }
        all.sort_by_key(|(vlan, ..)| *vlan);
        all
    }

    fn tagged_as_its_attachment_is() {
        let frame = eastgate_testkit::frames::udp(11, 12, 4000, 443);
        let mut batch = Batch::default();
        for to in [1, 2] {
            batch.send_made(&[&frame], Egress::Attachment(AttachmentId(to)), vni());
        }
        let expected = [None, Some(100)].map(|vlan| (vlan, frame.clone(), Offload::default()));
        assert_eq!(heard_of(&mut batch, 2), expected);
    }

    /// Segments that stand beside each other leave as one GSO packet, with a tag and without.
    fn merged_with_a_tag() {
        let talk = Talk { a: 11, b: 12, sport: 4000, dport: 443 };
        let first = talk.data(&[7; 500]);
        let mut second = talk.data(&[7; 500]);
        second[38..42].copy_from_slice(&1501u32.to_be_bytes());
        mend(&mut second);
        let mut batch = Batch::default();
        for to in [1, 2] {
            for frame in [&first, &second] {
                batch.send_made(&[frame], Egress::Attachment(AttachmentId(to)), vni());
            }
        }
        let found = heard_of(&mut batch, 2);
        assert_eq!(found.iter().map(|(vlan, ..)| *vlan).collect::<Vec<_>>(), [None, Some(100)]);
        for (_, bytes, offload) in found {
            assert_eq!((bytes.len(), &bytes[54..]), (54 + 1000, &[7; 1000][..]));
            assert_eq!(offload.gso, Some(Gso { kind: GsoKind::TcpV4, segment: 500 }));
        }
    }

    /// Each machine of a segment gets its own copy, from the appliance, whomever it was for and from; GSO packets too.
    fn addressed_as_a_shared_segment_forwards() {
        let talk = Talk { a: 11, b: 12, sport: 4000, dport: 443 };
        let mut to_all = eastgate_testkit::frames::udp(11, 12, 4000, 443);
        to_all[..6].fill(0xff);
        let first = talk.data(&[7; 500]);
        let mut second = talk.data(&[7; 500]);
        second[38..42].copy_from_slice(&1501u32.to_be_bytes());
        mend(&mut second);
        let mut batch = Batch::default();
        for to in [3, 4] {
            batch.send_made(&[&to_all], Egress::Attachment(AttachmentId(to)), vni());
        }
        for frame in [&first, &second] {
            batch.send_made(&[frame], Egress::Attachment(AttachmentId(3)), vni());
        }
        let found = heard_of(&mut batch, 3);
        assert!(
            found.iter().all(|(vlan, bytes, _)| *vlan == Some(300) && bytes[6..12] == proxy_mac(vni()).0)
        );
        let to = |mac: u8| {
            found.iter().filter(move |(_, bytes, _)| bytes[..6] == eastgate_testkit::frames::mac(mac))
        };
        assert_eq!((to(3).count(), to(4).count()), (2, 1));
        let (_, bytes, offload) = to(3).find(|(_, bytes, _)| bytes.len() > 1000).unwrap();
        assert_eq!((&bytes[54..], offload.gso.map(|gso| gso.segment)), (&[7; 1000][..], Some(500)));
        assert!(to(4).all(|(_, bytes, _)| bytes[12..] == to_all[12..]));
    }

    #[test]
    fn frames_leave_with_the_tag_of_their_attachment() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        for test in [tagged_as_its_attachment_is, merged_with_a_tag, addressed_as_a_shared_segment_forwards] {
            std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}
