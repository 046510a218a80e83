//! Two machines that this program plays, on a trunk of the appliance's own: they open as many flows as are asked for.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use eastgate_testkit::packet;
use eastgate_wire::{MacAddr, view::ethertype};

/// One of the two machines.
#[derive(Clone, Copy, Debug)]
struct End {
    vlan: u16,
    mac: MacAddr,
    address: IpAddr,
}

const ENDS: [End; 2] = [
    End { vlan: 201, mac: MacAddr([2, 0, 0, 0, 2, 1]), address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 21)) },
    End { vlan: 202, mac: MacAddr([2, 0, 0, 0, 2, 2]), address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 22)) },
];

/// How many frames are on their way at once: fewer than a card's ring holds.
const BATCH: u16 = 64;
/// Where flows of the machine that asks begin.
const FIRST_PORT: u16 = 1024;
/// How long a frame may take. Those that are lost on the way are sent again.
const FRAME_BOUND: Duration = Duration::from_secs(2);
/// How often one is sent again.
const ATTEMPTS: u32 = 10;

/// The cable's end.
#[derive(Debug)]
pub(super) struct Generator {
    socket: UnixDatagram,
    appliance: PathBuf,
}

impl Generator {
    /// At the end of the wire whose other end the appliance has.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(folder.join("wire-h"))?;
        socket.set_read_timeout(Some(FRAME_BOUND))?;
        socket.set_write_timeout(Some(FRAME_BOUND))?;
        Ok(Self { socket, appliance: folder.join("wire-g") })
    }

    /// Opens `flows` flows from one machine to the other, each of a datagram and its answer. The other machine's port is `service`.
    pub(super) fn exchange(&self, flows: u16, service: u16) -> Result<()> {
        let [asker, server] = ENDS;
        let ports: Vec<u16> = (0..flows).map(|index| FIRST_PORT + index).collect();
        for batch in ports.chunks(usize::from(BATCH)) {
            self.carry(asker, server, batch, |port| (port, service))?;
            self.carry(server, asker, batch, |port| (service, port))?;
        }
        Ok(())
    }

    /// Sends a datagram for each port, until all of them have come out at the other machine.
    fn carry(&self, from: End, to: End, batch: &[u16], ports: impl Fn(u16) -> (u16, u16)) -> Result<()> {
        let mut missing: Vec<u16> = batch.to_vec();
        for _ in 0..ATTEMPTS {
            for port in &missing {
                let (source, destination) = ports(*port);
                let packet = packet::udp((from.address, source), (to.address, destination), b"?");
                let packet = packet.context("no datagram")?;
                let frame = tagged(from.vlan, &packet::ip_frame(to.mac, from.mac, &packet))?;
                match self.socket.send_to(&frame, &self.appliance) {
                    // The card takes no more for now: what is missing is sent again.
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        break;
                    }
                    sent => sent.context("the appliance's card")?,
                };
            }
            let mut frame = [0; 2048];
            while !missing.is_empty() {
                let Ok(length) = self.socket.recv(&mut frame) else { break };
                if let Some((source, destination)) =
                    frame.get(..length).and_then(|frame| read(to.vlan, frame))
                {
                    missing.retain(|port| ports(*port) != (source, destination));
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
        }
        ensure!(missing.is_empty(), "{} of {} datagrams did not come through", missing.len(), batch.len());
        Ok(())
    }
}

/// A frame with the tag of a VLAN.
fn tagged(vlan: u16, frame: &[u8]) -> Result<Vec<u8>> {
    let (macs, rest) = frame.split_at_checked(12).context("a frame without MACs")?;
    Ok([macs, &ethertype::VLAN.to_be_bytes(), &vlan.to_be_bytes(), rest].concat())
}

/// The ports of a UDP datagram over IPv4 in a frame with this tag.
fn read(vlan: u16, frame: &[u8]) -> Option<(u16, u16)> {
    let number = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let is_of_vlan = number(12)? == ethertype::VLAN && number(14)? & 0xfff == vlan;
    let is_udp = number(16)? == ethertype::IPV4 && frame.get(18 + 9) == Some(&17);
    (is_of_vlan && is_udp).then_some((number(38)?, number(40)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_behind_the_tag_of_the_vlan_alone() {
        let [from, to] = ENDS;
        let packet = packet::udp((from.address, 4000), (to.address, 53), b"?").unwrap();
        let frame = tagged(201, &packet::ip_frame(to.mac, from.mac, &packet)).unwrap();
        assert_eq!(read(201, &frame), Some((4000, 53)));
        assert_eq!(read(202, &frame), None);
        assert_eq!(read(201, &frame[..40]), None);
        assert_eq!(read(201, &packet::ip_frame(to.mac, from.mac, &packet)), None);
    }
}
