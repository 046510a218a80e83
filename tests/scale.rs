//! The sizes that are promised: 10,000 networks and 100,000 endpoints over 1,000 files become tables in little memory,
//! and a change of one endpoint costs only its own tenant; 100,000 rules of 10,000 groups in one network, of which one changes.
//!
//! A tenth of that by default; all of it with `EASTGATE_SCALE=full`. Times are printed, never judged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use eastgate_config::{Config, Loader};
use eastgate_dataplane::{
    attachments::Attachments,
    snapshot::{Snapshot, state::StateRegistry},
};
use eastgate_policy::rule::{Direction, Header, Probe};
use eastgate_testkit::{RULES_OF_A_GROUP, large_group};
use eastgate_wire::EndpointId;

/// What all of it may take, whatever the size.
const MEMORY_MIB: u64 = 500;

const NETWORKS_OF_A_TENANT: usize = 10;
const ENDPOINTS_OF_A_NETWORK: usize = 10;
const HOSTS: usize = 50;
/// The host that is compiled for: it has one endpoint of every network.
const HERE: &str = "h0";

/// A folder of generated files; gone when it is dropped.
struct Files(PathBuf);

impl Files {
    fn generate(name: &str, tenants: usize, tenant: fn(usize) -> String) -> Self {
        let folder = std::env::temp_dir().join(format!("egt{}-{name}", std::process::id()));
        std::fs::create_dir_all(folder.join("tenants")).unwrap();
        let mut main = "include = [\"tenants/*.toml\"]\n".to_owned();
        for host in 0..HOSTS {
            writeln!(main, "[host.h{host}]\nvtep = \"192.0.2.{}\"\ndevice = \"underlay0\"", host + 1)
                .unwrap();
        }
        std::fs::write(folder.join("eastgate.toml"), main).unwrap();
        let files = Self(folder);
        for number in 0..tenants {
            std::fs::write(files.tenant(number), tenant(number)).unwrap();
        }
        files
    }

    fn main(&self) -> PathBuf {
        self.0.join("eastgate.toml")
    }

