//! Flows that begin in the kernel keep to limits and time-outs.

use eastgate_conntrack::flow::Rank;

use super::*;

fn syn_of(port: u16) -> Vec<u8> {
    Talk { a: 11, b: 12, sport: port, dport: 443 }.syn()
}

fn limits_and_time() {
    const LIMIT: u32 = 40;
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    let mut host = Host::new(scene, &scene.config_with(true, 4, LIMIT), Some((kernel.clone(), &devices)));
    let quota = host.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().state.quota.clone();
    let created = |host: &Host| {
        let mut created = 0;
        host.shared.for_each_created(clock::now(), |_| created += 1);
        created
    };
    // An endpoint has three quarters of its network's, and the one that waited longest makes room, wherever it is.
    let most = LIMIT - LIMIT / 4;
    for port in 2000..2200 {
        let (outcome, _) = host.tenant(11, &syn_of(port), Offload::default());
        assert_eq!(outcome, Outcome::Forward);
        assert!(quota.in_use().unreplied <= most, "more flows than the limit says");
        assert!(host.shared.flows_in_use().unreplied <= most);
    }
    assert_eq!(host.flows().len(), most as usize);
    assert!(host.carried >= u64::from(most), "{} began in the kernel", host.carried);
    host.shared.sweep(clock::now());
    assert!(host.shared.flow_counters().made_room[Rank::Unreplied as usize] >= u64::from(200 - most));

    // Their time is over: nothing passes by them, whether or not anyone has looked.
    let half_open = host.flows().len();
    std::thread::sleep(std::time::Duration::from_millis(4100));
    let carried = host.carried;
    let answer = Talk { a: 11, b: 12, sport: 2199, dport: 443 }.syn_ack();
    assert!(
        matches!(host.tenant(12, &answer, Offload::default()).0, Outcome::Drop(_)),
        "{half_open} flows lasted too long"
    );
    assert_eq!((host.carried, created(&host)), (carried, 0));
    host.shared.sweep(clock::now());
    host.shared.handle_timeout(0, clock::now() + std::time::Duration::from_secs(5));
    assert_eq!((quota.in_use().unreplied, quota.in_use().replied), (0, 0), "slots are missing");
    let mut places = Vec::new();
    kernel.programs().page(&mut eastgate_wire::Cursor::default(), &mut places).unwrap();
    assert_eq!(places, [], "places are kept for nobody");
}

/// A reload that leaves fewer than there are flows ends none; the next one that begins puts out as many as are too many.
fn lowered_limit() {
    const LIMITS: [u32; 2] = [200, 20];
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    let mut host = Host::new(scene, &scene.config_with(true, 600, LIMITS[0]), Some((kernel, &devices)));
    let quota = host.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().state.quota.clone();
    let opened = |host: &mut Host, ports: std::ops::Range<u16>| {
        ports.filter(|port| host.tenant(11, &syn_of(*port), Offload::default()).0 == Outcome::Forward).count()
    };
    assert_eq!(opened(&mut host, 2000..2060), 60);
    assert_eq!(quota.in_use().unreplied, 60);
    host.install(&scene.config_with(true, 600, LIMITS[1]));
    assert_eq!(quota.in_use().unreplied, 60);
    assert_eq!(opened(&mut host, 3000..3100), 100);
    assert!(quota.in_use().unreplied <= LIMITS[1]);
}

/// What a network of four hundred flows does while thousands of connections and exchanges come and go, most in the kernel: nobody is refused, and a connection and a stream in use stay.
fn churn() {
    const LIMIT: u32 = 400;
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    let text = scene.config_with(true, 600, LIMIT).replace("unreplied = ", "flows = 400\nunreplied = ");
    let mut host = Host::new(scene, &text, Some((kernel, &devices)));
    let quota = host.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().state.quota.clone();
    let pass = |host: &mut Host, endpoint: u8, frame: Vec<u8>| {
        let (outcome, _) = host.tenant(endpoint, &frame, Offload::default());
        assert_eq!(outcome, Outcome::Forward);
        let used = quota.in_use();
        assert!(used.replied <= LIMIT - LIMIT / 4 && used.unreplied <= LIMIT - LIMIT / 4, "{used:?}");
    };
    let old = Talk { a: 11, b: 12, sport: 1500, dport: 22 };
    let frames = [(11, old.syn()), (12, old.syn_ack()), (11, old.data(b""))];
    frames.into_iter().for_each(|(endpoint, frame)| pass(&mut host, endpoint, frame));
    let carried = host.carried;
    for n in 0..1000 {
        let talk = Talk { a: 11, b: 12, sport: 2000 + n, dport: 443 };
        let all = [
            (11, talk.syn()),
            (12, talk.syn_ack()),
            (11, talk.data(b"")),
            (11, talk.fin(0)),
            (12, talk.fin(1)),
            (11, talk.last_ack()),
            (11, udp(11, 12, 2000 + n, 53)),
            (12, udp(12, 11, 53, 2000 + n)),
        ];
        all.into_iter().for_each(|(endpoint, frame)| pass(&mut host, endpoint, frame));
        if n % 100 == 99 {
            host.shared.sweep(clock::now());
        }
    }
    assert!(host.carried - carried > 5000, "{} of 8000 in the kernel", host.carried - carried);
    pass(&mut host, 11, old.data(b"still here"));
    pass(&mut host, 12, old.answer(b"so am I"));
    let room = host.shared.flow_counters().made_room;
    let [finished, exchanges] = [Rank::Finished, Rank::Exchange].map(|rank| room[rank as usize]);
    assert!(finished > 800 && exchanges > 500 && room[Rank::Connection as usize] == 0, "{room:?}");
    assert_eq!(room[Rank::Stream as usize], 0);
}

#[test]
fn flows_that_begin_in_the_kernel_keep_to_limits_and_time() {
    if nix::unistd::geteuid().is_root() {
        for test in [limits_and_time, lowered_limit, churn] {
            std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}
