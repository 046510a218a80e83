//! `eastgate policy stage` and what follows it: a version of the configuration beside the one in force, looked at, and then promoted
//! or thrown away.

use std::{
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Subcommand;
use eastgate_api::{Done, Filter, Request, RuleRef, StagedRow, StagedRows, Status};
use eastgate_config::Loader;
use eastgate_wire::{Addr, names};

use super::{
    args::{Ask, Format},
    commands::{ask, ask_to_read, emit, misused},
    filter::FilterArgs,
    print,
    table::Table,
};
use crate::{control::client::ClientError, daemon};

const STAGE: &str = "Nothing that is carried changes. The daemon holds each flow that lives or begins, and each packet that the rules in force refuse,
against the staged version too: `eastgate policy staged` tells what that would do otherwise. Each host has its own, for the ends whose
rules it applies.

Example:
  cp /etc/eastgate/eastgate.toml /etc/eastgate/next.toml   # and change it
  eastgate policy stage /etc/eastgate/next.toml
  eastgate policy staged
  eastgate policy promote";

const STAGED: &str = "Flows that pass and would be refused are told since the version was staged, those that lived then included; packets that are refused
and would pass, since then.

Example:
  eastgate policy staged --vni 5001 -o json";

const PROMOTE: &str = "The staged file is copied over the configuration file, which is kept beside it as FILE.before, and put in force by a reload: all at once,
and flows that both versions allow do not notice. If it is refused, the file is put back. A file that has changed since it was staged is
not promoted.";

/// Commands about the staged version
#[derive(Subcommand, Debug)]
pub enum StagedCommand {
    /// Try a version of the configuration beside the one in force, on live traffic
    #[command(after_help = STAGE)]
    Stage {
        /// The version, in the folder of the configuration file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The daemon
        #[command(flatten)]
        ask: Ask,
    },
    /// Tell what the staged version would do otherwise
    #[command(after_help = STAGED)]
    Staged {
        /// Which rows
        #[command(flatten)]
        filter: FilterArgs,
        /// The daemon
        #[command(flatten)]
        ask: Ask,
    },
    /// Put the staged version in force
    #[command(after_help = PROMOTE)]
    Promote {
        /// The daemon
        #[command(flatten)]
        ask: Ask,
    },
    /// Throw the staged version away
    Unstage {
        /// The daemon
        #[command(flatten)]
        ask: Ask,
    },
}

impl StagedCommand {
    /// How its answer is printed.
    #[must_use]
    pub const fn output(&self) -> Format {
        match self {
            Self::Stage { ask, .. }
            | Self::Staged { ask, .. }
            | Self::Promote { ask }
            | Self::Unstage { ask } => ask.output.output,
        }
    }
}

pub(super) fn run(command: &StagedCommand) -> Result<u8> {
    match command {
        StagedCommand::Stage { file, ask } => stage(file, ask),
        StagedCommand::Staged { filter, ask: options } => {
            let request = Request::Staged(filter.clone().into());
            if let Some(code) = misused(&request) {
                return Ok(code);
            }
            let rows: StagedRows = ask(options, &request)?;
            emit(&options.output, &rows, text)
        }
        StagedCommand::Promote { ask } => promote(ask),
        StagedCommand::Unstage { ask: options } => {
            let done: Done = ask(options, &Request::Unstage {})?;
            let said = |done: &Done| {
                if done.count == 0 { "nothing was staged\n" } else { "thrown away\n" }.to_owned()
            };
            emit(&options.output, &done, said)
        }
    }
}

fn stage(file: &Path, options: &Ask) -> Result<u8> {
    // The daemon has a working directory of its own.
    let path = file.canonicalize().with_context(|| format!("{} cannot be opened", file.display()))?;
    let config = path.to_str().ok_or_else(|| anyhow!("{} is not UTF-8", path.display()))?.to_owned();
    let done = match ask_to_read(options, &Request::Stage { config })? {
        Ok(done) => done,
        Err(code) => return Ok(code),
    };
    emit(&options.output, &done, |done| {
        let held = names::count(done.count, "live flow");
        format!(
            "{}{held} held against it; `eastgate policy staged` tells what it would do otherwise\n",
            print::staged(done)
        )
    })
}

/// The files that a promotion is about.
struct Files {
    staged: PathBuf,
    config: PathBuf,
    before: PathBuf,
}

fn promote(options: &Ask) -> Result<u8> {
    let status: Status = ask(options, &Request::Status {})?;
    let staged: StagedRows = ask(options, &Request::Staged(Filter { limit: Some(0), ..Filter::default() }))?;
    let (Some(path), Some(digest)) = (staged.config, staged.digest) else {
        bail!("nothing is staged: `eastgate policy stage FILE` does");
    };
    let files = files(Path::new(&status.config), PathBuf::from(path))?;
    let config = daemon::load(&mut Loader::new(&files.staged), std::io::stderr().is_terminal())?;
    if config.digest().to_string() != digest {
        bail!(
            "{} is not as it was staged: `eastgate policy stage {0}` tries it as it is now",
            files.staged.display()
        );
    }
    // Hosts may share their files: then another one has promoted it already.
    let promoted = fs::read(&files.config).ok() == fs::read(&files.staged).ok();
    if !promoted {
        files.exchange()?;
    }
    let refused = match ask_to_read(options, &Request::Reload {}) {
        Ok(Ok(done)) if done.digest.as_deref() != Some(&*digest) => {
            bail!(
                "{} is in force, and is not what was staged: it was changed meanwhile",
                files.config.display()
            );
        }
        Ok(Ok(done)) => {
            return emit(&options.output, &done, |done| {
                format!("{}the version before is {}\n", print::reloaded(done), files.before.display())
            });
        }
        Ok(Err(code)) => Ok(code),
        Err(error) if matches!(error.downcast_ref(), Some(ClientError::Refused(_))) => Err(error),
        // It may be in force by now.
        Err(error) => {
            let what =
                format!("{} is the staged version; `eastgate reload` tells more", files.config.display());
            return Err(error.context(what));
        }
    };
    if !promoted {
        files.put_back()?;
    }
    refused
}

/// What a file includes is named from its own folder: elsewhere it would mean other files.
fn files(config: &Path, staged: PathBuf) -> Result<Files> {
    let config = config.canonicalize().with_context(|| format!("{} cannot be opened", config.display()))?;
    if config == staged {
        bail!("the staged file is the configuration file itself: `eastgate reload` puts it in force");
    }
    if config.parent() != staged.parent() {
        let folder = config.parent().unwrap_or(&config).display();
        bail!("{} is not in {folder}, where the configuration is: stage a copy that is", staged.display());
    }
    let mut before = config.clone().into_os_string();
    before.push(".before");
    Ok(Files { staged, config, before: before.into() })
}

impl Files {
    /// Makes the staged version the configuration file. There is one at any moment.
    fn exchange(&self) -> Result<()> {
        let mut new = self.config.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        fs::copy(&self.config, &self.before)
            .with_context(|| format!("{} cannot be written", self.before.display()))?;
        fs::copy(&self.staged, &new)
            .and_then(|_| fs::rename(&new, &self.config))
            .with_context(|| format!("{} cannot be written", self.config.display()))
    }

    fn put_back(&self) -> Result<()> {
        fs::rename(&self.before, &self.config).with_context(|| {
            format!("{} cannot be put back to {}", self.before.display(), self.config.display())
        })
    }
}

fn text(rows: &StagedRows) -> String {
    let Some(config) = &rows.config else { return "nothing is staged\n".to_owned() };
    let mut table = Table::new(["CHANGE", "VNI", "FROM", "TO", "SERVICE", "COUNT", "IN FORCE", "STAGED"]);
    for row in &rows.rows {
        table.row([
            row.change.name().to_owned(),
            row.vni.to_string(),
            end(row.from.as_ref(), row.src),
            end(row.to.as_ref(), row.dst),
            service(row),
            row.count.to_string(),
            said(&row.in_force, None),
            said(&row.staged, row.because.as_ref()),
        ]);
    }
    let table = if table.is_empty() { String::new() } else { table.to_string() };
    let flows = names::count(rows.flows, "flow");
    let mut text = format!(
        "{table}{config}: {flows} in {} s, {} treated otherwise\n",
        rows.since_s,
        names::count(rows.total, "kind")
    );
    for (count, what) in
        [(rows.lost, "could not be looked at"), (rows.more, "would be refused and are in no row")]
    {
        if count > 0 {
            text += &format!("{} {what}\n", names::count(count, "flow"));
        }
    }
    text
}

fn end(name: Option<&String>, address: Addr) -> String {
    name.map_or_else(|| address.to_string(), |name| format!("{name} ({address})"))
}

fn service(row: &StagedRow) -> String {
    if row.port == 0 { row.proto.clone() } else { format!("{}/{}", row.port, row.proto) }
}

fn said(rules: &[RuleRef], because: Option<&String>) -> String {
    let rules: Vec<String> = rules.iter().map(|rule| format!("{} ({})", rule.rule, rule.at)).collect();
    because.cloned().unwrap_or_else(|| rules.join(", "))
}
