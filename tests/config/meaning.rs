//! What a good configuration means.

use std::{sync::Arc, time::Duration};

use eastgate_config::{Config, IcmpMatch, Peer, PortRange, Protocol, Rule, Topology, load_str};
use eastgate_wire::{Addr, Family, MacAddr, Vni};
use ipnet::IpNet;

fn load(text: &str) -> Arc<Config> {
    load_str("test.toml", text).unwrap_or_else(|found| panic!("{found}"))
}

fn example(name: &str) -> Arc<Config> {
    load(&std::fs::read_to_string(crate::folder("configs").join(name)).unwrap())
}

/// The ingress rules of a group that holds `rules`.
fn rules(rules: &str) -> Vec<Rule> {
    let text = format!(
        "[host.alpha]\nvtep = \"172.31.0.1\"\ndevice = \"eth0\"\n[tenant.t.network.n]\nvni = 1\n\
         subnets = [\"10.1.0.0/24\"]\nhosts = [\"alpha\"]\n[tenant.t.group.g]\ningress = [{rules}]\n"
    );
    load(&text).tenants["t"].groups["g"].ingress.to_vec()
}

fn rule(text: &str) -> Rule {
    rules(text).remove(0)
}

#[test]
fn the_smallest_example() {
    let config = example("minimal.toml");
    let acme = config.tenant("acme").unwrap();
    let app = &acme.networks["app"];
    assert_eq!(app.vni, Vni::new_checked(5001).unwrap());
    assert_eq!(config.members(app).map(|host| &*host.name).collect::<Vec<_>>(), ["alpha", "beta"]);
    assert_eq!(config.overhead(app), 50);
    let web2 = app.endpoint("web2").unwrap();
    assert_eq!(
        (&*web2.host.host, web2.attachment.as_ref().map(|at| &*at.device)),
        ("beta", Some("veth-web2"))
    );
    assert_eq!(web2.mac, MacAddr([2, 0, 0, 0, 1, 2]));
    assert_eq!(web2.addresses, [Addr::v4([10, 1, 0, 12])]);
    assert_eq!(web2.at.to_string(), "test.toml:37:23");
    assert_eq!(acme.groups["web"].ingress[1].at.to_string(), "test.toml:23:3");
    assert_eq!(app.timeouts.tcp_established, Duration::from_secs(7440));
    assert!(config.overlay.dont_fragment && web2.port_security);
}

#[test]
fn a_hub_is_a_member_without_endpoints() {
    let config = example("hub-and-spoke.toml");
    let (_, network) = config.networks().next().unwrap();
    assert_eq!(network.topology, Topology::Hub);
    assert_eq!(&*network.hub.as_ref().unwrap().host, "hub");
    let members: Vec<&str> = config.members(network).map(|host| &*host.name).collect();
    assert_eq!(members, ["hub", "spoke1", "spoke2"]);
    assert!(network.is_member("spoke1") && !network.is_member("spoke"));
    assert_eq!(config.networks_of("spoke2").count(), 1);
    assert_eq!(config.networks_of("nobody").count(), 0);
    assert!(network.endpoints.iter().all(|endpoint| endpoint.attachment.is_none()));
}

#[test]
fn ipv6_costs_twenty_bytes_more() {
    let config = example("ipv6-underlay.toml");
    let (_, app) = config.networks().next().unwrap();
    assert_eq!(config.overhead(app), 70);
    assert_eq!(app.mtu, Some(1430));
    let router = app.endpoint("router").unwrap();
    assert!(router.router && router.dhcp_server && router.routes.len() == 2);
}

