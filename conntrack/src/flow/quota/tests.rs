//! Limits of endpoint, network and host, and who pays.

use super::*;

const LIMITS: FlowLimits = FlowLimits { replied: 3, unreplied: 2 };
const PLENTY: FlowLimits = FlowLimits { replied: 99, unreplied: 99 };

#[test]
fn a_flood_uses_up_its_senders_pace_and_nobody_elses() {
    let limits = |unreplied| FlowLimits { replied: 9, unreplied };
    let quota = Quota::new(limits(100_000));
    let network = quota.network(Vni::new_checked(1).unwrap(), limits(8000));
    let [flooder, other, shared] = ["a", "b", "c"].map(|name| network.account(name, limits(4000)));
    let fill = |account: &Account, count: usize| {
        (0..count).for_each(|_| assert_eq!(account.take(Population::Unreplied), Ok(())));
    };
    let begun = |account: &Account, sender: u64, second: u64, tries: usize| {
        (0..tries).filter(|_| account.may_replace(|| sender, Instant::from_secs(second))).count()
    };
    const ONE: u64 = 7 << 32 | 7;
    assert_eq!(begun(&flooder, ONE, 1, 50_000), 50_000, "there is room");
    fill(&flooder, 4000);
    assert_eq!(begun(&flooder, ONE, 1, 50_000), 4000);
    assert_eq!(begun(&flooder, ONE, 1, 50_000), 0);
    assert_eq!(begun(&flooder, ONE, 2, 50_000), 4000, "and as many each second");
    // Whom the same account is charged for, also one with whom it has a place in common
    assert_eq!(begun(&flooder, 8 << 32 | 8, 2, 50_000), 4000);
    assert_eq!(begun(&flooder, 9 << 32 | 7, 2, 50_000), 2000);
    // The network is full by others.
    fill(&other, 10);
    fill(&shared, 3990);
    assert_eq!(other.full(Population::Unreplied), Some(Full::Network));
    assert_eq!(begun(&other, ONE, 3, 50_000), 50_000, "who has filled nothing need not pay");
    other.set_limits(limits(15), None);
    assert_eq!(begun(&other, ONE, 3, 50_000), 1000, "no limit is so small that nobody can begin anything");
}

#[test]
fn endpoint_network_and_host_each_have_a_say() {
    let quota = Quota::new(LIMITS);
    let entry = |vni| quota.network(Vni::new_checked(vni).unwrap(), FlowLimits { replied: 2, unreplied: 9 });
    let (a, b) = (entry(1).account("", PLENTY), entry(2).account("", PLENTY));
    let few = entry(2).account("few", FlowLimits { replied: 0, unreplied: 1 });
    assert_eq!(few.take(Population::Replied), Err(Full::Endpoint));
    assert_eq!((a.take(Population::Replied), a.take(Population::Replied)), (Ok(()), Ok(())));
    assert_eq!(a.take(Population::Replied), Err(Full::Network));
    assert_eq!(b.take(Population::Replied), Ok(()));
    assert_eq!(
        (b.take(Population::Replied), b.full(Population::Replied)),
        (Err(Full::Total), Some(Full::Total))
    );
    assert_eq!(b.in_use().replied, 1, "a refusal by the host keeps no slot of the endpoint");
    assert_eq!(entry(2).in_use().replied, 1, "nor of the network");
    a.give(Population::Replied);
    assert_eq!(b.take(Population::Replied), Ok(()));
    assert_eq!(quota.in_use(), FlowUse { replied: 3, unreplied: 0 });
}

#[test]
fn a_page_lives_as_long_as_someone_holds_it() {
    let quota = Quota::new(LIMITS);
    let vni = Vni::new_checked(7).unwrap();
    let account = quota.network(vni, LIMITS).account("one", LIMITS);
    account.take(Population::Unreplied).unwrap();
    quota.prune();
    assert_eq!(quota.network(vni, LIMITS).in_use().unreplied, 1);
    assert_eq!(quota.network(vni, LIMITS).account("one", LIMITS).in_use().unreplied, 1);
    account.give(Population::Unreplied);
    let place = account.place();
    assert_eq!(quota.account(place).map(|found| found.place()), Some(place));
    drop(account);
    quota.prune();
    assert_eq!(locked(&quota.networks).len(), 0);
    assert!(quota.account(place).is_none());
    assert!(quota.network(vni, LIMITS).account("two", LIMITS).place() <= place, "places are given again");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "shards take slots from several threads")]
fn threads_never_go_over_a_limit() {
    let quota = Quota::new(FlowLimits { replied: 40, unreplied: 40 });
    let entry = quota.network(Vni::new_checked(1).unwrap(), FlowLimits { replied: 30, unreplied: 30 });
    let accounts = ["a", "b"].map(|name| entry.account(name, FlowLimits { replied: 20, unreplied: 20 }));
    std::thread::scope(|scope| {
        for account in accounts.iter().chain(&accounts) {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if account.take(Population::Replied).is_ok() {
                        assert!(entry.in_use().replied <= 30 && account.in_use().replied <= 20);
                        account.give(Population::Replied);
                    }
                }
            });
        }
    });
    assert_eq!((entry.in_use().replied, quota.in_use().replied), (0, 0));
}
