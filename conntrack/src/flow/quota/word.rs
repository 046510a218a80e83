//! The words that flows are counted in, and the steps by which they are changed: each one atomic, for the fast path's programs
//! change the same words (`fastpath/bpf/account.h`), and nobody has a lock that holds them off.
//!
//! A word has its limit in the upper half and the flows there are in the lower one. Programs count first and look then, so that
//! for a moment a word may show one flow more for each of them that is being refused; flows beyond the limit there are
//! never.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Memory that others change too.
pub(super) trait Word {
    fn load(&self) -> u64;

    /// Writes `to` where `from` is; otherwise says what is there.
    fn exchange(&self, from: u64, to: u64) -> Result<u64, u64>;

    /// Changes it in one step, if there is a change to what is found; whether there was.
    fn update(&self, change: impl Fn(u64) -> Option<u64>) -> bool {
        let mut found = self.load();
        while let Some(to) = change(found) {
            match self.exchange(found, to) {
                Ok(_) => return true,
                Err(other) => found = other,
            }
        }
        false
    }

    /// Another limit for the flows there are.
    fn set_limit(&self, limit: u32) {
        self.update(|word| Some(u64::from(limit) << 32 | u64::from(word as u32)));
    }

    fn limit(&self) -> u32 {
        (self.load() >> 32) as u32
    }

    fn used(&self) -> u32 {
        self.load() as u32
    }

    fn is_full(&self) -> bool {
        is_full(self.load())
    }

    /// One flow more, within the limit.
    fn take(&self) -> bool {
        self.update(|word| (!is_full(word)).then_some(word + 1))
    }

    /// One flow less.
    fn give(&self) {
        self.update(|word| (word as u32 > 0).then(|| word - 1));
    }
}

const fn is_full(word: u64) -> bool {
    word as u32 as u64 >= word >> 32
}

impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        Self::load(self, SeqCst)
    }

    fn exchange(&self, from: u64, to: u64) -> Result<u64, u64> {
        self.compare_exchange(from, to, SeqCst, SeqCst)
    }
}

/// One flow more in all of them, or in none; which one is full, then.
pub(super) fn take_all<W: Word>(words: [&W; 3]) -> Result<(), usize> {
    let full = words.iter().position(|word| !word.take());
    match full {
        Some(full) => {
            words.iter().take(full).for_each(|word| word.give());
            Err(full)
        }
        None => Ok(()),
    }
}

