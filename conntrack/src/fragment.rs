//! Datagrams in fragments: the first fragment decides, the later ones inherit.
//!
//! Nothing is reassembled. A datagram is remembered from its first fragment until its last byte went by, or until its
//! time is over. What the memory promises:
//!
//! - A later fragment passes only behind a first one that was allowed, and is counted on that one's flow. One
//!   that comes before its first is decided is held until then, for a short time and within a bound on bytes
//!   (`waiting`), and then looked at as if it had come behind it. One that waits in vain, as those do that come after
//!   their datagram was complete, is dropped (`fragment-first-missing`).
//! - A first fragment has the whole transport header in it (RFC 1858, RFC 7112), and nothing writes over it:
//!   fragments that overlap are dropped and so is all that follows of their datagram (RFC 5722), TCP at offset 8
//!   in any case (RFC 3128). A fragment that comes twice is dropped the second time, and harms nothing else.
//! - A datagram has one end and it is at most 65,535 bytes; every fragment before the end is a multiple of 8.
//! - A datagram nobody allowed, or nobody decided about, lets nothing pass.
//! - The number of datagrams remembered is bounded, of each network and of all, exactly. At the limit the datagram of the
//!   network makes room whose fragments have waited longest for their first; where none waits, a further datagram is
//!   dropped (`fragment-limit`), and those that are remembered stay.
//!
//! Datagrams are told apart by network, addresses, protocol and identification (RFC 791); in IPv6 without the
//! protocol (RFC 8200 section 4.5). Later fragments name no ports, so that shards of the flow table cannot be
//! told from them: there is one table for all shards, behind its own lock.

#[cfg(test)]
mod tests;
mod waiting;

pub use waiting::{Lost, Waiting};

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use ahash::RandomState;
use eastgate_wire::{
    Addr, DropReason, Instant, Places, Vni,
    view::{Fragment, Ip, Transport, proto, tcp_flags},
};

use crate::flow::{Later, Query, Segment, SegmentKind};

/// How the datagrams in fragments of one network are remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentSettings {
    /// How long after its first fragment a datagram is forgotten, complete or not
    pub timeout: Duration,
    /// How many datagrams of the network are remembered at a time
    pub limit: u32,
    /// How long fragments wait for the first of their datagram
    pub wait: Duration,
    /// How many bytes of the network's frames wait at a time
    pub waiting_bytes: u32,
}

impl Default for FragmentSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            limit: 1024,
            wait: Duration::from_secs(5),
            waiting_bytes: 1 << 20,
        }
    }
}

/// A datagram in fragments. Good until the datagram is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DatagramId {
    /// Counts up
    generation: u32,
    index: u32,
}

/// What was decided about a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The first fragment passed.
    Allowed {
        /// As this segment of a flow, or without a flow
        first: Option<Segment>,
        /// A note for the later ones; what it means is the caller's business
        hint: u64,
    },
    /// It did not.
    Refused,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum FragmentStep {
    /// It is no fragment.
    Whole,
    /// A first fragment: to be decided like a packet, and then to be [settled](FragmentTable::settle).
    First(DatagramId),
    /// A later fragment of a datagram of which nothing is decided yet: to be [held](FragmentTable::hold).
    Early(DatagramId),
    /// A later fragment of a datagram that passed.
    Later {
        /// To be tracked as this (its counts are of one packet of `l4_len` bytes, for the caller to change); none
        /// where the first fragment passed without a flow
        segment: Option<Segment>,
        /// The first fragment's note
        hint: u64,
        /// The datagram is complete now.
        last: bool,
    },
    /// It does not pass.
    Drop(DropReason),
}

/// No sender makes more pieces of 65,535 bytes: it would have to make them smaller than the 576 bytes that every
/// link carries.
const PIECES: usize = 256;
/// Datagrams that may be forgotten to make room for one.
const VISITS_AT_LIMIT: usize = 16;

/// The datagrams in fragments that went by lately.
#[derive(Debug)]
pub struct FragmentTable {
    limit: u32,
    index: HashMap<DatagramKey, u32, RandomState>,
    datagrams: Places<Datagram>,
    generation: u32,
    deadlines: BTreeSet<(Instant, u32)>,
    in_use: HashMap<Vni, u32, RandomState>,
    /// Datagrams whose first fragment has not come, by network and deadline
    firstless: BTreeSet<(Vni, Instant, DatagramId)>,
    /// Bytes of frames that wait, of each network and of all
    waiting: HashMap<Vni, u32, RandomState>,
    waiting_in_all: u32,
    lost: VecDeque<Lost>,
}

