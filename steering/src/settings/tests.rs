use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TENANT: PortRole<'_> = PortRole::Tenant { interface: "veth1" };
const UNDERLAY: PortRole<'_> = PortRole::Underlay { interface: "eth0" };
const KERNEL: PortRole<'_> = PortRole::KernelProxy { interface: "eth1" };

/// What Linux starts with, on a host with three interfaces of which none is ours yet.
fn fresh() -> Observed {
    let mut observed = Observed::new();
    for &key in Key::ALL {
        let value = |all: bool| match key {
            Key::SendRedirects
            | Key::AcceptRedirects
            | Key::AcceptRedirects6
            | Key::AcceptRa
            | Key::Autoconf => 1,
            Key::AcceptSourceRoute => i32::from(!all),
            Key::ProxyDelay => 80,
            _ => 0,
        };
        observed.insert(SettingId::of_all(key), value(true));
        observed.insert(SettingId { key, scope: Scope::Default }, value(false));
        for interface in ["veth1", "eth0", "eth1", "other"] {
            observed.insert(SettingId::of(key, interface), value(false));
        }
    }
    observed
}

fn apply(observed: &mut Observed, changes: &[Change]) {
    for change in changes {
        assert_eq!(observed.insert(change.id.clone(), change.to), Some(change.from), "{}", change.id);
        assert_ne!(change.from, change.to, "{}: only what must be written", change.id);
    }
}

fn effective(observed: &Observed, id: &SettingId) -> i32 {
    let forwarding = SettingId { key: Key::Forwarding, scope: id.scope.clone() };
    let forwards = observed.get(&forwarding).is_some_and(|&value| value != 0);
    id.key.effective(observed[&SettingId::of_all(id.key)], observed[id], forwards)
}

fn at(key: Key, interface: &str) -> SettingId {
    SettingId::of(key, interface)
}

/// One row a way of combining, by the kernel's documentation of each key.
#[test]
fn what_takes_effect() {
    for (key, all, own, forwards, wants) in [
        (Key::ArpIgnore, 8, 1, false, 8),
        (Key::ArpIgnore, 0, 1, false, 1),
        (Key::ArpAnnounce, 1, 2, false, 2),
        (Key::ArpAccept, 1, 0, false, 1),
        (Key::ArpNotify, 0, 1, false, 1),
        (Key::RpFilter, 2, 1, false, 2),
        (Key::RpFilter, 0, 1, false, 1),
        (Key::ProxyArp, 1, 0, false, 1),
        (Key::ProxyArp, 0, 0, false, 0),
        (Key::ArpFilter, 0, 1, false, 1),
        (Key::SendRedirects, 1, 0, false, 1),
        (Key::AcceptLocal, 1, 0, false, 1),
        (Key::RouteLocalnet, 1, 0, false, 1),
        (Key::AcceptSourceRoute, 1, 0, false, 0),
        (Key::AcceptSourceRoute, 0, 1, false, 0),
        (Key::AcceptSourceRoute, 1, 1, false, 1),
        (Key::AcceptRedirects, 1, 0, false, 1),
        (Key::AcceptRedirects, 1, 0, true, 0),
        (Key::AcceptRedirects, 1, 1, true, 1),
        (Key::ProxyArpPvlan, 1, 0, false, 0),
        (Key::Forwarding, 1, 0, false, 0),
        (Key::ProxyDelay, 0, 80, false, 80),
        (Key::DisableIpv6, 1, 0, false, 0),
        (Key::AcceptRa, 0, 1, false, 1),
        (Key::Autoconf, 0, 1, false, 1),
        (Key::AcceptRedirects6, 0, 1, false, 1),
        (Key::Forwarding6, 1, 0, false, 0),
        (Key::ProxyNdp, 1, 0, false, 1),
    ] {
        assert_eq!(key.effective(all, own, forwards), wants, "{key:?} {all} {own} {forwards}");
    }
}

