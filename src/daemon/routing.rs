//! The kernel's routing of networks that ask for it: its devices, and the entries by which it finds ports that are served. What
//! someone else changes of them is put right within a second.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use eastgate_dataplane::snapshot::Snapshot;
use eastgate_steering::kernel;
use eastgate_wire::Vni;

use super::{Daemon, upkeep::Lost};
use crate::{
    io::{
        machine::Machine,
        netlink::{Link, Netlink},
        sysctl,
    },
    plan::{
        Entry, PUNT_MTU, Step,
        routing::{entries, routed_networks, router_steps},
    },
};

/// What this daemon knows of the kernel's routing.
#[derive(Default)]
pub(super) struct Routing {
    /// The devices of each network by interface index: where packets are handed over, and where they come in
    devices: BTreeMap<Vni, [u32; 2]>,
    /// Asks for what is of one table alone
    asks: Option<Netlink>,
    /// What was there at the last look
    there: BTreeSet<Entry>,
    /// Devices that had a link-local address at the last look
    addressed: BTreeSet<String>,
}

impl Daemon {
    /// Makes the devices that are not there, and takes away those that nothing asks for any more.
    pub(super) async fn make_routers(&mut self, snapshot: &Snapshot) {
        let wanted: BTreeMap<Vni, String> =
            routed_networks(snapshot).map(|network| (network.vni, kernel::entry(network.vni))).collect();
        let gone: Vec<String> = self.machine.as_ref().map_or_else(Vec::new, |machine| {
            machine.routers().filter(|name| !wanted.values().any(|wanted| wanted == *name)).cloned().collect()
        });
        if !gone.is_empty()
            && let Err(error) = self.forget_routers(gone).await
        {
            tracing::error!("devices of networks that the kernel routes no more stay: {error:#}");
        }
        self.routing.devices.retain(|vni, _| wanted.contains_key(vni));
        let mut result = Ok(());
        for network in routed_networks(snapshot) {
            if self.router_stands(network.vni) {
                continue;
            }
            let made = self.make_router(network.vni, &router_steps(network)).await;
            result = result.and(made.map_err(|error| error.context(network.name.clone())));
        }
        self.say_missing("devices of the kernel's routing", result);
    }

    async fn forget_routers(&mut self, gone: Vec<String>) -> Result<()> {
        let netlink = self.netlink.clone();
        self.machine()?.remove(&netlink, gone).await?;
        self.list_links().await;
        Ok(())
    }

    fn router_links(&self, vni: Vni) -> Option<[&Link; 2]> {
        Some([self.links.get(&kernel::entry(vni))?, self.links.get(&kernel::router(vni))?])
    }

    fn router_stands(&self, vni: Vni) -> bool {
        let links = self.router_links(vni);
        let is_whole = |links: [&Link; 2]| links.iter().all(|link| link.up && link.mtu == PUNT_MTU);
        links.is_some_and(|links| {
            is_whole(links) && self.routing.devices.get(&vni) == Some(&links.map(|link| link.index))
        })
    }

    async fn make_router(&mut self, vni: Vni, steps: &[Step]) -> Result<()> {
        // They may only not have been heard of yet.
        self.list_links().await;
        if self.router_stands(vni) {
            return Ok(());
        }
        let (entry, router) = (kernel::entry(vni), kernel::router(vni));
        let known = self.routing.devices.get(&vni).copied();
        let is_ours = self.machine.as_ref().is_some_and(|machine| machine.has_made(&entry));
        let there = self.router_links(vni).map(|links| links.map(|link| link.index));
        if !is_ours && [&entry, &router].into_iter().any(|name| self.links.contains_key(name)) {
            bail!("there is a device {entry} or {router} that eastgate has not made: delete or rename it");
        }
        match there {
            // Of a daemon before, or down, or of another MTU. Its settings are watched like those of any device.
            Some(there) if known.is_none_or(|known| known == there) => {
                for name in [&entry, &router] {
                    self.netlink.bring_up(name, PUNT_MTU).await?;
                }
                self.list_links().await;
            }
            _ => {
                for name in [&entry, &router] {
                    self.netlink.delete_link(name).await?;
                }
                self.execute_all(steps).await?;
            }
        }
        if known.is_some() {
            self.count_restored(Lost::Device, format!("{entry} and {router}"));
        }
        let there = self.router_links(vni).map(|links| links.map(|link| link.index));
        self.routing.devices.extend(there.map(|there| (vni, there)));
        Ok(())
    }

