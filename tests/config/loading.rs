//! Loading again: what changed is read, what is bad changes nothing, and the outcome is that of a fresh start.

use std::{fs, sync::Arc};

use eastgate_config::{Config, Diagnostics, Loader};
use proptest::prelude::*;

use crate::TempFolder;

const ROOT: &str = "include = [\"tenants/*.toml\"]\n[host.alpha]\nvtep = \"172.31.0.1\"\ndevice = \"eth0\"\n\
                    [host.beta]\nvtep = \"172.31.0.2\"\ndevice = \"eth0\"\n";

fn tenant(name: &str, vni: u32, host: &str, port: &str) -> String {
    format!(
        "[tenant.{name}.network.n]\nvni = {vni}\nsubnets = [\"10.0.0.0/24\"]\n\
         [tenant.{name}.group.g]\ningress = [{{ from = \"any\" }}]\n\
         [tenant.{name}.endpoint.e]\nnetwork = \"n\"\nhost = \"{host}\"\nport = \"{port}\"\n\
         mac = \"02:00:00:00:00:01\"\naddresses = [\"10.0.0.1\"]\ngroups = [\"g\"]\n"
    )
}

fn three_tenants(folder: &TempFolder) -> Loader {
    for (vni, name) in [(1, "a"), (2, "b"), (3, "c")] {
        folder.write(&format!("tenants/{name}.toml"), &tenant(name, vni, "alpha", name));
    }
    Loader::new(folder.write("eastgate.toml", ROOT))
}

fn codes(found: &Diagnostics) -> Vec<&'static str> {
    found.iter().map(|found| found.problem.code()).collect()
}

fn same(a: &Config, b: &Config, tenant: &str) -> bool {
    Arc::ptr_eq(&a.tenants[tenant], &b.tenants[tenant])
}

#[test]
fn nothing_changed_is_the_same_configuration() {
    let folder = TempFolder::new("unchanged");
    let mut loader = three_tenants(&folder);
    let first = loader.load().unwrap();
    assert!(Arc::ptr_eq(&first, &loader.load().unwrap()));
    // Written again with the same text.
    folder.write("tenants/b.toml", &tenant("b", 2, "alpha", "b"));
    assert!(Arc::ptr_eq(&first, &loader.load().unwrap()));
}

#[test]
fn one_file_changed_is_one_tenant_changed() {
    let folder = TempFolder::new("changed");
    let mut loader = three_tenants(&folder);
    let first = loader.load().unwrap();
    folder.write("tenants/b.toml", &tenant("b", 7, "alpha", "b"));
    let second = loader.load().unwrap();
    assert!(same(&first, &second, "a") && same(&first, &second, "c") && !same(&first, &second, "b"));
    assert_eq!(second.tenants["b"].networks["n"].vni.get(), 7);
}

#[test]
fn a_warning_stays_while_its_cause_does() {
    let folder = TempFolder::new("warning");
    let mut loader = three_tenants(&folder);
    let odd = |codes: &[&str], loader: &mut Loader| {
        loader.load().unwrap();
        let found: Vec<&str> = loader.warnings().iter().map(|found| found.problem.code()).collect();
        assert_eq!(found, codes);
    };
    odd(&[], &mut loader);
    folder.write("eastgate.toml", &ROOT.replace("172.31.0.2", "10.0.0.1"));
    odd(&["address-of-host"; 3], &mut loader);
    odd(&["address-of-host"; 3], &mut loader);
    folder.write("tenants/b.toml", &tenant("b", 2, "alpha", "b").replace("10.0.0.1", "10.0.0.2"));
    odd(&["address-of-host"; 2], &mut loader);
    fs::remove_file(folder.0.join("tenants/a.toml")).unwrap();
    odd(&["address-of-host"], &mut loader);
    folder.write("eastgate.toml", ROOT);
    odd(&[], &mut loader);
}

#[test]
fn files_come_and_go() {
    let folder = TempFolder::new("come-and-go");
    let mut loader = three_tenants(&folder);
    let first = loader.load().unwrap();
    fs::remove_file(folder.0.join("tenants/b.toml")).unwrap();
    // What b had is free again.
    folder.write("tenants/d.toml", &tenant("d", 2, "alpha", "b"));
    let second = loader.load().unwrap();
    assert_eq!(second.tenants.keys().map(|name| &**name).collect::<Vec<_>>(), ["a", "c", "d"]);
    assert!(same(&first, &second, "a"));
    folder.write("tenants/b.toml", &tenant("b", 2, "alpha", "b2"));
    assert_eq!(codes(&loader.load().unwrap_err()), ["vni-twice"]);
    fs::remove_file(folder.0.join("tenants/d.toml")).unwrap();
    assert!(loader.load().unwrap().tenant("b").is_some());
}

