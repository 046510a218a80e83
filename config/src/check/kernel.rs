//! What a network asks of its endpoints in which the kernel routes: each has a device of its own, and all of its addresses are
//! written down, as there is a route to each.

use std::sync::Arc;

use crate::{
    leaf::{Learn, Neighbors},
    model::Name,
    problem::Problem,
    read::{At, Reader},
    tables::{EndpointTable, NetworkTable},
};

/// Reports what a network would learn.
pub(super) fn check_network(table: &NetworkTable, reader: &mut Reader) {
    if table.neighbors.value != Neighbors::Kernel {
        return;
    }
    if table.learning.value {
        reader.report(Problem::KernelLearns { key: "learning" }, table.learning.span);
    }
    if table.learn.value != Learn::None {
        reader.report(Problem::KernelLearns { key: "learn" }, table.learn.span);
    }
}

/// Can the kernel route to the endpoint, where its network asks for that?
pub(super) fn check(
    table: &EndpointTable,
    network: Option<&(At<Name>, Arc<NetworkTable>)>,
    reader: &mut Reader,
) {
    let Some((network_name, network)) = network else { return };
    if network.neighbors.value != Neighbors::Kernel {
        return;
    }
    let mut refuse = |span, because, remedy| {
        let network = network_name.value.to_string();
        reader.report_also(
            Problem::KernelUnroutable { network, because, remedy },
            span,
            network_name.span,
            "the network",
        );
    };
    if let Some(vlan) = table.vlan.good() {
        refuse(vlan.span, "in a VLAN of a trunk", "give the endpoint a device of its own");
    } else if table.shared.value {
        refuse(table.shared.span, "on a shared segment", "give the endpoint a device of its own");
    }
    if let Some(learn) = table.learn.good().filter(|learn| learn.value != Learn::None) {
        refuse(learn.span, "whose addresses are learned", "write down its addresses");
    }
    if let Some(pair) = table.allowed_pairs.value.items.first() {
        refuse(pair.span, "by its `allowed_pairs`", "write what is its own under `addresses`");
    }
    if let Some(route) = table.routes.value.items.first() {
        refuse(route.span, "by its `routes`", "take them out");
    }
    if !table.port_security.value {
        refuse(table.port_security.span, "that may use any address", "take `port_security = false` out");
    }
}
