//! The kernel's side of the fast path: who is where in its tables, and flows written into them.

mod attachments;
mod carrier;
mod counted;
mod created;
mod datagrams;
mod economy;
mod endpoints;
mod handover;
mod neighbor_cache;
#[cfg(test)]
mod numbers;
mod policy_drops;
mod recheck;
mod related;
mod stateless;
mod strays;
#[cfg(test)]
mod twin;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{Arc, Mutex},
};

use eastgate_config::UdpChecksum;
use eastgate_conntrack::flow::NetworkQuota;
use eastgate_dataplane::{
    pipeline::shared::lock,
    snapshot::{self, KernelLimits, Snapshot},
};
use eastgate_fastpath::{
    AT_VTEP, CONFIG_UNDECIDED, Endpoint as KernelEndpoint, Entropy, Error, Fastpath, Flow, Key, LAYOUT,
    Limits, NETWORK_CHANGING, Network, Settings, TableIds, address,
};
use eastgate_vtep::fdb::Location;
use eastgate_wire::{Addr, FlowKey, Leg, TableSizes, Vni, VtepAddr};

pub use self::attachments::KernelAttachment;
use self::{
    attachments::Numbers,
    economy::Economy,
    endpoints::{Decided, first_path, network_row, vtep_flags, vtep_row},
    recheck::Changing,
    strays::Trunk,
};

/// Datagrams a second of networks that this host does not serve: the pipeline does nothing with them but count them.
const OF_UNSERVED: u32 = 10_000;

/// The underlay in the kernel's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelUnderlay {
    /// Interface index of one of its devices: the way out is the routes'
    pub ifindex: u32,
    /// The smallest MTU of its devices: flows are decided again when it changes
    pub mtu: u32,
    /// This host's VTEP
    pub vtep: VtepAddr,
    /// UDP port of the overlay
    pub port: u16,
    /// Set DF on outer IPv4 packets
    pub dont_fragment: bool,
}

/// The loaded programs, and who is where in their tables.
#[derive(Debug)]
pub struct KernelPath {
    fastpath: Fastpath,
    sizes: TableSizes,
    tables: Mutex<Tables>,
    /// Held by whoever writes policies. Locked before `tables`
    deciding: Mutex<()>,
    /// Which flows make room; no other lock is taken under it but `tables`
    economy: Mutex<Economy>,
    /// Locked before `tables`
    fetched: Mutex<stateless::Fetched>,
}

#[derive(Debug, Default)]
struct Tables {
    settings: Settings,
    underlay: Option<KernelUnderlay>,
    attachments: Numbers,
    /// By interface index
    trunks: BTreeMap<u32, Trunk>,
    /// What flows must have been decided under
    snapshot: Option<Arc<Snapshot>>,
    /// Networks by their place, each with what is written there
    networks: HashMap<Vni, (u32, Network)>,
    /// VTEPs by their place; none for one of this very machine
    vteps: HashMap<VtepAddr, Option<Place>>,
    /// An epoch is over, and what it has refused may still be in the kernel's table.
    unsettled: bool,
    /// The link's MTU, as far as it was ever known
    link_mtu: u16,
    /// The endpoints in the kernel's table, in force or not
    endpoints: HashMap<Vni, HashMap<Addr, KernelEndpoint>>,
    /// Whose flows are looked for just now
    changing: Changing,
    /// Networks whose flows the programs decide
    decided: HashMap<Vni, Decided>,
    /// What their policies take up, and those that will be theirs in a moment
    policy_bytes: usize,
    /// There was a daemon before, and this one's word does not count yet: flows go on as that one has left them.
    follows: bool,
    /// This daemon's word counts.
    live: bool,
    /// The pages of networks that have a place: flows in the kernel are counted there, whatever snapshots say
    quotas: HashMap<Vni, Arc<NetworkQuota>>,
    entropy: Entropy,
    /// What the limit of each network is that has one of its own
    limits: HashMap<Vni, KernelLimits>,
    /// How often tokens were granted for answers
    credits: u32,
    /// Under which generation and epoch answers were made anew that had ended
    answers_renewed: Option<(u32, u32)>,
}

/// Where a VTEP is in its table.
#[derive(Clone, Copy, Debug)]
struct Place {
    place: u32,
    /// The largest packet that its path takes
    max_packet: u32,
    /// `VTEP_*`
    flags: u32,
}

