//! What docs/policies.md says of who is asked first, each sentence as it is written there; and random policies, which are
//! held to a reading of the text that knows nothing of tiers.

mod random;
mod taken_over;

use eastgate_config::Config;
use eastgate_policy::rule::Direction;
use std::sync::Arc;

use super::{frames::*, net::Net, scene::*};

const ANYTHING: &str = "[tenant.acme.group.web]\negress = [{ to = \"any\" }]\ningress = [{ from = \"any\" }]\n\
     [tenant.acme.group.db]\ningress = [{ from = \"any\" }]\negress = [{ to = \"any\" }]\n";

/// Who gets web1's datagram to this port of db1, or why nobody does. Each time in a flow of its own.
fn fate(text: &str, port: u16) -> String {
    let mut net = Net::new(text);
    let fate = net.send("web1", udp(WEB1, DB1, 4000, port));
    let refused: Vec<String> = fate.drops.iter().map(|(_, reason)| reason.to_string()).collect();
    refused.first().cloned().unwrap_or_else(|| fate.to_string())
}

/// The scene with policies: as they are written, each with its table and one list of ingress rules.
fn with(groups: &str, policies: &[(&str, &str, &str)]) -> String {
    let mut text = scene_with("", groups);
    for (table, keys, rules) in policies {
        let scope = if table.starts_with("tenant") { "tenant" } else { "site" };
        let scope =
            if keys.contains("applies_to") { String::new() } else { format!("applies_to = \"{scope}\"\n") };
        text += &format!("[{table}]\n{keys}\n{scope}ingress = [{rules}]\n");
    }
    text
}

const DENY: &str = "{ action = \"deny\", proto = \"udp\", ports = 1, from = \"any\" }";
const ALLOW: &str = "{ action = \"allow\", proto = \"udp\", ports = 1, from = \"any\" }";
const PASS: &str = "{ action = \"pass\", proto = \"udp\", ports = 1, from = \"any\" }";
const SITE: &str = "policy.p";
const TENANT: &str = "tenant.acme.policy.p";
const BEFORE: &str = "position = \"before\"";
const AFTER: &str = "position = \"after\"";

#[test]
fn the_site_is_asked_before_the_tenant_and_both_before_the_groups() {
    let of = |policies: &[(&str, &str, &str)]| fate(&with(ANYTHING, policies), 1);
    assert_eq!(of(&[]), "db1");
    assert_eq!(of(&[(SITE, BEFORE, DENY), (TENANT, BEFORE, ALLOW)]), "ingress-rule");
    assert_eq!(of(&[(SITE, BEFORE, ALLOW), (TENANT, BEFORE, DENY)]), "db1");
    assert_eq!(of(&[(TENANT, BEFORE, DENY)]), "ingress-rule", "the groups would let it in");
    // What is passed on, the next one decides, whatever else stands behind it in the same place.
    assert_eq!(of(&[(SITE, BEFORE, &format!("{PASS}, {DENY}")), (TENANT, BEFORE, DENY)]), "ingress-rule");
    assert_eq!(of(&[(SITE, BEFORE, &format!("{PASS}, {DENY}")), (TENANT, BEFORE, PASS)]), "db1");
}

#[test]
fn policies_after_the_groups_are_asked_about_what_those_do_not_allow_the_tenants_first() {
    const NOTHING: &str = "[tenant.acme.group.web]\negress = [{ to = \"any\" }]\n[tenant.acme.group.db]\n";
    let of = |policies: &[(&str, &str, &str)]| fate(&with(NOTHING, policies), 1);
    assert_eq!(of(&[]), "ingress-denied");
    assert_eq!(of(&[(TENANT, AFTER, ALLOW)]), "db1");
    assert_eq!(of(&[(SITE, AFTER, ALLOW)]), "db1");
    assert_eq!(of(&[(SITE, AFTER, ALLOW), (TENANT, AFTER, DENY)]), "ingress-rule");
    assert_eq!(of(&[(SITE, AFTER, DENY), (TENANT, AFTER, ALLOW)]), "db1");
    assert_eq!(
        fate(&with(ANYTHING, &[(TENANT, AFTER, DENY), (SITE, AFTER, DENY)]), 1),
        "db1",
        "the groups allow it"
    );
    assert_eq!(fate(&with(NOTHING, &[(TENANT, AFTER, ALLOW)]), 2), "ingress-denied", "what nobody settles");
}

