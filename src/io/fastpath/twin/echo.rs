//! ICMP: echoes, which the programs carry, and what else looks like them; and SCTP, which they do not.

use std::{thread, time::Duration};

use super::*;

/// Who asks whom with which identifier: few enough that flows meet, and that both ends ask with the same one.
pub(super) struct Echoes {
    scene: Scene,
    first_id: u16,
    /// The echo before, as a sender sees it who is told that it failed
    last: Option<([u8; 2], Vec<u8>)>,
    associations: associations::Associations,
}

impl Echoes {
    pub(super) fn new(scene: Scene, dice: &mut Dice) -> Self {
        let associations = associations::Associations::new(scene, dice);
        Self { scene, first_id: dice.roll(1 << 16) as u16, last: None, associations }
    }

    /// The next frame, and which end sends it. Nobody remembers whether there was a request.
    pub(super) fn next(&mut self, dice: &mut Dice, payload: &[u8]) -> (u8, Vec<u8>) {
        if dice.one_in(8) {
            return self.associations.next(dice);
        }
        if dice.one_in(300) {
            self.first_id = self.first_id.wrapping_add(3);
        }
        if let Some((ends, about)) = self.last.take().filter(|_| dice.one_in(10)) {
            let from = if dice.one_in(4) { HERE[dice.roll(2)] } else { ends[1] };
            return (from, icmp_error(from, ends[0], [3, 11][dice.roll(2)], 1, &about));
        }
        let pairs = self.scene.pairs();
        let ends = pairs[dice.roll(pairs.len())];
        let v6 = dice.one_in(3);
        let (request, reply, others) =
            if v6 { (128, 129, [1, 4, 127, 130, 200]) } else { (8, 0, [13, 14, 17, 5, 128]) };
        let kind = match dice.roll(30) {
            0 => others[dice.roll(5)],
            1..15 => reply,
            _ => request,
        };
        let code = if dice.one_in(30) { dice.roll(3) as u8 } else { 0 };
        let [high, low] = self.first_id.wrapping_add(dice.roll(6) as u16).to_be_bytes();
        let rest = [high, low, 0, dice.roll(256) as u8];
        let ip = some_ip(dice, v6, ends[0], ends[1]);
        let mut frame = Vec::new();
        if v6 {
            ip.icmpv6_raw(kind, code, rest).write(&mut frame, payload).unwrap();
        } else {
            ip.icmpv4_raw(kind, code, rest).write(&mut frame, payload).unwrap();
            self.last = (frame[14] == 0x45).then(|| (ends, frame.clone()));
        }
        (ends[0], frame)
    }
}

fn asked_and_answered() {
    const SHORT: u32 = 2;
    let scene = SCENES[0];
    let devices = devices(scene);
    let kernel = Arc::new(KernelPath::load(tables(1000), devices[0], gso::TUNNEL_PORT).unwrap());
    let mut host = Host::new(scene, &scene.config_with(true, SHORT, 100), Some((kernel, &devices)));
    let unsolicited = Outcome::Drop(DropReason::IcmpUnsolicited);
    let mut try_one = |frame: &[u8]| {
        let carried = host.carried;
        let (outcome, _) = host.tenant(frame[11], frame, Offload::default());
        (outcome, host.carried > carried)
    };
    assert_eq!(try_one(&ping(11, 12, 1)), (Outcome::Forward, true));
    assert_eq!(try_one(&pong(12, 11, 2)), (unsolicited, false), "nobody has asked");
    for id in [2, 3] {
        assert_eq!(try_one(&ping(11, 12, id)), (Outcome::Forward, true));
        assert_eq!(try_one(&pong(12, 11, id)), (Outcome::Forward, true));
        assert_eq!(try_one(&pong(11, 12, id)), (unsolicited, false), "an answer of the one who asked");
    }
    for id in [2, 3] {
        assert_eq!(try_one(&ping(12, 11, id)), (Outcome::Forward, true), "the other one asks: another flow");
        assert_eq!(try_one(&pong(11, 12, id)), (Outcome::Forward, true));
    }
    thread::sleep(Duration::from_millis(u64::from(SHORT) * 1000 + 100));
    for (from, to) in [(11, 12), (12, 11)] {
        assert_eq!(try_one(&pong(from, to, 3)), (unsolicited, false), "its time is over");
    }
}

#[test]
fn an_echo_is_carried_from_who_asks_and_back_and_no_other_way() {
    if nix::unistd::geteuid().is_root() {
        thread::spawn(asked_and_answered).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
