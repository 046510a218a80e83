//! What one host does, compiled: immutable tables made from a checked configuration, swapped in whole.
//!
//! A tenant that did not change keeps its compiled networks, so a reload costs what changed. What a network has
//! learned and counted ([`NetworkState`], [`EndpointState`]) outlives every snapshot.

mod compile;
pub mod directory;
pub mod holders;
mod learning;
pub mod pairs;
pub mod rule_counts;
pub mod rule_limits;
pub mod rules;
pub mod sought;
pub mod state;
pub mod succession;
mod tracking;

use std::{collections::HashMap, sync::Arc, time::Duration};

use ahash::RandomState;
use eastgate_config::{
    self as config, Checksums, Config, EndpointLimits, Name, Oversize, OwnTimeouts, Tenant,
};
use eastgate_conntrack::flow::StateSettings;
use eastgate_policy::{
    admission::{BadReserved, CONTROL_PORTS, Sender, Site, Tags},
    compile::{CompileError, Compiled},
    rule::Source,
};
use eastgate_steering::{Binding, Bindings, Mode, Unknown};
use eastgate_vtep::{
    encap::Encapsulation,
    entropy::SourcePorts,
    fdb::Location,
    flood::{Flood, Topology},
    mtu,
    peers::Peers,
};
use eastgate_wire::{Addr, Attachment, AttachmentId, EndpointId, Family, Holdings, MacAddr, Vni, VtepAddr};

use crate::attachments::Attachments;

use self::{
    compile::{NetworkSite, same_surroundings, site},
    directory::Directory,
    rule_counts::RuleCounts,
    rule_limits::RuleLimits,
    rules::{Multicast, RuleTable},
    state::{EndpointState, NetworkState, StateRegistry},
    succession::Changed,
};

/// Why a configuration cannot be put in force on this host.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The host is not in the configuration.
    #[error("there is no [host.{wanted}] in the configuration; it has: {}", .known.join(", "))]
    UnknownHost {
        /// The name asked for
        wanted: String,
        /// The names there are
        known: Vec<String>,
    },
    /// The host is one that eastgate does not run.
    #[error("[host.{0}] runs = \"vxlan\": eastgate cannot be that host")]
    NotOurs(String),
    /// A network's policy does not compile.
    #[error("{at}: the policy of network {network} does not compile: {source}")]
    Policy {
        /// Where the network is written
        at: config::Place,
        /// As tenant/name
        network: String,
        /// Why
        #[source]
        source: CompileError,
    },
    /// A reserved prefix is none.
    #[error("a management or VTEP address is no prefix: {0}")]
    Reserved(#[from] BadReserved),
    /// Source ports or flood settings contradict each other.
    #[error("{at}: {source}")]
    Overlay {
        /// Where, as far as known
        at: String,
        /// Why
        #[source]
        source: eastgate_vtep::Error,
    },
}

/// What the kernel's programs may do of one network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelLimits {
    /// Packets a second that are punted
    pub slow_path: u32,
    /// Datagrams in fragments that are carried at a time
    pub datagrams: u32,
}

/// One host's part of a configuration, compiled.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with every snapshot; 0 is none
    pub epoch: u32,
    /// The configuration it was made from
    pub config: Arc<Config>,
    /// This host's name
    pub host: Name,
    /// This host's VTEP
    pub vtep: VtepAddr,
    /// What no tenant may reach
    pub site: Arc<Site>,
    /// How encapsulated frames find a source port
    pub ports: SourcePorts,
    /// What the UDP checksum of its datagrams is like
    pub checksums: Checksums,
    networks: HashMap<Vni, Arc<Network>, RandomState>,
    by_attachment: Vec<Option<(Arc<Network>, EndpointId)>>,
    /// Those in which the kernel routes, by where packets are handed to it
    routed: HashMap<AttachmentId, Arc<Network>, RandomState>,
    learning: Vec<Arc<Network>>,
    /// Those in which addresses of endpoints are learned
    learners: Vec<Arc<Network>>,
}

