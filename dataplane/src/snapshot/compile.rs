//! From a checked configuration to the tables of each network, as one host has a part in it.

use std::{collections::HashMap, sync::Arc};

use ahash::RandomState;
use eastgate_config::{
    self as config, Config, L2Protocol, Neighbors, OnChange, OuterField, TcpUnknown, Tenant,
};
use eastgate_policy::{
    admission::{self, BadReserved, Sender, Site, Tags},
    compile::{CompileError, Compiled},
    rule::Source,
};
use eastgate_steering::{Answers, Mode, Unknown, kernel, proxy_mac};
use eastgate_vtep::{
    ecn::{OuterTos, OuterTtl},
    encap::Encapsulation,
    entropy::SourcePorts,
    fdb::Location,
    flood::{Flood, FloodMode, Topology},
    peers::{PeerKind, Peers},
};
use eastgate_wire::{Addr, AddressPair, Attachment, EndpointId, Holdings, VtepAddr};
use ipnet::IpNet;

use crate::attachments::Attachments;

use super::{
    Endpoint, Network, SnapshotError,
    directory::Directory,
    rule_counts::RuleCounts,
    rule_limits::RuleLimits,
    rules::{Multicast, RuleTable, prefix},
    state::{NetworkState, StateRegistry},
    succession, tracking,
};

/// Whether everything outside the tenants that compiled networks depend on is the same.
pub(super) fn same_surroundings(a: &Config, b: &Config) -> bool {
    let hosts = |config: &Config| -> Vec<_> {
        config.hosts.values().map(|h| (h.name.clone(), h.vtep, h.runs, h.management.clone())).collect()
    };
    a.overlay == b.overlay && a.limits == b.limits && hosts(a) == hosts(b)
}

/// VTEP and management addresses of every host.
pub(super) fn site(config: &Config) -> Result<Site, BadReserved> {
    let vteps = config.hosts.values().map(|host| (Addr::from(host.vtep.0), 128));
    let management = config.hosts.values().flat_map(|host| host.management.iter().map(prefix));
    admission::Site::new(&[], &vteps.chain(management).collect::<Vec<_>>(), config.overlay.port)
}

/// What compiling a network needs to know of its surroundings.
pub(super) struct NetworkSite<'c> {
    pub(super) config: &'c Config,
    pub(super) host: &'c config::Host,
    pub(super) ports: SourcePorts,
    pub(super) epoch: u32,
    pub(super) policy: Option<fn(Source) -> Source>,
}

