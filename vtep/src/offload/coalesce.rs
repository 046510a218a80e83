//! Putting consecutive TCP segments together into one GSO packet (GRO), where the Linux kernel would: the
//! port is written to once for dozens of frames, and the payload is not copied.
//!
//! Two frames belong together when cutting the GSO packet gives them back: same Ethernet header, addresses,
//! TTL, TOS, flow label, ports, acknowledgement, window and options, sequence numbers without a gap, equal
//! payload but for a smaller last one, right checksums. PSH ends a run, and every flag but ACK and PSH,
//! fragments, IPv4 options and extension headers, and padding keep a frame out of one. IPv4 IDs count up, or
//! stay the same where DF says that they mean nothing (RFC 6864).

use eastgate_wire::{
    Gso, GsoKind, Offload, PartialChecksum, View,
    checksum::{self, pseudo_header},
    view::{Tcp, Transport, proto, tcp_flags},
};

/// The most segments in one GSO packet.
pub const MAX_SEGMENTS: usize = 64;

/// The largest IP packet, in bytes.
const MAX_PACKET: usize = 65535;

/// Ethernet with two tags, the larger IP header, TCP with all its options.
const MAX_HEADER: usize = 14 + 8 + 40 + 60;

/// Collects a run of frames for one port that all lie in the receive buffer `'b`.
///
/// ```text
/// for (frame, view) in frames_for_port {
///     if !run.push(frame, view) {
///         deliver(run.finish());
///         run.push(frame, view);      // always true after finish
///     }
/// }
/// deliver(run.finish());
/// ```
#[derive(Debug)]
pub struct Coalescer<'b> {
    /// The first frame of the run, as it came
    first: &'b [u8],
    payloads: [&'b [u8]; MAX_SEGMENTS],
    count: usize,
    /// What the run looks like, when it can go on
    shape: Option<Shape>,
    header: [u8; MAX_HEADER],
}

/// What the next segment of a run has to look like.
#[derive(Clone, Copy, Debug)]
struct Shape {
    l3: usize,
    l4: usize,
    /// All headers, in bytes
    headers: usize,
    /// IPv4; nothing for IPv6
    v4: Option<Ids>,
    segment: usize,
    payload: usize,
    next_seq: u32,
    push: bool,
    /// Was the first frame's checksum looked at? Only when there is a second one to merge it with.
    verified: bool,
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Ids {
    first: u16,
    dont_fragment: bool,
    /// Decided by the second segment
    constant: bool,
}

/// A run of frames, ready for the port: `header` and then every one of `payloads`.
#[derive(Debug)]
pub struct GsoPacket<'c, 'b> {
    /// All headers; the whole frame, as it came, when the run is just one
    pub header: &'c [u8],
    /// Payloads, in order; none when the run is just one
    pub payloads: &'c [&'b [u8]],
    /// How it is to be cut, and that its checksum is partial
    pub offload: Offload,
}

impl GsoPacket<'_, '_> {
    /// Bytes of all of it.
    #[must_use]
    pub fn total_len(&self) -> usize {
        self.header.len() + self.payloads.iter().map(|payload| payload.len()).sum::<usize>()
    }

    /// How many frames it stands for.
    #[must_use]
    pub const fn segments(&self) -> usize {
        if self.payloads.is_empty() { 1 } else { self.payloads.len() }
    }
}

impl Default for Coalescer<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'b> Coalescer<'b> {
    /// An empty run.
    #[must_use]
    pub const fn new() -> Self {
        Self { first: &[], payloads: [&[]; MAX_SEGMENTS], count: 0, shape: None, header: [0; MAX_HEADER] }
    }

    /// Adds a frame that has nothing left undone; false when it does not belong to the run, which is then to
    /// be finished first. `view` is the view of `frame`.
    #[inline]
    pub fn push(&mut self, frame: &'b [u8], view: &View) -> bool {
        if self.count == 0 {
            self.begin(frame, view);
            return true;
        }
        let Some(shape) = &mut self.shape else { return false };
        let fits = shape.extend(self.first, frame, view, self.count);
        let (Some(payload), Some(slot)) = (fits, self.payloads.get_mut(self.count)) else { return false };
        *slot = payload;
        self.count += 1;
        shape.closed |= self.count == MAX_SEGMENTS;
        true
    }

