//! `eastgate capture`: frames at tenant ports and in the tunnel, each with what became of it and by which rules.
//!
//! Frames are taken by packet sockets of this program's own: those that come in before anything is decided, those that go out
//! afterwards. What became of one the daemon is asked (`told`); no packet waits for that.

mod file;
mod sink;
mod told;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    os::fd::AsFd,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
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

use self::{
    sink::Sink,
    told::{Fate, Placed, Teller},
};
use super::{
    args::{Ask, Daemon, Format, Output, parse_proto, parse_vni},
    commands::{ask, misused},
    exit,
};
use crate::io::{
    capture_socket::{CaptureSocket, Captured},
    mmsg::RecvBatch,
    sysopt::allow_open_files,
};

const HELP: &str = "Run it where the daemon runs, in its network namespace, with CAP_NET_RAW. At tenant ports, frames are captured as machines send them and as they are
delivered; on the underlay, VXLAN of this site as it comes and goes. Each has a verdict, the reason and the rules with their places: as a comment of the packet in
Wireshark and tshark (`frame.comment contains \"ingress-denied\"`), or on its line. They are what the daemon says right after of a packet like it, as `eastgate trace`
does, and where it told of the drop itself, as `eastgate observe` does, that; `unknown` where neither is sure. The ports are those that there are when it begins. While somebody captures at a port, also with tcpdump, the kernel's programs
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
    #[arg(short, long, value_enum, default_value = "text", conflicts_with = "write")]
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
/// Bytes of frames that may wait to be read, of all devices together, and of one at the least
const UNREAD: usize = 128 << 20;
const UNREAD_OF_ONE: usize = 512 << 10;
/// Batches of one device that are read before others are seen to.
const BATCHES: usize = 64;
/// How long the daemon may take until delivered frames are seen.
const READY: Duration = Duration::from_secs(5);

/// A device that is captured at.
struct Device {
    name: String,
    /// Its endpoints; none on the underlay
    endpoints: Vec<Placed>,
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
    /// The port or the VTEP that it came from, as events name it
    from: Option<String>,
    /// Of a port: the endpoint that it is from or for
    endpoint: Option<String>,
    /// It is at a VLAN of a trunk, and has the tag.
    tagged: bool,
    arrived: Instant,
}

pub(super) fn capture(options: &Capture) -> Result<u8> {
    if let Some(code) = misused(&Request::Events(options.filter())) {
        return Ok(code);
    }
    let asking = options.asking();
    let status: Status = ask(&asking, &Request::Status {})?;
    let all = endpoints(&asking, Filter::default())?;
    let wanted = match &options.endpoint {
        Some(name) => endpoints(&asking, Filter { endpoint: Some(name.clone()), ..Filter::default() })?,
        None => Vec::new(),
    };
    // Before there is anything to tell of.
    let teller = Teller::new(&asking, wanted);
    let _ = allow_open_files(all.len() as u64 + FILES);
    let mut devices = open(options, &status, &all, &teller)?;
    wait_until_seen(&asking, &devices)?;
    let mut run = Run {
        options,
        teller,
        sink: Sink::open(options, &devices)?,
        waiting: VecDeque::new(),
        held: 0,
        written: 0,
        lost: 0,
        in_hurry: false,
        port: status.vtep.port,
        vtep: status.vtep.address,
    };
    // A signal ends the capture from now on, and not what is being written.
    let signals = signals()?;
    eprintln!("eastgate: capturing at {}", named(&devices));
    let (begun, mut batch) = (Instant::now(), RecvBatch::new());
    let is_over = |run: &Run<'_>| {
        options.packets.is_some_and(|most| run.written >= most)
            || options.seconds.is_some_and(|most| begun.elapsed() >= Duration::from_secs(most))
    };
    while !is_over(&run) && !turn(&devices, &signals)? {
        run.receive(&mut devices, &mut batch);
        run.settle(&devices, SETTLE, STINT)?;
        if devices.iter().all(|device| device.is_gone) {
            eprintln!("eastgate: the devices are gone");
            break;
        }
    }
    if !is_over(&run) {
        run.receive(&mut devices, &mut batch);
        // What was dropped of it is told by then.
        thread::sleep(SETTLE);
        run.teller.hear_now();
        run.settle(&devices, Duration::ZERO, LAST_STINT)?;
        run.in_hurry = true;
        run.settle(&devices, Duration::ZERO, Duration::MAX)?;
    }
    run.sink.finish(run.lost)?;
    let lost = if run.lost > 0 { format!(", {} lost: they came too fast", run.lost) } else { String::new() };
    eprintln!("eastgate: {} captured{lost}", names::count(run.written, "packet"));
    Ok(exit::OK)
}

