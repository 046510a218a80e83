//! A tenant's profiles: what machines are that stations associate by VDP. Such a machine is an endpoint of a shared segment of which all is known
//! but who it is and where, and that is how it is checked.

use std::{collections::BTreeMap, sync::Arc};

use eastgate_wire::{MacAddr, VlanId};

use super::{
    endpoint::{self, ByNetwork},
    filters::{self, Made, Subject},
};
use crate::{
    model::{Endpoint, Name},
    problem::Problem,
    read::{At, Field, Named, Reader},
    tables::{EndpointTable, ProfileTable, TenantTable},
    values::{Device, List, NameText, TrunkVlan},
    vdp::{Profile, VsiProfile},
};

/// Each profile as a table of an endpoint that has it.
pub(super) fn machines(tenant: &TenantTable) -> Named<EndpointTable> {
    let machine =
        |(name, table): &(At<Name>, Arc<ProfileTable>)| (name.clone(), Arc::new(machine(name, table)));
    tenant.profile.value.iter().map(machine).collect()
}

/// Any device, VLAN, MAC and host stand for those that it gets.
fn machine(name: &At<Name>, table: &ProfileTable) -> EndpointTable {
    let span = name.span;
    let items = table.groups.good().map_or_else(Vec::new, |groups| groups.value.0.clone());
    EndpointTable {
        network: table.network.clone(),
        host: Field::Good(At { value: NameText(name.value.clone()), span }),
        port: Field::Good(At { value: Device(name.value.clone()), span }),
        vlan: Field::Good(At { value: TrunkVlan(VlanId::new_checked(1)), span }),
        shared: At { value: true, span },
        mac: Field::Good(At { value: MacAddr([2, 0, 0, 0, 0, 0]), span }),
        learn: table.learn.clone(),
        learn_limit: table.learn_limit.clone(),
        learn_lock: table.learn_lock.clone(),
        groups: At { value: List { partial: table.groups.good().is_none(), items }, span },
        variables: table.variables.clone(),
        ethertypes: table.ethertypes.clone(),
        filters: table.filters.clone(),
        limits: table.limits.clone(),
        timeouts: table.timeouts.clone(),
        ..EndpointTable::default()
    }
}

/// Checks profiles. What is good of them is an endpoint, by the index of its network.
pub(super) fn check_all(
    tenant_name: &Name,
    tenant: &TenantTable,
    machines: &Named<EndpointTable>,
    made: &mut Made,
    reader: &mut Reader,
) -> ByNetwork {
    let servers = endpoint::dhcp_servers(tenant);
    let mut good: BTreeMap<usize, Vec<Arc<Endpoint>>> = BTreeMap::new();
    for (name, table) in machines {
        let index = endpoint::network_of(table, &tenant.network.value, reader);
        endpoint::check(name, table, tenant, index, reader);
        let Some((index, network)) = index.and_then(|index| Some((index, tenant.network.value.get(index)?)))
        else {
            continue;
        };
        let learning = endpoint::learning(name, table, network, reader);
        if learning.is_none() {
            let problem = Problem::ProfileLearn { network: network.0.value.to_string() };
            let at = table.learn.good().map_or(name.span, |learn| learn.span);
            reader.report_also(problem, at, network.0.span, "the network");
        }
        let Some(mut endpoint) = endpoint::build(name, table, learning, reader) else { continue };
        let servers = servers.get(&network.0.value).copied().unwrap_or(0);
        let subject = Subject { tenant: tenant_name, table, network: &network.1, servers };
        filters::apply(&subject, &mut endpoint.groups, made, reader);
        good.entry(index).or_default().push(Arc::new(endpoint));
    }
    good.into_iter().map(|(index, endpoints)| (index, Arc::new(endpoints))).collect()
}

/// The profiles of which all is good.
pub(super) fn profiles(
    tenant: &TenantTable,
    machines: &ByNetwork,
    reader: &Reader,
) -> BTreeMap<Name, Profile> {
    let all = machines.iter().flat_map(|(index, of_network)| of_network.iter().map(move |it| (*index, it)));
    let profile = |(index, machine): (usize, &Arc<Endpoint>)| {
        let at = tenant.profile.value.binary_search_by(|(name, _)| name.value.cmp(&machine.name)).ok()?;
        let (name, table) = tenant.profile.value.get(at)?;
        let vsi = VsiProfile {
            manager: table.vsi_manager.good()?.value.0,
            kind: table.vsi_type.good()?.value.get(),
            version: match &table.vsi_version {
                Field::Missing => None,
                Field::Bad => return None,
                Field::Good(version) => Some(version.value.get()),
            },
        };
        let profile = Profile {
            name: name.value.clone(),
            at: reader.place(name.span),
            vsi,
            network: tenant.network.value.get(index)?.0.value.clone(),
            machines: table.machines.value.get(),
            machine: machine.clone(),
        };
        Some((name.value.clone(), profile))
    };
    all.filter_map(profile).collect()
}
