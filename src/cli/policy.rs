//! `eastgate policy`: what is asked of the rules of a configuration, without a daemon.

use std::{fmt::Write as _, io::IsTerminal, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, Subcommand};
use eastgate_api::{Filter, FlowRow};
use eastgate_config::{self as config, FILTERS};
use eastgate_wire::names;

use super::{
    args::{Ask, Format, Output},
    commands::{self, emit},
    exit,
    staged::{self, StagedCommand},
    table::Table,
};
use crate::policy_tools::{
    self, Outcome,
    diff::{self, Difference},
    expect, lint,
    suggest::{self, Suggestion},
    who,
};

const WHO: &str = "Both ends are asked: the sender's egress rules and the receiver's ingress rules. A name is that of an endpoint or of a group
(`group:acme/db` where an endpoint has it too). Addresses that no endpoint has are told where an endpoint forwards for others.

Examples:
  eastgate policy who --to acme/db --port 5432/tcp       who may reach the database, by which rules
  eastgate policy who --from acme/web1                   whatever web1 may reach
  eastgate policy who --from acme/web --to acme/db1 -o json";

const DIFF: &str = "Compares what is enforced, not the text: rules that stand elsewhere or say the same in other words are no difference. All that
is treated differently is told, each with a packet for which it is so; and settings beside the rules that decide what passes.
Exit code 1 when there is a difference.

Example:
  eastgate policy diff /etc/eastgate/eastgate.toml new/eastgate.toml";

const TEST: &str = "Each expectation is a packet that goes through the real path as that of `trace` does, in each family that both ends have.
Exit code 1 when one fails.

A file with expectations:
  [[expect]]
  from = \"acme/web1\"                   # an endpoint, or an address
  to = \"acme/db1\"
  protocol = \"tcp\"                     # tcp unless told otherwise
  port = 5432
  expect = \"allow\"                     # or deny, reject, or a reason of `eastgate drop-reasons`
  rule = \"acme/db ingress #1\"          # optional: the rule of either end that does it

Beside these: from_address, to_address (one of the endpoint's), source_port, icmp_type, icmp_code, family, description.

Example:
  eastgate policy test --config new/eastgate.toml expectations.toml";

const LINT: &str = "Tells rules that do nothing, and why: unused (no endpoint has it), unmet (nobody is in the group that it names), equal (another rule
says the same), shadowed (other rules decide all that it matches), redundant (without it others would decide the same).
Exit code 1 when there are any.

Example:
  eastgate policy lint --config eastgate.toml";

const SUGGEST: &str = "Reads the flows of the running daemon, or of a file. Rules are as wide as what was seen and no wider: from a group of one end to a group
of the other, one protocol, the ports that were used. Flows that the rules let through already ask for nothing, unless
--all is given; flows that nobody answered are no evidence, unless --unanswered is given.

Examples:
  eastgate policy suggest                                 of the running daemon
  eastgate show flows -o json > flows.json
  eastgate policy suggest --config new/eastgate.toml --flows flows.json --all";

/// `eastgate policy`
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Tell who may reach whom, and by which rules
    #[command(after_help = WHO)]
    Who {
        /// Whom: TENANT/ENDPOINT, or TENANT/GROUP for each of its members
        #[arg(long, value_name = "NAME", required_unless_present = "from")]
        to: Option<String>,
        /// Who: likewise
        #[arg(long, value_name = "NAME")]
        from: Option<String>,
        /// By which service: 5432/tcp, tcp, icmp, 8/icmp (a type); any unless told otherwise
        #[arg(long, value_name = "SERVICE")]
        port: Option<who::Service>,
        /// The configuration
        #[command(flatten)]
        file: File,
    },
    /// Tell what two versions of a configuration treat differently
    #[command(after_help = DIFF)]
    Diff {
        /// The one
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The other
        #[arg(value_name = "NEW")]
        new: PathBuf,
        /// Output
        #[command(flatten)]
        output: Output,
    },
    /// Hold a configuration against written expectations
    #[command(after_help = TEST)]
    Test {
        /// Files with expectations
        #[arg(required = true, value_name = "EXPECTATIONS")]
        files: Vec<PathBuf>,
        /// The configuration
        #[command(flatten)]
        file: File,
    },
    /// Tell which rules do nothing, and why
    #[command(after_help = LINT)]
    Lint {
        /// The configuration
        #[command(flatten)]
        file: File,
    },
    /// Tell what filters by libvirt's names stand for
    #[command(after_help = "Example:\n  eastgate policy filters clean-traffic")]
    Filters {
        /// Their names; all if none is given
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Output
        #[command(flatten)]
        output: Output,
    },
    /// Write rules for flows that were seen
    #[command(after_help = SUGGEST)]
    Suggest(Suggest),
    /// Try a version of the configuration beside the one in force, on live traffic
    #[command(flatten)]
    Staged(StagedCommand),
}

