//! Steps 6 and 7: where a frame goes, and the way out: a local port, one VTEP, or copies to many.

use std::sync::atomic::Ordering::Relaxed;

use eastgate_steering::rewrite;
use eastgate_vtep::{
    ecn::OuterTtl,
    encap,
    entropy::flow_hash,
    fdb::Location,
    flood::split_horizon,
    header,
    mtu::{self, mss},
    offload,
    peers::PeerKind,
};
use eastgate_wire::{
    Addr, DropReason, Frame, Instant, View, VtepAddr,
    view::{Ip, Transport, proto, tcp_flags},
};

use super::{
    Arrival, Outcome, Pipeline, Refusal,
    batch::{Batch, Egress, Tunnel},
    counters::{DropCount, DropKey},
    decide::InHand,
    members::ToPorts,
    oversize::LostCopies,
    shared::lock,
};
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
    /// Rules say nothing about what is not IP: of that only ARP and the like goes anywhere, whoever admitted it.
    pub(super) fn may_be_other_than_ip(&self) -> Result<(), Refusal> {
        match self {
            Self::Station { control: true, .. } | Self::Flood { control: true } => Ok(()),
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
    fn is_played_by(self, endpoint: &Endpoint) -> bool {
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

impl<'s> Pipeline<'s> {
    /// Finds out where a frame goes. `plain` is false for ARP and ND.
    pub(super) fn locate(
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

    /// Sends a frame where it goes.
    pub(super) fn forward(
        &mut self,
        arrival: &Arrival<'s>,
        to: &Destination<'s>,
        view: &mut View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Outcome, Refusal> {
        match *to {
            Destination::Station { endpoint, at, .. } => {
                self.reach_station(arrival, endpoint, at, view, frame, now, out)?;
                Ok(Outcome::Forward)
            }
            Destination::Role(role) => {
                let players = arrival.network.endpoints.iter().filter(|it| role.is_played_by(it));
                let players: Vec<_> = players.collect();
                self.reach_some(arrival, &players, ToPorts::Frame, view, frame, now, out)
            }
            Destination::Sharers => {
                let sharers = arrival.sender.map(|sender| arrival.network.sharers_with(sender));
                let sharers = sharers.unwrap_or_default();
                self.reach_some(arrival, &sharers, ToPorts::Frame, view, frame, now, out)
            }
            Destination::Group => self.reach_group(arrival, view, frame, now, out),
            Destination::Flood { control } => self.flood(arrival, control, view, frame, now, out),
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing, and a struct would only rename them"
    )]
    fn reach_station(
        &mut self,
        arrival: &Arrival<'s>,
        endpoint: Option<&'s Endpoint>,
        at: Location,
        view: &mut View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        let network = arrival.network;
        if at == arrival.from && matches!(at, Location::Local(_)) {
            return Err(DropReason::Hairpin.into());
        }
        split_horizon(network.topology, arrival.from, at)?;
        if network.proxy && view.ip().is_some() {
            self.speak_for(network, endpoint, at, view, frame, now);
        }
        if network.mss_clamp {
            self.clamp(network, view, frame);
        }
        match at {
            Location::Local(attachment) => {
                if let Some(endpoint) = endpoint {
                    endpoint.state.received(1, frame.len() as u64);
                }
                out.send(frame, Egress::Attachment(attachment), network.vni);
            }
            Location::Remote(vtep) => self.reach_vtep(arrival, vtep, view, frame, now, out)?,
        }
        Ok(())
    }

    /// Both MACs of a frame that a station is to have from the appliance, and nothing else of it. Between two
    /// eastgates a frame carries the stations' own MACs, by which the other one knows them.
    fn speak_for(
        &self,
        network: &Network,
        endpoint: Option<&Endpoint>,
        at: Location,
        view: &mut View,
        frame: &mut Frame<'_>,
        now: Instant,
    ) {
        let to_the_station = match at {
            Location::Local(_) => true,
            Location::Remote(vtep) => network.peers.kind(vtep) == Some(PeerKind::Plain),
        };
        if view.dst == network.proxy_mac {
            let learned = || {
                let address = view.ip()?.dst;
                Some(lock(&network.state.learned).by_address(address, now)?.mac)
            };
            let held = || network.at_address(view.ip()?.dst).map(|(_, mac)| mac);
            view.dst = held().or_else(learned).or(endpoint.map(|endpoint| endpoint.mac)).unwrap_or(view.dst);
        }
        if to_the_station {
            view.src = network.proxy_mac;
        }
        // A parsed frame has both MACs.
        let _ = rewrite(frame.bytes_mut(), view.src, view.dst);
    }

    fn clamp(&self, network: &Network, view: &View, frame: &mut Frame<'_>) {
        if let Some(ip) = view.ip()
            && let Transport::Tcp(tcp) = ip.transport
            && tcp.flags & tcp_flags::SYN != 0
        {
            mss::clamp(frame, view, mss::mss_for(self.tenant_mtu(network, view), ip.src.is_v4()));
        }
    }

    /// The largest packet of a tenant of this network, in bytes: what the underlay leaves, or less where the
    /// configuration says so.
    pub(super) fn tenant_mtu(&self, network: &Network, view: &View) -> u16 {
        let link = u16::try_from(self.shared.link_mtu.load(Relaxed)).unwrap_or(u16::MAX);
        network.tenant_mtu(link, self.snapshot.vtep.family(), view.tags)
    }

    /// Step 7: into the tunnel to one VTEP, if it fits.
    fn reach_vtep(
        &mut self,
        arrival: &Arrival<'s>,
        to: VtepAddr,
        view: &mut View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        let path_mtu = self.shared.path_mtu_to(to, now);
        if !mtu::fits(view, frame.len(), &frame.offload, path_mtu, to.family()) {
            return self.too_big(arrival, to, path_mtu, view, frame, now, out);
        }
        let tunnel = self.encapsulate(arrival.network, to, view, frame)?;
        out.send(frame, Egress::Tunnel(tunnel), arrival.network.vni);
        Ok(())
    }

    fn encapsulate(
        &self,
        network: &Network,
        to: VtepAddr,
        view: &mut View,
        frame: &mut Frame<'_>,
    ) -> Result<Tunnel, Refusal> {
        offload::finish_checksum(frame)?;
        let fields = encap::encapsulate(frame, view, &network.encapsulation, &self.shared.hasher)?;
        Ok(Tunnel {
            to: to.0,
            source: fields.bucket as u16,
            tos: fields.tos,
            ttl: (network.encapsulation.ttl == OuterTtl::Inherit).then_some(fields.ttl),
        })
    }

    /// The outer header for a frame that eastgate made.
    pub(super) fn tunnel_for(&self, network: &Network, to: VtepAddr, inner: &[u8]) -> Tunnel {
        let hash = View::parse(inner).map_or(0, |view| flow_hash(&view, &self.shared.hasher));
        Tunnel { to: to.0, source: network.encapsulation.ports.bucket(hash) as u16, tos: 0, ttl: None }
    }

    /// Sends the frame that eastgate made to where the frame in hand came from.
    pub(super) fn send_back(&self, arrival: &Arrival<'s>, out: &mut Batch) {
        self.send_made_to(arrival.network, arrival.from, out);
    }

    /// Sends the frame that eastgate made to one place.
    pub(super) fn send_made_to(&self, network: &Network, at: Location, out: &mut Batch) {
        match at {
            Location::Local(attachment) => {
                out.send_made(&[&self.made], Egress::Attachment(attachment), network.vni)
            }
            Location::Remote(vtep) => {
                let tunnel = self.tunnel_for(network, vtep, &self.made);
                let header = header::encode(network.vni);
                out.send_made(&[&header, &self.made], Egress::Tunnel(tunnel), network.vni);
            }
        }
    }

    /// Sends the frame in hand, as it is, to one place.
    pub(super) fn deliver_copy(
        &self,
        arrival: &Arrival<'s>,
        at: Location,
        frame: &mut Frame<'_>,
        out: &mut Batch,
    ) {
        let network = arrival.network;
        match at {
            Location::Local(attachment) => out.send(frame, Egress::Attachment(attachment), network.vni),
            Location::Remote(vtep) => {
                let tunnel = self.tunnel_for(network, vtep, frame.bytes());
                let header = header::encode(network.vni);
                out.send_made(&[&header, frame.bytes()], Egress::Tunnel(tunnel), network.vni);
            }
        }
    }

    /// To everyone but where it came from; to each receiver only what its rules let in.
    fn flood(
        &mut self,
        arrival: &Arrival<'s>,
        control: bool,
        view: &mut View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<Outcome, Refusal> {
        let network = arrival.network;
        self.take_bum_token(network, now)?;
        // All copies share the frame's bytes, and those for the tunnel need it whole.
        offload::finish_checksum(frame)?;
        let mut refused = None;
        let mut copies = 0;
        for endpoint in &network.endpoints {
            let Location::Local(attachment) = endpoint.location else { continue };
            if arrival.from == endpoint.location {
                continue;
            }
            let packet = InHand { arrival, frame, now };
            match if control { Ok(()) } else { self.may_receive(&packet, endpoint, view) } {
                Ok(()) => {
                    out.send(frame, Egress::Attachment(attachment), network.vni);
                    endpoint.state.received(1, frame.len() as u64);
                    copies += 1;
                }
                Err(refusal) => refused = Some(refusal),
            }
        }
        let mut vteps: Vec<VtepAddr> =
            network.flood.iter().flat_map(|flood| flood.targets(arrival.from)).collect();
        let lost = self.leave_out_too_big(arrival, &mut vteps, view, frame, now, out);
        copies += vteps.len();
        self.replicate(network, &vteps, view, frame, out)?;
        match refused {
            // Nobody here: a host of a mesh hears what is flooded also where it has no one to give it to.
            None if copies == 0 && lost.is_none() && !arrival.is_local() => Ok(Outcome::Flood),
            refused => self.flooded(arrival, copies, lost, refused.unwrap_or(DropReason::NoPeer.into()), now),
        }
    }

    /// What became of a BUM frame, of which `lost` copies did not fit: each of those counts. Where no copy
    /// went anywhere, the frame is dropped as one of them, or else for the reason `nobody`.
    pub(super) fn flooded(
        &self,
        arrival: &Arrival<'s>,
        copies: usize,
        lost: Option<LostCopies>,
        nobody: Refusal,
        now: Instant,
    ) -> Result<Outcome, Refusal> {
        let Some(lost) = lost else { return if copies == 0 { Err(nobody) } else { Ok(Outcome::Flood) } };
        let uncounted = u64::from(copies == 0);
        let frames = lost.frames - uncounted;
        if frames > 0 {
            let reason = DropReason::TooBig;
            let vni = Some(arrival.network.vni);
            let key = DropKey { vni, reason, from: Some(arrival.from), by: None, rule: None };
            let bytes = lost.bytes / lost.frames * frames;
            self.counters.add(key, &DropCount { frames, bytes, last_at: now, last: Some(lost.subject) });
        }
        if copies == 0 { Err(DropReason::TooBig.into()) } else { Ok(Outcome::Flood) }
    }

    /// One copy of the frame for each VTEP: one encapsulating, many outer headers. They fit.
    pub(super) fn replicate(
        &self,
        network: &Network,
        vteps: &[VtepAddr],
        view: &mut View,
        frame: &mut Frame<'_>,
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        let Some(first) = vteps.first() else { return Ok(()) };
        let tunnel = self.encapsulate(network, *first, view, frame)?;
        for vtep in vteps {
            out.send(frame, Egress::Tunnel(Tunnel { to: vtep.0, ..tunnel }), network.vni);
        }
        Ok(())
    }

    /// Sends the frame that eastgate made to every port but the one the frame in hand came from.
    pub(super) fn flood_ports(&self, arrival: &Arrival<'s>, out: &mut Batch) {
        let network = arrival.network;
        for endpoint in &network.endpoints {
            if let Location::Local(attachment) = endpoint.location
                && arrival.from != endpoint.location
            {
                out.send_made(&[&self.made], Egress::Attachment(attachment), network.vni);
            }
        }
    }

    /// Sends the frame in hand to every VTEP that flooding reaches, and to no port.
    pub(super) fn flood_overlay(
        &mut self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &mut Frame<'_>,
        now: Instant,
        out: &mut Batch,
    ) -> Result<(), Refusal> {
        let network = arrival.network;
        let mut vteps: Vec<VtepAddr> =
            network.flood.iter().flat_map(|flood| flood.targets(arrival.from)).collect();
        let lost = self.leave_out_too_big(arrival, &mut vteps, view, frame, now, out);
        self.replicate(network, &vteps, &mut view.clone(), frame, out)?;
        // This host has had its own.
        self.flooded(arrival, 1 + vteps.len(), lost, DropReason::NoPeer.into(), now).map(drop)
    }

    /// Takes one of the network's tokens: one for a frame, however many copies it becomes.
    pub(super) fn take_bum_token(&self, network: &Network, now: Instant) -> Result<(), Refusal> {
        if lock(&network.state.bum).take(now) { Ok(()) } else { Err(DropReason::BumLimit.into()) }
    }
}

/// Where a frame to a group goes.
fn is_bum<'s>(arrival: &Arrival<'s>, view: &View, plain: bool) -> Result<Destination<'s>, Refusal> {
    let network = arrival.network;
    match view.ip().and_then(control_traffic) {
        Some(ControlTraffic::AskDhcp) => Ok(Destination::Role(Role::DhcpServer)),
        Some(ControlTraffic::SolicitRouter) => Ok(Destination::Role(Role::Router)),
        _ if !plain => Ok(Destination::Flood { control: true }),
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
