//! Servers of files, FTP and TFTP, and clients that have them.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::common::{Space, site::*, wait_for};

/// A process in a machine, which ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(site: &Site, space: &Space, name: &str, program: &str, arguments: &[&str]) -> (Running, PathBuf) {
    let path = site.world.path(&format!("{name}-{}.log", space.name()));
    let log = std::fs::File::options().create(true).append(true).open(&path).unwrap();
    let mut command = space.command(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    (Running(command.spawn().unwrap()), path)
}

/// A server of files, of both protocols and families, and a machine that has it
pub struct Server<'s> {
    pub space: &'s Space,
    pub addresses: [IpAddr; 2],
    folder: PathBuf,
    _running: Vec<Running>,
}

const BYTES: usize = 3_000_000;

fn content() -> Vec<u8> {
    (0..BYTES as u32).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_be_bytes()).take(BYTES).collect()
}

impl<'s> Server<'s> {
    pub fn start(site: &Site, space: &'s Space, number: &str) -> Self {
        let addresses: [IpAddr; 2] =
            [format!("10.1.0.{number}"), format!("fd00:1::{number}")].map(|it| it.parse().unwrap());
        let folder = site.world.path(&format!("files-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("file"), content()).unwrap();
        let at = folder.to_str().unwrap();
        let mut running = Vec::new();
        for address in &addresses {
            let address = address.to_string();
            let arguments = ["-m", "pyftpdlib", "-i", &address, "-p", "21", "-w", "-d", at];
            running.push(start(site, space, "pyftpdlib", "/usr/bin/python3", &arguments).0);
        }
        let root = format!("--tftp-root={at}");
        let arguments = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--user=root",
            "--pid-file",
            "--log-facility=-",
            "--interface=eth0",
            "--enable-tftp",
            &root,
        ];
        running.push(start(site, space, "dnsmasq", "dnsmasq", &arguments).0);
        for address in addresses {
            let at = SocketAddr::new(address, 21);
            wait_for("the server is there", || space.enter(move || TcpStream::connect(at).is_ok()));
            let at = SocketAddr::new(address, 69);
            let taken = || space.enter(move || std::net::UdpSocket::bind(at).is_err());
            wait_for("TFTP is served", taken);
        }
        Self { space, addresses, folder, _running: running }
    }

    fn curl(&self, client: &Space, family: usize, scheme: &str, file: &str, options: &[&str]) -> Command {
        let host = match self.addresses[family] {
            IpAddr::V4(host) => host.to_string(),
            IpAddr::V6(host) => format!("[{host}]"),
        };
        let mut command = client.command("curl");
        command
            .args(["-sS", "-g", "--connect-timeout", "3"])
            .args(options)
            .arg(format!("{scheme}://{host}/{file}"));
        command.stdin(Stdio::null());
        command
    }

    /// Whether the file arrives.
    pub fn gives(&self, client: &Space, family: usize, scheme: &str, options: &[&str]) -> bool {
        let got = self.curl(client, family, scheme, "file", options).output().unwrap();
        if !got.status.success() {
            eprintln!("curl {options:?}: {}", String::from_utf8_lossy(&got.stderr).trim());
        }
        got.status.success() && got.stdout == content()
    }

    /// Whether a file can be left there.
    pub fn takes(&self, site: &Site, client: &Space, family: usize, options: &[&str]) -> bool {
        let (from, name) = (site.world.path("upload"), format!("upload-{family}-{}", options.len()));
        std::fs::write(&from, content()).unwrap();
        let from = ["-T", from.to_str().unwrap()];
        let options: Vec<&str> = options.iter().copied().chain(from).collect();
        let put = self.curl(client, family, "ftp", &name, &options).output().unwrap();
        put.status.success() && std::fs::read(self.folder.join(name)).unwrap() == content()
    }
}

/// How clients ask: passive and active, in the words of RFC 2428 and of RFC 959
pub const WAYS: [(&str, &[&str]); 4] = [
    ("EPSV", &["--max-time", "40"]),
    ("PASV", &["--max-time", "40", "--disable-epsv"]),
    ("EPRT", &["--max-time", "40", "--ftp-port", "-"]),
    ("PORT", &["--max-time", "40", "--ftp-port", "-", "--disable-eprt"]),
];

/// A file that is had as slowly as a test takes it, and fast where nothing is left to see: however busy the machine, it is not over
/// before. It needs machines with little room for what is not read.
pub struct Transfer {
    client: Running,
    taker: JoinHandle<Vec<u8>>,
    taken: Arc<AtomicUsize>,
    hurry: Arc<AtomicBool>,
}

impl Transfer {
    /// What is taken at the beginning: more than there is room for on the way
    const FIRST: usize = 300_000;
    /// Bytes that are taken at once afterwards, and how often: it would take a minute.
    const AT_ONCE: usize = 8 << 10;
    const PAUSE: Duration = Duration::from_millis(200);

    pub fn begin(site: &Site, server: &Server<'_>, options: &[&str]) -> Self {
        // One that stands still ends by itself, and no other.
        let more = ["--max-time", "600", "--speed-time", "4", "--speed-limit", "1000"];
        let options: Vec<&str> = options.iter().copied().chain(more).collect();
        let mut command = server.curl(&site.web1, 0, "ftp", "file", &options);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut from = child.stdout.take().unwrap();
        let (taken, hurry) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (sum, fast) = (taken.clone(), hurry.clone());
        let taker = thread::spawn(move || {
            let (mut got, mut buffer) = (Vec::new(), [0; Self::AT_ONCE]);
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                got.extend_from_slice(&buffer[..count]);
                sum.store(got.len(), SeqCst);
                if got.len() > Self::FIRST && !fast.load(SeqCst) {
                    thread::sleep(Self::PAUSE);
                }
            }
            got
        });
        let transfer = Self { client: Running(child), taker, taken, hurry };
        wait_for("it goes on", || transfer.taken.load(SeqCst) > Self::FIRST);
        transfer
    }

    /// Whether all of it arrives.
    pub fn finish(self) -> bool {
        self.hurry.store(true, SeqCst);
        self.ends()
    }

    /// Whether all of it arrives at the pace that it has.
    pub fn ends(mut self) -> bool {
        let got = self.taker.join().unwrap();
        self.client.0.wait().unwrap().success() && got == content()
    }
}

/// Leaves both machines little room for what is not read yet.
pub fn leave_no_room(site: &Site) {
    site.web1.set("net/ipv4/tcp_rmem", "4096 16384 65536");
    site.db1.set("net/ipv4/tcp_wmem", "4096 16384 65536");
}
