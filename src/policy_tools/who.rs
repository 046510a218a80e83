//! Who may reach an endpoint, whom it may reach, and by which rules of either side.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    str::FromStr,
};

use eastgate_policy::{
    analysis::{AddressRange, Domain, Passage, Slice, passages, regions},
    compile::{IdentityId, TierListId},
    rule::{Decision, Direction, PortProtocol},
};
use eastgate_wire::{Addr, EndpointId, Family, names, view::proto};
use serde::Serialize;

use super::{Misnamed, NetworkPolicy, Outcome, Policies, peers_text, services_text};

/// A service as it is asked about: `5432/tcp`, `tcp`, `icmp`, `8/icmp`.
#[derive(Clone, Debug)]
pub struct Service(Domain);

/// Who may begin a flow to whom.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// As tenant/name
    pub network: String,
    /// The sender, as tenant/name; none where it is elsewhere, behind someone who forwards
    pub from: Option<String>,
    /// Its addresses for which this holds
    pub from_addresses: Vec<String>,
    /// The receiver, likewise
    pub to: Option<String>,
    /// Its addresses
    pub to_addresses: Vec<String>,
    /// What may pass
    pub services: Vec<String>,
    /// What the sender's rules say; none where it is elsewhere
    pub egress: Option<Outcome>,
    /// What the receiver's rules say; none where it is elsewhere
    pub ingress: Option<Outcome>,
}

impl FromStr for Service {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write 5432/tcp, tcp, icmp or 8/icmp (a type)".to_owned();
        let (number, protocol) = match text.split_once('/') {
            Some((number, protocol)) => (Some(number.parse::<u16>().map_err(|_| wrong())?), protocol),
            None => (None, text),
        };
        let protocol = names::protocol_number(protocol).ok_or_else(wrong)?;
        Ok(Self(match number {
            None => Domain::protocol(protocol),
            Some(port) if PortProtocol::from_number(protocol).is_some() => Domain::port(protocol, port),
            Some(kind) if matches!(protocol, proto::ICMP | proto::ICMPV6) => {
                Domain::icmp(protocol, u8::try_from(kind).map_err(|_| wrong())?)
            }
            Some(_) => return Err(format!("{} has no ports", names::protocol_name(protocol))),
        }))
    }
}

/// Who may reach whom: all that begin at `from`, end at `to`, or both.
///
/// # Errors
/// [`Misnamed`], where nothing has such a name.
pub fn who(
    policies: &Policies,
    from: Option<&str>,
    to: Option<&str>,
    service: Option<&Service>,
) -> Result<Vec<Row>, Misnamed> {
    let whole = Domain::whole();
    let domain = service.map_or(&whole, |service| &service.0);
    let [from, to] = [from, to].map(|name| name.map(|name| policies.named(name)).transpose());
    let (from, to) = (from?, to?);
    let mut rows = Vec::new();
    for (place, network) in policies.networks.iter().enumerate() {
        let ends = [&from, &to].map(|named| match named {
            Some(named) => named.get(&place).cloned().unwrap_or_default(),
            None => (0..network.endpoints().len()).collect(),
        });
        if ends.iter().any(Vec::is_empty) {
            continue;
        }
        let [senders, receivers] = ends;
        rows.extend(between(network, &senders, &receivers, domain));
        if from.is_none() {
            rows.extend(elsewhere(network, &receivers, Direction::Ingress, domain));
        }
        if to.is_none() {
            rows.extend(elsewhere(network, &senders, Direction::Egress, domain));
        }
    }
    Ok(rows)
}

/// What is told in one row: services, and what both ends say of them
type Alike<'p> = (&'p [Slice], Decision, Decision);

/// What is the same for all addresses that these tables do not tell apart.
type Kind = ([Option<TierListId>; 2], [Option<IdentityId>; 2], Family);

fn between(network: &NetworkPolicy, senders: &[usize], receivers: &[usize], domain: &Domain) -> Vec<Row> {
    let side = network.side();
    let mut known: HashMap<Kind, Vec<Passage>> = HashMap::new();
    let mut rows: Vec<Row> = Vec::new();
    for from in senders {
        for to in receivers.iter().filter(|to| *to != from) {
            let ids = [*from, *to].map(|place| EndpointId(place as u32));
            let mut alike: BTreeMap<Alike<'_>, [BTreeSet<Addr>; 2]> = BTreeMap::new();
            let mut kinds = Vec::new();
            for source in network.addresses(*from) {
                for destination in
                    network.addresses(*to).filter(|address| address.family() == source.family())
                {
                    let tiers = [(ids[0], Direction::Egress), (ids[1], Direction::Ingress)]
                        .map(|(id, direction)| side.compiled.tiers(id, direction));
                    let identities = [source, destination].map(|address| side.compiled.identity(address));
                    let kind = (tiers, identities, source.family());
                    known
                        .entry(kind)
                        .or_insert_with(|| passages(side, (ids[0], source), (ids[1], destination), domain));
                    kinds.push((kind, source, destination));
                }
            }
            for (kind, source, destination) in kinds {
                let all = known.get(&kind).map_or(&[][..], Vec::as_slice);
                for passage in all.iter().filter(|passage| passage.passes()) {
                    let key = (&passage.services[..], passage.egress, passage.ingress);
                    let [sources, destinations] = alike.entry(key).or_default();
                    sources.insert(source);
                    destinations.insert(destination);
                }
            }
            let text = |addresses: &BTreeSet<Addr>| addresses.iter().map(Addr::to_string).collect();
            rows.extend(alike.into_iter().map(|((services, egress, ingress), [sources, destinations])| {
                Row {
                    network: network.name(),
                    from: Some(network.endpoint_name(*from)),
                    from_addresses: text(&sources),
                    to: Some(network.endpoint_name(*to)),
                    to_addresses: text(&destinations),
                    services: services_text(services),
                    egress: Some(network.outcome(&egress)),
                    ingress: Some(network.outcome(&ingress)),
                }
            }));
        }
    }
    rows
}

