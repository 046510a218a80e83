//! `eastgate lab ...`: the commands, and what they print.

use std::{io::Write, process::ExitCode};

use clap::{Args, Subcommand, ValueEnum};

use super::{Interrupt, LabError, Options, Record};

/// Run stories of tenants' networks in network namespaces, and check them with real traffic
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Build a lab and start its daemons
    Up(UpArgs),
    /// Send the traffic a story speaks of and compare; a story that does not run is brought up and taken down
    Check(CheckArgs),
    /// Run a command inside a node; `$EASTGATE_SOCKET` is the control socket of a host
    Exec(ExecArgs),
    /// Draw a story
    Graph(GraphArgs),
    /// Take a lab down
    Down(DownArgs),
    /// Show the labs that run
    List(ListArgs),
}

/// `eastgate lab up`
#[derive(Debug, Args)]
pub struct UpArgs {
    /// A folder with a topology.toml, or the name of a story: of one below labs/ here, or of those that the program carries
    story: String,
    /// Show every command that builds the lab
    #[arg(short, long)]
    verbose: bool,
}

/// `eastgate lab check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The id of a running lab, or a story
    lab: String,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    /// Show every command that builds the lab
    #[arg(short, long)]
    verbose: bool,
}

/// `eastgate lab exec`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The id or the story of a running lab
    lab: String,
    /// A switch, host, VTEP or machine
    node: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// `eastgate lab graph`
#[derive(Debug, Args)]
pub struct GraphArgs {
    /// The id of a running lab, or a story
    lab: String,
    /// How it is drawn
    #[arg(short, long, value_enum, default_value_t)]
    output: GraphFormat,
}

/// `eastgate lab down`
#[derive(Debug, Args)]
pub struct DownArgs {
    /// The id or the story of a running lab
    #[arg(required_unless_present = "all")]
    lab: Option<String>,
    /// Every lab
    #[arg(long, conflicts_with = "lab")]
    all: bool,
    /// Show every command
    #[arg(short, long)]
    verbose: bool,
}

/// `eastgate lab list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// How they are printed
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
}

/// A table for people, or JSON for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A table
    #[default]
    Table,
    /// JSON
    Json,
}

/// How a lab is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// A tree
    #[default]
    Text,
    /// Graphviz
    Dot,
}

/// Does what `command` says. The exit code is 1 when an expectation failed.
///
/// # Errors
/// Why it could not be done.
pub fn run(command: LabCommand) -> Result<ExitCode, LabError> {
    match command {
        LabCommand::Up(args) => {
            super::needs_root()?;
            let lab = super::up(&args.story, &options(args.verbose)?)?;
            print(&welcome(&lab));
        }
        LabCommand::Check(args) => {
            super::needs_root()?;
            let report = super::check(&args.lab, &options(args.verbose)?)?;
            match args.output {
                ReportFormat::Table => print(&report.to_string()),
                ReportFormat::Json => print(&json(&report)),
            }
            return Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        LabCommand::Exec(args) => {
            match super::exec(&args.lab, &args.node, &args.command, &Options::new()?)? {}
        }
        LabCommand::Graph(args) => print(&super::graph(&args.lab, args.output)?),
        LabCommand::Down(args) => {
            super::needs_root()?;
            let options = options(args.verbose)?;
            match args.lab {
                Some(lab) => super::down(&lab, &options)?,
                None => super::list()?.iter().try_for_each(|lab| super::down(&lab.id, &options))?,
            }
        }
        LabCommand::List(args) => print_labs(&super::list()?, args.output),
    }
    Ok(ExitCode::SUCCESS)
}

fn options(verbose: bool) -> Result<Options, LabError> {
    Ok(Options { verbose, interrupt: Interrupt::watch(), ..Options::new()? })
}

fn welcome(lab: &Record) -> String {
    let id = &lab.id;
    let mut text = format!("lab {id} is up: {}\n\n", lab.title);
    for node in &lab.nodes {
        text += &format!(
            "  {:<8} {:<20} {}\n",
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
                    eastgate_wire::names::count(lab.nodes.len(), "node"),
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
