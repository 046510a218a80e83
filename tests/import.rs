//! Policies of Neutron, CloudStack and libvirt, imported from what their clients print: what is written, what the result lets pass,
//! and what is refused with its place. The samples: `tests/import/README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "import/filters.rs"]
mod filters;
#[path = "import/firewall.rs"]
mod firewall;
#[path = "import/lab.rs"]
mod lab;
#[path = "import/random.rs"]
mod random;
#[path = "import/shipped.rs"]
mod shipped;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use self::shipped::shipped;
use eastgate::import::{File, From, Map, import};
use proptest::{prelude::*, sample::Index};

fn folder(system: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(system)
}

fn files(system: &str, names: &[&str]) -> Vec<File> {
    names.iter().map(|name| File::new(name, fs::read_to_string(folder(system).join(name)).unwrap())).collect()
}

fn map(system: &str) -> Map {
    Map::read(&folder(system).join("map.toml")).unwrap()
}

const NEUTRON: [&str; 6] =
    ["groups.json", "rules.json", "address-groups.json", "network.json", "subnets.json", "ports.json"];
const CLOUDSTACK: [&str; 2] = ["groups.json", "machines.json"];
const LIBVIRT: [&str; 3] = ["web1.xml", "db1.xml", "web-server.xml"];

fn imported(system: &str) -> String {
    imported_by(system, &map(system))
}

fn imported_by(system: &str, map: &Map) -> String {
    let made = match system {
        "neutron" => import(From::Neutron, &files(system, &NEUTRON), map),
        "cloudstack" => import(From::Cloudstack, &files(system, &CLOUDSTACK), map),
        _ => {
            let mut all = files(system, &LIBVIRT);
            all.extend(shipped().into_iter().map(|(name, file)| {
                // Without the folder of this machine in the result.
                File::new(&format!("{name}.xml"), file.text().to_owned())
            }));
            import(From::Libvirt, &all, map)
        }
    };
    made.unwrap_or_else(|faults| panic!("{system}:\n{faults}"))
}

const HOSTS: &str = "[host.alpha]\nvtep = \"172.31.0.1\"\ndevice = \"eth0\"\n[host.beta]\nvtep = \"172.31.0.2\"\ndevice = \"eth0\"\n";

