//! Tenant ports: devices are guarded and listened to, and of a trunk each VLAN is opened by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Result;
use eastgate_config::Host;
use eastgate_steering::kernel::{self, is_entry};
use eastgate_wire::AttachmentId;

use super::{Daemon, PortState};
use crate::{
    io::{fastpath::KernelAttachment, netlink::Link, worker::Command},
    plan::{Frames, PortKind, WantedPort, device_steps, unfit, vlan_step},
};

/// A device with tenant ports.
pub(super) struct OpenDevice {
    pub(super) name: Arc<str>,
    /// Tags say whose its frames are.
    trunk: bool,
}

impl Daemon {
    /// Ports that the snapshot no longer names are given back; sockets on devices that are gone are closed. A device that has other ports
    /// now keeps its guard.
    pub(super) async fn release_ports(&mut self, wanted: &[WantedPort], host: &Host) {
        let ports: BTreeMap<AttachmentId, &WantedPort> = wanted.iter().map(|port| (port.id, port)).collect();
        let is_at = |links: &BTreeMap<String, Link>, name: &str, ifindex: u32| {
            links.get(name).is_some_and(|link| link.index == ifindex)
        };
        let gone = self.serving.iter().filter(|(id, ifindex)| {
            ports.get(id).is_none_or(|port| !is_at(&self.links, port.device(), **ifindex))
        });
        for id in gone.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.forget_learned_at(id);
            self.stop_serving(id);
            let Some(attachment) = self.registry.get(id) else { continue };
            tracing::info!(port = %attachment, "no longer served");
        }
        let of_ports = wanted.iter().map(|port| (&**port.device(), port.attachment.is_by_tag()));
        let trunks: BTreeMap<&str, bool> =
            of_ports.chain(host.vdp.keys().map(|device| (&**device, true))).collect();
        let closed = self.devices.extract_if(.., |ifindex, device| {
            trunks.get(&*device.name) != Some(&device.trunk) || !is_at(&self.links, &device.name, *ifindex)
        });
        for (ifindex, OpenDevice { name, .. }) in closed.collect::<Vec<_>>() {
            self.close_device(ifindex);
            if !trunks.contains_key(&*name)
                && let Some(machine) = &mut self.machine
                && let Err(error) = machine.open_port(&self.netlink, &name).await
            {
                tracing::error!(port = %name, %error, "the guard could not be taken off");
            }
        }
    }

    /// Closes a port, in the fast path too.
    pub(super) fn stop_serving(&mut self, id: AttachmentId) {
        self.serving.remove(&id);
        if let Some(kernel) = self.view.kernel.get()
            && let Err(error) = kernel.remove_attachment(id)
        {
            tracing::error!(%error, "a port could not be closed in the fast path");
        }
        for worker in &self.workers {
            worker.tell(Command::Detach(id));
        }
    }

    /// The same, and its device with it where nothing else is served there.
    pub(super) fn give_up(&mut self, id: AttachmentId, ifindex: u32) {
        self.stop_serving(id);
        self.close_unused(ifindex);
    }

    /// Takes the sockets of a device away at which neither a port nor stations are served.
    pub(super) fn close_unused(&mut self, ifindex: u32) {
        let in_use =
            self.stations.contains_key(&ifindex) || self.serving.values().any(|other| *other == ifindex);
        if !in_use && self.devices.remove(&ifindex).is_some() {
            self.close_device(ifindex);
        }
    }

    /// Takes the sockets of a device away; the guard stays.
    fn close_device(&mut self, ifindex: u32) {
        self.host_traffic.remove(&ifindex);
        for worker in &self.workers {
            worker.tell(Command::RemoveDevice(ifindex));
        }
        let Some(kernel) = self.view.kernel.get() else { return };
        match kernel.close_trunk(ifindex) {
            Ok(drops) => drops.into_iter().for_each(|(key, count)| self.view.shared.add_drops(key, &count)),
            Err(error) => tracing::error!(%error, "frames that were nobody's on a trunk are counted no more"),
        }
    }

    pub(super) async fn serve_port(
        &mut self,
        port: &WantedPort,
        host: &Host,
        devices: &BTreeSet<Arc<str>>,
    ) -> Result<PortState> {
        let Some(link) = self.links.get(&**port.device()).cloned() else { return Ok(PortState::Absent) };
        let why = match &port.kind {
            PortKind::Kernel => None,
            PortKind::Endpoint => unfit(&link, host, &self.links, devices),
            PortKind::Routed { entry, addresses } => {
                let entry = self.registry.get(*entry).map(|attachment| attachment.device.clone());
                let unroutable = || self.unroutable(&entry.unwrap_or_default(), addresses);
                unfit(&link, host, &self.links, devices).or_else(unroutable)
            }
        };
        if let Some(why) = why {
            if let Some(ifindex) = self.serving.get(&port.id).copied() {
                self.give_up(port.id, ifindex);
            }
            return Ok(PortState::Failed(why));
        }
        let state = if link.up { PortState::Forwarding } else { PortState::Down };
        if self.serving.get(&port.id) == Some(&link.index) {
            self.open_in_kernel(port.id, &link)?;
            return Ok(state);
        }
        self.open_device(port.device(), port.frames(), &link).await?;
        if let Some(open) = vlan_step(port) {
            self.execute(&open).await?;
        }
        // Sockets first: frames that are punted are answered.
        self.open_in_kernel(port.id, &link)?;
        self.serving.insert(port.id, link.index);
        tracing::info!(port = port.name(), "served");
        Ok(state)
    }

    /// Guards a device and listens to it, unless that is done.
    pub(super) async fn open_device(&mut self, name: &Arc<str>, frames: Frames, link: &Link) -> Result<()> {
        if self.devices.contains_key(&link.index) {
            return Ok(());
        }
        // What the kernel's routing says is heard by the pipeline alone.
        let accelerated = self.view.kernel.get().is_some() && !is_entry(name);
        let [attach, open] = device_steps(name, frames, self.hook(), accelerated);
        self.execute(&attach).await?;
        self.look_at_host(link, true).await;
        self.execute(&open).await?;
        let trunk = frames == Frames::ByTag;
        self.devices.insert(link.index, OpenDevice { name: name.clone(), trunk });
        Ok(())
    }

    /// Opens a port to the flows of its network in the fast path, or closes it while it is down.
    pub(super) fn open_in_kernel(&self, id: AttachmentId, link: &Link) -> Result<()> {
        let Some(kernel_path) = self.view.kernel.get() else { return Ok(()) };
        let snapshot = self.view.shared.snapshot();
        match snapshot.at_attachment(id).zip(self.registry.get(id)) {
            Some(((network, _), attachment)) if link.up => {
                let is_veth = link.is_veth && !self.wants_egress(link.index);
                let entry = network.kernel_entry.map(|_| self.links.get(&kernel::entry(network.vni)));
                match entry {
                    // What would be handed over is lost while there is nowhere to hand it.
                    Some(None) => kernel_path.remove_attachment(id)?,
                    found => {
                        let entry = found.flatten().map(|link| link.index);
                        let attachment = attachment.clone();
                        let there = KernelAttachment { attachment, ifindex: link.index, is_veth, entry };
                        kernel_path.set_attachment(id, there, network.vni)?;
                    }
                }
            }
            _ => kernel_path.remove_attachment(id)?,
        }
        Ok(())
    }
}
