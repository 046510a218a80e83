//! The layout in Rust is that of the programs, by what their compiler noted about it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::mem::offset_of;

use eastgate_wire::{Addr, FlowKey, Leg, Vni};
use libbpf_rs::btf::{
    Btf, HasSize,
    types::{Enum, MemberAttr, Struct},
};

use crate::layout::{
    self, Answer, Attachment, AttachmentKey, CachedPolicy, ClosedFlow, Denied, DeniedKey, Egress, Endpoint,
    EndpointKey, Ends, Entropy, Flow, FlowDir, Key, NeighborKey, Network, PolicyCacheKey, PolicyDrop,
    PolicyDropKey, Settings, TcpSide, Template, Vtep,
};

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
    assert_eq!(noted("template"), layout_of!(Template: max_packet, source_port_be, tos, ttl, flags));
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
    assert_eq!(noted("account"), layout_of!(layout::Account: flows));
    assert_eq!(noted("entropy"), layout_of!(Entropy: secret, first, available, buckets, spare));
    assert_eq!(noted("closed_flow"), layout_of!(ClosedFlow: key, epoch, opener, packets, bytes, rules));
    // What is in no table is not noted; the same is asserted in C, and for the blocks of a policy.
    assert_eq!(size_of::<layout::Take>(), 16 + size_of::<Key>() + size_of::<Flow>());
    assert_eq!(noted("attachment_key"), layout_of!(AttachmentKey: ifindex, vlan, spare));
    assert_eq!(noted("attachment"), layout_of!(Attachment: number, id, vni, flags));
    assert_eq!(noted("egress"), layout_of!(Egress: ifindex, vlan, flags, device));
    assert_eq!(
        noted("bucket"),
        layout_of!(layout::Bucket: lock, rate, burst, datagrams, left, filled_at, dropped)
    );
    assert_eq!(
        noted("config"),
        layout_of!(Settings: layout, session, generation, since, underlay, punt_device, vxlan_port_be, tunnel_port_be, vtep, dont_fragment, flags)
    );
    assert_eq!(
        noted("network"),
        layout_of!(Network: vni, epoch, mac, template_flags, tos, ttl, marks, bindings, spare)
    );
    assert_eq!(noted("vtep"), layout_of!(Vtep: addr, max_packet, flags));
    assert_eq!(noted("endpoint_key"), layout_of!(EndpointKey: addr, vni));
    assert_eq!(
        noted("endpoint"),
        layout_of!(Endpoint: network, at, mac, flags, identity, tiers, endpoint, account)
    );
    assert_eq!(
        noted("policy_drop_key"),
        layout_of!(PolicyDropKey: network, epoch, from, endpoint, rule, direction)
    );
    assert_eq!(
        noted("policy_drop"),
        layout_of!(PolicyDrop: lock, spare, packets, bytes, last_at, src, dst, sport, dport, proto)
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

#[test]
fn causes_of_punts_have_the_names_of_the_programs() {
    let btf = Btf::from_path(concat!(env!("OUT_DIR"), "/fastpath.bpf.o")).unwrap();
    let causes: Enum<'_> = btf.type_by_name("punt").unwrap();
    let names: Vec<String> = causes
        .iter()
        .filter_map(|member| member.name?.to_str()?.strip_prefix("PUNT_").map(str::to_owned))
        .map(|name| name.to_lowercase().replace('_', "-"))
        .collect();
    let (last, names) = names.split_last().unwrap();
    assert_eq!((last.as_str(), names), ("count", &crate::PUNTS.map(str::to_owned)[..]));
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
