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
        machine::Machine,
        netlink::Link,
    },
    plan::{FastpathPlan, OWN_DEVICES, Step, TUNNEL, UP, taken_device, underlay_step},
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

impl Daemon {
    /// Brings the fast path up, or says why not. The answer is for `status`.
    pub(super) async fn choose_dataplane(&mut self) -> Result<String> {
        let wanted = self.options.dataplane;
        if wanted == Dataplane::Userspace {
            self.release_fastpath().await?;
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
                self.release_fastpath().await?;
                Ok(format!("userspace (no eBPF: {error:#})"))
            }
            Err(error) => {
                if let Err(error) = self.release_fastpath().await {
                    tracing::warn!("devices of the fast path stay until `eastgate teardown`: {error:#}");
                }
                Err(error.context("--dataplane ebpf"))
            }
        }
    }

    /// Clears away what there is of the fast path, of a daemon before or of this one.
    async fn release_fastpath(&mut self) -> Result<()> {
        self.loading = None;
        if let Some(step) = self.machine()?.left_behind() {
            self.execute(&step).await?;
        }
        Ok(())
    }

    /// Stops the programs that a daemon before, or this one, has attached, and takes their devices away. Ports are
    /// closed to everything from here on.
    pub(super) async fn clear_away(&mut self) -> Result<()> {
        let machine = self.machine.as_mut().ok_or_else(|| anyhow!("stopping"))?;
        machine.stop_programs(&self.netlink, &self.links).await?;
        machine.remove_devices(&self.netlink).await?;
        self.made.clear();
        Ok(())
    }

    async fn accelerate(&mut self) -> Result<Arc<KernelPath>> {
        let inherited = self.inherit().await?;
        let inherits = inherited.is_some();
        if let Some((kernel, links)) = inherited {
            self.machine()?.remember_tables(kernel.table_ids()?)?;
            self.made.extend(OWN_DEVICES.iter().filter_map(|name| Some((*name, links.get(*name)?.index))));
            self.links = links;
            self.loading = Some(Arc::new(kernel));
        } else {
            if let Some(step) = self.machine()?.left_behind() {
                self.execute(&step).await?;
            }
            self.links = self.netlink.links().await?;
            if let Some(name) = taken_device(&self.links, |_| false) {
                bail!("there is a device {name} already; another eastgate in this network namespace?");
            }
        }
        let snapshot = self.view.shared.snapshot_arc();
        let plan = FastpathPlan::of(&snapshot, self.options.pin.as_deref(), inherits);
        let pins = self.machine()?.pins().map(Path::to_owned);
        self.execute_all(&plan.steps(pins.as_deref(), self.hook(), snapshot.config.overlay.port)).await?;
        let kernel = self.loading.take().ok_or_else(|| anyhow!("no programs"))?;
        kernel.limit(&snapshot);
        Ok(kernel)
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

    /// As the configuration in force has them
    fn table_sizes(&self) -> Limits {
        FastpathPlan::of(&self.view.shared.snapshot(), None, false).limits
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
    pub(super) async fn go_live(&mut self) -> Result<()> {
        let Some(kernel) = self.view.kernel.get().cloned() else { return Ok(()) };
        // First, for what they punt would be taken for another port's.
        kernel.close_inherited()?;
        self.execute(&Step::ListenForPunts { device: UP[1] }).await?;
        // What is punted from the next line on finds them listening.
        self.wait_for_workers().await;
        kernel.go_live(&self.view.shared.snapshot_arc())?;
        // Beside what comes now: a large table takes its time.
        let shared = self.view.shared.clone();
        tokio::task::spawn_blocking(move || shared.renew_answers(clock::now())).await.context("answers")?;
        kernel.program_policies_in_background();
        Ok(())
    }

    /// Puts the program on the devices of the underlay, or says that there is none.
    pub(super) async fn attach_to_underlay(&mut self, snapshot: &Snapshot, host: &Host) -> Result<()> {
        let Some(kernel) = self.view.kernel.get().cloned() else { return Ok(()) };
        // The kernel's programs would go on under an address that is no longer this host's.
        let is_ours = self.underlay.is_some() && is_own_address(snapshot.vtep.0);
        let links: Vec<Link> = self.underlay_links(host).filter(|link| is_ours && link.up).cloned().collect();
        let wanted: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        if is_ours && self.attached != wanted {
            for link in &links {
                if self.attached.contains(&link.index) {
                    continue;
                }
                self.execute(&underlay_step(&link.name, self.hook())).await?;
                self.attached.insert(link.index);
            }
            let keep: Vec<&str> = host.devices.iter().map(|device| &**device).chain([TUNNEL]).collect();
            let machine = self.machine.as_mut().ok_or_else(|| anyhow!("stopping"))?;
            machine.untap_others(&self.netlink, &keep).await?;
            self.attached = wanted;
        }
        kernel.set_underlay(kernel_underlay(snapshot, &links))?;
        Ok(())
    }
}

type Links = BTreeMap<String, Link>;

/// Where tables can be pinned: a folder on a bpffs, by its whole path.
pub(crate) fn pin_folder(folder: &Path) -> Result<PathBuf> {
    let shown = folder.display();
    let remedy = || format!("--pin {shown}: mkdir -p {shown} && mount -t bpf bpf {shown}");
    let found = statfs(folder).with_context(remedy)?;
    if found.filesystem_type() != BPF_FS_MAGIC {
        return Err(anyhow!("it is not on a bpffs").context(remedy()));
    }
    Ok(std::path::absolute(folder)?)
}

/// Pins the tables in a folder of their own below `below`.
pub(super) fn pin(machine: &mut Machine, kernel: &KernelPath, below: &Path) -> Result<()> {
    let wanted = below.join(kernel.table_ids()?.name());
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
