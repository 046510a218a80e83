//! Addresses that move between endpoints: who is heard with one holds it, and is found by it.

use std::sync::atomic::Ordering::Relaxed;

use eastgate_steering::{Binding, Bindings, Heard, Holder, Holders, Learned, Title, choice};
use eastgate_wire::{Addr, Frame, Instant, Location, MacAddr, View};

use super::{Arrival, Pipeline, shared::lock};
use crate::snapshot::{Endpoint, Network};

impl Network {
    /// The endpoint that has an address now, and the MAC that the address has there.
    #[must_use]
    pub fn at_address(&self, address: Addr) -> Option<(&Endpoint, MacAddr)> {
        if !self.moves(address) {
            let owner = self.by_address(address)?;
            return Some((owner, owner.mac));
        }
        self.holder(&lock(&self.state.holders), address)
    }

    /// Is this address one that moves, and at this endpoint now?
    #[must_use]
    pub fn has_moved_to(&self, address: Addr, endpoint: &Endpoint) -> bool {
        self.moves(address) && self.at_address(address).is_some_and(|(holder, _)| holder.id == endpoint.id)
    }

    fn holder(&self, holders: &Holders, address: Addr) -> Option<(&Endpoint, MacAddr)> {
        let held = holders.of_address(address).filter(|held| self.may_hold(address, held));
        if let Some(Holder { endpoint, mac }) = held {
            return Some((self.by_mac(endpoint)?, mac));
        }
        if let Some(owner) = self.by_address(address) {
            return Some((owner, owner.mac));
        }
        // Nobody else can have it.
        let [only] = self.directory.ownership.sharers(address) else { return None };
        let only = self.endpoint(*only)?;
        Some((only, only.holdings().pair_for(address)?.mac))
    }

    /// Can the address be at another endpoint in a moment, by the configuration that there is?
    #[must_use]
    pub fn moves(&self, address: Addr) -> bool {
        !self.directory.ownership.sharers(address).is_empty()
            || !self.directory.ownership.is_configured(address)
    }

    /// By what an endpoint may have an address that moves.
    fn title(&self, endpoint: &Endpoint, address: Addr) -> Option<Title> {
        let sharers = self.directory.ownership.sharers(address);
        let owner = self.directory.ownership.owner(address);
        if !sharers.is_empty() {
            let named = owner == Some(endpoint.id) || sharers.contains(&endpoint.id);
            return named.then_some(Title::Named);
        }
        if owner.is_some() {
            return None;
        }
        if endpoint.holdings().pair_for(address).is_some() {
            return Some(Title::InPrefix);
        }
        (!address.is_v4() && address.is_link_local() && endpoint.sender.port_security)
            .then_some(Title::Chosen)
    }

    fn may_hold(&self, address: Addr, held: &Holder) -> bool {
        self.by_mac(held.endpoint).is_some_and(|endpoint| {
            self.title(endpoint, address).is_some() && endpoint.holdings().has_mac(held.mac)
        })
    }

    /// Forgets who held what under a configuration before and may not under this one.
    pub fn prune_holders(&self) {
        lock(&self.state.holders).retain(|address, held| match address {
            Some(address) => self.may_hold(address, held),
            None => self.by_mac(held.endpoint).is_some_and(|it| it.holdings().has_mac(held.mac)),
        });
    }

    /// Notes what others are to be told of: addresses that have another MAC than under the configuration before, or another
    /// place.
    pub fn note_changes(&self, before: &Self) {
        if before.compiled == self.compiled {
            return;
        }
        let mut changed = lock(&self.state.changed);
        for endpoint in self.endpoints().filter(|endpoint| !self.has_kept(before, endpoint)) {
            for address in &endpoint.holdings().addresses {
                let Some(was) = before.by_address(*address) else { continue };
                if was.mac != endpoint.mac || was.location != endpoint.location {
                    changed.note(*address);
                }
            }
        }
    }

