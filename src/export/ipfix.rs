//! IPFIX over UDP (RFC 7011): templates and records as a collector takes them.
//!
//! All that is told is of IANA's registry, so that any collector has words for it; names of tenants, endpoints and rules are in the JSON
//! lines. Numbers are in network byte order.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use eastgate_wire::{
    DropGroup, Vni,
    view::{ETHERNET_LEN, proto},
};

use super::{Fate, Record};

/// The protocol's number
const VERSION: u16 = 10;
const HEADER: usize = 16;
const SET_HEADER: usize = 4;
const TEMPLATES: u16 = 2;
/// Of flows over IPv4, and over IPv6
const TEMPLATE_V4: u16 = 256;
const TEMPLATE_V6: u16 = 257;

/// Bytes of a message at most: what passes most paths in one piece, with room for tunnels
const LARGEST: usize = 1400;
/// Bytes of a message where nothing is known of the path (RFC 7011 section 10.3.3)
const UNKNOWN_PATH: usize = 512;
/// How often templates are sent again, which a collector that was started late needs (RFC 7011 section 8.4)
pub const TEMPLATES_EVERY: Duration = Duration::from_secs(60);

/// Number and length of an information element
type Element = (u16, u16);

const OCTETS: Element = (1, 8);
const PACKETS: Element = (2, 8);
const PROTOCOL: Element = (4, 1);
const SOURCE_PORT: Element = (7, 2);
const SOURCE_V4: Element = (8, 4);
const DESTINATION_PORT: Element = (11, 2);
const DESTINATION_V4: Element = (12, 4);
const SOURCE_V6: Element = (27, 16);
const DESTINATION_V6: Element = (28, 16);
const ICMP_V4: Element = (32, 2);
const FORWARDING_STATUS: Element = (89, 1);
const END_REASON: Element = (136, 1);
const ICMP_V6: Element = (139, 2);
const START: Element = (152, 8);
const END: Element = (153, 8);
const FIREWALL_EVENT: Element = (233, 1);
const SEGMENT: Element = (351, 8);
const FRAME_OCTETS: Element = (352, 8);

/// `layer2SegmentId` of a VXLAN network: its kind is in the highest byte.
const VXLAN: u64 = 1 << 56;

const fn elements(source: Element, destination: Element, icmp: Element) -> [Element; 15] {
    [
        START,
        END,
        OCTETS,
        FRAME_OCTETS,
        PACKETS,
        SEGMENT,
        source,
        destination,
        SOURCE_PORT,
        DESTINATION_PORT,
        icmp,
        PROTOCOL,
        END_REASON,
        FORWARDING_STATUS,
        FIREWALL_EVENT,
    ]
}

const V4: [Element; 15] = elements(SOURCE_V4, DESTINATION_V4, ICMP_V4);
const V6: [Element; 15] = elements(SOURCE_V6, DESTINATION_V6, ICMP_V6);

/// Makes messages.
#[derive(Debug)]
pub struct Encoder {
    domain: u32,
    /// Records that were sent, of which a collector sees how many it has lost
    sequence: u32,
    /// Bytes of a message at most
    largest: usize,
    /// When templates were sent last
    templates_at: Option<Instant>,
}

impl Encoder {
    /// One for an observation domain: a collector tells exporters of one address apart by it. Messages fit packets that carry so
    /// many bytes over UDP, as far as the path is known.
    #[must_use]
    pub fn new(domain: u32, carries: Option<usize>) -> Self {
        let mut encoder = Self { domain, sequence: 0, largest: UNKNOWN_PATH, templates_at: None };
        encoder.fit(carries);
        encoder
    }

    /// More is known of the path.
    pub fn fit(&mut self, carries: Option<usize>) {
        self.largest = carries.unwrap_or(UNKNOWN_PATH).clamp(UNKNOWN_PATH, LARGEST);
    }

