//! What rules of libvirt's filters say with negation and with lists of values, held against a reading of their text: each attribute by
//! itself is negated, and a rule is there once for each of the values that go in step.

use std::{cell::Cell, fmt::Write as _, fs, net::IpAddr};

use eastgate::{
    import::{File, From, Map, import},
    policy_tools,
};
use eastgate_policy::rule::{Direction, Header, Probe};
use eastgate_wire::{Addr, EndpointId};
use ipnet::IpNet;
use proptest::{prelude::*, sample::select, test_runner::TestRunner};

use super::{refused, shipped::shipped};

const MAP: &str =
    "tenant = \"t\"\nhost = \"alpha\"\n[network.br]\nname = \"n\"\nvni = 5\nsubnets = [\"10.1.0.0/24\"]\n";

fn domain(filter: &str, parameters: &[(&str, &str)]) -> File {
    let parameters: String = parameters
        .iter()
        .map(|(name, value)| format!("<parameter name='{name}' value='{value}'/>"))
        .collect();
    File::new(
        "vm.xml",
        format!(
            "<domain><name>vm</name><devices><interface><mac address='52:54:00:00:00:09'/><source bridge='br'/>\
             <target dev='vnet0'/><filterref filter='{filter}'>{parameters}</filterref></interface></devices></domain>"
        ),
    )
}

fn filter(rules: &str) -> File {
    File::new("mine.xml", format!("<filter name='mine' chain='root'>\n{rules}\n</filter>"))
}

/// How the values of the two lists are taken
#[derive(Clone, Copy, PartialEq, Debug)]
enum Pairs {
    InStep,
    All,
    SecondPort,
}

/// `low-high` of ports, or one of the list
#[derive(Clone, Copy, Debug)]
enum Ports {
    Any,
    From(u16, u16),
    List(Pairs),
}

#[derive(Clone, Copy, Debug)]
enum Peer {
    Any,
    Prefix(&'static str),
    List(Pairs),
}

#[derive(Clone, Debug)]
struct Rule {
    accepts: bool,
    outgoing: bool,
    negated: bool,
    proto: &'static str,
    ports: Ports,
    icmp: Option<(u8, Option<u8>)>,
    peer: Peer,
}

const ADDRESSES: [&str; 2] = ["10.1.0.20", "10.1.0.21"];
const PORTS: [u16; 2] = [80, 443];

fn rule() -> impl Strategy<Value = Rule> {
    let pairs = || select(vec![Pairs::InStep, Pairs::All, Pairs::SecondPort]);
    let ports = prop_oneof![
        1 => Just(Ports::Any),
        2 => select(vec![(80, 80), (22, 80), (443, 500)]).prop_map(|(a, b)| Ports::From(a, b)),
        2 => pairs().prop_map(Ports::List),
    ];
    let peer = prop_oneof![
        1 => Just(Peer::Any),
        2 => select(vec!["10.1.0.20/32", "10.1.0.16/28", "10.0.0.0/8"]).prop_map(Peer::Prefix),
        2 => pairs().prop_map(Peer::List),
    ];
    let icmp = proptest::option::of(select(vec![(8, None), (8, Some(0)), (13, None)]));
    let proto = select(vec!["tcp", "tcp", "udp", "icmp", "all"]);
    (any::<[bool; 3]>(), proto, ports, icmp, peer).prop_map(
        |([accepts, outgoing, negated], proto, ports, icmp, peer)| {
            let ports = if matches!(proto, "tcp" | "udp") { ports } else { Ports::Any };
            // Both lists of a rule are taken in one way.
            let peer = match (ports, peer) {
                (Ports::List(way), Peer::List(_)) => Peer::List(way),
                (_, peer) => peer,
            };
            let icmp = icmp.filter(|_| proto == "icmp");
            Rule { accepts, outgoing, negated, proto, ports, icmp, peer }
        },
    )
}

impl Rule {
    fn xml(&self) -> String {
        let (action, direction) =
            (if self.accepts { "accept" } else { "drop" }, if self.outgoing { "out" } else { "in" });
        let mut text = format!("<rule action='{action}' direction='{direction}'><{}", self.proto);
        let side = if self.outgoing { "dst" } else { "src" };
        match self.peer {
            Peer::Any => {}
            Peer::Prefix(net) => {
                let (address, len) = net.split_once('/').unwrap();
                write!(text, " {side}ipaddr='{address}' {side}ipmask='{len}'").unwrap();
            }
            Peer::List(Pairs::InStep) => write!(text, " {side}ipaddr='$WHO'").unwrap(),
            Peer::List(_) => write!(text, " {side}ipaddr='$WHO[@1]'").unwrap(),
        }
        match self.ports {
            Ports::Any => {}
            Ports::From(first, last) => {
                write!(text, " dstportstart='{first}' dstportend='{last}'").unwrap();
            }
            Ports::List(Pairs::InStep) => text += " dstportstart='$PORT'",
            Ports::List(Pairs::All) => text += " dstportstart='$PORT[@2]'",
            Ports::List(Pairs::SecondPort) => text += " dstportstart='$PORT[1]'",
        }
        if let Some((kind, code)) = self.icmp {
            write!(text, " type='{kind}'").unwrap();
            code.iter().for_each(|code| write!(text, " code='{code}'").unwrap());
        }
        text += if self.negated { " match='no'/></rule>\n" } else { "/></rule>\n" };
        text
    }