#[test]
fn in_one_place_order_decides_then_the_name_and_of_one_policy_the_first_rule() {
    let of = |policies: &[(&str, &str, &str)]| fate(&with(ANYTHING, policies), 1);
    let (a, b) = ("tenant.acme.policy.a", "tenant.acme.policy.b");
    assert_eq!(of(&[(a, "", ALLOW), (b, "", DENY)]), "db1");
    assert_eq!(of(&[(a, "order = 101", ALLOW), (b, "", DENY)]), "ingress-rule");
    assert_eq!(of(&[(a, "", &format!("{ALLOW}, {}", DENY.replace("ports = 1", "ports = \"1-9\"")))]), "db1");
    assert_eq!(
        of(&[(a, "", &format!("{DENY}, {}", ALLOW.replace("ports = 1", "ports = \"1-9\"")))]),
        "ingress-rule"
    );
}

#[test]
fn a_place_ends_as_one_of_its_policies_says_where_that_has_rules() {
    let of = |policies: &[(&str, &str, &str)], port| fate(&with(ANYTHING, policies), port);
    let deny = "end = \"deny\"";
    assert_eq!(of(&[(TENANT, deny, PASS)], 1), "db1");
    assert_eq!(of(&[(TENANT, deny, PASS)], 2), "ingress-rule", "and it has a name");
    assert_eq!(of(&[(SITE, deny, PASS)], 2), "ingress-rule");
    // Another policy of the place is asked first; one of another place is not.
    let two = ("tenant.acme.policy.z", "", "{ action = \"allow\", from = \"any\" }");
    assert_eq!(of(&[(TENANT, deny, PASS), two], 2), "db1");
    assert_eq!(of(&[(SITE, deny, PASS), two], 2), "ingress-rule");
    // It has no rules for what is sent.
    let other_way =
        with(ANYTHING, &[(TENANT, deny, PASS)]).replace("ingress = [{ action", "egress = [{ action");
    assert_eq!(fate(&other_way.replace("ports = 1, from", "ports = 1, to"), 2), "egress-rule");
    assert_eq!(
        fate(&with(ANYTHING, &[(TENANT, "end = \"deny\"\napplies_to = \"group:web\"", PASS)]), 2),
        "db1"
    );
}

#[test]
fn a_policy_is_asked_about_whom_it_applies_to() {
    let of = |table: &str, scope: &str| {
        fate(&with(ANYTHING, &[(table, &format!("applies_to = {scope}"), DENY)]), 1)
    };
    for (scope, hits) in [
        ("\"tenant\"", true),
        ("\"network:app\"", true),
        ("\"group:db\"", true),
        ("\"group:web\"", false),
        ("\"endpoint:db1\"", true),
        ("[\"endpoint:db2\", \"group:web\"]", false),
    ] {
        assert_eq!(of(TENANT, scope) == "ingress-rule", hits, "{scope}");
        let by_site = scope.replace("\"tenant\"", "\"tenant:acme\"");
        let by_site = ["network:", "group:", "endpoint:"]
            .iter()
            .fold(by_site, |text, kind| text.replace(kind, &format!("{kind}acme/")));
        assert_eq!(of(SITE, &by_site) == "ingress-rule", hits, "{by_site}");
    }
}

