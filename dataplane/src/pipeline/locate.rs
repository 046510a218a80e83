//! Step 3: whom a frame is for, and where that is.

use eastgate_vtep::fdb::Location;
use eastgate_wire::{
    Addr, DropReason, Instant, View,
    view::{Ip, Net, Transport, proto},
};

use super::{Arrival, Pipeline, Refusal, batch::Batch, shared::lock};
use crate::snapshot::{Endpoint, Network};

/// Where a frame goes.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'s> {
    /// To one station
    Station {
        /// Which endpoint; none when the station is one that was learned
        endpoint: Option<&'s Endpoint>,
        /// Where it is
        at: Location,
        /// The frame is part of what every network needs (ARP, ND, DHCP) and not subject to rules
        control: bool,
    },
    /// To the endpoints with a role: what a client asks a DHCP server, a host a router
    Role(Role),
    /// To the endpoints that may speak what the frame is of beside IPv4, IPv6 and ARP
    Speakers,
    /// To those who share an address with the sender, and settle by this which of them has it
    Sharers,
    /// To the members of the network whose rules let it in: the sender's rules name the group that it is for
    Group,
    /// To everyone in the network
    Flood {
        /// As above
        control: bool,
    },
}

impl Destination<'_> {
    /// Rules say nothing about what is not IP: of that only ARP and the like goes anywhere, whoever admitted it, and what
    /// both ends may speak.
    pub(super) fn may_be_other_than_ip(&self, view: &View, frame: &[u8]) -> Result<(), Refusal> {
        match self {
            Self::Station { control: true, .. } | Self::Flood { control: true } | Self::Speakers => Ok(()),
            Self::Station { endpoint: Some(endpoint), .. } if endpoint.sender.speaks(view, frame) => Ok(()),
            _ => Err(DropReason::EthertypeRefused.into()),
        }
    }
}

/// A part that an endpoint plays for the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It answers DHCP and DHCPv6.
    DhcpServer,
    /// It advertises itself as a router.
    Router,
}

impl Role {
    pub(super) fn is_played_by(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::DhcpServer => endpoint.sender.dhcp_server,
            Self::Router => endpoint.sender.router,
        }
    }
}

/// What a packet is to the network itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ControlTraffic {
    AskDhcp,
    AnswerDhcp,
    SolicitRouter,
    AdvertiseRouter,
}

fn control_traffic(ip: &Ip) -> Option<ControlTraffic> {
    match ip.transport {
        // By the port they are for: what they come from is up to the stack (RFC 8415 section 7.2), and relays have one of
        // their own (RFC 2131 section 4.1).
        Transport::Udp { dport: 67, .. } if ip.src.is_v4() => Some(ControlTraffic::AskDhcp),
        Transport::Udp { dport: 68, .. } if ip.src.is_v4() => Some(ControlTraffic::AnswerDhcp),
        Transport::Udp { dport: 547, .. } if !ip.src.is_v4() => Some(ControlTraffic::AskDhcp),
        Transport::Udp { dport: 546, .. } if !ip.src.is_v4() => Some(ControlTraffic::AnswerDhcp),
        Transport::Icmp(icmp) if ip.proto == proto::ICMPV6 && ip.ttl == 255 => match icmp.kind {
            133 => Some(ControlTraffic::SolicitRouter),
            134 => Some(ControlTraffic::AdvertiseRouter),
            _ => None,
        },
        _ => None,
    }
}

/// Addresses of another machine that one is told of for a frame
const LED_BACK: usize = 4;

impl<'s> Pipeline<'s> {
    /// A packet for an address that nobody is known to have now, and somebody may have, is lost, and those are asked, so that the
    /// next one is not.
    pub(super) fn locate(
        &mut self,
        arrival: &Arrival<'s>,
        view: &View,
        plain: bool,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Destination<'s>, Refusal> {
        let located = match self.destination(arrival, view, plain, now) {
            Err(refusal) if plain && is_nobodys(&refusal) => {
                let sought = self.search(arrival, view, now, out);
                // A MAC that nobody knows is another fault than an address.
                Err(sought.filter(|_| refusal.reason == DropReason::NotForUs).unwrap_or(refusal))
            }
            located => located,
        };
        if let Err(Refusal { reason: DropReason::DirectFrame, .. }) = located {
            self.lead_back(arrival, view, now, out);
        }
        match located {
            Ok(Destination::Station { endpoint: Some(endpoint), .. })
                if !endpoint.sender.tags.admit(view) =>
            {
                Err(DropReason::VlanTagged.into())
            }
            located => located,
        }
    }

