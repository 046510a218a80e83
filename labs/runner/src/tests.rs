//! Topologies that must be refused, and the plan of one that must not.

use std::path::{Path, PathBuf};

use eastgate_testkit::Netns;

use super::{
    model::Model,
    plan::{Action, Plan},
};

const CONFIG: &str = r#"
    [host.alpha]
    vtep = "192.0.2.1"
    device = "underlay0"
    runs = "vxlan"
    [host.beta]
    vtep = "192.0.2.2"
    runs = "vxlan"
    [tenant.acme.network.lan]
    vni = 5001
    subnets = ["10.1.0.0/24", "fd00:1::/64"]
    [tenant.acme.endpoint.web1]
    network = "lan"
    host = "alpha"
    port = "veth-web1"
    mac = "02:00:00:00:00:11"
    addresses = ["10.1.0.11", "fd00:1::11"]
    [tenant.acme.endpoint.db1]
    network = "lan"
    host = "beta"
    mac = "02:00:00:00:00:12"
    addresses = ["10.1.0.12"]
"#;

const TOPOLOGY: &str = r#"
    title = "two plain VTEPs"
    [switch.fabric]
    subnets = ["192.0.2.0/24"]
    [vtep.alpha]
    flood = ["beta"]
    [vtep.beta]
    learning = false
    forward = { "acme/web1" = "alpha" }
"#;

/// A folder that is gone when it is dropped.
struct Story(PathBuf);

