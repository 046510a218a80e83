//! How an endpoint is attached to its host: by a device of its own, a VLAN of a trunk, or a segment that it shares.

use std::sync::Arc;

use eastgate_wire::{Attachment, KERNEL_DEVICES, PROXY_PREFIX};

use crate::{
    leaf::Neighbors,
    model::Name,
    problem::Problem,
    read::{At, Field, Reader, Span},
    tables::{EndpointTable, NetworkTable},
};

/// Can it be attached as it says, in its network?
pub(super) fn check(
    table: &EndpointTable,
    network: Option<&(At<Name>, Arc<NetworkTable>)>,
    reader: &mut Reader,
) {
    if let Some(port) = table.port.good()
        && KERNEL_DEVICES.iter().any(|prefix| port.value.0.starts_with(prefix))
    {
        reader.report(Problem::OwnDevice { name: port.value.0.to_string() }, port.span);
    }
    check_vlan(table, network, reader);
    check_shared(table, network, reader);
}

fn check_vlan(table: &EndpointTable, network: Option<&(At<Name>, Arc<NetworkTable>)>, reader: &mut Reader) {
    let vlan = table.vlan.good();
    if let Some(vlan) = vlan
        && table.port.is_missing()
    {
        reader.report(Problem::VlanAlone {}, vlan.span);
    }
    let untagged = match vlan {
        Some(vlan) => vlan.value.0.is_none().then_some(vlan.span),
        None => (table.shared.value && table.vlan.is_missing()).then_some(table.shared.span),
    };
    if let Some((name, network)) = network
        && let Some(span) = untagged
        && network.vlan_aware.value
    {
        let problem = Problem::UntaggedAware { network: name.value.to_string() };
        reader.report_also(problem, span, name.span, "the network");
    }
}

/// On a shared segment a frame's MACs say where it goes and whose it is.
fn check_shared(table: &EndpointTable, network: Option<&(At<Name>, Arc<NetworkTable>)>, reader: &mut Reader) {
    if !table.shared.value {
        return;
    }
    if table.port.is_missing() {
        reader.report(Problem::SharedAlone {}, table.shared.span);
    }
    if let Some((name, network)) = network
        && !matches!(network.neighbors.value, Neighbors::Proxy | Neighbors::Kernel)
    {
        let problem = Problem::SharedNeighbors { network: name.value.to_string() };
        reader.report_also(problem, table.shared.span, name.span, "the network");
    }
    if table.router.value {
        reader.report(Problem::SharedRouter {}, table.router.span);
    }
    if let Some(mac) = table.mac.good().filter(|mac| mac.value.0.starts_with(&PROXY_PREFIX)) {
        reader.report(Problem::SharedOurs { mac: mac.value }, mac.span);
    }
    if !table.port_security.value {
        reader.report(Problem::SharedMacs { key: "port_security = false" }, table.port_security.span);
    }
    for pair in &table.allowed_pairs.value.items {
        if let (Some(mac), Some(own)) = (pair.value.mac.good(), table.mac.good())
            && mac.value != own.value
        {
            reader.report(Problem::SharedMacs { key: "allowed_pairs" }, mac.span);
        }
    }
}

/// `port` names a device of the endpoint's own, or with `vlan` a trunk; one that is `shared` has its MAC there. With it what is nobody
/// else's.
pub(super) fn of(table: &EndpointTable) -> Option<(Attachment, Span)> {
    let port = table.port.good()?;
    let device = port.value.0.clone();
    let vlan = match &table.vlan {
        Field::Missing => None,
        Field::Bad => return None,
        Field::Good(vlan) => Some(vlan),
    };
    if table.shared.value {
        let mac = table.mac.good()?;
        return Some((Attachment::shared(device, vlan.and_then(|vlan| vlan.value.0), mac.value), mac.span));
    }
    Some(match vlan {
        None => (Attachment::access(device), port.span),
        Some(vlan) => (Attachment::trunk(device, vlan.value.0), vlan.span),
    })
}
