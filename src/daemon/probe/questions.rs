//! The questions of one kind of packet: who has an address, does it answer an echo, does its port take a connection.

use std::time::Duration;

use eastgate_api::{
    Failure, NO_ANSWER, NO_NEIGHBOR, ProbeReport, ProbeRequest, REACHED, REFUSED, UNREACHABLE,
};
use eastgate_dataplane::pipeline::Outcome;
use eastgate_wire::{
    FlowKey, Instant, names,
    view::{proto, tcp_flags},
};
use smoltcp::socket::tcp::State;

use super::{
    super::View,
    asker::Asker,
    run::{Event, Packet, Run},
    stack::LARGEST,
    tell::{Teller, Went, icmp_error, is_refusal, micros, millis},
};
use crate::io::clock;

/// Between one question and the next
const PACE: Duration = Duration::from_millis(200);
/// What somebody else says to the same question
const AFTERWARDS: Duration = Duration::from_millis(100);
/// The largest packet of a connection
const USUAL_MTU: usize = 1500;
/// For as long a connection that is closed here may be left open there
const CLOSING: Duration = Duration::from_millis(500);

/// What was asked about the MAC of the next hop, told as it happens.
#[derive(Default)]
pub(super) struct Neighbor {
    asked: Option<Instant>,
    is_told: bool,
    questions: u32,
    dropped: bool,
}

impl Neighbor {
    /// Takes what is about that; false where the event is about something else.
    pub(super) fn note(&mut self, teller: &mut Teller<'_>, event: &Event, hop: &str) -> bool {
        match event {
            Event::Sent(Packet::Question, injected) => {
                self.questions += 1;
                self.asked = Some(injected.at);
                // An answer that is given at once says it all.
                let is_answered = injected.outcome == Outcome::Consumed;
                if self.questions == 1 && !is_answered {
                    self.dropped = !teller.fate(&format!("who has {hop}"), None, injected);
                }
                true
            }
            Event::Heard { packet: Packet::Neighbor { mac }, at, made } => {
                let took = self.asked.map_or(0, |asked| micros(at.since(asked)));
                if !self.is_told {
                    teller.neighbor(*mac, *made, took, *at);
                }
                self.is_told = true;
                true
            }
            _ => false,
        }
    }

    /// Nobody has said anything.
    pub(super) const fn is_unknown(&self) -> bool {
        self.questions > 0 && !self.is_told
    }

    /// Says that nobody has, unless it was refused.
    pub(super) fn give_up(&self, teller: &mut Teller<'_>, hop: &str) {
        if self.dropped {
            return;
        }
        let asked = names::count(self.questions, "time");
        let text = format!("nobody says who has {hop}: asked {asked}");
        teller.here(clock::now(), "answer", Went::Badly, text, None);
        teller.report.verdict = NO_NEIGHBOR.to_owned();
    }
}

/// Who has an address?
pub(super) fn arp(view: &View, asker: &Asker<'_>, request: &ProbeRequest) -> Result<ProbeReport, Failure> {
    let began = clock::now();
    let protocol = if asker.hop.is_v4() { "arp" } else { "nd" };
    let mut teller = Teller::new(
        view,
        asker,
        format!("{protocol} {} {}, who has {}", asker.name, asker.own, asker.hop),
        began,
    );
    let wait = Duration::from_millis(request.wait_ms);
    let hop = asker.hop.to_string();
    teller.report.verdict = NO_NEIGHBOR.to_owned();
    for round in 0..request.count {
        if is_late(began) {
            break;
        }
        let begun = clock::now();
        let mut run = Run::begin(view, asker, None, USUAL_MTU, began)?;
        // A stack asks who has an address that it has something to say to. That itself is not sent.
        run.stack.echo(asker.to, 1, 1, LEAST);
        teller.report.sent += 1;
        let (mut neighbor, mut asked, mut until) = (Neighbor::default(), None, begun + wait);
        let mut macs = Vec::new();
        while let Some(event) = run.next(until)? {
            if let Event::Sent(Packet::Question, injected) = &event {
                asked = asked.or(Some(injected.at));
                if matches!(injected.outcome, Outcome::Drop(_)) {
                    until = until.min(injected.at + AFTERWARDS);
                }
            }
            if let Event::Heard { packet: Packet::Neighbor { mac }, at, made } = event {
                if macs.is_empty() {
                    teller.answered(asked.map_or(0, |asked| micros(at.since(asked))));
                    until = until.min(at + if made { Duration::ZERO } else { AFTERWARDS });
                } else if !macs.contains(&mac) {
                    let text = format!("{hop} is at {mac} as well: two machines say that they have it");
                    teller.from(asker.hop, at, protocol, Went::Badly, text);
                    teller.report.macs.push(mac);
                }
                macs.push(mac);
            }
            neighbor.note(&mut teller, &event, &hop);
        }
        if neighbor.is_unknown() {
            neighbor.give_up(&mut teller, &hop);
            break;
        }
        drop(run);
        pause(round + 1 < request.count, begun);
    }
    Ok(teller.report)
}

