//! What of the kernel's routing is in the record: its devices, and the entries by which it finds ports.

use std::collections::{BTreeMap, BTreeSet};

use eastgate_steering::kernel::is_own_device;

use super::{Machine, MachineError};
use crate::{
    io::netlink::{Link, Netlink},
    plan::{Entry, Undo},
};

impl Machine {
    /// The devices by which the kernel's routing gets packets, of this daemon and the one before.
    pub fn routers(&self) -> impl Iterator<Item = &String> {
        self.devices.iter().filter(|device| is_own_device(device))
    }

    /// The entries of the kernel's routing that are, or may be, there.
    #[must_use]
    pub const fn routes(&self) -> &BTreeSet<Entry> {
        &self.routes
    }

    /// Notes entries that are about to be added, all at once.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn will_route<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) -> Result<(), MachineError> {
        let before = self.routes.len();
        self.routes.extend(entries.cloned());
        if self.routes.len() > before { self.save() } else { Ok(()) }
    }

    /// Deletes these of the entries that were added.
    ///
    /// # Errors
    /// When the kernel refuses one, after the others.
    pub async fn unroute(
        &mut self,
        netlink: &Netlink,
        links: &BTreeMap<String, Link>,
        entries: Vec<Entry>,
    ) -> Result<(), MachineError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        // A table is asked for as long as it is behind a rule that says that there is no other.
        for entry in entries.into_iter().rev() {
            match netlink.delete_entry(&entry, links).await {
                Ok(()) => {
                    self.routes.remove(&entry);
                    Undo::Unroute(entry).done();
                }
                Err(error) => result = result.and(Err(error.into())),
            }
        }
        result.and(self.save())
    }

    pub(super) async fn undo_routes(&mut self, netlink: &Netlink) -> Result<(), MachineError> {
        if self.routes.is_empty() {
            return Ok(());
        }
        let links = netlink.links().await?;
        self.unroute(netlink, &links, self.routes.iter().cloned().collect()).await
    }
}
