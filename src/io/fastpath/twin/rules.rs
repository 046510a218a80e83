//! Rules come to the same in both hosts: as many flows, packets and bytes for each.

use super::*;

/// Frames and bytes that the rules have refused
pub(super) type Refused = BTreeMap<DropKey, (u64, u64)>;

pub(super) fn refused(rows: impl IntoIterator<Item = Vec<(DropKey, DropCount)>>) -> Refused {
    use DropReason::{EgressDenied, EgressRule, IngressDenied, IngressRule};
    let mut all = Refused::new();
    for (key, count) in rows.into_iter().flatten() {
        if matches!(key.reason, EgressDenied | EgressRule | IngressDenied | IngressRule) {
            let row = all.entry(key).or_default();
            *row = (row.0 + count.frames, row.1 + count.bytes);
        }
    }
    all
}

/// Flows, packets and bytes of each rule that is written
fn done(host: &Host) -> BTreeMap<u32, [u64; 3]> {
    // What connections have come to whose place others have taken is fetched by a sweep.
    host.shared.sweep(clock::now());
    let (now, snapshot) = (clock::now(), host.shared.snapshot_arc());
    let network = snapshot.network(VNI.try_into().unwrap()).unwrap();
    let there = host.kernel.as_ref().map(|kernel| kernel.traffic().unwrap().drops);
    let more = host.shared.not_counted_for_rules(&snapshot, &there.unwrap_or_default(), now);
    let of = |rule: u32| {
        let mut count = network.counts.get(rule);
        count.add(&more.get(&(network.vni, rule)).copied().unwrap_or_default());
        [count.flows, count.packets, count.bytes]
    };
    network.rules.in_order().map(|rule| (rule, of(rule))).collect()
}

pub(super) fn same(alone: &Host, twin: &Host, when: &str) {
    let (alone, twin) = (done(alone), done(twin));
    let other = |rule: &u32| (alone.get(rule), twin.get(rule));
    let different: Vec<_> =
        alone.keys().map(|rule| (rule, other(rule))).filter(|(_, (a, b))| a != b).collect();
    assert!(different.is_empty(), "what rules have done {when}, alone and with programs: {different:?}");
    assert_eq!(alone.len(), twin.len());
}
