//! Where broadcast, unknown unicast and multicast frames go on the underlay, and split horizon: what may not
//! go back to the overlay.
//!
//! | network | known unicast from the overlay | BUM from the overlay |
//! | --- | --- | --- |
//! | mesh | to local ports only | to local ports only |
//! | hub | on to its spoke, the one it came from included | to every spoke but the one it came from |
//!
//! Frames from local ports go anywhere in both. The local copies of a flood are the pipeline's business.

use eastgate_wire::{DropReason, VtepAddr};

use crate::{Error, fdb::Location, peers::Peers};

/// How the VTEPs of a network are joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topology {
    /// Every VTEP reaches every other one; nobody relays.
    Mesh,
    /// The spokes reach only this VTEP, which relays after policy.
    Hub,
}

/// How BUM frames of a network travel (RFC 7348 section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FloodMode {
    /// One copy for each peer
    HeadEnd,
    /// One copy to a multicast group that all VTEPs of the network have joined
    Group(VtepAddr),
}

/// The flood list of one network.
#[derive(Clone, Debug)]
pub struct Flood {
    topology: Topology,
    targets: Box<[VtepAddr]>,
}

impl Flood {
    /// The flood list of a network with these peers, as seen from a VTEP that has the addresses `own`: a
    /// peer list is often the same on all hosts, and a copy to oneself would be a loop.
    ///
    /// # Errors
    /// [`Error::NotAGroup`] when the group is no multicast address; [`Error::GroupInHub`] for a group in a
    /// hub network, where a copy to the group would return to where the frame came from.
    pub fn new(topology: Topology, mode: FloodMode, peers: &Peers, own: &[VtepAddr]) -> Result<Self, Error> {
        let targets = match mode {
            FloodMode::HeadEnd => {
                peers.iter().map(|(peer, _)| peer).filter(|peer| !own.contains(peer)).collect()
            }
            FloodMode::Group(group) if !group.0.is_multicast() => return Err(Error::NotAGroup(group)),
            FloodMode::Group(group) if topology == Topology::Hub => return Err(Error::GroupInHub(group)),
            FloodMode::Group(group) => [group].into(),
        };
        Ok(Self { topology, targets })
    }

    /// Where on the underlay a BUM frame from `origin` goes: each address gets exactly one copy.
    pub fn targets(&self, origin: Location) -> impl Iterator<Item = VtepAddr> {
        let (all, except) = match (origin, self.topology) {
            (Location::Local(_), _) => (&*self.targets, None),
            (Location::Remote(_), Topology::Mesh) => (&[][..], None),
            (Location::Remote(spoke), Topology::Hub) => (&*self.targets, Some(spoke)),
        };
        all.iter().copied().filter(move |target| Some(*target) != except)
    }
}

/// Whether known unicast from `origin` may go to `destination`.
///
/// # Errors
/// [`DropReason::SplitHorizon`] when a frame from the overlay would go back to the overlay in a mesh network.
#[inline]
pub const fn split_horizon(
    topology: Topology,
    origin: Location,
    destination: Location,
) -> Result<(), DropReason> {
    match (topology, origin, destination) {
        (Topology::Mesh, Location::Remote(_), Location::Remote(_)) => Err(DropReason::SplitHorizon),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::AttachmentId;

    use super::*;
    use crate::{
        peers::PeerKind,
        test_frames::{hasher, vtep},
    };

    const LOCAL: Location = Location::Local(AttachmentId(0));

    fn flood(topology: Topology, mode: FloodMode) -> Result<Flood, Error> {
        let peers = Peers::new([1, 2, 3, 4].map(|n| (vtep(n), PeerKind::Eastgate)), hasher());
        Flood::new(topology, mode, &peers, &[vtep(4), vtep(9)])
    }

    fn copies(flood: &Flood, origin: Location) -> Vec<VtepAddr> {
        flood.targets(origin).collect()
    }

    #[test]
    fn a_local_frame_is_copied_to_every_peer_once_and_not_to_ourselves() {
        for topology in [Topology::Mesh, Topology::Hub] {
            let flood = flood(topology, FloodMode::HeadEnd).unwrap();
            assert_eq!(copies(&flood, LOCAL), [vtep(1), vtep(2), vtep(3)]);
        }
    }

    #[test]
    fn in_a_mesh_nothing_from_the_overlay_goes_back() {
        let flood = flood(Topology::Mesh, FloodMode::HeadEnd).unwrap();
        for spoke in 1..=3 {
            assert_eq!(copies(&flood, Location::Remote(vtep(spoke))), []);
        }
        let (a, b) = (Location::Remote(vtep(1)), Location::Remote(vtep(2)));
        assert_eq!(split_horizon(Topology::Mesh, a, b), Err(DropReason::SplitHorizon));
        assert_eq!(split_horizon(Topology::Mesh, a, a), Err(DropReason::SplitHorizon));
        assert_eq!(split_horizon(Topology::Mesh, a, LOCAL), Ok(()));
        assert_eq!(split_horizon(Topology::Mesh, LOCAL, b), Ok(()));
    }

    #[test]
    fn a_hub_relays_unicast_even_back_and_bum_never_back() {
        let flood = flood(Topology::Hub, FloodMode::HeadEnd).unwrap();
        assert_eq!(copies(&flood, Location::Remote(vtep(2))), [vtep(1), vtep(3)]);
        let (a, b) = (Location::Remote(vtep(1)), Location::Remote(vtep(2)));
        for (origin, destination) in [(a, b), (a, a), (a, LOCAL), (LOCAL, a), (LOCAL, LOCAL)] {
            assert_eq!(split_horizon(Topology::Hub, origin, destination), Ok(()));
        }
    }

    #[test]
    fn a_group_gets_one_copy_and_is_refused_where_it_would_loop() {
        let group = VtepAddr("239.1.1.1".parse().unwrap());
        let mesh = flood(Topology::Mesh, FloodMode::Group(group)).unwrap();
        assert_eq!(copies(&mesh, LOCAL), [group]);
        assert_eq!(copies(&mesh, Location::Remote(vtep(1))), []);
        assert_eq!(flood(Topology::Hub, FloodMode::Group(group)).unwrap_err(), Error::GroupInHub(group));
        assert_eq!(flood(Topology::Mesh, FloodMode::Group(vtep(1))).unwrap_err(), Error::NotAGroup(vtep(1)));
    }
}