#[test]
fn what_is_tried_out_passes_and_a_tenant_tries_out_only_what_is_its_own() {
    let of = |policies: &[(&str, &str, &str)]| fate(&with(ANYTHING, policies), 1);
    let audit = "mode = \"audit\"";
    let deny_rule = DENY.replace("action = \"deny\"", "action = \"deny\", mode = \"audit\"");
    assert_eq!(of(&[(TENANT, audit, DENY)]), "db1");
    assert_eq!(of(&[(TENANT, "", &deny_rule)]), "db1");
    assert_eq!(of(&[(TENANT, "", &format!("{deny_rule}, {DENY}"))]), "db1", "settled is settled");
    assert_eq!(of(&[(SITE, audit, DENY)]), "db1");
    assert_eq!(of(&[(TENANT, "mode = \"audit\"\nend = \"deny\"", PASS)]), "db1");
    let tried = |policies: &[(&str, &str, &str)], port| {
        fate(&format!("{}[tenant.acme]\n{audit}\n", with(GROUPS, policies)), port)
    };
    assert_eq!(fate(&with(GROUPS, &[]), 1), "egress-denied");
    assert_eq!(tried(&[], 1), "db1", "what no rule of it allows");
    assert_eq!(tried(&[(TENANT, "", DENY)], 1), "db1");
    assert_eq!(tried(&[(SITE, "", DENY)], 1), "ingress-rule");
    assert_eq!(tried(&[(SITE, AFTER, DENY)], 1), "ingress-rule", "before its own end");
    assert_eq!(tried(&[(SITE, "end = \"deny\"", PASS)], 2), "ingress-rule");
}

#[test]
fn the_end_of_a_policy_and_of_a_tenant_that_is_tried_out_have_names() {
    let text =
        format!("{}[tenant.acme]\nmode = \"audit\"\n", with(GROUPS, &[(TENANT, "end = \"deny\"", PASS)]));
    let net = Net::new(&text);
    let snapshot = net.snapshot("beta");
    let rules = &snapshot.networks()[0].rules;
    let names: Vec<String> =
        (0..rules.len() as u32).filter_map(|id| Some(rules.reference("acme", id)?.rule)).collect();
    for name in
        ["acme/web egress #1", "acme/policy p ingress #1", "acme/policy p end", "default deny of tenant acme"]
    {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
    assert_eq!(names.len(), 9);
}

#[test]
fn sets_exceptions_and_templates_say_who_and_what() {
    let groups = |from: &str| {
        format!(
            "[tenant.acme.group.web]\nlike = [\"out\"]\n[template.out]\negress = [{{ to = \"set:site\" }}]\n\
             [set.site]\naddresses = [\"10.1.0.0/24\"]\n\
             [tenant.acme.group.db]\ningress = [{{ from = {from} }}]\n\
             [tenant.acme.set.webs]\naddresses = [\"10.1.0.8/29\"]\n[tenant.acme.set.none]\naddresses = []\n"
        )
    };
    let of = |from: &str| fate(&scene_with("", &groups(from)), 1);
    assert_eq!(of("\"set:webs\""), "db1");
    assert_eq!(of("\"set:none\""), "ingress-denied");
    assert_eq!(of("{ prefix = \"10.0.0.0/8\", except = [\"10.1.0.12/30\"] }"), "db1");
    assert_eq!(of("{ prefix = \"10.0.0.0/8\", except = [\"10.1.0.8/29\"] }"), "ingress-denied");
    assert_eq!(of("[{ prefix = \"10.0.0.0/8\", except = [\"10.1.0.8/29\"] }, \"set:webs\"]"), "db1");
    let elsewhere = groups("\"any\"").replace("10.1.0.0/24", "10.2.0.0/24");
    assert_eq!(fate(&scene_with("", &elsewhere), 1), "egress-denied");
}

#[test]
fn an_open_network_lets_everything_out_until_a_group_has_an_egress_rule() {
    let open = "egress_default = \"open\"";
    let db = "[tenant.acme.group.db]\ningress = [{ from = \"any\" }]\n";
    let of = |network: &str, web: &str| fate(&scene_with(network, &format!("{web}{db}")), 1);
    assert_eq!(of("", "[tenant.acme.group.web]\n"), "egress-denied");
    assert_eq!(of(open, "[tenant.acme.group.web]\n"), "db1");
    assert_eq!(of(open, "[tenant.acme.group.web]\nadmit_members = true\n"), "db1");
    let other = "[tenant.acme.group.web]\negress = [{ proto = \"tcp\", to = \"any\" }]\n";
    assert_eq!(of(open, other), "egress-denied");
    let template =
        "[tenant.acme.group.web]\nlike = \"t\"\n[template.t]\negress = [{ proto = \"tcp\", to = \"any\" }]\n";
    assert_eq!(of(open, template), "egress-denied");
}

#[test]
fn members_that_are_admitted_reach_each_other_and_nobody_else() {
    let text = scene_with(
        "",
        "[tenant.acme.group.web]\nadmit_members = true\n[tenant.acme.group.db]\nadmit_members = true\n",
    );
    let mut net = Net::new(&text);
    assert_eq!(net.send("web1", udp(WEB1, WEB2, 4000, 7)), "web2");
    assert_eq!(net.send("db1", udp(DB1, DB2, 4000, 7)), "db2");
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 7)), "egress-denied at alpha");
}

