//! The VTEPs of one network: the only ones that are heard (RFC 7348 section 7), and whom flooding reaches.

use std::collections::HashMap;

use ahash::RandomState;
use eastgate_wire::VtepAddr;

/// What runs at a VTEP, which decides how much of the path its frames have behind them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PeerKind {
    /// Another eastgate: its frames passed the source's admission and egress rules there.
    Eastgate,
    /// A plain VXLAN endpoint: those checks are made here, on receipt.
    Plain,
}

/// The known VTEPs of one network. Built once from a snapshot; what is not in it is not heard.
///
/// Addresses are compared as they are: whoever reads them from a dual-stack socket hands in
/// `IpAddr::to_canonical`.
#[derive(Clone, Debug)]
pub struct Peers {
    sorted: Box<[(VtepAddr, PeerKind)]>,
    kinds: HashMap<VtepAddr, PeerKind, RandomState>,
}

impl Peers {
    /// These VTEPs; of an address that comes twice the last kind counts.
    #[must_use]
    pub fn new(peers: impl IntoIterator<Item = (VtepAddr, PeerKind)>, hasher: RandomState) -> Self {
        let sorted: std::collections::BTreeMap<_, _> = peers.into_iter().collect();
        let sorted: Box<[_]> = sorted.into_iter().collect();
        let mut kinds = HashMap::with_capacity_and_hasher(sorted.len(), hasher);
        kinds.extend(sorted.iter().copied());
        Self { sorted, kinds }
    }

    /// Is this VTEP a member?
    #[inline]
    #[must_use]
    pub fn contains(&self, vtep: VtepAddr) -> bool {
        self.kinds.contains_key(&vtep)
    }

    /// What runs there; nothing for an unknown host.
    #[inline]
    #[must_use]
    pub fn kind(&self, vtep: VtepAddr) -> Option<PeerKind> {
        self.kinds.get(&vtep).copied()
    }

    /// All of them, in the order of their addresses.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (VtepAddr, PeerKind)> {
        self.sorted.iter().copied()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// None at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_frames::{hasher, vtep};

    #[test]
    fn members_and_unknown_hosts() {
        let peers = Peers::new(
            [(vtep(3), PeerKind::Plain), (vtep(1), PeerKind::Plain), (vtep(1), PeerKind::Eastgate)],
            hasher(),
        );
        assert!(peers.contains(vtep(1)) && peers.contains(vtep(3)) && !peers.contains(vtep(2)));
        assert_eq!((peers.kind(vtep(1)), peers.kind(vtep(2))), (Some(PeerKind::Eastgate), None));
        let listed: Vec<_> = peers.iter().collect();
        assert_eq!(listed, [(vtep(1), PeerKind::Eastgate), (vtep(3), PeerKind::Plain)]);
        assert_eq!((peers.len(), peers.is_empty()), (2, false));
    }
}
