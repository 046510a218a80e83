//! What the kernel's programs may carry and what stays in userspace, with the reason: said here and nowhere else.
//!
//! The pipeline asks before it offloads a flow or leaves a policy-cache entry, the kernel's table of endpoints has those
//! addresses that are eligible, and `show endpoints` tells why one is not.

use eastgate_policy::admission::{self, Site};
use eastgate_vtep::{fdb::Location, peers::PeerKind};
use eastgate_wire::{Addr, FlowKey, Helper, view::proto};

use crate::{
    pipeline::probe::Probes,
    snapshot::{Endpoint, Network},
};

/// Why packets stay in userspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Userspace {
    /// Of an endpoint
    PortSecurityOff,
    /// Of an endpoint
    VtepIsNoMember,
    /// Of an endpoint
    MacIsNoStation,
    /// Of an endpoint
    MacIsTheProxys,
    /// Of an endpoint
    MacIsAnothers,
    /// Of an address
    AddressIsNoHost,
    /// Of an address
    AddressIsReserved,
    /// Of an address
    AddressIsAnothers,
    /// Of an address
    AddressIsShared,
    /// Of a flow
    ControlTraffic,
    /// Of a flow
    SourceIsNotItsOwn,
    /// Of a flow
    ProxiedElsewhere,
    /// Of a flow
    StateOfOneEnd,
    /// Of a flow
    ReadByHelper,
    /// Of a flow
    AskedByProbe,
    /// Of a flow
    NotRouted,
    /// Of the first packet of a flow
    OwnTimeouts,
    /// Of a packet
    Tagged,
}

impl Userspace {
    /// All reasons.
    pub const ALL: [Self; 18] = [
        Self::PortSecurityOff,
        Self::VtepIsNoMember,
        Self::MacIsNoStation,
        Self::MacIsTheProxys,
        Self::MacIsAnothers,
        Self::AddressIsNoHost,
        Self::AddressIsReserved,
        Self::AddressIsAnothers,
        Self::AddressIsShared,
        Self::ControlTraffic,
        Self::SourceIsNotItsOwn,
        Self::ProxiedElsewhere,
        Self::StateOfOneEnd,
        Self::ReadByHelper,
        Self::AskedByProbe,
        Self::NotRouted,
        Self::OwnTimeouts,
        Self::Tagged,
    ];

    /// What stays in userspace for this reason.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::PortSecurityOff => "all flows of the endpoint",
            Self::VtepIsNoMember | Self::MacIsNoStation | Self::MacIsTheProxys | Self::MacIsAnothers => {
                "decisions about the endpoint"
            }
            Self::AddressIsNoHost
            | Self::AddressIsReserved
            | Self::AddressIsAnothers
            | Self::AddressIsShared => "decisions about the address",
            Self::ControlTraffic
            | Self::SourceIsNotItsOwn
            | Self::ProxiedElsewhere
            | Self::StateOfOneEnd
            | Self::ReadByHelper
            | Self::AskedByProbe
            | Self::NotRouted => "the flow",
            Self::OwnTimeouts => "the first packet of the flow",
            Self::Tagged => "the packet",
        }
    }

    /// The reason, behind "stays in userspace because".
    #[must_use]
    pub const fn because(self) -> &'static str {
        match self {
            Self::PortSecurityOff => "port security is off: who sends is found out packet by packet",
            Self::VtepIsNoMember => "its VTEP is no member of the network",
            Self::MacIsNoStation => "its MAC is no single station's",
            Self::MacIsTheProxys => "its MAC is the one that the appliance has in the network",
            Self::MacIsAnothers => "its MAC is another endpoint's as well",
            Self::AddressIsNoHost => "the address cannot be a host's",
            Self::AddressIsReserved => "the address is reserved: a VTEP's or a management address",
            Self::AddressIsAnothers => "the address is another endpoint's as well",
            Self::AddressIsShared => "other endpoints may have the address: who holds it can change",
            Self::ControlTraffic => "control traffic (DHCP) is checked packet by packet",
            Self::SourceIsNotItsOwn => "the source address is not its sender's own",
            Self::ProxiedElsewhere => {
                "a sender that asks the appliance is sent to another endpoint by the address"
            }
            Self::StateOfOneEnd => {
                "only one of its ends here keeps state of it: the other's rules are asked about each packet"
            }
            Self::ReadByHelper => "a helper (FTP, TFTP) reads what is said in it",
            Self::AskedByProbe => {
                "the appliance has begun it by `eastgate probe`, and its answers are the probe's"
            }
            Self::NotRouted => {
                "the kernel routes in the network, and has no route for its addresses (link-local ones)"
            }
            Self::OwnTimeouts => "an end of it has timeouts of its own",
            Self::Tagged => "it has a VLAN tag of the tenant's",
        }
    }
}