#[test]
fn own_means_some_endpoints_and_each_family_by_itself() {
    let rule = |own: &str| format!("{{ action = \"deny\", from = \"any\", own = {own} }}");
    let of = |own: &str| fate(&with(ANYTHING, &[(TENANT, "", &rule(own))]), 1);
    assert_eq!(of("\"10.1.0.21\""), "ingress-rule");
    assert_eq!(of("\"10.1.0.22\""), "db1");
    assert_eq!(of("[\"10.1.0.16/28\", \"fd00:1::/64\", \"fe80::/10\"]"), "ingress-rule");
    // db1 has one of the IPv6 addresses, and none of the others.
    assert_eq!(of("[\"10.1.0.64/26\", \"fd00:1::/64\", \"fe80::/10\"]"), "db1");
    let mut net = Net::new(&with(
        ANYTHING,
        &[(TENANT, "", &rule("[\"10.1.0.64/26\", \"fd00:1::/64\", \"fe80::/10\"]"))],
    ));
    assert_eq!(net.send("web1", udp6(WEB1, DB1, 4000, 1)), "ingress-rule at beta");
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4001, 1)), "db1");
    // Others stand between them in their order.
    let between = format!("{}, {ALLOW}, {}", rule("\"10.1.0.22\""), rule("\"10.1.0.21\""));
    assert_eq!(fate(&with(ANYTHING, &[(TENANT, "", &between)]), 1), "db1");
    assert_eq!(fate(&with(ANYTHING, &[(TENANT, "", &between)]), 2), "ingress-rule");
}

#[test]
fn dscp_and_tcp_flags_are_asked_of_the_first_packet() {
    let rules = "{ action = \"deny\", from = \"any\", dscp = [\"ef\", 10] }, \
        { action = \"deny\", proto = \"tcp\", from = \"any\", tcp_flags = \"syn/syn,ack\" }";
    let mut net = Net::new(&with(ANYTHING, &[(TENANT, "", rules)]));
    let marked = |dscp: u8| {
        let ip = ip4(WEB1, DB1, |header| header.dscp = dscp.try_into().unwrap());
        udp_of(ip, 4000 + u16::from(dscp), 1, b"x")
    };
    assert_eq!(net.send("web1", marked(0)), "db1");
    assert_eq!(net.send("web1", marked(46)), "ingress-rule at beta");
    assert_eq!(net.send("web1", marked(10)), "ingress-rule at beta");
    let talk = Talk { a: WEB1, b: DB1, sport: 4000, dport: 7 };
    assert_eq!(net.send("web1", talk.syn()), "ingress-rule at beta");
}

/// Group `webs` of tenant globex, in a network of its own that has other addresses; acme's router brings its packets.
fn shared(share: &str) -> String {
    [
        &scene_with("", &GROUPS.replace("from = \"group:web\" },\n  { proto = \"icmp\"", "from = \"group:globex/webs\" },\n  { proto = \"icmp\"")),
        "[tenant.acme.group.forwards]\negress = [{ to = \"any\" }]\n",
        &endpoint("acme", "router", "alpha", 1, "forwards", "routes = [\"10.2.0.0/24\"]"),
        &format!("[tenant.globex.network.app]\nvni = 5009\nsubnets = [\"10.2.0.0/24\"]\n[tenant.globex.group.webs]\n{share}\n"),
        "[tenant.globex.endpoint.gweb]\nnetwork = \"app\"\nhost = \"gamma\"\nport = \"globex-gweb\"\n\
         mac = \"02:00:00:00:01:05\"\naddresses = [\"10.2.0.5\"]\ngroups = [\"webs\"]\n",
    ]
    .concat()
}

