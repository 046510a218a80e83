//! What endpoints have of the devices that they share.

use std::collections::BTreeMap;

use eastgate_wire::{Attachment, AttachmentMode, MacAddr, VlanId};

use super::Owner;
use crate::{model::Name, problem::Problem};

/// What of a device only one endpoint can have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Share {
    /// All of it
    Whole,
    /// A VLAN of it, or its frames without a tag
    Part(Option<VlanId>),
    /// What of these is from one MAC
    Station(Option<VlanId>, MacAddr),
}

/// Who has which share of a device. Most devices are one endpoint's.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    whole: Option<Owner>,
    parts: BTreeMap<Option<VlanId>, Owner>,
    stations: BTreeMap<(Option<VlanId>, MacAddr), Owner>,
}

impl Shares {
    pub(super) fn get(&self, share: Share) -> Option<&Owner> {
        match share {
            Share::Whole => self.whole.as_ref(),
            Share::Part(vlan) => self.parts.get(&vlan),
            Share::Station(vlan, mac) => self.stations.get(&(vlan, mac)),
        }
    }

    pub(super) fn insert(&mut self, share: Share, owner: Owner) {
        match share {
            Share::Whole => self.whole = Some(owner),
            Share::Part(vlan) => drop(self.parts.insert(vlan, owner)),
            Share::Station(vlan, mac) => drop(self.stations.insert((vlan, mac), owner)),
        }
    }

    pub(super) fn remove(&mut self, share: Share) {
        match share {
            Share::Whole => self.whole = None,
            Share::Part(vlan) => drop(self.parts.remove(&vlan)),
            Share::Station(vlan, mac) => drop(self.stations.remove(&(vlan, mac))),
        }
    }

    /// Those that share a segment.
    fn at_segment(&self, vlan: Option<VlanId>) -> impl Iterator<Item = &Owner> {
        self.stations.range((vlan, MacAddr([0; 6]))..=(vlan, MacAddr([0xff; 6]))).map(|(_, owner)| owner)
    }
}

impl Share {
    pub(super) const fn of(attachment: &Attachment) -> Self {
        match attachment.mode {
            AttachmentMode::Access => Self::Whole,
            AttachmentMode::Trunk => Self::Part(attachment.vlan),
            AttachmentMode::Shared(mac) => Self::Station(attachment.vlan, mac),
        }
    }

    /// When another endpoint has it.
    pub(super) fn twice(self, attachment: &Attachment, host: &Name, other: &Owner) -> Problem {
        let (port, host, other) = (attachment.device.to_string(), host.to_string(), whose(other));
        match self {
            Self::Whole => Problem::PortTwice { port, host, other },
            Self::Part(vlan) => Problem::VlanTwice { vlan: part(vlan), port, host, other },
            Self::Station(vlan, mac) => Problem::StationTwice { mac, segment: part(vlan), port, host, other },
        }
    }

    /// Whoever has what nobody can have beside this, and what only one of both says of itself.
    pub(super) fn of_other_kind(self, shares: &Shares) -> Vec<(Mixed, &Owner)> {
        let whole = shares.whole.iter();
        let vlan = |owner| (Mixed::Vlan, owner);
        let shared = |owner| (Mixed::Shared, owner);
        match self {
            Self::Whole => {
                shares.parts.values().map(vlan).chain(shares.stations.values().map(shared)).collect()
            }
            Self::Part(of) => whole.map(vlan).chain(shares.at_segment(of).map(shared)).collect(),
            Self::Station(of, _) => whole.chain(shares.parts.get(&of)).map(shared).collect(),
        }
    }
}

/// What only one of two endpoints of a device says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mixed {
    /// A `vlan`
    Vlan,
    /// That it is `shared`
    Shared,
}

impl Mixed {
    pub(super) fn problem(self, attachment: &Attachment, host: &Name, other: &Owner) -> Problem {
        let (port, host, other) = (attachment.device.to_string(), host.to_string(), whose(other));
        match self {
            Self::Vlan => Problem::PortMixed { port, host, other },
            Self::Shared => Problem::SharedMixed { port, host, other },
        }
    }
}

fn part(vlan: Option<VlanId>) -> String {
    vlan.map_or("untagged traffic".to_owned(), |vlan| format!("VLAN {vlan}"))
}

fn whose(other: &Owner) -> String {
    format!("endpoint `{}` of tenant `{}`", other.item, other.tenant)
}