/// The smallest echo request that there is, in bytes from its IP header on
pub(super) const LEAST: usize = 64;

/// Is there no time left for one more?
pub(super) fn is_late(began: Instant) -> bool {
    clock::now().since(began) > Duration::from_millis(eastgate_api::MAX_TOTAL_MS)
}

fn pause(more: bool, begun: Instant) {
    if more {
        std::thread::sleep(PACE.saturating_sub(clock::now().since(begun)));
    }
}

pub(super) const fn echo_proto(v4: bool) -> u8 {
    if v4 { proto::ICMP } else { proto::ICMPV6 }
}

/// Does an address answer an echo?
pub(super) fn ping(view: &View, asker: &Asker<'_>, request: &ProbeRequest) -> Result<ProbeReport, Failure> {
    let began = clock::now();
    let v4 = asker.to.is_v4();
    let flow = asker.free_flow(view, echo_proto(v4), None)?;
    let mut teller = Teller::new(view, asker, in_words(asker, &flow), began);
    let size = request.size.map_or(LEAST, usize::from);
    let mut run = Run::begin(view, asker, Some(flow), LARGEST, began)?;
    let hop = asker.hop.to_string();
    let mut neighbor = Neighbor::default();
    let mut is_told = false;
    for number in 1..=request.count {
        if is_late(began) {
            break;
        }
        let begun = clock::now();
        run.stack.echo(asker.to, flow.sport, number as u16, size);
        let echo = Echo { flow: &flow, number: number as u16, size, tell_fate: !is_told };
        let wait = Duration::from_millis(request.wait_ms);
        match ask_echo(&mut run, &mut teller, &mut neighbor, &echo, wait, &hop)? {
            Echoed::Answered | Echoed::InPieces => {}
            Echoed::Unknown => break,
            Echoed::Dropped | Echoed::Failed(_) | Echoed::Lost => {
                if teller.report.answered == 0 && number == 1 && teller.report.verdict != NO_ANSWER {
                    break;
                }
            }
        }
        is_told = true;
        pause(number < request.count, begun);
    }
    drop(run);
    if teller.report.answered > 0 {
        teller.report.verdict = REACHED.to_owned();
    }
    teller.expect(flow.proto, Some(&flow));
    Ok(teller.report)
}

/// An echo request.
pub(super) struct Echo<'f> {
    pub(super) flow: &'f FlowKey,
    pub(super) number: u16,
    /// Bytes from its IP header on
    pub(super) size: usize,
    /// What became of it on this host is told, also where it passed.
    pub(super) tell_fate: bool,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Echoed {
    Answered,
    /// It was, in fragments: what comes back does not fit.
    InPieces,
    /// Nobody has the address.
    Unknown,
    /// On this host, without a word
    Dropped,
    /// Somebody says so; how much fits, where that is why.
    Failed(Option<u32>),
    /// Nobody says anything.
    Lost,
}

