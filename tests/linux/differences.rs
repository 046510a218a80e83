//! Where eastgate and Linux differ on purpose. `docs/linux-differences.md` is made from this list.

use crate::{
    frames::B,
    sequence::{Step, What},
};

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
    /// Is the difference at this step, behind these, this one?
    pub applies: fn(&[Step], &Step) -> bool,
}

/// Whether there is a TCP connection: its handshake has been, and no RST after it. (One that was closed is none of these.)
fn is_open(before: &[Step]) -> bool {
    let turn = before.iter().rev().find_map(|step| match step.what {
        What::RstExact => Some(false),
        What::Regular | What::SynAgain if step.label.starts_with("SYN, ACK") => Some(true),
        _ => None,
    });
    turn == Some(true)
}

/// All of them.
pub const ALL: &[Difference] = &[
    Difference {
        carried_by: Carrier::Linux,
        what: "a TCP segment that lies further back than a window",
        reason: "Whoever sends it knows neither what was sent lately nor what is expected; the receiver would answer \
                 each with an ACK. Retransmissions lie within a window, and pass.",
        applies: |_, step| step.what == What::Outside && step.label.contains("long ago"),
    },
    Difference {
        carried_by: Carrier::Linux,
        what: "a SYN, ACK in the middle of a connection, with numbers that are not the connection's",
        reason: "No end of this connection sends it; the receiver would answer with an ACK and tell where its window is.",
        applies: |_, step| step.what == What::Unsolicited && step.label.starts_with("SYN, ACK"),
    },
    Difference {
        carried_by: Carrier::Linux,
        what: "a RST outside of the window of a connection that is over, or that both ends have opened at the same time",
        reason: "Linux looks at the window of a RST in the middle of a connection alone. Its receiver believes none of these.",
        applies: |before, step| {
            let at_once = before.iter().any(|step| step.label.contains("simultaneous"));
            step.what == What::RstOutside && (!is_open(before) || at_once)
        },
    },
    Difference {
        carried_by: Carrier::Linux,
        what: "a HEARTBEAT ACK or a SHUTDOWN ACK of SCTP that no association is known for",
        reason: "An association begins by its INIT, a path of it by a HEARTBEAT (`not-init`). Linux takes these for the first packet of one, and \
                 leaves to the rules whether they pass.",
        applies: |_, step| {
            step.what == What::Stray
                && ["a chunk 5 ", "a chunk 8 "].iter().any(|it| step.label.starts_with(it))
        },
    },
    Difference {
        carried_by: Carrier::Linux,
        what: "a COOKIE ECHO of SCTP behind an ABORT of the end that asked, in cookie-wait",
        reason: "The association is closed for its opener (`sctp-state`), and counts no more for its source: if its cookie still stood, it would \
                 begin beside those that a rule grants. Linux stays in its state closed, and lets it pass.",
        applies: |before, step| {
            step.what == What::Stray
                && step.label == "COOKIE ECHO behind the opener's ABORT"
                && before.last().is_some_and(|last| last.label.starts_with("ABORT of the opener"))
        },
    },
    Difference {
        carried_by: Carrier::Linux,
        what: "the INIT ACK to an end that was called, and comes back and calls on the ports of its association",
        reason: "The rules have let the other end call, and not this one: the flow ends, and they are asked when the INIT is sent again.",
        applies: |before, step| {
            let opener = before.first().map(|first| first.from);
            step.what == What::SynAgain && step.label == "INIT ACK" && opener == Some(step.from)
        },
    },
    Difference {
        carried_by: Carrier::Linux,
        what: "a datagram of which fragments overlap",
        reason: "Whose bytes count depends on the receiver, so nobody can say what was let in (RFC 5722, RFC 8200 section \
                 4.5). Linux takes a fragment for a duplicate by its place alone; eastgate only where it has begun and ended alike before.",
        applies: |_, step| step.what == What::BrokenPiece && step.label.contains("overlap"),
    },
    Difference {
        carried_by: Carrier::Linux,
        what: "an ICMP error about a packet that was never sent, in the direction opposite to a flow's only packets",
        reason: "An error is let in for a packet that has passed (RFC 5927 section 4); Linux asks whether there is a flow.",
        applies: |before, step| {
            let passed = |other: &&Step| match other.what {
                What::ErrorAboutNothing | What::BadChecksum => false,
                What::Closed => other.from == B,
                _ => true,
            };
            let mut passed = before.iter().filter(passed).peekable();
            step.what == What::ErrorAboutNothing
                && passed.peek().is_some()
                && passed.all(|other| other.from == step.from)
        },
    },
    Difference {
        carried_by: Carrier::Eastgate,
        what: "a SYN on an open connection by the end that was called",
        reason: "It may be the one that has crashed and calls from the same port (RFC 9293 section 3.5.1). It changes nothing: the \
                 other end challenges it, and only its RST ends the connection.",
        applies: |before, step| {
            step.what == What::SynAgain && step.label.contains("crash") && step.from == B && is_open(before)
        },
    },
    Difference {
        carried_by: Carrier::Eastgate,
        what: "a UDP or ICMP packet of a known flow, with a wrong checksum",
        reason: "It begins no flow and changes no state; the receiver sees the checksum as well. TCP segments, which move their \
                 connection, are dropped (`bad-checksum`).",
        applies: |before, step| {
            // What a closed service says is a flow of its own.
            let known = before
                .iter()
                .any(|other| other.what == What::Regular || other.what == What::Closed && other.from == B);
            step.what == What::BadChecksum && step.label.starts_with("a question") && known
        },
    },
];

/// The one that a difference at `step`, behind these, is, if it is meant.
pub fn meant(carrier: Carrier, before: &[Step], step: &Step) -> Option<usize> {
    ALL.iter().position(|known| known.carried_by == carrier && (known.applies)(before, step))
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
    page + HELPERS
}

const PREFACE: &str = "\
# Where eastgate differs from Linux

<!-- Made by tests/linux; change tests/linux/differences.rs and run: EASTGATE_BLESS=1 cargo test --test linux -->

The tests send the same frames through eastgate, with each of its dataplanes, and through Linux: a bridge with
`br_netfilter`, `nf_conntrack` (`nf_conntrack_tcp_loose=0`) and iptables rules for the same services. Thousands of TCP connections, SCTP
associations, UDP and ICMP exchanges and datagrams in fragments are made up in each run, regular ones and such as crashed, late or hostile
machines send. A packet that one carries and the other does not fails the run, unless it is one of these.
";
/// Held by `tests/helpers.rs`.
const HELPERS: &str = "
## Read by Linux's helpers, and not by eastgate's

What FTP's helpers read is compared by other means: the same lines on real control connections, and whether the data connection that they
announce comes about (`tests/helpers.rs::what_both_sides_say_is_read_as_linux_reads_it`).

| line | why |
| --- | --- |
| a port below 1024 | No client and no server has its data ports there (RFC 2577 section 3), and hosts have their services there. |
| a 227 or 229 that the client has not asked for by PASV or EPSV | It comes from a server that has been made to say it. |
| a line inside a reply of several lines | It is the text of a file or of what somebody else has said, not the server's answer. |
| a command that reads like an announcement and is none | Linux drops the segment, and its sender sends it again and again; eastgate lets it pass and heeds it not. |
";
const LINUX: &str = "Carried by Linux, dropped by eastgate";
const EASTGATE: &str = "Carried by eastgate, dropped by Linux";
