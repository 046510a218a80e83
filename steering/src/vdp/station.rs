//! One station: what it has associated, and what becomes of its requests (IEEE 802.1Q 41.5, the bridge's
//! state machine).

use std::{collections::BTreeMap, fmt, time::Duration};

use eastgate_wire::{Instant, MacAddr, TokenBucket, VlanId};

use super::{
    Evb, Exponent, FilterEntry, Limits, Mode, Offer, PACE, Profile, Retries, Vsi,
    ecp::{self, EcpTiming, Exchange, Sequence},
    tlv::{self, Hints, Pdu, Request, Status},
};

/// Who decides what may be associated. Asked with each request and each keep-alive: it should be a look-up.
pub trait Profiles {
    /// Whether there is this profile.
    ///
    /// # Errors
    /// Why there is not.
    fn profile(&self, profile: &Profile) -> Result<(), Refusal>;

    /// Whether the VSI may have this entry, and in which VLAN it is then; none: in none. For an entry that
    /// names its VLAN there is no other, and what says otherwise is taken for [`Refusal::NotAllowed`].
    ///
    /// # Errors
    /// Why it may not.
    fn may(&self, vsi: &Vsi, entry: &FilterEntry) -> Result<Option<VlanId>, Refusal>;
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nothing is known of the manager.
    UnknownManager,
    /// The manager's profiles are known, and this type in this version is none of them.
    UnknownProfile,
    /// The profile is not for this MAC, VLAN or GroupID.
    NotAllowed,
    /// The station has as much as its limits.
    NoRoom,
    /// What is associated cannot be pre-associated.
    Associated,
    /// It cannot be read.
    Unreadable(Status),
}

impl Refusal {
    /// As the station is told.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::UnknownManager => Status::ManagerUnreachable,
            Self::UnknownProfile | Self::Associated => Status::Other,
            Self::NotAllowed => Status::InvalidFilter,
            Self::NoRoom => Status::InsufficientResources,
            Self::Unreadable(status) => status,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownManager => "nothing is known of its VSI manager",
            Self::UnknownProfile => "there is no such profile",
            Self::NotAllowed => "the profile is not for this MAC, VLAN or GroupID",
            Self::NoRoom => "the station has as many VSIs, or entries of their filters, as it may",
            Self::Associated => "it is associated, and cannot be pre-associated",
            Self::Unreadable(_) => "the TLV cannot be read",
        })
    }
}

/// How far a VSI is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// It was found that it would do.
    PreAssociated,
    /// So, and its station wants room to be kept for it.
    Reserved,
    /// It is there.
    Associated,
}

impl Stage {
    const fn mode(self) -> Mode {
        match self {
            Self::PreAssociated => Mode::PreAssociate,
            Self::Reserved => Mode::PreAssociateReserve,
            Self::Associated => Mode::Associate,
        }
    }

    const fn of(mode: Mode) -> Option<Self> {
        match mode {
            Mode::PreAssociate => Some(Self::PreAssociated),
            Mode::PreAssociateReserve => Some(Self::Reserved),
            Mode::Associate => Some(Self::Associated),
            Mode::DeAssociate => None,
        }
    }
}

/// Why a VSI is at an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its station said so.
    Asked,
    /// Its station has not said for too long that it is still there.
    TimedOut,
    /// It may no longer be.
    Refused(Refusal),
    /// Whoever drives the bridge has ended it.
    Ended,
    /// The link went down.
    LinkDown,
}

/// What has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A station was heard by LLDP for the first time, or says something else than before.
    StationHeard {
        /// Which
        station: MacAddr,
        /// What it says
        evb: Evb,
    },
    /// A station says by LLDP that it is gone, or its time is over. Its VSIs last.
    StationSilent {
        /// Which
        station: MacAddr,
    },
    /// A VSI has come to a stage, or at the same stage has another filter than before, which this replaces as
    /// a whole.
    Associated {
        /// Whose
        station: MacAddr,
        /// What
        association: Association,
        /// What the station says of migration
        hints: Hints,
    },
    /// A VSI is at an end.
    Disassociated {
        /// Whose
        station: MacAddr,
        /// What it was
        association: Association,
        /// Why
        why: Why,
    },
    /// A request was refused.
    Refused {
        /// Whose
        station: MacAddr,
        /// Of which VSI
        vsi: Vsi,
        /// What was asked for
        mode: Mode,
        /// Why
        refusal: Refusal,
        /// What there was of the VSI before is so still.
        kept: bool,
    },
}

/// A VSI, how far it is, and which frames are its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Association {
    /// Which
    pub vsi: Vsi,
    /// How far it is
    pub stage: Stage,
    /// Its filter, with the VLANs that it has
    pub entries: Vec<FilterEntry>,
}

/// What both sides keep to: of each value the larger one of what they have announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Of ECP
    pub ecp: EcpTiming,
    /// How long a request may take
    pub resource_wait: Exponent,
    /// How often a station says that a VSI is still there
    pub keep_alive: Exponent,
}

