//! The emulated machine: started, listened to, and ended when its time is over.

use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::run::{self, Running};
use crate::stop;

/// How often an interrupt is looked for while the machine says nothing.
const TURN: Duration = Duration::from_millis(200);
/// What the machine is made of.
#[derive(Debug)]
pub(super) struct Machine {
    /// The kernel that boots.
    pub(super) kernel: PathBuf,
    /// What it has in memory.
    pub(super) image: PathBuf,
    /// Where the kernel's own messages go.
    pub(super) console: PathBuf,
    /// How long a story may take, by the machine's clock.
    pub(super) story_bound: Duration,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum End {
    /// By itself
    Ended(ExitStatus),
    /// Because its time was over
    Late,
}

impl Machine {
    /// The emulator: the kernel's messages go to the console's file, what the stories say to standard output.
    pub(super) fn command(&self) -> Command {
        let seconds = self.story_bound.as_secs();
        // An end of init is a panic, and a panic a reboot, which ends the emulator. What the kernel does not know of
        // its command line becomes init's environment.
        let line = format!("console=ttyS0 loglevel=5 panic=-1 story_seconds={seconds}");
        let console = format!("file:{}", self.console.display().to_string().replace(',', ",,"));
        let mut command = Command::new("qemu-system-x86_64");
        // Emulated throughout: /dev/kvm is there on many machines that are virtual themselves and cannot boot a
        // stock kernel on it. `max` has a source of random numbers, for which a boot would otherwise wait.
        command.args(["-accel", "tcg", "-cpu", "max", "-m", "1024"]);
        // A nanosecond is an instruction, and idle time is skipped: no bound of a story passes because this machine
        // is slow or busy. The emulator can do that with one processor only.
        command.args(["-smp", "1", "-icount", "shift=0,sleep=off"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.image).args(["-append", &line]);
        command.args(["-serial", &console, "-serial", "stdio"]);
        command
    }
}

/// Runs `command` at most `bound` and gives each line it writes to `hear`.
pub(super) fn watch(command: &mut Command, bound: Duration, mut hear: impl FnMut(&str)) -> Result<End> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = Running(spawned.with_context(|| format!("cannot start `{shown}`"))?);
    let output = child.0.stdout.take().context("no pipe")?;
    let lines = run::lines(output);
    let deadline = Instant::now() + bound;
    loop {
        stop::check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(End::Late);
        }
        match lines.recv_timeout(left.min(TURN)) {
            Ok(line) => hear(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(End::Ended(child.0.wait()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, bound: Duration) -> (End, Vec<String>) {
        let mut heard = Vec::new();
        let end = watch(Command::new("sh").args(["-c", script]), bound, |line| heard.push(line.to_owned()));
        (end.unwrap(), heard)
    }

    #[test]
    fn every_line_is_heard_and_the_end_is_told() {
        let (end, heard) = shell(r"printf 'one\r\ntwo\nthree'; exit 3", Duration::from_secs(20));
        assert_eq!(heard, ["one", "two", "three"]);
        assert!(matches!(end, End::Ended(status) if status.code() == Some(3)), "{end:?}");
    }

    #[test]
    fn a_hang_ends_by_the_bound() {
        let started = Instant::now();
        let (end, heard) = shell("echo here; exec sleep 600", Duration::from_millis(500));
        assert!(matches!(end, End::Late), "{end:?}");
        assert_eq!(heard, ["here"]);
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
