//! A daemon under test: the real binary, started in a namespace and asked with its own command line.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use eastgate_testkit::{
    command::install,
    wait::{SLOW_POLL, until, until_every},
};
use serde_json::Value;

use super::{BOUND, Space, World, must, wait_for};

/// The binary under test.
pub const EASTGATE: &str = env!("CARGO_BIN_EXE_eastgate");

/// What a daemon needs: nothing of root's but these.
pub const CAPABILITIES: [&str; 4] = ["net_admin", "net_raw", "bpf", "perfmon"];

/// A running `eastgate run`. It is killed when it goes out of scope.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

/// Runs `eastgate ARGUMENTS` outside of any namespace.
pub fn eastgate<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Output {
    Command::new(EASTGATE).args(arguments).env_remove("EASTGATE_SOCKET").output().unwrap()
}

impl Daemon {
    /// Starts it as `host` of `config` and waits until it is ready.
    pub fn start(world: &World, space: &Space, config: &Path, host: &str, more: &[&str]) -> Self {
        let mut daemon = Self::launch(world, space, config, host, more);
        daemon.wait_until_ready(host);
        daemon
    }

    /// Starts it in front of a library that answers for the kernel, and waits until it is ready.
    pub fn start_behind(
        world: &World,
        space: &Space,
        config: &Path,
        host: &str,
        library: &Path,
        more: &[&str],
    ) -> Self {
        let mut command = space.command("env");
        command.arg(format!("LD_PRELOAD={}", library.display())).arg(EASTGATE);
        let mut daemon = Self::launch_by(world, command, config, host, more);
        daemon.wait_until_ready(host);
        daemon
    }

    /// Starts it with these settings (`NAME=VALUE`) in its environment, and waits until it is ready.
    pub fn start_with_environment(
        world: &World,
        space: &Space,
        config: &Path,
        host: &str,
        environment: &[&str],
        more: &[&str],
    ) -> Self {
        let mut command = space.command("env");
        command.args(environment).arg(EASTGATE);
        let mut daemon = Self::launch_by(world, command, config, host, more);
        daemon.wait_until_ready(host);
        daemon
    }

