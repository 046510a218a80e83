//! What a dropped frame was about, read from its bytes: enough for a person to find out who sent it and why.

use eastgate_wire::{
    Addr, DropReason, FlowKey, Leg, MacAddr, VLAN_TYPE, View, Vni, names,
    view::{Icmp, Net, Transport, ethertype, proto},
};

/// A dropped frame, as far as it is remembered. Frames of which all this is equal are told apart by nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Subject {
    /// Destination and source MAC, where they are known
    pub macs: Option<[MacAddr; 2]>,
    /// The VLAN tag in front, where there is one: its VID
    pub tag: Option<u16>,
    /// The rest
    pub what: What,
}

/// What a frame carried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum What {
    /// Nothing is known of it.
    #[default]
    Unknown,
    /// An IP packet
    Packet {
        /// The flow it would be of
        flow: FlowKey,
        /// ICMP type and code
        icmp: Option<(u8, u8)>,
        /// The address that a neighbour message is about
        target: Option<Addr>,
    },
    /// ARP or RARP
    Arp {
        /// Operation
        operation: u16,
        /// Sender address
        sender: Addr,
        /// Target address
        target: Addr,
    },
    /// Another ethertype; below 0x600 an 802.3 length
    Other {
        /// The ethertype
        ethertype: u16,
    },
    /// A datagram of a network that this host has no part in
    Network {
        /// The VNI in its VXLAN header
        vni: Vni,
    },
}

/// Ports of announcements and look-ups that ordinary guests send to groups: NetBIOS, SSDP, WS-Discovery, mDNS, LLMNR.
const ANNOUNCEMENTS: [u16; 6] = [137, 138, 1900, 3702, 5353, 5355];

/// Loop detection of switches and network cards: LLDP, Realtek's, Ethernet's own configuration test.
const LINK_CHATTER: [u16; 3] = [0x88cc, 0x8899, 0x9000];

impl Subject {
    /// Of a packet of which no more than its flow is known.
    #[must_use]
    pub const fn of_flow(flow: FlowKey) -> Self {
        let flow = FlowKey { leg: Leg::DIRECT, ..flow };
        Self { macs: None, tag: None, what: What::Packet { flow, icmp: None, target: None } }
    }

    /// Of a datagram's VXLAN payload that was not taken in, with the VNI it names.
    #[must_use]
    pub fn of_datagram(datagram: &[u8]) -> Self {
        match datagram.get(4..7).and_then(<[u8]>::first_chunk::<3>) {
            Some(vni) => Self { what: What::Network { vni: Vni::from_wire(*vni) }, ..Self::default() },
            None => Self::default(),
        }
    }

    /// Of a frame whose tag, by its type and the two bytes behind it, or the lack of one says nothing of whose it is. No more is looked at.
    #[must_use]
    pub fn of_stray(tag: Option<(u16, u16)>, frame: &[u8]) -> Self {
        let macs = mac(frame, 0).zip(mac(frame, 6)).map(|(dst, src)| [dst, src]);
        let what = match tag {
            Some((kind, _)) if kind != VLAN_TYPE => What::Other { ethertype: kind },
            _ => What::Unknown,
        };
        Self { macs, tag: tag.map(|(_, tci)| tci & 0xfff), what }
    }

    /// Of a frame of this network, whether it is well formed or not.
    #[must_use]
    pub fn of_frame(vni: Vni, frame: &[u8]) -> Self {
        match View::parse(frame) {
            Ok(view) => Self::of_view(vni, &view, frame),
            Err(_) => Self::of_broken(vni, frame),
        }
    }

    /// Of a frame that was parsed.
    #[must_use]
    pub fn of_view(vni: Vni, view: &View, frame: &[u8]) -> Self {
        let what = match view.net {
            Net::Ip(ip) => {
                let (sport, dport) = ip.ports();
                let flow = FlowKey {
                    src: ip.src,
                    dst: ip.dst,
                    vni,
                    sport,
                    dport,
                    proto: ip.proto,
                    leg: Leg::DIRECT,
                };
                let icmp = match ip.transport {
                    Transport::Icmp(Icmp { kind, code, .. }) => Some((kind, code)),
                    _ => None,
                };
                let neighbor =
                    ip.proto == proto::ICMPV6 && icmp.is_some_and(|(kind, _)| matches!(kind, 135..=137));
                let target = neighbor.then(|| address_v6(frame, usize::from(ip.l4) + 8)).flatten();
                What::Packet { flow, icmp, target }
            }
            Net::Arp => arp(frame, view.l3.into()),
            Net::Other if view.ethertype == ethertype::RARP => arp(frame, view.l3.into()),
            Net::Other => What::Other { ethertype: view.ethertype },
        };
        let tag = (view.tags > 0).then_some(view.tci & 0xfff);
        Self { macs: Some([view.dst, view.src]), tag, what }
    }

