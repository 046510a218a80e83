//! A packet socket that looks at what a device takes in and sends out, before its programs and behind them. It is given copies, and keeps
//! nobody from anything.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use super::{
    mmsg::{Prefix, RecvBatch},
    packet_socket::{self, PACKET_AUXDATA, vlan_of},
    sysopt::{self, Overflow},
};

/// Bytes of the two MACs, behind which a tag stands
const MACS: usize = 12;

/// One device that is looked at.
#[derive(Debug)]
pub struct CaptureSocket {
    fd: OwnedFd,
    overflow: Overflow,
}

/// A frame that went by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Captured {
    /// When, since 1970
    pub at: Duration,
    /// The device has sent it; otherwise it has taken it in.
    pub outgoing: bool,
    /// The whole of it, its tag in place. What a sender left to its device is not done in it: checksums, and the cutting of large packets.
    pub bytes: Vec<u8>,
}

impl CaptureSocket {
    /// Looks at the device with this index from now on, with room for so many bytes of frames that nobody has fetched.
    ///
    /// # Errors
    /// What the kernel says: no permission, no such device.
    pub fn open(ifindex: u32, room: usize) -> io::Result<Self> {
        let fd = packet_socket::unbound()?;
        sysopt::set(fd.as_fd(), libc::SOL_PACKET, PACKET_AUXDATA, 1)?;
        sysopt::set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        let room = libc::c_int::try_from(room).unwrap_or(libc::c_int::MAX);
        let buffer = |name| sysopt::set(fd.as_fd(), libc::SOL_SOCKET, name, room);
        buffer(libc::SO_RCVBUFFORCE).or_else(|_| buffer(libc::SO_RCVBUF))?;
        packet_socket::bind(fd.as_fd(), ifindex, libc::ETH_P_ALL as u16)?;
        Ok(Self { fd, overflow: Overflow::default() })
    }

    /// Hands over what is there, one frame after the other; how many there were.
    ///
    /// # Errors
    /// What the kernel says; a device that went down or away among it.
    pub fn receive(&self, batch: &mut RecvBatch, mut take: impl FnMut(Captured)) -> io::Result<usize> {
        let count = batch.recv(self.fd.as_fd(), Prefix::None)?;
        for index in 0..count {
            let (mut at, mut tag) = (Duration::ZERO, None);
            batch.controls(index, |level, kind, data| match (level, kind) {
                (libc::SOL_PACKET, PACKET_AUXDATA) => tag = vlan_of(data),
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => at = time_of(data),
                _ => {}
            });
            let outgoing = batch.is_outgoing(index);
            let (buffer, start, end) = batch.message(index, Prefix::None);
            let frame = &buffer[start..end];
            // One that is too long for any frame is empty.
            let Some((macs, rest)) = frame.split_at_checked(MACS) else { continue };
            let tag = tag.map(|(tpid, tci)| [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
            let bytes = [macs, tag.as_deref().unwrap_or_default(), rest].concat();
            take(Captured { at, outgoing, bytes });
        }
        Ok(count)
    }

    /// How many frames it has lost since the last call because its queue was full.
    pub fn newly_dropped(&mut self) -> u32 {
        self.overflow.newly_dropped(self.fd.as_fd())
    }
}

impl AsFd for CaptureSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `struct timespec`
fn time_of(data: &[u8]) -> Duration {
    let word =
        |at: usize| data.get(at..).and_then(|rest| rest.first_chunk()).map(|word| i64::from_ne_bytes(*word));
    let (seconds, nanos) = (word(0).unwrap_or_default(), word(8).unwrap_or_default());
    Duration::from_secs(seconds.max(0).cast_unsigned()) + Duration::from_nanos(nanos.max(0).cast_unsigned())
}