/// Waits for what comes of an echo request that the stack has.
pub(super) fn ask_echo(
    run: &mut Run<'_>,
    teller: &mut Teller<'_>,
    neighbor: &mut Neighbor,
    echo: &Echo<'_>,
    wait: Duration,
    hop: &str,
) -> Result<Echoed, Failure> {
    let to = echo.flow.dst;
    let (mut until, mut sent, mut is_dropped) = (clock::now() + wait, None, false);
    let what = format!("echo {} of {} bytes", echo.number, echo.size);
    teller.report.sent += 1;
    while let Some(event) = run.next(until)? {
        if neighbor.note(teller, &event, hop) {
            continue;
        }
        match event {
            Event::Sent(Packet::Echo { number }, injected) if number == echo.number => {
                (sent, until) = (Some(injected.at), injected.at + wait);
                let is_refused = matches!(injected.outcome, Outcome::Drop(_));
                if (echo.tell_fate || is_refused) && !teller.fate(&what, Some(echo.flow), &injected) {
                    // What this host says of that comes at once.
                    (is_dropped, until) = (true, injected.at + AFTERWARDS);
                }
            }
            Event::Heard { packet: Packet::EchoReply { number, ttl, in_pieces }, at, .. }
                if number == echo.number =>
            {
                let took = sent.map_or(0, |sent| micros(at.since(sent)));
                let pieces = if in_pieces { ", in fragments: the way back is narrower" } else { "" };
                let text = format!("{what}: answered after {}, TTL {ttl}{pieces}", millis(took));
                teller.from(to, at, "answer", Went::Well, text);
                teller.answered(took);
                return Ok(if in_pieces { Echoed::InPieces } else { Echoed::Answered });
            }
            Event::Heard { packet: Packet::Error { from, kind, code, mtu }, at, made } => {
                let words = icmp_error(to.is_v4(), kind, code, mtu);
                if made {
                    let text = format!("{what}: this appliance says, in the name of {from}: {words}");
                    teller.here(at, "answer", Went::Badly, text, None);
                } else {
                    teller.from(from, at, "answer", Went::Badly, format!("{what}: {from} says: {words}"));
                }
                if !is_dropped {
                    let refused = from == to && is_refusal(to.is_v4(), kind, code);
                    teller.report.verdict = if refused { REFUSED } else { UNREACHABLE }.to_owned();
                }
                return Ok(Echoed::Failed(mtu));
            }
            _ => {}
        }
    }
    if is_dropped {
        return Ok(Echoed::Dropped);
    }
    if sent.is_none() {
        neighbor.give_up(teller, hop);
        return Ok(Echoed::Unknown);
    }
    let text = format!("{what}: no answer within {} s", wait.as_secs_f64());
    teller.from(to, clock::now(), "answer", Went::Badly, text);
    teller.report.verdict = NO_ANSWER.to_owned();
    Ok(Echoed::Lost)
}

pub(super) fn in_words(asker: &Asker<'_>, flow: &FlowKey) -> String {
    format!("{} as {}", names::packet(flow), asker.name)
}

/// Does a port take a connection?
pub(super) fn tcp(view: &View, asker: &Asker<'_>, request: &ProbeRequest) -> Result<ProbeReport, Failure> {
    let began = clock::now();
    let mut flow = asker.free_flow(view, proto::TCP, Some(request.port))?;
    let mut teller = Teller::new(view, asker, in_words(asker, &flow), began);
    let wait = Duration::from_millis(request.wait_ms);
    for round in 0..request.count {
        if is_late(began) {
            break;
        }
        let begun = clock::now();
        if round > 0 {
            flow = asker.free_flow(view, proto::TCP, Some(request.port))?;
        }
        let mut run = Run::begin(view, asker, Some(flow), USUAL_MTU, began)?;
        if !run.stack.connect(asker.to, flow.dport, flow.sport, wait) {
            let text = format!("the stack does not connect to {}", asker.to);
            return Err(Failure::new(eastgate_api::ErrorCode::Failed, text));
        }
        teller.report.sent += 1;
        if connect(&mut run, &mut teller, &flow, asker, wait)? {
            close(&mut run, &mut teller)?;
        } else if round == 0 {
            break;
        }
        drop(run);
        pause(round + 1 < request.count, begun);
    }
    if teller.report.answered > 0 {
        teller.report.verdict = REACHED.to_owned();
    }
    teller.expect(proto::TCP, Some(&flow));
    Ok(teller.report)
}

