//! Who is where, and over what: a host of a mesh, or the hub that VTEPs of both kinds meet at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use eastgate_policy::rule::Source;
use eastgate_testkit::frames::tagged;
use eastgate_wire::{Attachment, VlanId};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};

use super::{VNI, ones_sum, tiers};

/// Endpoints 1x have a port here, 2x are behind VTEP 2, 3x behind VTEP 3.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    pub(super) neighbors: &'static str,
    /// VTEPs talk over IPv6.
    pub(super) v6: bool,
    /// What comes from one VTEP may go to another, or back to the same one.
    pub(super) hub: bool,
    /// What it makes of the policy that is written
    pub(super) policy: fn(Source) -> Source,
    /// Some of its rules keep no state.
    pub(super) stateless: bool,
    /// Its endpoints share one device, each in a VLAN.
    pub(super) trunk: bool,
}

/// Of the device of the underlay here
pub(super) const UNDERLAY_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

const fn scene(neighbors: &'static str, v6: bool, hub: bool) -> Scene {
    Scene { neighbors, v6, hub, policy: tiers::as_written, stateless: false, trunk: false }
}

const fn on_a_trunk(scene: Scene) -> Scene {
    Scene { trunk: true, ..scene }
}

pub(super) const SCENES: [Scene; 10] = [
    scene("suppress", false, false),
    on_a_trunk(scene("proxy", false, false)),
    scene("suppress", true, false),
    scene("suppress", false, true),
    scene("proxy", false, true),
    on_a_trunk(scene("proxy", true, true)),
    Scene {
        policy: tiers::around_what_is_written,
        stateless: true,
        ..on_a_trunk(scene("suppress", false, true))
    },
    Scene { policy: tiers::one_group_without_state, stateless: true, ..scene("proxy", false, true) },
    scene("kernel", false, false),
    scene("kernel", false, true),
];

impl Scene {
    pub(super) fn config(self, open_web: bool) -> String {
        self.config_with(open_web, 600, 100_000)
    }

    /// `short`: how long half-open flows last, in seconds.
    pub(super) fn config_with(self, open_web: bool, short: u32, unreplied: u32) -> String {
        // Nothing ends in one host a moment before it does in the other.
        let long = 600;
        let neighbors = self.neighbors;
        let icmp = if open_web { "" } else { "icmp_type = \"echo-request\", " };
        let web = if open_web { "\"1-65535\"" } else { "\"1-79\", \"81-65535\"" };
        let host = |name: &str, vtep: u8, runs: &str| {
            format!("[host.{name}]\nvtep = \"{}\"\ndevice = \"u0\"\n{runs}\n", self.address(vtep))
        };
        // Their peers lie in each other's prefixes, some are known by their groups, and some rules ask for source ports.
        let groups = |n: u8| match n {
            12 => "\"all\", \"db\"",
            21 => "\"db\", \"all\"",
            22 => "\"db\"",
            _ => "\"all\"",
        };
        // As many as make a policy that is changed in its place.
        let others: Vec<_> = (0..150)
            .map(|n| format!("{{ proto = \"tcp\", ports = [{}], from = \"10.200.0.{n}\" }}", 2000 + n))
            .collect();
        let others = others.join(", ");
        let endpoint = |host: &str, port: bool, n: u8| {
            let groups = groups(n);
            let port = match (port, self.vlan_of(n)) {
                (true, Some(vlan)) => format!("port = \"p11\"\nvlan = {vlan}\n"),
                (true, None) => format!("port = \"p{n}\"\n"),
                (false, _) => String::new(),
            };
            format!(
                "[tenant.acme.endpoint.p{n}]\nnetwork = \"app\"\nhost = \"{host}\"\n{port}\
                 mac = \"02:00:00:00:00:{n:02x}\"\naddresses = [\"10.1.0.{n}\", \"fd00:1::{n:x}\"]\ngroups = [{groups}]\n"
            )
        };
        let plain = self.is_plain(2);
        let kind = if plain { "runs = \"vxlan\"" } else { "" };
        let mut who = vec![host("alpha", 1, ""), host("beta", 2, kind)];
        who.extend([endpoint("alpha", true, 11), endpoint("alpha", true, 12), endpoint("beta", !plain, 21)]);
        let mut topology = "";
        if self.hub {
            topology = "topology = \"hub\"\nhub = \"alpha\"\n";
            who.extend([host("gamma", 3, ""), endpoint("beta", !plain, 22), endpoint("gamma", true, 31)]);
        }
        format!(
            "[tenant.acme.network.app]\nvni = {VNI}\nsubnets = [\"10.1.0.0/24\", \"fd00:1::/64\"]\nneighbors = \"{neighbors}\"\n{topology}\
             [tenant.acme.network.app.timeouts]\ntcp_close = {long}\ntcp_syn = {short}\ntcp_last_ack = {long}\n\
             tcp_close_wait = {long}\nudp_first = {short}\nudp_exchange = {long}\nicmp_exchange = {short}\nicmp = {short}\n\
             sctp_cookie_wait = {long}\nsctp_cookie_echoed = {long}\nsctp_heartbeat_sent = {long}\nsctp_shutdown_sent = {long}\n\
             sctp_shutdown_recd = {long}\nsctp_shutdown_ack_sent = {long}\nsctp_closed = {long}\nsctp_established = {long}\n\
             [tenant.acme.network.app.limits]\nunreplied = {unreplied}\nfragments = 100000\n\
             [tenant.acme.group.all]\negress = [{{ to = \"any\" }}]\n\
             ingress = [{{ proto = \"tcp\", ports = [{web}], from = \"any\" }}, {{ proto = \"udp\", ports = [{web}], from = \"any\" }}, \
             {{ proto = \"icmp\", {icmp}from = \"any\" }}, {{ proto = \"sctp\", ports = [{web}], from = \"any\" }}]\n\
             [tenant.acme.group.db]\n\
             egress = [{{ proto = \"tcp\", ports = [443], source_ports = [\"1024-1200\"], to = \"any\" }}, {{ to = \"group:all\" }}, \
             {{ proto = \"udp\", to = \"10.1.0.16/28\" }}, {{ proto = \"udp\", ports = [53, 443], to = \"fd00:1::/64\" }}]\n\
             ingress = [{{ proto = \"tcp\", ports = [{web}], source_ports = [\"1024-1223\"], from = \"any\" }}, \
             {{ proto = \"udp\", ports = [\"53-443\"], from = \"10.1.0.0/27\" }}, {{ proto = \"udp\", ports = [443], from = \"group:db\" }}, \
             {{ proto = \"tcp\", ports = [{web}], from = \"10.1.0.8/29\" }}, {{ proto = \"sctp\", from = \"any\" }}, {others}]\n{}",
            who.concat(),
        )
    }