/// Every order in which the steps of daemon and programs can come.
#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicU32};

    use loom::{sync::atomic::AtomicU64 as Shared, thread};

    use super::*;

    impl Word for Shared {
        fn load(&self) -> u64 {
            Self::load(self, SeqCst)
        }

        fn exchange(&self, from: u64, to: u64) -> Result<u64, u64> {
            self.compare_exchange(from, to, SeqCst, SeqCst)
        }
    }

    /// `take_at` of `account.h`, step by step
    fn kernel_takes_at(word: &Shared) -> bool {
        let before = word.fetch_add(1, SeqCst);
        if (before as u32 as u64) < before >> 32 {
            return true;
        }
        kernel_gives_at(word);
        false
    }

    /// `give_at`
    fn kernel_gives_at(word: &Shared) {
        word.fetch_add(u64::MAX, SeqCst);
    }

    /// `take_places`
    fn kernel_takes([own, network, host]: [&Shared; 3]) -> bool {
        if !kernel_takes_at(own) {
            return false;
        }
        if kernel_takes_at(network) {
            if kernel_takes_at(host) {
                return true;
            }
            kernel_gives_at(network);
        }
        kernel_gives_at(own);
        false
    }

    fn word(limit: u32, used: u32) -> Shared {
        Shared::new(u64::from(limit) << 32 | u64::from(used))
    }

    fn read(word: &Shared) -> (u32, u32) {
        let word = Word::load(word);
        ((word >> 32) as u32, word as u32)
    }

    /// Two endpoints of a network, the network and the host; and the flows that there really are.
    struct World {
        endpoints: [Shared; 2],
        network: Shared,
        host: Shared,
        limits: [u32; 4],
        flows: [AtomicU32; 4],
    }

    impl World {
        fn new(limits: [u32; 4]) -> Arc<Self> {
            let [a, b, network, host] = limits.map(|limit| word(limit, 0));
            Arc::new(Self { endpoints: [a, b], network, host, limits, flows: Default::default() })
        }

        fn words(&self, endpoint: usize) -> [&Shared; 3] {
            [&self.endpoints[endpoint], &self.network, &self.host]
        }

        /// There is a flow more or less, which is no step of anybody's.
        fn count(&self, endpoint: usize, more: bool) {
            for at in [endpoint, 2, 3] {
                let flows = if more {
                    self.flows[at].fetch_add(1, SeqCst) + 1
                } else {
                    self.flows[at].fetch_sub(1, SeqCst) - 1
                };
                assert!(flows <= self.limits[at], "{flows} flows at a limit of {}", self.limits[at]);
            }
        }

        /// A flow begins in the kernel, or not.
        fn begins_in_kernel(&self, endpoint: usize) -> bool {
            let begun = kernel_takes(self.words(endpoint));
            if begun {
                self.count(endpoint, true);
            }
            begun
        }

        /// A flow begins in the pipeline, or not.
        fn begins_in_pipeline(&self, endpoint: usize) -> bool {
            let begun = take_all(self.words(endpoint)).is_ok();
            if begun {
                self.count(endpoint, true);
            }
            begun
        }

        fn ends_in_kernel(&self, endpoint: usize) {
            self.count(endpoint, false);
            self.words(endpoint).into_iter().rev().for_each(kernel_gives_at);
        }

        /// Wherever it began
        fn ends_in_pipeline(&self, endpoint: usize) {
            self.count(endpoint, false);
            self.words(endpoint).into_iter().for_each(Word::give);
        }

        /// Nothing is lost, nothing is counted twice.
        fn is_exact(&self) {
            let words = [&self.endpoints[0], &self.endpoints[1], &self.network, &self.host];
            for (word, (limit, flows)) in words.into_iter().zip(self.limits.iter().zip(&self.flows)) {
                assert_eq!(read(word), (*limit, flows.load(SeqCst)));
            }
        }
    }

    fn both(world: &Arc<World>, one: fn(&World), other: fn(&World)) {
        let theirs = world.clone();
        let thread = thread::spawn(move || other(&theirs));
        one(world);
        thread.join().unwrap();
        world.is_exact();
    }

    #[test]
    fn neither_begins_a_flow_beyond_a_limit() {
        // The endpoint's, the network's and the host's are the ones that are reached.
        for limits in [[1, 1, 2, 2], [1, 1, 1, 2], [1, 1, 2, 1]] {
            loom::model(move || {
                let world = World::new(limits);
                both(
                    &world,
                    |world| {
                        if world.begins_in_pipeline(0) {
                            world.ends_in_pipeline(0);
                        }
                        world.begins_in_pipeline(0);
                    },
                    |world| {
                        world.begins_in_kernel(1);
                    },
                );
            });
        }
        loom::model(|| {
            let world = World::new([1, 0, 1, 1]);
            both(
                &world,
                |world| {
                    world.begins_in_pipeline(0);
                },
                |world| {
                    world.begins_in_kernel(0);
                },
            );
        });
    }

    #[test]
    fn a_flow_ends_where_it_did_not_begin() {
        loom::model(|| {
            let world = World::new([2, 2, 2, 2]);
            assert!(world.begins_in_kernel(0) && world.begins_in_pipeline(1));
            both(
                &world,
                |world| {
                    world.ends_in_pipeline(0);
                    world.begins_in_pipeline(1);
                },
                |world| {
                    world.ends_in_kernel(1);
                    world.begins_in_kernel(0);
                },
            );
        });
    }

    #[test]
    fn two_cpus_and_the_daemon_at_one_word() {
        loom::model(|| {
            let (count, flows) = (Arc::new(word(1, 0)), Arc::new(AtomicU32::new(0)));
            let begin = |takes: fn(&Shared) -> bool| {
                let (count, flows) = (count.clone(), flows.clone());
                move || {
                    if takes(&count) {
                        assert_eq!(flows.fetch_add(1, SeqCst), 0, "two flows at a limit of one");
                    }
                }
            };
            let cpus = [begin(kernel_takes_at), begin(kernel_takes_at)].map(thread::spawn);
            begin(Word::take)();
            for cpu in cpus {
                cpu.join().unwrap();
            }
            assert_eq!(read(&count), (1, flows.load(SeqCst)));
        });
    }

    #[test]
    fn another_limit_loses_no_flow() {
        for limit in [0, 1, 5] {
            loom::model(move || {
                let count = Arc::new(word(2, 1));
                let theirs = count.clone();
                let cpu = thread::spawn(move || {
                    kernel_gives_at(&theirs);
                    u32::from(kernel_takes_at(&theirs))
                });
                count.set_limit(limit);
                let ours = u32::from(count.take());
                let flows = ours + cpu.join().unwrap();
                assert_eq!(read(&count), (limit, flows));
                // One that was there before stays.
                assert!(flows <= limit.max(1), "{flows} flows at a limit of {limit}");
            });
        }
    }
}
