//! Who listens to whole devices on this machine: tcpdump, and whatever else opens packet sockets for every protocol.

use std::{collections::BTreeSet, fs};

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
    /// Those of now; none where procfs does not tell.
    #[must_use]
    pub fn now() -> Self {
        fs::read_to_string(SOCKETS).map(|text| Self::read(&text)).unwrap_or_default()
    }

    /// `sk RefCnt Type Proto Iface R Rmem User Inode`, the protocol in hexadecimal and 0 for all devices (packet(7); net/packet/af_packet.c)
    fn read(text: &str) -> Self {
        let mut captures = Self::default();
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace().skip(3);
            let protocol = fields.next().and_then(|field| u16::from_str_radix(field, 16).ok());
            if protocol != Some(libc::ETH_P_ALL as u16) {
                continue;
            }
            match fields.next().and_then(|field| field.parse().ok()) {
                Some(0) => captures.any = true,
                Some(device) => _ = captures.devices.insert(device),
                None => {}
            }
        }
        captures
    }

    /// Is this device one of them?
    #[must_use]
    pub fn has(&self, ifindex: u32) -> bool {
        self.any || self.devices.contains(&ifindex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_takes_every_protocol_captures() {
        let head = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n";
        let text = head.to_owned()
            + "ffff888104a5d000 3      3    0003   7     1 0      0      21311\n\
               ffff888104a5d800 3      3    88cc   8     1 0      0      21312\n\
               ffff888104a5e000 3      3    0000   9     0 0      0      21313\n\
               damaged\n";
        let captures = Captures::read(&text);
        assert_eq!([7, 8, 9, 0].map(|device| captures.has(device)), [true, false, false, false]);
        let all = Captures::read(&(text + "ffff888104a5e800 3 3 0003 0 1 0 0 21314\n"));
        assert_eq!([7, 8].map(|device| all.has(device)), [true, true]);
        assert_eq!(Captures::read(""), Captures::default());
    }
}
