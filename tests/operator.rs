//! What an operator does to a daemon from outside, and what it says of itself: its control socket, its reloads, its files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{BOUND, Daemon, EASTGATE, eastgate, must, site::*, wait_for, wait_within};
use eastgate_testkit::command::install;
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {output:?}"))
}

/// A folder of a test's own.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("egt{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Less than anyone is waited for who says nothing (a minute), and more than a busy machine takes.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Runs `command` and panics when it does not end in time: it must not wait for anything.
fn at_once(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (pid, begun) = (nix::unistd::Pid::from_raw(child.id() as i32), Instant::now());
    let watch = std::thread::spawn(move || child.wait_with_output().unwrap());
    while !watch.is_finished() {
        if begun.elapsed() > AT_ONCE {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            panic!("{command:?} waits: {:?}", watch.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    watch.join().unwrap()
}

// ------------------------------------------------------------------------------------------ control socket

#[test]
fn idle_conversations_shut_nobody_out() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    let idle: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(alpha.socket()).unwrap()).collect();
    let mut half: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(alpha.socket()).unwrap()).collect();
    half.iter_mut().for_each(|stream| drop(stream.write_all(b"GET /v1/sta")));
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(alpha.ask(&["status"])["ready"], true);
        assert!(begun.elapsed() < AT_ONCE);
    }
    drop((idle, half));
}

#[test]
fn the_command_line_does_not_wait_for_ever() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    let listener = std::os::unix::net::UnixListener::bind(site.world.path("deaf.sock")).unwrap();
    let deaf = site.world.path("deaf.sock");
    // One that takes no conversation, and then one whose queue of them is full.
    let mut queue = Vec::new();
    for full in [false, true] {
        let output =
            at_once(Command::new(EASTGATE).args(["status", "--timeout", "1", "--socket"]).arg(&deaf));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("has not answered within 1 s"), "{full}: {said}");
        if !full {
            let socket = || {
                let socket =
                    socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket.connect(&socket2::SockAddr::unix(&deaf).unwrap()).map(|()| socket)
            };
            while let Ok(socket) = socket() {
                queue.push(socket);
            }
        }
    }
    drop(listener);
    assert_eq!(alpha.ask(&["status"])["ready"], true);
}

#[test]
fn a_socket_that_is_removed_is_made_again_and_a_file_in_its_place_is_left() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    let socket = alpha.socket().to_owned();
    let answers = || alpha.run(&["status"]).status.success();
    fs::remove_file(&socket).unwrap();
    wait_within(BOUND, "it is made again", answers);
    // It is counted when it is there, where somebody may ask already.
    wait_within(BOUND, "it is counted", || alpha.ask(&["status"])["control_restored"] == 1);
    assert!(text(&alpha.run(&["status"]).stdout).contains("removed by someone else and made again"));

    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    wait_for("it says so", || alpha.log().contains("the control socket is gone"));
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    fs::remove_file(&socket).unwrap();
    wait_within(BOUND, "it is made again", answers);

    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    assert!(alpha.stop().success());
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious", "a stop removes its own socket only");
}

