//! What policies, sets, templates and shares mean, and what is refused of them.

use std::sync::Arc;

use eastgate_config::{
    Action, Config, Diagnostics, Loader, Mode, Peer, PolicyEnd, Position, Scope, Severity, load_str,
};

use crate::TempFolder;

const HEAD: &str = "[host.a]\nvtep = \"192.0.2.1\"\ndevice = \"e\"\n";

/// A tenant with a network, a group and an endpoint, and what else is said of it.
fn tenant(name: &str, vni: u32, more: &str) -> String {
    format!(
        "[tenant.{name}.network.lan]\nvni = {vni}\nsubnets = [\"10.1.0.0/24\"]\n\
         [tenant.{name}.group.web]\negress = [{{ to = \"any\" }}]\n\
         [tenant.{name}.endpoint.vm1]\nnetwork = \"lan\"\nhost = \"a\"\nport = \"{name}\"\n\
         mac = \"02:00:00:00:00:01\"\naddresses = [\"10.1.0.1\"]\ngroups = [\"web\"]\n{more}"
    )
}

fn load(more: &str) -> Arc<Config> {
    load_str("t", &format!("{HEAD}{}", tenant("acme", 1, more))).unwrap_or_else(|found| panic!("{found}"))
}

fn errors(found: &Diagnostics) -> Vec<&'static str> {
    let errors = found.iter().filter(|found| found.problem.severity() == Severity::Error);
    errors.map(|found| found.problem.code()).collect()
}

/// The codes of what is wrong with a text, in order.
fn codes(text: &str) -> Vec<&'static str> {
    match load_str("t", text) {
        Ok(_) => Vec::new(),
        Err(found) => errors(&found),
    }
}

