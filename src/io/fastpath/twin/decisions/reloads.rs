//! What a reload changes of what the programs decide by themselves.

use eastgate_fastpath::NETWORK_CHANGING;

use super::*;

pub(super) fn what_a_reload_changes() {
    let groups = format!(
        "{EVERYONE}[tenant.acme.group.deaf]\negress = [{{ to = \"any\" }}]\n\
         [tenant.acme.group.another]\negress = [{{ proto = \"sctp\", to = \"any\" }}]\n"
    );
    let text = |more: &str, eleven: &str, twelve: &str| {
        network(MESH, more, &groups, &[], &[(11, eleven), (12, twelve), (21, ""), (22, "")])
    };
    let mut pair = Pair::new(MESH, &text("", "", ""), 1000);
    pair.prime(11, 12);
    each_kind(&mut pair, 11, 12, true);

    // Other rules
    pair.install(&text("", "", "groups = [\"deaf\"]"));
    let denied = Outcome::Drop(DropReason::IngressDenied);
    assert_eq!(pair.send(11, &udp(11, 12, 3000, 443)), (denied, true));
    assert_eq!(pair.send(11, &syn(11, 12, 3000)), (denied, true));
    // Other numbers for the rulesets and for the endpoints
    let others =
        [(11, ""), (12, ""), (20, "groups = [\"another\"]"), (21, "groups = [\"another\", \"all\"]")];
    pair.install(&network(MESH, "", &groups, &[], &others));
    assert_eq!(pair.send(11, &udp(11, 12, 3001, 443)), (Outcome::Forward, true));
    // Another MAC, another address, at the same place
    pair.install(&text("", "", "mac = \"02:00:00:00:00:0d\"\naddresses = [\"10.1.0.13\", \"10.1.0.12\"]"));
    assert!(!pair.send(11, &udp(11, 12, 3002, 443)).1);
    pair.install(&text("", "", "addresses = [\"10.1.0.13\"]"));
    assert!(!pair.send(11, &udp(11, 12, 3003, 443)).1, "nobody has the address");
    assert!(!pair.send(12, &udp(12, 11, 3003, 443)).1, "nobody has the address");

    pair.install(&text("", "", ""));
    pair.install(&text("", "", "addresses = [\"10.1.0.13\"]"));
    assert!(!pair.send(11, &udp(11, 12, 3010, 443)).1, "nobody has the address");

    // The network goes, and comes back with less
    pair.install(&text("", "", ""));
    assert_eq!(pair.send(11, &udp(11, 12, 3004, 443)), (Outcome::Forward, true));
    let all = text("", "", "");
    pair.install(&all[..all.find("[tenant").unwrap()]);
    pair.install(&text("", "", "addresses = [\"10.1.0.13\"]"));
    assert!(!pair.send(11, &udp(11, 12, 3005, 443)).1, "nobody has the address");

    // Its terms
    pair.install(&text("[tenant.acme.network.app.timeouts]\nudp_first = 1\n", "groups = [\"deaf\"]", ""));
    assert_eq!(pair.send(11, &udp(11, 12, 3006, 443)), (Outcome::Forward, true));
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(pair.send(12, &udp(12, 11, 443, 3006)), (denied, false), "its time is over");
    pair.install(&text("mss_clamp = true", "", ""));
    assert_eq!(pair.send(11, &syn(11, 21, 3007)), (Outcome::Forward, false), "its MSS does not fit");
    pair.install(&text("", "", ""));
    assert_eq!(pair.send(11, &syn(11, 21, 3008)), (Outcome::Forward, true));
}

pub(super) fn a_change_of_one_endpoint_is_its_own() {
    one_endpoint_changes(Pair::install);
}

/// Before the tables were walked through, each packet is told by itself who changed.
pub(super) fn a_change_of_one_endpoint_is_in_force_at_once() {
    one_endpoint_changes(|pair, text| {
        pair.alone.install(text);
        pair.twin.put_in_force(text);
        pair.kernel.write_policies();
        let changing = |row: &eastgate_fastpath::Network| row.marks & NETWORK_CHANGING != 0;
        assert!(pair.kernel.programs().networks().unwrap().iter().any(changing), "nobody looks");
    });
}

/// The same for what the pipeline has decided in the programs' stead, which no policy in the kernel says.
pub(super) fn cached_decisions_end_at_once() {
    let groups = format!("{EVERYONE}[tenant.acme.group.deaf]\negress = [{{ to = \"any\" }}]\n");
    let text = |more: &str| network(MESH, "", &groups, &[], &[(11, ""), (12, more), (21, "")]);
    let mut pair = Pair::new(MESH, &text(""), 1000);
    let put_in_force = |pair: &mut Pair, more: &str| {
        pair.alone.install(&text(more));
        pair.twin.put_in_force(&text(more));
    };
    // From here on the policy in the kernel is another one than that in force.
    put_in_force(&mut pair, "groups = [\"all\", \"deaf\"]");
    for b in [12, 21] {
        assert_eq!(pair.send(11, &udp(11, b, 6000, 443)), (Outcome::Forward, false), "{b}");
        assert_eq!(pair.send(11, &udp(11, b, 6001, 443)), (Outcome::Forward, true), "{b}");
    }
    put_in_force(&mut pair, "groups = [\"deaf\"]");
    assert_eq!(pair.send(11, &udp(11, 21, 6002, 443)), (Outcome::Forward, true));
    let denied = Outcome::Drop(DropReason::IngressDenied);
    assert_eq!(pair.send(11, &udp(11, 12, 6002, 443)), (denied, false));
    pair.same();
}