/// Which configuration, and how to print
#[derive(ClapArgs, Clone, Debug)]
pub struct File {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/eastgate/eastgate.toml")]
    pub config: PathBuf,
    /// Output
    #[command(flatten)]
    pub output: Output,
}

/// Options of `policy suggest`
#[derive(ClapArgs, Clone, Debug)]
pub struct Suggest {
    /// The configuration, for its groups
    #[arg(short, long, value_name = "FILE", default_value = "/etc/eastgate/eastgate.toml")]
    pub config: PathBuf,
    /// What `eastgate show flows -o json` has printed, instead of asking the daemon
    #[arg(long, value_name = "FILE")]
    pub flows: Option<PathBuf>,
    /// Rules for flows too that the rules let through already
    #[arg(long)]
    pub all: bool,
    /// Rules for flows too that nobody answered
    #[arg(long)]
    pub unanswered: bool,
    /// The daemon
    #[command(flatten)]
    pub ask: Ask,
}

impl PolicyCommand {
    /// How its answer is printed.
    #[must_use]
    pub const fn output(&self) -> Format {
        match self {
            Self::Who { file, .. } | Self::Test { file, .. } | Self::Lint { file } => file.output.output,
            Self::Diff { output, .. } | Self::Filters { output, .. } => output.output,
            Self::Suggest(options) => options.ask.output.output,
            Self::Staged(command) => command.output(),
        }
    }
}

pub(super) fn run(command: &PolicyCommand) -> Result<u8> {
    let color = std::io::stderr().is_terminal();
    let code = |as_expected: bool| if as_expected { exit::OK } else { exit::FAILED };
    match command {
        PolicyCommand::Who { to, from, port, file } => {
            let policies = policy_tools::load(&file.config, color)?;
            let rows = who::who(&policies, from.as_deref(), to.as_deref(), port.as_ref())?;
            emit(&file.output, &rows, |rows| who_text(rows))
        }
        PolicyCommand::Diff { old, new, output } => {
            let [old, new] = [old, new].map(|path| policy_tools::load(path, color));
            let difference = diff::diff(&old?, &new?);
            emit(output, &difference, diff_text)?;
            Ok(code(difference.is_empty()))
        }
        PolicyCommand::Test { files, file } => {
            let policies = policy_tools::load(&file.config, color)?;
            let mut rows = Vec::new();
            for path in files {
                rows.extend(expect::hold(&policies.config, &expect::load(path)?)?);
            }
            emit(&file.output, &rows, |rows| test_text(rows))?;
            Ok(code(rows.iter().all(|row| row.holds)))
        }
        PolicyCommand::Lint { file } => {
            let rows = lint::lint(&policy_tools::load(&file.config, color)?);
            emit(&file.output, &rows, |rows| lint_text(rows))?;
            Ok(code(rows.is_empty()))
        }
        PolicyCommand::Filters { names, output } => {
            let unknown = names.iter().find(|name| FILTERS.iter().all(|filter| filter.name != **name));
            if let Some(name) = unknown {
                anyhow::bail!("there is no filter `{name}`; `eastgate policy filters` lists them");
            }
            let asked =
                |filter: &&config::Filter| names.is_empty() || names.iter().any(|name| *name == filter.name);
            let filters: Vec<&config::Filter> = FILTERS.iter().filter(asked).collect();
            emit(output, &filters, |filters| filters_text(filters))
        }
        PolicyCommand::Staged(command) => staged::run(command),
        PolicyCommand::Suggest(options) => {
            let policies = policy_tools::load(&options.config, color)?;
            let flows = flows(options)?;
            let what = suggest::Options { all: options.all, unanswered: options.unanswered };
            emit(&options.ask.output, &suggest::suggest(&policies, &flows, what), suggest_text)
        }
    }
}

