//! One thread of the userspace dataplane: takes batches of frames off its sockets, has the pipeline decide on
//! them, and sends what came of it.
//!
//! Every worker has its own socket on every tenant port (a fanout group spreads flows over them) and its own
//! socket on the underlay (`SO_REUSEPORT` does the same there), so a flow's frames in one direction stay with
//! one worker, in order. Sockets are served round robin with a bounded batch each: none starves the others.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{Arc, mpsc},
    time::Duration,
};

use eastgate_dataplane::pipeline::{
    Pipeline, Shared,
    batch::{Batch, Egress, Origin},
    counters::{DropKey, Subject},
};
use eastgate_fastpath::{PUNT_HEADER, attachment_of};
use eastgate_vtep::header::VXLAN_LEN;
use eastgate_wire::{
    Attachment, AttachmentId, DropReason, Frame, Gso, GsoKind, Instant, Location, MacAddr, Offload, OuterTag,
    VtepAddr, view::ethertype,
};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::{EfdFlags, EventFd},
};

use super::{
    attached::Attached,
    batch_send::{self, Sender},
    clock,
    inject::{Injected, Injection, Injector},
    mmsg::{Prefix, RecvBatch},
    packet_socket::{self, PacketSocket, Received},
    underlay::{RxSocket, TxSockets, message_info},
};

/// The longest a worker sleeps, in milliseconds: a stop that lost its wake-up is seen this late.
const LONGEST_SLEEP_MS: u64 = 1000;

/// What a worker is told by the daemon.
#[derive(Debug)]
pub enum Command {
    /// Send and, without programs, receive on a device, by its interface index. On a trunk, frames that are nobody's are counted for
    /// this number.
    AddDevice(u32, PacketSocket, Option<AttachmentId>),
    /// Stop doing so.
    RemoveDevice(u32),
    /// An attachment is at this device.
    Attach(AttachmentId, u32, Attachment),
    /// It is there no longer.
    Detach(AttachmentId),
    /// Take the frames that the kernel's programs punt.
    Up(PuntSocket),
    /// Hear and speak here, instead of where it did.
    Underlay {
        /// Where to hear
        rx_sockets: Vec<RxSocket>,
        /// Where to speak
        tx_sockets: Option<Arc<TxSockets>>,
    },
    /// Take a frame as if it had come from an attachment.
    Inject(Box<Injection>),
    /// Say so when everything before this was carried out.
    Sync(mpsc::SyncSender<()>),
    /// End.
    Stop,
}

/// Where the kernel's programs send frames up to.
#[derive(Debug)]
pub struct PuntSocket {
    /// Frames of all ports
    pub socket: PacketSocket,
    /// Which daemon they must be meant for
    pub session: u32,
}

/// The daemon's hand on a worker.
#[derive(Debug)]
pub struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl WorkerHandle {
    /// Starts worker `index` of `shared`. It runs in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(index: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let (commands, receiver) = mpsc::channel();
        let mut worker = Worker::new(index, shared, receiver, wake.clone())?;
        let thread =
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || worker.run())?;
        Ok(Self { commands, wake, thread: Some(thread) })
    }

    /// Tells the worker something.
    pub fn tell(&self, command: Command) {
        // A worker that is gone has nothing to be told; its absence is found by `alive`.
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }

    /// The way for frames of the daemon's own.
    #[must_use]
    pub fn injector(&self) -> Injector {
        Injector::new(self.commands.clone(), self.wake.clone())
    }

    /// Does it run?
    #[must_use]
    pub fn alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The sockets of a worker.
#[derive(Default)]
pub(super) struct Sockets {
    /// By interface index
    pub(super) devices: BTreeMap<u32, Device>,
    pub(super) attached: Arc<Attached>,
    pub(super) rx_sockets: Vec<RxSocket>,
    pub(super) tx_sockets: Option<Arc<TxSockets>>,
}

/// A device with attachments.
pub(super) struct Device {
    pub(super) socket: PacketSocket,
    /// Where frames are counted that are nobody's on a trunk
    pub(super) trunk: Option<AttachmentId>,
}

struct Worker {
    index: usize,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
    epoll: Epoll,
    sockets: Sockets,
    received: RecvBatch,
    batch: Batch,
    sender: Sender,
    up: Option<PuntSocket>,
    /// When sockets were last asked what the kernel noted there
    asked_at: Instant,
}

/// How often sockets are asked what they lost, and which paths are too narrow.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Bytes in front of a frame of a probe, as the receive buffers have them
const INJECTED_HEAD_ROOM: usize = 128;

