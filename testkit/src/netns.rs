//! Named network namespaces: made, entered, configured, and taken away with whatever runs inside them.
//!
//! The name of one that is made here is `<family>-<process id>-<role>`, so two runs never meet, and what a killed run
//! left is known by the id of a process that is gone ([`sweep`]).

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
};

use crate::{
    command,
    error::Error,
    leftover,
    process::{self, Process},
    wait,
};

/// Where iproute2 keeps named namespaces.
pub const FOLDER: &str = "/run/netns";

/// How long the kernel may take to end killed processes.
const KILL_BOUND: Duration = Duration::from_secs(30);

/// Says so early, and clearly, when namespaces cannot be made here.
///
/// # Errors
/// [`Error::NeedsRoot`]
pub fn require_root() -> Result<(), Error> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Error::NeedsRoot) }
}

/// A network namespace with a name, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// The one of this name, whether it exists or not.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Whether it exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// A command that will run inside, with `/sys` showing this namespace's devices.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does `ip WORDS` inside and gives what it printed.
    ///
    /// # Errors
    /// What it says.
    pub fn ip(&self, words: &str) -> Result<String, Error> {
        self.tool("ip", words)
    }

    /// Does `bridge WORDS` inside and gives what it printed.
    ///
    /// # Errors
    /// What it says.
    pub fn bridge(&self, words: &str) -> Result<String, Error> {
        self.tool("bridge", words)
    }

    /// Does `tc WORDS` inside and gives what it printed.
    ///
    /// # Errors
    /// What it says.
    pub fn tc(&self, words: &str) -> Result<String, Error> {
        self.tool("tc", words)
    }

    /// Writes a kernel setting, given as a path below `/proc/sys`, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// What the system says.
    pub fn set(&self, key: &str, value: &str) -> Result<(), Error> {
        let path = setting(key);
        self.enter(|| fs::write(&path, value))?.map_err(Error::file(path))
    }

    /// Reads a kernel setting.
    ///
    /// # Errors
    /// What the system says.
    pub fn get(&self, key: &str) -> Result<String, Error> {
        let path = setting(key);
        let text = self.enter(|| fs::read_to_string(&path))?.map_err(Error::file(path))?;
        Ok(text.trim().to_owned())
    }

    /// Does `work` inside, on a thread of its own; sockets that it gives back stay there. A panic of `work` goes on here.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let file = self.open()?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| enter(&file).map(|()| work()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .map_err(Error::namespace(&self.name))
    }

    /// Moves the calling thread inside for the rest of its life.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn join(&self) -> Result<(), Error> {
        enter(&self.open()?).map_err(Error::namespace(&self.name))
    }

    /// The processes that run inside, this one excepted: it is among them where one of its threads has not ended yet.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        processes_of(std::slice::from_ref(self), |_| false)
    }

    /// Deletes it, with every device in it; what runs inside is ended first, for it would keep the namespace alive. That
    /// there is none of this name is what is wanted.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn delete(&self) -> Result<(), Error> {
        if !self.exists() {
            return Ok(());
        }
        end_all(|| self.processes());
        match command::run(Command::new("ip").args(["netns", "delete", &self.name])) {
            // Somebody else was faster.
            Err(_) if !self.exists() => Ok(()),
            done => done.map(drop),
        }
    }

    fn open(&self) -> Result<File, Error> {
        File::open(self.path()).map_err(Error::namespace(&self.name))
    }

    fn tool(&self, program: &str, words: &str) -> Result<String, Error> {
        command::run(Command::new(program).args(["-n", &self.name]).args(words.split_whitespace()))
    }
}

/// The processes inside any of `namespaces`, and those that `more` accepts by their folder below /proc; never this one.
pub fn processes_of(namespaces: &[Netns], more: impl Fn(&Path) -> bool) -> Vec<Process> {
    let identities: Vec<_> = namespaces.iter().filter_map(|netns| identity(&netns.path())).collect();
    let inside = |folder: &Path| identity(&folder.join("ns/net")).is_some_and(|is| identities.contains(&is));
    let mut found = process::find(|folder| inside(folder) || more(folder));
    found.retain(|process| !process.is_self());
    found
}

/// Kills what `find` finds, and what it finds after that, until there is nothing more; false if something is left.
pub fn end_all(find: impl Fn() -> Vec<Process>) -> bool {
    wait::until(KILL_BOUND, || {
        let left = find();
        left.iter().for_each(|process| process.signal(Signal::SIGKILL));
        left.iter().all(|process| !process.is_alive())
    })
}

