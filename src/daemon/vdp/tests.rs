use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicBool},
};

use eastgate_config::load_str;
use eastgate_dataplane::pipeline::shared::lock;
use eastgate_steering::vdp::{
    Association, ECP, FilterEntry, FilterFormat, GroupId, Hints, ManagerId, Mode, NEAREST_CUSTOMER_BRIDGE,
    Profile, Stage, TypeVersion, Vsi, VsiId, VsiIdFormat, VsiTypeId,
    ecp::{EcpHeader, Operation},
    tlv,
};
use eastgate_wire::{Instant, MacAddr, VlanId};

use super::{
    Desk,
    book::{Book, Owner},
    port::StationPort,
    terms::{Denied, Terms, is_machine_name},
};
use crate::io::stations::Answers;

const TEXT: &str = r#"
[host.a]
vtep = "192.0.2.1"
device = "e"
[host.a.vdp.seg0]
stations = ["02:00:00:00:0a:01"]
machines = 3
[host.a.vdp.seg1]
stations = "any"
[host.b]
vtep = "192.0.2.2"
device = "e"
[tenant.x.network.n]
vni = 1
subnets = ["10.1.0.0/24"]
neighbors = "proxy"
learn = "dhcp"
hosts = ["a"]
[tenant.x.network.elsewhere]
vni = 2
subnets = ["10.2.0.0/24"]
neighbors = "proxy"
learn = "dhcp"
hosts = ["b"]
[tenant.x.network.tags]
vni = 3
subnets = ["10.3.0.0/24"]
neighbors = "proxy"
learn = "dhcp"
vlan_aware = true
hosts = ["a"]
[tenant.x.group.all]
ingress = [{ from = "any" }]
[tenant.x.profile.web]
network = "n"
vsi_manager = "mgr"
vsi_type = 5
groups = ["all"]
machines = 2
[tenant.x.profile.web-4]
network = "n"
vsi_manager = "mgr"
vsi_type = 5
vsi_version = 4
groups = ["all"]
[tenant.x.profile.far]
network = "elsewhere"
vsi_manager = "mgr"
vsi_type = 6
groups = ["all"]
[tenant.x.profile.tagged]
network = "tags"
vsi_manager = "mgr"
vsi_type = 7
groups = ["all"]
[tenant.x.endpoint.db]
network = "n"
host = "b"
port = "p"
mac = "02:00:00:00:00:01"
addresses = ["10.1.0.1"]
groups = ["all"]
allowed_pairs = [{ address = "10.1.0.9", mac = "02:00:00:00:00:02" }]
[tenant.x.endpoint.trunk]
network = "n"
host = "a"
port = "seg0"
vlan = 200
mac = "02:00:00:00:00:03"
addresses = ["10.1.0.3"]
groups = ["all"]
[tenant.x.endpoint."web.020000000004"]
network = "tags"
host = "b"
port = "q"
mac = "02:00:00:00:00:05"
addresses = ["10.3.0.1"]
groups = ["all"]
"#;

const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0x0a, 1]);

