//! What stations have associated, and the devices that they are behind.

use eastgate_api::{Failure, Filter, List, MachineRow, StationPort};
use eastgate_dataplane::snapshot::Snapshot;
use eastgate_wire::{MacAddr, VlanId};

use super::{View, ends::Ends, part::Part, port_state, sight::Sight};
use crate::{
    daemon::{
        Visible,
        vdp::{
            book::Machine,
            terms::{Seat, machine_name},
        },
    },
    io::clock,
};

impl View {
    pub(super) fn machines(&self, snapshot: &Snapshot, filter: &Filter) -> Result<List<MachineRow>, Failure> {
        let (part, ends) = (Part::of(filter)?, Ends::of(snapshot, filter)?);
        let (now, sight) = (clock::now(), Sight::of(snapshot, &filter.scope));
        let row = |(seat, machine): (&Seat, &Machine)| {
            let tenant = snapshot.config.tenant(&seat.tenant)?;
            let network = tenant.networks.get(&seat.network)?;
            let profile = tenant.profiles.get(&machine.profile)?;
            let named = machine.by.vsi.profile;
            Some(MachineRow {
                vni: network.vni,
                endpoint: format!("{}/{}", seat.tenant, machine_name(profile, seat.mac)),
                profile: format!("{}/{}", seat.tenant, machine.profile),
                manager: named.manager.to_string(),
                kind: named.kind.get(),
                version: named.version.0,
                mac: seat.mac,
                device: machine.by.device.to_string(),
                vlan: machine.vlan.map(VlanId::get),
                station: machine.by.station,
                vsi: machine.by.vsi.id.to_string(),
                in_force: machine.in_force,
                since_s: now.since(machine.since).as_secs(),
            })
        };
        let wanted = |row: &MachineRow| {
            let is_meant = |mac: MacAddr| filter.mac.is_none_or(|wanted| wanted == mac);
            sight.has(row.vni)
                && filter.vni.is_none_or(|vni| vni == row.vni)
                && is_meant(row.mac)
                && ends.as_ref().is_none_or(|ends| ends.has_mac(row.vni, row.mac))
        };
        let rows =
            self.desk.read(|_, book| book.machines().filter_map(row).filter(wanted).collect::<Vec<_>>());
        Ok(part.cut(rows))
    }

    /// The devices behind which stations are.
    pub(super) fn station_ports(&self, visible: &Visible) -> Vec<StationPort> {
        let all = visible.segments.iter().map(|(device, state)| {
            let heard = self.desk.heard(device);
            let count = self
                .desk
                .read(|_, book| book.machines().filter(|(_, machine)| machine.by.device == *device).count());
            StationPort {
                device: device.to_string(),
                state: port_state(Some(state)),
                stations: heard.stations,
                machines: count,
                refused: heard.refused,
                last_refusal: heard.last_refusal,
                not_heard: heard.not_heard,
            }
        });
        all.collect()
    }
}
