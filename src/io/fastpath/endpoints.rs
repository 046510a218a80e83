//! What the programs decide new flows by: compiled policies, and the endpoints that they are about.
//!
//! A network that changes begins with its epoch in `networks`: from then on nothing of it is decided in the kernel. Then
//! its endpoints are written, as far as they are others than before, and last its policy, which names the epoch. So no
//! program ever decides by half of a change, and a network that could not be written is decided by the pipeline.

use std::{collections::HashSet, sync::Arc};

use eastgate_config::{Checksums, UdpChecksum};
use eastgate_dataplane::{
    eligibility::Eligibility,
    pipeline::shared::lock,
    snapshot::{Endpoint, Network, Snapshot},
};
use eastgate_fastpath::{
    ENDPOINT_OWN_TIMEOUTS, ENDPOINT_PROXIED, Endpoint as KernelEndpoint, EndpointKey, Error, NETWORK_HUB,
    NETWORK_STATELESS, NO_EPOCH, NO_RULE, Network as Row, Policy, TEMPLATE_ROUTED, VTEP_NO_SUM, VTEP_SUM,
    Vtep, address,
};
use eastgate_policy::{compile::words::BLOCK, rule::Direction};
use eastgate_steering::proxy_mac;
use eastgate_vtep::{encap::Encapsulation, fdb::Location, flood::split_horizon, mtu};
use eastgate_wire::{Addr, AttachmentId, Vni, VtepAddr};

use super::{KernelPath, Place, Tables, created::timeouts, handover::outer_fields};

/// Policies that are put in force by one call: the kernel waits after each until no program has those before in hand.
const AT_ONCE: usize = 256;
/// Endpoints that are written before workers get at the tables again
const ENDPOINTS_AT_ONCE: usize = 256;

/// Policies from this size on are kept in hand, so that a change writes what changed of them and no more; smaller ones are
/// written anew. Each takes up a file descriptor.
const LARGE: usize = 4096;
/// So many of them
const KEPT: usize = 256;

/// Leaves room behind a policy that is large enough to be kept in hand: changes of rules add to it.
pub(super) fn leave_room(words: &mut Vec<u32>) {
    if size_of_val(&**words) >= LARGE {
        words.resize((words.len() + words.len() / 8).next_multiple_of(BLOCK), 0);
    }
}

/// A policy that programs decide by.
#[derive(Debug)]
pub(super) struct Decided {
    epoch: u32,
    /// Memory of it
    bytes: usize,
    policy: Option<Policy>,
}

/// A policy that the kernel has and no program reads yet.
struct Ready {
    vni: Vni,
    place: u32,
    epoch: u32,
    policy: Policy,
}

impl KernelPath {
    /// Has the programs decide by the snapshot in force, on a thread of its own: kernels before 6.7 wait some milliseconds
    /// for each network. Until a network's turn comes, the pipeline decides its flows.
    pub fn program_policies_in_background(self: &Arc<Self>) {
        let kernel = self.clone();
        let begun =
            std::thread::Builder::new().name("policies".into()).spawn(move || kernel.program_policies());
        if let Err(error) = begun {
            tracing::warn!(%error, "new flows are decided by the pipeline");
        }
    }

    /// The programs decide by the snapshot in force. Networks that did not change keep what they have.
    pub fn program_policies(&self) {
        let _turn = lock(&self.deciding);
        self.write_policies();
        self.finish_changes();
    }

    /// Without the walk through what was decided before
    pub(super) fn write_policies(&self) {
        let snapshot = {
            let tables = lock(&self.tables);
            tables.snapshot.clone().filter(|_| tables.live)
        };
        let Some(snapshot) = snapshot else { return };
        if let Err(error) = self.forget_networks(&snapshot) {
            tracing::warn!(%error, "policies of networks that are gone take up memory");
        }
        let mut ready = Vec::new();
        for network in snapshot.networks() {
            match self.prepare(&snapshot, network) {
                Ok(policy) => ready.extend(policy),
                Err(error) => {
                    tracing::warn!(network = %network.name, %error, "new flows are decided by the pipeline");
                }
            }
            if ready.len() >= AT_ONCE {
                self.put_in_force(std::mem::take(&mut ready));
            }
        }
        self.put_in_force(ready);
    }

