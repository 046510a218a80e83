//! Frames seen and sent past a machine's kernel.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use eastgate_wire::MacAddr;
use pnet::datalink::{self, Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};

use super::Space;

const TICK: Duration = Duration::from_millis(20);

/// Everything that arrives at a device, from when it was started until it is dropped.
pub struct Capture {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts it; it sees what arrives from when this returns.
    pub fn start(space: &Space, device: &str) -> Self {
        let (frames, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, end, device) = (frames.clone(), stop.clone(), device.to_owned());
        let (opened, is_open) = mpsc::channel();
        let thread = space.spawn(move || {
            let (_, mut receiver) = open(&device);
            opened.send(()).unwrap();
            while !end.load(SeqCst) {
                if let Ok(frame) = receiver.next() {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(frame.to_vec());
                }
            }
        });
        is_open.recv().unwrap();
        Self { frames, stop, thread: Some(thread) }
    }

    /// What has arrived so far and is `wanted`.
    pub fn matching(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.iter().filter(|frame| wanted(frame)).cloned().collect()
    }

    /// What has arrived so far.
    pub fn all(&self) -> Vec<Vec<u8>> {
        self.matching(|_| true)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn interface(device: &str) -> NetworkInterface {
    let found = datalink::interfaces().into_iter().find(|interface| interface.name == device);
    found.unwrap_or_else(|| panic!("no device {device}"))
}

fn open(device: &str) -> (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>) {
    let config = Config { read_timeout: Some(TICK), read_buffer_size: 1 << 17, ..Config::default() };
    match datalink::channel(&interface(device), config).unwrap() {
        Channel::Ethernet(sender, receiver) => (sender, receiver),
        _ => panic!("{device} is no Ethernet device"),
    }
}

/// Sends a frame out of a device.
pub fn send_frame(space: &Space, device: &str, frame: &[u8]) {
    let (device, frame) = (device.to_owned(), frame.to_vec());
    space.enter(move || open(&device).0.send_to(&frame, None).unwrap().unwrap());
}

/// The MAC of a device.
pub fn hardware_address(space: &Space, device: &str) -> MacAddr {
    let device = device.to_owned();
    MacAddr(space.enter(move || interface(&device).mac.unwrap().octets()))
}

/// "Who has `target`? Tell `sender`."
pub fn arp_request(mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac.0, &sender.octets(), &[0; 6], &target.octets()].concat();
    [&[0xff; 6][..], &mac.0, &[8, 6], &arp].concat()
}

/// An echo request of either family.
pub fn icmp_echo(from: (MacAddr, IpAddr), to: (MacAddr, IpAddr)) -> Vec<u8> {
    match (from.1, to.1) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let icmp = with_checksum(vec![8, 0, 0, 0, 0, 1, 0, 1], 2, &[]);
            let header =
                [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0][..], &src.octets(), &dst.octets()].concat();
            [&to.0.0[..], &from.0.0, &[8, 0], &with_checksum(header, 10, &[]), &icmp].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            icmp_v6((from.0, src), (to.0, dst), 64, vec![128, 0, 0, 0, 0, 1, 0, 1])
        }
        _ => panic!("two families in one packet"),
    }
}

/// "Who has `target`?" in IPv6, to its solicited-node group.
pub fn neighbor_solicitation(mac: MacAddr, sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let mut group: Ipv6Addr = "ff02::1:ff00:0".parse::<Ipv6Addr>().unwrap();
    group = Ipv6Addr::from(u128::from(group) | u128::from(u32::from_be_bytes([0, a, b, c])));
    let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[1, 1], &mac.0].concat();
    icmp_v6((mac, sender), (MacAddr([0x33, 0x33, 0xff, a, b, c]), group), 255, body)
}

fn icmp_v6(from: (MacAddr, Ipv6Addr), to: (MacAddr, Ipv6Addr), hops: u8, body: Vec<u8>) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    let pseudo = [&from.1.octets()[..], &to.1.octets(), &[0, 0], &length, &[0, 0, 0, 58]].concat();
    let body = with_checksum(body, 2, &pseudo);
    let header = [&[0x60, 0, 0, 0][..], &length, &[58, hops], &from.1.octets(), &to.1.octets()].concat();
    [&to.0.0[..], &from.0.0, &[0x86, 0xdd], &header, &body].concat()
}

/// Puts the Internet checksum of `pseudo` and `bytes` at `place`.
fn with_checksum(mut bytes: Vec<u8>, place: usize, pseudo: &[u8]) -> Vec<u8> {
    let all = [pseudo, &bytes].concat();
    let sum = all
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    bytes[place..place + 2].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    bytes
}