impl NetworkSite<'_> {
    pub(super) fn compile(
        &self,
        tenant: &Arc<Tenant>,
        network: &config::Network,
        before: Option<&Network>,
        rules: &Arc<RuleTable>,
        registry: &mut Attachments,
        states: &StateRegistry,
    ) -> Result<Network, SnapshotError> {
        let name = format!("{}/{}", tenant.name, network.name);
        let continued = before.filter(|before| rules.continues(&before.rules));
        let before = continued.filter(|before| before.has_dense_numbers(network.endpoints.len()));
        let state = states.network(network, before);
        let hasher = RandomState::new();
        let peers =
            self.config.members(network).filter(|member| member.name != self.host.name).map(|member| {
                (member.vtep, if member.runs_eastgate() { PeerKind::Eastgate } else { PeerKind::Plain })
            });
        let peers = Peers::new(peers, hasher);
        let topology = match network.topology {
            config::Topology::Mesh => Topology::Mesh,
            config::Topology::Hub => Topology::Hub,
        };
        let hub_here = network.hub.as_ref().is_some_and(|hub| hub.host == self.host.name);
        let proxy = proxy_mac(network.vni);
        let known = before.and_then(|before| Known::of(before, network, rules, &state));
        let with_rules = known.as_ref().filter(|_| self.policy.is_none());
        let parts = match with_rules.and_then(|known| known.with_rules(network, rules)) {
            Some(parts) => parts,
            None => {
                let ids = succession::numbers(network, before);
                let mut endpoints = Vec::with_capacity(network.endpoints.len());
                for (endpoint, id) in network.endpoints.iter().zip(&ids) {
                    endpoints.push(match known.as_ref().and_then(|known| known.same(*id, endpoint)) {
                        Some(same) => same.clone(),
                        None => Arc::new(self.endpoint(*id, tenant, network, endpoint, registry, &state)?),
                    });
                }
                let source = rules.source(tenant, network, &ids);
                let source = if let Some(policy) = self.policy { policy(source) } else { source };
                Parts::of(endpoints, &source, rules, &network.subnets, before).map_err(|source| {
                    SnapshotError::Policy { at: network.at.clone(), network: name.clone(), source }
                })?
            }
        };
        let Parts { endpoints, directory, policy, multicast, members } = parts;
        let mut compiled = Network {
            vni: network.vni,
            flood: self.flood(network, topology, hub_here, &peers)?,
            name,
            tenant: tenant.clone(),
            key: network.name.clone(),
            rules: rules.clone(),
            endpoints,
            policy,
            // Of every network: each has servers of addresses, or may get them.
            control_ports: admission::DHCP_PORTS,
            tracking: tracking::of_network(network, network.timeouts),
            resets_unknown: network.tcp_unknown == TcpUnknown::Reset,
            own_timeouts: network.endpoints.iter().any(|endpoint| endpoint.timeouts.is_some()),
            cuts: matches!(network.on_change, OnChange::Cut | OnChange::Reset),
            tells_cut: network.on_change == OnChange::Reset,
            tcp_pickup: network.tcp_pickup,
            peers,
            topology,
            hub_here,
            neighbors: Mode {
                answers: match network.neighbors {
                    Neighbors::Off => Answers::Off,
                    Neighbors::Suppress => Answers::Suppress,
                    Neighbors::Proxy | Neighbors::Kernel => Answers::Proxy { mac: proxy },
                },
                unknown: match network.unknown_neighbors {
                    config::Unknown::Drop => Unknown::Drop,
                    config::Unknown::Flood => Unknown::Flood,
                },
                hub: hub_here,
            },
            proxy_mac: proxy,
            proxy: matches!(network.neighbors, Neighbors::Proxy | Neighbors::Kernel),
            kernel_entry: (network.neighbors == Neighbors::Kernel)
                .then(|| registry.id(&Attachment::access(kernel::entry(network.vni).into()))),
            encapsulation: Encapsulation {
                vni: network.vni,
                vlan_aware: network.vlan_aware,
                tos: match self.config.overlay.tos {
                    OuterField::Inherit => OuterTos::Inherit,
                    OuterField::Fixed(tos) => OuterTos::Fixed(tos),
                },
                ttl: match self.config.overlay.ttl {
                    OuterField::Inherit => OuterTtl::Inherit,
                    OuterField::Fixed(ttl) => OuterTtl::Fixed(ttl),
                },
                ports: self.ports,
            },
            mtu: network.mtu,
            compiled: self.epoch,
            epoch: self.epoch,
            changed: None,
            changed_addresses: HashMap::default(),
            members,
            tags: tags(network, None),
            learning: network.learning,
            flood_unknown: network.unknown_destinations == config::Unknown::Flood,
            flood_multicast: network.multicast == config::Unknown::Flood,
            strict_reserved: network.strict_reserved,
            oversize: network.oversize,
            mss_clamp: network.mss_clamp,
            numbered: continued.map_or(self.epoch, |before| before.numbered),
            counts: RuleCounts::following(rules.len(), continued.map(|before| &before.counts)),
            // Counted for endpoints by their numbers
            limits: RuleLimits::following(rules, before.map(|before| &before.limits)),
            state,
            directory,
            multicast,
        };
        if let Some(before) = before {
            compiled.follow(before);
        }
        Ok(compiled)
    }

    fn flood(
        &self,
        network: &config::Network,
        topology: Topology,
        hub_here: bool,
        peers: &Peers,
    ) -> Result<Option<Flood>, SnapshotError> {
        let mode = match (network.flood, network.multicast_group) {
            (config::Flood::Off, _) | (config::Flood::Multicast, None) => return Ok(None),
            (config::Flood::Replicate, _) => FloodMode::HeadEnd,
            (config::Flood::Multicast, Some(group)) => FloodMode::Group(VtepAddr(group)),
        };
        // A spoke sends to its hub, which sends on.
        let hub = network.hub.as_ref().filter(|_| !hub_here).and_then(|hub| self.config.host(&hub.host));
        let only_hub = hub.map(|hub| {
            let kind = peers.kind(hub.vtep).unwrap_or(PeerKind::Eastgate);
            Peers::new([(hub.vtep, kind)], RandomState::new())
        });
        Flood::new(topology, mode, only_hub.as_ref().unwrap_or(peers), &[self.host.vtep])
            .map(Some)
            .map_err(|source| SnapshotError::Overlay { at: network.at.to_string(), source })
    }

    fn endpoint(
        &self,
        id: EndpointId,
        tenant: &Tenant,
        network: &config::Network,
        endpoint: &config::Endpoint,
        registry: &mut Attachments,
        state: &NetworkState,
    ) -> Result<Endpoint, SnapshotError> {
        let host = self.config.host(&endpoint.host.host).ok_or_else(|| SnapshotError::UnknownHost {
            wanted: endpoint.host.host.to_string(),
            known: Vec::new(),
        })?;
        let here = host.name == self.host.name;
        let location = match &endpoint.attachment {
            Some(attachment) if here => Location::Local(registry.id(attachment)),
            // In a hub network a spoke reaches everyone else through the hub.
            _ => Location::Remote(self.towards(network, host)),
        };
        let pairs = endpoint.allowed_pairs.iter().map(|pair| {
            let (address, len) = prefix(&pair.address);
            AddressPair { mac: pair.mac.unwrap_or(endpoint.mac), network: address, len }
        });
        let limits = network.limits.endpoint.with(endpoint.limits);
        let protocols = || network.ethertypes.iter().chain(&endpoint.ethertypes);
        let holdings = Holdings {
            endpoint: Some(id),
            mac: endpoint.mac,
            addresses: endpoint.addresses.clone(),
            pairs: pairs.collect(),
            routes: endpoint.routes.iter().map(prefix).collect(),
        };
        Ok(Endpoint {
            id,
            epoch: self.epoch,
            name: endpoint.name.clone(),
            mac: endpoint.mac,
            location,
            shared: endpoint.attachment.clone().filter(|it| here && it.station().is_some()).map(Box::new),
            enforced_here: here || !host.runs_eastgate(),
            learning: endpoint.learning.clone(),
            limits,
            timeouts: endpoint.timeouts.clone(),
            state: state.endpoint(&endpoint.name, limits),
            sender: Sender {
                holdings: Arc::new(holdings),
                port_security: endpoint.port_security,
                router: endpoint.router,
                dhcp_server: endpoint.dhcp_server,
                ethertypes: protocols()
                    .filter_map(|protocol| match protocol {
                        L2Protocol::Ethertype(number) => Some(*number),
                        L2Protocol::Stp => None,
                    })
                    .collect(),
                stp: protocols().any(|protocol| *protocol == L2Protocol::Stp),
                tags: tags(network, endpoint.guest_vlans.as_ref()),
                underlay_access: self
                    .config
                    .site
                    .underlay_access_of(&tenant.name)
                    .is_some_and(|endpoints| endpoints.contains_key(&endpoint.name)),
            },
        })
    }

    fn towards(&self, network: &config::Network, host: &config::Host) -> VtepAddr {
        match &network.hub {
            Some(hub) if hub.host != self.host.name => {
                self.config.host(&hub.host).map_or(host.vtep, |hub| hub.vtep)
            }
            _ => host.vtep,
        }
    }
}

