//! Processes that outlive the command that started them: known by id and start time, so that a number that was
//! given to somebody else is never signalled.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// How often a condition is looked at that cannot be waited for.
pub(super) const POLL: Duration = Duration::from_millis(20);
/// How long a process may take to end in order.
const GRACE: Duration = Duration::from_secs(5);

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pid: i32,
    /// Clock ticks after boot (proc(5), field 22 of stat)
    started: u64,
}

impl Process {
    /// The process that has this id now.
    pub(super) fn new(pid: i32) -> Option<Self> {
        let (_, started) = stat(pid)?;
        Some(Self { pid, started })
    }

    /// Whether it is this very process.
    pub(super) fn is_self(self) -> bool {
        self.pid == std::process::id() as i32
    }

    /// Whether it still runs.
    pub(super) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }

    /// Sends `signal`, if it still runs.
    pub(super) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // Gone in between is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits until it has ended, at most `bound`; true if it has.
    pub(super) fn wait(self, bound: Duration) -> bool {
        until(bound, || !self.is_alive()) && self.reap()
    }

    /// Ends it: in order if it does that in time, at once if not.
    pub(super) fn stop(self) {
        self.signal(Signal::SIGTERM);
        if !self.wait(GRACE) {
            self.kill();
        }
    }

    /// Ends it at once.
    pub(super) fn kill(self) {
        self.signal(Signal::SIGKILL);
        self.wait(GRACE);
    }

    /// Takes the exit status, where it is a child of this process.
    fn reap(self) -> bool {
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        true
    }
}

/// Looks at `holds` until it does, at most `bound`.
pub(super) fn until(bound: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + bound;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Runs `command` and gives its output, at most `bound`; what went wrong as text.
pub(super) fn output(command: &mut Command, bound: Duration) -> Result<String, String> {
    use std::{io::Read, os::unix::process::CommandExt, process::Stdio};
    // A group of its own: Ctrl-C is for the lab, which ends its commands itself.
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut text = String::new();
            let read = pipe.map(|mut pipe| pipe.read_to_string(&mut text));
            read.transpose().map(|_| text)
        })
    };
    let stdout = reader(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let stderr = reader(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let ended = until(bound, || !matches!(child.try_wait(), Ok(None)));
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let text = |thread: thread::JoinHandle<std::io::Result<String>>| thread.join().ok().and_then(Result::ok);
    let (stdout, stderr) = (text(stdout).unwrap_or_default(), text(stderr).unwrap_or_default());
    match (ended, status.success()) {
        (true, true) => Ok(stdout),
        (true, false) => Err(format!("{status}: {}", stderr.trim())),
        (false, _) => Err(format!("no end after {} ms", bound.as_millis())),
    }
}

/// The processes that `wanted` accepts by their folder below /proc.
pub(super) fn find(wanted: impl Fn(&Path) -> bool) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let pid = |folder: &Path| folder.file_name()?.to_str()?.parse().ok();
    folders
        .filter_map(|folder| Some((pid(&folder)?, folder)))
        .filter(|(_, folder)| wanted(folder))
        .filter_map(|(pid, _)| Process::new(pid))
        .collect()
}

/// State and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may have anything in it; what follows the last one has not.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_too() {
        let me = Process::new(std::process::id() as i32).unwrap();
        assert!(me.is_alive());
        assert!(!Process { started: me.started + 1, ..me }.is_alive());
    }

    #[test]
    fn ending_is_waited_for() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::new(child.id() as i32).unwrap();
        assert!(process.is_alive());
        process.stop();
        assert!(!process.is_alive());
        let _ = child.wait();
    }

    #[test]
    fn output_is_bounded() {
        assert_eq!(output(Command::new("echo").arg("hi"), Duration::from_secs(5)).unwrap(), "hi\n");
        let late = output(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(late.contains("50 ms"), "{late}");
        assert!(output(&mut Command::new("false"), Duration::from_secs(5)).is_err());
    }
}
