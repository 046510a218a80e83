//! Many messages in one system call: `recvmmsg` into buffers that are allocated once.

#![allow(
    unsafe_code,
    reason = "recvmmsg takes pointers into buffers that outlive the call, and its addresses are read by their family"
)]

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use eastgate_wire::{Gso, GsoKind, Offload, PartialChecksum};

/// Messages taken with one call.
pub const BATCH: usize = 64;
/// Free bytes in front of every received message: room for a VXLAN header and a VLAN tag, and such that the
/// IP header behind a 14-byte Ethernet header is aligned.
pub const HEADROOM: usize = 50;
/// The longest message: a GSO packet of 64 KiB with its headers.
const MESSAGE: usize = 65_536 + 128;
/// Buffers are a little more than a power of two apart, so that the first lines of all of them do not fall
/// into the same cache sets.
const STRIDE: usize = HEADROOM + MESSAGE + 64 + 14;
const CONTROL: usize = 128;

/// The header before each frame on a packet socket (`struct virtio_net_hdr`, native byte order).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct VnetHeader {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

impl VnetHeader {
    /// What the header says of its frame; nothing when it is of a kind that eastgate does not know.
    #[must_use]
    pub fn offload(self) -> Option<Offload> {
        let kind = match self.gso_type & !GSO_ECN {
            0 => None,
            GSO_TCPV4 => Some(GsoKind::TcpV4),
            GSO_TCPV6 => Some(GsoKind::TcpV6),
            GSO_UDP_L4 => Some(GsoKind::Udp),
            _ => return None,
        };
        let checksum = (self.flags & NEEDS_CSUM != 0)
            .then_some(PartialChecksum { start: self.csum_start, offset: self.csum_offset });
        Some(Offload { checksum, gso: kind.map(|kind| Gso { kind, segment: self.gso_size }) })
    }

    /// Its bytes, in the order of the C structure.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        for (at, word) in
            [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset].into_iter().enumerate()
        {
            bytes[2 + at * 2..4 + at * 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The header for a frame; `header_len` counts the bytes up to the transport payload.
    #[must_use]
    pub fn for_frame(offload: &Offload, header_len: u16) -> Self {
        let mut header = Self::default();
        if let Some(sum) = offload.checksum {
            header.flags = NEEDS_CSUM;
            header.csum_start = sum.start;
            header.csum_offset = sum.offset;
        }
        if let Some(gso) = offload.gso {
            header.gso_type = match gso.kind {
                GsoKind::TcpV4 => GSO_TCPV4,
                GsoKind::TcpV6 => GSO_TCPV6,
                GsoKind::Udp => GSO_UDP_L4,
            };
            header.gso_size = gso.segment;
            header.hdr_len = header_len;
        }
        header
    }
}

/// Whether the messages of a socket begin with a [`VnetHeader`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prefix {
    /// A packet socket with `PACKET_VNET_HDR`
    Vnet,
    /// A plain datagram
    None,
}

/// Buffers for one batch of received messages, and the kernel's description of them.
pub struct RecvBatch {
    buffers: Box<[u8]>,
    headers: Box<[libc::mmsghdr]>,
    /// Two for each message: the virtio-net header, the message
    iovecs: Box<[[libc::iovec; 2]]>,
    vnet: Box<[VnetHeader]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
}

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Control([u8; CONTROL]);

// SAFETY: the raw pointers inside the headers point into the boxes of the same value, which move with it and
// are never reallocated.
unsafe impl Send for RecvBatch {}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl RecvBatch {
    /// Allocates for [`BATCH`] messages; pages are touched only when messages fill them.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: all-zero is a valid value of these C structures.
        let zeroed = || unsafe { (mem::zeroed::<libc::mmsghdr>(), mem::zeroed::<libc::sockaddr_storage>()) };
        let mut batch = Self {
            buffers: vec![0u8; STRIDE * BATCH].into_boxed_slice(),
            headers: vec![zeroed().0; BATCH].into_boxed_slice(),
            iovecs: vec![[libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 2]; BATCH]
                .into_boxed_slice(),
            vnet: vec![VnetHeader::default(); BATCH].into_boxed_slice(),
            names: vec![zeroed().1; BATCH].into_boxed_slice(),
            controls: vec![Control([0; CONTROL]); BATCH].into_boxed_slice(),
        };
        for index in 0..BATCH {
            let message = batch.buffers[index * STRIDE + HEADROOM..].as_mut_ptr();
            batch.iovecs[index] = [
                libc::iovec {
                    iov_base: std::ptr::from_mut(&mut batch.vnet[index]).cast(),
                    iov_len: size_of::<VnetHeader>(),
                },
                libc::iovec { iov_base: message.cast(), iov_len: MESSAGE },
            ];
        }
        batch
    }

