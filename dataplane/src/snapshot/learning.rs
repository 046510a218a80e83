//! Which addresses may be learned of an endpoint, by the configuration and by who has what.

use eastgate_config::Learn;
use eastgate_policy::admission::{self, Site};
use eastgate_steering::{Binding, snooping::Terms};
use eastgate_wire::{Addr, Instant};

use super::{Endpoint, Network};
use crate::pipeline::shared::lock;

impl Endpoint {
    /// On which terms addresses of it are learned, where they are.
    #[must_use]
    pub fn terms(&self) -> Option<Terms> {
        let learning = self.learning.as_ref()?;
        let any = learning.by == Learn::Any;
        Some(Terms {
            by_dhcp: any || learning.by == Learn::Dhcp,
            by_nd: any || learning.by == Learn::Nd,
            by_traffic: any,
            limit: learning.limit as usize,
            lock: learning.lock,
            age: learning.age,
            here: self.enforced_here,
        })
    }

    /// Is the address where its addresses may be?
    pub(crate) fn learns_in(&self, address: Addr) -> bool {
        let within = self.learning.iter().flat_map(|learning| &learning.within);
        let ip = address.to_ip();
        within.into_iter().any(|net| net.contains(&ip))
    }

    /// May an address that nobody has turn out to be its own when it is asked for it? One that is leased is known before.
    pub(crate) fn may_come_to(&self, address: Addr) -> bool {
        self.terms().is_some_and(|terms| terms.by_nd || !terms.here) && self.learns_in(address)
    }
}

impl Network {
    /// Whether an address may be learned of an endpoint, as far as that is not for the table of what was learned to say: no
    /// address that the configuration names for anybody, that somebody holds, that a router of another kind was heard with, or
    /// that is the site's own.
    ///
    /// # Errors
    /// Why not.
    pub fn may_learn(
        &self,
        site: &Site,
        endpoint: &Endpoint,
        address: Addr,
        now: Instant,
    ) -> Result<(), &'static str> {
        if !endpoint.learns_in(address) || !admission::is_usable(address) {
            return Err("it is not in a subnet in which addresses are learned");
        }
        if self.config().is_some_and(|network| network.is_no_stations(address)) {
            return Err("no station of the subnet can have it");
        }
        if site.is_reserved(address) {
            return Err("it is a VTEP's or a management address");
        }
        if self.is_written(address) {
            return Err("it is configured");
        }
        if self.moves(address) && self.at_address(address).is_some_and(|(holder, _)| holder.id != endpoint.id)
        {
            return Err("another endpoint holds it");
        }
        // With the endpoint's own MAC it is the endpoint, heard where it was before the configuration, or an association, brought it here;
        // and what is an endpoint's by now is no unknown host's any more.
        let is_another = |host: Binding| !endpoint.holdings().has_mac(host.mac);
        if self.learns()
            && self.at_address(address).is_none()
            && lock(&self.state.learned).by_address(address, now).is_some_and(is_another)
        {
            return Err("an unknown host has it");
        }
        Ok(())
    }

    /// Do the files name the address for anybody?
    fn is_written(&self, address: Addr) -> bool {
        if !self.directory.ownership.sharers(address).is_empty() {
            return true;
        }
        let Some(owner) = self.by_address(address) else { return false };
        let learned = || self.config()?.endpoint(&owner.name).map(|it| it.learned.contains(&address));
        !learned().unwrap_or(false)
    }

    /// Whether addresses of any endpoint are learned in it.
    #[must_use]
    pub fn has_learners(&self) -> bool {
        !self.directory.learners.is_empty()
    }
}
