//! Who is attached where. An attachment keeps its number for as long as the daemon runs, whatever the configuration calls
//! for, so that what was counted of it stays its own.

use std::{collections::HashMap, sync::Arc};

use eastgate_wire::{Attachment, AttachmentId};

/// The numbers of attachments.
#[derive(Debug, Default)]
pub struct Attachments {
    numbers: HashMap<Attachment, AttachmentId>,
    all: Vec<Attachment>,
}

impl Attachments {
    /// The number of an attachment, a new one if it had none.
    pub fn id(&mut self, attachment: &Attachment) -> AttachmentId {
        if let Some(id) = self.numbers.get(attachment) {
            return *id;
        }
        let id = AttachmentId(self.all.len() as u32);
        self.all.push(attachment.clone());
        self.numbers.insert(attachment.clone(), id);
        id
    }

    /// The attachment with a number.
    #[must_use]
    pub fn get(&self, id: AttachmentId) -> Option<&Attachment> {
        self.all.get(id.0 as usize)
    }

    /// The number of an access attachment, by its device.
    #[must_use]
    pub fn find(&self, device: &str) -> Option<AttachmentId> {
        self.numbers.get(&Attachment::access(Arc::from(device))).copied()
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::VlanId;

    use super::*;

    #[test]
    fn a_device_has_an_attachment_for_each_vlan_and_each_keeps_its_number() {
        let mut attachments = Attachments::default();
        let access = Attachment::access(Arc::from("trunk0"));
        let tagged = |vlan| Attachment::trunk(Arc::from("trunk0"), VlanId::new_checked(vlan));
        let numbers = [access.clone(), tagged(100), tagged(200)].map(|it| attachments.id(&it));
        assert_eq!(numbers, [AttachmentId(0), AttachmentId(1), AttachmentId(2)]);
        assert_eq!(attachments.id(&tagged(100)), numbers[1], "asked for again");
        assert_eq!(attachments.id(&Attachment::access(Arc::from("other0"))), AttachmentId(3));
        assert_eq!(attachments.get(numbers[2]), Some(&tagged(200)));
        assert_eq!(attachments.find("trunk0"), Some(numbers[0]), "the one without a tag");
        assert!(access.takes_any_vlan() && !tagged(100).takes_any_vlan());
    }
}