#[test]
fn a_policy_has_its_place_its_scope_and_ordered_rules() {
    let config = load(
        r#"[tenant.acme.policy.lockdown]
order = 7
end = "deny"
mode = "audit"
applies_to = ["tenant", "network:lan", "group:web", "endpoint:vm1"]
[[tenant.acme.policy.lockdown.ingress]]
action = "pass"
proto = "tcp"
ports = 22
from = ["group:web", "set:admins"]
[[tenant.acme.policy.lockdown.ingress]]
action = "reject"
from = "any"
log = true
mode = "audit"
[tenant.acme.policy.late]
position = "after"
applies_to = "tenant"
egress = [{ action = "allow", to = { prefix = "10.0.0.0/8", except = ["10.2.0.0/16", "10.1.0.0/16"] }, own = "10.1.0.0/24" }]
[tenant.acme.set.admins]
addresses = ["10.9.0.1", "fd00::/64", "10.9.0.1/32"]
"#,
    );
    let acme = &config.tenants["acme"];
    let policy = &acme.policies["lockdown"];
    assert_eq!(
        (policy.position, policy.order, policy.end, policy.mode),
        (Position::Before, 7, PolicyEnd::Deny, Mode::Audit)
    );
    let (acme_name, of) = (|| "acme".into(), |name: &str| name.into());
    assert_eq!(
        policy.applies_to,
        [
            Scope::Tenant(acme_name()),
            Scope::Network(acme_name(), of("lan")),
            Scope::Group(acme_name(), of("web")),
            Scope::Endpoint(acme_name(), of("vm1")),
        ]
    );
    let [pass, reject] = &policy.ingress[..] else { panic!("{policy:?}") };
    assert_eq!(
        (pass.action, &pass.peers[..]),
        (Action::Pass, &[Peer::Group(of("web")), Peer::Set(of("admins"))][..])
    );
    assert_eq!((reject.action, reject.log, reject.mode), (Action::Reject, true, Mode::Audit));
    let late = &acme.policies["late"];
    assert_eq!((late.position, late.end, late.order), (Position::After, PolicyEnd::Pass, 100));
    let [rule] = &late.egress[..] else { panic!("{late:?}") };
    assert_eq!(rule.peers[0].to_string(), "10.0.0.0/8 except 10.1.0.0/16 and 10.2.0.0/16");
    assert_eq!(rule.own.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/24"]);
    let admins: Vec<String> = acme.sets["admins"].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(admins, ["10.9.0.1/32", "fd00::/64"], "each once");
}

#[test]
fn the_site_says_of_whom_it_speaks_and_tenants_name_what_is_shared() {
    let text = format!(
        "{HEAD}{}{}{}",
        tenant(
            "acme",
            1,
            "[tenant.acme.set.admins]\naddresses = [\"10.9.0.1\"]\nshared_with = [\"globex\"]\n"
        ),
        tenant(
            "globex",
            2,
            "[tenant.globex.group.db]\nlike = \"basics\"\nadmit_members = true\n\
             ingress = [{ from = [\"set:acme/admins\", \"group:globex/web\"] }]\n"
        ),
        r#"[policy.hardening]
applies_to = ["site", "tenant:acme", "network:acme/lan", "group:globex/db", "endpoint:acme/vm1"]
ingress = [{ action = "deny", from = ["group:globex/web", "set:acme/admins", "set:bad"] }]
[set.bad]
addresses = ["198.51.100.0/24"]
[template.basics]
ingress = [{ proto = "icmp", from = "any" }]
"#
    );
    let config = load_str("t", &text).unwrap_or_else(|found| panic!("{found}"));
    let hardening = &config.site.policies["hardening"];
    assert_eq!((hardening.applies_to.len(), &hardening.applies_to[0]), (5, &Scope::Site));
    let peers = |peers: &[Peer]| peers.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(peers(&hardening.ingress[0].peers), ["group:globex/web", "set:acme/admins", "set:bad"]);
    let db = &config.tenants["globex"].groups["db"];
    assert_eq!(peers(&db.ingress[0].peers), ["set:acme/admins", "group:web"], "its own is its own");
    assert_eq!((peers(&db.ingress[1].peers), db.egress.len()), (vec!["group:db".to_owned()], 1));
    assert!(!db.has_egress_rules() && config.tenants["globex"].groups["web"].has_egress_rules());
    assert_eq!(&*db.like[0], "basics");
}

#[test]
fn names_that_nobody_has_are_told_with_what_is_near() {
    for (more, wanted) in [
        (
            "[tenant.acme.policy.p]\napplies_to = \"group:wbe\"\ningress = [{ action = \"deny\", from = \"any\" }]\n",
            "there is no group `wbe`",
        ),
        (
            "[tenant.acme.policy.p]\napplies_to = \"tenant\"\ningress = [{ action = \"deny\", from = \"set:x\" }]\n",
            "there is no set `x`",
        ),
        ("[tenant.acme.group.g]\nlike = \"basic\"\n[template.basics]\n", "there is no template `basic`"),
        ("[tenant.acme.group.g]\nshared_with = [\"acmo\"]\n", "there is no tenant `acmo`"),
        ("[tenant.acme.group.g]\negress = [{ to = \"group:acmo/web\" }]\n", "there is no tenant `acmo`"),
        (
            "[policy.p]\napplies_to = \"tenant:acmo\"\ningress = [{ action = \"deny\", from = \"any\" }]\n",
            "there is no tenant `acmo`",
        ),
        (
            "[policy.p]\napplies_to = \"network:acme/lam\"\ningress = [{ action = \"deny\", from = \"any\" }]\n",
            "there is no network `acme/lam`",
        ),
        (
            "[policy.p]\napplies_to = \"endpoint:acme/vm2\"\ningress = [{ action = \"deny\", from = \"any\" }]\n",
            "there is no endpoint `acme/vm2`",
        ),
        (
            "[policy.p]\napplies_to = \"site\"\ningress = [{ action = \"deny\", from = \"set:acme/x\" }]\n",
            "there is no set `acme/x`",
        ),
        ("[quota.tenant.acmo]\nrules = 7\n", "there is no tenant `acmo`"),
    ] {
        let found = load_str("t", &format!("{HEAD}{}{more}", tenant("acme", 1, ""))).unwrap_err();
        let told = found.render(false);
        assert!(told.contains(wanted), "{more}\n{told}");
        let has_near = ["wbe", "basic`", "acmo", "lam", "vm2"].iter().any(|near| wanted.contains(near));
        assert_eq!(told.contains("did you mean"), has_near, "{told}");
    }
}

/// What one tenant has of another is looked at again when only the other one changes, and so is what the site says of both.
#[test]
fn a_change_of_one_tenant_is_held_against_those_that_name_it() {
    let folder = TempFolder::new("shares");
    let site = "[policy.p]\napplies_to = \"group:globex/db\"\negress = [{ action = \"deny\", to = \"any\", own = \"10.1.0.0/24\" }]\n";
    let main = folder.write("eastgate.toml", &format!("include = [\"t/*.toml\"]\n{HEAD}{site}"));
    let globex = |more: &str| {
        tenant("globex", 2, &format!("[tenant.globex.group.db]\n{more}\ningress = [{{ from = \"any\" }}]\n"))
    };
    folder.write("t/acme.toml", &tenant("acme", 1, "").replace("\"any\"", "\"group:globex/db\""));
    let mut loader = Loader::new(&main);
    let mut codes = |text: &str| -> Vec<&'static str> {
        folder.write("t/globex.toml", text);
        match loader.load() {
            Ok(_) => Vec::new(),
            Err(found) => errors(&found),
        }
    };
    let shared = globex("shared_with = [\"acme\"]");
    assert_eq!(codes(&shared), [""; 0]);
    assert_eq!(codes(&globex("")), ["not-shared"]);
    assert_eq!(codes(&shared), [""; 0]);
    assert_eq!(codes(&shared.replace("group.db", "group.dbs")), ["unknown-name"; 2], "the site's, too");
    assert_eq!(codes(&shared), [""; 0]);
    // Somebody in the group has an address that the site's rule could not tell.
    let mixed = shared
        .replace("groups = [\"web\"]", "groups = [\"db\"]\nallowed_pairs = [{ address = \"10.7.0.1\" }]");
    assert_eq!(codes(&mixed), ["own-mixed"]);
    assert_eq!(codes(&shared.replace("groups = [\"web\"]", "groups = [\"db\"]")), [""; 0]);
}

