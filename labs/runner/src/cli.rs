//! What each command does, and what it prints.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::Parser;
use eastgate::cli::{
    exit,
    lab::{LabCommand, ReportFormat},
};
use eastgate_wire::names;

use super::{Interrupt, LabError, Options, Record};

/// Plays eastgate's labs: hosts, tenants and expectations in network namespaces.
///
/// `eastgate lab` is this program, with the same commands.
#[derive(Parser, Debug)]
#[command(name = "eastgate-lab", version, propagate_version = true)]
struct Args {
    /// The `eastgate` that hosts run; without it the one beside this program, or else in PATH
    #[arg(long, value_name = "FILE")]
    eastgate: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    command: LabCommand,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // A reader that goes away early (`eastgate lab list | head`) ends the command quietly.
    eastgate::io::end_with_a_closed_pipe(true);
    let args = Args::parse();
    run(args).unwrap_or_else(|error| {
        eprintln!("eastgate: {error}");
        ExitCode::from(exit::FAILED)
    })
}

/// Does what the command line says. The exit code is 1 when an expectation failed.
fn run(args: Args) -> Result<ExitCode, LabError> {
    let mut options = Options::default();
    if let Some(eastgate) = args.eastgate {
        options.eastgate = eastgate;
    }
    match args.command {
        LabCommand::Up(args) => {
            super::needs_root()?;
            let lab = super::up(&args.story, &watched(options, args.verbose))?;
            print(&welcome(&lab));
        }
        LabCommand::Check(args) => {
            super::needs_root()?;
            let report = super::check(&args.lab, &watched(options, args.verbose))?;
            match args.output {
                ReportFormat::Table => print(&report.to_string()),
                ReportFormat::Json => print(&json(&report)),
            }
            return Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        LabCommand::Stress(args) => {
            super::needs_root()?;
            let report = super::stress(&args.lab, args.rounds, &watched(options, args.verbose))?;
            match args.output {
                ReportFormat::Table => print(&report.to_string()),
                ReportFormat::Json => print(&json(&report)),
            }
            return Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        LabCommand::Exec(args) => match super::exec(&args.lab, &args.node, &args.command, &options)? {},
        LabCommand::Graph(args) => print(&super::graph(&args.lab, args.output)?),
        LabCommand::Down(args) => {
            super::needs_root()?;
            let options = watched(options, args.verbose);
            match args.lab {
                Some(lab) => super::down(&lab, &options)?,
                None => super::list()?.iter().try_for_each(|lab| super::down(&lab.id, &options))?,
            }
        }
        LabCommand::List(args) => print_labs(&super::list()?, args.output),
    }
    Ok(ExitCode::SUCCESS)
}

fn watched(options: Options, verbose: bool) -> Options {
    Options { verbose, interrupt: Interrupt::watch(), ..options }
}

fn welcome(lab: &Record) -> String {
    let id = &lab.id;
    let mut text = format!("lab {id} is up: {}\n\n", lab.title);
    for node in &lab.nodes {
        text += &format!(
            "  {:<10} {:<20} {}\n",
            format!("{:?}", node.kind).to_lowercase(),
            node.name,
            node.namespace
        );
    }
    text += "\n";
    for host in lab.hosts() {
        text += &format!("  eastgate status --socket {}\n", lab.socket(host).display());
    }
    text + &format!(
        "  eastgate lab check {id}\n  eastgate lab exec {id} NODE -- COMMAND\n  eastgate lab down {id}\n"
    )
}

fn print_labs(labs: &[Record], output: ReportFormat) {
    match output {
        ReportFormat::Json => print(&json(&labs)),
        ReportFormat::Table => {
            let line = |lab: &Record| {
                format!(
                    "{}  {:>9}  {}  {}\n",
                    lab.id,
                    names::count(lab.nodes.len(), "node"),
                    lab.folder.display(),
                    lab.title
                )
            };
            print(&labs.iter().map(line).collect::<String>());
        }
    }
}

fn json(value: &impl serde::Serialize) -> String {
    // What is printed here is made of strings, numbers and lists, which always have a JSON form.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// A reader that went away (`| head`) has what it wanted.
fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