    /// Of a frame of which no more than the beginning is known: the ports of its packet too, where they are in that.
    #[must_use]
    pub fn of_head(vni: Vni, head: &[u8]) -> Self {
        let mut subject = Self::of_frame(vni, head);
        if let What::Packet { flow, .. } = &mut subject.what
            && names::has_ports(flow.proto)
            && let Some((sport, dport)) = ports(head)
        {
            (flow.sport, flow.dport) = (sport, dport);
        }
        subject
    }

    /// Of a frame that is not well formed: what stands where it would stand in one that is.
    fn of_broken(vni: Vni, frame: &[u8]) -> Self {
        let (Some(dst), Some(src)) = (mac(frame, 0), mac(frame, 6)) else { return Self::default() };
        let Some(kind) = u16_at(frame, 12) else { return Self { macs: Some([dst, src]), ..Self::default() } };
        let flow = |src, dst, proto| FlowKey { src, dst, vni, sport: 0, dport: 0, proto, leg: Leg::DIRECT };
        let packet = match kind {
            ethertype::IPV4 => address_v4(frame, 26).zip(address_v4(frame, 30)).zip(frame.get(23)),
            ethertype::IPV6 => address_v6(frame, 22).zip(address_v6(frame, 38)).zip(frame.get(20)),
            _ => None,
        };
        let what = match packet {
            Some(((src, dst), proto)) => {
                What::Packet { flow: flow(src, dst, *proto), icmp: None, target: None }
            }
            None => What::Other { ethertype: kind },
        };
        Self { macs: Some([dst, src]), tag: None, what }
    }

    /// Who sent it and whom it is for, by their addresses.
    #[must_use]
    pub const fn ends(&self) -> [Option<Addr>; 2] {
        match self.what {
            What::Packet { flow, .. } => [Some(flow.src), Some(flow.dst)],
            What::Arp { sender, target, .. } => [Some(sender), Some(target)],
            What::Unknown | What::Other { .. } | What::Network { .. } => [None; 2],
        }
    }

    /// The addresses it names.
    pub fn addresses(&self) -> impl Iterator<Item = Addr> {
        let asked_for = match self.what {
            What::Packet { target, .. } => target,
            _ => None,
        };
        self.ends().into_iter().chain([asked_for]).flatten()
    }

    /// The flow that its packet would be of.
    #[must_use]
    pub const fn flow(&self) -> Option<&FlowKey> {
        match &self.what {
            What::Packet { flow, .. } => Some(flow),
            _ => None,
        }
    }

    /// Its ICMP type and code.
    #[must_use]
    pub const fn icmp(&self) -> Option<(u8, u8)> {
        match self.what {
            What::Packet { icmp, .. } => icmp,
            _ => None,
        }
    }

    /// Whether every guest's operating system sends such frames of its own accord and does not miss them: that they are
    /// dropped for `reason` is nothing to look into.
    #[must_use]
    pub fn is_chatter(&self, reason: DropReason) -> bool {
        use DropReason::{
            EgressDenied, EthertypeRefused, IngressDenied, LinkProtocol, MulticastRefused, NeighborOwn,
            NoPeer, UnknownDestination,
        };
        match reason {
            // Duplicate address detection and announcements, of addresses that are the sender's.
            NeighborOwn | LinkProtocol => true,
            EthertypeRefused => self.is_of_the_link(),
            MulticastRefused | UnknownDestination | NoPeer | EgressDenied | IngressDenied => {
                self.is_announcement()
            }
            _ => false,
        }
    }

    /// Spanning tree, LLDP, CDP and the like, whatever group they are sent to.
    fn is_of_the_link(&self) -> bool {
        let What::Other { ethertype } = self.what else { return false };
        let to_switches = self.macs.is_some_and(|[dst, _]| {
            matches!(dst.0, [0x01, 0x80, 0xc2, ..] | [0x01, 0x00, 0x0c, 0xcc | 0xcd, ..])
        });
        LINK_CHATTER.contains(&ethertype) || ethertype < 0x600 && to_switches
    }

