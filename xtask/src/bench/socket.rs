//! Sending and receiving many datagrams in one system call, so that what is measured is the network and not the
//! generator. `std` has no such call: this file holds the benchmark's only unsafe socket code.
#![allow(unsafe_code, reason = "sendmmsg and recvmmsg take pointers into buffers that outlive the call")]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// A batch of equal datagrams, ready to be sent again and again.
///
/// Not `Send`: it holds pointers into its own boxed parts, so it is made on the thread that uses it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    headers: Vec<libc::mmsghdr>,
    destinations: Box<[libc::sockaddr_in]>,
    _part: Box<libc::iovec>,
    _payload: Box<[u8]>,
}

impl Outgoing {
    /// `count` datagrams of `payload`, for a connected socket.
    pub(crate) fn connected(payload: &[u8], count: usize) -> Self {
        Self::new(payload, count, Box::new([]))
    }

    /// One datagram of `payload` to each destination.
    pub(crate) fn addressed(payload: &[u8], destinations: &[SocketAddrV4]) -> Self {
        Self::new(payload, destinations.len(), destinations.iter().map(raw_address).collect())
    }

    fn new(payload: &[u8], count: usize, mut destinations: Box<[libc::sockaddr_in]>) -> Self {
        let mut payload: Box<[u8]> = payload.into();
        let mut part =
            Box::new(libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() });
        let headers = (0..count)
            .map(|index| {
                let mut header = empty_header(&mut part);
                if let Some(destination) = destinations.get_mut(index) {
                    header.msg_hdr.msg_name = (&raw mut *destination).cast();
                    header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_in>() as u32;
                }
                header
            })
            .collect();
        Self { headers, destinations, _part: part, _payload: payload }
    }

    /// Points the batch's first datagrams at other destinations.
    pub(crate) fn redirect(&mut self, destinations: impl IntoIterator<Item = SocketAddrV4>) {
        for (raw, destination) in self.destinations.iter_mut().zip(destinations) {
            *raw = raw_address(&destination);
        }
    }

    /// Sends the first `count` datagrams of the batch; returns how many the kernel took.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        let count = count.min(self.headers.len());
        // SAFETY: every header points to the boxed part, payload and destinations this value owns, which do not
        // move while it lives; `count` is not above the number of headers.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), count as u32, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Room for a batch of received datagrams, of which the first bytes and the senders are kept.
#[derive(Debug)]
pub(crate) struct Incoming {
    headers: Vec<libc::mmsghdr>,
    senders: Box<[libc::sockaddr_in]>,
    _parts: Box<[libc::iovec]>,
    _room: Box<[u8]>,
}

impl Incoming {
    const ROOM: usize = 64;

    /// Room for `count` datagrams.
    pub(crate) fn new(count: usize) -> Self {
        let mut room = vec![0; count * Self::ROOM].into_boxed_slice();
        let mut parts: Box<[_]> = room
            .chunks_exact_mut(Self::ROOM)
            .map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() })
            .collect();
        let mut senders =
            vec![raw_address(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)); count].into_boxed_slice();
        let headers = parts.iter_mut().zip(senders.iter_mut()).map(|(part, sender)| {
            let mut header = empty_header(part);
            header.msg_hdr.msg_name = (&raw mut *sender).cast();
            header
        });
        Self { headers: headers.collect(), senders, _parts: parts, _room: room }
    }

    /// Waits for at least one datagram, as long as the socket's time-out allows (or not at all, where the socket
    /// does not block), takes what else is there, and returns how many there were.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_in>() as u32;
        }
        // SAFETY: every header points to a part, a slot of the room and a sender this value owns, none of which
        // moves while it lives; the kernel writes within the lengths they carry.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as u32,
                libc::MSG_WAITFORONE | libc::MSG_TRUNC,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// How long the first `count` datagrams of the last batch were, also where there is no room for all of them; with
    /// `UDP_GRO` each may be several of one flow.
    pub(crate) fn lengths(&self, count: usize) -> impl Iterator<Item = usize> + '_ {
        self.headers.iter().take(count).map(|header| header.msg_len as usize)
    }

    /// Who sent the first `count` datagrams of the last batch.
    pub(crate) fn senders(&self, count: usize) -> impl Iterator<Item = SocketAddrV4> + '_ {
        self.senders.iter().take(count).map(|raw| {
            SocketAddrV4::new(Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)), u16::from_be(raw.sin_port))
        })
    }
}

fn empty_header(part: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: a `mmsghdr` is plain old data of which all zeroes is a valid value.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    header
}

fn raw_address(address: &SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    fn v4(socket: &UdpSocket) -> SocketAddrV4 {
        match socket.local_addr().unwrap() {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(address) => panic!("{address}"),
        }
    }

    #[test]
    fn a_batch_arrives_whole_and_names_its_sender() {
        let (left, right) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        left.connect(v4(&right)).unwrap();
        assert_eq!(Outgoing::connected(b"abc", 5).send(left.as_fd(), 5).unwrap(), 5);

        let mut incoming = Incoming::new(8);
        assert_eq!(incoming.receive(right.as_fd()).unwrap(), 5);
        assert_eq!(incoming.senders(5).collect::<Vec<_>>(), [v4(&left); 5]);

        let long = [7; 3 * Incoming::ROOM];
        left.send(&long).unwrap();
        assert_eq!(incoming.receive(right.as_fd()).unwrap(), 1);
        assert_eq!(incoming.lengths(1).collect::<Vec<_>>(), [long.len()]);

        right.set_nonblocking(true).unwrap();
        assert_eq!(incoming.receive(right.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn addressed_datagrams_go_where_they_were_redirected() {
        let sockets: Vec<_> = (0..4).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = sockets.iter().map(v4).collect();
        let mut batch = Outgoing::addressed(b"x", &addresses[1..3]);
        batch.redirect([addresses[3]]);
        assert_eq!(batch.send(sockets[0].as_fd(), 9).unwrap(), 2);

        let mut incoming = Incoming::new(4);
        for index in [2, 3] {
            assert_eq!(incoming.receive(sockets[index].as_fd()).unwrap(), 1);
            assert_eq!(incoming.senders(1).next(), Some(addresses[0]));
        }
        sockets[1].set_nonblocking(true).unwrap();
        assert!(incoming.receive(sockets[1].as_fd()).is_err());
    }
}
