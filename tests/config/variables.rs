//! Groups that include others, and variables in their rules: what an endpoint has by its groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use eastgate_config::{Config, Diagnostics, Loader, Tenant, load_str};
use proptest::prelude::*;

use crate::{TempFolder, folder};

const HEAD: &str = "[host.a]\nvtep = \"192.0.2.1\"\ndevice = \"e\"\n\
                    [tenant.acme.network.app]\nvni = 1\nsubnets = [\"10.1.0.0/24\"]\n";

fn endpoint(number: u8, more: &str) -> String {
    format!(
        "[tenant.acme.endpoint.e{number}]\nnetwork = \"app\"\nhost = \"a\"\nport = \"e{number}\"\n\
         mac = \"02:00:00:00:00:{number:02x}\"\naddresses = [\"10.1.0.{}\"]\n{more}\n",
        number + 10
    )
}

fn loaded(text: &str) -> Arc<Config> {
    let loaded = load_str("eastgate.toml", &format!("{HEAD}{text}"));
    loaded.unwrap_or_else(|found| panic!("{found}\n{text}"))
}

fn refused(text: &str) -> Diagnostics {
    load_str("eastgate.toml", &format!("{HEAD}{text}")).err().unwrap_or_else(|| panic!("{text}"))
}

fn codes(text: &str) -> Vec<&'static str> {
    refused(text).iter().map(|found| found.problem.code()).collect()
}

/// The names of the groups whose rules an endpoint has.
fn rules_of(tenant: &Tenant, endpoint: &str) -> Vec<String> {
    let (_, endpoint) = tenant.endpoint(endpoint).unwrap();
    tenant.rules_of(endpoint).iter().map(|group| group.name.to_string()).collect()
}

/// What an endpoint may receive and send, each rule as one line without its place.
fn may(tenant: &Tenant, endpoint: &str) -> BTreeSet<String> {
    let (_, endpoint) = tenant.endpoint(endpoint).unwrap();
    let groups = tenant.rules_of(endpoint);
    let lists =
        groups.iter().flat_map(|group| [(true, group, &group.ingress), (false, group, &group.egress)]);
    let lines = lists.flat_map(|(ingress, group, rules)| {
        rules.iter().map(move |rule| {
            let mut peers: Vec<String> = rule.peers.iter().map(ToString::to_string).collect();
            peers.sort_unstable();
            peers.dedup();
            let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
            let source_ports: Vec<String> = rule.source_ports.iter().map(ToString::to_string).collect();
            format!("{ingress} {} {:?} {ports:?} {source_ports:?} {peers:?}", group.stateful, rule.protocol)
        })
    });
    lines.collect()
}

#[test]
fn an_endpoint_has_the_rules_of_its_groups_with_its_own_values() {
    let config = Loader::new(folder("configs/variables.toml")).load().unwrap();
    let acme = config.tenant("acme").unwrap();
    assert_eq!(
        rules_of(acme, "web1"),
        ["managed{ADMINS=10.9.0.0/28,fd00:9::/64;MANAGE=22}", "resolving", "web"]
    );
    let web2 = "web{CLIENTS=10.0.0.0/8-10.1.0.0/16,group:db;PORTS=8000-8099,8443}";
    assert_eq!(
        rules_of(acme, "web2"),
        ["managed{ADMINS=10.9.0.0/28,fd00:9::/64;MANAGE=22}", "resolving", web2]
    );
    // Members they are of what is written at them, and of nothing that is included.
    for (_, endpoint) in acme.endpoints() {
        assert_eq!(endpoint.groups.len(), 1, "{}", endpoint.name);
    }
    let (written, made) = (&acme.groups["web"], &acme.groups[web2]);
    let lines = |group: &eastgate_config::Group| [group.ingress[0].at.line(), group.egress[0].at.line()];
    assert_eq!(lines(written), lines(made));
    assert_eq!(made.made_of.as_deref(), Some("web"));
    assert!(acme.means(made, acme.endpoint("web2").unwrap().1));
    assert!(!acme.means(made, acme.endpoint("web1").unwrap().1));
    assert!(acme.means(written, acme.endpoint("web2").unwrap().1));
    assert!(!acme.means(&acme.groups["managed"], acme.endpoint("web2").unwrap().1));
}