/// Files that are open besides those of devices
const FILES: u64 = 64;

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

fn endpoints(asking: &Ask, mut filter: Filter) -> Result<Vec<EndpointRow>> {
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

/// The device and the VLAN of a port, as `show endpoints` names it, and whether others are at the same place. A device may have a dot in
/// its name.
fn parts(port: &str, is_device: impl Fn(&str) -> bool) -> (&str, Option<VlanId>, bool) {
    let (place, is_shared) = port.split_once('/').map_or((port, false), |(place, _)| (place, true));
    let vlan = place
        .rsplit_once('.')
        .and_then(|(name, vlan)| Some((name, VlanId::new_checked(vlan.parse().ok()?)?)));
    match vlan {
        Some((name, vlan)) if !is_device(place) => (name, Some(vlan), is_shared),
        _ => (place, None, is_shared),
    }
}

fn is_device(name: &str) -> bool {
    if_nametoindex(name).is_ok()
}

fn open(options: &Capture, status: &Status, all: &[EndpointRow], teller: &Teller) -> Result<Vec<Device>> {
    let mut at: BTreeMap<String, Vec<Placed>> = BTreeMap::new();
    for row in all.iter().filter(|row| row.port.is_some()) {
        let (name, vlan, is_shared) = parts(row.port.as_deref().unwrap_or_default(), is_device);
        at.entry(name.to_owned()).or_default().push(Placed { row: row.clone(), vlan, is_shared });
    }
    let is_wanted = |placed: &[Placed]| {
        options.wants(At::Ports)
            && placed.iter().any(|it| {
                options.vni.is_none_or(|vni| vni == it.row.vni)
                    && (options.endpoint.is_none() || teller.wants(&it.row))
            })
    };
    at.retain(|_, placed| is_wanted(placed));
    let underlay =
        status.vtep.device.split(", ").filter(|name| !name.is_empty() && options.wants(At::Underlay));
    let wanted: Vec<(String, Vec<Placed>)> =
        at.into_iter().chain(underlay.map(|name| (name.to_owned(), Vec::new()))).collect();
    if wanted.is_empty() {
        let whose = options.endpoint.as_ref().map_or_else(String::new, |name| format!(" of {name}"));
        bail!("there is no port{whose} on this host: `eastgate show endpoints` lists who is where");
    }
    let (there, absent): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(name, _)| is_device(name));
    let absent: Vec<String> = absent.into_iter().map(|(name, _)| name).collect();
    let absent = names::some_of(&absent, 8, ", ");
    if there.is_empty() {
        bail!(
            "there is no device {absent} here: run it in the daemon's network namespace (ip netns exec ..)"
        );
    }
    if !absent.is_empty() {
        eprintln!("eastgate: not there, and not captured at: {absent}");
    }
    let room = (UNREAD / there.len()).max(UNREAD_OF_ONE);
    let device = |(name, endpoints): (String, Vec<Placed>)| {
        let socket = if_nametoindex(&*name)
            .map_err(std::io::Error::from)
            .and_then(|index| CaptureSocket::open(index, room))
            .with_context(|| format!("{name} cannot be captured at (it takes CAP_NET_RAW)"))?;
        Ok(Device { name, endpoints, socket, is_gone: false })
    };
    there.into_iter().map(device).collect()
}

