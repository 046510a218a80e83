//! Frames to the nearest customer bridge at a device, LLDP and ECP, on a thread of their own: a station that is not acknowledged within
//! half a second gives up, whatever the daemon is busy with.

#![allow(unsafe_code, reason = "packet sockets and their addresses have no safe form")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use eastgate_steering::vdp::{ECP, LLDP, NEAREST_CUSTOMER_BRIDGE};
use eastgate_wire::{Instant, MacAddr};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use super::{clock, packet_socket, sysopt};

/// Bytes of frames that wait to be read.
const RECEIVE_BUFFER: libc::c_int = 256 << 10;
/// Frames that are read one after the other before anything else is looked at.
const BATCH: usize = 64;
/// The longest frame of these protocols: ECP is not cut into pieces.
const FRAME: usize = 1600;
/// The longest time without a look, in milliseconds
const LONGEST_SLEEP_MS: u128 = 1000;
/// Without a frame to be heard, so long is waited after a batch: whoever floods the device does not get a processor for it.
const AFTER_A_BATCH: std::time::Duration = std::time::Duration::from_millis(10);

/// Who answers stations.
pub trait Answers: Send {
    /// A frame has come.
    fn hear(&mut self, frame: &[u8], now: Instant);
    /// It is time, or somebody has asked for it.
    fn look(&mut self, now: Instant);
    /// When it is time next.
    fn deadline(&self) -> Instant;
    /// What is to be sent
    fn take_frames(&mut self) -> Vec<Vec<u8>>;
}

/// The device that stations are behind.
#[derive(Debug)]
pub struct StationSocket {
    fd: OwnedFd,
    mac: MacAddr,
}

impl StationSocket {
    /// Hears what is for the nearest customer bridge at the device with this index, and has no tag.
    ///
    /// # Errors
    /// What the kernel says: no permission, no such device.
    pub fn open(ifindex: u32) -> io::Result<Self> {
        let fd = packet_socket::unbound()?;
        sysopt::take_only(fd.as_fd(), NEAREST_CUSTOMER_BRIDGE.0, [LLDP, ECP])?;
        let level = libc::SOL_PACKET;
        sysopt::set(fd.as_fd(), level, sysopt::PACKET_IGNORE_OUTGOING, 1 as libc::c_int)?;
        sysopt::set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
        sysopt::set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, super::guard::MARK as libc::c_int)?;
        let mut address = [0; 8];
        address[..6].copy_from_slice(&NEAREST_CUSTOMER_BRIDGE.0);
        let group = libc::packet_mreq {
            mr_ifindex: ifindex as libc::c_int,
            mr_type: libc::PACKET_MR_MULTICAST as _,
            mr_alen: 6,
            mr_address: address,
        };
        sysopt::set(fd.as_fd(), level, libc::PACKET_ADD_MEMBERSHIP, group)?;
        // For frames of every type: those that ask for one type get theirs after the programs on the device, which let none pass.
        packet_socket::bind(fd.as_fd(), ifindex, libc::ETH_P_ALL as u16)?;
        let mac = mac_of(&fd)?;
        Ok(Self { fd, mac })
    }

    /// The MAC of the device
    #[must_use]
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    fn receive<'b>(&self, buffer: &'b mut [u8; FRAME]) -> io::Result<&'b [u8]> {
        let length =
            nix::sys::socket::recv(self.fd.as_raw_fd(), buffer, nix::sys::socket::MsgFlags::empty())?;
        Ok(buffer.get(..length).unwrap_or_default())
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::sys::socket::send(self.fd.as_raw_fd(), frame, nix::sys::socket::MsgFlags::empty())?;
        Ok(())
    }
}

/// The MAC of the device that a packet socket is bound to.
fn mac_of(fd: &OwnedFd) -> io::Result<MacAddr> {
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: pointers and length describe `name`, which outlives the call.
    let result =
        unsafe { libc::getsockname(fd.as_raw_fd(), std::ptr::from_mut(&mut name).cast(), &raw mut length) };
    let [a, b, c, d, e, f, ..] = name.sll_addr;
    if result == 0 { Ok(MacAddr([a, b, c, d, e, f])) } else { Err(io::Error::last_os_error()) }
}

/// Wakes the thread that answers stations.
#[derive(Clone, Debug)]
pub struct Wake(Arc<EventFd>);

impl Wake {
    /// One for a thread that is yet to be.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(Arc::new(EventFd::from_flags(flags)?)))
    }

    /// Somebody wants it to look.
    pub fn up(&self) {
        // It cannot be full but of wake-ups that are not seen yet.
        let _ = self.0.write(1);
    }
}

/// The thread that answers stations at a device. It ends when this is dropped.
#[derive(Debug)]
pub struct Conversation {
    over: Arc<AtomicBool>,
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

impl Conversation {
    /// Starts it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(socket: StationSocket, wake: Wake, answers: impl Answers + 'static) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (ends, woken) = (over.clone(), wake.clone());
        let talk = move || converse(&socket, &woken, answers, &ends);
        let thread = std::thread::Builder::new().name("stations".into()).spawn(talk)?;
        Ok(Self { over, wake, thread: Some(thread) })
    }

    /// Wakes it.
    pub fn wake(&self) {
        self.wake.up();
    }

    /// Does it run?
    #[must_use]
    pub fn alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        self.wake.up();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn converse(socket: &StationSocket, wake: &Wake, mut answers: impl Answers, over: &AtomicBool) {
    let mut buffer = [0; FRAME];
    while !over.load(Relaxed) {
        answers.look(clock::now());
        for frame in answers.take_frames() {
            // A device that is down sends nothing: what matters is sent again.
            if let Err(error) = socket.send(&frame) {
                tracing::debug!(%error, "a station is not told something");
            }
        }
        let wait = answers.deadline().since(clock::now()).as_millis() + 1;
        let timeout = PollTimeout::try_from(wait.min(LONGEST_SLEEP_MS) as i32).unwrap_or(PollTimeout::ZERO);
        let mut ready = [&socket.fd.as_fd(), &wake.0.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        if let Err(error) = poll(&mut ready, timeout)
            && error != nix::errno::Errno::EINTR
        {
            return tracing::error!(%error, "stations cannot be waited for, and are answered no more");
        }
        let _ = wake.0.read();
        let now = clock::now();
        let mut heard = 0;
        while heard < BATCH {
            // Nothing more, or a device that is down or away: the daemon hears of that from netlink.
            let Ok(frame) = socket.receive(&mut buffer) else { break };
            answers.hear(frame, now);
            heard += 1;
        }
        if heard == BATCH {
            std::thread::sleep(AFTER_A_BATCH);
        }
    }
}
