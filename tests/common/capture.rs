//! Frames seen and sent past a machine's kernel.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Deref,
    process::Stdio,
};

use eastgate_testkit::{
    link,
    packet::{self, Arp, ArpOp},
};
use eastgate_wire::MacAddr;

use super::{Space, World, wait_for, world::must};

/// Everything that passes a device, from when it was started until it is dropped.
pub struct Capture(eastgate_testkit::Capture);

impl Capture {
    /// Starts it; it sees what passes from when this returns.
    pub fn start(space: &Space, device: &str) -> Self {
        Self(must(eastgate_testkit::Capture::start(space.netns(), device)))
    }
}

impl Deref for Capture {
    type Target = eastgate_testkit::Capture;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Sends a frame out of a device.
pub fn send_frame(space: &Space, device: &str, frame: &[u8]) {
    must(link::send_frame(space.netns(), device, frame));
}

/// The MAC of a device.
pub fn hardware_address(space: &Space, device: &str) -> MacAddr {
    must(link::hardware_address(space.netns(), device))
}

/// "Who has `target`? Tell `sender`."
pub fn arp_request(mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let arp = Arp { op: ArpOp::Request, sender: (mac, sender), target: (MacAddr::ZERO, target) };
    arp.frame(MacAddr::BROADCAST)
}

/// "Who has `target`?" in IPv6, to its solicited-node group.
pub fn neighbor_solicitation(mac: MacAddr, sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    packet::solicitation((mac, sender), target)
}

/// An echo request of either family.
pub fn icmp_echo(from: (MacAddr, IpAddr), to: (MacAddr, IpAddr)) -> Vec<u8> {
    let packet = packet::echo(from.1, to.1, 1, "hello", 84).expect("both are of one family");
    packet::ip_frame(to.0, from.0, &packet)
}

/// What tcpdump says of the frames that pass a device while `during` goes on, one a line: as many as that at least.
pub fn seen_by_tcpdump(
    world: &World,
    (at, device): (&Space, &str),
    filter: &str,
    lines: usize,
    during: impl FnOnce(),
) -> String {
    let file = world.path("seen.pcap");
    let mut command = at.command("tcpdump");
    command.args(["-i", device, "--immediate-mode", "-U", "-s", "0", "-w"]).arg(&file).arg(filter);
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let has_begun = || std::fs::metadata(&file).is_ok_and(|it| it.len() >= 24);
    wait_for("tcpdump listens", has_begun);
    let read = || {
        let mut command = std::process::Command::new("tcpdump");
        String::from_utf8(command.args(["-enn", "-r"]).arg(&file).output().unwrap().stdout).unwrap()
    };
    during();
    wait_for("tcpdump has seen them", || read().lines().count() >= lines);
    let pid = nix::unistd::Pid::from_raw(running.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    running.wait().unwrap();
    let seen = read();
    std::fs::remove_file(&file).unwrap();
    seen
}
