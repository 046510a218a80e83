//! What the programs decide new flows by: compiled policies, and the endpoints that they are about.
//!
//! A network that changes begins with its epoch in `networks`: from then on nothing of it is decided in the kernel. Then
//! its stations are written, as far as they are others than before, and last its policy, which names the epoch. So no
//! program ever decides by half of a change, and a network that could not be written is decided by the pipeline.

use std::collections::HashMap;

use eastgate_fastpath::{
    Error, LANE_INHERIT_TOS, LANE_INHERIT_TTL, NETWORK_HUB, NO_RULE, Network as Row, Policy, STATION_PEER,
    STATION_SPOKEN_TO, Station, StationKey, Vtep, address,
};
use eastgate_policy::{admission, rule::Direction};
use eastgate_steering::proxy_mac;
use eastgate_vtep::{
    ecn::{OuterTos, OuterTtl},
    fdb::Location,
    flood::split_horizon,
    mtu,
    peers::PeerKind,
};
use eastgate_wire::{Addr, PortId, Vni, VtepAddr};

use super::{KernelPath, Place, Tables, born::timeouts};
use crate::{
    pipeline::{forward::family, shared::lock},
    snapshot::{Endpoint, Network, Snapshot},
};

/// Policies that are put in force by one call.
const AT_ONCE: usize = 256;
/// The TTL of outer headers that inherit none
const OUTER_TTL: u8 = 64;

/// What the programs decide by in a network.
#[derive(Debug)]
pub(super) struct Decided {
    place: u32,
    epoch: u32,
    stations: HashMap<Addr, Station>,
    /// Memory of its policy
    bytes: usize,
}

impl KernelPath {
    /// The programs decide by the policies of this snapshot. Networks that did not change keep what they have.
    pub(super) fn decide_by(&self, snapshot: &Snapshot) -> Result<(), Error> {
        self.forget_networks(snapshot)?;
        let mut ready = Vec::new();
        for network in snapshot.networks() {
            // Not for longer: workers want the tables, too.
            let mut tables = lock(&self.tables);
            if !tables.live || tables.decided.get(&network.vni).is_some_and(|it| it.epoch == network.epoch) {
                continue;
            }
            match self.write_network(&mut tables, snapshot, network) {
                Ok(policy) => ready.extend(policy),
                Err(error) => {
                    tables.decided.remove(&network.vni);
                    tracing::warn!(network = %network.name, %error, "new flows are decided by the pipeline");
                }
            }
            drop(tables);
            if ready.len() >= AT_ONCE {
                self.fastpath.set_policies(&ready)?;
                ready.clear();
            }
        }
        self.fastpath.set_policies(&ready)
    }

    fn forget_networks(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let mut tables = lock(&self.tables);
        let gone: Vec<Vni> =
            tables.decided.keys().copied().filter(|vni| snapshot.network(*vni).is_none()).collect();
        for vni in gone {
            let Some(decided) = tables.decided.remove(&vni) else { continue };
            for addr in decided.stations.into_keys() {
                self.fastpath.remove_station(&station_key(vni, addr))?;
            }
            self.fastpath.remove_policy(decided.place)?;
        }
        Ok(())
    }

    /// Writes all but the last step, which is to put the policy in force; nothing where there is no room for one.
    fn write_network(
        &self,
        tables: &mut Tables,
        snapshot: &Snapshot,
        network: &Network,
    ) -> Result<Option<(u32, Policy)>, Error> {
        let vni = network.vni;
        let Some(place) = self.network_place(tables, vni, network.epoch) else { return Ok(None) };
        let before = tables.decided.remove(&vni);
        let words = network.policy.words(network.epoch);
        let bytes = size_of_val(&*words);
        let others: usize = tables.decided.values().map(|decided| decided.bytes).sum();
        let room = (self.sizes.policy_mib as usize) << 20;
        let mut decided = Decided {
            place,
            epoch: network.epoch,
            stations: before.map_or_else(HashMap::new, |it| it.stations),
            bytes,
        };
        let wanted = self.stations_of(tables, snapshot, network, place);
        let gone: Vec<Addr> =
            decided.stations.keys().copied().filter(|addr| !wanted.contains_key(addr)).collect();
        for addr in gone {
            self.fastpath.remove_station(&station_key(vni, addr))?;
            decided.stations.remove(&addr);
        }
        let mut written = Ok(());
        // Each is written on its own, and none counts before the policy is in force.
        #[allow(clippy::iter_over_hash_type)]
        for (addr, station) in wanted {
            if decided.stations.get(&addr) != Some(&station) {
                written = written.and(self.fastpath.set_station(&station_key(vni, addr), &station));
                decided.stations.insert(addr, station);
            }
        }
        self.set_terms(tables, snapshot, network, place);
        if others + bytes > room {
            tracing::warn!(network = %network.name, bytes, "limits.policy_mib has no room for a network's policy: new flows are decided by the pipeline");
            tables.decided.insert(vni, Decided { bytes: 0, ..decided });
            self.fastpath.remove_policy(place)?;
            return Ok(None);
        }
        tables.decided.insert(vni, decided);
        written?;
        Ok(Some((place, Policy::load(&words)?)))
    }

