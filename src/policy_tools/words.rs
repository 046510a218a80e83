//! Regions in words: services and peers as people write them.

use std::collections::BTreeMap;

use eastgate_policy::analysis::{AddressRange, ByteSet, Slice};
use eastgate_wire::{Addr, names, view::proto};

/// Services as people write them: `tcp 443`, `icmp type 8`, `any protocol`.
#[must_use]
pub fn services_text(services: &[Slice]) -> Vec<String> {
    services.iter().map(service).collect()
}

fn service(slice: &Slice) -> String {
    let (first, last) = slice.protocols;
    let mut text = match (first, last) {
        (0, 255) => "any protocol".to_owned(),
        (first, last) if first == last => names::protocol_name(first),
        (first, last) => format!("protocols {first}-{last}"),
    };
    if let Some((low, high)) = slice.below {
        if matches!(first, proto::ICMP | proto::ICMPV6) {
            text += &icmp(low.to_be_bytes(), high.to_be_bytes());
        } else {
            text += &format!(" {}", span(low, high));
        }
    }
    if let Some((low, high)) = slice.source {
        text += &format!(" from source port {}", span(low, high));
    }
    if let Some(dscp) = slice.dscp {
        text += &format!(" with DSCP {}", numbers(dscp));
    }
    if let Some(flags) = slice.flags {
        text += &match (flags.as_mask(), ByteSet::ALL.but(flags).as_mask()) {
            (Some((set, clear)), _) => format!(" with TCP flags {}", mask(set, clear)),
            (None, Some((set, clear))) => format!(" with other TCP flags than {}", mask(set, clear)),
            (None, None) => format!(" with {} of 256 combinations of TCP flags", flags.iter().count()),
        };
    }
    text
}

fn numbers(set: ByteSet) -> String {
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    for number in set.iter() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let texts: Vec<String> =
        ranges.into_iter().map(|(first, last)| span(first.into(), last.into())).collect();
    texts.join(",")
}

/// Flags that are set, of those that are looked at, as a rule writes them: `syn/syn,ack`.
fn mask(set: u8, clear: u8) -> String {
    const NAMES: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    let names = |bits: u8| {
        let named = NAMES.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        let named: Vec<&str> = named.map(|(_, name)| *name).collect();
        if named.is_empty() { "none".to_owned() } else { named.join(",") }
    };
    format!("{}/{}", names(set), names(set | clear))
}

fn icmp([low, low_code]: [u8; 2], [high, high_code]: [u8; 2]) -> String {
    match (low_code, high_code) {
        (0, 255) if low == high => format!(" type {low}"),
        (0, 255) => format!(" types {low}-{high}"),
        (first, last) if low == high && first == last => format!(" type {low} code {first}"),
        (first, last) if low == high => format!(" type {low} codes {first}-{last}"),
        (first, last) => format!(" from type {low} code {first} to type {high} code {last}"),
    }
}

