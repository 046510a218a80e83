//! `eastgate capture`: frames at tenant ports and in the tunnel, each with what became of it and by which rules.
//!
//! Frames are taken by packet sockets of this program's own: those that come in before anything is decided, those that go out
//! afterwards. What became of one the daemon is asked ([`told`]); no packet waits for that.

mod file;
mod told;

use std::{
    collections::VecDeque,
    net::IpAddr,
    os::fd::AsFd,
    path::PathBuf,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use eastgate_api::{EndpointRow, Filter, List, Request, Status};
use eastgate_wire::{MacAddr, VlanId, Vni, names};
use nix::{
    net::if_::if_nametoindex,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use serde::Serialize;

use self::{
    file::CaptureFile,
    told::{Fate, Teller},
};
use super::{
    args::{Ask, Daemon, Format, Output, parse_proto, parse_vni},
    commands::{ask, misused},
    exit,
    observe::time_of_day,
};
use crate::io::{
    capture_socket::{CaptureSocket, Captured},
    mmsg::RecvBatch,
};

const HELP: &str = "Run it where the daemon runs, in its network namespace, with CAP_NET_RAW. At tenant ports, frames are captured as machines send them and as they are
delivered; on the underlay, VXLAN of this site as it comes and goes. Each has a verdict, the reason and the rules with their places: as a comment of the packet in
Wireshark and tshark (`frame.comment contains \"ingress-denied\"`), or on its line. They are what the daemon says right after of a packet like it, as `eastgate trace`
does, and where it told of the drop itself, as `eastgate observe` does, that. While somebody captures at a port, also with tcpdump, the kernel's programs
send by its device, where that is seen, and not straight into the other end of a veth: within a second, and until a second after.

Examples:
  eastgate capture --endpoint acme/web1
  eastgate capture --verdict dropped --port 5432
  eastgate capture -w - | wireshark -k -i -
  eastgate capture -w /var/tmp/web1.pcapng --max-size 100000000 --keep 4 --endpoint acme/web1
  eastgate capture -w drops.pcapng --verdict dropped --seconds 60 && tshark -r drops.pcapng -T fields -e frame.comment";

/// Options of `capture`.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Capture {
    /// Write pcapng to this file, `-` for standard output, in place of lines
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Begin a new file when this one has so many bytes; the full one becomes FILE.1, the one before FILE.2
    #[arg(long, value_name = "BYTES", requires = "write", value_parser = clap::value_parser!(u64).range(4096..))]
    max_size: Option<u64>,
    /// How many there may be beside it that were full
    #[arg(long, value_name = "N", default_value_t = 4, requires = "max_size", value_parser = clap::value_parser!(u32).range(..=10_000))]
    keep: u32,
    /// Only there
    #[arg(long, value_enum)]
    at: Option<At>,
    /// End after so many packets
    #[arg(short = 'n', long, value_name = "N")]
    packets: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Only the network with this VNI
    #[arg(long, value_parser = parse_vni)]
    vni: Option<Vni>,
    /// Only at the port of this endpoint, as TENANT/NAME or the name alone; on the underlay, only what is from or to it
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Only with this address on either side
    #[arg(long)]
    address: Option<IpAddr>,
    /// Only with this port on either side
    #[arg(long)]
    port: Option<u16>,
    /// Only this protocol: tcp, udp, icmp, icmpv6 or a number
    #[arg(long, value_parser = parse_proto)]
    proto: Option<u8>,
    /// Only with this MAC on either side
    #[arg(long)]
    mac: Option<MacAddr>,
    /// Only with this verdict
    #[arg(long, value_enum)]
    verdict: Option<VerdictArg>,
    /// Only with this reason: one of `eastgate drop-reasons`
    #[arg(long)]
    reason: Option<String>,
    /// Only where this is among the rules that have decided: as it is shown, or a part of that
    #[arg(long)]
    rule: Option<String>,
    /// The daemon
    #[command(flatten)]
    daemon: Daemon,
    /// How to print lines
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// Where frames are captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum At {
    /// At tenant ports
    Ports,
    /// In the tunnel
    Underlay,
}

/// What became of packets, as it is typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum VerdictArg {
    /// They passed, or were answered by eastgate itself.
    Forwarded,
    /// They did not.
    Dropped,
}