/// Judges what is of one network.
#[derive(Clone, Copy, Debug)]
pub struct Eligibility<'n> {
    network: &'n Network,
}

impl<'n> Eligibility<'n> {
    /// In this network.
    #[must_use]
    pub const fn of(network: &'n Network) -> Self {
        Self { network }
    }

    /// May the programs decide flows of this address of the endpoint? They know it by its MAC alone, and check nothing else
    /// of its packets but where they come from. `site` has what nobody may reach.
    ///
    /// # Errors
    /// Why not.
    pub fn address(self, site: &Site, endpoint: &Endpoint, addr: Addr) -> Result<(), Userspace> {
        let network = self.network;
        let owns = |found: Option<&Endpoint>| found.is_some_and(|found| found.id == endpoint.id);
        let is_reachable = match endpoint.location {
            Location::Local(_) => true,
            Location::Remote(vtep) => network.peers.kind(vtep).is_some(),
        };
        unless(is_reachable, Userspace::VtepIsNoMember)?;
        self.secured(endpoint)?;
        unless(endpoint.mac.is_station(), Userspace::MacIsNoStation)?;
        unless(endpoint.mac != network.proxy_mac, Userspace::MacIsTheProxys)?;
        unless(admission::is_usable(addr), Userspace::AddressIsNoHost)?;
        unless(!site.is_reserved(addr), Userspace::AddressIsReserved)?;
        unless(owns(network.by_mac(endpoint.mac)), Userspace::MacIsAnothers)?;
        unless(owns(network.by_address(addr)), Userspace::AddressIsAnothers)?;
        unless(network.directory.ownership.sharers(addr).is_empty(), Userspace::AddressIsShared)
    }

    /// May packets of this key, from one endpoint to another, be carried by what was decided of their flow? Who may send to what
    /// is reserved in `site`, answers included, is checked packet by packet.
    ///
    /// # Errors
    /// Why not.
    pub fn flow(self, site: &Site, src: &Endpoint, dst: &Endpoint, key: &FlowKey) -> Result<(), Userspace> {
        let network = self.network;
        let reserved = [key.src, key.dst].into_iter().any(|addr| site.is_reserved(addr));
        unless(!reserved, Userspace::AddressIsReserved)?;
        let is_control = key.proto == proto::UDP
            && network.control_ports.iter().any(|port| [key.sport, key.dport].contains(port));
        unless(!is_control, Userspace::ControlTraffic)?;
        self.secured(src)?;
        self.secured(dst)?;
        unless(self.is_carried_whole(key), Userspace::NotRouted)?;
        let owns = network.directory.ownership.may_send(src.holdings(), true, src.mac, key.src);
        unless(owns, Userspace::SourceIsNotItsOwn)?;
        // Who asks the appliance is sent on by the address alone.
        let reached = network.at_address(key.dst).map(|(found, _)| found).or_else(|| network.behind(key.dst));
        let agrees = reached.is_some_and(|found| found.id == dst.id);
        unless(agrees || !self.is_proxied(src.location), Userspace::ProxiedElsewhere)
    }

    /// Is each packet of the flow that is for this host routed by the kernel, or none?
    fn is_carried_whole(self, key: &FlowKey) -> bool {
        let network = self.network;
        let is_here = |addr| network.by_address(addr).is_some_and(|holder| holder.attachment().is_some());
        let is_well = |src, dst| !is_here(dst) || network.routes_between(src, dst);
        network.kernel_entry.is_none() || (is_well(key.src, key.dst) && is_well(key.dst, key.src))
    }

