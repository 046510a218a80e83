//! Networks in which the kernel routes: what it gets, what it does not, and what of its words goes to whom.

use std::{net::IpAddr, sync::Arc};

use eastgate_testkit::{
    packet::{self, Arp, ArpOp},
    parse,
};
use eastgate_wire::{AttachmentId, DropReason, Frame, MacAddr, Offload, Vni, checksum::checksum};

use crate::{
    attachments::Attachments,
    pipeline::{
        Outcome, Pipeline, Shared,
        batch::{Batch, Egress, Origin},
    },
    snapshot::{Snapshot, state::StateRegistry},
};

const CONFIG: &str = r#"
[host.alpha]
vtep = "172.31.0.1"
device = "eth0"
[host.beta]
vtep = "172.31.0.2"
device = "eth0"
[tenant.acme.network.app]
vni = 5001
subnets = ["10.1.0.0/24", "fd00:1::/64"]
neighbors = "kernel"
[tenant.acme.group.all]
ingress = [{ proto = "udp", ports = 7000, from = "any" }]
egress = [{ to = "any" }]
"#;

const HEAD_ROOM: usize = 64;

fn configuration() -> String {
    let endpoint = |number: u8, host: &str| {
        format!(
            "[tenant.acme.endpoint.vm{number}]\nnetwork = \"app\"\nhost = \"{host}\"\nport = \"p{number}\"\n\
             mac = \"{}\"\naddresses = [\"10.1.0.{number}\", \"fd00:1::{number}\"]\ngroups = [\"all\"]\n",
            mac(number)
        )
    };
    [CONFIG, &endpoint(11, "alpha"), &endpoint(12, "alpha"), &endpoint(21, "beta")].concat()
}

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

fn own() -> MacAddr {
    eastgate_steering::proxy_mac(Vni::new_checked(5001).unwrap())
}

fn v4(number: u8) -> IpAddr {
    [10, 1, 0, number].into()
}

struct Host {
    shared: Shared,
    registry: Attachments,
}

impl Host {
    fn new() -> Self {
        let (config, mut registry) = (parse(&configuration()), Attachments::default());
        let states = Arc::new(StateRegistry::new(config.limits));
        let snapshot = Snapshot::compile(&config, "alpha", None, &mut registry, &states).unwrap();
        Self { shared: Shared::new(snapshot, states, 1), registry }
    }

    fn at(&self, device: &str) -> AttachmentId {
        self.registry.find(device).unwrap()
    }

    /// What becomes of a frame that comes in by a device, and what leaves by which one.
    fn takes(&self, device: &str, bytes: &[u8]) -> (Outcome, Vec<(String, Vec<u8>)>) {
        let snapshot = self.shared.snapshot_arc();
        let mut buffer = [&[0; HEAD_ROOM][..], bytes].concat();
        let end = buffer.len();
        let mut frame = Frame::new(&mut buffer, HEAD_ROOM, end, Offload::default());
        let mut out = Batch::default();
        let now = eastgate_wire::Instant::default();
        let mut pipeline = Pipeline::new(&self.shared, &snapshot, 0);
        let outcome = pipeline.handle_tenant(self.at(device), &mut frame, now, &mut out);
        let sent = out.emits().iter().filter_map(|emit| {
            let from = if emit.origin == Origin::Made { out.made() } else { &buffer };
            let Egress::Attachment(to) = emit.to else { return None };
            let bytes = from[emit.range.start as usize..emit.range.end as usize].to_vec();
            Some((self.registry.get(to).unwrap().device.to_string(), bytes))
        });
        (outcome, sent.collect())
    }
}

const ENTRY: &str = "eg-in-5001";

fn datagram(to: MacAddr, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = packet::udp((v4(11), 4000), (v4(12), 7000), b"routed").unwrap();
    change(&mut packet);
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..header]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet::ip_frame(to, mac(11), &packet)
}

