//! What a worker knows of attachments: which one a frame from a device is of, and by which device, with which tag, frames
//! to one leave. The programs have the same in their tables `attachments` and `egress`.

use std::collections::BTreeMap;

use eastgate_wire::{Attachment, AttachmentId, DropReason, MacAddr, OuterTag, VlanId};

/// The attachments whose devices are there. Devices are known by interface index.
#[derive(Clone, Default, Debug)]
pub struct Attached {
    arrivals: BTreeMap<Way, Arrival>,
    egress: BTreeMap<AttachmentId, Way>,
}

/// Where frames of an attachment come in, and those to it leave.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Way {
    /// Its device, by interface index
    pub ifindex: u32,
    /// The VLAN there
    pub vlan: Option<VlanId>,
    /// Whose frames of these, on a segment that is shared
    pub station: Option<MacAddr>,
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
        let way = Way { ifindex, vlan: attachment.vlan, station: attachment.station() };
        self.arrivals.insert(way, arrival);
        self.egress.insert(id, way);
    }

    /// It is gone, or no longer wanted.
    pub fn detach(&mut self, id: AttachmentId) {
        if let Some(at) = self.egress.remove(&id)
            && self.arrivals.get(&at).is_some_and(|arrival| arrival.attachment == id)
        {
            self.arrivals.remove(&at);
        }
    }

    /// What a frame from this device is of, by its outermost tag and its source.
    ///
    /// # Errors
    /// When it is nobody's.
    pub fn arrived(&self, ifindex: u32, tag: OuterTag, from: Option<MacAddr>) -> Result<Arrival, Nobodys> {
        let way = |vlan, station| Way { ifindex, vlan, station };
        let untagged = self.arrivals.get(&way(None, None)).filter(|at| at.any_vlan);
        let vlan = match tag {
            OuterTag::Untagged => None,
            OuterTag::Vlan(vlan) => Some(vlan),
            OuterTag::Other => return untagged.copied().ok_or(Nobodys::OfNoVlan),
        };
        let own = self.arrivals.get(&way(vlan, None)).or(untagged);
        if let Some(found) = own.or_else(|| self.arrivals.get(&way(vlan, Some(from?)))) {
            return Ok(*found);
        }
        let lowest = way(vlan, None);
        let next = self.arrivals.range(lowest..).next();
        let is_segment = next.is_some_and(|(next, _)| (next.ifindex, next.vlan) == (ifindex, vlan));
        Err(if is_segment { Nobodys::OfNoStation } else { Nobodys::OfNoVlan })
    }

    /// Where frames to an attachment leave.
    #[must_use]
    pub fn egress(&self, id: AttachmentId) -> Option<Way> {
        self.egress.get(&id).copied()
    }
}

/// Why a frame is nobody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nobodys {
    /// Its VLAN, or its lack of a tag, is no endpoint's there.
    OfNoVlan,
    /// It is of a segment that endpoints share, and from none of them.
    OfNoStation,
}

impl Nobodys {
    /// Under which it is counted: what is for the next bridge alone, and untagged as such frames are, says nothing of VLANs and machines.
    #[must_use]
    pub fn reason(self, tag: OuterTag, to: Option<MacAddr>) -> DropReason {
        match self {
            _ if tag == OuterTag::Untagged && to.is_some_and(MacAddr::is_of_the_link) => {
                DropReason::LinkProtocol
            }
            Self::OfNoVlan => DropReason::UnknownVlan,
            Self::OfNoStation => DropReason::UnknownStation,
        }
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
        attached.arrived(ifindex, tag, None).ok().map(|found| (found.attachment.0, found.takes_tag_off))
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
        let way = Way { ifindex: TRUNK, vlan: vlan(200), station: None };
        assert_eq!(attached.egress(AttachmentId(2)), Some(way));

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
        let way = Way { ifindex: TRUNK, vlan: None, station: None };
        assert_eq!(attached.egress(AttachmentId(1)), Some(way));
    }

    #[test]
    fn what_is_of_the_link_itself_is_no_stray() {
        let group = |text: &str| text.parse().ok();
        for nobodys in [Nobodys::OfNoVlan, Nobodys::OfNoStation] {
            let reason = |tag, to: &str| nobodys.reason(tag, group(to));
            let own = nobodys.reason(OuterTag::Untagged, None);
            assert_ne!(own, DropReason::LinkProtocol, "too short to say");
            for link in ["01:80:c2:00:00:00", "01:80:c2:00:00:0e", "01:00:0c:cc:cc:cc", "01:00:0c:cc:cc:cd"] {
                assert_eq!(reason(OuterTag::Untagged, link), DropReason::LinkProtocol, "{link}");
                assert_eq!(reason(tag(300), link), own, "{link} in a VLAN");
                assert_eq!(reason(OuterTag::Other, link), own, "{link} in a provider's");
            }
            for other in ["01:80:c2:00:00:10", "01:00:0c:cc:cc:ce", "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01"]
            {
                assert_eq!(reason(OuterTag::Untagged, other), own, "{other}");
            }
        }
    }

    #[test]
    fn on_a_segment_that_is_shared_the_source_says_whose_a_frame_is() {
        let [a, b, c] = [1, 2, 3].map(|last| MacAddr([2, 0, 0, 0, 0, last]));
        let shared = |vlan, mac| Attachment::shared("seg0".into(), vlan, mac);
        let mut attached = Attached::default();
        attached.attach(AttachmentId(1), 7, &shared(None, a));
        attached.attach(AttachmentId(2), 7, &shared(None, b));
        attached.attach(AttachmentId(3), 7, &shared(vlan(100), c));
        attached.attach(AttachmentId(4), 7, &Attachment::trunk("seg0".into(), vlan(200)));
        let of = |tag, from| attached.arrived(7, tag, from).map(|found| found.attachment.0);
        assert_eq!(of(OuterTag::Untagged, Some(a)), Ok(1));
        assert_eq!(of(OuterTag::Untagged, Some(b)), Ok(2));
        assert_eq!(of(tag(100), Some(c)), Ok(3));
        assert_eq!(of(tag(200), Some(c)), Ok(4), "a VLAN of its own: admission looks at the source");
        assert_eq!(of(OuterTag::Untagged, Some(c)), Err(Nobodys::OfNoStation), "of another segment");
        assert_eq!(of(tag(100), Some(a)), Err(Nobodys::OfNoStation));
        assert_eq!(of(tag(100), None), Err(Nobodys::OfNoStation), "too short to say");
        for nobodys in [tag(300), OuterTag::Other] {
            assert_eq!(of(nobodys, Some(a)), Err(Nobodys::OfNoVlan), "{nobodys:?}");
        }
        assert_eq!(attached.egress(AttachmentId(2)).unwrap().station, Some(b));
        attached.detach(AttachmentId(2));
        let of = |tag, from| attached.arrived(7, tag, from).map(|found| found.attachment.0);
        assert_eq!(of(OuterTag::Untagged, Some(b)), Err(Nobodys::OfNoStation));
        assert_eq!(of(OuterTag::Untagged, Some(a)), Ok(1));
    }
}