    /// Group membership, router solicitations, and services that look for each other.
    fn is_announcement(&self) -> bool {
        let What::Packet { flow, icmp, .. } = self.what else { return false };
        let is_bum = self.macs.map_or(flow.dst.is_multicast(), |[dst, _]| dst.is_multicast());
        is_bum
            && match (flow.proto, icmp) {
                // MLD and MLDv2, router solicitations
                (proto::ICMPV6, Some((kind, _))) => matches!(kind, 130..=133 | 143),
                // IGMP
                (2, _) => true,
                (proto::UDP, _) => ANNOUNCEMENTS.contains(&flow.dport),
                _ => false,
            }
    }
}

fn arp(frame: &[u8], at: usize) -> What {
    let read = || {
        Some(What::Arp {
            operation: u16_at(frame, at + 6)?,
            sender: address_v4(frame, at + 14)?,
            target: address_v4(frame, at + 24)?,
        })
    };
    read().unwrap_or(What::Other { ethertype: ethertype::ARP })
}

fn mac(frame: &[u8], at: usize) -> Option<MacAddr> {
    Some(MacAddr(*frame.get(at..)?.first_chunk()?))
}

fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

/// The ports behind the addresses of a frame without a tag; none of a fragment that is not the first.
fn ports(frame: &[u8]) -> Option<(u16, u16)> {
    let at = match u16_at(frame, 12)? {
        ethertype::IPV4 if u16_at(frame, 20)? & 0x1fff == 0 => 14 + usize::from(frame.get(14)? & 0xf) * 4,
        ethertype::IPV6 => 54,
        _ => return None,
    };
    u16_at(frame, at).zip(u16_at(frame, at + 2))
}

fn address_v4(frame: &[u8], at: usize) -> Option<Addr> {
    Some(Addr::v4(*frame.get(at..)?.first_chunk()?))
}

fn address_v6(frame: &[u8], at: usize) -> Option<Addr> {
    Some(Addr::v6(*frame.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn vni() -> Vni {
        Vni::from_wire([0, 0, 7])
    }

    fn udp_to(dst_mac: [u8; 6], dst: [u8; 4], port: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], dst_mac)
            .ipv4([10, 1, 0, 11], dst, 64)
            .udp(5000, port)
            .write(&mut frame, b"x")
            .unwrap();
        frame
    }

    #[test]
    fn what_cannot_be_parsed_still_names_its_ends() {
        let mut frame = udp_to([2, 0, 0, 0, 0, 2], [10, 1, 0, 12], 53);
        frame[24] ^= 0xff;
        let subject = Subject::of_frame(vni(), &frame);
        let flow = subject.flow().unwrap();
        assert_eq!(
            (flow.src, flow.dst, flow.proto),
            (Addr::v4([10, 1, 0, 11]), Addr::v4([10, 1, 0, 12]), proto::UDP)
        );
        for len in 0..frame.len() {
            let _ = Subject::of_frame(vni(), &frame[..len]);
            let _ = Subject::of_datagram(&frame[..len]);
        }
        assert_eq!(Subject::of_frame(vni(), &[0; 13]).macs, Some([MacAddr::ZERO, MacAddr::ZERO]));
    }

    #[test]
    fn chatter_is_what_nobody_misses() {
        let mdns = Subject::of_frame(vni(), &udp_to([1, 0, 0x5e, 0, 0, 0xfb], [224, 0, 0, 251], 5353));
        assert!(mdns.is_chatter(DropReason::MulticastRefused));
        assert!(!mdns.is_chatter(DropReason::IpSpoofed), "who forges addresses is not chatting");
        let to_one = Subject::of_frame(vni(), &udp_to([2, 0, 0, 0, 0, 2], [10, 1, 0, 12], 5353));
        assert!(!to_one.is_chatter(DropReason::IngressDenied));
        let vrrp_like = Subject::of_frame(vni(), &udp_to([1, 0, 0x5e, 0, 0, 0x12], [224, 0, 0, 18], 9000));
        assert!(!vrrp_like.is_chatter(DropReason::MulticastRefused));
        let discover = Subject::of_frame(vni(), &udp_to([0xff; 6], [255; 4], 67));
        assert!(
            !discover.is_chatter(DropReason::UnknownDestination),
            "a guest that gets no lease is worth reading of"
        );
    }
}
