//! A configuration of the size that a large cloud has: 10,000 VNIs and 100,000 endpoints in 1,000 files.
//!
//! Run it with `cargo test --release --test config large -- --ignored --nocapture`.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use eastgate_config::{Loader, load_str};

use crate::TempFolder;

const HOSTS: usize = 100;

fn root() -> String {
    let mut text = "include = [\"tenants/*.toml\"]\n".to_owned();
    for host in 0..HOSTS {
        write!(text, "[host.h{host}]\nvtep = \"172.31.1.{}\"\ndevice = \"eth0\"\n", host + 1).unwrap();
    }
    text
}

/// A tenant with `networks` networks of ten endpoints each, its VNIs beginning at `vni`.
fn tenant(number: usize, networks: usize, vni: usize) -> String {
    let mut text = String::new();
    writeln!(text, "[tenant.t{number}.group.web]").unwrap();
    text.push_str("ingress = [{ proto = \"tcp\", ports = [443, \"8000-8099\"], from = \"any\" }]\negress = [{ to = \"any\" }]\n");
    for network in 0..networks {
        writeln!(text, "[tenant.t{number}.network.n{network}]\nvni = {}", vni + network).unwrap();
        text.push_str("subnets = [\"10.1.0.0/24\", \"fd00:1::/64\"]\n");
        for endpoint in 0..10 {
            let id = (vni + network) * 10 + endpoint;
            write!(
                text,
                "[tenant.t{number}.endpoint.e{network}-{endpoint}]\nnetwork = \"n{network}\"\nhost = \"h{}\"\nport = \"p{id}\"\n\
                 mac = \"02:00:00:00:00:{endpoint:02x}\"\naddresses = [\"10.1.0.{}\", \"fd00:1::{}\"]\ngroups = [\"web\"]\n",
                id % HOSTS,
                endpoint + 1,
                endpoint + 1
            )
            .unwrap();
        }
    }
    text
}

#[test]
#[ignore = "measures; wants a release build"]
fn ten_thousand_networks() {
    let folder = TempFolder::new("large");
    for number in 0..1000 {
        folder.write(&format!("tenants/t{number}.toml"), &tenant(number, 10, number * 10));
    }
    let mut loader = Loader::new(folder.write("eastgate.toml", &root()));
    std::thread::sleep(Duration::from_secs(3));
    let start = Instant::now();
    let first = loader.load().unwrap();
    let load = start.elapsed();
    assert_eq!(first.networks().count(), 10_000);
    folder.write("tenants/t500.toml", &tenant(500, 10, 1_000_000));
    let start = Instant::now();
    let second = loader.load().unwrap();
    let reload = start.elapsed();
    assert_eq!(
        first.tenants.iter().filter(|(name, tenant)| Arc::ptr_eq(tenant, &second.tenants[*name])).count(),
        999
    );
    let start = Instant::now();
    folder.write("eastgate.toml", &(root() + "[limits]\nflows = 5\n"));
    loader.load().unwrap();
    println!("load {load:?}, one file {reload:?}, first file {:?}", start.elapsed());
    assert!(load < Duration::from_millis(2500), "{load:?}");
    assert!(reload < Duration::from_millis(30), "{reload:?}");
}

/// Twice the text takes about twice the time, in one file and one tenant too.
#[test]
#[ignore = "measures; wants a release build"]
fn one_large_file_is_read_in_linear_time() {
    let time = |networks: usize| {
        let text = root().replace("include = [\"tenants/*.toml\"]", "") + &tenant(0, networks, 0);
        let start = Instant::now();
        let config = load_str("large.toml", &text).unwrap();
        assert_eq!(config.networks().count(), networks);
        start.elapsed()
    };
    time(100);
    let (half, whole) = (time(2_500), time(10_000));
    println!("25,000 endpoints in one file {half:?}, 100,000 {whole:?}");
    assert!(whole < half * 8, "{half:?} {whole:?}");
}

/// One endpoint comes to a tenant of ten thousand.
#[test]
#[ignore = "measures; wants a release build"]
fn one_of_ten_thousand() {
    let folder = TempFolder::new("one");
    let path = folder.write(
        "eastgate.toml",
        &tenant(1, 1_000, 0)
            .replacen("[tenant", "[host.h0]\nvtep = \"172.31.1.1\"\ndevice = \"eth0\"\n[tenant", 1)
            .replace("host = \"h", "host = \"h0\" # "),
    );
    let text = std::fs::read_to_string(&path).unwrap();
    let mut loader = Loader::new(&path);
    let start = Instant::now();
    loader.load().unwrap();
    eprintln!("{} KiB read in {:?}", text.len() >> 10, start.elapsed());
    for round in 0..6 {
        let more = format!(
            "[tenant.t1.endpoint.more{round}]\nnetwork = \"n1\"\nhost = \"h0\"\nport = \"more{round}\"\nmac = \"02:00:00:00:01:{round:02x}\"\naddresses = [\"10.1.0.{}\"]\ngroups = [\"web\"]\n",
            100 + round
        );
        folder.write("eastgate.toml", &format!("{text}{more}"));
        let before = loader.last_good().unwrap().clone();
        let start = Instant::now();
        let after = loader.load().unwrap();
        let read = start.elapsed();
        let start = Instant::now();
        let _ = after.digest();
        let digest = start.elapsed();
        let start = Instant::now();
        let changes = eastgate::changes::between(&before, &after);
        assert_eq!(changes.endpoints.added.len(), 1);
        eprintln!("read again in {read:?}, digest {digest:?}, changes {:?}", start.elapsed());
    }
}
