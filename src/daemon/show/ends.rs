//! Endpoints by the name that a filter gives.

use std::collections::HashSet;

use eastgate_api::{ErrorCode, Failure, Filter};
use eastgate_dataplane::{
    pipeline::shared::lock,
    snapshot::{Endpoint, Network, Snapshot},
};
use eastgate_wire::{Addr, MacAddr, Vni};

use super::networks;

/// Endpoints that rows are to be about.
pub(super) struct Ends<'s>(Vec<End<'s>>);

struct End<'s> {
    network: &'s Network,
    endpoint: &'s Endpoint,
    /// Addresses that it may have among others, and has
    held: HashSet<Addr>,
}

impl<'s> Ends<'s> {
    /// Those that the filter names; nothing when it names none, and everything is meant.
    pub(super) fn of(snapshot: &'s Snapshot, filter: &Filter) -> Result<Option<Self>, Failure> {
        let Some(wanted) = &filter.endpoint else { return Ok(None) };
        let (tenant, name) = match wanted.split_once('/') {
            Some((tenant, name)) => (Some(tenant), name),
            None => (None, wanted.as_str()),
        };
        let mut ends = Vec::new();
        for network in networks(snapshot, filter) {
            if tenant.is_some_and(|tenant| tenant != &*network.tenant.name) {
                continue;
            }
            for endpoint in network.endpoints.iter().filter(|endpoint| &*endpoint.name == name) {
                let holders = lock(&network.state.holders);
                let held = holders.entries().filter(|(_, holder)| holder.endpoint == endpoint.mac);
                ends.push(End { network, endpoint, held: held.map(|(address, _)| address).collect() });
            }
        }
        if ends.is_empty() {
            let text =
                format!("no network of this host has an endpoint {wanted}: `show endpoints` lists them");
            return Err(Failure::new(ErrorCode::Invalid, text));
        }
        Ok(Some(Self(ends)))
    }

    /// Is this one of them?
    pub(super) fn has(&self, vni: Vni, endpoint: &Endpoint) -> bool {
        self.0.iter().any(|end| end.network.vni == vni && end.endpoint.id == endpoint.id)
    }

    /// Has one of them this MAC?
    pub(super) fn has_mac(&self, vni: Vni, mac: MacAddr) -> bool {
        self.0.iter().any(|end| end.network.vni == vni && end.endpoint.mac == mac)
    }

    /// Has one of them this address?
    pub(super) fn has_address(&self, vni: Vni, address: Addr) -> bool {
        self.0.iter().any(|end| {
            let owns = || end.network.by_address(address).is_some_and(|owner| owner.id == end.endpoint.id);
            end.network.vni == vni && (owns() || end.held.contains(&address))
        })
    }
}