/// What libvirt calls precedence: the interface, then the filter that includes, then the one that is included.
#[test]
fn who_is_further_out_counts_first() {
    let groups = "[tenant.acme.group.inner]\nvariables = { A = 1, B = 1, C = 1 }\n\
                  ingress = [{ proto = \"tcp\", ports = [\"$A\", \"$B\", \"$C\"], from = \"any\" }]\n\
                  [tenant.acme.group.outer]\ninclude = [\"inner\"]\nvariables = { A = 2, B = 2 }\n";
    let text = [
        groups,
        &endpoint(1, "groups = [\"outer\"]\nvariables = { A = 3 }"),
        &endpoint(2, "groups = [\"outer\"]"),
        &endpoint(3, "groups = [\"inner\"]\nvariables = { C = 4 }"),
        &endpoint(4, "groups = [\"inner\", \"outer\"]"),
    ];
    let config = loaded(&text.concat());
    let acme = config.tenant("acme").unwrap();
    assert_eq!(rules_of(acme, "e1"), ["inner{A=3;B=2;C=1}", "outer"]);
    assert_eq!(rules_of(acme, "e2"), ["inner{A=2;B=2;C=1}", "outer"]);
    assert_eq!(rules_of(acme, "e3"), ["inner{A=1;B=1;C=4}"]);
    assert_eq!(rules_of(acme, "e4"), ["inner", "inner{A=2;B=2;C=1}", "outer"]);
}

#[test]
fn equal_values_are_one_group_and_those_of_the_group_are_the_group() {
    let group = "[tenant.acme.group.web]\nvariables = { PORTS = [80, 443] }\n\
                 ingress = [{ proto = \"tcp\", ports = \"$PORTS\", from = \"any\" }]\n";
    let with = |number, ports: &str| {
        endpoint(number, &format!("groups = [\"web\"]\nvariables = {{ PORTS = {ports} }}"))
    };
    let text = [
        group,
        &with(1, "[8080, \"9000-9009\"]"),
        &with(2, "[\"9000-9009\", 8080, 8080]"),
        &with(3, "[443, 80]"),
    ];
    let config = loaded(&text.concat());
    let acme = config.tenant("acme").unwrap();
    assert_eq!(rules_of(acme, "e1"), ["web{PORTS=8080,9000-9009}"]);
    assert_eq!(rules_of(acme, "e1"), rules_of(acme, "e2"));
    assert_eq!(rules_of(acme, "e3"), ["web"]);
    assert_eq!(acme.groups.len(), 2);
    // What says the same has the same digest.
    let plain = loaded(&[group, &text[1..3].concat(), &endpoint(3, "groups = [\"web\"]")].concat());
    assert_eq!(plain.digest(), config.digest());
}

#[test]
fn long_values_have_short_names_that_tell_them_apart() {
    let group = "[tenant.acme.group.web]\ningress = [{ from = \"$CLIENTS\" }]\n";
    let with = |number: u8, last: u8| {
        let clients: Vec<String> = (0..100).chain([last]).map(|it| format!("\"10.2.{it}.0/24\"")).collect();
        endpoint(number, &format!("groups = [\"web\"]\nvariables = {{ CLIENTS = [{}] }}", clients.join(", ")))
    };
    let config = loaded(&[group, &with(1, 200), &with(2, 201)].concat());
    let acme = config.tenant("acme").unwrap();
    let names = [rules_of(acme, "e1"), rules_of(acme, "e2")].concat();
    assert!(names[0] != names[1] && names.iter().all(|name| name.len() < 70), "{names:?}");
    assert_eq!(acme.groups[&*names[0]].ingress[0].peers.len(), 101);
}