    /// The run so far, if there is one; the next frame begins another.
    #[inline]
    pub fn finish(&mut self) -> Option<GsoPacket<'_, 'b>> {
        let count = std::mem::take(&mut self.count);
        let alone = GsoPacket { header: self.first, payloads: &[], offload: Offload::default() };
        match (count, self.shape) {
            (0, _) => None,
            (1, _) | (_, None) => Some(alone),
            (_, Some(shape)) => {
                let header = self.header.get_mut(..shape.headers)?;
                header.copy_from_slice(self.first.get(..shape.headers)?);
                shape.write_header(header)?;
                let offload = shape.offload();
                Some(GsoPacket { header, payloads: self.payloads.get(..count)?, offload })
            }
        }
    }

    fn begin(&mut self, frame: &'b [u8], view: &View) {
        self.first = frame;
        self.count = 1;
        self.shape = Shape::of_first(frame, view);
        if let Some(shape) = &self.shape {
            self.payloads[0] = frame.get(shape.headers..).unwrap_or_default();
        }
    }
}

/// The TCP header of a frame that may be part of a GSO packet.
#[inline]
fn mergeable(frame: &[u8], view: &View) -> Option<(Tcp, bool)> {
    let ip = view.ip()?;
    let Transport::Tcp(tcp) = ip.transport else { return None };
    let v4 = ip.src.is_v4();
    let plain = ip.l4 == view.l3 + if v4 { 20 } else { 40 };
    let unpadded = usize::from(ip.l4) + usize::from(ip.l4_len) == frame.len();
    let data = tcp.flags & !tcp_flags::PSH == tcp_flags::ACK && tcp.payload > 0;
    (plain && unpadded && data && ip.fragment.is_none()).then_some((tcp, v4))
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Shape {
    fn of_first(frame: &[u8], view: &View) -> Option<Self> {
        let (tcp, v4) = mergeable(frame, view)?;
        let ip = view.ip()?;
        let (l3, l4) = (usize::from(view.l3), usize::from(ip.l4));
        let ids = Ids { first: u16_at(frame, l3 + 4)?, dont_fragment: ip.dont_fragment, constant: false };
        let push = tcp.flags & tcp_flags::PSH != 0;
        Some(Self {
            l3,
            l4,
            headers: l4 + usize::from(tcp.header_len),
            v4: v4.then_some(ids),
            segment: usize::from(tcp.payload),
            payload: usize::from(tcp.payload),
            next_seq: tcp.seq.wrapping_add(u32::from(tcp.payload)),
            push,
            verified: false,
            closed: push,
        })
    }

    /// Takes the next segment's payload in, if the segment belongs to the run of `first`.
    #[inline]
    fn extend<'b>(&mut self, first: &[u8], frame: &'b [u8], view: &View, count: usize) -> Option<&'b [u8]> {
        if self.closed || usize::from(view.l3) != self.l3 {
            return None;
        }
        let (tcp, v4) = mergeable(frame, view)?;
        let payload = usize::from(tcp.payload);
        let fits = v4 == self.v4.is_some()
            && self.l4 + usize::from(tcp.header_len) == self.headers
            && tcp.seq == self.next_seq
            && payload <= self.segment
            && self.headers - self.l3 + self.payload + payload <= MAX_PACKET
            && self.same_headers(first, frame)?;
        if !fits {
            return None;
        }
        let ids = self.next_ids(frame, count)?;
        if !self.verified && !self.checksum_right(first)? || !self.checksum_right(frame)? {
            return None;
        }
        self.verified = true;
        self.v4 = ids;
        self.payload += payload;
        self.next_seq = self.next_seq.wrapping_add(payload as u32);
        self.push = tcp.flags & tcp_flags::PSH != 0;
        self.closed = self.push || payload < self.segment;
        frame.get(self.headers..)
    }

    /// All but lengths, IPv4 ID, checksums, sequence number and flags is the same.
    #[inline]
    fn same_headers(&self, a: &[u8], b: &[u8]) -> Option<bool> {
        let (a, b) = (a.get(..self.headers)?, b.get(..self.headers)?);
        let (link_a, a) = a.split_at_checked(self.l3)?;
        let (link_b, b) = b.split_at_checked(self.l3)?;
        let (ip_a, tcp_a) = a.split_at_checked(self.l4 - self.l3)?;
        let (ip_b, tcp_b) = b.split_at_checked(self.l4 - self.l3)?;
        let same = |a: &[u8], b: &[u8], range: std::ops::Range<usize>| a.get(range.clone()) == b.get(range);
        let ip = if self.v4.is_some() {
            same(ip_a, ip_b, 0..2) && same(ip_a, ip_b, 6..10) && same(ip_a, ip_b, 12..20)
        } else {
            same(ip_a, ip_b, 0..4) && same(ip_a, ip_b, 6..40)
        };
        let len = tcp_a.len();
        let tcp = same(tcp_a, tcp_b, 0..4)
            && same(tcp_a, tcp_b, 8..13)
            && same(tcp_a, tcp_b, 14..16)
            && same(tcp_a, tcp_b, 18..len);
        Some(link_a == link_b && ip && tcp)
    }

    /// The IDs with this frame's, if it goes on with them; nothing when it does not.
    #[inline]
    fn next_ids(&self, frame: &[u8], count: usize) -> Option<Option<Ids>> {
        let Some(mut ids) = self.v4 else { return Some(None) };
        let step = u16_at(frame, self.l3 + 4)?.wrapping_sub(ids.first);
        if count == 1 {
            ids.constant = ids.dont_fragment && step == 0;
        }
        (step == if ids.constant { 0 } else { count as u16 }).then_some(Some(ids))
    }

    #[inline]
    fn checksum_right(&self, frame: &[u8]) -> Option<bool> {
        let segment = frame.get(self.l4..)?;
        Some(self.pseudo(frame, segment.len())?.bytes(segment).finish() == 0)
    }

    #[inline]
    fn pseudo(&self, frame: &[u8], l4_len: usize) -> Option<checksum::Sum> {
        let (at, len) = if self.v4.is_some() { (self.l3 + 12, 4) } else { (self.l3 + 8, 16) };
        let (src, dst) = frame.get(at..at + 2 * len)?.split_at_checked(len)?;
        Some(pseudo_header(src, dst, proto::TCP, l4_len as u32))
    }

    /// Makes the first frame's header that of the GSO packet.
    fn write_header(&self, header: &mut [u8]) -> Option<()> {
        let l4_len = self.headers - self.l4 + self.payload;
        let partial = self.pseudo(header, l4_len)?.folded();
        let (ip, tcp) = header.get_mut(self.l3..)?.split_at_mut_checked(self.l4 - self.l3)?;
        if self.v4.is_some() {
            let total_len = (ip.len() + l4_len) as u16;
            ip.get_mut(2..4)?.copy_from_slice(&total_len.to_be_bytes());
            ip.get_mut(10..12)?.fill(0);
            let sum = checksum::checksum(ip);
            ip.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
        } else {
            ip.get_mut(4..6)?.copy_from_slice(&(l4_len as u16).to_be_bytes());
        }
        if self.push {
            *tcp.get_mut(13)? |= tcp_flags::PSH;
        }
        tcp.get_mut(16..18)?.copy_from_slice(&partial.to_be_bytes());
        Some(())
    }

    const fn offload(&self) -> Offload {
        let kind = if self.v4.is_some() { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
        Offload {
            checksum: Some(PartialChecksum { start: self.l4 as u16, offset: 16 }),
            gso: Some(Gso { kind, segment: self.segment as u16 }),
        }
    }
}

#[cfg(test)]
mod tests;
