//! Runs sequences on every device, and collects where they differ.

use std::collections::BTreeMap;

use crate::{
    device::{Device, Seen},
    differences::{self, Carrier, Difference},
    frames::{Piece, as_fragment},
    sequence::{Sequence, Step, What},
};

/// How many differences of a kind are told in full.
const TOLD: usize = 3;

/// Linux first, then what is compared with it.
pub struct Comparison {
    devices: Vec<Device>,
    sequences: u64,
    frames: u64,
    carried: u64,
    /// By what the frame is, who carries it and which device differs: how many, and some of them in full
    unmeant: BTreeMap<String, (u64, Vec<String>)>,
    /// How often each meant difference was met
    meant: Vec<u64>,
}

impl Comparison {
    pub fn new(devices: Vec<Device>) -> Self {
        let meant = vec![0; differences::ALL.len()];
        Self { devices, sequences: 0, frames: 0, carried: 0, unmeant: BTreeMap::new(), meant }
    }

    /// Sends a sequence through all devices.
    pub fn run(&mut self, sequence: &Sequence) {
        let carried: Vec<Vec<bool>> = self.devices.iter_mut().map(|device| send(device, sequence)).collect();
        self.sequences += 1;
        self.frames += sequence.steps.len() as u64;
        self.carried += carried[0].iter().filter(|carried| **carried).count() as u64;
        for device in 1..carried.len() {
            self.compare(device, sequence, &carried[0], &carried[device]);
        }
    }

    /// Behind the first difference the two have another idea of the flow: what follows is no comparison.
    fn compare(&mut self, device: usize, sequence: &Sequence, linux: &[bool], eastgate: &[bool]) {
        let is_compared = |place: &usize| sequence.steps[*place].what != What::Announcement;
        let differs = (0..linux.len()).filter(is_compared).find(|place| linux[*place] != eastgate[*place]);
        let Some(place) = differs else { return };
        let step = &sequence.steps[place];
        let carrier = if linux[place] { Carrier::Linux } else { Carrier::Eastgate };
        if let Some(known) = differences::meant(carrier, &sequence.steps[..place], step) {
            self.meant[known] += 1;
            return;
        }
        let name = self.devices[device].name;
        let kind = format!("carried by {carrier:?} alone, {name}: {:?}, {}", step.what, shortened(step));
        let (count, told) = self.unmeant.entry(kind).or_default();
        *count += 1;
        if told.len() < TOLD {
            told.push(format!("  {}\n{}", sequence.name, sequence.describe(place)));
        }
    }

    /// Fails where something differs that is not meant to.
    pub fn conclude(self) {
        println!(
            "{} sequences, {} frames, of which Linux carries {}",
            self.sequences, self.frames, self.carried
        );
        for (Difference { carried_by, what, .. }, count) in differences::ALL.iter().zip(&self.meant) {
            println!("{count:6} times carried by {carried_by:?} alone: {what}");
        }
        assert!(self.carried * 2 > self.frames, "most of what is sent is regular traffic, and is carried");
        for device in self.devices {
            println!("{} dropped {:?}", device.name, device.drops());
        }
        let differences: Vec<_> = self
            .unmeant
            .iter()
            .map(|(kind, (count, told))| format!("{count} times {kind}, such as\n{}", told.join("\n")))
            .collect();
        assert!(differences.is_empty(), "eastgate and Linux differ:\n{}", differences.join("\n"));
    }
}

fn shortened(step: &Step) -> &str {
    step.label.split([':', ',']).next().unwrap_or_default()
}

/// Which frames of a sequence come out at the machine they are for, as they were sent. Of a datagram in pieces only the
/// whole counts, and counts for its last piece: Linux puts datagrams together and cuts them anew.
fn send(device: &mut Device, sequence: &Sequence) -> Vec<bool> {
    if !sequence.in_pieces() {
        return sequence.steps.iter().map(|step| passes(device, step)).collect();
    }
    let mut arrived = Vec::new();
    for step in &sequence.steps {
        let seen = device.send(step.from, &step.frame);
        arrived.extend(seen.into_iter().filter(|seen| seen.at == step.to).map(|seen| seen.frame));
    }
    if let Some(step) = sequence.steps.last().filter(|_| !is_whole(&arrived)) {
        let late = device.settle(step.from).into_iter().chain(device.settle(step.from));
        arrived.extend(late.filter(|seen| seen.at == step.to).map(|seen| seen.frame));
    }
    let mut carried = vec![false; sequence.steps.len()];
    if let Some(last) = carried.last_mut() {
        *last = is_whole(&arrived);
    }
    carried
}

/// Between hosts a marker may overtake: it leaves by another source port. What does not come before the third is lost.
fn passes(device: &mut Device, step: &Step) -> bool {
    arrives(step, &device.send(step.from, &step.frame))
        || (0..2).any(|_| arrives(step, &device.settle(step.from)))
}

fn arrives(step: &Step, seen: &[Seen]) -> bool {
    let frame = without_priority(&step.frame);
    seen.iter().any(|seen| seen.at == step.to && without_priority(&seen.frame) == frame)
}

/// A tag with VID 0 says how urgent a frame is, and is nobody's VLAN: it may come off on the way.
fn without_priority(frame: &[u8]) -> Vec<u8> {
    match frame {
        macs if frame.len() > 16 && frame[12..14] == [0x81, 0] && frame[14] & 0xf == 0 && frame[15] == 0 => {
            [&macs[..12], &frame[16..]].concat()
        }
        _ => frame.to_vec(),
    }
}

/// Do these pieces make a datagram?
fn is_whole(frames: &[Vec<u8>]) -> bool {
    let mut pieces: Vec<Piece> =
        frames.iter().filter_map(|frame| as_fragment(frame)).map(|(_, piece)| piece).collect();
    pieces.sort_by_key(|piece| piece.at);
    let mut end = 0;
    for Piece { at, bytes, more } in &pieces {
        if *at > end {
            return false;
        }
        end = end.max(at + bytes.len());
        if !more {
            return true;
        }
    }
    // Put together again, it may fit in one packet.
    frames.iter().any(|frame| as_fragment(frame).is_none() && frame.len() > 42)
}
