//! A segment that two tenants share and that isolates them from each other: macvlan devices in VEPA mode, which send everything to the far end of
//! their lower device, and hear each other by what comes back from there. Only what is at that end differs.

use anyhow::Result;
use eastgate_testkit::{Namespace, netns::veth};

use super::super::traffic::{Pair, Tenant};
use super::topology::{
    Host, TENANT_DEVICE, TENANT_MTU, UNDERLAY_DEVICE, UNDERLAY_MTU, host, quiet_namespace, settle, tenant,
};

/// The device of the host that leads to the segment
pub(crate) const SEGMENT_DEVICE: &str = "seg0";

/// A host at the end of a segment, and its tenants.
#[derive(Debug)]
pub(crate) struct SegmentTopology {
    pub(crate) host: Host,
    tenants: [Tenant; 2],
    _segment: Namespace,
}

impl SegmentTopology {
    /// Builds it; `role` tells one candidate's namespaces from another's.
    pub(crate) fn build(role: &str) -> Result<Self> {
        let role = format!("{role}-seg");
        let segment = quiet_namespace(&format!("{role}-s"))?;
        let host = host(&role, "h", 9)?;
        veth((&host.namespace, SEGMENT_DEVICE), (&segment, "lower"), TENANT_MTU)?;
        segment.ip("link set lower up")?;
        host.namespace.ip(&format!("link set {SEGMENT_DEVICE} up"))?;
        // There is no other host; the one that there is has an underlay all the same.
        veth((&host.namespace, UNDERLAY_DEVICE), (&segment, "underlay"), UNDERLAY_MTU)?;
        host.namespace.ip(&format!("link set {UNDERLAY_DEVICE} up"))?;
        host.namespace.ip(&format!("address add {}/24 dev {UNDERLAY_DEVICE}", host.vtep))?;
        let tenants = [tenant(&role, "a", 1)?, tenant(&role, "b", 2)?];
        for tenant in &tenants {
            let inside = tenant.namespace.name();
            segment.ip(&format!(
                "link add link lower name {TENANT_DEVICE} netns {inside} type macvlan mode vepa"
            ))?;
            settle(tenant, TENANT_DEVICE)?;
        }
        Ok(Self { host, tenants, _segment: segment })
    }

    /// The tenants to measure between.
    pub(crate) fn pair(&self) -> Pair<'_> {
        let [client, server] = &self.tenants;
        Pair { client, server }
    }

    pub(crate) fn tenants(&self) -> &[Tenant; 2] {
        &self.tenants
    }
}