    /// Finds out where a frame goes. `plain` is false for ARP and ND.
    fn destination(
        &self,
        arrival: &Arrival<'s>,
        view: &View,
        plain: bool,
        now: Instant,
    ) -> Result<Destination<'s>, Refusal> {
        let network = arrival.network;
        if view.dst.is_multicast() {
            return is_bum(arrival, view, plain);
        }
        if network.proxy && view.dst == network.proxy_mac {
            return self.behind_proxy(arrival, view, now);
        }
        if let Some(endpoint) = network.at_mac(view.dst) {
            if arrival.sender.is_some_and(|sender| sender.is_beside(endpoint)) {
                return Err(DropReason::DirectFrame.into());
            }
            let control_traffic = view.ip().and_then(control_traffic);
            let control = !plain
                || elects(arrival, endpoint, view)
                || control_traffic == Some(ControlTraffic::AskDhcp) && endpoint.sender.dhcp_server
                || control_traffic == Some(ControlTraffic::AnswerDhcp) && plays(arrival, Role::DhcpServer)
                || control_traffic == Some(ControlTraffic::AdvertiseRouter) && plays(arrival, Role::Router);
            return Ok(Destination::Station { endpoint: Some(endpoint), at: endpoint.location, control });
        }
        if network.learns()
            && let Some(at) = lock(&network.state.fdb).lookup(view.dst, now)
            && let Some(endpoint) = self.nested_at(network, at)
        {
            return Ok(Destination::Station { endpoint, at, control: !plain });
        }
        if network.flood_unknown {
            return Ok(Destination::Flood { control: !plain });
        }
        Err(DropReason::UnknownDestination.into())
    }

    /// A machine has learned the MAC of another one of its segment, and sends past the appliance: it is told that the addresses are here.
    fn lead_back(&mut self, arrival: &Arrival<'s>, view: &View, now: Instant, out: &mut Batch) {
        let network = arrival.network;
        let Some(owner) = network.at_mac(view.dst) else { return };
        if let Some(sender) = arrival.sender {
            lock(&network.state.pairs).note(sender.mac, owner.mac, now);
        }
        if lock(&network.state.thefts).take(now) {
            let by = arrival.sender.map(|sender| sender.name.to_string());
            tracing::warn!(network = %network.name, from = by.as_deref(), to = %owner.name, mac = %view.dst,
                "a machine knows the MAC of another one on its shared segment; if it goes on, the switch does not isolate them");
        }
        let Some(ip) = view.ip().filter(|_| view.tags == 0) else { return };
        // What it sends to may be behind the other one: that is its gateway then, by whichever of its addresses.
        let own = network.at_address(ip.dst).is_some_and(|(_, mac)| mac == view.dst).then_some(ip.dst);
        let family = ip.dst.family();
        let all =
            owner.holdings().addresses.iter().copied().filter(|it| own.is_none() && it.family() == family);
        for address in own.into_iter().chain(all).take(LED_BACK) {
            if self.take_answer_token(arrival, now).is_err() {
                return;
            }
            eastgate_steering::announcement(address, network.proxy_mac, owner.sender.router, &mut self.made);
            self.send_back(arrival, out);
        }
    }

    /// Tells those that were seen to speak past the appliance that each other's addresses are here.
    pub(super) fn lead_pairs(&mut self, network: &'s Network, out: &mut Batch) {
        for pair in lock(&network.state.pairs).take_due() {
            let [Some(one), Some(other)] = pair.map(|mac| network.by_mac(mac)) else { continue };
            // They may have moved apart.
            if !one.is_beside(other) {
                continue;
            }
            for (to, of) in [(one, other), (other, one)] {
                for address in of.holdings().addresses.iter().take(LED_BACK) {
                    eastgate_steering::announcement(
                        *address,
                        network.proxy_mac,
                        of.sender.router,
                        &mut self.made,
                    );
                    self.send_made_to(network, to.location, out);
                }
            }
        }
    }

    /// The station behind an address, for a frame that came addressed to the appliance.
    fn behind_proxy(
        &self,
        arrival: &Arrival<'s>,
        view: &View,
        now: Instant,
    ) -> Result<Destination<'s>, Refusal> {
        let network = arrival.network;
        let address = view.ip().ok_or(DropReason::NotForUs)?.dst;
        if let Some((endpoint, _)) = network.at_address(address) {
            return Ok(Destination::Station {
                endpoint: Some(endpoint),
                at: endpoint.location,
                control: elects(arrival, endpoint, view),
            });
        }
        let learned =
            network.learns().then(|| lock(&network.state.learned).by_address(address, now)).flatten();
        let Some(at) = learned.map(|learned| learned.at) else {
            let endpoint = network.behind(address).ok_or(DropReason::NotForUs)?;
            return Ok(Destination::Station {
                endpoint: Some(endpoint),
                at: endpoint.location,
                control: false,
            });
        };
        let endpoint = self.nested_at(network, at).ok_or(DropReason::NotForUs)?;
        Ok(Destination::Station { endpoint, at, control: false })
    }

    /// The endpoint without port security that a station is behind which was learned at this place, if it is known: its
    /// rules are the station's. Nothing when the place is of this network no longer.
    fn nested_at(&self, network: &'s Network, at: Location) -> Option<Option<&'s Endpoint>> {
        match at {
            Location::Local(attachment) => {
                let (there, endpoint) = self.snapshot.at_attachment(attachment)?;
                (there.vni == network.vni && !endpoint.sender.port_security).then_some(Some(endpoint))
            }
            Location::Remote(_) => Some(network.nested_behind(at)),
        }
    }
}

