//! The path of one frame into the tunnel and out of it, top to bottom.
//!
//! Who may send what to whom is decided elsewhere: encapsulating comes after every check, unwrapping before all of
//! them. What unwrapping itself refuses is what RFC 7348 says a VTEP must not hear.

use std::hash::BuildHasher;

use eastgate_wire::{DropReason, Frame, MacAddr, View, Vni, VtepAddr};

use crate::{
    ecn::{self, Ecn, OuterTos, OuterTtl},
    entropy::{SourcePorts, flow_hash},
    header,
    peers::{PeerKind, Peers},
    vlan,
};

/// How frames of a network are encapsulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encapsulation {
    /// The network
    pub vni: Vni,
    /// Inner tags travel instead of being taken off
    pub vlan_aware: bool,
    /// TOS of the outer header
    pub tos: OuterTos,
    /// TTL of the outer header
    pub ttl: OuterTtl,
    /// Source ports of the overlay
    pub ports: SourcePorts,
}

/// What the outer headers of a encapsulated frame are to say. The rest of them is the same for all datagrams:
/// DF set, destination port of the overlay, UDP checksum zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OuterFields {
    /// The bucket of the source port: which socket sends it
    pub bucket: u32,
    /// TOS or traffic class
    pub tos: u8,
    /// TTL or hop limit
    pub ttl: u8,
}

/// Encapsulates a frame: tags off, VXLAN header in front, outer fields chosen. Nothing is copied; `view` is the
/// view of `frame` and stays that of the inner frame.
///
/// # Errors
/// [`DropReason::VlanTagged`] when the tags cannot be taken off; [`DropReason::DeviceError`] when the
/// device's buffer has no head-room for the header.
#[inline]
pub fn encapsulate(
    frame: &mut Frame<'_>,
    view: &mut View,
    network: &Encapsulation,
    hasher: &impl BuildHasher,
) -> Result<OuterFields, DropReason> {
    vlan::strip(frame, view, network.vlan_aware)?;
    let fields = OuterFields {
        bucket: network.ports.bucket(flow_hash(view, hasher)),
        tos: network.tos.encapsulate(view),
        ttl: network.ttl.encapsulate(view),
    };
    if frame.push_front(header::encode(network.vni)) { Ok(fields) } else { Err(DropReason::DeviceError) }
}

/// What a network says about frames from the underlay.
#[derive(Clone, Copy, Debug)]
pub struct Decapsulation<'a> {
    /// The VTEPs that are heard
    pub peers: &'a Peers,
    /// Reserved bits of the VXLAN header are refused
    pub strict: bool,
    /// Inner tags are allowed
    pub vlan_aware: bool,
    /// The MACs the appliance itself speaks with in this network
    pub own_macs: &'a [MacAddr],
}

/// An unwrapped frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decapsulated {
    /// The network it belongs to
    pub vni: Vni,
    /// What runs at the VTEP it came from
    pub kind: PeerKind,
    /// The inner frame, parsed
    pub view: View,
}

/// Unwraps the payload of a UDP datagram that came from `from` with the ECN field `outer`: afterwards
/// `datagram` is the inner frame. `network` finds what the VNI's network says, nothing when this host does
/// not serve it.
///
/// The order matters: an unknown host's datagram is dropped before anything of it is looked at that could be
/// learned from, answered or decided on.
///
/// # Errors
/// The reason to drop it. The datagram may then be half unwrapped.
#[inline]
pub fn decapsulate<'n>(
    datagram: &mut Frame<'_>,
    from: VtepAddr,
    outer: Ecn,
    network: impl FnOnce(Vni) -> Option<Decapsulation<'n>>,
) -> Result<Decapsulated, DropReason> {
    let header = header::decode(datagram.bytes())?;
    let network = network(header.vni).ok_or(DropReason::UnknownVni)?;
    let kind = network.peers.kind(from).ok_or(DropReason::UnknownVtep)?;
    let vni = header.accept(network.strict)?;
    if !datagram.pull_front(header::VXLAN_LEN) {
        return Err(DropReason::VxlanTruncated);
    }
    vlan::strip_priority(datagram, network.vlan_aware);
    let mut view = View::parse(datagram.bytes())?;
    vlan::check(&view, network.vlan_aware)?;
    if !view.src.is_station() || network.own_macs.contains(&view.src) {
        return Err(DropReason::BadSourceMac);
    }
    ecn::decapsulate(outer, datagram.bytes_mut(), &mut view)?;
    Ok(Decapsulated { vni, kind, view })
}