/// By what datagrams are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DatagramKey {
    /// Source address
    pub src: Addr,
    /// Destination address
    pub dst: Addr,
    /// Network
    pub vni: Vni,
    /// Identification
    pub id: u32,
    /// 0 in IPv6
    pub proto: u8,
}

impl DatagramKey {
    /// The datagram that a packet of a network is a fragment of.
    #[must_use]
    pub fn of(vni: Vni, ip: &Ip) -> Option<Self> {
        let proto = if ip.src.is_v4() { ip.proto } else { 0 };
        Some(Self { src: ip.src, dst: ip.dst, vni, id: ip.fragment?.id, proto })
    }
}

/// A datagram whose first fragment has passed elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The first fragment
    pub first: Segment,
    /// Start and end of each piece that has passed, without overlaps, in no order
    pub pieces: Vec<(u16, u16)>,
    /// Where it ends, once that is known
    pub end: Option<u16>,
    /// When it is to be forgotten
    pub deadline: Instant,
}

#[derive(Debug)]
struct Datagram {
    key: DatagramKey,
    generation: u32,
    deadline: Instant,
    /// Its first fragment has come.
    has_first: bool,
    /// Once its first fragment is decided
    verdict: Option<Verdict>,
    /// What came before that, in order
    waiting: Vec<Waiting>,
    /// What went wrong with it: the rest of it is dropped for this.
    poison: Option<DropReason>,
    /// Start and end of each fragment, in order, without overlaps
    pieces: Vec<(u16, u16)>,
    /// Where it ends, once that is known
    end: Option<u16>,
    /// TCP: the sequence number at offset 0, had there been no headers
    tcp_base: Option<u32>,
}

impl FragmentTable {
    /// A table for at most `limit` datagrams of all networks together.
    #[must_use]
    pub fn new(hasher: RandomState, limit: u32) -> Self {
        Self {
            limit,
            index: HashMap::with_hasher(hasher.clone()),
            datagrams: Places::new(),
            generation: 0,
            deadlines: BTreeSet::new(),
            in_use: HashMap::with_hasher(hasher.clone()),
            firstless: BTreeSet::new(),
            waiting: HashMap::with_hasher(hasher),
            waiting_in_all: 0,
            lost: VecDeque::new(),
        }
    }

    /// Changes the limit of all networks together. Datagrams above it stay until they are complete or their
    /// time is over.
    pub const fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Looks at a packet of a network.
    pub fn check(&mut self, vni: Vni, ip: &Ip, settings: &FragmentSettings, now: Instant) -> FragmentStep {
        let Some(fragment) = ip.fragment else { return FragmentStep::Whole };
        let piece = match piece_of(ip, &fragment) {
            Ok(piece) => piece,
            Err(reason) => return FragmentStep::Drop(reason),
        };
        let Some(key) = DatagramKey::of(vni, ip) else { return FragmentStep::Whole };
        match self.known(&key, now) {
            None => self.begin(key, ip, &fragment, settings, now),
            Some(index) => self.go_on(index, ip, &fragment, piece, settings, now),
        }
    }

    /// Says what was decided about a datagram whose first fragment was looked at, and gives what has waited for that: to
    /// be looked at again, behind the first. Nothing happens when it was forgotten in between.
    pub fn settle(&mut self, datagram: DatagramId, verdict: Verdict) -> Vec<Waiting> {
        let Some(known) = self.datagram(datagram) else { return Vec::new() };
        known.verdict = Some(verdict);
        let (vni, waiting) = (known.key.vni, std::mem::take(&mut known.waiting));
        self.release(vni, &waiting);
        waiting
    }

    fn datagram(&mut self, id: DatagramId) -> Option<&mut Datagram> {
        self.datagrams.get_mut(id.index).filter(|known| known.generation == id.generation)
    }

    /// Is anything known about this datagram?
    #[must_use]
    pub fn knows(&mut self, key: &DatagramKey, now: Instant) -> bool {
        self.known(key, now).is_some()
    }

    /// Goes on with a datagram that nothing is known about here, and has its place elsewhere: where that has as many as this
    /// table, there are up to twice as many here. Where there is no room for it, its fragments are as those whose first has not
    /// come.
    pub fn import(
        &mut self,
        key: DatagramKey,
        imported: Imported,
        hint: u64,
        settings: &FragmentSettings,
        now: Instant,
    ) {
        if !self.has_room(key.vni, 2, settings, now) {
            return;
        }
        let Imported { first, mut pieces, end, deadline } = imported;
        pieces.sort_unstable();
        self.remember(Datagram {
            key,
            generation: 0,
            deadline,
            has_first: true,
            verdict: Some(Verdict::Allowed { first: Some(first), hint }),
            waiting: Vec::new(),
            poison: None,
            pieces,
            end,
            tcp_base: None,
        });
    }

