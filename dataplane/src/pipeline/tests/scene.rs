//! The configuration that most tests play in: one network, three hosts, a web and a database tier.

pub(super) const HOSTS: &str = r#"
[host.alpha]
vtep = "172.31.0.1"
device = "eth0"
[host.beta]
vtep = "172.31.0.2"
device = "eth0"
[host.gamma]
vtep = "172.31.0.3"
device = "eth0"
"#;

/// Web servers may ask databases (TCP 5432, UDP 53 and 9000) and ping; databases open nothing.
pub(super) const GROUPS: &str = r#"
[tenant.acme.group.web]
egress = [
  { proto = "tcp", ports = 5432, to = "group:db" },
  { proto = "udp", ports = [53, 9000], to = "any" },
  { proto = "icmp", to = "any" },
]
[tenant.acme.group.db]
ingress = [
  { proto = "tcp", ports = 5432, from = "group:web" },
  { proto = "udp", ports = [53, 9000], from = "group:web" },
  { proto = "icmp", from = "any" },
]
"#;

/// The site's word against everything.
pub(super) const DENY_ALL: &str = r#"
[policy.nothing]
applies_to = "site"
ingress = [{ action = "deny", from = "any" }]
egress = [{ action = "deny", to = "any" }]
"#;

/// Stations by their number: MAC, addresses.
pub(super) const WEB1: u8 = 11;
pub(super) const WEB2: u8 = 12;
pub(super) const WEB3: u8 = 13;
pub(super) const DB1: u8 = 21;
pub(super) const DB2: u8 = 22;
pub(super) const DB3: u8 = 23;

/// Its VNI
pub(super) const VNI: u32 = 5001;

/// The scene, with these keys in its network's table: web1, web3 and db2 on alpha, web2 and db1 on beta, db3 on
/// gamma.
pub(super) fn scene(network: &str) -> String {
    scene_with(network, GROUPS)
}

pub(super) fn scene_with(network: &str, groups: &str) -> String {
    let endpoints = [
        endpoint("acme", "web1", "alpha", WEB1, "web", ""),
        endpoint("acme", "web3", "alpha", WEB3, "web", ""),
        endpoint("acme", "db2", "alpha", DB2, "db", ""),
        endpoint("acme", "web2", "beta", WEB2, "web", ""),
        endpoint("acme", "db1", "beta", DB1, "db", ""),
        endpoint("acme", "db3", "gamma", DB3, "db", ""),
    ];
    [HOSTS, &app_network("acme", VNI, network), groups, &endpoints.concat()].concat()
}

pub(super) fn app_network(tenant: &str, vni: u32, keys: &str) -> String {
    format!(
        "[tenant.{tenant}.network.app]\nvni = {vni}\nsubnets = [\"10.1.0.0/24\", \"fd00:1::/64\"]\n{keys}\n"
    )
}

/// A station as the configuration has it; `host` may be one without a port.
pub(super) fn endpoint(tenant: &str, name: &str, host: &str, number: u8, group: &str, keys: &str) -> String {
    let port =
        if host.starts_with("spoke") { String::new() } else { format!("port = \"{tenant}-{name}\"\n") };
    format!(
        "[tenant.{tenant}.endpoint.{name}]\nnetwork = \"app\"\nhost = \"{host}\"\n{port}\
         mac = \"02:00:00:00:00:{number:02x}\"\naddresses = [\"10.1.0.{number}\", \"fd00:1::{number:x}\"]\n\
         groups = [\"{group}\"]\n{keys}\n"
    )
}
