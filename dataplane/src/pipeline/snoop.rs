//! What frames say about addresses that are learned: noted here in the path, and put in force by whoever keeps the snapshots.
//!
//! The path never waits for it. A frame that says something is carried or dropped by what is in force; one that is dropped for its
//! address alone, and is heard, counts as [`DropReason::Unlearned`](eastgate_wire::DropReason::Unlearned).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use eastgate_config::{LearnedAddresses, Name};
use eastgate_steering::{
    announced, claim,
    snooping::{
        By, Entry, Heard, Terms, Word,
        dhcp::{Message, Says},
    },
};
use eastgate_vtep::{fdb::Location, flood::Topology, peers::PeerKind};
use eastgate_wire::{Addr, Frame, Instant, MacAddr, View, Vni, VtepAddr, view::Transport};

use super::{Arrival, Destination, Pipeline, Shared, batch::Batch, shared::lock};
use crate::snapshot::{Endpoint, Network, Snapshot};

/// Addresses of a network that other hosts are told of at once
const TOLD_AT_ONCE: usize = 64;

impl<'s> Pipeline<'s> {
    /// A frame was refused for its address. Whether that is heard, and may be learned.
    pub(super) fn snoop_refused(
        &self,
        arrival: &Arrival<'s>,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
    ) -> bool {
        let Some(sender) = learner(arrival, view) else { return false };
        let said = said(sender, view, frame).map(|address| (address, Word::Announced));
        let used = view.ip().map(|ip| (ip.src, Word::Used));
        [said, used]
            .into_iter()
            .flatten()
            .any(|(address, word)| self.snoop(arrival, sender, address, word, now))
    }

    /// A neighbour message was believed.
    pub(super) fn snoop_neighbor(&self, arrival: &Arrival<'s>, view: &View, frame: &Frame<'_>, now: Instant) {
        let Some(sender) = learner(arrival, view) else { return };
        let Some(address) = said(sender, view, frame) else { return };
        match &sender.learning {
            Some(learning) if sender.holdings().addresses.contains(&address) => {
                lock(&arrival.network.state.snooped).touch(sender.mac, address, learning.age, now);
            }
            _ => _ = self.snoop(arrival, sender, address, Word::Announced, now),
        }
    }

    /// A packet was admitted. Its address is its sender's, or another host has let it use it.
    pub(super) fn snoop_traffic(&self, arrival: &Arrival<'s>, view: &View, now: Instant) {
        let Some(sender) = learner(arrival, view) else { return };
        let Some(ip) = view.ip() else { return };
        let holdings = sender.holdings();
        if !arrival.network.directory.ownership.may_send(holdings, true, view.src, ip.src) {
            let _ = self.snoop(arrival, sender, ip.src, Word::Used, now);
        }
    }

    /// Notes a word, if it counts for its sender and is about an address that may be learned.
    fn snoop(
        &self,
        arrival: &Arrival<'s>,
        sender: &Endpoint,
        address: Addr,
        word: Word,
        now: Instant,
    ) -> bool {
        let counts = sender.terms().is_some_and(|terms| match word {
            Word::Announced => terms.by_nd || !terms.here,
            _ => terms.by_traffic || !terms.here,
        });
        let network = arrival.network;
        let learned = counts
            // What a pair entitles to it has without.
            && sender.holdings().pair_for(address).is_none()
            && network.may_learn(&self.snapshot.site, sender, address, now).is_ok()
            && lock(&network.state.snooped).note(sender.mac, address, word);
        if learned {
            self.shared.has_snooped.store(true, Relaxed);
        }
        learned
    }

    /// A DHCP or DHCPv6 message is on its way to where it is for.
    pub(super) fn snoop_dhcp(
        &self,
        arrival: &Arrival<'s>,
        to: &Destination<'s>,
        view: &View,
        frame: &Frame<'_>,
        now: Instant,
    ) {
        let (network, Some(sender)) = (arrival.network, arrival.sender) else { return };
        let is_dhcp = |ip: &eastgate_wire::view::Ip| {
            matches!(ip.transport, Transport::Udp { dport: 67 | 68 | 546 | 547, .. })
        };
        if !network.has_learners() || !view.ip().is_some_and(is_dhcp) {
            return;
        }
        let Some(message) = Message::read(frame.bytes(), view) else { return };
        let is_of_sender = message.client == sender.mac && view.src == sender.mac;
        match message.says {
            Says::Asks if is_of_sender && sender.learning.is_some() => {
                lock(&network.state.snooped).ask(sender.mac, message.transaction, now);
            }
            Says::GivesUp(addresses) if is_of_sender && sender.learning.is_some() => {
                let ended = addresses.into_iter().map(|address| (address, Word::Ended));
                self.note_all(network, sender, ended);
            }
            Says::Leases(_) | Says::Refuses if sender.sender.dhcp_server => {
                let Some(client) = client_of(network, to, view, message.client) else { return };
                let snooped = lock(&network.state.snooped);
                if !snooped.has_asked(client.mac, message.transaction, now) {
                    return;
                }
                let leases = match message.says {
                    Says::Leases(leases) => leases,
                    _ => snooped
                        .leased_v4(client.mac)
                        .into_iter()
                        .map(|it| (it, Some(Duration::ZERO)))
                        .collect(),
                };
                drop(snooped);
                let words = leases.into_iter().map(|(address, lasts)| match lasts {
                    Some(Duration::ZERO) => (address, Word::Ended),
                    lasts => (address, Word::Leased(lasts)),
                });
                self.note_all(network, client, words);
            }
            _ => {}
        }
    }