/// How often the sockets are looked at where nothing comes.
const TURN: Duration = Duration::from_millis(100);
/// How long a packet waits until what became of it is known.
const SETTLE: Duration = Duration::from_millis(750);
/// The most bytes of packets that wait.
const WAITING: usize = 64 << 20;
/// With more of them, the daemon is not asked about each any more.
const MANY: usize = 20_000;
/// How long packets are seen to before the sockets are, and at the end.
const STINT: Duration = Duration::from_millis(200);
const LAST_STINT: Duration = Duration::from_secs(5);
/// How long the daemon may take until delivered frames are seen.
const READY: Duration = Duration::from_secs(5);

/// A device that is captured at.
struct Device {
    name: String,
    /// Its endpoints; none on the underlay
    endpoints: Vec<EndpointRow>,
    socket: CaptureSocket,
    is_gone: bool,
}

/// A frame with where it was seen.
struct Packet {
    device: usize,
    captured: Captured,
    /// Its network, where that is known
    vni: Option<Vni>,
    /// Where the tenant's frame begins
    inner: usize,
    /// Of a port: the endpoint that it is from or for
    endpoint: Option<String>,
    arrived: Instant,
}

/// As `-o json` prints it.
#[derive(Serialize)]
struct Row<'a> {
    /// Microseconds since 1970
    time_us: u64,
    device: &'a str,
    direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vni: Option<Vni>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    length: usize,
    #[serde(flatten)]
    fate: &'a Fate,
}

pub(super) fn capture(options: &Capture) -> Result<u8> {
    if let Some(code) = misused(&Request::Events(options.filter())) {
        return Ok(code);
    }
    let asking = options.asking();
    let status: Status = ask(&asking, &Request::Status {})?;
    let endpoints = local_endpoints(&asking, options)?;
    let mut devices = open(options, &status, &endpoints)?;
    // A signal ends the capture, and not what is being written.
    let signals = signals()?;
    wait_until_seen(&asking, &devices)?;
    let mut run = Run {
        options,
        teller: Teller::new(&asking, endpoints),
        sink: Sink::open(options, &devices)?,
        waiting: VecDeque::new(),
        held: 0,
        written: 0,
        lost: 0,
        in_hurry: false,
        vxlan: status.vtep.port,
    };
    eprintln!("eastgate: capturing at {}", named(&devices));
    let (begun, mut batch) = (Instant::now(), RecvBatch::new());
    let is_over = |run: &Run<'_>| {
        options.packets.is_some_and(|most| run.written >= most)
            || options.seconds.is_some_and(|most| begun.elapsed() >= Duration::from_secs(most))
    };
    while !is_over(&run) && !turn(&devices, &signals)? {
        run.receive(&mut devices, &mut batch)?;
        run.settle(&devices, SETTLE, STINT)?;
        if devices.iter().all(|device| device.is_gone) {
            eprintln!("eastgate: the devices are gone");
            break;
        }
    }
    run.receive(&mut devices, &mut batch)?;
    thread::sleep(TURN);
    run.settle(&devices, Duration::ZERO, LAST_STINT)?;
    run.in_hurry = true;
    run.settle(&devices, Duration::ZERO, Duration::MAX)?;
    run.sink.finish(run.lost)?;
    let lost = if run.lost > 0 { format!(", {} lost: they came too fast", run.lost) } else { String::new() };
    eprintln!("eastgate: {} captured{lost}", names::count(run.written, "packet"));
    Ok(exit::OK)
}

impl Capture {
    /// How what goes wrong is told.
    pub(super) const fn format(&self) -> Format {
        self.output
    }

