//! A TCP connection as someone in its middle can know it.
//!
//! For each side there is what it sent, what the other side lets it send, and what it acknowledged; the state
//! is read off those, it is no memory of its own. From them follow four bounds for a segment (the approach of
//! van Rooij, "Real Stateful TCP Packet Filtering in IP Filter", 2001):
//!
//! 1. it starts no further than what the receiver has ever offered, or one behind that: the byte of a probe or
//!    a FIN can be over the edge, and what follows them has the number behind them;
//! 2. it ends no earlier than one window of the receiver behind what the sender has sent;
//! 3. it acknowledges nothing that was not sent;
//! 4. its acknowledgement is no staler than what an end would still take (RFC 5961 section 5).
//!
//! A segment that breaks one is one that its receiver would not accept either: a delayed duplicate, or blind.
//!
//! A SYN beside a connection that is not over passes and moves nothing: one of its ends may have crashed and come back
//! on the same ports, and only the other end knows. What that one answers says how it is: a challenge ACK and the reset
//! that it brings about (RFC 5961 section 4, RFC 9293 section 3.5.1) end the connection, so does a reset that
//! acknowledges the SYN; a SYN-ACK to it begins another one in its place.
//!
//! It promises that a segment that a receiver would accept passes, whatever the network lost, doubled or
//! reordered on either side of us.

use eastgate_wire::{
    DropReason,
    view::{Tcp, tcp_flags},
};

use super::{FlowState, offload, segment::Direction};

/// What a segment means to its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// It passes, and tells what this state is.
    Pass(FlowState),
    /// It passes, and the connection is over: for both ends, where all that is known of them agrees.
    Reset {
        /// Whether it does, see [`Connection::reset`]
        agreed: bool,
    },
    /// It passes so that its receiver can challenge it (RFC 5961), and changes nothing.
    Challenge,
    /// The connection is over, and this SYN begins another.
    Reopen,
    /// Its receiver has answered a SYN of the opener that passed beside this connection: another one has taken its
    /// place, see [`Connection::restarted`].
    Restart,
    /// It does not pass, and shows that the connection is gone.
    Gone(DropReason),
    /// It does not pass.
    Drop(DropReason),
}

/// Both sides, the opener first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Connection {
    sides: [Side; 2],
    attempt: Attempt,
}

/// A SYN that passed beside a connection that is not over, as long as nobody has shown what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Attempt {
    seq: u32,
    payload: u16,
    /// Window scale, or [`Attempt::UNSCALED`]
    scale: u8,
    /// Who sent it; nothing when there is none
    from: Option<Direction>,
}

impl Attempt {
    const UNSCALED: u8 = u8::MAX;

    fn of(direction: Direction, tcp: &Tcp) -> Self {
        let Tcp { seq, payload, window_scale, .. } = *tcp;
        Self { seq, payload, scale: window_scale.unwrap_or(Self::UNSCALED), from: Some(direction) }
    }

