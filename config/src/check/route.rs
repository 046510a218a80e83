//! What an endpoint forwards for: `routes`, and allowed pairs that are as wide as one.

use std::sync::Arc;

use ipnet::IpNet;

use super::network::{NOT_FOR_STATIONS, overlap};
use crate::{
    model::Name,
    problem::Problem,
    read::{At, Reader},
    tables::{AllowedPairTable, EndpointTable, NetworkTable},
    values::AddressOrPrefix,
};

/// Checks them for an endpoint of this network, as far as it is known.
pub(super) fn check(
    table: &EndpointTable,
    network: Option<&(At<Name>, Arc<NetworkTable>)>,
    reader: &mut Reader,
) {
    let routes = &table.routes.value.items;
    for (at, route) in routes.iter().enumerate() {
        let net = route.value.0;
        if NOT_FOR_STATIONS.iter().filter_map(|text| text.parse::<IpNet>().ok()).any(|no| no.contains(&net)) {
            reader.report(Problem::RouteKind { route: net }, route.span);
        } else if let Some(first) = routes.iter().take(at).find(|before| before.value.0 == net) {
            reader.report_also(Problem::RouteRepeated { route: net }, route.span, first.span, "first here");
        } else if let Some((name, network)) = network {
            fits(route, name, network, reader);
        }
    }
    for pair in &table.allowed_pairs.value.items {
        wide_pair(&pair.value, network.map(|(_, network)| &**network), reader);
    }
}

fn fits(route: &At<AddressOrPrefix>, name: &At<Name>, network: &NetworkTable, reader: &mut Reader) {
    let net = route.value.0;
    let subnets = &network.subnets.value;
    if subnets.partial {
        return;
    }
    let mut of_family = subnets.items.iter().filter(|subnet| is_v4(subnet.value) == is_v4(net)).peekable();
    if of_family.peek().is_none() {
        let problem = Problem::RouteFamily { route: net, network: name.value.to_string() };
        reader.report_also(problem, route.span, name.span, "the network");
    } else if net.prefix_len() > 0
        && let Some(subnet) = of_family.find(|subnet| overlap(subnet.value, net))
    {
        let problem = Problem::RouteOwnSubnet { route: net, subnet: subnet.value };
        reader.report_also(problem, route.span, subnet.span, "the subnet");
    }
}

/// A pair that holds every address of a subnet, or of all there are, was meant for a router.
fn wide_pair(pair: &AllowedPairTable, network: Option<&NetworkTable>, reader: &mut Reader) {
    let Some(address) = pair.address.good() else { return };
    let net = address.value.0;
    let mut subnets = network.into_iter().flat_map(|network| &network.subnets.value.items);
    if net.prefix_len() == 0 || subnets.any(|subnet| net.contains(&subnet.value)) {
        reader.report(Problem::PairWide { address: net }, address.span);
    }
}

const fn is_v4(net: IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}
