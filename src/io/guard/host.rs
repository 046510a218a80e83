//! What the host has of its own in traffic control of a device: whom frames pass there besides eastgate.

use std::collections::BTreeSet;

use super::{clsact, tcx};
use crate::io::netlink::{Link, Netlink, Qdiscs};

/// Qdiscs, filters and programs on a device that are not eastgate's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostTraffic {
    /// The kind of its qdisc, where that does anything
    qdisc: Option<String>,
    /// Filters where frames come in, and where they go out
    filters: (bool, bool),
    /// Programs in its tcx lists
    programs: tcx::Others,
    /// Somebody's packet socket takes in all of its frames.
    captured: bool,
}

impl HostTraffic {
    /// What there is on a device that has these qdiscs, without `ours`.
    pub(in crate::io) async fn on(
        netlink: &Netlink,
        link: &Link,
        qdiscs: &Qdiscs,
        ours: &BTreeSet<u32>,
    ) -> Self {
        let filters = clsact::others(netlink, link.index, qdiscs.ingress.as_deref()).await;
        let qdisc = qdiscs.root.clone().filter(|kind| kind != "noqueue");
        Self { qdisc, filters, programs: tcx::others(link.index, ours), captured: false }
    }

    /// The kernel tells of qdiscs and filters; programs are to be asked for.
    pub(in crate::io) fn with_programs(&self, link: &Link, ours: &BTreeSet<u32>) -> Self {
        Self { programs: tcx::others(link.index, ours), ..self.clone() }
    }

    /// With what is known of who listens there
    #[must_use]
    pub(in crate::io) fn captured(self, captured: bool) -> Self {
        Self { captured, ..self }
    }

    /// Must frames go out by the device itself? A veth's other end is otherwise given them directly, and nobody who listens at the
    /// device sees them.
    #[must_use]
    pub const fn wants_egress(&self) -> bool {
        self.qdisc.is_some() || self.filters.1 || self.programs.egress > 0 || self.captured
    }

    /// Does a packet socket take in all of its frames?
    #[must_use]
    pub const fn is_captured(&self) -> bool {
        self.captured
    }

    /// What does not hold, and what to use instead.
    #[must_use]
    pub const fn note(&self) -> Option<&'static str> {
        if self.filters.0 || self.programs.ingress > 0 { Some(INGRESS) } else { None }
    }
}

const INGRESS: &str = "the host's ingress filters and policers do not see what this machine sends, eastgate takes it \
                       before them: limit it at the ports that receive it and at the underlay device, whose qdiscs \
                       hold, or inside the machine";
