//! What DHCP (RFC 2131) and DHCPv6 (RFC 8415) messages say about who has which address. Reads bytes, judges nothing.

use std::time::Duration;

use eastgate_wire::{Addr, MacAddr, View, view::Transport};

/// Addresses of one message at most.
const MOST: usize = 32;

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The client: of DHCP the one that it names (`chaddr`), of DHCPv6 whose frame it is
    pub client: MacAddr,
    /// The transaction: what asks and what answers have the same
    pub transaction: Transaction,
    /// What it says
    pub says: Says,
}

/// Which exchange of a client a message belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Transaction {
    /// `xid` of DHCP
    V4(u32),
    /// transaction-id of DHCPv6, 24 bits
    V6(u32),
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Says {
    /// The client asks for addresses, or for those it has to be renewed.
    Asks,
    /// The client gives these up: RELEASE, DECLINE.
    GivesUp(Vec<Addr>),
    /// The server leases these (DHCPACK, REPLY): for how long, none for ever, zero for no longer.
    Leases(Vec<(Addr, Option<Duration>)>),
    /// The client has none of what it asked for (DHCPNAK).
    Refuses,
}

impl Message {
    /// The DHCP or DHCPv6 message that a frame carries, when it is well formed and says anything of the kind.
    #[must_use]
    pub fn read(frame: &[u8], view: &View) -> Option<Self> {
        let ip = view.ip().filter(|ip| ip.fragment.is_none())?;
        let Transport::Udp { dport, .. } = ip.transport else { return None };
        let datagram = frame.get(usize::from(ip.l4)..)?.get(..usize::from(ip.l4_len))?;
        let said = usize::from(u16::from_be_bytes(*datagram.get(4..6)?.first_chunk()?));
        let body = datagram.get(8..said)?;
        match (ip.src.is_v4(), dport) {
            (true, 67 | 68) => v4(body, dport == 68),
            (false, 546 | 547) => v6(body, if dport == 546 { view.dst } else { view.src }, dport == 546),
            _ => None,
        }
    }
}

/// The part of a message that has its place (RFC 2131 section 2), and the cookie that options follow.
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

fn v4(body: &[u8], from_server: bool) -> Option<Message> {
    let [op, hardware, length, ..] = *body.first_chunk::<3>()?;
    if (op, hardware, length) != (if from_server { 2 } else { 1 }, 1, 6)
        || body.get(FIXED..FIXED + 4)? != COOKIE
    {
        return None;
    }
    let address = |at: usize| body.get(at..)?.first_chunk::<4>().map(|bytes| Addr::v4(*bytes));
    let (ciaddr, yiaddr) = (address(12)?, address(16)?);
    let options = Options::read(body);
    let kind = *options.value(53)?.first()?;
    let time =
        || options.value(51).and_then(|value| value.first_chunk::<4>()).map(|s| u32::from_be_bytes(*s));
    let says = match (from_server, kind) {
        // DHCPDISCOVER: with rapid commit (RFC 4039) it is answered at once.
        (false, 1 | 3) => Says::Asks,
        // DHCPDECLINE names its address in an option, DHCPRELEASE in the header.
        (false, 4) => {
            let declined = options.value(50).and_then(|value| value.first_chunk::<4>());
            Says::GivesUp(declined.map(|bytes| Addr::v4(*bytes)).into_iter().collect())
        }
        (false, 7) => Says::GivesUp(vec![ciaddr]),
        // An answer to DHCPINFORM leases nothing.
        (true, 5) if !yiaddr.is_unspecified() => {
            let seconds = time()?;
            let lasts = (seconds != u32::MAX).then(|| Duration::from_secs(seconds.into()));
            Says::Leases(vec![(yiaddr, lasts)])
        }
        (true, 6) => Says::Refuses,
        _ => return None,
    };
    Some(Message {
        client: MacAddr(*body.get(28..)?.first_chunk()?),
        transaction: Transaction::V4(u32::from_be_bytes(*body.get(4..)?.first_chunk()?)),
        says,
    })
}

/// The options of a message, those included for which there was no room but in the fields for names (RFC 2132 section 9.3).
struct Options<'b> {
    areas: [&'b [u8]; 3],
}

impl<'b> Options<'b> {
    fn read(body: &'b [u8]) -> Self {
        let area = |from: usize, to: usize| body.get(from..to).unwrap_or_default();
        let mut options = Self { areas: [body.get(FIXED + 4..).unwrap_or_default(), &[], &[]] };
        let overload = options.value(52).and_then(|value| value.first()).copied().unwrap_or(0);
        let [_, file, sname] = &mut options.areas;
        if overload & 1 != 0 {
            *file = area(108, FIXED);
        }
        if overload & 2 != 0 {
            *sname = area(44, 108);
        }
        options
    }

    fn value(&self, wanted: u8) -> Option<&'b [u8]> {
        self.areas.iter().find_map(|area| {
            let mut rest: &[u8] = area;
            while let [code, behind @ ..] = rest {
                match (*code, behind) {
                    (0, _) => rest = behind,
                    (255, _) | (_, []) => return None,
                    (code, [len, behind @ ..]) => {
                        let value = behind.get(..usize::from(*len))?;
                        if code == wanted {
                            return Some(value);
                        }
                        rest = behind.get(usize::from(*len)..)?;
                    }
                }
            }
            None
        })
    }
}

fn v6(body: &[u8], client: MacAddr, from_server: bool) -> Option<Message> {
    let [kind, a, b, c] = *body.first_chunk::<4>()?;
    let leases = || associations(body.get(4..).unwrap_or_default());
    let says = match (from_server, kind) {
        // SOLICIT (with rapid commit it is answered at once), REQUEST, RENEW, REBIND
        (false, 1 | 3 | 5 | 6) => Says::Asks,
        (false, 8 | 9) => Says::GivesUp(leases().into_iter().map(|(address, _)| address).collect()),
        (true, 7) => Says::Leases(leases()),
        _ => return None,
    };
    Some(Message { client, transaction: Transaction::V6(u32::from_be_bytes([0, a, b, c])), says })
}

/// The addresses in a message's identity associations, for a while and temporary, that are no errors (RFC 8415 section 21).
fn associations(options: &[u8]) -> Vec<(Addr, Option<Duration>)> {
    let mut found = Vec::new();
    for (code, value) in each(options) {
        let inside = match code {
            3 => value.get(12..),
            4 => value.get(4..),
            _ => None,
        };
        let Some(inside) = inside.filter(|inside| is_success(inside)) else { continue };
        for (_, value) in each(inside).filter(|(code, _)| *code == 5) {
            let (Some(address), Some(valid)) = (value.first_chunk::<16>(), value.get(20..)) else { continue };
            let (Some(seconds), Some(more)) = (valid.first_chunk::<4>(), valid.get(4..)) else { continue };
            if is_success(more) && found.len() < MOST {
                let seconds = u32::from_be_bytes(*seconds);
                let lasts = (seconds != u32::MAX).then(|| Duration::from_secs(seconds.into()));
                found.push((Addr::v6(*address), lasts));
            }
        }
    }
    found
}

fn is_success(options: &[u8]) -> bool {
    each(options).all(|(code, value)| code != 13 || value.first_chunk::<2>() == Some(&[0, 0]))
}

/// Options one behind the other, as far as they are whole.
fn each(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk::<4>()?;
        let end = 4 + usize::from(u16::from_be_bytes([c, d]));
        let value = rest.get(4..end)?;
        rest = rest.get(end..)?;
        Some((u16::from_be_bytes([a, b]), value))
    })
}
