//! A probe that runs: frames of its stack go into the path one by one, and what comes to it goes to its stack, each an event with its
//! moment.

use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel},
    time::Duration,
};

use eastgate_api::{ErrorCode, Failure, MAX_TOTAL_MS};
use eastgate_dataplane::pipeline::probe::{Aim, Answer, MOST, Refused};
use eastgate_steering::{claim, question};
use eastgate_wire::{
    Addr, FlowKey, Instant, MacAddr, View as FrameView,
    view::{IcmpRole, Net, Transport, tcp_flags},
};

use super::{
    super::View,
    asker::Asker,
    stack::{LARGEST, Link, Stack},
};
use crate::io::{
    clock,
    inject::{Injected, Injection, Injector},
};

/// Frames that came to a probe and that it has not looked at yet
const WAITING: usize = 64;
/// How long a worker has for one frame
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether the endpoint uses the flow itself, or whether one more frame may be sent
const LOOK: Duration = Duration::from_millis(20);

/// What happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// A frame went into the path.
    Sent(Packet, Injected),
    /// One came out for the probe.
    Heard {
        packet: Packet,
        at: Instant,
        /// This appliance has made it.
        made: bool,
    },
}

/// What a frame is to a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packet {
    /// Who has an address?
    Question,
    /// It is at this MAC.
    Neighbor { mac: MacAddr },
    /// A TCP segment with these flags
    Tcp { flags: u8 },
    /// An echo request
    Echo { number: u16 },
    /// Its answer
    EchoReply { number: u16, ttl: u8, in_pieces: bool },
    /// An ICMP error
    Error { from: Addr, kind: u8, code: u8, mtu: Option<u32> },
    /// Anything else
    Other,
}

impl Packet {
    /// Reads a frame that the path, or the stack, has made or let pass.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let Ok(view) = FrameView::parse(bytes) else { return Self::Other };
        if question(bytes, &view).is_some() {
            return Self::Question;
        }
        let ip = match &view.net {
            Net::Arp => return Self::neighbor(bytes, &view),
            Net::Ip(ip) => ip,
            Net::Other => return Self::Other,
        };
        match ip.transport {
            Transport::Tcp(tcp) => Self::Tcp { flags: tcp.flags },
            Transport::Icmp(icmp) => {
                let rest = bytes.get(usize::from(ip.l4) + 4..).and_then(<[u8]>::first_chunk::<4>);
                let [high, low] = rest.map_or([0; 2], |rest| [rest[2], rest[3]]);
                let number = u16::from_be_bytes([high, low]);
                let v4 = ip.src.is_v4();
                match icmp.role(v4) {
                    IcmpRole::Request => Self::Echo { number },
                    IcmpRole::Reply => {
                        Self::EchoReply { number, ttl: ip.ttl, in_pieces: ip.fragment.is_some() }
                    }
                    IcmpRole::Error => {
                        let mtu = match (v4, icmp.kind, icmp.code) {
                            (true, 3, 4) => Some(u32::from(number)),
                            (false, 2, _) => rest.map(|rest| u32::from_be_bytes(*rest)),
                            _ => None,
                        };
                        Self::Error { from: ip.src, kind: icmp.kind, code: icmp.code, mtu }
                    }
                    IcmpRole::Notice => Self::neighbor(bytes, &view),
                }
            }
            _ => Self::Other,
        }
    }

    fn neighbor(bytes: &[u8], view: &FrameView) -> Self {
        claim(bytes, view).map_or(Self::Other, |claim| Self::Neighbor { mac: claim.mac })
    }
}

/// A probe that runs. It ends when it is dropped.
pub(super) struct Run<'v> {
    view: &'v View,
    injector: Injector,
    number: u64,
    aim: Aim,
    name: &'v str,
    pub(super) stack: Stack,
    answers: Receiver<Answer>,
    /// Frames of the stack that are to be sent
    due: VecDeque<Vec<u8>>,
    /// The other end has answered, so that there is a connection that may be cut.
    pub(super) may_reset: bool,
    /// When it has to be over
    deadline: Instant,
}