    /// What policies take up, and how many networks there are endpoints of.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, usize) {
        let tables = lock(&self.tables);
        (tables.policy_bytes, tables.endpoints.len())
    }

    fn forget_networks(&self, snapshot: &Arc<Snapshot>) -> Result<(), Error> {
        let gone: Vec<Vni> = {
            let tables = lock(&self.tables);
            tables.endpoints.keys().copied().filter(|vni| snapshot.network(*vni).is_none()).collect()
        };
        let mut places = Vec::new();
        for vni in gone {
            let mut tables = lock(&self.tables);
            if !is_in_force(&tables, snapshot) {
                return Ok(());
            }
            self.keep_endpoints(&mut tables, vni, |_| false)?;
            tables.endpoints.remove(&vni);
            let decided = tables.decided.remove(&vni);
            tables.policy_bytes -= decided.map_or(0, |decided| decided.bytes);
            places.extend(tables.networks.get(&vni).map(|(place, _)| *place));
        }
        self.fastpath.clear_policies(&places)
    }

    /// Does all but the last step, which is to put the policy in force; nothing where there is none to be put.
    fn prepare(&self, snapshot: &Arc<Snapshot>, network: &Network) -> Result<Option<Ready>, Error> {
        let (vni, epoch) = (network.vni, network.compiled);
        let (place, before) = {
            let mut tables = lock(&self.tables);
            let done = tables.decided.get(&vni).is_some_and(|decided| decided.epoch == epoch);
            if done || !is_in_force(&tables, snapshot) {
                return Ok(None);
            }
            let Some(place) = self.network_place(&mut tables, vni) else { return Ok(None) };
            // From here on ports that come and go are told; and it is known, with or without addresses.
            tables.endpoints.entry(vni).or_default();
            let before = tables.decided.remove(&vni);
            // What is written in its place takes up room of its own.
            tables.policy_bytes -= before.as_ref().map_or(0, |before| before.bytes);
            (place, before.and_then(|before| before.policy))
        };
        if !self.write_endpoints(snapshot, network, place)? {
            return Ok(None);
        }
        let mut words = network.policy.words(epoch);
        if let Some(policy) = before.filter(|before| size_of_val(&*words) <= before.bytes()) {
            return self.change(vni, epoch, policy, words).map(|()| None);
        }
        let alone = words.len();
        leave_room(&mut words);
        let mut fits = self.reserve(size_of_val(&*words));
        if !fits {
            words.truncate(alone);
            fits = self.reserve(size_of_val(&*words));
        }
        let bytes = size_of_val(&*words);
        if !fits {
            tracing::warn!(network = %network.name, bytes,
                "fastpath.policy_mib has no room for its policy: new flows are decided by the pipeline");
            self.fastpath.clear_policies(&[place])?;
            return Ok(None);
        }
        let policy = Policy::load(words).inspect_err(|_| lock(&self.tables).policy_bytes -= bytes)?;
        Ok(Some(Ready { vni, place, epoch, policy }))
    }

    /// Writes into a policy that is at its place what has changed of it.
    fn change(&self, vni: Vni, epoch: u32, mut policy: Policy, words: Vec<u32>) -> Result<(), Error> {
        let blocks = policy.change(words)?;
        tracing::debug!(%vni, ?blocks, "changed blocks of a policy were written");
        let mut tables = lock(&self.tables);
        if blocks.is_some() {
            let decided = Decided { epoch, bytes: policy.bytes(), policy: Some(policy) };
            tables.policy_bytes += decided.bytes;
            tables.decided.insert(vni, decided);
        }
        Ok(())
    }

    fn reserve(&self, bytes: usize) -> bool {
        let mut tables = lock(&self.tables);
        let fits = tables.policy_bytes + bytes <= (self.sizes.policy_mib as usize) << 20;
        if fits {
            tables.policy_bytes += bytes;
        }
        fits
    }

    fn put_in_force(&self, ready: Vec<Ready>) {
        let policies: Vec<_> = ready.iter().map(|ready| (ready.place, &ready.policy)).collect();
        let done = self.fastpath.set_policies(&policies);
        let mut tables = lock(&self.tables);
        let mut kept = tables.decided.values().filter(|decided| decided.policy.is_some()).count();
        for Ready { vni, epoch, policy, .. } in ready {
            let bytes = policy.bytes();
            // One that is changing again at this moment has its turn to come.
            let stands = tables.networks.get(&vni).is_some_and(|(_, row)| row.policy == epoch);
            if done.is_err() || !stands {
                tables.policy_bytes -= bytes;
                continue;
            }
            let keep = bytes >= LARGE && kept < KEPT;
            kept += usize::from(keep);
            tables.decided.insert(vni, Decided { epoch, bytes, policy: keep.then_some(policy) });
        }
        if let Err(error) = done {
            tracing::warn!(%error, "new flows of some networks are decided by the pipeline");
        }
    }

    /// False when there is another snapshot in force meanwhile.
    fn write_endpoints(
        &self,
        snapshot: &Arc<Snapshot>,
        network: &Network,
        place: u32,
    ) -> Result<bool, Error> {
        let addresses = |endpoint: &Endpoint| endpoint.holdings().addresses.clone();
        let wanted: HashSet<Addr> = network.endpoints().flat_map(addresses).collect();
        let all: Vec<&Endpoint> = network.endpoints().collect();
        for endpoints in all.chunks(ENDPOINTS_AT_ONCE) {
            let mut tables = lock(&self.tables);
            if !is_in_force(&tables, snapshot) {
                return Ok(false);
            }
            for endpoint in endpoints {
                self.write_endpoint(&mut tables, snapshot, network, place, endpoint)?;
            }
        }
        let mut tables = lock(&self.tables);
        let stands = is_in_force(&tables, snapshot);
        if stands {
            self.keep_endpoints(&mut tables, network.vni, |addr| wanted.contains(addr))?;
        }
        Ok(stands)
    }

    fn write_endpoint(
        &self,
        tables: &mut Tables,
        snapshot: &Snapshot,
        network: &Network,
        place: u32,
        endpoint: &Endpoint,
    ) -> Result<(), Error> {
        for addr in &endpoint.holdings().addresses {
            let endpoint = self.endpoint_at(tables, snapshot, network, place, endpoint, *addr);
            let known = tables.endpoints.entry(network.vni).or_default();
            if known.get(addr) == endpoint.as_ref() {
                continue;
            }
            let key = endpoint_key(network.vni, *addr);
            match endpoint {
                Some(endpoint) => {
                    self.fastpath.set_endpoint(&key, &endpoint)?;
                    known.insert(*addr, endpoint);
                }
                None => {
                    self.fastpath.remove_endpoint(&key)?;
                    known.remove(addr);
                }
            }
        }
        Ok(())
    }

    /// Takes those endpoints of a network away that are not to be kept.
    fn keep_endpoints(
        &self,
        tables: &mut Tables,
        vni: Vni,
        keep: impl Fn(&Addr) -> bool,
    ) -> Result<(), Error> {
        let Some(known) = tables.endpoints.get_mut(&vni) else { return Ok(()) };
        let gone: Vec<Addr> = known.keys().copied().filter(|addr| !keep(addr)).collect();
        for addr in gone {
            self.fastpath.remove_endpoint(&endpoint_key(vni, addr))?;
            known.remove(&addr);
        }
        Ok(())
    }

    /// The endpoint at an attachment has come, or has gone.
    pub(super) fn renew_endpoint(&self, tables: &mut Tables, at: AttachmentId) -> Result<(), Error> {
        let Some(snapshot) = tables.snapshot.clone() else { return Ok(()) };
        let Some((network, endpoint)) = snapshot.at_attachment(at) else { return Ok(()) };
        // A network whose turn has not come is written then.
        let place = tables.networks.get(&network.vni).map(|(place, _)| *place);
        match place.filter(|_| tables.endpoints.contains_key(&network.vni)) {
            Some(place) => self.write_endpoint(tables, &snapshot, network, place, endpoint),
            None => Ok(()),
        }
    }

    /// An endpoint's address for the programs. None where it is not eligible, or where nobody can be reached by it.
    fn endpoint_at(
        &self,
        tables: &mut Tables,
        snapshot: &Snapshot,
        network: &Network,
        place: u32,
        endpoint: &Endpoint,
        addr: Addr,
    ) -> Option<KernelEndpoint> {
        let eligibility = Eligibility::of(network);
        eligibility.address(&snapshot.site, endpoint, addr).ok()?;
        let proxied = if eligibility.is_proxied(endpoint.location) { ENDPOINT_PROXIED } else { 0 };
        let begins = eligibility.beginning([Some(endpoint), None]);
        let flags = proxied | if begins.is_err() { ENDPOINT_OWN_TIMEOUTS } else { 0 };
        let tiers = |direction| match network.policy.tiers(endpoint.id, direction) {
            Some(tiers) if endpoint.enforced_here => tiers.number(),
            _ => NO_RULE,
        };
        // One that is enforced has tiers in either direction, an empty list where nobody wrote any.
        let tiers = [tiers(Direction::Ingress), tiers(Direction::Egress)];
        if endpoint.enforced_here && tiers.contains(&NO_RULE) {
            return None;
        }
        Some(KernelEndpoint {
            network: place,
            at: self.endpoint(tables, endpoint.location)?,
            mac: endpoint.mac.0,
            flags,
            identity: network.policy.identity(addr)?.number(),
            tiers,
            endpoint: endpoint.id.0,
            account: endpoint.state.flows.place(),
        })
    }

    /// What flows of a network last, and which SYNs are not for the programs.
    pub(super) fn set_ct_settings(
        &self,
        tables: &Tables,
        snapshot: &Snapshot,
        network: &Network,
        place: u32,
    ) {
        let mss_mtu = if network.mss_clamp {
            // Where nothing is known of the link, any MSS is too large.
            network.tenant_mtu(tables.link_mtu, snapshot.vtep.family(), 0).max(1)
        } else {
            0
        };
        self.fastpath.ct_settings().set(place, &timeouts(&network.tracking), mss_mtu.into());
        self.fastpath.ct_settings().count_at(place, network.state.quota.place());
    }

    /// The link's MTU is another one: nothing that is larger is sent before someone has looked at each path.
    pub(super) fn narrow_to_link(&self, tables: &mut Tables) -> Result<(), Error> {
        let link = tables.link_mtu;
        if let Some(snapshot) = tables.snapshot.clone() {
            // Each is written on its own.
            #[allow(clippy::iter_over_hash_type)]
            for (vni, (place, _)) in &tables.networks {
                if let Some(network) = snapshot.network(*vni) {
                    self.set_ct_settings(tables, &snapshot, network, *place);
                }
            }
        }
        self.set_paths(tables, |vtep, before| before.min(mtu::tenant_mtu(link, vtep.family(), 0).into()))
    }

    /// Says of each VTEP how large packets to it may be, by the MTU of the path.
    pub(super) fn widen_paths(&self, mtu_to: &dyn Fn(VtepAddr) -> u16) -> Result<(), Error> {
        let tables = &mut *lock(&self.tables);
        self.set_paths(tables, |vtep, _| mtu::tenant_mtu(mtu_to(vtep), vtep.family(), 0).into())
    }

    fn set_paths(&self, tables: &mut Tables, max_packet: impl Fn(VtepAddr, u32) -> u32) -> Result<(), Error> {
        // Each is written on its own.
        #[allow(clippy::iter_over_hash_type)]
        for (vtep, place) in &mut tables.vteps {
            let Some(place) = place else { continue };
            let max_packet = max_packet(*vtep, place.max_packet);
            if max_packet != place.max_packet {
                self.fastpath.set_vtep(place.place, vtep_row(*vtep, &Place { max_packet, ..*place }))?;
                place.max_packet = max_packet;
            }
        }
        Ok(())
    }

    /// What the UDP checksum of datagrams to each VTEP is like.
    pub(super) fn set_checksums(&self, tables: &mut Tables, checksums: &Checksums) -> Result<(), Error> {
        // Each is written on its own.
        #[allow(clippy::iter_over_hash_type)]
        for (vtep, place) in &mut tables.vteps {
            let Some(place) = place else { continue };
            let flags = vtep_flags(checksums.to(vtep.0));
            if flags != place.flags {
                self.fastpath.set_vtep(place.place, vtep_row(*vtep, &Place { flags, ..*place }))?;
                place.flags = flags;
            }
        }
        Ok(())
    }
}

