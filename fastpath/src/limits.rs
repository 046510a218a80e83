//! How large the kernel's tables are.

use eastgate_wire::TableSizes;

/// How large the tables may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Flows
    pub flows: u32,
    /// All others
    pub tables: TableSizes,
}

impl Limits {
    pub(crate) fn of(&self, table: &str) -> Option<u32> {
        let sizes = self.tables;
        let entries = match table {
            "flows" => self.flows,
            "networks" | "ct_settings" | "policies" => sizes.networks,
            // One is that of unserved networks.
            "buckets" => sizes.networks.saturating_add(1),
            "vteps" => sizes.vteps,
            "attachments" | "egress" => sizes.ports,
            // Two of a device, and one of each of its shared segments
            "strays" => sizes.ports.saturating_mul(3),
            "endpoints" => sizes.endpoints,
            // The host's, and of each network its own and that of its unknown hosts.
            "accounts" => sizes.networks.saturating_mul(2).saturating_add(sizes.endpoints).saturating_add(1),
            "policy_cache" => sizes.policy_cache,
            "neighbor_cache" => sizes.neighbor_cache,
            "closed_flows" => sizes.closed_flows,
            "policy_drops" | "denied" | "stateless" => sizes.policy_drops,
            "datagrams" => sizes.datagrams,
            _ => return None,
        };
        Some(entries.max(1))
    }
}