/// What keeps no state does not begin to because of who includes it, nor the other way round.
#[test]
fn an_included_group_keeps_state_as_it_says_itself() {
    let text = [
        "[tenant.acme.group.dns]\nstateful = false\ningress = [{ proto = \"udp\", ports = 53, from = \"any\" }]\n\
         [tenant.acme.group.web]\ninclude = [\"dns\"]\n\
         ingress = [{ proto = \"tcp\", ports = 21, from = \"$FROM\", helper = \"ftp\", connections = 5 }]\n\
         [tenant.acme.group.loose]\nstateful = false\ninclude = [\"web\"]\n",
        &endpoint(1, "groups = [\"loose\"]\nvariables = { FROM = \"10.1.0.0/24\" }"),
    ];
    let config = loaded(&text.concat());
    let acme = config.tenant("acme").unwrap();
    let stateful: Vec<bool> =
        acme.rules_of(acme.endpoint("e1").unwrap().1).iter().map(|it| it.stateful).collect();
    assert_eq!(rules_of(acme, "e1"), ["dns", "loose", "web{FROM=10.1.0.0/24}"]);
    assert_eq!(stateful, [false, false, true]);
}

/// Members of a group are known by that, whatever their values; what others say of it holds for all of them.
#[test]
fn who_admits_its_members_admits_those_with_other_values() {
    let text = [
        "[tenant.acme.group.web]\nadmit_members = true\nvariables = { PORTS = 80 }\n\
         ingress = [{ proto = \"tcp\", ports = \"$PORTS\", from = \"any\" }]\n",
        &endpoint(1, "groups = [\"web\"]\nvariables = { PORTS = 81 }"),
        &endpoint(2, "groups = [\"web\"]"),
    ];
    let config = loaded(&text.concat());
    let acme = config.tenant("acme").unwrap();
    for group in ["web", "web{PORTS=81}"] {
        let last = acme.groups[group].ingress.last().unwrap();
        assert_eq!(last.peers[0].to_string(), "group:web");
        assert!(!acme.groups[group].has_egress_rules());
    }
}

#[test]
fn filters_stay_beside_values() {
    let text = [
        "[tenant.acme.group.web]\nvariables = { PORTS = 80 }\n\
         ingress = [{ proto = \"tcp\", ports = \"$PORTS\", from = \"any\" }]\n",
        &endpoint(1, "groups = [\"web\"]\nvariables = { PORTS = 81 }\nfilters = [\"clean-traffic\"]"),
    ];
    let config = loaded(&text.concat());
    let acme = config.tenant("acme").unwrap();
    assert_eq!(rules_of(acme, "e1"), ["filter:no-ipv6", "web{PORTS=81}"]);
}

/// One place where something is wrong, however many endpoints have it.
#[test]
fn what_is_wrong_in_a_rule_is_told_once() {
    let group = "[tenant.acme.group.web]\n\
                 ingress = [{ proto = \"tpc\", ports = \"$PORTS\", from = \"any\" }, { ports = \"$PORTS\", from = \"any\" }]\n";
    let endpoints = (1..=150)
        .map(|number| endpoint(number, &format!("groups = [\"web\"]\nvariables = {{ PORTS = {number} }}")));
    let found = codes(&[group, &endpoints.collect::<String>()].concat());
    assert_eq!(found, ["bad-protocol", "ports-not-possible"]);
}

#[test]
fn a_group_without_members_may_leave_its_variables_open() {
    let text = "[tenant.acme.group.inner]\ningress = [{ proto = \"tcp\", ports = \"$PORTS\", from = \"any\" }]\n\
                [tenant.acme.group.outer]\ninclude = [\"inner\"]\nvariables = { PORTS = 7 }\n";
    let config = loaded(&[text, &endpoint(1, "groups = [\"outer\"]")].concat());
    let acme = config.tenant("acme").unwrap();
    assert!(acme.groups["inner"].ingress.is_empty());
    assert_eq!(rules_of(acme, "e1"), ["inner{PORTS=7}", "outer"]);
    let text = [text, &endpoint(1, "groups = [\"outer\"]"), &endpoint(2, "groups = [\"inner\"]")];
    assert_eq!(codes(&text.concat()), ["variable-missing"]);
}