#[test]
fn a_group_that_a_tenant_shares_is_its_members_as_they_come_and_go() {
    let text = shared("shared_with = [\"acme\"]");
    assert!(eastgate_config::load_str("t", &shared("")).is_err());
    let load = |text: &str| -> Arc<Config> { eastgate_config::load_str("t", text).unwrap() };
    let mut net = Net::of(&load(&text));
    let from = |last: u8, sport: u16| {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, DB2])
            .ipv4([10, 2, 0, last], [10, 1, 0, DB2], 63)
            .udp(sport, 53)
            .write(&mut frame, b"x")
            .unwrap();
        frame
    };
    assert_eq!(net.send("acme/router", from(5, 4000)), "acme/db2");
    assert_eq!(net.send("acme/router", from(6, 4000)), "ingress-denied at alpha");
    // The other tenant's endpoint gets another address: what was let in is decided again, and only that.
    let before = net.snapshot("alpha");
    net.install(&load(&text.replace("\"10.2.0.5\"", "\"10.2.0.6\"")));
    assert_eq!(net.send("acme/router", from(6, 4001)), "acme/db2");
    assert_eq!(net.send("acme/router", from(5, 4000)), "policy-changed at alpha");
    let after = net.snapshot("alpha");
    let web1 = |snapshot: &crate::snapshot::Snapshot| {
        let network = snapshot.networks()[0];
        network.endpoints.iter().find(|it| &*it.name == "web1").unwrap().epoch
    };
    assert_eq!(web1(&before), web1(&after), "nobody else is decided about anew");
}

/// A set that a tenant shares is what it has in it, and changes as the tenant changes it.
#[test]
fn a_set_that_a_tenant_shares_is_what_is_in_it() {
    let text = |address: &str, share: &str| {
        let groups = GROUPS.replace("from = \"group:web\"", "from = \"set:globex/friends\"");
        scene_with("", &groups)
            + &format!("\n[tenant.globex.set.friends]\naddresses = [\"{address}\"]\n{share}\n")
    };
    let shared = "shared_with = [\"acme\"]";
    assert!(eastgate_config::load_str("t", &text("10.1.0.1", "")).is_err(), "it is not acme's to name");
    let load = |text: &str| -> Arc<Config> { eastgate_config::load_str("t", text).unwrap() };
    let [one, two] = [WEB1, WEB2].map(|web| load(&text(&format!("10.1.0.{web}"), shared)));
    let mut net = Net::of(&one);
    assert_eq!(net.send("acme/web1", udp(WEB1, DB1, 4000, 53)), "acme/db1");
    assert_eq!(net.send("acme/web2", udp(WEB2, DB1, 4000, 53)), "ingress-denied at beta");
    net.install(&two);
    assert_eq!(net.send("acme/web2", udp(WEB2, DB1, 4001, 53)), "acme/db1");
    assert_eq!(net.send("acme/web1", udp(WEB1, DB1, 4000, 53)), "policy-changed at beta");
}

#[test]
fn a_prefix_that_members_share_is_of_their_group_where_that_says_so_but_for_others_addresses() {
    let text = |more: &str| {
        let groups = GROUPS.replace("[tenant.acme.group.web]", &format!("[tenant.acme.group.web]\n{more}"));
        let pair = "allowed_pairs = [{ address = \"10.1.0.128/25\" }, { address = \"10.1.0.0/27\" }]";
        scene_with("", &groups).replacen("groups = [\"web\"]\n", &format!("groups = [\"web\"]\n{pair}\n"), 1)
    };
    let from = |last: u8| {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, WEB1], [2, 0, 0, 0, 0, DB1])
            .ipv4([10, 1, 0, last], [10, 1, 0, DB1], 64)
            .udp(4000, 53)
            .write(&mut frame, b"x")
            .unwrap();
        frame
    };
    assert_eq!(Net::new(&text("")).send("web1", from(200)), "ingress-denied at beta");
    let mut net = Net::new(&text("prefix_pairs = true"));
    assert_eq!(net.send("web1", from(200)), "db1");
    // db2 lies in the other prefix, and is no web server for that.
    let network = net.snapshot("beta");
    let network = network.networks()[0];
    let by = |last: u8| {
        let db1 = network.endpoints.iter().find(|it| &*it.name == "db1").unwrap().id;
        let frame = from(last);
        let view = eastgate_wire::View::parse(&frame).unwrap();
        let probe = eastgate_policy::rule::Probe::of(view.ip().unwrap()).unwrap();
        let peer = eastgate_wire::Addr::v4([10, 1, 0, last]);
        network.policy.decide(db1, Direction::Ingress, peer, &probe).verdict.passes()
    };
    assert_eq!([by(20), by(200), by(DB2), by(WEB2)], [true, true, false, true]);
}