fn is_nobodys(refusal: &Refusal) -> bool {
    matches!(refusal.reason, DropReason::UnknownDestination | DropReason::NotForUs)
}

/// Where a frame to a group goes.
fn is_bum<'s>(arrival: &Arrival<'s>, view: &View, plain: bool) -> Result<Destination<'s>, Refusal> {
    let network = arrival.network;
    match view.ip().and_then(control_traffic) {
        Some(ControlTraffic::AskDhcp) => Ok(Destination::Role(Role::DhcpServer)),
        Some(ControlTraffic::SolicitRouter) => Ok(Destination::Role(Role::Router)),
        _ if !plain => Ok(Destination::Flood { control: true }),
        _ if view.net == Net::Other && arrival.sender.is_some() => Ok(Destination::Speakers),
        Some(ControlTraffic::AnswerDhcp) if plays(arrival, Role::DhcpServer) => {
            Ok(Destination::Flood { control: true })
        }
        Some(ControlTraffic::AdvertiseRouter) if plays(arrival, Role::Router) => {
            Ok(Destination::Flood { control: true })
        }
        _ if is_vrrp(view) && arrival.sender.is_some_and(|it| network.shares_at_all(it)) => {
            Ok(Destination::Sharers)
        }
        _ if network.flood_multicast => Ok(Destination::Flood { control: false }),
        _ if arrival.sender.is_some_and(|sender| network.names_group(sender, view)) => Ok(Destination::Group),
        _ => Err(DropReason::MulticastRefused.into()),
    }
}

/// The two that VRRP has, and CARP with it (RFC 9568 sections 5.1.1.2 and 5.1.2.2)
const VRRP_GROUPS: [Addr; 2] =
    [Addr::v4([224, 0, 0, 18]), Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12])];

const VRRP: u8 = 112;

/// An advertisement of VRRP for all routers of the link
fn is_vrrp(view: &View) -> bool {
    view.ip().is_some_and(|ip| ip.proto == VRRP && ip.ttl == 255 && VRRP_GROUPS.contains(&ip.dst))
}

/// VRRP between two that share an address, and have each other's own: which of them is the master is for them to settle,
/// as the configuration that lets both have the address says.
fn elects(arrival: &Arrival<'_>, to: &Endpoint, view: &View) -> bool {
    view.ip().is_some_and(|ip| ip.proto == VRRP && to.holdings().has(ip.dst))
        && arrival.sender.is_some_and(|sender| sender.shares_with(to))
}

fn plays(arrival: &Arrival<'_>, role: Role) -> bool {
    arrival.sender.is_some_and(|sender| role.is_played_by(sender))
}