impl Story {
    fn new(name: &str, topology: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("eastgate-lab-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("eastgate.toml"), CONFIG).unwrap();
        std::fs::write(folder.join("topology.toml"), topology).unwrap();
        Self(folder)
    }

    fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn refusal(name: &str, more: &str) -> String {
    let story = Story::new(name, &format!("{TOPOLOGY}\n{more}"));
    Model::read(story.folder()).unwrap_err().to_string()
}

#[test]
fn machines_come_from_the_configuration() {
    let story = Story::new("machines", TOPOLOGY);
    let model = Model::read(story.folder()).unwrap();
    let web1 = &model.machines["acme/web1"];
    assert_eq!((web1.port.as_str(), web1.mtu, web1.vni.get()), ("veth-web1", 1550, 5001));
    assert_eq!(
        web1.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.0.11/24", "fd00:1::11/64"]
    );
    assert_eq!(model.machines["acme/db1"].port, "p5001-000012");
    assert_eq!(model.daemons().count(), 0);
}

#[test]
fn the_plan_creates_devices_only_inside_namespaces() {
    let story = Story::new("plan", TOPOLOGY);
    let model = Model::read(story.folder()).unwrap();
    let plan = Plan::new(&model, "abcd");
    let namespaces: Vec<&String> = plan
        .steps
        .iter()
        .filter_map(|step| if let Action::Namespace(name) = step { Some(name) } else { None })
        .collect();
    assert_eq!(
        namespaces,
        ["eg-abcd-fabric", "eg-abcd-alpha", "eg-abcd-beta", "eg-abcd-acme.db1", "eg-abcd-acme.web1"]
    );
    for step in &plan.steps {
        let (Action::Ip(namespace, command) | Action::Bridge(namespace, command)) = step else { continue };
        assert!(namespaces.contains(&namespace), "{command} in {namespace}");
    }
    let has = |namespace: &str, command: &str| {
        plan.steps.contains(&Action::Bridge(namespace.into(), command.into()))
            || plan.steps.contains(&Action::Ip(namespace.into(), command.into()))
    };
    assert!(has("eg-abcd-alpha", "fdb append 00:00:00:00:00:00 dev vx5001 dst 192.0.2.2 self permanent"));
    assert!(has("eg-abcd-beta", "fdb replace 02:00:00:00:00:11 dev vx5001 dst 192.0.2.1 self permanent"));
    assert!(has("eg-abcd-acme.web1", "address replace fd00:1::11/64 dev eth0 nodad"));
}

#[test]
fn machines_with_a_vlan_are_behind_a_switch() {
    let story = Story::new("trunk", "title = \"a trunk\"\n[switch.fabric]\nsubnets = [\"192.0.2.0/24\"]");
    let on_trunk = |vlans: [&str; 2]| {
        let hosts = CONFIG.replace("runs = \"vxlan\"", "").replace("host = \"beta\"", "host = \"alpha\"");
        let port = |vlan: &str| format!("port = \"trunk0\"\n{vlan}\nmac =");
        let text = hosts.replace("port = \"veth-web1\"\n    mac =", &port(vlans[0]));
        let text =
            text.replace("host = \"alpha\"\n    mac =", &format!("host = \"alpha\"\n{}", port(vlans[1])));
        std::fs::write(story.folder().join("eastgate.toml"), text).unwrap();
        Model::read(story.folder())
    };
    let model = on_trunk(["vlan = 101", "vlan = \"untagged\""]).unwrap();
    assert_eq!(model.trunks.keys().collect::<Vec<_>>(), ["alpha/trunk0"]);
    let plan = Plan::new(&model, "abcd");
    let switch = |ports: &[(&str, Option<u16>)]| {
        let ports = ports.iter().map(|(name, vlan)| ((*name).to_owned(), *vlan)).collect();
        Action::VlanSwitch("eg-abcd-alpha.trunk0".into(), ports)
    };
    assert!(plan.steps.contains(&switch(&[("vlan101", Some(101)), ("untagged", None)])));
    // A segment of the whole device, a private VLAN, and two of them.
    let private = ["vlan = 100\nshared = true", "vlan = 200\nshared = true"];
    for (vlans, tags, bridges) in [
        (["shared = true"; 2], None, 1),
        ([private[0]; 2], Some(switch(&[("vlan100", Some(100))])), 1),
        (private, Some(switch(&[("vlan100", Some(100)), ("vlan200", Some(200))])), 2),
    ] {
        let shared = Plan::new(&on_trunk(vlans).unwrap(), "abcd");
        let commands = |what: &str| {
            let on_switch = |step: &&Action| matches!(step, Action::Ip(at, command) if at == "eg-abcd-alpha.trunk0" && command.contains(what));
            shared.steps.iter().filter(on_switch).count()
        };
        assert_eq!((commands("isolated on"), commands("type bridge ")), (2, bridges), "{vlans:?}");
        let switches = shared.steps.iter().filter(|step| matches!(step, Action::VlanSwitch(..)));
        assert_eq!(switches.collect::<Vec<_>>(), tags.iter().collect::<Vec<_>>(), "{vlans:?}");
    }
    for (vlans, what) in [
        (["vlan = 101", "vlan = 101"], "two machines are plugged into `trunk0` of alpha"),
        (["vlan = 101", ""], "`trunk0` of alpha is a trunk, and a machine's own"),
        (["vlan = 101", "shared = true"], "`trunk0` of alpha is a trunk, and shared"),
        (["shared = true", ""], "`trunk0` of alpha is a trunk, and a machine's own"),
        (
            ["vlan = 101\nshared = true", "shared = true"],
            "`trunk0` of alpha is shared, and so are VLANs of it",
        ),
    ] {
        let error = on_trunk(vlans).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

/// One hypervisor with two machines, of which eastgate on alpha hears.
const HYPERVISOR: &str = "
    [hypervisor.hv1]
    on = 'alpha'
    port = 'seg0'
    mac = '02:00:00:00:0a:01'
    [station.vm1]
    on = 'hv1'
    network = 'acme/lan'
    profile = { vsi_manager = 'lab', vsi_type = 1 }
    mac = '02:00:00:00:01:01'
    addresses = ['10.1.0.31']
    [station.vm2]
    on = 'hv1'
    network = 'acme/lan'
    profile = { vsi_manager = 'lab', vsi_type = 1 }
    mac = '02:00:00:00:01:02'
    [[step]]
    say = 's'
    associate = ['vm1', 'vm2']
    silence = 'hv1'
";

#[test]
fn machines_of_a_hypervisor_are_beside_its_uplink() {
    let story = Story::new("hypervisor", "");
    std::fs::write(story.folder().join("eastgate.toml"), CONFIG.replace("runs = \"vxlan\"", "")).unwrap();
    let read = |text: &str| {
        let text = format!("title = \"x\"\n[switch.fabric]\nsubnets = [\"192.0.2.0/24\"]\n{text}");
        std::fs::write(story.folder().join("topology.toml"), text).unwrap();
        Model::read(story.folder())
    };
    let plan = Plan::new(&read(HYPERVISOR).unwrap(), "abcd");
    let has = |at: &str, begins: &str, ends: &str| {
        plan.steps.iter().any(|step| {
            matches!(step, Action::Ip(namespace, command) if namespace == at && command.starts_with(begins) && command.ends_with(ends))
        })
    };
    assert!(has("eg-abcd-hv1", "link add uplink address 02:00:00:00:0a:01", "netns eg-abcd-alpha"));
    assert!(has("eg-abcd-hv1", "link add link uplink name eth0", "netns eg-abcd-vm2 type macvlan mode vepa"));
    assert!(has("eg-abcd-vm1", "address replace 10.1.0.31/24", ""));
    for (from, to, what) in [
        ("on = 'alpha'", "on = 'nobody'", "there is no host nobody"),
        ("port = 'seg0'", "port = 'veth-web1'", "something else is plugged into `veth-web1` of alpha"),
        ("profile = { vsi_manager = 'lab', vsi_type = 1 }", "", "it needs a `profile`"),
        ("on = 'hv1'", "on = 'alpha'", "`profile` goes with a hypervisor"),
        ("on = 'hv1'", "on = 'hv1'\nport = 'x'", "its port is its hypervisor's"),
        ("['vm1', 'vm2']", "'acme/web1'", "no hypervisor has a machine `acme/web1`"),
        ("silence = 'hv1'", "silence = 'vm1'", "there is no hypervisor `vm1`"),
        ("01:02", "01:01", "two machines are plugged into `seg0` of alpha"),
        ("hypervisor.hv1", "hypervisor.alpha", "`hv1` is none"),
    ] {
        assert!(HYPERVISOR.contains(from));
        let said = read(&HYPERVISOR.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(said.contains(what), "{said}");
    }
    let said = read(&HYPERVISOR.replace("hv1", "alpha")).unwrap_err().to_string();
    assert!(said.contains("there are two nodes `alpha`"), "{said}");
}

#[test]
fn what_would_not_be_checked_is_refused() {
    let cases = [
        (
            "asks",
            "[[expect]]\nstory='s'\non='alpha'\nasks='192.0.2.1'\nanswered_by='alpha/underlay0'\nproto='arp'",
            "`asks` goes with `on` and `answered_by` alone",
        ),
        (
            "asks-whom",
            "[[expect]]\nstory='s'\non='alpha'\nasks='192.0.2.1'\nanswered_by='alpha/underlay9'",
            "`asks` needs `answered_by`",
        ),
        (
            "asks-where",
            "[[expect]]\nstory='s'\non='acme/web1'\nasks='192.0.2.1'\nanswered_by='alpha/underlay0'",
            "`asks` needs a host",
        ),
        (
            "port",
            "[[expect]]\nstory='s'\nfrom='acme/web1'\nto='acme/db1'\nproto='tcp'",
            "`port` goes with tcp",
        ),
        ("from", "[[expect]]\nstory='s'\nproto='icmp'", "needs `from` and `to`"),
        (
            "nobody",
            "[[expect]]\nstory='s'\nfrom='acme/nobody'\nto='acme/db1'\nproto='icmp'",
            "no machine `acme/nobody`",
        ),
        (
            "reason",
            "[[expect]]\nstory='s'\nfrom='acme/web1'\nto='acme/db1'\nproto='icmp'\nreason='bad-luck'",
            "no drop reason",
        ),
        (
            "at",
            "[[expect]]\nstory='s'\nfrom='acme/web1'\nto='acme/db1'\nproto='icmp'\nreason='too-big'\nat='alpha'",
            "no eastgate runs",
        ),
        ("key", "[[expect]]\nstory='s'\nform='acme/web1'", "unknown field `form`"),
        ("kill", "[[step]]\nsay='s'\nkill='alpha'", "no eastgate runs on a host `alpha`"),
        ("station", "[machine.\"acme/db9\"]\nmtu=1400", "no endpoint of the configuration"),
        ("link", "[[link]]\nnode='alpha'\nswitch='other'\ndevice='eth1'", "does not exist"),
    ];
    for (name, more, wanted) in cases {
        let said = refusal(name, more);
        assert!(said.contains(wanted), "{name}: {said}");
    }
}

#[test]
fn a_broken_topology_is_told_with_its_line() {
    let story = Story::new("broken", "title = \"x\"\n[switch.fabric]\nsubnets = 5\n");
    let said = Model::read(story.folder()).unwrap_err().to_string();
    assert!(said.contains("line 3"), "{said}");
}

#[test]
fn a_panic_leaves_nothing() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let story = Story::new("panic", TOPOLOGY);
    let (told, tells) = std::sync::mpsc::channel();
    let folder = story.folder().to_str().unwrap().to_owned();
    let panicked = std::thread::spawn(move || {
        let guard = super::build(&folder, &super::Options::default()).unwrap();
        told.send(guard.record.clone()).unwrap();
        panic!("on purpose");
    });
    let record = tells.recv().unwrap();
    assert!(panicked.join().is_err());
    let left: Vec<_> = record.nodes.iter().map(super::Node::netns).filter(Netns::exists).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!record.file().exists() && !record.dir().exists());
}