/// What the site lays down is put in force on tenants whose files did not change, and costs those whom it does not concern
/// nothing.
#[test]
fn a_change_of_the_sites_decides_again_whom_it_concerns() {
    let load = |text: &str| -> Arc<Config> { eastgate_config::load_str("t", text).unwrap() };
    let text = with(ANYTHING, &[(SITE, "applies_to = \"endpoint:acme/db1\"", PASS)]);
    let mut net = Net::of(&load(&text));
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 1)), "db1");
    assert_eq!(net.send("web1", udp(WEB1, DB2, 4000, 1)), "db2");
    let epoch = |net: &Net, name: &str| {
        let snapshot = net.snapshot("alpha");
        snapshot.networks()[0].endpoints.iter().find(|it| &*it.name == name).unwrap().epoch
    };
    let before = ["db1", "db2"].map(|name| epoch(&net, name));
    net.install(&load(&text.replace("\"pass\"", "\"deny\"")));
    assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 1)), "policy-changed at beta");
    assert_eq!(net.send("web1", udp(WEB1, DB2, 4000, 1)), "db2");
    let after = ["db1", "db2"].map(|name| epoch(&net, name));
    assert!(after[0] > before[0] && after[1] == before[1], "{before:?} {after:?}");
}

/// The site's and another tenant's words are in force on a tenant whose own file did not change, and a tenant that they do not
/// concern keeps its tables.
#[test]
fn what_a_tenant_takes_from_elsewhere_is_taken_anew() {
    let folder = std::env::temp_dir().join(format!("eastgate-{}-elsewhere", std::process::id()));
    std::fs::create_dir_all(folder.join("t")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let main = |policy: &str| format!("include = [\"t/*.toml\"]\n{HOSTS}\n{policy}");
    let policy = "[policy.p]\napplies_to = \"tenant:acme\"\ningress = [{ action = \"deny\", from = \"group:globex/webs\" }]\n\
         [tenant.lone.network.app]\nvni = 5010\nhosts = [\"alpha\"]\n[tenant.lone.group.all]\n";
    let text = shared("shared_with = [\"acme\"]").replacen(HOSTS, "", 1);
    let (acme, globex) = text.split_at(text.find("[tenant.globex").unwrap());
    write("eastgate.toml", &main(policy));
    write("t/acme.toml", acme);
    write("t/globex.toml", globex);
    write("t/lone.toml", &app_network("other", 5011, "hosts = [\"alpha\"]"));
    let mut loader = eastgate_config::Loader::new(folder.join("eastgate.toml"));
    let mut load = || loader.load().unwrap_or_else(|wrong| panic!("{}", wrong.render(false)));
    let mut net = Net::of(&load());
    let from = |last: u8, sport: u16| {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, DB2])
            .ipv4([10, 2, 0, last], [10, 1, 0, DB2], 63)
            .udp(sport, 53)
            .write(&mut frame, b"x")
            .unwrap();
        frame
    };
    let other = |net: &Net| {
        net.snapshot("alpha").network(eastgate_wire::Vni::new_checked(5011).unwrap()).unwrap().clone()
    };
    assert_eq!(net.send("acme/router", from(5, 4000)), "ingress-rule at alpha");
    let kept = other(&net);
    write("eastgate.toml", &main(&policy.replace("\"deny\"", "\"pass\"")));
    net.install(&load());
    assert_eq!(net.send("acme/router", from(5, 4001)), "acme/db2");
    assert_eq!(net.send("acme/router", from(6, 4001)), "ingress-denied at alpha");
    write("t/globex.toml", &globex.replace("\"10.2.0.5\"", "\"10.2.0.6\""));
    net.install(&load());
    assert_eq!(net.send("acme/router", from(6, 4002)), "acme/db2");
    assert_eq!(net.send("acme/router", from(5, 4002)), "ingress-denied at alpha");
    assert!(Arc::ptr_eq(&kept, &other(&net)), "nobody has changed anything for it");
    let _ = std::fs::remove_dir_all(&folder);
}

