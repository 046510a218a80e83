//! A second opinion: the same frames through eastgate and through Linux's own bridge, conntrack and iptables. What Linux
//! carries eastgate carries, and the other way round, but for the differences that stand in `docs/linux-differences.md`.
//!
//! `EASTGATE_LINUX_SEQUENCES` says how many sequences are made up (2,400), `EASTGATE_LINUX_SEED` which ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are nobody else's"
)]

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod datagrams;
mod device;
mod dice;
mod differences;
mod frames;
mod sctp;
mod sequence;
mod tcp;

use std::path::Path;

use common::World;
use compare::Comparison;
use device::Placement;
use dice::Dice;
use sequence::Sequence;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Sequence number `index`; ports and identifiers are those of no other.
fn sequence(index: u64, seed: u64) -> Sequence {
    let mut dice = Dice::new(seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Below 32,768: what somebody sends to a port of nobody is above.
    let own = 1024 + (index % 30_000) as u16;
    let v6 = dice.chance(40);
    match dice.below(23) {
        0..10 => tcp::sequence(&mut dice, own, v6),
        10..13 => datagrams::udp_exchange(&mut dice, own, v6),
        13..16 => datagrams::icmp_exchange(&mut dice, own, v6),
        16..19 => datagrams::pieces(&mut dice, own, v6),
        19..22 => sctp::sequence(&mut dice, own, v6),
        _ => datagrams::other_protocol(&mut dice, own, v6),
    }
}

#[test]
fn what_linux_carries_is_carried_on_one_host() {
    compare(Placement::OneHost);
}

#[test]
fn what_linux_carries_is_carried_from_host_to_host() {
    compare(Placement::TwoHosts);
}

fn compare(placement: Placement) {
    let Some(mut world) = World::new() else { return };
    device::stay_on_one_core();
    let mut comparison = Comparison::new(device::all(&mut world, placement));
    for case in cases::all() {
        comparison.run(&case);
    }
    let seed = number("EASTGATE_LINUX_SEED", 1);
    for index in 0..number("EASTGATE_LINUX_SEQUENCES", 2_400) {
        comparison.run(&sequence(index, seed));
    }
    comparison.conclude();
}

#[test]
fn the_page_of_differences_is_that_of_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/linux-differences.md");
    let wanted = differences::page();
    if std::env::var_os("EASTGATE_BLESS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), wanted, "EASTGATE_BLESS=1 writes it anew");
}
