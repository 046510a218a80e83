//! The packet's path in the kernel, for flows between endpoints.
//!
//! The programs (`bpf/`) hold frames of flows to the flow's state, and deliver or encapsulate them. New flows are decided by the
//! pipeline's own compiled policy, copied into tables; by a policy-cache entry, where the pipeline has decided for the same pair and
//! service before; or by the pipeline. What the programs do not know or what does not fit is punted. This crate loads the
//! programs and writes their tables; where they are attached is the caller's business.

mod attachments;
pub mod cost;
mod created;
mod datagram;
mod guard;
mod layout;
mod limits;
mod load;
pub mod numbers;
mod pins;
mod policy;
mod punt;
mod punt_limit;
mod recheck;
mod stats;
pub mod tcx;
#[cfg(test)]
mod tests;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapInfo, ProgramInput};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use self::load::{Loaded, load, open};

pub use self::{
    created::{Accounts, CtSettings, TakeResult},
    datagram::{DatagramOf, Passed},
    guard::Guard,
    layout::{
        ANSWER_MAX, AT_VTEP, ATTACHMENT_ANY_VLAN, ATTACHMENT_PEER, Answer, Attachment, AttachmentKey,
        CHANGED_ADDRESS, CHANGED_MAC, CONFIG_CROWDED, CONFIG_UNDECIDED, CONTROL_PORTS, CachedPolicy,
        ChangedKey, ClosedFlow, DEVICE_NAME, Denied, DeniedKey, ENDPOINT_OWN_TIMEOUTS, ENDPOINT_PROXIED,
        Egress, Endpoint, EndpointKey, Ends, Entropy, FLOW_KERNEL_CREATED, FLOW_RELATED, FLOW_REPLIED,
        FLOW_RESERVED, FLOW_STALE, FLOW_STREAM, FORM_NAMES_MAC, FORM_ND, FORM_TO_ALL, Flow, FlowDir, Key,
        LAYOUT, LIMITED_MAX, Limited, NETWORK_CHANGING, NETWORK_HUB, NETWORK_STATELESS, NO_EPOCH, NO_RULE,
        NeighborKey, Network, PUNT_HASH_AT, PUNT_HEADER, PolicyCacheKey, PolicyDrop, PolicyDropKey, STATES,
        STRAY_ANY_VLAN, STRAY_LINK, Settings, Stray, StrayKey, TEMPLATE_FROM_US, TEMPLATE_INHERIT_TOS,
        TEMPLATE_INHERIT_TTL, TEMPLATE_OPEN, TEMPLATE_ROUTED, TEMPLATE_TO_US, TcpSide, Template, VTEP_NO_SUM,
        VTEP_SUM, Vtep, address, attachment_of,
    },
    limits::Limits,
    pins::{is_pinned, unpin},
    policy::Policy,
    punt::PUNTS,
    stats::Stats,
};

/// The compiled programs. ELF readers want the start of a file aligned.
#[repr(align(8))]
struct Aligned<B: ?Sized>(B);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/fastpath.bpf.o")));