/// What is included in very many ways ends in an error, not in a file that takes hours.
#[test]
fn ways_that_double_at_each_step_are_refused() {
    let group = |name: String, of: Option<usize>, value: usize| {
        let include = of.map(|of| format!("include = [\"a{of}\", \"b{of}\"]\n")).unwrap_or_default();
        let n = name.trim_start_matches(['a', 'b']).to_owned();
        format!(
            "[tenant.acme.group.{name}]\n{include}variables = {{ V{n} = {value} }}\n\
             ingress = [{{ proto = \"tcp\", ports = [\"$V0\", \"$V{n}\"], from = \"any\" }}]\n"
        )
    };
    let all = (0..15).flat_map(|n| {
        let of = (n < 14).then_some(n + 1);
        [group(format!("a{n}"), of, 2 * n), group(format!("b{n}"), of, 2 * n + 1)]
    });
    let text = [&*all.collect::<String>(), &endpoint(1, "groups = [\"a0\", \"b0\"]")].concat();
    assert!(codes(&text).iter().all(|code| *code == "include-deep"));
}

#[test]
fn chains_of_any_length_are_refused_or_hold() {
    let chain = |len: usize| {
        let group = |n: usize| {
            let include = if n < len { format!("include = [\"g{}\"]\n", n + 1) } else { String::new() };
            format!(
                "[tenant.acme.group.g{n}]\n{include}ingress = [{{ proto = \"tcp\", ports = {n}, from = \"any\" }}]\n"
            )
        };
        [(0..=len).map(group).collect::<String>(), endpoint(1, "groups = [\"g0\"]")].concat()
    };
    let config = loaded(&chain(16));
    assert_eq!(rules_of(config.tenant("acme").unwrap(), "e1").len(), 17);
    assert_eq!(codes(&chain(17)), ["include-deep"]);
    assert!(codes(&chain(20_000)).iter().all(|code| *code == "include-deep"));
}

/// A group that includes others and has variables, as it is written.
#[derive(Clone, Debug)]
struct Group {
    /// Of those behind it
    include: Vec<usize>,
    /// Of variables V0, V1, V2
    gives: [Option<Vec<u16>>; 3],
    /// What each of its rules has as ports: numbers and variables
    rules: Vec<(Vec<u16>, Vec<usize>)>,
    stateful: bool,
}

const GROUPS: usize = 5;

fn gives() -> impl Strategy<Value = [Option<Vec<u16>>; 3]> {
    prop::array::uniform3(prop::option::of(prop::collection::vec(1u16..40, 1..4)))
}

fn group() -> impl Strategy<Value = Group> {
    let rule = (prop::collection::vec(1u16..40, 0..2), prop::collection::vec(0usize..3, 0..3));
    (prop::collection::vec(0..GROUPS, 0..3), gives(), prop::collection::vec(rule, 0..3), any::<bool>())
        .prop_map(|(include, gives, rules, stateful)| {
            let rules =
                rules.into_iter().filter(|(ports, variables)| !ports.is_empty() || !variables.is_empty());
            Group { include, gives, rules: rules.collect(), stateful }
        })
}

impl Group {
    fn includes(&self, at: usize) -> BTreeSet<usize> {
        self.include.iter().copied().filter(|other| *other > at).collect()
    }
}

fn text(at: usize, group: &Group) -> String {
    let include: Vec<String> = group.includes(at).iter().map(|of| format!("\"g{of}\"")).collect();
    let rules = group.rules.iter().map(|(ports, variables)| {
        let ports = ports.iter().map(ToString::to_string);
        let all: Vec<String> = ports.chain(variables.iter().map(|v| format!("\"$V{v}\""))).collect();
        format!("{{ proto = \"tcp\", ports = [{}], from = \"any\" }}", all.join(", "))
    });
    let rules: Vec<String> = rules.collect();
    format!(
        "[tenant.acme.group.g{at}]\nstateful = {}\ninclude = [{}]\n{}ingress = [{}]\n",
        group.stateful,
        include.join(", "),
        written(&group.gives),
        rules.join(", ")
    )
}

fn written(gives: &[Option<Vec<u16>>; 3]) -> String {
    let given =
        gives.iter().enumerate().filter_map(|(v, values)| Some(format!("V{v} = {:?}", values.as_ref()?)));
    format!("variables = {{ {} }}\n", given.collect::<Vec<_>>().join(", "))
}