/// A network, as this host has a part in it.
#[derive(Debug)]
pub struct Network {
    /// Its identifier
    pub vni: Vni,
    /// As tenant/name
    pub name: String,
    /// Its tenant's configuration
    pub tenant: Arc<Tenant>,
    /// The key of its own configuration in the tenant's
    pub key: Name,
    /// The rules of its tenant by number
    pub rules: Arc<RuleTable>,
    /// Its endpoints, in the order of the configuration
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// UDP ports whose packets are checked one by one; 0 is none
    pub control_ports: [u16; CONTROL_PORTS],
    /// Its compiled policy
    pub policy: Compiled,
    /// How its flows are tracked, but for those of endpoints that have timeouts of their own
    pub tracking: StateSettings,
    /// Some of its endpoints have.
    own_timeouts: bool,
    /// Flows that are allowed no more end when the policy changes, and not at their next packet.
    pub cuts: bool,
    /// The ends of connections that end so are told.
    pub tells_cut: bool,
    /// Senders of TCP segments that are of no connection are told, where the policy lets them connect.
    pub resets_unknown: bool,
    /// How long the connections of an endpoint that has come are picked up
    pub tcp_pickup: Duration,
    /// The VTEPs that take part
    pub peers: Peers,
    /// Who gets copies of BUM frames; none where the network does not flood
    pub flood: Option<Flood>,
    /// Its shape
    pub topology: Topology,
    /// This host is its hub.
    pub hub_here: bool,
    /// Who answers ARP and ND
    pub neighbors: Mode,
    /// The appliance's MAC in it
    pub proxy_mac: MacAddr,
    /// Frames come addressed to [`Self::proxy_mac`], and leave from it
    pub proxy: bool,
    /// Where packets are handed to the kernel's routing, which then has those for endpoints of this host; nothing where eastgate
    /// forwards by itself
    pub kernel_entry: Option<AttachmentId>,
    /// How its frames are encapsulated
    pub encapsulation: Encapsulation,
    /// MTU of its tenants' interfaces, where the configuration says it
    pub mtu: Option<u16>,
    /// The snapshot that it was compiled for
    pub compiled: u32,
    /// The snapshot since which its settings are what they are: flows that were decided before are decided again. Of single
    /// endpoints and addresses see [`Network::decided_since`].
    pub epoch: u32,
    /// Who is decided about anew since the one that it took the place of; none where that is everyone
    pub changed: Option<Changed>,
    /// Unknown hosts behind member VTEPs are admitted and learned
    pub learning: bool,
    /// The tags that its frames may carry
    pub tags: Tags,
    /// Frames to unknown MACs are flooded
    pub flood_unknown: bool,
    /// Multicast and broadcast data is flooded
    pub flood_multicast: bool,
    /// Datagrams with reserved VXLAN bits set are refused
    pub strict_reserved: bool,
    /// What becomes of packets that are too big and may be cut
    pub oversize: Oversize,
    /// The MSS of SYNs is lowered to what fits
    pub mss_clamp: bool,
    /// What each rule has done on this host
    pub counts: RuleCounts,
    /// What its rules grant each source on this host
    pub limits: RuleLimits,
    /// The snapshot since which the rules' numbers mean what they mean
    pub numbered: u32,
    /// What outlives snapshots
    pub state: Arc<NetworkState>,
    /// Who is in it
    pub directory: Arc<Directory>,
    /// What its rules say of multicast groups
    pub(crate) multicast: Multicast,
    /// Addresses whose owner or groups changed after `epoch`, and in which snapshot; not those of which their endpoint says so
    changed_addresses: HashMap<Addr, u32, RandomState>,
    /// Addresses that are in groups
    pub(crate) members: Arc<[Addr]>,
}

