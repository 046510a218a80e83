//! The Internet checksum (RFC 1071), and its incremental update (RFC 1624); SCTP's CRC32c (RFC 9260 appendix A).

/// A one's complement sum that is not folded yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Nothing summed.
    pub const ZERO: Self = Self(0);

    /// Adds `bytes`, padded with a zero to an even number. Every piece but the last must be even.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Eight bytes at a time in native order with the carries kept aside: one's complement addition is
        // byte-order independent (RFC 1071 section 2 (B)), so one swap at the end puts it right.
        let mut low = 0u64;
        let mut high = 0u64;
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            for half in block.as_chunks::<8>().0 {
                let word = u64::from_ne_bytes(*half);
                low += word & 0xffff_ffff;
                high += word >> 32;
            }
        }
        let (pairs, odd) = rest.as_chunks::<2>();
        for pair in pairs {
            low += u64::from(u16::from_ne_bytes(*pair));
        }
        if let [last] = odd {
            low += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        let native = fold(low).wrapping_add(fold(high));
        Self(self.0 + u64::from(u16::from_be(fold_u32(native) as u16)))
    }

    /// Adds one 16-bit word in host order.
    #[must_use]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// The checksum: the complement of the folded sum.
    #[must_use]
    pub fn finish(self) -> u16 {
        !(fold_u32(fold(self.0)) as u16)
    }

    /// The folded sum, not complemented: what a pseudo-header leaves in a partial checksum.
    #[must_use]
    pub fn folded(self) -> u16 {
        fold_u32(fold(self.0)) as u16
    }
}

const fn fold(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum as u32
}

const fn fold_u32(sum: u32) -> u32 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// The checksum of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::ZERO.bytes(bytes).finish()
}

/// The sum of the pseudo-header of RFC 9293 section 3.1 (IPv4) or RFC 8200 section 8.1 (IPv6). `src` and
/// `dst` are the address fields as they are in the header; `len` is the length of the transport header and
/// payload in bytes.
#[must_use]
pub fn pseudo_header(src: &[u8], dst: &[u8], proto: u8, len: u32) -> Sum {
    Sum::ZERO.bytes(src).bytes(dst).word(u16::from(proto)).word((len >> 16) as u16).word(len as u16)
}

/// A checksum after one 16-bit word under it changed (RFC 1624, equation 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO.word(!checksum).word(!old).word(new).finish()
}

/// The CRC32c of the bytes so far.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

/// Castagnoli's polynomial, its lowest power in the highest bit
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// What a byte adds that has so many others behind it
const CRC_OF: [[u32; 256]; 8] = {
    let mut of = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { CASTAGNOLI } else { 0 };
            bit += 1;
        }
        of[0][byte] = crc;
        byte += 1;
    }
    let mut behind = 1;
    while behind < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc: u32 = of[behind - 1][byte];
            of[behind][byte] = crc >> 8 ^ of[0][(crc & 0xff) as usize];
            byte += 1;
        }
        behind += 1;
    }
    of
};

impl Crc32c {
    /// Of nothing.
    pub const EMPTY: Self = Self(u32::MAX);

    /// With `bytes` behind what there was.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut crc = self.0;
        let (blocks, rest) = bytes.as_chunks::<8>();
        for [a, b, c, d, e, f, g, h] in blocks {
            let [i, j, k, l] = (crc ^ u32::from_le_bytes([*a, *b, *c, *d])).to_le_bytes();
            let behind = [i, j, k, l, *e, *f, *g, *h].into_iter().zip(CRC_OF.iter().rev());
            crc = behind.fold(0, |crc, (byte, of)| crc ^ of[usize::from(byte)]);
        }
        for byte in rest {
            let [low, ..] = crc.to_le_bytes();
            crc = crc >> 8 ^ CRC_OF[0][usize::from(low ^ byte)];
        }
        Self(crc)
    }

    /// The number; SCTP has it in its header with the lowest byte first.
    #[must_use]
    pub const fn finish(self) -> u32 {
        !self.0
    }
}

/// What the checksum of an SCTP packet is to be. Nothing for one without a header.
#[must_use]
pub fn sctp(packet: &[u8]) -> Option<[u8; 4]> {
    let (ports, rest) = packet.split_at_checked(8)?;
    let crc = Crc32c::EMPTY.bytes(ports).bytes(&[0; 4]).bytes(rest.get(4..)?);
    Some(crc.finish().to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720 appendix B.4
    #[test]
    fn crc32c_of_known_bytes() {
        let crc = |bytes: &[u8]| Crc32c::EMPTY.bytes(bytes).finish();
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc(&std::array::from_fn::<u8, 32, _>(|n| n as u8)), 0x46dd_794e);
        assert_eq!(crc(b"123456789"), 0xe306_9283);
    }

    /// RFC 1071 section 3: the numbers worked there.
    #[test]
    fn rfc_example() {
        assert_eq!(Sum::ZERO.bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).folded(), 0xddf2);
    }

    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest::proptest! {
        #[test]
        fn equals_the_plain_loop(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..3000)) {
            proptest::prop_assert_eq!(checksum(&bytes), slow(&bytes));
        }

        #[test]
        fn pieces_sum_like_the_whole(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600), cut in 0usize..300) {
            let cut = (cut * 2).min(bytes.len() & !1);
            let (a, b) = bytes.split_at(cut);
            proptest::prop_assert_eq!(Sum::ZERO.bytes(a).bytes(b).finish(), slow(&bytes));
        }

        #[test]
        fn crc32c_in_pieces_equals_bit_by_bit(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), cut in 0usize..200) {
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            let mut crc = u32::MAX;
            for byte in &bytes {
                crc ^= u32::from(*byte);
                (0..8).for_each(|_| crc = crc >> 1 ^ if crc & 1 == 1 { CASTAGNOLI } else { 0 });
            }
            proptest::prop_assert_eq!(Crc32c::EMPTY.bytes(a).bytes(b).finish(), !crc);
        }

        #[test]
        fn update_equals_recomputing(mut words in proptest::collection::vec(proptest::prelude::any::<u8>(), 20..=20), new: u16) {
            words[10] = 0;
            words[11] = 0;
            let before = slow(&words);
            let old = u16::from_be_bytes([words[2], words[3]]);
            words[2..4].copy_from_slice(&new.to_be_bytes());
            let after = update(before, old, new);
            // 0x0000 and 0xffff are the same number in one's complement.
            proptest::prop_assert!(after == slow(&words) || (after ^ slow(&words)) == 0xffff && (after == 0 || after == 0xffff));
        }
    }

    #[test]
    fn all_ones_do_not_lose_a_carry() {
        assert_eq!(checksum(&[0xff; 65536]), slow(&[0xff; 65536]));
    }
}
