//! The VXLAN header (RFC 7348 section 5): eight bytes, of which four mean something.
//!
//! ```text
//!  0                   1                   2                   3
//! |R|R|R|R|I|R|R|R|                 reserved                      |
//! |                    VNI                        |   reserved    |
//! ```
//! The bits that VXLAN-GPE and VXLAN-GBP use are reserved bits here.

use eastgate_wire::{DropReason, Vni, view::ETHERNET_LEN};

/// Bytes of a VXLAN header.
pub const VXLAN_LEN: usize = 8;

/// The UDP port that IANA assigned to VXLAN.
pub const VXLAN_PORT: u16 = 4789;

const FLAG_I: u8 = 0x08;

/// A VXLAN header, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The network
    pub vni: Vni,
    /// A reserved bit is set. The RFC says to ignore that on receipt; a network may be strict.
    pub reserved_set: bool,
}

/// The header for a network: the I flag, the VNI, all reserved bits zero.
#[must_use]
pub const fn encode(vni: Vni) -> [u8; VXLAN_LEN] {
    let [a, b, c] = vni.to_wire();
    [FLAG_I, 0, 0, 0, a, b, c, 0]
}

/// Reads the header at the start of a datagram's payload. Whether reserved bits matter is the network's
/// choice, and the network is only known now: see [`Header::accept`].
///
/// # Errors
/// [`DropReason::VxlanTruncated`] when the datagram cannot hold a VXLAN and an Ethernet header,
/// [`DropReason::VxlanFlags`] when the I flag is clear.
#[inline]
pub fn decode(datagram: &[u8]) -> Result<Header, DropReason> {
    if datagram.len() < VXLAN_LEN + ETHERNET_LEN {
        return Err(DropReason::VxlanTruncated);
    }
    let &[flags, r1, r2, r3, v0, v1, v2, r4] =
        datagram.first_chunk::<VXLAN_LEN>().ok_or(DropReason::VxlanTruncated)?;
    if flags & FLAG_I == 0 {
        return Err(DropReason::VxlanFlags);
    }
    let reserved_set = (flags & !FLAG_I) | r1 | r2 | r3 | r4 != 0;
    Ok(Header { vni: Vni::from_wire([v0, v1, v2]), reserved_set })
}

impl Header {
    /// The VNI, if the header is good enough for a network that is `strict` or not.
    ///
    /// # Errors
    /// [`DropReason::VxlanReserved`] when the network is strict and a reserved bit is set.
    pub const fn accept(self, strict: bool) -> Result<Vni, DropReason> {
        if strict && self.reserved_set { Err(DropReason::VxlanReserved) } else { Ok(self.vni) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagram(header: [u8; 8]) -> [u8; 22] {
        let mut bytes = [0xee; 22];
        bytes[..8].copy_from_slice(&header);
        bytes
    }

    #[test]
    fn vectors() {
        let vni = Vni::new_checked(0x12_3456).unwrap();
        assert_eq!(encode(vni), [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(decode(&datagram(encode(vni))), Ok(Header { vni, reserved_set: false }));
        let edge = Vni::new_checked(Vni::MAX).unwrap();
        assert_eq!(encode(edge), [0x08, 0, 0, 0, 0xff, 0xff, 0xff, 0]);
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = datagram(encode(Vni::from_wire([0, 0, 7])));
        for len in 0..whole.len() {
            assert_eq!(decode(&whole[..len]), Err(DropReason::VxlanTruncated), "{len} bytes");
        }
    }

    #[test]
    fn a_clear_i_flag_is_refused_whatever_else_is_set() {
        for flags in (0..=255u8).filter(|flags| flags & FLAG_I == 0) {
            assert_eq!(decode(&datagram([flags, 0, 0, 0, 0, 0, 7, 0])), Err(DropReason::VxlanFlags));
        }
    }

    #[test]
    fn each_reserved_bit_is_ignored_unless_strict() {
        let vni = Vni::from_wire([0, 0, 7]);
        for bit in (0..64).filter(|bit| *bit != 4 && !(32..56).contains(bit)) {
            let mut bytes = encode(vni);
            bytes[bit / 8] |= 0x80 >> (bit % 8);
            let header = decode(&datagram(bytes)).unwrap();
            assert_eq!(header.accept(false), Ok(vni), "bit {bit}");
            assert_eq!(header.accept(true), Err(DropReason::VxlanReserved), "bit {bit}");
        }
        assert_eq!(decode(&datagram(encode(vni))).unwrap().accept(true), Ok(vni));
    }

    proptest! {
        #[test]
        fn round_trip(value in 0u32..=Vni::MAX) {
            let vni = Vni::new_checked(value).unwrap();
            prop_assert_eq!(decode(&datagram(encode(vni))).unwrap().accept(true), Ok(vni));
        }

        #[test]
        fn noise_is_read_as_the_rfc_says(bytes: [u8; 22]) {
            let expected = if bytes[0] & 8 == 0 { None } else { Some(u32::from_be_bytes([0, bytes[4], bytes[5], bytes[6]])) };
            prop_assert_eq!(decode(&bytes).ok().map(|header| header.vni.get()), expected);
        }
    }
}
