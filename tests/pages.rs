//! Pages that tell what to type and what one sees, run as they stand: the quick start and the labs' READMEs.
//!
//! Of such a page every block ` ```sh ` is given to one shell, in its order, on a machine of its own (network, mount and process
//! namespaces), and each line of a block ` ```text ` behind it must be printed, in that order; other lines may be printed too.
//! What is another at each run is not compared: times, ports that the system chooses, numbers that stand alone, a lab's folder. A
//! block ` ```toml ` becomes `eastgate.toml` in the folder that the shell is in. Indented blocks are for a second terminal, and not run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "docs/markdown.rs"]
mod markdown;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Instant,
};

use eastgate_testkit::{netns, wait::BOUND};
use markdown::{Block, blocks};

/// The appliance, and beside it what plays the labs.
const EASTGATE: &str = env!("CARGO_BIN_EXE_eastgate");

/// A line that no command prints.
const MARK: &str = "--- end of a block ---";

/// The machine: nothing in it is another one's, and all of it ends with its first process.
const MACHINE: &str = r#"
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/lock &&
mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf && ip link set lo up &&
exec bash
"#;

// ------------------------------------------------------------------------------------------ the shell

/// A shell on a machine of its own.
struct Shell {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Where its blocks are written to be read
    folder: PathBuf,
}

impl Shell {
    /// `place` is where it begins; `folder` is the test's own.
    fn new(place: &Path, folder: &Path) -> Self {
        let programs = Path::new(EASTGATE).parent().unwrap();
        assert!(
            programs.join("eastgate-lab").is_file(),
            "`cargo build` makes eastgate-lab, which stands beside {EASTGATE}"
        );
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "bash",
            "-c",
            MACHINE,
        ]);
        command.env("PATH", path).env("LC_ALL", "C").current_dir(place);
        for variable in ["EASTGATE_SOCKET", "EASTGATE_PIN", "EASTGATE_LOG"] {
            command.env_remove(variable);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take().unwrap();
        let mut shell = Self { child, input, lines, folder: folder.to_owned() };
        shell.tell("exec 2>&1");
        shell
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
        self.input.flush().unwrap();
    }

    /// What a block prints, and what its last command exits with.
    fn run(&mut self, block: &Block) -> (Vec<String>, i32) {
        let file = self.folder.join(format!("line-{}.sh", block.line));
        fs::write(&file, &block.text).unwrap();
        self.tell(&format!(". '{}' </dev/null; printf '\\n%s %s\\n' '{MARK}' $?", file.display()));
        let (mut said, bound) = (Vec::new(), Instant::now() + BOUND);
        loop {
            let left = bound.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the block at line {} does not end; it printed:\n{}", block.line, said.join("\n"))
            };
            if let Some(code) = line.strip_prefix(MARK) {
                return (said, code.trim().parse().unwrap());
            }
            said.push(line);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ------------------------------------------------------------------------------------------ what is compared

/// The first of the lines that are told and not printed in their order.
fn missing<'a>(told: &'a str, said: &[String]) -> Option<&'a str> {
    let mut said = said.iter();
    told.lines().filter(|line| !line.trim().is_empty()).find(|line| !said.any(|other| alike(line, other)))
}

fn alike(told: &str, said: &str) -> bool {
    let said = words(said);
    let told = words(told);
    told.len() == said.len() && told.iter().zip(&said).all(|(told, said)| word_alike(told, said))
}

/// The words of a line; a lab's folder has its number left out.
fn words(line: &str) -> Vec<String> {
    const LABS: &str = "/run/eastgate/labs/";
    let word = |word: &str| match word.split_once(LABS) {
        Some((before, rest)) => format!("{before}LAB{}", rest.trim_start_matches(|c: char| c != '/')),
        None => word.to_owned(),
    };
    line.split_whitespace().map(word).collect()
}

/// Equal, or other in nothing but what is another at each run.
fn word_alike(told: &str, said: &str) -> bool {
    let number = |word: &str| word.trim_end_matches(['%', ',']).chars().all(|c| c.is_ascii_digit());
    if told == said || (number(told) && number(said)) {
        return true;
    }
    let (told, said) = (pieces(told), pieces(said));
    let is_time = told.last().is_some_and(|unit| ["s", "ms", "us"].contains(&unit.as_str()))
        || told.first().is_some_and(|name| name == "time=");
    let chosen = |piece: &str| piece.parse().is_ok_and(|port: u32| port >= 30_000);
    let number = |piece: &str| piece.bytes().all(|byte| byte.is_ascii_digit());
    told.len() == said.len()
        && told.iter().zip(&said).all(|(told, said)| {
            told == said || (number(told) && number(said) && (is_time || chosen(told) && chosen(said)))
        })
}

/// A word cut where digits begin and end.
fn pieces(word: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut digits = None;
    for c in word.chars() {
        let is_digit = c.is_ascii_digit();
        match pieces.last_mut() {
            Some(piece) if digits == Some(is_digit) => piece.push(c),
            _ => pieces.push(c.into()),
        }
        digits = Some(is_digit);
    }
    pieces
}

