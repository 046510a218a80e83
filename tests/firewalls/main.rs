//! Policies that nobody here decides about: made-up ones are given to iptables with ipset as Neutron lays them, to nftables,
//! and to eastgate in both dataplanes. All of them are asked by the same packets, every machine to every other, and all have
//! to say what the naive walk down the ordered rules says.
//!
//! `EASTGATE_POLICIES` says how many policies are made up, `EASTGATE_POLICY_SEED` which ones. Linux is asked about the first
//! 200 of them at most.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are nobody else's"
)]

mod case;
#[path = "../common/mod.rs"]
mod common;
#[path = "../linux/dice.rs"]
#[allow(dead_code, reason = "another test program uses the rest of it")]
mod dice;
mod linux;
mod probes;
mod subject;

use std::{collections::BTreeSet, fmt::Write as _};

use case::Case;
use common::World;
use dice::Dice;
use eastgate_config::load_str;
use eastgate_dataplane::snapshot::rules::RuleTable;
use eastgate_policy::{compile::Compiled, naive, rule::Direction};
use eastgate_wire::EndpointId;
use probes::Probe;
use subject::Subject;

/// So many policies there are, unless told otherwise.
const POLICIES: u64 = 1000;
/// Linux is asked about so many of them.
const BY_LINUX: usize = 200;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn cases() -> Vec<Case> {
    let seed = number("EASTGATE_POLICY_SEED", 1);
    let count = number("EASTGATE_POLICIES", POLICIES) as u16;
    let case = |number| Case::new(number, &mut Dice::new(seed ^ u64::from(number) << 32));
    (0..count).map(case).collect()
}

/// Policies by which nobody keeps state, and each packet is asked about by itself
fn cases_without_state() -> Vec<Case> {
    let seed = number("EASTGATE_POLICY_SEED", 1) ^ 0x57a7e;
    let case = |number| Case::new(number, &mut Dice::new(seed ^ u64::from(number) << 32)).without_state();
    (0..40).map(case).collect()
}

/// The probes of a case that pass, by the naive walk: the sender's egress rules and the receiver's ingress rules let them. The
/// compiled form says the same, and by which rule.
fn expected(case: &Case, probes: &[Probe]) -> BTreeSet<usize> {
    let text = case.toml();
    let config = load_str("case.toml", &text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    let tenant = config.tenant("t").unwrap();
    let network = &tenant.networks["n"];
    let ids: Vec<EndpointId> = (0..network.endpoints.len() as u32).map(EndpointId).collect();
    let source = RuleTable::new(tenant, &config, None).source(tenant, network, &ids);
    let compiled = Compiled::compile(&source).unwrap();
    let passes = |probe: &Probe| {
        let [from, to] = [probe.from, probe.to].map(|machine| case.address(machine, probe.v6).into());
        let decide = |machine: usize, direction, peer| {
            let decided = naive::decide(&source, ids[machine], direction, peer, &probe.asked);
            let as_compiled = compiled.decide(ids[machine], direction, peer, &probe.asked);
            assert_eq!(
                as_compiled, decided,
                "{direction:?} of m{machine}, {peer}: {:?}\n{text}",
                probe.asked
            );
            decided.verdict.passes()
        };
        let [sent, taken] =
            [decide(probe.from, Direction::Egress, to), decide(probe.to, Direction::Ingress, from)];
        sent && taken
    };
    (0..probes.len()).filter(|probe| passes(&probes[*probe])).collect()
}

/// As many as fit the queues of a kernel at once, also where nobody empties them for a while
const AT_ONCE: usize = 100;

/// Which probes arrive, by their numbers.
fn ask(subject: &mut Subject, probes: &[Probe], expected: &BTreeSet<usize>) -> BTreeSet<usize> {
    let mut arrived = BTreeSet::new();
    for (number, some) in probes.chunks(AT_ONCE).enumerate() {
        let first = number * AT_ONCE;
        let of_some = expected.range(first..first + some.len()).map(|probe| probe - first).collect();
        arrived.extend(subject.ask(some, &of_some).into_iter().map(|probe| probe + first));
    }
    arrived
}

/// Asks a subject about policies; it must say what is expected, and nothing more.
fn agrees(mut subject: Subject, cases: &[Case]) {
    let (mut asked, mut passed) = (0, 0);
    // The first once more at the end: what of the others comes late comes by then.
    for case in cases.iter().chain(cases.first()) {
        let probes = probes::all(case);
        let expected = expected(case, &probes);
        subject.put_in_force(case);
        let arrived = ask(&mut subject, &probes, &expected);
        if arrived != expected {
            let mut text = String::new();
            for (what, probe) in arrived
                .difference(&expected)
                .map(|probe| ("passes", probe))
                .chain(expected.difference(&arrived).map(|probe| ("does not pass", probe)))
                .take(10)
            {
                let Probe { from, to, v6, asked, .. } = &probes[*probe];
                let _ = writeln!(text, "{what}: from m{from} to m{to}, IPv6: {v6}, {asked:?}");
            }
            panic!("{}: case {}\n{text}\n{}", subject.name(), case.number, case.toml());
        }
        (asked, passed) = (asked + probes.len(), passed + expected.len());
    }
    let late = subject.late();
    assert!(late.is_empty(), "{}: {} packets came later on", subject.name(), late.len());
    println!("{}: {} policies, {asked} packets asked, {passed} passed", subject.name(), cases.len());
    assert!(passed > asked / 20 && passed < asked, "the policies say little");
}

#[test]
fn iptables_as_neutron_lays_them_say_the_same() {
    let Some(world) = World::new() else { return };
    let cases = cases();
    agrees(Subject::bridge(world, "iptables", linux::iptables), &cases[..cases.len().min(BY_LINUX)]);
}

#[test]
fn nftables_say_the_same() {
    let Some(world) = World::new() else { return };
    let cases = cases();
    agrees(Subject::bridge(world, "nftables", linux::nftables), &cases[..cases.len().min(BY_LINUX)]);
}

#[test]
fn the_pipeline_says_the_same() {
    let Some(world) = World::new() else { return };
    agrees(Subject::eastgate(world, "userspace"), &cases());
}

#[test]
fn the_fast_path_says_the_same() {
    let Some(world) = World::new() else { return };
    agrees(Subject::eastgate(world, "ebpf"), &cases());
}

#[test]
fn iptables_that_track_nothing_say_the_same() {
    let Some(world) = World::new() else { return };
    agrees(Subject::bridge(world, "iptables", linux::iptables), &cases_without_state());
}

#[test]
fn the_pipeline_without_state_says_the_same() {
    let Some(world) = World::new() else { return };
    agrees(Subject::eastgate(world, "userspace"), &cases_without_state());
}

#[test]
fn the_fast_path_without_state_says_the_same() {
    let Some(world) = World::new() else { return };
    agrees(Subject::eastgate(world, "ebpf"), &cases_without_state());
}
