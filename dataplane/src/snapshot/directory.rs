//! Who is in a network: its endpoints by number, MAC and address.

use std::{collections::HashMap, sync::Arc};

use ahash::RandomState;
use eastgate_wire::{EndpointId, Holdings, MacAddr, Ownership};

use super::{Endpoint, holders::PrefixHolders};

/// The endpoints of a network, as they are looked up.
#[derive(Debug)]
pub struct Directory {
    /// Who owns which address
    pub ownership: Ownership,
    /// Who may send from prefixes
    pub holders: PrefixHolders,
    /// Endpoints without port security
    pub(crate) unsecured: Vec<EndpointId>,
    /// Endpoints whose addresses are learned
    pub(crate) learners: Vec<EndpointId>,
    /// Number of an endpoint -> its place among them
    pub(super) by_id: Box<[Option<u32>]>,
    pub(super) by_mac: HashMap<MacAddr, EndpointId, RandomState>,
}

impl Directory {
    /// Of these endpoints. Numbers below `known` are known to have been given.
    pub(super) fn of(endpoints: &[Arc<Endpoint>], known: usize) -> Self {
        let end = endpoints.iter().map(|endpoint| endpoint.id.0 as usize + 1).max().unwrap_or(0);
        let mut by_id = vec![None; end.max(known)];
        for (place, endpoint) in (0..).zip(endpoints) {
            by_id[endpoint.id.0 as usize] = Some(place);
        }
        let ids = |of: fn(&Endpoint) -> bool| {
            endpoints.iter().filter(|endpoint| of(endpoint)).map(|endpoint| endpoint.id).collect()
        };
        let prefixes = endpoints.iter().flat_map(|endpoint| {
            let Holdings { pairs, routes, .. } = endpoint.holdings();
            let pairs = pairs.iter().map(|pair| (pair.network, pair.len));
            pairs.chain(routes.iter().copied()).map(|prefix| (prefix, endpoint.id))
        });
        Self {
            ownership: Ownership::new(endpoints.iter().map(|endpoint| endpoint.holdings())),
            holders: PrefixHolders::new(prefixes),
            unsecured: ids(|endpoint| !endpoint.sender.port_security),
            learners: ids(|endpoint| endpoint.learning.is_some()),
            by_id: by_id.into(),
            by_mac: endpoints.iter().map(|endpoint| (endpoint.mac, endpoint.id)).collect(),
        }
    }
}
