//! Names of protocols as people write them, and numbers and lists in words.

use crate::{Addr, FlowKey, view::proto};

const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", proto::ICMP),
    ("igmp", 2),
    ("tcp", proto::TCP),
    ("udp", proto::UDP),
    ("dccp", proto::DCCP),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", proto::ICMPV6),
    ("ospf", 89),
    ("vrrp", 112),
    ("sctp", proto::SCTP),
    ("udplite", proto::UDPLITE),
];

/// The number of a protocol given by name or number.
#[must_use]
pub fn protocol_number(text: &str) -> Option<u8> {
    let lower = text.to_ascii_lowercase();
    PROTOCOLS.iter().find(|(name, _)| *name == lower).map(|(_, number)| *number).or_else(|| text.parse().ok())
}

/// The name of a protocol, or its number.
#[must_use]
pub fn protocol_name(number: u8) -> String {
    PROTOCOLS
        .iter()
        .find(|(_, known)| *known == number)
        .map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// A packet in words: `tcp 10.1.0.11:40000 -> 10.1.0.21:22`.
#[must_use]
pub fn packet(key: &FlowKey) -> String {
    let side = |addr: Addr, port: u16| match (port, key.proto) {
        (0, _) | (_, proto::ICMP | proto::ICMPV6) => addr.to_string(),
        _ => std::net::SocketAddr::new(addr.to_ip(), port).to_string(),
    };
    format!("{} {} -> {}", protocol_name(key.proto), side(key.src, key.sport), side(key.dst, key.dport))
}

/// Whether what stands in a flow's port fields are ports.
#[must_use]
pub const fn has_ports(number: u8) -> bool {
    matches!(number, proto::TCP | proto::UDP | proto::DCCP | proto::SCTP | proto::UDPLITE)
}

/// A number of things: `1 error`, `2 errors`. The plural is the word with an `s`.
#[must_use]
pub fn count(number: impl TryInto<u64>, word: &str) -> String {
    let number: u64 = number.try_into().unwrap_or(u64::MAX);
    let plural = match word.strip_suffix("entry") {
        _ if number == 1 => word.to_owned(),
        Some(stem) => format!("{stem}entries"),
        None if word.ends_with("policy") => format!("{}policies", word.trim_end_matches("policy")),
        None => format!("{word}s"),
    };
    format!("{number} {plural}")
}

/// A list of which the first few are named, and the others counted.
#[must_use]
pub fn some_of(list: &[String], most: usize, between: &str) -> String {
    match list.len().checked_sub(most) {
        None | Some(0) => list.join(between),
        Some(more) => {
            let first = list.get(..most).unwrap_or_default().join(between);
            format!("{first}{between}and {more} more")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lists_in_words() {
        assert_eq!(
            [count(1u8, "error"), count(0u8, "error"), count(2u8, "learned entry")],
            ["1 error", "0 errors", "2 learned entries"]
        );
        let list: Vec<String> = (1..=10_000).map(|n| format!("vm{n}")).collect();
        assert_eq!(some_of(&list, 2, ", "), "vm1, vm2, and 9998 more");
        assert_eq!(some_of(&list[..2], 2, ","), "vm1,vm2");
    }
}
