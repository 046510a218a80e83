//! Sends what a batch came to: few system calls for many frames.
//!
//! To a port: one `sendmmsg`, consecutive TCP segments of a flow merged into one GSO packet whose payload is
//! gathered from where it was received. To the underlay: datagrams of one tunnel and source port as GSO bursts,
//! GSO packets cut up here, once, into exactly the datagrams that go out.

#![allow(unsafe_code, reason = "sendmmsg gathers from where frames were received, by pointers")]

mod attachment;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use eastgate_dataplane::pipeline::{
    batch::{Batch, Egress, Emit, NarrowPath, Origin, Report, Tunnel},
    counters::Subject,
};
use eastgate_vtep::{header::VXLAN_LEN, offload::segment::segment};
use eastgate_wire::{
    DropReason, Offload, View, Vni,
    view::{ethertype, proto},
};

use super::{
    mmsg::{RecvBatch, VnetHeader, socket_address},
    sysopt,
    underlay::{TxSocket, TxSockets},
    worker::Sockets,
};

/// Datagrams in one GSO write: `UDP_MAX_SEGMENTS` of the oldest kernels.
const BURST: usize = 64;
/// Bytes in one GSO write: a UDP datagram over IPv4 before it is cut.
const BURST_BYTES: usize = 65_507;
/// Messages in one `sendmmsg`.
const MESSAGES: usize = 256;

/// Where a piece of a message has its bytes.
#[derive(Clone, Copy, Debug)]
enum From {
    Received(u32),
    Made,
    Scratch,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    from: From,
    start: u32,
    len: u32,
}

/// One message of a `sendmmsg`.
#[derive(Clone, Debug)]
struct Message {
    /// Its pieces in `Sender::pieces`
    pieces: std::ops::Range<u32>,
    /// Frames in it
    frames: u32,
    vni: Vni,
    /// GSO segment size, for a burst
    segment: Option<u16>,
    /// TOS and TTL of its outer header
    outer: Option<(u8, Option<u8>)>,
}

/// Buffers for sending, allocated once.
pub struct Sender {
    pieces: Vec<Piece>,
    messages: Vec<Message>,
    /// Virtio-net headers, headers of merged frames, datagrams of GSO packets
    scratch: Vec<u8>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    controls: Vec<Control>,
    report: Report,
}

/// Room for three control messages of an `int` or less.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 96]);

// SAFETY: the raw pointers in `iovecs` and `headers` are written and used within one call and never kept.
unsafe impl Send for Sender {}