    fn stations_of(
        &self,
        tables: &mut Tables,
        snapshot: &Snapshot,
        network: &Network,
        place: u32,
    ) -> HashMap<Addr, Station> {
        let mut stations = HashMap::new();
        for endpoint in &network.endpoints {
            for addr in &endpoint.sender.addresses {
                if let Some(station) = self.station_at(tables, snapshot, network, place, endpoint, *addr) {
                    stations.insert(*addr, station);
                }
            }
        }
        stations
    }

    /// An endpoint's address for the programs. None where there is more to check than where its packets come from and with
    /// which MAC, or where nobody can be reached by it.
    fn station_at(
        &self,
        tables: &mut Tables,
        snapshot: &Snapshot,
        network: &Network,
        place: u32,
        endpoint: &Endpoint,
        addr: Addr,
    ) -> Option<Station> {
        let owns = |found: Option<&Endpoint>| found.is_some_and(|found| found.id == endpoint.id);
        let is_plain = match endpoint.location {
            Location::Local(_) => false,
            Location::Remote(vtep) => match network.peers.kind(vtep)? {
                PeerKind::Plain if vtep.0.is_ipv6() => return None,
                kind => kind == PeerKind::Plain,
            },
        };
        let usable = endpoint.sender.port_security
            && endpoint.mac.is_station()
            && endpoint.mac != network.proxy_mac
            && admission::is_usable(addr)
            && !snapshot.site.is_reserved(addr)
            && owns(network.by_mac(endpoint.mac))
            && owns(network.by_address(addr));
        if !usable {
            return None;
        }
        let mut flags = 0;
        if let Location::Local(port) = endpoint.location
            && tables.ports.get(&port)?.0.is_veth
        {
            flags |= STATION_PEER;
        }
        if network.proxy && (is_plain || endpoint.port().is_some()) {
            flags |= STATION_SPOKEN_TO;
        }
        let ruleset = |direction| match network.policy.ruleset(endpoint.id, direction) {
            Some(ruleset) if endpoint.policed_here => ruleset.number(),
            _ => NO_RULE,
        };
        // One that is policed has rules in either direction, an empty list where nobody wrote any.
        let rulesets = [ruleset(Direction::Ingress), ruleset(Direction::Egress)];
        if endpoint.policed_here && rulesets.contains(&NO_RULE) {
            return None;
        }
        Some(Station {
            network: place,
            at: self.station(tables, endpoint.location)?,
            mac: endpoint.mac.0,
            flags,
            identity: network.policy.identity(addr)?.number(),
            rulesets,
            endpoint: endpoint.id.0,
        })
    }

    /// The endpoint at a port has come, or has gone.
    pub(super) fn renew_station(&self, tables: &mut Tables, port: PortId) -> Result<(), Error> {
        let Some(snapshot) = tables.snapshot.clone() else { return Ok(()) };
        let Some((network, endpoint)) = snapshot.at_port(port) else { return Ok(()) };
        let (vni, epoch) = (network.vni, network.epoch);
        let Some(place) = tables.decided.get(&vni).filter(|it| it.epoch == epoch).map(|it| it.place) else {
            return Ok(());
        };
        for addr in &endpoint.sender.addresses {
            let station = self.station_at(tables, &snapshot, network, place, endpoint, *addr);
            let Some(decided) = tables.decided.get_mut(&vni) else { continue };
            if decided.stations.get(addr) == station.as_ref() {
                continue;
            }
            match station {
                Some(station) => {
                    self.fastpath.set_station(&station_key(vni, *addr), &station)?;
                    decided.stations.insert(*addr, station);
                }
                None => {
                    self.fastpath.remove_station(&station_key(vni, *addr))?;
                    decided.stations.remove(addr);
                }
            }
        }
        Ok(())
    }

