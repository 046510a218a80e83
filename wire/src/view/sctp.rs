//! SCTP (RFC 9260): ports, verification tag, and which chunks a packet has that mean something to its association.
//!
//! What its receiver would not get to is not counted either: chunks behind one whose type no receiver need know (section 3.2), a
//! chunk that is cut off, an ABORT whose causes do not fill it or that comes behind data (section 6.10).

use super::Transport;
use crate::DropReason;

/// What an SCTP packet says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sctp {
    /// Source port
    pub sport: u16,
    /// Destination port
    pub dport: u16,
    /// Verification tag
    pub tag: u32,
    /// Its chunks
    pub chunks: Chunks,
    /// The tag that an INIT or INIT ACK asks for; never 0 there
    pub initiate: u32,
    /// The T bit of an ABORT or SHUTDOWN COMPLETE: the tag is the one that its receiver sends by.
    pub reflects: bool,
}

/// Types of chunks, as a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chunks(u16);

impl Chunks {
    /// User data
    pub const DATA: Self = Self(1);
    /// Asks for an association
    pub const INIT: Self = Self(1 << 1);
    /// Answers an INIT
    pub const INIT_ACK: Self = Self(1 << 2);
    /// Acknowledges data
    pub const SACK: Self = Self(1 << 3);
    /// Asks whether a path is there
    pub const HEARTBEAT: Self = Self(1 << 4);
    /// Answers a HEARTBEAT
    pub const HEARTBEAT_ACK: Self = Self(1 << 5);
    /// Ends an association at once
    pub const ABORT: Self = Self(1 << 6);
    /// There will be no more data
    pub const SHUTDOWN: Self = Self(1 << 7);
    /// Answers a SHUTDOWN
    pub const SHUTDOWN_ACK: Self = Self(1 << 8);
    /// Tells of an error
    pub const ERROR: Self = Self(1 << 9);
    /// Brings an INIT ACK's cookie back
    pub const COOKIE_ECHO: Self = Self(1 << 10);
    /// Answers a COOKIE ECHO
    pub const COOKIE_ACK: Self = Self(1 << 11);
    /// Answers a SHUTDOWN ACK
    pub const SHUTDOWN_COMPLETE: Self = Self(1 << 14);
    /// Any other type
    pub const OTHER: Self = Self(1 << 15);

    /// Are these all there is?
    #[must_use]
    pub const fn is(self, these: Self) -> bool {
        self.0 == these.0
    }

    /// Is any of these there?
    #[must_use]
    pub const fn has(self, these: Self) -> bool {
        self.0 & these.0 != 0
    }

    /// Both sets together
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Those without these
    #[must_use]
    pub const fn without(self, these: Self) -> Self {
        Self(self.0 & !these.0)
    }

    const fn of(kind: u8) -> Self {
        match kind {
            0..=11 | 14 => Self(1 << kind),
            _ => Self::OTHER,
        }
    }

    /// Must a receiver that does not know the type stop there? ECN Echo and CWR are reserved, and known to all; AUTH and I-DATA are not.
    const fn may_stop(kind: u8) -> bool {
        kind & 0x80 == 0 && kind > 14
    }
}

/// Chunks that have their packet for themselves (section 6.10)
const ALONE: Chunks = Chunks::INIT.and(Chunks::INIT_ACK).and(Chunks::SHUTDOWN_COMPLETE);
/// Chunks that come first in theirs
const FIRST: Chunks = Chunks::COOKIE_ECHO.and(Chunks::COOKIE_ACK);
/// What ends an association, and is believed only whole
const ENDS: Chunks = Chunks::ABORT.and(Chunks::SHUTDOWN_COMPLETE);

const HEADER_LEN: usize = 12;

