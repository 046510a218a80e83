//! What may be punted of each network: exact for what the programs see, and apart from every other network.

use etherparse::{IpHeaders, IpNumber, Ipv4Header, PacketBuilder};

use super::*;

const OTHER: u32 = 5002;
const STRANGE: u32 = 5003;
const ROUTER: [u8; 12] = [2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2];

/// Endpoints 11 and 12 in networks of their own.
fn two_networks(limit: u32) -> String {
    let network = |tenant: &str, vni: u32, n: u8, more: &str| {
        format!(
            "[tenant.{tenant}.network.app]\nvni = {vni}\nsubnets = [\"10.1.0.0/24\"]\n{more}\
             [tenant.{tenant}.endpoint.p{n}]\nnetwork = \"app\"\nhost = \"alpha\"\nport = \"p{n}\"\n\
             mac = \"02:00:00:00:00:{n:02x}\"\naddresses = [\"10.1.0.{n}\"]\n"
        )
    };
    format!(
        "[host.alpha]\nvtep = \"172.31.0.1\"\ndevice = \"u0\"\n{}{}",
        network("acme", VNI, 11, &format!("slow_path_limit = {limit}\n")),
        network("other", OTHER, 12, ""),
    )
}

/// The programs, with a pipeline behind them that nobody asks.
struct Limited {
    host: Host,
    kernel: Arc<KernelPath>,
}

impl Limited {
    fn new(limit: u32) -> Self {
        let devices = devices(SCENES[0]);
        let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
        let host = Host::new(SCENES[0], &two_networks(limit), Some((kernel.clone(), &devices)));
        Self { host, kernel }
    }

    /// Whether a frame of an endpoint is punted.
    fn is_punted(&self, endpoint: u8, frame: &[u8], segment: u16) -> bool {
        let device = self.host.ports[usize::from(endpoint != HERE[0])];
        let verdict = self.kernel.programs().try_program("tenant", frame, device, segment).unwrap().verdict;
        assert!(verdict == REDIRECT || verdict == SHOT, "{verdict}");
        verdict == REDIRECT
    }

    /// Whether a datagram from the underlay goes on to whomever it is for, as it is.
    fn goes_on(&self, datagram: &[u8]) -> bool {
        let trial = self.kernel.programs().try_program("underlay", datagram, self.host.ports[2], 0).unwrap();
        assert!(trial.verdict == SHOT || (trial.verdict, &trial.frame[..]) == (PASS_ON, datagram));
        trial.verdict == PASS_ON
    }

    /// Uses up what the network may send.
    fn exhaust(&self) {
        while self.is_punted(11, &ping(11, 12, 1), 0) {}
    }

    fn dropped(&self, vni: Option<u32>) -> u64 {
        let drops = self.kernel.traffic().unwrap().drops;
        let of_network = drops.iter().filter(|(of, _)| {
            of.vni.map(eastgate_wire::Vni::get) == vni && of.reason == DropReason::SlowPathLimit
        });
        of_network.map(|(_, count)| count.frames).sum()
    }
}

/// An outer packet whose IPv4 header is changed, and whose UDP checksum is right.
fn outer(payload: &[u8], to: [u8; 4], port: u16, change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let mut ip = Ipv4Header::new(payload.len() as u16 + 8, 64, IpNumber::UDP, [172, 31, 0, 2], to).unwrap();
    change(&mut ip);
    let mut out = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 1, 2], [2, 0, 0, 0, 1, 1]);
    builder.ip(IpHeaders::Ipv4(ip, Default::default())).udp(50_000, port).write(&mut out, payload).unwrap();
    out
}

fn to_us(payload: &[u8]) -> Vec<u8> {
    outer(payload, [172, 31, 0, 1], 4789, |_| ())
}

