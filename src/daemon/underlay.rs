//! Listens on the underlay, and stops where its devices or its address are gone.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use eastgate_config::Host;
use eastgate_dataplane::{pipeline::shared::lock, snapshot::Snapshot};
use eastgate_wire::VtepAddr;

use super::Daemon;
use crate::{
    io::{
        netlink::Link,
        underlay::{RxSocket, TxSockets, UnderlayConfig},
        worker::Command,
    },
    plan::{Step, listen_step},
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

    pub(super) async fn serve_underlay(&mut self, snapshot: &Snapshot, host: &Host) {
        let step = match listen_step(snapshot, host, &self.links) {
            Ok(step) => step,
            Err(why) => return self.drop_underlay(why),
        };
        if let Some(mtu) = self.underlay_links(host).map(|link| link.mtu).min() {
            self.view.shared.link_mtu.store(mtu, Relaxed);
        }
        let Step::Listen { vtep, port, ref groups, .. } = step else { return };
        if self.underlay.as_ref() == Some(&self.wanted_underlay(vtep, port, groups)) {
            return;
        }
        match self.execute(&step).await {
            Ok(_) => {
                tracing::info!(vtep = %snapshot.vtep, port, device = %host.device_names(), "listening");
            }
            Err(error) => self.drop_underlay(format!("{error:#}")),
        }
    }

    /// The underlay of the snapshot in force, at this address and port and with these groups
    fn wanted_underlay(&self, vtep: VtepAddr, port: u16, groups: &[IpAddr]) -> ActiveUnderlay {
        let snapshot = self.view.shared.snapshot();
        let overlay = &snapshot.config.overlay;
        let host = snapshot.config.host(&self.host).filter(|_| !groups.is_empty());
        ActiveUnderlay {
            config: UnderlayConfig {
                vtep,
                port,
                ttl: match overlay.ttl {
                    eastgate_config::OuterField::Fixed(ttl) => ttl,
                    eastgate_config::OuterField::Inherit => 64,
                },
                dont_fragment: overlay.dont_fragment,
                checksums: snapshot.checksums.clone(),
                source_ports: snapshot.ports.ports().collect(),
            },
            group_devices: host
                .map(|host| self.underlay_links(host).map(|link| link.index).collect())
                .unwrap_or_default(),
            groups: groups.to_vec(),
        }
    }

    /// The workers listen there.
    pub(super) fn listen(&mut self, vtep: VtepAddr, port: u16, groups: &[IpAddr]) -> std::io::Result<()> {
        let wanted = self.wanted_underlay(vtep, port, groups);
        let rx_sockets = open_listeners(&wanted, self.workers.len())?;
        let tx_sockets = Arc::new(TxSockets::new(wanted.config.clone()));
        for (worker, rx_sockets) in self.workers.iter().zip(rx_sockets) {
            worker.tell(Command::Underlay { rx_sockets, tx_sockets: Some(tx_sockets.clone()) });
        }
        self.underlay = Some(wanted);
        Ok(())
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
