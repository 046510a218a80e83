//! What endpoints have of the devices that they share.

use std::collections::BTreeMap;

use eastgate_wire::{Attachment, VlanId};

use super::Owner;
use crate::{model::Name, problem::Problem};

/// What of a device only one endpoint can have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Share {
    /// All of it
    Whole,
    /// A VLAN of it, or its frames without a tag
    Part(Option<VlanId>),
}

/// Who has which share of a device.
pub(super) type Shares = BTreeMap<Share, Owner>;

impl Share {
    pub(super) const fn of(attachment: &Attachment) -> Self {
        if attachment.is_by_tag() { Self::Part(attachment.vlan) } else { Self::Whole }
    }

    /// When another endpoint has it.
    pub(super) fn twice(self, attachment: &Attachment, host: &Name, other: &Owner) -> Problem {
        let (port, host, other) = (attachment.device.to_string(), host.to_string(), whose(other));
        match self {
            Self::Whole => Problem::PortTwice { port, host, other },
            Self::Part(vlan) => {
                let vlan = vlan.map_or("untagged traffic".to_owned(), |vlan| format!("VLAN {vlan}"));
                Problem::VlanTwice { vlan, port, host, other }
            }
        }
    }

    /// Who has a part where this is the whole, or the whole where this is a part.
    pub(super) fn of_other_kind(self, shares: &Shares) -> impl Iterator<Item = &Owner> {
        let parts = Self::Part(None)..;
        let range = if self == Self::Whole { shares.range(parts) } else { shares.range(..Self::Part(None)) };
        range.map(|(_, owner)| owner)
    }
}

/// When of two endpoints of a device only one says what of it is its own.
pub(super) fn mixed_port(attachment: &Attachment, host: &Name, other: &Owner) -> Problem {
    let (port, host) = (attachment.device.to_string(), host.to_string());
    Problem::PortMixed { port, host, other: whose(other) }
}

fn whose(other: &Owner) -> String {
    format!("endpoint `{}` of tenant `{}`", other.item, other.tenant)
}
