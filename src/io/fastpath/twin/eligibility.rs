//! What the programs have in hand is what is eligible, and which ports are control traffic is the network's to say.

use eastgate_dataplane::eligibility::{Eligibility, Userspace};
use eastgate_wire::Addr;

use super::*;

fn the_programs_know_what_is_eligible() {
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    let mac = "mac = \"02:00:00:00:00:0c\"\n";
    let text = scene.config(true).replace(mac, &format!("{mac}port_security = false\n"));
    let host = Host::new(scene, &text, Some((kernel.clone(), &devices)));
    let snapshot = host.shared.snapshot_arc();
    let network = snapshot.network(VNI.try_into().unwrap()).unwrap();
    let mut reasons = Vec::new();
    let mut eligible = BTreeSet::new();
    for endpoint in network.endpoints() {
        for addr in &endpoint.holdings().addresses {
            match Eligibility::of(network).address(&snapshot.site, endpoint, *addr) {
                Ok(()) => _ = eligible.insert(*addr),
                Err(why) => reasons.push(why),
            }
        }
    }
    assert_eq!(reasons, [Userspace::PortSecurityOff; 2]);
    let known: BTreeSet<Addr> = lock(&kernel.tables).endpoints[&network.vni].keys().copied().collect();
    assert_eq!(known, eligible);
}

fn control_ports_are_the_networks() {
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    let mut host = Host::new(scene, &scene.config(true), Some((kernel.clone(), &devices)));
    let dhcp = || kernel.programs().punts().unwrap()[PUNTS.iter().position(|name| *name == "dhcp").unwrap()];
    let mut carried = |sport: u16, dport: u16| {
        let (before, punted) = (host.carried, dhcp());
        let _ = host.tenant(11, &udp(11, 12, sport, dport), Offload::default());
        (host.carried - before, dhcp() - punted)
    };
    assert_eq!((carried(5000, 443), carried(68, 443)), ((1, 0), (0, 1)), "as configured: DHCP's");
    let row = kernel.programs().networks().unwrap()[0];
    let control_ports = [5060, 0, 0, 0, 0, 0, 0, 443];
    kernel.programs().set_network(0, eastgate_fastpath::Network { control_ports, ..row }).unwrap();
    assert_eq!((carried(5001, 443), carried(5060, 443)), ((0, 1), (0, 1)), "where others are");
    kernel.programs().set_network(0, row).unwrap();
    assert_eq!(carried(5002, 443), (1, 0));
    assert_eq!(carried(0, 443), (1, 0), "no port is not a port");
}

#[test]
fn what_is_eligible_is_in_the_kernel() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    for test in [the_programs_know_what_is_eligible, control_ports_are_the_networks] {
        std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