fn span(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// The last address below IPv4's numbers, and the first one above them
const AROUND_V4: [u128; 2] = [0xfffe_ffff_ffff, 0x1_0000_0000_0000];

/// Peers as people write them: `any`, prefixes, ranges, and single addresses with the name of the endpoint that has them.
#[must_use]
pub fn peers_text(ranges: &[AddressRange], owners: &BTreeMap<Addr, String>) -> Vec<String> {
    let mut texts = Vec::new();
    // IPv4's numbers lie in the middle of IPv6's, where no IPv6 address is.
    let mut joined: Vec<(Addr, Addr)> = Vec::new();
    for range in ranges.iter().filter(|range| !range.first.is_v4()) {
        match joined.last_mut() {
            Some((_, last)) if [last.bits(), range.first.bits()] == AROUND_V4 => *last = range.last,
            _ => joined.push((range.first, range.last)),
        }
    }
    let v4 = ranges.iter().filter(|range| range.first.is_v4()).map(|range| (range.first, range.last));
    for (first, last) in v4.chain(joined) {
        match all_owned(first, last, owners) {
            Some(owned) => texts.extend(owned),
            None => texts.push(range_text(first, last)),
        }
    }
    if texts == ["0.0.0.0/0", "::/0"] { vec!["any".to_owned()] } else { texts }
}

/// Each address with its owner, where all have one
fn all_owned(first: Addr, last: Addr, owners: &BTreeMap<Addr, String>) -> Option<Vec<String>> {
    let owned = owners.range(first..=last);
    let all = last.bits() - first.bits() < owned.clone().count() as u128;
    all.then(|| owned.map(|(address, owner)| format!("{address} ({owner})")).collect())
}

fn range_text(first: Addr, last: Addr) -> String {
    if first == last {
        return first.to_string();
    }
    if (first.bits(), last.bits()) == (0, u128::MAX) {
        return "::/0".to_owned();
    }
    let range = AddressRange { first, last };
    match range.prefixes()[..] {
        [(network, len)] => format!("{network}/{}", if network.is_v4() { len - 96 } else { len }),
        _ => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: &str, last: &str) -> AddressRange {
        let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap().into();
        AddressRange { first: address(first), last: address(last) }
    }

    #[test]
    fn peers_read_as_they_are_written() {
        let owners = BTreeMap::from([(range("10.1.0.11", "10.1.0.11").first, "acme/web1".to_owned())]);
        let text = |ranges: &[AddressRange]| peers_text(ranges, &owners).join(" ");
        let below = AddressRange { first: Addr::from_bits(0), last: Addr::from_bits(AROUND_V4[0]) };
        let above = AddressRange { first: Addr::from_bits(AROUND_V4[1]), last: Addr::from_bits(u128::MAX) };
        let v4 = range("0.0.0.0", "255.255.255.255");
        assert_eq!(text(&[below, v4, above]), "any");
        assert_eq!(text(&[below, above]), "::/0");
        assert_eq!(text(&[v4]), "0.0.0.0/0");
        assert_eq!(
            text(&[
                range("10.1.0.11", "10.1.0.11"),
                range("10.1.0.13", "10.1.0.14"),
                range("fd00::", "fd00::ff")
            ]),
            "10.1.0.11 (acme/web1) 10.1.0.13-10.1.0.14 fd00::/120"
        );
    }

    #[test]
    fn services_read_as_they_are_written() {
        let slice = |protocols, below, source| service(&Slice { protocols, below, source, ..Slice::ANY });
        assert_eq!(slice((0, 255), None, None), "any protocol");
        assert_eq!(slice((7, 16), None, None), "protocols 7-16");
        assert_eq!(slice((6, 6), Some((443, 443)), Some((1, 9))), "tcp 443 from source port 1-9");
        assert_eq!(slice((1, 1), Some((0x800, 0x8ff)), None), "icmp type 8");
        assert_eq!(slice((1, 1), Some((0x304, 0x304)), None), "icmp type 3 code 4");
        assert_eq!(slice((58, 58), Some((0x8000, 0x81ff)), None), "icmpv6 types 128-129");
        let flags = |fits: fn(u8) -> bool| {
            let flags = Some(ByteSet::of(fits));
            service(&Slice { protocols: (6, 6), flags, ..Slice::ANY })
        };
        assert_eq!(flags(|it| it & 0x12 == 2), "tcp with TCP flags syn/syn,ack");
        assert_eq!(flags(|it| it & 0x12 != 2), "tcp with other TCP flags than syn/syn,ack");
        assert_eq!(flags(|it| it < 3), "tcp with 3 of 256 combinations of TCP flags");
        let dscp = Some(ByteSet::of(|it| it < 10 || it == 46));
        assert_eq!(service(&Slice { dscp, ..Slice::ANY }), "any protocol with DSCP 0-9,46");
    }
}