#[test]
fn a_file_is_no_socket_and_is_never_deleted() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let file = site.world.write("alpha.sock", "precious");
    let mut daemon =
        Daemon::launch(&site.world, &site.alpha, &site.config, "alpha", &["--dataplane", "userspace"]);
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(daemon.log().contains("is there and is no socket"), "{}", daemon.log());
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let teardown = eastgate(["teardown", "--socket", file.to_str().unwrap()]);
    assert!(teardown.status.success(), "{teardown:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

// ------------------------------------------------------------------------------------------ configuration files

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let folder = Folder::new("nofile");
    let pipe = folder.0.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
    let including = folder.write("including.toml", "include = [\"pipe\"]\n");
    let socket = folder.path("sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let large = folder.path("large");
    fs::File::create(&large).unwrap().set_len(300 << 20).unwrap();
    for (path, why) in [
        (pipe.to_str().unwrap(), "a pipe"),
        (&including, "a pipe"),
        ("/dev/zero", "a device"),
        ("/dev/stdin", ""),
        ("/", "a folder"),
        (&socket, ""),
        (&large, "larger than 256 MiB"),
    ] {
        let output = at_once(Command::new(EASTGATE).args(["check", path]));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{path}: {said}");
        assert!(said.contains("cannot be read") && said.contains(why), "{path}: {said}");
    }
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    fs::remove_file(&site.config).unwrap();
    fs::copy(&including, &site.config).unwrap();
    nix::unistd::mkfifo(&site.world.path("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(alpha.run(&["reload"]).status.code(), Some(3));
    assert_eq!(alpha.ask(&["status"])["ready"], true);
}

#[test]
fn of_very_many_errors_the_first_are_told_and_the_rest_counted() {
    let folder = Folder::new("many");
    let host = "[host.alpha]\nvtep = \"192.0.2.1\"\ndevice = \"e\"\n";
    let keys: String =
        (0..5_000).map(|n| format!("[host.h{n}]\nvtep = \"192.0.2.300\"\ndevice = \"e\"\n")).collect();
    let many = folder.write("many.toml", format!("{host}{keys}"));
    let output = eastgate(["check", &many]);
    let said = text(&output.stderr);
    assert!(
        said.contains("... and 4900 more errors") && said.contains("5000 errors"),
        "{}",
        &said[said.len() - 400..]
    );
    assert!(said.contains("many.toml:302:8") && !said.contains("many.toml:305:8"), "the first of them");
    assert!(said.matches("error[").count() == 100 && said.len() < 100_000, "{}", said.len());
    let listed = json(&eastgate(["check", "-o", "json", &many]));
    assert_eq!(listed.as_array().unwrap().len(), 101);
    assert_eq!(listed[100]["message"], "... and 4900 more errors");

    // Something else taken for a configuration: of a size that parsed would be many times as much.
    let garbage = folder.write("garbage.toml", "this is no TOML, on no line of it\n".repeat(3 << 20));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 1500000; exec \"$0\" check \"$1\"", EASTGATE, &garbage]);
    let output = at_once(&mut command);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{}", &said[..said.len().min(2000)]);
    assert!(said.contains("... and more: the rest was not looked at"), "{}", &said[said.len() - 400..]);
    let one = folder.write("one.toml", "[host.alpha]\nvtep = \"192.0.2.300\"\ndevice = \"e\"\n");
    assert!(text(&eastgate(["check", &one]).stderr).ends_with("one.toml: 1 error\n"));
}

// ------------------------------------------------------------------------------------------ reload and status

#[test]
fn a_refused_reload_is_json_too() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    site.rewrite(|text| text.replace("vni = 5001", "vni = 50010000"));
    let refused = alpha.run(&["reload", "-o", "json"]);
    assert_eq!(refused.status.code(), Some(3));
    let answer = json(&refused);
    assert_eq!(answer["diagnostics"][0]["code"], "out-of-range", "{answer:#}");
    assert!(answer["error"].as_str().unwrap().contains("50010000"));
    let nobody = eastgate(["status", "-o", "json", "--socket", "/nonexistent/sock"]);
    assert!(json(&nobody)["error"].as_str().unwrap().contains("no daemon answers"));
}