fn each_network_has_its_own() {
    let limited = Limited::new(1);
    let begun = std::time::Instant::now();
    let passed = (0..200).filter(|_| limited.is_punted(11, &ping(11, 12, 1), 0)).count() as u64;
    assert!((1..=2 + begun.elapsed().as_secs()).contains(&passed), "{passed} in {:?}", begun.elapsed());
    assert_eq!(limited.dropped(Some(VNI)), 200 - passed);
    assert!((0..200).all(|_| limited.is_punted(12, &ping(12, 11, 1), 0)), "for another network's flood");
    assert_eq!((limited.dropped(Some(OTHER)), limited.dropped(None)), (0, 0));

    // What comes by the tunnel draws on the same, however it is written.
    let inner = ping(21, 11, 1);
    let mut reserved = vxlan(VNI, &inner);
    (reserved[0], reserved[7]) = (0xff, 1);
    let of_network = [
        to_us(&vxlan(VNI, &inner)),
        to_us(&reserved),
        to_us(&vxlan(VNI, b"")),
        outer(&vxlan(VNI, &inner), [172, 31, 0, 1], 4789, |ip| {
            ip.options = [1, 1, 1, 0][..].try_into().unwrap();
        }),
        outer(&vxlan(VNI, &inner), [172, 31, 0, 1], 4789, |ip| ip.more_fragments = true),
        outer(&vxlan(VNI, &inner), [239, 1, 1, 1], 4789, |_| ()),
    ];
    for (which, datagram) in of_network.iter().enumerate() {
        limited.exhaust();
        assert!(!limited.goes_on(datagram), "datagram {which}");
    }
    limited.exhaust();
    let others = [
        to_us(&vxlan(OTHER, &inner)),
        // Neither is for us.
        outer(&vxlan(VNI, &inner), [172, 31, 0, 1], 4790, |_| ()),
        outer(&vxlan(VNI, &inner), [172, 31, 0, 7], 4789, |_| ()),
        // Of no use without the first.
        outer(&inner, [172, 31, 0, 1], 4789, |ip| ip.fragment_offset = 100.try_into().unwrap()),
        [&ROUTER[..], &[8, 6], &[0; 46]].concat(),
    ];
    for (which, datagram) in others.iter().enumerate() {
        assert!(limited.goes_on(datagram), "datagram {which}");
    }
}

/// An outer IPv6 packet whose headers behind the fixed one are `more`, the first of them `next`.
fn outer_v6(to: [u8; 16], next: u8, more: &[u8], payload: &[u8]) -> Vec<u8> {
    let udp = [
        &50_000u16.to_be_bytes()[..],
        &4789u16.to_be_bytes(),
        &(payload.len() as u16 + 8).to_be_bytes(),
        &[1, 2],
    ];
    let behind = [more, &udp.concat(), payload].concat();
    let from = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let len = (behind.len() as u16).to_be_bytes();
    [&ROUTER[..], &[0x86, 0xdd, 0x60, 0, 0, 0], &len, &[next, 64], &from, &to, &behind].concat()
}

fn over_ipv6_as_well() {
    const UDP: u8 = 17;
    const FRAGMENT: u8 = 44;
    let limited = Limited::new(1);
    let vtep = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let underlay = KernelUnderlay {
        ifindex: limited.host.ports[2],
        mtu: 1500,
        vtep: VtepAddr(std::net::Ipv6Addr::from(vtep(1)).into()),
        port: 4789,
        dont_fragment: true,
    };
    limited.kernel.set_underlay(Some(underlay)).unwrap();
    let inner = vxlan(VNI, &ping(21, 11, 1));
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let of_network = [
        outer_v6(vtep(1), UDP, &[], &inner),
        outer_v6(vtep(1), FRAGMENT, &[UDP, 0, 0, 1, 0, 0, 0, 7], &inner),
        outer_v6(group, UDP, &[], &inner),
    ];
    for (which, datagram) in of_network.iter().enumerate() {
        limited.exhaust();
        assert!(!limited.goes_on(datagram), "datagram {which}");
    }
    limited.exhaust();
    let others = [
        outer_v6(vtep(1), UDP, &[], &vxlan(OTHER, b"a frame")),
        outer_v6(vtep(7), UDP, &[], &inner),
        outer_v6(vtep(1), FRAGMENT, &[UDP, 0, 1, 0, 0, 0, 0, 7], &inner),
        // Not the family of our VTEP any more.
        to_us(&inner),
    ];
    for (which, datagram) in others.iter().enumerate() {
        assert!(limited.goes_on(datagram), "datagram {which}");
    }
}

