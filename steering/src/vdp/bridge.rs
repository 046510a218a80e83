//! All of edge virtual bridging at one device: what is announced there, and the stations that were heard.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use eastgate_wire::{Instant, MacAddr};

use super::{
    Association, ECP, Evb, Event, Exponent, LLDP, NEAREST_BRIDGE, NEAREST_CUSTOMER_BRIDGE,
    NEAREST_NON_TPMR_BRIDGE, Profiles, Retries, Timing, Vsi, Why,
    ecp::{EcpHeader, Operation, Received, Sequence, Step},
    evb::{BridgeStatus, Role, StationStatus, Wait},
    frame,
    lldp::{Lldpdu, announcement},
    split,
    station::{HeldView, Station, Terms},
    tlv::Pdu,
};

/// How often an announcement is repeated, and how often at first, or when it has changed (IEEE 802.1AB:
/// msgTxInterval, msgFastTx).
const AGAIN: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(1);
/// How often so (txFastInit)
const AT_FIRST: u8 = 4;
/// For how many seconds an announcement holds (msgTxHold 4)
const TTL: u16 = 121;
/// How long a station is remembered of which nothing is left, so that what it repeats is known to be that.
const LINGER: Duration = Duration::from_secs(10);

/// What a bridge is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The MAC that its frames come from
    pub mac: MacAddr,
    /// What it announces
    pub offer: Offer,
    /// Its limits
    pub limits: Limits,
    /// The MACs of the stations that are heard; none for all. See [`super`] for what that is worth.
    pub stations: Option<BTreeSet<MacAddr>>,
    /// The number before that of its first ECPDU: another one each time that it is started, since a station
    /// takes the one that it has heard last for a repetition.
    pub first: Sequence,
}

impl Config {
    fn hears(&self, station: MacAddr) -> bool {
        station.is_station() && self.stations.as_ref().is_none_or(|stations| stations.contains(&station))
    }
}

/// What a bridge announces. In use is the larger one of each of these and the station's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// It takes GroupIDs.
    pub groups: bool,
    /// How often an ECPDU is sent again
    pub retries: Retries,
    /// After which time
    pub timeout: Exponent,
    /// How long a request may take
    pub resource_wait: Exponent,
    /// How often a station says that a VSI is still there
    pub keep_alive: Exponent,
}

impl Default for Offer {
    /// As lldpad offers it on its side: 3 times, after 164 ms; 10.5 s and 10.5 s. No GroupIDs.
    fn default() -> Self {
        let wait = Exponent::masked(20);
        let (retries, timeout) = (Retries::masked(3), Exponent::masked(14));
        Self { groups: false, retries, timeout, resource_wait: wait, keep_alive: wait }
    }
}

/// How much a bridge remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Stations
    pub stations: usize,
    /// VSIs of a station
    pub vsis: usize,
    /// Entries of the filters of a station's VSIs together
    pub entries: usize,
}

impl Default for Limits {
    /// 8 stations with 256 VSIs each, which have 1,024 entries
    fn default() -> Self {
        Self { stations: 8, vsis: 256, entries: 1024 }
    }
}

/// What was not as it should be.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// LLDPDUs that cannot be read
    pub bad_lldp: u64,
    /// EVB TLVs that cannot be read, or are no station's
    pub bad_evb: u64,
    /// ECPDUs that cannot be read
    pub bad_ecp: u64,
    /// VDP PDUs that cannot be read; they are acknowledged
    pub bad_vdp: u64,
    /// VDP TLVs that cannot be answered
    pub bad_tlv: u64,
    /// VDP TLVs of types that are not known
    pub unknown_tlv: u64,
    /// Frames of stations that are not heard, by the configuration
    pub not_heard: u64,
    /// Frames of stations for which there is no room
    pub no_room: u64,
    /// ECPDUs that came too fast, or while too many answers wait; they are not acknowledged
    pub too_fast: u64,
    /// ECPDUs that were received before
    pub again: u64,
    /// Acknowledgements of nothing
    pub stray_acks: u64,
    /// Own ECPDUs that were never acknowledged, or had no room to wait
    pub lost: u64,
}

