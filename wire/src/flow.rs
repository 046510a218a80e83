//! What makes two packets belong to one flow.

use crate::{Addr, Vni};

/// The key of a flow: VNI, both addresses, protocol, both ports. Protocols without ports have zero there; an
/// ICMP query has its identifier in both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowKey {
    /// Source address
    pub src: Addr,
    /// Destination address
    pub dst: Addr,
    /// The network; flows of two networks never meet.
    pub vni: Vni,
    /// Source port, or ICMP identifier, or 0
    pub sport: u16,
    /// Destination port, or ICMP identifier, or 0
    pub dport: u16,
    /// IP protocol number
    pub proto: u8,
}

impl FlowKey {
    /// The same flow seen from the other end.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, ..self }
    }

    /// The form that is the same for both directions, and whether this key had to be reversed to get it.
    #[must_use]
    pub fn canonical(self) -> (Self, bool) {
        if (self.src, self.sport) <= (self.dst, self.dport) { (self, false) } else { (self.reversed(), true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_have_one_canonical_key() {
        let key = FlowKey {
            src: Addr::v4([10, 1, 0, 21]),
            dst: Addr::v4([10, 1, 0, 11]),
            vni: Vni::from_wire([0, 0, 5]),
            sport: 5432,
            dport: 40000,
            proto: 6,
        };
        let (one, swapped) = key.canonical();
        let (other, swapped_back) = key.reversed().canonical();
        assert_eq!(one, other);
        assert_ne!(swapped, swapped_back);
    }
}
