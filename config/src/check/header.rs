//! What a policy's rule asks of a packet's header beside protocol and ports: DSCP and TCP flags.

use eastgate_wire::view::{proto::TCP, tcp_flags as flag};

use super::icmp::number;
use crate::{
    model::{FlagMatch, Protocol},
    problem::{Near, Problem},
    read::{At, Reader},
    tables::PolicyRuleTable,
    values::NumberOrWord,
};

/// IANA's registry of DSCP, in lower case; and what RFC 2474 calls the default.
const DSCP: [(&str, u8); 24] = [
    ("default", 0),
    ("le", 1),
    ("cs0", 0),
    ("cs1", 8),
    ("cs2", 16),
    ("cs3", 24),
    ("cs4", 32),
    ("cs5", 40),
    ("cs6", 48),
    ("cs7", 56),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("voice-admit", 44),
    ("ef", 46),
];

const FLAGS: [(&str, u8); 8] = [
    ("fin", flag::FIN),
    ("syn", flag::SYN),
    ("rst", flag::RST),
    ("psh", flag::PSH),
    ("ack", flag::ACK),
    ("urg", flag::URG),
    ("ece", 0x40),
    ("cwr", 0x80),
];

/// The values of a rule's `dscp`, each once; none where one of them is no good.
pub(super) fn dscp(table: &PolicyRuleTable, reader: &mut Reader) -> Option<Box<[u8]>> {
    let written = table.dscp.good().into_iter().flat_map(|list| &list.value.0);
    let mut values = Vec::new();
    let mut good = true;
    for At { value: NumberOrWord(word), span } in written {
        let named = DSCP.iter().find(|(name, _)| *name == word.to_lowercase()).map(|(_, value)| *value);
        match named.or_else(|| number(word)).filter(|value| *value < 64) {
            Some(value) => values.push(value),
            None => {
                let near = Near::new(word, DSCP.iter().map(|(name, _)| *name));
                reader.report(Problem::BadDscp { text: word.clone(), near }, *span);
                good = false;
            }
        }
    }
    values.sort_unstable();
    values.dedup();
    good.then(|| values.into())
}

/// A rule's `tcp_flags`, written as those that are set and, behind a `/`, those that are looked at.
pub(super) fn tcp_flags(
    table: &PolicyRuleTable,
    protocol: Protocol,
    negated: bool,
    reader: &mut Reader,
) -> Option<FlagMatch> {
    let written = table.tcp_flags.good()?;
    let parsed = parse(&written.value);
    if parsed.is_none() {
        reader.report(Problem::BadFlags { text: written.value.to_string() }, written.span);
    }
    if protocol != Protocol::Number(TCP) {
        reader.report(Problem::FlagsNotPossible {}, written.span);
    }
    parsed.map(|(set, of)| FlagMatch { set, of, negated })
}

/// The flags that are set, and those that are looked at.
fn parse(text: &str) -> Option<(u8, u8)> {
    let (set, of) = text.split_once('/')?;
    let (set, of) = (flags(set)?, flags(of)?);
    (of != 0 && set & !of == 0).then_some((set, of))
}

fn flags(text: &str) -> Option<u8> {
    if text.trim() == "none" {
        return Some(0);
    }
    text.split(',').try_fold(0, |all, word| {
        let word = word.trim().to_lowercase();
        FLAGS.iter().find(|(name, _)| *name == word).map(|(_, flag)| all | flag)
    })
}

impl std::fmt::Display for FlagMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |flags: u8| {
            let names: Vec<&str> =
                FLAGS.iter().filter(|(_, flag)| flags & flag != 0).map(|(name, _)| *name).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(",") }
        };
        let not = if self.negated { "not " } else { "" };
        write!(f, "{not}{}/{}", names(self.set), names(self.of))
    }
}
