//! Two tenants in VLANs of their own, a switch that puts their tags on and takes them off, and a host at its trunk. Only what is at that
//! end differs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use eastgate_testkit::{Namespace, Netns, netns::veth};

use super::super::traffic::{Pair, Tenant};
use super::topology::{
    Host, TENANT_DEVICE, TENANT_MTU, UNDERLAY_DEVICE, UNDERLAY_MTU, host, quiet_namespace, settle, tenant,
};
use crate::run;

/// The device of the host that has all VLANs
pub(crate) const TRUNK_DEVICE: &str = "trunk0";
/// The VLANs of the tenants
pub(crate) const VLANS: [u16; 2] = [101, 102];
/// The switch's device at the other end
const UPLINK: &str = "uplink";
/// The switch's ports
const PORTS: [&str; 2] = ["port-a", "port-b"];
/// What the switch does, for `clang`
const PROGRAM: &str = include_str!("switch.bpf.c");

/// Whose tag a frame has that comes back from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tags {
    /// The receiver's
    OfReceiver,
    /// The sender's still: a bridge at the end of the trunk changes none
    OfSender,
}

/// A host at a trunk, and the tenants whose VLANs are on it.
#[derive(Debug)]
pub(crate) struct TrunkTopology {
    pub(crate) host: Host,
    tenants: [Tenant; 2],
    _switch: Namespace,
}

impl TrunkTopology {
    /// Builds it; `role` tells one candidate's namespaces from another's. Programs are compiled in `scratch`.
    pub(crate) fn build(role: &str, tags: Tags, scratch: &Path) -> Result<Self> {
        let role = format!("{role}-tr");
        let switch = quiet_namespace(&format!("{role}-s"))?;
        let host = host(&role, "h", 9)?;
        veth((&host.namespace, TRUNK_DEVICE), (&switch, UPLINK), TENANT_MTU)?;
        switch.ip(&format!("link set {UPLINK} up"))?;
        host.namespace.ip(&format!("link set {TRUNK_DEVICE} up"))?;
        // There is no other host; the one that there is has an underlay all the same.
        veth((&host.namespace, UNDERLAY_DEVICE), (&switch, "underlay"), UNDERLAY_MTU)?;
        host.namespace.ip(&format!("link set {UNDERLAY_DEVICE} up"))?;
        host.namespace.ip(&format!("address add {}/24 dev {UNDERLAY_DEVICE}", host.vtep))?;
        let tenants = [tenant(&role, "a", 1)?, tenant(&role, "b", 2)?];
        for (tenant, port) in tenants.iter().zip(PORTS) {
            veth((&switch, port), (&tenant.namespace, TENANT_DEVICE), TENANT_MTU)?;
            switch.ip(&format!("link set {port} up"))?;
            settle(tenant, TENANT_DEVICE)?;
        }
        let trunk = index_of(&switch, UPLINK)?;
        for (port, vlan) in PORTS.into_iter().zip(VLANS) {
            attach(&switch, port, &[("VLAN", vlan.into()), ("TRUNK", trunk)], scratch)?;
        }
        let [first, second] = PORTS;
        let (to_first, to_second) = (index_of(&switch, first)?, index_of(&switch, second)?);
        let of_first = match tags {
            Tags::OfReceiver => VLANS[0],
            Tags::OfSender => VLANS[1],
        };
        let values = [("FIRST_VLAN", of_first.into()), ("FIRST", to_first), ("SECOND", to_second)];
        attach(&switch, UPLINK, &values, scratch)?;
        Ok(Self { host, tenants, _switch: switch })
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

/// The number of a device.
fn index_of(namespace: &Netns, device: &str) -> Result<u32> {
    let said = namespace.ip(&format!("-o link show {device}"))?;
    let number = said.split(':').next().and_then(|number| number.trim().parse().ok());
    number.with_context(|| format!("`ip link` says of {device}: {said}"))
}

/// Compiles the switch's program with these values, and runs it where frames come in at `device`.
fn attach(namespace: &Netns, device: &str, values: &[(&str, u32)], scratch: &Path) -> Result<()> {
    let (source, object) = (scratch.join("switch.bpf.c"), scratch.join("switch.bpf.o"));
    fs::write(&source, PROGRAM).with_context(|| source.display().to_string())?;
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-O2", "-g", "-c"]);
    clang.args(values.iter().map(|(name, value)| format!("-D{name}={value}")));
    run::output(clang.arg(&source).arg("-o").arg(&object))?;
    namespace.tc(&format!("qdisc add dev {device} clsact"))?;
    namespace
        .tc(&format!("filter add dev {device} ingress bpf da obj {} sec classifier", object.display()))?;
    Ok(())
}