    /// What flows of a network last, and which SYNs are not for the programs.
    fn set_terms(&self, tables: &Tables, snapshot: &Snapshot, network: &Network, place: u32) {
        let mss_mtu = if network.mss_clamp {
            let derived = mtu::tenant_mtu(link_mtu(tables), family(snapshot.vtep), 0);
            network.mtu.map_or(derived, |mtu| mtu.min(derived))
        } else {
            0
        };
        self.fastpath.terms().set(place, &timeouts(&network.tracking), mss_mtu.into());
    }

    /// The link's MTU is another one: nothing that is larger is sent before someone has looked at each path.
    pub(super) fn narrow_to_link(&self, tables: &mut Tables) -> Result<(), Error> {
        let link = link_mtu(tables);
        self.set_paths(tables, |vtep, before| before.min(mtu::tenant_mtu(link, family(vtep), 0).into()))?;
        if let Some(snapshot) = tables.snapshot.clone() {
            // Each is written on its own.
            #[allow(clippy::iter_over_hash_type)]
            for (vni, decided) in &tables.decided {
                if let Some(network) = snapshot.network(*vni) {
                    self.set_terms(tables, &snapshot, network, decided.place);
                }
            }
        }
        Ok(())
    }

    /// Says of each VTEP how large packets to it may be, by the MTU of the path.
    pub(super) fn set_path_mtus(&self, mtu_to: &dyn Fn(VtepAddr) -> u16) -> Result<(), Error> {
        let tables = &mut *lock(&self.tables);
        self.set_paths(tables, |vtep, _| mtu::tenant_mtu(mtu_to(vtep), family(vtep), 0).into())
    }

    fn set_paths(&self, tables: &mut Tables, max_packet: impl Fn(VtepAddr, u32) -> u32) -> Result<(), Error> {
        // Each is written on its own.
        #[allow(clippy::iter_over_hash_type)]
        for (vtep, place) in &mut tables.vteps {
            let Some(place) = place else { continue };
            let max_packet = max_packet(*vtep, place.max_packet);
            if max_packet != place.max_packet {
                place.max_packet = max_packet;
                self.fastpath.set_vtep(place.place, vtep_row(*vtep, place))?;
            }
        }
        Ok(())
    }
}

/// A VTEP that nothing is known of yet but the link to it.
pub(super) fn first_path(tables: &Tables, vtep: VtepAddr) -> u32 {
    mtu::tenant_mtu(link_mtu(tables), family(vtep), 0).into()
}

pub(super) fn vtep_row(vtep: VtepAddr, place: &Place) -> Vtep {
    Vtep { addr: address(vtep.0.into()), max_packet: place.max_packet }
}

/// A network with the epoch that is in force there; with none of it left, nothing is.
pub(super) fn network_row(network: Option<&Network>, vni: Vni, epoch: u32) -> Row {
    let mut row = Row { vni: vni.get(), epoch, mac: proxy_mac(vni).0, ttl: OUTER_TTL, ..Row::default() };
    let Some(network) = network else { return row };
    match network.encapsulation.tos {
        OuterTos::Fixed(tos) => row.tos = tos,
        OuterTos::Inherit => row.lane_flags |= LANE_INHERIT_TOS,
    }
    match network.encapsulation.ttl {
        OuterTtl::Fixed(ttl) => row.ttl = ttl,
        OuterTtl::Inherit => row.lane_flags |= LANE_INHERIT_TTL,
    }
    // Whichever VTEPs they are
    let somewhere = Location::Remote(VtepAddr(std::net::Ipv4Addr::UNSPECIFIED.into()));
    if split_horizon(network.topology, somewhere, somewhere).is_ok() {
        row.marks |= NETWORK_HUB;
    }
    row
}

fn station_key(vni: Vni, addr: Addr) -> StationKey {
    StationKey { addr: address(addr), vni: vni.get() }
}

fn link_mtu(tables: &Tables) -> u16 {
    tables.underlay.map_or(0, |underlay| u16::try_from(underlay.mtu).unwrap_or(u16::MAX))
}