    fn asking(&self) -> Ask {
        Ask { daemon: self.daemon.clone(), output: Output { output: self.output }, timeout: None }
    }

    /// What of it the daemon can say to be wrong.
    fn filter(&self) -> Filter {
        Filter { vni: self.vni, reason: self.reason.clone(), ..Filter::default() }
    }

    fn wants(&self, at: At) -> bool {
        self.at.is_none_or(|only| only == at)
    }
}

/// Endpoints of this host that are at a port.
fn local_endpoints(asking: &Ask, options: &Capture) -> Result<Vec<EndpointRow>> {
    let mut filter = Filter { vni: options.vni, endpoint: options.endpoint.clone(), ..Filter::default() };
    let mut rows = Vec::new();
    loop {
        let page: List<EndpointRow> = ask(asking, &Request::Endpoints(filter.clone()))?;
        rows.extend(page.rows);
        filter.after = page.next;
        if filter.after.is_none() {
            return Ok(rows);
        }
    }
}

/// The device, the VLAN and the station of a port, as `show endpoints` names it.
fn parts(port: &str) -> (&str, Option<VlanId>) {
    let device = port.split('/').next().unwrap_or_default();
    match device.rsplit_once('.') {
        Some((name, vlan)) => match vlan.parse().ok().and_then(VlanId::new_checked) {
            Some(vlan) => (name, Some(vlan)),
            None => (device, None),
        },
        None => (device, None),
    }
}

fn open(options: &Capture, status: &Status, endpoints: &[EndpointRow]) -> Result<Vec<Device>> {
    let mut devices: Vec<Device> = Vec::new();
    let socket = |name: &str| {
        let index = if_nametoindex(name).with_context(|| {
            format!("{name}: run it in the daemon's network namespace (ip netns exec ..)")
        })?;
        CaptureSocket::open(index).with_context(|| format!("{name} cannot be captured at (CAP_NET_RAW)"))
    };
    if options.wants(At::Ports) {
        for row in endpoints {
            let Some(port) = &row.port else { continue };
            let name = if status.ports.iter().any(|it| it.name == *port) { parts(port).0 } else { continue };
            if let Some(device) = devices.iter_mut().find(|device| device.name == name) {
                device.endpoints.push(row.clone());
            } else if if_nametoindex(name).is_ok() || devices.is_empty() {
                let (endpoints, is_gone) = (vec![row.clone()], false);
                devices.push(Device { name: name.to_owned(), endpoints, socket: socket(name)?, is_gone });
            }
        }
    }
    if options.wants(At::Underlay) {
        for name in status.vtep.device.split(", ").filter(|name| !name.is_empty()) {
            let (name, endpoints) = (name.to_owned(), Vec::new());
            devices.push(Device { socket: socket(&name)?, name, endpoints, is_gone: false });
        }
    }
    if devices.is_empty() || endpoints.is_empty() && options.endpoint.is_some() {
        let whose = options.endpoint.as_ref().map_or_else(String::new, |name| format!(" of {name}"));
        bail!("there is no port{whose} on this host: `eastgate show endpoints` lists who is where");
    }
    Ok(devices)
}

/// The daemon notices within a second that somebody captures.
fn wait_until_seen(asking: &Ask, devices: &[Device]) -> Result<()> {
    let begun = Instant::now();
    loop {
        let status: Status = ask(asking, &Request::Status {})?;
        let is_seen = |device: &Device| {
            let mut ports = status.ports.iter().filter(|port| parts(&port.name).0 == device.name);
            ports.all(|port| port.captured || port.state != "forwarding")
        };
        if !status.dataplane.starts_with("ebpf") || devices.iter().all(is_seen) {
            return Ok(());
        }
        if begun.elapsed() > READY {
            eprintln!(
                "eastgate: what the kernel's programs deliver may not be seen: the daemon has not noticed this capture"
            );
            return Ok(());
        }
        thread::sleep(TURN);
    }
}

