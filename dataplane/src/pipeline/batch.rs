//! What a batch of frames came to: the frames to send, in order, as references into the buffers they arrived in.

use std::{net::IpAddr, ops::Range};

use eastgate_wire::{AttachmentId, DropReason, Frame, Offload, Vni, VtepAddr};

use super::{
    answer::AnswerOffer,
    counters::Subject,
    offload::{Handover, Offer},
};

/// Where a frame to send has its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// In the buffer of a received message, by its number
    Received(u32),
    /// In the batch itself: eastgate made it
    Made,
}

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Egress {
    /// Out of an attachment of this host
    Attachment(AttachmentId),
    /// Into the tunnel; the frame then begins with its VXLAN header
    Tunnel(Tunnel),
}

/// The outer header of a encapsulated frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// A VTEP, or a multicast group
    pub to: IpAddr,
    /// Which of the overlay's source ports, by its place in the list
    pub source: u16,
    /// TOS or traffic class
    pub tos: u8,
    /// TTL or hop limit; nothing for the overlay's fixed one
    pub ttl: Option<u8>,
}

/// One frame to send.
#[derive(Clone, Debug)]
pub struct Emit {
    /// Where its bytes are
    pub origin: Origin,
    /// Which bytes, counted from the start of that buffer
    pub range: Range<u32>,
    /// What is left undone in it
    pub offload: Offload,
    /// Where it goes
    pub to: Egress,
    /// The network it belongs to, for counting
    pub vni: Vni,
}

/// What became of a batch.
#[derive(Default, Debug)]
pub struct Report {
    /// Frames sent to ports
    pub to_ports: u64,
    /// Datagrams sent to the underlay
    pub to_underlay: u64,
    /// Frames not sent
    pub dropped: Vec<Undelivered>,
    /// Paths that turned out to be narrower than the link
    pub narrow: Vec<NarrowPath>,
    /// Bursts that the kernel did not take, and that were sent one datagram after the other
    pub bursts_refused: u64,
}

/// Frames of a network that were to be sent, and were not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Undelivered {
    /// Their network
    pub vni: Vni,
    /// Why
    pub reason: DropReason,
    /// How many they are
    pub frames: u32,
    /// The first of them
    pub first: Subject,
}

/// A datagram was too big for its path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NarrowPath {
    /// Where it was going
    pub to: VtepAddr,
    /// From which of the source ports, by its place in the list
    pub source: u16,
    /// The path's MTU in bytes of the outer packet
    pub mtu: u32,
}

impl Report {
    /// Counts frames that were not sent.
    pub fn note_dropped(
        &mut self,
        vni: Vni,
        reason: DropReason,
        frames: u32,
        first: impl FnOnce() -> Subject,
    ) {
        match self.dropped.last_mut() {
            Some(last) if (last.vni, last.reason) == (vni, reason) => last.frames += frames,
            _ => self.dropped.push(Undelivered { vni, reason, frames, first: first() }),
        }
    }
}

/// What is done once the frames to send are sent: packets that the fast path takes must not overtake them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AfterSend {
    /// A flow is handed over.
    Offload(Handover),
    /// Flows like one that was opened may begin elsewhere.
    CachePolicy(Offer),
    /// An answer may be given again elsewhere.
    CacheReply(AnswerOffer),
}

/// The frames to send that one batch of received frames led to, and what is done behind them.
#[derive(Default, Debug)]
pub struct Batch {
    emits: Vec<Emit>,
    made: Vec<u8>,
    after: Vec<AfterSend>,
    message: u32,
    /// Frames that follow are in no received message.
    apart: bool,
}

impl Batch {
    /// Says which received message the frames that follow are in.
    pub fn begin(&mut self, message: usize) {
        (self.message, self.apart) = (message as u32, false);
    }

    /// Says that the frames that follow are in no received message, or again in the one that they were in.
    pub fn set_apart(&mut self, apart: bool) {
        self.apart = apart;
    }

    /// Sends the frame in hand as it is now. Its bytes must not change until the batch is sent.
    pub fn send(&mut self, frame: &Frame<'_>, to: Egress, vni: Vni) {
        if self.apart {
            self.send_made(&[frame.bytes()], to, vni);
            if let Some(emit) = self.emits.last_mut() {
                emit.offload = frame.offload;
            }
            return;
        }
        let range = frame.range();
        self.emits.push(Emit {
            origin: Origin::Received(self.message),
            range: range.start as u32..range.end as u32,
            offload: frame.offload,
            to,
            vni,
        });
    }

    /// Sends a frame that eastgate made.
    pub fn send_made(&mut self, parts: &[&[u8]], to: Egress, vni: Vni) {
        let start = self.made.len() as u32;
        for part in parts {
            self.made.extend_from_slice(part);
        }
        let range = start..self.made.len() as u32;
        self.emits.push(Emit { origin: Origin::Made, range, offload: Offload::default(), to, vni });
    }

    /// Has this done once the frames to send are sent.
    pub fn after_send(&mut self, what: Option<AfterSend>) {
        self.after.extend(what);
    }

    /// What is to be done once they are, in order.
    #[must_use]
    pub fn after(&self) -> &[AfterSend] {
        &self.after
    }

    /// The frames to send.
    #[must_use]
    pub fn emits(&self) -> &[Emit] {
        &self.emits
    }

    /// Puts frames for the same place, of the same network, beside each other; those keep their order.
    pub fn group(&mut self) {
        let key = |emit: &Emit| match emit.to {
            Egress::Attachment(AttachmentId(port)) => (0, 0, port, emit.vni),
            Egress::Tunnel(Tunnel { to, source, .. }) => {
                let to = match to {
                    IpAddr::V4(ip) => u128::from(ip.to_bits()),
                    IpAddr::V6(ip) => ip.to_bits(),
                };
                (1, to, u32::from(source), emit.vni)
            }
        };
        self.emits.sort_by_key(key);
    }

    /// The bytes of frames that eastgate made.
    #[must_use]
    pub fn made(&self) -> &[u8] {
        &self.made
    }

    /// Takes out the frames that `is_taken` says are sent to nobody. It is given those that eastgate made, too.
    pub fn take_out(&mut self, mut is_taken: impl FnMut(&Emit, &[u8]) -> bool) {
        let made = &self.made;
        self.emits.retain(|emit| !is_taken(emit, made));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.emits.clear();
        self.made.clear();
        self.after.clear();
    }
}