    fn wait_until_ready(&mut self, host: &str) {
        // Each question is a process: not too many of them where the cores are busy.
        let ready = until_every(SLOW_POLL, BOUND, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{host} ended: {status}\n{}", self.log());
            }
            self.socket.exists() && self.try_ask(&["status"]).is_some_and(|status| status["ready"] == true)
        });
        assert!(ready, "{host} is not ready within {BOUND:?}\n{}", self.log());
    }

    /// Starts it and does not wait.
    pub fn launch(world: &World, space: &Space, config: &Path, host: &str, more: &[&str]) -> Self {
        Self::launch_by(world, space.command(EASTGATE), config, host, more)
    }

    /// Starts it as a user without a name, with these capabilities alone, and waits until it is ready.
    pub fn start_with(
        world: &World,
        space: &Space,
        config: &Path,
        host: &str,
        capabilities: &[&str],
        more: &[&str],
    ) -> Self {
        const NOBODY: u32 = 65_534;
        // The build's folder may be closed to others, and sockets are made in the test's own.
        let binary = world.path("eastgate");
        if !binary.exists() {
            must(install(EASTGATE.as_ref(), &binary));
        }
        let folder = binary.parent().unwrap();
        for path in std::iter::once(folder.to_owned())
            .chain(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()))
        {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let set = capabilities.iter().map(|name| format!(",+{name}")).collect::<String>();
        let set = format!("-all{set}");
        let mut command = space.command("setpriv");
        command.args(["--reuid", &NOBODY.to_string(), "--regid", &NOBODY.to_string(), "--clear-groups"]);
        for which in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.args([which, &set]);
        }
        let mut daemon = Self::launch_by(
            world,
            {
                command.arg(binary);
                command
            },
            config,
            host,
            more,
        );
        daemon.wait_until_ready(host);
        daemon
    }

    fn launch_by(world: &World, mut command: Command, config: &Path, host: &str, more: &[&str]) -> Self {
        let (socket, log) = (world.path(&format!("{host}.sock")), world.path(&format!("{host}.log")));
        let errors = File::options().create(true).append(true).open(&log).unwrap();
        command.arg("run").arg("--config").arg(config).args(["--host", host]).arg("--socket").arg(&socket);
        command.args(more).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        Self { child: command.spawn().unwrap(), socket, log }
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs `eastgate COMMAND --socket ..`.
    pub fn run(&self, command: &[&str]) -> Output {
        let mut asking = Command::new(EASTGATE);
        asking.args(command).arg("--socket").arg(&self.socket).output().unwrap()
    }

    /// The answer to `eastgate COMMAND -o json`.
    pub fn ask(&self, command: &[&str]) -> Value {
        self.try_ask(command).unwrap_or_else(|| panic!("no answer to {command:?}\n{}", self.log()))
    }

    fn try_ask(&self, command: &[&str]) -> Option<Value> {
        let output = self.run(&[command, &["-o", "json"]].concat());
        // A daemon that has a problem answers all the same, and `status` says so by its exit code.
        let answered = output.status.success() || output.status.code() == Some(6);
        answered.then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// The state of a tenant port in `status`.
    pub fn port_state(&self, port: &str) -> String {
        let status = self.ask(&["status"]);
        let mut ports = status["ports"].as_array().unwrap().iter();
        let found = ports.find(|row| row["name"] == port);
        found.unwrap_or_else(|| panic!("no port {port}: {status:#}"))["state"].as_str().unwrap().to_owned()
    }

    /// Dropped frames by reason.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        for row in self.ask(&["show", "drops"])["drops"].as_array().unwrap() {
            *drops.entry(row["reason"].as_str().unwrap().to_owned()).or_default() +=
                row["frames"].as_u64().unwrap();
        }
        drops
    }

    /// Ends it without giving it a chance to do anything.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait()
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.ended_within(BOUND) {
            return status;
        }
        let (own, others) = (threads(self.child.id(), |_| true), waiting_in_the_kernel());
        let later = self.ended_within(BOUND);
        panic!(
            "the daemon does not end within {BOUND:?}, and as long again later: {later:?}\nIts threads:\n{own}\nOthers that wait for the kernel:\n{others}"
        )
    }

    fn ended_within(&mut self, bound: Duration) -> Option<ExitStatus> {
        let mut status = None;
        until(bound, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status
    }
}

/// What threads of a process are doing: the kernel's function that each waits in, its state, and its stack there.
fn threads(process: u32, wanted: impl Fn(&str) -> bool) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let told = tasks.filter_map(|task| {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find(|line| line.starts_with("State")).unwrap_or_default();
        let (name, call) = (read("comm"), read("syscall"));
        wanted(state).then(|| {
            format!(
                "{process} {}: {state}, {}, {}\n{}",
                name.trim(),
                read("wchan"),
                call.trim(),
                read("stack")
            )
        })
    });
    told.collect::<Vec<_>>().join("\n")
}

/// The threads of the machine that cannot be interrupted: who holds the kernel's locks is among them.
fn waiting_in_the_kernel() -> String {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.map(|process| threads(process, |state| state.contains("D ("))).collect()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Asks for one thing after the other on one conversation, so that no process has to be started for a question that is timed.
pub struct Requester {
    stream: BufReader<UnixStream>,
}

impl Requester {
    /// A conversation on this socket.
    pub fn new(socket: &Path) -> Self {
        Self { stream: BufReader::new(UnixStream::connect(socket).unwrap()) }
    }

    /// The status and the body of the answer to `GET /v1/flows` and the like.
    pub fn ask(&mut self, request: &str) -> (u16, Vec<u8>) {
        let head = format!("{request} HTTP/1.1\r\nHost: eastgate\r\n\r\n");
        self.stream.get_mut().write_all(head.as_bytes()).unwrap();
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{request}: {line:?}"));
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (status, body)
    }

    /// What the answer says, and how long it took.
    pub fn timed(&mut self, request: &str) -> (Value, Duration) {
        let begun = Instant::now();
        let (status, body) = self.ask(request);
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, 200, "{request}: {answer}");
        (answer, begun.elapsed())
    }
}