impl Sender {
    /// Empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pieces: Vec::new(),
            messages: Vec::new(),
            scratch: Vec::new(),
            iovecs: Vec::new(),
            headers: Vec::new(),
            controls: Vec::new(),
            report: Report::default(),
        }
    }

    /// Sends everything in `batch`, which must have been grouped.
    pub(super) fn send(&mut self, batch: &Batch, received: &RecvBatch, sockets: &Sockets) -> Report {
        self.report = Report::default();
        let mut rest = batch.emits();
        while let Some(first) = rest.first() {
            let place = |emit: &Emit| match emit.to {
                Egress::Attachment(to) => (Some(to), None),
                Egress::Tunnel(Tunnel { to, source, .. }) => (None, Some((to, source))),
            };
            let same = rest.iter().take_while(|emit| place(emit) == place(first)).count();
            let (group, others) = rest.split_at(same);
            match first.to {
                Egress::Attachment(to) => self.send_to_attachment(to, group, batch, received, sockets),
                Egress::Tunnel(tunnel) => self.send_to_underlay(tunnel, group, batch, received, sockets),
            }
            rest = others;
        }
        std::mem::take(&mut self.report)
    }

    fn clear(&mut self) {
        self.pieces.clear();
        self.messages.clear();
        self.scratch.clear();
    }

    fn drop_group(&mut self, group: &[Emit], reason: DropReason, batch: &Batch, received: &RecvBatch) {
        for emit in group {
            let first = || Subject::of_frame(emit.vni, slice(emit, batch.made(), received));
            self.report.note_dropped(emit.vni, reason, 1, first);
        }
    }

    /// What the first frame of a message is; in front of it there may be a header of the socket's or of the tunnel's.
    fn subject_of(&self, message: &Message, tunnel: bool) -> Subject {
        let pieces =
            self.iovecs.get(message.pieces.start as usize..message.pieces.end as usize).unwrap_or_default();
        let (pieces, header) = match pieces.split_first() {
            // What a port's socket wants to know of a frame has a piece of its own.
            Some((_, frame)) if !tunnel => (frame, 0),
            _ => (pieces, VXLAN_LEN),
        };
        // SAFETY: `describe` has just written these, and what they point to lives until the batch is over.
        let bytes = |piece: &libc::iovec| unsafe {
            std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len)
        };
        let whole: Vec<u8> = pieces.iter().flat_map(bytes).copied().collect();
        let one = message.segment.map_or(whole.len(), usize::from);
        Subject::of_frame(message.vni, whole.get(header..one.min(whole.len())).unwrap_or_default())
    }

    /// Adds bytes to the scratch; the piece that they are.
    fn add_to_scratch(&mut self, bytes: &[u8]) -> Piece {
        let piece = Piece { from: From::Scratch, start: self.scratch.len() as u32, len: bytes.len() as u32 };
        self.scratch.extend_from_slice(bytes);
        piece
    }

    fn scratch_piece(&mut self, bytes: &[u8]) {
        let piece = self.add_to_scratch(bytes);
        self.pieces.push(piece);
    }

    fn vnet_piece(&mut self, header: VnetHeader) {
        self.scratch_piece(&header.to_bytes());
    }

    fn send_to_underlay(
        &mut self,
        tunnel: Tunnel,
        group: &[Emit],
        batch: &Batch,
        received: &RecvBatch,
        sockets: &Sockets,
    ) {
        let Some(tx_sockets) = &sockets.tx_sockets else {
            return self.drop_group(group, DropReason::VtepUnreachable, batch, received);
        };
        self.clear();
        let (bursts, sums) = (tx_sockets.bursts_to(tunnel.to), tx_sockets.sums_to(tunnel.to));
        let mut burst = sums;
        let mut rest = group;
        while let Some(first) = rest.first() {
            let run = if first.offload.gso.is_some() { 1 } else { run_length(rest, bursts) };
            let as_burst = bursts && (run > 1 || first.offload.gso.is_some());
            // With and without checksums they leave by different sockets: what is queued goes first, in order.
            if (as_burst || sums) != burst {
                self.flush_underlay(tunnel, burst, batch, received, tx_sockets);
                burst = as_burst || sums;
            }
            let (now, later) = rest.split_at(run);
            if first.offload.gso.is_some() {
                self.push_gso_packet(first, slice(first, batch.made(), received), as_burst);
            } else {
                self.push_run(now, as_burst);
            }
            if self.messages.len() >= MESSAGES {
                self.flush_underlay(tunnel, burst, batch, received, tx_sockets);
            }
            rest = later;
        }
        self.flush_underlay(tunnel, burst, batch, received, tx_sockets);
    }

    fn push_run(&mut self, run: &[Emit], burst: bool) {
        let begin = self.pieces.len() as u32;
        self.pieces.extend(run.iter().map(piece));
        let Some(first) = run.first() else { return };
        self.messages.push(Message {
            pieces: begin..self.pieces.len() as u32,
            frames: run.len() as u32,
            vni: first.vni,
            segment: burst.then(|| first.range.len() as u16),
            outer: outer(first),
        });
    }

    /// Cuts a GSO packet into its datagrams.
    fn push_gso_packet(&mut self, emit: &Emit, bytes: &[u8], burst: bool) {
        let start = self.scratch.len();
        let layout = bytes.split_at_checked(VXLAN_LEN).zip(emit.offload.gso).ok_or(DropReason::DeviceError);
        let layout = layout.and_then(|((header, inner), gso)| {
            segment(inner, &View::parse(inner)?, gso, header, &mut self.scratch)
        });
        let layout = match layout {
            Ok(layout) => layout,
            Err(reason) => {
                let first = || Subject::of_frame(emit.vni, bytes.get(VXLAN_LEN..).unwrap_or_default());
                return self.report.note_dropped(emit.vni, reason, 1, first);
            }
        };
        let per_message = if burst { BURST.min(BURST_BYTES / layout.size.max(1)).max(1) } else { 1 };
        let mut at = start;
        let mut left = layout.count;
        while left > 0 {
            let frames = left.min(per_message);
            let end = if frames == left { self.scratch.len() } else { at + frames * layout.size };
            let begin = self.pieces.len() as u32;
            self.pieces.push(Piece { from: From::Scratch, start: at as u32, len: (end - at) as u32 });
            self.messages.push(Message {
                pieces: begin..begin + 1,
                frames: frames as u32,
                vni: emit.vni,
                segment: (burst && frames > 1).then_some(layout.size as u16),
                outer: outer(emit),
            });
            at = end;
            left -= frames;
        }
    }

    fn flush_underlay(
        &mut self,
        tunnel: Tunnel,
        burst: bool,
        batch: &Batch,
        received: &RecvBatch,
        tx_sockets: &TxSockets,
    ) {
        if self.messages.is_empty() {
            return;
        }
        let tx_socket = match tx_sockets.get(usize::from(tunnel.source), burst) {
            Ok(tx_socket) => tx_socket,
            Err(error) => {
                tracing::warn!(%error, source = tunnel.source, "no socket for a source port");
                self.describe(None, batch, received);
                for message in std::mem::take(&mut self.messages) {
                    let first = self.subject_of(&message, true);
                    let (reason, frames) = (DropReason::VtepUnreachable, message.frames);
                    self.report.note_dropped(message.vni, reason, frames, || first);
                }
                return;
            }
        };
        let to = socket_address(tunnel.to, tx_sockets.config().port);
        let sent =
            self.transmit(tx_socket.as_fd(), Some(to), batch, received, |error| match error.raw_os_error() {
                Some(libc::EMSGSIZE) => DropReason::TooBig,
                Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM) => DropReason::QueueFull,
                _ => DropReason::VtepUnreachable,
            });
        self.report.to_underlay += sent;
        if self.report.bursts_refused > 0 {
            tx_sockets.refuse_bursts();
        }
        self.read_errors(tx_socket, tunnel.source);
        self.clear();
    }

    fn read_errors(&mut self, tx_socket: &TxSocket, source: u16) {
        let failed = self.report.dropped.iter().any(|dropped| dropped.reason == DropReason::TooBig);
        if failed {
            while let Some((to, mtu)) = tx_socket.too_big() {
                self.report.narrow.push(NarrowPath { to, source, mtu });
            }
        }
    }

    /// Sends all messages on `fd`; the number of frames sent. A message that the kernel refuses is counted
    /// under what `reason` makes of the error, and the ones behind it are tried.
    fn transmit(
        &mut self,
        fd: BorrowedFd<'_>,
        to: Option<(libc::sockaddr_storage, libc::socklen_t)>,
        batch: &Batch,
        received: &RecvBatch,
        reason: impl Fn(&io::Error) -> DropReason,
    ) -> u64 {
        self.describe(to.as_ref(), batch, received);
        let mut sent = 0;
        let mut at = 0;
        let mut retried = false;
        while at < self.headers.len() {
            let window = &mut self.headers[at..];
            let count = window.len().min(MESSAGES);
            // SAFETY: the headers point to pieces, controls and a name that live until this call returns.
            let done = unsafe {
                libc::sendmmsg(
                    fd.as_raw_fd(),
                    window.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            if done > 0 {
                let end = at + done as usize;
                sent += self.messages[at..end].iter().map(|message| u64::from(message.frames)).sum::<u64>();
                at = end;
                retried = false;
                continue;
            }
            let error = io::Error::last_os_error();
            // An ICMP error that came in earlier is reported on the next send, which did nothing wrong.
            if !retried && to.is_some() && error.raw_os_error() != Some(libc::EAGAIN) {
                retried = true;
                continue;
            }
            let message = &self.messages[at];
            match to.as_ref().filter(|_| message.segment.is_some() && error.raw_os_error() == Some(libc::EIO))
            {
                Some(to) => {
                    self.report.bursts_refused += 1;
                    sent += self.send_singly(fd, to, at, &reason);
                }
                None => {
                    let first = self.subject_of(message, to.is_some());
                    self.report.note_dropped(message.vni, reason(&error), message.frames, || first);
                }
            }
            retried = false;
            at += 1;
        }
        sent
    }

    /// Sends the datagrams of a burst that the kernel did not take, one after the other; how many it took.
    fn send_singly(
        &mut self,
        fd: BorrowedFd<'_>,
        (name, len): &(libc::sockaddr_storage, libc::socklen_t),
        at: usize,
        reason: &impl Fn(&io::Error) -> DropReason,
    ) -> u64 {
        let message = Message { segment: None, ..self.messages[at].clone() };
        let segment = usize::from(self.messages[at].segment.unwrap_or(u16::MAX)).max(1);
        let v4 = libc::c_int::from(name.ss_family) == libc::AF_INET;
        let mut control = Control([0; 96]);
        let control_len = write_controls(&message, v4, &mut control);
        let mut sent = 0;
        for place in message.pieces.start as usize..message.pieces.end as usize {
            let whole = self.iovecs[place];
            for start in (0..whole.iov_len).step_by(segment) {
                let mut piece = libc::iovec {
                    iov_base: whole.iov_base.wrapping_byte_add(start),
                    iov_len: segment.min(whole.iov_len - start),
                };
                // SAFETY: all-zero is a valid msghdr.
                let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
                header.msg_name = std::ptr::from_ref(name).cast_mut().cast();
                header.msg_namelen = *len;
                header.msg_iov = &raw mut piece;
                header.msg_iovlen = 1;
                if control_len > 0 {
                    header.msg_control = control.0.as_mut_ptr().cast();
                    header.msg_controllen = control_len as _;
                }
                // SAFETY: the header points to a piece of a message that was described, a control and a name, all of
                // which live until this call returns.
                let done = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
                if done < 0 {
                    let error = io::Error::last_os_error();
                    let first = self.subject_of(&message, true);
                    self.report.note_dropped(message.vni, reason(&error), 1, || first);
                } else {
                    sent += 1;
                }
            }
        }
        sent
    }

    /// Writes the kernel's description of all messages.
    fn describe(
        &mut self,
        to: Option<&(libc::sockaddr_storage, libc::socklen_t)>,
        batch: &Batch,
        received: &RecvBatch,
    ) {
        self.iovecs.clear();
        for piece in &self.pieces {
            let all = match piece.from {
                From::Received(message) => received.bytes(message as usize),
                From::Made => batch.made(),
                From::Scratch => &self.scratch,
            };
            let bytes = all.get(piece.start as usize..).and_then(|all| all.get(..piece.len as usize));
            let bytes = bytes.unwrap_or_default();
            self.iovecs
                .push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        }
        self.controls.clear();
        self.controls.resize(self.messages.len(), Control([0; 96]));
        self.headers.clear();
        for (message, control) in self.messages.iter().zip(&mut self.controls) {
            // SAFETY: all-zero is a valid mmsghdr.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            if let Some((name, len)) = to {
                header.msg_hdr.msg_name = std::ptr::from_ref(name).cast_mut().cast();
                header.msg_hdr.msg_namelen = *len;
            }
            header.msg_hdr.msg_iov = self.iovecs[message.pieces.start as usize..].as_mut_ptr();
            header.msg_hdr.msg_iovlen = message.pieces.len() as _;
            let v4 = to.is_some_and(|(name, _)| libc::c_int::from(name.ss_family) == libc::AF_INET);
            let len = write_controls(message, v4, control);
            if len > 0 {
                header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = len as _;
            }
            self.headers.push(header);
        }
    }
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

/// A cheap look at whether a frame can be TCP at all.
fn may_merge(frame: &[u8]) -> bool {
    let kind = frame.get(12..14).and_then(|kind| kind.first_chunk()).map(|kind| u16::from_be_bytes(*kind));
    let at = match kind {
        Some(ethertype::IPV4) => 23,
        Some(ethertype::IPV6) => 20,
        Some(ethertype::VLAN | ethertype::QINQ) => return true,
        _ => return false,
    };
    frame.get(at) == Some(&proto::TCP)
}

/// How many datagrams from the front of `group` make one burst: all as long as the first but the last, which
/// may be shorter, with one outer header.
fn run_length(group: &[Emit], bursts: bool) -> usize {
    let Some(first) = group.first().filter(|_| bursts) else { return 1 };
    let size = first.range.len();
    let mut total = size;
    let mut count = 1;
    for emit in &group[1..] {
        let len = emit.range.len();
        total += len;
        if count == BURST
            || total > BURST_BYTES
            || len > size
            || emit.offload.gso.is_some()
            || emit.to != first.to
            // What arrives as one is counted, and limited, for one network.
            || emit.vni != first.vni
        {
            break;
        }
        count += 1;
        if len < size {
            break;
        }
    }
    count
}

/// The bytes of a frame to send, of those that were received or `made`.
pub(super) fn slice<'a>(emit: &Emit, made: &'a [u8], received: &'a RecvBatch) -> &'a [u8] {
    let all = match emit.origin {
        Origin::Received(message) => received.bytes(message as usize),
        Origin::Made => made,
    };
    all.get(emit.range.start as usize..emit.range.end as usize).unwrap_or_default()
}

fn piece(emit: &Emit) -> Piece {
    let from = match emit.origin {
        Origin::Received(message) => From::Received(message),
        Origin::Made => From::Made,
    };
    Piece { from, start: emit.range.start, len: emit.range.len() as u32 }
}

fn outer(emit: &Emit) -> Option<(u8, Option<u8>)> {
    match emit.to {
        Egress::Tunnel(tunnel) => Some((tunnel.tos, tunnel.ttl)),
        Egress::Attachment(_) => None,
    }
}

/// Bytes up to the transport payload of a GSO packet: what the device replicates.
fn header_len(frame: &[u8], offload: &Offload) -> u16 {
    let (Some(sum), Some(gso)) = (offload.checksum, offload.gso) else { return 0 };
    let transport = match gso.kind {
        eastgate_wire::GsoKind::Udp => 8,
        _ => frame.get(usize::from(sum.start) + 12).map_or(20, |byte| u16::from(byte >> 4) * 4),
    };
    sum.start + transport
}

/// Writes TOS, TTL and segment size as control messages; the bytes used.
fn write_controls(message: &Message, v4: bool, control: &mut Control) -> usize {
    let mut at = 0;
    let mut put = |level: libc::c_int, kind: libc::c_int, value: &[u8]| {
        // SAFETY: CMSG_LEN and CMSG_SPACE only compute; no pointer is followed.
        let (len, space) = unsafe {
            (libc::CMSG_LEN(value.len() as u32) as usize, libc::CMSG_SPACE(value.len() as u32) as usize)
        };
        let header_len = len - value.len();
        let Some(room) = control.0.get_mut(at..at + space) else { return };
        room[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
        room[size_of::<usize>()..size_of::<usize>() + 4].copy_from_slice(&level.to_ne_bytes());
        room[size_of::<usize>() + 4..size_of::<usize>() + 8].copy_from_slice(&kind.to_ne_bytes());
        room[header_len..len].copy_from_slice(value);
        at += space;
    };
    if let Some(segment) = message.segment {
        put(libc::IPPROTO_UDP, sysopt::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    if let Some((tos, ttl)) = message.outer {
        let (level, tos_name, ttl_name) = if v4 {
            (libc::IPPROTO_IP, libc::IP_TOS, libc::IP_TTL)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_HOPLIMIT)
        };
        if tos != 0 {
            put(level, tos_name, &i32::from(tos).to_ne_bytes());
        }
        if let Some(ttl) = ttl {
            put(level, ttl_name, &i32::from(ttl).to_ne_bytes());
        }
    }
    at
}
