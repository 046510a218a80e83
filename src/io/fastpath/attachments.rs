//! The attachments of this host in the kernel's tables, and the numbers that flows know them by.
//!
//! A number that an attachment had is given to another one only when nothing names it any more: the generation was raised
//! after it was closed, so that no flow, policy-cache entry or answer with it passes, and every program that had read one has ended. The
//! next daemon takes numbers over together with the flows that name them, but for those of devices that are gone: the
//! index of such a device may be another one's by then.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use eastgate_dataplane::{pipeline::shared::lock, snapshot::Snapshot};
use eastgate_fastpath::{
    ATTACHMENT_ANY_VLAN, ATTACHMENT_PEER, Attachment as Row, AttachmentKey, DEVICE_NAME, Egress, Error,
    Fastpath,
};
use eastgate_wire::{Attachment, AttachmentId, VlanId, Vni};

use super::{KernelPath, Tables};
use crate::io::sysopt;

/// An attachment whose device is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelAttachment {
    /// What the configuration says of it
    pub attachment: Attachment,
    /// Interface index of its device
    pub ifindex: u32,
    /// The device is one end of a veth pair whose other end is in another network namespace, and nothing of the host's is on
    /// the way there.
    pub is_veth: bool,
    /// Interface index of the device by which frames to it are handed to the kernel's routing, where that has them
    pub entry: Option<u32>,
}

impl KernelAttachment {
    fn key(&self) -> AttachmentKey {
        let Attachment { vlan, .. } = &self.attachment;
        let station = self.attachment.station().map_or([0; 6], |mac| mac.0);
        AttachmentKey { ifindex: self.ifindex, vlan: vlan.map_or(0, VlanId::get), station }
    }

    const fn flags(&self) -> u32 {
        let any_vlan = if self.attachment.takes_any_vlan() { ATTACHMENT_ANY_VLAN } else { 0 };
        any_vlan | if self.is_veth && self.entry.is_none() { ATTACHMENT_PEER } else { 0 }
    }

    fn egress(&self) -> Egress {
        let AttachmentKey { ifindex, vlan, station } = self.key();
        let device = name_of(&self.attachment.device);
        let entry = self.entry.unwrap_or_default();
        Egress { ifindex, vlan, flags: self.flags() as u16, device, station, spare: 0, entry }
    }

    /// Is it where another one was, so that frames to that one are frames to it?
    fn is_at(&self, other: &Self) -> bool {
        self.key() == other.key() && self.attachment.device == other.attachment.device
    }
}

/// In place of an attachment that is closed: the number was given, and nothing leaves by it.
const CLOSED: Egress = Egress {
    ifindex: 0,
    vlan: 0,
    flags: 0,
    device: *b"-\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    station: [0; 6],
    spare: 0,
    entry: 0,
};

fn name_of(device: &str) -> [u8; DEVICE_NAME] {
    let mut name = [0; DEVICE_NAME];
    for (to, from) in name.iter_mut().take(DEVICE_NAME - 1).zip(device.bytes()) {
        *to = from;
    }
    name
}

/// An attachment that frames come in by.
#[derive(Clone, Debug)]
pub(super) struct Open {
    attachment: KernelAttachment,
    vni: Vni,
    pub(super) number: u32,
}

/// Who has which number.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    open: HashMap<AttachmentId, Open>,
    /// Open since a daemon before, and not opened by this one
    inherited: BTreeMap<AttachmentKey, u32>,
    /// Closed, each with the generation until which flows may name it
    closed: VecDeque<(u32, u32)>,
    /// Nobody's
    free: Vec<u32>,
    /// Those from this one on were never given.
    next: u32,
}

impl Numbers {
    /// Those of a daemon before. `is_there`: is the device with this name the one with this index?
    pub(super) fn take_over(
        fastpath: &Fastpath,
        generation: u32,
        is_there: &dyn Fn(&str, u32) -> bool,
    ) -> Result<Self, Error> {
        let egress = fastpath.egress()?;
        let mut inherited = BTreeMap::new();
        for (key, row) in fastpath.attachments()? {
            let out = egress.get(row.number as usize).filter(|out| {
                let name = out.device.split(|byte| *byte == 0).next().unwrap_or_default();
                let at = AttachmentKey { ifindex: out.ifindex, vlan: out.vlan, station: out.station };
                at == key && std::str::from_utf8(name).is_ok_and(|name| is_there(name, key.ifindex))
            });
            match out {
                Some(_) => _ = inherited.insert(key, row.number),
                None => fastpath.remove_attachment(key)?,
            }
        }
        let mut numbers = Self { inherited, next: egress.len() as u32, ..Self::default() };
        let kept: Vec<u32> = numbers.inherited.values().copied().collect();
        for number in (0..numbers.next).filter(|number| !kept.contains(number)) {
            fastpath.set_egress(number, CLOSED)?;
            numbers.closed.push_back((number, generation));
        }
        Ok(numbers)
    }

    pub(super) fn get(&self, id: AttachmentId) -> Option<&Open> {
        self.open.get(&id)
    }

    /// The numbers of those that are open.
    pub(super) fn numbers(&self) -> impl Iterator<Item = (u32, AttachmentId)> {
        self.open.iter().map(|(id, open)| (open.number, *id))
    }

    /// A number for an attachment that has none.
    fn give(&mut self, fastpath: &Fastpath, generation: u32) -> Option<u32> {
        if self.next < fastpath.attachment_numbers() {
            self.next += 1;
            return Some(self.next - 1);
        }
        if self.free.is_empty() {
            let gone = self.closed.iter().take_while(|(_, until)| *until != generation).count();
            if gone > 0 {
                // Programs that have begun under the generation before may have a number of it in hand.
                sysopt::wait_for_programs();
            }
            self.free.extend(self.closed.drain(..gone).map(|(number, _)| number));
        }
        self.free.pop()
    }
}

