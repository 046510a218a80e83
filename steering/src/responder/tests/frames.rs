//! An encoder that shares no line with the code under test: bytes as the RFCs draw them, a checksum by the
//! plain loop.

use eastgate_wire::MacAddr;

pub(super) const NONE: &[u8] = &[];
pub(super) const ALL: MacAddr = MacAddr([0xff; 6]);
pub(super) const ZERO: MacAddr = MacAddr([0; 6]);

pub(super) fn v4(text: &str) -> [u8; 4] {
    text.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

pub(super) fn v6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

/// `tags` are the bytes between the MACs and the ethertype.
pub(super) fn ethernet(dst: MacAddr, src: MacAddr, tags: &[u8], kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, tags, &kind, payload].concat()
}

/// ARP with every field free.
#[derive(Clone, Copy)]
pub(super) struct Arp {
    pub(super) dst: MacAddr,
    pub(super) src: MacAddr,
    pub(super) tags: &'static [u8],
    pub(super) kind: [u8; 2],
    /// hardware type, protocol type, both lengths
    pub(super) head: [u8; 6],
    pub(super) op: u16,
    pub(super) sha: MacAddr,
    pub(super) spa: [u8; 4],
    pub(super) tha: MacAddr,
    pub(super) tpa: [u8; 4],
}

impl Arp {
    pub(super) fn request(src: MacAddr, spa: &str, tpa: &str) -> Self {
        Self {
            dst: ALL,
            src,
            tags: NONE,
            kind: [0x08, 0x06],
            head: [0, 1, 8, 0, 6, 4],
            op: 1,
            sha: src,
            spa: v4(spa),
            tha: ZERO,
            tpa: v4(tpa),
        }
    }

    pub(super) fn reply(src: MacAddr, spa: &str, dst: MacAddr, tpa: &str) -> Self {
        Self { dst, op: 2, tha: dst, ..Self::request(src, spa, tpa) }
    }

    pub(super) fn to(self, dst: MacAddr) -> Self {
        Self { dst, ..self }
    }

    pub(super) fn tagged(self, tags: &'static [u8]) -> Self {
        Self { tags, ..self }
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        let op = self.op.to_be_bytes();
        let body = [&self.head[..], &op, &self.sha.0, &self.spa, &self.tha.0, &self.tpa].concat();
        ethernet(self.dst, self.src, self.tags, self.kind, &body)
    }
}

/// Neighbour discovery with every field free.
#[derive(Clone)]
pub(super) struct Nd {
    pub(super) dst: MacAddr,
    pub(super) src: MacAddr,
    pub(super) tags: &'static [u8],
    pub(super) ip_src: [u8; 16],
    pub(super) ip_dst: [u8; 16],
    pub(super) hop_limit: u8,
    /// Extension headers: the first one's number, and their bytes
    pub(super) chain: Option<(u8, Vec<u8>)>,
    pub(super) kind: u8,
    pub(super) code: u8,
    pub(super) flags: u8,
    pub(super) target: Vec<u8>,
    pub(super) options: Vec<u8>,
    /// Added to the right checksum
    pub(super) checksum_off_by: u16,
}

pub(super) fn option(kind: u8, mac: MacAddr) -> Vec<u8> {
    [&[kind, 1][..], &mac.0].concat()
}

impl Nd {
    pub(super) fn ns(src: MacAddr, ip_src: &str, target: &str) -> Self {
        let target = v6(target);
        let [.., x, y, z] = target;
        let options = if ip_src == "::" { Vec::new() } else { option(1, src) };
        Self {
            dst: MacAddr([0x33, 0x33, 0xff, x, y, z]),
            src,
            tags: NONE,
            ip_src: v6(ip_src),
            ip_dst: [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z],
            hop_limit: 255,
            chain: None,
            kind: 135,
            code: 0,
            flags: 0,
            target: target.to_vec(),
            options,
            checksum_off_by: 0,
        }
    }

    /// A reachability poll
    pub(super) fn poll(src: MacAddr, ip_src: &str, dst: MacAddr, target: &str) -> Self {
        Self { dst, ip_dst: v6(target), ..Self::ns(src, ip_src, target) }
    }

    /// `flags`: 0x80 router, 0x40 solicited, 0x20 override
    pub(super) fn na(src: MacAddr, target: &str, dst: MacAddr, ip_dst: &str, flags: u8) -> Self {
        let (target, options) = (v6(target), option(2, src));
        let (ip_src, ip_dst) = (target, v6(ip_dst));
        Self { dst, ip_src, ip_dst, kind: 136, flags, options, ..Self::ns(src, "::", "::") }
            .with_target(target)
    }

    pub(super) fn unsolicited(src: MacAddr, target: &str) -> Self {
        Self::na(src, target, MacAddr([0x33, 0x33, 0, 0, 0, 1]), "ff02::1", 0x20)
    }

    pub(super) fn rs(src: MacAddr, ip_src: &str) -> Self {
        let all_routers = (MacAddr([0x33, 0x33, 0, 0, 0, 2]), v6("ff02::2"));
        let (dst, ip_dst) = all_routers;
        Self { dst, ip_dst, kind: 133, target: Vec::new(), ..Self::ns(src, ip_src, "::") }
    }

    fn with_target(self, target: [u8; 16]) -> Self {
        Self { target: target.to_vec(), ..self }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut icmp =
            [&[self.kind, self.code, 0, 0, self.flags, 0, 0, 0][..], &self.target, &self.options].concat();
        let mut summed =
            [&self.ip_src[..], &self.ip_dst, &(icmp.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
        summed.extend_from_slice(&icmp);
        let sum = checksum(&summed).wrapping_add(self.checksum_off_by);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let (first, chain) = self.chain.clone().unwrap_or((58, Vec::new()));
        let len = ((chain.len() + icmp.len()) as u16).to_be_bytes();
        let head = [0x60, 0, 0, 0, len[0], len[1], first, self.hop_limit];
        let packet = [&head[..], &self.ip_src, &self.ip_dst, &chain, &icmp].concat();
        ethernet(self.dst, self.src, self.tags, [0x86, 0xdd], &packet)
    }
}

/// RFC 1071, 16 bits at a time.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
