//! A new configuration, and the flows that the old one let in.

use std::{fs, path::PathBuf, sync::Arc};

use eastgate_config::{Config, Loader};

use eastgate_conntrack::flow::FlowFilter;
use eastgate_wire::{
    MacAddr, View,
    view::{Transport, tcp_flags},
};

use super::{frames::*, net::Net, scene::*};
use crate::pipeline::shared::lock;

const TALK: Talk = Talk { a: WEB1, b: DB1, sport: 40000, dport: 5432 };
const SQL: &str = "{ proto = \"tcp\", ports = 5432, to = \"group:db\" },";

/// A configuration in files, one for each tenant, as a reload finds it.
struct Files {
    folder: PathBuf,
    loader: Loader,
}

impl Files {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("eastgate-{}-{name}", std::process::id()));
        fs::create_dir_all(folder.join("tenants")).unwrap();
        fs::write(folder.join("eastgate.toml"), format!("include = [\"tenants/*.toml\"]\n{HOSTS}")).unwrap();
        let loader = Loader::new(folder.join("eastgate.toml"));
        Self { folder, loader }
    }

    fn write(&self, tenant: &str, text: &str) {
        fs::write(self.folder.join("tenants").join(format!("{tenant}.toml")), text).unwrap();
    }

    fn load(&mut self) -> Arc<Config> {
        self.loader.load().unwrap_or_else(|wrong| panic!("{}", wrong.render(false)))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn tenant(name: &str, vni: u32, keys: &str) -> String {
    let endpoints =
        [endpoint(name, "web1", "alpha", WEB1, "web", ""), endpoint(name, "db1", "beta", DB1, "db", "")];
    let groups = GROUPS.replace("tenant.acme", &format!("tenant.{name}"));
    [app_network(name, vni, keys), groups, endpoints.concat()].concat()
}

/// Two tenants with a connection each; then acme's file changes.
fn after_change(name: &str, keys: &str, change: impl Fn(&str) -> String) -> (Net, Files) {
    let mut files = Files::new(name);
    let acme = tenant("acme", VNI, keys);
    files.write("acme", &acme);
    files.write("umbrella", &tenant("umbrella", 5002, ""));
    let mut net = Net::of(&files.load());
    for tenant in ["acme", "umbrella"] {
        let (web1, db1) = (format!("{tenant}/web1"), format!("{tenant}/db1"));
        assert_eq!(net.send(&web1, TALK.syn()), &*db1);
        assert_eq!(net.send(&db1, TALK.syn_ack()), &*web1);
        assert_eq!(net.send(&web1, TALK.data(b"before")), &*db1);
    }
    files.write("acme", &change(&acme));
    let old = net.snapshot("alpha");
    net.install(&files.load());
    let new = net.snapshot("alpha");
    let network = |snapshot: &crate::snapshot::Snapshot, at: usize| snapshot.networks()[at].clone();
    assert!(new.epoch > old.epoch);
    assert!(!Arc::ptr_eq(&network(&old, 0), &network(&new, 0)), "acme was compiled again");
    assert!(Arc::ptr_eq(&network(&old, 1), &network(&new, 1)), "umbrella was not");
    assert_eq!(network(&old, 1).epoch, network(&new, 1).epoch);
    (net, files)
}

#[test]
fn a_flow_that_the_new_policy_refuses_ends_and_other_networks_do_not_notice() {
    let (mut net, _files) = after_change("recheck", "", |acme| acme.replace(SQL, ""));
    assert_eq!(net.send("acme/web1", TALK.data(b"after")), "policy-changed at alpha");
    assert_eq!(net.drops("alpha")[0].by.as_deref(), Some("web1"));
    assert_eq!(net.send("acme/web1", TALK.data(b"again")), "not-syn at alpha", "it is gone");
    assert_eq!(net.send("acme/web1", TALK.syn()), "egress-denied at alpha");
    assert_eq!(net.send("umbrella/web1", TALK.data(b"after")), "umbrella/db1");
}

#[test]
fn a_reply_of_a_refused_flow_ends_it_too() {
    let ingress = "{ proto = \"tcp\", ports = 5432, from = \"group:web\" },";
    let (mut net, _files) = after_change("reply", "", |acme| acme.replace(ingress, ""));
    assert_eq!(net.send("acme/db1", TALK.answer(b"rows")), "policy-changed at beta");
}

#[test]
fn a_flow_that_the_new_policy_allows_goes_on() {
    let (mut net, _files) = after_change("allowed", "", |acme| acme.replace("[53, 9000]", "[53, 9001]"));
    assert_eq!(net.send("acme/web1", TALK.data(b"after")), "acme/db1");
}

/// The error quotes a flow that the new policy has not decided yet.
#[test]
fn an_error_about_a_flow_of_before_reaches_no_other_receiver() {
    let second = endpoint("acme", "web2", "alpha", WEB2, "web", "");
    let (mut net, _files) = after_change("error", "", |acme| format!("{acme}{second}"));
    let unreachable = icmp_error(DB1, WEB1, 3, 3, &TALK.data(b"before"));
    assert_eq!(net.send("acme/db1", to(unreachable.clone(), mac(WEB2))), "icmp-unrelated at beta");
    assert_eq!(net.send("acme/db1", unreachable), "acme/web1");
}

#[test]
fn a_network_may_keep_its_flows_when_the_policy_changes() {
    let (mut net, _files) = after_change("keep", "on_change = \"keep\"", |acme| acme.replace(SQL, ""));
    assert_eq!(net.send("acme/web1", TALK.data(b"after")), "acme/db1");
    assert_eq!(
        net.send("acme/web1", Talk { sport: 40001, ..TALK }.syn()),
        "egress-denied at alpha",
        "but opens none"
    );
}

/// Flows that nobody sends anything on, too.
#[test]
fn a_network_may_cut_flows_that_are_allowed_no_more() {
    let live = |net: &Net| {
        let (mut live, filter) = (Vec::new(), FlowFilter::default());
        for shard in net.shared("alpha").all_flows() {
            lock(shard).page(0, u32::MAX, &filter, net.now(), &mut live);
        }
        live.len()
    };
    for (keys, ended) in [("on_change = \"cut\"", 1), ("", 0), ("on_change = \"keep\"", 0)] {
        let (net, _files) = after_change("cut", keys, |acme| acme.replace(SQL, ""));
        assert_eq!(live(&net), 2);
        let cut = net.shared("alpha").end_refused(&net.snapshot("alpha"), net.now());
        assert_eq!((cut, live(&net)), (ended, 2 - ended as usize), "{keys}");
        assert_eq!(net.shared("alpha").flow_counters().refused, ended);
    }
    let (net, _files) =
        after_change("cut", "on_change = \"cut\"", |acme| acme.replace("[53, 9000]", "[53, 9001]"));
    assert_eq!(net.shared("alpha").end_refused(&net.snapshot("alpha"), net.now()), 0, "it is allowed");
}

/// By the numbers that they expect next, and nobody else hears of it.
#[test]
fn the_ends_of_a_connection_that_is_cut_are_told_where_asked() {
    for (keys, told) in [
        ("on_change = \"reset\"", true),
        ("on_change = \"reset\"\nneighbors = \"proxy\"", true),
        ("on_change = \"cut\"", false),
    ] {
        let (mut net, _files) = after_change("told", keys, |acme| acme.replace(SQL, ""));
        assert_eq!(net.shared("alpha").end_refused(&net.snapshot("alpha"), net.now()), 1);
        let fate = net.announcements();
        let resets: Vec<_> = fate
            .deliveries
            .iter()
            .filter_map(|delivery| {
                let view = View::parse(&delivery.frame).unwrap();
                let Transport::Tcp(tcp) = view.ip()?.transport else { return None };
                Some((&*delivery.to, view.src, view.dst, tcp.flags, tcp.seq, tcp.ack))
            })
            .collect();
        if !told {
            assert_eq!((resets.len(), fate.deliveries.len()), (0, 0), "{keys}");
            continue;
        }
        let flags = tcp_flags::RST | tcp_flags::ACK;
        let [web1, db1] = [WEB1, DB1].map(|number| MacAddr(mac(number)));
        let [before_web1, before_db1] = if keys.contains("proxy") {
            let proxy = net.snapshot("alpha").networks()[0].proxy_mac;
            [proxy; 2]
        } else {
            [db1, web1]
        };
        assert_eq!(
            resets,
            [
                ("acme/web1", before_web1, web1, flags, 5001, 1007),
                // It has not acknowledged what it was sent last.
                ("acme/db1", before_db1, db1, flags, 1001, 5001),
                ("acme/db1", before_db1, db1, flags, 1007, 5001),
            ],
            "{keys}"
        );
        // Another eastgate on the way has seen that it is over; here it is none.
        let mut at_beta = Vec::new();
        for shard in net.shared("beta").all_flows() {
            lock(shard).page(0, u32::MAX, &FlowFilter::default(), net.now(), &mut at_beta);
        }
        let acme = net.snapshot("beta").networks()[0].vni;
        let of_acme = at_beta.iter().filter(|flow| flow.key.vni == acme);
        let at_beta: Vec<_> = of_acme.map(|flow| flow.state.name()).collect();
        assert_eq!(at_beta, ["close"], "{keys}");
        assert_eq!(net.send("acme/db1", TALK.answer(b"late")), "not-syn at alpha");
        assert!(net.announcements().deliveries.is_empty());
    }
}

/// Whose next packet comes before the reload has come to it.
#[test]
fn the_ends_of_a_connection_that_is_in_use_are_told_too() {
    for (keys, told) in [("on_change = \"reset\"", 3), ("on_change = \"cut\"", 0)] {
        let (mut net, _files) = after_change("in-use", keys, |acme| acme.replace(SQL, ""));
        assert_eq!(net.send("acme/web1", TALK.data(b"more")), "policy-changed at alpha");
        assert_eq!(net.shared("alpha").end_refused(&net.snapshot("alpha"), net.now()), 0);
        assert_eq!(net.announcements().deliveries.len(), told, "{keys}");
    }
}

#[test]
fn a_kept_flow_goes_on_both_ways_when_endpoints_are_added() {
    let (mut net, _files) = after_change("added", "on_change = \"keep\"", |acme| {
        // Its name puts it before all others, so that every endpoint has another number.
        [&*acme.replace(SQL, ""), &endpoint("acme", "added", "alpha", 50, "web", "")].concat()
    });
    assert_eq!(net.send("acme/web1", TALK.data(b"after")), "acme/db1");
    assert_eq!(net.send("acme/db1", TALK.answer(b"rows")), "acme/web1");
}
