//! Who listens to whole devices on this machine: tcpdump, and whatever else opens packet sockets for every protocol.

use std::{collections::BTreeSet, fs, path::PathBuf};

/// What the kernel tells of the packet sockets of the caller's network namespace.
const SOCKETS: &str = "/proc/thread-self/net/packet";

/// Devices of which every frame is given to somebody's packet socket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Captures {
    /// Somebody listens to all of them
    any: bool,
    /// Interface indexes
    devices: BTreeSet<u32>,
}

impl Captures {
    /// Those of now, but for sockets of this process; none where procfs does not tell.
    #[must_use]
    pub fn now() -> Self {
        let text = fs::read_to_string(SOCKETS).unwrap_or_default();
        let sockets: Vec<Listener> = text.lines().skip(1).filter_map(Listener::read).collect();
        // Mostly there are none, and nobody is to be asked for their own.
        let own = if sockets.is_empty() { BTreeSet::new() } else { own_sockets() };
        Self::of(sockets.iter().filter(|socket| !own.contains(&socket.inode)))
    }

    fn of<'s>(sockets: impl Iterator<Item = &'s Listener>) -> Self {
        let devices: BTreeSet<u32> = sockets.map(|socket| socket.device).collect();
        Self { any: devices.contains(&ANY), devices }
    }

    /// Is this device one of them?
    #[must_use]
    pub fn has(&self, ifindex: u32) -> bool {
        self.any || self.devices.contains(&ifindex)
    }
}

/// In place of a device: all of them
const ANY: u32 = 0;

/// A packet socket that takes every protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Listener {
    device: u32,
    inode: u64,
}

impl Listener {
    /// `sk RefCnt Type Proto Iface R Rmem User Inode`, the protocol in hexadecimal and 0 for all devices (packet(7); net/packet/af_packet.c).
    fn read(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, protocol, device, _, _, _, inode] = fields.try_into().ok()?;
        let takes_all = u16::from_str_radix(protocol, 16) == Ok(libc::ETH_P_ALL as u16);
        takes_all.then_some(Self { device: device.parse().ok()?, inode: inode.parse().ok()? })
    }
}

/// The inodes of the sockets that this process has.
fn own_sockets() -> BTreeSet<u64> {
    let files = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let inode = |path: PathBuf| {
        let target = fs::read_link(path).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    files.filter_map(|file| inode(file.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_takes_every_protocol_captures() {
        let read = |lines: &[&str]| {
            Captures::of(lines.iter().filter_map(|line| Listener::read(line)).collect::<Vec<_>>().iter())
        };
        let lines = [
            "ffff888104a5d000 3      3    0003   7     1 0      0      21311",
            "ffff888104a5d800 3      3    88cc   8     1 0      0      21312",
            "ffff888104a5e000 3      3    0000   9     0 0      0      21313",
            "damaged",
        ];
        assert_eq!([7, 8, 9, 0].map(|device| read(&lines).has(device)), [true, false, false, false]);
        let all = read(&["ffff888104a5e800 3 3 0003 0 1 0 0 21314"]);
        assert_eq!([7, 8].map(|device| all.has(device)), [true, true]);
        assert_eq!(read(&[]), Captures::default());
    }

    #[test]
    fn own_sockets_are_known() {
        use std::os::fd::AsRawFd;
        let before = own_sockets();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let new: Vec<u64> = own_sockets().difference(&before).copied().collect();
        assert!(
            new.iter().any(|inode| link.to_str() == Some(&format!("socket:[{inode}]"))),
            "{link:?} {new:?}"
        );
    }
}
