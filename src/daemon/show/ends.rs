//! Endpoints by the name that a filter gives.

use std::collections::HashSet;

use eastgate_api::{ErrorCode, Failure, Filter};
use eastgate_dataplane::{
    pipeline::shared::lock,
    snapshot::{Endpoint, Network, Snapshot},
};
use eastgate_wire::{Addr, EndpointId, MacAddr, Vni};

use super::networks;

/// Endpoints that rows are to be about.
pub(super) struct Ends<'s> {
    snapshot: &'s Snapshot,
    endpoints: HashSet<(Vni, EndpointId)>,
    macs: HashSet<(Vni, MacAddr)>,
    /// Addresses that one of them may have among others, and has
    held: HashSet<(Vni, Addr)>,
}

impl<'s> Ends<'s> {
    /// Those that the filter names; nothing when it names none, and everything is meant.
    pub(super) fn of(snapshot: &'s Snapshot, filter: &Filter) -> Result<Option<Self>, Failure> {
        let Some(wanted) = &filter.endpoint else { return Ok(None) };
        let ends = Self::which(snapshot, filter, wanted, |_, endpoint, name| &*endpoint.name == name);
        ends.map(Some).ok_or_else(|| {
            let text =
                format!("no network of this host has an endpoint {wanted}: `show endpoints` lists them");
            Failure::new(ErrorCode::Invalid, text)
        })
    }

    /// The members of the group that the filter names, likewise.
    pub(super) fn of_group(snapshot: &'s Snapshot, filter: &Filter) -> Result<Option<Self>, Failure> {
        let Some(wanted) = &filter.group else { return Ok(None) };
        let is_member = |network: &Network, endpoint: &Endpoint, name: &str| {
            let endpoint = network.config().and_then(|network| network.endpoint(&endpoint.name));
            endpoint.is_some_and(|endpoint| endpoint.groups.iter().any(|group| &**group == name))
        };
        Self::which(snapshot, filter, wanted, is_member).map(Some).ok_or_else(|| {
            let text = format!(
                "no endpoint of this host's networks is in a group {wanted}: `show policy` lists them"
            );
            Failure::new(ErrorCode::Invalid, text)
        })
    }

    /// Those that are meant by `wanted`, a name or tenant/name; none where there are none.
    fn which(
        snapshot: &'s Snapshot,
        filter: &Filter,
        wanted: &str,
        is_meant: impl Fn(&Network, &Endpoint, &str) -> bool,
    ) -> Option<Self> {
        let (tenant, name) = match wanted.split_once('/') {
            Some((tenant, name)) => (Some(tenant), name),
            None => (None, wanted),
        };
        let (mut endpoints, mut macs, mut held) = (HashSet::new(), HashSet::new(), HashSet::new());
        for network in networks(snapshot, filter) {
            if tenant.is_some_and(|tenant| tenant != &*network.tenant.name) {
                continue;
            }
            let vni = network.vni;
            for endpoint in network.endpoints().filter(|endpoint| is_meant(network, endpoint, name)) {
                endpoints.insert((vni, endpoint.id));
                macs.insert((vni, endpoint.mac));
            }
            let holders = lock(&network.state.holders);
            let of_them = holders.entries().filter(|(_, holder)| macs.contains(&(vni, holder.endpoint)));
            held.extend(of_them.map(|(address, _)| (vni, address)));
        }
        (!endpoints.is_empty()).then_some(Self { snapshot, endpoints, macs, held })
    }

    /// Is this one of them?
    pub(super) fn has(&self, vni: Vni, endpoint: &Endpoint) -> bool {
        self.endpoints.contains(&(vni, endpoint.id))
    }

    /// Has one of them this MAC?
    pub(super) fn has_mac(&self, vni: Vni, mac: MacAddr) -> bool {
        self.macs.contains(&(vni, mac))
    }

    /// Has one of them this address?
    pub(super) fn has_address(&self, vni: Vni, address: Addr) -> bool {
        let owner = || self.snapshot.network(vni).and_then(|network| network.by_address(address));
        self.held.contains(&(vni, address)) || owner().is_some_and(|owner| self.has(vni, owner))
    }
}