#[test]
fn ports_are_sorted_and_joined() {
    let rule =
        rule(r#"{ proto = "tcp", ports = [443, "8050-8099", "8000-8049", "8020", 80, 81], from = "any" }"#);
    let range = |first, last| PortRange { first, last };
    assert_eq!(rule.ports, [range(80, 81), range(443, 443), range(8000, 8099)]);
    assert_eq!(rule.protocol, Protocol::Number(6));
    let all = self::rule(r#"{ proto = "udp", ports = ["0-65535", 65535], source_ports = 53, from = "any" }"#);
    assert_eq!((all.ports, all.source_ports), (vec![range(0, 65535)], vec![range(53, 53)]));
}

#[test]
fn icmp_is_of_both_families_until_something_says_which() {
    let icmp = |text: &str| {
        let rule = rule(text);
        (rule.protocol, rule.family, rule.icmp.map(|icmp| (icmp.kind, icmp.code)))
    };
    let (v4, v6) = (Protocol::Number(1), Protocol::Number(58));
    assert_eq!(icmp(r#"{ proto = "icmp", from = "any" }"#), (Protocol::Icmp, None, None));
    assert_eq!(
        icmp(r#"{ proto = "icmp", from = ["10.0.0.0/8", "fd00::/8"] }"#),
        (Protocol::Icmp, None, None)
    );
    assert_eq!(icmp(r#"{ proto = "icmp", from = ["10.0.0.0/8", "any"] }"#), (Protocol::Icmp, None, None));
    assert_eq!(icmp(r#"{ proto = "icmp", from = "10.0.0.0/8" }"#), (v4, Some(Family::V4), None));
    assert_eq!(icmp(r#"{ proto = "icmp", from = "fd00::1" }"#), (v6, Some(Family::V6), None));
    assert_eq!(icmp(r#"{ proto = "icmp", family = "ipv6", from = "any" }"#), (v6, Some(Family::V6), None));
    assert_eq!(icmp(r#"{ proto = "icmpv6", from = "any" }"#), (v6, Some(Family::V6), None));
    assert_eq!(icmp(r#"{ proto = 1, from = "any" }"#), (v4, Some(Family::V4), None));
    let typed = icmp(
        r#"{ proto = "icmp", icmp_type = "destination-unreachable", icmp_code = "port-unreachable", from = "any" }"#,
    );
    assert_eq!(typed, (v4, Some(Family::V4), Some((3, Some(3)))));
    let typed = icmp(r#"{ proto = "icmpv6", icmp_type = "echo-request", icmp_code = 0, from = "any" }"#);
    assert_eq!(typed, (v6, Some(Family::V6), Some((128, Some(0)))));
    assert_eq!(
        icmp(r#"{ proto = "icmp", icmp_type = 8, from = "any" }"#),
        (v4, Some(Family::V4), Some((8, None)))
    );
}

/// What is negated is what is left.
#[test]
fn what_is_negated_is_all_but_that() {
    let range = |first, last| PortRange { first, last };
    let prefix = |text: &str| text.parse::<IpNet>().unwrap();
    let all_but =
        |whole: &str, of: &[&str]| Peer::Except(prefix(whole), of.iter().map(|net| prefix(net)).collect());
    let rule = |text: &str| self::rule(&text.replace('\'', "\""));
    let one = rule("{ proto = 'tcp', ports = [22, '80-90'], from = '10.0.0.0/8', not = ['ports', 'from'] }");
    assert_eq!(one.ports, [range(0, 21), range(23, 79), range(91, 65535)]);
    assert_eq!((one.peers, one.family), (vec![all_but("0.0.0.0/0", &["10.0.0.0/8"])], Some(Family::V4)));
    let both = rule(
        "{ from = ['fd00::/8', '10.1.0.7', { prefix = '10.2.0.0/30', except = ['10.2.0.0/31'] }], not = ['from'] }",
    );
    let v4 = all_but("0.0.0.0/0", &["10.1.0.7/32", "10.2.0.2/31"]);
    assert_eq!((both.peers, both.family), (vec![v4, all_but("::/0", &["fd00::/8"])], None));
    let protocol = |text: &str| {
        let rule = rule(&format!("{{ {text}, not = ['proto'] }}"));
        (rule.protocol, rule.family)
    };
    assert_eq!(protocol("proto = 'tcp', from = 'any'"), (Protocol::NotNumber(6), None));
    assert_eq!(protocol("proto = 'icmp', from = 'any'"), (Protocol::NotIcmp, None));
    assert_eq!(protocol("proto = 'icmp', from = '10.0.0.0/8'"), (Protocol::NotNumber(1), Some(Family::V4)));
    assert_eq!(protocol("proto = 'icmpv6', from = 'any'"), (Protocol::NotNumber(58), None));
    let icmp = rule("{ proto = 'icmp', icmp_type = 8, icmp_code = 0, from = 'any', not = ['icmp_type'] }");
    assert_eq!(icmp.icmp, Some(IcmpMatch { kind: 8, code: Some(0), negated: true }));
}

#[test]
fn ports_go_with_every_protocol_that_has_them() {
    for (name, number) in [("tcp", 6), ("udp", 17), ("dccp", 33), ("sctp", 132), ("udplite", 136)] {
        for proto in [format!("\"{name}\""), number.to_string()] {
            let rule = rule(&format!("{{ proto = {proto}, ports = [2905, \"3868-3870\"], from = \"any\" }}"));
            assert_eq!(rule.protocol, Protocol::Number(number));
            let ranges: Vec<(u16, u16)> = rule.ports.iter().map(|range| (range.first, range.last)).collect();
            assert_eq!(ranges, [(2905, 2905), (3868, 3870)]);
        }
    }
}

#[test]
fn the_other_side_of_a_rule() {
    let rule = rule(r#"{ from = ["group:g", "10.1.0.7", "fd00::/8", "any"], description = "all kinds" }"#);
    let prefix = |text: &str| Peer::Prefix(text.parse().unwrap());
    assert_eq!(rule.peers, [Peer::Group("g".into()), prefix("10.1.0.7/32"), prefix("fd00::/8"), Peer::Any]);
    assert_eq!((rule.protocol, rule.description.as_deref()), (Protocol::Any, Some("all kinds")));
    assert_eq!(rules(r#"{ proto = 47, from = "any" }"#)[0].protocol, Protocol::Number(47));
    assert_eq!(rules(r#"{ proto = "gre", from = "any" }"#)[0].protocol, Protocol::Number(47));
    assert_eq!(rules(r#"{ proto = "47", from = "any" }"#)[0].protocol, Protocol::Number(47));
}

#[test]
fn point_to_point_prefixes_have_no_reserved_addresses() {
    let text = |subnet: &str, address: &str| {
        format!(
            "[host.alpha]\nvtep = \"172.31.0.1\"\ndevice = \"eth0\"\n[tenant.t.network.n]\nvni = 1\nsubnets = [\"{subnet}\"]\n\
             [tenant.t.endpoint.e]\nnetwork = \"n\"\nhost = \"alpha\"\nport = \"p\"\nmac = \"02:00:00:00:00:01\"\naddresses = [\"{address}\"]\n"
        )
    };
    for (subnet, address) in [
        ("10.0.0.0/31", "10.0.0.0"),
        ("10.0.0.0/31", "10.0.0.1"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("10.0.0.0/30", "10.0.0.2"),
        ("fd00::/127", "fd00::"),
        ("fd00::/126", "fd00::3"),
        ("fd00::/64", "fe80::1"),
    ] {
        load(&text(subnet, address));
    }
    for (subnet, address) in
        [("10.0.0.0/30", "10.0.0.3"), ("10.0.0.0/30", "10.0.0.0"), ("fd00::/126", "fd00::")]
    {
        let found = load_str("t", &text(subnet, address)).unwrap_err();
        assert!(found.iter().any(|found| found.problem.code() == "address-reserved"), "{subnet} {address}");
    }
}

#[test]
fn a_string_includes_nothing() {
    let found = load_str("t", "include = [\"*.toml\"]").unwrap_err();
    assert_eq!(found.iter().map(|found| found.problem.code()).collect::<Vec<_>>(), ["include-nothing"]);
}

/// What is good TOML in each of its tables may contradict itself between them.
#[test]
fn tables_that_contradict_each_other_are_refused() {
    for text in [
        "host = 1\n[host.alpha]\nvtep = \"10.0.0.1\"\ndevice = \"e\"\n",
        "overlay.port = 1\n[overlay]\nttl = 1\n",
        "[overlay]\nport.x = 1\nport = 2\n",
        "overlay = { port = 1 }\noverlay.ttl = 3\n",
        "[overlay]\nport = 1\n[[overlay]]\nttl = 1\n",
        "[overlay]\nttl = 1\n[overlay.ttl.x]\n",
    ] {
        let found = load_str("t", text).unwrap_err();
        assert!(toml::from_str::<toml::Table>(text).is_err() && found.has_errors(), "{text}");
    }
}