    /// The messages that tell of these records, with templates where it is time for them. None where there is nothing to send.
    /// `now_s` is the clock of the wall's, which may be set.
    pub fn messages(&mut self, records: &[Record], now_s: u64, now: Instant) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        if self.templates_at.is_none_or(|at| now.saturating_duration_since(at) >= TEMPLATES_EVERY) {
            self.templates_at = Some(now);
            messages.push(self.message(&[templates()], 0, now_s));
        }
        for (id, is_v4) in [(TEMPLATE_V4, true), (TEMPLATE_V6, false)] {
            let of_family: Vec<&Record> = records.iter().filter(|it| it.src.0.is_ipv4() == is_v4).collect();
            let each: usize = if is_v4 { &V4 } else { &V6 }.iter().map(|(_, len)| usize::from(*len)).sum();
            for some in of_family.chunks((self.largest - HEADER - SET_HEADER) / each) {
                let mut data = Vec::with_capacity(some.len() * each);
                some.iter().for_each(|record| write(record, &mut data));
                messages.push(self.message(&[set(id, &data)], some.len() as u32, now_s));
            }
        }
        messages
    }

    fn message(&mut self, sets: &[Vec<u8>], records: u32, now_s: u64) -> Vec<u8> {
        let len = HEADER + sets.iter().map(Vec::len).sum::<usize>();
        let mut message = Vec::with_capacity(len);
        message.extend(VERSION.to_be_bytes());
        message.extend((len as u16).to_be_bytes());
        // Of 32 bits until 2106 (RFC 7011 section 3.1)
        message.extend((now_s as u32).to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend(self.domain.to_be_bytes());
        sets.iter().for_each(|set| message.extend(set));
        self.sequence = self.sequence.wrapping_add(records);
        message
    }
}

fn set(id: u16, content: &[u8]) -> Vec<u8> {
    let len = (SET_HEADER + content.len()) as u16;
    [&id.to_be_bytes()[..], &len.to_be_bytes(), content].concat()
}

fn templates() -> Vec<u8> {
    let mut content = Vec::new();
    for (id, elements) in [(TEMPLATE_V4, V4), (TEMPLATE_V6, V6)] {
        content.extend(id.to_be_bytes());
        content.extend((elements.len() as u16).to_be_bytes());
        for (number, len) in elements {
            content.extend(number.to_be_bytes());
            content.extend(len.to_be_bytes());
        }
    }
    set(TEMPLATES, &content)
}

/// A record, in the order of [`elements`].
fn write(record: &Record, out: &mut Vec<u8>) {
    out.extend(record.start_ms.to_be_bytes());
    out.extend(record.end_ms.to_be_bytes());
    // What is counted here is frames; IPFIX's octets begin with the IP header.
    let headers = record.packets.saturating_mul(ETHERNET_LEN as u64);
    out.extend(record.bytes.saturating_sub(headers).to_be_bytes());
    out.extend(record.bytes.to_be_bytes());
    out.extend(record.packets.to_be_bytes());
    out.extend(segment(record.vni).to_be_bytes());
    for (address, _) in [record.src, record.dst] {
        match address {
            IpAddr::V4(address) => out.extend(address.octets()),
            IpAddr::V6(address) => out.extend(address.octets()),
        }
    }
    // Of what has no ports they are 0; an ICMP identifier is none.
    let has_ports = record.icmp.is_none() && !is_icmp(record.proto);
    for (_, port) in [record.src, record.dst] {
        out.extend(if has_ports { port } else { 0 }.to_be_bytes());
    }
    let (kind, code) = record.icmp.unwrap_or_default();
    out.extend([kind, code, record.proto, record.reason as u8]);
    out.extend([forwarding_status(record.fate), firewall_event(record)]);
}

const fn is_icmp(number: u8) -> bool {
    matches!(number, proto::ICMP | proto::ICMPV6)
}

fn segment(vni: Vni) -> u64 {
    VXLAN | u64::from(vni.get())
}

/// RFC 7270 section 4.12
const fn forwarding_status(fate: Fate) -> u8 {
    const FORWARDED: u8 = 64;
    const DROPPED: u8 = 128;
    match fate {
        Fate::Forwarded | Fate::Audited => FORWARDED,
        // "ACL deny", "policer", "RPF"
        Fate::Dropped(DropGroup::Policy) => DROPPED + 1,
        Fate::Dropped(DropGroup::Limit) => DROPPED + 10,
        Fate::Dropped(DropGroup::Admission) => DROPPED + 12,
        Fate::Dropped(_) => DROPPED,
    }
}

/// IANA's `firewallEvent`: deleted, denied, alert, update
const fn firewall_event(record: &Record) -> u8 {
    match (record.fate, record.reason) {
        (Fate::Dropped(_), _) => 3,
        (Fate::Audited, _) => 4,
        (Fate::Forwarded, super::EndReason::Active) => 5,
        (Fate::Forwarded, _) => 2,
    }
}
