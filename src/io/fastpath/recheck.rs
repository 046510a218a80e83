//! Changes of single endpoints reach what the programs have of them: flows, cached decisions, answers. Nobody else's are
//! touched, however many there are.

use eastgate_dataplane::{
    pipeline::offload::Template,
    snapshot::{Network, Snapshot, succession::Changed},
};
use eastgate_fastpath::{CHANGED_ADDRESS, CHANGED_MAC, ChangedKey, Error, address};
use eastgate_wire::FlowKey;

use super::{KernelPath, Tables};

impl KernelPath {
    /// The networks' rows are those of the snapshot in force; another one was before. What single endpoints that changed
    /// have in the kernel is punted from here on.
    pub(super) fn recheck(&self, tables: &mut Tables, before: Option<&Snapshot>) -> Result<(), Error> {
        let (Some(snapshot), Some(before)) = (tables.snapshot.clone(), before) else { return Ok(()) };
        let mut keys = Vec::new();
        for network in snapshot.networks() {
            let known = before.network(network.vni).filter(|_| tables.networks.contains_key(&network.vni));
            let Some(known) = known.filter(|known| known.compiled != network.compiled) else { continue };
            match &network.changed {
                Some(changed) if changed.since == known.compiled => keys.extend(keys_of(network, changed)),
                // Its row has another epoch, which ends all that it had.
                None => {}
                // A snapshot between them was never in force here.
                Some(_) => return self.renew(tables),
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        match self.fastpath.recheck(&keys) {
            Ok(flows) => {
                tracing::debug!(
                    changed = keys.len(),
                    flows,
                    "flows of endpoints that changed are decided again"
                );
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "all flows are decided again");
                self.renew(tables)
            }
        }
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