    fn note_all(&self, network: &Network, endpoint: &Endpoint, words: impl Iterator<Item = (Addr, Word)>) {
        let mut snooped = lock(&network.state.snooped);
        for (address, word) in words {
            if snooped.note(endpoint.mac, address, word) {
                self.shared.has_snooped.store(true, Relaxed);
            }
        }
    }

    /// Tells the other hosts that run eastgate of addresses that were learned of endpoints here; as a hub, of all.
    pub(super) fn tell_learned(&mut self, network: &'s Network, out: &mut Batch) {
        let due = lock(&network.state.untold).take(TOLD_AT_ONCE);
        if due.len() == TOLD_AT_ONCE {
            self.shared.has_changed.store(true, Relaxed);
        }
        for address in due {
            let Some(holder) = network.by_address(address) else { continue };
            let claimant = lock(&network.state.snooped).claimant(address);
            let claimant = claimant.and_then(|mac| network.by_mac(mac));
            let endpoint = claimant.unwrap_or(holder);
            eastgate_steering::announcement(address, endpoint.mac, endpoint.sender.router, &mut self.made);
            for vtep in self.told_of(network, endpoint) {
                // A spoke knows its hub alone; elsewhere a claim is nobody's business but the holder's host's.
                let is_for = claimant.is_none()
                    || Location::Remote(vtep) == holder.location
                    || network.topology == Topology::Hub && !network.hub_here;
                if is_for {
                    self.send_made_to(network, Location::Remote(vtep), out);
                }
            }
        }
    }

    fn told_of(&self, network: &Network, endpoint: &Endpoint) -> Vec<VtepAddr> {
        let is_spoke = network.topology == Topology::Hub && !network.hub_here;
        let hub = || {
            let hub = network.config()?.hub.as_ref()?;
            Some(self.snapshot.config.host(&hub.host)?.vtep)
        };
        let hub = if is_spoke { hub() } else { None };
        let peers =
            network.peers.iter().filter(|(_, kind)| *kind == PeerKind::Eastgate).map(|(vtep, _)| vtep);
        peers
            .filter(|vtep| !is_spoke || Some(*vtep) == hub)
            .filter(|vtep| Location::Remote(*vtep) != endpoint.location)
            .collect()
    }
}

/// The endpoint that sends, where its addresses are learned and this is its own MAC.
fn learner<'s>(arrival: &Arrival<'s>, view: &View) -> Option<&'s Endpoint> {
    arrival.sender.filter(|sender| sender.learning.is_some() && view.src == sender.mac)
}

/// The address that a neighbour message says its sender has. A probe says that too where its sender's own host hears it; elsewhere
/// that host passes it on to whoever might object, and believes nothing.
fn said(sender: &Endpoint, view: &View, frame: &Frame<'_>) -> Option<Addr> {
    match sender.enforced_here {
        true => announced(frame.bytes(), view),
        false => claim(frame.bytes(), view).map(|claim| claim.address),
    }
}

/// Whom a server's answer is for: the client that it names, and the frame goes to nobody else.
fn client_of<'n>(
    network: &'n Network,
    to: &Destination<'n>,
    view: &View,
    named: MacAddr,
) -> Option<&'n Endpoint> {
    let is_v4 = view.ip().is_some_and(|ip| ip.src.is_v4());
    let client = match to {
        Destination::Station { endpoint: Some(endpoint), .. } if !is_v4 || endpoint.mac == named => {
            network.endpoint(endpoint.id)
        }
        Destination::Flood { .. } if is_v4 => network.by_mac(named),
        _ => None,
    }?;
    client.terms().is_some_and(|terms| terms.by_dhcp).then_some(client)
}

