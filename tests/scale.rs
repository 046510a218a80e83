//! The sizes that are promised: 10,000 networks and 100,000 endpoints over 1,000 files become tables in little memory,
//! and a change of one endpoint costs only its own tenant.
//!
//! A tenth of that by default; all of it with `EASTGATE_SCALE=full`. Times are printed, never judged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use eastgate_config::{Config, Loader};
use eastgate_dataplane::{
    attachments::Attachments,
    snapshot::{Snapshot, state::StateRegistry},
};

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
    fn generate(tenants: usize) -> Self {
        let folder = std::env::temp_dir().join(format!("egt{}-scale", std::process::id()));
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

fn load(loader: &mut Loader) -> Arc<Config> {
    let begun = Instant::now();
    let config = loader.load().unwrap_or_else(|diagnostics| panic!("{}", diagnostics.render(false)));
    println!("load     {:>7} ms, {:>4} MiB resident", begun.elapsed().as_millis(), memory_mib("VmRSS"));
    config
}

#[test]
fn many_networks_fit_and_one_change_costs_one_tenant() {
    let tenants = match std::env::var("EASTGATE_SCALE").as_deref() {
        Ok("full") => 1_000,
        _ => 100,
    };
    let files = Files::generate(tenants);
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
    let endpoints: usize = snapshot.networks().iter().map(|network| network.endpoints.len()).sum();
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
