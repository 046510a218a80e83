//! The machine: kernel, capabilities, limits, clock, and what is left on it.

use super::{
    Findings,
    check::Check,
    facts::{Daemon, Facts},
    some,
};
use crate::io::survey::process::{FOR_THE_FAST_PATH, TO_RUN};

/// Flows are carried in the kernel from here on.
const FAST_PATH_SINCE: (u32, u32) = (6, 1);
/// Programs stand in tcx lists from here on.
const TCX_SINCE: (u32, u32) = (6, 6);

/// A clock that is before this program was written (2026) is wrong.
const WRITTEN: u64 = 1_767_225_600;

/// Sockets beside those of ports and of source ports.
const OTHER_FILES: u64 = 256;

pub(super) fn examine(facts: &Facts, found: &mut Findings) {
    kernel(facts, found);
    capabilities(facts, found);
    fast_path(facts, found);
    open_files(facts, found);
    memory(facts, found);
    clock(facts, found);
    bpffs(facts, found);
    conntrack(facts, found);
    leftovers(facts, found);
}

fn kernel(facts: &Facts, found: &mut Findings) {
    let kernel = &facts.machine.kernel;
    let release = format!("Linux {} on {}", kernel.release, kernel.machine);
    match kernel.version() {
        Some(version) if version < FAST_PATH_SINCE => {
            found.warning(Check::Kernel, format!("{release}: the fast path needs 6.1"), None);
        }
        Some(version) if version < TCX_SINCE && kernel.has_tcx != Ok(true) => {
            found.note(Check::Kernel, format!("{release}: without tcx, clsact guards the ports"), None);
        }
        _ if kernel.has_tcx == Ok(false) => {
            found.note(Check::Kernel, format!("{release}, built without tcx: clsact guards the ports"), None);
        }
        _ => found.ok(Check::Kernel, release),
    }
    if kernel.has_btf {
        found.ok(Check::KernelBtf, "the kernel describes its types");
    } else {
        found.warning(Check::KernelBtf, "there is no /sys/kernel/btf/vmlinux", None);
    }
    match kernel.lockdown.as_deref() {
        Some("confidentiality") => found.warning(Check::KernelLockdown, "lockdown=confidentiality", None),
        mode => found.ok(Check::KernelLockdown, format!("lockdown: {}", mode.unwrap_or("none"))),
    }
}

fn capabilities(facts: &Facts, found: &mut Findings) {
    let (whose, capabilities) = match facts.answers() {
        Some(answers) => ("the daemon", &answers.capabilities),
        None => ("whoever asks this", &facts.machine.capabilities),
    };
    let Some(capabilities) = found.look("capabilities", capabilities) else { return };
    let (to_run, fast) = (capabilities.lacks(&TO_RUN), capabilities.lacks(&FOR_THE_FAST_PATH));
    let lacks = |names: &[&str]| format!("{whose} lacks {}", names.join(", "));
    match (facts.answers().is_some(), to_run.is_empty(), fast.is_empty()) {
        (_, true, true) => found.ok(Check::Capabilities, format!("{whose} has all that eastgate needs")),
        (true, true, false) => {
            found.warning(
                Check::Capabilities,
                format!("{}: userspace carries all frames", lacks(&fast)),
                None,
            );
        }
        (true, false, _) => found.warning(Check::Capabilities, lacks(&[to_run, fast].concat()), None),
        // Who may not run a daemon may ask all the same.
        (false, ..) => found.note(
            Check::Capabilities,
            format!("{}: it cannot run eastgate", lacks(&[to_run, fast].concat())),
            None,
        ),
    }
}

fn fast_path(facts: &Facts, found: &mut Findings) {
    if let Some(answers) = facts.answers() {
        let dataplane = &answers.status.dataplane;
        match &**dataplane {
            "ebpf" => found.ok(Check::FastPath, "the kernel carries flows"),
            "userspace (as asked for)" => {
                let remedy = "Run it without `--dataplane userspace`.".to_owned();
                found.note(Check::FastPath, dataplane, remedy);
            }
            _ => found.warning(Check::FastPath, dataplane, None),
        }
        return;
    }
    match &facts.machine.trial {
        None => {}
        Some(Ok(())) => found.ok(Check::FastPath, "the kernel takes the programs"),
        Some(Err(why)) => {
            found.warning(Check::FastPath, format!("the kernel does not take the programs: {why}"), None)
        }
    }
}

