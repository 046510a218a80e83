//! A change writes what changed, and what there is no room for is decided by the pipeline.

use eastgate_fastpath::Policy;

use super::*;
use crate::io::fastpath::endpoints::leave_room;

fn one_rule_of_many() {
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    let text = scene.config(true);
    let mut host = Host::new(scene, &text, Some((kernel, &devices)));
    let words = |host: &Host| {
        let network = host.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().clone();
        network.policy.words(network.epoch)
    };
    let mut before = words(&host);
    leave_room(&mut before);
    let mut policy = Policy::load(before).unwrap();
    host.install(&text.replace("ports = [2077]", "ports = [2999]"));
    let after = words(&host);
    let all = after.len() / eastgate_policy::compile::words::BLOCK;
    let written = policy.change(after.clone()).unwrap().expect("no larger than before");
    assert!(all > 100 && written < all / 10, "{written} of {all} blocks");
    // Its epoch is another one, and nothing else.
    let mut later = after.clone();
    later[0] += 1;
    assert_eq!(policy.change(later).unwrap(), Some(1));
    assert_eq!(policy.change([after.clone(), after].concat()).unwrap(), None, "no room for more");
    assert_eq!(policy.change(vec![0; 16]).unwrap(), Some(1), "less has room");
    let syn = |port| Talk { a: 11, b: 12, sport: 3000, dport: port }.syn();
    assert_eq!(host.tenant(11, &syn(443), Offload::default()).0, Outcome::Forward);
    let carried = host.carried;
    assert_eq!(host.tenant(11, &syn(81), Offload::default()).0, Outcome::Forward);
    assert_eq!(host.carried, carried + 1, "a policy that was changed in its place is in force");
}

/// A policy with so many rules more.
fn with_more(rules: u32) -> String {
    let one = "{ proto = \"tcp\", ports = [2077], from = \"10.200.0.77\" }";
    let more: String = (0..rules)
        .map(|n| {
            let [_, b, c, d] = n.to_be_bytes();
            format!(", {{ proto = \"tcp\", ports = [22], from = \"172.{b}.{c}.{d}\" }}")
        })
        .collect();
    SCENES[0].config(true).replace(one, &format!("{one}{more}"))
}

/// How many words that takes.
fn size_in_words(rules: u32) -> usize {
    let host = Host::new(SCENES[0], &with_more(rules), None);
    let network = host.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().clone();
    network.policy.words(network.epoch).len()
}

/// How many of ten connections to services of their own begin in the kernel; all of them begin.
fn begun_there(sizes: TableSizes, rules: u32) -> u64 {
    let scene = SCENES[0];
    let devices = devices(scene);
    let limits = Limits { flows: 1000, tables: sizes };
    let kernel = Arc::new(KernelPath::load(limits, devices[0], gso::TUNNEL_PORT).unwrap());
    let mut host = Host::new(scene, &with_more(rules), Some((kernel, &devices)));
    for port in 81..91 {
        let syn = Talk { a: 11, b: 12, sport: 3000, dport: port }.syn();
        assert_eq!(host.tenant(11, &syn, Offload::default()).0, Outcome::Forward);
    }
    host.carried
}

fn no_room() {
    let usual = tables(0).tables;
    assert_eq!(begun_there(usual, 0), 10);
    assert_eq!(begun_there(TableSizes { endpoints: 3, ..usual }, 0), 0, "three of six addresses have room");
    assert_eq!(begun_there(TableSizes { policy_mib: 4, ..usual }, 40_000), 10);
    assert_eq!(begun_there(TableSizes { policy_mib: 1, ..usual }, 40_000), 0, "a policy of more than 1 MiB");
    // One that leaves no room for changes.
    let whole = (1 << 20) / size_of::<u32>();
    let fitting = (1u32..).map(|n| 1000 * n).find(|rules| size_in_words(*rules) * 17 / 16 > whole).unwrap();
    assert!(size_in_words(fitting) <= whole);
    assert_eq!(begun_there(TableSizes { policy_mib: 1, ..usual }, fitting), 10);
}

/// Of a network that goes nothing is left, whether or not it had endpoints.
fn nothing_is_left() {
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    let text = scene.config(true);
    let mut host = Host::new(scene, &text, Some((kernel.clone(), &devices)));
    let alpha = "[host.alpha]\nvtep = \"172.31.0.1\"\ndevice = \"u0\"\n";
    let deserted = format!(
        "{alpha}[tenant.acme.network.app]\nvni = {VNI}\nhosts = [\"alpha\"]\nsubnets = [\"10.1.0.0/24\"]\n"
    );
    for text in [text, deserted] {
        host.install(&text);
        let (bytes, networks) = kernel.held();
        assert!(bytes > 0 && networks == 1, "{bytes} bytes, {networks} networks");
        host.install(alpha);
        assert_eq!(kernel.held(), (0, 0));
    }
}

#[test]
fn a_network_that_goes_leaves_nothing_in_the_kernel() {
    if nix::unistd::geteuid().is_root() {
        std::thread::spawn(nothing_is_left).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

#[test]
fn what_has_no_room_in_the_kernel_is_decided_by_the_pipeline() {
    if nix::unistd::geteuid().is_root() {
        std::thread::spawn(no_room).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

#[test]
fn a_change_of_one_rule_writes_a_few_blocks() {
    if nix::unistd::geteuid().is_root() {
        std::thread::spawn(one_rule_of_many).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
