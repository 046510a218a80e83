//! Listens on the underlay, and stops where its devices or its address are gone.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use eastgate_config::Host;
use eastgate_dataplane::{pipeline::shared::lock, snapshot::Snapshot};

use super::Daemon;
use crate::{
    io::{
        fastpath::is_own_address,
        netlink::Link,
        underlay::{RxSocket, TxSockets, UnderlayConfig},
        worker::Command,
    },
    plan::multicast_groups,
};

/// The underlay as the workers have it.
#[derive(PartialEq)]
pub(super) struct ActiveUnderlay {
    config: UnderlayConfig,
    groups: Vec<IpAddr>,
    /// The devices on which the groups are heard
    group_devices: Vec<u32>,
}

impl Daemon {
    /// The devices of the underlay that are there.
    pub(super) fn underlay_links(&self, host: &Host) -> impl Iterator<Item = &Link> {
        host.devices.iter().filter_map(|device| self.links.get(&**device))
    }

    pub(super) fn serve_underlay(&mut self, snapshot: &Snapshot, host: &Host) {
        let links: Vec<(u32, u32)> = self.underlay_links(host).map(|link| (link.index, link.mtu)).collect();
        let Some(mtu) = links.iter().map(|(_, mtu)| *mtu).min() else {
            self.drop_underlay(format!("there is no device {}", host.device_names()));
            return;
        };
        self.view.shared.link_mtu.store(mtu, Relaxed);
        // A socket stays bound to an address that the host has no more, and hears nothing.
        if !is_own_address(snapshot.vtep.0) {
            self.drop_underlay(format!("{} is no address of this host", snapshot.vtep));
            return;
        }
        let overlay = &snapshot.config.overlay;
        let groups = multicast_groups(snapshot);
        let wanted = ActiveUnderlay {
            config: UnderlayConfig {
                vtep: snapshot.vtep,
                port: overlay.port,
                ttl: match overlay.ttl {
                    eastgate_config::OuterField::Fixed(ttl) => ttl,
                    eastgate_config::OuterField::Inherit => 64,
                },
                dont_fragment: overlay.dont_fragment,
                checksums: snapshot.checksums.clone(),
                source_ports: snapshot.ports.ports().collect(),
            },
            group_devices: if groups.is_empty() {
                Vec::new()
            } else {
                links.iter().map(|(index, _)| *index).collect()
            },
            groups,
        };
        if self.underlay.as_ref() == Some(&wanted) {
            return;
        }
        match open_listeners(&wanted, self.workers.len()) {
            Ok(rx_sockets) => {
                let tx_sockets = Arc::new(TxSockets::new(wanted.config.clone()));
                for (worker, rx_sockets) in self.workers.iter().zip(rx_sockets) {
                    worker.tell(Command::Underlay { rx_sockets, tx_sockets: Some(tx_sockets.clone()) });
                }
                tracing::info!(vtep = %snapshot.vtep, port = overlay.port, device = %host.device_names(), "listening");
                self.underlay = Some(wanted);
            }
            Err(error) => {
                self.drop_underlay(error.to_string());
            }
        }
    }

    pub(super) fn drop_underlay(&mut self, why: String) {
        let mut visible = lock(&self.view.state);
        if visible.not_listening.as_ref() != Some(&why) {
            tracing::warn!(why, "not listening on the underlay");
        }
        visible.not_listening = Some(why);
        drop(visible);
        if self.underlay.take().is_some() {
            for worker in &self.workers {
                worker.tell(Command::Underlay { rx_sockets: Vec::new(), tx_sockets: None });
            }
        }
    }
}

/// One list of listeners for each worker. Groups are heard by the first alone: each member of a group would get
/// its own copy of every datagram.
fn open_listeners(wanted: &ActiveUnderlay, workers: usize) -> std::io::Result<Vec<Vec<RxSocket>>> {
    let mut all = Vec::new();
    for index in 0..workers {
        let mut rx_sockets = vec![RxSocket::open(&wanted.config)?];
        if index == 0 {
            for group in &wanted.groups {
                rx_sockets.push(RxSocket::open_group(&wanted.config, *group, &wanted.group_devices)?);
            }
        }
        all.push(rx_sockets);
    }
    Ok(all)
}
