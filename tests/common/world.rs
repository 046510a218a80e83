//! A few network namespaces that belong to one test.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use nix::sched::{CloneFlags, setns};

/// Tests that measure time do not share the machine with each other.
static MACHINE: Mutex<()> = Mutex::new(());

/// Tells the worlds of one process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The namespaces and files of one test.
pub struct World {
    id: String,
    folder: PathBuf,
    spaces: Vec<Space>,
    _alone: MutexGuard<'static, ()>,
}

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Space {
    name: String,
}

impl World {
    /// An empty world; none without root.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("egt{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&id);
        std::fs::create_dir_all(&folder).unwrap();
        Some(Self { id, folder, spaces: Vec::new(), _alone: alone })
    }

    /// A new namespace. Its kernel says nothing of its own accord: no IPv6 link-local addresses and what comes with
    /// them, until an address is given to a device.
    pub fn space(&mut self, name: &str) -> Space {
        let space = Space { name: format!("{}-{name}", self.id) };
        run(Command::new("ip").args(["netns", "add", &space.name]));
        self.spaces.push(space.clone());
        space.ip("link set lo up");
        space.set("net/ipv6/conf/default/addr_gen_mode", "1");
        space.set("net/ipv6/conf/default/router_solicitations", "0");
        space
    }

    /// A cable: device `a` in `left`, device `b` in `right`, both up.
    pub fn cable(&self, (left, a): (&Space, &str), (right, b): (&Space, &str), mtu: u16) {
        left.ip(&format!("link add {a} mtu {mtu} type veth peer name {b} mtu {mtu} netns {}", right.name));
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
        // Nothing here may panic: it also runs while a test fails.
        for space in &self.spaces {
            let pids = Command::new("ip").args(["netns", "pids", &space.name]).output();
            let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            for pid in pids.unwrap_or_default().lines().filter_map(|line| line.trim().parse().ok()) {
                // This process is listed where one of its threads has not ended yet.
                if pid != std::process::id() as i32 {
                    let _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid),
                        nix::sys::signal::Signal::SIGKILL,
                    );
                }
            }
            let _ = Command::new("ip").args(["netns", "delete", &space.name]).status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Space {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs inside it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does `ip COMMAND` and gives what it printed.
    pub fn ip(&self, command: &str) -> String {
        run(Command::new("ip").args(["-n", &self.name]).args(command.split_whitespace()))
    }

    /// Does `bridge COMMAND` and gives what it printed.
    pub fn bridge(&self, command: &str) -> String {
        run(Command::new("bridge").args(["-n", &self.name]).args(command.split_whitespace()))
    }

    /// Does `tc COMMAND` and gives what it printed.
    pub fn tc(&self, command: &str) -> String {
        run(Command::new("tc").args(["-n", &self.name]).args(command.split_whitespace()))
    }

    /// Writes a kernel setting, such as `net/ipv4/ip_forward`.
    pub fn set(&self, key: &str, value: &str) {
        let (path, value) = (Path::new("/proc/sys").join(key), value.to_owned());
        self.enter(move || std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path:?}: {error}")));
    }

    /// Reads a kernel setting.
    pub fn get(&self, key: &str) -> String {
        let path = Path::new("/proc/sys").join(key);
        self.enter(move || std::fs::read_to_string(path)).unwrap_or_default().trim().to_owned()
    }

    /// Does `work` inside it, on a thread of its own.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let file = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
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

/// Runs `command`, which must succeed, and gives what it printed.
fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}