/// What has become of an address that may be learned.
#[derive(Clone, Debug)]
pub struct LearningNews {
    /// Its network
    pub network: Arc<Network>,
    /// Whose it is, or was, or wanted to be
    pub endpoint: Name,
    /// The address
    pub address: Addr,
    /// What
    pub what: LearningEvent,
}

/// What has become of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LearningEvent {
    /// It was learned.
    Learned {
        /// By what
        by: By,
        /// Until when, if nothing more is heard
        until: Option<Instant>,
        /// Whose it was until now
        from: Option<Name>,
    },
    /// It is nobody's any more.
    Ended(&'static str),
    /// It is not learned.
    Refused(String),
}

impl Shared {
    /// Whether something was heard that may be learned, since this was asked last.
    #[must_use]
    pub fn has_snooped(&self) -> bool {
        self.has_snooped.swap(false, Relaxed)
    }

    /// Takes what was heard into the tables of what was learned. What came of it: only with another snapshot it is in force.
    pub fn take_snooped(&self, now: Instant) -> Vec<LearningNews> {
        let snapshot = self.snapshot_arc();
        let mut news = Vec::new();
        for network in snapshot.learner_networks() {
            let noted = lock(&network.state.snooped).take_noted();
            for (mac, address, word) in noted {
                let Some(endpoint) = network.by_mac(mac) else { continue };
                let what = self.take_word(&snapshot, network, endpoint, address, word, now);
                news.extend(what.map(|what| LearningNews {
                    network: network.clone(),
                    endpoint: endpoint.name.clone(),
                    address,
                    what,
                }));
            }
        }
        news
    }

    fn take_word(
        &self,
        snapshot: &Snapshot,
        network: &Network,
        endpoint: &Endpoint,
        address: Addr,
        word: Word,
        now: Instant,
    ) -> Option<LearningEvent> {
        let terms = endpoint.terms()?;
        // It has it by the files.
        let has = endpoint.holdings().has(address) && lock(&network.state.snooped).get(address).is_none();
        if has {
            return None;
        }
        let may = if word == Word::Ended {
            Ok(())
        } else {
            network.may_learn(&snapshot.site, endpoint, address, now)
        };
        let mut snooped = lock(&network.state.snooped);
        let heard = match may {
            Ok(()) => snooped.hear(endpoint.mac, address, word, &terms, now),
            Err(why) => {
                return snooped.count_refused(now).then(|| LearningEvent::Refused(why.to_owned()));
            }
        };
        let name = |mac| network.by_mac(mac).map(|it| it.name.clone());
        match heard {
            Heard::Learned { from } => {
                let entry = snooped.get(address)?;
                let (by, until) = (entry.by, entry.until);
                Some(LearningEvent::Learned { by, until, from: from.and_then(name) })
            }
            Heard::Gone if word == Word::Ended => Some(LearningEvent::Ended("given back")),
            Heard::Gone => Some(LearningEvent::Ended("another host has learned it at the same time")),
            Heard::Known | Heard::Nothing => None,
            Heard::Later => {
                if snooped.note(endpoint.mac, address, word) {
                    self.has_snooped.store(true, Relaxed);
                }
                None
            }
            Heard::Contested => {
                self.tell_others(network, address);
                None
            }
            Heard::Refused(why) => {
                // Others are to know whose it is.
                if !terms.here && snooped.get(address).is_some_and(|entry| entry.here) {
                    self.tell_others(network, address);
                }
                snooped.count_refused(now).then(|| LearningEvent::Refused(why.to_string()))
            }
        }
    }

    /// The learned addresses that have run out of time and go on all the same where they are in use.
    #[must_use]
    pub fn due_learned(&self, now: Instant) -> BTreeSet<(Vni, Addr)> {
        let snapshot = self.snapshot_arc();
        let due = |network: &Arc<Network>| {
            let due: Vec<Addr> = lock(&network.state.snooped).due(now).collect();
            due.into_iter().map(|address| (network.vni, address)).collect::<Vec<_>>()
        };
        snapshot.learner_networks().flat_map(due).collect()
    }

