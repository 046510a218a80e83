//! Sets up the fast path: programs, the device by which frames are punted, the one that decapsulates GSO packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail};
use eastgate_config::Host;
use eastgate_dataplane::snapshot::Snapshot;
use eastgate_fastpath::Limits;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Daemon;
use crate::{
    io::{
        clock,
        fastpath::{KernelPath, KernelUnderlay, is_own_address},
        guard::Role,
        machine::Machine,
        netlink::Link,
        packet_socket::PacketSocket,
        worker::{Command, PuntSocket},
    },
    plan::{OWN_DEVICES, TUNNEL, UP},
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

/// Room for any frame with the header that is punted in front of it.
pub(super) const PUNT_MTU: u32 = 65_000;
/// Where the kernel's own vxlan device may listen, one after the other: outside of the ranges that source ports are
/// taken from.
const TUNNEL_PORTS: [u16; 4] = [14_789, 24_789, 44_789, 4_788];

impl Daemon {
    /// Brings the fast path up, or says why not. The answer is for `status`.
    pub(super) async fn choose_dataplane(&mut self) -> Result<String> {
        let wanted = self.options.dataplane;
        if wanted == Dataplane::Userspace {
            self.clear_away().await?;
            return Ok("userspace (as asked for)".into());
        }
        match self.accelerate().await {
            Ok(kernel) => {
                self.view.shared.offload_to(kernel.clone(), clock::now());
                // Set here and nowhere else.
                let _ = self.view.kernel.set(kernel);
                self.note_sizes();
                Ok("ebpf".into())
            }
            Err(error) if wanted == Dataplane::Auto => {
                tracing::warn!("no fast path, userspace carries all frames: {error:#}");
                self.clear_away().await?;
                Ok(format!("userspace (no eBPF: {error:#})"))
            }
            Err(error) => {
                if let Err(error) = self.clear_away().await {
                    tracing::warn!("devices of the fast path stay until `eastgate teardown`: {error:#}");
                }
                Err(error.context("--dataplane ebpf"))
            }
        }
    }

    /// Stops the programs that a daemon before, or this one, has attached, and takes their devices away. Ports are
    /// closed to everything from here on.
    async fn clear_away(&mut self) -> Result<()> {
        let machine = self.machine.as_mut().ok_or_else(|| anyhow!("stopping"))?;
        machine.stop_programs(&self.netlink, &self.links).await?;
        machine.remove_devices(&self.netlink).await?;
        self.made.clear();
        Ok(())
    }

    async fn accelerate(&mut self) -> Result<Arc<KernelPath>> {
        let (kernel, links) = match self.inherit().await? {
            Some(inherited) => inherited,
            None => self.begin().await?,
        };
        let machine = self.machine.as_mut().ok_or_else(|| anyhow!("stopping"))?;
        ask_routes();
        machine.remember_tables(kernel.table_ids()?)?;
        pin(machine, &kernel, self.options.pin.as_deref())?;
        kernel.limit(&self.view.shared.snapshot());
        machine.hold(&self.netlink, device(&links, TUNNEL)?, Role::Own(kernel.tunnel_program())).await?;
        self.made.extend(OWN_DEVICES.iter().filter_map(|name| Some((*name, links.get(*name)?.index))));
        self.links = links;
        Ok(Arc::new(kernel))
    }

    /// The programs of a daemon before go on until this one is ready; nothing when there is none whose tables and
    /// devices are as it left them.
    async fn inherit(&mut self) -> Result<Option<(KernelPath, Links)>> {
        let Some(tables) = self.machine.as_ref().and_then(Machine::tables) else { return Ok(None) };
        let links = self.netlink.links().await?;
        let Ok(up) = device(&links, UP[0]) else { return Ok(None) };
        if device(&links, UP[1]).is_err() || device(&links, TUNNEL).is_err() {
            return Ok(None);
        }
        let pins = self.machine.as_ref().and_then(Machine::pins);
        // Those of another place are found as without any.
        let pins = pins.filter(|pins| pins.parent() == self.options.pin.as_deref());
        let is_there = |name: &str, index: u32| links.get(name).is_some_and(|link| link.index == index);
        match KernelPath::take_over(&tables, pins, &self.table_sizes(), up.index, &is_there) {
            Ok(kernel) => {
                tracing::info!("the programs of the daemon before go on");
                Ok(Some((kernel, links)))
            }
            Err(error) => {
                tracing::warn!(%error, "flows of the daemon before end");
                Ok(None)
            }
        }
    }

    /// Devices of its own, and empty tables.
    async fn begin(&mut self) -> Result<(KernelPath, Links)> {
        self.clear_away().await?;
        let there = self.netlink.links().await?;
        if let Some(name) = UP.into_iter().chain([TUNNEL]).find(|name| there.contains_key(*name)) {
            bail!("there is a device {name} already; another eastgate in this network namespace?");
        }
        self.make_up().await?;
        let port = self.make_tunnel().await?;
        let up = device(&self.links, UP[0])?.index;
        Ok((KernelPath::load(self.table_sizes(), up, port)?, self.links.clone()))
    }

    /// The pair by which frames are punted
    pub(super) async fn make_up(&mut self) -> Result<()> {
        self.machine.as_mut().ok_or_else(|| anyhow!("stopping"))?.will_make(UP[0])?;
        self.netlink.add_veth(UP[0], UP[1], PUNT_MTU).await?;
        self.know_devices(&UP).await
    }

    /// The kernel's vxlan device, at the first port that is free and not the overlay's own, which is given
    pub(super) async fn make_tunnel(&mut self) -> Result<u16> {
        self.machine.as_mut().ok_or_else(|| anyhow!("stopping"))?.will_make(TUNNEL)?;
        let mut refused = anyhow!("no port for the kernel's vxlan device");
        let overlay = self.view.shared.snapshot().config.overlay.port;
        for port in TUNNEL_PORTS.into_iter().filter(|port| *port != overlay) {
            match self.netlink.add_external_vxlan(TUNNEL, port).await {
                Ok(()) => {
                    self.know_devices(&[TUNNEL]).await?;
                    return Ok(port);
                }
                Err(error) => refused = error.into(),
            }
            self.netlink.delete_link(TUNNEL).await?;
        }
        Err(refused)
    }

    async fn know_devices(&mut self, names: &[&'static str]) -> Result<()> {
        for name in names {
            // They carry frames of tenants and have no addresses of their own. Without IPv6 there is nothing to turn off.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        }
        self.links = self.netlink.links().await?;
        for name in names {
            self.made.insert(name, device(&self.links, name)?.index);
        }
        Ok(())
    }

    /// As the configuration in force has them
    fn table_sizes(&self) -> Limits {
        let snapshot = self.view.shared.snapshot();
        let limits = snapshot.config.limits;
        Limits { flows: limits.flows.saturating_add(limits.unreplied), tables: snapshot.config.kernel_tables }
    }

    /// Says which tables have another size than the configuration wants: they keep it while programs use them.
    pub(super) fn note_sizes(&self) {
        let Some(kernel) = self.view.kernel.get() else { return };
        for (table, entries, wanted) in kernel.programs().missized(&self.table_sizes()) {
            tracing::warn!(
                table,
                entries,
                wanted,
                "a table of the fast path keeps its size until the daemon has stopped in order, or `eastgate teardown`, and is started again"
            );
        }
    }

    /// Ports and underlay are served: what was decided before this daemon passes no more, and is decided by it.
    pub(super) async fn go_live(&self) -> Result<()> {
        let Some(kernel) = self.view.kernel.get().cloned() else { return Ok(()) };
        // First, for what they punt would be taken for another port's.
        kernel.close_inherited()?;
        self.listen_for_punts(&kernel)?;
        // What is punted from the next line on finds them listening.
        self.wait_for_workers().await;
        kernel.go_live(&self.view.shared.snapshot_arc())?;
        kernel.program_policies_in_background();
        Ok(())
    }

    /// The workers listen for frames that are punted.
    pub(super) fn listen_for_punts(&self, kernel: &KernelPath) -> Result<()> {
        let up = nix::net::if_::if_nametoindex(UP[1]).with_context(|| format!("device {} is gone", UP[1]))?;
        let sockets = PacketSocket::open_for_punts(up, self.workers.len())
            .context("cannot listen for frames that are punted")?;
        for (worker, socket) in self.workers.iter().zip(sockets) {
            worker.tell(Command::Up(PuntSocket { socket, session: kernel.session() }));
        }
        Ok(())
    }

    /// Puts the program on the devices of the underlay, or says that there is none.
    pub(super) async fn attach_to_underlay(&mut self, snapshot: &Snapshot, host: &Host) -> Result<()> {
        let Some(kernel) = self.view.kernel.get().cloned() else { return Ok(()) };
        // The kernel's programs would go on under an address that is no longer this host's.
        let is_ours = self.underlay.is_some() && is_own_address(snapshot.vtep.0);
        let links: Vec<Link> = self.underlay_links(host).filter(|link| is_ours && link.up).cloned().collect();
        let wanted: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        if let Some(machine) = &mut self.machine
            && is_ours
            && self.attached != wanted
        {
            for link in &links {
                if self.attached.contains(&link.index) {
                    continue;
                }
                machine.hold(&self.netlink, link, Role::Shared(kernel.underlay_program())).await?;
                self.attached.insert(link.index);
            }
            let keep: Vec<&str> = host.devices.iter().map(|device| &**device).chain([TUNNEL]).collect();
            machine.untap_others(&self.netlink, &keep).await?;
            self.attached = wanted;
        }
        kernel.set_underlay(kernel_underlay(snapshot, &links))?;
        Ok(())
    }
}

type Links = BTreeMap<String, Link>;

/// Where tables can be pinned: a folder on a bpffs, by its whole path.
pub(super) fn pin_folder(folder: &Path) -> Result<PathBuf> {
    let shown = folder.display();
    let remedy = || format!("--pin {shown}: mkdir -p {shown} && mount -t bpf bpf {shown}");
    let found = statfs(folder).with_context(remedy)?;
    if found.filesystem_type() != BPF_FS_MAGIC {
        return Err(anyhow!("it is not on a bpffs").context(remedy()));
    }
    Ok(std::path::absolute(folder)?)
}

/// Pins the tables below `folder`, or nowhere, and takes away what was pinned elsewhere.
fn pin(machine: &mut Machine, kernel: &KernelPath, folder: Option<&Path>) -> Result<()> {
    let wanted = match folder {
        Some(folder) => Some(folder.join(kernel.table_ids()?.name())),
        None => None,
    };
    if machine.pins() == wanted.as_deref() {
        return Ok(());
    }
    machine.remove_pins()?;
    let Some(wanted) = wanted else { return Ok(()) };
    machine.will_pin(&wanted)?;
    // No tables that are there have this name: what has it is left from some that are gone.
    eastgate_fastpath::unpin(&wanted)
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(kernel.pin(&wanted)?))
        .with_context(|| format!("--pin: {} must be ours to write in", wanted.display()))
}

pub(super) fn device<'l>(links: &'l Links, name: &str) -> Result<&'l Link> {
    links.get(name).ok_or_else(|| anyhow!("device {name} is gone"))
}

fn kernel_underlay(snapshot: &Snapshot, links: &[Link]) -> Option<KernelUnderlay> {
    let overlay = &snapshot.config.overlay;
    Some(KernelUnderlay {
        ifindex: links.first()?.index,
        mtu: links.iter().map(|link| link.mtu).min()?,
        vtep: snapshot.vtep,
        port: overlay.port,
        dont_fragment: overlay.dont_fragment,
    })
}

/// Lets the programs ask the host's routes where a datagram goes. They ask as if it came in at the device by which frames
/// are punted, and the kernel answers only where that device forwards; nothing that it would forward ever comes in there.
pub(super) fn ask_routes() {
    for family in ["ipv4", "ipv6"] {
        let file = format!("/proc/sys/net/{family}/conf/{}/forwarding", UP[0]);
        // Who turns forwarding off for all devices turns it off for this one. Without IPv6 there is nothing to turn on.
        if std::fs::read_to_string(&file).is_ok_and(|value| value.trim() != "1") {
            let _ = std::fs::write(&file, "1");
        }
    }
}
