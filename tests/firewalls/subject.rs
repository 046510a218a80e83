//! What is asked: a machine between the others that lets packets pass or does not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use eastgate_testkit::{Link, wait};

use super::{
    case::{Case, MACHINES},
    common::{Daemon, Space, World, must},
    probes::Probe,
};

/// What came out at the machines: of each the frames, as they are.
type Arrived = Arc<Mutex<Vec<(usize, Vec<u8>)>>>;

/// A machine between the others.
pub struct Subject {
    name: String,
    kind: Kind,
    space: Space,
    /// Where frames are put in, by machine. Opened once: the kernel takes its time over each socket for packets that goes.
    senders: Vec<Link>,
    arrived: Arrived,
    /// How many frames were seen as they were put in, and how many were
    put_in: Arc<AtomicUsize>,
    sent: usize,
    over: Arc<AtomicBool>,
    takers: Vec<JoinHandle<()>>,
    world: World,
}

enum Kind {
    Bridge(fn(&Space, &Case)),
    Eastgate { dataplane: &'static str, daemon: Option<Daemon> },
}

impl Subject {
    /// Linux's bridge, with a firewall.
    pub fn bridge(world: World, name: &str, firewall: fn(&Space, &Case)) -> Self {
        let subject = Self::between(world, name, Kind::Bridge(firewall));
        let space = &subject.space;
        let by_iptables = if name == "iptables" { "1" } else { "0" };
        for program in ["iptables", "ip6tables"] {
            space.set(&format!("net/bridge/bridge-nf-call-{program}"), by_iptables);
        }
        space.ip("link add br0 type bridge mcast_snooping 0");
        space.ip("link set br0 up");
        for machine in 0..MACHINES {
            space.ip(&format!("link set v{machine} master br0"));
            // Nobody is looked for: a frame leaves by one device, or by none.
            space
                .ip(&format!("link set v{machine} type bridge_slave learning off flood off mcast_flood off"));
            space.bridge(&format!("fdb add {} dev v{machine} master static", Case::mac(machine)));
        }
        subject
    }

    /// eastgate, with one of its dataplanes.
    pub fn eastgate(world: World, dataplane: &'static str) -> Self {
        Self::between(world, &format!("eastgate, {dataplane}"), Kind::Eastgate { dataplane, daemon: None })
    }

    fn between(mut world: World, name: &str, kind: Kind) -> Self {
        let (machines, space) = (world.space("machines"), world.space("box"));
        space.ip("link set lo up");
        world.cable((&machines, "under"), (&space, "under"), 1500);
        space.ip("addr add 192.0.2.1/24 dev under");
        for machine in 0..MACHINES {
            world.cable((&machines, &format!("m{machine}")), (&space, &format!("v{machine}")), 1500);
        }
        let (arrived, over) = (Arrived::default(), Arc::new(AtomicBool::new(false)));
        let put_in = Arc::new(AtomicUsize::new(0));
        let take = |machine: usize| {
            let (arrived, put_in, over) = (arrived.clone(), put_in.clone(), over.clone());
            let mut link =
                must(machines.enter(move || Link::open(&format!("m{machine}"), Duration::from_millis(20))));
            machines.spawn(move || {
                while !over.load(SeqCst) {
                    let Ok(Some(frame)) = link.receive() else { continue };
                    if frame.starts_with(&Case::mac(machine).0) {
                        arrived.lock().unwrap().push((machine, frame.to_vec()));
                    } else if frame[6..].starts_with(&Case::mac(machine).0) {
                        put_in.fetch_add(1, SeqCst);
                    }
                }
            })
        };
        let takers = (0..MACHINES).map(take).collect();
        let sender = |machine| must(Link::open(&format!("m{machine}"), Duration::ZERO));
        let senders = machines.enter(|| (0..MACHINES).map(sender).collect());
        Self { name: name.to_owned(), kind, space, senders, arrived, put_in, sent: 0, over, takers, world }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next policy takes the place of the one before.
    pub fn put_in_force(&mut self, case: &Case) {
        match &mut self.kind {
            Kind::Bridge(firewall) => firewall(&self.space, case),
            Kind::Eastgate { dataplane, daemon } => {
                let path = self.world.write("case.toml", &case.toml());
                match daemon {
                    Some(daemon) => drop(daemon.ask(&["reload"])),
                    None => {
                        let started = Daemon::start(
                            &self.world,
                            &self.space,
                            &path,
                            "box",
                            &["--dataplane", dataplane],
                        );
                        *daemon = Some(started);
                    }
                }
            }
        }
    }

    /// Which probes arrive, by their numbers. Those that are expected are waited for, and that whoever takes frames has seen
    /// all that were put in: the queue of a socket is short. What comes later on is told by [`Self::late`].
    pub fn ask(&mut self, probes: &[Probe], expected: &BTreeSet<usize>) -> BTreeSet<usize> {
        for probe in probes {
            self.senders[probe.from].send(&probe.frame).unwrap();
        }
        self.sent += probes.len();
        let numbers: BTreeMap<(usize, &[u8]), usize> =
            probes.iter().enumerate().map(|(number, probe)| ((probe.to, &*probe.frame), number)).collect();
        let mut seen = BTreeSet::new();
        wait::until(wait::BOUND, || {
            self.arrived.lock().unwrap().retain(|(machine, frame)| {
                let number = numbers.get(&(*machine, frame.as_slice()));
                seen.extend(number);
                number.is_none()
            });
            seen.is_superset(expected) && self.put_in.load(SeqCst) >= self.sent
        });
        // Else one that arrived, and should not have, may be among those that were lost.
        assert!(self.put_in.load(SeqCst) >= self.sent, "{}: whoever takes frames has lost some", self.name);
        seen
    }

    /// What came that nobody expected: frames of earlier policies, and others than were sent.
    pub fn late(&mut self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.arrived.lock().unwrap())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        for taker in self.takers.drain(..) {
            let _ = taker.join();
        }
    }
}
