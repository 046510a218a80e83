//! One compilation after another.

use super::*;
use crate::compile::address::Prefix;

/// A change of rules, again and again: what is taken over and what is compiled anew decide as the ordered rules do, and as
/// what is compiled from nothing.
#[test]
fn rules_change_again_and_again() {
    const CASES: u32 = 60;
    const CHANGES: usize = 30;
    let [rebuilt, whole] = [const { Cell::new(0u32) }; 2];
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let change =
        (0..GROUPS as usize, 0..12usize, 0..12usize, then(), [proptest::bool::ANY, proptest::bool::ANY]);
    let changes = proptest::collection::vec((change, proptest::collection::vec(question(), 12)), CHANGES);
    let outcome = TestRunner::new(config).run(&(source(), changes), |(first, changes)| {
        let (mut known, mut before) = (first.clone(), Compiled::compile(&first).unwrap());
        for ((group, at, from, then, [of_another, egress]), questions) in changes {
            let mut next = known.clone();
            // Another verdict, or what another rule is about: most peers are known then, and some groups get their first rule.
            let donor = next.groups[(group + 1) % GROUPS as usize].ingress.get(from).cloned();
            let group = Arc::make_mut(&mut next.groups[group]);
            let rules = if egress { &mut group.egress } else { &mut group.ingress };
            match (rules.get_mut(at), donor) {
                (Some(rule), Some(donor)) if of_another => *rule = Rule { id: rule.id, ..donor },
                (Some(rule), _) => rule.then = then,
                (None, Some(donor)) => rules.push(Rule { id: RuleId(donor.id.0 + 1000), ..donor }),
                (None, None) => rules.clear(),
            }
            let taken_over = before.with_rules(&next.groups).is_some();
            let counter = if taken_over { &rebuilt } else { &whole };
            counter.set(counter.get() + 1);
            let after = Compiled::compile_after(&next, &before).unwrap();
            let anew = Compiled::compile(&next).unwrap();
            let written = after.words(1);
            for (endpoint, direction, peer, probe) in questions {
                let expected = naive::decide(&next, endpoint, direction, peer, &probe);
                let decided = after.decide(endpoint, direction, peer, &probe);
                prop_assert_eq!(decided, expected, "{:?} {:?} {} {:?}", endpoint, direction, peer, probe);
                let asked = after.tiers(endpoint, direction).zip(after.identity(peer));
                if let Some((tiers, identity)) = asked {
                    prop_assert_eq!(words::decide(&written, tiers, identity, &probe), expected);
                }
                let was = before.decide(endpoint, direction, peer, &probe);
                if after.has_same_rules(&before, endpoint) && after.is_same_peer(&before, peer) {
                    prop_assert_eq!(decided, was, "{:?} {:?} {} {:?}", endpoint, direction, peer, probe);
                }
            }
            for endpoint in (0..=ENDPOINTS).map(EndpointId) {
                prop_assert_eq!(after.is_stateless(endpoint), anew.is_stateless(endpoint));
                for direction in [Direction::Ingress, Direction::Egress] {
                    let asks = [&after, &anew].map(|it| it.tells_flows_apart(endpoint, direction));
                    prop_assert_eq!(asks[0], asks[1]);
                }
            }
            let all = [&after, &anew].map(|it| (it.has_stateless(), it.has_helpers(), it.stats().rules));
            prop_assert_eq!(all[0], all[1]);
            // What is in force is never more than may be put in force by a start.
            prop_assert!(after.spent >= anew.spent, "{} and {}", after.spent, anew.spent);
            let groups = known.groups.iter().chain(&next.groups);
            for id in groups.flat_map(|group| group.all_rules()).map(|rule| rule.id) {
                prop_assert_eq!(after.does(id), anew.does(id));
            }
            (known, before) = (next, after);
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let [rebuilt, whole] = [rebuilt, whole].map(Cell::into_inner);
    assert!(rebuilt > CASES * 10 && whole > CASES, "{rebuilt} taken over, {whole} compiled anew");
}

/// A rule's port changes: its list takes the place that it had, and nothing else is another word.
#[test]
fn a_list_takes_the_place_that_it_had() {
    let with = |port: u16| {
        let rules = (0..200u32).map(|id| allow(id, Peer::Any, tcp(1000 + 2 * id as u16)));
        ingress(rules.chain([allow(200, Peer::Any, tcp(port))]).collect())
    };
    let before = Compiled::compile(&with(2001)).unwrap();
    let after = before.with_rules(&with(2003).groups).unwrap();
    let [was, is] = [&before, &after].map(|it| it.words(1));
    let differ = was.iter().zip(&is).filter(|(a, b)| a != b).count();
    assert!(was.len() == is.len() && differ <= 2, "{differ} of {} words, {} now", was.len(), is.len());
}

/// Of rules that come and go without end, what is not used any more goes.
#[test]
fn what_changes_leave_behind_goes() {
    let with = |step: u32| {
        let rules = 200 + step * 7 % 40;
        ingress((0..rules).map(|id| allow(id, Peer::Any, tcp(1000 + 2 * id as u16))).collect())
    };
    let (mut known, mut before) = (with(1), Compiled::compile(&with(1)).unwrap());
    let (mut most, mut taken_over) = (0, 0);
    for step in 2..500 {
        let next = with(step);
        taken_over += u32::from(before.with_rules(&next.groups).is_some());
        let after = Compiled::compile_after(&next, &before).unwrap();
        most = most.max(after.stats().resident_bytes);
        (known, before) = (next, after);
    }
    let one = Compiled::compile(&known).unwrap().stats().resident_bytes;
    assert!(taken_over > 300, "{taken_over} of 498 taken over");
    assert!(most < 3 * one + 4 * 4096 * 2, "{most} bytes instead of {one}");
}

/// Of a policy that becomes much smaller what it takes does, however many steps that takes.
#[test]
fn what_rules_name_no_more_goes() {
    let with = |rules: u32| {
        let prefix = |n: u32| Peer::Prefix { network: v4(10, (n / 256) as u8, n as u8, 0), len: 96 + 24 };
        ingress((0..rules).map(|id| allow(id, prefix(id), tcp(1000 + id as u16))).collect())
    };
    for step in [10, 299] {
        let mut before = Compiled::compile(&with(300)).unwrap();
        for rules in (1..300).rev().step_by(step) {
            before = Compiled::compile_after(&with(rules), &before).unwrap();
        }
        let last = Compiled::compile_after(&with(1), &before).unwrap().stats();
        let anew = Compiled::compile(&with(1)).unwrap().stats();
        // Numbers that are kept leave rows without use, but not more than there have been.
        assert!(last.ranges < anew.ranges + 50, "{last:?} {anew:?}");
        assert!(last.resident_bytes < 3 * anew.resident_bytes + 4 * 4096 + 64 * 300, "{last:?} {anew:?}");
    }
}

/// Whose rules and peers are the same as before is decided about as before, whatever else is different; and who is not
/// touched by a change of one endpoint has the numbers that it had.
#[test]
fn what_does_not_change_keeps_its_numbers_and_its_decisions() {
    const CASES: u32 = 400;
    let [same, other] = [const { Cell::new(0u32) }; 2];
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let changed = (source(), source(), 0..ENDPOINTS as usize, proptest::bool::ANY);
    let asked = (changed, proptest::collection::vec(question(), 100));
    let outcome = TestRunner::new(config).run(&asked, |((first, second, changed, all), questions)| {
        let before = Compiled::compile(&first).unwrap();
        let mut next = first.clone();
        next.endpoints[changed] = second.endpoints[changed].clone();
        if all {
            next.groups[0] = second.groups[0].clone();
        }
        let after = Compiled::compile_after(&next, &before).unwrap();
        let touched = [&first, &next].map(|source| source.endpoints[changed].addresses.clone()).concat();
        let is_touched = |addr: Addr| {
            let prefixes = touched.iter().filter_map(|(network, len)| Prefix::new(*network, *len));
            let one = Prefix::new(addr, 128).unwrap();
            prefixes.into_iter().any(|prefix| prefix.contains(one))
        };
        for (endpoint, direction, peer, probe) in questions {
            let [was, is] = [&before, &after].map(|it| it.decide(endpoint, direction, peer, &probe));
            prop_assert_eq!(is, naive::decide(&next, endpoint, direction, peer, &probe));
            let stands = after.has_same_rules(&before, endpoint) && after.is_same_peer(&before, peer);
            if stands {
                prop_assert_eq!(is, was, "{:?} {:?} {} {:?}", endpoint, direction, peer, probe);
            }
            if !all && endpoint.0 < ENDPOINTS && endpoint.0 as usize != changed {
                prop_assert!(after.has_same_rules(&before, endpoint), "{endpoint:?}");
                prop_assert_eq!(after.tiers(endpoint, direction), before.tiers(endpoint, direction));
                prop_assert!(is_touched(peer) || after.is_same_peer(&before, peer), "{peer}");
            }
            if was == is { same.set(same.get() + 1) } else { other.set(other.get() + 1) }
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    assert!(other.get() > 200, "{} of {} decisions changed", other.get(), same.get());
}
