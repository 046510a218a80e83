//! IP packets sent as they are, and found among frames.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

use eastgate::io::sysopt;
use eastgate_wire::{
    View,
    view::{Transport, proto},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::Party;
use crate::error::LabError;

/// Sends an IP packet: the kernel finds the next hop and leaves the packet alone, however small it believes the
/// path to be.
pub(crate) fn send_packet(from: &Party, to: IpAddr, packet: &[u8]) -> Result<(), LabError> {
    let sent: io::Result<()> = from.namespace.enter(|| {
        let to = SocketAddr::new(to, 0);
        let socket =
            Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        // "Probe" has the kernel look at the device's MTU alone. It otherwise heeds what a router told it before,
        // and refuses an IPv6 packet, or cuts an IPv4 one, that nobody on the way has had a chance to answer.
        match to {
            SocketAddr::V4(_) => {
                socket.set_header_included_v4(true)?;
                let probe = libc::IP_PMTUDISC_PROBE;
                sysopt::set(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe)?;
            }
            SocketAddr::V6(_) => {
                socket.set_header_included_v6(true)?;
                let probe = libc::IPV6_PMTUDISC_PROBE;
                sysopt::set(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
            }
        }
        socket.send_to(packet, &to.into()).map(|_| ())
    })?;
    sent.map_err(|error| LabError::Packet { from: from.name.clone(), error })
}

/// Whether `frame` is an IP packet from `from` to `to` of this protocol and these ports. Ports are compared where
/// they are given; an ICMP echo request has its identifier as source port.
pub(crate) fn is_packet(
    frame: &[u8],
    (from, source): (IpAddr, Option<u16>),
    (to, destination): (IpAddr, Option<u16>),
    wanted: u8,
) -> Option<View> {
    let view = View::parse(frame).ok()?;
    let ip = view.ip()?;
    let (sport, dport) = match ip.transport {
        Transport::Tcp(tcp) => (tcp.sport, Some(tcp.dport)),
        Transport::Udp { sport, dport } => (sport, Some(dport)),
        Transport::Icmp(icmp) if matches!((ip.proto, icmp.kind), (proto::ICMP, 8) | (proto::ICMPV6, 128)) => {
            (icmp.id, None)
        }
        _ => return None,
    };
    let same = ip.proto == wanted
        && ip.src.to_ip() == from
        && ip.dst.to_ip() == to
        && source.is_none_or(|source| source == sport)
        && destination.is_none_or(|destination| dport == Some(destination));
    same.then_some(view)
}
