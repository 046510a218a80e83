//! Which machines stations may associate, and what these are then: what the files say, made ready to be looked up with each request.
//!
//! What an endpoint in the files has, nobody else gets: neither its MAC in its network, nor its name, nor what it has of a device.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ahash::RandomState;
use eastgate_config::{
    Config, Endpoint, HostRef, Name, Network, Profile, Tenant, VdpDevice, VsiManager, VsiProfile,
};
use eastgate_steering::vdp::{self, FilterEntry, Refusal};
use eastgate_wire::{Attachment, AttachmentMode, MacAddr, PROXY_PREFIX, VlanId};

/// A machine of a network.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(in crate::daemon) struct Seat {
    /// Its tenant
    pub(in crate::daemon) tenant: Name,
    /// Its network there
    pub(in crate::daemon) network: Name,
    /// Its MAC
    pub(in crate::daemon) mac: MacAddr,
}

/// What a machine may be.
pub(in crate::daemon) struct Grant<'t> {
    pub(in crate::daemon) tenant: &'t Arc<Tenant>,
    pub(in crate::daemon) profile: &'t Profile,
    /// Where it is on the device
    pub(in crate::daemon) vlan: Option<VlanId>,
    pub(in crate::daemon) mac: MacAddr,
}

impl Grant<'_> {
    pub(in crate::daemon) fn seat(&self) -> Seat {
        Seat { tenant: self.tenant.name.clone(), network: self.profile.network.clone(), mac: self.mac }
    }
}

/// Why a machine may not be associated.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(in crate::daemon) enum Denied {
    #[error("no profile names VSI manager {0}")]
    Manager(VsiManager),
    #[error("no profile is {0}")]
    Profile(VsiProfile),
    #[error(
        "network {network} of profile {profile} has no part on this host: add it to the network's `hosts`"
    )]
    NotHere { profile: String, network: Name },
    #[error("its filter names no MAC, by which the frames of a machine are told")]
    NoMac,
    #[error("its filter names a GroupID, and none are known")]
    Group,
    #[error("its filter has MAC {0} in more than one VLAN, and a machine is at one place")]
    Twice(MacAddr),
    #[error("MAC {0} is one that the appliance has on such segments")]
    Ours(MacAddr),
    #[error("what has no tag cannot be a machine's of network {0}, which is vlan_aware")]
    Untagged(Name),
    #[error("MAC {mac} is endpoint {endpoint}'s in network {network} of profile {profile}")]
    Taken { mac: MacAddr, endpoint: Name, network: Name, profile: String },
    #[error("there is an endpoint {0} in the configuration")]
    Named(String),
    #[error("{segment} is endpoint {endpoint}'s")]
    NotShared { segment: Attachment, endpoint: String },
    #[error("profile {profile} has {most} machines on this host, and may have no more")]
    ProfileFull { profile: String, most: u32 },
    #[error("there are {0} machines at this device, and may be no more")]
    DeviceFull(u32),
    #[error("{0} different machines were here since the daemon was started, and it numbers no more")]
    NumbersFull(usize),
}

impl Denied {
    /// As the protocol knows it.
    pub(in crate::daemon) const fn refusal(&self) -> Refusal {
        match self {
            Self::Manager(_) => Refusal::UnknownManager,
            Self::Profile(_) | Self::NotHere { .. } => Refusal::UnknownProfile,
            Self::ProfileFull { .. } | Self::DeviceFull(_) | Self::NumbersFull(_) => Refusal::NoRoom,
            Self::NoMac
            | Self::Group
            | Self::Twice(_)
            | Self::Ours(_)
            | Self::Untagged(_)
            | Self::Taken { .. }
            | Self::Named(_)
            | Self::NotShared { .. } => Refusal::NotAllowed,
        }
    }
}

/// Who has what of a device, in the files: a VLAN of it for itself, or a MAC there.
type OfDevice = HashMap<(Option<VlanId>, Option<MacAddr>), String, RandomState>;

/// What may be associated on this host.
pub(in crate::daemon) struct Terms {
    host: Name,
    config: Arc<Config>,
    profiles: BTreeMap<VsiProfile, (Name, Name)>,
    /// Of the networks that profiles are for, by tenant and name: who has which MAC
    macs: HashMap<(Name, Name), HashMap<MacAddr, Name, RandomState>, RandomState>,
    /// Of the devices behind which stations are
    devices: HashMap<Arc<str>, OfDevice, RandomState>,
}

impl Terms {
    /// Of a configuration without what is associated.
    pub(in crate::daemon) fn new(written: Arc<Config>, host: &str) -> Self {
        let mut terms = Self {
            host: host.into(),
            profiles: BTreeMap::new(),
            macs: HashMap::default(),
            devices: HashMap::default(),
            config: written.clone(),
        };
        let here = written.host(host).filter(|here| !here.vdp.is_empty());
        let Some(here) = here else { return terms };
        for (name, tenant) in &written.tenants {
            for profile in tenant.profiles.values() {
                terms.profiles.insert(profile.vsi, (name.clone(), profile.name.clone()));
                let network = (name.clone(), profile.network.clone());
                if let Some(of) = tenant.networks.get(&profile.network) {
                    terms.macs.entry(network).or_insert_with(|| macs_of(of));
                }
            }
        }
        terms.devices.extend(here.vdp.keys().map(|device| (device.clone(), OfDevice::default())));
        for (_, network) in written.networks_of(host) {
            for endpoint in network.endpoints.iter().filter(|endpoint| &*endpoint.host.host == host) {
                let Some(Attachment { device, vlan, mode }) = &endpoint.attachment else { continue };
                let Some(of_device) = terms.devices.get_mut(device) else { continue };
                let mac = match mode {
                    AttachmentMode::Shared(mac) => Some(*mac),
                    AttachmentMode::Access | AttachmentMode::Trunk => None,
                };
                of_device.insert((*vlan, mac), format!("{}/{}", network.tenant, endpoint.name));
            }
        }
        terms
    }

