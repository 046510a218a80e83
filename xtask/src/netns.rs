//! Network namespaces that live as long as the value that owns them.
//!
//! A name is `egx-<process id>-<role>`, so two runs never meet, and what a killed run left is known by the id of a
//! process that is gone. No device is ever made in the root namespace: both ends of every veth are created in
//! namespaces of ours.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::{leftover, run};

const PREFIX: &str = "egx-";
const HOME: &str = "/run/netns";

/// A namespace of our own; dropping it deletes it and every device in it.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes an empty namespace whose loopback is up.
    pub(crate) fn create(role: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        run::output(Command::new("ip").args(["netns", "add", &name]))?;
        let path = Path::new(HOME).join(&name);
        let handle = File::open(&path).inspect_err(|_| delete(&name));
        let namespace = Self { name, handle: handle.with_context(|| path.display().to_string())? };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `ip WORDS` inside.
    pub(crate) fn ip(&self, words: &str) -> Result<()> {
        self.tool("ip", words)
    }

    /// Runs `bridge WORDS` inside.
    pub(crate) fn bridge(&self, words: &str) -> Result<()> {
        self.tool("bridge", words)
    }

    /// Writes a `net.*` setting, given as a path below `/proc/sys/net`.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("{} in {}", path.display(), self.name))
    }

    /// A command that will run inside, with `/sys` showing this namespace's devices.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Moves the calling thread inside for the rest of its life.
    pub(crate) fn join(&self) -> Result<()> {
        setns(self.handle.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}", self.name))
    }

    /// Runs `work` on a thread of its own inside; sockets it returns stay in the namespace.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        enter_by(&self.handle, &self.name, work)
    }

    fn tool(&self, program: &str, words: &str) -> Result<()> {
        run::output(Command::new(program).args(["-n", &self.name]).args(words.split_whitespace())).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// Runs `work` on a thread of its own inside a namespace of somebody else; sockets it returns stay there.
pub(crate) fn enter<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let handle = File::open(Path::new(HOME).join(name)).with_context(|| format!("namespace {name}"))?;
    enter_by(&handle, name, work)
}

/// Joins two namespaces by a veth pair with the given device names and MTU; both ends are left down.
pub(crate) fn veth(left: (&Namespace, &str), right: (&Namespace, &str), mtu: u32) -> Result<()> {
    let ((left, left_name), (right, right_name)) = (left, right);
    left.ip(&format!(
        "link add {left_name} mtu {mtu} type veth peer name {right_name} mtu {mtu} netns {}",
        right.name
    ))
}

/// Deletes namespaces whose run was killed before it could clean up.
pub(crate) fn sweep() -> Result<()> {
    leftover::of_dead_runs(Path::new(HOME), PREFIX)?.iter().for_each(|name| delete(name));
    Ok(())
}

/// Says so early, and clearly, when namespaces cannot be made here.
pub(crate) fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces need root: run this as root, or through `sudo -E env PATH=\"$PATH\"`");
    }
    Ok(())
}

fn enter_by<T: Send>(handle: &File, name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| join(handle, name).map(|()| work()));
        thread.join().map_err(|_| anyhow!("a thread in {name} panicked"))?
    })
}

fn join(handle: &File, name: &str) -> Result<()> {
    setns(handle.as_fd(), CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {name}"))
}

fn delete(name: &str) {
    // Nothing more can be done about a failure while going down, but it must not go unseen.
    if let Err(error) = run::output(Command::new("ip").args(["netns", "del", name])) {
        eprintln!("warning: {error:#}");
    }
}