/// Why the fast path is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel did not take the programs, and this is what it said last.
    #[error("the kernel did not take the eBPF programs: {source}: {said}")]
    Refused {
        /// Why
        #[source]
        source: libbpf_rs::Error,
        /// The end of the verifier's log
        said: String,
    },
    /// The kernel did not take the programs.
    #[error("the kernel did not take the eBPF programs: {0}")]
    Load(#[source] libbpf_rs::Error),
    /// The embedded object lacks something: it was not built from these sources.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    /// A table could not be read or written.
    #[error("eBPF table {table}: {source}")]
    Table {
        /// Which
        table: &'static str,
        /// Why
        #[source]
        source: libbpf_rs::Error,
    },
    /// A program could not be tried.
    #[error("a trial run of an eBPF program: {0}")]
    Trial(#[source] libbpf_rs::Error),
    /// The tables of the daemon before are gone, or another version's.
    #[error("the tables of the daemon before cannot be taken over: {0}")]
    Foreign(String),
    /// Tables could not be pinned.
    #[error("eBPF tables cannot be pinned: {0}")]
    Pin(#[source] libbpf_rs::Error),
    /// No number is left for another entry: those that are given are still in use.
    #[error("eBPF table {0} is full")]
    Full(&'static str),
    /// A file descriptor could not be duplicated.
    #[error("out of file descriptors: {0}")]
    Descriptor(#[from] io::Error),
}

/// The loaded programs and their tables. They live until the last program is detached and this is dropped.
#[derive(Debug)]
pub struct Fastpath {
    loaded: Loaded,
    flows: MapHandle,
    attachments: MapHandle,
    egress: MapHandle,
    strays: MapHandle,
    networks: MapHandle,
    vteps: MapHandle,
    buckets: MapHandle,
    settings: MapHandle,
    stats: MapHandle,
    punts: MapHandle,
    policy_cache: MapHandle,
    expected: MapHandle,
    neighbor_cache: MapHandle,
    entropy: MapHandle,
    closed_flows: MapHandle,
    endpoints: MapHandle,
    policies: MapHandle,
    policy_drops: MapHandle,
    stateless: MapHandle,
    denied: MapHandle,
    limited: MapHandle,
    pub(crate) datagrams: MapHandle,
    /// The table that `ct_settings` is mapped from
    ct_settings_table: MapHandle,
    ct_settings: CtSettings,
    accounts: Arc<Accounts>,
    changed: MapHandle,
    take: OwnedFd,
    recheck: OwnedFd,
    programs: Programs,
}

/// The kernel's numbers of the tables that outlive a daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
// A version that had other tables left other numbers: what is missing is not there.
#[serde(default)]
pub struct TableIds {
    flows: u32,
    attachments: u32,
    egress: u32,
    networks: u32,
    vteps: u32,
    settings: u32,
    ct_settings: u32,
    neighbor_cache: u32,
}

impl TableIds {
    /// A name that no other tables on this machine have while these are there
    #[must_use]
    pub fn name(&self) -> String {
        format!("eastgate-{}", self.flows)
    }

    /// With the tables' names. This is the list of what outlives a daemon.
    const fn named(&self) -> [(&'static str, u32); 8] {
        [
            ("flows", self.flows),
            ("attachments", self.attachments),
            ("egress", self.egress),
            ("networks", self.networks),
            ("vteps", self.vteps),
            ("settings", self.settings),
            ("ct_settings", self.ct_settings),
            ("neighbor_cache", self.neighbor_cache),
        ]
    }

    fn id(&self, table: &str) -> Option<u32> {
        self.named().into_iter().find_map(|(name, id)| (name == table).then_some(id))
    }
}

/// What a program did with a frame in a trial.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trial {
    /// Its verdict, as traffic control has them: -1 goes on, 2 drops, 7 redirects
    pub verdict: i32,
    /// The frame as the program left it
    pub frame: Vec<u8>,
    /// Of a GSO packet: where it is still to be cut; otherwise 0
    pub segment: u16,
}

/// `struct __sk_buff` of linux/bpf.h, as far as a trial fills it in.
mod trial {
    pub(super) const CONTEXT: usize = 192;
    pub(super) const IFINDEX: usize = 40;
    pub(super) const GSO_SIZE: usize = 176;
    /// The most that a program puts in front of a frame.
    pub(super) const ROOM: usize = 128;
}

/// The programs, to be attached at the ingress of devices.
#[derive(Debug)]
pub struct Programs {
    /// At the ingress of every device with attachments
    pub tenant: OwnedFd,
    /// At the ingress of the underlay device
    pub underlay: OwnedFd,
    /// At the ingress of the vxlan device that decapsulates GSO packets
    pub tunnel: OwnedFd,
}

impl Fastpath {
    /// Loads the programs with empty tables.
    ///
    /// # Errors
    /// What the kernel says; without the privilege to load programs above all.
    pub fn load(limits: Limits) -> Result<Self, Error> {
        Self::of(load(open(&limits)?)?)
    }

    /// Loads the programs with the tables of a daemon before, which the kernel keeps for as long as its programs are
    /// attached. They are found where they are `pinned`, or else by their numbers, and keep their size; `limits` are for
    /// the others. What was counted begins anew.
    ///
    /// # Errors
    /// [`Error::Foreign`] when the tables are gone, or of another layout; what the kernel says.
    pub fn take_over(tables: &TableIds, pinned: Option<&Path>, limits: &Limits) -> Result<Self, Error> {
        let foreign = |error: libbpf_rs::Error| Error::Foreign(error.to_string());
        let mut open = open(limits)?;
        for mut map in open.maps_mut() {
            let Some((name, id)) = map.name().to_str().and_then(|name| Some((name, tables.id(name)?))) else {
                continue;
            };
            let kept = match pinned {
                Some(folder) => pins::pinned(folder, name),
                None => MapHandle::from_map_id(id),
            };
            let kept = kept.map_err(foreign)?;
            let same = MapInfo::new(kept.as_fd()).map_err(foreign)?.info.id == id
                && kept.name() == map.name()
                && kept.map_type() == map.map_type()
                && (kept.key_size(), kept.value_size()) == (map.key_size(), map.value_size());
            if !same {
                return Err(Error::Foreign(format!("table {id} is not {}", map.name().display())));
            }
            map.reuse_fd(kept.as_fd()).map_err(Error::Load)?;
        }
        let taken = Self::of(load(open)?)?;
        match taken.settings()? {
            settings if settings.layout == LAYOUT => Ok(taken),
            settings => Err(Error::Foreign(format!("layout {}, and this is {LAYOUT}", settings.layout))),
        }
    }

    fn of(loaded: Loaded) -> Result<Self, Error> {
        let map = |name: &'static str| {
            let found = loaded.tables.maps().find(|map| map.name() == name).ok_or(Error::Missing(name))?;
            MapHandle::try_from(&found).map_err(Error::Load)
        };
        let program = |name: &'static str| {
            let found = loaded.program(name).ok_or(Error::Missing(name))?;
            Ok::<_, Error>(found.as_fd().try_clone_to_owned()?)
        };
        let (flows, networks) = (map("flows")?, map("networks")?);
        let (attachments, egress, strays) = (map("attachments")?, map("egress")?, map("strays")?);
        let (vteps, settings, stats, punts) = (map("vteps")?, map("settings")?, map("stats")?, map("punts")?);
        let programs = Programs {
            tenant: program("tenant")?,
            underlay: program("underlay")?,
            tunnel: program("tunnel")?,
        };
        let (policy_cache, neighbor_cache) = (map("policy_cache")?, map("neighbor_cache")?);
        let expected = map("expected")?;
        let (entropy, closed_flows, buckets) = (map("entropy")?, map("closed_flows")?, map("buckets")?);
        let (endpoints, policies, policy_drops) = (map("endpoints")?, map("policies")?, map("policy_drops")?);
        let (denied, limited, stateless) = (map("denied")?, map("limited")?, map("stateless")?);
        let datagrams = map("datagrams")?;
        let ct_settings_table = map("ct_settings")?;
        let ct_settings = CtSettings::of(&ct_settings_table)?;
        let accounts = Arc::new(Accounts::of(&map("accounts")?)?);
        let changed = map("changed")?;
        let (take, recheck) = (program("take")?, program("recheck")?);
        Ok(Self {
            loaded,
            flows,
            attachments,
            egress,
            strays,
            networks,
            vteps,
            buckets,
            settings,
            stats,
            punts,
            policy_cache,
            expected,
            neighbor_cache,
            entropy,
            closed_flows,
            endpoints,
            policies,
            policy_drops,
            denied,
            limited,
            stateless,
            datagrams,
            ct_settings_table,
            ct_settings,
            accounts,
            changed,
            take,
            recheck,
            programs,
        })
    }

    /// By which the daemon that follows finds the tables.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn table_ids(&self) -> Result<TableIds, Error> {
        let id = |map: &MapHandle, table| match MapInfo::new(map.as_fd()) {
            Ok(info) => Ok(info.info.id),
            Err(source) => Err(Error::Table { table, source }),
        };
        Ok(TableIds {
            flows: id(&self.flows, "flows")?,
            attachments: id(&self.attachments, "attachments")?,
            egress: id(&self.egress, "egress")?,
            networks: id(&self.networks, "networks")?,
            vteps: id(&self.vteps, "vteps")?,
            settings: id(&self.settings, "settings")?,
            ct_settings: id(&self.ct_settings_table, "ct_settings")?,
            neighbor_cache: id(&self.neighbor_cache, "neighbor_cache")?,
        })
    }

    /// Runs a program, by its name, on a frame as if it came in at the device with index `ifindex`, and says what it
    /// would do with it; nothing is sent. Flows and counters move on as in earnest. `segment` makes it a GSO packet.
    ///
    /// # Errors
    /// When the kernel does not run it: a frame larger than a page, for one.
    pub fn try_program(
        &self,
        program: &'static str,
        frame: &[u8],
        ifindex: u32,
        segment: u16,
    ) -> Result<Trial, Error> {
        let found = self.loaded.program(program).ok_or(Error::Missing(program))?;
        let mut context = [0u8; trial::CONTEXT];
        context[trial::IFINDEX..trial::IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
        context[trial::GSO_SIZE..trial::GSO_SIZE + 4].copy_from_slice(&u32::from(segment).to_ne_bytes());
        let mut context_left = [0u8; trial::CONTEXT];
        let mut left = vec![0; frame.len() + trial::ROOM];
        let input = ProgramInput {
            context_in: Some(&mut context),
            context_out: Some(&mut context_left),
            data_in: Some(frame),
            data_out: Some(&mut left),
            ..ProgramInput::default()
        };
        let output = found.test_run(input).map_err(Error::Trial)?;
        let (verdict, len) =
            (output.return_value.cast_signed(), output.data.as_ref().map_or(0, |data| data.len()));
        left.truncate(len);
        let segment = u16::from_ne_bytes([context_left[trial::GSO_SIZE], context_left[trial::GSO_SIZE + 1]]);
        Ok(Trial { verdict, frame: left, segment })
    }

    /// The programs.
    #[must_use]
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The tables that are not as large as `limits` say: name, entries they may have, entries they should.
    #[must_use]
    pub fn missized(&self, limits: &Limits) -> Vec<(String, u32, u32)> {
        let sizes = self.loaded.tables.maps().filter_map(|map| {
            let name = map.name().to_str()?.to_owned();
            // Those are as large as `attachments`, and say nothing more.
            let wanted = limits.of(&name).filter(|_| !["egress", "strays"].contains(&&*name))?;
            Some((name, map.max_entries(), wanted))
        });
        sizes.filter(|(_, has, wanted)| has != wanted).collect()
    }

    /// How many networks and VTEPs there are places for.
    #[must_use]
    pub fn places(&self) -> (u32, u32) {
        (self.networks.max_entries(), self.vteps.max_entries())
    }

    /// What holds for all programs.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn settings(&self) -> Result<Settings, Error> {
        read(&self.settings, "settings", 0)
    }

    /// Writes what holds for all programs.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn set_settings(&self, settings: &Settings) -> Result<(), Error> {
        write(&self.settings, "settings", &0u32, settings)
    }

    /// Puts a network at a place, with the epoch in force there: its flows of other epochs pass no more.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn set_network(&self, place: u32, network: Network) -> Result<(), Error> {
        write(&self.networks, "networks", &place, &network)
    }

    /// The networks that have places, in their order.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn networks(&self) -> Result<Vec<Network>, Error> {
        taken(&self.networks, "networks", &Network::default())
    }

    /// The VTEPs that have places, in their order.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn vteps(&self) -> Result<Vec<Vtep>, Error> {
        taken(&self.vteps, "vteps", &Vtep::default())
    }

    /// Puts a VTEP at a place. A place is never given to another VTEP: flows may still name it.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn set_vtep(&self, place: u32, vtep: Vtep) -> Result<(), Error> {
        write(&self.vteps, "vteps", &place, &vtep)
    }

    /// Lets a flow pass.
    ///
    /// # Errors
    /// [`Error::Table`]; when the table is full among it. The flow does not pass then.
    pub fn install(&self, key: &Key, flow: &Flow) -> Result<(), Error> {
        write(&self.flows, "flows", key, flow)
    }

    /// Stops a flow from passing, wherever it has got to, and gives its place up.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn remove_flow(&self, key: &Key) -> Result<(), Error> {
        remove(&self.flows, "flows", key.as_bytes())
    }

    /// Where a flow has got to; nothing when it is not there.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn peek(&self, key: &Key) -> Result<Option<Flow>, Error> {
        let mut flow = Flow::new_zeroed();
        let found = self.flows.lookup_into(key.as_bytes(), flow.as_mut_bytes(), MapFlags::LOCK);
        found.map(|found| found.then_some(flow)).map_err(|source| Error::Table { table: "flows", source })
    }

    /// Lets the programs give an answer again, in the place of one that they had for such requests.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn set_answer(&self, key: &NeighborKey, answer: &Answer) -> Result<(), Error> {
        write(&self.neighbor_cache, "neighbor_cache", key, answer)
    }

    /// Requests that there are answers for, in force or not.
    pub fn answered(&self) -> impl Iterator<Item = NeighborKey> {
        // A table that changes meanwhile may be walked without end.
        let most = self.neighbor_cache.max_entries() as usize;
        self.neighbor_cache.keys().filter_map(|key| NeighborKey::read_from_bytes(&key).ok()).take(most)
    }

    /// What the programs answer such requests with.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn answer(&self, key: &NeighborKey) -> Result<Option<Answer>, Error> {
        let mut answer = Answer::new_zeroed();
        let found = self.neighbor_cache.lookup_into(key.as_bytes(), answer.as_mut_bytes(), MapFlags::ANY);
        found
            .map(|found| found.then_some(answer))
            .map_err(|source| Error::Table { table: "neighbor_cache", source })
    }
}

