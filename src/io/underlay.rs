//! The VTEP's UDP sockets: one for each worker to hear on, one for each source port to speak from.
//!
//! A VXLAN sender puts the flow's entropy into the outer source port (RFC 7348 section 5). The kernel cuts a
//! large write into datagrams (UDP GSO) only on a socket, and a socket has one source port, so there is one
//! socket for each source port in use. Two kinds of it: single datagrams go out with checksum zero as the RFC
//! wants, where its receiver takes them so; bursts, and what is for VTEPs that want checksums, go out with one, on which
//! the kernel insists for GSO, and which the device computes.

#![allow(
    unsafe_code,
    reason = "the error queue is read by recvmsg, whose addresses are read by their family"
)]

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use eastgate_config::{Checksums, UdpChecksum};
use eastgate_dataplane::pipeline::batch::NarrowPath;
use eastgate_wire::VtepAddr;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    mmsg::{Prefix, RecvBatch, each_control},
    sysopt::{self, Overflow},
};

const RECEIVE_BUFFER: libc::c_int = 32 << 20;
const SEND_BUFFER: libc::c_int = 8 << 20;
/// How many source ports are tried when other programs have the first.
const NEIGHBORS: usize = 8;
/// How many sockets are opened ahead in one go: packets wait meanwhile.
const OPENED_AT_ONCE: usize = 1024;

/// What is fixed for all datagrams of a VTEP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnderlayConfig {
    /// The VTEP's address
    pub vtep: VtepAddr,
    /// UDP port of the overlay
    pub port: u16,
    /// TTL or hop limit of the outer header, where it is not inherited
    pub ttl: u8,
    /// Ask routers not to fragment (IPv4)
    pub dont_fragment: bool,
    /// What the UDP checksum of datagrams is like
    pub checksums: Checksums,
    /// The source ports in use
    pub source_ports: Vec<u16>,
}

fn set_all(fd: BorrowedFd<'_>, options: &[(libc::c_int, libc::c_int, libc::c_int)]) -> io::Result<()> {
    options.iter().try_for_each(|(level, name, value)| sysopt::set(fd, *level, *name, *value))
}

fn buffers(fd: BorrowedFd<'_>, receive: libc::c_int, send: libc::c_int) -> io::Result<()> {
    let set = |name, value| sysopt::set(fd, libc::SOL_SOCKET, name, value);
    set(libc::SO_RCVBUFFORCE, receive).or_else(|_| set(libc::SO_RCVBUF, receive))?;
    set(libc::SO_SNDBUFFORCE, send).or_else(|_| set(libc::SO_SNDBUF, send))
}

fn socket(ip: IpAddr) -> io::Result<Socket> {
    let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// One worker's receiving socket.
#[derive(Debug)]
pub struct RxSocket {
    fd: OwnedFd,
    overflow: Overflow,
}

impl RxSocket {
    /// Listens on the VTEP's address. Several of them share the datagrams, each flow staying with one.
    ///
    /// # Errors
    /// What the kernel says: the address is not this host's, the port is taken.
    pub fn open(config: &UnderlayConfig) -> io::Result<Self> {
        Self::bound_to(config, config.vtep.0)
    }

    /// Listens for a multicast group, on the devices with these indices, and joins it there (IGMP or MLD).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_group(config: &UnderlayConfig, group: IpAddr, devices: &[u32]) -> io::Result<Self> {
        let rx_socket = Self::bound_to(config, group)?;
        let socket = socket2::SockRef::from(&rx_socket.fd);
        for ifindex in devices.iter().copied() {
            match group {
                IpAddr::V4(group) => {
                    socket.join_multicast_v4_n(&group, &socket2::InterfaceIndexOrAddress::Index(ifindex))?
                }
                IpAddr::V6(group) => socket.join_multicast_v6(&group, ifindex)?,
            }
        }
        Ok(rx_socket)
    }

    fn bound_to(config: &UnderlayConfig, ip: IpAddr) -> io::Result<Self> {
        let socket = socket(ip)?;
        let fd = socket.as_fd();
        buffers(fd, RECEIVE_BUFFER, SEND_BUFFER)?;
        match ip {
            IpAddr::V4(_) => set_all(fd, &[(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)])?,
            IpAddr::V6(_) => set_all(
                fd,
                &[
                    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1),
                    (libc::IPPROTO_UDP, sysopt::UDP_NO_CHECK6_RX, 1),
                ],
            )?,
        }
        socket.bind(&SocketAddr::new(ip, config.port).into())?;
        // Without it each datagram of a burst is a message of its own: slower, not wrong.
        if let Err(error) = sysopt::set(fd, libc::IPPROTO_UDP, sysopt::UDP_GRO, 1 as libc::c_int) {
            tracing::info!(%error, "this kernel does not merge received datagrams");
        }
        Ok(Self { fd: socket.into(), overflow: Overflow::default() })
    }

    /// How many datagrams it has lost since the last call because its queue was full, or their checksum was wrong.
    pub fn newly_dropped(&mut self) -> u32 {
        self.overflow.newly_dropped(self.fd.as_fd())
    }

    /// Receives a batch; each message may be several datagrams of one flow, see [`message_info`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.recv(self.fd.as_fd(), Prefix::None)
    }
}

