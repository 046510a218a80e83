//! The stack of a probe: one interface (smoltcp) on a device that is two queues. What it sends is held against what the probe is for, so
//! that nothing else of a stack's own accord gets into the path.

use std::collections::VecDeque;

use eastgate_wire::{Addr, Instant, MacAddr};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::{icmp, tcp},
    time::{Duration, Instant as Moment},
    wire::{
        EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress,
        IpCidr,
    },
};

/// The largest packet, in bytes from its IP header on
pub(super) const LARGEST: usize = eastgate_api::MAX_SIZE as usize;
const ETHERNET_LEN: usize = 14;
/// Bytes of an echo request's header
const ECHO_LEN: usize = 8;

/// Whose stack it is, and on what link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Its MAC
    pub(super) mac: MacAddr,
    /// Its address
    pub(super) own: Addr,
    /// Bits of the prefix that is on the link
    pub(super) prefix: u8,
    /// Who leads to the rest
    pub(super) router: Option<Addr>,
    /// Bytes of the largest packet
    pub(super) mtu: usize,
    /// What sequence numbers come of
    pub(super) seed: u64,
}

/// It.
pub(super) struct Stack {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    tcp: Option<SocketHandle>,
    icmp: Option<SocketHandle>,
    own: Addr,
}

#[derive(Default)]
struct Wire {
    inbound: VecDeque<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
    mtu: usize,
}

struct Received(Vec<u8>);
struct Sending<'w>(&'w mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'w> = Received;
    type TxToken<'w> = Sending<'w>;

    fn receive(&mut self, _: Moment) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.inbound.pop_front()?), Sending(&mut self.outbound)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Sending<'_>> {
        Some(Sending(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + ETHERNET_LEN;
        // What comes in was looked at by the path; on a host, a checksum may be left for a device that the frame never meets.
        let mut sums = ChecksumCapabilities::default();
        (sums.ipv4, sums.tcp, sums.udp) = (Checksum::Tx, Checksum::Tx, Checksum::Tx);
        (sums.icmpv4, sums.icmpv6) = (Checksum::Tx, Checksum::Tx);
        capabilities.checksum = sums;
        capabilities
    }
}

fn moment(now: Instant) -> Moment {
    Moment::from_micros(i64::try_from(now.micros()).unwrap_or(i64::MAX))
}

fn address(addr: Addr) -> IpAddress {
    addr.to_ip().into()
}

