//! Frames sent and received past a kernel's stack.

use std::{io, time::Duration};

use eastgate_wire::MacAddr;
use pnet_datalink::{self as datalink, Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};

use crate::{error::Error, netns::Netns, wait};

/// More than the largest frame a veth hands over: a GSO packet of 64 KiB with its Ethernet header.
const FRAME_MAX: usize = 1 << 17;

/// A packet socket on a device. It stays in the namespace of the thread that opened it.
pub struct Link {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Link {
    /// Opens `device` in the namespace of the calling thread. [`Link::receive`] waits as long as `patience` for a frame.
    ///
    /// A device that has just got its carrier drops what is sent until the kernel has made its queues ready, which a busy
    /// machine does up to a second later: that is waited for.
    ///
    /// # Errors
    /// When there is no such device, or the system does not give a socket.
    pub fn open(device: &str, patience: Duration) -> Result<Self, Error> {
        let config =
            Config { read_timeout: Some(patience), read_buffer_size: FRAME_MAX, ..Config::default() };
        let mut found = interface(device)?;
        let is_ready = |device: &NetworkInterface| !device.is_lower_up() || device.is_running();
        wait::until(wait::BOUND, || {
            // One that has gone meanwhile is found out by opening it.
            is_ready(&found) || interface(device).map(|now| found = now).is_err()
        });
        match datalink::channel(&found, config) {
            Ok(Channel::Ethernet(sender, receiver)) => Ok(Self { sender, receiver }),
            Ok(_) => Err(Error::device(device)(io::ErrorKind::Unsupported.into())),
            Err(error) => Err(Error::device(device)(error)),
        }
    }

    /// Sends a frame out of the device.
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.sender.send_to(frame, None).unwrap_or_else(|| Err(io::ErrorKind::OutOfMemory.into()))
    }

    /// The next frame that passes the device, in either direction; none when there is none in time.
    ///
    /// # Errors
    /// What the system says, also once when the device goes down.
    pub fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        match self.receiver.next() {
            Ok(frame) => Ok(Some(frame)),
            Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Link").finish_non_exhaustive()
    }
}

/// Sends one frame out of a device inside `netns`.
///
/// # Errors
/// When there is no such device, and what the system says.
pub fn send_frame(netns: &Netns, device: &str, frame: &[u8]) -> Result<(), Error> {
    netns.enter(|| Link::open(device, Duration::ZERO)?.send(frame).map_err(Error::device(device)))?
}

/// The MAC of a device inside `netns`.
///
/// # Errors
/// When there is no such device, or it has none.
pub fn hardware_address(netns: &Netns, device: &str) -> Result<MacAddr, Error> {
    let mac = netns.enter(|| interface(device))??.mac;
    mac.map(|mac| MacAddr(mac.octets()))
        .ok_or_else(|| Error::device(device)(io::ErrorKind::Unsupported.into()))
}

fn interface(device: &str) -> Result<NetworkInterface, Error> {
    let found = datalink::interfaces().into_iter().find(|interface| interface.name == device);
    found.ok_or_else(|| {
        Error::device(device)(io::Error::new(io::ErrorKind::NotFound, "there is no such device"))
    })
}
