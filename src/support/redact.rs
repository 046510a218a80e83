//! Pseudonyms for names, addresses and MACs: the same for the same throughout.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use eastgate_wire::MacAddr;

/// What has which pseudonym.
#[derive(Debug, Default)]
pub struct Pseudonyms {
    names: HashMap<String, String>,
    longest: usize,
    found: BTreeMap<String, String>,
    counts: [usize; 3],
}

impl Pseudonyms {
    /// Knows a name, of this kind: `tenant`, `endpoint`, `device`. One that is known already keeps what it has.
    pub fn name(&mut self, kind: &str, name: &str) {
        if name.is_empty() || self.names.contains_key(name) {
            return;
        }
        let number = self.names.len() + 1;
        self.longest = self.longest.max(name.len());
        self.names.insert(name.to_owned(), format!("{kind}-{number}"));
    }

    /// The text with pseudonyms in it.
    #[must_use]
    pub fn put(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        let mut before = None;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let begins = before.is_none_or(|c: char| !is_of_word(c));
            let digits = if before == Some('.') { self.digits(rest) } else { None };
            let found = digits.or_else(|| self.address(rest).or_else(|| self.known(rest)));
            if begins && let Some((len, instead)) = found {
                out.push_str(&instead);
                at += len;
                before = rest.get(..len).and_then(|taken| taken.chars().last());
                continue;
            }
            let Some(c) = rest.chars().next() else { break };
            out.push(c);
            at += c.len_utf8();
            before = Some(c);
        }
        out
    }

    /// The digits of a MAC at the end of a machine's name, behind its profile and a dot: the machine may be gone, and its name not known.
    fn digits(&mut self, text: &str) -> Option<(usize, String)> {
        const DIGITS: usize = 12;
        let digits =
            text.get(..DIGITS).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let ends = text.get(DIGITS..)?.chars().next().is_none_or(|c| !is_of_word(c));
        let octets = u64::from_str_radix(digits, 16).ok().filter(|_| ends)?.to_be_bytes();
        let [_, _, a, b, c, d, e, f] = octets;
        Some((DIGITS, self.pseudonym(&MacAddr([a, b, c, d, e, f]).to_string())?))
    }

    /// The longest known name that a text begins with.
    fn known(&self, text: &str) -> Option<(usize, String)> {
        let most = text.len().min(self.longest);
        let ends = (1..=most).rev().filter(|end| {
            text.is_char_boundary(*end)
                && text.get(*end..).and_then(|rest| rest.chars().next()).is_none_or(|c| !is_of_word(c))
        });
        ends.filter_map(|end| Some((end, self.names.get(text.get(..end)?)?.clone()))).next()
    }

    /// An address or MAC that a text begins with.
    fn address(&mut self, text: &str) -> Option<(usize, String)> {
        let len =
            text.bytes().take_while(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')).count();
        let token = text.get(..len)?;
        if text.get(len..)?.chars().next().is_some_and(is_of_word) {
            return None;
        }
        // What follows a sentence or stands before a port is no part of it.
        let shorter =
            [token.trim_end_matches(['.', ':']), token.rsplit_once(':').map_or("", |(host, _)| host)];
        for token in std::iter::once(token).chain(shorter).filter(|token| token.len() > 2) {
            if let Some(instead) = self.pseudonym(token) {
                return Some((token.len(), instead));
            }
        }
        None
    }

    fn pseudonym(&mut self, token: &str) -> Option<String> {
        let (kind, same) = if let Ok(mac) = token.parse::<MacAddr>() {
            if mac.0[0] & 1 != 0 || mac.0 == [0; 6] {
                return Some(token.to_owned());
            }
            (2, format!("{mac}"))
        } else {
            let ip: IpAddr = token.parse().ok()?;
            if is_everybodys(ip) {
                return Some(token.to_owned());
            }
            (usize::from(ip.is_ipv6()), ip.to_string())
        };
        let counts = &mut self.counts;
        let instead = self.found.entry(same).or_insert_with(|| {
            counts[kind] += 1;
            format!("{}-{}", ["ipv4", "ipv6", "mac"][kind], counts[kind])
        });
        Some(instead.clone())
    }
}

/// Addresses that say nothing of whose network it is.
const fn is_everybodys(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let Ipv4Addr::BROADCAST = ip else {
                return ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
            };
            true
        }
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || matches!(ip, Ipv6Addr::LOCALHOST),
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_the_same_throughout() {
        let mut names = Pseudonyms::default();
        names.name("tenant", "acme");
        names.name("endpoint", "web");
        names.name("endpoint", "web-1");
        assert_eq!(
            names.put("acme/web-1 veth-web, webby acme.toml"),
            "tenant-1/endpoint-3 veth-endpoint-2, webby tenant-1.toml"
        );
        assert_eq!(
            names.put("10.1.0.11:443 -> 10.1.0.12, 10.1.0.11/24."),
            "ipv4-1:443 -> ipv4-2, ipv4-1/24."
        );
        assert_eq!(names.put("[fd00::1]:53 fd00:0::1 02:00:00:00:00:11"), "[ipv6-1]:53 ipv6-1 mac-1");
        assert_eq!(names.put("by 10.1.0.12."), "by ipv4-2.");
        assert_eq!(
            names.put("acme/web.020000000011, acme/web.0200"),
            "tenant-1/endpoint-2.mac-1, tenant-1/endpoint-2.0200"
        );
    }

    #[test]
    fn what_is_nobodys_stays() {
        let mut names = Pseudonyms::default();
        let text = "127.0.0.1 0.0.0.0 255.255.255.255 224.0.0.1 ::1 ff02::1 ff:ff:ff:ff:ff:ff 12:30:01 6.1.0-18 face \"a\": 7";
        assert_eq!(names.put(text), text);
    }
}
