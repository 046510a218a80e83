//! Who owns an address: one answer for admission, for ARP and neighbour discovery, and for the tables of the fast path.
//!
//! What this promises, for the endpoints of one network:
//! - An address that is configured for an endpoint, or that a pair names exactly, belongs to those endpoints and to nobody
//!   else: no wider pair, and no sender without port security, gets at it.
//! - A prefix entitles to what is left in it, in its own family.
//! - An endpoint has all its addresses with all its MACs, since stacks send so (a macvlan's address leaves by the parent
//!   device). Saying to others that a MAC has an address takes the very pair of both.

use std::collections::HashMap;

use ahash::RandomState;

use crate::{Addr, EndpointId, MacAddr};

/// An allowed address pair: a prefix that an endpoint may use beside its own addresses, and the MAC it goes with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressPair {
    /// The MAC
    pub mac: MacAddr,
    /// The prefix's address
    pub network: Addr,
    /// Its length in the 128-bit form: an IPv4 prefix has 96 added
    pub len: u8,
}

impl AddressPair {
    /// Names one address, and not a range of them?
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.len == 128
    }

    /// Is the address in its prefix? An IPv6 prefix of any length has no IPv4 address in it.
    #[must_use]
    pub fn covers(&self, addr: Addr) -> bool {
        self.network.family() == addr.family() && addr.in_prefix(self.network, self.len)
    }
}

/// What one endpoint was configured with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holdings {
    /// The endpoint; none for a station that nobody configured
    pub endpoint: Option<EndpointId>,
    /// Its MAC
    pub mac: MacAddr,
    /// The addresses that are its own
    pub addresses: Vec<Addr>,
    /// What else it may use
    pub pairs: Vec<AddressPair>,
    /// Prefixes that it forwards for, lengths in the 128-bit form. It sends from them, and has nothing in them.
    pub routes: Vec<(Addr, u8)>,
}

impl Holdings {
    /// A MAC, and no address but the one that follows from it.
    #[must_use]
    pub const fn new(mac: MacAddr) -> Self {
        Self { endpoint: None, mac, addresses: Vec::new(), pairs: Vec::new(), routes: Vec::new() }
    }

    /// Is the MAC its own, or one of its pairs'?
    #[must_use]
    pub fn has_mac(&self, mac: MacAddr) -> bool {
        mac == self.mac || self.pairs.iter().any(|pair| pair.mac == mac)
    }

    /// Is the address its very own: configured, or formed from its MAC (RFC 4291 appendix A)? What it has by a pair is not.
    #[must_use]
    pub fn has(&self, addr: Addr) -> bool {
        self.addresses.contains(&addr) || addr == link_local_of(self.mac)
    }

    /// Is the address behind it?
    #[must_use]
    pub fn forwards_for(&self, addr: Addr) -> bool {
        self.routes.iter().any(|&(network, len)| {
            network.family() == addr.family() && addr.in_prefix(network, len) && !addr.is_link_local()
        })
    }

    /// The pair by which it has this address: one that names the address exactly before any wider one.
    #[must_use]
    pub fn pair_for(&self, addr: Addr) -> Option<&AddressPair> {
        let mut covering = self.pairs.iter().filter(|pair| pair.covers(addr));
        let exact = covering.clone().find(|pair| pair.is_exact());
        exact.or_else(|| covering.next())
    }

    fn has_with(&self, mac: MacAddr, addr: Addr) -> bool {
        mac == self.mac && self.has(addr)
            || self.pairs.iter().any(|pair| pair.mac == mac && pair.covers(addr))
            || self.has_mac(mac) && addr == link_local_of(mac)
    }

    fn has_with_any(&self, mac: MacAddr, addr: Addr) -> bool {
        self.has(addr)
            || self.pairs.iter().any(|pair| pair.covers(addr))
            || self.has_mac(mac) && addr == link_local_of(mac)
    }
}

/// Whose an address is by the configuration.
#[derive(Clone, Default, Debug)]
struct Named {
    owner: Option<EndpointId>,
    /// Whose pairs name it exactly
    sharers: Vec<EndpointId>,
}

impl Named {
    fn is_of(&self, endpoint: Option<EndpointId>) -> bool {
        endpoint.is_some_and(|endpoint| self.owner == Some(endpoint) || self.sharers.contains(&endpoint))
    }
}

/// Who owns which address and MAC in one network.
#[derive(Clone, Default, Debug)]
pub struct Ownership {
    addresses: HashMap<Addr, Named, RandomState>,
    macs: HashMap<MacAddr, Named, RandomState>,
    /// Endpoints with prefixes in their pairs
    wide: Vec<EndpointId>,
}

