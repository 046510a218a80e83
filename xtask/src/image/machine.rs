//! An emulated machine that is talked to: its monitor, and for the one with the switch a shell.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use eastgate_testkit::wait;

use crate::run::{self, Running};
use crate::stop;

/// How often an interrupt is looked for.
const TURN: Duration = Duration::from_millis(200);
/// How long a command of the switch's shell may take, unless it says otherwise.
pub(super) const COMMAND_BOUND: Duration = Duration::from_secs(60);

/// A running one, which ends with its owner.
#[derive(Debug)]
pub(super) struct Machine {
    child: Running,
    monitor: PathBuf,
    /// What its first serial line has said
    pub(super) console: PathBuf,
}

impl Machine {
    /// Starts `qemu` with what `arguments` say. `folder` and `name` say where its console's log and monitor are.
    pub(super) fn start(folder: &Path, name: &str, arguments: impl FnOnce(&mut Command)) -> Result<Self> {
        let (monitor, console) = (folder.join(format!("{name}.qmp")), folder.join(format!("{name}.log")));
        let _ = std::fs::remove_file(&monitor);
        let mut command = Command::new("qemu-system-x86_64");
        // Emulated throughout: see the machine of `cargo xtask test --kernel`.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-device", "virtio-rng-pci"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        arguments(&mut command);
        let child = command.spawn().context("cannot start `qemu-system-x86_64`")?;
        Ok(Self { child: Running(child), monitor, console })
    }

    /// Its power button is pressed for long, and it starts again: nothing in it is asked.
    pub(super) fn reset(&self) -> Result<()> {
        self.command("{\"execute\": \"system_reset\"}")
    }

    /// Has the emulator do what a command of its monitor says.
    pub(super) fn command(&self, command: &str) -> Result<()> {
        let stream = UnixStream::connect(&self.monitor).context("the emulator's monitor")?;
        stream.set_read_timeout(Some(COMMAND_BOUND))?;
        let mut said = BufReader::new(stream.try_clone()?).lines();
        said.next().context("the monitor says nothing")??;
        for command in ["{\"execute\": \"qmp_capabilities\"}", command] {
            writeln!(&stream, "{command}")?;
            // Events may come before the answer.
            let is_answer = |line: &String| line.contains("\"return\"") || line.contains("\"error\"");
            let answer = said.find(|line| line.as_ref().map_or(true, is_answer));
            let answer = answer.with_context(|| format!("the monitor does not answer {command}"))??;
            ensure!(answer.contains("\"return\""), "the monitor answers {command} by {answer}");
        }
        Ok(())
    }

    /// An error once it has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.0.try_wait()? {
            Some(status) => bail!("the machine ended ({status}); its console said:\n{}", self.tail()),
            None => Ok(()),
        }
    }

    /// The last lines of its console.
    pub(super) fn tail(&self) -> String {
        run::tail(&self.console)
    }
}

/// A machine's shell at its second serial line, which has neither echo nor prompt.
#[derive(Debug)]
pub(super) struct Shell {
    pub(super) machine: Machine,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl Shell {
    /// Starts a machine whose init serves a shell, and waits until it does.
    pub(super) fn start(folder: &Path, name: &str, arguments: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut machine = Machine::start(folder, name, |command| {
            arguments(command);
            command.args(["-serial", "stdio"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        })?;
        let commands = machine.child.0.stdin.take().context("no pipe")?;
        let output = machine.child.0.stdout.take().context("no pipe")?;
        let shell = Self { machine, commands, answers: run::lines(output) };
        shell.until("##### ready", COMMAND_BOUND)?;
        Ok(shell)
    }

    /// What a command writes, which has to succeed.
    pub(super) fn run(&mut self, command: &str) -> Result<String> {
        let (code, said) = self.try_run(command)?;
        ensure!(code == "0", "`{command}` ended with {code}: {said}");
        Ok(said)
    }

    /// Whether a command succeeds.
    pub(super) fn succeeds(&mut self, command: &str) -> Result<bool> {
        Ok(self.try_run(command)?.0 == "0")
    }

    /// What a command ends with, and writes.
    fn try_run(&mut self, command: &str) -> Result<(String, String)> {
        self.machine.check()?;
        writeln!(self.commands, "{{ {command}\n}} 2>&1; echo \"##### exit $?\"")?;
        let mut said = self.until("##### exit ", COMMAND_BOUND).with_context(|| command.to_owned())?;
        let last = said.pop().unwrap_or_default();
        let code = last.rsplit(' ').next().unwrap_or_default().to_owned();
        Ok((code, said.join("\n")))
    }

    /// The lines up to one that begins with `mark`, that one included.
    fn until(&self, mark: &str, bound: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + bound;
        let mut lines = Vec::new();
        loop {
            stop::check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no answer within {} s: {}", bound.as_secs(), lines.join("\n"));
            match self.answers.recv_timeout(left.min(TURN)) {
                Ok(line) if line.starts_with(mark) => {
                    lines.push(line);
                    return Ok(lines);
                }
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the machine ended; its console said:\n{}", self.machine.tail())
                }
            }
        }
    }
}

/// Looks at `holds` until it does; an error after `bound`, or when the user asks for an end.
pub(super) fn wait_for(
    what: &str,
    bound: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begun = Instant::now();
    let mut failed = None;
    let held = wait::until_every(TURN, bound, || match stop::check().and_then(|()| holds()) {
        Ok(holds) => holds,
        Err(error) => {
            failed = Some(error);
            true
        }
    });
    match failed {
        Some(error) => Err(error.context(format!("while waiting: {what}"))),
        None if held => Ok(begun.elapsed()),
        None => bail!("not within {} s: {what}", bound.as_secs()),
    }
}