impl Timing {
    /// With a station that was heard, or not yet.
    #[must_use]
    pub fn between(offer: &Offer, station: Option<&Evb>) -> Self {
        let larger = |own: Exponent, of: fn(&Evb) -> Exponent| station.map_or(own, |evb| of(evb).max(own));
        let retries = station.map_or(offer.retries, |evb| Retries::max(evb.retries, offer.retries));
        Self {
            ecp: EcpTiming { retries, timeout: larger(offer.timeout, |evb| evb.timeout) },
            resource_wait: larger(offer.resource_wait, |evb| evb.resource_wait.exponent),
            keep_alive: larger(offer.keep_alive, |evb| evb.keep_alive.exponent),
        }
    }

    /// How long a VSI lasts without being heard of (41.5.5): half as long again as the station's interval and
    /// the time in which it has sent its PDU for the last time.
    #[must_use]
    pub fn keep_alive(self) -> Duration {
        let sending = self.ecp.timeout.duration() * (1 + 2 * u32::from(self.ecp.retries.get()));
        (sending + self.keep_alive.duration()) * 3 / 2
    }
}

/// What a station is held to.
pub(super) struct Terms<'a, P> {
    pub(super) profiles: &'a P,
    pub(super) limits: Limits,
    pub(super) timing: Timing,
    pub(super) now: Instant,
}

/// A station.
#[derive(Debug)]
pub(super) struct Station {
    mac: MacAddr,
    pub(super) exchange: Exchange,
    /// What it says by LLDP, and until when that holds
    pub(super) evb: Option<(Evb, Instant)>,
    /// When anything of it was heard last
    pub(super) seen: Instant,
    pub(super) pace: TokenBucket,
    vsis: BTreeMap<Vsi, Held>,
    entries: usize,
}

#[derive(Debug)]
struct Held {
    stage: Stage,
    asked: Vec<FilterEntry>,
    entries: Vec<FilterEntry>,
    until: Instant,
}

impl Station {
    pub(super) const fn new(mac: MacAddr, first: Sequence, now: Instant) -> Self {
        Self {
            mac,
            exchange: Exchange::new(first),
            evb: None,
            seen: now,
            pace: TokenBucket::new(PACE, now),
            vsis: BTreeMap::new(),
            entries: 0,
        }
    }

    /// It has no VSI, and is to be told nothing.
    pub(super) fn has_nothing(&self) -> bool {
        self.vsis.is_empty() && self.exchange.is_idle()
    }

    /// So, and nothing is heard of it by LLDP.
    pub(super) fn is_idle(&self) -> bool {
        self.evb.is_none() && self.has_nothing()
    }

    pub(super) fn associations(&self) -> impl Iterator<Item = Association> {
        self.vsis.iter().map(|(vsi, held)| held.association(*vsi))
    }

    /// When a VSI is at an end, if nothing is heard.
    pub(super) fn due(&self) -> Option<Instant> {
        self.vsis.values().map(|held| held.until).min()
    }

