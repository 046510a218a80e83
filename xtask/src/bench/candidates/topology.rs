//! The network all candidates stand in: tenants `a` and `c` on host `h1`, tenant `b` on host `h2`, and an underlay
//! between the hosts. Only what is inside the hosts differs.

use std::net::Ipv4Addr;

use anyhow::Result;
use eastgate_testkit::{Namespace, netns::veth};

use super::super::FAMILY;
use super::super::traffic::{Pair, Tenant};
use super::super::work::Reach;

/// The tenants' device, inside their namespaces.
pub(crate) const TENANT_DEVICE: &str = "eth0";
/// The hosts' underlay device.
pub(crate) const UNDERLAY_DEVICE: &str = "u0";
/// The hosts' vxlan device, where the kernel's is used.
pub(crate) const VXLAN_DEVICE: &str = "vx0";
/// Leaves room for 50 bytes of VXLAN over IPv4 and another 50 to spare.
pub(crate) const UNDERLAY_MTU: u32 = 1600;
pub(crate) const TENANT_MTU: u32 = 1500;
/// The VNI all candidates with VXLAN use; they never meet.
pub(crate) const VNI: u32 = 4242;
/// The prefix the tenants' addresses are in.
pub(crate) const SUBNET: &str = "10.77.0.0/24";

/// A hypervisor.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    /// Address on the underlay.
    pub(crate) vtep: Ipv4Addr,
}

/// Two hosts and three tenants, joined up but with nothing inside the hosts that forwards.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) a: Tenant,
    pub(crate) b: Tenant,
    pub(crate) c: Tenant,
    pub(crate) h1: Host,
    pub(crate) h2: Host,
}

impl Topology {
    /// Builds it; `role` tells one candidate's namespaces from another's.
    pub(crate) fn build(role: &str) -> Result<Self> {
        let topology = Self {
            a: tenant(role, "a", 1)?,
            b: tenant(role, "b", 2)?,
            c: tenant(role, "c", 3)?,
            h1: host(role, "h1", 1)?,
            h2: host(role, "h2", 2)?,
        };
        topology.join_hosts()?;
        for (host, tenant, port) in topology.ports() {
            veth((&host.namespace, port), (&tenant.namespace, TENANT_DEVICE), TENANT_MTU)?;
            host.namespace.ip(&format!("link set {port} up"))?;
            settle(tenant, TENANT_DEVICE)?;
        }
        neighbours::pin_all(&[&topology.a, &topology.b, &topology.c])?;
        Ok(topology)
    }

    /// Every tenant with its host and the name of its port there.
    pub(crate) fn ports(&self) -> [(&Host, &Tenant, &'static str); 3] {
        [(&self.h1, &self.a, "tapa"), (&self.h2, &self.b, "tapb"), (&self.h1, &self.c, "tapc")]
    }

    /// The tenants to measure between.
    pub(crate) fn pair(&self, reach: Reach) -> Option<Pair<'_>> {
        match reach {
            Reach::CrossHost => Some(Pair { client: &self.a, server: &self.b }),
            // Whoever does not have the kernel route has a switch in its place.
            Reach::SameHost | Reach::KernelRouted => Some(Pair { client: &self.a, server: &self.c }),
            Reach::ThroughHub | Reach::Trunk | Reach::SharedSegment => None,
        }
    }

    /// Both hosts, each with the other.
    pub(crate) fn hosts(&self) -> [(&Host, &Host); 2] {
        [(&self.h1, &self.h2), (&self.h2, &self.h1)]
    }

    fn join_hosts(&self) -> Result<()> {
        veth((&self.h1.namespace, UNDERLAY_DEVICE), (&self.h2.namespace, UNDERLAY_DEVICE), UNDERLAY_MTU)?;
        for (host, other) in self.hosts() {
            let namespace = &host.namespace;
            namespace.ip(&format!("link set {UNDERLAY_DEVICE} address {} up", underlay_mac(host)))?;
            namespace.ip(&format!("address add {}/24 dev {UNDERLAY_DEVICE}", host.vtep))?;
            namespace.ip(&format!(
                "neighbour replace {} lladdr {} dev {UNDERLAY_DEVICE} nud permanent",
                other.vtep,
                underlay_mac(other)
            ))?;
        }
        Ok(())
    }
}

/// A namespace for a tenant, not joined to anything yet.
pub(crate) fn tenant(role: &str, letter: &str, number: u8) -> Result<Tenant> {
    let namespace = quiet_namespace(&format!("{role}-{letter}"))?;
    // Thousands of connections a second would run out of ports in TIME_WAIT.
    namespace.set("net/ipv4/ip_local_port_range", "1024 65535")?;
    namespace.set("net/ipv4/tcp_tw_reuse", "1")?;
    namespace.set("net/ipv4/tcp_max_tw_buckets", "0")?;
    Ok(Tenant {
        namespace,
        address: Ipv4Addr::new(10, 77, 0, number),
        mac: format!("02:00:00:00:77:{number:02x}"),
    })
}

/// Gives a tenant's device its MAC and address and brings it up.
pub(crate) fn settle(tenant: &Tenant, device: &str) -> Result<()> {
    tenant.namespace.ip(&format!("link set {device} address {} up", tenant.mac))?;
    tenant.namespace.ip(&format!("address add {}/24 dev {device}", tenant.address))?;
    Ok(())
}

/// Static neighbours, and doing without them where ARP is what is measured.
pub(crate) mod neighbours {
    use super::{Result, TENANT_DEVICE, Tenant};

    /// Tells every tenant every other tenant's MAC.
    pub(crate) fn pin_all(tenants: &[&Tenant]) -> Result<()> {
        for &one in tenants {
            for &other in tenants {
                if one.address != other.address {
                    pin(one, other)?;
                }
            }
        }
        Ok(())
    }

    /// Tells `tenant` the MAC of `other` for good.
    pub(crate) fn pin(tenant: &Tenant, other: &Tenant) -> Result<()> {
        tenant.namespace.ip(&format!(
            "neighbour replace {} lladdr {} dev {TENANT_DEVICE} nud permanent",
            other.address, other.mac
        ))?;
        Ok(())
    }

    /// Makes `tenant` ask for the MAC of `other` again.
    pub(crate) fn forget(tenant: &Tenant, other: &Tenant) -> Result<()> {
        // Replacing first makes sure there is an entry to delete.
        pin(tenant, other)?;
        tenant.namespace.ip(&format!("neighbour del {} dev {TENANT_DEVICE}", other.address))?;
        Ok(())
    }
}

pub(crate) fn host(role: &str, name: &str, number: u8) -> Result<Host> {
    let namespace = quiet_namespace(&format!("{role}-{name}"))?;
    Ok(Host { namespace, vtep: Ipv4Addr::new(192, 0, 2, number) })
}

/// A namespace in which the kernel sends nothing of its own accord.
pub(crate) fn quiet_namespace(role: &str) -> Result<Namespace> {
    let namespace = Namespace::create(FAMILY, role)?;
    for scope in ["all", "default"] {
        namespace.set(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
    }
    Ok(namespace)
}

pub(crate) fn underlay_mac(host: &Host) -> String {
    format!("02:00:00:00:02:{:02x}", host.vtep.octets()[3])
}
