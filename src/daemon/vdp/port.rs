//! One device behind which stations are: the bridge that they speak with, held to the terms and the book that all devices of the host share.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use eastgate_config::VdpDevice;
use eastgate_dataplane::pipeline::shared::lock;
use eastgate_steering::vdp::{
    Bridge, Config, Event, Exponent, FilterEntry, Limits, Mode, Offer, Profile, Profiles, Refusal, Sequence,
    Vsi, Why,
};
use eastgate_wire::{Instant, MacAddr, Rate, TokenBucket, VlanId};

use super::{
    Desk, Heard,
    book::{Book, Owner},
    terms::{Denied, Seat, Terms, machine_name},
};
use crate::io::stations::Answers;

/// Lines in the log about refusals at a device
const LINES: Rate = Rate { per_second: 10, burst: 50 };

/// A device.
pub(super) struct StationPort {
    device: Arc<str>,
    desk: Arc<Desk>,
    /// Whether it is up
    up: Arc<AtomicBool>,
    was_up: bool,
    terms: Arc<Terms>,
    bridge: Bridge,
    lines: TokenBucket,
    heard: Heard,
}

impl StationPort {
    pub(super) fn new(
        device: Arc<str>,
        mac: MacAddr,
        desk: Arc<Desk>,
        up: Arc<AtomicBool>,
        now: Instant,
    ) -> Self {
        let terms = lock(&desk.terms).clone();
        let config = bridge_config(&terms, &device, mac, first_number(now));
        Self {
            bridge: Bridge::new(config, now),
            lines: TokenBucket::new(LINES, now),
            heard: Heard::default(),
            was_up: true,
            device,
            desk,
            up,
            terms,
        }
    }

    /// Has the bridge do something, and notes what came of it.
    fn drive(&mut self, now: Instant, act: impl FnOnce(&mut Bridge, &Judge<'_>)) {
        let desk = self.desk.clone();
        let mut book = lock(&desk.book);
        let judge = Judge::new(&self.terms, &book, &self.device);
        act(&mut self.bridge, &judge);
        let reasons = judge.reasons.into_inner();
        for event in self.bridge.take_events() {
            self.note(event, &reasons, &mut book, now);
        }
        for Owner { station, vsi, .. } in book.take_orders(&self.device) {
            self.bridge.disassociate(station, &vsi, now);
        }
        for event in self.bridge.take_events() {
            self.note(event, &reasons, &mut book, now);
        }
        let others: BTreeSet<Arc<str>> = book.ordered().cloned().collect();
        drop(book);
        self.desk.wake(others.iter());
        self.publish();
    }

    fn note(&mut self, event: Event, reasons: &BTreeMap<Vsi, Denied>, book: &mut Book, now: Instant) {
        let device = &*self.device.clone();
        match event {
            Event::StationHeard { station, .. } => tracing::info!(device, %station, "a station is heard"),
            Event::StationSilent { station } => {
                tracing::info!(device, %station, "a station is heard no more")
            }
            Event::Associated { station, association, .. } => {
                let by = Owner { device: self.device.clone(), station, vsi: association.vsi };
                book.associate(&self.terms, &by, &association, now);
                let vsi = association.vsi.id;
                let machines = self.names(&association.vsi, &association.entries);
                tracing::info!(device, %station, %vsi, stage = ?association.stage, machines, "associated");
            }
            Event::Disassociated { station, association, why } => {
                book.end(&Owner { device: self.device.clone(), station, vsi: association.vsi });
                let vsi = association.vsi.id;
                let machines = self.names(&association.vsi, &association.entries);
                let why = match why {
                    Why::Refused(refusal) => self.reason(&association.vsi, refusal, reasons),
                    why => ended(why).to_owned(),
                };
                tracing::info!(device, %station, %vsi, machines, why, "an association ended");
            }
            Event::Refused { station, vsi, mode, refusal, kept } => {
                let why = self.reason(&vsi, refusal, reasons);
                self.heard.refused += 1;
                self.heard.last_refusal = Some(format!("{} of {station}: {why}", vsi.id));
                if self.lines.take(now) {
                    let (mode, vsi) = (word(mode), vsi.id);
                    tracing::warn!(device, %station, %vsi, mode, kept, why, "an association is refused");
                }
            }
        }
    }

    /// Why something is refused, in the words that say most.
    fn reason(&self, vsi: &Vsi, refusal: Refusal, reasons: &BTreeMap<Vsi, Denied>) -> String {
        match (reasons.get(vsi), refusal) {
            (Some(denied), _) => denied.to_string(),
            (None, Refusal::UnknownManager | Refusal::UnknownProfile) => {
                let denied = self.terms.profile(&vsi.profile).err();
                denied.map_or_else(|| refusal.to_string(), |denied| denied.to_string())
            }
            (None, refusal) => refusal.to_string(),
        }
    }

    /// The machines of an association, as endpoints are called.
    fn names(&self, vsi: &Vsi, entries: &[FilterEntry]) -> String {
        let Ok((tenant, profile)) = self.terms.profile(&vsi.profile) else { return String::new() };
        let macs = entries.iter().filter_map(|entry| entry.mac);
        let names: Vec<String> =
            macs.map(|mac| format!("{}/{}", tenant.name, machine_name(profile, mac))).collect();
        names.join(", ")
    }

    fn publish(&mut self) {
        self.heard.stations = self.bridge.stations().map(|(mac, _)| mac).collect();
        self.heard.not_heard = self.bridge.counters().not_heard;
        let mut all = lock(&self.desk.heard);
        if all.get(&self.device) != Some(&self.heard) {
            all.insert(self.device.clone(), self.heard.clone());
        }
    }

    /// Other terms, or the device is up or down.
    fn follow(&mut self, now: Instant) {
        let terms = lock(&self.desk.terms).clone();
        if !Arc::ptr_eq(&terms, &self.terms) {
            let config = bridge_config(&terms, &self.device, self.bridge.mac(), first_number(now));
            self.terms = terms;
            self.drive(now, |bridge, judge| {
                bridge.set_config(config, now);
                bridge.recheck(judge, now);
            });
        }
        let up = self.up.load(Relaxed);
        if !up && self.was_up {
            self.drive(now, |bridge, _| bridge.link_down(now));
        }
        self.was_up = up;
    }
}

impl Answers for StationPort {
    fn hear(&mut self, frame: &[u8], now: Instant) {
        self.follow(now);
        self.drive(now, |bridge, judge| {
            let _ = bridge.receive(frame, judge, now);
        });
    }

