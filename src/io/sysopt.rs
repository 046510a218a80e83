//! Socket options that no crate has a name for, and the numbers the libc crate lacks.

#![allow(unsafe_code, reason = "setsockopt and getsockopt take a pointer and a length")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use zerocopy::FromBytes;

/// `UDP_SEGMENT`: bytes of each datagram that a large write is cut into (linux/udp.h).
pub const UDP_SEGMENT: libc::c_int = 103;
/// `UDP_GRO`: receive datagrams of one flow merged, with their size in a control message.
pub const UDP_GRO: libc::c_int = 104;
/// `UDP_NO_CHECK6_TX`: send zero checksums over IPv6 (RFC 6935).
pub const UDP_NO_CHECK6_TX: libc::c_int = 101;
/// `UDP_NO_CHECK6_RX`: accept zero checksums over IPv6.
pub const UDP_NO_CHECK6_RX: libc::c_int = 102;
/// `PACKET_VNET_HDR`: a virtio-net header stands before each frame.
pub const PACKET_VNET_HDR: libc::c_int = 15;
/// `PACKET_FANOUT`: frames are spread over the sockets of a group.
pub const PACKET_FANOUT: libc::c_int = 18;
/// `PACKET_IGNORE_OUTGOING`: what the device sends is not looped back.
pub const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Fanout by a hash of the flow, the same in both directions.
pub const PACKET_FANOUT_HASH: libc::c_int = 0;

/// Fanout by a program's answer.
pub const PACKET_FANOUT_CBPF: libc::c_int = 6;
/// The kernel chooses the number of the group.
pub const PACKET_FANOUT_FLAG_UNIQUEID: libc::c_int = 0x2000;
/// `PACKET_FANOUT_DATA`: that program.
const PACKET_FANOUT_DATA: libc::c_int = 22;
/// `SKF_LL_OFF`: where classic BPF finds the link-layer header.
const LINK_LAYER: u32 = 0xffe0_0000;

/// Spreads the frames of a fanout group by the 32-bit word at `at` bytes of each frame.
///
/// # Errors
/// What the kernel says.
pub fn spread_by_word(fd: BorrowedFd<'_>, at: u32) -> io::Result<()> {
    let op = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut answer =
        [op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, LINK_LAYER + at), op(libc::BPF_RET | libc::BPF_A, 0)];
    let program = libc::sock_fprog { len: answer.len() as u16, filter: answer.as_mut_ptr() };
    set(fd, libc::SOL_PACKET, PACKET_FANOUT_DATA, program)
}

/// Sets a socket option of a plain C type.
///
/// # Errors
/// What the kernel says.
pub fn set<T: Copy>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which outlives the call; T is Copy, so plain bytes.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How much this thread steps back, of the 19 that there are.
const NICE: libc::c_int = 10;

/// The thread that calls it makes way for others, those that carry packets above all, where there are fewer cores than work.
pub fn make_way() {
    // SAFETY: it takes numbers, and 0 is the thread that calls it. Refused, it goes on as it was.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// What a socket has dropped because nobody took it off in time.
#[derive(Debug, Default)]
pub struct Overflow {
    counted: u32,
}

impl Overflow {
    /// How many frames or datagrams were dropped since the last call.
    pub fn newly_dropped(&mut self, fd: BorrowedFd<'_>) -> u32 {
        // An error counts nothing; the kernel's counter keeps what was missed.
        let all = dropped(fd).unwrap_or(self.counted);
        let new = all.wrapping_sub(self.counted);
        self.counted = all;
        new
    }
}

/// What a socket has ever dropped: the kernel counts in 32 bits, round and round.
fn dropped(fd: BorrowedFd<'_>) -> io::Result<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    get::<[u32; DROPS + 1]>(fd, libc::SOL_SOCKET, libc::SO_MEMINFO).map(|values| values[DROPS])
}

/// Reads a socket option of a plain C type.
///
/// # Errors
/// What the kernel says; when its answer is of another size.
pub fn get<T: FromBytes>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    let mut value = T::new_zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, which outlives the call, and whatever stands there is a T.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, std::ptr::from_mut(&mut value).cast(), &raw mut len)
    };
    match result {
        0 if len as usize == size_of::<T>() => Ok(value),
        0 => Err(io::Error::from(io::ErrorKind::InvalidData)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns when every BPF program that ran when this was called has ended: they are read-side sections of RCU, which
/// this call waits for. A kernel without it lets a moment pass instead.
pub fn wait_for_programs() {
    /// `MEMBARRIER_CMD_GLOBAL` of linux/membarrier.h.
    const GLOBAL: libc::c_int = 1;
    // SAFETY: a plain system call without pointers.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } != 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Attaches a classic BPF program that refuses every packet, for a socket that only sends.
///
/// # Errors
/// What the kernel says.
pub fn refuse_everything(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut refuse = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: refuse.as_mut_ptr() };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}

/// Attaches a classic BPF program that lets a packet socket hear what comes in, and not what goes out: `PACKET_IGNORE_OUTGOING` does
/// not hold for the members of a fanout group.
///
/// # Errors
/// What the kernel says.
pub fn take_incoming(fd: BorrowedFd<'_>) -> io::Result<()> {
    /// `SKF_AD_PKTTYPE`
    const KIND: u32 = 0xffff_f000 + 4;
    let op = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, KIND),
        libc::sock_filter {
            jf: 1,
            ..op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::PACKET_OUTGOING.into())
        },
        op(libc::BPF_RET | libc::BPF_K, 0),
        op(libc::BPF_RET | libc::BPF_K, u32::MAX),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}