    /// When [`FragmentTable::handle_timeout`] should be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Forgets datagrams whose time is over, no more than `budget` of them. How many: as many as the budget
    /// means that there may be more.
    pub fn handle_timeout(&mut self, now: Instant, budget: usize) -> usize {
        for done in 0..budget {
            match self.deadlines.first() {
                Some(&(deadline, index)) if deadline <= now => self.forget(index),
                _ => return done,
            }
        }
        budget
    }

    /// How many datagrams are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// How many of them are of this network.
    #[must_use]
    pub fn in_use(&self, vni: Vni) -> u32 {
        self.in_use.get(&vni).copied().unwrap_or(0)
    }

    fn known(&mut self, key: &DatagramKey, now: Instant) -> Option<u32> {
        let index = *self.index.get(key)?;
        let deadline = self.datagrams.get(index)?.deadline;
        if deadline <= now {
            self.forget(index);
            return None;
        }
        Some(index)
    }

    fn begin(
        &mut self,
        key: DatagramKey,
        ip: &Ip,
        fragment: &Fragment,
        settings: &FragmentSettings,
        now: Instant,
    ) -> FragmentStep {
        if !self.has_room(key.vni, 1, settings, now) {
            return FragmentStep::Drop(DropReason::FragmentLimit);
        }
        let has_first = fragment.offset == 0;
        let datagram = Datagram {
            key,
            generation: 0,
            deadline: now + if has_first { settings.timeout } else { settings.wait },
            has_first,
            verdict: None,
            waiting: Vec::new(),
            poison: None,
            pieces: if has_first { vec![(0, fragment.len)] } else { Vec::new() },
            end: None,
            tcp_base: tcp_base(ip, fragment),
        };
        let id = self.remember(datagram);
        if has_first { FragmentStep::First(id) } else { FragmentStep::Early(id) }
    }

    fn remember(&mut self, mut datagram: Datagram) -> DatagramId {
        self.generation = self.generation.wrapping_add(1);
        datagram.generation = self.generation;
        let (key, deadline, has_first) = (datagram.key, datagram.deadline, datagram.has_first);
        let id = DatagramId { index: self.datagrams.insert(datagram), generation: self.generation };
        self.deadlines.insert((deadline, id.index));
        if !has_first {
            self.firstless.insert((key.vni, deadline, id));
        }
        self.index.insert(key, id.index);
        *self.in_use.entry(key.vni).or_insert(0) += 1;
        id
    }

    /// Is there room for one more, now that those have gone that could?
    /// Whether there are fewer than `times` the limits, or room is made.
    fn has_room(&mut self, vni: Vni, times: u32, settings: &FragmentSettings, now: Instant) -> bool {
        if self.is_full(vni, times, settings) {
            self.handle_timeout(now, VISITS_AT_LIMIT);
        }
        while self.is_full(vni, times, settings) {
            if !self.forget_who_waits_longest(vni) {
                return false;
            }
        }
        true
    }

    fn is_full(&self, vni: Vni, times: u32, settings: &FragmentSettings) -> bool {
        self.index.len() >= self.limit.saturating_mul(times) as usize
            || self.in_use(vni) >= settings.limit.saturating_mul(times)
    }

    fn go_on(
        &mut self,
        index: u32,
        ip: &Ip,
        fragment: &Fragment,
        piece: (u16, u16),
        settings: &FragmentSettings,
        now: Instant,
    ) -> FragmentStep {
        let Some(datagram) = self.datagrams.get_mut(index) else {
            return FragmentStep::Drop(DropReason::FragmentFirstMissing);
        };
        let id = DatagramId { index, generation: datagram.generation };
        let first_now = !datagram.has_first && fragment.offset == 0;
        if first_now {
            let (vni, waited_until) = (datagram.key.vni, datagram.deadline);
            datagram.has_first = true;
            datagram.deadline = now + settings.timeout;
            datagram.tcp_base = tcp_base(ip, fragment);
            datagram.pieces = vec![piece];
            self.deadlines.remove(&(waited_until, index));
            self.deadlines.insert((datagram.deadline, index));
            self.firstless.remove(&(vni, waited_until, id));
            return FragmentStep::First(id);
        }
        // A second first fragment while nobody has decided the one before is told as any other that comes twice.
        if datagram.verdict.is_none() && fragment.offset != 0 {
            return FragmentStep::Early(id);
        }
        if let Err(reason) = datagram.take(piece, fragment.more) {
            return FragmentStep::Drop(reason);
        }
        let last = datagram.is_complete();
        let step = match datagram.verdict {
            None | Some(Verdict::Refused) => FragmentStep::Drop(DropReason::FragmentRefused),
            Some(Verdict::Allowed { first, hint }) => {
                FragmentStep::Later { segment: first.map(|first| datagram.later(&first, piece)), hint, last }
            }
        };
        if last {
            self.forget(index);
        }
        step
    }