#[cfg(test)]
mod tests {
    use eastgate_wire::Offload;
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::{SRC, arp, hasher, tag, tcp_v4, udp_v4, udp_v6, vtep};

    const OWN: MacAddr = MacAddr([2, 0xea, 0x57, 0, 0, 1]);

    fn encapsulation(vlan_aware: bool) -> Encapsulation {
        Encapsulation {
            vni: Vni::from_wire([0, 0, 5]),
            vlan_aware,
            tos: OuterTos::Inherit,
            ttl: OuterTtl::Fixed(64),
            ports: SourcePorts::default(),
        }
    }

    fn encapsulated(frame: &[u8], vlan_aware: bool) -> (Vec<u8>, OuterFields) {
        let mut buffer = [&[0u8; 16], frame].concat();
        let end = buffer.len();
        let mut view = View::parse(frame).unwrap();
        let mut frame = Frame::new(&mut buffer, 16, end, Offload::default());
        let fields = encapsulate(&mut frame, &mut view, &encapsulation(vlan_aware), &hasher()).unwrap();
        (frame.bytes().to_vec(), fields)
    }

    struct Host {
        peers: Peers,
        strict: bool,
        vlan_aware: bool,
    }

    impl Host {
        fn new() -> Self {
            let peers = Peers::new([(vtep(1), PeerKind::Eastgate), (vtep(2), PeerKind::Plain)], hasher());
            Self { peers, strict: false, vlan_aware: false }
        }

        fn hear(
            &self,
            datagram: &[u8],
            from: VtepAddr,
            outer: Ecn,
        ) -> Result<(Decapsulated, Vec<u8>), DropReason> {
            let mut bytes = datagram.to_vec();
            let len = bytes.len();
            let mut frame = Frame::new(&mut bytes, 0, len, Offload::default());
            let decapsulated = decapsulate(&mut frame, from, outer, |vni| {
                (vni.get() == 5).then_some(Decapsulation {
                    peers: &self.peers,
                    strict: self.strict,
                    vlan_aware: self.vlan_aware,
                    own_macs: &[OWN],
                })
            })?;
            Ok((decapsulated, frame.bytes().to_vec()))
        }

        fn refusal(&self, datagram: &[u8], from: VtepAddr) -> DropReason {
            self.hear(datagram, from, Ecn::NotEct).unwrap_err()
        }
    }

    #[test]
    fn there_and_back() {
        for frame in [tcp_v4(1, 2, 3, b"data"), udp_v6(1, 2, b"data"), arp()] {
            let (datagram, _) = encapsulated(&frame, false);
            assert_eq!(datagram[..8], [8, 0, 0, 0, 0, 0, 5, 0]);
            let (decapsulated, inner) = Host::new().hear(&datagram, vtep(2), Ecn::NotEct).unwrap();
            assert_eq!(inner, frame);
            assert_eq!((decapsulated.vni.get(), decapsulated.kind), (5, PeerKind::Plain));
            assert_eq!(decapsulated.view, View::parse(&frame).unwrap());
        }
    }

    #[test]
    fn a_flow_keeps_its_port_and_a_tag_its_place() {
        let (_, one) = encapsulated(&tcp_v4(1, 2, 3, b"data"), false);
        let (stripped, other) = encapsulated(&tag(&tcp_v4(1, 2, 4, b"more"), 9), false);
        assert_eq!(one, other);
        assert_eq!(Host::new().hear(&stripped, vtep(1), Ecn::NotEct).unwrap().1, tcp_v4(1, 2, 4, b"more"));
        let (kept, _) = encapsulated(&tag(&tcp_v4(1, 2, 4, b"more"), 9), true);
        assert_eq!(Host::new().refusal(&kept, vtep(1)), DropReason::InnerVlan);
        let aware = Host { vlan_aware: true, ..Host::new() };
        assert_eq!(aware.hear(&kept, vtep(1), Ecn::NotEct).unwrap().1, tag(&tcp_v4(1, 2, 4, b"more"), 9));
    }

