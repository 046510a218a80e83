//! The packet that an ICMP error quotes.

use super::{Icmp, IcmpRole, Ip, Transport, proto, u16_at};
use crate::Addr;

/// The packet quoted inside an ICMP error: enough of it to find its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// Source address of the packet that failed
    pub src: Addr,
    /// Its destination address
    pub dst: Addr,
    /// Its protocol
    pub proto: u8,
    /// Source port, or ICMP identifier
    pub sport: u16,
    /// Destination port, or ICMP identifier
    pub dport: u16,
    /// TCP sequence number or SCTP verification tag, where the quotation reaches that far
    pub seq: Option<u32>,
    /// The ICMP query or its answer, when that is what is quoted
    pub icmp: Option<Icmp>,
}

impl Ip {
    /// The packet that an ICMP error quotes; nothing when too little of it is there, or when it is a later
    /// fragment, which names no ports. `frame` is the frame this header was parsed from.
    #[must_use]
    pub fn quoted(&self, frame: &[u8]) -> Option<Quoted> {
        let at = usize::from(self.l4) + 8;
        let quote = frame.get(at..usize::from(self.l4) + usize::from(self.l4_len))?;
        let (src, dst, proto, l4) = if self.src.is_v4() {
            let h = quote.first_chunk::<20>()?;
            let header_len = usize::from(h[0] & 0x0f) * 4;
            if h[0] >> 4 != 4 || header_len < 20 || u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0 {
                return None;
            }
            let src = Addr::v4([h[12], h[13], h[14], h[15]]);
            (src, Addr::v4([h[16], h[17], h[18], h[19]]), h[9], header_len)
        } else {
            let h = quote.first_chunk::<40>()?;
            if h[0] >> 4 != 6 {
                return None;
            }
            let (mut next, mut l4) = (h[6], 40usize);
            for _ in 0..8 {
                match next {
                    0 | 43 | 60 => {
                        let [following, len] = *quote.get(l4..)?.first_chunk()?;
                        next = following;
                        l4 += (usize::from(len) + 1) * 8;
                    }
                    44 => {
                        if u16_at(quote, l4 + 2)? & 0xfff8 != 0 {
                            return None;
                        }
                        next = *quote.get(l4)?;
                        l4 += 8;
                    }
                    _ => break,
                }
            }
            let src = Addr::v6(*h[8..].first_chunk()?);
            (src, Addr::v6(*h[24..].first_chunk()?), next, l4)
        };
        let (sport, dport, seq, icmp) = match proto {
            proto::TCP | proto::SCTP => {
                (u16_at(quote, l4)?, u16_at(quote, l4 + 2)?, u32_at(quote, l4 + 4), None)
            }
            proto::UDP | proto::DCCP | proto::UDPLITE => {
                (u16_at(quote, l4)?, u16_at(quote, l4 + 2)?, None, None)
            }
            proto::ICMP | proto::ICMPV6 => {
                let Ok(Transport::Icmp(icmp)) = Icmp::parse(quote.get(l4..)?) else { return None };
                match icmp.role(src.is_v4()) {
                    IcmpRole::Request | IcmpRole::Reply => (icmp.id, icmp.id, None, Some(icmp)),
                    _ => return None,
                }
            }
            _ => (0, 0, None, None),
        };
        Some(Quoted { src, dst, proto, sport, dport, seq, icmp })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::view::{
        View,
        tests::{DST, SRC, build},
    };

    #[test]
    fn an_icmp_error_names_the_flow_it_quotes() {
        let builder = PacketBuilder::ethernet2(SRC, DST).ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64).udp(5, 53);
        let quoted = build(builder, b"query");
        let error = PacketBuilder::ethernet2(DST, SRC)
            .ipv4([10, 1, 0, 21], [10, 1, 0, 11], 64)
            .icmpv4_raw(3, 3, [0; 4]);
        let mut frame = Vec::new();
        error.write(&mut frame, &quoted[14..42]).unwrap();
        let view = View::parse(&frame).unwrap();
        let quote = view.ip().unwrap().quoted(&frame).unwrap();
        assert_eq!((quote.src, quote.dst), (Addr::v4([10, 1, 0, 11]), Addr::v4([10, 1, 0, 21])));
        assert_eq!((quote.proto, quote.sport, quote.dport), (17, 5, 53));
    }
}
