//! Requests for addresses: whoever answers one, the bytes are the same, and so is how many are answered.

use eastgate_dataplane::pipeline::{counters, offload::FlowOffload};
use eastgate_fastpath::Stats;
use eastgate_wire::{Rate, TokenBucket};

use super::*;

/// An endpoint behind another VTEP
const FAR: u8 = THERE[0];
/// Nobody has this address.
const NOBODY: u8 = 99;
const SOLICITATION: u8 = 135;
const ZERO: [u8; 6] = [0; 6];

/// A request: mostly as stacks send it, from whoever it may be; and which end sends it.
pub(super) fn request(dice: &mut Dice, proxy: [u8; 6]) -> (u8, Vec<u8>) {
    let (port, target) = ([11, 12, FAR][dice.roll(3)], [11, 12, FAR, 12, FAR, NOBODY][dice.roll(6)]);
    let sender = if dice.one_in(20) { HERE[dice.roll(2)] } else { port };
    let to_one = dice.one_in(3).then(|| [mac(target), proxy][dice.roll(2)]);
    let frame = if dice.one_in(2) {
        arp_request(dice, sender, target, to_one)
    } else {
        solicitation(dice, sender, target, to_one)
    };
    (port, frame)
}

fn arp_request(dice: &mut Dice, sender: u8, target: u8, to_one: Option<[u8; 6]>) -> Vec<u8> {
    let target_mac = [ZERO, ZERO, BROADCAST, mac(target)][dice.roll(4)];
    let mut frame = arp(1, to_one.unwrap_or(BROADCAST), sender, target_mac, v4(target));
    match dice.roll(40) {
        // A probe (RFC 5227)
        0 => frame[28..32].fill(0),
        1 => frame[28..32].copy_from_slice(&v4(FAR)),
        2 => frame[22..28].copy_from_slice(&mac(FAR)),
        // Every other field of the fixed part in its turn
        3 => frame[14 + dice.roll(8)] ^= 1 << dice.roll(8),
        4 => frame[0] = 0x33,
        5 => frame[38..42].copy_from_slice(&[224, 0, 0, 1]),
        _ => {}
    }
    match dice.roll(6) {
        0 | 1 => frame.resize(60, 0),
        2 => frame.resize(42 + dice.roll(24), 0xee),
        _ => {}
    }
    frame
}

fn solicitation(dice: &mut Dice, sender: u8, target: u8, to_one: Option<[u8; 6]>) -> Vec<u8> {
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, target];
    let (mut to, mut dst) = match to_one {
        Some(mac) => (mac, v6(target)),
        None => ([0x33, 0x33, 0xff, 0, 0, target], group),
    };
    let mut src = v6(sender);
    match dice.roll(40) {
        0 => dst = group,
        1 => dst = v6(target),
        2 => to = [0x33, 0x33, 0xff, 0, 1, target],
        // A probe (RFC 4862)
        3 => src = [0; 16],
        4 => src = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, sender],
        5 => src = v6(FAR),
        _ => {}
    }
    let mut option = [&[1, 1][..], &mac(sender)].concat();
    match dice.roll(20) {
        0..5 => option.clear(),
        5 => option[7] ^= 1,
        6 => option[1] = 0,
        7 => option[0] = 14,
        8 => option.extend_from_slice(&[14, 1, 1, 2, 3, 4, 5, 6]),
        _ => {}
    }
    let body = [&v6(target)[..], &option].concat();
    let mut frame = icmp6(sender, to, src, dst, SOLICITATION, &body);
    match dice.roll(40) {
        0 => frame[21] = 254,
        1 => reseal(&mut frame, |frame| frame[55] = 1),
        2 => frame[56 + dice.roll(2)] ^= 1 << dice.roll(8),
        3 => reseal(&mut frame, |frame| frame[58] = 0xe0),
        4..10 => (frame[14], frame[15], frame[17]) = (0x6b, 0x85, 7),
        10 => frame.push(0),
        11 => frame[19] ^= 8,
        // As a sender leaves it that lets the device finish the checksum.
        12 => {
            let sum = ones_sum(&[&frame[22..54], &[0, frame[19], 0, 58]].concat());
            frame[56..58].copy_from_slice(&sum.to_be_bytes());
        }
        _ => {}
    }
    frame
}

/// Changes an ICMPv6 message and its checksum with it.
fn reseal(frame: &mut [u8], change: impl FnOnce(&mut [u8])) {
    change(frame);
    frame[56..58].fill(0);
    let len = (frame.len() - 54) as u8;
    let sum = !ones_sum(&[&frame[22..54], &[0, len, 0, 58], &frame[54..]].concat());
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
}

impl Host {
    /// So many answers may every endpoint ask for from now on.
    pub(super) fn set_answers(&self, rate: Rate) {
        let snapshot = self.shared.snapshot_arc();
        for endpoint in snapshot.network(VNI.try_into().unwrap()).unwrap().endpoints() {
            *lock(&endpoint.state.answers) = TokenBucket::new(rate, clock::now());
            *lock(&endpoint.state.announcements) = TokenBucket::new(rate, clock::now());
        }
    }

    /// Answers given, here and by the programs.
    pub(super) fn answers(&self) -> u64 {
        counters::traffic(&self.shared.counters).answers + self.stats().answered
    }

