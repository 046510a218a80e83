//! Names of protocols, as people write them.

use eastgate_wire::view::proto;

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
pub fn packet(key: &eastgate_wire::FlowKey) -> String {
    let side = |addr: eastgate_wire::Addr, port: u16| match (port, key.proto) {
        (0, _) | (_, proto::ICMP | proto::ICMPV6) => addr.to_string(),
        _ => std::net::SocketAddr::new(addr.to_ip(), port).to_string(),
    };
    format!("{} {} -> {}", protocol_name(key.proto), side(key.src, key.sport), side(key.dst, key.dport))
}
