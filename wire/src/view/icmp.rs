//! The head of an ICMP or ICMPv6 message, and what the message is to its flow.

use super::Transport;
use crate::DropReason;

/// The first bytes of an ICMP message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Icmp {
    /// Type
    pub kind: u8,
    /// Code
    pub code: u8,
    /// Identifier; only meaningful in queries
    pub id: u16,
}

/// What an ICMP message is to its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpRole {
    /// Asks: opens a flow
    Request,
    /// Answers: needs a flow
    Reply,
    /// Reports a failure and quotes the packet that failed
    Error,
    /// None of these (router and neighbour discovery, MLD, redirects ...)
    Notice,
}

impl Icmp {
    /// What the message is to its flow. `family` tells ICMP from ICMPv6.
    #[must_use]
    pub const fn role(self, v4: bool) -> IcmpRole {
        if v4 {
            match self.kind {
                8 | 13 | 15 | 17 => IcmpRole::Request,
                0 | 14 | 16 | 18 => IcmpRole::Reply,
                3 | 4 | 11 | 12 => IcmpRole::Error,
                _ => IcmpRole::Notice,
            }
        } else {
            match self.kind {
                128 => IcmpRole::Request,
                129 => IcmpRole::Reply,
                1..=4 => IcmpRole::Error,
                _ => IcmpRole::Notice,
            }
        }
    }

    pub(super) fn parse(segment: &[u8]) -> Result<Transport, DropReason> {
        let &[kind, code, _, _, id0, id1, ..] = segment.first_chunk::<8>().ok_or(DropReason::BadL4Header)?;
        Ok(Transport::Icmp(Self { kind, code, id: u16::from_be_bytes([id0, id1]) }))
    }
}