    /// May a flow be carried of which these ends keep no state, and which this helper follows?
    ///
    /// # Errors
    /// Why not.
    pub fn kept(self, stateless: [bool; 2], helper: Option<Helper>) -> Result<(), Userspace> {
        unless(stateless == [false; 2], Userspace::StateOfOneEnd)?;
        unless(helper.is_none(), Userspace::ReadByHelper)
    }

    /// May a flow with this key be carried, or others like it begin elsewhere? The answers to a probe are not for the endpoint
    /// that it asks for.
    ///
    /// # Errors
    /// Why not.
    pub fn asked_by(self, probes: &Probes, key: &FlowKey) -> Result<(), Userspace> {
        unless(!probes.has(key), Userspace::AskedByProbe)
    }

    /// May a packet with so many VLAN tags be carried?
    ///
    /// # Errors
    /// Why not.
    pub fn packet(self, tags: u8) -> Result<(), Userspace> {
        unless(tags == 0, Userspace::Tagged)
    }

    /// Does the appliance stand between an endpoint at this place and the others, by a MAC of its own?
    #[must_use]
    pub fn is_proxied(self, at: Location) -> bool {
        self.network.proxy
            && match at {
                Location::Local(_) => true,
                Location::Remote(vtep) => self.network.peers.kind(vtep) == Some(PeerKind::Plain),
            }
    }

    /// May the programs begin flows between these ends, as far as they are endpoints? They know how long flows of the network last.
    ///
    /// # Errors
    /// Why not.
    pub fn beginning(self, ends: [Option<&Endpoint>; 2]) -> Result<(), Userspace> {
        let own = ends.into_iter().flatten().any(|end| end.timeouts.is_some());
        unless(!own, Userspace::OwnTimeouts)
    }

    /// The first reason for which something of an endpoint is not in the programs' hands, with the address that it is about, if
    /// it is about one.
    #[must_use]
    pub fn first_reason(self, site: &Site, endpoint: &Endpoint) -> Option<(Option<Addr>, Userspace)> {
        if let Err(why) = self.secured(endpoint) {
            return Some((None, why));
        }
        let addresses = &endpoint.holdings().addresses;
        addresses.iter().find_map(|addr| {
            let why = self.address(site, endpoint, *addr).err()?;
            let of_address = matches!(
                why,
                Userspace::AddressIsNoHost
                    | Userspace::AddressIsReserved
                    | Userspace::AddressIsAnothers
                    | Userspace::AddressIsShared
            );
            Some((of_address.then_some(*addr), why))
        })
    }

    fn secured(self, endpoint: &Endpoint) -> Result<(), Userspace> {
        unless(endpoint.sender.port_security, Userspace::PortSecurityOff)
    }
}

fn unless(holds: bool, why: Userspace) -> Result<(), Userspace> {
    if holds { Ok(()) } else { Err(why) }
}

#[cfg(test)]
mod tests {
    use eastgate_config::load_str;
    use eastgate_wire::{Leg, Vni};

    use super::*;
    use crate::{
        attachments::Attachments,
        pipeline::probe::Aim,
        snapshot::{Snapshot, state::StateRegistry},
    };

    const CONFIG: &str = r#"
[host.alpha]
vtep = "172.31.0.1"
device = "eth0"
[tenant.acme.network.app]
vni = 5001
subnets = ["10.1.0.0/24"]
neighbors = "proxy"
[tenant.acme.group.web]
ingress = [{ from = "any" }]
egress = [{ to = "any" }]
[tenant.acme.endpoint.web1]
network = "app"
host = "alpha"
port = "p1"
mac = "02:00:00:00:00:0b"
addresses = ["10.1.0.11"]
groups = ["web"]
[tenant.acme.endpoint.open]
network = "app"
host = "alpha"
port = "p2"
mac = "02:00:00:00:00:0c"
addresses = ["10.1.0.12"]
groups = ["web"]
port_security = false
[tenant.acme.endpoint.shared]
network = "app"
host = "alpha"
port = "p3"
mac = "02:00:00:00:00:0d"
addresses = ["10.1.0.13", "10.1.0.14"]
groups = ["web"]
[tenant.acme.endpoint.standby]
network = "app"
host = "alpha"
port = "p4"
mac = "02:00:00:00:00:0e"
addresses = ["10.1.0.15"]
groups = ["web"]
allowed_pairs = [{ address = "10.1.0.14" }]
"#;

