//! The stations of hypervisors: an `lldpad` in each one's namespace, which tells the appliance which machines have which profile.

use std::{
    os::unix::process::CommandExt,
    process::Stdio,
    time::{Duration, Instant},
};

use eastgate_testkit::{
    Process, command,
    lldpad::{self, Vsi},
    wait::{BOUND, SLOW_POLL},
};
use eastgate_wire::MacAddr;
use serde_json::Value;

use super::{
    Options,
    build::{LAB_VARIABLE, show},
    daemon,
    error::LabError,
    model::Model,
    plan::UPLINK,
    record::Record,
};

/// How soon a machine is served that its station associates; after that, it is asked once more.
const SERVED_SOON: Duration = Duration::from_secs(3);

/// Starts the stations of all hypervisors that have none.
pub(super) fn start_missing(model: &Model, record: &mut Record, options: &Options) -> Result<(), LabError> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let is_there =
        |program: &&str| std::env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    if let Some(program) = ["lldpad", "vdptool"].iter().find(|program| !is_there(program))
        && !model.topology.hypervisor.is_empty()
    {
        return Err(LabError::NoLldpad(program));
    }
    for name in model.topology.hypervisor.keys() {
        if record.stations.get(name).is_some_and(|station| station.is_alive()) {
            continue;
        }
        options.interrupt.check()?;
        let mut station = lldpad::command(&record.namespace(name)?, UPLINK);
        if options.verbose {
            show(&command::shown(&station));
        }
        station.env(LAB_VARIABLE, &record.id).process_group(0);
        let station = station.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = station.spawn().map_err(|error| failed("unshare", &error.to_string()))?;
        if let Some(process) = Process::new(child.id() as i32) {
            record.stations.insert(name.clone(), process);
            record.save()?;
        }
    }
    Ok(())
}

/// Ends the stations of all hypervisors and starts others, which have associated nobody.
pub(super) fn restart_all(model: &Model, record: &mut Record, options: &Options) -> Result<(), LabError> {
    record.stations.values().for_each(|station| station.kill());
    start_missing(model, record, options)
}

/// Has the station of `machine` associate it, and waits until the appliance serves it.
pub(super) fn associate(
    machine: &str,
    model: &Model,
    record: &Record,
    options: &Options,
) -> Result<(), LabError> {
    let (inside, host, vsi) = place(machine, model, record)?;
    let inside = record.namespace(inside)?;
    let is_served = || Ok::<_, LabError>(served(host, record, options)?.contains(&vsi.mac));
    wait(
        options,
        || format!("`{machine}` is not associated and served"),
        || {
            let answer = lldpad::ask(&inside, UPLINK, "assoc", vsi);
            if !answer.is_some_and(|answer| answer.contains("mode = assoc")) {
                return Ok(false);
            }
            let deadline = Instant::now() + SERVED_SOON;
            while Instant::now() < deadline {
                if is_served()? {
                    return Ok(true);
                }
                std::thread::sleep(SLOW_POLL);
            }
            // A link that was gone for a moment leaves lldpad with associations that it takes for made and does not make again.
            let _ = lldpad::ask(&inside, UPLINK, "deassoc", vsi);
            Ok(false)
        },
    )
}

/// Has the station of `machine` say that it is gone, and waits until the appliance does not serve it any more.
pub(super) fn deassociate(
    machine: &str,
    model: &Model,
    record: &Record,
    options: &Options,
) -> Result<(), LabError> {
    let (inside, host, vsi) = place(machine, model, record)?;
    // A station that does not know the machine refuses, and there is nothing to be said then.
    let _ = lldpad::ask(&record.namespace(inside)?, UPLINK, "deassoc", vsi);
    wait(
        options,
        || format!("`{machine}` is served still"),
        || Ok(!served(host, record, options)?.contains(&vsi.mac)),
    )
}

/// Ends the station of `hypervisor`, and waits until the appliance serves none of its machines: nobody says that they are there.
pub(super) fn silence(
    hypervisor: &str,
    model: &Model,
    record: &Record,
    options: &Options,
) -> Result<(), LabError> {
    if let Some(station) = record.stations.get(hypervisor) {
        station.kill();
    }
    for machine in machines_of(hypervisor, model) {
        let (_, host, vsi) = place(machine, model, record)?;
        wait(
            options,
            || format!("`{machine}` is served still"),
            || Ok(!served(host, record, options)?.contains(&vsi.mac)),
        )?;
    }
    Ok(())
}

/// All as it is when the lab has come up: stations that have associated nobody.
pub(super) fn restore(model: &Model, record: &mut Record, options: &Options) -> Result<(), LabError> {
    start_missing(model, record, options)?;
    for hypervisor in model.topology.hypervisor.keys() {
        for machine in machines_of(hypervisor, model) {
            let (_, host, vsi) = place(machine, model, record)?;
            if served(host, record, options)?.contains(&vsi.mac) {
                deassociate(machine, model, record, options)?;
            }
        }
    }
    Ok(())
}

fn machines_of<'a>(hypervisor: &'a str, model: &'a Model) -> impl Iterator<Item = &'a str> {
    let machines = model.machines.iter();
    let on_it = machines.filter(move |(_, machine)| machine.hypervisor.as_deref() == Some(hypervisor));
    on_it.map(|(name, _)| name.as_str())
}

/// The hypervisor of a machine, the host that serves it, and what is said of it.
fn place<'a>(
    machine: &str,
    model: &'a Model,
    record: &Record,
) -> Result<(&'a str, &'a str, &'a Vsi), LabError> {
    let found = model.machines.get(machine).and_then(|machine| {
        Some((machine.hypervisor.as_deref()?, machine.on.as_str(), machine.vsi.as_ref()?))
    });
    found.ok_or_else(|| LabError::NoNode {
        node: machine.into(),
        nodes: record.nodes.iter().map(|node| node.name.clone()).collect(),
    })
}

/// The machines that are served on `host` because a station has associated them; nobody where no daemon runs.
fn served(host: &str, record: &Record, options: &Options) -> Result<Vec<MacAddr>, LabError> {
    if daemon::missing(record).iter().any(|missing| missing == host) {
        return Ok(vec![]);
    }
    let shown = daemon::ask(record, host, &["show", "vdp"], options)?;
    let rows = shown["machines"].as_array().map(Vec::as_slice).unwrap_or_default();
    let in_force = rows.iter().filter(|row| row["in_force"] == Value::Bool(true));
    Ok(in_force.filter_map(|row| row["mac"].as_str()?.parse().ok()).collect())
}

fn wait(
    options: &Options,
    late: impl Fn() -> String,
    mut holds: impl FnMut() -> Result<bool, LabError>,
) -> Result<(), LabError> {
    let deadline = Instant::now() + BOUND;
    while !holds()? {
        options.interrupt.check()?;
        if Instant::now() >= deadline {
            return Err(failed("vdptool", &format!("{} after {} s", late(), BOUND.as_secs())));
        }
        std::thread::sleep(SLOW_POLL);
    }
    Ok(())
}

fn failed(command: &str, output: &str) -> LabError {
    LabError::Command { command: command.into(), output: output.into() }
}