fn open_files(facts: &Facts, found: &mut Findings) {
    let Some(&limit) = found.look("limit of open files", &facts.machine.open_files) else { return };
    let Some(site) = &facts.site else {
        return found.ok(Check::OpenFiles, format!("{limit} files may be open"));
    };
    let workers = facts.answers().map_or(1, |answers| answers.status.workers as u64);
    let devices = site.ports.len() as u64 + 2;
    let wanted = workers * devices + 2 * u64::from(site.entropy_ports) + OTHER_FILES;
    if limit < wanted {
        let text = format!(
            "{limit} files may be open, and about {wanted} are wanted: {workers} workers on {devices} devices, and \
             {} source ports",
            site.entropy_ports
        );
        found.warning(Check::OpenFiles, text, None);
    } else {
        found.ok(Check::OpenFiles, format!("{limit} files may be open, about {wanted} are wanted"));
    }
}

fn memory(facts: &Facts, found: &mut Findings) {
    const MIB: u64 = 1 << 20;
    let Some(memory) = found.look("memory", &facts.machine.memory) else { return };
    let free = format!("{} MiB of {} MiB can be had", memory.available / MIB, memory.total / MIB);
    let full = facts.site.as_ref().map_or(0, |site| site.full_tables);
    // A share of all would say nothing where most is set apart for machines.
    if memory.available < (memory.total / 20).min(512 * MIB) {
        found.warning(Check::Memory, free, None);
    } else if facts.answers().is_none() && full > memory.available {
        let text = format!("{free}; the kernel's tables take {} MiB once they are full", full / MIB);
        found.note(Check::Memory, text, None);
    } else {
        found.ok(Check::Memory, free);
    }
}

fn clock(facts: &Facts, found: &mut Findings) {
    let clock = &facts.machine.clock;
    if clock.unix_s < WRITTEN {
        let text = format!("it says {} s after 1970: that is before this program was written", clock.unix_s);
        return found.warning(Check::Clock, text, None);
    }
    match found.look("clock", &clock.synchronised) {
        Some(true) => found.ok(Check::Clock, "the clock is kept right"),
        Some(false) => {
            found.note(Check::Clock, "nobody keeps the clock right: the kernel calls it unsynchronised", None)
        }
        None => {}
    }
}

fn bpffs(facts: &Facts, found: &mut Findings) {
    match &facts.machine.pin {
        Some((folder, Some(why))) => {
            let shown = folder.display();
            let remedy = format!("`mkdir -p {shown} && mount -t bpf bpf {shown}`.");
            found.warning(Check::Bpffs, format!("--pin {shown}: {why}"), remedy);
        }
        Some((folder, None)) => found.ok(Check::Bpffs, format!("{} is on a bpffs", folder.display())),
        None => {
            let Some(mounts) = found.look("bpffs", &facts.machine.bpf_mounts) else { return };
            if mounts.is_empty() {
                let text = "none is mounted: `--pin`, which spares the daemon CAP_SYS_ADMIN, has no place";
                found.note(Check::Bpffs, text, None);
            } else {
                found.ok(Check::Bpffs, some(mounts.iter().map(|at| at.display().to_string())));
            }
        }
    }
}

fn conntrack(facts: &Facts, found: &mut Findings) {
    let Some((count, most)) = facts.machine.tracked else { return };
    let text = format!("the host tracks {count} connections of {most}");
    if most > 0 && count >= most / 10 * 9 {
        found.warning(Check::HostConntrack, text, None);
    } else {
        found.ok(Check::HostConntrack, text);
    }
}

fn leftovers(facts: &Facts, found: &mut Findings) {
    // The record is a running daemon's own.
    if !matches!(facts.daemon, Daemon::None { .. }) {
        return;
    }
    if let Some(left) = found.look("record of changes", &facts.machine.left) {
        if left.is_empty() {
            found.ok(Check::Leftovers, "no daemon has left anything");
        } else {
            found.warning(
                Check::Leftovers,
                format!("no daemon runs, and one has left {}", left.join(", ")),
                None,
            );
        }
    }
    if !facts.machine.strange_devices.is_empty() {
        let names = facts.machine.strange_devices.join(", ");
        let remedy = format!(
            "`ip link delete {}`, if no eastgate of another socket runs here.",
            facts.machine.strange_devices[0]
        );
        found.problem(
            Check::LeftoverDevices,
            format!("{names}: no record says that eastgate made it"),
            remedy,
        );
    }
}
