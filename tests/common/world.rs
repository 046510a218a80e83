//! A few network namespaces that belong to one test. What fails here fails the test.

use std::{
    io,
    path::PathBuf,
    process::Command,
    sync::{
        Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use eastgate_testkit::{Error, Namespace, Netns, leftover, netns};

/// Most tests wait most of the time, and share the machine; those that measure it have it alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// Tells the worlds of one process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// What the names of all worlds begin with.
const FAMILY: &str = "egt";

/// The namespaces and files of one test.
pub struct World {
    number: u32,
    folder: PathBuf,
    spaces: Vec<Namespace>,
    _turn: Turn,
}

/// What is held of the machine.
enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// A network namespace of a world.
#[derive(Clone, Debug)]
pub struct Space(Netns);

impl World {
    /// An empty world; none without root.
    pub fn new() -> Option<Self> {
        Self::within(|| Turn::Shared { _guard: MACHINE.read().unwrap_or_else(PoisonError::into_inner) })
    }

    /// An empty world of a test that measures: no other of its program runs meanwhile.
    pub fn alone() -> Option<Self> {
        Self::within(|| Turn::Alone { _guard: MACHINE.write().unwrap_or_else(PoisonError::into_inner) })
    }

    fn within(turn: impl FnOnce() -> Turn) -> Option<Self> {
        if netns::require_root().is_err() {
            eprintln!("skipped: needs root");
            return None;
        }
        let turn = turn();
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("{FAMILY}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Some(Self { number, folder, spaces: Vec::new(), _turn: turn })
    }

    /// A new namespace. Its kernel says nothing of its own accord: no IPv6 link-local addresses and what comes with
    /// them, until an address is given to a device.
    pub fn space(&mut self, name: &str) -> Space {
        let namespace = must(Namespace::create(FAMILY, &format!("{}-{name}", self.number)));
        let space = Space((*namespace).clone());
        self.spaces.push(namespace);
        space.set("net/ipv6/conf/default/addr_gen_mode", "1");
        space.set("net/ipv6/conf/default/router_solicitations", "0");
        space
    }

    /// A cable: device `a` in `left`, device `b` in `right`, both up.
    pub fn cable(&self, (left, a): (&Space, &str), (right, b): (&Space, &str), mtu: u16) {
        must(netns::veth((&left.0, a), (&right.0, b), mtu.into()));
        left.ip(&format!("link set {a} up"));
        right.ip(&format!("link set {b} up"));
    }

    /// A file of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file of the test's own.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Nothing here may panic: it also runs while a test fails. What runs in the namespaces may write files.
        self.spaces.clear();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Takes away what tests left that were killed.
fn sweep() {
    must(netns::sweep(FAMILY));
    let home = std::env::temp_dir();
    for folder in must(leftover::of_dead_runs(&home, &format!("{FAMILY}-"))) {
        let _ = std::fs::remove_dir_all(home.join(folder));
    }
}

impl Space {
    /// Its name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// It, for what may fail.
    pub fn netns(&self) -> &Netns {
        &self.0
    }

    /// A command that runs inside it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.0.command(program)
    }

    /// Does `ip COMMAND` and gives what it printed.
    pub fn ip(&self, command: &str) -> String {
        must(self.0.ip(command))
    }

    /// Does `bridge COMMAND` and gives what it printed.
    pub fn bridge(&self, command: &str) -> String {
        must(self.0.bridge(command))
    }

    /// Does `tc COMMAND` and gives what it printed.
    pub fn tc(&self, command: &str) -> String {
        must(self.0.tc(command))
    }

    /// Writes a kernel setting, such as `net/ipv4/ip_forward`.
    pub fn set(&self, key: &str, value: &str) {
        must(self.0.set(key, value));
    }

    /// Reads a kernel setting; nothing where there is no such thing.
    pub fn get(&self, key: &str) -> String {
        match self.0.get(key) {
            Err(Error::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => String::new(),
            value => must(value),
        }
    }

    /// Does `work` inside it, on a thread of its own.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        must(self.0.enter(work))
    }

    /// Starts a thread inside it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let netns = self.0.clone();
        thread::spawn(move || {
            must(netns.join());
            work()
        })
    }

    /// Whether `ping` gets every answer. `options` are ping's own.
    pub fn ping(&self, options: &str) -> bool {
        let mut command = self.command("ping");
        command.args(["-c", "3", "-i", "0.1", "-W", "2"]).args(options.split_whitespace());
        command.output().unwrap().status.success()
    }
}

/// What must succeed in a test.
pub fn must<T>(done: Result<T, Error>) -> T {
    done.unwrap_or_else(|error| panic!("{error}"))
}
