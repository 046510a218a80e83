//! What a network that takes another one's place leaves as it was.
//!
//! Policy is apart from placement: an endpoint that comes, goes, moves or changes its groups is decided about anew, and
//! nobody else. Numbers of endpoints, groups and rules are kept, so that what flows, tables and counters have noted goes on
//! meaning the same.

use std::{collections::BTreeSet, sync::Arc};

use eastgate_config as config;
use eastgate_wire::{Addr, EndpointId, MacAddr};

use super::{Endpoint, Network, rules::SPARSE};

/// Endpoints and addresses that change one by one; where it is more of them, everyone in the network is decided about anew.
const MOST: usize = 16_384;
/// Addresses that no endpoint has any more, or never had, and of which it is remembered when they changed. A network that
/// has seen more than that is decided about anew, once.
const REMEMBERED: usize = 65_536;

/// Who is decided about anew under a network that took another one's place, while everyone else is not.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Changed {
    /// The snapshot that the network was compiled for before
    pub since: u32,
    /// Whose addresses changed hands, place or groups
    pub addresses: BTreeSet<Addr>,
    /// From where endpoints send that are others than before
    pub macs: BTreeSet<MacAddr>,
}

impl Changed {
    fn add(&mut self, endpoint: &Endpoint) {
        let holdings = endpoint.holdings();
        self.macs.insert(endpoint.mac);
        self.macs.extend(holdings.pairs.iter().map(|pair| pair.mac));
        self.addresses.extend(&holdings.addresses);
    }

    /// How many entries name them
    #[must_use]
    pub fn len(&self) -> usize {
        self.addresses.len() + self.macs.len()
    }

    /// Nobody
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Numbers for the endpoints of a network: each the one it had, or one that nobody ever had: counters of drops outlive the
/// endpoints that they name.
pub(super) fn numbers(network: &config::Network, before: Option<&Network>) -> Vec<EndpointId> {
    // Both are sorted by name.
    let mut known = before.into_iter().flat_map(|before| &before.endpoints).peekable();
    let mut free = (before.map_or(0, Network::numbers_end)..).map(EndpointId);
    let number = |endpoint: &Arc<config::Endpoint>| {
        let is_it =
            |known: &&Arc<Endpoint>| Arc::ptr_eq(&known.name, &endpoint.name) || known.name == endpoint.name;
        if known.peek().is_some_and(|known| !is_it(known)) {
            while known.next_if(|known| known.name < endpoint.name).is_some() {}
        }
        known.next_if(is_it).map(|known| known.id).or_else(|| free.next())
    };
    network.endpoints.iter().filter_map(number).collect()
}

impl Network {
    /// One more than the largest number that an endpoint of it ever had.
    fn numbers_end(&self) -> u32 {
        self.directory.by_id.len() as u32
    }

    /// Whether a network with so many endpoints may go on with its numbers, or has too many that nobody has.
    pub(super) fn has_dense_numbers(&self, endpoints: usize) -> bool {
        self.directory.by_id.len() <= 1024 + SPARSE * endpoints
    }

    /// Takes the place of another one: what was decided about those who are the same goes on standing.
    pub(super) fn follow(&mut self, before: &Self) {
        if !self.has_same_settings(before) {
            return self.change_all();
        }
        let Some(changed) = self.changes_from(before) else { return self.change_all() };
        let mut remembered = before.changed_addresses.clone();
        remembered.extend(changed.addresses.iter().map(|address| (*address, self.compiled)));
        // Of an endpoint's own address it is known from the endpoint.
        remembered.retain(|address, at| self.by_address(*address).is_none_or(|owner| owner.epoch < *at));
        if remembered.len() > REMEMBERED {
            return self.change_all();
        }
        (self.epoch, self.changed_addresses, self.changed) = (before.epoch, remembered, Some(changed));
    }

    /// Everyone is another one than before.
    fn change_all(&mut self) {
        for endpoint in &mut self.endpoints {
            change_in(endpoint, self.compiled);
        }
    }

