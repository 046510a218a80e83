//! A frame in a buffer with head-room, and what is still to be done to it by whoever sends it.

/// Which transport a GSO packet will be cut at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GsoKind {
    /// TCP over IPv4
    TcpV4,
    /// TCP over IPv6
    TcpV6,
    /// UDP, either family
    Udp,
}

/// A frame that stands for several: the sender left cutting it up to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gso {
    /// What is cut
    pub kind: GsoKind,
    /// Payload bytes of every frame but the last, without any header
    pub segment: u16,
}

/// A transport checksum that the sender left to the device: the one's complement sum from `start` to the end
/// of the frame belongs at `start + offset`; the pseudo-header's sum is already there. Both in bytes; `start`
/// counts from the frame's first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialChecksum {
    /// Where the summed part begins
    pub start: u16,
    /// Where in it the checksum field is
    pub offset: u16,
}

impl PartialChecksum {
    /// Is it the one of SCTP, which is of another kind? No other transport that leaves one open has it there.
    #[must_use]
    pub const fn is_crc32c(&self) -> bool {
        self.offset == 8
    }
}

/// What the sender of a frame left undone, in the terms of a virtio-net header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// The transport checksum is to be finished.
    pub checksum: Option<PartialChecksum>,
    /// The frame is to be cut up.
    pub gso: Option<Gso>,
}

/// A frame somewhere inside a buffer, with room in front of it so that encapsulating never copies.
#[derive(Debug)]
pub struct Frame<'b> {
    buffer: &'b mut [u8],
    start: usize,
    end: usize,
    /// What is still to be done to it
    pub offload: Offload,
}

impl<'b> Frame<'b> {
    /// The frame at `start..end` of `buffer`; both are cut to what the buffer has.
    pub fn new(buffer: &'b mut [u8], start: usize, end: usize, offload: Offload) -> Self {
        let end = end.min(buffer.len());
        Self { start: start.min(end), end, buffer, offload }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The frame's bytes, to be changed.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Has it no bytes?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Where in its buffer the frame lies.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.end
    }

    /// Puts `N` bytes in front of the frame; false, and nothing done, when the head-room is too small.
    #[must_use]
    pub fn push_front<const N: usize>(&mut self, header: [u8; N]) -> bool {
        let Some(start) = self.start.checked_sub(N) else { return false };
        self.buffer[start..self.start].copy_from_slice(&header);
        self.start = start;
        if let Some(sum) = &mut self.offload.checksum {
            sum.start = sum.start.saturating_add(N as u16);
        }
        true
    }

    /// Takes `n` bytes off the front; false, and nothing done, when there are fewer.
    #[must_use]
    pub fn pull_front(&mut self, n: usize) -> bool {
        if n > self.len() {
            return false;
        }
        if let Some(sum) = &mut self.offload.checksum {
            let Some(start) = usize::from(sum.start).checked_sub(n) else { return false };
            sum.start = start as u16;
        }
        self.start += n;
        true
    }

    /// Puts a VLAN tag behind the two addresses; false, and nothing done, when there is no head-room or no
    /// Ethernet header.
    #[must_use]
    pub fn insert_vlan(&mut self, tpid: u16, tci: u16) -> bool {
        if self.len() < 14 || !self.push_front([0; 4]) {
            return false;
        }
        let start = self.start;
        self.buffer.copy_within(start + 4..start + 16, start);
        self.buffer[start + 12..start + 14].copy_from_slice(&tpid.to_be_bytes());
        self.buffer[start + 14..start + 16].copy_from_slice(&tci.to_be_bytes());
        true
    }

    /// Takes the four bytes of the outermost VLAN tag out; false when there is none.
    #[must_use]
    pub fn strip_vlan(&mut self) -> bool {
        if self.len() < 18 {
            return false;
        }
        let start = self.start;
        self.buffer.copy_within(start..start + 12, start + 4);
        self.pull_front(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_room_is_used_and_given_back() {
        let mut buffer = [0u8; 32];
        buffer[8..12].copy_from_slice(b"abcd");
        let mut frame = Frame::new(&mut buffer, 8, 12, Offload::default());
        assert!(frame.push_front(*b"01234567"));
        assert_eq!(frame.bytes(), b"01234567abcd");
        assert!(!frame.push_front([0]));
        assert!(frame.pull_front(10));
        assert_eq!(frame.bytes(), b"cd");
        assert!(!frame.pull_front(3));
    }

    #[test]
    fn checksum_start_moves_with_the_front() {
        let mut buffer = [0u8; 100];
        let partial = PartialChecksum { start: 34, offset: 16 };
        let mut frame = Frame::new(&mut buffer, 8, 100, Offload { checksum: Some(partial), gso: None });
        assert!(frame.push_front([0; 8]));
        assert_eq!(frame.offload.checksum.unwrap().start, 42);
        assert!(frame.pull_front(8));
        assert_eq!(frame.offload.checksum.unwrap().start, 34);
        assert!(!frame.pull_front(35), "the summed part cannot be cut into");
    }

    #[test]
    fn a_vlan_tag_goes_in_and_comes_out() {
        let mut buffer: Vec<u8> = (0..40).collect();
        let before: Vec<u8> = (10..40).collect();
        let mut frame = Frame::new(&mut buffer, 10, 40, Offload::default());
        assert!(frame.insert_vlan(0x8100, 0x2064));
        assert_eq!(
            frame.bytes()[..18],
            [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 0x81, 0, 0x20, 0x64, 22, 23]
        );
        assert!(frame.strip_vlan());
        assert_eq!(frame.bytes(), before);
    }

    #[test]
    fn a_vlan_tag_comes_out() {
        let mut buffer: Vec<u8> = (0..20).collect();
        let mut frame = Frame::new(&mut buffer, 0, 20, Offload::default());
        assert!(frame.strip_vlan());
        assert_eq!(frame.bytes(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19]);
    }
}