fn signals() -> Result<SignalFd> {
    let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Waits until something comes; whether that is a signal to end.
fn turn(devices: &[Device], signals: &SignalFd) -> Result<bool> {
    let here = devices.iter().filter(|device| !device.is_gone).map(|device| device.socket.as_fd());
    let mut fds: Vec<PollFd<'_>> =
        [signals.as_fd()].into_iter().chain(here).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    match poll(&mut fds, PollTimeout::try_from(TURN)?) {
        Ok(_) => {}
        Err(nix::errno::Errno::EINTR) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(signals.read_signal()?.is_some())
}

fn named(devices: &[Device]) -> String {
    let all: Vec<String> = devices.iter().map(|device| device.name.clone()).collect();
    names::some_of(&all, 8, ", ")
}

/// A capture that goes on.
struct Run<'o> {
    options: &'o Capture,
    teller: Teller,
    sink: Sink,
    waiting: VecDeque<Packet>,
    /// Bytes of those
    held: usize,
    written: u64,
    lost: u64,
    /// It is about to end.
    in_hurry: bool,
    /// The UDP port of VXLAN
    vxlan: u16,
}

impl Run<'_> {
    fn receive(&mut self, devices: &mut [Device], batch: &mut RecvBatch) -> Result<()> {
        for (index, device) in devices.iter_mut().enumerate().filter(|(_, device)| !device.is_gone) {
            let mut captured = Vec::new();
            if device.socket.receive(batch, |frame| captured.push(frame)).is_err() {
                // It went down, and may come up again, or it is gone.
                device.is_gone = if_nametoindex(&*device.name).is_err();
            }
            self.lost += u64::from(device.socket.newly_dropped());
            for frame in captured {
                let Some(packet) = self.place(index, device, frame) else { continue };
                if self.held >= WAITING {
                    self.lost += 1;
                    continue;
                }
                self.held += packet.captured.bytes.len();
                self.waiting.push_back(packet);
            }
        }
        Ok(())
    }

    /// Whose a frame is, if it is wanted as far as that can be seen of it.
    fn place(&self, index: usize, device: &Device, captured: Captured) -> Option<Packet> {
        let options = self.options;
        let mut packet =
            Packet { device: index, captured, vni: None, inner: 0, endpoint: None, arrived: Instant::now() };
        if device.endpoints.is_empty() {
            let (vni, inner) = told::in_tunnel(&packet.captured.bytes, self.vxlan)?;
            (packet.vni, packet.inner) = (Some(vni), inner);
        } else {
            let row = told::of_port(&device.endpoints, &packet.captured);
            packet.vni = row.map(|row| row.vni);
            packet.endpoint = row.map(|row| row.endpoint.clone());
            // The only one of the device that is wanted is another.
            if options.endpoint.is_some() && row.is_none() {
                return None;
            }
        }
        let is_wanted = options.vni.is_none_or(|vni| packet.vni == Some(vni))
            && told::matches(packet.frame(), options.address, options.port, options.proto, options.mac)
            && (options.endpoint.is_none() || packet.endpoint.is_some() || self.teller.is_of(packet.frame()));
        is_wanted.then_some(packet)
    }

    /// Writes packets that have waited so long, each with what became of it, for as long a time as that at most.
    fn settle(&mut self, devices: &[Device], wait: Duration, stint: Duration) -> Result<()> {
        self.teller.hear();
        let begun = Instant::now();
        while begun.elapsed() < stint
            && self.waiting.front().is_some_and(|packet| packet.arrived.elapsed() >= wait)
            && let Some(packet) = self.waiting.pop_front()
        {
            self.held -= packet.captured.bytes.len();
            if self.options.packets.is_some_and(|most| self.written >= most) {
                continue;
            }
            let Some(device) = devices.get(packet.device) else { continue };
            let in_hurry = self.in_hurry || self.waiting.len() > MANY || self.held > WAITING / 2;
            let fate = self.teller.tell(&packet, in_hurry);
            if self.options.keeps(&fate) {
                self.sink.write(device, &packet, &fate)?;
                self.written += 1;
            }
        }
        self.sink.flush()
    }
}