/// Waits for what comes of a SYN; true when there is a connection.
fn connect(
    run: &mut Run<'_>,
    teller: &mut Teller<'_>,
    flow: &FlowKey,
    asker: &Asker<'_>,
    wait: Duration,
) -> Result<bool, Failure> {
    let hop = asker.hop.to_string();
    let (mut neighbor, mut until) = (Neighbor::default(), clock::now() + wait);
    let (mut sent, mut is_dropped) = (None, false);
    let to = flow.dst;
    while let Some(event) = run.next(until)? {
        if neighbor.note(teller, &event, &hop) {
            continue;
        }
        match event {
            Event::Sent(Packet::Tcp { flags }, injected) if flags & tcp_flags::SYN != 0 => {
                if sent.is_some() {
                    teller.here(
                        injected.at,
                        "forward",
                        Went::Note,
                        "SYN again: no answer yet".to_owned(),
                        None,
                    );
                    continue;
                }
                (sent, until) = (Some(injected.at), injected.at + wait);
                if !teller.fate("SYN", Some(flow), &injected) {
                    // What this host says of that comes at once.
                    (is_dropped, until) = (true, injected.at + AFTERWARDS);
                }
            }
            Event::Heard { packet: Packet::Tcp { flags }, at, made } => {
                let took = sent.map_or(0, |sent| micros(at.since(sent)));
                let after = millis(took);
                if made {
                    let text = "SYN: this appliance says so by RST, in the name of the other end".to_owned();
                    teller.here(at, "answer", Went::Badly, text, None);
                    return Ok(false);
                }
                let from = std::net::SocketAddr::new(to.to_ip(), flow.dport);
                if flags & tcp_flags::RST != 0 {
                    teller.from(
                        to,
                        at,
                        "answer",
                        Went::Badly,
                        format!("RST from {from} after {after}: it refuses"),
                    );
                    teller.report.verdict = REFUSED.to_owned();
                    return Ok(false);
                }
                if flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN | tcp_flags::ACK {
                    run.may_reset = true;
                    teller.from(to, at, "answer", Went::Well, format!("SYN/ACK from {from} after {after}"));
                    teller.answered(took);
                    return Ok(true);
                }
                // An ACK to what was not said: the other end has a connection of these ports.
                let text =
                    format!("an ACK from {from} after {after}: it has another connection of these ports");
                teller.from(to, at, "answer", Went::Badly, text);
                teller.report.verdict = REFUSED.to_owned();
                return Ok(false);
            }
            Event::Heard { packet: Packet::Error { from, kind, code, mtu }, at, made } => {
                let words = icmp_error(to.is_v4(), kind, code, mtu);
                if made {
                    let text = format!("SYN: this appliance says, in the name of {from}: {words}");
                    teller.here(at, "answer", Went::Badly, text, None);
                } else {
                    teller.from(from, at, "answer", Went::Badly, format!("{from} says: {words}"));
                }
                if !is_dropped {
                    let refused = from == to && is_refusal(to.is_v4(), kind, code);
                    teller.report.verdict = if refused { REFUSED } else { UNREACHABLE }.to_owned();
                }
                return Ok(false);
            }
            _ => {}
        }
    }
    if is_dropped {
        return Ok(false);
    }
    if sent.is_none() {
        neighbor.give_up(teller, &hop);
        return Ok(false);
    }
    let text = format!("SYN: no answer within {} s", wait.as_secs_f64());
    teller.from(to, clock::now(), "answer", Went::Badly, text);
    teller.report.verdict = NO_ANSWER.to_owned();
    Ok(false)
}

/// Leaves nothing open at the other end.
fn close(run: &mut Run<'_>, teller: &mut Teller<'_>) -> Result<(), Failure> {
    let until = clock::now() + CLOSING;
    // The stack has to take the SYN/ACK first.
    let mut is_closing = false;
    loop {
        let over = run.next(until.min(clock::now() + PACE))?.is_none() && clock::now() >= until;
        match run.stack.state() {
            State::Established if !is_closing => {
                run.stack.close(false);
                is_closing = true;
            }
            State::TimeWait | State::Closed => {
                teller.here(clock::now(), "close", Went::Well, "closed by both ends".to_owned(), None);
                return Ok(());
            }
            _ if over => break,
            _ => {}
        }
    }
    run.stack.close(true);
    while run.next(clock::now() + AFTERWARDS)?.is_some() {}
    let text = "the other end has not closed: ended by RST".to_owned();
    teller.here(clock::now(), "close", Went::Well, text, None);
    Ok(())
}