    /// The answer to a PDU, if it asks for anything.
    pub(super) fn answer<P: Profiles>(
        &mut self,
        pdu: &Pdu,
        terms: &Terms<'_, P>,
        events: &mut Vec<Event>,
    ) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        tlv::put_manager(pdu.manager, &mut out);
        for request in &pdu.requests {
            match request {
                Ok(request) => self.request(request, terms, &mut out, events),
                Err(unread) => unread.put_answer(&mut out),
            }
        }
        if out.len() + 2 <= ecp::PAYLOAD {
            tlv::put_end(&mut out);
        }
        (!pdu.requests.is_empty()).then_some(out)
    }

    fn request<P: Profiles>(
        &mut self,
        request: &Request,
        terms: &Terms<'_, P>,
        out: &mut Vec<u8>,
        events: &mut Vec<Event>,
    ) {
        let vsi = request.vsi;
        let Some(stage) = Stage::of(request.mode) else {
            self.end(&vsi, Why::Asked, events);
            vsi.put_answer(Mode::DeAssociate, Status::Success, &request.entries, out);
            return;
        };
        match self.judge(stage, request, terms) {
            Ok(entries) => {
                vsi.put_answer(request.mode, Status::Success, &entries, out);
                self.hold(stage, request, entries, terms, events);
            }
            Err(refusal) => self.refuse(request, refusal, terms, out, events),
        }
    }

    /// The entries that the VSI has then.
    fn judge<P: Profiles>(
        &self,
        stage: Stage,
        request: &Request,
        terms: &Terms<'_, P>,
    ) -> Result<Vec<FilterEntry>, Refusal> {
        let held = self.vsis.get(&request.vsi);
        if held.is_some_and(|held| held.stage == Stage::Associated) && stage != Stage::Associated {
            return Err(Refusal::Associated);
        }
        let entries = granted(terms.profiles, &request.vsi, &request.entries)?;
        let others = self.entries - held.map_or(0, |held| held.entries.len());
        let has_room = (held.is_some() || self.vsis.len() < terms.limits.vsis)
            && others + entries.len() <= terms.limits.entries;
        if has_room { Ok(entries) } else { Err(Refusal::NoRoom) }
    }

    fn hold<P>(
        &mut self,
        stage: Stage,
        request: &Request,
        entries: Vec<FilterEntry>,
        terms: &Terms<'_, P>,
        events: &mut Vec<Event>,
    ) {
        let until = terms.now + terms.timing.keep_alive();
        let held = Held { stage, asked: request.entries.clone(), entries, until };
        let association = held.association(request.vsi);
        self.entries += held.entries.len();
        let before = self.vsis.insert(request.vsi, held);
        self.entries -= before.as_ref().map_or(0, |before| before.entries.len());
        if before.is_none_or(|before| before.association(request.vsi) != association) {
            events.push(Event::Associated { station: self.mac, association, hints: request.hints });
        }
    }

    fn refuse<P: Profiles>(
        &mut self,
        request: &Request,
        refusal: Refusal,
        terms: &Terms<'_, P>,
        out: &mut Vec<u8>,
        events: &mut Vec<Event>,
    ) {
        let Request { mode, vsi, entries, .. } = request;
        let held = self.vsis.get_mut(vsi).filter(|held| held.may_stay(vsi, terms.profiles).is_ok());
        let kept = held.is_some();
        if let Some(held) = held {
            held.until = terms.now + terms.timing.keep_alive();
            vsi.put_kept(held.stage.mode(), refusal.status(), entries, out);
        } else {
            vsi.put_answer(Mode::DeAssociate, refusal.status(), entries, out);
            self.end(vsi, Why::Refused(refusal), events);
        }
        events.push(Event::Refused { station: self.mac, vsi: *vsi, mode: *mode, refusal, kept });
    }

    /// The VSI is at an end: with which filter it was, if there was one.
    fn end(&mut self, vsi: &Vsi, why: Why, events: &mut Vec<Event>) -> Option<Vec<FilterEntry>> {
        let held = self.vsis.remove(vsi)?;
        self.entries -= held.entries.len();
        let association = held.association(*vsi);
        events.push(Event::Disassociated { station: self.mac, association, why });
        Some(held.entries)
    }

    /// Ends all of which `why` says so, and tells the station. How many PDUs had no room to wait.
    pub(super) fn end_those(
        &mut self,
        why: impl Fn(&Vsi, &HeldView<'_>) -> Option<Why>,
        events: &mut Vec<Event>,
    ) -> u64 {
        let ends = self.vsis.iter().filter_map(|(vsi, held)| Some((*vsi, why(vsi, &HeldView(held))?)));
        let ends: Vec<(Vsi, Why)> = ends.collect();
        let mut pdus: Vec<Vec<u8>> = Vec::new();
        let mut manager = None;
        for (vsi, why) in ends {
            let entries = self.end(&vsi, why, events).unwrap_or_default();
            let mut tlv = Vec::new();
            vsi.put_request(Mode::DeAssociate, Hints::default(), &entries, &mut tlv);
            match pdus.last_mut() {
                Some(pdu)
                    if manager == Some(vsi.profile.manager) && pdu.len() + tlv.len() + 2 <= ecp::PAYLOAD =>
                {
                    pdu.extend(tlv);
                }
                _ => {
                    let mut pdu = Vec::new();
                    tlv::put_manager(vsi.profile.manager, &mut pdu);
                    pdu.extend(tlv);
                    pdus.push(pdu);
                    manager = Some(vsi.profile.manager);
                }
            }
        }
        let mut lost = 0;
        for mut pdu in pdus {
            tlv::put_end(&mut pdu);
            lost += u64::from(!self.exchange.queue(pdu));
        }
        lost
    }

    /// All is at an end, and nobody is there to be told.
    pub(super) fn drop_all(&mut self, events: &mut Vec<Event>) {
        while let Some(vsi) = self.vsis.keys().next().copied() {
            self.end(&vsi, Why::LinkDown, events);
        }
    }
}

/// What [`Station::end_those`] asks about.
pub(super) struct HeldView<'a>(&'a Held);

impl HeldView<'_> {
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.0.until <= now
    }

    pub(super) fn may_stay(&self, vsi: &Vsi, profiles: &impl Profiles) -> Result<(), Refusal> {
        self.0.may_stay(vsi, profiles)
    }
}

impl Held {
    fn association(&self, vsi: Vsi) -> Association {
        Association { vsi, stage: self.stage, entries: self.entries.clone() }
    }

    /// Whether the VSI may be as it is, in the VLANs in which it is.
    fn may_stay(&self, vsi: &Vsi, profiles: &impl Profiles) -> Result<(), Refusal> {
        let entries = granted(profiles, vsi, &self.asked)?;
        if entries == self.entries { Ok(()) } else { Err(Refusal::NotAllowed) }
    }
}

/// The entries with their VLANs, if all of them may be.
fn granted(profiles: &impl Profiles, vsi: &Vsi, asked: &[FilterEntry]) -> Result<Vec<FilterEntry>, Refusal> {
    profiles.profile(&vsi.profile)?;
    let grant = |entry: &FilterEntry| {
        let vid = profiles.may(vsi, entry)?;
        if entry.vid.is_some() && entry.vid != vid {
            return Err(Refusal::NotAllowed);
        }
        Ok(FilterEntry { vid, ..*entry })
    };
    asked.iter().map(grant).collect()
}