    /// Whether all that is not about single endpoints is the same. Hosts that have come are nobody's business yet.
    fn has_same_settings(&self, before: &Self) -> bool {
        let settings = |network: &Self| {
            (
                (network.tracking, network.tcp_pickup, network.topology, network.hub_here),
                (network.neighbors, network.proxy_mac, network.proxy, network.encapsulation, network.mtu),
                (network.kernel_entry, network.learning, network.flood_unknown, network.flood_multicast),
                (network.strict_reserved, network.oversize, network.mss_clamp, network.control_ports),
            )
        };
        let same_peer = |(vtep, kind)| self.peers.kind(vtep) == Some(kind);
        settings(self) == settings(before)
            && Arc::ptr_eq(&self.state, &before.state)
            && self.rules.continues(&before.rules)
            && before.peers.iter().all(same_peer)
    }

    /// Whether an endpoint of it is as it was under `before`: it took that one's place, and this one did not change.
    pub(crate) fn has_kept(&self, before: &Self, endpoint: &Endpoint) -> bool {
        let follows = self.changed.as_ref().is_some_and(|changed| changed.since == before.compiled);
        follows && endpoint.epoch < self.compiled
    }

    /// Who is another one than before. Endpoints that are not keep the snapshot in which they changed last. None when it is
    /// too many.
    fn changes_from(&mut self, before: &Self) -> Option<Changed> {
        let mut changed = Changed { since: before.compiled, ..Changed::default() };
        let same_peers = self.policy.has_same_peers(&before.policy);
        let is_same_peer = |address: &Addr| same_peers || self.policy.is_same_peer(&before.policy, *address);
        let mut since = Vec::with_capacity(self.endpoints.len());
        for endpoint in &self.endpoints {
            let was = before.endpoint(endpoint.id).filter(|was| was.is_called_as(endpoint));
            let same = was.is_some_and(|was| {
                (std::ptr::eq(was, &**endpoint) || was.is_attached_as(endpoint))
                    && self.policy.has_same_rules(&before.policy, endpoint.id)
                    && endpoint.holdings().addresses.iter().all(is_same_peer)
            });
            if !same {
                [Some(&**endpoint), was].into_iter().flatten().for_each(|endpoint| changed.add(endpoint));
            }
            since.push(was.filter(|_| same).map_or(self.compiled, |was| was.epoch));
        }
        let is_here = |was: &&Arc<Endpoint>| self.endpoint(was.id).is_some_and(|now| now.is_called_as(was));
        before.endpoints.iter().filter(|was| !is_here(was)).for_each(|gone| changed.add(gone));
        let members = before.members.iter().chain(&*self.members).filter(|_| !same_peers);
        changed.addresses.extend(members.filter(|address| !is_same_peer(address)));
        if changed.len() > MOST {
            return None;
        }
        for (endpoint, since) in self.endpoints.iter_mut().zip(since) {
            change_in(endpoint, since);
        }
        Some(changed)
    }

    /// The snapshot whose decisions about a flow still stand, and those after it: between these ends, as far as they are
    /// endpoints, by these addresses.
    #[must_use]
    pub fn decided_since(&self, ends: [Option<&Endpoint>; 2], addresses: [Addr; 2]) -> u32 {
        let ends = ends.into_iter().flatten().map(|endpoint| endpoint.epoch);
        let addresses = addresses.into_iter().filter_map(|address| {
            let owner = self.by_address(address).map(|owner| owner.epoch);
            let changed = (!self.changed_addresses.is_empty())
                .then(|| self.changed_addresses.get(&address).copied())
                .flatten();
            owner.max(changed)
        });
        ends.chain(addresses).fold(self.epoch, u32::max)
    }
}

/// Notes the snapshot in which an endpoint changed last; the network before may have it as well.
fn change_in(endpoint: &mut Arc<Endpoint>, epoch: u32) {
    if endpoint.epoch != epoch {
        Arc::make_mut(endpoint).epoch = epoch;
    }
}

impl Endpoint {
    fn is_called_as(&self, other: &Self) -> bool {
        // Nearly all have kept their very name, which need not be looked at.
        Arc::ptr_eq(&self.name, &other.name) || self.name == other.name
    }

    /// Whether it is where another one was, may send what that one might, and has its flows remembered as long.
    fn is_attached_as(&self, other: &Self) -> bool {
        self.mac == other.mac
            && self.location == other.location
            && self.enforced_here == other.enforced_here
            && self.sender == other.sender
            && self.timeouts == other.timeouts
    }
}