impl Ownership {
    /// Of these endpoints.
    pub fn new<'h>(endpoints: impl IntoIterator<Item = &'h Holdings>) -> Self {
        let mut ownership = Self::default();
        for holdings in endpoints {
            let Some(id) = holdings.endpoint else { continue };
            ownership.macs.entry(holdings.mac).or_default().owner = Some(id);
            for address in &holdings.addresses {
                ownership.addresses.entry(*address).or_default().owner = Some(id);
            }
            for pair in &holdings.pairs {
                if pair.mac != holdings.mac {
                    note(&mut ownership.macs.entry(pair.mac).or_default().sharers, id);
                }
                if !pair.is_exact() {
                    note(&mut ownership.wide, id);
                } else if !holdings.addresses.contains(&pair.network) {
                    note(&mut ownership.addresses.entry(pair.network).or_default().sharers, id);
                }
            }
        }
        ownership
    }

    /// May it send from this MAC? Without port security, from any that is nobody else's.
    #[must_use]
    pub fn may_use_mac(&self, who: &Holdings, port_security: bool, mac: MacAddr) -> bool {
        who.has_mac(mac) || !port_security && !self.macs.contains_key(&mac)
    }

    /// May it send packets from this MAC and address?
    #[must_use]
    pub fn may_send(&self, who: &Holdings, port_security: bool, mac: MacAddr, addr: Addr) -> bool {
        self.may_use_mac(who, port_security, mac)
            && !self.is_of_others(who, addr)
            && (!port_security || who.has_with_any(mac, addr) || mac == who.mac && who.forwards_for(addr))
    }

    /// May it say that this MAC has this address?
    #[must_use]
    pub fn may_claim(&self, who: &Holdings, port_security: bool, mac: MacAddr, addr: Addr) -> bool {
        self.may_use_mac(who, port_security, mac)
            && !self.is_of_others(who, addr)
            && (!port_security || who.has_with(mac, addr))
    }

    /// Is the address configured, and for others alone?
    #[must_use]
    pub fn is_of_others(&self, who: &Holdings, addr: Addr) -> bool {
        if let Some(named) = self.addresses.get(&addr) {
            return !named.is_of(who.endpoint);
        }
        let formed_from = mac_of_link_local(addr).and_then(|mac| self.macs.get(&mac));
        formed_from.is_some_and(|named| !named.is_of(who.endpoint))
    }

    /// The endpoint whose own address this is.
    #[must_use]
    pub fn owner(&self, addr: Addr) -> Option<EndpointId> {
        match self.addresses.get(&addr) {
            Some(named) => named.owner,
            None => self.macs.get(&mac_of_link_local(addr)?)?.owner,
        }
    }

    /// The endpoints whose pairs name this address exactly, beside its owner.
    #[must_use]
    pub fn sharers(&self, addr: Addr) -> &[EndpointId] {
        self.addresses.get(&addr).map(|named| &*named.sharers).unwrap_or_default()
    }

    /// The endpoints whose pairs name this MAC, beside its owner.
    #[must_use]
    pub fn mac_sharers(&self, mac: MacAddr) -> &[EndpointId] {
        self.macs.get(&mac).map(|named| &*named.sharers).unwrap_or_default()
    }

    /// Does the address or MAC belong to anybody by name?
    #[must_use]
    pub fn is_configured(&self, addr: Addr) -> bool {
        self.addresses.contains_key(&addr) || self.owner(addr).is_some()
    }

    /// The endpoints with prefixes in their pairs: who may have an address that is in nobody's name.
    #[must_use]
    pub fn wide(&self) -> &[EndpointId] {
        &self.wide
    }
}

fn note(list: &mut Vec<EndpointId>, id: EndpointId) {
    if !list.contains(&id) {
        list.push(id);
    }
}

