//! Who answers ARP and neighbour discovery, and with which MAC.
//!
//! What this promises:
//! - A request is answered once, to the MAC that asked and to nobody else, by the host it came in at.
//! - Nobody is told who owns an address by a sender that does not own it (RFC 826, 4861; where port security
//!   is off, an address of a configured endpoint still cannot be taken: both are told, see [`Conflict`]).
//! - The asker never gets an answer for an address of its own (RFC 4389, 5227).
//! - Reachability polls reach the real host (RFC 9161), except in proxy mode, where no frame that names a
//!   real MAC reaches a port: answers and announcements of tenants update the bindings and end here, requests
//!   for unknown addresses go on in the appliance's name, and a poll is answered by the appliance whichever
//!   MAC it is sent to, so that a cache that still holds the real MAC is put right.
//! - What is not well formed is dropped before it means anything, tagged or not; a reply carries the tags of
//!   the request.
//!
//! Router discovery is not judged here: solicitations pass when they are well formed and tell no lie about
//! the sender's MAC, advertisements and redirects are [`Answer::NotNeighbor`] and belong to the RA guard.
//! Solicitations pass unchanged in proxy mode too: a router learns the real MAC of the asker from them, and
//! loses it with the first request it gets for it.
//!
//! Replies are not padded to Ethernet's 60 bytes: veth and tap have no minimum, a NIC's driver pads.

mod arp;
mod decide;
mod nd;
#[cfg(test)]
mod tests;

use eastgate_wire::{
    Addr, DropReason, EndpointId, Holdings, Location, MacAddr, Ownership, View,
    view::{Net, ethertype},
};

/// Who has an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// Its real MAC
    pub mac: MacAddr,
    /// The configured endpoint; nothing when the binding was learned
    pub endpoint: Option<EndpointId>,
    /// Where it is
    pub at: Location,
    /// It forwards packets of others: sets the router flag of RFC 4861 section 4.4
    pub router: bool,
}

/// The bindings of one network.
pub trait Bindings {
    /// Who has this address.
    fn by_address(&self, address: Addr) -> Option<Binding>;

    /// Whether traffic between the two goes through the appliance. A request for a pair that does not is left
    /// to the real host.
    fn steered(&self, _asker: &Requester<'_>, _target: &Binding) -> bool {
        true
    }

    /// Whether there is a host that may have this address, and that can be asked, when nobody is known to have it.
    fn may_be_held(&self, _address: Addr) -> bool {
        false
    }
}

/// The host that sent the frame.
#[derive(Clone, Copy, Debug)]
pub struct Requester<'a> {
    /// Where the frame came in
    pub origin: Location,
    /// What the sender is configured to be
    pub holdings: &'a Holdings,
    /// Whose which address is in its network
    pub ownership: &'a Ownership,
    /// Hold it to that
    pub port_security: bool,
    /// It is behind another eastgate, which knows stations by their own MACs and answers with its own in its turn.
    pub behind_eastgate: bool,
}

/// Which MAC requests for known bindings are answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answers {
    /// None: requests go to the real host. Everything is checked all the same.
    Off,
    /// The endpoint's own
    Suppress,
    /// The appliance's, see [`crate::proxy_mac`]; whoever asks from behind another eastgate is told the endpoint's own there
    Proxy {
        /// The appliance's MAC in this network
        mac: MacAddr,
    },
}

/// What happens to requests for addresses without a binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// They are flooded.
    Flood,
    /// They are dropped as [`DropReason::NeighborUnknown`].
    Drop,
}

/// How a network answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// With which MAC
    pub answers: Answers,
    /// For addresses without a binding
    pub unknown: Unknown,
    /// This host is the hub of the network: it answers a VTEP for endpoints behind a VTEP. In a mesh the host
    /// of the endpoint does, or every host that hears the flooded request would.
    pub hub: bool,
}

/// What becomes of a frame.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is none of ours.
    NotNeighbor,
    /// Send `reply` back where the frame came from. The frame ends here.
    Reply,
    /// Forward it like any frame.
    Pass,
    /// It ends here and is no loss: another host has heard it too, and answers.
    Elsewhere,
    /// Flood `reply` to the ports in its place: the same question in the appliance's name. Other VTEPs get
    /// the frame itself, as flooding has it; their hosts ask in their own name there.
    Ask,
    /// Give the question to those who may have the address and to nobody else: the frame itself to VTEPs; to ports
    /// `reply` in its place where there is one, which is the same question in the appliance's name.
    Seek {
        /// The address
        target: Addr,
        /// `reply` holds the question for ports.
        reply: bool,
    },
    /// The sender says what it is entitled to say: update the bindings at once.
    Announce {
        /// The address; none in a RARP announcement, which only tells where the MAC is
        address: Option<Addr>,
        /// Who has it
        mac: MacAddr,
        /// Where the frame goes then
        onward: Onward,
        /// It was not known before.
        news: bool,
    },
    /// Two hosts use one address. Report it.
    Conflict(Conflict),
    /// Drop it.
    Drop(DropReason),
}