#[test]
fn the_kernel_gets_what_it_can_route_and_nothing_else() {
    let host = Host::new();
    let routed = |frame: &[u8]| [&own().0, &own().0, &frame[12..]].concat();
    let straight = |frame: &[u8]| [&mac(12).0, &own().0, &frame[12..]].concat();
    let plain = datagram(own(), |_| {});
    assert_eq!(host.takes("p11", &plain), (Outcome::Forward, vec![(ENTRY.into(), routed(&plain))]));
    let direct = datagram(mac(12), |_| {});
    assert_eq!(host.takes("p11", &direct), (Outcome::Forward, vec![(ENTRY.into(), routed(&direct))]));
    let optional = datagram(own(), |packet| {
        packet.splice(20..20, [1, 1, 1, 0]);
        packet[0] = 0x46;
        let len = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&len);
    });
    assert_eq!(host.takes("p11", &optional), (Outcome::Forward, vec![("p12".into(), straight(&optional))]));
    let (outcome, told) = host.takes("p11", &datagram(own(), |packet| packet[8] = 1));
    assert_eq!(outcome, Outcome::Drop(DropReason::TtlExceeded));
    let [(at, error)] = &told[..] else { panic!("{told:02x?}") };
    assert_eq!((&**at, packet::read_icmp_error(error).map(|it| (it.0, it.1))), ("p11", Some((11, 0))));
    assert_eq!((&error[6..12], &error[26..30]), (&own().0[..], &[10, 1, 0, 12][..]), "from whom it was for");
    let denied = datagram(own(), |packet| packet[23] = 1);
    assert_eq!(host.takes("p11", &denied).1, [], "what is refused is not routed");
}

#[test]
fn requests_for_endpoints_of_this_host_are_the_kernels_to_answer() {
    let host = Host::new();
    let ask = |to: MacAddr, target: u8| {
        let (sender, target) = ((mac(11), [10, 1, 0, 11].into()), (MacAddr::ZERO, [10, 1, 0, target].into()));
        Arp { op: ArpOp::Request, sender, target }.frame(to)
    };
    let asked = ask(MacAddr::BROADCAST, 12);
    assert_eq!(host.takes("p11", &asked), (Outcome::Consumed, vec![(ENTRY.into(), asked.clone())]));
    let poll = ask(mac(12), 12);
    let as_its_own = [&own().0[..], &poll[6..]].concat();
    assert_eq!(host.takes("p11", &poll), (Outcome::Consumed, vec![(ENTRY.into(), as_its_own)]));
    let (outcome, sent) = host.takes("p11", &ask(MacAddr::BROADCAST, 21));
    let answer = Arp::parse(&sent[0].1).unwrap();
    assert_eq!(
        (outcome, &*sent[0].0, answer.op),
        (Outcome::Consumed, "p11", ArpOp::Reply),
        "it has no route there"
    );
}

#[test]
fn of_what_the_kernel_says_answers_go_to_who_asked() {
    let host = Host::new();
    let says = |op, from: MacAddr, to: MacAddr| {
        Arp { op, sender: (from, [10, 1, 0, 12].into()), target: (to, [10, 1, 0, 11].into()) }.frame(to)
    };
    let answer = says(ArpOp::Reply, own(), mac(11));
    assert_eq!(host.takes(ENTRY, &answer), (Outcome::Consumed, vec![("p11".into(), answer.clone())]));
    for other in [
        says(ArpOp::Request, own(), mac(11)),
        says(ArpOp::Reply, mac(12), mac(11)),
        says(ArpOp::Reply, own(), mac(77)),
        says(ArpOp::Reply, own(), mac(21)),
        datagram(mac(12), |_| {}),
        b"noise".to_vec(),
    ] {
        assert_eq!(
            host.takes(ENTRY, &other),
            (Outcome::Drop(DropReason::NotAnAnswer), vec![]),
            "{other:02x?}"
        );
    }
}
