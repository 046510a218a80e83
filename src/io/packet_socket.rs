//! A packet socket on a tenant port: whole frames with a virtio-net header, VLAN tags put back in place.

#![allow(unsafe_code, reason = "packet sockets and their addresses have no safe form")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use eastgate_fastpath::PUNT_HASH_AT;
use eastgate_wire::{Frame, MacAddr, OuterTag, VLAN_TYPE};

use super::{
    mmsg::{Prefix, RecvBatch},
    sysopt::{self, Overflow},
};

/// Bytes of the receive queue asked for; the kernel doubles it for its own registry-keeping.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;
const SEND_BUFFER: libc::c_int = 4 << 20;

const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
/// What the kernel has taken out of the frame comes as a control message.
pub(super) const PACKET_AUXDATA: libc::c_int = 8;

/// One worker's socket on one tenant port.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    overflow: Overflow,
}

impl PacketSocket {
    /// Opens sockets on the device with this index that share its frames, each flow staying with one of them.
    ///
    /// # Errors
    /// What the kernel says: no permission, no such device.
    pub fn open(ifindex: u32, count: usize) -> io::Result<Vec<Self>> {
        let sockets = Self::share(ifindex, count, sysopt::PACKET_FANOUT_HASH)?;
        for socket in &sockets {
            socket.hear_everything(ifindex)?;
        }
        Ok(sockets)
    }

    /// Opens a socket that only sends; the device takes in every frame all the same, for the programs on it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_sender(ifindex: u32) -> io::Result<Self> {
        let socket = Self::bound(ifindex, 0)?;
        socket.hear_everything(ifindex)?;
        Ok(socket)
    }

    /// Opens sockets on the device by which the kernel's programs send frames up. They share them by the hash in front
    /// of each.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_for_punts(ifindex: u32, count: usize) -> io::Result<Vec<Self>> {
        let sockets = Self::share(ifindex, count, sysopt::PACKET_FANOUT_CBPF)?;
        if let Some(any) = sockets.first() {
            sysopt::spread_by_word(any.as_fd(), PUNT_HASH_AT)?;
        }
        Ok(sockets)
    }

    /// Sockets of one fanout group. The kernel chooses its number, which no other group of the namespace has.
    fn share(ifindex: u32, count: usize, how: libc::c_int) -> io::Result<Vec<Self>> {
        let mut sockets = Vec::with_capacity(count);
        let mut group = (how | sysopt::PACKET_FANOUT_FLAG_UNIQUEID) << 16;
        for _ in 0..count {
            let socket = Self::bound(ifindex, libc::ETH_P_ALL as u16)?;
            sysopt::set(socket.as_fd(), libc::SOL_PACKET, sysopt::PACKET_FANOUT, group)?;
            let number: libc::c_int = sysopt::get(socket.as_fd(), libc::SOL_PACKET, sysopt::PACKET_FANOUT)?;
            group = how << 16 | number & 0xffff;
            sockets.push(socket);
        }
        Ok(sockets)
    }

    fn bound(ifindex: u32, protocol: u16) -> io::Result<Self> {
        let socket = Self { fd: unbound()?, overflow: Overflow::default() };
        let set = |name, value: libc::c_int| sysopt::set(socket.as_fd(), libc::SOL_PACKET, name, value);
        set(sysopt::PACKET_VNET_HDR, 1)?;
        set(sysopt::PACKET_IGNORE_OUTGOING, 1)?;
        set(PACKET_AUXDATA, 1)?;
        let buffer = |name, value| sysopt::set(socket.as_fd(), libc::SOL_SOCKET, name, value);
        buffer(libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).or_else(|_| buffer(libc::SO_RCVBUF, RECEIVE_BUFFER))?;
        buffer(libc::SO_SNDBUFFORCE, SEND_BUFFER).or_else(|_| buffer(libc::SO_SNDBUF, SEND_BUFFER))?;
        buffer(libc::SO_MARK, super::guard::MARK as libc::c_int)?;
        sysopt::take_incoming(socket.as_fd())?;
        bind(socket.as_fd(), ifindex, protocol)?;
        Ok(socket)
    }

    /// Makes the device take in frames that are not addressed to it.
    fn hear_everything(&self, ifindex: u32) -> io::Result<()> {
        let promiscuous = libc::packet_mreq {
            mr_ifindex: ifindex as libc::c_int,
            mr_type: libc::PACKET_MR_PROMISC as _,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        sysopt::set(self.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, promiscuous)
    }

    /// How many frames it has lost since the last call because its queue was full.
    pub fn newly_dropped(&mut self) -> u32 {
        self.overflow.newly_dropped(self.fd.as_fd())
    }

    /// Receives a batch of frames.
    ///
    /// # Errors
    /// What the kernel says; a device that went down or away among it.
    pub fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.recv(self.fd.as_fd(), Prefix::Vnet)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A packet socket that nothing arrives at before it is bound to its device.
pub(super) fn unbound() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a plain system call; the result is checked before it is owned.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, kind, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Binds one to the device with this index; protocol 0 takes nothing in.
pub(super) fn bind(fd: BorrowedFd<'_>, ifindex: u32, protocol: u16) -> io::Result<()> {
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    name.sll_family = libc::AF_PACKET as _;
    name.sll_protocol = protocol.to_be();
    name.sll_ifindex = ifindex as libc::c_int;
    // SAFETY: pointer and length describe `name`.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            std::ptr::from_ref(&name).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Message `index` of a batch from a packet socket. Nothing when its offload is of a kind that eastgate cannot
/// keep whole.
pub fn received(batch: &mut RecvBatch, index: usize) -> Option<Received<'_>> {
    let mut tag = None;
    batch.controls(index, |level, kind, data| {
        if level == libc::SOL_PACKET && kind == PACKET_AUXDATA {
            tag = vlan_of(data);
        }
    });
    let offload = batch.vnet(index).offload()?;
    let (buffer, start, end) = batch.message(index, Prefix::Vnet);
    Some(Received { frame: Frame::new(buffer, start, end, offload), tag })
}

/// What a packet socket gave: bytes, and beside them the outermost VLAN tag, which the kernel keeps as metadata.
#[derive(Debug)]
pub struct Received<'b> {
    frame: Frame<'b>,
    /// TPID and TCI
    tag: Option<(u16, u16)>,
}

