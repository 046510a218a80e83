//! The guard on a tenant port: the kernel behind it neither hears the tenant nor speaks to it.
//!
//! Packet sockets see a frame before traffic control does, so a program that drops everything on ingress
//! leaves eastgate's view whole while the host's own stack (its ARP, its routes, a bridge, a raw listener in
//! `INPUT`) gets nothing. On egress only what carries eastgate's mark goes out. With the fast path its program stands
//! first on ingress, and passes what belongs to flows that were decided.
//!
//! Where the kernel has tcx (`tcx`, Linux 6.6) the guard is there, first and once more last: what is taken off by
//! someone else is not missed until it is put back, and the qdiscs of others are left alone, as ours are not in their
//! way. Older kernels get filters on a clsact qdisc (`clsact`). Both stay when the daemon is killed: the port is then closed, not
//! open.

pub(super) mod clsact;
mod host;
pub(super) mod tcx;

use std::os::fd::BorrowedFd;

use eastgate_fastpath::Guard;

pub use self::{clsact::Clsact, host::HostTraffic};
use super::netlink::NetlinkError;

/// The mark on every frame that eastgate sends to a port ("east" in ASCII).
pub const MARK: u32 = 0x6561_7374;

/// By what programs are attached to devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Attach {
    /// tcx where the kernel has it, clsact otherwise
    #[default]
    Auto,
    /// tcx (Linux 6.6), or not at all
    Tcx,
    /// Filters on a clsact qdisc
    Clsact,
}

/// What a device is to eastgate, and the program that has its ingress.
#[derive(Clone, Copy, Debug)]
pub enum Role<'p> {
    /// A tenant port. Without a program packet sockets alone hear it.
    Port(Option<BorrowedFd<'p>>),
    /// A device of eastgate's own: what the program does not take is for nobody.
    Own(BorrowedFd<'p>),
    /// A device of the host's: what the program does not take is the host's.
    Shared(BorrowedFd<'p>),
}

impl<'p> Role<'p> {
    /// Does the device stay open to the kernel's own stack once eastgate is gone?
    #[must_use]
    pub const fn is_tap(self) -> bool {
        !matches!(self, Self::Port(_))
    }

    const fn program(self) -> Option<BorrowedFd<'p>> {
        match self {
            Self::Port(program) => program,
            Self::Own(program) | Self::Shared(program) => Some(program),
        }
    }
}

/// Why a device is not guarded.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The kernel refused a program.
    #[error("the kernel refused to attach to device {index} by tcx: {source}")]
    Tcx {
        /// The device
        index: u32,
        /// Why
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused a filter.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Someone else's qdisc has the only place for ours.
    #[error(
        "its `ingress` qdisc leaves no place for clsact, and without tcx (Linux 6.6) there is no other: what comes in is \
         dropped; delete it (tc qdisc del dev {0} ingress), and add its filters to the clsact qdisc that eastgate then \
         puts there"
    )]
    IngressQdisc(String),
    /// Someone else's filter has the first place.
    #[error(
        "another filter has preference 1 at its {1}, before which there is no place for the guard: add it with a higher \
         one (tc filter add dev {0} {1} pref 2 ..)"
    )]
    Preference(String, &'static str),
}

/// The guard's own programs, where the kernel has tcx; nothing where clsact does it.
#[derive(Debug, Default)]
pub struct Hooks {
    programs: Option<tcx::Programs>,
}

impl Hooks {
    /// Finds out by what programs can be attached.
    ///
    /// # Errors
    /// When it is to be tcx and the kernel does not have it, or does not take programs.
    pub fn choose(wanted: Attach) -> Result<Self, eastgate_fastpath::Error> {
        let load = || Ok::<_, eastgate_fastpath::Error>(tcx::Programs::of(Guard::load()?, Guard::load()?)?);
        match wanted {
            Attach::Clsact => Ok(Self::default()),
            Attach::Tcx => Ok(Self { programs: Some(load()?) }),
            Attach::Auto if !eastgate_fastpath::tcx::is_available() => Ok(Self::default()),
            Attach::Auto => Ok(Self {
                programs: load().inspect_err(|error| tracing::info!("clsact guards the ports: {error}")).ok(),
            }),
        }
    }

    /// What attaches them, as `--attach` spells it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        if self.programs.is_some() { "tcx" } else { "clsact" }
    }

    pub(super) const fn tcx(&self) -> Option<&tcx::Programs> {
        self.programs.as_ref()
    }
}