/// The daemon notices within a second that somebody captures.
fn wait_until_seen(asking: &Ask, devices: &[Device]) -> Result<()> {
    let begun = Instant::now();
    loop {
        let status: Status = ask(asking, &Request::Status {})?;
        let is_seen = |device: &Device| {
            let mut ports = status.ports.iter().filter(|port| parts(&port.name, is_device).0 == device.name);
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
    let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
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
    /// Where VXLAN is for this host
    port: u16,
    vtep: IpAddr,
}

impl Run<'_> {
    fn is_in_hurry(&self) -> bool {
        self.in_hurry || self.waiting.len() > MANY || self.held > WAITING / 2
    }

    fn receive(&mut self, devices: &mut [Device], batch: &mut RecvBatch) {
        for (index, device) in devices.iter_mut().enumerate().filter(|(_, device)| !device.is_gone) {
            let mut captured = Vec::new();
            for _ in 0..BATCHES {
                match device.socket.receive(batch, |frame| captured.push(frame)) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(_) => {
                        // It went down, and may come up again, or it is gone.
                        device.is_gone = !is_device(&device.name);
                        break;
                    }
                }
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
    }

    /// Whose a frame is, if it is wanted as far as that can be seen of it.
    fn place(&self, index: usize, device: &Device, captured: Captured) -> Option<Packet> {
        let options = self.options;
        let mut packet = Packet {
            device: index,
            captured,
            vni: None,
            inner: 0,
            from: None,
            endpoint: None,
            tagged: false,
            arrived: Instant::now(),
        };
        if device.endpoints.is_empty() {
            let told::Tunnelled { from, vni, inner } =
                told::in_tunnel(&packet.captured, self.port, self.vtep)?;
            (packet.vni, packet.inner, packet.from) = (vni, inner, Some(from.to_string()));
        } else if let Some(Placed { row, vlan, .. }) = told::of_port(&device.endpoints, &packet.captured) {
            (packet.vni, packet.tagged) = (Some(row.vni), vlan.is_some());
            (packet.endpoint, packet.from) = (Some(row.endpoint.clone()), row.port.clone());
        } else {
            packet.from = Some(device.name.clone());
        }
        let is_of_wanted = |packet: &Packet| match &packet.endpoint {
            Some(name) => self.teller.is_wanted(packet.vni, name),
            None => self.teller.is_of(packet.vni, packet.frame()),
        };
        let is_wanted = options.vni.is_none_or(|vni| packet.vni == Some(vni))
            && told::matches(packet.frame(), options.address, options.port, options.proto, options.mac)
            && (options.endpoint.is_none() || is_of_wanted(&packet));
        is_wanted.then_some(packet)
    }

    /// Writes packets that have waited so long, each with what became of it, for as long a time as that at most.
    fn settle(&mut self, devices: &[Device], wait: Duration, stint: Duration) -> Result<()> {
        self.teller.hear();
        let begun = Instant::now();
        while begun.elapsed() < stint
            && (self.teller.may_ask() || self.is_in_hurry())
            && self.waiting.front().is_some_and(|packet| packet.arrived.elapsed() >= wait)
            && let Some(packet) = self.waiting.pop_front()
        {
            self.held -= packet.captured.bytes.len();
            if self.options.packets.is_some_and(|most| self.written >= most) {
                continue;
            }
            let Some(device) = devices.get(packet.device) else { continue };
            let in_hurry = self.is_in_hurry();
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
        let is_wanted = |wanted| fate.passed() == Some(wanted == VerdictArg::Forwarded);
        self.verdict.is_none_or(is_wanted)
            && self.reason.as_ref().is_none_or(|reason| fate.reason.as_ref() == Some(reason))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_device_and_perhaps_a_vlan() {
        let vlan = VlanId::new_checked;
        let parts = |port| parts(port, |name| name == "bond0.7");
        assert_eq!(parts("veth-web1"), ("veth-web1", None, false));
        assert_eq!(parts("eth1.101"), ("eth1", vlan(101), false));
        assert_eq!(parts("eth1.101/02:00:00:00:00:01"), ("eth1", vlan(101), true));
        assert_eq!(parts("eth1/02:00:00:00:00:01"), ("eth1", None, true));
        assert_eq!(parts("br.lan"), ("br.lan", None, false), "no VLAN has that name");
        assert_eq!(parts("bond0.7"), ("bond0.7", None, false), "a device has");
        assert_eq!(parts("bond0.7.9"), ("bond0.7", vlan(9), false));
    }
}