impl Sctp {
    /// Reads a packet, `whole` or the first fragment of one. Of a fragment, nobody can see here what its receiver will make of the
    /// whole: it ends nothing.
    ///
    /// # Errors
    /// `bad-l4-header` for what no receiver takes as a packet of SCTP.
    pub(super) fn parse(packet: &[u8], whole: bool) -> Result<Transport, DropReason> {
        const BAD: DropReason = DropReason::BadL4Header;
        let h = packet.first_chunk::<HEADER_LEN>().ok_or(BAD)?;
        let mut sctp = Self {
            sport: u16::from_be_bytes([h[0], h[1]]),
            dport: u16::from_be_bytes([h[2], h[3]]),
            tag: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            chunks: Chunks::default(),
            initiate: 0,
            reflects: false,
        };
        let (mut rest, mut count) = (&packet[HEADER_LEN..], 0);
        while let Some(&[kind, flags, l0, l1]) = rest.first_chunk::<4>() {
            let len = usize::from(u16::from_be_bytes([l0, l1]));
            if len < 4 {
                return Err(BAD);
            }
            let chunk = match rest.get(..len) {
                Some(chunk) => chunk,
                None if whole => break,
                None => rest,
            };
            let this = Chunks::of(kind);
            if count > 0 && (this.has(ALONE.and(FIRST)) || sctp.chunks.has(ALONE)) {
                return Err(BAD);
            }
            sctp.take(this, flags, chunk, whole)?;
            count += 1;
            if Chunks::may_stop(kind) {
                break;
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        if count == 0 { Err(BAD) } else { Ok(Transport::Sctp(sctp)) }
    }

    fn take(&mut self, this: Chunks, flags: u8, chunk: &[u8], whole: bool) -> Result<(), DropReason> {
        if this.has(Chunks::INIT.and(Chunks::INIT_ACK)) {
            // Tag, window, two numbers of streams, sequence number
            let fixed = chunk.get(4..).and_then(|body| body.first_chunk::<16>());
            let [a, b, c, d, ..] = *fixed.ok_or(DropReason::BadL4Header)?;
            self.initiate = u32::from_be_bytes([a, b, c, d]);
            if self.initiate == 0 {
                return Err(DropReason::BadL4Header);
            }
        }
        let ends = match this {
            Chunks::ABORT => whole && !self.chunks.has(Chunks::DATA) && causes_fill(&chunk[4..]),
            Chunks::SHUTDOWN_COMPLETE => whole && chunk.len() == 4,
            _ => true,
        };
        if this.has(ENDS) {
            self.reflects = flags & 1 != 0;
        }
        self.chunks = self.chunks.and(if ends { this } else { Chunks::OTHER });
        Ok(())
    }
}

/// Whether causes of an error (section 3.3.10) are all there is.
fn causes_fill(mut causes: &[u8]) -> bool {
    while !causes.is_empty() {
        let Some(&[_, _, l0, l1]) = causes.first_chunk::<4>() else { return false };
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if len < 4 || len > causes.len() {
            return false;
        }
        causes = causes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(chunks: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0x9c, 0x40, 0x0f, 0x1c, 1, 2, 3, 4, 0, 0, 0, 0];
        for chunk in chunks {
            bytes.extend_from_slice(chunk);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn parse(bytes: &[u8], whole: bool) -> Result<Sctp, DropReason> {
        match Sctp::parse(bytes, whole) {
            Ok(Transport::Sctp(sctp)) => Ok(sctp),
            Ok(other) => panic!("{other:?}"),
            Err(reason) => Err(reason),
        }
    }

    fn chunk(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, flags][..], &(body.len() as u16 + 4).to_be_bytes(), body].concat()
    }

    fn init(kind: u8, tag: u32) -> Vec<u8> {
        chunk(kind, 0, &[&tag.to_be_bytes()[..], &[0; 12]].concat())
    }

    #[test]
    fn an_init_has_its_packet_for_itself() {
        let init = init(1, 77);
        let read = parse(&packet(&[&init]), true).unwrap();
        assert_eq!((read.sport, read.dport, read.tag, read.initiate), (40_000, 3868, 0x0102_0304, 77));
        assert!(read.chunks.is(Chunks::INIT));
        let data = chunk(0, 3, &[1; 13]);
        let bad = Err(DropReason::BadL4Header);
        assert_eq!(parse(&packet(&[&init, &data]), true), bad);
        assert_eq!(parse(&packet(&[&data, &init]), true), bad);
        assert_eq!(parse(&packet(&[&super::tests::init(1, 0)]), true), bad, "a tag of nobody");
        assert_eq!(parse(&packet(&[&init[..16]]), true).map(|it| it.chunks), bad.map(|it: Sctp| it.chunks));
        assert_eq!(parse(&packet(&[]), true), bad);
        assert_eq!(parse(&packet(&[&data, &chunk(10, 0, b"cookie")]), true), bad, "a cookie comes first");
        assert_eq!(parse(&packet(&[&[0, 0, 0, 3]]), true), bad, "shorter than a chunk can be");
        let both = parse(&packet(&[&chunk(10, 0, b"cookie"), &data]), true).unwrap();
        assert!(both.chunks.is(Chunks::COOKIE_ECHO.and(Chunks::DATA)));
    }

    #[test]
    fn what_ends_an_association_is_believed_where_its_receiver_believes_it() {
        let abort = chunk(6, 1, &[0, 12, 0, 4]);
        let read = parse(&packet(&[&abort]), true).unwrap();
        assert!(read.chunks.is(Chunks::ABORT) && read.reflects);
        let (data, sack) = (chunk(0, 3, &[1; 13]), chunk(3, 0, &[0; 12]));
        assert!(parse(&packet(&[&sack, &abort]), true).unwrap().chunks.has(Chunks::ABORT));
        for (what, bytes, whole) in [
            ("behind data", packet(&[&data, &abort]), true),
            ("behind what may stop its receiver", packet(&[&chunk(0x3f, 0, &[]), &abort]), true),
            ("behind AUTH, which may", packet(&[&chunk(15, 0, &[0; 4]), &abort]), true),
            ("cut off", packet(&[&sack, &[6, 0, 0, 8]]), true),
            ("a cause that is cut off", packet(&[&chunk(6, 0, &[0, 12, 0, 8])]), true),
            ("a cause too small", packet(&[&chunk(6, 0, &[0, 12, 0, 0])]), true),
            ("a fragment", packet(&[&abort]), false),
            ("with more than a COMPLETE has", packet(&[&chunk(14, 0, &[0; 4])]), true),
        ] {
            let chunks = parse(&bytes, whole).unwrap().chunks;
            assert!(!chunks.has(ENDS), "{what}: {chunks:?}");
        }
        // What every receiver skips where it does not know it
        let skipped = parse(&packet(&[&chunk(0xc1, 0, &[0; 4]), &chunk(14, 0, &[])]), true);
        assert_eq!(skipped, Err(DropReason::BadL4Header), "it would not be alone");
        assert!(parse(&packet(&[&chunk(0xc1, 0, &[0; 4]), &abort]), true).unwrap().chunks.has(Chunks::ABORT));
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), whole: bool) {
            let _ = Sctp::parse(&bytes, whole);
        }

        /// A packet of known chunks has exactly these.
        #[test]
        fn chunks_are_found(kinds in proptest::collection::vec((proptest::sample::select(vec![0u8, 3, 4, 5, 7, 8, 9, 0x80, 0xc0]), 0usize..30), 1..9)) {
            let chunks: Vec<Vec<u8>> = kinds.iter().map(|(kind, len)| chunk(*kind, 0, &vec![0; *len])).collect();
            let slices: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let read = parse(&packet(&slices), true).unwrap();
            let wanted = kinds.iter().fold(Chunks::default(), |all, (kind, _)| all.and(Chunks::of(*kind)));
            prop_assert_eq!(read.chunks, wanted);
        }
    }
}
