//! What eastgate changes on the machine: recorded before it is done, undone on exit.
//!
//! The record is a file, so that a daemon that was killed leaves behind what it takes to undo its changes: the
//! next daemon takes the record over, `eastgate teardown` carries it out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use eastgate_fastpath::TableIds;
use eastgate_steering::{
    kernel::is_own_device,
    settings::{Change, Plan, Restore, Saved, Setting, diff},
};
use serde::{Deserialize, Serialize};

use super::{
    captures::Captures,
    guard::{Clsact, GuardError, Hooks, HostTraffic, Role, clsact, tcx},
    netlink::{Link, Netlink, NetlinkError, Qdiscs},
    sysctl,
};
use crate::plan::{Entry, Step, Undo};

mod routes;

/// Why the machine is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The record could not be read or written.
    #[error("the record of changes {}: {source}", .path.display())]
    Record {
        /// The file
        path: PathBuf,
        /// Why
        #[source]
        source: io::Error,
    },
    /// A setting could not be read or written.
    #[error("interface settings: {0}")]
    Setting(#[source] io::Error),
    /// Tables are pinned, and stay so.
    #[error("pinned tables in {}: {source}", .path.display())]
    Pins {
        /// Their folder
        path: PathBuf,
        /// Why
        #[source]
        source: io::Error,
    },
    /// A port could not be guarded.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The kernel refused something.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// The changes made so far.
#[derive(Debug)]
pub struct Machine {
    record: PathBuf,
    settings: Restore,
    guards: BTreeMap<String, Guard>,
    hooks: Hooks,
    programs: BTreeSet<u32>,
    /// Of all devices, as they were listed last
    qdiscs: BTreeMap<u32, Qdiscs>,
    /// Of all devices, as of the last look
    captures: Captures,
    devices: BTreeSet<String>,
    /// Of the kernel's routing
    routes: BTreeSet<Entry>,
    tables: Option<TableIds>,
    pins: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Guard {
    index: u32,
    /// Filters on a clsact qdisc
    #[serde(default)]
    closed: Option<Clsact>,
    /// Programs in the tcx lists, some of those that the record has
    #[serde(default)]
    tcx: bool,
    /// On a device that stays open to the kernel's own stack
    #[serde(default)]
    tap: bool,
}

/// The record's form on disk.
#[derive(Default, Serialize, Deserialize)]
struct Record {
    settings: Vec<SavedSetting>,
    guards: BTreeMap<String, Guard>,
    /// Programs that may be attached by tcx, by the kernel's numbers
    #[serde(default)]
    programs: BTreeSet<u32>,
    /// Devices that eastgate made
    #[serde(default)]
    devices: BTreeSet<String>,
    /// Entries of the kernel's routing
    #[serde(default)]
    routes: BTreeSet<Entry>,
    /// The tables of the programs that are attached
    #[serde(default)]
    tables: Option<TableIds>,
    /// The folder in which they are pinned
    #[serde(default)]
    pins: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct SavedSetting {
    file: String,
    before: i32,
    written: i32,
}

/// The record that belongs to a control socket.
#[must_use]
pub fn record_beside(socket: &Path) -> PathBuf {
    let mut name = socket.file_name().unwrap_or_default().to_owned();
    name.push(".changes.json");
    socket.with_file_name(name)
}

impl Machine {
    /// Takes over what a daemon before left behind, if it left anything.
    ///
    /// # Errors
    /// When there is a record and it cannot be read: what it says must not be lost.
    pub fn take_over(record: PathBuf) -> Result<Self, MachineError> {
        let read = match std::fs::read(&record) {
            Ok(bytes) => serde_json::from_slice::<Record>(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(error),
        };
        let read = read.map_err(|source| MachineError::Record { path: record.clone(), source })?;
        let settings = read.settings.into_iter().filter_map(|saved| {
            let SavedSetting { file, before, written } = saved;
            Some(Saved { id: file.parse().ok()?, before, written })
        });
        let (guards, devices, routes) = (read.guards, read.devices, read.routes);
        let (tables, pins) = (read.tables, read.pins);
        // Numbers of programs that are gone could be someone else's one day.
        let standing = guards.values().map(|guard| tcx::standing(guard.index, &read.programs));
        let programs = standing.flatten().collect();
        let hooks = Hooks::default();
        let settings = settings.collect();
        let (qdiscs, captures) = (BTreeMap::new(), Captures::default());
        Ok(Self {
            record,
            settings,
            guards,
            hooks,
            programs,
            qdiscs,
            captures,
            devices,
            routes,
            tables,
            pins,
        })
    }

    /// What of a daemon before goes when nothing of it can go on.
    #[must_use]
    pub fn left_behind(&self) -> Option<Step> {
        let devices: Vec<String> = self.fastpath_devices().cloned().collect();
        let is_tapped = self.guards.values().any(|guard| guard.tap);
        let is_left = is_tapped || !devices.is_empty() || self.pins.is_some() || self.tables.is_some();
        is_left.then(|| Step::ClearAway { devices, pins: self.pins.clone() })
    }

    /// The devices that were made for the fast path, and no others.
    fn fastpath_devices(&self) -> impl Iterator<Item = &String> {
        self.devices.iter().filter(|device| !is_own_device(device))
    }

    /// The programs of eastgate's that stand at devices, by the kernel's numbers.
    #[must_use]
    pub const fn programs(&self) -> &BTreeSet<u32> {
        &self.programs
    }

    /// What there is to undo, in words.
    #[must_use]
    pub fn to_undo(&self) -> Vec<String> {
        let names: Vec<&str> = self.guards.keys().map(String::as_str).collect();
        let guarded = (!names.is_empty()).then(|| format!("programs on {}", names.join(", ")));
        let devices: Vec<&str> = self.devices.iter().map(String::as_str).collect();
        let made = (!devices.is_empty()).then(|| format!("devices {}", devices.join(", ")));
        let settings = self.settings.iter().count();
        let set = (settings > 0).then(|| eastgate_wire::names::count(settings, "setting"));
        let pinned = self.pins.as_ref().map(|folder| format!("pins in {}", folder.display()));
        let routes = self.routes.len();
        let routed = (routes > 0).then(|| format!("{routes} routes, rules and neighbours"));
        [guarded, routed, made, set, pinned].into_iter().flatten().collect()
    }

    /// Has eastgate made this device?
    #[must_use]
    pub fn has_made(&self, device: &str) -> bool {
        self.devices.contains(device)
    }

    /// Attaches by these from here on; what is attached otherwise is taken over device by device.
    pub fn attach_by(&mut self, hooks: Hooks) {
        self.hooks = hooks;
    }

    /// Is there anything to undo?
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.guards.is_empty()
            && self.devices.is_empty()
            && self.routes.is_empty()
            && self.pins.is_none()
            && self.settings.iter().next().is_none()
    }

    /// Attaches to a device what its role asks for, and says which directions lacked something. Doing it twice is the same as
    /// once.
    ///
    /// # Errors
    /// When the kernel refuses; a port must then not be used.
    pub async fn hold(
        &mut self,
        netlink: &Netlink,
        link: &Link,
        role: Role<'_>,
    ) -> Result<Vec<&'static str>, MachineError> {
        let known = self.guards.get(&link.name).filter(|guard| guard.index == link.index).copied();
        let mut guard = known.unwrap_or(Guard { index: link.index, closed: None, tcx: false, tap: false });
        guard.tap = role.is_tap();
        if let Some(programs) = self.hooks.tcx() {
            guard.tcx = true;
            let ids = programs.ids(role).map_err(|source| GuardError::Tcx { index: link.index, source })?;
            // Written down first: whatever happens from here on, they are found again.
            self.remember(link, guard, &ids)?;
        }
        let missing = match self.hooks.tcx() {
            Some(programs) => programs.hold(link.index, role, &self.programs)?,
            None => {
                let missing = clsact::missing(netlink, link.index, role).await;
                if guard.closed.is_none() || !missing.is_empty() {
                    guard.closed = Some(self.make_room(guard.closed, link));
                    self.remember(link, guard, &BTreeSet::new())?;
                }
                if !missing.is_empty() {
                    clsact::attach(netlink, link, role).await?;
                }
                missing
            }
        };
        // What a daemon before has attached in the other way stood until here.
        match guard.closed {
            Some(closed) if guard.tcx && self.hooks.tcx().is_some() => {
                clsact::open(netlink, link.index, closed).await?;
                guard.closed = None;
            }
            Some(_) if guard.tcx => {
                tcx::open(link.index, &self.programs)?;
                guard.tcx = false;
            }
            _ => return Ok(missing),
        }
        self.remember(link, guard, &BTreeSet::new())?;
        Ok(missing)
    }

    /// Whether the qdisc for the filters is, or is about to be, ours.
    fn make_room(&self, before: Option<Clsact>, link: &Link) -> Clsact {
        let there = self.qdiscs.get(&link.index).and_then(|qdiscs| qdiscs.ingress.as_deref());
        // Whoever put another in the place of ours keeps it.
        let was_ours = before.is_some_and(|before| before.made_qdisc) && there == Some("clsact");
        Clsact { made_qdisc: there.is_none() || was_ours }
    }

    /// Finds out what qdiscs there are. They are told of when they change.
    pub async fn list_qdiscs(&mut self, netlink: &Netlink) {
        self.qdiscs = netlink.qdiscs().await;
    }

    fn remember(&mut self, link: &Link, guard: Guard, programs: &BTreeSet<u32>) -> Result<(), MachineError> {
        let known = self.guards.insert(link.name.clone(), guard) == Some(guard);
        if known && programs.is_subset(&self.programs) {
            return Ok(());
        }
        self.programs.extend(programs);
        self.save()
    }

    /// What attaches programs: `tcx` or `clsact`.
    #[must_use]
    pub const fn attaches_by(&self) -> &'static str {
        self.hooks.name()
    }

    /// What the host has of its own in traffic control of a device.
    pub async fn host_traffic(&self, netlink: &Netlink, link: &Link) -> HostTraffic {
        let qdiscs = self.qdiscs.get(&link.index).cloned().unwrap_or_default();
        let found = HostTraffic::on(netlink, link, &qdiscs, &self.programs).await;
        found.captured(self.captures.has(link.index))
    }

    /// The same, where nothing but programs in the tcx lists, and who listens, can have changed.
    #[must_use]
    pub fn host_programs(&self, link: &Link, known: &HostTraffic) -> HostTraffic {
        known.with_programs(link, &self.programs).captured(self.captures.has(link.index))
    }

    /// Looks who listens to devices; whether that has changed.
    pub fn list_captures(&mut self) -> bool {
        let captures = Captures::now();
        let changed = self.captures != captures;
        self.captures = captures;
        changed
    }

    /// Writes the record again if someone has taken it away, and says whether that was so.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_record(&self) -> Result<bool, MachineError> {
        let is_lost = !self.is_untouched() && !self.record.exists();
        if is_lost {
            self.save()?;
        }
        Ok(is_lost)
    }

    /// Takes programs off devices that stay open to the kernel's own stack, other than these.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn untap_others(&mut self, netlink: &Netlink, keep: &[&str]) -> Result<(), MachineError> {
        let others = self.guards.iter().filter(|(name, guard)| guard.tap && !keep.contains(&&***name));
        for name in others.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.open_port(netlink, &name).await?;
        }
        Ok(())
    }

    /// Stops the programs that a daemon before has left attached: ports are closed to everything, other devices are
    /// left alone. Nobody could take a flow back from them, or tell them of a new policy.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn stop_programs(
        &mut self,
        netlink: &Netlink,
        links: &BTreeMap<String, Link>,
    ) -> Result<(), MachineError> {
        for (name, guard) in self.guards.clone() {
            // By its index: it may have another name by now.
            let Some(link) = links.values().find(|link| link.index == guard.index) else { continue };
            if guard.tap {
                self.open_port(netlink, &name).await?;
            } else {
                match self.hold(netlink, &Link { name, ..link.clone() }, Role::Port(None)).await {
                    // It is closed all the same.
                    Err(MachineError::Guard(error @ GuardError::IngressQdisc(_))) => {
                        tracing::warn!("{error}")
                    }
                    held => drop(held?),
                }
            }
        }
        self.tables = None;
        self.remove_pins()
    }

    /// The tables that a daemon before has left to its programs.
    #[must_use]
    pub const fn tables(&self) -> Option<TableIds> {
        self.tables
    }

    /// Notes the tables of the programs that are about to be attached, for the daemon that follows.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn remember_tables(&mut self, tables: TableIds) -> Result<(), MachineError> {
        self.tables = Some(tables);
        self.save()
    }

    /// The folder in which a daemon before has pinned its tables.
    #[must_use]
    pub fn pins(&self) -> Option<&Path> {
        self.pins.as_deref()
    }

    /// Notes the folder in which tables are about to be pinned, so that it is taken away whatever happens.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn will_pin(&mut self, folder: &Path) -> Result<(), MachineError> {
        self.pins = Some(folder.to_owned());
        self.save()
    }

    /// Takes the folder away in which tables are pinned.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove_pins(&mut self) -> Result<(), MachineError> {
        let Some(folder) = &self.pins else { return Ok(()) };
        eastgate_fastpath::unpin(folder)
            .map_err(|source| MachineError::Pins { path: folder.clone(), source })?;
        Undo::Unpin { below: folder.parent().unwrap_or(folder).to_owned() }.done();
        self.pins = None;
        self.save()
    }

    /// Notes a device that is about to be made, so that it is taken away whatever happens.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn will_make(&mut self, device: &str) -> Result<(), MachineError> {
        if self.devices.insert(device.to_owned()) { self.save() } else { Ok(()) }
    }

    /// Takes the devices of the fast path away.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_devices(&mut self, netlink: &Netlink) -> Result<(), MachineError> {
        let devices: Vec<String> = self.fastpath_devices().cloned().collect();
        self.remove(netlink, devices).await
    }

    /// Takes devices away that were made.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove(&mut self, netlink: &Netlink, devices: Vec<String>) -> Result<(), MachineError> {
        for device in devices {
            netlink.delete_link(&device).await?;
            self.devices.remove(&device);
            Undo::Delete { device }.done();
        }
        self.save()
    }

    /// Opens a port again, or takes a program off a device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn open_port(&mut self, netlink: &Netlink, name: &str) -> Result<(), MachineError> {
        if let Some(guard) = self.guards.get(name) {
            if let Some(closed) = guard.closed {
                clsact::open(netlink, guard.index, closed).await?;
            }
            if guard.tcx {
                tcx::open(guard.index, &self.programs)?;
            }
            self.guards.remove(name);
            self.save()?;
            Undo::Detach { device: name.to_owned() }.done();
        }
        Ok(())
    }

    /// What has to be written to put `wanted` in effect.
    ///
    /// # Errors
    /// When procfs cannot be read.
    pub fn compare(wanted: &[Setting]) -> Result<Plan, MachineError> {
        let observed = sysctl::observe(wanted).map_err(MachineError::Setting)?;
        Ok(diff(&observed, wanted))
    }

    /// Notes settings that are about to be written, all at once.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn will_set<'c>(&mut self, changes: impl Iterator<Item = &'c Change>) -> Result<(), MachineError> {
        let mut new = false;
        for change in changes {
            if !self.settings.knows(change) {
                self.settings.remember(change);
                new = true;
            }
        }
        if new { self.save() } else { Ok(()) }
    }

    /// Writes a setting, which is in the record before.
    ///
    /// # Errors
    /// When procfs or the record cannot be written.
    pub fn set(&mut self, change: &Change) -> Result<(), MachineError> {
        self.will_set(std::iter::once(change))?;
        sysctl::write(change).map_err(MachineError::Setting)
    }

    /// Leaves the machine as it was. Goes on after a failure and reports the first.
    ///
    /// # Errors
    /// What could not be undone.
    pub async fn undo(mut self, netlink: &Netlink) -> Result<(), MachineError> {
        // While ports are guarded, nothing that is routed to one is unguarded.
        let mut result = self.undo_routes(netlink).await;
        result = result.and(self.undo_settings());
        for name in self.guards.keys().cloned().collect::<Vec<_>>() {
            result = result.and(self.open_port(netlink, &name).await);
        }
        let devices = self.devices.iter().cloned().collect();
        result = result.and(self.remove(netlink, devices).await);
        result = result.and(self.remove_pins());
        if result.is_ok() {
            match std::fs::remove_file(&self.record) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(MachineError::Record { path: self.record, source });
                }
                _ => {}
            }
        }
        result
    }

    fn undo_settings(&self) -> Result<(), MachineError> {
        let observed =
            sysctl::read_all(self.settings.iter().map(|saved| &saved.id)).map_err(MachineError::Setting)?;
        let undo = self.settings.undo(&observed);
        for foreign in &undo.foreign {
            tracing::warn!(setting = %foreign.id, written = foreign.written, found = foreign.found,
                "left alone: someone else has changed it since");
        }
        for change in &undo.changes {
            sysctl::write(change).map_err(MachineError::Setting)?;
            Undo::Restore { id: change.id.clone(), to: change.to }.done();
        }
        Ok(())
    }

    /// Writes the record in whole: a crash leaves the old one or the new one.
    fn save(&self) -> Result<(), MachineError> {
        let settings = self.settings.iter().map(|saved| SavedSetting {
            file: saved.id.to_string(),
            before: saved.before,
            written: saved.written,
        });
        let record = Record {
            settings: settings.collect(),
            guards: self.guards.clone(),
            programs: self.programs.clone(),
            devices: self.devices.clone(),
            routes: self.routes.clone(),
            tables: self.tables,
            pins: self.pins.clone(),
        };
        let fail = |source| MachineError::Record { path: self.record.clone(), source };
        if let Some(folder) = self.record.parent() {
            std::fs::create_dir_all(folder).map_err(fail)?;
        }
        let beside = self.record.with_extension("new");
        let bytes = serde_json::to_vec_pretty(&record).map_err(io::Error::from).map_err(fail)?;
        std::fs::write(&beside, bytes).map_err(fail)?;
        std::fs::rename(&beside, &self.record).map_err(fail)
    }
}
