//! The layout in Rust is that of the programs, by what their compiler noted about it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, mem::offset_of};

use eastgate_wire::{Addr, FlowKey, Leg, Vni};
use libbpf_rs::btf::{
    Btf, HasSize,
    types::{Enum, MemberAttr, Struct},
};

use crate::layout::{
    self, Answer, Attachment, AttachmentKey, CachedPolicy, ChangedKey, ClosedFlow, Denied, DeniedKey, Egress,
    Endpoint, EndpointKey, Ends, Entropy, Flow, FlowDir, Key, NeighborKey, Network, PolicyCacheKey,
    PolicyDrop, PolicyDropKey, Settings, Stray, StrayKey, TcpSide, Template, Vtep,
};
use crate::numbers;

/// Size in bytes of a structure of the programs, and the offsets of its members.
fn noted(name: &str) -> (usize, Vec<(String, usize)>) {
    let btf = Btf::from_path(concat!(env!("OUT_DIR"), "/fastpath.bpf.o")).unwrap();
    let found: Struct<'_> = btf.type_by_name(name).unwrap_or_else(|| panic!("no struct {name}"));
    let members = found.iter().map(|member| {
        let MemberAttr::Normal { offset } = member.attr else { panic!("{name} has bit fields") };
        (member.name.unwrap().to_string_lossy().into_owned(), offset as usize / 8)
    });
    (found.size(), members.collect())
}

fn own(size: usize, members: &[(&str, usize)]) -> (usize, Vec<(String, usize)>) {
    (size, members.iter().map(|(name, offset)| ((*name).to_owned(), *offset)).collect())
}

macro_rules! layout_of {
    ($type:ty: $($member:ident),*) => {
        own(size_of::<$type>(), &[$((stringify!($member), offset_of!($type, $member))),*])
    };
}

#[test]
fn structures_are_the_same_on_both_sides() {
    assert_eq!(
        noted("tcp_side"),
        layout_of!(TcpSide: end, max_end, max_window, max_ack, scale, flags, account_half)
    );
    assert_eq!(noted("ends"), layout_of!(Ends: at, macs));
    assert_eq!(noted("template"), layout_of!(Template: max_packet, source_port_be, tos, ttl, flags, header));
    assert_eq!(noted("flow_dir"), layout_of!(FlowDir: packets, bytes, tcp, rule, template));
    assert_eq!(
        noted("flow"),
        layout_of!(Flow: lock, network, epoch, generation, last_seen, created, opener, marks, bindings, ends, tag, dirs)
    );
    assert_eq!(noted("policy_cache_key"), layout_of!(PolicyCacheKey: src, dst, vni, dport, proto));
    assert_eq!(
        noted("cached_policy"),
        layout_of!(CachedPolicy: network, epoch, generation, ends, rules, templates, bindings, spare, account)
    );
    assert_eq!(noted("neighbor_key"), layout_of!(NeighborKey: attachment, mac, form, sender, target));
    assert_eq!(noted("answer"), layout_of!(Answer: network, epoch, generation, len, credit, frame));
    assert_eq!(noted("ct_settings"), layout_of!(layout::CtSettings: account, timeouts, mss_mtu));
    assert_eq!(noted("account"), layout_of!(layout::Account: flows, next, pace));
    assert_eq!(noted("entropy"), layout_of!(Entropy: secret, first, available, buckets, spare));
    assert_eq!(
        noted("closed_flow"),
        layout_of!(ClosedFlow: key, epoch, opener, packets, bytes, rules, last_seen, created, spare)
    );
    // What is in no table is not noted; the same is asserted in C, and for the blocks of a policy.
    assert_eq!(size_of::<layout::Take>(), 16 + size_of::<Key>() + size_of::<Flow>());
    assert_eq!(noted("attachment_key"), layout_of!(AttachmentKey: ifindex, vlan, station));
    assert_eq!(noted("stray_key"), layout_of!(StrayKey: ifindex, vlan, spare));
    assert_eq!(noted("stray"), layout_of!(Stray: frames, bytes, first_at, last_at, macs, tag_type, tci));
    assert_eq!(noted("attachment"), layout_of!(Attachment: number, id, vni, flags));
    assert_eq!(noted("egress"), layout_of!(Egress: ifindex, vlan, flags, device, station, spare, entry));
    assert_eq!(
        noted("bucket"),
        layout_of!(layout::Bucket: lock, rate, burst, datagrams, left, filled_at, dropped)
    );
    assert_eq!(noted("limited"), layout_of!(layout::Limited: at, noting, len, frame));
    assert_eq!(
        noted("config"),
        layout_of!(Settings: layout, session, generation, since, underlay, punt_device, vxlan_port_be, tunnel_port_be, vtep, dont_fragment, flags)
    );
    assert_eq!(
        noted("network"),
        layout_of!(Network: vni, epoch, policy, mac, template_flags, tos, ttl, marks, bindings, spare, control_ports)
    );
    assert_eq!(noted("changed_key"), layout_of!(ChangedKey: addr, vni, kind));
    assert_eq!(noted("vtep"), layout_of!(Vtep: addr, max_packet, flags));
    assert_eq!(noted("endpoint_key"), layout_of!(EndpointKey: addr, vni));
    assert_eq!(
        noted("endpoint"),
        layout_of!(Endpoint: network, at, mac, flags, identity, tiers, endpoint, account)
    );
    assert_eq!(
        noted("policy_drop_key"),
        layout_of!(PolicyDropKey: network, policy, from, endpoint, rule, direction)
    );
    assert_eq!(
        noted("policy_drop"),
        layout_of!(PolicyDrop: lock, spare, packets, bytes, first_at, last_at, src, dst, sport, dport, proto)
    );
    assert_eq!(noted("denied_key"), layout_of!(DeniedKey: kind, src, dst, sport, dport, proto));
    assert_eq!(noted("denied"), layout_of!(Denied: packets, bytes, last_at));
    assert_eq!(noted("datagram_key"), layout_of!(layout::DatagramKey: vni, slot));
    assert_eq!(noted("datagram_id"), layout_of!(layout::DatagramId: src, dst, id, proto));
    assert_eq!(
        noted("datagram"),
        layout_of!(layout::Datagram: lock, state, until, id, sport, dport, proto, echo, count, end, furthest, covered, pieces, spare)
    );
    assert_eq!(noted("flow_key"), layout::key_layout());
}

