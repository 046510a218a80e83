//! The daemon that follows finds tables that another one has written.

use super::*;

/// Both daemons are at their first epoch, and what else is said of a network is the second one's all the same.
fn the_next_daemons_networks_are_its_own() {
    let (hub, mesh) = (SCENES[3], SCENES[0]);
    let devices = devices(hub);
    let load = || KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT);
    let first = Arc::new(load().unwrap());
    let _before = Host::new(hub, &hub.config(true), Some((first.clone(), &devices)));
    let ids = first.table_ids().unwrap();
    let next = Arc::new(KernelPath::take_over(&ids, None, &tables(1000), devices[0], &is_there).unwrap());
    let row = |kernel: &KernelPath| kernel.programs().networks().unwrap()[0];
    assert_eq!((row(&next).epoch, row(&next).marks), (1, NETWORK_HUB));
    let text = format!("[overlay]\ntos = 8\nttl = 9\n{}", mesh.config(true));
    let _after = Host::new(mesh, &text, Some((next.clone(), &devices)));
    let row = row(&next);
    assert_eq!((row.epoch, row.marks, row.tos, row.ttl), (1, 0, 8, 9));
}

#[test]
fn a_daemon_that_takes_tables_over_says_what_holds() {
    if nix::unistd::geteuid().is_root() {
        std::thread::spawn(the_next_daemons_networks_are_its_own)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