fn unknown_hosts_have_one_for_all() {
    let limited = Limited::new(1);
    let mut vni = STRANGE;
    let passed = std::iter::from_fn(|| {
        vni += 1;
        limited.goes_on(&to_us(&vxlan(vni, b"noise"))).then_some(())
    });
    let passed = passed.take(1_000_000).count();
    assert!((2_000..1_000_000).contains(&passed), "{passed} went on");
    while limited.goes_on(&to_us(&vxlan(STRANGE, b"noise"))) {}
    let no_vxlan = [to_us(&[0; 20]), to_us(b"abc")];
    // One more may come every tenth of a millisecond.
    assert!(no_vxlan.iter().all(|datagram| (0..1000).any(|_| !limited.goes_on(datagram))));
    assert!(limited.dropped(None) >= 4, "{}", limited.dropped(None));
    assert!(limited.goes_on(&to_us(&vxlan(OTHER, b"a frame"))));
    assert_eq!((limited.dropped(Some(VNI)), limited.dropped(Some(OTHER))), (0, 0));
}

fn gso_packets_count_as_their_packets() {
    let limited = Limited::new(5);
    // An odd one: nobody has opened that flow.
    let gso_packet = udp_sized(11, 12, false, 1028);
    assert!(limited.is_punted(11, &gso_packet, 100), "a GSO packet is punted whole while anything may");
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert!(!limited.is_punted(11, &ping(11, 12, 1), 0), "eleven packets were counted as six at most");
}

fn counts_outlive_limits_and_networks() {
    let mut limited = Limited::new(1);
    limited.exhaust();
    for _ in 0..20 {
        limited.is_punted(11, &ping(11, 12, 1), 0);
    }
    let before = limited.dropped(Some(VNI));
    assert!(before >= 20, "{before}");
    limited.host.install(&two_networks(1_000_000));
    assert_eq!((limited.dropped(Some(VNI)), limited.dropped(None)), (before, 0));
    std::thread::sleep(std::time::Duration::from_millis(1));
    assert!((0..100).all(|_| limited.is_punted(11, &ping(11, 12, 1), 0)), "a new limit holds at once");
    let text = two_networks(1);
    limited.host.install(&text[..text.find("[tenant.acme").unwrap()]);
    assert_eq!((limited.dropped(Some(VNI)), limited.dropped(None)), (0, before));
}

fn tables_hold_as_many_as_they_are_told() {
    let devices = devices(SCENES[0]);
    let usual = tables(1000);
    let few = Limits { tables: TableSizes { networks: 1, ports: 1, ..usual.tables }, ..usual };
    let kernel = KernelPath::load(few, devices[0], gso::TUNNEL_PORT).unwrap();
    assert_eq!(kernel.programs().missized(&few), []);
    let more =
        kernel.programs().missized(&Limits { tables: TableSizes { closed_flows: 7, ..few.tables }, ..few });
    assert_eq!(more, [("closed_flows".to_owned(), 16_384, 7)]);
    let port = |number: usize| access(["p11", "p12"][number], devices[number]);
    let vni = eastgate_wire::Vni::new_checked(VNI).unwrap();
    kernel.set_attachment(AttachmentId(0), port(0), vni).unwrap();
    for _ in 0..2 {
        assert!(kernel.set_attachment(AttachmentId(1), port(1), vni).is_err(), "a second port of one");
    }
    kernel.remove_attachment(AttachmentId(0)).unwrap();
    kernel.set_attachment(AttachmentId(1), port(1), vni).unwrap();
    // A network that there is no room for has the limit of unserved networks.
    let programs = kernel.programs();
    programs.limit(Some(1), 5, 1).unwrap();
    assert!(programs.limit(Some(2), 5, 1).is_err(), "a second network of one");
}

#[test]
fn what_goes_up_is_limited_for_each_network() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    for test in [
        each_network_has_its_own,
        over_ipv6_as_well,
        unknown_hosts_have_one_for_all,
        gso_packets_count_as_their_packets,
        counts_outlive_limits_and_networks,
        tables_hold_as_many_as_they_are_told,
    ] {
        std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