/// What of a network follows from its endpoints and the rules that they have.
struct Parts {
    endpoints: Vec<Arc<Endpoint>>,
    directory: Arc<Directory>,
    policy: Compiled,
    multicast: Multicast,
    members: Arc<[Addr]>,
}

impl Parts {
    /// Of a network with these endpoints, whose policy has this source; `before` is the one whose place it takes.
    fn of(
        endpoints: Vec<Arc<Endpoint>>,
        source: &Source,
        rules: &RuleTable,
        subnets: &[IpNet],
        before: Option<&Network>,
    ) -> Result<Self, CompileError> {
        let policy = match before {
            Some(before) => Compiled::compile_after(source, &before.policy),
            None => Compiled::compile(source),
        };
        let members = source.endpoints.iter().filter(|it| !it.groups.is_empty()).flat_map(|it| &it.addresses);
        let members = members.filter(|(_, len)| *len == 128).map(|(address, _)| *address).collect();
        // It never becomes shorter: a number that was given is known to have been.
        let known = before.map_or(0, |before| before.directory.by_id.len());
        Ok(Self {
            directory: Arc::new(Directory::of(&endpoints, known)),
            policy: policy?,
            multicast: Multicast::of(source, rules, subnets),
            members,
            endpoints,
        })
    }
}