fn flows(options: &Suggest) -> Result<Vec<FlowRow>> {
    let Some(path) = &options.flows else { return commands::all_flows(&options.ask, Filter::default()) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
    suggest::read(&name, &text)
}

fn rule(outcome: Option<&Outcome>) -> String {
    let Some(outcome) = outcome else { return "(elsewhere)".to_owned() };
    let marks = if outcome.audit { " (audit)" } else { "" };
    format!("{}{marks}", outcome.rule.as_deref().unwrap_or("no rule"))
}

/// So many addresses and services are shown in a cell; JSON has them all.
const SHOWN: usize = 4;

fn who_text(rows: &[who::Row]) -> String {
    let mut table =
        Table::new(["FROM", "ADDRESS", "TO", "ADDRESS", "SERVICE", "EGRESS RULE", "INGRESS RULE"]);
    let end = |name: &Option<String>| name.clone().unwrap_or_else(|| "(elsewhere)".to_owned());
    let list = |all: &[String]| names::some_of(all, SHOWN, ", ");
    for row in rows {
        table.row([
            end(&row.from),
            list(&row.from_addresses),
            end(&row.to),
            list(&row.to_addresses),
            list(&row.services),
            rule(row.egress.as_ref()),
            rule(row.ingress.as_ref()),
        ]);
    }
    if table.is_empty() { "nobody\n".to_owned() } else { table.to_string() }
}

fn diff_text(difference: &Difference) -> String {
    let mut text = String::new();
    let said = |outcome: &Option<Outcome>| {
        outcome.as_ref().map_or_else(|| "there is no such endpoint".to_owned(), Outcome::text)
    };
    for row in &difference.traffic {
        let who = names::some_of(&row.endpoints, SHOWN, ", ");
        let (end, direction) = if row.direction == "ingress" { ("from", "to") } else { ("to", "from") };
        let _ = writeln!(text, "{} of {}: {} {who}", row.network, row.direction, direction);
        for (key, value) in [
            (end, names::some_of(&row.peers, 2 * SHOWN, ", ")),
            ("service", names::some_of(&row.services, 2 * SHOWN, ", ")),
            ("before", said(&row.before)),
            ("after", said(&row.after)),
            ("example", row.example.clone()),
        ] {
            let _ = writeln!(text, "  {key:<8} {value}");
        }
        text.push('\n');
    }
    for setting in &difference.settings {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(not there)".to_owned());
        let (before, after) = (value(&setting.before), value(&setting.after));
        let _ = writeln!(text, "{} {}: {before} -> {after}", setting.of, setting.key);
    }
    if text.is_empty() { "no difference\n".to_owned() } else { text }
}

fn test_text(rows: &[expect::Row]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| !row.holds) {
        let _ = writeln!(text, "FAIL {}: {}", row.at, row.packet);
        let _ = writeln!(text, "  expected {}, found {}", row.expected, row.found);
        for (side, outcome) in [("egress", &row.egress), ("ingress", &row.ingress)] {
            if let Some(outcome) = outcome {
                let _ = writeln!(text, "  {side}: {}", outcome.text());
            }
        }
    }
    text + &expect::summary(rows) + "\n"
}

fn filters_text(filters: &[&config::Filter]) -> String {
    let mut table = Table::new(["FILTER", "STANDS FOR"]);
    for filter in filters {
        table.row([filter.name.to_owned(), filter.stands_for.to_owned()]);
    }
    table.to_string()
}

fn lint_text(rows: &[lint::Row]) -> String {
    let mut table = Table::new(["FINDING", "RULE", "AT", "BECAUSE"]);
    for row in rows {
        table.row([row.finding.to_owned(), row.rule.clone(), row.at.clone(), row.text.clone()]);
    }
    if table.is_empty() { "every rule does something\n".to_owned() } else { table.to_string() }
}

fn suggest_text(suggestion: &Suggestion) -> String {
    let mut text = suggest::toml(suggestion);
    let rules = names::count(suggestion.rules.len(), "rule");
    let fewest = if suggestion.fewest { "there are no fewer" } else { "there may be fewer" };
    let covered = names::count(suggestion.covered, "flow");
    let _ = writeln!(text, "# {rules} for {covered}; {fewest} that are as narrow");
    for (count, what) in [
        (suggestion.allowed, "are let through already"),
        (suggestion.unanswered, "were not answered and are left out"),
    ] {
        if count > 0 {
            let _ = writeln!(text, "# {} {what}", names::count(count, "flow"));
        }
    }
    for (why, count) in &suggestion.left_out {
        let _ = writeln!(text, "# left out: {}: {why}", names::count(*count, "flow"));
    }
    text
}