    fn tenant(&self, number: usize) -> PathBuf {
        self.0.join(format!("tenants/t{number}.toml"))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Every tenant uses the same subnets, and rules of every kind.
fn tenant(number: usize) -> String {
    let mut text = format!(
        "[tenant.t{number}.group.web]\n\
         ingress = [{{ proto = \"tcp\", ports = [80, 443], from = \"any\" }}, {{ proto = \"icmp\", from = \"group:db\" }}]\n\
         egress = [{{ to = \"any\" }}]\n\
         [tenant.t{number}.group.db]\n\
         ingress = [{{ proto = \"tcp\", ports = 5432, from = \"group:web\" }}, {{ proto = \"udp\", from = \"10.9.0.0/16\" }}]\n"
    );
    for network in 0..NETWORKS_OF_A_TENANT {
        let vni = 1 + number * NETWORKS_OF_A_TENANT + network;
        writeln!(
            text,
            "[tenant.t{number}.network.n{network}]\nvni = {vni}\nsubnets = [\"10.{network}.0.0/24\"]"
        )
        .unwrap();
        for endpoint in 0..ENDPOINTS_OF_A_NETWORK {
            let host = if endpoint == 0 { 0 } else { 1 + (vni + endpoint) % (HOSTS - 1) };
            let group = if endpoint % 2 == 0 { "web" } else { "db" };
            writeln!(
                text,
                "[tenant.t{number}.endpoint.n{network}e{endpoint}]\nnetwork = \"n{network}\"\nhost = \"h{host}\"\n\
                 port = \"p{vni}e{endpoint}\"\nmac = \"02:00:00:00:{network:02x}:{endpoint:02x}\"\n\
                 addresses = [\"10.{network}.0.{}\"]\ngroups = [\"{group}\"]",
                endpoint + 10
            )
            .unwrap();
        }
    }
    text
}

/// A line of /proc/self/status, in MiB.
fn memory_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    let kib: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
    kib / 1024
}

/// Whether a test has been run in a process of its own, whose memory is what that test takes; else this is that process.
fn was_run_apart(test: &str) -> bool {
    const APART: &str = "EASTGATE_SCALE_APART";
    if std::env::var_os(APART).is_some() {
        return false;
    }
    let mut itself = Command::new(std::env::current_exe().unwrap());
    let done = itself.args([test, "--exact", "--nocapture"]).env(APART, "yes").output().unwrap();
    let told = [done.stdout, done.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    println!("{told}");
    assert!(done.status.success() && told.contains("1 passed"), "{test}");
    true
}

fn load(loader: &mut Loader) -> Arc<Config> {
    let begun = Instant::now();
    let config = loader.load().unwrap_or_else(|diagnostics| panic!("{}", diagnostics.render(false)));
    println!("load     {:>7} ms, {:>4} MiB resident", begun.elapsed().as_millis(), memory_mib("VmRSS"));
    config
}

/// So many, or a tenth of them by default.
fn sized(full: usize) -> usize {
    if std::env::var("EASTGATE_SCALE").as_deref() == Ok("full") { full } else { full / 10 }
}

#[test]
fn many_networks_fit_and_one_change_costs_one_tenant() {
    if was_run_apart("many_networks_fit_and_one_change_costs_one_tenant") {
        return;
    }
    let tenants = sized(1_000);
    let files = Files::generate("scale", tenants, tenant);
    let (mut loader, mut registry) = (Loader::new(files.main()), Attachments::default());
    let config = load(&mut loader);
    let states = StateRegistry::new(config.limits);
    let mut compile = |config: &Arc<Config>, previous: Option<&Snapshot>| {
        let begun = Instant::now();
        let snapshot = Snapshot::compile(config, HERE, previous, &mut registry, &states).unwrap();
        println!("compile  {:>7} ms, {:>4} MiB resident", begun.elapsed().as_millis(), memory_mib("VmRSS"));
        snapshot
    };
    let snapshot = compile(&config, None);

    let networks = tenants * NETWORKS_OF_A_TENANT;
    assert_eq!(config.networks().count(), networks);
    assert_eq!(snapshot.networks().len(), networks);
    let endpoints: usize = snapshot.networks().iter().map(|network| network.endpoints().len()).sum();
    assert_eq!(endpoints, networks * ENDPOINTS_OF_A_NETWORK);
    assert_eq!(snapshot.attachments().count(), networks);

    change_one_endpoint(&files.tenant(tenants / 2));
    let changed = load(&mut loader);
    let next = compile(&changed, Some(&snapshot));
    let peak = memory_mib("VmHWM");
    println!("{networks} networks, {endpoints} endpoints, {tenants} files: peak {peak} MiB");

    let name = format!("t{}", tenants / 2);
    for (tenant, before) in &config.tenants {
        let same = Arc::ptr_eq(before, &changed.tenants[tenant]);
        assert_eq!(same, **tenant != *name, "tenant {tenant}");
    }
    for (before, after) in snapshot.networks().into_iter().zip(next.networks()) {
        assert_eq!(before.vni, after.vni);
        assert_eq!(Arc::ptr_eq(before, after), *before.tenant.name != *name, "{}", before.name);
    }
    let moved = |snapshot: &Snapshot| {
        let address = "10.3.0.200".parse::<std::net::IpAddr>().unwrap().into();
        snapshot.networks().iter().filter(|network| network.by_address(address).is_some()).count()
    };
    assert_eq!((moved(&snapshot), moved(&next)), (0, 1));
    assert!(peak < MEMORY_MIB, "{peak} MiB");
}

fn change_one_endpoint(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let changed = text.replace("\"10.3.0.14\"", "\"10.3.0.200\"");
    assert_ne!(text, changed);
    std::fs::write(file, changed).unwrap();
}

const CHANGES: usize = 5;

/// A network of as many endpoints as groups, each in one of them, and rules of every kind: of prefixes, groups and everyone.
fn many_rules(_: usize) -> String {
    let groups = sized(10_000);
    let mut text = "[tenant.big.network.n]\nvni = 7\nsubnets = [\"10.0.0.0/8\"]\n".to_owned();
    for group in 0..groups {
        let [_, a, b, c] = (group as u32).to_be_bytes();
        text += &large_group("big", group, groups);
        writeln!(
            text,
            "egress = [{{ to = \"any\" }}]\n[tenant.big.endpoint.e{group}]\nnetwork = \"n\"\nhost = \"h{}\"\nport = \"p{group}\"\n\
             mac = \"02:00:00:{a:02x}:{b:02x}:{c:02x}\"\naddresses = [\"10.{}.{b}.{c}\"]\ngroups = [\"g{group}\"]",
            group % HOSTS,
            a + 1
        )
        .unwrap();
    }
    text
}

#[test]
fn many_rules_fit_and_one_of_them_changes() {
    if was_run_apart("many_rules_fit_and_one_of_them_changes") {
        return;
    }
    let files = Files::generate("rules", 1, many_rules);
    let (mut loader, mut registry) = (Loader::new(files.main()), Attachments::default());
    let config = load(&mut loader);
    let states = StateRegistry::new(config.limits);
    let mut compile = |config: &Arc<Config>, previous: Option<&Snapshot>| {
        let begun = Instant::now();
        let snapshot = Snapshot::compile(config, HERE, previous, &mut registry, &states).unwrap();
        let policy = snapshot.networks()[0].policy.stats();
        println!(
            "compile  {:>7} ms, {:>4} MiB resident: {} rules in {} lists take {} KiB",
            begun.elapsed().as_millis(),
            memory_mib("VmRSS"),
            policy.rules,
            policy.rulesets,
            policy.resident_bytes / 1024
        );
        snapshot
    };
    let snapshot = compile(&config, None);
    let groups = sized(10_000);
    // Each group's ingress and egress rules
    assert!(snapshot.networks()[0].policy.stats().rules >= groups * (RULES_OF_A_GROUP + 1));

    let file = files.tenant(0);
    let mut snapshot = snapshot;
    for round in 0..CHANGES {
        let text = std::fs::read_to_string(&file).unwrap();
        let ports = |round: usize| format!("ports = {},", 1026 + round);
        let changed = text.replacen(&ports(round), &ports(round + 1), 1);
        assert_ne!(text, changed);
        std::fs::write(&file, changed).unwrap();
        let begun = Instant::now();
        let config = load(&mut loader);
        let next = compile(&config, Some(&snapshot));
        let took = begun.elapsed().as_millis();
        println!("a change of one of {} rules: {took} ms", groups * RULES_OF_A_GROUP);
        // Only who is in the group of the changed rule is decided about anew.
        let anew = next.networks()[0].endpoints().filter(|endpoint| endpoint.epoch == next.epoch).count();
        assert_eq!(anew, 1, "endpoints are decided about anew");
        let syn = |port: usize| {
            Probe::new(6, Header::Ports { source: 4000, destination: u16::try_from(port).unwrap() })
        };
        let anyone = "192.0.2.200".parse::<std::net::IpAddr>().unwrap().into();
        let policy = &next.networks()[0].policy;
        let says = |port| policy.decide(EndpointId(0), Direction::Ingress, anyone, &syn(port)).verdict;
        assert!(says(1026 + round + 1).passes() && !says(1026).passes(), "what was changed is in force");
        snapshot = next;
    }
    let peak = memory_mib("VmHWM");
    println!("{} rules of {groups} groups: peak {peak} MiB", groups * RULES_OF_A_GROUP);
    assert!(peak < MEMORY_MIB, "{peak} MiB");
}
