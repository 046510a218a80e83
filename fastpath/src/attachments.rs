//! The tables of attachments: what frames that come in are resolved to, and where frames leave.

use libbpf_rs::{MapCore, MapFlags};
use zerocopy::{FromBytes, IntoBytes};

use crate::{Attachment, AttachmentKey, Egress, Error, Fastpath, Stray, StrayKey, remove, taken, write};

impl Fastpath {
    /// Opens an attachment: frames that come in by it are its network's.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn set_attachment(&self, key: AttachmentKey, attachment: Attachment) -> Result<(), Error> {
        write(&self.attachments, "attachments", &key, &attachment)
    }

    /// Closes an attachment: nothing comes in by it any more, not even to be punted.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn remove_attachment(&self, key: AttachmentKey) -> Result<(), Error> {
        remove(&self.attachments, "attachments", key.as_bytes())
    }

    /// The attachments that are open.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn attachments(&self) -> Result<Vec<(AttachmentKey, Attachment)>, Error> {
        let keys = self.attachments.keys().filter_map(|key| AttachmentKey::read_from_bytes(&key).ok());
        let open = keys.map(|key| {
            let mut attachment = Attachment::default();
            let found =
                self.attachments.lookup_into(key.as_bytes(), attachment.as_mut_bytes(), MapFlags::ANY);
            found
                .map(|found| found.then_some((key, attachment)))
                .map_err(|source| Error::Table { table: "attachments", source })
        });
        open.filter_map(Result::transpose).collect()
    }

    /// Says where frames to the attachment with this number leave.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn set_egress(&self, number: u32, egress: Egress) -> Result<(), Error> {
        write(&self.egress, "egress", &number, &egress)
    }

    /// The numbers that attachments were ever given, in their order, with where frames to them leave.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn egress(&self) -> Result<Vec<Egress>, Error> {
        taken(&self.egress, "egress", &Egress::default())
    }

    /// How many attachments there are numbers for.
    #[must_use]
    pub fn attachment_numbers(&self) -> u32 {
        self.egress.max_entries()
    }

    /// Counts what is nobody's on a trunk or a shared segment, from nothing on.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn count_strays(&self, at: StrayKey) -> Result<(), Error> {
        let error = |source| Error::Table { table: "strays", source };
        let none = vec![vec![0; size_of::<Stray>()]; libbpf_rs::num_possible_cpus().map_err(error)?];
        self.strays.update_percpu(at.as_bytes(), &none, MapFlags::ANY).map_err(error)
    }

    /// What was counted of it, by each processor that has seen such frames.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn strays(&self, at: StrayKey) -> Result<Vec<Stray>, Error> {
        let found = self.strays.lookup_percpu(at.as_bytes(), MapFlags::ANY);
        let found = found.map_err(|source| Error::Table { table: "strays", source })?;
        let strays = found.iter().flatten().filter_map(|bytes| Stray::read_from_prefix(bytes).ok());
        Ok(strays.map(|(stray, _)| stray).filter(|stray| stray.frames > 0).collect())
    }

    /// Counts them no more.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn forget_strays(&self, at: StrayKey) -> Result<(), Error> {
        remove(&self.strays, "strays", at.as_bytes())
    }
}
