//! What a reload takes over where only rules of groups have changed, and that it takes over nothing where anything else has: each
//! time what is compiled is held against who reads the file for the first time.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use eastgate_config::{Config, Loader};
use eastgate_policy::{
    admission::Sender,
    rule::{Direction, Header, Probe},
};
use eastgate_wire::{Addr, Holdings};

use super::super::{net::Net, scene::*};
use crate::{
    attachments::Attachments,
    snapshot::{Network, Snapshot, state::StateRegistry},
};

/// A file that is large enough to be read in parts, and is read again and again.
pub(super) struct File {
    path: PathBuf,
    loader: Loader,
}

impl File {
    pub(super) fn new() -> Self {
        static FILES: AtomicU32 = AtomicU32::new(0);
        let name = format!("eastgate-{}-parts{}.toml", std::process::id(), FILES.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        Self { loader: Loader::new(&path), path }
    }

    pub(super) fn load(&mut self, text: &str) -> Arc<Config> {
        std::fs::write(&self.path, format!("{}{text}", "# of nothing\n".repeat(3000))).unwrap();
        self.loader.load().unwrap_or_else(|wrong| panic!("{}", wrong.render(false)))
    }

    /// What the file is to who has not read it before
    pub(super) fn anew(&self, host: &str) -> Snapshot {
        let config = Loader::new(&self.path).load().unwrap();
        let states = StateRegistry::new(config.limits);
        Snapshot::compile(&config, host, None, &mut Attachments::default(), &states).unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Its rules as people know them, with their places; who is in groups; and whether rules name multicast groups.
pub(super) fn known(network: &Network) -> (BTreeSet<String>, BTreeSet<Addr>, bool) {
    let numbers = 0..network.rules.len() as u32;
    let rules = numbers.filter_map(|number| network.rules.reference("acme", number));
    let rules = rules.map(|rule| format!("{} {}", rule.rule, rule.at)).collect();
    (rules, network.members.iter().copied().collect(), network.multicast.named.is_some())
}

/// What each endpoint's rules say of some peers and packets, by names.
fn decisions(network: &Network, peers: &[Addr]) -> BTreeSet<String> {
    let ports = |destination| Header::Ports { source: 4000, destination };
    let tcp = [80, 5432, 5433].map(|port| Probe::new(6, ports(port)));
    let udp = [53, 123, 9000].map(|port| Probe::new(17, ports(port)));
    let probes = [&tcp[..], &udp, &[Probe::new(47, Header::Unread)]].concat();
    let mut said = BTreeSet::new();
    for endpoint in network.endpoints() {
        let sender = Sender { holdings: Arc::new(Holdings::new(endpoint.mac)), ..endpoint.sender.clone() };
        said.insert(format!("{} {sender:?}", endpoint.name));
        for direction in [Direction::Ingress, Direction::Egress] {
            for (peer, probe) in peers.iter().flat_map(|peer| probes.iter().map(move |probe| (peer, probe))) {
                let decided = network.policy.decide(endpoint.id, direction, *peer, probe);
                let rule = decided.rule.and_then(|rule| network.rules.reference("acme", rule.0));
                let rule = rule.map(|rule| format!("{} {}", rule.rule, rule.at));
                let name = &endpoint.name;
                said.insert(format!("{name} {direction:?} {peer} {probe:?}: {:?} {rule:?}", decided.verdict));
            }
        }
    }
    said
}

const MORE: &str = r#"
[template.basics]
ingress = [{ proto = "udp", ports = 123, from = "any" }]
[set.far]
addresses = ["192.0.2.7"]
[policy.guard]
applies_to = "site"
ingress = [{ action = "deny", proto = 47, from = "set:far" }]
[tenant.acme.set.near]
addresses = ["192.0.2.8"]
[tenant.acme.policy.own]
position = "after"
applies_to = "group:db"
ingress = [{ action = "allow", proto = "tcp", ports = 80, from = "set:near" }]
[tenant.acme.group.spare]
ingress = [{ proto = "tcp", ports = 5433, from = ["group:other/shared", "group:plain"] }]
[tenant.acme.group.plain]
ingress = [{ proto = "tcp", ports = 5432, from = "any" }]
[tenant.acme.network.side]
vni = 5009
subnets = ["10.9.0.0/24"]
[tenant.acme.endpoint.aside]
network = "side"
host = "alpha"
port = "aside"
mac = "02:00:00:00:09:01"
addresses = ["10.9.0.1"]
groups = ["plain"]
[tenant.acme.endpoint.pair]
network = "app"
host = "alpha"
port = "pair"
mac = "02:00:00:00:00:41"
addresses = ["10.1.0.65"]
allowed_pairs = [{ address = "10.1.0.80/28" }]
groups = ["plain", "spare"]
[tenant.other.network.app]
vni = 5010
subnets = ["10.7.0.0/24"]
[tenant.other.group.shared]
shared_with = ["acme"]
[tenant.other.endpoint.theirs]
network = "app"
host = "alpha"
port = "theirs"
mac = "02:00:00:00:07:01"
addresses = ["10.7.0.1"]
groups = ["shared"]
"#;

/// What changes, and whether that is only what a rule of a group says
const EDITS: &[(&str, &str, &str, bool)] = &[
    ("a port", "ports = 5433, from = [\"group:other", "ports = 5434, from = [\"group:other", true),
    ("two ports", "ports = [53, 9000]", "ports = [53, 9001]", true),
    ("a line more", "[tenant.acme.group.plain]", "# here\n[tenant.acme.group.plain]", true),
    (
        "who is meant by a prefix",
        "[tenant.acme.group.plain]\n",
        "[tenant.acme.group.plain]\nprefix_pairs = true\n",
        false,
    ),
    ("a template", "[tenant.acme.group.plain]\n", "[tenant.acme.group.plain]\nlike = \"basics\"\n", false),
    (
        "what is included",
        "[tenant.acme.group.db]\n",
        "[tenant.acme.group.db]\ninclude = [\"spare\"]\n",
        false,
    ),
    ("no state", "[tenant.acme.group.plain]\n", "[tenant.acme.group.plain]\nstateful = false\n", false),
    (
        "its members",
        "[tenant.acme.group.plain]\n",
        "[tenant.acme.group.plain]\nadmit_members = true\n",
        false,
    ),
    (
        "the first egress rule",
        "[tenant.acme.group.plain]\n",
        "[tenant.acme.group.plain]\negress = [{ to = \"any\" }]\n",
        false,
    ),
    ("open outwards", "vni = 5001\n", "vni = 5001\negress_default = \"open\"\n", false),
    ("unknown hosts", "vni = 5001\n", "vni = 5001\nlearning = true\n", false),
    (
        "tried out",
        "[tenant.acme.network.app]",
        "[tenant.acme]\nmode = \"audit\"\n[tenant.acme.network.app]",
        false,
    ),
    ("a set", "192.0.2.8", "192.0.2.7", false),
    ("a set of the site", "192.0.2.7", "192.0.2.8", false),
    ("a policy", "ports = 80, from = \"set:near\"", "ports = 5433, from = \"set:near\"", false),
    ("whom it is about", "applies_to = \"group:db\"", "applies_to = \"group:web\"", false),
    ("a policy of the site", "proto = 47, from = \"set:far\"", "proto = \"tcp\", from = \"set:far\"", false),
    ("what a template says", "ports = 123", "ports = 53", false),
    ("an excluded one", "[host.alpha]", "exclude = [\"acme/db2\"]\n[host.alpha]", false),
    ("one with access", "[host.alpha]", "underlay_access = [\"acme/db2\"]\n[host.alpha]", false),
    ("another tenant's member", "10.7.0.1", "10.7.0.2", false),
    ("a member elsewhere", "10.9.0.1", "10.9.0.2", false),
    ("its groups", "groups = [\"plain\", \"spare\"]", "groups = [\"spare\"]", false),
];

#[test]
fn a_reload_takes_over_what_is_the_same_and_nothing_else() {
    let text = scene("") + MORE;
    let addresses = [
        "10.1.0.11",
        "10.1.0.21",
        "10.1.0.65",
        "10.1.0.81",
        "10.7.0.1",
        "10.7.0.2",
        "10.9.0.1",
        "10.9.0.2",
        "192.0.2.7",
        "192.0.2.8",
        "198.51.100.1",
    ];
    let peers = addresses.map(|text| Addr::from(text.parse::<std::net::IpAddr>().unwrap()));
    let mut file = File::new();
    let mut net = Net::of(&file.load(&text));
    for (what, from, to, is_of_rules) in EDITS {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{what}");
        for (text, way) in [(&changed, "comes"), (&text, "goes")] {
            let before = net.snapshot("alpha");
            net.install(&file.load(text));
            let (now, anew) = (net.snapshot("alpha"), file.anew("alpha"));
            let of = |snapshot: &Snapshot| {
                snapshot.network(eastgate_wire::Vni::new_checked(VNI).unwrap()).cloned().unwrap()
            };
            let [was, is, anew] = [of(&before), of(&now), of(&anew)];
            assert_eq!(known(&is), known(&anew), "{what} {way}");
            let [said, expected] = [&is, &anew].map(|network| decisions(network, &peers));
            let other: Vec<_> = said.symmetric_difference(&expected).collect();
            assert!(other.is_empty(), "{what} {way}: {other:#?}");
            assert_eq!(Arc::ptr_eq(&was.directory, &is.directory), *is_of_rules, "{what} {way}");
        }
    }
}
