//! `eastgate lab`: its grammar, and the way to the program that does it.
//!
//! Labs forge frames and make namespaces, which nothing that carries tenants' traffic should be able to. So they are a
//! program of their own, `eastgate-lab`, and `eastgate lab` becomes that program. What can be asked is written down here
//! once for both: what is wrong with a command line is told by `eastgate` itself, and so is `eastgate lab --help`.

use std::{
    convert::Infallible,
    env,
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process,
};

use clap::{Args, Subcommand, ValueEnum};

/// The program that plays labs.
pub const PROGRAM: &str = "eastgate-lab";

/// Run stories of tenants' networks in network namespaces, and check them with real traffic
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Build a lab and start its daemons
    Up(UpArgs),
    /// Send the traffic a story speaks of and compare; a story that does not run is brought up and taken down
    Check(CheckArgs),
    /// Send what a story refuses without a pause, while its hosts are stopped, killed, tampered with and unplugged
    Stress(StressArgs),
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
    pub story: String,
    /// Show every command that builds the lab
    #[arg(short, long)]
    pub verbose: bool,
}

/// `eastgate lab check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The id of a running lab, or a story
    pub lab: String,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: ReportFormat,
    /// Show every command that builds the lab
    #[arg(short, long)]
    pub verbose: bool,
}

/// `eastgate lab stress`
#[derive(Debug, Args)]
pub struct StressArgs {
    /// The id of a running lab, or a story
    pub lab: String,
    /// How often each host goes through all of it: a stop, a kill, settings that are changed, a port that is unplugged
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: ReportFormat,
    /// Show every command that builds the lab
    #[arg(short, long)]
    pub verbose: bool,
}

/// `eastgate lab exec`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The id or the story of a running lab
    pub lab: String,
    /// A switch, host, VTEP or machine
    pub node: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// `eastgate lab graph`
#[derive(Debug, Args)]
pub struct GraphArgs {
    /// The id of a running lab, or a story
    pub lab: String,
    /// How it is drawn
    #[arg(short, long, value_enum, default_value_t)]
    pub output: GraphFormat,
}

/// `eastgate lab down`
#[derive(Debug, Args)]
pub struct DownArgs {
    /// The id or the story of a running lab
    #[arg(required_unless_present = "all")]
    pub lab: Option<String>,
    /// Every lab
    #[arg(long, conflicts_with = "lab")]
    pub all: bool,
    /// Show every command
    #[arg(short, long)]
    pub verbose: bool,
}

/// `eastgate lab list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// How they are printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: ReportFormat,
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

/// Why the program that plays labs could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is not installed, or not where it is looked for.
    #[error(
        "labs are played by `{PROGRAM}`, a program of its own, which is {}; install it beside `eastgate` \
         (`cargo install --path labs/runner`, or copy it from where it was built)",
        sought(beside.as_deref())
    )]
    Missing {
        /// The folder of this program, where that is known
        beside: Option<PathBuf>,
    },
    /// It is there and does not start.
    #[error("{}: {error}", program.display())]
    Start {
        /// The program
        program: PathBuf,
        /// What the system said
        error: io::Error,
    },
}

/// Becomes the program that plays labs, with the arguments that this one was given after `lab`. It is the same process
/// afterwards, so signals reach it and its exit code is that of this command.
///
/// # Errors
/// Why that is not possible; it does not return otherwise.
pub fn become_program() -> Result<Infallible, StartError> {
    let this = env::current_exe().ok();
    let beside = this.as_deref().and_then(Path::parent).map(Path::to_owned);
    // Of the same build, rather than whatever else is installed.
    let found = beside.as_ref().map(|folder| folder.join(PROGRAM)).filter(|program| program.is_file());
    let program = found.unwrap_or_else(|| PROGRAM.into());
    let mut command = process::Command::new(&program);
    if let Some(this) = &this {
        command.arg("--eastgate").arg(this);
    }
    let error = command.args(after_lab(env::args_os())).exec();
    match error.kind() {
        io::ErrorKind::NotFound => Err(StartError::Missing { beside }),
        _ => Err(StartError::Start { program, error }),
    }
}

/// Where the program is not.
fn sought(beside: Option<&Path>) -> String {
    match beside {
        Some(folder) => format!("neither in {} nor in PATH", folder.display()),
        None => "not in PATH".into(),
    }
}

/// What was typed after `lab`. No option of `eastgate` stands before it.
fn after_lab(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    arguments.skip(1).skip_while(|argument| argument != "lab").skip(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_handed_on_as_they_were_typed() {
        let typed = ["lab", "lab", "exec", "lab", "node", "--", "ls", "-l"].map(OsString::from);
        let handed: Vec<_> = after_lab(typed.into_iter()).collect();
        assert_eq!(handed, ["exec", "lab", "node", "--", "ls", "-l"]);
    }

    #[test]
    fn who_lacks_the_program_is_told_its_name_and_how_to_get_it() {
        let told = StartError::Missing { beside: Some("/usr/local/sbin".into()) }.to_string();
        for wanted in
            ["`eastgate-lab`", "neither in /usr/local/sbin nor in PATH", "cargo install --path labs/runner"]
        {
            assert!(told.contains(wanted), "{told}");
        }
        let told = StartError::Missing { beside: None }.to_string();
        assert!(told.contains("which is not in PATH"), "{told}");
    }
}