fn terms() -> Terms {
    Terms::new(load_str("any", TEXT).unwrap(), "a")
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn named(kind: u32, version: u8) -> Profile {
    let manager = ManagerId(*b"mgr\0\0\0\0\0\0\0\0\0\0\0\0\0");
    Profile { manager, kind: VsiTypeId::new_checked(kind).unwrap(), version: TypeVersion(version) }
}

fn entry(last: u8, vlan: u16) -> FilterEntry {
    FilterEntry { group: None, mac: Some(mac(last)), vid: VlanId::new_checked(vlan), priority: None }
}

fn vsi(number: u8, kind: u32) -> Vsi {
    let id = VsiId { format: VsiIdFormat::Uuid, value: [number; 16] };
    Vsi { profile: named(kind, 1), id, format: FilterFormat::MacVid }
}

fn owner(device: &str, number: u8, kind: u32) -> Owner {
    Owner { device: device.into(), station: STATION, vsi: vsi(number, kind) }
}

fn association(by: &Owner, entries: &[FilterEntry]) -> Association {
    Association { vsi: by.vsi, stage: Stage::Associated, entries: entries.to_vec() }
}

#[test]
fn a_machine_is_what_its_profile_says_and_nobody_else() {
    let terms = terms();
    let grant = |kind, version, entry: &FilterEntry| {
        terms.grant("seg0", &named(kind, version), entry).map(|grant| grant.profile.name.to_string())
    };
    assert_eq!(grant(5, 1, &entry(11, 100)), Ok("web".into()), "in any version that no other names");
    assert_eq!(grant(5, 4, &entry(11, 100)), Ok("web-4".into()));
    let why = |kind, entry: FilterEntry| grant(kind, 1, &entry).unwrap_err();
    assert!(matches!(why(8, entry(11, 100)), Denied::Profile(_)));
    assert!(matches!(why(6, entry(11, 100)), Denied::NotHere { .. }));
    assert!(matches!(why(7, entry(11, 0)), Denied::Untagged(_)));
    assert!(grant(7, 1, &entry(11, 100)).is_ok());
    assert!(matches!(why(5, entry(1, 100)), Denied::Taken { .. }), "an endpoint's MAC");
    assert!(matches!(why(5, entry(2, 100)), Denied::Taken { .. }), "a pair's");
    assert!(matches!(why(5, entry(4, 100)), Denied::Named(_)));
    assert!(matches!(why(5, entry(11, 200)), Denied::NotShared { .. }), "an endpoint's VLAN");
    assert!(terms.grant("seg1", &named(5, 1), &entry(11, 200)).is_ok(), "which is none of another device");
    assert_eq!(why(5, FilterEntry { mac: None, ..entry(11, 100) }), Denied::NoMac);
    assert_eq!(why(5, FilterEntry { group: Some(GroupId(1)), ..entry(11, 100) }), Denied::Group);
    let ours = MacAddr([0xe2, 0x67, 0x77, 0, 0, 1]);
    assert_eq!(why(5, FilterEntry { mac: Some(ours), ..entry(11, 100) }), Denied::Ours(ours));
    let unknown = Profile { manager: ManagerId([1; 16]), ..named(5, 1) };
    assert!(matches!(terms.profile(&unknown), Err(Denied::Manager(_))));

    let grant = terms.grant("seg0", &named(5, 1), &entry(11, 100)).unwrap();
    let endpoint = terms.endpoint(&"seg0".into(), &grant);
    assert_eq!((&*endpoint.name, &*endpoint.host.host), ("web.02000000000b", "a"));
    assert_eq!(endpoint.attachment.unwrap().to_string(), "seg0.100/02:00:00:00:00:0b");
    assert!(is_machine_name(&endpoint.name, mac(11)) && !is_machine_name(&endpoint.name, mac(12)));
    assert!(endpoint.learning.is_some() && endpoint.port_security && endpoint.addresses.is_empty());
}

#[test]
fn whoever_associates_a_machine_last_has_it() {
    let (terms, mut book) = (terms(), Book::default());
    let (first, second) = (owner("seg0", 1, 5), owner("seg1", 2, 5));
    let at = Instant::from_micros(1);
    book.associate(&terms, &first, &association(&first, &[entry(11, 100), entry(12, 100)]), at);
    assert!(book.take_changed() && book.endpoints(&terms)["x"]["n"].len() == 2);
    book.associate(&terms, &first, &association(&first, &[entry(11, 100), entry(12, 100)]), at);
    assert!(!book.take_changed(), "nothing is different");

    book.associate(&terms, &second, &association(&second, &[entry(11, 100)]), at);
    assert_eq!(book.ordered().map(|device| &**device).collect::<Vec<_>>(), ["seg0"]);
    assert_eq!((book.take_orders("seg1"), book.take_orders("seg0")), (vec![], vec![first.clone()]));
    book.end(&first);
    let left = book.endpoints(&terms);
    let at_seg1: Vec<String> =
        left["x"]["n"].iter().map(|it| it.attachment.as_ref().unwrap().to_string()).collect();
    assert_eq!(at_seg1, ["seg1.100/02:00:00:00:00:0b"]);
    book.are_in_force(&left);
    book.end_others();
    assert!(book.take_changed() && book.ordered().count() == 0);

    // What another network's machine has of the segment goes with it.
    let third = owner("seg1", 3, 7);
    book.associate(&terms, &third, &association(&third, &[entry(11, 100)]), at);
    assert_eq!(book.take_orders("seg1"), [second]);
    assert_eq!(book.endpoints(&terms)["x"].keys().map(|name| &**name).collect::<Vec<_>>(), ["tags"]);
    book.end_others();
    assert_eq!(book.take_orders("seg1"), [third], "it was never in force");
    book.end_device("seg1");
    assert!(book.take_changed() && book.endpoints(&terms).is_empty() && book.machines().count() == 0);
}

#[test]
fn another_filter_takes_the_place_of_the_one_before() {
    let (terms, mut book) = (terms(), Book::default());
    let (by, at) = (owner("seg0", 1, 5), Instant::from_micros(1));
    book.associate(&terms, &by, &association(&by, &[entry(11, 100)]), at);
    book.associate(&terms, &by, &association(&by, &[entry(11, 300), entry(12, 0)]), at);
    let endpoints = book.endpoints(&terms);
    let places: Vec<String> =
        endpoints["x"]["n"].iter().map(|it| it.attachment.as_ref().unwrap().to_string()).collect();
    assert_eq!(places, ["seg0.300/02:00:00:00:00:0b", "seg0/02:00:00:00:00:0c"]);
    assert_eq!(book.ordered().count(), 0);
    let reserved =
        Association { stage: Stage::Reserved, ..association(&owner("seg0", 2, 5), &[entry(13, 100)]) };
    book.associate(&terms, &owner("seg0", 2, 5), &reserved, at);
    assert_eq!(book.machines().count(), 2, "what is pre-associated is no machine");
}

#[test]
fn there_is_room_for_as_many_as_the_limits_say() {
    let (terms, mut book) = (terms(), Book::default());
    let device: Arc<str> = "seg0".into();
    let at = Instant::from_micros(1);
    let room = |book: &Book, kind, version, last, beside: &BTreeSet<_>| {
        let grant = terms.grant(&device, &named(kind, version), &entry(last, 100)).unwrap();
        book.has_room(&terms, &device, &grant, beside)
    };
    let by = owner("seg0", 1, 5);
    book.associate(&terms, &by, &association(&by, &[entry(11, 100), entry(12, 100)]), at);
    let none = BTreeSet::new();
    assert!(matches!(room(&book, 5, 1, 13, &none), Err(Denied::ProfileFull { most: 2, .. })));
    assert_eq!(room(&book, 5, 1, 12, &none), Ok(()), "it is there");
    assert_eq!(room(&book, 5, 4, 13, &none), Ok(()), "of another profile");
    let seat = terms.grant(&device, &named(5, 4), &entry(14, 100)).unwrap().seat();
    assert_eq!(room(&book, 5, 4, 13, &BTreeSet::from([seat])), Err(Denied::DeviceFull(3)), "beside another");
}

/// What a station sends.
fn request(sequence: u16, mode: Mode, of: Vsi, entries: &[FilterEntry]) -> Vec<u8> {
    let header = EcpHeader {
        operation: Operation::Request,
        subtype: 1,
        sequence: eastgate_steering::vdp::Sequence(sequence),
    };
    let mut frame =
        [&NEAREST_CUSTOMER_BRIDGE.0[..], &STATION.0, &ECP.to_be_bytes(), &header.octets()].concat();
    tlv::put_manager(of.profile.manager, &mut frame);
    of.put_request(mode, Hints::default(), entries, &mut frame);
    tlv::put_end(&mut frame);
    frame
}

#[test]
fn devices_of_a_host_share_one_book() {
    let desk = Arc::new(Desk::new(terms()));
    let mut now = Instant::from_micros(1_000_000);
    let port = |device: &str| {
        let up = Arc::new(AtomicBool::new(true));
        StationPort::new(device.into(), mac(0xee), desk.clone(), up, now)
    };
    let (mut seg0, mut seg1) = (port("seg0"), port("seg1"));
    let held = || {
        let book = lock(&desk.book);
        book.machines().map(|(seat, machine)| (seat.mac, machine.by.device.to_string())).collect::<Vec<_>>()
    };
    seg0.hear(&request(1, Mode::Associate, vsi(1, 5), &[entry(11, 100)]), now);
    assert_eq!(held(), [(mac(11), "seg0".to_owned())]);
    seg1.hear(&request(1, Mode::Associate, vsi(1, 5), &[entry(11, 100)]), now);
    assert_eq!(held(), [(mac(11), "seg1".to_owned())], "the newest wins");
    let before = seg0.take_frames().len();
    now = now + std::time::Duration::from_millis(1);
    seg0.look(now);
    assert!(before > 0 && !seg0.take_frames().is_empty(), "whoever had it is told");
    seg1.hear(&request(2, Mode::DeAssociate, vsi(1, 5), &[entry(11, 100)]), now);
    assert_eq!(held(), []);

    // Three entries where two may be: nothing of it is taken.
    let three = [entry(11, 100), entry(12, 100), entry(13, 100)];
    seg0.hear(&request(2, Mode::Associate, vsi(1, 5), &three), now);
    assert_eq!(held(), []);
    let heard = desk.heard("seg0");
    assert_eq!((heard.refused, heard.stations), (1, vec![STATION]));
    assert!(heard.last_refusal.unwrap().contains("profile x/web has 2 machines"), "and why is said");

    // Other terms end what they do not have.
    seg0.hear(&request(3, Mode::Associate, vsi(1, 5), &three[..2]), now);
    assert_eq!(held().len(), 2);
    let without = TEXT.replace("vsi_type = 5\ngroups", "vsi_type = 50\ngroups");
    desk.set_terms(Arc::new(Terms::new(load_str("any", &without).unwrap(), "a")));
    seg0.look(now);
    assert_eq!(held(), []);
}

#[test]
fn a_machine_is_in_one_vlan() {
    let now = Instant::from_micros(1_000_000);
    let port = |desk: &Arc<Desk>| {
        StationPort::new("seg0".into(), mac(0xee), desk.clone(), Arc::new(AtomicBool::new(true)), now)
    };
    let held = |entries: &[FilterEntry]| {
        let desk = Arc::new(Desk::new(terms()));
        port(&desk).hear(&request(1, Mode::Associate, vsi(1, 5), entries), now);
        let count = lock(&desk.book).machines().count();
        (count, desk.heard("seg0").last_refusal)
    };
    assert_eq!(held(&[entry(11, 100), entry(12, 300)]), (2, None), "each is in one");
    let (count, said) = held(&[entry(11, 100), entry(11, 300)]);
    assert!(count == 0 && said.as_ref().is_some_and(|it| it.contains("in more than one VLAN")), "{said:?}");
}