/// Attaches a classic BPF program that lets a packet socket hear frames to one MAC of two ethertypes, without a tag, and nothing else.
///
/// # Errors
/// What the kernel says.
pub fn take_only(fd: BorrowedFd<'_>, destination: [u8; 6], types: [u16; 2]) -> io::Result<()> {
    /// `SKF_AD_VLAN_TAG_PRESENT`: the kernel keeps a tag beside the frame.
    const TAGGED: u32 = 0xffff_f000 + 48;
    let op = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unless = |k, jf| libc::sock_filter { jf, ..op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k) };
    let load = |size, at| op(libc::BPF_LD | size | libc::BPF_ABS, at);
    let [a, b, c, d, e, f] = destination;
    let [first, second] = types.map(u32::from);
    let mut program = [
        load(libc::BPF_W, 0),
        unless(u32::from_be_bytes([a, b, c, d]), 8),
        load(libc::BPF_H, 4),
        unless(u32::from(u16::from_be_bytes([e, f])), 6),
        load(libc::BPF_B, TAGGED),
        unless(0, 4),
        load(libc::BPF_H, 12),
        libc::sock_filter { jt: 1, ..unless(first, 0) },
        unless(second, 1),
        op(libc::BPF_RET | libc::BPF_K, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}

/// Takes as many file descriptors as the system lets us have, `wanted` at least where that is allowed: a port takes one
/// for each worker, and shells give few. How many there may be then.
#[must_use]
pub fn allow_open_files(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    for (soft, hard) in [(wanted.max(hard), wanted.max(hard)), (hard, hard)] {
        match setrlimit(Resource::RLIMIT_NOFILE, soft, hard) {
            Ok(()) => return soft,
            Err(error) => tracing::debug!(%error, soft, "no more files can be opened than before"),
        }
    }
    soft
}

/// What this process has in RAM, as procfs tells.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd};

    use super::*;

    #[test]
    fn what_a_full_queue_loses_is_known() {
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        set(listener.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 1 as libc::c_int).unwrap();
        listener.set_nonblocking(true).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut overflow = Overflow::default();
        let mut all = 0;
        for round in 0..2 {
            let sent = 200;
            (0..sent).for_each(|_| {
                let _ = sender.send_to(&[0; 1000], at).unwrap();
            });
            // Loopback delivers in its own time.
            let (mut received, mut lost) = (0, 0);
            let begun = std::time::Instant::now();
            while received + lost < sent && begun.elapsed() < std::time::Duration::from_secs(15) {
                received += u32::from(listener.recv(&mut [0; 2000]).is_ok());
                lost += overflow.newly_dropped(listener.as_fd());
            }
            assert!(lost > 0, "round {round}: {received} of {sent} fit into the smallest queue");
            assert_eq!(received + lost, sent, "round {round}");
            all += lost;
        }
        assert_eq!(dropped(listener.as_fd()).unwrap(), all);
        assert_eq!(overflow.newly_dropped(listener.as_fd()), 0);
    }
}