/// The numbers of `layout.rs` by the names that the programs have for them.
macro_rules! numbers_of_layout {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), layout::$name as u64)),*] };
}

/// Every number that both sides have, by its name in the programs.
fn shared_numbers() -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> = numbers_of_layout!(
        KEY_HIGH_ASKS,
        ATTACHMENT_ANY_VLAN,
        ATTACHMENT_PEER,
        DEVICE_NAME,
        STRAY_ANY_VLAN,
        STRAY_LINK,
        AT_VTEP,
        TEMPLATE_OPEN,
        TEMPLATE_INHERIT_TOS,
        TEMPLATE_INHERIT_TTL,
        TEMPLATE_TO_US,
        TEMPLATE_FROM_US,
        TEMPLATE_ROUTED,
        FLOW_RESERVED,
        FLOW_KERNEL_CREATED,
        FLOW_REPLIED,
        FLOW_STREAM,
        FLOW_STALE,
        FLOW_RELATED,
        NO_EPOCH,
        CHANGED_ADDRESS,
        CHANGED_MAC,
        TAKE_IF_OVER,
        TAKE_DELETE,
        TAKE_IF_RANK,
        TAKE_RANK_AT,
        TAKE_ABSENT,
        TAKE_RESERVED,
        TAKE_TAKEN,
        FORM_ND,
        FORM_TO_ALL,
        FORM_NAMES_MAC,
        ANSWER_MAX,
        UNSERVED,
        LIMITED_MAX,
        CONTROL_PORTS,
        NETWORK_HUB,
        NETWORK_CHANGING,
        NETWORK_STATELESS,
        VTEP_SUM,
        VTEP_NO_SUM,
        ENDPOINT_PROXIED,
        ENDPOINT_OWN_TIMEOUTS,
        NO_RULE,
        LAYOUT,
        CONFIG_CROWDED,
        CONFIG_UNDECIDED,
        PUNT_ETHERTYPE,
        DATAGRAM_PLACES,
        DATAGRAM_PIECES,
        DATAGRAM_FREE,
        DATAGRAM_PUNTED,
    )
    .into_iter()
    .map(|(name, number)| (name.to_owned(), number))
    .collect();
    let mut in_order = |prefix: &str, names: &[&str], count: Option<&str>| {
        let named = (0..).zip(names).map(|(number, name)| {
            let name = name.to_uppercase().replace('-', "_");
            (format!("{prefix}{name}"), number)
        });
        all.extend(named);
        all.extend(count.map(|count| (count.to_owned(), names.len() as u64)));
    };
    in_order("STATE_", &numbers::FLOW_STATES, Some("STATE_COUNT"));
    in_order("RANK_", &numbers::FLOW_RANKS, None);
    in_order("POPULATION_", &numbers::POPULATIONS, None);
    in_order("", &numbers::DIRECTIONS, None);
    in_order("POLICY_", &numbers::POLICY_HEAD, None);
    in_order("FIELD_", &numbers::POLICY_FIELDS, Some("FIELD_COUNT"));
    in_order("RULE_", &numbers::RULE_ACTIONS, None);
    in_order("STAT_", crate::Stats::NAMES, Some("STAT_COUNT"));
    in_order("PUNT_", &crate::PUNTS, Some("PUNT_COUNT"));
    all.extend((0..).zip(numbers::SIDE_FLAGS).map(|(bit, name)| (format!("SIDE_{name}"), 1u64 << bit)));
    let others = [
        ("POLICY_BLOCK", numbers::POLICY_BLOCK as u64),
        ("POLICY_TIERS", numbers::POLICY_TIERS as u64),
        ("END_PASSES", numbers::END_PASSES.into()),
        ("NO_TIER", numbers::NO_TIER.into()),
        ("NOWHERE", numbers::NOWHERE.into()),
        ("EXPECTED_MAX", numbers::EXPECTED_MAX as u64),
        ("RULE_LOG", numbers::RULE_LOG.into()),
        ("RULE_STATELESS", numbers::RULE_STATELESS.into()),
        ("NESTED", numbers::NESTED.into()),
        ("FIELD_AT", numbers::FIELD_AT.into()),
        ("UNREAD", numbers::UNREAD.into()),
        ("STREAM_AFTER", numbers::STREAM_AFTER.into()),
        ("STREAM_IDLE", numbers::STREAM_IDLE.into()),
        ("HOST_ACCOUNT", numbers::HOST_ACCOUNT.into()),
        ("DAEMON_CLOCK_AHEAD", numbers::DAEMON_CLOCK_AHEAD),
        ("EASTGATE_MARK", numbers::EASTGATE_MARK.into()),
    ];
    all.extend(others.map(|(name, number)| (name.to_owned(), number)));
    all
}