#[test]
fn a_reload_says_what_it_changed_and_hosts_can_be_compared() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let (alpha, beta) = (site.run("alpha"), site.run("beta"));
    let digest = |daemon: &Daemon| daemon.ask(&["status"])["digest"].as_str().unwrap().to_owned();
    assert_eq!(digest(&alpha), digest(&beta));
    // Only comments and the order of things.
    site.rewrite(|text| {
        let (head, tail) = text.split_at(text.find("[host.beta]").unwrap());
        let (second, rest) = tail.split_at(tail.find("\n[tenant.").unwrap());
        format!("# another order\n{second}\n{head}\n{rest}")
    });
    let same = alpha.run(&["reload"]);
    assert!(text(&same.stdout).contains("nothing changed"), "{same:?}");
    assert_eq!(digest(&alpha), digest(&beta));

    site.allow_denied();
    site.rewrite(|text| text.replace("endpoint.web2]", "endpoint.web3]"));
    let changed = alpha.run(&["reload"]);
    let said = text(&changed.stdout);
    for line in [
        "1 tenant changed: acme",
        "1 endpoint added: acme/web3",
        "1 endpoint removed: acme/web2",
        "1 rule changed: acme/all ingress #1: udp port 7000-7001 with any",
    ] {
        assert!(said.contains(line), "no {line} in {said}");
    }
    assert_ne!(digest(&alpha), digest(&beta));
    let again = json(&beta.run(&["reload", "-o", "json"]));
    assert_eq!(again["changes"]["endpoints"]["added"], serde_json::json!(["acme/web3"]), "{again:#}");
    assert_eq!(again["digest"].as_str().unwrap(), digest(&alpha));
    assert!(text(&alpha.run(&["status"]).stdout).contains(&format!("digest {}", digest(&beta))));
}

#[test]
fn a_configuration_with_nothing_to_do_says_so() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    let hosts = fs::read_to_string(&site.config).unwrap();
    let hosts = hosts[..hosts.find("\n[tenant.").unwrap()].to_owned();
    site.rewrite(|_| hosts);
    let checked = eastgate([Path::new("check"), &site.config]);
    assert!(checked.status.success() && text(&checked.stderr).contains("there is no tenant"), "{checked:?}");
    let reloaded = text(&alpha.run(&["reload"]).stdout);
    assert!(reloaded.contains("warning: ") && reloaded.contains("there is no tenant"), "{reloaded}");
    assert!(reloaded.contains("3 endpoints removed"), "{reloaded}");
    assert!(text(&alpha.run(&["status"]).stdout).contains("the configuration has nothing for this host"));
}

#[test]
fn flows_end_with_their_endpoint() {
    for dataplane in ["userspace", "ebpf"] {
        let Some(site) = Site::new(HOSTS_V4) else { return };
        let alpha = site.run_with("alpha", dataplane);
        let flows = Flows::start(&site);
        flows.allowed[1].0.arrives("to web2", &flows.allowed[1].1);
        let of_web2 = || alpha.ask(&["show", "flows", "--address", "10.1.0.12"])["total"].as_u64().unwrap();
        wait_for("there is a flow", || of_web2() > 0);
        site.rewrite(|text| {
            let begin = text.find("[tenant.acme.endpoint.web2]").unwrap();
            let end = text[begin + 1..].find("[tenant.").map_or(text.len(), |at| begin + 1 + at);
            text[..begin].to_owned() + &text[end..]
        });
        let reloaded = json(&alpha.run(&["reload", "-o", "json"]));
        assert!(reloaded["flows_ended"].as_u64().unwrap() > 0, "{dataplane}: {reloaded:#}");
        wait_for("no flow is left", || of_web2() == 0);
        let others = alpha.ask(&["show", "flows", "--address", "10.1.0.21"])["total"].as_u64().unwrap();
        assert!(others > 0, "{dataplane}: flows of others stay");
    }
}

#[test]
fn status_is_a_word_that_scripts_can_trust() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    let code = || alpha.run(&["status"]).status.code().unwrap();
    wait_for("all is well", || code() == 0);
    site.alpha.ip("link set underlay0 down");
    wait_for("the device is down", || code() == 6);
    site.alpha.ip("link set underlay0 up");
    wait_for("all is well again", || code() == 0);
    site.alpha.ip("link del underlay0");
    wait_for("it does not listen", || code() == 6);
    let status = alpha.run(&["status"]);
    assert!(text(&status.stdout).contains("PROBLEM"), "{status:?}");
    assert!(!json(&alpha.run(&["status", "-o", "json"]))["problems"].as_array().unwrap().is_empty());
    // What is lost meanwhile is counted.
    let flows = Flows::start(&site);
    flows.allowed[0].0.send_more(20);
    wait_for("lost frames are counted", || {
        let drops = alpha.drops();
        drops.get("vtep-unreachable").copied().unwrap_or_default() >= 20
    });
    site.lay_underlay();
    wait_for("all is well in the end", || code() == 0);
}

