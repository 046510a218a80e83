//! Who has associated which machine on this host, over all its devices.
//!
//! A machine is at one place: whoever associates it last has it, and it is taken away from whoever had it before. So is what another machine had
//! of the same segment with the same MAC.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use ahash::RandomState;
use eastgate_config::{AssociatedMachines, Name};
use eastgate_steering::vdp::{Association, FilterEntry, Stage, Vsi};
use eastgate_wire::{Instant, MacAddr, VlanId};

use super::terms::{Denied, Grant, Seat, Terms};

/// Different machines, each by device, VLAN and MAC, that a daemon has at most while it runs: it numbers them, and what was counted of
/// a number stays its own.
pub(in crate::daemon) const NUMBERS: usize = 65_536;

/// A machine that is associated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::daemon) struct Machine {
    pub(in crate::daemon) by: Owner,
    pub(in crate::daemon) vlan: Option<VlanId>,
    /// The name of its profile
    pub(in crate::daemon) profile: Name,
    pub(in crate::daemon) since: Instant,
    /// Whether frames of it pass
    pub(in crate::daemon) in_force: bool,
}

/// Who has associated something.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::daemon) struct Owner {
    pub(in crate::daemon) device: Arc<str>,
    pub(in crate::daemon) station: MacAddr,
    pub(in crate::daemon) vsi: Vsi,
}

/// A place on a device that one machine has.
type Place = (Arc<str>, Option<VlanId>, MacAddr);

/// All machines that are associated.
#[derive(Default)]
pub(in crate::daemon) struct Book {
    machines: BTreeMap<Seat, Machine>,
    places: BTreeMap<Place, Seat>,
    numbered: HashSet<Place, RandomState>,
    /// Associations that are to be ended at their devices
    orders: BTreeSet<Owner>,
    /// What is in force is not what stands here.
    changed: bool,
}

impl Book {
    /// Whether there is room for a machine that a station asks for. `beside` are those granted with it that do not stand here yet.
    pub(in crate::daemon) fn has_room(
        &self,
        terms: &Terms,
        device: &Arc<str>,
        grant: &Grant<'_>,
        beside: &BTreeSet<Seat>,
    ) -> Result<(), Denied> {
        let seat = grant.seat();
        let known = self.machines.get(&seat);
        let same_profile = known.is_some_and(|machine| machine.profile == grant.profile.name);
        let same_device = known.is_some_and(|machine| machine.by.device == *device);
        let count = |is: &dyn Fn(&Seat, &Machine) -> bool| {
            self.machines.iter().filter(|(seat, machine)| is(seat, machine)).count() + beside.len()
        };
        let of_profile =
            |of: &Seat, machine: &Machine| of.tenant == seat.tenant && machine.profile == grant.profile.name;
        let most = grant.profile.machines;
        if !same_profile && count(&of_profile) >= most as usize {
            let profile = format!("{}/{}", seat.tenant, grant.profile.name);
            return Err(Denied::ProfileFull { profile, most });
        }
        let most = terms.devices().find(|(name, _)| *name == device).map_or(0, |(_, of)| of.machines);
        if !same_device && count(&|_, machine| machine.by.device == *device) >= most as usize {
            return Err(Denied::DeviceFull(most));
        }
        let place = (device.clone(), grant.vlan, grant.mac);
        if !self.numbered.contains(&place) && self.numbered.len() + beside.len() >= NUMBERS {
            return Err(Denied::NumbersFull(NUMBERS));
        }
        Ok(())
    }

    pub(in crate::daemon) fn has(&self, seat: &Seat) -> bool {
        self.machines.contains_key(seat)
    }

    /// What of an association is the machines' of it, in place of what its owner had by it before.
    pub(in crate::daemon) fn associate(
        &mut self,
        terms: &Terms,
        by: &Owner,
        association: &Association,
        now: Instant,
    ) {
        if association.stage != Stage::Associated {
            return;
        }
        let grants = association.entries.iter().filter_map(|entry| {
            let grant = terms.grant(&by.device, &by.vsi.profile, entry).ok()?;
            Some((grant.seat(), grant.vlan, grant.profile.name.clone()))
        });
        let new: BTreeMap<Seat, (Option<VlanId>, Name)> =
            grants.map(|(seat, vlan, profile)| (seat, (vlan, profile))).collect();
        let gone =
            self.machines.iter().filter(|(seat, machine)| machine.by == *by && !new.contains_key(*seat));
        gone.map(|(seat, _)| seat.clone()).collect::<Vec<_>>().iter().for_each(|seat| self.remove(seat));
        for (seat, (vlan, profile)) in new {
            let same = |known: &Machine| known.by == *by && known.vlan == vlan && known.profile == profile;
            if self.machines.get(&seat).is_some_and(same) {
                continue;
            }
            let place = (by.device.clone(), vlan, seat.mac);
            let before = [Some(seat.clone()), self.places.get(&place).cloned()];
            for before in before.into_iter().flatten() {
                let owner = self.machines.get(&before).map(|machine| machine.by.clone());
                self.orders.extend(owner.filter(|owner| owner != by));
                self.remove(&before);
            }
            self.numbered.insert(place.clone());
            self.places.insert(place, seat.clone());
            self.machines
                .insert(seat, Machine { by: by.clone(), vlan, profile, since: now, in_force: false });
            self.changed = true;
        }
    }