/// The endpoints of a network whose place is being taken, where those that are written as before come to the same again.
struct Known<'b> {
    network: &'b Network,
    written: &'b config::Network,
}

impl<'b> Known<'b> {
    fn of(
        before: &'b Network,
        network: &config::Network,
        rules: &RuleTable,
        state: &Arc<NetworkState>,
    ) -> Option<Self> {
        let (written, tenant) = (before.config()?, &before.tenant.name);
        let settings = |network: &config::Network| {
            (
                (network.hub.clone(), network.limits, network.ethertypes.clone()),
                (network.vlan_aware, network.guest_vlans.clone(), network.subnets.clone()),
            )
        };
        let same = settings(written) == settings(network)
            && before.rules.site().underlay_access_of(tenant) == rules.site().underlay_access_of(tenant)
            && Arc::ptr_eq(&before.state, state);
        same.then_some(Self { network: before, written })
    }

    /// The same endpoints with the rules that they have now, where these are all that has changed about them.
    fn with_rules(&self, network: &config::Network, rules: &RuleTable) -> Option<Parts> {
        let before = self.network;
        let same = network.has_endpoints_of(self.written) && rules.has_frame_of(&before.rules);
        same.then_some(())?;
        Some(Parts {
            multicast: before.multicast.with_rules(rules, &before.rules)?,
            policy: before.policy.with_rules(rules.groups())?,
            endpoints: before.endpoints.clone(),
            directory: before.directory.clone(),
            members: before.members.clone(),
        })
    }

    fn same(&self, id: EndpointId, endpoint: &Arc<config::Endpoint>) -> Option<&'b Arc<Endpoint>> {
        let place = (*self.network.directory.by_id.get(id.0 as usize)?)? as usize;
        let written = self.written.endpoints.get(place).filter(|written| Arc::ptr_eq(written, endpoint))?;
        self.network
            .endpoints
            .get(place)
            .filter(|known| Arc::ptr_eq(&known.name, &written.name) || known.name == written.name)
    }
}

/// The tags that frames in a network may carry: of these VLANs, or of all that the network has.
fn tags(network: &config::Network, vlans: Option<&Vec<config::VlanRange>>) -> Tags {
    let vlans = vlans.or(network.guest_vlans.as_ref());
    Tags {
        most: if network.vlan_aware { 1 } else { 0 },
        vlans: vlans.map(|ranges| ranges.iter().map(|range| range.first..=range.last).collect()),
    }
}
