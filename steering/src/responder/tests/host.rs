//! Two whole hosts (smoltcp) that find each other through the responder and talk, in virtual time.

use std::{collections::VecDeque, net::IpAddr};

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::udp,
    time::Instant,
    wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr},
};

use super::*;
use crate::rewrite;

const PORT: u16 = 7000;

#[derive(Default)]
struct Wire {
    inbound: VecDeque<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
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

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.inbound.pop_front()?), Sending(&mut self.outbound)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Host {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Host {
    fn new(mac: MacAddr, addresses: &[Addr]) -> Self {
        let mut wire = Wire::default();
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|list| {
            for address in addresses {
                let bits = if address.is_v4() { 24 } else { 64 };
                list.push(IpCidr::new(address.to_ip().into(), bits)).unwrap();
            }
        });
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 256]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(PORT).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        Self { wire, interface, sockets, socket }
    }

    fn send(&mut self, to: Addr, text: &[u8]) {
        let to: IpAddress = to.to_ip().into();
        self.sockets.get_mut::<udp::Socket<'_>>(self.socket).send_slice(text, (to, PORT)).unwrap();
    }

    fn receive(&mut self) -> Option<(Vec<u8>, IpAddr)> {
        let (text, from) = self.sockets.get_mut::<udp::Socket<'_>>(self.socket).recv().ok()?;
        Some((text.to_vec(), from.endpoint.addr.into()))
    }

    fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }
}

/// A and B at two ports of an appliance that does nothing but steer.
struct Network {
    world: World,
    mode: Mode,
    hosts: [Host; 2],
    requesters: [Requester<'static>; 2],
    now: Instant,
    /// (source, destination) MAC of each data frame, as it was sent and as it was delivered
    carried: Vec<[(MacAddr, MacAddr); 2]>,
}

impl Network {
    fn new(mode: Mode) -> Self {
        let requesters = [a(), b()];
        let hosts = [
            Host::new(A, &requesters[0].holdings.addresses),
            Host::new(B, &requesters[1].holdings.addresses),
        ];
        Self { world: World::new(), mode, hosts, requesters, now: Instant::ZERO, carried: Vec::new() }
    }

    fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for from in 0..2 {
                self.hosts[from].poll(self.now);
                while let Some(frame) = self.hosts[from].wire.outbound.pop_front() {
                    self.carry(from, frame);
                }
            }
            self.now += smoltcp::time::Duration::from_millis(100);
        }
    }

    fn carry(&mut self, from: usize, mut frame: Vec<u8>) {
        let view = View::parse(&frame).unwrap();
        let mut reply = Vec::new();
        let answer = answer(&frame, &view, &self.requesters[from], &self.world, &self.mode, &mut reply);
        let to = &mut self.hosts[1 - from].wire.inbound;
        match answer {
            Answer::Reply => self.hosts[from].wire.inbound.push_back(reply),
            Answer::Pass => to.push_back(frame),
            Answer::NotNeighbor if !view.dst.is_multicast() => {
                if view.dst == PROXY {
                    let target = self.world.by_address(view.ip().unwrap().dst).unwrap();
                    assert!(rewrite(&mut frame, PROXY, target.mac));
                }
                let after = View::parse(&frame).unwrap();
                self.carried.push([(view.src, view.dst), (after.src, after.dst)]);
                to.push_back(frame);
            }
            Answer::NotNeighbor => {}
            other => panic!("{other:?} to {view:?}"),
        }
    }
}

/// In the first exchange after start, in both directions, for both families.
fn talk(mode: Mode, there: [(MacAddr, MacAddr); 2], back: [(MacAddr, MacAddr); 2]) {
    for (own, peer) in [("10.1.0.10", "10.1.0.11"), ("fd00::10", "fd00::11")] {
        let mut network = Network::new(mode);
        network.hosts[0].send(addr(peer), b"hello");
        network.run(20);
        assert_eq!(network.hosts[1].receive(), Some((b"hello".to_vec(), own.parse().unwrap())), "{peer}");
        assert_eq!(network.carried, [there], "{peer}: by these MACs");

        network.hosts[1].send(addr(own), b"and back");
        network.run(20);
        assert_eq!(network.hosts[0].receive(), Some((b"and back".to_vec(), peer.parse().unwrap())), "{own}");
        assert_eq!(network.carried, [there, back], "{own}: by these MACs");
    }
}

#[test]
fn hosts_meet_directly_when_requests_are_suppressed() {
    talk(SUPPRESS, [(A, B), (A, B)], [(B, A), (B, A)]);
}

#[test]
fn hosts_meet_directly_when_nobody_answers_for_them() {
    talk(OFF, [(A, B), (A, B)], [(B, A), (B, A)]);
}

#[test]
fn hosts_meet_through_the_appliance_in_proxy_mode() {
    talk(PROXIED, [(A, PROXY), (PROXY, B)], [(B, PROXY), (PROXY, A)]);
}
