//! A change writes what changed.

use eastgate_fastpath::Policy;

use super::*;

fn one_rule_of_many() {
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], superframes::TUNNEL_PORT).unwrap());
    let text = scene.config(true);
    let mut host = Host::new(scene, &text, Some((kernel, &devices)));
    let words = |host: &Host| {
        let network = host.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().clone();
        network.policy.words(network.epoch)
    };
    let before = words(&host);
    let mut policy = Policy::load(before.clone()).unwrap();
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

#[test]
fn a_change_of_one_rule_writes_a_few_blocks() {
    if nix::unistd::geteuid().is_root() {
        std::thread::spawn(one_rule_of_many).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
