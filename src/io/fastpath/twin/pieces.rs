//! Datagrams in fragments: mostly in order and whole, sometimes not.

use eastgate_testkit::frames::ones_sum;

use super::Dice;

/// What is still to be sent of datagrams, and by which endpoint.
#[derive(Default)]
pub(super) struct Pieces {
    queue: Vec<(u8, Vec<u8>)>,
    id: u16,
}

impl Pieces {
    /// Takes a packet to be sent in fragments; false when it is none that could be.
    pub(super) fn cut(&mut self, dice: &mut Dice, sender: u8, frame: &[u8]) -> bool {
        let (v6, l4) = match frame.get(12..15) {
            Some([0x08, 0x00, 0x45]) if frame[20] & 0x3f == 0 && frame[21] == 0 => (false, 34),
            Some([0x86, 0xdd, _]) => (true, 54),
            _ => return false,
        };
        // TCP in fragments is rare, and the pipeline's.
        if frame.get(if v6 { 20 } else { 23 }) == Some(&6) && !dice.one_in(8) {
            return false;
        }
        let body = &frame[l4.min(frame.len())..];
        if body.len() < 32 {
            return false;
        }
        self.id = self.id.wrapping_add(1);
        let size = (body.len() / (2 + dice.roll(3)) / 8 * 8).max(16);
        let count = body.len().div_ceil(size);
        for (n, piece) in body.chunks(size).enumerate() {
            let (at, more) = (n * size, n + 1 < count);
            self.queue.push((sender, fragment(&frame[..l4], v6, self.id, at as u16, more, piece)));
        }
        true
    }

    /// The next fragment, if there is one. Some come late, twice, over another one, or never.
    pub(super) fn next(&mut self, dice: &mut Dice) -> Option<(u8, Vec<u8>)> {
        if self.queue.is_empty() {
            return None;
        }
        let at = if dice.one_in(5) { dice.roll(self.queue.len()) } else { 0 };
        let (sender, mut frame) = self.queue.remove(at);
        match dice.roll(40) {
            0 => self.queue.push((sender, frame.clone())),
            1 if !self.queue.is_empty() => return Some(self.queue.remove(0)),
            2 => shift(&mut frame),
            _ => {}
        }
        Some((sender, frame))
    }
}

fn fragment(headers: &[u8], v6: bool, id: u16, offset: u16, more: bool, body: &[u8]) -> Vec<u8> {
    let mut frame = headers.to_vec();
    if v6 {
        let field = offset | u16::from(more);
        frame[18..20].copy_from_slice(&(8 + body.len() as u16).to_be_bytes());
        let next = std::mem::replace(&mut frame[20], 44);
        frame.extend([next, 0]);
        frame.extend(field.to_be_bytes());
        frame.extend(u32::from(id).to_be_bytes());
    } else {
        let field = offset >> 3 | u16::from(more) << 13;
        frame[16..18].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        finish(&mut frame);
    }
    [frame, body.to_vec()].concat()
}

/// Eight bytes further on: over the piece behind it, or not all there is.
fn shift(frame: &mut [u8]) {
    if frame[12] == 0x08 {
        frame[21] = frame[21].wrapping_add(1);
        finish(frame);
    } else {
        frame[57] = frame[57].wrapping_add(8);
    }
}

fn finish(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = !ones_sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}
