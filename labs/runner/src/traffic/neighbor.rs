//! Questions of ARP and ND, asked by hand so that every answer is seen, and not only the one a kernel believes.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use eastgate_testkit::{
    Capture, link,
    packet::{self, Arp, ArpOp},
};
use eastgate_wire::MacAddr;

use super::{Party, Seen};
use crate::plan::MACHINE_DEVICE;

/// How long a second answer is waited for after the first.
const SECOND_ANSWER: Duration = Duration::from_millis(100);

/// Asks from a device of `from` who has the address of `to`. `name` says whose a MAC is.
pub(crate) fn ask(
    (from, device): (&Party, &str),
    to: &Party,
    capture: &Capture,
    bound: Duration,
    name: impl Fn(MacAddr) -> String,
) -> Seen {
    let Some(question) = question(from, to) else {
        return Seen::Failed("the two are of different families".into());
    };
    let began = Instant::now();
    if let Err(error) = link::send_frame(&from.namespace, device, &question) {
        return Seen::Failed(error.to_string());
    }
    let answer = |frame: &[u8]| answered_mac(frame, from, to);
    let Some((at, _)) = capture.wait(bound, began, answer) else { return Seen::Silence };
    let after = at.saturating_duration_since(began);
    let first = capture.find_since(began, answer).into_iter().collect::<BTreeSet<MacAddr>>();
    // Two hosts that answer for one address are a fault that the first answer hides.
    capture.wait(SECOND_ANSWER, began, |frame| answer(frame).filter(|mac| !first.contains(mac)));
    let all: BTreeSet<MacAddr> = capture.find_since(began, answer).into_iter().collect();
    let names: Vec<String> = all.into_iter().map(name).collect();
    Seen::Answer { by: names.join(" and "), after }
}

/// The frame that asks, as it looks wherever it arrives; none when the two are of different families.
pub(crate) fn question(from: &Party, to: &Party) -> Option<Vec<u8>> {
    match (from.address, to.address) {
        (IpAddr::V4(requester), IpAddr::V4(target)) => {
            let arp =
                Arp { op: ArpOp::Request, sender: (from.mac, requester), target: (MacAddr::ZERO, target) };
            Some(arp.frame(MacAddr::BROADCAST))
        }
        (IpAddr::V6(requester), IpAddr::V6(target)) => {
            Some(packet::solicitation((from.mac, requester), target))
        }
        _ => None,
    }
}

/// Claims from the machine `from`, towards `to`, to have the address `claimed` at `mac`.
pub(crate) fn claim(from: &Party, to: &Party, claimed: IpAddr, mac: MacAddr) -> Seen {
    let frame = match (claimed, to.address, from.address) {
        (IpAddr::V4(claimed), IpAddr::V4(target), _) => {
            Arp { op: ArpOp::Reply, sender: (mac, claimed), target: (to.mac, target) }.frame(to.mac)
        }
        // From the sender's own address: only what the advertisement says is a lie.
        (IpAddr::V6(claimed), IpAddr::V6(target), IpAddr::V6(own)) => {
            packet::advertisement((mac, own), claimed, (to.mac, target))
        }
        _ => return Seen::Failed("the two are of different families".into()),
    };
    match link::send_frame(&from.namespace, MACHINE_DEVICE, &frame) {
        Ok(()) => Seen::Silence,
        Err(error) => Seen::Failed(error.to_string()),
    }
}

/// The MAC that `frame` says `claimed` has, if it says so to anyone.
pub(crate) fn claimed_mac(frame: &[u8], claimed: IpAddr) -> Option<MacAddr> {
    match claimed {
        IpAddr::V4(address) => {
            Arp::parse(frame).filter(|arp| arp.sender.1 == address).map(|arp| arp.sender.0)
        }
        IpAddr::V6(address) => {
            packet::read_advertisement(frame).filter(|(target, _)| *target == address).map(|(_, mac)| mac)
        }
    }
}

fn answered_mac(frame: &[u8], from: &Party, to: &Party) -> Option<MacAddr> {
    match to.address {
        IpAddr::V4(address) => Arp::parse(frame)
            .filter(|arp| arp.op == ArpOp::Reply && arp.sender.1 == address && arp.target.0 == from.mac)
            .map(|arp| arp.sender.0),
        IpAddr::V6(_) => claimed_mac(frame, to.address),
    }
}
