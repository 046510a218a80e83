//! What a worker knows of attachments: which one a frame from a device is of, and by which device, with which tag, frames
//! to one leave. The programs have the same in their tables `attachments` and `egress`.

use std::collections::BTreeMap;

use eastgate_wire::{Attachment, AttachmentId, OuterTag, VlanId};

/// The attachments whose devices are there. Devices are known by interface index.
#[derive(Clone, Default, Debug)]
pub struct Attached {
    arrivals: BTreeMap<(u32, Option<VlanId>), Arrival>,
    egress: BTreeMap<AttachmentId, (u32, Option<VlanId>)>,
}

/// What a frame that came in is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The attachment
    pub attachment: AttachmentId,
    /// The frame's tag is only where the attachment is, and not part of what was sent.
    pub takes_tag_off: bool,
    any_vlan: bool,
}

impl Attached {
    /// An attachment's device is there.
    pub fn attach(&mut self, id: AttachmentId, ifindex: u32, attachment: &Attachment) {
        self.detach(id);
        let arrival = Arrival {
            attachment: id,
            takes_tag_off: attachment.is_by_tag(),
            any_vlan: attachment.takes_any_vlan(),
        };
        self.arrivals.insert((ifindex, attachment.vlan), arrival);
        self.egress.insert(id, (ifindex, attachment.vlan));
    }

    /// It is gone, or no longer wanted.
    pub fn detach(&mut self, id: AttachmentId) {
        if let Some(at) = self.egress.remove(&id)
            && self.arrivals.get(&at).is_some_and(|arrival| arrival.attachment == id)
        {
            self.arrivals.remove(&at);
        }
    }

    /// What a frame from this device is of, by its outermost tag.
    #[must_use]
    pub fn arrived(&self, ifindex: u32, tag: OuterTag) -> Option<Arrival> {
        let exact = match tag {
            OuterTag::Untagged => self.arrivals.get(&(ifindex, None)),
            OuterTag::Vlan(vlan) => self.arrivals.get(&(ifindex, Some(vlan))),
            OuterTag::Other => None,
        };
        let found = exact.or_else(|| self.arrivals.get(&(ifindex, None)).filter(|at| at.any_vlan));
        found.copied()
    }

    /// By which device frames to an attachment leave, and with the tag of which VLAN.
    #[must_use]
    pub fn egress(&self, id: AttachmentId) -> Option<(u32, Option<VlanId>)> {
        self.egress.get(&id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUNK: u32 = 7;

    fn vlan(id: u16) -> Option<VlanId> {
        VlanId::new_checked(id)
    }

    fn tag(id: u16) -> OuterTag {
        OuterTag::of(Some((0x8100, id)))
    }

    fn of(attached: &Attached, ifindex: u32, tag: OuterTag) -> Option<(u32, bool)> {
        attached.arrived(ifindex, tag).map(|found| (found.attachment.0, found.takes_tag_off))
    }

    #[test]
    fn frames_are_resolved_by_device_and_vlan() {
        let access = Attachment::access("trunk0".into());
        let tagged = |id| Attachment::trunk("trunk0".into(), vlan(id));
        let mut attached = Attached::default();
        attached.attach(AttachmentId(1), TRUNK, &tagged(100));
        attached.attach(AttachmentId(2), TRUNK, &tagged(200));
        attached.attach(AttachmentId(3), 8, &access);
        assert_eq!(of(&attached, TRUNK, tag(100)), Some((1, true)));
        assert_eq!(of(&attached, TRUNK, tag(200)), Some((2, true)));
        for nobodys in [tag(300), OuterTag::Untagged, OuterTag::Other] {
            assert_eq!(of(&attached, TRUNK, nobodys), None, "{nobodys:?}");
        }
        for all in [tag(300), OuterTag::Untagged, OuterTag::Other] {
            assert_eq!(of(&attached, 8, all), Some((3, false)), "{all:?}");
        }
        assert_eq!(attached.egress(AttachmentId(2)), Some((TRUNK, vlan(200))));

        // Another device has the index now.
        attached.attach(AttachmentId(4), 8, &access);
        attached.detach(AttachmentId(3));
        let untagged = OuterTag::Untagged;
        assert_eq!((of(&attached, 8, untagged), attached.egress(AttachmentId(3))), (Some((4, false)), None));
        attached.detach(AttachmentId(2));
        assert_eq!((of(&attached, TRUNK, tag(200)), of(&attached, TRUNK, tag(100))), (None, Some((1, true))));
    }

    #[test]
    fn what_is_untagged_on_a_trunk_is_one_endpoints_and_what_is_tagged_is_not() {
        let mut attached = Attached::default();
        attached.attach(AttachmentId(1), TRUNK, &Attachment::trunk("trunk0".into(), None));
        attached.attach(AttachmentId(2), TRUNK, &Attachment::trunk("trunk0".into(), vlan(100)));
        assert_eq!(
            of(&attached, TRUNK, OuterTag::Untagged),
            Some((1, true)),
            "a priority alone comes off, too"
        );
        assert_eq!(of(&attached, TRUNK, tag(100)), Some((2, true)));
        assert_eq!((of(&attached, TRUNK, tag(300)), of(&attached, TRUNK, OuterTag::Other)), (None, None));
        assert_eq!(attached.egress(AttachmentId(1)), Some((TRUNK, None)));
    }
}
