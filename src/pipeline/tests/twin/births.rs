//! Flows that begin in the kernel keep to limits and time-outs.

use super::*;

fn syn_of(port: u16) -> Vec<u8> {
    Talk { a: 11, b: 12, sport: port, dport: 443 }.syn()
}

fn limits_and_time() {
    const LIMIT: u32 = 40;
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], superframes::TUNNEL_PORT).unwrap());
    let mut host = Host::new(scene, &scene.config_with(true, 4, LIMIT), Some((kernel.clone(), &devices)));
    let quota = host.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().state.quota.clone();
    let born = |host: &Host| {
        let mut born = 0;
        host.shared.for_each_born(clock::now(), |_| born += 1);
        born
    };
    for port in 2000..2200 {
        let (outcome, _) = host.tenant(11, &syn_of(port), Offload::default());
        assert!(matches!(outcome, Outcome::Forward | Outcome::Drop(DropReason::FlowLimit)), "{outcome:?}");
        assert!(quota.in_use().unanswered <= LIMIT, "more flows than the limit says");
        assert!(host.shared.flows_in_use().unanswered <= LIMIT);
    }
    // Half of the limit may be lent, and what is lent and not used goes to whoever needs it.
    assert_eq!((born(&host), host.flows().len()), (LIMIT / 2, LIMIT as usize));

    // Their time is over: nothing passes by them, whether or not anyone has looked.
    let half_open = host.flows().len();
    std::thread::sleep(std::time::Duration::from_millis(4100));
    let carried = host.carried;
    let answer = Talk { a: 11, b: 12, sport: 2001, dport: 443 }.syn_ack();
    assert!(
        matches!(host.tenant(12, &answer, Offload::default()).0, Outcome::Drop(_)),
        "{half_open} flows lasted too long"
    );
    assert_eq!((host.carried, born(&host)), (carried, 0));
    host.shared.sweep(clock::now());
    // A minute later nothing is lent any more.
    for _ in 0..61 {
        host.shared.sweep(clock::now());
        host.shared.handle_timeout(0, clock::now() + std::time::Duration::from_secs(5));
    }
    assert_eq!((quota.in_use().unanswered, quota.in_use().answered), (0, 0), "permits are missing");
    let mut places = Vec::new();
    kernel.programs().page(&mut eastgate_fastpath::Cursor::default(), &mut places).unwrap();
    assert_eq!(places, [], "places are kept for nobody");
}

/// Places that are lent and not used go back when a reload leaves fewer than there are flows.
fn lowered_limit() {
    const LIMITS: [u32; 2] = [200, 20];
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], superframes::TUNNEL_PORT).unwrap());
    let mut host = Host::new(scene, &scene.config_with(true, 600, LIMITS[0]), Some((kernel, &devices)));
    let quota = host.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().state.quota.clone();
    let opened = |host: &mut Host, ports: std::ops::Range<u16>| {
        ports.filter(|port| host.tenant(11, &syn_of(*port), Offload::default()).0 == Outcome::Forward).count()
    };
    assert_eq!(opened(&mut host, 2000..2060), 60);
    let before = host.shared.flows_in_use().unanswered;
    assert!(before > 2 * LIMITS[1] && host.carried > 2 * u64::from(LIMITS[1]), "{before}");
    host.install(&scene.config_with(true, 600, LIMITS[1]));
    host.shared.sweep(clock::now());
    let (carried, used) = (host.carried, quota.in_use().unanswered);
    assert!(used <= before, "{used} of {before}: what nobody used is still lent");
    opened(&mut host, 3000..3100);
    assert_eq!(host.carried, carried, "flows began in the kernel although there are too many");
    assert!(quota.in_use().unanswered <= used);
}

#[test]
fn flows_that_begin_in_the_kernel_keep_to_limits_and_time() {
    if nix::unistd::geteuid().is_root() {
        for test in [limits_and_time, lowered_limit] {
            std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}