fn is_in_force(tables: &Tables, snapshot: &Arc<Snapshot>) -> bool {
    tables.snapshot.as_ref().is_some_and(|in_force| Arc::ptr_eq(in_force, snapshot))
}

/// A VTEP that nothing is known of yet but the link to it.
pub(super) fn first_path(tables: &Tables, vtep: VtepAddr) -> u32 {
    mtu::tenant_mtu(tables.link_mtu, vtep.family(), 0).into()
}

pub(super) fn vtep_row(vtep: VtepAddr, place: &Place) -> Vtep {
    Vtep { addr: address(vtep.0.into()), max_packet: place.max_packet, flags: place.flags }
}

pub(super) const fn vtep_flags(checksum: UdpChecksum) -> u32 {
    match checksum {
        UdpChecksum::Auto => 0,
        UdpChecksum::Always => VTEP_SUM,
        UdpChecksum::Never => VTEP_NO_SUM,
    }
}

/// A network with the epoch that is in force there; with none of it left, nothing is.
pub(super) fn network_row(network: Option<&Network>, vni: Vni) -> Row {
    let mut row = Row { vni: vni.get(), epoch: NO_EPOCH, mac: proxy_mac(vni).0, ..Row::default() };
    let Some(network) = network else { return row };
    (row.epoch, row.policy) = (network.epoch, network.compiled);
    row.bindings = lock(&network.state.holders).version();
    let Encapsulation { tos, ttl, .. } = network.encapsulation;
    let template_flags;
    (template_flags, row.tos, row.ttl) = outer_fields(tos, ttl);
    let routed = if network.kernel_entry.is_some() { TEMPLATE_ROUTED } else { 0 };
    row.template_flags = (template_flags | routed).into();
    // Whichever VTEPs they are
    let somewhere = Location::Remote(VtepAddr(std::net::Ipv4Addr::UNSPECIFIED.into()));
    if split_horizon(network.topology, somewhere, somewhere).is_ok() {
        row.marks |= NETWORK_HUB;
    }
    if network.policy.has_stateless() {
        row.marks |= NETWORK_STATELESS;
    }
    row.control_ports = network.control_ports;
    row
}

fn endpoint_key(vni: Vni, addr: Addr) -> EndpointKey {
    EndpointKey { addr: address(addr), vni: vni.get() }
}