impl AsFd for RxSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the kernel told beside a received message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MessageInfo {
    /// Size of each datagram in it but the last; nothing when it is one datagram
    pub segment: Option<usize>,
    /// TOS or traffic class of the outer header
    pub tos: u8,
}

/// Reads what the kernel told beside message `index`.
#[must_use]
pub fn message_info(batch: &RecvBatch, index: usize) -> MessageInfo {
    let mut info = MessageInfo::default();
    batch.controls(index, |level, kind, data| match (level, kind) {
        (libc::IPPROTO_UDP, sysopt::UDP_GRO) => {
            if let Some(size) = data.first_chunk().map(|size| i32::from_ne_bytes(*size)) {
                info.segment = usize::try_from(size).ok().filter(|size| *size > 0);
            }
        }
        (libc::IPPROTO_IP, libc::IP_TOS) => info.tos = data.first().copied().unwrap_or(0),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            info.tos = data.first_chunk().map_or(0, |class| i32::from_ne_bytes(*class) as u8);
        }
        _ => {}
    });
    info
}

/// A sending socket of one source port.
#[derive(Debug)]
pub struct TxSocket {
    fd: OwnedFd,
}

impl TxSocket {
    fn open(config: &UnderlayConfig, source_port: u16, checksum: bool) -> io::Result<Self> {
        let socket = socket(config.vtep.0)?;
        let fd = socket.as_fd();
        sysopt::refuse_everything(fd)?;
        buffers(fd, 4096, SEND_BUFFER)?;
        let (ttl, no_check) = (config.ttl.into(), libc::c_int::from(!checksum));
        match config.vtep.0 {
            IpAddr::V4(_) => {
                let discover =
                    if config.dont_fragment { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
                set_all(
                    fd,
                    &[
                        (libc::IPPROTO_IP, libc::IP_TTL, ttl),
                        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, ttl),
                        (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, 0),
                        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discover),
                        (libc::IPPROTO_IP, libc::IP_RECVERR, 1),
                        (libc::SOL_SOCKET, libc::SO_NO_CHECK, no_check),
                    ],
                )?;
            }
            IpAddr::V6(_) => set_all(
                fd,
                &[
                    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ttl),
                    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, ttl),
                    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, 0),
                    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
                    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
                    (libc::IPPROTO_UDP, sysopt::UDP_NO_CHECK6_TX, no_check),
                ],
            )?,
        }
        socket.bind(&SocketAddr::new(config.vtep.0, source_port).into())?;
        Ok(Self { fd: socket.into() })
    }

    /// Takes one report off the error queue: a VTEP to which the path takes only `mtu` bytes. The kernel
    /// reports only what quotes a datagram that this socket sent.
    #[must_use]
    pub fn too_big(&self) -> Option<(VtepAddr, u32)> {
        loop {
            match self.take_error()? {
                Some(report) => return Some(report),
                None => continue,
            }
        }
    }

    /// `None`: the queue is empty. `Some(None)`: an error that is no too-big.
    fn take_error(&self) -> Option<Option<(VtepAddr, u32)>> {
        let mut control = [0u64; 64];
        // SAFETY: all-zero is a valid value of these C structures.
        let (mut name, mut header): (libc::sockaddr_storage, libc::msghdr) = unsafe { mem::zeroed() };
        let mut byte = [0u8; 1];
        let mut iovec = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        header.msg_name = std::ptr::from_mut(&mut name).cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_iov = &raw mut iovec;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the header points to live buffers with their true lengths.
        let got = unsafe {
            libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if got < 0 {
            return None;
        }
        let mut mtu = None;
        each_control(&header, |level, kind, data| {
            let recverr = (level == libc::IPPROTO_IP && kind == libc::IP_RECVERR)
                || (level == libc::IPPROTO_IPV6 && kind == libc::IPV6_RECVERR);
            // struct sock_extended_err: errno in the first word, the MTU in `ee_info`, the third.
            if recverr
                && let (Some(errno), Some(info)) = (word(data, 0), word(data, 8))
                && errno == libc::EMSGSIZE as u32
            {
                mtu = Some(info);
            }
        });
        let destination = match libc::c_int::from(name.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that this is a sockaddr_in, which is smaller than the storage.
                let name = unsafe { &*std::ptr::from_ref(&name).cast::<libc::sockaddr_in>() };
                Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr))))
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that this is a sockaddr_in6, which is smaller than the storage.
                let name = unsafe { &*std::ptr::from_ref(&name).cast::<libc::sockaddr_in6>() };
                Some(IpAddr::V6(Ipv6Addr::from(name.sin6_addr.s6_addr)))
            }
            _ => None,
        };
        Some(destination.map(VtepAddr).zip(mtu))
    }
}

