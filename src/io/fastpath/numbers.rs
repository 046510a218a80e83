//! What conntrack, policy and guard have as types of their own has the programs' numbers.

use eastgate_conntrack::{
    expect,
    flow::{HOST, Population, Rank, SIDE_FLAGS, STREAM_AFTER, STREAM_IDLE},
};
use eastgate_fastpath::{CONTROL_PORTS, numbers};
use eastgate_policy::{
    admission,
    compile::words,
    rule::{Action, MAX_TIERS},
};
use eastgate_wire::view::proto;

use super::created::STATES_IN_ORDER;

/// As constants are spelt
fn spelt(name: impl std::fmt::Debug) -> String {
    let mut spelt = String::new();
    for letter in format!("{name:?}").chars() {
        if letter.is_uppercase() && !spelt.is_empty() {
            spelt.push('_');
        }
        spelt.extend(letter.to_uppercase());
    }
    spelt
}

#[test]
fn states_ranks_and_populations_have_the_programs_numbers() {
    let states = STATES_IN_ORDER.map(|(state, protocol)| {
        let echo = if protocol == proto::ICMP { "ECHO_" } else { "" };
        format!("{echo}{}", spelt(state))
    });
    assert_eq!(states, numbers::FLOW_STATES);
    let ranks = [Rank::Unreplied, Rank::Finished, Rank::Exchange, Rank::Stream, Rank::Connection];
    for (number, rank) in ranks.into_iter().enumerate() {
        assert_eq!((rank as usize, &*spelt(rank)), (number, numbers::FLOW_RANKS[number]));
    }
    for (number, population) in Population::ALL.into_iter().enumerate() {
        assert_eq!((population as usize, &*spelt(population)), (number, numbers::POPULATIONS[number]));
    }
    let times = [STREAM_AFTER, STREAM_IDLE].map(|time| time.as_millis());
    assert_eq!(times, [numbers::STREAM_AFTER, numbers::STREAM_IDLE].map(u128::from));
    assert_eq!(HOST, numbers::HOST_ACCOUNT);
    assert_eq!(expect::MOST, numbers::EXPECTED_MAX);
}

#[test]
fn sides_of_connections_have_the_programs_flags() {
    for (bit, (name, flag)) in SIDE_FLAGS.into_iter().enumerate() {
        assert_eq!((name, flag), (numbers::SIDE_FLAGS[bit], 1 << bit));
    }
}

#[test]
fn policies_have_the_programs_numbers() {
    assert_eq!((words::BLOCK, MAX_TIERS), (numbers::POLICY_BLOCK, numbers::POLICY_TIERS));
    assert_eq!((words::END_PASSES, words::NO_TIER), (numbers::END_PASSES, numbers::NO_TIER));
    assert_eq!(
        (words::NOWHERE, words::NESTED, words::FIELD_AT, words::UNREAD),
        (numbers::NOWHERE, numbers::NESTED, numbers::FIELD_AT, numbers::UNREAD)
    );
    assert_eq!((words::FIELDS, words::LOG), (numbers::POLICY_FIELDS, numbers::RULE_LOG));
    assert_eq!(words::STATELESS, numbers::RULE_STATELESS);
    for action in [Action::Allow, Action::Deny, Action::Reject] {
        assert_eq!(spelt(action), numbers::RULE_ACTIONS[action as usize]);
    }
    assert_eq!(admission::CONTROL_PORTS, CONTROL_PORTS);
}

#[test]
fn what_leaves_has_the_guards_mark() {
    assert_eq!(crate::io::guard::MARK, numbers::EASTGATE_MARK);
}