    /// Every second, and whenever ports have changed: the kernel has the entries for ports that are served, and no others.
    pub(super) async fn keep_routes(&mut self, snapshot: &Snapshot) {
        let result = self.put_routes(snapshot).await;
        self.say_missing("entries of the kernel's routing", result);
        self.keep_addresses(snapshot);
    }

    /// Solicitations are answered from a link-local address.
    fn keep_addresses(&mut self, snapshot: &Snapshot) {
        let mut result = Ok(());
        for network in routed_networks(snapshot) {
            if !self.router_stands(network.vni) {
                continue;
            }
            let router = kernel::router(network.vni);
            match sysctl::has_link_local(&router) {
                Some(true) => _ = self.routing.addressed.insert(router),
                Some(false) => {
                    let made = sysctl::make_link_local(&router);
                    if made.is_ok() && self.routing.addressed.remove(&router) {
                        self.count_restored(Lost::Route, format!("the link-local address of {router}"));
                    }
                    result = result.and(made.with_context(|| router));
                }
                None => {}
            }
        }
        self.say_missing("link-local addresses of the kernel's routing", result);
    }

    async fn put_routes(&mut self, snapshot: &Snapshot) -> Result<()> {
        let is_idle = routed_networks(snapshot).next().is_none();
        if is_idle && self.machine.as_ref().is_none_or(|machine| machine.routes().is_empty()) {
            return Ok(());
        }
        let served: BTreeSet<&str> = {
            let open = self.serving.values().filter_map(|index| {
                let link = self.links.values().find(|link| link.index == *index)?;
                link.up.then_some(&*link.name)
            });
            open.collect()
        };
        let wanted = entries(snapshot, &|device| served.contains(device));
        let netlink = match &self.routing.asks {
            Some(netlink) => netlink.clone(),
            None => self.routing.asks.insert(Netlink::connect_strict()?).clone(),
        };
        let mut tables: BTreeSet<u32> =
            routed_networks(snapshot).map(|network| kernel::table(network.vni)).collect();
        let known = self.machine.as_ref().map(Machine::routes).cloned().unwrap_or_default();
        tables.extend(known.iter().filter_map(|entry| match entry {
            Entry::Route { table, .. } => Some(*table),
            _ => None,
        }));
        let found = netlink.entries(&tables, &self.links).await;
        let is_wanted: BTreeSet<&Entry> = wanted.iter().collect();
        let is_route = |entry: &&Entry| matches!(entry, Entry::Route { .. });
        let mut surplus: Vec<Entry> =
            known.iter().filter(|entry| !is_wanted.contains(entry)).cloned().collect();
        let foreign: Vec<Entry> = found
            .entries
            .iter()
            .filter(is_route)
            .filter(|entry| !is_wanted.contains(entry) && !known.contains(entry))
            .cloned()
            .collect();
        if !foreign.is_empty() || found.strange() > 0 {
            let count = foreign.len() + found.strange();
            tracing::warn!(count, "routes that eastgate did not make are taken out of its tables");
            self.count_restored(Lost::Route, "a table of its own that had other routes".into());
            surplus.extend(foreign);
        }
        let missing: Vec<Step> = wanted
            .iter()
            .filter(|entry| !found.entries.contains(entry))
            .map(|entry| Step::Route(entry.clone()))
            .collect();
        let taken = wanted
            .iter()
            .filter(|entry| !found.entries.contains(entry) && self.routing.there.contains(entry));
        let taken: Vec<String> = taken.map(ToString::to_string).collect();
        let links = self.links.clone();
        let machine = self.machine.as_mut();
        if let Some(machine) = machine {
            machine.unroute(&netlink, &links, surplus).await?;
        }
        netlink.delete_strange(found).await?;
        self.execute_all(&missing).await?;
        if let Some(first) = taken.first() {
            self.count_restored(Lost::Route, format!("{first} ({} in all)", taken.len()));
        }
        self.routing.there = wanted.into_iter().collect();
        Ok(())
    }

    /// Why an endpoint to which the kernel routes is not to be served.
    pub(super) fn unroutable(&self, entry: &str, addresses: &[std::net::IpAddr]) -> Option<String> {
        if !self.links.get(entry).is_some_and(|link| link.up) {
            return Some(format!("there is no device {entry} by which the kernel would get packets to it"));
        }
        let own = addresses.iter().find(|address| crate::io::fastpath::is_own_address(**address))?;
        Some(format!(
            "{own} is an address of this host too, and the kernel would take what is for the endpoint: give one of them another"
        ))
    }

    /// Do devices of the kernel's routing lack, or stand otherwise than they were made?
    pub(super) fn routers_stand(&self, snapshot: &Snapshot) -> bool {
        routed_networks(snapshot).all(|network| self.router_stands(network.vni))
    }
}
