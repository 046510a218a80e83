//! The VXLAN network identifier.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A VXLAN Network Identifier: 24 bits (RFC 7348 section 5).
///
/// # Legal values
/// 0 to 16,777,215. The RFC reserves none of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// A number that does not fit into the 24 bits of a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("VNI {0} is out of range: a VNI has 24 bits, 0 to 16777215")]
pub struct VniOutOfRange(pub u32);

impl Vni {
    /// The largest VNI, 16,777,215.
    pub const MAX: u32 = (1 << 24) - 1;

    /// A VNI from its number.
    ///
    /// # Errors
    /// [`VniOutOfRange`] above [`Vni::MAX`].
    pub const fn new_checked(value: u32) -> Result<Self, VniOutOfRange> {
        if value > Self::MAX { Err(VniOutOfRange(value)) } else { Ok(Self(value)) }
    }

    /// The VNI in the first three bytes of its wire form, most significant first.
    #[must_use]
    pub const fn from_wire(bytes: [u8; 3]) -> Self {
        Self((bytes[0] as u32) << 16 | (bytes[1] as u32) << 8 | bytes[2] as u32)
    }

    /// The three bytes of the wire form, most significant first.
    #[must_use]
    pub const fn to_wire(self) -> [u8; 3] {
        [(self.0 >> 16) as u8, (self.0 >> 8) as u8, self.0 as u8]
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = VniOutOfRange;
    fn try_from(value: u32) -> Result<Self, VniOutOfRange> {
        Self::new_checked(value)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vni({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert_eq!(Vni::new_checked(0).unwrap().get(), 0);
        assert_eq!(Vni::new_checked(Vni::MAX).unwrap().to_wire(), [0xff; 3]);
        assert_eq!(Vni::new_checked(Vni::MAX + 1), Err(VniOutOfRange(1 << 24)));
    }

    #[test]
    fn wire_form_is_big_endian() {
        let vni = Vni::from_wire([0x01, 0x02, 0x03]);
        assert_eq!(vni.get(), 0x010203);
        assert_eq!(vni.to_wire(), [1, 2, 3]);
    }
}
