//! The daemon and its configuration.

use super::{
    Findings,
    check::Check,
    facts::{Answers, Configuration, Daemon, Facts},
    some,
};

pub(super) fn examine(facts: &Facts, found: &mut Findings) {
    configuration(facts, found);
    presence(facts, found);
    if let Some(answers) = facts.answers() {
        condition(facts, answers, found);
        in_force(facts, answers, found);
        by_intent(facts, answers, found);
    } else if let Some(site) = facts.site.as_ref().filter(|site| !site.audit.is_empty()) {
        found.note(Check::Audit, format!("only tried out: {}", some(site.audit.clone())), None);
    }
}

fn configuration(facts: &Facts, found: &mut Findings) {
    match &facts.configuration {
        Configuration::Absent(path) => {
            let text =
                format!("there is no {}: what depends on a configuration was not looked at", path.display());
            found.note(Check::NotLookedAt, text, "Name it: `eastgate doctor --config FILE`.".to_owned());
        }
        Configuration::Hidden { path, why } => {
            found.note(Check::NotLookedAt, format!("configuration {}: {why}", path.display()), None);
        }
        Configuration::Broken { path, errors, first } => {
            let path = path.display();
            let errors = eastgate_wire::names::count(*errors, "error");
            let text = format!("{path}: {errors}; the first: {first}");
            found.problem(Check::Configuration, text, format!("`eastgate check {path}` shows all of it."));
        }
        Configuration::Good { path, warnings, is_writable_by_all, no_host, .. } => {
            let path = path.display();
            found.ok(Check::Configuration, format!("{path} has no errors"));
            for warning in warnings {
                found.warning(
                    Check::ConfigurationWarning,
                    warning,
                    format!("`eastgate check {path}` shows the place."),
                );
            }
            if *is_writable_by_all {
                found.warning(
                    Check::ConfigurationWritable,
                    format!("everyone may write to {path}"),
                    format!("`chmod o-w {path}`."),
                );
            }
            match no_host {
                Some(why) => found.problem(Check::Host, why, None),
                None => found.ok(Check::Host, facts.site.as_ref().map_or("", |site| &site.host)),
            }
        }
    }
}

fn presence(facts: &Facts, found: &mut Findings) {
    match &facts.daemon {
        Daemon::Answers(answers) => {
            let status = &answers.status;
            found.ok(Check::Daemon, format!("{} answers as host {}", status.version, status.host));
            match found.look("the daemon's network namespace", &answers.same_namespace) {
                Some(false) => {
                    let pid = answers.pid.map_or_else(|| "PID".into(), |pid| pid.to_string());
                    let text = format!(
                        "the daemon (process {pid}) is in another network namespace than this command"
                    );
                    let remedy = format!("`nsenter --net=/proc/{pid}/ns/net eastgate doctor`.");
                    found.warning(Check::OtherNamespace, text, remedy);
                }
                Some(true) => found.ok(Check::OtherNamespace, "the daemon is in this network namespace"),
                None => {}
            }
        }
        Daemon::None { socket, stale } => {
            let socket = socket.display();
            let text = if *stale {
                format!("none runs: nobody listens at {socket}, a daemon was killed")
            } else {
                format!("none runs: there is no {socket}")
            };
            found.note(Check::Daemon, text, None);
        }
        Daemon::Elsewhere { socket, pid } => {
            let text = format!(
                "none answers at {}, and process {pid} is the eastgate of this network namespace",
                socket.display()
            );
            found.warning(Check::OtherDaemon, text, None);
        }
        Daemon::Denied(why) => found.note(Check::NotLookedAt, format!("the daemon: {why}"), None),
        Daemon::Silent(why) => found.problem(Check::Daemon, why, None),
    }
}

