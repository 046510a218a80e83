//! A server leases to an endpoint of this host what another host has said that an endpoint there has. That one's lease may have
//! ended without a word to this host: so it is asked, by the newcomer's announcement to it alone. If it has the address still, it says
//! so again, and the newcomer waits; if it is silent, the server's word counts.

use std::{collections::BTreeMap, time::Duration};

use eastgate_wire::{Addr, Instant, MacAddr};

use super::{Entry, Heard, Refused, Snooped, WAITING, Word};

/// How long the host that has said so may take to say it again.
pub const ANSWER: Duration = Duration::from_secs(2);
/// After how long it is asked again.
const RETRY: Duration = Duration::from_secs(30);

/// A lease that waits for another host's word.
#[derive(Clone, Copy, Debug)]
struct Contest {
    endpoint: MacAddr,
    /// Until when it is leased; none for ever
    until: Option<Instant>,
    /// When there is something to do
    due: Instant,
    /// It was asked, and this is when its time to answer is over; otherwise it is asked then.
    asked: bool,
    answered: bool,
}

/// All of a network, by address
#[derive(Debug, Default)]
pub(super) struct Contests(BTreeMap<Addr, Contest>);

/// What has become of leases that waited.
#[derive(Debug, Default)]
pub struct Settled {
    /// Addresses that hosts are to be asked about
    pub ask: Vec<Addr>,
    /// What was another endpoint's until now
    pub gone: Vec<(Addr, Entry)>,
    /// Leases that count now
    pub words: Vec<(MacAddr, Addr, Word)>,
}

impl Contests {
    /// The holder was heard with it.
    pub(super) fn answer(&mut self, address: Addr) {
        if let Some(contest) = self.0.get_mut(&address) {
            contest.answered = true;
        }
    }

    /// The newcomer does not want it any more.
    pub(super) fn give_up(&mut self, endpoint: MacAddr, address: Addr) {
        self.0.retain(|at, contest| *at != address || contest.endpoint != endpoint);
    }
}

impl Snooped {
    /// A server leases to an endpoint here what `holder` has by another host's word.
    pub(super) fn contest(
        &mut self,
        endpoint: MacAddr,
        address: Addr,
        until: Option<Instant>,
        holder: MacAddr,
        now: Instant,
    ) -> Heard {
        let known = self.contests.0.get_mut(&address).filter(|known| known.endpoint == endpoint);
        if let Some(known) = known {
            known.until = until;
            return Heard::Nothing;
        }
        let of_it = self.contests.0.values().filter(|contest| contest.endpoint == endpoint);
        if of_it.count() >= WAITING {
            return Heard::Refused(Refused::Held(holder));
        }
        let contest = Contest { endpoint, until, due: now + ANSWER, asked: true, answered: false };
        self.contests.0.insert(address, contest);
        Heard::Contested
    }

    /// Who is to be announced to the host of an address's holder, so that it says whether that one has it.
    #[must_use]
    pub fn claimant(&self, address: Addr) -> Option<MacAddr> {
        self.contests.0.get(&address).filter(|contest| contest.asked).map(|contest| contest.endpoint)
    }

    /// What has become of leases that wait for another host's word. Those of endpoints that `are_leased` none here any more wait no
    /// longer.
    pub fn settle(&mut self, are_leased: impl Fn(MacAddr) -> bool, now: Instant) -> Settled {
        let mut settled = Settled::default();
        let due: Vec<Addr> =
            self.contests.0.iter().filter(|(_, it)| it.due <= now).map(|(address, _)| *address).collect();
        for address in due {
            let contest = self.contests.0.remove(&address).filter(|contest| are_leased(contest.endpoint));
            let Some(mut contest) = contest else { continue };
            let left = contest.until.map(|until| until.since(now));
            let holder = self.entries.get(&address).copied();
            let is_elsewhere =
                holder.is_some_and(|holder| !holder.here && holder.endpoint != contest.endpoint);
            if left.is_some_and(|left| left.is_zero()) || holder.is_some() && !is_elsewhere {
                continue;
            }
            if is_elsewhere && (contest.answered || !contest.asked) {
                (contest.asked, contest.answered) = (!contest.asked, false);
                contest.due = now + if contest.asked { ANSWER } else { RETRY };
                settled.ask.extend(contest.asked.then_some(address));
                self.contests.0.insert(address, contest);
                continue;
            }
            settled.gone.extend(self.entries.remove(&address).map(|entry| (address, entry)));
            settled.words.push((contest.endpoint, address, Word::Leased(left)));
        }
        settled
    }
}