const WAKE: u64 = u64::MAX;
const UP: u64 = u64::MAX - 1;
const LISTENER: u64 = 1 << 32;

impl Worker {
    fn new(
        index: usize,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        wake: Arc<EventFd>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Self {
            index,
            shared,
            commands,
            wake,
            epoll,
            sockets: Sockets::default(),
            received: RecvBatch::new(),
            batch: Batch::default(),
            sender: Sender::new(),
            up: None,
            asked_at: clock::now(),
        })
    }

    fn run(&mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = match self.epoll.wait(&mut events, self.sleep()) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(worker = self.index, %error, "a worker cannot wait for frames and ends");
                    return;
                }
            };
            for event in events.iter().take(ready) {
                match event.data() {
                    WAKE => drop(self.wake.read()),
                    UP => self.serve_punts(),
                    data if data & LISTENER != 0 => self.serve_rx_socket((data & !LISTENER) as usize),
                    data => self.serve_device(data as u32),
                }
            }
            if !self.obey() {
                return;
            }
            let now = clock::now();
            self.shared.handle_timeout(self.index, now);
            if now.since(self.asked_at) >= ASK_EVERY {
                self.asked_at = now;
                self.count_overruns(now);
                self.hear_of_narrow_paths(now);
                self.announce();
            }
        }
    }

    fn sleep(&self) -> EpollTimeout {
        let until = self.shared.poll_timeout(self.index).map(|at| at.since(clock::now()));
        let millis = until.map_or(LONGEST_SLEEP_MS, |wait| wait.as_millis() as u64 + 1);
        EpollTimeout::from(millis.min(LONGEST_SLEEP_MS) as u16)
    }

    /// Carries out what the daemon said; false when the worker is to end.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::AddDevice(ifindex, socket, trunk) => {
                    self.watch(socket.as_fd(), u64::from(ifindex));
                    self.sockets.devices.insert(ifindex, Device { socket, trunk });
                }
                Command::RemoveDevice(ifindex) => {
                    // Closing the socket takes it out of the epoll set.
                    self.sockets.devices.remove(&ifindex);
                }
                Command::Attach(id, ifindex, attachment) => {
                    Arc::make_mut(&mut self.sockets.attached).attach(id, ifindex, &attachment);
                }
                Command::Detach(id) => Arc::make_mut(&mut self.sockets.attached).detach(id),
                Command::Up(socket) => {
                    self.watch(socket.socket.as_fd(), UP);
                    self.up = Some(socket);
                }
                Command::Underlay { rx_sockets, tx_sockets } => {
                    for (index, rx_socket) in rx_sockets.iter().enumerate() {
                        self.watch(rx_socket.as_fd(), LISTENER | index as u64);
                    }
                    self.sockets.rx_sockets = rx_sockets;
                    self.sockets.tx_sockets = tx_sockets;
                }
                Command::Inject(injection) => self.inject(*injection),
                Command::Sync(done) => {
                    let _ = done.try_send(());
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn watch(&self, fd: BorrowedFd<'_>, data: u64) {
        if let Err(error) = self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, data)) {
            tracing::error!(worker = self.index, fd = fd.as_raw_fd(), %error, "a socket cannot be waited for");
        }
    }

    fn serve_device(&mut self, ifindex: u32) {
        let Some(device) = self.sockets.devices.get(&ifindex) else { return };
        let trunk = device.trunk;
        let count = match device.socket.recv(&mut self.received) {
            Ok(count) => count,
            // The device went down or away; the daemon hears of it from netlink and decides.
            Err(error) => return tracing::debug!(ifindex, %error, "no frames from a device"),
        };
        let (shared, index, attached) = (self.shared.clone(), self.index, self.sockets.attached.clone());
        self.process_batch(count, |pipeline, received, message, batch, now| {
            let received = packet_socket::received(received, message);
            let tag = received.as_ref().map_or(OuterTag::Untagged, Received::outer_tag);
            let source = received.as_ref().and_then(Received::source);
            let arrival = match attached.arrived(ifindex, tag, source) {
                Ok(arrival) => arrival,
                Err(nobodys) => {
                    return match (trunk, received) {
                        (Some(trunk), Some(stray)) => {
                            let to = stray.bytes().first_chunk().copied().map(MacAddr);
                            let key = DropKey::of_stray(trunk, nobodys.reason(tag, to));
                            let subject = Subject::of_stray(stray.tag(), stray.bytes());
                            shared.count_stray(index, key, stray.bytes().len(), subject, now);
                        }
                        _ => shared.count_drop(index, unknown_device(), now),
                    };
                }
            };
            let frame = match received {
                Some(received) if arrival.takes_tag_off => Some(received.without_tag()),
                received => received.and_then(|received| received.behind(0)),
            };
            let from = arrival.attachment;
            let _ = match frame {
                Some(mut frame) => pipeline.handle_tenant(from, &mut frame, now, batch),
                None => pipeline.refuse(Location::Local(from), DropReason::DeviceError, now),
            };
        });
    }

    /// Frames of all devices, each behind the number of the attachment it came by.
    fn serve_punts(&mut self) {
        let Some(PuntSocket { socket, session }) = &self.up else { return };
        let (count, session) = match socket.recv(&mut self.received) {
            Ok(count) => (count, *session),
            Err(error) => return tracing::debug!(%error, "no frames from the kernel's programs"),
        };
        let (shared, index) = (self.shared.clone(), self.index);
        self.process_batch(count, |pipeline, received, message, batch, now| {
            let Some(received) = packet_socket::received(received, message) else {
                return shared.count_drop(index, unknown_device(), now);
            };
            // Anyone with the privilege can put frames on a device of this namespace: what has no attachment is no tenant's.
            // Nor has what was punted to the daemon before, whose attachments had other numbers.
            let from = attachment_of(received.bytes(), session).map(AttachmentId);
            match from.zip(received.behind(PUNT_HEADER)) {
                Some((from, mut frame)) => {
                    let _ = pipeline.handle_tenant(from, &mut frame, now, batch);
                }
                None => shared.count_drop(index, unknown_device(), now),
            }
        });
    }

    fn serve_rx_socket(&mut self, index: usize) {
        let Some(rx_socket) = self.sockets.rx_sockets.get(index) else { return };
        let count = match rx_socket.recv(&mut self.received) {
            Ok(count) => count,
            Err(error) => return tracing::debug!(%error, "no datagrams from the underlay"),
        };
        self.process_batch(count, |pipeline, received, message, batch, now| {
            let info = message_info(received, message);
            let Some(from) = received.sender(message).map(VtepAddr) else { return };
            let (buffer, start, end) = received.message(message, Prefix::None);
            let segment = info.segment.unwrap_or(end - start).max(1);
            // Merged on the way, each datagram is as long as said; uncut, the one packet inside is as long as all.
            if end - start > segment && is_uncut(buffer.get(start..end).unwrap_or_default()) {
                let gso = Some(Gso { kind: GsoKind::Udp, segment: segment as u16 });
                let mut datagram = Frame::new(buffer, start, end, Offload { checksum: None, gso });
                let _ = pipeline.handle_underlay(from, info.tos, &mut datagram, now, batch);
                return;
            }
            let mut at = start;
            // An empty datagram counts as one that is too short.
            loop {
                let next = (at + segment).min(end);
                let mut datagram = Frame::new(buffer, at, next, Offload::default());
                let _ = pipeline.handle_underlay(from, info.tos, &mut datagram, now, batch);
                at = next;
                if at >= end {
                    break;
                }
            }
        });
    }

    /// Decides what has been received, and sends what comes of it.
    fn process_batch(
        &mut self,
        count: usize,
        mut each: impl FnMut(&mut Pipeline<'_>, &mut RecvBatch, usize, &mut Batch, Instant),
    ) {
        if count == 0 {
            return;
        }
        let now = clock::now();
        self.batch.clear();
        let snapshot = self.shared.snapshot();
        let mut pipeline = Pipeline::new(&self.shared, &snapshot, self.index);
        for message in 0..count {
            self.batch.begin(message);
            each(&mut pipeline, &mut self.received, message, &mut self.batch, now);
        }
        drop(pipeline);
        if let Some(counters) = self.shared.counters.get(self.index) {
            counters.decisions.count(count as u64, clock::now().since(now));
        }
        self.flush();
    }

    /// Counts what the kernel dropped because this worker was too slow.
    fn count_overruns(&mut self, now: Instant) {
        let lost = |vni, from| DropKey { vni, reason: DropReason::Overrun, from, by: None, rule: None };
        let snapshot = self.shared.snapshot();
        let attached = &self.sockets.attached;
        let ports = self.sockets.devices.iter_mut().map(|(ifindex, device)| {
            let untagged = attached.arrived(*ifindex, OuterTag::Untagged, None).ok();
            let untagged = untagged.map(|arrival| arrival.attachment);
            // Whose they were on a trunk nobody has seen.
            let of = untagged.filter(|_| device.trunk.is_none()).and_then(|of| snapshot.at_attachment(of));
            let from = device.trunk.or(untagged).map(Location::Local);
            (lost(of.map(|(network, _)| network.vni), from), device.socket.newly_dropped())
        });
        let rx_sockets =
            self.sockets.rx_sockets.iter_mut().map(|rx_socket| (lost(None, None), rx_socket.newly_dropped()));
        let up = self.up.iter_mut().map(|up| (lost(None, None), up.socket.newly_dropped()));
        for (key, frames) in ports.chain(rx_sockets).chain(up).filter(|(_, frames)| *frames > 0) {
            self.shared.count_drops(self.index, key, frames, now);
        }
    }

    /// One worker tells for all where addresses have gone.
    fn announce(&mut self) {
        if self.index != 0 {
            return;
        }
        self.batch.clear();
        let snapshot = self.shared.snapshot();
        Pipeline::new(&self.shared, &snapshot, self.index).announce(&mut self.batch);
        self.flush();
    }

    /// One worker asks for all: they share the sockets.
    fn hear_of_narrow_paths(&self, now: Instant) {
        if self.index == 0
            && let Some(tx_sockets) = &self.sockets.tx_sockets
        {
            if self.shared.offloads() {
                tx_sockets.open_some();
            }
            self.shared.narrow_paths(&tx_sockets.narrowed(), now);
        }
    }

    /// Takes a frame of a probe.
    fn inject(&mut self, injection: Injection) {
        let Injection { attachment, frame, flow, told } = injection;
        let now = clock::now();
        self.batch.clear();
        self.batch.begin(0);
        self.batch.set_apart(true);
        let mut buffer = [&[0; INJECTED_HEAD_ROOM][..], &frame].concat();
        let end = buffer.len();
        let mut frame = Frame::new(&mut buffer, INJECTED_HEAD_ROOM, end, Offload::default());
        let snapshot = self.shared.snapshot();
        let mut pipeline = Pipeline::new(&self.shared, &snapshot, self.index);
        let fate = pipeline.handle_probe(attachment, flow.as_ref(), &mut frame, now, &mut self.batch);
        drop(pipeline);
        self.divert(true);
        let ways = self.batch.emits().iter().map(|emit| emit.to).collect();
        // Whoever asked may have enough of it.
        let _ = told.try_send(Injected { at: now, outcome: fate.outcome, refusal: fate.refusal, ways });
        self.flush();
    }

    /// Takes out of the batch what is for probes. `own` is the batch of a frame that a probe has sent itself.
    fn divert(&mut self, own: bool) {
        if !self.shared.probes.any() {
            return;
        }
        let (shared, received, now) = (&self.shared, &self.received, clock::now());
        self.batch.take_out(|emit, made| {
            let Egress::Attachment(attachment) = emit.to else { return false };
            let is_made = emit.origin == Origin::Made;
            let bytes = batch_send::slice(emit, made, received);
            shared.probes.take(attachment, bytes, is_made, own, now)
        });
    }

    fn flush(&mut self) {
        self.divert(false);
        self.batch.group();
        let report = self.sender.send(&self.batch, &self.received, &self.sockets);
        let now = clock::now();
        self.shared.count_sent(self.index, &report, now);
        self.shared.narrow_paths(&report.narrow, now);
        // Only now: packets that the fast path takes must not overtake those just sent.
        for after in self.batch.after() {
            self.shared.settle(after, clock::now());
        }
    }
}

/// Is this one VXLAN datagram, whose inner packet says that it goes on to its end? Of what a VTEP on the same machine has
/// not cut, the kernel tells the size of the inner datagrams in place of the outer ones'.
fn is_uncut(message: &[u8]) -> bool {
    let inner = message.get(VXLAN_LEN..).unwrap_or_default();
    let Some(header) = inner.first_chunk::<20>() else { return false };
    let word = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
    match word(12) as u16 {
        ethertype::IPV4 => 14 + word(16) == inner.len(),
        ethertype::IPV6 => 14 + 40 + word(18) == inner.len(),
        _ => false,
    }
}

/// A frame that the device did not hand over whole.
const fn unknown_device() -> DropKey {
    DropKey { vni: None, reason: DropReason::DeviceError, from: None, by: None, rule: None }
}
