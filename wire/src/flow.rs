//! The key by which every table knows a flow.

use crate::{Addr, MacAddr, Vni};

/// A flow as one of its packets has it. Both directions of a flow have the same [`FlowKey::canonical`] form.
///
/// ICMP queries have their identifier in both ports; protocols without ports have zeros.
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
    /// The leg of its way, where an endpoint forwards it
    pub leg: Leg,
}

/// Which leg of its way a packet is on, the same for both directions. A packet that an endpoint forwards inside its network
/// passes twice, with the same addresses and ports; each leg is a flow of its own, known by the endpoints that stand in for
/// the addresses' holders.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Leg(u32);

impl Leg {
    /// From the holder of one address to the holder of the other.
    pub const DIRECT: Self = Self(0);

    /// As tables store it: 0 is [`Leg::DIRECT`].
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From [`Leg::bits`].
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Whether on this leg, which is not [`Leg::DIRECT`], this MAC stands in for the holder of one of the addresses, and the
    /// other one is itself.
    #[must_use]
    pub fn is_by(self, mac: MacAddr) -> bool {
        [Self::standing_in(Some(mac), None), Self::standing_in(None, Some(mac))].contains(&self)
    }

    /// The leg on which these MACs stand in for the holders of the lower and the upper address of the canonical key.
    /// `fastpath/bpf/leg.h` makes it in the same way.
    fn standing_in(low: Option<MacAddr>, high: Option<MacAddr>) -> Self {
        Self(low.map_or(0, half) ^ high.map_or(0, half).rotate_left(16))
    }
}

/// A MAC's part of a leg, never 0. MACs of one vendor never share it.
const fn half(mac: MacAddr) -> u32 {
    let [a, b, c, d, e, f] = mac.0;
    let mixed = u32::from_be_bytes([c, d, e, f]) ^ u32::from_be_bytes([0, 0, a, b]).wrapping_mul(0x9e37_79b1);
    let mixed = mixed.wrapping_mul(0x85eb_ca6b);
    let mixed = mixed ^ mixed >> 15;
    if mixed == 0 { 1 } else { mixed }
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

    /// The key on the leg where the packet leaves from `sender` in place of its source, and goes to `receiver` in place of
    /// its destination.
    #[must_use]
    pub fn on_leg(self, sender: Option<MacAddr>, receiver: Option<MacAddr>) -> Self {
        let (_, swapped) = self.canonical();
        let (low, high) = if swapped { (receiver, sender) } else { (sender, receiver) };
        Self { leg: Leg::standing_in(low, high), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: FlowKey = FlowKey {
        src: Addr::v4([10, 1, 0, 21]),
        dst: Addr::v4([10, 1, 0, 11]),
        vni: Vni::from_wire([0, 0, 5]),
        sport: 5432,
        dport: 40000,
        proto: 6,
        leg: Leg::DIRECT,
    };

    #[test]
    fn both_directions_have_one_canonical_key() {
        let (one, swapped) = KEY.canonical();
        let (other, swapped_back) = KEY.reversed().canonical();
        assert_eq!(one, other);
        assert_ne!(swapped, swapped_back);
    }

    #[test]
    fn each_leg_is_the_same_in_both_directions_and_no_other() {
        let (a, b) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let ends = [(None, None), (Some(a), None), (None, Some(a)), (Some(b), None), (None, Some(b))];
        let more = [(Some(a), Some(b)), (Some(b), Some(a))];
        let legs: Vec<_> = ends.into_iter().chain(more).collect();
        for (sender, receiver) in &legs {
            let key = KEY.on_leg(*sender, *receiver);
            assert_eq!(key.canonical().0, KEY.reversed().on_leg(*receiver, *sender).canonical().0);
        }
        let mut keys: Vec<_> = legs.iter().map(|(one, other)| KEY.on_leg(*one, *other).leg).collect();
        assert_eq!(keys[0], Leg::DIRECT);
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), legs.len());
    }
}