/// What a group comes to, by the words of the documentation; none where a value is missing.
fn comes_to(
    groups: &[Group],
    at: usize,
    outer: &BTreeMap<usize, Vec<u16>>,
    rules: &mut BTreeSet<String>,
    used: &mut BTreeSet<usize>,
) -> bool {
    let group = &groups[at];
    let mut values = outer.clone();
    for (v, given) in group.gives.iter().enumerate() {
        if let Some(given) = given {
            values.entry(v).or_insert_with(|| given.clone());
        }
    }
    let mut whole = true;
    for (ports, variables) in &group.rules {
        let mut all: BTreeSet<u16> = ports.iter().copied().collect();
        for v in variables {
            used.insert(*v);
            whole &= values.contains_key(v);
            all.extend(values.get(v).into_iter().flatten());
        }
        rules.insert(format!("{} {all:?}", group.stateful));
    }
    for inner in group.includes(at) {
        whole &= comes_to(groups, inner, &values, rules, used);
    }
    whole
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn an_endpoint_has_what_the_text_says(
        groups in prop::collection::vec(group(), GROUPS),
        endpoints in prop::collection::vec((prop::collection::btree_set(0..GROUPS, 1..3), gives()), 1..5),
    ) {
        let mut whole: String = groups.iter().enumerate().map(|(at, group)| text(at, group)).collect();
        let mut expected = Vec::new();
        let mut wrong = BTreeSet::new();
        for ((of, gives), number) in endpoints.iter().zip(1u8..) {
            let names: Vec<String> = of.iter().map(|at| format!("\"g{at}\"")).collect();
            whole += &endpoint(number, &format!("groups = [{}]\n{}", names.join(", "), written(gives)));
            let own: BTreeMap<usize, Vec<u16>> =
                gives.iter().enumerate().filter_map(|(v, given)| Some((v, given.clone()?))).collect();
            let (mut rules, mut used) = (BTreeSet::new(), BTreeSet::new());
            for at in of {
                if !comes_to(&groups, *at, &own, &mut rules, &mut used) {
                    wrong.insert("variable-missing");
                }
            }
            if own.keys().any(|v| !used.contains(v)) {
                wrong.insert("variable-unknown");
            }
            expected.push(rules);
        }
        match load_str("eastgate.toml", &format!("{HEAD}{whole}")) {
            Ok(config) => {
                prop_assert!(wrong.is_empty(), "{wrong:?}\n{whole}");
                let acme = config.tenant("acme").unwrap();
                for (rules, number) in expected.iter().zip(1..) {
                    let (_, endpoint) = acme.endpoint(&format!("e{number}")).unwrap();
                    let of = acme.rules_of(endpoint);
                    let has: BTreeSet<String> = of.iter().flat_map(|group| group.ingress.iter().map(|rule| {
                        let ports: BTreeSet<u16> =
                            rule.ports.iter().flat_map(|range| range.first..=range.last).collect();
                        format!("{} {ports:?}", group.stateful)
                    })).collect();
                    prop_assert_eq!(&has, rules, "e{}\n{}", number, whole);
                }
            }
            Err(found) => {
                let codes: BTreeSet<&str> = found.iter().map(|found| found.problem.code()).collect();
                let errors: BTreeSet<&str> =
                    codes.into_iter().filter(|code| !matches!(*code, "rule-repeated" | "variable-unused" | "group-unused")).collect();
                prop_assert_eq!(errors, wrong, "{}", whole);
            }
        }
    }
}

#[test]
fn an_included_group_is_as_one_more_group_of_the_endpoint() {
    let groups = "[tenant.acme.group.a]\ningress = [{ proto = \"tcp\", ports = 1, from = \"group:b\" }]\n\
                  egress = [{ to = \"any\" }]\n[tenant.acme.group.b]\nstateful = false\n\
                  ingress = [{ proto = \"udp\", ports = 2, source_ports = 3, from = \"10.0.0.0/8\" }]\n";
    let including = groups.replace("group.a]\n", "group.a]\ninclude = [\"b\"]\n");
    let [included, both] = [
        loaded(&[&*including, &endpoint(1, "groups = [\"a\"]")].concat()),
        loaded(&[groups, &endpoint(1, "groups = [\"a\", \"b\"]")].concat()),
    ];
    let of = |config: &Config| may(config.tenant("acme").unwrap(), "e1");
    assert_eq!(of(&included), of(&both));
    assert_eq!(of(&included).len(), 3);
}

