//! What becomes of a message that is well formed. Reads no bytes and writes none.

use eastgate_wire::{Addr, DropReason, Location, MacAddr, Ownership, View, view::Net};

use super::{
    Act, Answer, Answers, Binding, Bindings, Conflict, Message, Mode, Onward, Question, Requester, Spoken,
    Unknown, Words, nd,
};

type Decision = Result<(Answer, Option<Spoken>), DropReason>;

/// Decides; what is to be said stands beside the answer.
///
/// # Errors
/// The reason to drop the frame.
pub(super) fn decide(
    message: &Message,
    view: &View,
    requester: &Requester<'_>,
    bindings: &impl Bindings,
    mode: &Mode,
) -> Decision {
    let case = Case { message, mac: view.src, spoofed: spoofed(view), requester, bindings, mode };
    case.check_sender()?;
    if let Some(owner) = case.contested() {
        return case.defend(owner);
    }
    match message.act {
        Act::Probe(target) => case.probe(target),
        Act::Ask(target) => case.ask(target),
        Act::Announce { overrides } => case.announce(overrides),
        Act::Tell { to } => case.tell(to),
        Act::Rarp => case.pass_on(None),
        Act::RouterSolicitation => Ok((Answer::Pass, None)),
    }
}

struct Case<'c, B> {
    message: &'c Message,
    /// The sender's MAC
    mac: MacAddr,
    spoofed: DropReason,
    requester: &'c Requester<'c>,
    bindings: &'c B,
    mode: &'c Mode,
}

