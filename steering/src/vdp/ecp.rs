//! ECP, the edge control protocol (IEEE 802.1Q clause 43): each PDU is acknowledged, one at a time is under
//! way, and what is not acknowledged is sent again a bounded number of times.

use std::{collections::VecDeque, time::Duration};

use eastgate_wire::Instant;

use super::{Exponent, Retries};

/// The version of IEEE 802.1Qbg-2012
const VERSION: u8 = 1;
/// The subtype of VDP (clause 43)
pub const VDP: u16 = 1;
/// Header of an ECPDU
pub const HEADER: usize = 4;
/// What a PDU may carry in a frame of 1,500 octets
pub const PAYLOAD: usize = 1500 - HEADER;
/// PDUs that wait for the one under way
const WAITING: usize = 64;
/// Shorter times than a millisecond are not kept by the side that drives this, longer ones than these of no
/// use to a VSI.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(10);

/// Whether it is a PDU, or what acknowledges one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A PDU
    Request,
    /// An acknowledgement
    Ack,
}

/// Of a PDU, and of what acknowledges it
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequence(pub u16);

/// The header of an ECPDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EcpHeader {
    /// What it is
    pub operation: Operation,
    /// Which protocol it carries, 10 bits
    pub subtype: u16,
    /// Its number
    pub sequence: Sequence,
}

/// Why an ECPDU is not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EcpError {
    /// It has no whole header.
    #[error("the ECPDU has {0} octets")]
    Short(usize),
    /// It is of another version.
    #[error("the ECPDU has version {0}")]
    Version(u8),
    /// It is neither a PDU nor an acknowledgement.
    #[error("the ECPDU has operation {0}")]
    Operation(u8),
    /// It carries another protocol.
    #[error("the ECPDU has subtype {0}")]
    Subtype(u16),
}

impl EcpHeader {
    /// The header of an ECPDU that carries VDP, and what it carries.
    ///
    /// # Errors
    /// When it is of no use here.
    pub fn parse(pdu: &[u8]) -> Result<(Self, &[u8]), EcpError> {
        let short = EcpError::Short(pdu.len());
        let (head, rest) = pdu.split_first_chunk::<2>().ok_or(short)?;
        let (sequence, payload) = rest.split_first_chunk::<2>().ok_or(short)?;
        let head = u16::from_be_bytes(*head);
        let [version, operation] = [head >> 12, head >> 10 & 3].map(|bits| bits.to_be_bytes()[1]);
        if version != VERSION {
            return Err(EcpError::Version(version));
        }
        let operation = match operation {
            0 => Operation::Request,
            1 => Operation::Ack,
            other => return Err(EcpError::Operation(other)),
        };
        let subtype = head & 0x3ff;
        if subtype != VDP {
            return Err(EcpError::Subtype(subtype));
        }
        Ok((Self { operation, subtype, sequence: Sequence(u16::from_be_bytes(*sequence)) }, payload))
    }

    /// Its octets.
    #[must_use]
    pub fn octets(self) -> [u8; HEADER] {
        let operation = u16::from(self.operation == Operation::Ack);
        let head = u16::from(VERSION) << 12 | operation << 10 | self.subtype & 0x3ff;
        let ([a, b], [c, d]) = (head.to_be_bytes(), self.sequence.0.to_be_bytes());
        [a, b, c, d]
    }
}

/// The timers of ECP that both sides keep to: the larger of what each has announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EcpTiming {
    /// How often a PDU is sent again
    pub retries: Retries,
    /// After which time
    pub timeout: Exponent,
}

impl EcpTiming {
    /// How long an acknowledgement is waited for: what is announced, but no less than a millisecond and no
    /// more than 10 s.
    #[must_use]
    pub fn wait(self) -> Duration {
        self.timeout.duration().clamp(SHORTEST, LONGEST)
    }

    /// As long as the other side may send one PDU.
    fn window(self) -> Duration {
        (self.wait() * (u32::from(self.retries.get()) + 2)).min(LONGEST)
    }
}

/// What to do with a PDU that was received. It is to be acknowledged in any case.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// It is new.
    New,
    /// It was received before: the other side has not heard the acknowledgement.
    Again,
}

/// What comes of a look at the clock.
#[must_use]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// This is to be sent, header and payload.
    Send(Vec<u8>),
    /// What was under way has been sent as often as it may be.
    Lost,
}

/// The exchange of PDUs with one station, both directions.
#[derive(Debug)]
pub struct Exchange {
    heard: Option<(Sequence, Vec<u8>, Instant)>,
    last: Sequence,
    under_way: Option<UnderWay>,
    waiting: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct UnderWay {
    pdu: Vec<u8>,
    sent: u8,
    due: Instant,
}

impl Exchange {
    /// With a station of which nothing was heard. Numbers go on behind `first`: one who starts over should
    /// not begin where it began before, or what it says first is taken for what it has said before.
    #[must_use]
    pub const fn new(first: Sequence) -> Self {
        Self { heard: None, last: first, under_way: None, waiting: VecDeque::new() }
    }

    /// A PDU was received. One of the same number counts as new if it says something else, or comes after the
    /// other side must have given up: then a station has started over with its numbers.
    pub fn receive(
        &mut self,
        sequence: Sequence,
        payload: &[u8],
        timing: EcpTiming,
        now: Instant,
    ) -> Received {
        if let Some((known, said, at)) = &self.heard
            && *known == sequence
            && said == payload
            && now.since(*at) <= timing.window()
        {
            return Received::Again;
        }
        self.heard = Some((sequence, payload.to_vec(), now));
        Received::New
    }

    /// An acknowledgement was received: whether anything waited for it.
    pub fn acknowledge(&mut self, sequence: Sequence) -> bool {
        let is_it = self.under_way.is_some() && sequence == self.last;
        if is_it {
            self.under_way = None;
        }
        is_it
    }

    /// Whether one more PDU may be queued.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting.len() < WAITING
    }

    /// This is to be sent: whether there was room for it.
    pub fn queue(&mut self, payload: Vec<u8>) -> bool {
        let has_room = self.has_room() && payload.len() <= PAYLOAD;
        if has_room {
            self.waiting.push_back(payload);
        }
        has_room
    }

    /// Nothing is under way, or waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.waiting.is_empty()
    }

    /// When [`Self::step`] has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let waiting = (!self.waiting.is_empty()).then_some(Instant::ZERO);
        self.under_way.as_ref().map(|under_way| under_way.due).or(waiting)
    }

    /// What there is to do now, until there is nothing.
    pub fn step(&mut self, timing: EcpTiming, now: Instant) -> Option<Step> {
        if let Some(under_way) = &mut self.under_way {
            if now < under_way.due {
                return None;
            }
            if under_way.sent > timing.retries.get() {
                self.under_way = None;
                return Some(Step::Lost);
            }
            (under_way.sent, under_way.due) = (under_way.sent + 1, now + timing.wait());
            return Some(Step::Send(under_way.pdu.clone()));
        }
        let payload = self.waiting.pop_front()?;
        // 0 is no number: lldpad's own begin with 1, and leave it out when they wrap.
        self.last = Sequence(self.last.0.checked_add(1).unwrap_or(1));
        let header = EcpHeader { operation: Operation::Request, subtype: VDP, sequence: self.last };
        let pdu = [&header.octets()[..], &payload].concat();
        self.under_way = Some(UnderWay { pdu: pdu.clone(), sent: 1, due: now + timing.wait() });
        Some(Step::Send(pdu))
    }
}
