//! SCTP, which is the pipeline's alone: the programs leave all of it where it is decided.

use eastgate_testkit::sctp::{chunk, init, packet};

use super::*;

/// A few associations that begin, go on, are mistaken for each other, and end.
pub(super) struct Associations {
    scene: Scene,
    talks: Vec<Talk>,
}

#[derive(Clone, Copy)]
struct Talk {
    ends: [u8; 2],
    port: u16,
    tags: [u32; 2],
    /// How far it is: what is next of the handshake, or of its end
    step: usize,
}

/// Types of the chunks that an association has one after the other, and which end sends them
const STEPS: [(u8, usize); 12] =
    [(1, 0), (2, 1), (10, 0), (11, 1), (0, 0), (0, 1), (3, 0), (4, 1), (5, 0), (7, 0), (8, 1), (14, 0)];

impl Talk {
    fn new(scene: Scene, dice: &mut Dice) -> Self {
        let ends = scene.pairs()[dice.roll(scene.pairs().len())];
        let tags = [1 + dice.roll(1000) as u32, 1 + dice.roll(1000) as u32];
        Self { ends, port: 1024 + dice.roll(20) as u16, tags, step: 0 }
    }
}

impl Associations {
    pub(super) fn new(scene: Scene, dice: &mut Dice) -> Self {
        Self { scene, talks: (0..6).map(|_| Talk::new(scene, dice)).collect() }
    }

    /// The next frame, and which end sends it.
    pub(super) fn next(&mut self, dice: &mut Dice) -> (u8, Vec<u8>) {
        let which = dice.roll(self.talks.len());
        let talk = &mut self.talks[which];
        let Talk { ends, port, tags, step } = *talk;
        let (mut kind, mut from) = STEPS[step];
        talk.step = (step + 1) % STEPS.len();
        match dice.roll(12) {
            0 => *talk = Talk::new(self.scene, dice),
            // Another chunk than the one that would be next, or from the other end; an ABORT now and then
            1 => kind = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 63][dice.roll(14)],
            2 => from = 1 - from,
            3 => talk.step = step,
            _ => {}
        }
        let to = 1 - from;
        let tag = match kind {
            1 => 0,
            _ if dice.one_in(20) => tags[from],
            _ => tags[to],
        };
        let it = match kind {
            1 | 2 => init(kind == 2, tags[from]),
            0 | 3 => chunk(kind, 3, &[0; 16]),
            _ => chunk(kind, u8::from(dice.one_in(10)), &[]),
        };
        let more = if dice.one_in(6) { vec![it, chunk(0, 3, &[0; 16])] } else { vec![it] };
        let ports = if from == 0 { (port, 443) } else { (443, port) };
        let mut frame = Vec::new();
        let (a, b) = (ends[from], ends[to]);
        let v6 = dice.one_in(3);
        let ip = some_ip(dice, v6, a, b);
        ip.write(&mut frame, 132.into(), &packet(ports, tag, &more)).unwrap();
        (a, frame)
    }
}
