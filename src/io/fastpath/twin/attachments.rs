//! What a device and a VLAN are resolved to, and who may have a number that flows name.

use eastgate_dataplane::pipeline::counters::Subject;
use eastgate_fastpath::AttachmentKey;
use eastgate_wire::{DropReason, MacAddr, VlanId, Vni};

use super::*;
use crate::io::fastpath::KernelAttachment;

const OURS: Vni = match Vni::new_checked(VNI) {
    Ok(vni) => vni,
    Err(_) => panic!(),
};

/// A device of an endpoint's own, a veth.
pub(super) fn access(device: &str, ifindex: u32) -> KernelAttachment {
    KernelAttachment { attachment: Attachment::access(device.into()), ifindex, is_veth: true, entry: None }
}

/// Is the device with this name the one with this index?
pub(super) fn is_there(device: &str, ifindex: u32) -> bool {
    nix::net::if_::if_nametoindex(device).is_ok_and(|index| index == ifindex)
}

/// A mesh with a policy that lets 11 speak to 12, carried by the programs.
struct Carried {
    kernel: Arc<KernelPath>,
    host: Host,
    devices: Vec<u32>,
}

impl Carried {
    fn new(limits: Limits) -> Self {
        let scene = SCENES[0];
        let devices = devices(scene);
        let kernel = Arc::new(KernelPath::load(limits, devices[0], gso::TUNNEL_PORT).unwrap());
        let host = Host::new(scene, &scene.config(true), Some((kernel.clone(), &devices)));
        Self { kernel, host, devices }
    }

    /// The next daemon's programs, on the same tables.
    fn next(&self, limits: &Limits) -> KernelPath {
        let ids = self.kernel.table_ids().unwrap();
        KernelPath::take_over(&ids, None, limits, self.devices[0], &is_there).unwrap()
    }

    fn number(&self, device: &str) -> u32 {
        number(&self.kernel, index(device), 0).unwrap()
    }
}

fn index(device: &str) -> u32 {
    nix::net::if_::if_nametoindex(device).unwrap()
}

fn number(kernel: &KernelPath, ifindex: u32, vlan: u16) -> Option<u32> {
    let rows = kernel.programs().attachments().unwrap();
    rows.iter().find(|(key, _)| (key.ifindex, key.vlan) == (ifindex, vlan)).map(|(_, row)| row.number)
}

/// The verdict on a frame from a device, the attachment that it goes up by if it does, and what goes up.
fn sent(kernel: &KernelPath, ifindex: u32, frame: &[u8]) -> (i32, Option<u32>, Vec<u8>) {
    let trial = kernel.programs().try_program("tenant", frame, ifindex, 0).unwrap();
    let from = eastgate_fastpath::attachment_of(&trial.frame, kernel.session());
    let frame = trial.frame.get(eastgate_fastpath::PUNT_HEADER..).filter(|_| from.is_some());
    (trial.verdict, from, frame.unwrap_or_default().to_vec())
}

fn with_tag(frame: &[u8], vlan: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat()
}

fn a_device_and_a_vlan_are_one_attachment() {
    let Carried { kernel, host, devices } = Carried::new(tables(1000));
    let (trunk, ours) = (devices[2], host.port(11).0);
    for vlan in [100, 200] {
        let attachment = Attachment::trunk("u0".into(), VlanId::new_checked(vlan));
        let there = KernelAttachment { attachment, ifindex: trunk, is_veth: false, entry: None };
        kernel.set_attachment(AttachmentId(vlan.into()), there, OURS).unwrap();
    }
    let numbers =
        [(trunk, 100), (trunk, 200), (devices[0], 0)].map(|(index, vlan)| number(&kernel, index, vlan));
    assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2] && numbers.iter().all(Option::is_some));

    let frame = udp(11, 21, 5000, 7777);
    for (vlan, priority) in [(100, 0), (200, 0), (200, 0xe000)] {
        let expected = (REDIRECT, Some(u32::from(vlan)), frame.clone());
        assert_eq!(sent(&kernel, trunk, &with_tag(&frame, priority | vlan)), expected, "without its tag");
    }
    let before = kernel.stats().unwrap().lost;
    assert_eq!(sent(&kernel, trunk, &with_tag(&frame, 300)).0, SHOT, "a VLAN that nobody is at");
    assert_eq!(sent(&kernel, trunk, &frame).0, SHOT, "nor without a tag");
    assert_eq!(sent(&kernel, trunk, &with_tag(&frame, 0xe000)).0, SHOT, "nor with a priority alone");
    assert_eq!(kernel.stats().unwrap().lost, before + 3);
    // A tag that is a provider's names none of these VLANs.
    let provider = |vlan: u16| [&frame[..12], &[0x88, 0xa8], &vlan.to_be_bytes(), &frame[12..]].concat();
    assert_eq!(sent(&kernel, trunk, &provider(100)).0, SHOT);
    assert_eq!(sent(&kernel, devices[0], &provider(100)), (REDIRECT, Some(ours), provider(100)));
    strays_are_counted(&kernel, trunk);
    // What a device of the endpoint's own sends is the endpoint's.
    let tagged = with_tag(&frame, 300);
    assert_eq!(sent(&kernel, devices[0], &tagged), (REDIRECT, Some(ours), tagged));

    // Frames without a tag may be somebody's where those with one are not.
    let untagged = AttachmentKey { ifindex: trunk, ..AttachmentKey::default() };
    let row = eastgate_fastpath::Attachment { number: 9, id: 9, vni: VNI, flags: 0 };
    kernel.programs().set_attachment(untagged, row).unwrap();
    for untagged in [frame.clone(), with_tag(&frame, 0xe000)] {
        assert_eq!(sent(&kernel, trunk, &untagged), (REDIRECT, Some(9), frame.clone()), "without a priority");
    }
    assert_eq!(sent(&kernel, trunk, &with_tag(&frame, 300)).0, SHOT);

    kernel.remove_attachment(AttachmentId(100)).unwrap();
    assert_eq!(sent(&kernel, trunk, &with_tag(&frame, 100)).0, SHOT);
    assert_eq!(sent(&kernel, trunk, &with_tag(&frame, 200)).1, Some(200), "the other one is open");
}