    /// As iptables reads what libvirt makes of it: one rule for each pair of values, with a sign before each option.
    fn matches(&self, peer: IpAddr, probe: &Probe) -> bool {
        let number = match self.proto {
            "tcp" => Some(6),
            "udp" => Some(17),
            "icmp" => Some(1),
            _ => None,
        };
        if number.is_some_and(|number| number != probe.proto) {
            return false;
        }
        let nets: Vec<Option<IpNet>> = match self.peer {
            Peer::Any => vec![None],
            Peer::Prefix(net) => vec![Some(net.parse::<IpNet>().unwrap().trunc())],
            Peer::List(_) => ADDRESSES.map(|ip| Some(IpNet::from(ip.parse::<IpAddr>().unwrap()))).to_vec(),
        };
        let ports: Vec<Option<(u16, u16)>> = match self.ports {
            Ports::Any => vec![None],
            Ports::From(first, last) => vec![Some((first, last))],
            Ports::List(Pairs::SecondPort) => vec![Some((PORTS[1], PORTS[1]))],
            Ports::List(_) => PORTS.map(|port| Some((port, port))).to_vec(),
        };
        let in_step = matches!((self.ports, self.peer), (Ports::List(Pairs::InStep), Peer::List(_)));
        let pairs = (0..nets.len()).flat_map(|a| (0..ports.len()).map(move |b| (a, b)));
        pairs.filter(|(a, b)| !in_step || a == b).any(|(a, b)| {
            let net = nets[a].is_none_or(|net| net.contains(&peer) != self.negated);
            let port = match (ports[b], probe.header) {
                (None, _) => true,
                (Some((first, last)), Header::Ports { destination, .. }) => {
                    (first..=last).contains(&destination) != self.negated
                }
                _ => false,
            };
            let icmp = match (self.icmp, probe.header) {
                (None, _) => true,
                (Some((kind, code)), Header::Icmp { kind: own, code: its }) => {
                    (kind == own && code.is_none_or(|code| code == its)) != self.negated
                }
                _ => false,
            };
            net && port && icmp
        })
    }
}

#[test]
fn negation_and_lists_are_what_iptables_would_make_of_them() {
    let folder = std::env::temp_dir().join(format!("egt-{}-filters", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("site.toml");
    let counts = Cell::new([0u32; 2]);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
    let rules = (proptest::collection::vec(rule(), 1..6), any::<bool>());
    let ports =
        [22u16, 79, 80, 81, 443, 444, 501].map(|destination| Header::Ports { source: 40_000, destination });
    let probes: Vec<Probe> = [6, 17]
        .into_iter()
        .flat_map(|proto| ports.map(move |header| Probe::new(proto, header)))
        .chain(
            [(8, 0), (8, 1), (13, 0), (0, 0)].map(|(kind, code)| Probe::new(1, Header::Icmp { kind, code })),
        )
        .chain([Probe::new(47, Header::Unread)])
        .collect();
    let outcome = TestRunner::new(config).run(&rules, |(rules, drops_rest)| {
        let mut text: String = rules.iter().map(Rule::xml).collect();
        if drops_rest {
            text += "<rule action='drop' direction='inout' priority='1000'><all/></rule>";
        }
        let parameters = [
            ("IP", "10.1.0.9"),
            ("WHO", ADDRESSES[0]),
            ("WHO", ADDRESSES[1]),
            ("PORT", "80"),
            ("PORT", "443"),
        ];
        let made = import(
            From::Libvirt,
            &[filter(&text), domain("mine", &parameters)],
            &Map::of("map.toml", MAP).unwrap(),
        );
        let made = made.map_err(|faults| TestCaseError::fail(format!("{faults}\n{text}")))?;
        fs::write(&path, format!("{made}\n[host.alpha]\nvtep = \"172.31.0.1\"\ndevice = \"eth0\"\n"))
            .unwrap();
        let policies = policy_tools::load(&path, false).unwrap();
        for (direction, outgoing) in [(Direction::Ingress, false), (Direction::Egress, true)] {
            for peer in ["10.1.0.15", "10.1.0.16", "10.1.0.20", "10.1.0.21", "10.9.0.1", "192.0.2.1"] {
                let peer: IpAddr = peer.parse().unwrap();
                for probe in &probes {
                    let first = rules.iter().find(|it| it.outgoing == outgoing && it.matches(peer, probe));
                    let expected = first.map_or(!drops_rest, |rule| rule.accepts);
                    let side = policies.networks[0].side();
                    let decision = side.compiled.decide(EndpointId(0), direction, Addr::from(peer), probe);
                    let passes = decision.verdict.passes();
                    prop_assert_eq!(
                        passes,
                        expected,
                        "{:?} {} {:?}\n{}\n{}",
                        direction,
                        peer,
                        probe,
                        text,
                        made
                    );
                    let mut seen = counts.get();
                    seen[usize::from(expected)] += 1;
                    counts.set(seen);
                }
            }
        }
        Ok(())
    });
    fs::remove_dir_all(&folder).unwrap();
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    assert!(counts.get().iter().all(|count| *count > 5_000), "{:?}", counts.get());
}

/// Below IP: what is not its own is dropped, as filters said before they had chains of their own for it.
#[test]
fn checks_that_are_negated_are_checks() {
    let rules = "<rule action='drop' direction='out' priority='10'><mac match='no' srcmacaddr='$MAC'/></rule>\
        <rule action='drop' direction='out' priority='20'><ip match='no' srcipaddr='$IP'/></rule>\
        <rule action='drop' direction='out' priority='30'><arp match='no' arpsrcmacaddr='$MAC'/></rule>\
        <rule action='drop' direction='out' priority='31'><arp match='no' arpsrcipaddr='$IP'/></rule>";
    let map = Map::of("map.toml", MAP).unwrap();
    let read = |rules: &str| {
        let files = [filter(rules), domain("mine", &[("IP", "10.1.0.9"), ("GW", "52:54:00:00:00:01")])];
        import(From::Libvirt, &files, &map).unwrap_or_else(|faults| panic!("{faults}"))
    };
    let text = read(rules);
    assert!(!text.contains("port_security = false") && !text.contains("0.0.0.0/0"), "{text}");
    assert!(text.contains("address = \"::/0\""), "nothing is checked of IPv6: {text}");
    assert!(text.contains("{ from = \"any\" }"), "{text}");
    let only_v4 = "<rule action='drop' direction='inout'><mac match='no' protocolid='ipv4'/></rule>";
    let text = read(only_v4);
    assert!(text.contains("{ family = \"ipv4\", from = \"any\" }"), "{text}");
    assert!(text.contains("No IPv6 passes"), "{text}");
    let text = read(
        "<rule action='drop' direction='out'><ip match='no' srcipaddr='$IP'/></rule>\
         <rule action='accept' direction='in'><ip/></rule>",
    );
    assert!(text.contains("{ from = \"any\" }"), "{text}");
    let wrong = |rule: &str, why: &str| {
        refused(
            From::Libvirt,
            "mine.xml",
            &format!("<filter name='mine' chain='root'>\n{rule}\n</filter>"),
            "",
            &[why, "  --> mine.xml:2:"],
        );
    };
    wrong(
        "<rule action='drop' direction='in'><ip match='no' srcipaddr='$IP'/></rule>",
        "cannot be said by checks",
    );
    wrong("<rule action='accept' direction='out'><ip match='no' srcipaddr='$IP'/></rule>", "cannot be said");
    wrong(
        "<rule action='drop' direction='out'><ip match='no' srcipaddr='10.1.0.9' dstportstart='22' protocol='tcp'/></rule>",
        "no check here asks for",
    );
    wrong("<rule action='drop' direction='in'><tcp match='never'/></rule>", "`never` is neither");
    wrong(
        "<rule action='drop' direction='in'><tcp match='no' dstipaddr='$IP'/></rule>",
        "all but its own addresses",
    );
    wrong("<rule action='drop' direction='in'><tcp match='no' connlimit-above='3'/></rule>", "negated");
    wrong("<rule action='accept' direction='in'><tcp match='no' state='NEW'/></rule>", "`state`, negated");
}

/// What an interface says counts, whatever a filter says where it includes another one; and includes end.
#[test]
fn filters_include_others_with_parameters() {
    let inner = "<filter name='ssh' chain='root'><rule action='accept' direction='in'><tcp srcipaddr='$WHO' dstportstart='$PORT[@1]'/></rule></filter>";
    let outer = |more: &str| {
        format!(
            "<filter name='mine' chain='root'><filterref filter='ssh'><parameter name='WHO' value='10.1.0.7'/>\
             <parameter name='PORT' value='22'/><parameter name='PORT' value='2222'/></filterref>{more}\
             <rule action='drop' direction='in' priority='1000'><all/></rule></filter>"
        )
    };
    let read = |parameters: &[(&str, &str)], more: &str| {
        let files = [
            File::new("ssh.xml", inner.to_owned()),
            File::new("mine.xml", outer(more)),
            domain("mine", parameters),
        ];
        import(From::Libvirt, &files, &Map::of("map.toml", MAP).unwrap())
    };
    let text = read(&[("IP", "10.1.0.9")], "").unwrap();
    assert!(text.contains("{ proto = \"tcp\", ports = 22, from = \"10.1.0.7/32\" }"), "{text}");
    assert!(text.contains("{ proto = \"tcp\", ports = 2222, from = \"10.1.0.7/32\" }"), "{text}");
    let text = read(&[("IP", "10.1.0.9"), ("WHO", "10.1.0.8")], "").unwrap();
    assert!(text.contains("from = \"10.1.0.8/32\"") && !text.contains("10.1.0.7"), "{text}");
    let told = read(&[("IP", "10.1.0.9")], "\n<filterref filter='mine'/>").unwrap_err().to_string();
    assert!(told.contains("filters that include each other\n  --> mine.xml:2:1"), "{told}");
    let chain: Vec<File> = (0..20)
        .map(|at| {
            let text = format!("<filter name='f{at}'><filterref filter='f{}'/></filter>", at + 1);
            File::new(&format!("f{at}.xml"), text)
        })
        .chain([domain("f0", &[("IP", "10.1.0.9")])])
        .collect();
    let told = import(From::Libvirt, &chain, &Map::of("map.toml", MAP).unwrap()).unwrap_err().to_string();
    assert!(told.contains("more than 16 filters inside each other") && told.contains("f15.xml:1:"), "{told}");
    // Those that are shipped go on as they were.
    assert!(shipped().len() >= 24);
}

/// Rules for each protocol that libvirt knows are about that one alone, with its ports where it has any.
#[test]
fn each_protocol_is_its_own() {
    let by_ports = [("tcp", 6), ("udp", 17), ("sctp", 132)];
    let whole = [("udplite", 136), ("esp", 50), ("ah", 51), ("igmp", 2), ("icmp", 1)];
    let ports = |(name, _): &(&str, u8)| {
        format!("<rule action='accept' direction='in'><{name} dstportstart='70' srcportstart='9'/></rule>")
    };
    let all = |(name, _): &(&str, u8)| format!("<rule action='accept' direction='in'><{name}/></rule>");
    let rules = by_ports.iter().map(ports).chain(whole.iter().map(all)).collect::<Vec<_>>();
    let folder = std::env::temp_dir().join(format!("egt-{}-protocols", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("site.toml");
    for (at, (name, number)) in by_ports.iter().chain(&whole).enumerate() {
        let text = rules[at].clone() + "<rule action='drop' direction='inout' priority='1000'><all/></rule>";
        let files = [filter(&text), domain("mine", &[("IP", "10.1.0.9")])];
        let made = import(From::Libvirt, &files, &Map::of("map.toml", MAP).unwrap());
        let made = made.unwrap_or_else(|faults| panic!("{faults}"));
        fs::write(&path, format!("{made}\n[host.alpha]\nvtep = \"172.31.0.1\"\ndevice = \"eth0\"\n"))
            .unwrap();
        let policies = policy_tools::load(&path, false).unwrap();
        let passes = |protocol: u8, header: Header| {
            let network = &policies.networks[0];
            let decided = network.side().compiled.decide(
                EndpointId(0),
                Direction::Ingress,
                Addr::v4([10, 1, 0, 77]),
                &Probe::new(protocol, header),
            );
            decided.verdict.passes()
        };
        for (_, other) in by_ports.iter().chain(&whole) {
            let header = match other {
                1 => Header::Icmp { kind: 8, code: 0 },
                6 | 17 | 132 | 136 => Header::Ports { source: 9, destination: 70 },
                _ => Header::Unread,
            };
            assert_eq!(passes(*other, header), other == number, "{name}: {other}");
        }
        if at < by_ports.len() {
            assert!(!passes(*number, Header::Ports { source: 9, destination: 71 }), "{name}");
            assert!(!passes(*number, Header::Ports { source: 8, destination: 70 }), "{name}");
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}