impl Open {
    fn row(&self, id: AttachmentId) -> Row {
        Row { number: self.number, id: id.0, vni: self.vni.get(), flags: self.attachment.flags() }
    }

    pub(super) fn is_of(&self, vni: Vni) -> bool {
        self.vni == vni
    }
}

impl KernelPath {
    /// Opens an attachment of a network.
    ///
    /// # Errors
    /// When a table cannot be written, or there is no number left; the attachment is closed then.
    pub fn set_attachment(
        &self,
        id: AttachmentId,
        attachment: KernelAttachment,
        vni: Vni,
    ) -> Result<(), Error> {
        let tables = &mut *lock(&self.tables);
        let before = tables.attachments.open.get(&id).cloned();
        if before.as_ref().is_some_and(|before| before.attachment == attachment && before.vni == vni) {
            return Ok(());
        }
        if let Some(before) = &before
            && before.vni == vni
            && before.attachment.attachment == attachment.attachment
            && before.attachment.key() == attachment.key()
        {
            // How frames get to it is all that is different: flows that know its number go on.
            let open = Open { attachment, ..before.clone() };
            self.fastpath.set_egress(open.number, open.attachment.egress())?;
            self.fastpath.set_attachment(open.attachment.key(), open.row(id))?;
            tables.attachments.open.insert(id, open);
            return Ok(());
        }
        if before.is_some() {
            self.close(tables, id)?;
        }
        if attachment.attachment.station().is_some() {
            self.open_segment(tables, attachment.ifindex, attachment.key().vlan)?;
        }
        let inherited = tables.attachments.inherited.remove(&attachment.key());
        // Nobody but who had it is at the same place.
        let own = before.filter(|before| before.attachment.is_at(&attachment)).map(|before| before.number);
        if let Some(own) = own {
            tables.attachments.closed.retain(|(number, _)| *number != own);
        }
        let generation = tables.settings.generation;
        let number = own.or(inherited).or_else(|| tables.attachments.give(&self.fastpath, generation));
        let Some(number) = number else { return Err(Error::Full("egress")) };
        let open = Open { attachment, vni, number };
        let written = self
            .fastpath
            .set_egress(number, open.attachment.egress())
            .and_then(|()| self.fastpath.set_attachment(open.attachment.key(), open.row(id)));
        if let Err(error) = written {
            // To be tried again, and not taken for open.
            tables.attachments.closed.push_back((number, generation));
            return Err(error);
        }
        tables.attachments.open.insert(id, open);
        self.tell_endpoint(tables, id);
        Ok(())
    }

    /// Closes an attachment.
    ///
    /// # Errors
    /// When a table cannot be written.
    pub fn remove_attachment(&self, id: AttachmentId) -> Result<(), Error> {
        self.close(&mut lock(&self.tables), id)
    }

    fn close(&self, tables: &mut Tables, id: AttachmentId) -> Result<(), Error> {
        let Some(before) = tables.attachments.open.remove(&id) else { return Ok(()) };
        let is_beside = |open: &Open| open.attachment.attachment.is_beside(&before.attachment.attachment);
        let is_shared = before.attachment.attachment.station().is_some();
        if is_shared && !tables.attachments.open.values().any(is_beside) {
            self.close_segment(tables, before.attachment.ifindex, before.attachment.key().vlan)?;
        }
        self.close_number(tables, before.attachment.key(), before.number)?;
        if !self.tell_endpoint(tables, id) {
            // An endpoint's address names it still: it stays closed for good.
            tables.attachments.closed.retain(|(number, _)| *number != before.number);
        }
        self.renew(tables)
    }

    fn close_number(&self, tables: &mut Tables, key: AttachmentKey, number: u32) -> Result<(), Error> {
        self.fastpath.remove_attachment(key)?;
        self.fastpath.set_egress(number, CLOSED)?;
        tables.attachments.closed.push_back((number, tables.settings.generation));
        Ok(())
    }

    /// Closes the attachments of the daemon before that this one has not opened: the daemon's numbers for them may be those
    /// of other ones now.
    ///
    /// # Errors
    /// When a table cannot be written.
    pub fn close_inherited(&self) -> Result<(), Error> {
        let tables = &mut *lock(&self.tables);
        while let Some((key, number)) = tables.attachments.inherited.first_key_value() {
            let (key, number) = (*key, *number);
            self.close_number(tables, key, number)?;
            tables.attachments.inherited.remove(&key);
        }
        Ok(())
    }

    /// An endpoint whose attachment has moved to another network is that one's from now on.
    pub(super) fn reassign(&self, tables: &mut Tables, snapshot: &Arc<Snapshot>) -> Result<(), Error> {
        let mut done = Ok(());
        for (id, network, _) in snapshot.attachments() {
            if let Some(open) = tables.attachments.open.get_mut(&id)
                && open.vni != network.vni
            {
                open.vni = network.vni;
                done = done.and(self.fastpath.set_attachment(open.attachment.key(), open.row(id)));
            }
        }
        done
    }

    /// An endpoint that cannot be written is not there, or is at an attachment that is closed. False when it could not be.
    fn tell_endpoint(&self, tables: &mut Tables, attachment: AttachmentId) -> bool {
        let renewed = self.renew_endpoint(tables, attachment);
        if let Err(error) = &renewed {
            tracing::warn!(%error, "new flows of an endpoint are decided by the pipeline");
        }
        renewed.is_ok()
    }
}