    fn forget(&mut self, index: u32) {
        let Some(datagram) = self.datagrams.remove(index) else { return };
        self.deadlines.remove(&(datagram.deadline, index));
        if !datagram.has_first {
            let id = DatagramId { index, generation: datagram.generation };
            self.firstless.remove(&(datagram.key.vni, datagram.deadline, id));
        }
        self.lose(datagram.key.vni, datagram.waiting);
        self.index.remove(&datagram.key);
        let vni = datagram.key.vni;
        if let Some(in_use) = self.in_use.get_mut(&vni) {
            *in_use -= 1;
            if *in_use == 0 {
                self.in_use.remove(&vni);
            }
        }
    }
}

impl Datagram {
    /// Takes a further fragment in, or says why it does not fit. What does not fit poisons the datagram; only a
    /// fragment that comes twice, which networks make, does not.
    fn take(&mut self, piece: (u16, u16), more: bool) -> Result<(), DropReason> {
        if let Some(reason) = self.poison {
            return Err(reason);
        }
        let (start, end) = piece;
        let at = self.pieces.partition_point(|&(other, _)| other < start);
        if self.pieces.get(at) == Some(&piece) && more != (self.end == Some(end)) {
            return Err(DropReason::FragmentDuplicate);
        }
        let overlaps = self.pieces.get(at).is_some_and(|&(other, _)| other < end)
            || at > 0 && self.pieces.get(at - 1).is_some_and(|&(_, other)| other > start);
        let furthest = self.pieces.last().map_or(0, |&(_, end)| end);
        let contradicts = match self.end {
            Some(known) => !more || end > known,
            None => !more && end < furthest,
        };
        let reason = if overlaps {
            DropReason::FragmentOverlap
        } else if contradicts {
            DropReason::FragmentBadSize
        } else if self.pieces.len() >= PIECES {
            DropReason::FragmentLimit
        } else {
            self.pieces.insert(at, piece);
            if !more {
                self.end = Some(end);
            }
            return Ok(());
        };
        self.poison = Some(reason);
        self.pieces = Vec::new();
        Err(reason)
    }

    fn is_complete(&self) -> bool {
        if self.end.is_none() {
            return false;
        }
        let mut covered = 0;
        for &(start, end) in &self.pieces {
            if start != covered {
                return false;
            }
            covered = end;
        }
        self.end == Some(covered)
    }

    /// What a later fragment is to the flow of the first.
    fn later(&self, first: &Segment, (start, end): (u16, u16)) -> Segment {
        let query = match first.kind {
            SegmentKind::Query(query) => Some(query),
            _ => None::<Query>,
        };
        let tcp_end = self.tcp_base.map(|base| base.wrapping_add(u32::from(end)));
        Segment {
            kind: SegmentKind::Later(Later { query, tcp_end }),
            packets: 1,
            bytes: u32::from(end - start),
            ..*first
        }
    }
}

/// Start and end of a fragment in its datagram, when it is one that may be.
fn piece_of(ip: &Ip, fragment: &Fragment) -> Result<(u16, u16), DropReason> {
    // A datagram's length counts the IPv4 header, which has 20 bytes at least, and not the IPv6 header.
    let limit = if ip.src.is_v4() { u16::MAX - 20 } else { u16::MAX };
    let end = fragment.offset.checked_add(fragment.len).filter(|&end| end <= limit);
    let end = end.ok_or(DropReason::FragmentBadSize)?;
    if fragment.len == 0 || fragment.more && !fragment.len.is_multiple_of(8) {
        return Err(DropReason::FragmentBadSize);
    }
    let over_header = fragment.offset == 8 && ip.proto == proto::TCP;
    if over_header || fragment.offset == 0 && matches!(ip.transport, Transport::Incomplete) {
        return Err(DropReason::FragmentTiny);
    }
    Ok((fragment.offset, end))
}

/// A fragment ends at the number `tcp_base` + its end in the datagram; SYN and FIN count as one each.
fn tcp_base(ip: &Ip, fragment: &Fragment) -> Option<u32> {
    let Transport::Tcp(tcp) = ip.transport else { return None };
    let headers = u32::from(fragment.len.saturating_sub(ip.l4_len)) + u32::from(tcp.header_len);
    let flags = (tcp.flags & (tcp_flags::SYN | tcp_flags::FIN)).count_ones();
    Some(tcp.seq.wrapping_add(flags).wrapping_sub(headers))
}