    /// Whether a segment that travels in `direction` acknowledges the SYN, with or without the data on it.
    fn is_acknowledged(&self, direction: Direction, tcp: &Tcp) -> bool {
        self.from == Some(direction.reversed())
            && tcp.flags & tcp_flags::ACK != 0
            && tcp.ack.wrapping_sub(self.seq.wrapping_add(1)) <= u32::from(self.payload)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Side {
    /// The sequence number behind the last byte it sent
    end: u32,
    /// The right edge of the widest window it was offered
    max_end: u32,
    /// The widest window it offered, in bytes
    max_window: u32,
    /// The furthest acknowledgement it sent; valid with [`Side::ACKED`]
    max_ack: u32,
    /// Window scale from its SYN; valid with [`Side::SCALES`]
    scale: u8,
    flags: u16,
}

/// The flags of a side that others carry connections by, as [`Progress`](super::Progress) has them, by name.
pub const SIDE_FLAGS: [(&str, u16); 8] = [
    ("HEARD", Side::HEARD),
    ("SYN_ACKED", Side::SYN_ACKED),
    ("SYN_ONLY", Side::SYN_ONLY),
    ("FIN", Side::FIN),
    ("FIN_ACKED", Side::FIN_ACKED),
    ("SCALES", Side::SCALES),
    ("ACKED", Side::ACKED),
    ("RESET", Side::RESET),
];

impl Side {
    /// It sent a SYN, or was found sending.
    const HEARD: u16 = 0x01;
    /// Its SYN is acknowledged.
    const SYN_ACKED: u16 = 0x02;
    /// All it sent so far is a SYN without ACK: `end` is behind the SYN, `max_end` behind the data on it.
    const SYN_ONLY: u16 = 0x04;
    /// It sent a FIN; `end` is behind it.
    const FIN: u16 = 0x08;
    /// That FIN is acknowledged.
    const FIN_ACKED: u16 = 0x10;
    /// Its SYN offered window scaling.
    const SCALES: u16 = 0x20;
    /// It acknowledged something.
    const ACKED: u16 = 0x40;
    /// A RST that ended the connection came from it.
    const RESET: u16 = 0x80;
    /// Found in mid-stream: it may have sent more than was seen, as much as it was offered.
    const LOOSE: u16 = 0x100;

    const fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Windows do not shrink what was sent into them, but senders differ by a little in what they take for one;
/// one window without scaling is what the four bounds forgive.
const SLACK: u32 = 65_535;
/// The widest window there is, RFC 7323: 65,535 << 14.
const WIDEST: u32 = 65_535 << 14;

const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

const fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

fn raise(to: &mut u32, value: u32) {
    if after(value, *to) {
        *to = value;
    }
}

/// The sequence number behind a segment; SYN and FIN count as one each.
fn end_of(tcp: &Tcp) -> u32 {
    let flags = u32::from(tcp.flags & tcp_flags::SYN != 0) + u32::from(tcp.flags & tcp_flags::FIN != 0);
    tcp.seq.wrapping_add(u32::from(tcp.payload)).wrapping_add(flags)
}

/// What an end takes a reset by.
pub(super) struct Expects {
    /// The numbers that may be the next ones: one, or two where it has not acknowledged all yet
    pub(super) numbers: [u32; 2],
    pub(super) is_one: bool,
    /// What it has sent, where it has sent anything
    pub(super) ack: Option<u32>,
}

/// By what `receiver` takes a reset of `sender`.
pub(super) fn expects(sender: &offload::Side, receiver: &offload::Side) -> Expects {
    let has = |side: &offload::Side, flag: u16| side.flags & flag != 0;
    let acknowledged = has(receiver, Side::ACKED).then_some(receiver.max_ack);
    let sent = has(sender, Side::HEARD).then_some(sender.end);
    // One that has heard nothing yet looks at what is acknowledged alone.
    let sent = sent.or(acknowledged).unwrap_or(0);
    let acknowledged = acknowledged.unwrap_or(sent);
    let ack = has(receiver, Side::HEARD).then_some(receiver.end);
    Expects { numbers: [acknowledged, sent], is_one: acknowledged == sent, ack }
}

/// Is the connection over: by a reset, or because both sides have finished and know it of each other?
pub(super) fn is_over(sides: &[offload::Side; 2]) -> bool {
    const FINISHED: u16 = Side::FIN | Side::FIN_ACKED;
    sides.iter().any(|side| side.flags & Side::RESET != 0)
        || sides.iter().all(|side| side.flags & FINISHED == FINISHED)
}

impl Connection {
    /// The connection that a SYN opens, and its state.
    pub(super) fn opened(tcp: &Tcp) -> (Self, FlowState) {
        let mut connection = Self::default();
        connection.hear_syn(Direction::Original, tcp);
        (connection, FlowState::SynSent)
    }

    /// The connection in the place of this one: of the opener's SYN that passed beside it, and of its answer.
    pub(super) fn restarted(&self, syn_ack: &Tcp) -> (Self, FlowState) {
        let Attempt { seq, payload, scale, .. } = self.attempt;
        // What it offered is not remembered: as much as a SYN can.
        let (flags, window) = (tcp_flags::SYN, u16::MAX);
        let window_scale = (scale != Attempt::UNSCALED).then_some(scale);
        let syn = Tcp { seq, ack: 0, flags, window, window_scale, payload, ..*syn_ack };
        let (mut connection, opened) = Self::opened(&syn);
        match connection.syn_ack(Direction::Reply, syn_ack) {
            Step::Pass(state) => (connection, state),
            _ => (connection, opened),
        }
    }

    /// The connection that an ACK in mid-stream belongs to. Its window scales went by unseen: the largest is
    /// assumed.
    pub(super) fn picked_up(direction: Direction, tcp: &Tcp) -> (Self, FlowState) {
        let flags = Side::SYN_ACKED | Side::SCALES | Side::LOOSE;
        let window = u32::from(tcp.window) << 14;
        let (end, ack) = (end_of(tcp), tcp.ack);
        let sender = Side {
            end,
            max_end: end.wrapping_add(WIDEST),
            max_window: window.max(1),
            max_ack: ack,
            scale: 14,
            flags: flags | Side::HEARD | Side::ACKED,
        };
        let receiver = Side {
            end: ack,
            max_end: ack.wrapping_add(window),
            max_window: WIDEST,
            max_ack: 0,
            scale: 14,
            flags,
        };
        let sides = match direction {
            Direction::Original => [sender, receiver],
            Direction::Reply => [receiver, sender],
        };
        (Self { sides, attempt: Attempt::default() }, FlowState::PickedUp)
    }

    /// Takes a segment that travels in `direction`. The flags have been found to make sense.
    #[inline]
    pub(super) fn step(&mut self, direction: Direction, tcp: &Tcp) -> Step {
        const CORE: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
        if tcp.flags & CORE == 0 && self.state() == FlowState::Established {
            return self.data(direction, tcp);
        }
        if tcp.flags & tcp_flags::RST != 0 {
            return self.reset(direction, tcp);
        }
        match tcp.flags & (tcp_flags::SYN | tcp_flags::ACK) {
            tcp_flags::SYN => self.syn(direction, tcp),
            tcp_flags::ACK => self.data(direction, tcp),
            _ => self.syn_ack(direction, tcp),
        }
    }

    /// The other end has acknowledged all that the opener had sent when it reset the connection with this number. Whether
    /// that is all that it has ever sent, so that the connection is over.
    pub(super) fn is_reset_at(&mut self, seq: u32) -> bool {
        let opener = self.side_mut(Direction::Original);
        let is_over = opener.end == seq;
        if is_over {
            opener.flags |= Side::RESET;
        }
        is_over
    }

    /// Takes a later fragment of a segment: the connection has sent as far as `end` then. False when that is more
    /// than a datagram holds.
    pub(super) fn extend(&mut self, direction: Direction, end: u32) -> bool {
        let side = self.side_mut(direction);
        if after(end, side.end.wrapping_add(u32::from(u16::MAX))) {
            return false;
        }
        raise(&mut side.end, end);
        true
    }

    /// Whether a segment that starts at `seq` can have been sent in `direction` lately.
    pub(super) fn has_sent(&self, direction: Direction, seq: u32) -> bool {
        let (sender, receiver) = self.pair(direction);
        let highest = if sender.is(Side::SYN_ONLY) { sender.max_end } else { sender.end };
        let reach = receiver.max_window.clamp(SLACK, WIDEST);
        if self.attempt.from == Some(direction) && self.attempt.seq == seq {
            return true;
        }
        sender.is(Side::HEARD) && !after(seq, highest) && !before(seq, highest.wrapping_sub(reach))
    }

    /// The state, as it follows from what both sides sent and acknowledged.
    pub(super) fn state(&self) -> FlowState {
        let [a, b] = &self.sides;
        if (a.flags | b.flags) & Side::RESET != 0 {
            return FlowState::Close;
        }
        // The opener was heard first, unless a reply was picked up.
        if !(a.is(Side::HEARD) && b.is(Side::HEARD)) {
            return if a.is(Side::SYN_ACKED) { FlowState::PickedUp } else { FlowState::SynSent };
        }
        if !(a.is(Side::SYN_ACKED) && b.is(Side::SYN_ACKED)) {
            return FlowState::SynReceived;
        }
        match (a.is(Side::FIN), b.is(Side::FIN)) {
            (false, false) => FlowState::Established,
            (true, true) if a.is(Side::FIN_ACKED) && b.is(Side::FIN_ACKED) => FlowState::TimeWait,
            (true, true) => FlowState::LastAck,
            _ if (a.flags | b.flags) & Side::FIN_ACKED != 0 => FlowState::CloseWait,
            _ => FlowState::FinWait,
        }
    }

    /// Both sides of a connection in which only data and acknowledgements move on; nothing in any other state, for
    /// one beside which a SYN passed that nobody has answered, and for one that was picked up in mid-stream, whose
    /// bounds are wider.
    pub(super) fn steady_sides(&self) -> Option<[offload::Side; 2]> {
        const STEADY: u16 = Side::HEARD | Side::SYN_ACKED | Side::SCALES | Side::ACKED;
        let [a, b] = &self.sides;
        if self.state() != FlowState::Established
            || self.attempt.from.is_some()
            || (a.flags | b.flags) & !STEADY != 0
        {
            return None;
        }
        Some(self.sides())
    }

    /// Both sides, the opener's first
    pub(super) fn sides(&self) -> [offload::Side; 2] {
        self.sides.map(|side| offload::Side {
            end: side.end,
            max_end: side.max_end,
            max_window: side.max_window,
            max_ack: side.max_ack,
            scale: side.scale,
            flags: side.flags,
        })
    }

    /// Takes over where both sides have got to.
    pub(super) fn set_sides(&mut self, sides: &[offload::Side; 2]) {
        for (side, now) in self.sides.iter_mut().zip(sides) {
            (side.end, side.max_end, side.max_window, side.max_ack) =
                (now.end, now.max_end, now.max_window, now.max_ack);
            (side.scale, side.flags) = (now.scale, now.flags);
        }
    }

    fn side(&self, direction: Direction) -> &Side {
        &self.sides[direction.index()]
    }

    fn side_mut(&mut self, direction: Direction) -> &mut Side {
        &mut self.sides[direction.index()]
    }

    /// Sender and receiver of a segment that travels in `direction`.
    fn pair(&self, direction: Direction) -> (&Side, &Side) {
        (self.side(direction), self.side(direction.reversed()))
    }

    /// Scaling is in force only when both SYNs offered it (RFC 7323 section 2.2).
    fn window(&self, direction: Direction, tcp: &Tcp) -> u32 {
        let (sender, receiver) = self.pair(direction);
        let scales = sender.is(Side::SCALES) && receiver.is(Side::SCALES) && tcp.flags & tcp_flags::SYN == 0;
        u32::from(tcp.window) << if scales { sender.scale } else { 0 }
    }

    /// Bounds 1 and 2.
    fn seq_fits(&self, direction: Direction, tcp: &Tcp) -> bool {
        let (sender, receiver) = self.pair(direction);
        let oldest = sender.end.wrapping_sub(receiver.max_window.max(1)).wrapping_sub(1);
        !after(tcp.seq, sender.max_end.wrapping_add(1)) && !before(end_of(tcp), oldest)
    }

    /// Bounds 3 and 4. A side that sent no more than a SYN has exactly that SYN to be acknowledged, with or
    /// without the data on it (RFC 7413). Our view of what was sent can be a window ahead of what its sender
    /// knows to have arrived, so that an acknowledgement may be two windows old before an end refuses it.
    fn ack_fits(&self, direction: Direction, tcp: &Tcp) -> bool {
        let (sender, receiver) = self.pair(direction);
        if receiver.is(Side::SYN_ONLY) {
            return !before(tcp.ack, receiver.end) && !after(tcp.ack, receiver.max_end);
        }
        let stale = sender.max_window.max(SLACK).saturating_mul(2).min(WIDEST);
        let sent = if receiver.is(Side::LOOSE) { receiver.max_end } else { receiver.end };
        !after(tcp.ack, sent) && !before(tcp.ack, receiver.end.wrapping_sub(stale))
    }

    fn syn(&mut self, direction: Direction, tcp: &Tcp) -> Step {
        match self.state() {
            // Whatever its number: an end that still waits and does not take it answers as to any other SYN beside
            // a connection (RFC 9293 section 3.6.1).
            FlowState::Close | FlowState::TimeWait => Step::Reopen,
            FlowState::SynSent => {
                self.hear_syn(direction, tcp);
                Step::Pass(self.state())
            }
            // It would bring data to whoever listens now, and nobody has decided that this end may.
            _ if direction == Direction::Reply && tcp.payload > 0 => Step::Drop(DropReason::TcpState),
            _ => {
                self.attempt = Attempt::of(direction, tcp);
                Step::Challenge
            }
        }
    }

    /// Learns a side from a SYN without ACK: the first one, one sent again, or the other side's in a
    /// simultaneous open. SYNs of one connection may differ in options and data (a sender that gets no answer
    /// leaves them out), and any of them may be the one that is answered: the most permissive counts.
    fn hear_syn(&mut self, direction: Direction, tcp: &Tcp) {
        let end = tcp.seq.wrapping_add(1);
        let side = self.side_mut(direction);
        let again = side.is(Side::SYN_ONLY) && side.end == end;
        let before = if again { *side } else { Side { end, max_end: end, ..Side::default() } };
        *side = Side {
            max_window: before.max_window.max(u32::from(tcp.window)).max(1),
            scale: before.scale.max(tcp.window_scale.unwrap_or(0)),
            flags: Side::HEARD
                | Side::SYN_ONLY
                | before.flags & Side::SCALES
                | if tcp.window_scale.is_some() { Side::SCALES } else { 0 },
            ..before
        };
        raise(&mut side.max_end, end_of(tcp));
    }

    fn syn_ack(&mut self, direction: Direction, tcp: &Tcp) -> Step {
        let (sender, receiver) = self.pair(direction);
        let fits = receiver.is(Side::HEARD) && self.ack_fits(direction, tcp);
        if self.attempt.is_acknowledged(direction, tcp) && !(fits && self.seq_fits(direction, tcp)) {
            // Where the end that did not open the flow has come back, the rules have to decide first.
            return if direction == Direction::Reply {
                Step::Restart
            } else {
                Step::Gone(DropReason::TcpState)
            };
        }
        if !receiver.is(Side::HEARD) {
            return Step::Drop(DropReason::TcpState);
        }
        if !fits {
            return Step::Drop(DropReason::TcpWindow);
        }
        // The answer to a SYN; or another one, of a server that has forgotten the first (its half-open
        // connection expired, or it uses SYN cookies), as long as nobody has acknowledged that. It also takes
        // the place of a SYN that someone else forged: only this one names the number of the opener's SYN.
        let first = !sender.is(Side::HEARD);
        let exact = receiver.is(Side::SYN_ONLY) || tcp.ack == receiver.end;
        let again = !sender.is(Side::SYN_ACKED) && direction == Direction::Reply && exact;
        if self.state() != FlowState::Close && (first || again && !self.seq_fits(direction, tcp)) {
            let end = end_of(tcp);
            *self.side_mut(direction) = Side {
                end,
                max_end: end.wrapping_add(receiver.max_window),
                max_window: 1,
                max_ack: tcp.ack,
                scale: tcp.window_scale.unwrap_or(0),
                flags: Side::HEARD | if tcp.window_scale.is_some() { Side::SCALES } else { 0 },
            };
        } else if !self.seq_fits(direction, tcp) {
            return Step::Drop(DropReason::TcpWindow);
        }
        self.learn(direction, tcp);
        Step::Pass(self.state())
    }

    /// A segment with ACK and without SYN and RST.
    #[inline]
    fn data(&mut self, direction: Direction, tcp: &Tcp) -> Step {
        let (sender, receiver) = self.pair(direction);
        match (sender.is(Side::HEARD), receiver.is(Side::HEARD)) {
            (true, true) => {}
            // Found in mid-stream: its bounds are assumed, and count.
            _ if self.is_picked_up() => {}
            // An end that still has the connection before this one answers the SYN with an acknowledgement
            // that its sender will reset (RFC 9293 section 3.5.1, figure 9). That reset is exact then. One of
            // this connection has overtaken its SYN-ACK: an end that knows no SYN-ACK would drop it too.
            (false, true)
                if tcp.payload == 0 && tcp.flags & tcp_flags::FIN == 0 && !self.ack_fits(direction, tcp) =>
            {
                let side = self.side_mut(direction);
                side.max_ack = tcp.ack;
                side.flags |= Side::ACKED;
                return Step::Challenge;
            }
            _ => return Step::Drop(DropReason::TcpState),
        }
        if !self.seq_fits(direction, tcp) || !self.ack_fits(direction, tcp) {
            return Step::Drop(DropReason::TcpWindow);
        }
        self.learn(direction, tcp);
        if self.attempt.from == Some(direction) {
            // Who has sent that SYN goes on with this connection: it was an old one.
            self.attempt.from = None;
        }
        Step::Pass(self.state())
    }

    fn is_picked_up(&self) -> bool {
        self.state() == FlowState::PickedUp
    }

    /// Takes over what an accepted segment with ACK says.
    #[inline]
    fn learn(&mut self, direction: Direction, tcp: &Tcp) {
        let window = self.window(direction, tcp);
        let end = end_of(tcp);
        let sender = self.side_mut(direction);
        sender.flags |= Side::HEARD;
        if after(end, sender.end) {
            // Nothing is sent behind a FIN: whatever was taken for one was none.
            sender.flags &= !(Side::FIN | Side::FIN_ACKED);
            sender.end = end;
        }
        if tcp.flags & tcp_flags::FIN != 0 && end == sender.end && !sender.is(Side::FIN) {
            sender.flags |= Side::FIN;
        }
        if sender.is(Side::SYN_ONLY) && tcp.flags & tcp_flags::SYN == 0 {
            sender.flags &= !Side::SYN_ONLY;
        }
        sender.max_window = sender.max_window.max(window);
        if !sender.is(Side::ACKED) || after(tcp.ack, sender.max_ack) {
            sender.max_ack = tcp.ack;
            sender.flags |= Side::ACKED;
        }
        let receiver = self.side_mut(direction.reversed());
        if receiver.is(Side::SYN_ONLY) {
            receiver.end = receiver.max_end;
            receiver.flags &= !Side::SYN_ONLY;
        }
        receiver.flags |= Side::SYN_ACKED;
        if receiver.is(Side::LOOSE) {
            raise(&mut receiver.end, tcp.ack);
        }
        if receiver.is(Side::FIN) && tcp.ack == receiver.end {
            receiver.flags |= Side::FIN_ACKED;
        }
        raise(&mut receiver.max_end, tcp.ack.wrapping_add(window));
    }

    /// RFC 5961 section 3: a RST at exactly the next number ends the connection, one elsewhere in the window
    /// is for the receiver to challenge, every other is forged. The next number is the one last acknowledged,
    /// or the one behind all that was sent: which of them, only the receiver knows. Both are the same where it has
    /// acknowledged all; of an end that resets what the other one opened nothing more is to be known.
    fn reset(&mut self, direction: Direction, tcp: &Tcp) -> Step {
        let (sender, receiver) = self.pair(direction);
        let exact = if sender.is(Side::HEARD) {
            let next = if sender.is(Side::SYN_ONLY) { sender.max_end } else { sender.end };
            tcp.seq == sender.end
                || tcp.seq == next
                || receiver.is(Side::ACKED) && tcp.seq == receiver.max_ack
        } else {
            // The SYN is refused (RFC 9293 section 3.10.7.3): valid when it acknowledges it.
            tcp.flags & tcp_flags::ACK != 0 && receiver.is(Side::HEARD) && self.ack_fits(direction, tcp)
        };
        let is_new = self.attempt.is_acknowledged(direction, tcp);
        if exact || is_new {
            let all_known = receiver.is(Side::ACKED) && tcp.seq == receiver.max_ack && tcp.seq == sender.end;
            let agreed = direction == Direction::Reply || is_new || sender.is(Side::SYN_ONLY) || all_known;
            self.side_mut(direction).flags |= Side::RESET;
            return Step::Reset { agreed };
        }
        let old = receiver.is(Side::ACKED) && before(tcp.seq, receiver.max_ack);
        if sender.is(Side::HEARD) && !old && self.seq_fits(direction, tcp) {
            return Step::Challenge;
        }
        Step::Drop(DropReason::TcpWindow)
    }
}