/// The bridge's side of one link.
#[derive(Debug)]
pub struct Bridge {
    config: Config,
    stations: BTreeMap<MacAddr, Station>,
    /// Whom the announcement speaks to: the station that was heard last
    speaks_to: Option<MacAddr>,
    announced: Option<(Evb, Instant)>,
    announce_at: Instant,
    soon: u8,
    counters: Counters,
    frames: Vec<Vec<u8>>,
    events: Vec<Event>,
}

/// Whether a frame is for a [`Bridge`], whatever it says.
#[must_use]
pub fn concerns(frame: &[u8]) -> bool {
    matches!(
        split(frame),
        Some(
            (NEAREST_CUSTOMER_BRIDGE, _, LLDP | ECP, _)
                | (NEAREST_NON_TPMR_BRIDGE | NEAREST_BRIDGE, _, LLDP, _)
        )
    )
}

impl Bridge {
    /// A bridge that announces itself with the next [`Self::expire`].
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            stations: BTreeMap::new(),
            speaks_to: None,
            announced: None,
            announce_at: now,
            soon: AT_FIRST,
            counters: Counters::default(),
            frames: Vec::new(),
            events: Vec::new(),
        }
    }

    /// The MAC that its frames come from
    #[must_use]
    pub const fn mac(&self) -> MacAddr {
        self.config.mac
    }

    /// A frame was received. Whether it was one that [`concerns`] this; LLDP to other agents is, and does
    /// nothing.
    pub fn receive(&mut self, frame: &[u8], profiles: &impl Profiles, now: Instant) -> bool {
        if !concerns(frame) {
            return false;
        }
        let Some((destination, source, ethertype, payload)) = split(frame) else { return false };
        if destination != NEAREST_CUSTOMER_BRIDGE || source == self.config.mac {
            return true;
        }
        if !self.config.hears(source) {
            self.counters.not_heard += 1;
        } else if ethertype == LLDP {
            self.receive_lldp(source, payload, now);
        } else {
            self.receive_ecp(source, payload, profiles, now);
        }
        true
    }

    /// What time brings: announcements, repetitions, VSIs and stations that are over. To be called when
    /// [`Self::deadline`] has come.
    pub fn expire(&mut self, now: Instant) {
        if now >= self.announce_at {
            self.announce(now);
        }
        for (mac, station) in &mut self.stations {
            if station.evb.is_some_and(|(_, until)| until <= now) {
                station.evb = None;
                self.events.push(Event::StationSilent { station: *mac });
            }
            let over = |_: &Vsi, held: &HeldView<'_>| held.is_over(now).then_some(Why::TimedOut);
            self.counters.lost += station.end_those(over, &mut self.events);
        }
        self.stations.retain(|_, station| !station.is_idle() || now < station.seen + LINGER);
        self.send_all(now);
    }

    /// When there is something to do at the latest, if nothing is received until then.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let of_station = |station: &Station| {
            let idle = station.is_idle().then(|| station.seen + LINGER);
            let silent = station.evb.map(|(_, until)| until);
            [idle, silent, station.exchange.due(), station.due()].into_iter().flatten().min()
        };
        self.stations.values().filter_map(of_station).fold(self.announce_at, Instant::min)
    }

    /// The configuration has changed: ends what may no longer be.
    pub fn recheck(&mut self, profiles: &impl Profiles, now: Instant) {
        for station in self.stations.values_mut() {
            let may_not =
                |vsi: &Vsi, held: &HeldView<'_>| held.may_stay(vsi, profiles).err().map(Why::Refused);
            self.counters.lost += station.end_those(may_not, &mut self.events);
        }
        self.send_all(now);
    }

    /// Another configuration: ends what stations have that are no longer heard, and announces what is offered
    /// now. What else may no longer be is for [`Self::recheck`]; limits that are lower end nothing, and
    /// refuse what comes then.
    pub fn set_config(&mut self, config: Config, now: Instant) {
        self.config = config;
        for (mac, station) in &mut self.stations {
            if !self.config.hears(*mac) {
                self.counters.lost += station.end_those(|_, _| Some(Why::Ended), &mut self.events);
            }
        }
        self.announce_soon(now);
        self.expire(now);
    }

    /// Ends a VSI, and tells its station. Whether there was one.
    pub fn disassociate(&mut self, station: MacAddr, vsi: &Vsi, now: Instant) -> bool {
        let before = self.events.len();
        if let Some(station) = self.stations.get_mut(&station) {
            let is_it = |this: &Vsi, _: &HeldView<'_>| (this == vsi).then_some(Why::Ended);
            self.counters.lost += station.end_those(is_it, &mut self.events);
        }
        self.send_all(now);
        self.events.len() > before
    }

    /// The link went down: all is at an end. What it begins with again is the announcement.
    pub fn link_down(&mut self, now: Instant) {
        for (mac, mut station) in std::mem::take(&mut self.stations) {
            station.drop_all(&mut self.events);
            if station.evb.is_some() {
                self.events.push(Event::StationSilent { station: mac });
            }
        }
        self.frames.clear();
        (self.speaks_to, self.announced) = (None, None);
        (self.announce_at, self.soon) = (now, AT_FIRST);
    }

    /// Frames to be sent, in order; they are gone from here.
    #[must_use]
    pub fn take_frames(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.frames)
    }

    /// What has happened, in order; it is gone from here.
    #[must_use]
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The stations, with what they say by LLDP, if they are heard.
    pub fn stations(&self) -> impl Iterator<Item = (MacAddr, Option<Evb>)> {
        self.stations.iter().map(|(mac, station)| (*mac, station.evb.map(|(evb, _)| evb)))
    }

    /// What is pre-associated or associated, with whose it is.
    pub fn associations(&self) -> impl Iterator<Item = (MacAddr, Association)> {
        let of_station = |(mac, station): (&MacAddr, _)| (*mac, Station::associations(station));
        self.stations.iter().map(of_station).flat_map(|(mac, those)| those.map(move |this| (mac, this)))
    }

    /// What was not as it should be, so far
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    fn receive_lldp(&mut self, source: MacAddr, payload: &[u8], now: Instant) {
        let Ok(pdu) = Lldpdu::parse(payload) else {
            self.counters.bad_lldp += 1;
            return;
        };
        let evb = pdu.evb.filter(|evb| evb.role == Role::Station);
        if pdu.bad_evb || evb.is_none() != pdu.evb.is_none() {
            self.counters.bad_evb += 1;
        }
        let evb = evb.filter(|_| pdu.ttl > 0).map(|evb| (evb, now + Duration::from_secs(pdu.ttl.into())));
        // Whoever speaks LLDP and nothing of edge virtual bridging is no station, and takes no room.
        if evb.is_none() && !self.stations.contains_key(&source) {
            return;
        }
        let Some(station) = self.station(source, now) else { return };
        let before = std::mem::replace(&mut station.evb, evb).map(|(evb, _)| evb);
        match (before, evb) {
            (Some(_), None) => self.events.push(Event::StationSilent { station: source }),
            (before, Some((evb, _))) if before.is_none_or(|before| !is_same(&before, &evb)) => {
                self.events.push(Event::StationHeard { station: source, evb });
            }
            _ => {}
        }
        if evb.is_some() {
            self.speaks_to = Some(source);
        }
        if self.announced.is_some_and(|(announced, _)| announced != self.says()) {
            self.announce_soon(now);
        }
        self.expire(now);
    }

    fn receive_ecp(&mut self, source: MacAddr, payload: &[u8], profiles: &impl Profiles, now: Instant) {
        let Ok((header, payload)) = EcpHeader::parse(payload) else {
            self.counters.bad_ecp += 1;
            return;
        };
        if header.operation == Operation::Ack {
            let station = self.stations.get_mut(&source);
            let is_awaited = station.is_some_and(|station| station.exchange.acknowledge(header.sequence));
            self.counters.stray_acks += u64::from(!is_awaited);
            self.send_all(now);
            return;
        }
        let (offer, limits, mac) = (self.config.offer, self.config.limits, self.config.mac);
        let Some(station) = self.station(source, now) else { return };
        let timing = Timing::between(&offer, station.evb.as_ref().map(|(evb, _)| evb));
        if !station.pace.take(now) || !station.exchange.has_room() {
            self.counters.too_fast += 1;
            return;
        }
        let received = station.exchange.receive(header.sequence, payload, timing.ecp, now);
        let ack = EcpHeader { operation: Operation::Ack, ..header };
        self.frames.push(frame(mac, ECP, &ack.octets()));
        match received {
            Received::Again => self.counters.again += 1,
            Received::New => self.receive_vdp(source, payload, &Terms { profiles, limits, timing, now }),
        }
        self.send_all(now);
    }

    fn receive_vdp(&mut self, source: MacAddr, payload: &[u8], terms: &Terms<'_, impl Profiles>) {
        let Ok(pdu) = Pdu::parse(payload) else {
            self.counters.bad_vdp += 1;
            return;
        };
        self.counters.bad_tlv += pdu.dropped;
        self.counters.unknown_tlv += pdu.unknown;
        let Some(station) = self.stations.get_mut(&source) else { return };
        if let Some(answer) = station.answer(&pdu, terms, &mut self.events) {
            self.counters.lost += u64::from(!station.exchange.queue(answer));
        }
    }

    /// The station, which is heard now. Where there is no room for another, one that has no VSI makes some.
    fn station(&mut self, mac: MacAddr, now: Instant) -> Option<&mut Station> {
        let is_full = self.stations.len() >= self.config.limits.stations;
        if is_full && !self.stations.contains_key(&mac) {
            let without = self.stations.iter().filter(|(_, station)| station.has_nothing());
            let Some(oldest) = without.min_by_key(|(_, station)| station.seen).map(|(mac, _)| *mac) else {
                self.counters.no_room += 1;
                return None;
            };
            if self.stations.remove(&oldest).is_some_and(|station| station.evb.is_some()) {
                self.events.push(Event::StationSilent { station: oldest });
            }
        }
        let first = self.config.first;
        let station = self.stations.entry(mac).or_insert_with(|| Station::new(mac, first, now));
        station.seen = now;
        Some(station)
    }

    /// Sends what the stations' exchanges have to.
    fn send_all(&mut self, now: Instant) {
        for station in self.stations.values_mut() {
            let timing = Timing::between(&self.config.offer, station.evb.as_ref().map(|(evb, _)| evb));
            while let Some(step) = station.exchange.step(timing.ecp, now) {
                match step {
                    Step::Send(pdu) => self.frames.push(frame(self.config.mac, ECP, &pdu)),
                    Step::Lost => self.counters.lost += 1,
                }
            }
        }
    }

    fn announce_soon(&mut self, now: Instant) {
        self.soon = AT_FIRST;
        let last = self.announced.map_or(now, |(_, at)| at + SOON);
        self.announce_at = self.announce_at.min(now.max(last));
    }

    fn announce(&mut self, now: Instant) {
        let says = self.says();
        self.frames.push(frame(self.config.mac, LLDP, &announcement(self.config.mac, TTL, &says)));
        self.announced = Some((says, now));
        self.soon = self.soon.saturating_sub(1);
        self.announce_at = now + if self.soon > 0 { SOON } else { AGAIN };
    }

    /// The EVB TLV as it is now: reflective relay is on where a station wants it, and the status of the one
    /// that was heard last comes back to it.
    fn says(&self) -> Evb {
        let offer = self.config.offer;
        let heard = |station: &Station| station.evb.map(|(evb, _)| evb);
        let last = self.speaks_to.and_then(|mac| heard(self.stations.get(&mac)?));
        let timing = Timing::between(&offer, last.as_ref());
        let wait = |own: Exponent, exponent: Exponent| Wait { remote: exponent != own, exponent };
        let relay_on = self.stations.values().filter_map(heard).any(|evb| evb.station.relay_wanted);
        Evb {
            bridge: BridgeStatus { groups: offer.groups, relay_capable: true, relay_on },
            station: last.map_or(StationStatus::UNHEARD, |evb| evb.station),
            retries: timing.ecp.retries,
            timeout: timing.ecp.timeout,
            role: Role::Bridge,
            resource_wait: wait(offer.resource_wait, timing.resource_wait),
            keep_alive: wait(offer.keep_alive, timing.keep_alive),
        }
    }
}

/// Whether a station says the same of itself; what it says of the bridge is the bridge's own.
fn is_same(one: &Evb, other: &Evb) -> bool {
    *one == Evb { bridge: one.bridge, ..*other }
}
