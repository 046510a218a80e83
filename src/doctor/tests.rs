use std::{collections::BTreeSet, net::IpAddr};

use eastgate_api::{DropRow, EndpointRow, Status};
use eastgate_steering::settings::{PortRole, port_settings};
use serde_json::json;

use super::{facts::*, *};
use crate::io::{
    netlink::Link,
    survey::{
        clock::Clock,
        devices::{Close, Devices},
        firewall::Firewall,
        hooks::{Foreign, Hook},
        process::Capabilities,
        sockets::Listener,
        sysctl_files::Assignment,
        system,
    },
};

const PORT: u16 = 4789;

fn link(index: u32, name: &str, mtu: u32) -> (String, Link) {
    let link = Link {
        index,
        name: name.into(),
        mtu,
        up: true,
        is_veth: true,
        is_ethernet: true,
        kind: Some("veth".into()),
        controller: None,
        lower: None,
    };
    (name.into(), link)
}

fn close(name: &str) -> (String, Close) {
    let features = [("rx-lro", false), ("rx-gro", true), ("rx-checksum", true), ("rx-vlan-filter", false)];
    let features = features.map(|(name, on)| (name.to_owned(), on)).into();
    (name.into(), Close { features: Ok(features), foreign: Ok(Vec::new()), qdisc: None })
}

fn status() -> Status {
    let status = json!({
        "host": "alpha", "version": "1.0.0", "ready": true, "epoch": 1, "uptime_s": 60, "config": "/etc/e.toml",
        "digest": "00ff", "problems": [], "reload_error": null, "dataplane": "ebpf", "workers": 2, "networks": 1,
        "vtep": { "address": "192.0.2.1", "port": PORT, "device": "underlay0", "up": true, "mtu": 1600,
                  "tenant_mtu": 1550, "listening": true },
        "ports": [], "flows": { "replied": 0, "unreplied": 0, "made_room": {} },
        "settings_restored": 0, "control_restored": 0, "attached_by": "tcx",
        "restored": { "programs": 0, "devices": 0, "files": 0, "last": null, "missing": [] },
        "traffic": { "from_ports": 1, "from_underlay": 1, "to_ports": 1, "to_underlay": 1, "answers": 0,
                     "answers_repeated": 0, "decided_again": 0, "dropped": 0 },
    });
    serde_json::from_value(status).unwrap()
}