/// A prefix that leaves a set has nobody in it who could be told from others: whoever names the set is decided about anew.
#[test]
fn a_prefix_that_leaves_a_set_lets_nothing_on() {
    let load = |text: &str| -> Arc<Config> { eastgate_config::load_str("t", text).unwrap() };
    let groups = "[tenant.acme.group.web]\negress = [{ to = \"any\" }]\n\
         [tenant.acme.group.db]\ningress = [{ from = \"set:far\" }]\n\
         [tenant.acme.set.far]\naddresses = [\"10.9.0.0/24\", \"10.8.0.7\"]\n";
    let router = endpoint("acme", "router", "alpha", 1, "web", "routes = [\"10.8.0.0/15\"]");
    let text = format!("{}{router}", scene_with("", groups));
    let mut net = Net::of(&load(&text));
    let from = |source: [u8; 4]| {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, DB1])
            .ipv4(source, [10, 1, 0, DB1], 63)
            .udp(4000, 53)
            .write(&mut frame, b"x")
            .unwrap();
        frame
    };
    for source in [[10, 9, 0, 5], [10, 8, 0, 7]] {
        assert_eq!(net.send("router", from(source)), "db1");
    }
    assert_eq!(net.send("router", from([10, 8, 0, 8])), "ingress-denied at beta");
    net.install(&load(&text.replace("\"10.9.0.0/24\", ", "")));
    assert_eq!(net.send("router", from([10, 9, 0, 5])), "policy-changed at beta");
    assert_eq!(net.send("router", from([10, 8, 0, 7])), "db1");
    // A single address is known by itself.
    let mut net = Net::of(&load(&text));
    for source in [[10, 9, 0, 5], [10, 8, 0, 7]] {
        assert_eq!(net.send("router", from(source)), "db1");
    }
    let epoch = |net: &Net| net.snapshot("beta").networks()[0].endpoints[0].epoch;
    let before = epoch(&net);
    net.install(&load(&text.replace(", \"10.8.0.7\"", "")));
    assert_eq!(net.send("router", from([10, 8, 0, 7])), "policy-changed at beta");
    assert_eq!((net.send("router", from([10, 9, 0, 5])).to_string(), epoch(&net)), ("db1".into(), before));
}

#[test]
fn a_rule_that_denies_everything_denies_what_is_sent_to_groups() {
    let groups = "[tenant.acme.group.web]\negress = [{ to = \"224.0.1.0/24\" }]\n\
         [tenant.acme.group.db]\ningress = [{ from = \"any\" }]\n[tenant.acme.set.mdns]\naddresses = [\"224.0.1.0/24\"]\n";
    let to_group = |text: &str| {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, WEB1], [1, 0, 0x5e, 0, 1, 7])
            .ipv4([10, 1, 0, WEB1], [224, 0, 1, 7], 1)
            .udp(4000, 53)
            .write(&mut frame, b"x")
            .unwrap();
        let fate = Net::new(text).send("web1", frame);
        let dropped = fate.drops.first().map(|(_, reason)| reason.to_string());
        (fate.deliveries.len(), dropped.unwrap_or_default())
    };
    assert_eq!(to_group(&scene_with("", groups)), (3, String::new()));
    assert_eq!(
        to_group(&scene_with("", &groups.replace("to = \"224.0.1.0/24\"", "to = \"set:mdns\""))),
        (3, String::new())
    );
    // What is left of everything names no group, what is left of some groups does.
    for (wide, got) in [
        ("{ prefix = \"0.0.0.0/0\", except = [\"240.0.0.0/4\"] }", 0),
        ("{ prefix = \"224.0.0.0/4\", except = [\"239.0.0.0/8\"] }", 3),
        ("[{ prefix = \"0.0.0.0/0\", except = [\"240.0.0.0/4\"] }, \"224.0.2.0/24\"]", 0),
        ("{ prefix = \"224.0.0.0/4\", except = [\"224.0.1.0/24\"] }", 0),
    ] {
        let fate = to_group(&scene_with("", &groups.replace("\"224.0.1.0/24\" }]", &format!("{wide} }}]"))));
        assert_eq!(fate.0, got, "{wide}: {}", fate.1);
    }
    let deny = "[tenant.acme.policy.p]\napplies_to = \"group:web\"\negress = [{ action = \"deny\", to = \"any\" }]\n";
    assert_eq!(to_group(&format!("{}{deny}", scene_with("", groups))), (0, "egress-rule".to_owned()));
}

