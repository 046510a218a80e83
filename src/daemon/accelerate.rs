//! Sets up the fast path: programs, the device by which frames go up, the one that unwraps superframes.

use std::{os::fd::AsFd, sync::Arc};

use anyhow::{Context, Result, anyhow};

use super::Daemon;
use crate::{
    config::{Host, OuterField},
    io::{
        fastpath::{KernelPath, KernelUnderlay, is_own_address},
        netlink::Link,
        packet_socket::PacketSocket,
        worker::Command,
    },
    snapshot::Snapshot,
};

/// What carries frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Dataplane {
    /// eBPF where the kernel lets us, userspace otherwise
    #[default]
    Auto,
    /// eBPF, or not at all
    Ebpf,
    /// Userspace alone
    Userspace,
}

impl Dataplane {
    /// As `--dataplane` spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::Userspace => "userspace",
        }
    }
}

/// Frames go up by the first, and the workers listen at the second.
const UP: [&str; 2] = ["eastgate-up0", "eastgate-up1"];
const TUNNEL: &str = "eastgate-vx0";
/// Room for any frame with the header that goes up in front of it.
const UP_MTU: u32 = 65_000;
/// Where the kernel's own vxlan device may listen, one after the other: outside of the ranges that source ports are
/// taken from.
const TUNNEL_PORTS: [u16; 4] = [14_789, 24_789, 44_789, 4_788];

impl Daemon {
    /// Brings the fast path up, or says why not. The answer is for `status`.
    pub(super) async fn choose_dataplane(&mut self) -> Result<String> {
        let wanted = self.options.dataplane;
        if wanted == Dataplane::Userspace {
            return Ok("userspace (as asked for)".into());
        }
        match self.accelerate().await {
            Ok(kernel) => {
                self.view.shared.offload_to(kernel.clone());
                // Set here and nowhere else.
                let _ = self.view.kernel.set(kernel);
                Ok("ebpf".into())
            }
            Err(error) if wanted == Dataplane::Auto => {
                tracing::warn!("no fast path, userspace carries all frames: {error:#}");
                self.remove_devices().await;
                Ok(format!("userspace (no eBPF: {error:#})"))
            }
            Err(error) => {
                self.remove_devices().await;
                Err(error.context("--dataplane ebpf"))
            }
        }
    }

    async fn remove_devices(&mut self) {
        if let Some(machine) = &mut self.machine
            && let Err(error) = machine.remove_devices(&self.netlink).await
        {
            tracing::warn!(%error, "devices of the fast path stay until the daemon stops");
        }
    }

    async fn accelerate(&mut self) -> Result<Arc<KernelPath>> {
        let machine = self.machine.as_mut().ok_or_else(|| anyhow!("stopping"))?;
        // Those that a daemon before has left behind belong to its programs, which have been stopped.
        machine.remove_devices(&self.netlink).await?;
        for device in UP.into_iter().chain([TUNNEL]) {
            anyhow::ensure!(
                !self.netlink.links().await?.contains_key(device),
                "there is a device {device} already; another eastgate in this network namespace?"
            );
        }
        machine.will_make(UP[0])?;
        self.netlink.add_veth(UP[0], UP[1], UP_MTU).await?;
        machine.will_make(TUNNEL)?;
        let port = make_tunnel(&self.netlink).await?;
        let links = self.netlink.links().await?;
        let link = |name: &str| links.get(name).ok_or_else(|| anyhow!("device {name} is gone"));
        for device in UP.into_iter().chain([TUNNEL]) {
            // They carry frames of tenants and have no addresses of their own. Without IPv6 there is nothing to turn off.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1");
        }
        let limits = self.view.shared.snapshot().config.limits;
        let kernel =
            KernelPath::load(limits.flows.saturating_add(limits.unanswered), link(UP[0])?.index, port)?;
        kernel.take_snapshot(&self.view.shared.snapshot_arc())?;
        machine.tap(&self.netlink, link(TUNNEL)?, kernel.tunnel_program()).await?;
        let up = link(UP[1])?;
        for worker in &self.workers {
            let socket = PacketSocket::open_up(up.index, super::fanout_group(up.index))
                .context("cannot listen for frames that go up")?;
            worker.tell(Command::Up(socket));
        }
        Ok(Arc::new(kernel))
    }

    /// Puts the program on the underlay device, or says that there is none.
    pub(super) async fn tap_underlay(&mut self, snapshot: &Snapshot, host: &Host) -> Result<()> {
        let Some(kernel) = self.view.kernel.get().cloned() else { return Ok(()) };
        // The kernel's programs would go on under an address that is no longer this host's.
        let is_ours = self.underlay.is_some() && is_own_address(snapshot.vtep.0);
        let link = self.links.get(&*host.device).filter(|link| is_ours && link.up);
        if let Some(link) = link
            && self.tapped != Some(link.index)
            && let Some(machine) = &mut self.machine
        {
            machine.tap(&self.netlink, link, kernel.underlay_program().as_fd()).await?;
            self.tapped = Some(link.index);
        }
        kernel.set_underlay(link.map(|link| kernel_underlay(snapshot, link)))?;
        Ok(())
    }
}

fn kernel_underlay(snapshot: &Snapshot, link: &Link) -> KernelUnderlay {
    let overlay = &snapshot.config.overlay;
    KernelUnderlay {
        ifindex: link.index,
        mtu: link.mtu,
        vtep: snapshot.vtep,
        port: overlay.port,
        dont_fragment: overlay.dont_fragment,
        ttl: match overlay.ttl {
            OuterField::Fixed(ttl) => ttl,
            OuterField::Inherit => 64,
        },
    }
}

/// The kernel's vxlan device, at the first port that is free.
async fn make_tunnel(netlink: &crate::io::netlink::Netlink) -> Result<u16> {
    let mut refused = anyhow!("no port for the kernel's vxlan device");
    for port in TUNNEL_PORTS {
        match netlink.add_external_vxlan(TUNNEL, port).await {
            Ok(()) => return Ok(port),
            Err(error) => refused = error.into(),
        }
        netlink.delete_link(TUNNEL).await?;
    }
    Err(refused)
}