fn of_stray(reason: DropReason) -> DropKey {
    DropKey::of_stray(AttachmentId(77), reason)
}

/// On a segment that endpoints share a frame's source says whose it is.
fn a_device_and_a_mac_are_one_attachment() {
    let Carried { kernel, devices, .. } = Carried::new(tables(1000));
    let segment = devices[2];
    kernel.open_trunk(segment, AttachmentId(77)).unwrap();
    let station = |last: u8| MacAddr(eastgate_testkit::frames::mac(last));
    let open = |id: u32, attachment: Attachment| {
        let there = KernelAttachment { attachment, ifindex: segment, is_veth: false, entry: None };
        kernel.set_attachment(AttachmentId(id), there, OURS).unwrap();
    };
    let shared = |vlan, last| Attachment::shared("u0".into(), VlanId::new_checked(vlan), station(last));
    open(31, shared(0, 31));
    open(32, shared(0, 32));
    open(33, shared(300, 33));
    open(34, Attachment::trunk("u0".into(), VlanId::new_checked(200)));
    let from = |last| udp(last, 21, 5000, 7777);
    let up = |id| (REDIRECT, Some(id), from(id as u8));
    assert_eq!(sent(&kernel, segment, &from(31)), up(31));
    assert_eq!(sent(&kernel, segment, &from(32)), up(32));
    assert_eq!(sent(&kernel, segment, &with_tag(&from(31), 0xe000)), up(31), "a priority alone comes off");
    assert_eq!(sent(&kernel, segment, &with_tag(&from(33), 300)), up(33), "without its tag");
    assert_eq!(sent(&kernel, segment, &with_tag(&from(31), 200)), (REDIRECT, Some(34), from(31)));

    let count = |reason| {
        let drops = kernel.traffic().unwrap().drops;
        let rows: Vec<_> = drops.iter().filter(|(key, _)| *key == of_stray(reason)).collect();
        assert!(rows.len() <= 1, "{rows:?}");
        rows.first().map_or(0, |(_, count)| count.frames)
    };
    for (nobodys, stations, vlans) in [
        (from(33), 1, 0),
        (with_tag(&from(31), 300), 2, 0),
        (from(35), 3, 0),
        (with_tag(&from(31), 100), 3, 1),
        (with_tag(&from(31), 0x0fff), 3, 2),
    ] {
        assert_eq!(sent(&kernel, segment, &nobodys).0, SHOT);
        assert_eq!((count(DropReason::UnknownStation), count(DropReason::UnknownVlan)), (stations, vlans));
    }
    kernel.remove_attachment(AttachmentId(31)).unwrap();
    assert_eq!(sent(&kernel, segment, &from(31)).0, SHOT);
    assert_eq!(sent(&kernel, segment, &from(32)), up(32), "the other one is open");
    assert_eq!((count(DropReason::UnknownStation), count(DropReason::UnknownVlan)), (4, 2));
    // Nobody shares the VLAN any more: it is one that nobody is in, and what was counted stays.
    kernel.remove_attachment(AttachmentId(33)).unwrap();
    assert_eq!(sent(&kernel, segment, &with_tag(&from(33), 300)).0, SHOT);
    assert_eq!((count(DropReason::UnknownStation), count(DropReason::UnknownVlan)), (4, 3));
    assert_eq!(kernel.close_trunk(segment).unwrap().len(), 2);
    assert!(kernel.strays().unwrap().is_empty());
}