fn healthy() -> Facts {
    let kernel = system::Kernel {
        release: "6.12.1".into(),
        machine: "x86_64".into(),
        has_btf: true,
        has_tcx: Ok(true),
        lockdown: None,
    };
    let machine = Machine {
        kernel,
        capabilities: Ok(Capabilities(u64::MAX)),
        memory: Ok(system::Memory { total: 8 << 30, available: 4 << 30 }),
        clock: Clock { unix_s: 1_800_000_000, synchronised: Ok(true) },
        open_files: Ok(1 << 20),
        bpf_mounts: Ok(vec!["/sys/fs/bpf".into()]),
        pin: None,
        tracked: Some((10, 1000)),
        bridges_ask_iptables: true,
        trial: None,
        left: Ok(Vec::new()),
        strange_devices: Vec::new(),
    };
    let mut settings = port_settings(&PortRole::Underlay { interface: "underlay0" });
    settings.extend(port_settings(&PortRole::Tenant { interface: "veth-web1" }));
    let mut observed: eastgate_steering::settings::Observed =
        settings.iter().map(|setting| (setting.id(), setting.wanted)).collect();
    for setting in &settings {
        observed.insert(eastgate_steering::settings::SettingId::of_all(setting.key), 0);
    }
    // On where it is on for both.
    let listener = Listener { address: ip("192.0.2.1"), inode: 7, process: Some((42, "eastgate".into())) };
    let site = Site {
        host: "alpha".into(),
        vtep: ip("192.0.2.1"),
        has_address: true,
        port: PORT,
        overhead: 50,
        underlay: vec!["underlay0".into()],
        ports: vec![Port {
            device: "veth-web1".into(),
            endpoints: vec!["acme/web1".into()],
            is_trunk: true,
            unfit: None,
        }],
        mtus: vec![("acme/lan".into(), 1500)],
        peers: vec![Peer { host: "beta".into(), address: ip("192.0.2.2"), no_route: None }],
        settings,
        observed: Ok(observed),
        assignments: Vec::new(),
        odd_settings: Vec::new(),
        unrouted: Some(Vec::new()),
        listeners: Ok(vec![listener]),
        firewall: Ok(Firewall::default()),
        audit: Vec::new(),
        entropy_ports: 256,
        full_tables: 1 << 30,
    };
    let answers = Answers {
        pid: Some(42),
        same_namespace: Ok(true),
        status: status(),
        endpoints: Ok(Vec::new()),
        drops: Ok(Vec::new()),
        staged: None,
        capabilities: Ok(Capabilities(u64::MAX)),
        sockets: Ok(BTreeSet::from([7])),
    };
    let devices = Devices {
        links: [link(2, "underlay0", 1600), link(3, "veth-web1", 1500)].into(),
        closely: [close("underlay0"), close("veth-web1")].into(),
        vxlan: Vec::new(),
        silent: BTreeSet::new(),
    };
    Facts {
        machine,
        configuration: good(Vec::new(), false, None),
        site: Some(site),
        devices: Ok(devices),
        daemon: Daemon::Answers(Box::new(answers)),
        version: "1.0.0".into(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn good(warnings: Vec<String>, is_writable_by_all: bool, no_host: Option<String>) -> Configuration {
    Configuration::Good {
        path: "/etc/e.toml".into(),
        warnings,
        digest: "00ff".into(),
        is_writable_by_all,
        no_host,
    }
}

/// What is found, without what is as it should be, once something is otherwise.
fn found(change: impl FnOnce(&mut Facts)) -> Vec<(Check, Severity, String)> {
    let mut facts = healthy();
    change(&mut facts);
    let mut report = examine(&facts);
    for finding in &report.findings {
        assert!(finding.severity <= finding.id.worst(), "{finding:?} is worse than the page says");
        assert_eq!(finding.remedy.is_none(), finding.severity == Severity::Ok, "{finding:?}");
    }
    report.leave_out_ok();
    report.findings.into_iter().map(|finding| (finding.id, finding.severity, finding.found)).collect()
}

/// One thing is found, of this severity, and says this.
fn finds(check: Check, severity: Severity, says: &str, change: impl FnOnce(&mut Facts)) {
    let found = found(change);
    let [(id, how_bad, text)] = &found[..] else { panic!("{} alone is wanted: {found:?}", check.id()) };
    assert_eq!((*id, *how_bad), (check, severity), "{text}");
    assert!(text.contains(says), "{text} does not say {says}");
}

fn with_answers(change: impl FnOnce(&mut Answers)) -> impl FnOnce(&mut Facts) {
    |facts| match &mut facts.daemon {
        Daemon::Answers(answers) => change(answers),
        other => panic!("{other:?}"),
    }
}

fn with_status(change: impl FnOnce(&mut Status)) -> impl FnOnce(&mut Facts) {
    with_answers(|answers| change(&mut answers.status))
}

fn with_site(change: impl FnOnce(&mut Site)) -> impl FnOnce(&mut Facts) {
    |facts| change(facts.site.as_mut().unwrap())
}

fn with_devices(change: impl FnOnce(&mut Devices)) -> impl FnOnce(&mut Facts) {
    |facts| change(facts.devices.as_mut().unwrap())
}

fn with_port(change: impl FnOnce(&mut Close)) -> impl FnOnce(&mut Facts) {
    with_devices(|devices| change(devices.closely.get_mut("veth-web1").unwrap()))
}

fn no_daemon(stale: bool) -> Daemon {
    Daemon::None { socket: "/run/e.sock".into(), stale }
}

use Severity::{Note, Ok as Fine, Problem, Warning};

#[test]
fn a_healthy_host_has_nothing_to_tell_and_is_looked_at_all_the_same() {
    assert_eq!(found(|_| {}), []);
    let report = examine(&healthy());
    assert_eq!(report.worst(), Fine);
    let looked: BTreeSet<&str> = report.findings.iter().map(|finding| finding.id.id()).collect();
    assert!(looked.len() > 30, "{looked:?}");
}

#[test]
fn of_the_machine() {
    finds(Check::Kernel, Warning, "5.15", |it| it.machine.kernel.release = "5.15.0".into());
    finds(Check::Kernel, Note, "without tcx", |it| {
        it.machine.kernel.release = "6.1.0".into();
        it.machine.kernel.has_tcx = Ok(false);
    });
    finds(Check::Kernel, Note, "built without tcx", |it| it.machine.kernel.has_tcx = Ok(false));
    finds(Check::KernelBtf, Warning, "vmlinux", |it| it.machine.kernel.has_btf = false);
    finds(Check::KernelLockdown, Warning, "confidentiality", |it| {
        it.machine.kernel.lockdown = Some("confidentiality".into());
    });
    let few = |it: &mut Answers| it.capabilities = Ok(Capabilities(0b11 << 12));
    finds(Check::Capabilities, Warning, "CAP_BPF", with_answers(few));
    finds(
        Check::Capabilities,
        Warning,
        "CAP_NET_RAW",
        with_answers(|it| it.capabilities = Ok(Capabilities(0))),
    );
    finds(
        Check::FastPath,
        Warning,
        "verifier",
        with_status(|it| it.dataplane = "userspace (no eBPF: verifier)".into()),
    );
    finds(
        Check::FastPath,
        Note,
        "as asked",
        with_status(|it| it.dataplane = "userspace (as asked for)".into()),
    );
    finds(Check::OpenFiles, Warning, "256 source ports", |it| it.machine.open_files = Ok(512));
    finds(Check::Memory, Warning, "100 MiB", |it| it.machine.memory.as_mut().unwrap().available = 100 << 20);
    finds(Check::Clock, Warning, "before", |it| it.machine.clock.unix_s = 77);
    finds(Check::Clock, Note, "unsynchronised", |it| it.machine.clock.synchronised = Ok(false));
    finds(Check::Bpffs, Note, "none", |it| it.machine.bpf_mounts = Ok(Vec::new()));
    finds(Check::Bpffs, Warning, "/x", |it| it.machine.pin = Some(("/x".into(), Some("no bpffs".into()))));
    finds(Check::HostConntrack, Warning, "950 connections of 1000", |it| {
        it.machine.tracked = Some((950, 1000))
    });
    finds(Check::NotLookedAt, Note, "memory: hidden", |it| it.machine.memory = Err("hidden".into()));
}

#[test]
fn without_a_daemon() {
    let alone = |facts: &mut Facts| {
        facts.daemon = no_daemon(false);
        facts.site.as_mut().unwrap().listeners = Ok(Vec::new());
    };
    let of = |change: &dyn Fn(&mut Facts)| {
        let found = found(|facts| {
            alone(facts);
            change(facts);
        });
        assert_eq!((found.len(), found.last().map(|it| it.0)), (2, Some(found[1].0)), "{found:?}");
        found.into_iter().find(|it| it.0 != Check::Daemon).unwrap()
    };
    finds(Check::Daemon, Note, "no /run/e.sock", alone);
    finds(Check::Daemon, Note, "killed", |it| {
        alone(it);
        it.daemon = no_daemon(true);
    });
    let left = of(&|it| it.machine.left = Ok(vec!["programs on veth-web1".into()]));
    assert_eq!((left.0, left.1), (Check::Leftovers, Warning));
    let strange = of(&|it| it.machine.strange_devices = vec!["eastgate-vx0".into()]);
    assert_eq!((strange.0, strange.1), (Check::LeftoverDevices, Problem));
    let cannot = of(&|it| it.machine.capabilities = Ok(Capabilities(0)));
    assert_eq!((cannot.0, cannot.1), (Check::Capabilities, Note));
    let refused = of(&|it| it.machine.trial = Some(Err("no".into())));
    assert_eq!((refused.0, refused.1), (Check::FastPath, Warning));
    let full = of(&|it| it.site.as_mut().unwrap().full_tables = 1 << 40);
    assert_eq!((full.0, full.1), (Check::Memory, Note));
    let audit = of(&|it| it.site.as_mut().unwrap().audit = vec!["tenant acme".into()]);
    assert_eq!((audit.0, audit.1), (Check::Audit, Note));
}

#[test]
fn of_the_daemon() {
    let elsewhere = Daemon::Elsewhere { socket: "/run/e.sock".into(), pid: 77 };
    finds(Check::OtherDaemon, Warning, "process 77", |it| it.daemon = elsewhere);
    finds(Check::Daemon, Problem, "within 30 s", |it| it.daemon = Daemon::Silent("not within 30 s".into()));
    finds(Check::NotLookedAt, Note, "denied", |it| it.daemon = Daemon::Denied("denied".into()));
    finds(Check::OtherNamespace, Warning, "42", with_answers(|it| it.same_namespace = Ok(false)));
    finds(
        Check::DaemonProblem,
        Problem,
        "not ready",
        with_status(|it| it.problems = vec!["not ready".into()]),
    );
    finds(Check::DaemonVersion, Note, "0.9", with_status(|it| it.version = "0.9".into()));
    finds(
        Check::ReloadRefused,
        Warning,
        "error[x]",
        with_status(|it| it.reload_error = Some("\nerror[x]: no\n".into())),
    );
    finds(
        Check::ApiFiles,
        Warning,
        "is gone",
        with_status(|it| it.api_error = Some("the file of tokens is gone".into())),
    );
    finds(Check::NotReloaded, Note, "abcd", with_status(|it| it.digest = "abcd".into()));
    finds(
        Check::Restored,
        Note,
        "tcx of veth-web1",
        with_status(|it| {
            it.restored.programs = 1;
            it.restored.last = Some("tcx of veth-web1".into());
        }),
    );
    finds(Check::Restored, Note, "socket", with_status(|it| it.control_restored = 1));
    finds(Check::SettingsChanged, Note, "3 settings", with_status(|it| it.settings_restored = 3));
    finds(Check::Audit, Note, "9 packets", with_status(|it| it.traffic.would_deny = 9));
    finds(Check::Audit, Note, "tenant acme", with_site(|it| it.audit = vec!["tenant acme".into()]));
    finds(Check::Staged, Note, "/new.toml", with_answers(|it| it.staged = Some("/new.toml".into())));
    finds(Check::Unprotected, Note, "acme/db1", with_status(|it| it.excluded = vec!["acme/db1".into()]));
    let endpoint = json!({
        "vni": 5001, "endpoint": "acme/web1", "network": "lan", "host": "alpha", "port": "veth-web1",
        "mac": "02:00:00:00:00:11", "addresses": [], "groups": [], "userspace": "port security is off",
        "tx_frames": 0, "rx_frames": 0,
    });
    let endpoint: EndpointRow = serde_json::from_value(endpoint).unwrap();
    finds(
        Check::Userspace,
        Note,
        "port security is off",
        with_answers(|it| it.endpoints = Ok(vec![endpoint])),
    );
}

#[test]
fn of_the_configuration() {
    finds(Check::NotLookedAt, Note, "/etc/e.toml", |it| {
        it.configuration = Configuration::Absent("/etc/e.toml".into());
        it.site = None;
    });
    finds(Check::NotLookedAt, Note, "denied", |it| {
        it.configuration = Configuration::Hidden { path: "/etc/e.toml".into(), why: "denied".into() };
        it.site = None;
    });
    finds(Check::Configuration, Problem, "2 errors", |it| {
        it.configuration =
            Configuration::Broken { path: "/etc/e.toml".into(), errors: 2, first: "bad".into() };
        it.site = None;
    });
    finds(Check::ConfigurationWarning, Warning, "odd", |it| {
        it.configuration = good(vec!["odd".into()], false, None)
    });
    finds(Check::ConfigurationWritable, Warning, "everyone", |it| {
        it.configuration = good(Vec::new(), true, None)
    });
    finds(Check::Host, Problem, "gamma", |it| {
        it.configuration = good(Vec::new(), false, Some("no gamma".into()))
    });
}

#[test]
fn of_the_underlay() {
    let underlay =
        |change: fn(&mut Link)| with_devices(move |it| change(it.links.get_mut("underlay0").unwrap()));
    finds(Check::UnderlayDevice, Problem, "is down", underlay(|it| it.up = false));
    finds(
        Check::UnderlayDevice,
        Problem,
        "no device underlay0",
        with_devices(|it| {
            it.links.remove("underlay0");
        }),
    );
    finds(Check::UnderlayAddress, Problem, "192.0.2.1", with_site(|it| it.has_address = false));
    let narrow = found(underlay(|it| it.mtu = 1500));
    assert!(
        matches!(&narrow[..], [(Check::UnderlayMtu, Warning, text), (Check::PortMtu, Note, _)] if text.contains("acme/lan (1500)")),
        "{narrow:?}"
    );
    finds(Check::UnderlayMtu, Warning, "IPv6 needs 1280", |it| {
        with_devices(|it| {
            it.links.get_mut("underlay0").unwrap().mtu = 1300;
            it.links.get_mut("veth-web1").unwrap().mtu = 1250;
        })(it);
        it.site.as_mut().unwrap().mtus.clear();
    });
    finds(
        Check::PortMtu,
        Note,
        "veth-web1 (9000)",
        with_devices(|it| it.links.get_mut("veth-web1").unwrap().mtu = 9000),
    );
    finds(
        Check::VtepRoute,
        Problem,
        "192.0.2.2 (beta): unreachable",
        with_site(|it| it.peers[0].no_route = Some("unreachable".into())),
    );
    finds(
        Check::VtepSilent,
        Warning,
        "192.0.2.2 (beta)",
        with_devices(|it| it.silent = [ip("192.0.2.2")].into()),
    );
    finds(
        Check::UnderlaySilent,
        Warning,
        "99 datagrams",
        with_status(|it| {
            it.traffic.from_underlay = 0;
            it.traffic.to_underlay = 99;
        }),
    );
    finds(
        Check::VxlanPort,
        Problem,
        "vxlan7",
        with_devices(|it| it.vxlan = vec![("vxlan7".into(), PORT), ("far".into(), 1)]),
    );
    for (address, in_the_way) in [("0.0.0.0", true), ("::", true), ("192.0.2.1", true), ("127.0.0.1", false)]
    {
        let other = Listener { address: ip(address), inode: 8, process: Some((9, "dnsmasq".into())) };
        let found = found(with_site(|it| it.listeners.as_mut().unwrap().push(other)));
        assert_eq!(found.iter().any(|it| it.0 == Check::VxlanPort), in_the_way, "{address}: {found:?}");
    }
    finds(Check::NotLookedAt, Note, "sockets", with_answers(|it| it.sockets = Err("hidden".into())));
    finds(
        Check::Firewall,
        Warning,
        "refuses",
        with_site(|it| it.firewall.as_mut().unwrap().refusals = vec!["rule".into()]),
    );
    finds(
        Check::Firewall,
        Note,
        "chain",
        with_site(|it| it.firewall.as_mut().unwrap().closed = vec!["chain".into()]),
    );
    finds(Check::BridgeNetfilter, Note, "underlay0", underlay(|it| it.kind = Some("bridge".into())));
    finds(
        Check::UnderlaySettings,
        Note,
        "arp_filter",
        with_site(|it| it.odd_settings = vec![("arp_filter".into(), "x".into())]),
    );
    finds(
        Check::KernelRouting,
        Warning,
        "IPv6",
        with_site(|it| it.unrouted = Some(vec![("IPv6 is not forwarded".into(), "x".into())])),
    );
    finds(
        Check::KernelRouting,
        Warning,
        "FORWARD",
        with_site(|it| it.firewall.as_mut().unwrap().forwarding = vec!["iptables chain FORWARD".into()]),
    );
}

#[test]
fn of_devices() {
    finds(
        Check::PortMissing,
        Note,
        "acme/web1",
        with_devices(|it| {
            it.links.remove("veth-web1");
        }),
    );
    finds(
        Check::PortDown,
        Note,
        "veth-web1",
        with_devices(|it| it.links.get_mut("veth-web1").unwrap().up = false),
    );
    finds(
        Check::PortUnfit,
        Problem,
        "in a bridge",
        with_site(|it| it.ports[0].unfit = Some("in a bridge: take it out".into())),
    );
    let foreign = |hook, is_first| {
        with_port(move |it| {
            it.foreign = Ok(vec![Foreign { hook, way: "ingress", name: "theirs".into(), is_first }])
        })
    };
    finds(Check::ForeignXdp, Warning, "theirs", foreign(Hook::Xdp, true));
    finds(Check::ForeignProgram, Warning, "first", foreign(Hook::Tcx, true));
    finds(Check::ForeignProgram, Note, "behind", foreign(Hook::Tcx, false));
    finds(Check::ForeignFilter, Note, "theirs", foreign(Hook::Filter, false));
    let feature = |name: &'static str, on| {
        with_port(move |it| {
            it.features.as_mut().unwrap().insert(name.into(), on);
        })
    };
    finds(Check::Lro, Warning, "veth-web1", feature("rx-lro", true));
    finds(Check::Offloads, Note, "rx-gro", feature("rx-gro", false));
    finds(Check::VlanFilter, Note, "trunk", feature("rx-vlan-filter", true));
    finds(Check::NotLookedAt, Note, "programs on veth-web1", with_port(|it| it.foreign = Err("no".into())));
}

#[test]
fn of_settings() {
    let id = |name: &str| format!("net/ipv4/conf/veth-web1/{name}").parse().unwrap();
    finds(
        Check::Settings,
        Warning,
        "arp_ignore is 0, not 8",
        with_site(|it| {
            it.observed.as_mut().unwrap().insert(id("arp_ignore"), 0);
        }),
    );
    let line = |scope: &str, name: &str, value| Assignment {
        at: "/etc/sysctl.d/9.conf:1".into(),
        family: "ipv4".into(),
        scope: scope.into(),
        name: name.into(),
        value,
    };
    let with = |line: Assignment| with_site(move |it| it.assignments = vec![line]);
    finds(Check::SettingsFile, Note, "/etc/sysctl.d/9.conf:1", with(line("veth-web1", "rp_filter", 0)));
    finds(Check::SettingsFile, Note, "proxy_arp", with(line("all", "proxy_arp", 1)));
    // The interface's own value counts more, or it is another's.
    for other in [line("all", "rp_filter", 0), line("default", "proxy_arp", 1), line("eth9", "proxy_arp", 1)]
    {
        assert_eq!(found(with(other)), []);
    }
}

#[test]
fn of_drops() {
    let row = |reason: &str, frames: u64, last_s: u64| -> DropRow {
        serde_json::from_value(json!({
            "vni": 5001, "reason": reason, "text": "Why.", "class": "refusal", "from": "veth-web1", "port": null, "rule": null,
            "at": null, "frames": frames, "bytes": 1, "last": "tcp a -> b", "last_s": last_s, "src_mac": null, "dst_mac": null,
            "kinds": 1, "recent": [],
        }))
        .unwrap()
    };
    let with = |rows: Vec<DropRow>| with_answers(move |it| it.drops = Ok(rows));
    finds(Check::Drops, Note, "unknown-vtep: 7 frames", with(vec![row("unknown-vtep", 7, 1)]));
    finds(Check::Drops, Warning, "too-big: 5 frames", with(vec![row("too-big", 2, 1), row("too-big", 3, 9)]));
    // Rules that refuse are not mistakes, and old ones no news.
    assert_eq!(found(with(vec![row("ingress-denied", 9, 1), row("too-big", 2, 9000)])), []);
}