/// A station of a network.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its number, which it keeps for as long as it is there
    pub id: EndpointId,
    /// The snapshot since which its place, its rules and its groups are what they are
    pub epoch: u32,
    /// Its name
    pub name: Name,
    /// Its MAC
    pub mac: MacAddr,
    /// Where it is
    pub location: Location,
    /// Its attachment, where that is to a segment that it shares with other endpoints of this host
    pub shared: Option<Box<Attachment>>,
    /// What it may send
    pub sender: Sender,
    /// Its rules are applied on this host: it is here, or at a VTEP that applies none.
    pub enforced_here: bool,
    /// How addresses of it are learned, where they are
    pub learning: Option<config::Learning>,
    /// How many flows it may open
    pub limits: EndpointLimits,
    /// How long its flows are remembered, where that is not what its network says
    pub timeouts: Option<Box<OwnTimeouts>>,
    /// What outlives snapshots
    pub state: Arc<EndpointState>,
}

impl Endpoint {
    /// Its MACs and addresses
    #[must_use]
    pub fn holdings(&self) -> &Holdings {
        &self.sender.holdings
    }

    /// Can frames get from this one to the other without the appliance, if the segment that they share lets them?
    #[must_use]
    pub fn is_beside(&self, other: &Self) -> bool {
        self.shared.as_deref().zip(other.shared.as_deref()).is_some_and(|(own, other)| own.is_beside(other))
    }

    /// Its attachment, when it is on this host.
    #[must_use]
    pub const fn attachment(&self) -> Option<AttachmentId> {
        match self.location {
            Location::Local(port) => Some(port),
            Location::Remote(_) => None,
        }
    }
}

impl Network {
    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> Option<&config::Network> {
        self.tenant.networks.get(&self.key)
    }

    /// Its endpoints, in the order of the configuration.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &Endpoint> + Clone {
        self.endpoints.iter().map(AsRef::as_ref)
    }

    /// The endpoint with this number.
    #[must_use]
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.get((*self.directory.by_id.get(id.0 as usize)?)? as usize).map(AsRef::as_ref)
    }

    /// The endpoint that has this MAC.
    #[must_use]
    pub fn by_mac(&self, mac: MacAddr) -> Option<&Endpoint> {
        self.endpoint(*self.directory.by_mac.get(&mac)?)
    }

    /// The endpoint whose own address this is: configured, or formed from its MAC.
    #[must_use]
    pub fn by_address(&self, address: Addr) -> Option<&Endpoint> {
        self.endpoint(self.directory.ownership.owner(address)?)
    }

    /// Whether anything is learned in it: from unknown hosts, or from ports whose senders are not checked.
    #[must_use]
    pub fn learns(&self) -> bool {
        self.learning || !self.directory.unsecured.is_empty()
    }

    /// Is it an address that stations of the network have there, and ask each other for?
    #[must_use]
    pub fn is_on_link(&self, address: Addr) -> bool {
        let subnets = self.config().map_or(&[][..], |config| &config.subnets);
        address.is_link_local() || subnets.iter().any(|subnet| subnet.contains(&address.to_ip()))
    }

    /// Whether everyone may be asked for an address that nobody is known to have: unknown hosts are learned, and what asks for them
    /// goes to all. Link-local ones are the hosts' own choice.
    #[must_use]
    pub fn asks_everyone_for(&self, address: Addr) -> bool {
        let floods = self.neighbors.unknown == Unknown::Flood || !address.is_v4() && address.is_link_local();
        self.learning
            && floods
            && self.is_on_link(address)
            && !self.directory.ownership.is_configured(address)
    }

    /// The endpoint that an unknown station at a place is behind, where only one can be it.
    #[must_use]
    pub fn nested_behind(&self, at: Location) -> Option<&Endpoint> {
        let mut there = self.unsecured_at(at).filter(|_| !self.learning);
        let first = there.next()?;
        there.next().is_none().then_some(first)
    }

    /// The endpoints without port security at a place.
    pub fn unsecured_at(&self, at: Location) -> impl Iterator<Item = &Endpoint> {
        self.directory
            .unsecured
            .iter()
            .filter_map(|id| self.endpoint(*id))
            .filter(move |it| it.location == at)
    }

    /// The largest packet of its tenants, in bytes: what the underlay leaves of a link's MTU, or less where the configuration
    /// says so.
    #[must_use]
    pub fn tenant_mtu(&self, link: u16, underlay: Family, tags: u8) -> u16 {
        let derived = mtu::tenant_mtu(link, underlay, tags);
        self.mtu.map_or(derived, |mtu| mtu.min(derived))
    }

    /// The source form of its policy, for explaining decisions.
    #[must_use]
    pub fn source(&self) -> Source {
        let ids: Vec<EndpointId> = self.endpoints.iter().map(|endpoint| endpoint.id).collect();
        self.config().map(|config| self.rules.source(&self.tenant, config, &ids)).unwrap_or_default()
    }
}