/// The link-local address formed from a MAC by the modified EUI-64 (RFC 4291 appendix A, RFC 2464 section 5).
#[must_use]
pub const fn link_local_of(mac: MacAddr) -> Addr {
    let [a, b, c, d, e, f] = mac.0;
    Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The MAC that a link-local address was formed from.
#[must_use]
pub const fn mac_of_link_local(addr: Addr) -> Option<MacAddr> {
    match addr.bits().to_be_bytes() {
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => Some(MacAddr([a ^ 2, b, c, d, e, f])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const MON: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const WIDE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const FREE: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
    const VIRTUAL: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, 51]);
    const UNKNOWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn endpoint(id: u32, mac: MacAddr, addresses: &[&str], pairs: &[(MacAddr, &str, u8)]) -> Holdings {
        Holdings {
            endpoint: Some(EndpointId(id)),
            mac,
            addresses: addresses.iter().map(|text| addr(text)).collect(),
            pairs: pairs
                .iter()
                .map(|(mac, network, len)| AddressPair { mac: *mac, network: addr(network), len: *len })
                .collect(),
            routes: Vec::new(),
        }
    }

    fn world() -> (Vec<Holdings>, Ownership) {
        let endpoints = vec![
            endpoint(0, MON, &["10.1.0.5", "fd00::5"], &[(VIRTUAL, "10.1.0.100", 128)]),
            endpoint(1, WIDE, &["10.1.0.6"], &[(WIDE, "0.0.0.0", 96), (WIDE, "::", 0)]),
            endpoint(2, FREE, &["10.1.0.7"], &[(FREE, "10.1.0.5", 128)]),
        ];
        let ownership = Ownership::new(&endpoints);
        (endpoints, ownership)
    }

    /// (who, port security, MAC, address): may send, may claim.
    #[test]
    fn what_is_configured_is_refused_to_all_but_those_who_name_it() {
        let (endpoints, ownership) = world();
        let unknown_host = Holdings::new(UNKNOWN);
        let cases = [
            (&endpoints[0], true, MON, "10.1.0.5", true, true),
            (&endpoints[0], true, VIRTUAL, "10.1.0.100", true, true),
            // Stacks send so, but the address is not to be looked for at that MAC.
            (&endpoints[0], true, MON, "10.1.0.100", true, false),
            (&endpoints[0], true, VIRTUAL, "10.1.0.5", true, false),
            (&endpoints[0], true, VIRTUAL, "fe80::200:5eff:fe00:133", true, true),
            (&endpoints[0], true, MON, "fe80::ff:fe00:1", true, true),
            (&endpoints[0], true, MON, "fe80::ff:fe00:2", false, false),
            (&endpoints[0], true, UNKNOWN, "10.1.0.5", false, false),
            // A pair of any width does not reach what is configured, or named by others' pairs.
            (&endpoints[1], true, WIDE, "10.1.0.5", false, false),
            (&endpoints[1], true, WIDE, "fd00::5", false, false),
            (&endpoints[1], true, WIDE, "10.1.0.100", false, false),
            (&endpoints[1], true, WIDE, "fe80::ff:fe00:1", false, false),
            (&endpoints[1], true, WIDE, "198.51.100.9", true, true),
            (&endpoints[1], true, WIDE, "2001:db8::9", true, true),
            (&endpoints[1], true, WIDE, "10.1.0.6", true, true),
            // Exactly named
            (&endpoints[2], true, FREE, "10.1.0.5", true, true),
            (&endpoints[2], true, FREE, "10.1.0.100", false, false),
            // Without port security: whatever is nobody else's
            (&endpoints[2], false, UNKNOWN, "198.51.100.9", true, true),
            (&endpoints[2], false, UNKNOWN, "10.1.0.6", false, false),
            (&endpoints[2], false, FREE, "10.1.0.100", false, false),
            (&endpoints[2], false, MON, "198.51.100.9", false, false),
            (&unknown_host, false, UNKNOWN, "10.1.0.77", true, true),
            (&unknown_host, false, UNKNOWN, "10.1.0.7", false, false),
            (&unknown_host, false, FREE, "10.1.0.77", false, false),
        ];
        for (who, port_security, mac, address, send, claim) in cases {
            let said = (
                ownership.may_send(who, port_security, mac, addr(address)),
                ownership.may_claim(who, port_security, mac, addr(address)),
            );
            assert_eq!(said, (send, claim), "{:?} {port_security} {mac} {address}", who.endpoint);
        }
    }

    #[test]
    fn a_prefix_is_of_its_own_family() {
        let all_v6 = endpoint(0, MON, &[], &[(MON, "::", 0)]);
        let ownership = Ownership::new([&all_v6]);
        assert!(ownership.may_send(&all_v6, true, MON, addr("2001:db8::1")));
        assert!(!ownership.may_send(&all_v6, true, MON, addr("192.0.2.1")), "IPv4 is not in ::/0");
    }

    #[test]
    fn owners_and_sharers() {
        let (_, ownership) = world();
        assert_eq!(ownership.owner(addr("10.1.0.5")), Some(EndpointId(0)));
        assert_eq!(ownership.sharers(addr("10.1.0.5")), [EndpointId(2)]);
        assert_eq!(ownership.owner(addr("10.1.0.100")), None);
        assert_eq!(ownership.sharers(addr("10.1.0.100")), [EndpointId(0)]);
        assert_eq!(ownership.mac_sharers(VIRTUAL), [EndpointId(0)]);
        assert_eq!(ownership.owner(addr("fe80::ff:fe00:3")), Some(EndpointId(2)));
        assert_eq!(ownership.wide(), [EndpointId(1)]);
        assert!(ownership.is_configured(addr("10.1.0.100")) && !ownership.is_configured(addr("10.1.0.101")));
    }

    #[test]
    fn link_local_addresses_and_their_macs() {
        for mac in [MON, VIRTUAL] {
            assert_eq!(mac_of_link_local(link_local_of(mac)), Some(mac));
        }
        assert_eq!(mac_of_link_local(addr("fe80::1234:5678:9abc:def0")), None);
        assert_eq!(mac_of_link_local(addr("10.1.0.5")), None);
    }
}