fn condition(facts: &Facts, answers: &Answers, found: &mut Findings) {
    let status = &answers.status;
    if status.problems.is_empty() {
        found.ok(Check::DaemonProblem, "the daemon knows of none");
    }
    for problem in &status.problems {
        found.problem(Check::DaemonProblem, problem, None);
    }
    if status.version == facts.version {
        found.ok(Check::DaemonVersion, &status.version);
    } else {
        let text = format!("the daemon is {}, this program {}", status.version, facts.version);
        found.note(Check::DaemonVersion, text, None);
    }
    let restored = &status.restored;
    match &restored.last {
        None => found.ok(Check::Restored, "nothing was taken away"),
        Some(last) => {
            let counts = format!(
                "{} programs, {} devices, {} files",
                restored.programs, restored.devices, restored.files
            );
            found.note(
                Check::Restored,
                format!("{counts} were taken away and put back since the start; last: {last}"),
                None,
            );
        }
    }
    if status.control_restored > 0 {
        let times = eastgate_wire::names::count(status.control_restored, "time");
        found.note(Check::Restored, format!("the control socket was removed, {times}"), None);
    }
    match status.settings_restored {
        0 => found.ok(Check::SettingsChanged, "nobody has changed one since the daemon's start"),
        changed => {
            let settings = eastgate_wire::names::count(changed, "setting");
            let text =
                format!("{settings} were changed by someone else since the daemon's start, and put right");
            found.note(Check::SettingsChanged, text, None);
        }
    }
}

fn in_force(facts: &Facts, answers: &Answers, found: &mut Findings) {
    let status = &answers.status;
    match &status.api_error {
        Some(why) => found.warning(Check::ApiFiles, why.lines().next().unwrap_or_default(), None),
        None => found.ok(Check::ApiFiles, "the files of the HTTP API are as they were read"),
    }
    if let Some(why) = &status.reload_error {
        let first = why.lines().find(|line| !line.trim().is_empty()).unwrap_or("it was refused");
        return found.warning(Check::ReloadRefused, first.trim(), None);
    }
    found.ok(Check::ReloadRefused, "no reload was refused");
    let Configuration::Good { path, digest, .. } = &facts.configuration else { return };
    if *digest == status.digest {
        found.ok(Check::NotReloaded, "the file means what is in force");
    } else {
        let text = format!(
            "{} means something else ({digest}) than what is in force ({})",
            path.display(),
            status.digest
        );
        found.note(Check::NotReloaded, text, None);
    }
}

fn by_intent(facts: &Facts, answers: &Answers, found: &mut Findings) {
    let status = &answers.status;
    let audit = facts.site.as_ref().map_or(&[][..], |site| &site.audit);
    match (audit, status.traffic.would_deny) {
        ([], 0) => found.ok(Check::Audit, "no rule is only tried out"),
        (audit, packets) => {
            let which = if audit.is_empty() {
                String::new()
            } else {
                format!("only tried out: {}; ", some(audit.to_vec()))
            };
            let packets = eastgate_wire::names::count(packets, "packet");
            found.note(Check::Audit, format!("{which}{packets} passed that would have been refused"), None);
        }
    }
    match &answers.staged {
        None => found.ok(Check::Staged, "nothing is staged"),
        Some(file) => found.note(Check::Staged, format!("{file} is staged"), None),
    }
    if status.excluded.is_empty() {
        found.ok(Check::Unprotected, "every endpoint here has a policy");
    } else {
        found.note(Check::Unprotected, some(status.excluded.clone()), None);
    }
    // Without programs all of them are, and that is told once.
    if status.dataplane != "ebpf" {
        return;
    }
    let Some(endpoints) = found.look("endpoints", &answers.endpoints) else { return };
    let of = |row: &eastgate_api::EndpointRow| Some(format!("{}: {}", row.endpoint, row.userspace.as_ref()?));
    let staying: Vec<String> = endpoints.iter().filter_map(of).collect();
    if staying.is_empty() {
        found.ok(Check::Userspace, "flows of all endpoints are for the kernel");
    } else {
        found.note(
            Check::Userspace,
            format!("{} of {}: {}", staying.len(), endpoints.len(), some(staying)),
            None,
        );
    }
}
