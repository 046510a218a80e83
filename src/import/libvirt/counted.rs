//! `connlimit-above`: a rule that drops what is more than so many connections of a source, which later rules would accept. Here the
//! rule that accepts says how many, which is the same where it is one rule.

use crate::import::site::Rule;

/// Rules that drop what is more than so many, in their order
#[derive(Default)]
pub(super) struct Counted(Vec<Dropping>);

struct Dropping {
    /// What it counts
    matches: Rule,
    most: u32,
    /// Some rule says how many in its place.
    said: bool,
}

/// How much of what a rule accepts another one counts
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    None,
    Some,
    All,
}

impl Counted {
    /// A rule that drops what is more than `most`.
    pub(super) fn add(&mut self, matches: Rule, most: u32) {
        self.0.push(Dropping { matches, most, said: false });
    }

    /// What a rule accepts may be counted by one before it.
    pub(super) fn limit(&mut self, rule: &mut Rule) -> Result<(), String> {
        for dropping in &mut self.0 {
            match dropping.matches.share_of(rule) {
                Share::None => {}
                Share::All if dropping.said => {
                    return Err("`connlimit-above` that counts what several rules accept together".into());
                }
                Share::All if rule.connections.is_some() => {
                    return Err("two rules with `connlimit-above` before one that accepts".into());
                }
                Share::All => (rule.connections, dropping.said) = (Some(dropping.most), true),
                Share::Some => return Err("`connlimit-above` for a part of what a rule accepts".into()),
            }
        }
        Ok(())
    }

    /// What no rule settles is accepted: nobody can say how much of it.
    pub(super) fn end_open(&self) -> Result<(), String> {
        match self.0.iter().all(|dropping| dropping.said) {
            true => Ok(()),
            false => Err("`connlimit-above` for what no rule accepts by itself".into()),
        }
    }
}

impl Rule {
    fn share_of(&self, rule: &Self) -> Share {
        let ports = |own: Option<(u16, u16)>, others: Option<(u16, u16)>| match (own, others) {
            (None, _) => Share::All,
            (Some((first, last)), Some((low, high))) if first <= low && high <= last => Share::All,
            (Some((first, last)), Some((low, high))) if high < first || last < low => Share::None,
            _ => Share::Some,
        };
        let protocol = match (&self.protocol, &rule.protocol) {
            (None, _) => Share::All,
            (own, others) if own == others => Share::All,
            (_, None) => Share::Some,
            _ => Share::None,
        };
        // Which share of others a negated part is, is not worked out.
        let asks_nothing = self.ports.is_none()
            && self.source_ports.is_none()
            && self.peers == ["any"]
            && self.icmp.is_none()
            && self.dscp.is_none()
            && self.tcp_flags.is_none();
        if !(self.not.is_empty() && rule.not.is_empty() || asks_nothing) {
            return if protocol == Share::None { Share::None } else { Share::Some };
        }
        let asks_the_same = (self.peers == ["any"] || self.peers == rule.peers)
            && (self.icmp.is_none() || self.icmp == rule.icmp)
            && (self.dscp.is_none() || self.dscp == rule.dscp)
            && (self.tcp_flags.is_none() || self.tcp_flags == rule.tcp_flags);
        let rest = if asks_the_same { Share::All } else { Share::Some };
        let all =
            [protocol, ports(self.ports, rule.ports), ports(self.source_ports, rule.source_ports), rest];
        match all {
            all if all.contains(&Share::None) => Share::None,
            all if all.contains(&Share::Some) => Share::Some,
            _ => Share::All,
        }
    }
}
