//! What a hub stands in: two spokes that nobody controls, each with a tenant behind the kernel's bridge and vxlan device
//! with its default settings, which know no VTEP but the hub's. Only what is inside the hub differs.

use std::net::Ipv4Addr;

use anyhow::Result;
use eastgate_testkit::{Namespace, netns::veth};

use super::super::traffic::{Pair, Tenant};
use super::topology::{
    Host, TENANT_DEVICE, TENANT_MTU, UNDERLAY_DEVICE, UNDERLAY_MTU, VNI, VXLAN_DEVICE, host, neighbours,
    quiet_namespace, settle, tenant, underlay_mac,
};

/// The hub, its spokes with a tenant each, and the switch that joins them.
#[derive(Debug)]
pub(crate) struct HubTopology {
    pub(crate) hub: Host,
    spokes: [(Host, Tenant); 2],
    switch: Namespace,
}

impl HubTopology {
    /// Builds it; `role` tells one candidate's namespaces from another's.
    pub(crate) fn build(role: &str) -> Result<Self> {
        let role = format!("{role}-hub");
        let switch = quiet_namespace(&format!("{role}-sw"))?;
        switch.ip("link add sw0 type bridge stp_state 0 mcast_snooping 0")?;
        switch.ip("link set sw0 up")?;
        let topology = Self {
            hub: host(&role, "h", 9)?,
            spokes: [
                (host(&role, "s1", 1)?, tenant(&role, "a", 1)?),
                (host(&role, "s2", 2)?, tenant(&role, "b", 2)?),
            ],
            switch,
        };
        topology.plug(&topology.hub)?;
        for (spoke, tenant) in topology.spokes() {
            topology.plug(spoke)?;
            topology.settle_spoke(spoke, tenant)?;
        }
        let [(_, a), (_, b)] = &topology.spokes;
        neighbours::pin_all(&[a, b])?;
        Ok(topology)
    }

    /// The tenants to measure between.
    pub(crate) fn pair(&self) -> Pair<'_> {
        let [(_, client), (_, server)] = &self.spokes;
        Pair { client, server }
    }

    /// Every spoke with its tenant.
    pub(crate) fn spokes(&self) -> impl Iterator<Item = (&Host, &Tenant)> {
        self.spokes.iter().map(|(spoke, tenant)| (spoke, tenant))
    }

    fn plug(&self, host: &Host) -> Result<()> {
        let port = format!("sw{}", host.vtep.octets()[3]);
        let namespace = &host.namespace;
        veth((namespace, UNDERLAY_DEVICE), (&self.switch, &port), UNDERLAY_MTU)?;
        self.switch.ip(&format!("link set {port} master sw0 up"))?;
        namespace.ip(&format!("link set {UNDERLAY_DEVICE} address {} up", underlay_mac(host)))?;
        namespace.ip(&format!("address add {}/24 dev {UNDERLAY_DEVICE}", host.vtep))?;
        Ok(())
    }

    fn settle_spoke(&self, spoke: &Host, tenant: &Tenant) -> Result<()> {
        let namespace = &spoke.namespace;
        let hub: Ipv4Addr = self.hub.vtep;
        namespace.ip("link add br0 type bridge stp_state 0 mcast_snooping 0")?;
        namespace.ip(&format!(
            "link add {VXLAN_DEVICE} type vxlan id {VNI} local {} remote {hub} dev {UNDERLAY_DEVICE} dstport 4789",
            spoke.vtep
        ))?;
        namespace.ip(&format!("link set {VXLAN_DEVICE} master br0 up"))?;
        veth((namespace, "tap"), (&tenant.namespace, TENANT_DEVICE), TENANT_MTU)?;
        namespace.ip("link set tap master br0 up")?;
        namespace.ip("link set br0 up")?;
        settle(tenant, TENANT_DEVICE)
    }
}