/// A connection whose reply is heard first is the one that the rules let begin, also where nothing is denied yet: what is put
/// in force later must not cut what it allows.
#[test]
fn a_reply_that_is_heard_first_is_no_flow_that_is_tried_out() {
    let enforced = scene("tcp = \"loose\"");
    let tried = format!("[tenant.acme]\nmode = \"audit\"\n{enforced}");
    let talk = Talk { a: WEB1, b: DB1, sport: 40000, dport: 5432 };
    let mut net = Net::new(&tried);
    assert_eq!(net.send("db1", talk.answer(b"late")), "web1");
    net.install(&eastgate_testkit::parse(&enforced));
    assert_eq!(net.send("web1", talk.data(b"more")), "db1");
    assert_eq!(net.send("db1", talk.answer(b"and more")), "web1");
    // One that the rules let begin neither way passes as what it is, and not after.
    let other = Talk { a: DB1, b: WEB1, sport: 40000, dport: 80 };
    let mut net = Net::new(&tried);
    assert_eq!(net.send("db1", other.data(b"mid-stream")), "web1");
    net.install(&eastgate_testkit::parse(&enforced));
    assert_eq!(net.send("db1", other.data(b"more")), "policy-changed at beta");
}

/// Attack 33: neither is the longer prefix.
#[test]
fn of_a_wide_and_a_narrow_rule_the_first_one_wins() {
    let wide = "{ action = \"deny\", from = \"10.0.0.0/8\" }";
    let narrow = "{ action = \"allow\", proto = \"udp\", ports = 53, from = \"10.1.0.11\" }";
    for (first, second, expected) in [(narrow, wide, "db1"), (wide, narrow, "ingress-rule at beta")] {
        let policy = format!("[policy.p]\napplies_to = \"site\"\ningress = [{first}, {second}]\n");
        let mut net = Net::new(&(scene("") + &policy));
        assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 53)), expected);
        assert_eq!(net.send("web2", udp(WEB2, DB1, 4000, 53)), "ingress-rule at beta");
    }
}

/// A policy for everyone holds whatever the tenant writes; one for a group of a tenant is about whom the tenant puts there.
#[test]
fn a_policy_of_the_site_is_about_what_the_tenant_calls_so() {
    let deny = |whom: &str| {
        format!("[policy.p]\napplies_to = \"{whom}\"\negress = [{{ action = \"deny\", to = \"any\" }}]\n")
    };
    // The tenant gives its web servers a group of another name.
    let text = scene("");
    let renamed = text
        .replace("group.web]", "group.www]")
        .replace("\"web\"", "\"www\"")
        .replace("group:web", "group:www");
    let and_web = "[tenant.acme.group.web]\negress = [{ to = \"any\" }]\n";
    for (whom, before, after) in [
        ("site", "egress-rule at alpha", "egress-rule at alpha"),
        ("tenant:acme", "egress-rule at alpha", "egress-rule at alpha"),
        ("group:acme/web", "egress-rule at alpha", "db1"),
    ] {
        let mut net = Net::new(&(text.clone() + &deny(whom)));
        assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 53)), before, "{whom}");
        let mut net = Net::new(&(renamed.clone() + and_web + &deny(whom)));
        assert_eq!(net.send("web1", udp(WEB1, DB1, 4000, 53)), after, "{whom}, renamed");
    }
}
