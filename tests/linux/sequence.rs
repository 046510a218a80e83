//! A sequence of frames between two machines, and what each of them is.

use crate::frames::{self, Host};

/// What a frame is, as far as it decides whether a difference is one of those that stand in the documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// What a stack sends when all is well
    Regular,
    /// A SYN on ports that had a connection
    SynAgain,
    /// A RST whose sequence number is the one that is expected next
    RstExact,
    /// A RST elsewhere in the window
    RstInWindow,
    /// A RST outside of the window
    RstOutside,
    /// Data or an acknowledgement outside of the window
    Outside,
    /// A segment of a connection that is over, or that never was
    Stray,
    /// Flags that no stack combines
    OddFlags,
    /// A checksum that is wrong
    BadChecksum,
    /// An answer that nobody asked for
    Unsolicited,
    /// An error message about a packet of this sequence
    Error,
    /// An error message about a packet that was never sent
    ErrorAboutNothing,
    /// A piece of a datagram that is whole in the end
    Piece,
    /// A piece of a datagram with pieces that overlap, or that miss
    BrokenPiece,
    /// A packet to a service that no rule lets in
    Closed,
    /// ARP and the like, which each device makes of what it will: where the packets go that follow is compared
    Announcement,
}

/// A frame, and who sends it.
#[derive(Clone, Debug)]
pub struct Step {
    pub from: Host,
    pub to: Host,
    pub what: What,
    /// In words
    pub label: String,
    pub frame: Vec<u8>,
}

/// Frames that are sent one after the other.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub name: String,
    pub steps: Vec<Step>,
}

impl Sequence {
    /// Each step in a line, for a person.
    pub fn describe(&self, until: usize) -> String {
        let lines = self.steps.iter().take(until + 1).enumerate().map(|(number, step)| {
            let ends = format!("{} -> {}", letter(step.from), letter(step.to));
            format!("    {number:2} {ends} {:?}: {}", step.what, step.label)
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Is it about datagrams in pieces, of which only the whole counts?
    pub fn in_pieces(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.what, What::Piece | What::BrokenPiece))
    }
}

fn letter(host: Host) -> char {
    match host {
        frames::A => 'a',
        frames::B => 'b',
        _ => 'c',
    }
}
