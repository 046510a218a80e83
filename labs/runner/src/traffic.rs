//! Traffic of tenants' machines: sent for real from inside their namespaces, and looked for on the wire.
//!
//! Every server says whose it is, so an answer from the wrong tenant's machine is never taken for the right one;
//! and what must not arrive is looked for at the other end, so an answer that got lost is never taken for a
//! refusal.

pub(super) mod neighbor;
pub(super) mod raw;
pub(super) mod server;
pub(super) mod tcp;
pub(super) mod udp;

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use eastgate_testkit::Netns;
use eastgate_wire::MacAddr;

/// How long an answer that should come may take: the kernel repeats a lost SYN or ARP request after a second, and a busy
/// machine may lose several.
pub(super) const REACH_BOUND: Duration = Duration::from_secs(30);
/// How long an answer that should not come is waited for.
pub(super) const REFUSED_BOUND: Duration = Duration::from_millis(300);

/// One end of a flow.
#[derive(Clone, Debug)]
pub(super) struct Party {
    pub(super) name: String,
    pub(super) namespace: Netns,
    pub(super) mac: MacAddr,
    pub(super) address: IpAddr,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// An answer, and how long it took
    Answer {
        /// Who gave it, by what it says itself
        by: String,
        /// How long after the question
        after: Duration,
    },
    /// No answer within the bound
    Silence,
    /// An answer that says no
    Rejected(String),
    /// The kernel of the sender reports that there is no way; from an ICMP error, or for want of a neighbour
    Unreachable,
    /// Something else
    Failed(String),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { by, after } => write!(f, "{by} in {:.2} ms", after.as_secs_f64() * 1e3),
            Self::Silence => f.write_str("silence"),
            Self::Rejected(how) => write!(f, "rejected: {how}"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Failed(how) => write!(f, "failed: {how}"),
        }
    }
}

impl Seen {
    /// What an error of a socket means.
    pub(super) fn from_error(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::TimedOut | Kind::WouldBlock => Self::Silence,
            Kind::ConnectionRefused | Kind::ConnectionReset => Self::Rejected(error.kind().to_string()),
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::PermissionDenied => Self::Unreachable,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Text that nobody else sends: what is found on the wire is what was sent.
pub(super) fn token() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one(Instant::now()))
}

/// 16 random bits for an ICMP identifier.
pub(super) fn random_u16() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as u16
}
