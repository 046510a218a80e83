//! What `run` would do: what it would find, and the steps that follow from it.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use eastgate_dataplane::snapshot::Snapshot;
use eastgate_fastpath::Limits;

use super::args::{Carrier, Monitoring};
use crate::{
    daemon::{Dataplane, pin_folder},
    io::{
        fastpath::KernelPath,
        guard::Hooks,
        machine::{Machine, record_beside},
        netlink::{Link, Netlink, NetlinkError},
    },
    plan::{Circumstances, FastpathPlan, Line, OWN_DEVICES, lines, taken_device, wanted_ports},
};

/// Flows for which there is room in tables that are only made to see whether the kernel takes them.
const TRIAL_FLOWS: u32 = 1024;

/// Steps and notes, as this machine is now.
pub(super) fn of_machine(
    snapshot: &Snapshot,
    carrier: &Carrier,
    socket: &Path,
    monitoring: &Monitoring,
) -> Result<Vec<Line>> {
    let pin = carrier.pin.as_deref().map(pin_folder).transpose()?;
    // A daemon that runs, or ran, has attached programs, which are not the host's.
    let mut machine = Machine::take_over(record_beside(socket))?;
    let hook = Hooks::choose(carrier.attach).context("--attach")?.name();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (links, traffic) = runtime
        .block_on(async {
            let netlink = Netlink::connect()?;
            let links = netlink.links().await?;
            let mut traffic = BTreeMap::new();
            machine.list_qdiscs(&netlink).await;
            for port in wanted_ports(snapshot) {
                if let Some(link) = links.get(&**port.device())
                    && !traffic.contains_key(&link.index)
                {
                    traffic.insert(link.index, machine.host_traffic(&netlink, link).await);
                }
            }
            Ok::<_, NetlinkError>((links, traffic))
        })
        .context("cannot list devices")?;
    let mut notes = Vec::new();
    let fastpath = match fastpath(snapshot, carrier, pin.as_deref(), &machine, &links) {
        Ok(fastpath) => fastpath,
        Err(error) => {
            let consequence = match carrier.dataplane {
                Dataplane::Ebpf => "`run` ends with this",
                _ => "userspace carries all frames",
            };
            notes.push(Line::note("note", "fast path", format!("{error:#}"), consequence));
            None
        }
    };
    let inherits = fastpath.as_ref().is_some_and(|fastpath| fastpath.inherits);
    let found = Circumstances {
        socket: socket.to_owned(),
        metrics: monitoring.metrics,
        api: monitoring.api(),
        hook,
        left_behind: machine.left_behind().filter(|_| !inherits),
        pins: machine.pins().map(Path::to_owned),
        fastpath,
        traffic,
    };
    notes.extend(lines(snapshot, &links, &found)?);
    Ok(notes)
}

/// The fast path, if there is to be one; why not, where it cannot be.
fn fastpath(
    snapshot: &Snapshot,
    carrier: &Carrier,
    pin: Option<&Path>,
    machine: &Machine,
    links: &BTreeMap<String, Link>,
) -> Result<Option<FastpathPlan>> {
    if carrier.dataplane == Dataplane::Userspace {
        return Ok(None);
    }
    let inherits = machine.tables().is_some() && OWN_DEVICES.into_iter().all(|name| links.contains_key(name));
    if let Some(name) = taken_device(links, |name| machine.has_made(name)) {
        anyhow::bail!("there is a device {name} already; another eastgate in this network namespace?");
    }
    // Nothing tells whether the kernel takes them but giving them to it. They go as soon as that is known.
    let tables = snapshot.config.kernel_tables;
    KernelPath::load(Limits { flows: TRIAL_FLOWS, tables }, 0, 0)?;
    Ok(Some(FastpathPlan::of(snapshot, pin, inherits)))
}
