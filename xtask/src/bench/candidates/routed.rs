//! A host whose kernel routes between two tenants, each at a port of its own.

use anyhow::Result;
use eastgate_testkit::netns::veth;

use super::super::traffic::{Pair, Tenant};
use super::topology::{Host, TENANT_DEVICE, TENANT_MTU, UNDERLAY_DEVICE, UNDERLAY_MTU, host, settle, tenant};

/// The ports of the tenants
pub(crate) const PORTS: [&str; 2] = ["tapa", "tapb"];

/// The host and its tenants.
#[derive(Debug)]
pub(crate) struct RoutedTopology {
    pub(crate) host: Host,
    tenants: [Tenant; 2],
}

impl RoutedTopology {
    /// Builds it; `role` tells one candidate's namespaces from another's.
    pub(crate) fn build(role: &str) -> Result<Self> {
        let role = format!("{role}-krn");
        let host = host(&role, "h", 9)?;
        let tenants = [tenant(&role, "a", 1)?, tenant(&role, "b", 2)?];
        for (tenant, port) in tenants.iter().zip(PORTS) {
            veth((&host.namespace, port), (&tenant.namespace, TENANT_DEVICE), TENANT_MTU)?;
            host.namespace.ip(&format!("link set {port} up"))?;
            settle(tenant, TENANT_DEVICE)?;
        }
        // There is no other host; the one that there is has an underlay all the same.
        veth((&host.namespace, UNDERLAY_DEVICE), (&host.namespace, "underlay"), UNDERLAY_MTU)?;
        host.namespace.ip(&format!("link set {UNDERLAY_DEVICE} up"))?;
        host.namespace.ip(&format!("address add {}/24 dev {UNDERLAY_DEVICE}", host.vtep))?;
        Ok(Self { host, tenants })
    }

    /// The tenants to measure between.
    pub(crate) fn pair(&self) -> Pair<'_> {
        let [client, server] = &self.tenants;
        Pair { client, server }
    }

    /// Each with its port
    pub(crate) fn ports(&self) -> impl Iterator<Item = (&Tenant, &'static str)> {
        self.tenants.iter().zip(PORTS)
    }
}