    fn address(last: u8) -> Addr {
        Addr::v4([10, 1, 0, last])
    }

    fn udp(from: u8, to: u8, dport: u16) -> FlowKey {
        FlowKey {
            src: address(from),
            dst: address(to),
            vni: Vni::from_wire([0, 0x13, 0x89]),
            sport: 4000,
            dport,
            proto: proto::UDP,
            leg: Leg::DIRECT,
        }
    }

    #[test]
    fn each_reason_is_said_of_what_it_is_about() {
        let config = load_str("eligibility.toml", CONFIG).unwrap();
        let states = StateRegistry::new(config.limits);
        let snapshot =
            Snapshot::compile(&config, "alpha", None, &mut Attachments::default(), &states).unwrap();
        let network = snapshot.network(Vni::from_wire([0, 0x13, 0x89])).unwrap();
        let endpoint = |name: &str| network.endpoints().find(|it| &*it.name == name).unwrap();
        let [web1, open, shared] = ["web1", "open", "shared"].map(endpoint);
        let eligibility = Eligibility::of(network);
        let site = &*snapshot.site;
        for (of, last, expected) in [
            (web1, 11, Ok(())),
            (open, 12, Err(Userspace::PortSecurityOff)),
            (shared, 13, Ok(())),
            (shared, 14, Err(Userspace::AddressIsShared)),
            (web1, 13, Err(Userspace::AddressIsAnothers)),
        ] {
            assert_eq!(eligibility.address(site, of, address(last)), expected, "{} {last}", of.name);
        }
        let vtep = Addr::v4([172, 31, 0, 1]);
        assert_eq!(eligibility.address(site, web1, vtep), Err(Userspace::AddressIsReserved));
        let multicast = Addr::v4([224, 0, 0, 1]);
        assert_eq!(eligibility.address(site, web1, multicast), Err(Userspace::AddressIsNoHost));
        let told = ["web1", "open", "shared"].map(|name| eligibility.first_reason(site, endpoint(name)));
        let expected = [
            None,
            Some((None, Userspace::PortSecurityOff)),
            Some((Some(address(14)), Userspace::AddressIsShared)),
        ];
        assert_eq!(told, expected);

        for (src, dst, key, expected) in [
            (web1, shared, udp(11, 13, 53), Ok(())),
            (web1, shared, udp(11, 13, 67), Err(Userspace::ControlTraffic)),
            (open, shared, udp(12, 13, 53), Err(Userspace::PortSecurityOff)),
            (web1, open, udp(11, 12, 53), Err(Userspace::PortSecurityOff)),
            (web1, shared, udp(13, 11, 53), Err(Userspace::SourceIsNotItsOwn)),
            (web1, shared, udp(11, 15, 53), Err(Userspace::ProxiedElsewhere)),
        ] {
            assert_eq!(eligibility.flow(site, src, dst, &key), expected, "{key:?}");
        }
        assert_eq!((eligibility.packet(0), eligibility.packet(1)), (Ok(()), Err(Userspace::Tagged)));

        let (probes, probed) = (Probes::default(), udp(11, 13, 53));
        assert_eq!(eligibility.asked_by(&probes, &probed), Ok(()));
        let aim = Aim {
            attachment: web1.attachment().unwrap(),
            mac: web1.mac,
            own: probed.src,
            target: probed.dst,
            flow: Some(probed),
        };
        let (sender, _answers) = std::sync::mpsc::sync_channel(1);
        probes.begin(aim, sender, eastgate_wire::Instant::ZERO).unwrap();
        for key in [probed, probed.reversed()] {
            assert_eq!(eligibility.asked_by(&probes, &key), Err(Userspace::AskedByProbe));
        }
        assert_eq!(eligibility.asked_by(&probes, &udp(11, 13, 54)), Ok(()));
    }
}
