//! What a policy says as a whole, not of one packet: which traffic passes, what two policies treat differently, who
//! reaches whom, and which rules do nothing.
//!
//! Nothing here is sampled. The space of packets that an endpoint can meet in one direction is cut wherever a rule of its
//! begins or ends: by the peer's address, by protocol and port (or ICMP type and code), by the source port, DSCP and TCP flags. Within such a cell no
//! rule tells one packet from another, so that one of them stands for all, and the compiled policy, which is what is enforced, is asked
//! about that one. Cells of one outcome are put together again and come out as [`Region`]s.
//!
//! The space consists of packets that the parser lets through: a packet of TCP has ports, ICMP in IPv4 has type and code.

mod cells;
mod peers;
mod reach;
mod regions;
mod services;
mod standing;

use eastgate_wire::{Addr, EndpointId};

pub use self::{
    peers::AddressRange,
    reach::{Passage, passages},
    regions::{Region, difference, regions},
    services::{ByteSet, Domain, Slice},
    standing::{Finding, Packet, Standing, same_match, standings},
};
use crate::{
    compile::Compiled,
    rule::{Decision, Direction, Probe, Source},
};

/// A policy: as it is written, and as it is enforced.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The rules
    pub source: &'a Source,
    /// What was compiled of them
    pub compiled: &'a Compiled,
}

impl Side<'_> {
    /// What is enforced. An endpoint that does not exist is denied everything.
    fn decide(
        &self,
        endpoint: Option<EndpointId>,
        direction: Direction,
        peer: Addr,
        probe: &Probe,
    ) -> Decision {
        endpoint.map_or(Decision::DEFAULT_DENY, |id| self.compiled.decide(id, direction, peer, probe))
    }
}

#[cfg(test)]
mod tests;
