//! Why a frame was dropped. This enum is the single source for counters, CLI, metrics and documents.

use std::fmt;

use serde::Serialize;

/// The step of the packet's path that drops for a reason.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DropGroup {
    /// The frame is not well formed.
    Malformed,
    /// The outer packet is not acceptable.
    Underlay,
    /// The port may not send this.
    Admission,
    /// ARP and ND
    Neighbor,
    /// The packet does not fit the state of its flow.
    State,
    /// Fragments
    Fragment,
    /// A rule, or the absence of one
    Policy,
    /// There is nowhere to send it, or it does not fit.
    Forward,
    /// A limit was reached.
    Limit,
    /// The machine did not take it.
    Device,
}

macro_rules! drop_reasons {
    ($($variant:ident, $name:literal, $group:ident, $text:literal;)*) => {
        /// Why a frame was dropped. Every dropped frame counts under exactly one of these.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $text] $variant,)*
        }

        impl DropReason {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name that counters, CLI and metrics use: lower case, words joined by hyphens.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The step of the path that drops for this reason.
            #[must_use]
            pub const fn group(self) -> DropGroup {
                match self { $(Self::$variant => DropGroup::$group),* }
            }

            /// One sentence for a person.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

drop_reasons! {
    FrameTruncated, "frame-truncated", Malformed, "The frame ends before the header it announces.";
    BadIpHeader, "bad-ip-header", Malformed, "The IP version, header length or total length is wrong, or the IPv4 header checksum is.";
    BadL4Header, "bad-l4-header", Malformed, "The TCP, UDP, SCTP or ICMP header is too short or its length field is wrong, or chunks of SCTP stand together that never do; or a checksum is left open elsewhere than there.";
    BadChecksum, "bad-checksum", Malformed, "The TCP or SCTP checksum is wrong, or that of a UDP or ICMP packet that would begin a flow.";
    SourceRoute, "source-route", Malformed, "The packet carries a source route (IPv4 LSRR or SSRR, IPv6 routing header type 0).";
    IpOptions, "ip-options", Malformed, "The IPv4 options or the IPv6 extension header chain is malformed or too long.";
    MappedAddress, "mapped-address", Malformed, "An IPv6 header carries a v4-mapped address.";

    VxlanTruncated, "vxlan-truncated", Underlay, "The datagram is shorter than a VXLAN and an Ethernet header.";
    VxlanFlags, "vxlan-flags", Underlay, "The I flag of the VXLAN header is clear.";
    VxlanReserved, "vxlan-reserved", Underlay, "A reserved bit of the VXLAN header is set in a network that is strict.";
    UnknownVtep, "unknown-vtep", Underlay, "The datagram comes from an address that is no VTEP of this VNI.";
    UnknownVni, "unknown-vni", Underlay, "This host has no network with this VNI.";
    OuterEcn, "outer-ecn", Underlay, "The outer header is marked congested and the inner packet is not ECN-capable (RFC 6040).";
    InnerVlan, "inner-vlan", Underlay, "The inner frame has a VLAN tag (VID 0 is none) in a network that is not vlan_aware.";

    BadSourceMac, "bad-source-mac", Admission, "The source MAC is multicast, zero, or one of the appliance's own.";
    MacSpoofed, "mac-spoofed", Admission, "The source MAC does not belong to the port, or comes from a VTEP that does not host it.";
    IpSpoofed, "ip-spoofed", Admission, "The source address does not belong to the sender's MAC.";
    Unlearned, "unlearned", Admission, "An address that is learned of its sender, or refused to it: it may be used as soon as it is in force.";
    UnknownEndpoint, "unknown-endpoint", Admission, "The sender is no endpoint and the network admits only endpoints.";
    VlanTagged, "vlan-tagged", Admission, "The port sent a VLAN tag (VID 0 is none) in a network that is not vlan_aware, more tags than it allows, or one of a VLAN that it or the receiver does not have among its `guest_vlans`.";
    UnknownVlan, "unknown-vlan", Admission, "On a trunk: the VLAN of the frame, or its lack of a tag, is no endpoint's there.";
    UnknownStation, "unknown-station", Admission, "On a shared segment: the source MAC of the frame is no endpoint's there.";
    DirectFrame, "direct-frame", Admission, "On a shared segment: one machine sent it to another's MAC, past the appliance. It knows that from before, or the segment does not isolate its machines.";
    EthertypeRefused, "ethertype-refused", Admission, "The ethertype is not IPv4, IPv6 or ARP, and `ethertypes` of one of the ends does not allow it.";
    DhcpServerGuard, "dhcp-server-guard", Admission, "A DHCP or DHCPv6 server message from a port that is no DHCP server.";
    RaGuard, "ra-guard", Admission, "A router advertisement or redirect from a port that is no router (RFC 6105).";
    Martian, "martian", Admission, "An address that cannot be on this network: loopback, multicast or broadcast source, land, class E.";
    ReservedDestination, "reserved-destination", Admission, "The packet is for a VTEP or management address, and its sender has no `underlay_access`.";
    VxlanInVxlan, "vxlan-in-vxlan", Admission, "VXLAN to a VTEP or management address, from an endpoint with `underlay_access`.";
    LinkProtocol, "link-protocol", Admission, "A frame of the link itself (STP, LLDP, 802.1X, pause), which leaves it only where `ethertypes` says so.";

    ArpMalformed, "arp-malformed", Neighbor, "ARP with a wrong type, length or opcode, or a sender MAC unlike the Ethernet source (RFC 826).";
    ArpSpoofed, "arp-spoofed", Neighbor, "ARP whose sender address does not belong to the sender.";
    NdMalformed, "nd-malformed", Neighbor, "Neighbour discovery with a hop limit below 255, bad options, extension headers or in fragments (RFC 4861, 6980).";
    NdSpoofed, "nd-spoofed", Neighbor, "Neighbour discovery that speaks for an address of someone else.";
    NeighborUnknown, "neighbor-unknown", Neighbor, "A request for an address that no endpoint has, in a network that drops those.";
    NeighborOwn, "neighbor-own", Neighbor, "A request or probe that needs no answer: for the asker's own address, or a gratuitous one that is already known.";
    NeighborLimit, "neighbor-limit", Neighbor, "The port asks more often than its limit of neighbour requests a second.";

    NotSyn, "not-syn", State, "TCP without a flow, and not a SYN: state begins only at a SYN.";
    TcpFlags, "tcp-flags", State, "A combination of TCP flags that no state of any connection sends.";
    TcpWindow, "tcp-window", State, "TCP sequence or acknowledgement number outside the window.";
    TcpState, "tcp-state", State, "A TCP segment that the state of its connection does not allow.";
    NotInit, "not-init", State, "SCTP without an association, and neither an INIT nor a HEARTBEAT alone.";
    SctpTag, "sctp-tag", State, "An SCTP verification tag that its receiver would not take (RFC 9260 section 8.5).";
    SctpState, "sctp-state", State, "An SCTP packet that the state of its association does not allow.";
    IcmpUnrelated, "icmp-unrelated", State, "An ICMP error that quotes no live flow of this network, or quotes it in the wrong direction.";
    IcmpUnsolicited, "icmp-unsolicited", State, "An ICMP reply that nobody asked for.";

    FragmentFirstMissing, "fragment-first-missing", Fragment, "A later fragment whose first one did not come in time; it was held until then.";
    FragmentTiny, "fragment-tiny", Fragment, "A first fragment too small for the transport header, or a fragment at offset 1 (RFC 1858, 3128, 7112).";
    FragmentOverlap, "fragment-overlap", Fragment, "A fragment that overlaps another; the whole datagram is lost (RFC 5722).";
    FragmentBadSize, "fragment-bad-size", Fragment, "A fragment whose size is not a multiple of 8, or that ends past 65,535, or contradicts the datagram's end.";
    FragmentDuplicate, "fragment-duplicate", Fragment, "A fragment that was seen before.";
    FragmentRefused, "fragment-refused", Fragment, "A later fragment of a datagram whose first fragment was refused, or went to another receiver.";
    FragmentHeaders, "fragment-headers", Fragment, "More than one IPv6 fragment header in a packet.";
    FragmentLimit, "fragment-limit", Fragment, "More datagrams in fragments, or bytes of those that wait for their first, than the limits allow.";

    EgressDenied, "egress-denied", Policy, "No egress rule of the sender's groups allows it.";
    IngressDenied, "ingress-denied", Policy, "No ingress rule of the receiver's groups allows it.";
    EgressRule, "egress-rule", Policy, "An egress rule of the sender's policy denies it.";
    IngressRule, "ingress-rule", Policy, "An ingress rule of the receiver's policy denies it.";
    PolicyChanged, "policy-changed", Policy, "The flow was allowed before and the policy in force now does not allow it.";
    MulticastRefused, "multicast-refused", Policy, "Multicast or broadcast that the network does not carry.";

    UnknownDestination, "unknown-destination", Forward, "The destination MAC is unknown and the network does not flood.";
    SplitHorizon, "split-horizon", Forward, "A frame from the overlay would go back to the overlay in a mesh network.";
    Hairpin, "hairpin", Forward, "The frame would go out of the port it came from.";
    TooBig, "too-big", Forward, "The frame does not fit the tunnel's MTU and may not be cut; its sender was told where that is possible.";
    NoPeer, "no-peer", Forward, "There is no VTEP to send this frame to.";
    PortGone, "port-gone", Forward, "The destination's port does not exist or is down.";
    VtepUnreachable, "vtep-unreachable", Forward, "The kernel has no route to the VTEP, or refused the datagram.";
    TtlExceeded, "ttl-exceeded", Forward, "The packet's TTL or hop limit ends where the kernel would route it on (`neighbors = \"kernel\"`); its sender was told where that is possible.";
    NotAnAnswer, "not-an-answer", Forward, "The kernel's routing of a network (`neighbors = \"kernel\"`) said something else than an answer to one of its endpoints.";
    NotForUs, "not-for-us", Forward, "A frame to the appliance's MAC for an address that no endpoint has.";
    Unresolved, "unresolved", Forward, "A frame to the appliance's MAC for an address that nobody is known to have, and that those who may have it were asked for within the last second: the next ones go on as soon as it is known.";

    RuleLimit, "rule-limit", Limit, "The source has as many flows by the rule that allows it, or begins them as often, as the rule grants.";
    NewFlowLimit, "new-flow-limit", Limit, "The endpoint or its network begins more flows a second than its limit allows.";
    FlowLimit, "flow-limit", Limit, "There are as many flows as a limit allows; none makes room for another, or not as often.";
    SlowPathLimit, "slow-path-limit", Limit, "More packets of the network came than may be punted from the fast path to the pipeline.";
    BumLimit, "bum-limit", Limit, "More broadcast, unknown unicast and multicast frames a second than the network's limit.";
    MacLimit, "mac-limit", Limit, "The network has learned as many MACs as its limit allows.";
    MacFrozen, "mac-frozen", Limit, "The MAC moved too often and is frozen at its place.";
    MacMoveRefused, "mac-move-refused", Limit, "A learned MAC tried to take the place of a configured one.";

    Overrun, "overrun", Device, "It came faster than it was taken off the socket: the kernel dropped it before eastgate saw it.";
    QueueFull, "queue-full", Device, "The port or the underlay took no more frames.";
    DeviceError, "device-error", Device, "The device refused the frame.";
    NotReady, "not-ready", Device, "There is no policy in force yet: nothing passes before the first snapshot.";
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The place of this reason in a table of counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for DropReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kebab_case_and_unique() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert!(
            names
                .iter()
                .all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
    }

    #[test]
    fn index_and_name_find_the_same_reason() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(DropReason::from_name(reason.name()), Some(*reason));
        }
    }
}