#[test]
fn a_bad_file_changes_nothing() {
    let folder = TempFolder::new("bad");
    let mut loader = three_tenants(&folder);
    let first = loader.load().unwrap();
    for bad in
        ["[tenant", "[tenant.b]\nnetwork = 3\n", &tenant("b", 1, "alpha", "b"), &tenant("b", 2, "beta2", "b")]
    {
        folder.write("tenants/b.toml", bad);
        loader.load().unwrap_err();
        loader.load().unwrap_err();
        assert!(Arc::ptr_eq(&first, loader.last_good().unwrap()));
    }
    folder.write("tenants/b.toml", &tenant("b", 2, "beta", "b"));
    let second = loader.load().unwrap();
    assert!(
        same(&first, &second, "a") && &*second.tenants["b"].networks["n"].endpoints[0].host.host == "beta"
    );
    fs::remove_file(folder.0.join("eastgate.toml")).unwrap();
    assert_eq!(codes(&loader.load().unwrap_err()), ["unreadable"]);
    assert!(Arc::ptr_eq(&second, loader.last_good().unwrap()));
}

#[test]
fn a_host_that_goes_is_missed_by_tenants_that_did_not_change() {
    let folder = TempFolder::new("host-goes");
    let mut loader = three_tenants(&folder);
    loader.load().unwrap();
    folder.write("eastgate.toml", &ROOT.replace("alpha", "gamma"));
    assert_eq!(codes(&loader.load().unwrap_err()), ["unknown-name"; 3]);
}

#[test]
fn a_file_that_could_not_be_read_hides_no_host() {
    let folder = TempFolder::new("hidden-host");
    let mut loader = three_tenants(&folder);
    folder.write("eastgate.toml", &format!("{ROOT}\nx = = 1\n").replace("[host.alpha]", "[host.alpha"));
    let found = loader.load().unwrap_err();
    assert!(codes(&found).iter().all(|code| *code == "syntax"), "{found}");
}

#[test]
fn warnings_stay_until_their_reason_goes() {
    let folder = TempFolder::new("warnings");
    let mut loader = three_tenants(&folder);
    folder.write("tenants/a.toml", &tenant("a", 1, "alpha", "a").replace("groups = [\"g\"]", ""));
    loader.load().unwrap();
    assert_eq!(codes(loader.warnings()), ["group-unused", "endpoint-ungrouped"]);
    folder.write("tenants/b.toml", &tenant("b", 9, "alpha", "b"));
    loader.load().unwrap();
    assert_eq!(codes(loader.warnings()), ["group-unused", "endpoint-ungrouped"]);
    folder.write("tenants/a.toml", &tenant("a", 1, "alpha", "a"));
    loader.load().unwrap();
    assert!(loader.warnings().is_empty());
}

/// One edit of one file.
#[derive(Clone, Debug)]
enum Edit {
    Write { file: u8, tenant: u8, vni: u32, host: u8, port: u8 },
    Spoil { file: u8 },
    Remove { file: u8 },
    Hosts { both: bool },
}

fn edits() -> impl Strategy<Value = Vec<Vec<Edit>>> {
    let write = (0u8..4, 0u8..5, 0u32..5, 0u8..3, 0u8..4)
        .prop_map(|(file, tenant, vni, host, port)| Edit::Write { file, tenant, vni, host, port });
    let edit = prop_oneof![
        8 => write,
        1 => (0u8..4).prop_map(|file| Edit::Spoil { file }),
        2 => (0u8..4).prop_map(|file| Edit::Remove { file }),
        1 => any::<bool>().prop_map(|both| Edit::Hosts { both }),
    ];
    proptest::collection::vec(proptest::collection::vec(edit, 1..3), 1..10)
}