    /// The endpoint that sends from a MAC, of those at a place. Of several that share one there, the one heard last; of a
    /// MAC that nobody has, the one that it is behind.
    #[must_use]
    pub fn sender_at(&self, mac: MacAddr, at: Location) -> Option<&Endpoint> {
        let owner = self.by_mac(mac);
        let sharers = self.directory.ownership.mac_sharers(mac);
        if sharers.is_empty() {
            return owner.or_else(|| self.nested_behind(at));
        }
        if owner.is_some_and(|owner| owner.location == at) {
            return owner;
        }
        let last = lock(&self.state.holders).of_mac(mac).and_then(|last| self.by_mac(last));
        let sharers = || sharers.iter().filter_map(|id| self.endpoint(*id));
        let here = |endpoint: &&Endpoint| endpoint.location == at;
        last.filter(here).or_else(|| sharers().find(here)).or(owner).or_else(|| sharers().next())
    }

    /// The endpoint that a frame to a MAC goes to.
    #[must_use]
    pub fn at_mac(&self, mac: MacAddr) -> Option<&Endpoint> {
        let sharers = self.directory.ownership.mac_sharers(mac);
        if sharers.is_empty() {
            return self.by_mac(mac);
        }
        let entitled = |endpoint: &&Endpoint| endpoint.holdings().has_mac(mac);
        let held = lock(&self.state.holders).of_mac(mac).and_then(|last| self.by_mac(last)).filter(entitled);
        held.or_else(|| self.by_mac(mac)).or_else(|| match sharers {
            [only] => self.endpoint(*only),
            _ => None,
        })
    }
}

/// Who has which address of a network at a moment: by the configuration, by having been heard, by what was learned of
/// unknown hosts.
pub(super) struct Neighbors<'n> {
    pub network: &'n Network,
    pub holders: &'n Holders,
    pub learned: Option<&'n Learned>,
    pub now: Instant,
}

impl Bindings for Neighbors<'_> {
    fn by_address(&self, address: Addr) -> Option<Binding> {
        if let Some((endpoint, mac)) = self.network.holder(self.holders, address) {
            let router = endpoint.sender.router;
            return Some(Binding { mac, endpoint: Some(endpoint.id), at: endpoint.location, router });
        }
        self.learned?.by_address(address, self.now)
    }

    fn may_be_held(&self, address: Addr) -> bool {
        self.network.has_candidates(address)
    }
}

impl<'s> Pipeline<'s> {
    /// A packet tells as much as an announcement of the address that it is from, unless that is configured for another
    /// endpoint: for that one it may be forwarded.
    pub(super) fn hear_traffic(&self, arrival: &Arrival<'s>, view: &View, now: Instant) {
        let network = arrival.network;
        let is_own = |owner| arrival.sender.is_some_and(|sender| sender.id == owner);
        let source = view.ip().map(|ip| ip.src);
        // Asked first whether it moves: most addresses do not.
        let told = source.filter(|address| {
            network.moves(*address) && network.directory.ownership.owner(*address).is_none_or(is_own)
        });
        self.hear(arrival, view.src, told, now);
    }

    /// A sender was heard from this MAC, and with this address: where it is entitled to them, it holds them from now on.
    pub(super) fn hear(&self, arrival: &Arrival<'s>, mac: MacAddr, address: Option<Addr>, now: Instant) {
        let (network, Some(sender)) = (arrival.network, arrival.sender) else { return };
        let mut moved = false;
        if !network.directory.ownership.mac_sharers(mac).is_empty() {
            let heard = lock(&network.state.holders).hear_mac(mac, sender.mac, now);
            moved |= matches!(heard, Heard::Moved { .. });
        }
        if let Some(address) = address.filter(|address| network.moves(*address)) {
            moved |= self.hear_address(network, sender, mac, address, now);
        }
        if moved && let Some(fastpath) = self.shared.fastpath.get() {
            fastpath.rebind(network);
        }
    }