/// Who comes, goes or changes groups is decided about anew; flows of everyone else go on in the kernel, and nobody looks
/// at them again.
fn one_endpoint_changes(install: impl Fn(&mut Pair, &str)) {
    let groups = format!(
        "{EVERYONE}[tenant.acme.group.deaf]\negress = [{{ to = \"any\" }}]\n\
         [tenant.acme.group.some]\ningress = [{{ proto = \"udp\", ports = 443, from = \"group:all\" }}]\n"
    );
    let text = |endpoints: &[(u8, &str)]| network(MESH, "", &groups, &[], endpoints);
    let mut pair = Pair::new(MESH, &text(&[(11, ""), (12, ""), (21, ""), (22, "")]), 1000);
    pair.prime(11, 12);
    let flow = |a, b| udp(a, b, 3000 + u16::from(a), 443);
    for (a, b) in [(11, 12), (12, 21), (11, 21), (11, 22)] {
        assert_eq!(pair.send(a, &flow(a, b)), (Outcome::Forward, true), "{a} {b}");
    }
    let decided_again = |pair: &Pair| {
        [&pair.alone, &pair.twin]
            .map(|host| eastgate_dataplane::pipeline::counters::traffic(&host.shared.counters).decided_again)
    };
    // 20 comes, 22 goes.
    install(&mut pair, &text(&[(11, ""), (12, ""), (20, ""), (21, "")]));
    for (a, b) in [(11, 12), (12, 21), (11, 21)] {
        assert_eq!(pair.send(a, &flow(a, b)), (Outcome::Forward, true), "{a} {b}");
    }
    assert_eq!(decided_again(&pair), [0, 0]);
    assert_ne!(pair.send(11, &flow(11, 22)).0, Outcome::Forward, "nobody has the address");
    assert_eq!(pair.send(11, &udp(11, 20, 4000, 443)), (Outcome::Forward, true), "the newcomer is known");

    // 12 hears nobody any more.
    install(&mut pair, &text(&[(11, ""), (12, "groups = [\"deaf\"]"), (20, ""), (21, "")]));
    assert_eq!(pair.send(11, &flow(11, 21)), (Outcome::Forward, true));
    assert_eq!(decided_again(&pair), [0, 0]);
    let changed = Outcome::Drop(DropReason::PolicyChanged);
    assert_eq!(pair.send(11, &flow(11, 12)), (changed, false));
    assert_eq!(pair.send(12, &flow(12, 21)), (Outcome::Forward, false), "its own rules are others");
    assert_eq!(decided_again(&pair), [2, 2]);

    // 12 lets in who is in a group; 21 leaves it.
    let some = "groups = [\"some\"]";
    install(&mut pair, &text(&[(11, ""), (12, some), (20, ""), (21, "")]));
    for a in [11, 21] {
        assert_eq!(pair.send(a, &udp(a, 12, 5000, 443)), (Outcome::Forward, true), "{a}");
    }
    let before = decided_again(&pair);
    install(&mut pair, &text(&[(11, ""), (12, some), (20, ""), (21, "groups = [\"deaf\"]")]));
    assert_eq!(pair.send(11, &udp(11, 12, 5000, 443)), (Outcome::Forward, true));
    assert_eq!(decided_again(&pair), before);
    assert_eq!(pair.send(21, &udp(21, 12, 5000, 443)), (changed, false));
    pair.same();
    pair.kernel.program_policies();
    let rows = pair.kernel.programs().networks().unwrap();
    assert!(rows.iter().all(|row| row.marks & NETWORK_CHANGING == 0), "the walk is over: {rows:?}");
    assert_eq!(pair.send(11, &udp(11, 12, 5000, 443)), (Outcome::Forward, true));
    pair.same();
}

/// Frames that every policy allows, while one follows the other: no half of two refuses them.
pub(super) fn no_half_of_a_change() {
    const CHANGES: usize = 20;
    let many: Vec<(u8, String)> = (0..120)
        .map(|n| (120 + n, format!("host = \"beta\"\nmac = \"02:00:00:00:01:{n:02x}\"\ngroups = [\"a\"]")))
        .collect();
    let text = |first: &str| {
        // Numbers of rulesets follow the endpoints.
        let groups = format!(
            "{EVERYONE}[tenant.acme.group.a]\negress = [{{ proto = \"sctp\", to = \"10.1.9.0/24\" }}]\n"
        );
        let far: String = many
            .iter()
            .map(|(n, more)| {
                format!(
                    "[tenant.acme.endpoint.{first}{n}]\nnetwork = \"app\"\nport = \"q{n}\"\n{more}\naddresses = [\"10.1.7.{n}\"]\n"
                )
            })
            .collect();
        network(MESH, "", &groups, &[], &[(11, ""), (12, ""), (21, "")]) + &far
    };
    // The same by other numbers: they sort before the others, or behind them.
    let texts = ["a", "z"].map(text);
    let mut pair = Pair::new(MESH, &texts[0], 100_000);
    pair.prime(11, 12);
    let (kernel, device) = (pair.kernel.clone(), pair.devices[0]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut tried = 0u32;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                tried += 1;
                let frame = udp(11, 12, tried as u16, 443);
                let denied = kernel.stats().unwrap().denied;
                kernel.programs().try_program("tenant", &frame, device, 0).unwrap();
                assert_eq!(kernel.stats().unwrap().denied, denied, "refused by half of a policy");
            }
            tried
        });
        for change in 0..CHANGES {
            pair.twin.install(&texts[(change + 1) % 2]);
            std::thread::sleep(Duration::from_millis(2));
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(sender.join().unwrap() > CHANGES as u32);
    });
}
