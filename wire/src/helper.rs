//! Helpers: protocols whose connections agree on further ones inside their payload.

use crate::view::proto;

/// What reads a flow's payload to find out which other flow it is about to be followed by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Helper {
    /// FTP (RFC 959, RFC 2428): a connection of its own for each transfer
    Ftp = 1,
    /// TFTP (RFC 1350): the server answers from another port than it was asked at
    Tftp = 2,
}

impl Helper {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ftp, Self::Tftp];

    /// Its number, from 1 on.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The one with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|helper| helper.number() == number)
    }

    /// Its name, as Linux's conntrack has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ftp => "ftp",
            Self::Tftp => "tftp",
        }
    }

    /// The IP protocol of the flows that it reads and of those that it expects.
    #[must_use]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Ftp => proto::TCP,
            Self::Tftp => proto::UDP,
        }
    }
}