    /// An association is over.
    pub(in crate::daemon) fn end(&mut self, by: &Owner) {
        self.orders.remove(by);
        self.end_those(|machine| machine.by == *by);
    }

    /// All associations of a device are.
    pub(in crate::daemon) fn end_device(&mut self, device: &str) {
        self.orders.retain(|owner| &*owner.device != device);
        self.end_those(|machine| &*machine.by.device == device);
    }

    fn end_those(&mut self, is_over: impl Fn(&Machine) -> bool) {
        let over = self.machines.iter().filter(|(_, machine)| is_over(machine)).map(|(seat, _)| seat.clone());
        over.collect::<Vec<_>>().iter().for_each(|seat| self.remove(seat));
    }

    fn remove(&mut self, seat: &Seat) {
        let Some(machine) = self.machines.remove(seat) else { return };
        let place = (machine.by.device, machine.vlan, seat.mac);
        if self.places.get(&place) == Some(seat) {
            self.places.remove(&place);
        }
        self.changed = true;
    }

    /// Associations that are to be ended at a device; they are told of once.
    pub(in crate::daemon) fn take_orders(&mut self, device: &str) -> Vec<Owner> {
        self.orders.extract_if(.., |owner| &*owner.device == device).collect()
    }

    /// The devices at which something is to be ended.
    pub(in crate::daemon) fn ordered(&self) -> impl Iterator<Item = &Arc<str>> {
        self.orders.iter().map(|owner| &owner.device)
    }

    /// Whether something is to be put in force; asked once.
    pub(in crate::daemon) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(in crate::daemon) const fn has_changed(&self) -> bool {
        self.changed
    }

    pub(in crate::daemon) fn machines(&self) -> impl Iterator<Item = (&Seat, &Machine)> {
        self.machines.iter()
    }

    /// The endpoints that machines are, as far as the terms have them.
    pub(in crate::daemon) fn endpoints(&self, terms: &Terms) -> AssociatedMachines {
        let mut all = AssociatedMachines::new();
        for (seat, machine) in &self.machines {
            let entry = FilterEntry { group: None, mac: Some(seat.mac), vid: machine.vlan, priority: None };
            let Ok(grant) = terms.grant(&machine.by.device, &machine.by.vsi.profile, &entry) else {
                continue;
            };
            if grant.seat() == *seat && terms.devices().any(|(device, _)| *device == machine.by.device) {
                let networks = all.entry(seat.tenant.clone()).or_default();
                let endpoints = networks.entry(seat.network.clone()).or_default();
                endpoints.push(Arc::new(terms.endpoint(&machine.by.device, &grant)));
            }
        }
        all.values_mut()
            .flat_map(BTreeMap::values_mut)
            .for_each(|endpoints| endpoints.sort_by(|a, b| a.name.cmp(&b.name)));
        all
    }

    /// These are in force, and no others.
    pub(in crate::daemon) fn are_in_force(&mut self, endpoints: &AssociatedMachines) {
        for (seat, machine) in &mut self.machines {
            let of_network = endpoints.get(&seat.tenant).and_then(|networks| networks.get(&seat.network));
            machine.in_force = of_network.is_some_and(|endpoints| {
                endpoints.iter().any(|it| {
                    let at = it.attachment.as_ref().map(|at| (&at.device, at.vlan));
                    it.mac == seat.mac && at == Some((&machine.by.device, machine.vlan))
                })
            });
        }
    }

    /// Those that cannot be put in force are ended; what is left is yet to be put in force.
    pub(in crate::daemon) fn end_others(&mut self) {
        let others: Vec<Owner> = self
            .machines
            .values()
            .filter(|machine| !machine.in_force)
            .map(|machine| machine.by.clone())
            .collect();
        self.orders.extend(others);
        self.changed = true;
    }
}
