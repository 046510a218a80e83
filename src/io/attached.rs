//! What a worker knows of attachments: which one a frame from a device is of, and by which device, with which tag, frames
//! to one leave. The programs have the same in their tables `attachments` and `egress`.

use std::collections::BTreeMap;

use eastgate_wire::{Attachment, AttachmentId, VlanId};

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
            takes_tag_off: attachment.vlan.is_some(),
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

    /// What a frame from this device is of, by the VLAN of its tag.
    #[must_use]
    pub fn arrived(&self, ifindex: u32, vlan: Option<VlanId>) -> Option<Arrival> {
        let exact = self.arrivals.get(&(ifindex, vlan));
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

    #[test]
    fn frames_are_resolved_by_device_and_vlan() {
        let access = Attachment::access("trunk0".into());
        let tagged = |id| Attachment { vlan: vlan(id), ..access.clone() };
        let mut attached = Attached::default();
        attached.attach(AttachmentId(1), TRUNK, &tagged(100));
        attached.attach(AttachmentId(2), TRUNK, &tagged(200));
        attached.attach(AttachmentId(3), 8, &access);
        let of = |attached: &Attached, ifindex, id| {
            attached.arrived(ifindex, id).map(|found| (found.attachment.0, found.takes_tag_off))
        };
        assert_eq!(of(&attached, TRUNK, vlan(100)), Some((1, true)));
        assert_eq!(of(&attached, TRUNK, vlan(200)), Some((2, true)));
        assert_eq!((of(&attached, TRUNK, vlan(300)), of(&attached, TRUNK, None)), (None, None), "nobody's");
        assert_eq!(
            (of(&attached, 8, None), of(&attached, 8, vlan(300))),
            (Some((3, false)), Some((3, false)))
        );
        assert_eq!(attached.egress(AttachmentId(2)), Some((TRUNK, vlan(200))));

        // Another device has the index now.
        attached.attach(AttachmentId(4), 8, &access);
        attached.detach(AttachmentId(3));
        assert_eq!((of(&attached, 8, None), attached.egress(AttachmentId(3))), (Some((4, false)), None));
        attached.detach(AttachmentId(2));
        assert_eq!(
            (of(&attached, TRUNK, vlan(200)), of(&attached, TRUNK, vlan(100))),
            (None, Some((1, true)))
        );
    }
}