impl Bindings for Network {
    fn by_address(&self, address: Addr) -> Option<Binding> {
        let endpoint = Network::by_address(self, address)?;
        Some(Binding {
            mac: endpoint.mac,
            endpoint: Some(endpoint.id),
            at: endpoint.location,
            router: endpoint.sender.router || !endpoint.holdings().routes.is_empty(),
        })
    }

    fn may_be_held(&self, address: Addr) -> bool {
        self.has_candidates(address)
    }
}

impl Snapshot {
    /// The network with this VNI, if this host has a part in it.
    #[must_use]
    pub fn network(&self, vni: Vni) -> Option<&Arc<Network>> {
        self.networks.get(&vni)
    }

    /// What the kernel's programs may do of each network that this host has a part in
    pub fn kernel_limits(&self) -> impl Iterator<Item = (Vni, KernelLimits)> {
        let networks = self.config.networks_of(&self.host);
        networks.map(|(_, network)| {
            let (slow_path, datagrams) = (network.slow_path_limit, network.limits.fragments);
            (network.vni, KernelLimits { slow_path, datagrams })
        })
    }

    /// All networks that this host has a part in, by VNI.
    #[must_use]
    pub fn networks(&self) -> Vec<&Arc<Network>> {
        let mut networks: Vec<_> = self.config.networks_of(&self.host).collect();
        networks.sort_by_key(|(_, network)| network.vni);
        networks.into_iter().filter_map(|(_, network)| self.networks.get(&network.vni)).collect()
    }