    /// The devices of this host behind which stations are.
    pub(in crate::daemon) fn devices(&self) -> impl Iterator<Item = (&Arc<str>, &VdpDevice)> {
        self.config.host(&self.host).into_iter().flat_map(|host| &host.vdp)
    }

    /// What a profile is that stations name.
    pub(in crate::daemon) fn profile(
        &self,
        named: &vdp::Profile,
    ) -> Result<(&Arc<Tenant>, &Profile), Denied> {
        let manager = VsiManager(named.manager.0);
        let any = VsiProfile { manager, kind: named.kind.get(), version: None };
        let exactly = VsiProfile { version: Some(named.version.0), ..any };
        let found = self.profiles.get(&exactly).or_else(|| self.profiles.get(&any));
        let found = found.and_then(|(tenant, profile)| {
            let tenant = self.config.tenant(tenant)?;
            Some((tenant, tenant.profiles.get(profile)?))
        });
        found.ok_or_else(|| {
            let known = self.profiles.keys().any(|profile| profile.manager == manager);
            if known { Denied::Profile(exactly) } else { Denied::Manager(manager) }
        })
    }

    /// What a machine is at a device, if it may be one.
    pub(in crate::daemon) fn grant(
        &self,
        device: &str,
        named: &vdp::Profile,
        entry: &FilterEntry,
    ) -> Result<Grant<'_>, Denied> {
        let (tenant, profile) = self.profile(named)?;
        if entry.group.is_some() {
            return Err(Denied::Group);
        }
        let (mac, vlan) = (entry.mac.ok_or(Denied::NoMac)?, entry.vid);
        if mac.0.starts_with(&PROXY_PREFIX) {
            return Err(Denied::Ours(mac));
        }
        let called = || format!("{}/{}", tenant.name, profile.name);
        let network = tenant.networks.get(&profile.network).filter(|network| network.is_member(&self.host));
        let not_here = || Denied::NotHere { profile: called(), network: profile.network.clone() };
        let network = network.ok_or_else(not_here)?;
        if vlan.is_none() && network.vlan_aware {
            return Err(Denied::Untagged(network.name.clone()));
        }
        let macs = self.macs.get(&(tenant.name.clone(), network.name.clone()));
        if let Some(endpoint) = macs.and_then(|macs| macs.get(&mac)) {
            let (endpoint, network) = (endpoint.clone(), network.name.clone());
            return Err(Denied::Taken { mac, endpoint, network, profile: called() });
        }
        let name = machine_name(profile, mac);
        if tenant.endpoint(&name).is_some() {
            return Err(Denied::Named(format!("{}/{name}", tenant.name)));
        }
        let of_device = self.devices.get(device);
        let owner = |mac| of_device.and_then(|of| of.get(&(vlan, mac)));
        if let Some(endpoint) = owner(None).or_else(|| owner(Some(mac))) {
            let segment = Attachment { device: device.into(), vlan, mode: AttachmentMode::Shared(mac) };
            return Err(Denied::NotShared { segment, endpoint: endpoint.clone() });
        }
        Ok(Grant { tenant, profile, vlan, mac })
    }

    /// The endpoint that a machine is.
    pub(in crate::daemon) fn endpoint(&self, device: &Arc<str>, grant: &Grant<'_>) -> Endpoint {
        let Grant { profile, vlan, mac, .. } = grant;
        Endpoint {
            name: machine_name(profile, *mac),
            host: HostRef { host: self.host.clone(), at: profile.at.clone() },
            attachment: Some(Attachment::shared(device.clone(), *vlan, *mac)),
            port_at: None,
            mac: *mac,
            ..(*profile.machine).clone()
        }
    }
}

/// Who has which MAC in a network, pairs included.
fn macs_of(network: &Network) -> HashMap<MacAddr, Name, RandomState> {
    let of = |endpoint: &Arc<Endpoint>| {
        let pairs = endpoint.allowed_pairs.iter().filter_map(|pair| pair.mac);
        let name = endpoint.name.clone();
        pairs.chain(std::iter::once(endpoint.mac)).map(move |mac| (mac, name.clone())).collect::<Vec<_>>()
    };
    network.endpoints.iter().flat_map(of).collect()
}

/// What a machine is called: its profile and its MAC.
pub(in crate::daemon) fn machine_name(profile: &Profile, mac: MacAddr) -> Name {
    format!("{}.{}", profile.name, digits(mac)).into()
}

/// Whether a machine with this MAC may be called so.
pub(in crate::daemon) fn is_machine_name(name: &str, mac: MacAddr) -> bool {
    name.rsplit_once('.').is_some_and(|(_, last)| last == digits(mac))
}

fn digits(mac: MacAddr) -> String {
    mac.0.iter().map(|octet| format!("{octet:02x}")).collect()
}