    /// Receives what is there without waiting, up to [`BATCH`] messages.
    ///
    /// # Errors
    /// What the kernel says; nothing there is `Ok(0)`.
    pub fn recv(&mut self, fd: BorrowedFd<'_>, prefix: Prefix) -> io::Result<usize> {
        let skip = usize::from(prefix == Prefix::None);
        for index in 0..BATCH {
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = std::ptr::from_mut(&mut self.names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = self.iovecs[index][skip..].as_mut_ptr();
            header.msg_iovlen = (2 - skip) as _;
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
            header.msg_flags = 0;
        }
        // SAFETY: every header points to buffers of this value with their true lengths.
        let count = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if count >= 0 {
            return Ok(count as usize);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        }
    }

    /// The whole buffer of message `index`, head-room included, and where in it the message lies. A message
    /// that was cut short is empty.
    #[must_use]
    pub fn message(&mut self, index: usize, prefix: Prefix) -> (&mut [u8], usize, usize) {
        let header = &self.headers[index];
        let mut len = header.msg_len as usize;
        if prefix == Prefix::Vnet {
            len = len.saturating_sub(size_of::<VnetHeader>());
        }
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            len = 0;
        }
        let buffer = &mut self.buffers[index * STRIDE..][..HEADROOM + MESSAGE];
        (buffer, HEADROOM, HEADROOM + len.min(MESSAGE))
    }

    /// Bytes of message `index`'s buffer, as [`Self::message`] counts them.
    #[must_use]
    pub fn bytes(&self, index: usize) -> &[u8] {
        &self.buffers[index * STRIDE..][..HEADROOM + MESSAGE]
    }

    /// The virtio-net header of message `index`.
    #[must_use]
    pub fn vnet(&self, index: usize) -> VnetHeader {
        self.vnet[index]
    }

    /// Who sent message `index`.
    #[must_use]
    pub fn sender(&self, index: usize) -> Option<IpAddr> {
        let name = &self.names[index];
        match libc::c_int::from(name.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the storage holds a sockaddr_in, which is smaller.
                let name = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
                Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr))))
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that the storage holds a sockaddr_in6, which is smaller.
                let name = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
                Some(IpAddr::V6(Ipv6Addr::from(name.sin6_addr.s6_addr)))
            }
            _ => None,
        }
    }

    /// Whether message `index`, of a packet socket, is a frame that its device sends.
    #[must_use]
    pub fn is_outgoing(&self, index: usize) -> bool {
        let name = &self.names[index];
        if libc::c_int::from(name.ss_family) != libc::AF_PACKET {
            return false;
        }
        // SAFETY: the family says that the storage holds a sockaddr_ll, which is smaller.
        let name = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_ll>() };
        name.sll_pkttype == libc::PACKET_OUTGOING
    }

    /// Calls `see` with level, type and data of every control message of message `index`.
    pub fn controls(&self, index: usize, see: impl FnMut(libc::c_int, libc::c_int, &[u8])) {
        each_control(&self.headers[index].msg_hdr, see);
    }
}

/// Calls `see` with level, type and data of every control message that the kernel wrote.
pub fn each_control(header: &libc::msghdr, mut see: impl FnMut(libc::c_int, libc::c_int, &[u8])) {
    if header.msg_controllen == 0 {
        return;
    }
    // SAFETY: the kernel wrote `msg_controllen` bytes of well-formed control messages into the buffer that the
    // header points to; the CMSG functions stay inside it.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            let len = ((*control).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            let data = std::slice::from_raw_parts(libc::CMSG_DATA(control), len);
            see((*control).cmsg_level, (*control).cmsg_type, data);
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
}

/// The C form of a socket address, and its length.
#[must_use]
pub fn socket_address(ip: IpAddr, port: u16) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let len = match ip {
        IpAddr::V4(ip) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: port.to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is larger than and aligned for every socket address.
            unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>().write(name) };
            size_of::<libc::sockaddr_in>()
        }
        IpAddr::V6(ip) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: port.to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: the storage is larger than and aligned for every socket address.
            unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>().write(name) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, len as libc::socklen_t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vnet_header_round_trip() {
        for kind in [GsoKind::TcpV4, GsoKind::TcpV6, GsoKind::Udp] {
            let offload = Offload {
                checksum: Some(PartialChecksum { start: 34, offset: 16 }),
                gso: Some(Gso { kind, segment: 1448 }),
            };
            assert_eq!(VnetHeader::for_frame(&offload, 66).offload(), Some(offload));
        }
        assert_eq!(VnetHeader::default().offload(), Some(Offload::default()));
        assert_eq!(VnetHeader { gso_type: 3, ..Default::default() }.offload(), None, "old UFO is unknown");
    }

    #[test]
    fn messages_of_a_datagram_socket_arrive_with_their_sender() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut batch = RecvBatch::new();
        use std::os::fd::AsFd;
        assert_eq!(batch.recv(receiver.as_fd(), Prefix::None).unwrap(), 0);
        for text in ["one", "three"] {
            sender.send_to(text.as_bytes(), receiver.local_addr().unwrap()).unwrap();
        }
        assert_eq!(batch.recv(receiver.as_fd(), Prefix::None).unwrap(), 2);
        let (buffer, start, end) = batch.message(1, Prefix::None);
        assert_eq!(&buffer[start..end], b"three");
        assert_eq!(batch.sender(0), Some("127.0.0.1".parse().unwrap()));
    }
}