    /// The VLAN of an endpoint of this host on the device that they share
    pub(super) fn vlan_of(self, endpoint: u8) -> Option<VlanId> {
        VlanId::new_checked(u16::from(endpoint) + 90)
            .filter(|_| self.trunk && self.vtep_of(endpoint).is_none())
    }

    /// How an endpoint of this host is attached.
    pub(super) fn attachment(self, endpoint: u8) -> Attachment {
        match self.vlan_of(endpoint) {
            Some(vlan) => Attachment::trunk("p11".into(), Some(vlan)),
            None => Attachment::access(format!("p{endpoint}").into()),
        }
    }

    /// A frame as it comes in from the device of an endpoint of this host
    pub(super) fn on_the_device(self, endpoint: u8, frame: &[u8]) -> Vec<u8> {
        match self.vlan_of(endpoint) {
            Some(vlan) => tagged(frame, vlan.get()),
            None => frame.to_vec(),
        }
    }

    /// Who talks to whom
    pub(super) const fn pairs(self) -> &'static [[u8; 2]] {
        if self.hub {
            &[[21, 31], [31, 21], [22, 31], [21, 22], [22, 21], [31, 11], [12, 21], [11, 12]]
        } else {
            &[[11, 12], [11, 21], [21, 11], [12, 21], [12, 11]]
        }
    }

    /// Does the kernel route between the endpoints of this host?
    pub(super) fn is_routed(self) -> bool {
        self.neighbors == "kernel"
    }

    /// The VTEP that an endpoint is behind; none for one of this host.
    pub(super) const fn vtep_of(self, endpoint: u8) -> Option<u8> {
        if endpoint < 20 { None } else { Some(endpoint / 10) }
    }

    const fn is_plain(self, vtep: u8) -> bool {
        self.hub && vtep == 2
    }

    /// Does an endpoint that sends to another one write the appliance's MAC?
    pub(super) fn asks_the_appliance(self, endpoint: u8) -> bool {
        matches!(self.neighbors, "proxy" | "kernel")
            && self.vtep_of(endpoint).is_none_or(|vtep| self.is_plain(vtep))
    }

    pub(super) fn address(self, vtep: u8) -> IpAddr {
        if self.v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, vtep.into()).into()
        } else {
            Ipv4Addr::new(172, 31, 0, vtep).into()
        }
    }

    pub(super) const fn prefix(self) -> u8 {
        if self.v6 { 64 } else { 24 }
    }

    /// What is around an inner frame, its own Ethernet header not counted.
    pub(super) const fn around(self) -> usize {
        if self.v6 { 14 + 40 + 8 + 8 } else { 14 + 20 + 8 + 8 }
    }

    /// A datagram of a VTEP for this host, built by etherparse, with its checksum.
    pub(super) fn summed(self, from: u8, tos: u8, payload: &[u8]) -> Vec<u8> {
        let len = payload.len() as u16 + 8;
        let ip = match (self.address(from), self.address(1)) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = Ipv4Header::new(len, 64, IpNumber::UDP, from.octets(), to.octets()).unwrap();
                ip.dont_fragment = true;
                (ip.dscp, ip.ecn) = ((tos >> 2).try_into().unwrap(), (tos & 3).try_into().unwrap());
                IpHeaders::Ipv4(ip, Default::default())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    traffic_class: tos,
                    // As a kernel's socket writes it
                    flow_label: 0xf00d.try_into().unwrap(),
                    payload_length: len,
                    next_header: IpNumber::UDP,
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                };
                IpHeaders::Ipv6(ip, Default::default())
            }
            _ => unreachable!("one family"),
        };
        let mut outer = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 1, 2], UNDERLAY_MAC);
        builder.ip(ip).udp(50_000, 4789).write(&mut outer, payload).unwrap();
        outer
    }

    /// The same without a checksum.
    pub(super) fn datagram(self, from: u8, tos: u8, payload: &[u8]) -> Vec<u8> {
        let mut outer = self.summed(from, tos, payload);
        // RFC 7348 section 4.1: zero. The source port, length and checksum are before the VXLAN header.
        let udp = outer.len() - payload.len();
        outer[udp - 2..udp].fill(0);
        outer
    }

    /// Where a datagram of this host goes, by which TOS and TTL, and what is in it; all else of its headers is as it
    /// must be.
    pub(super) fn read(self, datagram: &[u8]) -> (IpAddr, u8, u8, Vec<u8>) {
        let (ethernet, rest) = datagram.split_at(14);
        let (ip, rest) = rest.split_at(self.around() - 14 - 16);
        let (udp, payload) = rest.split_at(8);
        let (len, to, tos, ttl) = if self.v6 {
            assert_eq!((&ethernet[12..], ip[0] >> 4, ip[6]), (&[0x86, 0xdd][..], 6, 17));
            assert_eq!((ip[1] & 0x0f, &ip[2..4]), (0, &[0, 0][..]), "no flow label");
            assert_eq!(ip[8..24], self.octets(1));
            let to: [u8; 16] = ip[24..].try_into().unwrap();
            (u16::from_be_bytes([ip[4], ip[5]]) + 40, IpAddr::from(to), ip[0] << 4 | ip[1] >> 4, ip[7])
        } else {
            assert_eq!((&ethernet[12..], ip[0], ip[9]), (&[8, 0][..], 0x45, 17));
            assert_eq!(ones_sum(ip), 0xffff, "outer header checksum");
            assert_eq!(ip[6..8], [0x40, 0], "DF");
            assert_eq!(ip[12..16], self.octets(1));
            let to: [u8; 4] = ip[16..].try_into().unwrap();
            (u16::from_be_bytes([ip[2], ip[3]]), IpAddr::from(to), ip[1], ip[8])
        };
        assert_eq!(usize::from(len), datagram.len() - 14, "outer length");
        assert!(u16::from_be_bytes([udp[0], udp[1]]) >= 49152, "a source port of the overlay: {udp:?}");
        let length = (payload.len() as u16 + 8).to_be_bytes();
        assert_eq!(udp[2..6], [4789u16.to_be_bytes(), length].concat());
        let plain_v6 = self.v6 && to == self.address(2) && self.is_plain(2);
        assert!(!plain_v6 || udp[6..] != [0, 0], "a plain VTEP over IPv6 wants a checksum");
        if udp[6..] != [0, 0] {
            let addresses = &ip[if self.v6 { 8 } else { 12 }..];
            let summed = [addresses, &[0, 17], &length, udp, payload].concat();
            assert_eq!(ones_sum(&summed), 0xffff, "outer UDP checksum");
        }
        (to, tos, ttl, payload.to_vec())
    }

    fn octets(self, vtep: u8) -> Vec<u8> {
        match self.address(vtep) {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        }
    }
}