    #[test]
    fn unknown_hosts_and_foreign_networks_are_not_heard() {
        let (mut datagram, _) = encapsulated(&udp_v4(1, 2, b"data"), false);
        assert_eq!(Host::new().refusal(&datagram, vtep(3)), DropReason::UnknownVtep);
        datagram[6] = 6;
        assert_eq!(Host::new().refusal(&datagram, vtep(1)), DropReason::UnknownVni);
        // An unknown host is told nothing about the frame: not even that it is broken.
        let mut broken = encapsulated(&udp_v4(1, 2, b"data"), false).0;
        broken[8 + 14] = 0;
        assert_eq!(Host::new().refusal(&broken, vtep(3)), DropReason::UnknownVtep);
        assert_eq!(Host::new().refusal(&broken, vtep(1)), DropReason::BadIpHeader);
    }

    #[test]
    fn every_truncation_is_refused() {
        let (datagram, _) = encapsulated(&udp_v4(1, 2, b"data"), false);
        for len in 0..datagram.len() {
            let expected = if len < 22 { DropReason::VxlanTruncated } else { DropReason::FrameTruncated };
            assert_eq!(Host::new().refusal(&datagram[..len], vtep(1)), expected, "{len} bytes");
        }
    }

    #[test]
    fn flags_and_reserved_bits() {
        let (mut datagram, _) = encapsulated(&udp_v4(1, 2, b"data"), false);
        datagram[7] = 1;
        assert!(Host::new().hear(&datagram, vtep(1), Ecn::NotEct).is_ok());
        let strict = Host { strict: true, ..Host::new() };
        assert_eq!(strict.refusal(&datagram, vtep(1)), DropReason::VxlanReserved);
        datagram[0] = 0xf7;
        assert_eq!(Host::new().refusal(&datagram, vtep(1)), DropReason::VxlanFlags);
    }

    #[test]
    fn sources_that_no_other_station_has() {
        let bad = [MacAddr::ZERO, MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1]), OWN];
        for mac in bad {
            let (mut datagram, _) = encapsulated(&udp_v4(1, 2, b"data"), false);
            datagram[14..20].copy_from_slice(&mac.0);
            assert_eq!(Host::new().refusal(&datagram, vtep(1)), DropReason::BadSourceMac, "{mac}");
        }
        assert!(!bad.contains(&MacAddr(SRC)));
    }

    #[test]
    fn congestion_reaches_the_inner_packet_or_drops_it() {
        let (datagram, fields) = encapsulated(&udp_v4(1, 2, b"data"), false);
        assert_eq!(fields.tos & 3, 0);
        assert_eq!(Host::new().hear(&datagram, vtep(1), Ecn::Ce).unwrap_err(), DropReason::OuterEcn);
        let mut capable = udp_v4(1, 2, b"data");
        capable[15] = 2;
        capable[24..26].fill(0);
        let sum = eastgate_wire::checksum::checksum(&capable[14..34]);
        capable[24..26].copy_from_slice(&sum.to_be_bytes());
        let (datagram, fields) = encapsulated(&capable, false);
        assert_eq!(fields.tos, 2);
        let (decapsulated, inner) = Host::new().hear(&datagram, vtep(1), Ecn::Ce).unwrap();
        assert_eq!(decapsulated.view.ip().unwrap().tos, 3);
        assert_eq!(View::parse(&inner).unwrap(), decapsulated.view);
    }

    #[test]
    fn no_head_room() {
        let mut bytes = udp_v4(1, 2, b"");
        let mut view = View::parse(&bytes).unwrap();
        let len = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, len, Offload::default());
        let result = encapsulate(&mut frame, &mut view, &encapsulation(false), &hasher());
        assert_eq!(result, Err(DropReason::DeviceError));
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), tail: bool) {
            let host = Host::new();
            let _ = host.hear(&bytes, vtep(1), Ecn::Ce);
            if tail {
                let datagram = [&header::encode(Vni::from_wire([0, 0, 5]))[..], &bytes].concat();
                let _ = host.hear(&datagram, vtep(1), Ecn::Ce);
            }
        }
    }
}
