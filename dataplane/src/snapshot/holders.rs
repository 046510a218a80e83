//! Who holds an address by the configuration, who has moved, and on which leg of its way a packet is that others forward.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ahash::RandomState;
use eastgate_wire::{Addr, EndpointId, FlowKey, Instant, MacAddr};

use super::{Endpoint, Network, Snapshot};

/// The prefixes that endpoints may send from beside their own addresses, by the longest that an address is in.
#[derive(Debug, Default)]
pub struct PrefixHolders {
    /// That there are, the longest first
    lengths: Vec<u8>,
    holders: HashMap<(Addr, u8), Vec<EndpointId>, RandomState>,
}

impl PrefixHolders {
    /// Of these prefixes, lengths in the 128-bit form.
    pub fn new(prefixes: impl IntoIterator<Item = ((Addr, u8), EndpointId)>) -> Self {
        let mut sorted: BTreeMap<(u8, Addr), Vec<EndpointId>> = BTreeMap::new();
        for ((network, len), endpoint) in prefixes {
            let holders = sorted.entry((len, masked(network, len))).or_default();
            if !holders.contains(&endpoint) {
                holders.push(endpoint);
            }
        }
        let mut lengths: Vec<u8> = sorted.keys().rev().map(|(len, _)| *len).collect();
        lengths.dedup();
        let holders = sorted.into_iter().map(|((len, network), holders)| ((network, len), holders)).collect();
        Self { lengths, holders }
    }

    /// The endpoints with the longest prefix that the address is in, in the order of the configuration.
    #[must_use]
    pub fn of(&self, address: Addr) -> &[EndpointId] {
        self.lengths
            .iter()
            // No prefix of IPv6 is about IPv4, however wide.
            .filter(|len| !address.is_v4() || **len >= 96)
            .find_map(|len| self.holders.get(&(masked(address, *len), *len)))
            .map_or(&[], Vec::as_slice)
    }
}

const fn masked(address: Addr, len: u8) -> Addr {
    let host_bits = if len == 0 { u128::MAX } else { (1 << (128 - len)) - 1 };
    Addr::from_bits(address.bits() & !host_bits)
}

impl Network {
    /// The key of a packet from one endpoint to another, on the leg of its way that it is on.
    #[must_use]
    pub fn on_leg(&self, key: FlowKey, sender: Option<&Endpoint>, receiver: Option<&Endpoint>) -> FlowKey {
        key.on_leg(self.stands_in(sender, key.src), self.stands_in(receiver, key.dst))
    }

    /// The first endpoint that an address is behind which is nobody's here.
    #[must_use]
    pub fn behind(&self, address: Addr) -> Option<&Endpoint> {
        self.endpoint(*self.directory.holders.of(address).first()?)
    }

    /// The endpoint's MAC, when the address is another one's. Endpoints that have a prefix in common stand in for nobody
    /// behind it: what goes out by one of them may come back by the other.
    fn stands_in(&self, endpoint: Option<&Endpoint>, address: Addr) -> Option<MacAddr> {
        let endpoint = endpoint?;
        let holds = match self.by_address(address) {
            Some(holder) => holder.id == endpoint.id,
            // Nobody forwards for link-local addresses, and nobody knows what is behind a port that is not secured.
            None if address.is_link_local() || !endpoint.sender.port_security => true,
            None => {
                let holders = self.directory.holders.of(address);
                holders.is_empty() || holders.contains(&endpoint.id)
            }
        };
        (!holds).then_some(endpoint.mac)
    }
}

impl Snapshot {
    /// Notes which endpoints have another place than in the snapshot before.
    pub(crate) fn note_moves(&self, before: &Self, now: Instant) {
        for network in self.networks() {
            let known = before.network(network.vni);
            if !known.is_some_and(|known| Arc::ptr_eq(known, network)) {
                let endpoints = known.map_or(&[][..], |known| &known.endpoints);
                let others =
                    network.endpoints.iter().filter(|it| !known.is_some_and(|was| network.has_kept(was, it)));
                let moved = others.filter(|endpoint| has_moved(endpoints, endpoint));
                moved.for_each(|endpoint| endpoint.state.moved(now));
            }
        }
    }
}

/// `known` is sorted by name. One that was nowhere may have been elsewhere before it was taken out.
fn has_moved(known: &[Arc<Endpoint>], endpoint: &Endpoint) -> bool {
    match known.binary_search_by(|known| known.name.cmp(&endpoint.name)) {
        Ok(at) => known.get(at).is_some_and(|known| known.location != endpoint.location),
        Err(_) => !known.is_empty() || endpoint.attachment().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn the_longest_prefix_has_an_address_and_families_keep_apart() {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let of = |text: &str, len, id| ((addr(text), len), EndpointId(id));
        let holders = PrefixHolders::new([
            of("0.0.0.0", 96, 1),
            of("::", 0, 2),
            of("10.9.0.0", 96 + 16, 3),
            of("10.9.0.0", 96 + 16, 4),
            of("10.9.1.7", 128, 5),
            of("10.9.0.0", 96 + 16, 3),
        ]);
        let ids = |text| holders.of(addr(text)).iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(ids("10.9.1.7"), [5]);
        assert_eq!(ids("10.9.1.8"), [3, 4]);
        assert_eq!(ids("192.0.2.1"), [1]);
        assert_eq!(ids("2001:db8::1"), [2]);
        assert!(PrefixHolders::default().of(addr("10.9.1.7")).is_empty());
    }
}