impl<B: Bindings> Case<'_, B> {
    /// A frame may name no address and no MAC but its sender's. What one without port security says of an address of
    /// somebody who is known is contested.
    fn check_sender(&self) -> Result<(), DropReason> {
        let Requester { holdings, ownership, port_security, .. } = *self.requester;
        let Message { from, claim, act, .. } = *self.message;
        let tells = matches!(act, Act::Announce { .. } | Act::Tell { .. });
        let may_say = |address| {
            let entitled = if tells { Ownership::may_claim } else { Ownership::may_send };
            entitled(ownership, holdings, port_security, self.mac, address) || self.holds(address)
        };
        // The address that a stack sends an advertisement from need not be the one that it is about.
        let may_send =
            |address| ownership.may_send(holdings, port_security, self.mac, address) || self.holds(address);
        let honest = ownership.may_use_mac(holdings, port_security, self.mac)
            && from.is_none_or(may_send)
            && claim.is_none_or(may_say);
        if honest || self.contested().is_some() { Ok(()) } else { Err(self.spoofed) }
    }

    /// It is known to have the address, with this MAC.
    fn holds(&self, address: Addr) -> bool {
        let endpoint = self.requester.holdings.endpoint;
        endpoint.is_some()
            && self
                .bindings
                .by_address(address)
                .is_some_and(|binding| binding.endpoint == endpoint && binding.mac == self.mac)
    }

    /// The configured endpoint whose address somebody without port security says is its own. A learned host
    /// loses its address to the latest to claim it, which the table of learned bindings damps and reports.
    fn contested(&self) -> Option<(Addr, Binding)> {
        let address =
            self.message.claim.filter(|address| !self.requester.port_security && !self.shares(*address))?;
        let owner = self.bindings.by_address(address)?;
        (owner.endpoint.is_some() && !self.is_own(address, Some(&owner))).then_some((address, owner))
    }

    /// A pair of its own names the address: it is the sender's whenever it takes it.
    fn shares(&self, address: Addr) -> bool {
        let holdings = self.requester.holdings;
        holdings.pairs.iter().any(|pair| pair.is_exact() && pair.network == address)
    }

    fn defend(&self, (address, owner): (Addr, Binding)) -> Decision {
        if self.is_of_others(&owner) {
            return Err(self.spoofed);
        }
        Ok(self.conflict(address, owner, true))
    }

    /// Duplicate address detection (RFC 5227 section 2.1.1, RFC 4862 section 5.4).
    fn probe(&self, target: Addr) -> Decision {
        if self.shares(target) && !self.message.unicast {
            // Whoever has it now answers for itself, if it is still there.
            return Ok((Answer::Seek { target, reply: false }, None));
        }
        let binding = self.bindings.by_address(target);
        if self.is_own(target, binding.as_ref()) {
            if is_chosen_kind(target) && !self.requester.holdings.has(target) {
                // Others may have chosen the same one, at hosts that are told by this.
                return Ok((Answer::Pass, None));
            }
            // Where every host is known nobody else can have it; elsewhere somebody might, and says so.
            return match self.mode.unknown {
                Unknown::Flood => Ok((Answer::Pass, None)),
                Unknown::Drop => Err(DropReason::NeighborOwn),
            };
        }
        match binding {
            Some(owner) if self.is_of_others(&owner) => self.leave_to_its_host(),
            Some(owner) => {
                let owner_answers = self.mode.answers == Answers::Off;
                Ok(self.conflict(target, owner, owner_answers || !self.requester.port_security))
            }
            // A probe teaches nobody a MAC, so it goes on as it is in proxy mode too.
            None if self.message.unicast || self.floods(target) => Ok((Answer::Pass, None)),
            None if self.bindings.may_be_held(target) => Ok((Answer::Seek { target, reply: false }, None)),
            None => Err(DropReason::NeighborUnknown),
        }
    }

    /// Are requests for an address that nobody is known to have flooded? Link-local ones are the hosts' own choice.
    fn floods(&self, target: Addr) -> bool {
        self.mode.unknown == Unknown::Flood || is_chosen_kind(target)
    }

    fn ask(&self, target: Addr) -> Decision {
        let binding = self.bindings.by_address(target);
        if self.is_own(target, binding.as_ref()) {
            return Err(DropReason::NeighborOwn);
        }
        let Some(owner) = binding else { return self.ask_unknown(target) };
        if self.is_of_others(&owner) {
            return self.leave_to_its_host();
        }
        let poll = self.message.unicast && self.mode.answers == Answers::Suppress;
        if poll || !self.bindings.steered(self.requester, &owner) {
            return Ok((Answer::Pass, None));
        }
        match self.spoken_for(&owner) {
            None => Ok((Answer::Pass, None)),
            Some(mac) => {
                let words = Words::Has { to: self.message.from, router: owner.router };
                Ok((Answer::Reply, Some(Spoken { to_mac: self.mac, mac, address: target, words })))
            }
        }
    }

    /// A question from the overlay of a mesh for somebody behind another VTEP. A flooded one has reached that VTEP
    /// too: here it ends, or, where answers are the stations' own business, goes on as any broadcast. One that is
    /// for a single MAC has lost its way.
    fn leave_to_its_host(&self) -> Decision {
        match self.mode.answers {
            _ if self.message.unicast => Err(DropReason::SplitHorizon),
            Answers::Off => Ok((Answer::Pass, None)),
            Answers::Suppress | Answers::Proxy { .. } => Ok((Answer::Elsewhere, None)),
        }
    }

    fn ask_unknown(&self, target: Addr) -> Decision {
        // A poll is for a host that the asker knows; whether its MAC leads anywhere is the FDB's to say.
        let poll = self.message.unicast;
        let in_our_name = match (self.mode.answers, self.message.from) {
            (Answers::Proxy { mac }, Some(from)) => {
                let words = Words::Who(Question { sender: from, target, to_all: true, names_mac: true });
                Some(Spoken { to_mac: group(target), mac, address: target, words })
            }
            _ => None,
        };
        match (self.mode.answers, in_our_name) {
            (Answers::Off | Answers::Suppress, _) if poll || self.floods(target) => Ok((Answer::Pass, None)),
            (Answers::Proxy { .. }, Some(spoken)) if self.floods(target) => Ok((Answer::Ask, Some(spoken))),
            (Answers::Proxy { .. }, None) => Err(DropReason::NeighborUnknown),
            (_, spoken) if self.bindings.may_be_held(target) => {
                Ok((Answer::Seek { target, reply: spoken.is_some() }, spoken))
            }
            _ => Err(DropReason::NeighborUnknown),
        }
    }

    fn announce(&self, overrides: bool) -> Decision {
        let known = self.message.claim.and_then(|address| self.bindings.by_address(address));
        let proxy = matches!(self.mode.answers, Answers::Proxy { .. });
        match known {
            _ if self.mode.answers == Answers::Off => self.pass_on(self.message.claim),
            // Without the override flag an advertisement changes no entry (RFC 4861 section 7.2.5).
            Some(known) if !overrides && known.mac != self.mac && proxy => Err(DropReason::NeighborOwn),
            Some(known) if !overrides && known.mac != self.mac => Ok((Answer::Pass, None)),
            _ => self.pass_on(self.message.claim),
        }
    }

    fn tell(&self, to: Addr) -> Decision {
        let steered =
            || self.bindings.by_address(to).is_none_or(|b| self.bindings.steered(self.requester, &b));
        if !matches!(self.mode.answers, Answers::Proxy { .. }) || !steered() {
            return Ok((Answer::Pass, None));
        }
        let known = self.message.claim.and_then(|address| self.bindings.by_address(address));
        if known.is_some_and(|known| self.is_here(&known)) {
            return Err(DropReason::NeighborOwn);
        }
        self.pass_on(self.message.claim)
    }

    /// The sender's word is news. In proxy mode it goes no further than to the other hosts' tables.
    fn pass_on(&self, address: Option<Addr>) -> Decision {
        let onward = match (self.mode.answers, self.requester.origin) {
            (Answers::Off | Answers::Suppress, _) => Onward::Everywhere,
            (Answers::Proxy { .. }, Location::Local(_)) => Onward::Overlay,
            (Answers::Proxy { .. }, Location::Remote(_)) => Onward::Nowhere,
        };
        let known = address.and_then(|address| self.bindings.by_address(address));
        let news = self.mode.answers == Answers::Off || !known.is_some_and(|known| self.is_here(&known));
        Ok((Answer::Announce { address, mac: self.mac, onward, news }, None))
    }

    fn conflict(&self, address: Addr, owner: Binding, tell_owner: bool) -> (Answer, Option<Spoken>) {
        let spoken = self.spoken_for(&owner).map(|mac| {
            let words = Words::Has { to: None, router: owner.router };
            Spoken { to_mac: self.mac, mac, address, words }
        });
        let reply = spoken.is_some();
        (Answer::Conflict(Conflict { address, owner, claimant: self.mac, reply, tell_owner }), spoken)
    }

    /// The MAC that the appliance answers with in this host's place, if it answers.
    fn spoken_for(&self, owner: &Binding) -> Option<MacAddr> {
        match self.mode.answers {
            Answers::Off => None,
            Answers::Suppress => Some(owner.mac),
            // The appliance's is everyone's own, and nobody's at another's place.
            Answers::Proxy { .. } if self.requester.behind_eastgate => Some(owner.mac),
            Answers::Proxy { mac } => Some(mac),
        }
    }

    /// The address is the asker's, and nobody answers a host for itself (RFC 4389 section 4.1.3.1).
    fn is_own(&self, address: Addr, binding: Option<&Binding>) -> bool {
        let holdings = self.requester.holdings;
        let others_have_it = binding.is_some_and(|binding| binding.endpoint != holdings.endpoint);
        holdings.has(address) && !others_have_it
            || binding.is_some_and(|binding| {
                binding.mac == self.mac || binding.endpoint.is_some() && binding.endpoint == holdings.endpoint
            })
    }

    /// Both are behind VTEPs of a mesh: their own hosts answer and report.
    fn is_of_others(&self, owner: &Binding) -> bool {
        !self.mode.hub
            && matches!((self.requester.origin, owner.at), (Location::Remote(_), Location::Remote(_)))
    }

    fn is_here(&self, known: &Binding) -> bool {
        known.mac == self.mac && known.at == self.requester.origin
    }
}

/// IPv6 link-local: a host makes up such an address by itself, from its MAC or from anything else (RFC 7217).
fn is_chosen_kind(address: Addr) -> bool {
    !address.is_v4() && address.is_link_local()
}

fn spoofed(view: &View) -> DropReason {
    match view.net {
        Net::Ip(_) => DropReason::NdSpoofed,
        Net::Arp | Net::Other => DropReason::ArpSpoofed,
    }
}

/// The MAC that a question for this address is flooded to.
pub(super) fn group(target: Addr) -> MacAddr {
    if target.is_v4() { MacAddr::BROADCAST } else { nd::group_mac(nd::solicited_node(target)) }
}
