//! Echo requests of the appliance's own, from its underlay address to another host, with DF and past what the kernel believes of the
//! path; and whether a UDP port there is closed.

use std::{
    io::{self, ErrorKind, Read as _},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use eastgate_wire::checksum::checksum;
use socket2::{Domain, Protocol, Socket, Type};

use super::sysopt;

/// Bytes of an IP header without options
const fn header_of(to: IpAddr) -> usize {
    if to.is_ipv4() { 20 } else { 40 }
}

/// What came of an echo request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Echoed {
    /// Answered after this time
    Answered(Duration),
    /// It did not fit; what does, as somebody says
    TooBig(Option<u32>),
    /// Somebody says that it was not delivered: type and code of the ICMP message
    Unreachable(u8, u8),
    /// Nobody said anything.
    Lost,
}

/// A socket for echo requests to one host.
#[derive(Debug)]
pub struct EchoSocket {
    socket: Socket,
    to: IpAddr,
    id: u16,
    number: u16,
}

impl EchoSocket {
    /// From one address to another, with this identifier.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(from: IpAddr, to: IpAddr, id: u16) -> io::Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW.cloexec(), Some(protocol))?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        match to {
            IpAddr::V4(_) => {
                sysopt::set(
                    socket.as_fd(),
                    libc::IPPROTO_IP,
                    libc::IP_MTU_DISCOVER,
                    libc::IP_PMTUDISC_PROBE,
                )?;
            }
            IpAddr::V6(_) => {
                let level = libc::IPPROTO_IPV6;
                sysopt::set(socket.as_fd(), level, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
                sysopt::set::<libc::c_int>(socket.as_fd(), level, libc::IPV6_DONTFRAG, 1)?;
            }
        }
        Ok(Self { socket, to, id, number: 0 })
    }

    /// Asks with a packet of so many bytes from its IP header on.
    ///
    /// # Errors
    /// What the kernel says, where that is not about the packet's size or way.
    pub fn ask(&mut self, size: u16, wait: Duration) -> io::Result<Echoed> {
        self.number = self.number.wrapping_add(1);
        let packet = self.request(usize::from(size));
        let begun = Instant::now();
        if let Err(error) = self.socket.send_to(&packet, &SocketAddr::new(self.to, 0).into()) {
            return match error.raw_os_error() {
                Some(libc::EMSGSIZE) => Ok(Echoed::TooBig(None)),
                Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => {
                    Ok(Echoed::Unreachable(UNREACHABLE[usize::from(self.to.is_ipv6())], 0))
                }
                _ => Err(error),
            };
        }
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(Echoed::Lost);
            }
            self.socket.set_read_timeout(Some(left))?;
            match (&self.socket).read(&mut buffer) {
                Ok(len) => {
                    if let Some(echoed) = self.read(buffer.get(..len).unwrap_or_default(), begun.elapsed()) {
                        return Ok(echoed);
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(Echoed::Lost);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn request(&self, size: usize) -> Vec<u8> {
        let kind = if self.to.is_ipv4() { 8 } else { 128 };
        let mut packet = vec![kind, 0, 0, 0];
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.number.to_be_bytes());
        packet.resize(size.saturating_sub(header_of(self.to)).max(8), 0xe9);
        if self.to.is_ipv4() {
            // Over IPv6 the kernel does it, with the addresses.
            let sum = checksum(&packet).to_be_bytes();
            packet.splice(2..4, sum);
        }
        packet
    }

    /// What a packet that the kernel hands over says of the last request; nothing where it is about something else.
    fn read(&self, packet: &[u8], took: Duration) -> Option<Echoed> {
        let v4 = self.to.is_ipv4();
        // A raw socket of IPv4 has the IP header, too.
        let message = if v4 { packet.get(usize::from(packet.first()? & 0x0f) * 4..)? } else { packet };
        let &[kind, code, _, _, a, b, c, d] = message.first_chunk::<8>()?;
        let is_ours = |echo: &[u8]| {
            let [high, low] = self.id.to_be_bytes();
            let [first, second] = self.number.to_be_bytes();
            echo.get(4..8) == Some(&[high, low, first, second])
        };
        let reply = if v4 { 0 } else { 129 };
        if kind == reply {
            return is_ours(message).then_some(Echoed::Answered(took));
        }
        let is_error = if v4 { matches!(kind, 3 | 11) } else { matches!(kind, 1..=3) };
        if !is_error {
            return None;
        }
        let quoted = message.get(8..)?;
        let (at, to) = if v4 {
            let to: [u8; 4] = *quoted.get(16..)?.first_chunk()?;
            (usize::from(quoted.first()? & 0x0f) * 4, IpAddr::from(to))
        } else {
            let to: [u8; 16] = *quoted.get(24..)?.first_chunk()?;
            (40, IpAddr::from(to))
        };
        if to != self.to || !is_ours(quoted.get(at..)?) {
            return None;
        }
        Some(match (v4, kind, code) {
            (true, 3, 4) => Echoed::TooBig(Some(u32::from(u16::from_be_bytes([c, d])))),
            (false, 2, _) => Echoed::TooBig(Some(u32::from_be_bytes([a, b, c, d]))),
            _ => Echoed::Unreachable(kind, code),
        })
    }
}

/// The ICMP and the ICMPv6 type that says so
const UNREACHABLE: [u8; 2] = [3, 1];

/// Whether the machine says that nobody listens at a UDP port: an empty datagram is sent there. False where it says nothing, since somebody
/// listens or it is kept from saying so.
///
/// # Errors
/// What the kernel says.
pub fn is_closed(from: IpAddr, to: SocketAddr, wait: Duration) -> io::Result<bool> {
    let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
    socket.connect(to)?;
    let mut buffer = [0; 1];
    let is_refusal = |error: &io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if let Err(error) = socket.send(&[]) {
        return if is_refusal(&error) { Ok(true) } else { Err(error) };
    }
    socket.set_read_timeout(Some(wait))?;
    match socket.recv(&mut buffer) {
        Err(error) if is_refusal(&error) => Ok(true),
        Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(error),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_answers_itself_and_noise_harms_nobody() {
        let local: IpAddr = [127, 0, 0, 1].into();
        let mut echo = match EchoSocket::open(local, local, 61_000) {
            Ok(echo) => echo,
            // Without the privilege there is no such socket.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return,
            Err(error) => panic!("{error}"),
        };
        for seed in 0..20_000_u32 {
            let bytes: Vec<u8> =
                (0..seed % 90).map(|at| (seed.wrapping_mul(2_654_435_761) >> (at % 24)) as u8).collect();
            let _ = echo.read(&bytes, Duration::ZERO);
        }
        assert_eq!(echo.request(1200).len(), 1180);
        assert_eq!(checksum(&echo.request(1200)), 0);
        let mut quoted = vec![0x45; 20];
        quoted.extend([3, 4, 0, 0, 0, 0, 5, 0x14]);
        let mut inner = vec![0x45; 20];
        inner.splice(16..20, [127, 0, 0, 1]);
        quoted.extend(inner);
        quoted.extend(echo.request(64));
        assert_eq!(echo.read(&quoted, Duration::ZERO), Some(Echoed::TooBig(Some(1300))));
        assert!(matches!(echo.ask(100, Duration::from_secs(5)).unwrap(), Echoed::Answered(_)));
    }
}
