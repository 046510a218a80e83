//! Hosts with programs, and whether these carry what they should.

use super::{
    Daemon, Machine,
    site::{HOSTS_V4, SOON, Site},
    wait_within,
};

const NAMES: [&str; 2] = ["alpha", "beta"];

/// Whether every flow of datagrams is with the programs. A connection that is punted at the wrong moment is picked up by
/// the next daemon; a datagram is lost.
pub fn all_carried_in_the_kernel(daemon: &Daemon) -> bool {
    let rows = daemon.ask(&["show", "flows"]);
    let rows = rows["flows"].as_array().unwrap();
    rows.iter().any(|flow| flow["offloaded"] == true)
        && rows.iter().all(|flow| flow["offloaded"] == true || flow["proto"] == "tcp")
}

/// Whether the programs have carried packets, rather than the workers.
pub fn carried_in_the_kernel(daemon: &Daemon) -> bool {
    let rows = daemon.ask(&["show", "flows"]);
    rows["flows"].as_array().unwrap().iter().any(|flow| flow["offloaded"] == true)
}

/// Both hosts with programs, and flows that they carry.
pub struct Running {
    pub site: Site,
    pub daemons: [Option<Daemon>; 2],
    before: [Machine; 2],
}

impl Running {
    pub fn start() -> Option<Self> {
        Site::new(HOSTS_V4).map(Self::at)
    }

    /// The same for a test that counts what is lost: see [`World::alone`](super::World::alone).
    pub fn alone() -> Option<Self> {
        Site::alone(HOSTS_V4).map(Self::at)
    }

    fn at(site: Site) -> Self {
        let before = [Machine::of(&site.alpha), Machine::of(&site.beta)];
        let daemons = NAMES.map(|name| Some(site.run_with(name, "ebpf")));
        Self { site, daemons, before }
    }

    pub fn wait_until_carried(&self) {
        for daemon in self.daemons.iter().flatten() {
            wait_within(SOON, "flows are offloaded", || all_carried_in_the_kernel(daemon));
        }
    }

    pub fn kill(&mut self, host: usize) {
        self.daemons[host].take().expect("it runs").kill();
    }

    pub fn run_again(&mut self, host: usize) {
        self.daemons[host] = Some(self.site.run_with(NAMES[host], "ebpf"));
    }

    pub fn stop(mut self) {
        let spaces = [&self.site.alpha, &self.site.beta];
        let daemons = std::mem::take(&mut self.daemons);
        for ((daemon, space), before) in daemons.into_iter().zip(spaces).zip(&self.before) {
            assert!(daemon.expect("it runs").stop().success());
            assert_eq!(before.changes(&Machine::of(space)), Vec::<String>::new());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, daemon) in NAMES.iter().zip(&self.daemons) {
                let Some(daemon) = daemon else { continue };
                eprintln!("{name} dropped {:?}\n{:#}", daemon.drops(), daemon.ask(&["show", "flows"]));
            }
        }
    }
}
