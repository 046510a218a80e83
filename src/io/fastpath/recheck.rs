//! Changes of single endpoints reach what the programs have of them: flows, cached decisions, answers. Nobody else's are
//! touched, however many there are.
//!
//! Who changed is written first, then the network's row, and the change is in force: programs look for the ends of each
//! packet of that network among those who changed. Behind it all tables are walked through once, and they look no more.

use std::collections::BTreeSet;

use eastgate_dataplane::{
    pipeline::{offload::Template, shared::lock},
    snapshot::{Network, Snapshot, succession::Changed},
};
use eastgate_fastpath::{CHANGED_ADDRESS, CHANGED_MAC, ChangedKey, Error, NETWORK_CHANGING, address};
use eastgate_wire::{FlowKey, Vni};

use super::{KernelPath, Tables};

/// Networks of which ends are decided about anew, until the walk has found all of them.
#[derive(Debug, Default)]
pub(super) struct Changing {
    pub(super) networks: BTreeSet<Vni>,
    /// Another one whenever someone has changed
    version: u64,
}

impl KernelPath {
    /// A snapshot takes the place of another one: writes down which single endpoints are decided about anew. Their networks'
    /// rows are to be written next.
    pub(super) fn note_changes(
        &self,
        tables: &mut Tables,
        before: Option<&Snapshot>,
        snapshot: &Snapshot,
    ) -> Result<(), Error> {
        let Some(before) = before else { return Ok(()) };
        for network in snapshot.networks() {
            let known = before.network(network.vni).filter(|_| tables.networks.contains_key(&network.vni));
            let Some(known) = known.filter(|known| known.compiled != network.compiled) else { continue };
            let noted = match &network.changed {
                Some(changed) if changed.since == known.compiled => {
                    if changed.is_empty() {
                        continue;
                    }
                    self.fastpath.note_changed(&keys_of(network, changed), network.compiled)
                }
                // Its row has another epoch, which ends all that it had.
                None => continue,
                // A snapshot between them was never in force here.
                Some(_) => return self.renew(tables),
            };
            tables.changing.networks.insert(network.vni);
            tables.changing.version += 1;
            if let Err(error) = noted {
                tracing::warn!(%error, "all flows are decided again");
                return self.renew(tables);
            }
        }
        Ok(())
    }

    /// Looks once for all that was decided about those who changed, so that packets need not.
    pub(super) fn finish_changes(&self) {
        loop {
            let version = {
                let tables = lock(&self.tables);
                if tables.changing.networks.is_empty() {
                    return;
                }
                tables.changing.version
            };
            let walked = self.fastpath.recheck();
            let mut tables = lock(&self.tables);
            if tables.changing.version != version {
                // Someone changed behind the walk.
                continue;
            }
            let done = match walked {
                Ok(flows) => {
                    tracing::debug!(flows, "flows of endpoints that changed are decided again");
                    Ok(())
                }
                Err(error) => {
                    tracing::warn!(%error, "all flows are decided again");
                    self.renew(&mut tables)
                }
            };
            if let Err(error) = done.and_then(|()| self.end_changes(&mut tables)) {
                // They go on being looked for packet by packet.
                tracing::warn!(%error, "the fast path goes on looking for endpoints that changed");
            }
            return;
        }
    }

    fn end_changes(&self, tables: &mut Tables) -> Result<(), Error> {
        for vni in std::mem::take(&mut tables.changing.networks) {
            let Some((place, row)) = tables.networks.get_mut(&vni) else { continue };
            let settled = eastgate_fastpath::Network { marks: row.marks & !NETWORK_CHANGING, ..*row };
            if let Err(error) = self.fastpath.set_network(*place, settled) {
                tables.changing.networks.insert(vni);
                return Err(error);
            }
            *row = settled;
        }
        self.fastpath.forget_changed()
    }
}

fn keys_of(network: &Network, changed: &Changed) -> Vec<ChangedKey> {
    let vni = network.vni.get();
    let addresses = changed.addresses.iter().map(|it| (address(*it), CHANGED_ADDRESS));
    let macs = changed.macs.iter().map(|mac| {
        let mut first = [0; 16];
        first[..6].copy_from_slice(&mac.0);
        (first, CHANGED_MAC)
    });
    addresses.chain(macs).map(|(addr, kind)| ChangedKey { addr, vni, kind }).collect()
}

impl Tables {
    /// The snapshot since which decisions about a flow stand that goes this way.
    pub(super) fn decided_since(&self, key: &FlowKey, templates: &[Template; 2]) -> Option<u32> {
        let network = self.snapshot.as_ref()?.network(key.vni)?;
        let [there, _] = templates;
        let ends = [there.in_macs[1], there.out_macs[0]].map(|mac| network.by_mac(mac));
        Some(network.decided_since(ends, [key.src, key.dst]))
    }
}