    fn look(&mut self, now: Instant) {
        self.follow(now);
        self.drive(now, |bridge, _| bridge.expire(now));
    }

    fn deadline(&self) -> Instant {
        self.bridge.deadline()
    }

    fn take_frames(&mut self) -> Vec<Vec<u8>> {
        self.bridge.take_frames()
    }
}

/// What a bridge is told of a device. Of one that the terms do not have any more, it hears nobody.
fn bridge_config(terms: &Terms, device: &Arc<str>, mac: MacAddr, first: Sequence) -> Config {
    let of = terms.devices().find(|(name, _)| *name == device).map(|(_, of)| of);
    let stations = of.map_or_else(|| Some(BTreeSet::new()), |of| of.stations.clone());
    let usual = Limits::default();
    let limits = Limits {
        stations: stations.as_ref().map_or(usual.stations, BTreeSet::len).max(usual.stations),
        ..usual
    };
    let keep_alive = of.map_or(Duration::ZERO, |of: &VdpDevice| of.keep_alive);
    let offer = Offer { keep_alive: at_least(keep_alive), ..Offer::default() };
    Config { mac, offer, limits, stations, first }
}

/// The shortest time that can be said and is not shorter.
fn at_least(wanted: Duration) -> Exponent {
    let all = (0..32).filter_map(Exponent::new_checked);
    all.into_iter().find(|exponent| exponent.duration() >= wanted).unwrap_or(Offer::default().keep_alive)
}

/// Another number each time.
fn first_number(now: Instant) -> Sequence {
    let [.., a, b] = (now.micros() >> 10).to_be_bytes();
    Sequence(u16::from_be_bytes([a, b]))
}

const fn ended(why: Why) -> &'static str {
    match why {
        Why::Asked => "its station said so",
        Why::TimedOut => "its station says no more that it is there",
        Why::Refused(_) => "it may no longer be",
        Why::Ended => "it was associated elsewhere, cannot be in force, or its station is heard no more",
        Why::LinkDown => "the device went down",
    }
}

const fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::PreAssociate => "pre-associate",
        Mode::PreAssociateReserve => "pre-associate with reservation",
        Mode::Associate => "associate",
        Mode::DeAssociate => "de-associate",
    }
}

/// Who decides about the requests of one frame.
struct Judge<'b> {
    terms: &'b Terms,
    book: &'b Book,
    device: &'b Arc<str>,
    /// What was granted of this frame and is in no book yet
    granted: RefCell<BTreeSet<Seat>>,
    /// In which VLAN each of its requests has which machine
    asked: RefCell<BTreeMap<(Vsi, Seat), Option<VlanId>>>,
    reasons: RefCell<BTreeMap<Vsi, Denied>>,
}

impl<'b> Judge<'b> {
    fn new(terms: &'b Terms, book: &'b Book, device: &'b Arc<str>) -> Self {
        Self {
            terms,
            book,
            device,
            granted: RefCell::default(),
            asked: RefCell::default(),
            reasons: RefCell::default(),
        }
    }

    fn judge(&self, vsi: &Vsi, entry: &FilterEntry) -> Result<Option<VlanId>, Denied> {
        let grant = self.terms.grant(self.device, &vsi.profile, entry)?;
        let seat = grant.seat();
        if *self.asked.borrow_mut().entry((*vsi, seat.clone())).or_insert(grant.vlan) != grant.vlan {
            return Err(Denied::Twice(seat.mac));
        }
        let mut granted = self.granted.borrow_mut();
        let is_known = granted.contains(&seat);
        if !is_known {
            self.book.has_room(self.terms, self.device, &grant, &granted)?;
        }
        if !is_known && !self.book.has(&seat) {
            granted.insert(seat);
        }
        Ok(grant.vlan)
    }
}

impl Profiles for Judge<'_> {
    fn profile(&self, profile: &Profile) -> Result<(), Refusal> {
        self.terms.profile(profile).map(drop).map_err(|denied| denied.refusal())
    }

    fn may(&self, vsi: &Vsi, entry: &FilterEntry) -> Result<Option<VlanId>, Refusal> {
        self.judge(vsi, entry).map_err(|denied| {
            let refusal = denied.refusal();
            self.reasons.borrow_mut().insert(*vsi, denied);
            refusal
        })
    }
}