#[test]
fn lines_are_compared_but_for_what_is_another_at_each_run() {
    for (told, said, expected) in [
        ("5001  tcp  10.1.0.11:36760  10.1.0.21:22", "5001 tcp 10.1.0.11:40112 10.1.0.21:22", true),
        ("5001  tcp  10.1.0.11:36760  10.1.0.21:22", "5001 tcp 10.1.0.11:40112 10.1.0.21:23", false),
        ("5001  tcp  10.1.0.11:36760  10.1.0.21:22", "5001 tcp 10.1.0.12:36760 10.1.0.21:22", false),
        (
            "64 bytes from 10.1.0.21: icmp_seq=1 ttl=64 time=0.754 ms",
            "64 bytes from 10.1.0.21: icmp_seq=1 ttl=64 time=1.84 ms",
            true,
        ),
        (
            "64 bytes from 10.1.0.21: icmp_seq=1 ttl=64 time=0.754 ms",
            "64 bytes from 10.1.0.21: icmp_seq=1 ttl=63 time=0.754 ms",
            false,
        ),
        ("expires 25s", "expires 7436s", true),
        ("at LAB/eastgate.toml:24:20", "at /run/eastgate/labs/x7k2/eastgate.toml:24:20", true),
        ("at LAB/eastgate.toml:24:20", "at /run/eastgate/labs/x7k2/eastgate.toml:25:20", false),
        ("verdict: ingress-denied", "verdict: egress-denied", false),
        ("verdict: forwarded", "verdict: forwarded or so", false),
    ] {
        assert_eq!(alike(told, said), expected, "{told} / {said}");
    }
    let said = ["a", "b", "c"].map(str::to_owned);
    assert_eq!(missing("a\nc\n", &said), None);
    assert_eq!(missing("c\na\n", &said), Some("a"));
}

// ------------------------------------------------------------------------------------------ pages

/// Runs a page from `place`, which is below the root of the repository, or the test's own folder.
fn holds(page: &str, place: Option<&str>) {
    if netns::require_root().is_err() {
        eprintln!("skipped: needs root");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(page)).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "page-{}-{}",
        std::process::id(),
        page.replace(['/', '.'], "-")
    ));
    fs::create_dir_all(&folder).unwrap();
    let mut shell = Shell::new(&place.map_or_else(|| folder.clone(), |place| root.join(place)), &folder);
    let mut blocks = blocks(&text).into_iter().filter(|block| !block.kind.is_empty()).peekable();
    let mut ran = 0;
    while let Some(block) = blocks.next() {
        let at = format!("{page}:{}", block.line);
        match block.kind.as_str() {
            "sh" => {
                let told = blocks.next_if(|next| next.kind == "text");
                run(&mut shell, &at, &block, told.as_ref());
                ran += 1;
            }
            "toml" => {
                let text = format!("cat > eastgate.toml <<'END OF FILE'\n{}END OF FILE\n", block.text);
                run(&mut shell, &at, &Block { text, ..block }, None);
            }
            "text" => {}
            other => panic!("{at}: a block of the kind `{other}` is not known here"),
        }
    }
    drop(shell);
    fs::remove_dir_all(&folder).unwrap();
    assert!(ran >= 3, "{page}: only {ran} blocks were run: the search is broken");
}

/// What is counted in the kernel is told within some seconds, so that a block is run again until it prints what is told.
fn run(shell: &mut Shell, at: &str, block: &Block, told: Option<&Block>) {
    let Some(told) = told else {
        let (said, code) = shell.run(block);
        assert_eq!(code, 0, "{at}: exits with {code} after printing\n{}", said.join("\n"));
        return;
    };
    let bound = Instant::now() + BOUND;
    let mut first = None;
    loop {
        let (said, _) = shell.run(block);
        let Some(line) = missing(&told.text, &said) else { return };
        let (line, said) = first.get_or_insert((line, said));
        assert!(Instant::now() < bound, "{at}: it does not print\n{line}\nbut at first\n{}", said.join("\n"));
    }
}

macro_rules! pages {
    ($($name:ident: $page:literal in $place:expr;)*) => {$(
        #[test]
        fn $name() {
            holds($page, $place);
        }
    )*};
}

pages! {
    quick_start: "docs/quick-start.md" in None;
    plain_vxlan: "labs/00-plain-vxlan/README.md" in Some(".");
    two_hosts: "labs/01-two-hosts/README.md" in Some(".");
    hub_and_spoke: "labs/02-hub-and-spoke/README.md" in Some(".");
    ipv6_underlay: "labs/03-ipv6-underlay/README.md" in Some(".");
    tiers: "labs/04-tiers/README.md" in Some(".");
    migrated: "labs/05-migrated/README.md" in Some(".");
    vlan_trunk: "labs/10-vlan-trunk/README.md" in Some(".");
    shared_segment: "labs/11-shared-segment/README.md" in Some(".");
    private_vlan: "labs/12-private-vlan/README.md" in Some(".");
    vepa_vdp: "labs/13-vepa-vdp/README.md" in Some(".");
    kernel_steering: "labs/14-kernel-steering/README.md" in Some(".");
    multi_homed: "labs/15-multi-homed/README.md" in Some(".");
}

/// A lab that is added is added here, once its README has blocks to run.
#[test]
fn each_lab_that_tells_what_one_sees_is_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let this = fs::read_to_string(root.join("tests/pages.rs")).unwrap();
    for entry in fs::read_dir(root.join("labs")).unwrap() {
        let entry = entry.unwrap();
        let page = format!("labs/{}/README.md", entry.file_name().display());
        let Ok(text) = fs::read_to_string(root.join(&page)) else { continue };
        let is_told = blocks(&text).iter().any(|block| block.kind == "sh");
        assert!(!is_told || this.contains(&format!("{page:?} in Some")), "nothing runs {page}");
    }
}
