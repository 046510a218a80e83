//! Devices as `eastgate doctor` looks at them: what they can do, and what others have put on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Look,
    ethtool::{self, Features},
    hooks::{self, Foreign},
};
use crate::io::netlink::{Link, Netlink, NetlinkError};

/// All devices of a network namespace, and those in question more closely.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Devices {
    /// All, by name
    pub links: BTreeMap<String, Link>,
    /// Those that were asked for and are there
    pub closely: BTreeMap<String, Close>,
    /// Vxlan devices and their UDP ports
    pub vxlan: Vec<(String, u16)>,
    /// Neighbours that have been asked for and do not answer
    pub silent: BTreeSet<IpAddr>,
}

/// What [`Link`] does not have of a device.
#[derive(Clone, PartialEq, Debug)]
pub struct Close {
    /// What it takes off the processor's hands
    pub features: Look<Features>,
    /// Programs and filters of others
    pub foreign: Look<Vec<Foreign>>,
    /// Where frames go out, the kind of qdisc
    pub qdisc: Option<String>,
}

/// Looks at all devices, and closely at those that `which` chooses. `ours` are the numbers of eastgate's programs, or why they are not
/// known.
///
/// # Errors
/// When the kernel does not list them.
pub async fn look(
    which: impl Fn(&Link) -> bool,
    ours: &Look<BTreeSet<u32>>,
) -> Result<Devices, NetlinkError> {
    let netlink = Netlink::connect()?;
    let links = netlink.links().await?;
    let details = netlink.details().await?;
    let qdiscs = netlink.qdiscs().await;
    let mut closely = BTreeMap::new();
    for link in links.values().filter(|link| which(link)) {
        let xdp = details.get(&link.name).and_then(|details| details.xdp.as_ref());
        let of_link = qdiscs.get(&link.index).cloned().unwrap_or_default();
        let foreign = match ours {
            Ok(ours) => hooks::of_others(&netlink, link, xdp, &of_link, ours).await,
            Err(why) => Err(why.clone()),
        };
        let features = ethtool::features(&link.name);
        closely.insert(link.name.clone(), Close { features, foreign, qdisc: of_link.root });
    }
    let vxlan = details.into_iter().filter_map(|(name, details)| Some((name, details.vxlan_port?))).collect();
    Ok(Devices { links, closely, vxlan, silent: netlink.silent_neighbours().await? })
}
