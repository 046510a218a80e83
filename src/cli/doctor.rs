//! `eastgate doctor`: what is wrong with the machine, the configuration or the daemon, and what to do about it.

pub(super) use self::gather::file;
mod gather;
mod site;

use std::{fmt::Write, path::PathBuf};

use anyhow::Result;
use clap::Args as ClapArgs;
use eastgate_wire::names;

use super::{
    args::{Ask, Carrier},
    commands::emit,
    exit,
};
use crate::doctor::{self, Finding, Report, Severity, facts::Facts};

pub(super) const HELP: &str = "Reads, and changes nothing. Each finding has a name that stays, how bad it is, what was found, why it matters and what to do;
docs/doctor.md lists them all. It works with and without a daemon, and with and without a configuration; where it may not look,
it says so. Run it in the daemon's network namespace.

Examples:
  sudo eastgate doctor                      what is wrong here
  eastgate doctor --all                     what is as it should be too
  eastgate doctor --config F --host alpha   before the first start
  eastgate doctor -o json | jq '.findings[].id'

Exit codes: 0 nothing worse than a note, 7 a warning, 6 a problem: something that should pass does not.";

/// Options of `doctor` and of `support`.
#[derive(ClapArgs, Clone, Debug)]
pub struct Subject {
    /// The configuration file; the running daemon's, or /etc/eastgate/eastgate.toml, unless told otherwise
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// This host's name in it; the running daemon's, or the only one that runs eastgate
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// How frames are carried, as `run` is told
    #[command(flatten)]
    pub carrier: Carrier,
}

/// Options of `doctor`.
#[derive(ClapArgs, Clone, Debug)]
pub struct Doctor {
    /// What is looked at
    #[command(flatten)]
    pub subject: Subject,
    /// Show what is as it should be too
    #[arg(short = 'v', long, visible_alias = "verbose")]
    pub all: bool,
    /// The daemon
    #[command(flatten)]
    pub ask: Ask,
}

pub(super) fn examine(options: &Doctor) -> Result<u8> {
    let mut report = look(&options.subject, &options.ask)?.1;
    if !options.all {
        report.leave_out_ok();
    }
    emit(&options.ask.output, &report, text)?;
    Ok(match report.worst() {
        Severity::Problem => exit::NOT_READY,
        Severity::Warning => exit::WARNINGS,
        Severity::Note | Severity::Ok => exit::OK,
    })
}

/// What there is to know, and what follows from it.
pub(super) fn look(subject: &Subject, ask: &Ask) -> Result<(Facts, Report)> {
    let facts = gather::facts(subject, ask)?;
    let report = doctor::examine(&facts);
    Ok((facts, report))
}

/// For people.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    for Finding { id, severity, found, why, remedy } in &report.findings {
        let _ = writeln!(text, "{:<8} {:<22} {found}", severity.name(), id.id());
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:31} why: {why}\n{:31} do:  {remedy}", "", "");
        }
    }
    let counts = report.counts;
    let _ = writeln!(
        text,
        "{}{}, {}, {}; {} fine{}",
        if text.is_empty() { "" } else { "\n" },
        names::count(counts.problems, "problem"),
        names::count(counts.warnings, "warning"),
        names::count(counts.notes, "note"),
        counts.ok,
        if report.findings.len() < counts.ok { " (--all shows them)" } else { "" }
    );
    text
}
