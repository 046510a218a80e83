//! `plain`: the kernel's vxlan device and a bridge on each host, forwarding entries configured, no policy. As a hub, the
//! same on one host, whose bridge sends frames back out of the vxlan device by which they came (hairpin); at a shared segment or a trunk, a
//! bridge that sends them back out of its device.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use eastgate_testkit::Netns;

use super::super::traffic::{Pair, Tenant};
use super::super::work::Reach;
use super::Candidate;
use super::hub::HubTopology;
use super::segment::{SEGMENT_DEVICE, SegmentTopology};
use super::topology::{Topology, UNDERLAY_DEVICE, VNI, VXLAN_DEVICE, neighbours};
use super::trunk::{TRUNK_DEVICE, Tags, TrunkTopology};

#[derive(Debug)]
pub(super) struct Plain {
    topology: Topology,
    hub: HubTopology,
    segment: SegmentTopology,
    trunk: TrunkTopology,
}

impl Plain {
    pub(super) fn build(scratch: &Path) -> Result<Self> {
        let hub = HubTopology::build("plain")?;
        let namespace = &hub.hub.namespace;
        namespace.ip("link add br0 type bridge stp_state 0 mcast_snooping 0")?;
        namespace.ip(&format!(
            "link add {VXLAN_DEVICE} type vxlan id {VNI} local {} dev {UNDERLAY_DEVICE} dstport 4789 nolearning",
            hub.hub.vtep
        ))?;
        namespace.ip(&format!("link set {VXLAN_DEVICE} master br0 up"))?;
        namespace.bridge(&format!("link set dev {VXLAN_DEVICE} learning off hairpin on"))?;
        switch_filtering(namespace, false)?;
        for (spoke, tenant) in hub.spokes() {
            namespace.bridge(&format!("fdb replace {} dev {VXLAN_DEVICE} master static", tenant.mac))?;
            namespace
                .bridge(&format!("fdb append {} dev {VXLAN_DEVICE} dst {} self", tenant.mac, spoke.vtep))?;
        }
        namespace.ip("link set br0 up")?;
        let segment = SegmentTopology::build("plain")?;
        hairpin(&segment.host.namespace, SEGMENT_DEVICE, segment.tenants())?;
        let trunk = TrunkTopology::build("plain", Tags::OfSender, scratch)?;
        hairpin(&trunk.host.namespace, TRUNK_DEVICE, trunk.tenants())?;
        Ok(Self { topology: bridged("plain", false)?, hub, segment, trunk })
    }
}

impl Candidate for Plain {
    fn pair(&self, reach: Reach) -> Option<Pair<'_>> {
        match reach {
            Reach::ThroughHub => Some(self.hub.pair()),
            Reach::SharedSegment => Some(self.segment.pair()),
            Reach::Trunk => Some(self.trunk.pair()),
            _ => self.topology.pair(reach),
        }
    }

    fn load_rules(&mut self, _count: usize) -> Result<Option<Duration>> {
        Ok(None)
    }
}

/// A bridge at the end of a segment or a trunk, which sends frames back to where they came from.
fn hairpin(namespace: &Netns, device: &str, tenants: &[Tenant; 2]) -> Result<()> {
    namespace.ip("link add br0 type bridge stp_state 0 mcast_snooping 0")?;
    namespace.ip(&format!("link set {device} master br0"))?;
    namespace.bridge(&format!("link set dev {device} hairpin on learning off"))?;
    switch_filtering(namespace, false)?;
    for tenant in tenants {
        namespace.bridge(&format!("fdb replace {} dev {device} master static", tenant.mac))?;
    }
    namespace.ip("link set br0 up")?;
    let [a, b] = tenants;
    neighbours::pin_all(&[a, b])
}

/// The topology with a bridge and a vxlan device in each host. `filtered` says whether bridged packets go through
/// iptables; a namespace inherits that from the machine, so both answers are written down.
pub(super) fn bridged(role: &str, filtered: bool) -> Result<Topology> {
    let topology = Topology::build(role)?;
    for (host, other) in topology.hosts() {
        let namespace = &host.namespace;
        namespace.ip("link add br0 type bridge stp_state 0 mcast_snooping 0")?;
        namespace.ip(&format!(
            "link add {VXLAN_DEVICE} type vxlan id {VNI} local {} dev {UNDERLAY_DEVICE} dstport 4789 nolearning",
            host.vtep
        ))?;
        namespace.ip(&format!("link set {VXLAN_DEVICE} master br0 up"))?;
        namespace.bridge(&format!("link set dev {VXLAN_DEVICE} learning off"))?;
        // Broadcast goes to the other host: ARP of tenants that have forgotten each other.
        namespace.bridge(&format!("fdb append 00:00:00:00:00:00 dev {VXLAN_DEVICE} dst {}", other.vtep))?;
        switch_filtering(namespace, filtered)?;
    }
    for (host, tenant, port) in topology.ports() {
        host.namespace.ip(&format!("link set {port} master br0"))?;
        host.namespace.bridge(&format!("fdb replace {} dev {port} master static", tenant.mac))?;
        for (elsewhere, _) in topology.hosts().into_iter().filter(|(other, _)| other.vtep != host.vtep) {
            let far = &elsewhere.namespace;
            far.bridge(&format!("fdb replace {} dev {VXLAN_DEVICE} master static", tenant.mac))?;
            far.bridge(&format!("fdb append {} dev {VXLAN_DEVICE} dst {} self", tenant.mac, host.vtep))?;
        }
    }
    for (host, _) in topology.hosts() {
        host.namespace.ip("link set br0 up")?;
    }
    Ok(topology)
}

fn switch_filtering(namespace: &Netns, filtered: bool) -> Result<()> {
    let there = std::path::Path::new("/proc/sys/net/bridge").exists();
    // Without br_netfilter nothing is filtered, and nothing can be.
    if !there && !filtered {
        return Ok(());
    }
    namespace.set("net/bridge/bridge-nf-call-iptables", if filtered { "1" } else { "0" })?;
    Ok(())
}