// ------------------------------------------------------------------------------------------ labs

/// `eastgate` in a folder of its own, and in place of the program that plays labs a script, or none.
fn beside_a_script(name: &str, script: Option<&str>) -> (Folder, Command) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let folder = Folder(folder);
    // A link, and a script that another process writes: what any process holds open to write is not run.
    fs::hard_link(EASTGATE, folder.path("eastgate")).unwrap();
    if let Some(script) = script {
        let mut writer = Command::new("sh");
        writer.args([
            "-c",
            "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"",
            &folder.path("eastgate-lab"),
            script,
        ]);
        assert!(writer.status().unwrap().success());
    }
    let mut command = Command::new(folder.path("eastgate"));
    command.env("PATH", "/usr/bin:/bin").current_dir("/");
    (folder, command)
}

#[test]
fn labs_are_played_by_the_program_beside_it() {
    let script = "#!/bin/sh\nprintf '%s\\n' \"$@\"; echo told >&2; exit 7\n";
    let (folder, mut command) = beside_a_script("labs", Some(script));
    let output = at_once(command.args(["lab", "exec", "01-two-hosts", "acme/web1", "--", "ping", "-c 1"]));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let handed =
        ["--eastgate", &folder.path("eastgate"), "exec", "01-two-hosts", "acme/web1", "--", "ping", "-c 1"];
    assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), handed);
    assert_eq!(text(&output.stderr), "told\n");
    // What is wrong with a command line, and help, are told without it.
    let wrong = at_once(Command::new(folder.path("eastgate")).args(["lab", "up"]));
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let help = at_once(Command::new(folder.path("eastgate")).args(["lab", "--help"]));
    assert!(help.status.success() && text(&help.stdout).contains("Take a lab down"), "{help:?}");
}

#[test]
fn a_signal_reaches_the_program_that_plays_labs() {
    let script = "#!/bin/sh\ntrap 'exit 9' TERM\necho ready\nwhile :; do sleep 0.01; done\n";
    let (_folder, mut command) = beside_a_script("labs-signal", Some(script));
    let mut child = command.args(["lab", "list"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut ready)
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!((ready.as_str(), child.wait().unwrap().code()), ("ready\n", Some(9)));
}

#[test]
fn without_the_program_that_plays_labs_its_name_is_told() {
    let (folder, mut command) = beside_a_script("labs-missing", None);
    let output = at_once(command.args(["lab", "list"]));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("`eastgate-lab`") && said.contains(folder.0.to_str().unwrap()), "{said}");
    assert!(said.contains("cargo install --path labs/runner"), "{said}");
}

// ------------------------------------------------------------------------------------------ as an ordinary user

#[test]
fn an_ordinary_user_is_told_what_is_missing() {
    let Some(site) = Site::new(HOSTS_V4) else { return };
    let alpha = site.run("alpha");
    // The build's folder may be closed to others.
    let binary = site.world.path("eastgate");
    must(install(EASTGATE.as_ref(), &binary));
    let folder = binary.parent().unwrap();
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ordinary = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all"]);
        at_once(command.arg(&binary).args(arguments).current_dir("/"))
    };
    let socket = alpha.socket().to_str().unwrap();
    for arguments in [&["status", "--socket", socket][..], &["teardown", "--socket", socket]] {
        let output = ordinary(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.to_lowercase().contains("permission denied") && !said.contains("no daemon"), "{said}");
    }
}
