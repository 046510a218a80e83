//! A plan put into effect with `ip` and `bridge`, and everything of a lab taken away again.

use std::{collections::BTreeMap, io::Write, path::Path, process::Command, time::Duration};

use eastgate_testkit::{Error, Failure, Netns, Process, command, netns, vlan_switch};
use nix::sys::signal::Signal;

use super::{
    error::LabError,
    interrupt::Interrupt,
    plan::{Action, Plan, UPLINK},
    record::{Node, Record},
};

/// How long whoever builds a lab may take to clear it up.
const OWNER_BOUND: Duration = Duration::from_secs(20);

/// Every command of a lab has the lab's id in this variable of its environment, so that one whose starter was killed
/// is still known for what it is.
pub(super) const LAB_VARIABLE: &str = "EASTGATE_LAB";

/// Builds everything in `plan` for lab `id`; with `verbose` each command is written to standard error first.
pub(super) fn apply(plan: &Plan, id: &str, verbose: bool, interrupt: &Interrupt) -> Result<(), LabError> {
    for actions in plan.steps.chunk_by(same_batch) {
        interrupt.check()?;
        if verbose {
            actions.iter().for_each(|action| show(&as_typed(action)));
        }
        match actions {
            [Action::Sysctl { namespace, .. }, ..] => write_settings(namespace, actions)?,
            [Action::VlanSwitch(namespace, ports)] => {
                let ports: Vec<_> = ports.iter().map(|(name, vlan)| (name.as_str(), *vlan)).collect();
                vlan_switch::join(&Netns::named(namespace), UPLINK, &ports)?;
            }
            _ => batch(actions, id)?,
        }
    }
    Ok(())
}

/// Ends every process of the lab, deletes its namespaces with all that is in them, and forgets it. Goes on after
/// a failure; a lab of which something is left stays on record.
pub(super) fn tear_down(record: &Record, verbose: bool) -> Result<(), LabError> {
    // Someone who is still at work on it would go on; asked to stop, it clears up what it has made.
    if let Some(owner) = record.owner.filter(|owner| !owner.is_self() && owner.is_alive()) {
        owner.signal(Signal::SIGTERM);
        owner.wait(OWNER_BOUND);
    }
    // In order first, so that a daemon can undo what it changed.
    let daemons: Vec<Process> = record.daemons.values().copied().collect();
    daemons.iter().for_each(|daemon| daemon.signal(Signal::SIGTERM));
    daemons.iter().for_each(|daemon| daemon.stop());
    end_processes(record);
    let mut failure = None;
    for netns in record.nodes.iter().map(Node::netns).filter(Netns::exists) {
        if verbose {
            show(&format!("ip netns delete {}", netns.name()));
        }
        if let Err(error) = netns.delete() {
            failure.get_or_insert(error);
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => record.remove(),
    }
}

/// Ends whatever runs inside the lab's namespaces, a user's shells and captures too, which would keep them alive,
/// and commands that still build it.
fn end_processes(record: &Record) {
    let namespaces: Vec<Netns> = record.nodes.iter().map(Node::netns).collect();
    let variable = format!("{LAB_VARIABLE}={}", record.id);
    let builds = |folder: &Path| {
        let environment = std::fs::read(folder.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
    };
    netns::end_all(|| netns::processes_of(&namespaces, builds));
}

/// Writes a line to standard error. `eprintln!` would panic where nobody reads it, also while clearing up.
pub(super) fn show(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn same_batch(a: &Action, b: &Action) -> bool {
    match (a, b) {
        (Action::Namespace(_), Action::Namespace(_)) => true,
        (Action::Ip(a, _), Action::Ip(b, _)) | (Action::Bridge(a, _), Action::Bridge(b, _)) => a == b,
        (Action::Sysctl { namespace: a, .. }, Action::Sysctl { namespace: b, .. }) => a == b,
        _ => false,
    }
}

fn as_typed(action: &Action) -> String {
    match action {
        Action::Namespace(name) => format!("ip netns add {name}"),
        Action::Sysctl { namespace, key, value } => {
            format!("ip netns exec {namespace} sysctl -qw {}={value}", key.replace('/', "."))
        }
        Action::Ip(namespace, command) => format!("ip -n {namespace} {command}"),
        Action::Bridge(namespace, command) => format!("bridge -n {namespace} {command}"),
        Action::VlanSwitch(namespace, ports) => {
            let ports = ports.iter().map(|(name, _)| format!(" {name}")).collect::<String>();
            format!("# {namespace}: a switch of{ports}, with their VLANs on {UPLINK}")
        }
    }
}

/// One `ip -batch` for consecutive commands of one place: a fork a command would be most of the time a lab takes.
fn batch(actions: &[Action], id: &str) -> Result<(), LabError> {
    let (program, namespace) = match actions.first() {
        Some(Action::Ip(namespace, _)) => ("ip", Some(namespace)),
        Some(Action::Bridge(namespace, _)) => ("bridge", Some(namespace)),
        _ => ("ip", None),
    };
    let mut command = Command::new(program);
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]);
    let lines = actions.iter().map(|action| match action {
        Action::Namespace(name) => format!("netns add {name}\n"),
        Action::Ip(_, command) | Action::Bridge(_, command) => format!("{command}\n"),
        Action::Sysctl { .. } | Action::VlanSwitch(..) => String::new(),
    });
    // What is still being done when its starter was killed is known by the variable.
    let done = command::run_with(command.env(LAB_VARIABLE, id), &lines.collect::<String>());
    done.map(drop).map_err(|error| match error {
        // Batch mode tells the number of the line that failed; a user wants the line.
        Error::Command { failure, .. } => {
            let output = match failure {
                Failure::Status { said, .. } => said.trim().to_owned(),
                other => other.to_string(),
            };
            LabError::Command { command: failed_line(actions, &output), output }
        }
        other => other.into(),
    })
}

fn failed_line(actions: &[Action], output: &str) -> String {
    let number =
        output.rsplit_once("Command failed -:").and_then(|(_, number)| number.trim().parse::<usize>().ok());
    let by_number = number.and_then(|number| actions.get(number.saturating_sub(1)));
    // A word that the parser does not take ends the batch without a number, but is quoted.
    let by_word = || {
        let word = output.split('"').nth(1).filter(|word| !word.is_empty())?;
        actions.iter().find(|action| as_typed(action).split(' ').any(|part| part == word))
    };
    by_number.or_else(by_word).or(actions.first()).map(as_typed).unwrap_or_default()
}

fn write_settings(namespace: &str, actions: &[Action]) -> Result<(), LabError> {
    let settings: BTreeMap<String, String> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Sysctl { key, value, .. } => Some((format!("/proc/sys/{key}"), value.clone())),
            _ => None,
        })
        .collect();
    Netns::named(namespace).enter(|| {
        settings
            .into_iter()
            .try_for_each(|(path, value)| std::fs::write(&path, value).map_err(LabError::file(path)))
    })?
}