    fn hear_address(
        &self,
        network: &Network,
        sender: &Endpoint,
        mac: MacAddr,
        address: Addr,
        now: Instant,
    ) -> bool {
        let Some(title) = network.title(sender, address) else { return false };
        let Some(mac) = mac_with(sender, mac, address, title) else { return false };
        let holder = Holder { endpoint: sender.mac, mac };
        let heard = lock(&network.state.holders).hear(address, title, holder, now);
        let Heard::Moved { from } = heard else { return title == Title::Named && heard == Heard::New };
        tracing::info!(vni = %network.vni, %address, to = %sender.name, from = %from.endpoint, "an address moved");
        if from.mac != mac && sender.attachment().is_some() {
            // Where it was heard in traffic alone, nobody has been told.
            lock(&network.state.changed).note(address);
            self.shared.has_changed.store(true, Relaxed);
        }
        true
    }

    /// Is the packet's source a link-local address of the sender's own choice? One that is free becomes its own.
    pub(super) fn has_chosen(&self, network: &Network, sender: &Endpoint, view: &View, now: Instant) -> bool {
        let Some(ip) = view.ip() else { return false };
        self.choose(network, sender, view.src, ip.src, now)
    }

    /// Is it one that the sender has chosen, or may choose while it is nobody's?
    pub(super) fn could_have_chosen(&self, network: &Network, sender: &Endpoint, view: &View) -> bool {
        let Some(address) = view.ip().map(|ip| ip.src) else { return false };
        let held = lock(&network.state.holders).of_address(address);
        sender.holdings().has_mac(view.src)
            && network.title(sender, address) == Some(Title::Chosen)
            && held.is_none_or(|held| held.endpoint == sender.mac)
    }

    /// Likewise with an address that a neighbour message is about, before anything is said of it.
    pub(super) fn choose_named(&self, arrival: &Arrival<'s>, view: &View, frame: &Frame<'_>, now: Instant) {
        let Some(sender) = arrival.sender else { return };
        if let Some(address) = choice(frame.bytes(), view) {
            let _ = self.choose(arrival.network, sender, view.src, address, now);
        }
    }

    fn choose(
        &self,
        network: &Network,
        sender: &Endpoint,
        mac: MacAddr,
        address: Addr,
        now: Instant,
    ) -> bool {
        if address.is_v4() || !address.is_link_local() || !sender.holdings().has_mac(mac) {
            return false;
        }
        if network.title(sender, address) != Some(Title::Chosen) {
            return false;
        }
        let holder = Holder { endpoint: sender.mac, mac };
        let heard = lock(&network.state.holders).hear(address, Title::Chosen, holder, now);
        !matches!(heard, Heard::Taken | Heard::Full)
    }
}

/// The MAC by which an address is found at its holder: the one it was said with where a pair has just that, or else the
/// pair's.
fn mac_with(sender: &Endpoint, said: MacAddr, address: Addr, title: Title) -> Option<MacAddr> {
    let holdings = sender.holdings();
    if title == Title::Chosen {
        return Some(said);
    }
    if holdings.addresses.contains(&address) {
        return Some(sender.mac);
    }
    let paired = holdings.pairs.iter().any(|pair| pair.mac == said && pair.covers(address));
    if paired { Some(said) } else { holdings.pair_for(address).map(|pair| pair.mac) }
}

/// What a flow between these was decided under: the version of who holds what, where either address moves, and 0 where
/// neither does.
pub(super) fn bindings_of(network: &Network, addresses: [Addr; 2]) -> u16 {
    let holders = lock(&network.state.holders);
    let moves = |address| {
        network.moves(address) && {
            !network.directory.ownership.sharers(address).is_empty() || holders.of_address(address).is_some()
        }
    };
    if addresses.into_iter().any(moves) { holders.version() } else { 0 }
}