fn read<V: FromZeros + FromBytes + IntoBytes>(
    map: &MapHandle,
    table: &'static str,
    key: u32,
) -> Result<V, Error> {
    let mut value = V::new_zeroed();
    map.lookup_into(key.as_bytes(), value.as_mut_bytes(), MapFlags::ANY)
        .map(|_| value)
        .map_err(|source| Error::Table { table, source })
}

/// The values of an array from its first place on, up to one that is free.
fn taken<V>(map: &MapHandle, table: &'static str, free: &V) -> Result<Vec<V>, Error>
where
    V: FromZeros + FromBytes + IntoBytes + PartialEq,
{
    let values = (0..map.max_entries()).map(|place| read(map, table, place));
    values.take_while(|value: &Result<V, _>| value.as_ref().map_or(true, |value| value != free)).collect()
}

fn write<K, V>(map: &MapHandle, table: &'static str, key: &K, value: &V) -> Result<(), Error>
where
    K: IntoBytes + zerocopy::Immutable,
    V: IntoBytes + zerocopy::Immutable,
{
    map.update(key.as_bytes(), value.as_bytes(), MapFlags::ANY)
        .map_err(|source| Error::Table { table, source })
}

fn remove(map: &MapHandle, table: &'static str, key: &[u8]) -> Result<(), Error> {
    match map.delete(key) {
        Err(source) if source.kind() != libbpf_rs::ErrorKind::NotFound => Err(Error::Table { table, source }),
        _ => Ok(()),
    }
}