fn apply(folder: &TempFolder, edit: &Edit) {
    let file = |file: u8| format!("tenants/{file}.toml");
    match *edit {
        Edit::Write { file: at, tenant: name, vni, host, port } => {
            let host = ["alpha", "beta", "gamma"][usize::from(host)];
            folder.write(&file(at), &tenant(&format!("t{name}"), vni, host, &format!("p{port}")));
        }
        Edit::Spoil { file: at } => drop(folder.write(&file(at), "[[tenant.x\n")),
        Edit::Remove { file: at } => drop(fs::remove_file(folder.0.join(file(at)))),
        Edit::Hosts { both: true } => drop(folder.write("eastgate.toml", ROOT)),
        Edit::Hosts { both: false } => {
            folder.write("eastgate.toml", ROOT.split("[host.beta]").next().unwrap());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// After any edits the loader that remembers says what one that remembers nothing says.
    #[test]
    fn remembering_makes_no_difference(rounds in edits()) {
        let folder = TempFolder::new("remember");
        let mut loader = Loader::new(folder.write("eastgate.toml", ROOT));
        for round in rounds {
            for edit in &round {
                apply(&folder, edit);
            }
            let outcome = |result: Result<Arc<Config>, Diagnostics>| match result {
                Ok(config) => format!("{config:?}"),
                Err(found) => found.render(false),
            };
            let remembered = outcome(loader.load());
            let fresh = outcome(Loader::new(folder.0.join("eastgate.toml")).load());
            prop_assert_eq!(remembered, fresh);
        }
    }
}

/// What one of the endpoints in a large file is like.
#[derive(Clone, Copy, Debug)]
enum Written {
    Well,
    WithPort(usize),
    WithMac(usize),
    InNoGroup,
    Outside,
    Away,
    Apart,
    Naming(&'static str),
    Torn,
}

fn written() -> impl Strategy<Value = Written> {
    prop_oneof![
        6 => Just(Written::Well),
        3 => (0usize..4).prop_map(Written::WithPort),
        2 => (0usize..4).prop_map(Written::WithMac),
        1 => Just(Written::InNoGroup),
        1 => Just(Written::Outside),
        2 => Just(Written::Away),
        2 => Just(Written::Apart),
        2 => prop_oneof![Just("one"), Just("two"), Just("six")].prop_map(Written::Naming),
        1 => Just(Written::Torn),
    ]
}

const MANY: usize = 240;

/// A file that is large enough to be read in parts.
fn large(endpoints: &[Written], address: u8) -> String {
    let mut text = format!(
        "[host.a]\nvtep = \"192.0.2.{address}\"\ndevice = \"e\"\n[tenant.other.network.n]\nvni = 2\nhosts = [\"a\"]\n\
         [tenant.other.group.one]\nshared_with = [\"x\"]\n[tenant.other.group.two]\n\
         [tenant.x.network.n]\nvni = 1\nsubnets = [\"10.1.0.0/16\"]\n[tenant.x.group.all]\n\
         ingress = [{{ from = \"any\" }}]\n"
    );
    let mut apart = String::new();
    for (number, endpoint) in endpoints.iter().enumerate() {
        let (mut port, mut mac, mut group, mut net) = (number, number, "all", 1);
        match *endpoint {
            Written::Away => continue,
            Written::WithPort(other) => port = other,
            Written::WithMac(other) => mac = other,
            Written::InNoGroup => group = "al",
            Written::Outside => net = 2,
            Written::Naming(name) => {
                text +=
                    &format!("[tenant.x.group.g{number}]\ningress = [{{ from = \"group:other/{name}\" }}]\n");
            }
            Written::Apart => {
                apart += &format!("[tenant.x.endpoint.e{number}.limits]\nflows = {}\n", 1 + number);
            }
            Written::Well | Written::Torn => {}
        }
        text += &format!(
            "[tenant.x.endpoint.e{number}]\nnetwork = \"n\"\nhost = \"a\"\nport = \"port-of-endpoint-{port}\"\n\
             mac = \"02:00:00:00:00:{mac:02x}\"\naddresses = [\"10.{net}.1.{number}\"]\ngroups = [\"{group}\"]\n"
        );
        if matches!(endpoint, Written::Torn) {
            text += "description = \"\n";
        }
    }
    text + &apart
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// The same in a file of which only what changed is read again, with more errors than are told.
    #[test]
    fn remembering_parts_makes_no_difference(
        rounds in proptest::collection::vec(
            (proptest::collection::vec((0..MANY, written()), 1..4), 0u8..12, 0u8..20), 1..12)
    ) {
        let folder = TempFolder::new("parts");
        let mut endpoints = [Written::Well; MANY];
        let path = folder.write("eastgate.toml", &large(&endpoints, 1));
        let mut loader = Loader::new(&path);
        for (edits, all, address) in rounds {
            for (at, to) in edits {
                endpoints[at] = to;
            }
            match all {
                0 => endpoints.fill(Written::InNoGroup),
                1 | 2 => endpoints[..200].fill(Written::Well),
                3..6 => endpoints.fill(Written::Well),
                _ => {}
            }
            let text = large(&endpoints, if address == 0 { 2 } else { 1 });
            prop_assert!(text.len() > 32 << 10 || endpoints.iter().filter(|it| matches!(it, Written::Away)).count() > 9);
            folder.write("eastgate.toml", &text);
            let outcome = |loader: &mut Loader| match loader.load() {
                Ok(config) => format!("{config:?}\n{}", loader.warnings().render(false)),
                Err(found) => found.render(false),
            };
            let remembered = outcome(&mut loader);
            prop_assert!(remembered == outcome(&mut Loader::new(&path)), "{text}");
        }
    }
}