/// What only the programs say to each other, or what is what remains where the others are told apart.
const THEIRS_ALONE: [&str; 3] = ["TAKE_ALIVE", "DATAGRAM_PASSES", "LIMITED_LEAST"];

#[test]
fn numbers_are_the_same_on_both_sides() {
    let btf = Btf::from_path(concat!(env!("OUT_DIR"), "/constants.bpf.o")).unwrap();
    let found: Struct<'_> = btf.type_by_name("constants").unwrap();
    let mut theirs = BTreeMap::new();
    for member in found.iter() {
        let numbers: Enum<'_> = btf.type_by_id(member.ty).unwrap();
        theirs.extend(numbers.iter().map(|number| {
            let name = number.name.unwrap().to_str().unwrap().to_owned();
            (name, number.value as u64 & u64::from(u32::MAX))
        }));
    }
    theirs.retain(|name, _| !THEIRS_ALONE.contains(&&**name));
    assert_eq!(theirs, shared_numbers());
}

#[test]
fn every_enumeration_of_the_layout_is_noted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}{name}")).unwrap();
    let noted = read("constants.bpf.c");
    let parts = std::fs::read_dir(format!("{folder}layout")).unwrap();
    let parts = parts.map(|part| format!("layout/{}", part.unwrap().file_name().to_str().unwrap()));
    for file in parts.chain(["layout.h".to_owned()]) {
        let text = read(&file);
        let names = text.lines().filter_map(|line| line.strip_prefix("enum ")?.split(' ').next());
        for name in names {
            assert!(noted.contains(&format!("\tenum {name} {name};\n")), "{file}: enum {name}");
        }
        let defined: Vec<&str> = text.lines().filter(|line| line.starts_with("#define")).collect();
        assert!(defined.is_empty(), "{file}: the compiler notes no {defined:?}: make it an enumerator");
    }
}