#[test]
fn own_is_told_by_all_addresses_that_an_endpoint_may_send_from() {
    let rule = |own: &str, more: &str| {
        let endpoint = format!("groups = [\"web\"]\n{more}\n");
        let policy = format!(
            "[tenant.acme.policy.p]\napplies_to = \"tenant\"\negress = [{{ action = \"deny\", to = \"any\", own = {own} }}]\n"
        );
        codes(&format!("{HEAD}{}", tenant("acme", 1, &policy).replace("groups = [\"web\"]\n", &endpoint)))
    };
    let none = [""; 0];
    assert_eq!(rule("\"10.1.0.0/24\"", ""), none);
    assert_eq!(
        rule("[\"10.1.0.0/31\", \"10.1.0.2/31\"]", "allowed_pairs = [{ address = \"10.1.0.0/30\" }]"),
        none,
        "together"
    );
    assert_eq!(rule("\"10.2.0.0/24\"", ""), none, "it is not meant at all");
    assert_eq!(rule("\"10.1.0.0/24\"", "routes = [\"10.7.0.0/16\"]"), ["own-mixed"]);
    assert_eq!(rule("\"10.1.0.0/24\"", "port_security = false"), ["own-mixed"]);
    assert_eq!(rule("\"0.0.0.0/0\"", "port_security = false"), none);
    // Of each family by itself; link-local addresses are everyone's to choose.
    assert_eq!(rule("[\"10.1.0.0/24\", \"fd00::/8\"]", ""), none);
    assert_eq!(rule("\"fe80::/64\"", ""), ["own-mixed"]);
    assert_eq!(rule("[\"fd00::/8\", \"fe80::/10\"]", "allowed_pairs = [{ address = \"fd00::7\" }]"), none);
    assert_eq!(rule("\"fd00::/8\"", "allowed_pairs = [{ address = \"fd00::7\" }]"), ["own-mixed"]);
}

#[test]
fn quotas_are_exact_and_a_tenants_own_counts_instead() {
    let text = |quota: &str| {
        format!(
            "{HEAD}[quota]\n{quota}\n{}",
            tenant("acme", 1, "[tenant.acme.set.s]\naddresses = [\"10.1.0.0/24\", \"fd00::1\"]\n")
        )
    };
    for (key, most) in
        [("networks", 1), ("endpoints", 1), ("groups", 1), ("rules", 1), ("sets", 1), ("set_addresses", 2)]
    {
        assert_eq!(codes(&text(&format!("{key} = {most}"))), [""; 0], "{key}");
        if most > 1 {
            assert_eq!(codes(&text(&format!("{key} = {}", most - 1))), ["quota-exceeded"], "{key}");
        }
        // One more of each kind.
        let more = match key {
            "networks" => "[tenant.acme.network.more]\nvni = 77\nsubnets = [\"10.7.0.0/24\"]\n",
            "groups" => "[tenant.acme.group.more]\n",
            "sets" => "[tenant.acme.set.more]\naddresses = []\n",
            _ => "",
        };
        if !more.is_empty() {
            let with = |most: u32| codes(&format!("{}{more}", text(&format!("{key} = {most}"))));
            assert_eq!(with(most), ["quota-exceeded"], "{key}");
            assert!(!with(most + 1).contains(&"quota-exceeded"), "{key}");
        }
        assert_eq!(
            codes(&text(&format!("{key} = 100\ntenant.acme = {{ {key} = {most} }}"))),
            [""; 0],
            "{key}"
        );
    }
    assert_eq!(codes(&text("set_addresses = 7\ntenant.acme = { set_addresses = 1 }")), ["quota-exceeded"]);
    assert_eq!(codes(&text("set_addresses = 1\ntenant.acme = { set_addresses = 7 }")), [""; 0]);
    assert_eq!(
        codes(&text("set_addresses = 1\ntenant.acme = { rules = 7 }")),
        ["quota-exceeded"],
        "of the other it has none"
    );
    let policies = |count: u32| -> String {
        (0..count).map(|n| format!("[tenant.acme.policy.p{n}]\nposition = \"before-groups\"\n")).collect()
    };
    let with = |count| codes(&format!("{}{}", text("policies = 2"), policies(count)));
    assert!(!with(2).contains(&"quota-exceeded"), "{:?}", with(2));
    assert!(with(3).contains(&"quota-exceeded"), "{:?}", with(3));
    let peers = "[tenant.acme.group.more]\ningress = [{ from = [\"10.1.0.1\", \"10.1.0.2\"] }]\n";
    let with = |most: u32| format!("{HEAD}[quota]\nrules = {most}\n{}", tenant("acme", 1, peers));
    assert_eq!(codes(&with(3)), [""; 0]);
    assert_eq!(codes(&with(2)), ["quota-exceeded"], "a rule for two peers is two");
}
