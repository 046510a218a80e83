//! Processes that outlive the command that started them: known by id and start time, so that a number that was
//! given to somebody else is never signalled.

use std::{fs, path::Path, time::Duration};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::wait::until;

/// How long a process may take to end in order.
const GRACE: Duration = Duration::from_secs(30);

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: i32,
    /// Clock ticks after boot (proc(5), field 22 of stat)
    started: u64,
}

impl Process {
    /// The process that has this id now.
    #[must_use]
    pub fn new(pid: i32) -> Option<Self> {
        let (.., started) = stat(pid)?;
        Some(Self { pid, started })
    }

    /// Whether it is this very process.
    #[must_use]
    pub fn is_self(self) -> bool {
        self.pid == std::process::id() as i32
    }

    /// Whether it still runs. One whose first thread is a zombie has its files, and whoever connects to it is heard, until the
    /// last of its threads has ended.
    #[must_use]
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, threads, started)| {
            started == self.started && (!matches!(state, 'Z' | 'X') || threads > 1)
        })
    }

    /// Sends `signal`, if it still runs.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // Gone in between is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits until it has ended, at most `bound`; true if it has. Its exit status is taken, where it is a child of this
    /// process.
    pub fn wait(self, bound: Duration) -> bool {
        until(bound, || !self.is_alive()) && self.reap()
    }

    /// Ends it: in order if it does that in time, at once if not.
    pub fn stop(self) {
        self.signal(Signal::SIGTERM);
        if !self.wait(GRACE) {
            self.kill();
        }
    }

    /// Ends it at once.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
        self.wait(GRACE);
    }

    /// Takes the exit status, where it is a child of this process.
    fn reap(self) -> bool {
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        true
    }
}

/// The processes that `wanted` accepts by their folder below /proc.
pub fn find(wanted: impl Fn(&Path) -> bool) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let pid = |folder: &Path| folder.file_name()?.to_str()?.parse().ok();
    folders
        .filter_map(|folder| Some((pid(&folder)?, folder)))
        .filter(|(_, folder)| wanted(folder))
        .filter_map(|(pid, _)| Process::new(pid))
        .collect()
}

/// State, number of threads and start time of a process.
fn stat(pid: i32) -> Option<(char, u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may have anything in it; what follows the last one has not.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    let threads = fields.nth(16)?.parse().ok()?;
    Some((state, threads, fields.nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

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
}