/// On a device that is served as a trunk they have a reason, and say what the last one was.
fn strays_are_counted(kernel: &KernelPath, trunk: u32) {
    let frame = udp(11, 21, 5000, 7777);
    let lost = kernel.stats().unwrap().lost;
    kernel.open_trunk(trunk, AttachmentId(77)).unwrap();
    let nobodys = [with_tag(&frame, 300), frame.clone(), with_tag(&frame, 0xe000), with_tag(&frame, 0x0fff)];
    let key = of_stray(DropReason::UnknownVlan);
    for (count, nobodys) in (1..).zip(&nobodys) {
        assert_eq!(sent(kernel, trunk, nobodys).0, SHOT);
        let drops = kernel.traffic().unwrap().drops;
        let (_, found) = drops.iter().find(|(found, _)| *found == key).unwrap();
        let tag =
            nobodys[12..14].eq(&[0x81, 0]).then(|| (0x8100, u16::from_be_bytes([nobodys[14], nobodys[15]])));
        assert_eq!((found.frames, found.last), (count, Some(Subject::of_stray(tag, &frame))));
    }
    let [(closed, count)] = kernel.close_trunk(trunk).unwrap()[..] else { panic!("one row") };
    assert_eq!((closed, count.frames), (key, 4));
    assert!(kernel.strays().unwrap().is_empty() && kernel.close_trunk(trunk).unwrap().is_empty());
    assert_eq!(kernel.stats().unwrap().lost, lost, "each counts once");
}

/// The next daemon opens what it finds; flows of the one before go on by the numbers that they have.
fn the_next_daemon_keeps_numbers() {
    let carried = Carried::new(tables(1000));
    let flow = udp(11, 12, 5000, 443);
    assert_eq!(sent(&carried.kernel, index("p11"), &flow), (REDIRECT, None, Vec::new()), "carried");
    let before = ["p11", "p12"].map(|device| carried.number(device));
    let next = carried.next(&tables(1000));
    // Under other numbers of its own, and in another order.
    for (id, device) in [(70, "p12"), (71, "p11")] {
        next.set_attachment(AttachmentId(id), access(device, index(device)), OURS).unwrap();
        assert_eq!(sent(&next, index("p11"), &flow), (REDIRECT, None, Vec::new()), "still carried");
    }
    assert_eq!(["p11", "p12"].map(|device| number(&next, index(device), 0).unwrap()), before);
    assert_eq!(sent(&next, index("p11"), &udp(11, 21, 5000, 7777)).1, Some(71), "goes up by its own number");
}

/// Its device is gone, and another one has its index.
fn a_recycled_index_is_another_device() {
    let carried = Carried::new(tables(1000));
    let (from, gone) = (index("p11"), index("p12"));
    let flow = udp(11, 12, 5000, 443);
    let lost = |kernel: &KernelPath| kernel.stats().unwrap().lost;
    assert_eq!(sent(&carried.kernel, from, &flow), (REDIRECT, None, Vec::new()), "carried");
    let number_before = carried.number("p12");
    for words in
        ["link del p12".to_owned(), format!("link add other index {gone} type veth peer name other-peer")]
    {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
    }
    let next = carried.next(&tables(1000));
    assert_eq!(
        (sent(&next, from, &flow).0, lost(&next)),
        (SHOT, 1),
        "frames to it do not reach the other one"
    );
    assert_eq!(
        (sent(&next, gone, &udp(12, 11, 443, 5000)).0, lost(&next)),
        (SHOT, 2),
        "nor is it heard for it"
    );
    next.set_attachment(AttachmentId(7), access("other", gone), OURS).unwrap();
    assert_ne!(number(&next, gone, 0), Some(number_before), "flows name that one");
    assert_eq!((sent(&next, from, &flow).0, lost(&next)), (SHOT, 3));
}

/// With as many numbers as there are attachments, one that is closed is another's only when no flow names it.
fn a_number_waits_until_no_flow_names_it() {
    let usual = tables(1000);
    let two = Limits { tables: TableSizes { ports: 2, ..usual.tables }, ..usual };
    let carried = Carried::new(two);
    let number_before = carried.number("p12");
    for words in ["link del p12", "link add p13 type veth peer name q13"] {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
    }
    let next = carried.next(&two);
    next.set_attachment(AttachmentId(0), access("p11", index("p11")), OURS).unwrap();
    let opened = || next.set_attachment(AttachmentId(9), access("p13", index("p13")), OURS);
    assert!(opened().is_err(), "flows of the daemon before name the only one there is");
    next.go_live(&carried.host.shared.snapshot_arc()).unwrap();
    opened().unwrap();
    assert_eq!(number(&next, index("p13"), 0), Some(number_before));
}

#[test]
fn frames_are_resolved_by_device_and_vlan() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    for test in [
        a_device_and_a_vlan_are_one_attachment,
        a_device_and_a_mac_are_one_attachment,
        the_next_daemon_keeps_numbers,
        a_recycled_index_is_another_device,
        a_number_waits_until_no_flow_names_it,
    ] {
        std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