impl Capture {
    fn keeps(&self, fate: &Fate) -> bool {
        let dropped = fate.verdict == told::DROPPED;
        let passed = matches!(fate.verdict, told::FORWARDED | told::ANSWERED);
        self.verdict.is_none_or(|wanted| match wanted {
            VerdictArg::Forwarded => passed,
            VerdictArg::Dropped => dropped,
        }) && self.reason.as_ref().is_none_or(|reason| fate.reason.as_ref() == Some(reason))
            && self.rule.as_ref().is_none_or(|rule| fate.because.iter().any(|text| text.contains(&**rule)))
    }
}

impl Packet {
    /// The tenant's frame
    fn frame(&self) -> &[u8] {
        self.captured.bytes.get(self.inner..).unwrap_or_default()
    }

    const fn direction(&self) -> &'static str {
        if self.captured.outgoing { "out" } else { "in" }
    }

    fn is_of_port(&self) -> bool {
        self.inner == 0
    }
}

/// Where packets go.
enum Sink {
    Lines(Format),
    File(CaptureFile),
}

impl Sink {
    fn open(options: &Capture, devices: &[Device]) -> Result<Self> {
        let Some(path) = &options.write else { return Ok(Self::Lines(options.output)) };
        let interfaces = devices.iter().map(|device| {
            let whose: Vec<String> = device.endpoints.iter().map(|row| row.endpoint.clone()).collect();
            let what = match &whose[..] {
                [] => "underlay".to_owned(),
                whose => format!("port of {}", names::some_of(whose, 8, ", ")),
            };
            (device.name.clone(), what)
        });
        let file = CaptureFile::create(path, interfaces.collect(), options.max_size, options.keep);
        Ok(Self::File(file.with_context(|| format!("{} cannot be written", path.display()))?))
    }

    fn write(&mut self, device: &Device, packet: &Packet, fate: &Fate) -> Result<()> {
        match self {
            Self::Lines(Format::Json) => {
                let row = Row {
                    time_us: u64::try_from(packet.captured.at.as_micros()).unwrap_or(u64::MAX),
                    device: &device.name,
                    direction: packet.direction(),
                    vni: packet.vni,
                    endpoint: packet.endpoint.as_deref(),
                    length: packet.captured.bytes.len(),
                    fate,
                };
                println!("{}", serde_json::to_string(&row)?);
                Ok(())
            }
            Self::Lines(Format::Text) => {
                let millis = u64::try_from(packet.captured.at.as_millis()).unwrap_or(u64::MAX);
                println!(
                    "{} {} {:<3} {}",
                    time_of_day(millis),
                    device.name,
                    packet.direction(),
                    fate.line(packet.endpoint.as_deref(), packet.is_of_port() && packet.captured.outgoing)
                );
                Ok(())
            }
            Self::File(file) => file.write(
                packet.device,
                packet.captured.at,
                packet.captured.outgoing,
                &packet.captured.bytes,
                &fate.comment(packet.endpoint.as_deref()),
                fate.verdict == told::DROPPED,
            ),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Lines(_) => Ok(()),
            Self::File(file) => file.flush(),
        }
    }

    fn finish(&mut self, lost: u64) -> Result<()> {
        match self {
            Self::Lines(_) => Ok(()),
            Self::File(file) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                file.finish(now, lost)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_device_and_perhaps_a_vlan() {
        let vlan = VlanId::new_checked;
        assert_eq!(parts("veth-web1"), ("veth-web1", None));
        assert_eq!(parts("eth1.101"), ("eth1", vlan(101)));
        assert_eq!(parts("eth1.101/02:00:00:00:00:01"), ("eth1", vlan(101)));
        assert_eq!(parts("eth1/02:00:00:00:00:01"), ("eth1", None));
        assert_eq!(parts("br.lan"), ("br.lan", None), "no VLAN has that name");
    }
}