/// A large file of which one endpoint's values change is what it would be if it were read for the first time; so are the places.
#[test]
fn values_that_change_in_a_large_file_are_those_of_a_fresh_start() {
    let folder = TempFolder::new("variables");
    let groups = "[tenant.acme.group.inner]\nvariables = { PORTS = [80] }\n\
                  ingress = [{ proto = \"tcp\", ports = \"$PORTS\", from = [\"$FROM\", \"10.3.0.0/16\"] }]\n\
                  [tenant.acme.group.web]\ninclude = [\"inner\"]\nvariables = { FROM = \"any\" }\n";
    let with = |values: &str| {
        let endpoints = (1..200).map(|number| {
            let own = format!("groups = [\"web\"]\nvariables = {{ PORTS = [{}, {number}] }}\n", number % 7);
            let own = if number == 100 { format!("groups = [\"web\"]\n{values}") } else { own };
            endpoint(number, &own)
        });
        [HEAD, groups, &endpoints.collect::<String>()].concat()
    };
    let path = folder.write("eastgate.toml", &with("variables = { PORTS = 5 }\n"));
    let mut loader = Loader::new(&path);
    let first = loader.load().unwrap();
    assert!(with("").len() > 32 << 10);
    for values in [
        "variables = { PORTS = [6, \"7-9\"], FROM = { prefix = \"10.0.0.0/8\", except = [\"10.9.0.0/16\"] } }\n",
        "",
        "[tenant.acme.endpoint.e100.variables]\nPORTS = 5\n",
    ] {
        folder.write("eastgate.toml", &with(values));
        let (again, fresh) = (loader.load().unwrap(), Loader::new(&path).load().unwrap());
        // Places compare equal wherever they are: as text they do not.
        assert_eq!(format!("{again:?}"), format!("{fresh:?}"), "{values}");
    }
    assert_eq!(first.digest(), loader.load().unwrap().digest());
    folder.write("eastgate.toml", &with("variables = { PORTS = \"10.0.0.0/8\" }\n"));
    let found = loader.load().unwrap_err();
    assert_eq!(found.iter().map(|found| found.problem.code()).collect::<Vec<_>>(), ["bad-ports"]);
}

/// Who writes little is not to fill the memory before quotas are looked at.
#[test]
fn what_comes_of_little_is_bounded() {
    let rule = |number: u16| {
        format!("{{ proto = \"tcp\", ports = \"$P\", source_ports = {}, from = \"any\" }},", 1 + number)
    };
    let group = format!(
        "[tenant.acme.group.g]\nvariables = {{ P = [1] }}\ningress = [{}]\n",
        (0..500).map(rule).collect::<String>()
    );
    let ports = |number: u8| {
        (1..=40).map(|port| format!("{}", 1000 * u32::from(number) + port)).collect::<Vec<_>>().join(", ")
    };
    let given =
        |number| endpoint(number, &format!("groups = [\"g\"]\nvariables = {{ P = [{}] }}", ports(number)));
    let many = |endpoints: u8| format!("{group}{}", (1..=endpoints).map(given).collect::<String>());
    assert_eq!(loaded(&many(3)).tenants["acme"].groups.len(), 4);
    assert_eq!(codes(&many(60)), ["include-deep"]);

    let inner: String = (0..300)
        .map(|number| format!("[tenant.acme.group.i{number}]\ningress = [{{ from = \"any\" }}]\n"))
        .collect();
    let names: Vec<String> = (0..300).map(|number| format!("\"i{number}\"")).collect();
    let outer = format!(
        "{inner}[tenant.acme.group.g]\ninclude = [{}]\n{}",
        names.join(", "),
        endpoint(1, "groups = [\"g\"]")
    );
    assert_eq!(codes(&outer), ["include-deep"]);
}