    /// The networks in which addresses of endpoints are learned.
    pub fn learner_networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.learners.iter()
    }

    /// The networks in which something is learned.
    pub fn learning_networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.learning.iter()
    }

    /// The network and endpoint at an attachment.
    #[must_use]
    pub fn at_attachment(&self, attachment: AttachmentId) -> Option<(&Arc<Network>, &Endpoint)> {
        let (network, id) = self.by_attachment.get(attachment.0 as usize)?.as_ref()?;
        Some((network, network.endpoint(*id)?))
    }

    /// The network in which packets are handed to the kernel's routing by this attachment.
    #[must_use]
    pub fn routed_by(&self, entry: AttachmentId) -> Option<&Arc<Network>> {
        self.routed.get(&entry)
    }

    /// The attachments of this host that have an endpoint.
    pub fn attachments(&self) -> impl Iterator<Item = (AttachmentId, &Arc<Network>, &Endpoint)> {
        self.by_attachment.iter().enumerate().filter_map(|(index, at)| {
            let (network, id) = at.as_ref()?;
            Some((AttachmentId(index as u32), network, network.endpoint(*id)?))
        })
    }

    /// Compiles what `host` has to do.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing was changed but numbers given to new ports.
    pub fn compile(
        config: &Arc<Config>,
        host: &str,
        previous: Option<&Snapshot>,
        registry: &mut Attachments,
        states: &StateRegistry,
    ) -> Result<Self, SnapshotError> {
        Self::compile_with(config, host, previous, registry, states, None)
    }

    /// The same, where `policy` makes of each network's policy what is to hold in place of it: tiers, say, that no
    /// configuration can write. It is not asked about networks that are kept, and a trace does not know of it.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing was changed but numbers given to new ports.
    pub fn compile_under(
        config: &Arc<Config>,
        host: &str,
        previous: Option<&Snapshot>,
        registry: &mut Attachments,
        states: &StateRegistry,
        policy: fn(Source) -> Source,
    ) -> Result<Self, SnapshotError> {
        Self::compile_with(config, host, previous, registry, states, Some(policy))
    }

    fn compile_with(
        config: &Arc<Config>,
        host: &str,
        previous: Option<&Snapshot>,
        registry: &mut Attachments,
        states: &StateRegistry,
        policy: Option<fn(Source) -> Source>,
    ) -> Result<Self, SnapshotError> {
        let own = config.host(host).ok_or_else(|| SnapshotError::UnknownHost {
            wanted: host.to_owned(),
            known: config.hosts.keys().map(|name| name.to_string()).collect(),
        })?;
        if !own.runs_eastgate() {
            return Err(SnapshotError::NotOurs(host.to_owned()));
        }
        let epoch = previous.map_or(0, |previous| previous.epoch) + 1;
        let previous = previous.filter(|previous| same_surroundings(&previous.config, config));
        let overlay = &config.overlay;
        let ports = SourcePorts::new_checked(
            overlay.source_ports.first,
            overlay.source_ports.last,
            overlay.entropy_ports,
        )
        .map_err(|source| SnapshotError::Overlay { at: "[overlay]".into(), source })?;
        let site = match previous {
            Some(previous) => previous.site.clone(),
            None => Arc::new(site(config)?),
        };
        let mut snapshot = Self {
            epoch,
            config: config.clone(),
            host: own.name.clone(),
            vtep: own.vtep,
            site,
            ports,
            checksums: config.checksums(),
            networks: HashMap::default(),
            by_attachment: Vec::new(),
            routed: HashMap::default(),
            learning: Vec::new(),
            learners: Vec::new(),
        };
        for tenant in config.tenants.values() {
            let same =
                previous.filter(|p| p.config.tenant(&tenant.name).is_some_and(|b| Arc::ptr_eq(b, tenant)));
            let before = |network: &config::Network| {
                previous?
                    .network(network.vni)
                    .filter(|before| before.tenant.name == tenant.name && before.key == network.name)
            };
            let rules = std::cell::OnceCell::new();
            for network in tenant.networks.values().filter(|network| network.is_member(host)) {
                let kept = same.and_then(|same| same.network(network.vni));
                let compiled = match kept.filter(|kept| kept.rules.stands_in(tenant, config)) {
                    Some(kept) => kept.clone(),
                    None => {
                        let rules = rules.get_or_init(|| {
                            let known = tenant.networks.values().find_map(before).map(|known| &*known.rules);
                            Arc::new(RuleTable::new(tenant, config, known))
                        });
                        let site = NetworkSite { config, host: own, ports, epoch, policy };
                        let before = before(network).map(AsRef::as_ref);
                        Arc::new(site.compile(tenant, network, before, rules, registry, states)?)
                    }
                };
                snapshot.insert(compiled);
            }
        }
        Ok(snapshot)
    }

    fn insert(&mut self, network: Arc<Network>) {
        for endpoint in &network.endpoints {
            if let Some(AttachmentId(number)) = endpoint.attachment() {
                let index = number as usize;
                if self.by_attachment.len() <= index {
                    self.by_attachment.resize(index + 1, None);
                }
                self.by_attachment[index] = Some((network.clone(), endpoint.id));
            }
        }
        if let Some(entry) = network.kernel_entry {
            self.routed.insert(entry, network.clone());
        }
        if network.learns() {
            self.learning.push(network.clone());
        }
        if network.has_learners() {
            self.learners.push(network.clone());
        }
        self.networks.insert(network.vni, network);
    }
}