impl Stack {
    pub(super) fn new(link: &Link, now: Instant) -> Self {
        let mut wire = Wire { mtu: link.mtu, ..Wire::default() };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(link.mac.0)));
        config.random_seed = link.seed;
        let mut interface = Interface::new(config, &mut wire, moment(now));
        interface.update_ip_addrs(|list| {
            // There is room for one in the list.
            let _ = list.push(IpCidr::new(address(link.own), link.prefix));
        });
        match link.router.map(address) {
            Some(IpAddress::Ipv4(router)) => {
                let _ = interface.routes_mut().add_default_ipv4_route(router);
            }
            Some(IpAddress::Ipv6(router)) => {
                let _ = interface.routes_mut().add_default_ipv6_route(router);
            }
            None => {}
        }
        let sockets = SocketSet::new(Vec::new());
        Self { wire, interface, sockets, tcp: None, icmp: None, own: link.own }
    }

    /// Begins a connection from this port. False where the stack does not take such an address or port.
    pub(super) fn connect(
        &mut self,
        peer: Addr,
        port: u16,
        own_port: u16,
        within: std::time::Duration,
    ) -> bool {
        let buffer = || tcp::SocketBuffer::new(vec![0; 512]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket
            .set_timeout(Some(Duration::from_micros(u64::try_from(within.as_micros()).unwrap_or(u64::MAX))));
        let began = socket.connect(self.interface.context(), (address(peer), port), own_port).is_ok();
        self.tcp = Some(self.sockets.add(socket));
        began
    }

    /// The state of the connection; closed where there is none.
    pub(super) fn state(&mut self) -> tcp::State {
        self.tcp.map_or(tcp::State::Closed, |tcp| self.sockets.get::<tcp::Socket<'_>>(tcp).state())
    }

    /// Closes the connection, or cuts it.
    pub(super) fn close(&mut self, cut: bool) {
        let Some(tcp) = self.tcp else { return };
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(tcp);
        if cut { socket.abort() } else { socket.close() }
    }

    /// Sends an echo request with this identifier, of so many bytes from its IP header on, with DF. False where it does not fit.
    pub(super) fn echo(&mut self, peer: Addr, id: u16, number: u16, size: usize) -> bool {
        let header = ECHO_LEN + if peer.is_v4() { 20 } else { 40 };
        let data = vec![0xe9; size.saturating_sub(header)];
        let icmp = *self.icmp.get_or_insert_with(|| {
            let buffer =
                || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 2 * LARGEST]);
            let mut socket = icmp::Socket::new(buffer(), buffer());
            // An identifier of 0 is one that no socket takes, and none that is chosen.
            let _ = socket.bind(icmp::Endpoint::Ident(id));
            self.sockets.add(socket)
        });
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(icmp);
        let Ok(buffer) = socket.send(ECHO_LEN + data.len(), address(peer)) else { return false };
        match (address(self.own), address(peer)) {
            (IpAddress::Ipv4(_), IpAddress::Ipv4(_)) => {
                let repr = Icmpv4Repr::EchoRequest { ident: id, seq_no: number, data: &data };
                repr.emit(&mut Icmpv4Packet::new_unchecked(buffer), &ChecksumCapabilities::default());
            }
            (IpAddress::Ipv6(own), IpAddress::Ipv6(peer)) => {
                let repr = Icmpv6Repr::EchoRequest { ident: id, seq_no: number, data: &data };
                let packet = &mut Icmpv6Packet::new_unchecked(buffer);
                repr.emit(&own, &peer, packet, &ChecksumCapabilities::default());
            }
            _ => return false,
        }
        true
    }

    /// Takes a frame.
    pub(super) fn hear(&mut self, frame: Vec<u8>) {
        self.wire.inbound.push_back(frame);
    }

    /// What it wants to send now.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.interface.poll(moment(now), &mut self.wire, &mut self.sockets);
        if let Some(icmp) = self.icmp {
            let socket = self.sockets.get_mut::<icmp::Socket<'_>>(icmp);
            while socket.recv().is_ok() {}
        }
        self.wire.outbound.drain(..).collect()
    }

    /// How long it can be left alone.
    pub(super) fn wait(&mut self, now: Instant) -> Option<std::time::Duration> {
        let wait = self.interface.poll_delay(moment(now), &self.sockets)?;
        Some(std::time::Duration::from_micros(wait.total_micros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link {
        mac: MacAddr([2, 0, 0, 0, 0, 0x11]),
        own: Addr::v4([10, 1, 0, 11]),
        prefix: 0,
        router: None,
        mtu: LARGEST,
        seed: 7,
    };
    const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x21]);

    fn six(last: u16) -> Addr {
        Addr::v6(std::net::Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, last).octets())
    }

    /// As xorshift goes on
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// The frames that a stack has sent, turned round as an answer would be
    fn turned(frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        if frame.len() >= 34 {
            frame.splice(..12, LINK.mac.0.into_iter().chain(PEER.0));
            let (from, to): (Vec<u8>, Vec<u8>) = (frame[26..30].to_vec(), frame[30..34].to_vec());
            frame.splice(26..34, to.into_iter().chain(from));
        }
        frame
    }

    #[test]
    fn what_comes_in_does_not_harm_it() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for (link, peer) in [
            (LINK, Addr::v4([10, 1, 0, 21])),
            (Link { own: six(0x11), ..LINK }, six(0x21)),
            (Link { router: Some(Addr::v4([10, 1, 0, 1])), prefix: 24, ..LINK }, Addr::v4([10, 9, 0, 1])),
        ] {
            let mut now = Instant::from_secs(1);
            let mut stack = Stack::new(&link, now);
            assert!(stack.connect(peer, 5432, 61_000, std::time::Duration::from_secs(60)));
            let mut seen: Vec<Vec<u8>> = Vec::new();
            for round in 0..30_000_u32 {
                now = now + std::time::Duration::from_millis(3);
                if round % 100 == 0 {
                    stack.echo(peer, 61_001, round as u16, 64 + (next(&mut random) % 9000) as usize);
                }
                let mut frame = match seen.get((next(&mut random) % 64) as usize) {
                    Some(known) if round % 3 > 0 => turned(known),
                    _ => (0..next(&mut random) % 200).map(|_| next(&mut random) as u8).collect(),
                };
                for _ in 0..next(&mut random) % 6 {
                    let at = (next(&mut random) % 90) as usize;
                    if let Some(byte) = frame.get_mut(at) {
                        *byte = next(&mut random) as u8;
                    }
                }
                let cut = (next(&mut random) % 120) as usize;
                if round % 5 == 0 {
                    frame.truncate(cut);
                }
                stack.hear(frame);
                for sent in stack.poll(now) {
                    assert!(sent.len() <= LARGEST + ETHERNET_LEN);
                    if seen.len() < 64 {
                        seen.push(sent);
                    }
                }
                let _ = (stack.wait(now), stack.state());
            }
        }
    }

    #[test]
    fn an_echo_has_the_size_that_was_asked_for() {
        let now = Instant::from_secs(1);
        let mut stack = Stack::new(&LINK, now);
        assert!(stack.echo(Addr::v4([10, 1, 0, 21]), 61_000, 1, 1400));
        let question = stack.poll(now).remove(0);
        assert_eq!(question[12..14], [8, 6], "who has it");
        let mut reply = question[..14].to_vec();
        reply.splice(..12, LINK.mac.0.into_iter().chain(PEER.0));
        reply.extend([0, 1, 8, 0, 6, 4, 0, 2]);
        reply.extend(PEER.0.into_iter().chain([10, 1, 0, 21]).chain(LINK.mac.0).chain([10, 1, 0, 11]));
        stack.hear(reply);
        let sent = stack.poll(now + std::time::Duration::from_millis(1));
        let echo = sent.iter().find(|frame| frame[12..14] == [8, 0]).unwrap();
        assert_eq!(echo.len(), 14 + 1400);
        assert_eq!(echo[20] & 0x40, 0x40, "DF");
    }
}
