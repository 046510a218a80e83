//! What endpoints have of the devices that they share.

use std::collections::BTreeMap;

use eastgate_wire::{Attachment, VlanId};

use super::Owner;
use crate::{model::Name, problem::Problem};

/// What of a device only one endpoint can have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Share {
    /// All of it
    Whole,
    /// A VLAN of it, or its frames without a tag
    Part(Option<VlanId>),
}

/// Who has which share of a device. Most devices are one endpoint's.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    whole: Option<Owner>,
    parts: BTreeMap<Option<VlanId>, Owner>,
}

impl Shares {
    pub(super) fn get(&self, share: Share) -> Option<&Owner> {
        match share {
            Share::Whole => self.whole.as_ref(),
            Share::Part(vlan) => self.parts.get(&vlan),
        }
    }

    pub(super) fn insert(&mut self, share: Share, owner: Owner) {
        match share {
            Share::Whole => self.whole = Some(owner),
            Share::Part(vlan) => drop(self.parts.insert(vlan, owner)),
        }
    }

    pub(super) fn remove(&mut self, share: Share) {
        match share {
            Share::Whole => self.whole = None,
            Share::Part(vlan) => drop(self.parts.remove(&vlan)),
        }
    }
}

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
        let (whole, parts) = match self {
            Self::Whole => (None, Some(shares.parts.values())),
            Self::Part(_) => (shares.whole.as_ref(), None),
        };
        whole.into_iter().chain(parts.into_iter().flatten())
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