impl<'b> Received<'b> {
    /// The bytes, as they lie in the buffer.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.frame.bytes()
    }

    /// Its outermost tag: the kernel has taken it out of the frame, wherever it stood, before a packet socket gets that.
    #[must_use]
    pub const fn tag(&self) -> Option<(u16, u16)> {
        self.tag
    }

    /// Where it is from, where it is long enough to say so.
    #[must_use]
    pub fn source(&self) -> Option<MacAddr> {
        self.bytes().get(6..12)?.try_into().ok().map(MacAddr)
    }

    /// What that says of whose the frame is.
    #[must_use]
    pub const fn outer_tag(&self) -> OuterTag {
        OuterTag::of(self.tag)
    }

    /// The frame without its tag.
    #[must_use]
    pub fn without_tag(self) -> Frame<'b> {
        self.frame
    }

    /// The frame that begins `header` bytes into the message, its tag put back behind its own addresses: no check is
    /// evaded by a tag, and none lands in a header that stands before the frame. Nothing when there is no room.
    #[must_use]
    pub fn behind(self, header: usize) -> Option<Frame<'b>> {
        let Self { mut frame, tag } = self;
        let whole = frame.pull_front(header) && tag.is_none_or(|(tpid, tci)| frame.insert_vlan(tpid, tci));
        whole.then_some(frame)
    }
}

/// TPID and TCI out of a `struct tpacket_auxdata`.
pub(super) fn vlan_of(data: &[u8]) -> Option<(u16, u16)> {
    let status = u32::from_ne_bytes(*data.first_chunk()?);
    let word = |at: usize| Some(u16::from_ne_bytes(*data.get(at..)?.first_chunk()?));
    if status & TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = if status & TP_STATUS_VLAN_TPID_VALID != 0 { word(18)? } else { VLAN_TYPE };
    Some((tpid, word(16)?))
}

#[cfg(test)]
mod tests {
    use eastgate_fastpath::PUNT_HEADER;
    use eastgate_wire::Offload;

    use super::*;

    /// The frame behind a header of another's, as the programs send it up, with one tag beside it or none.
    fn behind(header: usize, tag: Option<(u16, u16)>) -> Vec<u8> {
        let room = 8;
        let frame: Vec<u8> = (0..40).collect();
        let mut buffer = [&vec![0xee; room + header][..], &frame].concat();
        let end = buffer.len();
        let received = Received { frame: Frame::new(&mut buffer, room, end, Offload::default()), tag };
        received.behind(header).unwrap().bytes().to_vec()
    }

    #[test]
    fn a_tag_goes_behind_the_frames_own_addresses() {
        let frame: Vec<u8> = (0..40).collect();
        let tagged = [&frame[..12], &[0x81, 0, 0x20, 0x64], &frame[12..]].concat();
        for header in [0, PUNT_HEADER] {
            assert_eq!(behind(header, None), frame);
            assert_eq!(behind(header, Some((0x8100, 0x2064))), tagged);
        }
    }
}
