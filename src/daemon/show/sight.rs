//! The networks that whoever asks may see.

use std::collections::{BTreeMap, HashSet};

use eastgate_api::{
    Failure, FlowCounts, HelperCounts, LearnedCounts, Memory, PortStatus, Scope, Status, TraceRequest,
    Traffic,
};
use eastgate_dataplane::{pipeline::shared::lock, snapshot::Snapshot};
use eastgate_wire::Vni;

/// All of them, also those that there are no more, and what is of none; or those of some tenants.
pub(super) struct Sight(Option<HashSet<Vni>>);

impl Sight {
    pub(super) fn of(snapshot: &Snapshot, scope: &Scope) -> Self {
        let visible = || {
            let networks = snapshot.networks().into_iter();
            networks.filter(|network| scope.has(&network.tenant.name)).map(|network| network.vni).collect()
        };
        Self((!scope.is_all()).then(visible))
    }

    /// This one may be seen.
    pub(super) fn has(&self, vni: Vni) -> bool {
        self.0.as_ref().is_none_or(|visible| visible.contains(&vni))
    }

    /// What is of this network, or of none that is known, may be seen.
    pub(super) fn has_any(&self, vni: Option<Vni>) -> bool {
        match vni {
            Some(vni) => self.has(vni),
            None => self.0.is_none(),
        }
    }
}

/// What is told of a network that may not be seen: the same whether there is one or not.
pub(super) fn check_trace(snapshot: &Snapshot, scope: &Scope, request: &TraceRequest) -> Result<(), Failure> {
    if Sight::of(snapshot, scope).has(request.vni) {
        return Ok(());
    }
    let networks = snapshot.networks().into_iter();
    let own =
        networks.filter(|network| scope.has(&network.tenant.name)).map(|network| network.vni.to_string());
    let text = format!(
        "no network of the tenants of this token has VNI {} on this host; theirs are: {}",
        request.vni,
        own.take(20).collect::<Vec<_>>().join(", ")
    );
    Err(Failure::new(eastgate_api::ErrorCode::Invalid, text))
}

/// A status without what tells of other tenants: their ports, devices that machines of several are behind, sentences about them,
/// and counts that theirs are in. Flows and learned addresses are those of the networks that may be seen; what is counted for the
/// host alone is left at zero, since its changes tell what others do.
pub(super) fn narrowed(status: Status, snapshot: &Snapshot, scope: &Scope) -> Status {
    let sight = Sight::of(snapshot, scope);
    let of_tenant = |name: &String| name.split_once('/').is_some_and(|(tenant, _)| scope.has(tenant));
    let ports: Vec<PortStatus> = status.ports.into_iter().filter(|port| sight.has(port.vni)).collect();
    let states = ports.iter().map(|port| (&port.name, &port.state));
    let mut vtep = status.vtep;
    vtep.too_small_for.retain(of_tenant);
    vtep.bursts_refused = 0;
    let mut flows = FlowCounts::default();
    let mut learned = LearnedCounts::default();
    let networks = snapshot.networks();
    let own: Vec<_> = networks.iter().filter(|network| sight.has(network.vni)).collect();
    for network in &own {
        let in_use = network.state.quota.in_use();
        flows.replied += u64::from(in_use.replied);
        flows.unreplied += u64::from(in_use.unreplied);
    }
    for network in snapshot.learner_networks().filter(|network| sight.has(network.vni)) {
        let snooped = lock(&network.state.snooped);
        learned.addresses += snooped.entries().count() as u64;
        learned.refused += snooped.refused;
    }
    let mut restored = status.restored;
    (restored.last, restored.missing) = (None, Vec::new());
    Status {
        problems: super::problems(status.ready, &vtep, states, std::iter::empty()),
        reload_error: status.reload_error.map(|_| "the last reload was refused".to_owned()),
        api_error: None,
        excluded: status.excluded.into_iter().filter(of_tenant).collect(),
        networks: own.len(),
        flows,
        learned,
        helpers: HelperCounts::default(),
        traffic: Traffic::default(),
        memory: Memory::default(),
        punts: BTreeMap::new(),
        stations: Vec::new(),
        ports,
        vtep,
        restored,
        ..status
    }
}