impl Answer {
    /// Whether the frame's [`claim`] may be learned: what is malformed, forged or in conflict is not believed,
    /// what is dropped only because nobody needs to hear it is.
    #[must_use]
    pub const fn is_believed(&self) -> bool {
        use DropReason::{NeighborOwn, NeighborUnknown, SplitHorizon};
        match self {
            Self::NotNeighbor | Self::Conflict(_) => false,
            Self::Drop(reason) => matches!(reason, NeighborOwn | NeighborUnknown | SplitHorizon),
            Self::Reply
            | Self::Pass
            | Self::Elsewhere
            | Self::Ask
            | Self::Seek { .. }
            | Self::Announce { .. } => true,
        }
    }
}

/// How far an announcement goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Onward {
    /// Like any frame
    Everywhere,
    /// To every VTEP that flooding would reach, for the bindings of their hosts, and to no port
    Overlay,
    /// It ends here.
    Nowhere,
}

/// Two hosts of a network use one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The address
    pub address: Addr,
    /// Who has it
    pub owner: Binding,
    /// The MAC that wants it too
    pub claimant: MacAddr,
    /// `reply` tells the claimant: send it back where the frame came from.
    pub reply: bool,
    /// Give the frame to the owner's place, and nowhere else: flooded it would poison every cache. Not set
    /// for a probe by a secured port that was answered: an owner that is just starting would give its address
    /// up (RFC 5227 section 2.1.1, RFC 4862 section 5.4.3).
    pub tell_owner: bool,
}

/// What a well-formed frame says about its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The address
    pub address: Addr,
    /// The MAC that has it
    pub mac: MacAddr,
}

/// A request for an address: with the sender's MAC, all of it that an answer depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Question {
    /// Who asks
    pub sender: Addr,
    /// For whom
    pub target: Addr,
    /// It is for everyone (broadcast, or the target's solicited-node group), or else for one MAC.
    pub to_all: bool,
    /// ND: the sender's link-layer address is in it
    pub names_mac: bool,
}

/// Decides on a frame of a network. `view` is the frame's; `bindings` and `mode` are the network's; `reply`
/// is cleared, and holds a frame when the answer says so: with the tags of the request, without padding.
///
/// Answering costs the appliance work on a tenant's behalf: the caller takes a token of the port's
/// [`eastgate_wire::TokenBucket`] for every [`Answer::Reply`], [`Answer::Ask`], [`Answer::Seek`] and
/// [`Answer::Conflict`].
pub fn answer(
    frame: &[u8],
    view: &View,
    requester: &Requester<'_>,
    bindings: &impl Bindings,
    mode: &Mode,
    reply: &mut Vec<u8>,
) -> Answer {
    reply.clear();
    let message = match read(frame, view) {
        Ok(Some(message)) => message,
        Ok(None) => return Answer::NotNeighbor,
        Err(reason) => return Answer::Drop(reason),
    };
    let (answer, spoken) = match decide::decide(&message, view, requester, bindings, mode) {
        Ok(decision) => decision,
        Err(reason) => return Answer::Drop(reason),
    };
    if let Some(spoken) = spoken {
        emit(&spoken, tags(frame, view), reply);
    }
    answer
}

/// The question who has `target`, as `mac` with the address `from` asks it, for everyone.
pub fn ask(target: Addr, from: Addr, mac: MacAddr, out: &mut Vec<u8>) {
    let question = Question { sender: from, target, to_all: true, names_mac: true };
    request(&question, mac, MacAddr::BROADCAST, out);
}

/// A question as `mac` asks it: of everyone, or of `to` where it is for one.
pub fn request(question: &Question, mac: MacAddr, to: MacAddr, out: &mut Vec<u8>) {
    let to_mac = if question.to_all { decide::group(question.target) } else { to };
    emit(&Spoken { to_mac, mac, address: question.target, words: Words::Who(*question) }, &[], out);
}

/// The announcement that `mac` has `address`, for everyone: an ARP request for itself (RFC 5227 section 2.3), which stacks take
/// however new what they know is, or an unsolicited advertisement that overrides what is known.
pub fn announcement(address: Addr, mac: MacAddr, router: bool, out: &mut Vec<u8>) {
    let (to_mac, words) = if address.is_v4() {
        let question = Question { sender: address, target: address, to_all: true, names_mac: true };
        (MacAddr::BROADCAST, Words::Who(question))
    } else {
        (nd::ALL_NODES_MAC, Words::Has { to: None, router })
    };
    emit(&Spoken { to_mac, mac, address, words }, &[], out);
}