impl KernelPath {
    /// Loads the programs. Frames are punted by the device with index `up`; the kernel's own vxlan device listens at
    /// `tunnel_port`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn load(limits: Limits, up: u32, tunnel_port: u16) -> Result<Self, Error> {
        let fastpath = Fastpath::load(limits)?;
        let settings = Settings {
            layout: LAYOUT,
            session: 1,
            generation: 1,
            since: 2,
            punt_device: up,
            tunnel_port_be: tunnel_port.to_be_bytes(),
            ..Settings::default()
        };
        fastpath.set_settings(&settings)?;
        fastpath.limit(None, OF_UNSERVED, 0)?;
        prove_unoffload(&fastpath)?;
        let tables = Tables { settings, ..Tables::default() };
        Ok(Self::of(fastpath, tables, limits.tables))
    }

    fn of(fastpath: Fastpath, tables: Tables, sizes: TableSizes) -> Self {
        Self {
            fastpath,
            sizes,
            tables: Mutex::new(tables),
            deciding: Mutex::default(),
            economy: Mutex::default(),
            fetched: Mutex::default(),
        }
    }

    /// Loads the programs with the tables of a daemon before. Its flows go on as they were decided until
    /// [`KernelPath::go_live`], but to devices that are gone; frames are punted to this daemon from here on. `is_there`: is the device
    /// with this name the one with this index?
    ///
    /// # Errors
    /// When they are gone, or of another layout; what the kernel says.
    pub fn take_over(
        ids: &TableIds,
        pinned: Option<&Path>,
        limits: &Limits,
        up: u32,
        is_there: &dyn Fn(&str, u32) -> bool,
    ) -> Result<Self, Error> {
        let fastpath = Fastpath::take_over(ids, pinned, limits)?;
        let mut settings = fastpath.settings()?;
        (settings.session, settings.punt_device) = (settings.session.wrapping_add(1), up);
        // What is created before this daemon goes live is of the one before.
        settings.since = settings.generation.wrapping_add(1);
        fastpath.limit(None, OF_UNSERVED, 0)?;
        let networks = fastpath.networks()?;
        let vteps = fastpath.vteps()?;
        let attachments = Numbers::take_over(&fastpath, settings.generation, is_there)?;
        let mut tables = Tables { settings, attachments, follows: true, ..Tables::default() };
        for (place, network) in (0..).zip(networks) {
            if let Ok(vni) = Vni::new_checked(network.vni) {
                if network.marks & NETWORK_CHANGING != 0 {
                    // The daemon before was looking for them; this one finishes it.
                    tables.changing.networks.insert(vni);
                }
                tables.networks.insert(vni, (place, network));
            }
        }
        for (place, vtep) in (0..).zip(vteps) {
            let ip = Ipv6Addr::from_octets(vtep.addr).to_canonical();
            tables
                .vteps
                .insert(VtepAddr(ip), Some(Place { place, max_packet: vtep.max_packet, flags: vtep.flags }));
        }
        fastpath.set_settings(&settings)?;
        Ok(Self::of(fastpath, tables, limits.tables))
    }

    /// By which the daemon that follows finds the tables.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn table_ids(&self) -> Result<TableIds, Error> {
        self.fastpath.table_ids()
    }

    /// Pins the tables in a folder of their own, for a daemon that follows with no right to find them by number.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pin(&self, folder: &Path) -> Result<(), Error> {
        self.fastpath.pin(folder)
    }

    /// Which daemon frames are punted to: this one.
    #[must_use]
    pub fn session(&self) -> u32 {
        lock(&self.tables).settings.session
    }

    /// Ports and underlay are as this daemon wants them, and its workers listen: from here on nothing passes that was
    /// decided before it.
    ///
    /// # Errors
    /// When a table cannot be written.
    pub fn go_live(&self, snapshot: &Arc<Snapshot>) -> Result<(), Error> {
        {
            // Before any epoch is written: those of two daemons may be the same number.
            let mut tables = lock(&self.tables);
            (tables.live, tables.follows) = (true, false);
            // What only the daemon before knew is gone with it.
            tables.settings.flags = 0;
            // From the generation that this makes on flows are this daemon's, and counted (`Settings::since`).
            self.renew(&mut tables)?;
        }
        self.take_snapshot(snapshot)
    }

    /// The program for tenant ports.
    #[must_use]
    pub fn tenant_program(&self) -> BorrowedFd<'_> {
        self.fastpath.programs().tenant.as_fd()
    }

    /// The program for the underlay device.
    #[must_use]
    pub fn underlay_program(&self) -> BorrowedFd<'_> {
        self.fastpath.programs().underlay.as_fd()
    }

    /// The program for the vxlan device that decapsulates GSO packets.
    #[must_use]
    pub fn tunnel_program(&self) -> BorrowedFd<'_> {
        self.fastpath.programs().tunnel.as_fd()
    }

    /// The programs themselves, for trials.
    #[must_use]
    pub const fn programs(&self) -> &Fastpath {
        &self.fastpath
    }

    /// Limits what is punted of each network of a snapshot, which has to be before anything of it does.
    pub fn limit(&self, snapshot: &Snapshot) {
        self.limit_networks(&mut lock(&self.tables), snapshot);
    }

    /// A network that there is no room for has the limit of unserved networks, which is safe and slow.
    fn limit_networks(&self, tables: &mut Tables, snapshot: &Snapshot) {
        let gone: Vec<Vni> =
            tables.limits.keys().copied().filter(|vni| snapshot.network(*vni).is_none()).collect();
        let mut failed = Ok(());
        for vni in gone {
            failed = failed.and(self.fastpath.unlimit(vni.get()));
            tables.limits.remove(&vni);
        }
        for (vni, limit) in snapshot.kernel_limits() {
            if tables.limits.get(&vni) != Some(&limit) {
                match self.fastpath.limit(Some(vni.get()), limit.slow_path, limit.datagrams) {
                    Ok(()) => _ = tables.limits.insert(vni, limit),
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
        }
        if let Err(error) = failed {
            tracing::warn!(%error, "some networks have the slow-path limit of those that are not served here");
        }
    }

    /// Says by which device frames are punted, and at which port the kernel's vxlan device listens.
    ///
    /// # Errors
    /// When a table cannot be written.
    pub fn reach(&self, up: Option<u32>, tunnel_port: Option<u16>) -> Result<(), Error> {
        let mut tables = lock(&self.tables);
        let settings = &mut tables.settings;
        settings.punt_device = up.unwrap_or(settings.punt_device);
        settings.tunnel_port_be = tunnel_port.map_or(settings.tunnel_port_be, u16::to_be_bytes);
        self.fastpath.set_settings(&tables.settings)
    }

    /// Says where the underlay is, or that there is none.
    ///
    /// # Errors
    /// When a table cannot be written.
    pub fn set_underlay(&self, underlay: Option<KernelUnderlay>) -> Result<(), Error> {
        let mut tables = lock(&self.tables);
        if tables.underlay == underlay {
            return Ok(());
        }
        tables.underlay = underlay;
        tables.settings.underlay = underlay.map_or(0, |underlay| underlay.ifindex);
        if let Some(underlay) = underlay {
            tables.settings.vtep = address(underlay.vtep.0.into());
            tables.settings.vxlan_port_be = underlay.port.to_be_bytes();
            tables.settings.dont_fragment = underlay.dont_fragment.into();
            tables.link_mtu = u16::try_from(underlay.mtu).unwrap_or(u16::MAX);
        }
        let narrowed = self.narrow_to_link(&mut tables);
        let renewed = self.renew(&mut tables);
        narrowed.and(renewed).inspect_err(|_| {
            // To be tried again.
            tables.underlay = None;
        })
    }

    /// What flows were told of devices and paths is no longer so: each is punted once more. Flows of a daemon before
    /// are not told of new ones, but stopped in the same step ([`KernelPath::go_live`]).
    fn renew(&self, tables: &mut Tables) -> Result<(), Error> {
        if tables.follows {
            return Ok(());
        }
        tables.settings.generation = tables.settings.generation.wrapping_add(1);
        self.fastpath.set_settings(&tables.settings)
    }

    /// A snapshot is in force: flows of networks that it compiled anew come up once more, and the pipeline decides new ones
    /// until [`KernelPath::program_policies`] is done.
    ///
    /// # Errors
    /// When a table cannot be written; the programs decide nothing then.
    pub fn take_snapshot(&self, snapshot: &Arc<Snapshot>) -> Result<(), Error> {
        let mut tables = lock(&self.tables);
        let ended = self.end_epochs(&mut tables, snapshot);
        let flags = tables.settings.flags;
        tables.settings.flags =
            if ended.is_ok() { flags & !CONFIG_UNDECIDED } else { flags | CONFIG_UNDECIDED };
        if tables.settings.flags != flags {
            self.fastpath.set_settings(&tables.settings)?;
        }
        ended
    }

    fn end_epochs(&self, tables: &mut Tables, snapshot: &Arc<Snapshot>) -> Result<(), Error> {
        let before = tables.snapshot.replace(snapshot.clone());
        tables.unsettled = true;
        let mut ended = self.note_changes(tables, before.as_deref(), snapshot);
        let mut networks = std::mem::take(&mut tables.networks);
        // Each is written on its own: no network's flows depend on another's.
        #[allow(clippy::iter_over_hash_type)]
        for (vni, (place, row)) in &mut networks {
            let network = snapshot.network(*vni).map(AsRef::as_ref);
            let mut in_force = network_row(network, *vni);
            if tables.changing.networks.contains(vni) {
                in_force.marks |= NETWORK_CHANGING;
            }
            if *row != in_force {
                match self.fastpath.set_network(*place, in_force) {
                    Ok(()) => *row = in_force,
                    Err(error) => ended = ended.and(Err(error)),
                }
            }
            if let Some(network) = network {
                self.set_ct_settings(tables, snapshot, network, *place);
                tables.quotas.insert(*vni, network.state.quota.clone());
            }
        }
        tables.networks = networks;
        ended = ended.and(self.spread(tables, snapshot.ports));
        ended = ended.and(self.set_checksums(tables, &snapshot.checksums));
        self.limit_networks(tables, snapshot);
        ended.and(self.reassign(tables, snapshot))
    }

    fn endpoint(&self, tables: &mut Tables, at: Location) -> Option<u32> {
        match at {
            Location::Local(attachment) => tables.attachments.get(attachment).map(|open| open.number),
            Location::Remote(vtep) => self.vtep_place(tables, vtep).map(|place| place | AT_VTEP),
        }
    }

    /// Places are never given to another network: a flow that still names one must not pass by another's epoch.
    fn network_place(&self, tables: &mut Tables, vni: Vni) -> Option<u32> {
        if let Some((place, _)) = tables.networks.get(&vni) {
            return Some(*place);
        }
        let snapshot = tables.snapshot.clone()?;
        let network = snapshot.network(vni)?;
        let place = tables.networks.len() as u32;
        if place >= self.fastpath.places().0 {
            return None;
        }
        let row = network_row(Some(network), vni);
        self.set_ct_settings(tables, &snapshot, network, place);
        self.written(self.fastpath.set_network(place, row))?;
        tables.networks.insert(vni, (place, row));
        tables.quotas.insert(vni, network.state.quota.clone());
        Some(place)
    }

    /// Do addresses that move have the holders that something was decided for?
    fn still_held(&self, tables: &Tables, vni: Vni, bindings: u16) -> bool {
        bindings == 0 || tables.networks.get(&vni).is_some_and(|(_, row)| row.bindings == bindings)
    }

    fn set_bindings(&self, network: &snapshot::Network) {
        let tables = &mut *lock(&self.tables);
        // Read under the lock, so that the last one written is the last there was.
        let version = lock(&network.state.holders).version();
        let Some((place, row)) = tables.networks.get_mut(&network.vni) else { return };
        row.bindings = version;
        let written = self.fastpath.set_network(*place, *row);
        if self.written(written).is_none() {
            // Nothing passes by entries of another generation.
            let _ = self.written(self.renew(tables));
        }
    }

    fn vtep_place(&self, tables: &mut Tables, vtep: VtepAddr) -> Option<u32> {
        if let Some(place) = tables.vteps.get(&vtep) {
            return place.map(|place| place.place);
        }
        // What goes to an address of this machine never meets the underlay device.
        if is_own_address(vtep.0) {
            tables.vteps.insert(vtep, None);
            return None;
        }
        let place = tables.vteps.values().flatten().count() as u32;
        if place >= self.fastpath.places().1 {
            return None;
        }
        let checksums = tables.snapshot.as_ref().map(|snapshot| snapshot.checksums.to(vtep.0));
        let flags = vtep_flags(checksums.unwrap_or(UdpChecksum::Auto));
        let row = Place { place, max_packet: first_path(tables, vtep), flags };
        self.written(self.fastpath.set_vtep(place, vtep_row(vtep, &row)))?;
        tables.vteps.insert(vtep, Some(row));
        Some(place)
    }

    /// A flow that cannot be written stays with the pipeline, which is slower and not wrong.
    fn written<T>(&self, result: Result<T, Error>) -> Option<T> {
        if let Err(error) = &result {
            tracing::debug!(%error, "a flow stays with the pipeline");
        }
        result.ok()
    }
}

/// Flows must be able to come back: a kernel that cannot take one out in one step is none for the fast path.
fn prove_unoffload(fastpath: &Fastpath) -> Result<(), Error> {
    let nobody = FlowKey {
        src: Addr::v4([0; 4]),
        dst: Addr::v4([0; 4]),
        vni: Vni::from_wire([0; 3]),
        sport: 0,
        dport: 0,
        proto: 0,
        leg: Leg::DIRECT,
    };
    let (key, _) = Key::of(&nobody);
    fastpath.install(&key, &Flow::default())?;
    fastpath.end(&key).map(drop)
}

/// Is this an address of this machine? Only then can a socket be bound to it.
#[must_use]
pub fn is_own_address(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}
