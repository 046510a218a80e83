//! Where eastgate and Linux differ on purpose. `docs/linux-differences.md` is made from this list.

use crate::sequence::{Sequence, Step, What};

/// Which of the two carries the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    Linux,
    Eastgate,
}

/// A difference that is meant.
pub struct Difference {
    pub carried_by: Carrier,
    /// What the frame is
    pub what: &'static str,
    /// Why eastgate does otherwise
    pub reason: &'static str,
    /// Is the difference at this step this one?
    pub applies: fn(&Sequence, &Step) -> bool,
}

/// All of them.
pub const ALL: &[Difference] = &[];

/// The one that a difference at `step` is, if it is meant.
pub fn meant(carrier: Carrier, sequence: &Sequence, step: &Step) -> Option<usize> {
    ALL.iter().position(|known| known.carried_by == carrier && (known.applies)(sequence, step))
}

/// The page that says all this to whoever comes from Linux.
pub fn page() -> String {
    let mut page = String::from(PREFACE);
    for (carrier, title) in [(Carrier::Linux, LINUX), (Carrier::Eastgate, EASTGATE)] {
        page += &format!("\n## {title}\n\n| packet | why |\n| --- | --- |\n");
        for known in ALL.iter().filter(|known| known.carried_by == carrier) {
            page += &format!("| {} | {} |\n", known.what, known.reason);
        }
    }
    page
}

const PREFACE: &str = "\
# Where eastgate differs from Linux

<!-- Made by tests/linux; change tests/linux/differences.rs and run: EASTGATE_BLESS=1 cargo test --test linux -->

The tests send the same frames through eastgate, with each of its dataplanes, and through Linux: a bridge with
`br_netfilter`, `nf_conntrack` (`nf_conntrack_tcp_loose=0`) and iptables rules for the same services. Thousands of TCP connections, UDP and
ICMP exchanges and datagrams in fragments are made up in each run, regular ones and such as crashed, late or hostile
machines send. A packet that one carries and the other does not fails the run, unless it is one of these.
";
const LINUX: &str = "Carried by Linux, dropped by eastgate";
const EASTGATE: &str = "Carried by eastgate, dropped by Linux";

/// Keeps the list's predicates short.
#[allow(dead_code, reason = "which of these are used follows from the list")]
pub fn is(step: &Step, what: What) -> bool {
    step.what == what
}
