//! Cutting a GSO packet (GSO) into the frames it stands for, as the Linux kernel does, straight into the
//! buffer that leaves for the underlay.

use eastgate_wire::{
    DropReason, Gso, GsoKind, View,
    checksum::{self, Sum},
    view::{Ip, Transport, tcp_flags},
};

use super::udp_checksum;

/// The smallest segment that is cut, in bytes of payload: the kernel's own bound (`TCP_MIN_GSO_SIZE`). Below
/// it a GSO packet would be mostly headers: an amplifier.
pub const MIN_SEGMENT: u16 = 8;

/// TCP's congestion window reduced flag: meant once, so only the first segment has it.
const CWR: u8 = 0x80;

/// How the segments lie in the output, one after the other, each with its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// How many
    pub count: usize,
    /// Bytes of each but the last, prefix included
    pub size: usize,
    /// Bytes of the last, prefix included; at most `size`
    pub last: usize,
}

impl Layout {
    /// Bytes of all together.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.size * self.count.saturating_sub(1) + self.last
    }
}

/// Cuts `frame` into frames with `gso.segment` bytes of payload and appends them to `out`, each behind a copy
/// of `prefix` (the VXLAN header). All but the last are equal in size, so `out` can be handed to UDP GSO.
///
/// Every segment has its own IP length, an IPv4 ID that counts up, its own sequence number (TCP) or length
/// (UDP), and a full checksum, also where the GSO packet's was partial. FIN and PSH are on the last segment
/// only, CWR on the first only. A UDP checksum of zero stays zero. `view` is the view of `frame`.
///
/// # Errors
/// [`DropReason::BadL4Header`] when the frame is not of the kind that `gso` names, is a fragment, or asks for
/// segments below [`MIN_SEGMENT`]. Nothing is appended then.
pub fn segment(
    frame: &[u8],
    view: &View,
    gso: Gso,
    prefix: &[u8],
    out: &mut Vec<u8>,
) -> Result<Layout, DropReason> {
    let cut = Cut::new(frame, view, gso)?;
    let whole = prefix.len() + cut.header.len() + usize::from(gso.segment);
    // An empty payload still makes one frame.
    let count = cut.payload.len().div_ceil(usize::from(gso.segment)).max(1);
    out.reserve(prefix.len() * count + cut.header.len() * count + cut.payload.len());
    let mut chunks = cut.payload.chunks(usize::from(gso.segment));
    let mut last = 0;
    for index in 0..count {
        let chunk = chunks.next().unwrap_or_default();
        last = prefix.len() + cut.header.len() + chunk.len();
        out.extend_from_slice(prefix);
        let at = out.len();
        out.extend_from_slice(cut.header);
        out.extend_from_slice(chunk);
        cut.finish(&mut out[at..], index, count).ok_or(DropReason::BadL4Header)?;
    }
    Ok(Layout { count, size: if count > 1 { whole } else { last }, last })
}

/// What all segments of a GSO packet have in common.
struct Cut<'f> {
    header: &'f [u8],
    payload: &'f [u8],
    l3: usize,
    l4: usize,
    v4: bool,
    id: u16,
    segment: usize,
    l4_kind: L4,
    /// The pseudo-header without its length
    pseudo: Sum,
    /// No checksum at all: UDP, sent with zero
    unsummed: bool,
}

enum L4 {
    Tcp { seq: u32, flags: u8 },
    Udp,
}

impl<'f> Cut<'f> {
    fn new(frame: &'f [u8], view: &View, gso: Gso) -> Result<Self, DropReason> {
        let bad = DropReason::BadL4Header;
        let ip = view.ip().filter(|ip| ip.fragment.is_none() && gso.segment >= MIN_SEGMENT).ok_or(bad)?;
        let v4 = ip.src.is_v4();
        let (l4_kind, header_len) = match (ip.transport, gso.kind, v4) {
            (Transport::Tcp(tcp), GsoKind::TcpV4, true) | (Transport::Tcp(tcp), GsoKind::TcpV6, false) => {
                (L4::Tcp { seq: tcp.seq, flags: tcp.flags }, usize::from(tcp.header_len))
            }
            (Transport::Udp { .. }, GsoKind::Udp, _) => (L4::Udp, 8),
            _ => return Err(bad),
        };
        let (l3, l4) = (usize::from(view.l3), usize::from(ip.l4));
        let packet = frame.get(..l4 + usize::from(ip.l4_len)).ok_or(bad)?;
        let (header, payload) = packet.split_at_checked(l4 + header_len).ok_or(bad)?;
        let id = header.get(l3 + 4..l3 + 6).and_then(|id| id.first_chunk()).copied().ok_or(bad)?;
        let unsummed = matches!(l4_kind, L4::Udp) && header.get(l4 + 6..l4 + 8) == Some(&[0, 0]);
        Ok(Self {
            header,
            payload,
            l3,
            l4,
            v4,
            id: u16::from_be_bytes(id),
            segment: usize::from(gso.segment),
            l4_kind,
            pseudo: pseudo_without_len(header, l3, ip).ok_or(bad)?,
            unsummed,
        })
    }

    /// Writes into a segment, which has the GSO packet's header so far, what is its own.
    #[inline]
    fn finish(&self, segment: &mut [u8], index: usize, count: usize) -> Option<()> {
        let end = segment.len();
        let (ip, l4) = segment.get_mut(self.l3..)?.split_at_mut_checked(self.l4 - self.l3)?;
        let l4_len = (end - self.l4) as u16;
        if self.v4 {
            let total_len = (end - self.l3) as u16;
            ip.get_mut(2..4)?.copy_from_slice(&total_len.to_be_bytes());
            ip.get_mut(4..6)?.copy_from_slice(&self.id.wrapping_add(index as u16).to_be_bytes());
            ip.get_mut(10..12)?.fill(0);
            let sum = checksum::checksum(ip);
            ip.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
        } else {
            let payload_len = (end - self.l3 - 40) as u16;
            ip.get_mut(4..6)?.copy_from_slice(&payload_len.to_be_bytes());
        }
        let sum_at = match self.l4_kind {
            L4::Tcp { seq, flags } => {
                let seq = seq.wrapping_add((index * self.segment) as u32);
                l4.get_mut(4..8)?.copy_from_slice(&seq.to_be_bytes());
                let only_first = if index > 0 { CWR } else { 0 };
                let only_last = if index + 1 < count { tcp_flags::FIN | tcp_flags::PSH } else { 0 };
                *l4.get_mut(13)? = flags & !only_first & !only_last;
                16
            }
            L4::Udp => {
                l4.get_mut(4..6)?.copy_from_slice(&l4_len.to_be_bytes());
                6
            }
        };
        if self.unsummed {
            return Some(());
        }
        l4.get_mut(sum_at..sum_at + 2)?.fill(0);
        let sum = self.pseudo.word(l4_len).bytes(l4).finish();
        let sum = if matches!(self.l4_kind, L4::Udp) { udp_checksum(sum) } else { sum };
        l4.get_mut(sum_at..sum_at + 2)?.copy_from_slice(&sum.to_be_bytes());
        Some(())
    }
}

fn pseudo_without_len(header: &[u8], l3: usize, ip: &Ip) -> Option<Sum> {
    let (at, len) = if ip.src.is_v4() { (l3 + 12, 4) } else { (l3 + 8, 16) };
    let (src, dst) = header.get(at..at + 2 * len)?.split_at(len);
    Some(checksum::pseudo_header(src, dst, ip.proto, 0))
}

#[cfg(test)]
mod tests;