impl AsFd for TxSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*data.get(at..)?.first_chunk()?))
}

/// All sending sockets of a VTEP, opened when first used, shared by the workers.
#[derive(Debug)]
pub struct TxSockets {
    config: UnderlayConfig,
    single: Box<[OnceLock<TxSocket>]>,
    burst: Box<[OnceLock<TxSocket>]>,
    /// The kernel has refused a burst.
    uncut: AtomicBool,
    /// Where [`TxSockets::open_some`] goes on
    next: AtomicUsize,
}

impl TxSockets {
    /// For the source ports of `config`.
    #[must_use]
    pub fn new(config: UnderlayConfig) -> Self {
        let slots = || (0..config.source_ports.len()).map(|_| OnceLock::new()).collect();
        Self {
            single: slots(),
            burst: slots(),
            uncut: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            config,
        }
    }

    /// The configuration they were made with.
    #[must_use]
    pub fn config(&self) -> &UnderlayConfig {
        &self.config
    }

    /// Whether bursts may be sent to this VTEP or group.
    #[must_use]
    pub fn bursts_to(&self, to: IpAddr) -> bool {
        self.config.checksums.to(to) != UdpChecksum::Never && !self.uncut.load(Relaxed)
    }

    /// Whether single datagrams to it have a checksum.
    #[must_use]
    pub fn sums_to(&self, to: IpAddr) -> bool {
        self.config.checksums.to(to) == UdpChecksum::Always
    }

    /// Sends no bursts any more: a way out is encrypted (IPsec), or computes no checksums on a kernel before 6.11.
    pub fn refuse_bursts(&self) {
        if !self.uncut.swap(true, Relaxed) {
            tracing::warn!(
                "the kernel takes no bursts of datagrams on the way to a VTEP: each is sent by itself"
            );
        }
    }

    /// The socket for a source port, by its place in the list of source ports. `burst` asks for one that writes checksums,
    /// on which the kernel takes GSO writes. A port that another program has is left to it: its flows use the next one.
    ///
    /// # Errors
    /// What the kernel says when the socket is first opened.
    pub fn get(&self, place: usize, burst: bool) -> io::Result<&TxSocket> {
        let mut refused = io::Error::from(io::ErrorKind::InvalidInput);
        for next in 0..NEIGHBORS.min(self.config.source_ports.len()) {
            match self.open((place + next) % self.config.source_ports.len(), burst) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => refused = error,
                opened => return opened,
            }
        }
        Err(refused)
    }

    /// Opens what is not open yet, up to `OPENED_AT_ONCE` of it: where the kernel's programs send from these ports, what
    /// is said of their datagrams finds nobody otherwise. A port that somebody else has is tried again later.
    pub fn open_some(&self) {
        let ports = self.config.source_ports.len();
        let first = self.next.fetch_add(OPENED_AT_ONCE, Relaxed);
        for place in (first..).take(OPENED_AT_ONCE.min(ports)).map(|place| place % ports) {
            if let Err(error) = self.open(place, false) {
                tracing::debug!(place, %error, "narrow paths are not heard of at a source port");
            }
        }
    }

    /// Paths that have turned out to be too narrow for what was sent from these ports, by whomever: the kernel's
    /// programs send from them too, and hear of nothing.
    #[must_use]
    pub fn narrowed(&self) -> Vec<NarrowPath> {
        let open = [&self.single, &self.burst]
            .map(|slots| (0..).zip(slots).filter_map(|(place, slot)| Some((slot.get()?, place))));
        let open: Vec<(&TxSocket, u16)> = open.into_iter().flatten().collect();
        // What is waited for is an error, which is told whether or not it was asked for.
        let mut fds: Vec<_> =
            open.iter().map(|(tx_socket, _)| PollFd::new(tx_socket.as_fd(), PollFlags::empty())).collect();
        if !poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
            return Vec::new();
        }
        let ready = fds.iter().zip(&open).filter(|(fd, _)| fd.any() == Some(true));
        let reports = ready.flat_map(|(_, (tx_socket, source))| {
            std::iter::from_fn(|| tx_socket.too_big()).map(|(to, mtu)| NarrowPath {
                to,
                source: *source,
                mtu,
            })
        });
        reports.collect()
    }

    fn open(&self, place: usize, burst: bool) -> io::Result<&TxSocket> {
        let slots = if burst { &self.burst } else { &self.single };
        let (Some(slot), Some(port)) = (slots.get(place), self.config.source_ports.get(place)) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        // A part of what comes in would go to that socket.
        if *port == self.config.port {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        if let Some(tx_socket) = slot.get() {
            return Ok(tx_socket);
        }
        let tx_socket = TxSocket::open(&self.config, *port, burst)?;
        Ok(slot.get_or_init(|| tx_socket))
    }
}