/// A namespace of our own. Dropping it ends whatever runs inside and deletes it with every device in it.
#[derive(Debug)]
pub struct Namespace {
    netns: Netns,
}

impl Namespace {
    /// Makes an empty one whose loopback is up. `family` tells what kind of run it is of, `role` what it is there.
    ///
    /// # Errors
    /// When it cannot be made; then nothing is left.
    pub fn create(family: &str, role: &str) -> Result<Self, Error> {
        let netns = Netns::named(format!("{family}-{}-{role}", std::process::id()));
        command::run(Command::new("ip").args(["netns", "add", netns.name()]))?;
        let namespace = Self { netns };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }
}

impl std::ops::Deref for Namespace {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.netns
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // This also runs while something panics, so it must not: nothing more can be done about a failure, but it must
        // not go unseen.
        if let Err(error) = self.netns.delete() {
            let _ = writeln!(io::stderr(), "warning: {error}");
        }
    }
}

/// Deletes namespaces of `family` whose run was killed before it could clean up.
///
/// # Errors
/// When the namespaces there are cannot be listed, or one does not go.
pub fn sweep(family: &str) -> Result<(), Error> {
    let names = leftover::of_dead_runs(Path::new(FOLDER), &format!("{family}-"))?;
    names.into_iter().try_for_each(|name| Netns::named(name).delete())
}

/// Joins two namespaces by a veth pair with these device names and this MTU; both ends are left down.
///
/// # Errors
/// What `ip` says.
pub fn veth((left, a): (&Netns, &str), (right, b): (&Netns, &str), mtu: u32) -> Result<(), Error> {
    let right = right.name();
    left.ip(&format!("link add name {a} mtu {mtu} type veth peer name {b} mtu {mtu} netns {right}")).map(drop)
}

/// What tells a namespace from others, whatever it is called.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn enter(file: &File) -> io::Result<()> {
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

fn setting(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_root() -> bool {
        let root = require_root().is_ok();
        if !root {
            eprintln!("skipped: needs root");
        }
        root
    }

    #[test]
    fn what_is_made_is_gone_with_its_owner_and_what_runs_inside_with_it() {
        if !is_root() {
            return;
        }
        let namespace = Namespace::create("egk", "ends").unwrap();
        let netns = (*namespace).clone();
        let mut inside = namespace.command("sleep").arg("600").spawn().unwrap();
        assert!(wait::until(wait::BOUND, || !netns.processes().is_empty()));
        drop(namespace);
        assert!(!netns.exists());
        assert!(!inside.wait().unwrap().success());
    }

    #[test]
    fn a_panic_leaves_nothing() {
        if !is_root() {
            return;
        }
        let netns = Netns::named(format!("egk-{}-panic", std::process::id()));
        let panicked = std::panic::catch_unwind(|| {
            let _namespace = Namespace::create("egk", "panic").unwrap();
            panic!("on purpose");
        });
        assert!(panicked.is_err() && !netns.exists());
    }

    #[test]
    fn two_are_joined_and_have_settings_of_their_own() {
        if !is_root() {
            return;
        }
        let (left, right) =
            (Namespace::create("egk", "left").unwrap(), Namespace::create("egk", "right").unwrap());
        veth((&left, "a"), (&right, "b"), 1400).unwrap();
        assert!(right.ip("link show dev b").unwrap().contains("mtu 1400"));
        assert!(left.ip("link show dev b").unwrap_err().to_string().contains("`ip -n egk-"));
        left.set("net/ipv4/ip_forward", "1").unwrap();
        right.set("net/ipv4/ip_forward", "0").unwrap();
        assert_eq!(left.get("net/ipv4/ip_forward").unwrap(), "1");
        assert!(left.get("net/no/such/setting").unwrap_err().to_string().contains("net/no/such/setting"));
        let names = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert!(left.enter(names).unwrap().contains(" a:") && !names().contains(" a:"));
    }

    #[test]
    fn what_a_dead_run_left_is_swept_and_nothing_else() {
        if !is_root() {
            return;
        }
        // Process ids end at 2^22 on Linux.
        let (dead, mine) = (Netns::named("egks-4999999-x"), Namespace::create("egks", "x").unwrap());
        command::run(Command::new("ip").args(["netns", "add", dead.name()])).unwrap();
        sweep("egks").unwrap();
        assert!(!dead.exists() && mine.exists());
    }
}