    fn stats(&self) -> Stats {
        self.kernel.as_ref().map(|kernel| kernel.stats().unwrap()).unwrap_or_default()
    }

    fn asks(&mut self, endpoint: u8, frame: &[u8]) -> Verdict {
        self.tenant(endpoint, frame, Offload::default())
    }
}

/// More than a test asks for
pub(super) const MANY: Rate = Rate { per_second: 1_000_000, burst: 1_000_000 };

fn config(neighbors: &'static str) -> String {
    Scene { neighbors, ..SCENES[0] }.config(true)
}

fn with_programs(text: &str) -> Host {
    let devices = devices(SCENES[0]);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    Host::new(SCENES[0], text, Some((kernel, &devices)))
}

/// The MAC that an answer names, and who gave it: the programs, or the pipeline.
fn named(host: &mut Host, frame: &[u8]) -> ([u8; 6], bool) {
    let before = host.stats().answered;
    let (outcome, sent) = host.asks(11, frame);
    let [Sent::Attachment(_, _, answer)] = &sent[..] else { panic!("{outcome:?} {sent:02x?}") };
    (answer[6..12].try_into().unwrap(), host.stats().answered > before)
}

fn tokens() {
    let mut host = with_programs(&config("suppress"));
    // A full bucket that nothing comes into any more.
    const BURST: u32 = 200;
    host.set_answers(Rate { per_second: 0, burst: BURST });
    let mut answered = 0;
    for number in 0..3 * BURST {
        let mut frame = if number % 3 == 0 { solicit(11, 12) } else { who_has(11, 12) };
        // What the programs do not read is punted while the answer stands, and costs the loan nothing.
        if number % 5 == 0 {
            frame.resize(100, 0);
        }
        match host.asks(11, &frame).0 {
            Outcome::Consumed => answered += 1,
            outcome => assert_eq!(outcome, Outcome::Drop(DropReason::NeighborLimit)),
        }
    }
    assert_eq!((answered, host.answers()), (BURST, u64::from(BURST)), "as many as there are tokens");
    let repeated = host.stats().answered;
    assert!((30..=50).contains(&repeated), "{repeated} of them by the programs: what is not reserved");

    // Loans that end early are no gain.
    host.set_answers(Rate { per_second: 0, burst: BURST });
    let mut answered = 0;
    for number in 0..3 * BURST {
        if number % 7 == 0 {
            host.kernel.as_ref().unwrap().forget_paths();
        }
        answered +=
            u32::from(host.asks(11, &who_has(11, [12, FAR][number as usize % 2])).0 == Outcome::Consumed);
    }
    assert!(answered > BURST / 2 && answered <= BURST, "{answered} answers of {BURST} tokens");
}

fn validity() {
    let proxy = |host: &Host| host.shared.snapshot().network(VNI.try_into().unwrap()).unwrap().proxy_mac.0;
    let mut host = with_programs(&config("suppress"));
    host.set_answers(MANY);
    let asks = [who_has(11, FAR), solicit(11, FAR)];
    // Where endpoints change, once with and once without the walk through what was answered before.
    let steps: [fn(&mut Host, &str); 2] = [Host::install, Host::put_in_force];
    for (ask, change) in asks.into_iter().flat_map(|ask| steps.map(|step| (ask.clone(), step))) {
        host.install(&config("suppress"));
        assert_eq!(named(&mut host, &ask), (mac(FAR), false), "the first one is the pipeline's");
        assert_eq!(named(&mut host, &ask), (mac(FAR), true));
        change(&mut host, &config("suppress").replace("02:00:00:00:00:15", "02:00:00:00:00:77"));
        assert_eq!(named(&mut host, &ask), ([2, 0, 0, 0, 0, 0x77], false), "another epoch");
        assert_eq!(named(&mut host, &ask), ([2, 0, 0, 0, 0, 0x77], true));
        host.install(&config("proxy"));
        assert_eq!(named(&mut host, &ask), (proxy(&host), false), "another mode");
        assert_eq!(named(&mut host, &ask), (proxy(&host), true));
        host.kernel.as_ref().unwrap().forget_paths();
        assert_eq!(named(&mut host, &ask), (proxy(&host), false), "another generation");
        host.install(&config("off"));
        assert_eq!(host.asks(11, &ask).0, Outcome::Flood);
    }
    // Another port's answer is nobody else's.
    host.install(&config("suppress"));
    assert_eq!(named(&mut host, &who_has(11, FAR)), (mac(FAR), false));
    assert_eq!(host.asks(12, &who_has(11, FAR)).0, Outcome::Drop(DropReason::MacSpoofed));
}

/// Where hosts are learned from what they ask, each request is heard.
fn learning() {
    const BEHIND: &str = "neighbors = \"suppress\"\n";
    let text = config("suppress").replace(BEHIND, &format!("{BEHIND}learning = true\n"));
    let mut host = with_programs(&text);
    host.set_answers(MANY);
    for _ in 0..10 {
        assert_eq!(named(&mut host, &who_has(11, 12)), (mac(12), false));
    }
}

#[test]
fn answers_are_the_pipelines_and_as_many_as_it_has_tokens() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    for test in [tokens, validity, learning] {
        // A thread of its own, so that its namespace ends with it.
        std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