impl<'v> Run<'v> {
    /// Begins. `mtu` is of the largest packet that its stack makes.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn begin(
        view: &'v View,
        asker: &'v Asker<'_>,
        flow: Option<FlowKey>,
        mtu: usize,
        began: Instant,
    ) -> Result<Self, Failure> {
        let injector = view.injector.clone().ok_or_else(Failure::stopping)?;
        let aim =
            Aim { attachment: asker.attachment, mac: asker.mac, own: asker.own, target: asker.hop, flow };
        let (sender, answers) = sync_channel(WAITING);
        let now = clock::now();
        let number = view.shared.probes.begin(aim, sender, now).map_err(|refused| {
            Failure::new(
                ErrorCode::Busy,
                match refused {
                    Refused::Busy => format!("{MOST} probes run: try again in a moment"),
                    Refused::Taken => "another probe has the flow: try again".to_owned(),
                },
            )
        })?;
        let link = Link {
            mac: asker.mac,
            own: asker.own,
            prefix: asker.prefix,
            router: Some(asker.hop).filter(|hop| *hop != asker.to),
            mtu: mtu.min(LARGEST),
            seed: view.random(),
        };
        Ok(Self {
            view,
            injector,
            number,
            aim,
            name: &asker.name,
            stack: Stack::new(&link, now),
            answers,
            due: VecDeque::new(),
            may_reset: false,
            deadline: began + Duration::from_millis(MAX_TOTAL_MS),
        })
    }

    /// What happens next; nothing when until then nothing does.
    ///
    /// # Errors
    /// When it cannot go on.
    pub(super) fn next(&mut self, until: Instant) -> Result<Option<Event>, Failure> {
        let until = until.min(self.deadline);
        loop {
            if self.view.shared.probes.has_lost(self.number) {
                let text =
                    format!("{} has begun to use the port that the probe has chosen: ask again", self.name);
                return Err(Failure::new(ErrorCode::Failed, text));
            }
            let now = clock::now();
            let mut wait = LOOK;
            if !self.due.is_empty() {
                if self.view.shared.probes.may_send(now)
                    && let Some(frame) = self.due.pop_front()
                {
                    return self.send(frame).map(Some);
                }
            } else {
                let frames = self.stack.poll(now);
                self.due
                    .extend(frames.into_iter().filter(|frame| may_send(&self.aim, self.may_reset, frame)));
                if !self.due.is_empty() {
                    continue;
                }
                wait = self.stack.wait(now).unwrap_or(LOOK).min(LOOK);
            }
            match self.answers.try_recv() {
                Ok(answer) => return Ok(Some(self.hear(answer))),
                Err(TryRecvError::Disconnected) => return Err(Failure::stopping()),
                Err(TryRecvError::Empty) => {}
            }
            if now >= until {
                return Ok(None);
            }
            match self.answers.recv_timeout(wait.min(until.since(now))) {
                Ok(answer) => return Ok(Some(self.hear(answer))),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::stopping()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn hear(&mut self, answer: Answer) -> Event {
        let Answer { at, bytes, made } = answer;
        let packet = Packet::read(&bytes);
        self.stack.hear(bytes);
        Event::Heard { packet, at, made }
    }

    fn send(&self, frame: Vec<u8>) -> Result<Event, Failure> {
        let packet = Packet::read(&frame);
        let (told, fate) = sync_channel(1);
        let Aim { attachment, flow, .. } = self.aim;
        if !self.injector.inject(Injection { attachment, frame, flow, told }) {
            return Err(Failure::stopping());
        }
        let late =
            |_| Failure::new(ErrorCode::Failed, format!("no worker has taken a frame within {PATIENCE:?}"));
        Ok(Event::Sent(packet, fate.recv_timeout(PATIENCE).map_err(late)?))
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.view.shared.end_probe(self.number, self.aim.flow.as_ref(), clock::now());
    }
}

/// Is this what the probe is for? A stack says more of its own accord. Nothing is reset that the probe has not opened: another
/// connection of the same ports may be the endpoint's own.
fn may_send(aim: &Aim, may_reset: bool, frame: &[u8]) -> bool {
    let Ok(view) = FrameView::parse(frame) else { return false };
    if let Some(question) = question(frame, &view) {
        return question.target == aim.target;
    }
    let (Some(ip), Some(flow)) = (view.ip(), aim.flow) else { return false };
    if (ip.src, ip.dst, ip.proto) != (flow.src, flow.dst, flow.proto) {
        return false;
    }
    match ip.transport {
        Transport::Tcp(tcp) => {
            (tcp.sport, tcp.dport) == (flow.sport, flow.dport)
                && (may_reset || tcp.flags & (tcp_flags::SYN | tcp_flags::RST) == tcp_flags::SYN)
        }
        Transport::Icmp(icmp) => icmp.role(ip.src.is_v4()) == IcmpRole::Request && icmp.id == flow.sport,
        _ => false,
    }
}