#[test]
fn files_have_their_paths_and_back() {
    for &key in Key::ALL {
        for scope in [Scope::All, Scope::Default, Scope::Interface("br-1.100".to_owned())] {
            let id = SettingId { key, scope };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
    assert_eq!(at(Key::ArpIgnore, "veth1").to_string(), "net/ipv4/conf/veth1/arp_ignore");
    assert_eq!(at(Key::ProxyDelay, "eth1").to_string(), "net/ipv4/neigh/eth1/proxy_delay");
    assert_eq!(at(Key::Forwarding6, "eth1").to_string(), "net/ipv6/conf/eth1/forwarding");
    for text in [
        "",
        "net/ipv4/conf/eth0",
        "net/ipv4/conf/eth0/arp_ignored",
        "net/ipv6/conf/eth0/arp_ignore",
        "net/ipv4/neigh/eth0/arp_ignore",
        "net/ipv4/conf/../arp_ignore",
        "net/ipv4/conf//arp_ignore",
        "/net/ipv4/conf/eth0/arp_ignore",
        "net/ipv4/conf/a/b/arp_ignore",
    ] {
        assert_eq!(text.parse::<SettingId>(), Err(BadSetting(text.to_owned())));
    }
}

#[test]
fn roles_want_what_the_protocol_page_says() {
    let wanted = |role| -> BTreeMap<Key, i32> {
        port_settings(&role).into_iter().map(|setting| (setting.key, setting.wanted)).collect()
    };
    let (tenant, underlay, kernel) = (wanted(TENANT), wanted(UNDERLAY), wanted(KERNEL));
    let of = |role: &BTreeMap<Key, i32>, key| role.get(&key).copied();
    for (key, on_tenant, on_underlay, on_kernel) in [
        (Key::ArpIgnore, Some(8), Some(1), Some(8)),
        (Key::ArpAnnounce, Some(2), Some(2), Some(2)),
        (Key::ProxyArp, Some(0), Some(0), Some(1)),
        (Key::ProxyArpPvlan, Some(0), Some(0), Some(1)),
        (Key::ProxyDelay, None, None, Some(0)),
        (Key::RpFilter, Some(1), Some(2), Some(0)),
        (Key::SendRedirects, Some(0), Some(0), Some(0)),
        (Key::AcceptRedirects, Some(0), Some(0), Some(0)),
        (Key::Forwarding, Some(0), None, Some(1)),
        (Key::DisableIpv6, Some(1), None, Some(0)),
        (Key::AcceptRa, Some(0), None, Some(0)),
        (Key::Autoconf, Some(0), None, Some(0)),
    ] {
        let found = (of(&tenant, key), of(&underlay, key), of(&kernel, key));
        assert_eq!(found, (on_tenant, on_underlay, on_kernel), "{key:?}");
    }
    for role in [TENANT, UNDERLAY, KERNEL] {
        let settings = port_settings(&role);
        assert_eq!(settings.len(), wanted(role).len(), "no key twice");
        let place = |key| settings.iter().position(|setting| setting.key == key);
        assert!(place(Key::Forwarding) < place(Key::AcceptRedirects), "it changes what redirects mean");
        assert!(settings.iter().all(|setting| !setting.why.is_empty()));
    }
}

#[test]
fn only_what_must_change_is_written() {
    let wanted = port_settings(&UNDERLAY);
    let mut observed = fresh();
    let plan = diff(&observed, &wanted);
    let writes: Vec<_> = plan.changes.iter().map(|change| (change.id.to_string(), change.to)).collect();
    let write = |file: &str, to| (format!("net/{file}"), to);
    assert_eq!(
        writes,
        [
            write("ipv4/conf/eth0/arp_ignore", 1),
            write("ipv4/conf/eth0/arp_announce", 2),
            write("ipv4/conf/eth0/rp_filter", 2),
            write("ipv4/conf/eth0/accept_source_route", 0),
            write("ipv4/conf/eth0/send_redirects", 0),
            write("ipv4/conf/all/send_redirects", 0),
            write("ipv4/conf/eth0/accept_redirects", 0),
            write("ipv4/conf/all/accept_redirects", 0),
            write("ipv6/conf/eth0/accept_redirects", 0),
        ]
    );
    assert!(plan.missing.is_empty() && plan.affected.is_empty(), "{plan:?}");
    apply(&mut observed, &plan.changes);
    assert!(diff(&observed, &wanted).is_done());
}

#[test]
fn a_value_that_does_as_well_is_left() {
    let wanted = port_settings(&UNDERLAY);
    let mut observed = fresh();
    apply(&mut observed, &diff(&fresh(), &wanted).changes);
    observed.insert(at(Key::RpFilter, "eth0"), 1);
    observed.insert(at(Key::ArpIgnore, "eth0"), 2);
    assert!(diff(&observed, &wanted).is_done());
    observed.insert(SettingId::of_all(Key::RpFilter), 2);
    assert!(diff(&observed, &wanted).is_done(), "the larger one counts, and does as well");
}

/// The larger of `all` and the interface's value counts: where `all` is larger, it has to go down, and
/// everybody else keeps what they had through it.
#[test]
fn all_stands_in_the_way() {
    let mut observed = fresh();
    observed.insert(SettingId::of_all(Key::RpFilter), 2);
    observed.insert(SettingId::of_all(Key::ProxyArp), 1);
    let before = observed.clone();
    let plan = diff(&observed, &port_settings(&TENANT));
    apply(&mut observed, &plan.changes);
    assert_eq!(observed[&SettingId::of_all(Key::RpFilter)], 1);
    assert_eq!(observed[&SettingId::of_all(Key::ProxyArp)], 0);
    for id in [
        at(Key::RpFilter, "eth0"),
        at(Key::ProxyArp, "other"),
        SettingId { key: Key::RpFilter, scope: Scope::Default },
    ] {
        assert_eq!(effective(&observed, &id), effective(&before, &id), "{id}");
        let keep = plan.changes.iter().position(|change| change.id == id).unwrap();
        let all = plan.changes.iter().position(|change| change.id == SettingId::of_all(id.key)).unwrap();
        assert_eq!(plan.changes[keep].why, Why::Keep);
        assert!(matches!(plan.changes[all].why, Why::Unblock(_)) && keep < all, "{id}: kept first");
    }
}

/// An interface that forwards accepts redirects only with `all` and its own: nothing of its own replaces `all`.
#[test]
fn who_cannot_be_kept_is_named() {
    let mut observed = fresh();
    observed.insert(at(Key::Forwarding, "other"), 1);
    let plan = diff(&observed, &port_settings(&TENANT));
    let id = at(Key::AcceptRedirects, "other");
    assert_eq!(plan.affected, [Affected { id, before: 1, after: 0 }]);
}

#[test]
fn what_is_not_there_is_named() {
    let mut observed = fresh();
    observed.retain(|id, _| id.key.family() == eastgate_wire::Family::V4);
    let plan = diff(&observed, &port_settings(&UNDERLAY));
    assert_eq!(plan.missing, [at(Key::AcceptRedirects6, "eth0")]);
    assert!(!plan.is_done() && !plan.changes.is_empty(), "the rest is done all the same");
    let files = to_read(&port_settings(&UNDERLAY));
    assert!(
        files.contains(&SettingId::of_all(Key::RpFilter)) && files.contains(&at(Key::Forwarding, "eth0"))
    );
    assert!(!files.contains(&SettingId::of_all(Key::ProxyArpPvlan)), "`all` does not count there");
}

#[test]
fn before_equals_after() {
    let before = fresh();
    let mut observed = before.clone();
    let mut restore = Restore::default();
    for role in [TENANT, UNDERLAY, KERNEL] {
        let plan = diff(&observed, &port_settings(&role));
        plan.changes.iter().for_each(|change| restore.remember(change));
        apply(&mut observed, &plan.changes);
    }
    assert!(restore.foreign(&observed).is_empty());
    let kept: Restore = restore.iter().cloned().collect();
    assert_eq!(kept, restore, "what was kept on disk is all there is");
    let undo = kept.undo(&observed);
    let mut undone: Vec<_> = undo.changes.iter().map(|change| &change.id).collect();
    undone.reverse();
    assert_eq!(undone, kept.iter().map(|saved| &saved.id).collect::<Vec<_>>(), "last written first");
    apply(&mut observed, &undo.changes);
    assert_eq!(observed, before);
    assert_eq!(kept.undo(&observed), Undo::default(), "twice is once");
}

#[test]
fn a_change_by_someone_else_is_seen_put_right_and_on_exit_respected() {
    let before = fresh();
    let wanted = port_settings(&TENANT);
    let mut observed = before.clone();
    let mut restore = Restore::default();
    let plan = diff(&observed, &wanted);
    plan.changes.iter().for_each(|change| restore.remember(change));
    apply(&mut observed, &plan.changes);

    let id = at(Key::ArpIgnore, "veth1");
    observed.insert(id.clone(), 3);
    assert_eq!(restore.foreign(&observed), [Foreign { id: id.clone(), written: 8, found: 3 }]);
    let undo = restore.undo(&observed);
    assert_eq!(undo.foreign, [Foreign { id: id.clone(), written: 8, found: 3 }]);
    assert!(undo.changes.iter().all(|change| change.id != id));

    let again = diff(&observed, &wanted);
    assert_eq!(again.changes.len(), 1);
    again.changes.iter().for_each(|change| restore.remember(change));
    apply(&mut observed, &again.changes);
    let undo = restore.undo(&observed);
    apply(&mut observed, &undo.changes);
    assert_eq!(observed, before, "the first value is what is given back, not the foreign one");

    observed.retain(|id, _| id.scope != Scope::Interface("veth1".to_owned()));
    assert!(restore.undo(&observed).changes.iter().all(|change| change.id.scope == Scope::All));
}

fn any_host() -> impl Strategy<Value = Observed> {
    let values = proptest::collection::vec(0i32..3, Key::ALL.len() * 6);
    values.prop_map(|values| fresh().into_keys().zip(values).collect())
}

proptest! {
    /// From any host: what is wanted is in effect, nobody else changes but who is named, and undone is undone.
    #[test]
    fn from_any_host(before in any_host(), order in 0usize..6) {
        let roles = [TENANT, UNDERLAY, KERNEL];
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let wanted: Vec<Setting> = orders[order].iter().flat_map(|&role: &usize| port_settings(&roles[role])).collect();
        let plan = diff(&before, &wanted);
        let mut after = before.clone();
        let mut restore = Restore::default();
        for change in &plan.changes {
            restore.remember(change);
            apply(&mut after, std::slice::from_ref(change));
        }
        for setting in &wanted {
            let value = effective(&after, &setting.id());
            prop_assert!(setting.accepts(value), "{} is {}", setting.id(), value);
        }
        for id in before.keys().filter(|id| id.scope == Scope::Default || id.scope == Scope::Interface("other".to_owned())) {
            let (was, is) = (effective(&before, id), effective(&after, id));
            let named = plan.affected.iter().any(|affected| affected.id == *id && (affected.before, affected.after) == (was, is));
            prop_assert!(was == is || named, "{}: {} is {}", id, was, is);
        }
        prop_assert!(diff(&after, &wanted).is_done());
        let undo = restore.undo(&after);
        apply(&mut after, &undo.changes);
        prop_assert_eq!(after, before);
    }
}