    /// Ends what has run out of time, but for what is in use, and goes on with leases that wait for another host's word.
    pub fn expire_learned(&self, now: Instant, in_use: impl Fn(Vni, Addr) -> bool) -> Vec<LearningNews> {
        let snapshot = self.snapshot_arc();
        let mut news = Vec::new();
        for network in snapshot.learner_networks() {
            let age = |address: Addr, entry: &Entry| {
                let learning = network.by_mac(entry.endpoint)?.learning.as_ref()?;
                (entry.here && in_use(network.vni, address)).then_some(learning.age)
            };
            let ended = lock(&network.state.snooped).expire(now, age);
            news.extend(ended_as(network, ended, "its time is over"));
            let is_leased = |mac| {
                let terms = network.by_mac(mac).and_then(Endpoint::terms);
                terms.is_some_and(|terms| terms.here && terms.by_dhcp)
            };
            let settled = lock(&network.state.snooped).settle(is_leased, now);
            settled.ask.into_iter().for_each(|address| self.tell_others(network, address));
            news.extend(ended_as(
                network,
                settled.gone,
                "its host does not say so any more, and it is leased anew",
            ));
            for (mac, address, word) in settled.words {
                let Some(endpoint) = network.by_mac(mac) else { continue };
                let what = self.take_word(&snapshot, network, endpoint, address, word, now);
                let endpoint = endpoint.name.clone();
                news.extend(what.map(|what| LearningNews {
                    network: network.clone(),
                    endpoint,
                    address,
                    what,
                }));
            }
        }
        news
    }

    /// The port of an endpoint is gone: what it has said and done itself is forgotten.
    pub fn forget_learned_at(&self, network: &Arc<Network>, endpoint: &Endpoint) -> Vec<LearningNews> {
        let gone = lock(&network.state.snooped).forget_unleased(endpoint.mac);
        ended_as(network, gone, "its port is gone").collect()
    }

    /// Holds what was learned to the snapshot in force: an endpoint may have another MAC, be elsewhere, or be gone, and an address
    /// may be in somebody's name.
    pub fn follow_learned(&self, now: Instant) -> Vec<LearningNews> {
        let snapshot = self.snapshot_arc();
        let mut news = Vec::new();
        for network in snapshot.learner_networks() {
            let terms = |address: Addr, entry: &Entry| {
                let endpoint = network.by_mac(entry.endpoint)?;
                let in_force = endpoint.holdings().addresses.contains(&address);
                let fits = |terms: &Terms| in_force && endpoint.learns_in(address) && terms.keeps(entry);
                endpoint.terms().filter(fits)
            };
            let gone = lock(&network.state.snooped).follow(terms, now);
            news.extend(ended_as(network, gone, "by another configuration"));
        }
        news
    }

    /// Has the other hosts told of an address that is in force.
    fn tell_others(&self, network: &Network, address: Addr) {
        lock(&network.state.untold).note(address);
        self.has_changed.store(true, Relaxed);
    }

    /// Has the other hosts told of what was learned of endpoints here, which is in force by now; a hub tells of all.
    pub fn tell_of(&self, news: &[LearningNews]) {
        let snapshot = self.snapshot_arc();
        for LearningNews { network, address, what, .. } in news {
            let LearningEvent::Learned { .. } = what else { continue };
            let Some(network) = snapshot.network(network.vni) else { continue };
            let ours = lock(&network.state.snooped).get(*address).is_some_and(|entry| entry.here);
            if ours || network.hub_here {
                self.tell_others(network, *address);
            }
        }
    }

    /// Has the other hosts told again of all that was learned of endpoints here.
    pub fn tell_learned_again(&self) {
        let snapshot = self.snapshot_arc();
        for network in snapshot.learner_networks() {
            let snooped = lock(&network.state.snooped);
            let mut untold = lock(&network.state.untold);
            let ours = snooped.entries().filter(|(_, entry)| entry.here || network.hub_here);
            ours.for_each(|(address, _)| untold.note(address));
        }
        self.has_changed.store(true, Relaxed);
    }
}

fn ended_as(
    network: &Arc<Network>,
    ended: Vec<(Addr, Entry)>,
    why: &'static str,
) -> impl Iterator<Item = LearningNews> {
    ended.into_iter().map(move |(address, entry)| LearningNews {
        network: network.clone(),
        endpoint: network
            .by_mac(entry.endpoint)
            .map_or_else(|| entry.endpoint.to_string().into(), |it| it.name.clone()),
        address,
        what: LearningEvent::Ended(why),
    })
}

impl Snapshot {
    /// What was learned of the endpoints of this host's networks.
    #[must_use]
    pub fn learned_addresses(&self) -> LearnedAddresses {
        let mut learned: LearnedAddresses = BTreeMap::new();
        for network in self.learner_networks() {
            for (address, entry) in lock(&network.state.snooped).entries() {
                let Some(endpoint) = network.by_mac(entry.endpoint) else { continue };
                let of_tenant = learned.entry(network.tenant.name.clone()).or_default();
                of_tenant.entry(endpoint.name.clone()).or_default().push(address);
            }
        }
        learned
    }
}