/// What is written is what stands in `expected.toml`, and lets pass what the other system did.
fn holds(system: &str) {
    let text = imported(system);
    let expected = folder(system).join("expected.toml");
    if std::env::var_os("EASTGATE_BLESS").is_some() {
        fs::write(&expected, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&expected).unwrap(), "{system}: EASTGATE_BLESS=1 writes it anew");
    let place = std::env::temp_dir().join(format!("egt-{}-import-{system}", std::process::id()));
    fs::create_dir_all(&place).unwrap();
    let site = place.join("site.toml");
    fs::write(&site, format!("{text}\n{HOSTS}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_eastgate"))
        .args(["policy", "test", "--config"])
        .arg(&site)
        .arg(folder(system).join("expectations.toml"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    fs::remove_dir_all(&place).unwrap();
    assert!(output.status.success(), "{system}:\n{}{}", said[0], said[1]);
}

#[test]
fn a_neutron_project() {
    holds("neutron");
}

#[test]
fn a_cloudstack_account() {
    holds("cloudstack");
}

#[test]
fn libvirt_domains_with_their_filters() {
    holds("libvirt");
}

/// Each filter that Debian ships, by itself and with what it includes: a group, and what endpoints with it need.
#[test]
fn every_filter_that_is_shipped() {
    let all = shipped();
    assert!(all.len() >= 24, "{}", all.len());
    let mut told = Vec::new();
    for (name, _) in &all {
        let domain = format!(
            "<domain><name>vm</name><devices><interface type='bridge'><mac address='52:54:00:00:00:09'/>\
             <source bridge='br-app'/><target dev='vnet9'/><filterref filter='{name}'>\
             <parameter name='IP' value='10.1.0.9'/><parameter name='IPV6' value='fd00:1::9'/>\
             <parameter name='GATEWAY_MAC' value='52:54:00:00:00:01'/>\
             <parameter name='DHCPSERVER' value='10.1.0.2'/></filterref></interface></devices></domain>"
        );
        let mut files: Vec<File> = shipped().into_iter().map(|(_, file)| file).collect();
        files.push(File::new("vm.xml", domain));
        let mapped = "tenant = \"acme\"\nhost = \"alpha\"\n[network.br-app]\nname = \"app\"\nvni = 5001\n\
                      subnets = [\"10.1.0.0/24\", \"fd00:1::/64\"]\ngateways = [\"10.1.0.1\"]\n";
        let map = Map::of("map.toml", mapped).unwrap();
        let made = import(From::Libvirt, &files, &map);
        let text = made.unwrap_or_else(|faults| panic!("{name}:\n{faults}"));
        let has = |what: &str| text.contains(what);
        let any = has("\ningress = [\n  { from = \"any\" },\n]\negress = [\n  { to = \"any\" },\n]\n");
        let v4_only = has("{ family = \"ipv4\", from = \"any\" }") && !has("ipv6\", from");
        let gateway = has("\"10.1.0.1/32\"") && !has("\"any\"");
        let kind = if gateway {
            "gateway"
        } else if v4_only {
            "ipv4"
        } else if any {
            "any"
        } else {
            "none"
        };
        let open = if has("port_security = false") { "unchecked" } else { "checked" };
        let pairs = match (has("address = \"0.0.0.0/0\""), has("address = \"::/0\"")) {
            (true, true) => "pairs",
            (true, false) => "pairs-v4",
            (false, true) => "pairs-v6",
            (false, false) => "own",
        };
        told.push(format!("{name}: {kind} {open} {}", if open == "checked" { pairs } else { "-" }));
    }
    // What each of them does by itself: what is not dropped passes.
    let expected = [
        "allow-arp: any unchecked -",
        "allow-dhcp: any unchecked -",
        "allow-dhcp-server: any unchecked -",
        "allow-dhcpv6: any unchecked -",
        "allow-dhcpv6-server: any unchecked -",
        "allow-incoming-ipv4: any unchecked -",
        "allow-incoming-ipv6: any unchecked -",
        "allow-ipv4: any unchecked -",
        "allow-ipv6: any unchecked -",
        "clean-traffic: ipv4 checked own",
        "clean-traffic-gateway: gateway checked own",
        "no-arp-ip-spoofing: any checked pairs-v6",
        "no-arp-mac-spoofing: any checked pairs",
        "no-arp-spoofing: any checked pairs-v6",
        "no-ip-multicast: any unchecked -",
        "no-ip-spoofing: any checked pairs-v6",
        "no-ipv6-multicast: any unchecked -",
        "no-ipv6-spoofing: any checked pairs-v4",
        "no-mac-broadcast: any unchecked -",
        "no-mac-spoofing: any checked pairs",
        "no-other-l2-traffic: none checked own",
        "no-other-rarp-traffic: any checked pairs",
        "qemu-announce-self: any checked pairs",
        "qemu-announce-self-rarp: any unchecked -",
    ];
    for line in expected {
        assert!(told.iter().any(|told| told == line), "{line}\n---\n{}", told.join("\n"));
    }
    assert_eq!(told.len(), expected.len(), "{}", told.join("\n"));
}

/// Filters without a domain become groups that say what goes with them.
#[test]
fn filters_by_themselves() {
    let files: Vec<File> = shipped()
        .into_iter()
        .filter(|(name, _)| name != "clean-traffic-gateway")
        .map(|(_, file)| file)
        .collect();
    let text = import(From::Libvirt, &files, &Map::default()).unwrap();
    assert!(text.contains("[tenant.libvirt.group.clean-traffic]\n"), "{text}");
    assert!(
        text.contains("# Endpoints with it have `port_security = true`, which is the default\n"),
        "{text}"
    );
    assert!(text.contains("# No IPv6 passes; neighbour discovery"), "{text}");
}

/// What cannot be said is refused where it is written.
fn refused(from: From, name: &str, text: &str, map: &str, why: &[&str]) {
    let map = Map::of("map.toml", map).unwrap();
    let mut files = vec![File::new(name, text.to_owned())];
    if from == From::Libvirt {
        files.extend(shipped().into_iter().map(|(_, file)| file));
    }
    let faults = import(from, &files, &map).expect_err(why[0]).to_string();
    for why in why {
        assert!(faults.contains(why), "{why}\n---\n{faults}");
    }
}

fn neutron_group(rule: &str, more: &str) -> String {
    format!("{{\"id\": \"g1\", \"name\": \"web\", \"project_id\": \"p1\"{more}, \"rules\": [\n{rule}\n]}}\n")
}

#[test]
fn groups_of_neutron_that_keep_no_state_keep_none() {
    for (more, stateless) in [("", false), (", \"stateful\": true", false), (", \"stateful\": false", true)] {
        let file = File::new("groups.json", neutron_group("", more));
        let text = import(From::Neutron, &[file], &Map::default()).unwrap();
        assert_eq!(text.contains("stateful = false\n"), stateless, "{more}: {text}");
    }
}

#[test]
fn what_neutron_has_and_eastgate_has_not_is_refused_with_its_place() {
    let rule = |what: &str| {
        format!("{{\"id\": \"r1\", \"direction\": \"ingress\", \"ethertype\": \"IPv4\", {what}}}")
    };
    let refused = |text: &str, why: &[&str]| refused(From::Neutron, "groups.json", text, "", why);
    for (what, why) in [
        ("\"protocol\": \"ipv6-route\"", "`ipv6-route` is an extension header"),
        ("\"protocol\": \"gre\", \"port_range_min\": 1, \"port_range_max\": 1", "gre has no ports"),
        ("\"protocol\": \"tcp\", \"port_range_min\": 9, \"port_range_max\": 1", "without both ends"),
        (
            "\"protocol\": \"tcp\", \"port_range_min\": 70000, \"port_range_max\": 70000",
            "a port that cannot be",
        ),
        ("\"protocol\": \"nonsense\"", "there is no protocol `nonsense`"),
        ("\"protocol\": \"icmpv6\"", "ICMPv6 in IPv4"),
        ("\"protocol\": \"icmp\", \"port_range_max\": 1", "an ICMP type and code that cannot be"),
        ("\"port_range_min\": 1, \"port_range_max\": 1", "ports without a protocol"),
        ("\"remote_ip_prefix\": \"fd00::/8\"", "fd00::/8 is no prefix of IPv4"),
        ("\"remote_group_id\": \"g9\"", "the remote security group g9 is in none of the files"),
        ("\"remote_address_group_id\": \"a9\"", "the remote address group a9 is in none of the files"),
    ] {
        refused(&neutron_group(&rule(what), ""), &[why, "  --> groups.json:2:1\n"]);
    }
    refused(
        "{\"id\": \"g1\", \"rules\": \"direction='ingress'\"}",
        &["prints rules as text", "groups.json:1:23"],
    );
    refused("[{\"Name\": \"x\"}]", &["none of the answers that are understood\n  --> groups.json:1:2"]);
    refused("[{\"ID\": 1,,}]", &["this is not JSON", "groups.json:1:11"]);
    refused("[{\"ID\": \"p1\", \"MAC Address\": \"fa:16:3e:00:00:01\"}]", &["a list of ports tells neither"]);
    // A group of another project is one that this one shares.
    let other = neutron_group(&rule("\"remote_group_id\": \"g2\""), "")
        + "{\"id\": \"g2\", \"name\": \"db\", \"project_id\": \"p2\", \"rules\": []}";
    let text = import(From::Neutron, &[File::new("groups.json", other)], &Map::default()).unwrap();
    assert!(text.contains("from = \"group:p2/db\"") && text.contains("shared_with = [\"p1\"]"), "{text}");
    // A list of rules that says less than the rule.
    let row = |protocol: &str, range: &str| {
        format!(
            "[{{\"ID\": \"g1\", \"Name\": \"web\", \"Description\": \"\", \"Project\": \"p1\"}},\n{{\"ID\": \"r1\", \"IP Protocol\": {protocol}, \
             \"Ethertype\": \"IPv4\", \"IP Range\": \"0.0.0.0/0\", \"Port Range\": \"{range}\", \"Direction\": \"ingress\", \
             \"Security Group\": \"g1\"}}]"
        )
    };
    for range in ["", "type=3", ":code=1"] {
        refused(&row("\"icmp\"", range), &["type 0 and code 0", "groups.json:2:"]);
    }
    refused(&row("\"tcp\"", "x"), &["this is no range of ports"]);
    let exact = File::new("rules.json", row("\"icmp\"", "type=3:code=4"));
    let text = import(From::Neutron, &[exact], &Map::default()).unwrap();
    assert!(text.contains("{ proto = \"icmp\", icmp_type = 3, icmp_code = 4, from = \"any\" }"), "{text}");
}

#[test]
fn ports_that_are_no_stations_are_refused_unless_they_are_left_out() {
    let port = |what: &str| {
        format!(
            "{{\"id\": \"p1\", \"name\": \"x\", \"mac_address\": \"fa:16:3e:00:00:01\", \"network_id\": \"n1\", \"project_id\": \"acme\", \
             \"binding_host_id\": \"alpha\", \"fixed_ips\": [{{\"ip_address\": \"10.1.0.9\"}}]{what}}}"
        )
    };
    let known = "[network.n1]\nvni = 5001\nsubnets = [\"10.1.0.0/24\"]\n";
    let refused = |what: &str, map: &str, why: &str| {
        refused(From::Neutron, "port.json", &port(what), map, &[why, "  --> port.json:1:1\n"]);
    };
    refused("", "", "the VNI of network n1 is not known");
    refused("", "[network.n1]\nvni = 1\n", "the subnets of network n1 are not known");
    refused(", \"trunk_details\": {\"sub_ports\": []}", known, "a trunk port");
    refused(
        ", \"device_owner\": \"network:floatingip\"",
        known,
        "a port of `network:floatingip` is no station",
    );
    refused(", \"security_group_ids\": [\"g9\"]", known, "its security group g9 is in none of the files");
    refused(", \"binding_host_id\": \"\"", known, "this port is bound to no host");
    refused(", \"mac_address\": \"no\"", known, "`no` is no MAC");
    let skipped = Map::of("map.toml", "[port.p1]\nskip = true\n").unwrap();
    let file = File::new("port.json", port(", \"trunk_details\": {}"));
    let text = import(From::Neutron, &[file], &skipped).unwrap();
    assert!(!text.contains("endpoint"), "{text}");
    // What contradicts itself in what was read is told as a configuration would tell it.
    let elsewhere = known.replace("10.1.0.0/24", "10.2.0.0/24");
    let map = Map::of("map.toml", &elsewhere).unwrap();
    let file = File::new("port.json", port(", \"port_security_enabled\": false"));
    let faults = import(From::Neutron, &[file], &map).unwrap_err().to_string();
    assert!(faults.contains("10.1.0.9") && faults.contains("the result:"), "{faults}");
}

#[test]
fn what_cloudstack_has_and_eastgate_has_not_is_refused_with_its_place() {
    let group = |rule: &str| {
        format!(
            "{{\"securitygroup\": [{{\"id\": \"g1\", \"name\": \"web\", \"account\": \"acme\", \"ingressrule\": [\n{{\"ruleid\": \"r1\", {rule}}}]}}]}}"
        )
    };
    for (rule, why) in [
        (
            "\"cidr\": \"0.0.0.0/0\", \"protocol\": \"tcp\", \"startport\": 9, \"endport\": 1",
            "these are no ports of tcp",
        ),
        (
            "\"cidr\": \"0.0.0.0/0\", \"protocol\": \"gre\", \"startport\": 1, \"endport\": 2",
            "these are no ports of gre",
        ),
        ("\"cidr\": \"0.0.0.0/0\", \"protocol\": \"icmp\", \"icmpcode\": 1", "an ICMP code without a type"),
        ("\"cidr\": \"0.0.0.0/0\", \"protocol\": \"icmp\", \"icmptype\": 300", "`300` is no icmptype"),
        ("\"cidr\": \"nowhere\", \"protocol\": \"tcp\"", "`nowhere` is no prefix"),
        (
            "\"securitygroupname\": \"db\", \"account\": \"acme\", \"protocol\": \"tcp\"",
            "the security group `db` of acme is in none of the files",
        ),
    ] {
        refused(From::Cloudstack, "groups.json", &group(rule), "", &[why, "  --> groups.json:2:"]);
    }
    let account = |name: &str, rule: &str| {
        format!(
            "{{\"securitygroup\": [{{\"id\": \"{name}\", \"name\": \"g\", \"account\": \"{name}\", \"ingressrule\": [{rule}]}}]}}\n"
        )
    };
    let named =
        "{\"ruleid\": \"r\", \"protocol\": \"tcp\", \"account\": \"globex\", \"securitygroupname\": \"g\"}";
    let two = File::new("groups.json", account("acme", named) + &account("globex", ""));
    let text = import(From::Cloudstack, &[two], &Map::default()).unwrap();
    assert!(
        text.contains("from = \"group:globex/g\"") && text.contains("shared_with = [\"acme\"]"),
        "{text}"
    );
    refused(From::Cloudstack, "x.json", "{\"count\": 0}", "", &["none of the answers"]);
    let machine = "{\"virtualmachine\": [{\"id\": \"m1\", \"name\": \"web1\", \"account\": \"acme\", \"hostname\": \"kvm1\", \"nic\": [\n\
                   {\"macaddress\": \"1e:00:8a:00:01:01\", \"networkid\": \"n1\", \"networkname\": \"app\", \"ipaddress\": \"10.1.0.11\", \"netmask\": \"255.255.255.0\"}]}]}";
    let network = "[network.app]\nvni = 5001\n";
    refused(From::Cloudstack, "m.json", machine, "", &["the VNI of network `app` is not known", "m.json:2:"]);
    refused(From::Cloudstack, "m.json", machine, network, &["does not tell the device", "virsh domiflist"]);
}

#[test]
fn what_libvirt_has_and_eastgate_has_not_is_refused_with_its_place() {
    let filter = |inside: &str| format!("<filter name='mine' chain='root'>\n{inside}\n</filter>");
    for (rule, why) in [
        ("<tcp dstportstart='22' connlimit-above='3'/>", "`connlimit-above` in a rule that does not drop"),
        ("<tcp dscp='64'/>", "`64` is no DSCP"),
        ("<tcp flags='SYN'/>", "is nothing that TCP flags could be"),
        ("<tcp flags='SYN/ACK'/>", "is nothing that TCP flags could be"),
        ("<tcp srcipaddr='$WHO'/>", "the variable WHO has no value"),
        ("<tcp srcipaddr='10.0.0.0' srcipmask='x'/>", "`x` is no mask"),
        ("<icmp code='1'/>", "an ICMP code without a type"),
        ("<esp dstportstart='1'/>", "esp has no ports"),
        ("<all state='INVALID'/>", "connections in the state INVALID"),
    ] {
        let rules = format!(
            "<rule action='accept' direction='in'>{rule}</rule><rule action='drop' direction='in' priority='900'><all/></rule>"
        );
        refused(From::Libvirt, "mine.xml", &filter(&rules), "", &[why, "  --> mine.xml:2:"]);
    }
    for (inside, why) in [
        ("<rule action='accept' direction='inout'><tcp dstportstart='22'/></rule>", "write one for each"),
        (
            "<rule action='accept' direction='in' statematch='false'><tcp/></rule>",
            "does not follow connections",
        ),
        ("<rule action='drop' direction='out'><mac protocolid='0x88cc'/></rule>", "no check here asks for"),
        ("<rule action='drop' direction='out'><mac srcmacaddr='$MAC'/></rule>", "cannot be said by checks"),
        ("<rule action='drop' direction='in'><ip/></rule>", "one way only"),
        ("<rule action='allow' direction='in'/>", "a rule has no action `allow`"),
        ("<filterref filter='nowhere'/>", "the filter `nowhere` is in none of the files"),
        ("<filterref filter='mine'/>", "filters that include each other"),
    ] {
        // Where the whole filter comes to nothing that can be said, the place is the filter's.
        let place = if why == "one way only" { "mine.xml:1:1" } else { "mine.xml:2:" };
        refused(From::Libvirt, "mine.xml", &filter(inside), "", &[why, place]);
    }
    let domain = |filter: &str| {
        format!(
            "<domain><name>vm</name><devices>\n<interface><mac address='52:54:00:00:00:09'/><source bridge='br'/><target dev='vnet0'/>{filter}</interface></devices></domain>"
        )
    };
    let map = "host = \"alpha\"\n[network.br]\nvni = 5001\nsubnets = [\"10.1.0.0/24\"]\n";
    let told = |text: &str, map: &str, why: &str| {
        refused(From::Libvirt, "vm.xml", text, map, &[why, "  --> vm.xml:"])
    };
    let learns = |how: &str| {
        let parameter = format!("<parameter name='CTRL_IP_LEARNING' value='{how}'/>");
        domain(&format!("<filterref filter='clean-traffic'>{parameter}</filterref>"))
    };
    told(&learns("none"), map, "nobody knows the address");
    told(
        &learns("dhcp"),
        &map.replace("subnets = [\"10.1.0.0/24\"]\n", ""),
        "the subnets of `br` are not known",
    );
    told(
        &domain(
            "<filterref filter='clean-traffic-gateway'><parameter name='IP' value='10.1.0.9'/></filterref>",
        ),
        map,
        "traffic to one MAC alone",
    );
    told(&domain(""), "host = \"alpha\"\n", "the VNI of `br` is not known");
    told(&domain(""), &map.replace("host = \"alpha\"\n", ""), "on which host this domain is");
    told("<domain>", "", "this is not XML");
    told("<network/>", "", "neither a filter nor a domain");
}

/// What libvirt learns is learned here: by leases, or once and for all by whatever comes first.
#[test]
fn an_address_that_libvirt_learns_is_learned() {
    let map = "host = \"alpha\"\n[network.br]\nvni = 5001\nsubnets = [\"10.1.0.0/24\"]\n";
    let map = Map::of("map.toml", map).unwrap();
    for (how, keys) in [
        ("", "learn = \"any\"\nlearn_limit = 2\nlearn_lock = true\ngroups"),
        (
            "<parameter name='CTRL_IP_LEARNING' value='any'/>",
            "learn = \"any\"\nlearn_limit = 2\nlearn_lock = true\ngroups",
        ),
        ("<parameter name='CTRL_IP_LEARNING' value='dhcp'/>", "learn = \"dhcp\"\ngroups"),
    ] {
        let domain = format!(
            "<domain><name>vm</name><devices><interface><mac address='52:54:00:00:00:09'/><source bridge='br'/>\
             <target dev='vnet0'/><filterref filter='clean-traffic'>{how}</filterref></interface></devices></domain>"
        );
        let text = {
            let files = shipped().into_iter().map(|(_, file)| file).chain([File::new("vm.xml", domain)]);
            import(From::Libvirt, &files.collect::<Vec<_>>(), &map).unwrap()
        };
        assert!(text.contains(&format!("mac = \"52:54:00:00:00:09\"\n{keys}")), "{how}: {text}");
        let site = format!("[host.alpha]\nvtep = \"192.0.2.1\"\ndevice = \"e\"\n{text}");
        eastgate_config::load_str("site", &site).unwrap();
    }
}

/// Rules that drop some of what later ones accept keep their order, in a policy before the group.
#[test]
fn rules_of_a_filter_keep_their_order() {
    let filter = "<filter name='mine' chain='root'>\n\
        <rule action='accept' direction='in' priority='100'><tcp srcipaddr='10.1.0.5' dstportstart='22'/></rule>\n\
        <rule action='reject' direction='in' priority='200'><tcp dstportstart='22'/></rule>\n\
        <rule action='drop' direction='out'><udp-ipv6 dstportstart='53'/></rule>\n</filter>";
    let text = import(From::Libvirt, &[File::new("mine.xml", filter.to_owned())], &Map::default()).unwrap();
    let expected = "[tenant.libvirt.group.mine]\ningress = [\n  { from = \"any\" },\n]\negress = [\n  { to = \"any\" },\n]\n\n\
        # libvirt filter mine: rules in their order\n[tenant.libvirt.policy.mine]\napplies_to = \"group:mine\"\ningress = [\n  \
        { action = \"allow\", proto = \"tcp\", ports = 22, from = \"10.1.0.5/32\" },\n  \
        { action = \"reject\", proto = \"tcp\", ports = 22, family = \"ipv4\", from = \"any\" },\n]\negress = [\n  \
        { action = \"deny\", proto = \"udp\", ports = 53, family = \"ipv6\", to = \"any\" },\n]\n";
    assert!(text.contains(expected), "{text}");
    // What a group's rules do not ask for, a policy's do.
    let filter = "<filter name='fields' chain='root'>\n\
        <rule action='accept' direction='in'><tcp flags='SYN,ACK/SYN' dscp='46' dstportstart='22'/></rule>\n\
        <rule action='drop' direction='inout' priority='900'><all/></rule>\n</filter>";
    let text = import(From::Libvirt, &[File::new("fields.xml", filter.to_owned())], &Map::default()).unwrap();
    let expected = "ingress = [\n  { action = \"allow\", proto = \"tcp\", ports = 22, dscp = 46, tcp_flags = \"syn/syn,ack\", \
        family = \"ipv4\", from = \"any\" },\n]\n";
    assert!(text.contains(expected), "{text}");
}

/// The example of libvirt's own documentation (formatnwfilter.html, "Limiting number of connections"), and what is not the same here.
#[test]
fn connections_are_counted_by_the_rule_that_accepts_them() {
    let filter = |more: &str| {
        format!(
            "<filter name='few' chain='root'>\n\
             <rule action='drop' direction='in' priority='400'><tcp connlimit-above='1'/></rule>\n\
             <rule action='accept' direction='in' priority='500'><tcp dstportstart='22'/></rule>\n{more}\
             <rule action='drop' direction='out' priority='400'><icmp connlimit-above='1'/></rule>\n\
             <rule action='accept' direction='out' priority='500'><icmp/></rule>\n\
             <rule action='accept' direction='out' priority='500'><udp dstportstart='53'/></rule>\n\
             <rule action='drop' direction='inout' priority='1000'><all/></rule>\n</filter>"
        )
    };
    let read = |text: String| import(From::Libvirt, &[File::new("few.xml", text)], &Map::default());
    let text = read(filter("")).unwrap();
    for expected in [
        "{ proto = \"tcp\", ports = 22, family = \"ipv4\", from = \"any\", connections = 1 },",
        "{ proto = \"icmp\", family = \"ipv4\", to = \"any\", connections = 1 },",
        "{ proto = \"udp\", ports = 53, family = \"ipv4\", to = \"any\" },",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    for (more, told) in [
        (
            "<rule action='accept' direction='in'><tcp dstportstart='80'/></rule>",
            "what several rules accept together",
        ),
        ("<rule action='accept' direction='in'><all/></rule>", "for a part of what a rule accepts"),
        (
            "<rule action='drop' direction='in' priority='300'><tcp dstportstart='22' connlimit-above='3'/></rule>",
            "two rules with `connlimit-above`",
        ),
        (
            "<rule action='accept' direction='in'><tcp dstportstart='1' connlimit-above='3'/></rule>",
            "in a rule that does not drop",
        ),
    ] {
        let refused = read(filter(more)).unwrap_err().to_string();
        assert!(refused.contains(told), "{refused}");
    }
    let open = filter("").replace("<rule action='drop' direction='inout' priority='1000'><all/></rule>", "");
    let open = open
        .replace("<rule action='accept' direction='in' priority='500'><tcp dstportstart='22'/></rule>", "");
    let refused = read(open).unwrap_err().to_string();
    assert!(refused.contains("for what no rule accepts by itself"), "{refused}");
}

/// What is said of a mapping file that is wrong.
#[test]
fn a_mapping_file_that_is_wrong_is_told_whole() {
    let text = "tenant = \"not a name\"\nhots = \"alpha\"\n[network.app]\nvni = 99999999\nsubnets = \"x\"\n[port]\nweb = 1\n";
    let faults = Map::of("map.toml", text).unwrap_err().to_string();
    for told in [
        "this is no name\n  --> map.toml:1:10",
        "there is no `hots` here\n  --> map.toml:2:1\nhelp: did you mean `host`?",
        "this is no VNI\n  --> map.toml:4:7",
        "this is no prefix\n  --> map.toml:5:11",
        "this is no table\n  --> map.toml:7:7",
        "5 errors",
    ] {
        assert!(faults.contains(told), "{told}\n---\n{faults}");
    }
}

/// The command prints TOML or errors, never both.
#[test]
fn the_command_prints_toml_or_errors() {
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eastgate"));
        let output = command.current_dir(folder("neutron")).arg("import").args(words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let (code, text, error) = run(&[&["neutron", "--map", "map.toml"], &NEUTRON[..]].concat());
    assert!(code == 0 && error.is_empty(), "{error}");
    assert_eq!(text, imported("neutron"));
    let (code, text, error) = run(&["neutron", "groups.json"]);
    assert!(
        code == 3 && text.is_empty() && error.contains("  --> groups.json:13:5\n"),
        "{code} {text} {error}"
    );
    let (_, text, _) = run(&[&["neutron", "--map", "map.toml", "--tenant", "other"], &NEUTRON[..]].concat());
    assert!(text.contains("[tenant.other.group.web-servers]"), "{text}");
    assert_eq!(run(&["openvswitch", "groups.json"]).0, 2);
    assert_eq!(run(&["neutron", "nowhere.json"]).0, 1);
    let (code, _, error) = run(&["neutron", "--tenant", "no name", "groups.json"]);
    assert!(code == 3 && error.contains("this is no name\n  --> the command line:1:10"), "{code} {error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Whatever a file says: an answer or errors, no panic.
    #[test]
    fn anything_is_read_or_refused(
        which in 0usize..3,
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        let (from, system, name) = [
            (From::Neutron, "neutron", "groups.json"),
            (From::Cloudstack, "cloudstack", "machines.json"),
            (From::Libvirt, "libvirt", "web-server.xml"),
        ][which];
        let mut bytes = fs::read(folder(system).join(name)).unwrap();
        for (at, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match byte % 3 {
                0 => bytes[at] = byte,
                1 => _ = bytes.remove(at),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = import(from, &[File::new(name, text.clone())], &map(system));
        let _ = Map::of("map.toml", &text);
        let _ = eastgate::policy_tools::expect::read("expect.toml", &text);
    }
}
