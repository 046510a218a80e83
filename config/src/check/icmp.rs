//! The names of ICMP and ICMPv6 types and codes (IANA's registries, lower case and joined by hyphens).

use eastgate_wire::Family;

/// A type: its number, name and named codes.
struct Kind(u8, &'static str, &'static [(u8, &'static str)]);

const V4: [Kind; 11] = [
    Kind(0, "echo-reply", &[]),
    Kind(
        3,
        "destination-unreachable",
        &[
            (0, "network-unreachable"),
            (1, "host-unreachable"),
            (2, "protocol-unreachable"),
            (3, "port-unreachable"),
            (4, "fragmentation-needed"),
            (5, "source-route-failed"),
            (9, "network-prohibited"),
            (10, "host-prohibited"),
            (13, "communication-prohibited"),
        ],
    ),
    Kind(4, "source-quench", &[]),
    Kind(
        5,
        "redirect",
        &[
            (0, "network-redirect"),
            (1, "host-redirect"),
            (2, "tos-network-redirect"),
            (3, "tos-host-redirect"),
        ],
    ),
    Kind(8, "echo-request", &[]),
    Kind(9, "router-advertisement", &[]),
    Kind(10, "router-solicitation", &[]),
    Kind(11, "time-exceeded", &[(0, "ttl-exceeded"), (1, "reassembly-timeout")]),
    Kind(12, "parameter-problem", &[(0, "pointer"), (1, "required-option-missing"), (2, "bad-length")]),
    Kind(13, "timestamp-request", &[]),
    Kind(14, "timestamp-reply", &[]),
];

const V6: [Kind; 15] = [
    Kind(
        1,
        "destination-unreachable",
        &[
            (0, "no-route"),
            (1, "communication-prohibited"),
            (2, "beyond-scope"),
            (3, "address-unreachable"),
            (4, "port-unreachable"),
            (5, "source-policy-failed"),
            (6, "reject-route"),
        ],
    ),
    Kind(2, "packet-too-big", &[]),
    Kind(3, "time-exceeded", &[(0, "hop-limit-exceeded"), (1, "reassembly-timeout")]),
    Kind(4, "parameter-problem", &[(0, "bad-header"), (1, "unknown-next-header"), (2, "unknown-option")]),
    Kind(128, "echo-request", &[]),
    Kind(129, "echo-reply", &[]),
    Kind(130, "mld-query", &[]),
    Kind(131, "mld-report", &[]),
    Kind(132, "mld-done", &[]),
    Kind(133, "router-solicitation", &[]),
    Kind(134, "router-advertisement", &[]),
    Kind(135, "neighbor-solicitation", &[]),
    Kind(136, "neighbor-advertisement", &[]),
    Kind(137, "redirect", &[]),
    Kind(143, "mldv2-report", &[]),
];

const fn table(family: Family) -> &'static [Kind] {
    match family {
        Family::V4 => &V4,
        Family::V6 => &V6,
    }
}

/// A number from 0 to 255 in decimal.
pub(super) fn number(word: &str) -> Option<u8> {
    if word.bytes().all(|b| b.is_ascii_digit()) { word.parse().ok() } else { None }
}

/// The type called so.
pub(super) fn kind(family: Family, word: &str) -> Option<u8> {
    let named = table(family).iter().find(|kind| kind.1 == word).map(|kind| kind.0);
    named.or_else(|| number(word))
}

/// The names of types.
pub(super) fn kinds(family: Family) -> impl Iterator<Item = &'static str> {
    table(family).iter().map(|kind| kind.1)
}

/// The code of this type that is called so.
pub(super) fn code(family: Family, kind: u8, word: &str) -> Option<u8> {
    let named = named_codes(family, kind).iter().find(|(_, name)| *name == word).map(|(code, _)| *code);
    named.or_else(|| number(word))
}

/// The names of the codes of this type.
pub(super) fn codes(family: Family, kind: u8) -> impl Iterator<Item = &'static str> {
    named_codes(family, kind).iter().map(|(_, name)| *name)
}

fn named_codes(family: Family, kind: u8) -> &'static [(u8, &'static str)] {
    table(family).iter().find(|known| known.0 == kind).map_or(&[], |known| known.2)
}