fn emit(spoken: &Spoken, tags: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let header = Header { dst: spoken.to_mac, src: spoken.mac, tags };
    let emit = if spoken.address.is_v4() { arp::emit } else { nd::emit };
    emit(&header, spoken, out);
}

/// What a frame says about its sender, when it is ARP or neighbour discovery, well formed, and says anything.
/// For learning, where [`Answer::is_believed`]. An entry that is confirmed over and over by announcements that
/// are dropped as known would age otherwise.
#[must_use]
pub fn claim(frame: &[u8], view: &View) -> Option<Claim> {
    let address = read(frame, view).ok()??.claim?;
    Some(Claim { address, mac: view.src })
}

/// The address that a frame says its sender has, or is about to have (a probe for duplicates), when it is well formed ARP or
/// neighbour discovery.
#[must_use]
pub fn announced(frame: &[u8], view: &View) -> Option<Addr> {
    let message = read(frame, view).ok()??;
    let probed = match message.act {
        Act::Probe(target) => Some(target),
        _ => None,
    };
    message.claim.or(probed)
}

/// The IPv6 link-local address that a frame says its sender has, or is about to have, when it is well formed neighbour
/// discovery. What is not in a message but in the header of another packet is for the caller to see.
#[must_use]
pub fn choice(frame: &[u8], view: &View) -> Option<Addr> {
    let message = read(frame, view).ok()??;
    let probed = match message.act {
        Act::Probe(target) => Some(target),
        _ => None,
    };
    let named = message.claim.or(probed).or(message.from)?;
    (!named.is_v4() && named.is_link_local()).then_some(named)
}

/// The request for an address that a frame is, when it is well formed and addressed as stacks do: ARP to broadcast or to
/// one MAC, a solicitation to the target's group or to the target. For whoever gives an answer again.
#[must_use]
pub fn question(frame: &[u8], view: &View) -> Option<Question> {
    let Message { act: Act::Ask(target), from: Some(sender), claim, unicast } = read(frame, view).ok()??
    else {
        return None;
    };
    let addressed = match &view.net {
        Net::Ip(ip) => unicast == (ip.dst == target),
        Net::Arp | Net::Other => unicast || view.dst == MacAddr::BROADCAST,
    };
    let names_mac = view.ip().is_some() && claim.is_some();
    addressed.then_some(Question { sender, target, to_all: !unicast, names_mac })
}

/// What a frame wants, the same for ARP and neighbour discovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Message {
    act: Act,
    /// The address the frame is sent from; none when the sender has none yet
    from: Option<Addr>,
    /// The address that the frame says its sender has
    claim: Option<Addr>,
    /// It is for one MAC
    unicast: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    /// Asks whether anybody has an address, and has none itself
    Probe(Addr),
    /// Asks who has an address
    Ask(Addr),
    /// Tells everybody
    Announce {
        /// Caches are to be changed
        overrides: bool,
    },
    /// Tells one
    Tell {
        /// Whom
        to: Addr,
    },
    /// Tells where a MAC is
    Rarp,
    /// Looks for routers
    RouterSolicitation,
}

/// What the appliance says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Spoken {
    /// The MAC the frame goes to
    to_mac: MacAddr,
    /// The MAC that is told, or that asks in `Words::Who`; always the Ethernet source too (RFC 826)
    mac: MacAddr,
    /// The address it is about
    address: Addr,
    words: Words,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Words {
    /// `mac` has `address`
    Has {
        /// To the address of the asker; none when it has none, or when it claims this very address
        to: Option<Addr>,
        /// `address` is a router's
        router: bool,
    },
    /// Who has `address`? Tell the one who asks, at `mac`.
    Who(Question),
}

struct Header<'a> {
    dst: MacAddr,
    src: MacAddr,
    /// The tags' bytes
    tags: &'a [u8],
}

impl Header<'_> {
    fn emit(&self, kind: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.dst.0);
        out.extend_from_slice(&self.src.0);
        out.extend_from_slice(self.tags);
        out.extend_from_slice(&kind.to_be_bytes());
    }
}

fn read(frame: &[u8], view: &View) -> Result<Option<Message>, DropReason> {
    match &view.net {
        Net::Arp => arp::read(frame, view).map(Some),
        Net::Ip(ip) => nd::read(frame, view, ip),
        Net::Other if view.ethertype == ethertype::RARP => arp::read_rarp(frame, view).map(Some),
        Net::Other => Ok(None),
    }
}

fn tags<'f>(frame: &'f [u8], view: &View) -> &'f [u8] {
    frame.get(12..usize::from(view.l3).saturating_sub(2)).unwrap_or_default()
}