#[test]
fn a_flow_costs_the_kernel_little() {
    // What a hash table of the kernel has before the key (48 bytes), and what its allocator has before all (8). Together it is
    // one object of the kernel's slabs, and those are of 256 bytes, then of 512. The table's slot takes 16 more.
    let object = 48 + 8 + size_of::<Key>().next_multiple_of(8) + size_of::<Flow>();
    assert!(object <= 256, "{object}");
}

#[test]
fn both_directions_have_one_key_and_take_different_ways() {
    let (a, b) = (Addr::v4([10, 1, 0, 11]), Addr::v4([10, 1, 0, 21]));
    let key = FlowKey {
        src: a,
        dst: b,
        vni: Vni::from_wire([0, 0, 5]),
        sport: 40_000,
        dport: 80,
        proto: 6,
        leg: Leg::DIRECT,
    };
    assert_eq!(
        (Key::of(&key).0, Key::of(&key).1),
        (Key::of(&key.reversed()).0, 1 - Key::of(&key.reversed()).1)
    );
    assert_eq!(Key::of(&key).0.packet(), Some(key));
    let same_host = FlowKey { dst: a, ..key };
    assert_eq!(Key::of(&same_host).1, 1, "40000 is the higher port");
}

#[test]
fn an_echo_says_who_asks_and_what_for() {
    let (a, b) = (Addr::v4([10, 1, 0, 11]), Addr::v4([10, 1, 0, 21]));
    let asked = FlowKey {
        src: a,
        dst: b,
        vni: Vni::from_wire([0, 0, 5]),
        sport: 7,
        dport: 7,
        proto: 1,
        leg: Leg::DIRECT,
    };
    let asked_back = asked.reversed();
    assert_ne!(Key::of(&asked).0, Key::of(&asked_back).0, "two flows with one identifier");
    for (request, end) in [(asked, 0), (asked_back, 1)] {
        let (key, place) = Key::of(&request);
        assert_eq!((place, key.packet(), key.packet_from(end)), (end, Some(request), Some(request)));
    }
    let (a, b) = (PolicyCacheKey::of(&asked), PolicyCacheKey::of(&FlowKey { sport: 8, dport: 8, ..asked }));
    assert_eq!((a, a.dport), (b, 0x0800), "whatever its identifier");
    assert_eq!(PolicyCacheKey::of(&FlowKey { proto: 58, ..asked }).dport, 0x8000);
}

#[test]
fn only_what_the_programs_sent_up_has_an_attachment() {
    let mut frame = [0u8; 60];
    assert_eq!(layout::attachment_of(&frame, 3), None);
    frame[11] = 3;
    frame[..4].copy_from_slice(&7u32.to_be_bytes());
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    assert_eq!(layout::attachment_of(&frame, 3), Some(7));
    assert_eq!(layout::attachment_of(&frame, 4), None, "punted to another daemon");
    assert_eq!(layout::attachment_of(&frame[..13], 3), None);
}

/// What is built in another folder is the same, and nobody's paths are in it.
#[test]
fn the_programs_do_not_say_where_they_were_compiled() {
    for object in ["fastpath.bpf.o", "guard.bpf.o"] {
        let bytes = std::fs::read(std::path::Path::new(env!("OUT_DIR")).join(object)).unwrap();
        let named = |folder: &str| bytes.windows(folder.len()).any(|it| it == folder.as_bytes());
        assert!(named("bpf/maps.h") || object == "guard.bpf.o", "{object} names its files");
        assert!(!named(env!("CARGO_MANIFEST_DIR")), "{object}");
    }
}
