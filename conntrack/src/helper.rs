//! What helpers read in the payload of a control flow, and the flow that follows from it.
//!
//! What is read here was sent by either end of a flow that a rule lets pass and for which that rule names the helper. It may be
//! anything: the readers promise that they take no more of it into memory than a line, that what does not come from one of the two
//! ends about itself announces nothing, and that nothing is announced below port 1024, where no protocol has its data ports
//! (RFC 2577 section 3) and hosts have their services.

pub mod ftp;
pub mod tftp;

use super::flow::Direction;

/// Ports below this one are announced to nobody.
pub const FIRST_PORT: u16 = 1024;

/// A flow that is about to begin between the two ends of a control flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announced {
    /// Who opens it: the end that opened the control flow, or the other one
    pub opener: Direction,
    /// The port that it is opened to
    pub port: u16,
}

/// Why nothing follows from an announcement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Unheeded {
    /// It names an address that is not its sender's: another host would be reached (the FTP bounce attack, RFC 2577).
    OtherAddress,
    /// It names port 0, or one below [`FIRST_PORT`].
    LowPort,
    /// Nobody has asked for it.
    Unasked,
    /// It does not read as it has to.
    Unread,
}

impl Unheeded {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::OtherAddress, Self::LowPort, Self::Unasked, Self::Unread];

    /// The name that `status` has for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OtherAddress => "other-address",
            Self::LowPort => "low-port",
            Self::Unasked => "unasked",
            Self::Unread => "unread",
        }
    }
}

/// What a packet of a control flow said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// The flow that is to be expected from now on, in place of one before
    pub announced: Option<Announced>,
    /// Announcements that nothing follows from, by [`Unheeded`]
    pub unheeded: [u32; Unheeded::ALL.len()],
}

impl Heard {
    /// Takes what a line or datagram announces.
    pub(crate) const fn take(&mut self, announced: Result<Announced, Unheeded>) {
        match announced {
            Ok(announced) if announced.port < FIRST_PORT => self.unheeded[Unheeded::LowPort as usize] += 1,
            Ok(announced) => self.announced = Some(announced),
            Err(why) => self.unheeded[why as usize] += 1,
        }
    }
}