/// What passes between these endpoints and addresses that no endpoint has. They are reached by way of someone who forwards; where
/// nobody may, there is nothing elsewhere.
fn elsewhere(network: &NetworkPolicy, places: &[usize], direction: Direction, domain: &Domain) -> Vec<Row> {
    let Some(config) = network.config() else { return Vec::new() };
    let forwards = config.endpoints.iter().any(|endpoint| {
        endpoint.router
            || !endpoint.port_security
            || !endpoint.routes.is_empty()
            || endpoint
                .allowed_pairs
                .iter()
                .any(|pair| pair.address.prefix_len() < pair.address.max_prefix_len())
    });
    if !forwards && !config.learning {
        return Vec::new();
    }
    let ids: Vec<EndpointId> = places.iter().map(|place| EndpointId(*place as u32)).collect();
    let owners = network.owners();
    let mut rows = Vec::new();
    for region in regions(network.side(), &ids, direction, domain) {
        let [decision] = region.outcomes;
        if !decision.verdict.passes() {
            continue;
        }
        let peers = without(&region.peers, &owners);
        if peers.is_empty() {
            continue;
        }
        let peers = peers_text(&peers, &BTreeMap::new());
        for place in region.endpoints.iter().filter_map(|at| places.get(*at)) {
            let own = network.addresses(*place).map(|address| address.to_string()).collect();
            let name = Some(network.endpoint_name(*place));
            let outcome = Some(network.outcome(&decision));
            let services = services_text(&region.services);
            let (network, there) = (network.name(), peers.clone());
            rows.push(match direction {
                Direction::Ingress => Row {
                    network,
                    from: None,
                    from_addresses: there,
                    to: name,
                    to_addresses: own,
                    services,
                    egress: None,
                    ingress: outcome,
                },
                Direction::Egress => Row {
                    network,
                    from: name,
                    from_addresses: own,
                    to: None,
                    to_addresses: there,
                    services,
                    egress: outcome,
                    ingress: None,
                },
            });
        }
    }
    rows
}

/// The ranges less the addresses that have an owner.
fn without(ranges: &[AddressRange], owners: &BTreeMap<Addr, usize>) -> Vec<AddressRange> {
    let mut left = Vec::new();
    for range in ranges {
        let mut first = Some(range.first);
        for (address, _) in owners.range(range.first..=range.last) {
            let before = address.bits().checked_sub(1).map(Addr::from_bits);
            if let (Some(from), Some(last)) = (first, before)
                && from <= last
            {
                left.push(AddressRange { first: from, last });
            }
            first = address.bits().checked_add(1).map(Addr::from_bits).filter(|next| *next <= range.last);
        }
        left.extend(first.map(|first| AddressRange { first, last: range.last }));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_out_of_ranges() {
        let address = |text: &str| -> Addr { text.parse::<std::net::IpAddr>().unwrap().into() };
        let all = [AddressRange { first: address("10.0.0.0"), last: address("10.0.0.3") }];
        let taken = |out: &[&str]| {
            let left = without(&all, &out.iter().map(|text| (address(text), 0)).collect());
            left.iter().map(|range| format!("{}-{}", range.first, range.last)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(taken(&[]), "10.0.0.0-10.0.0.3");
        assert_eq!(taken(&["10.0.0.0", "10.0.0.2"]), "10.0.0.1-10.0.0.1 10.0.0.3-10.0.0.3");
        assert_eq!(taken(&["9.9.9.9", "10.0.0.3"]), "10.0.0.0-10.0.0.2");
        assert_eq!(taken(&["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]), "");
    }

    #[test]
    fn services_are_read() {
        let read = |text: &str| text.parse::<Service>().map(|service| service.0);
        assert_eq!(read("5432/tcp").unwrap(), Domain::port(6, 5432));
        assert_eq!(read("udp").unwrap(), Domain::protocol(17));
        assert_eq!(read("8/icmp").unwrap(), Domain::icmp(1, 8));
        for wrong in ["", "tcp/5432", "65536/tcp", "256/icmp", "1/gre", "http"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
