//! FTP (RFC 959, RFC 2428): what both sides say on the control connection, line by line, and the data connection that follows.
//!
//! Active: the client says where it listens (`PORT`, `EPRT`), and the server connects to it. Passive: the client asks (`PASV`, `EPSV`),
//! the server answers where it listens (227, 229), and the client connects.
//!
//! A line is read when all of it has come, in the order in which it was sent, whatever segments it lies in and however often they are
//! sent. A segment that comes too early is waited for; what its receiver has acknowledged and was never seen here is passed over up to
//! the next place where a line is known to begin. So nobody has the middle of a line read as its beginning: the start of a file's name,
//! of what a server repeats of it, or of a greeting's second line.

use eastgate_wire::Addr;

use super::{Announced, Direction, Heard, Unheeded};

/// A line of which more has come is not read: an announcement needs a quarter of it.
const LONGEST: usize = 256;

/// The most answers that are waited for at a time, where a client asks without waiting
const MOST_ASKED: u8 = 16;

/// What is known of a control connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dialogue {
    client: Stream,
    server: Stream,
    /// Requests for a port of the server that it has not answered yet
    asked: u8,
    /// The server is in the middle of a reply of several lines, which this code ends (RFC 959 section 4.2).
    within: Option<[u8; 3]>,
}

/// A segment of the control connection that passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said<'p> {
    /// Who says it: the client, which has opened the connection, or the server
    pub by: Direction,
    /// Sequence number of the first byte of the payload
    pub from: u32,
    /// What it acknowledges, if it does
    pub ack: Option<u32>,
    /// Its payload
    pub payload: &'p [u8],
}

/// What one side says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Stream {
    /// Sequence number of the byte that is to be read next; nothing before anything was heard
    next: Option<u32>,
    /// What has come of the line in hand
    line: Vec<u8>,
    /// The line in hand is longer than what is kept of it.
    is_long: bool,
    /// Where the line in hand began is not known.
    is_lost: bool,
    /// A sequence number further on where a line begins
    line_at: Option<u32>,
}

impl Dialogue {
    /// Hears a segment between client and server, which have these addresses. One with SYN is to be heard as well.
    pub fn hear(&mut self, said: &Said<'_>, [client, server]: [Addr; 2]) -> Heard {
        let (own, other) = match said.by {
            Direction::Original => (&mut self.client, &mut self.server),
            Direction::Reply => (&mut self.server, &mut self.client),
        };
        if let Some(ack) = said.ack {
            other.pass_over(ack);
        }
        let mut heard = Heard::default();
        let mut stream = std::mem::take(own);
        stream.read(said.from, said.payload, |line| {
            let announced = match said.by {
                Direction::Original => self.command(line, client),
                Direction::Reply => self.reply(line, server),
            };
            if let Some(announced) = announced {
                heard.take(announced);
            }
        });
        match said.by {
            Direction::Original => self.client = stream,
            Direction::Reply => self.server = stream,
        }
        heard
    }

    /// A line of the client. Case does not matter (RFC 959 section 5.3).
    fn command(&mut self, line: &Line<'_>, client: Addr) -> Option<Result<Announced, Unheeded>> {
        let Line::Whole(line) = line else { return None };
        let (verb, argument) = match line.iter().position(|byte| *byte == b' ') {
            Some(at) => (line.get(..at)?, line.get(at + 1..)?),
            None => (*line, &[][..]),
        };
        let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
        if is(b"PASV") || is(b"EPSV") && !argument.eq_ignore_ascii_case(b"ALL") {
            self.asked = (self.asked + 1).min(MOST_ASKED);
        }
        let named = if is(b"PORT") {
            host_and_port(argument)
        } else if is(b"EPRT") {
            extended(argument)
        } else {
            return None;
        };
        Some(of_its_own(named, client).map(|port| Announced { opener: Direction::Reply, port }))
    }

    /// A line of the server.
    fn reply(&mut self, line: &Line<'_>, server: Addr) -> Option<Result<Announced, Unheeded>> {
        let (Line::Whole(text) | Line::Cut(text)) = line;
        let (code, rest) =
            text.split_first_chunk::<3>().filter(|(code, _)| code.iter().all(u8::is_ascii_digit))?;
        let (is_last, goes_on) = (rest.first().is_none_or(|byte| *byte == b' '), rest.first() == Some(&b'-'));
        match self.within {
            Some(within) if within != *code || !is_last => return None,
            Some(_) => self.within = None,
            None if goes_on => {
                self.within = Some(*code);
                return None;
            }
            None if !is_last => return None,
            None => {}
        }
        let named = match (line, code) {
            (Line::Whole(_), b"227") => {
                numbers_in(rest).and_then(host_and_port).map(|(host, port)| (Some(host), port))
            }
            (Line::Whole(_), b"229") => in_parentheses(rest).map(|port| (None, port)),
            _ => return None,
        };
        if self.asked == 0 {
            return Some(Err(Unheeded::Unasked));
        }
        self.asked -= 1;
        let named = named.map(|(host, port)| (host.unwrap_or(server), port));
        Some(of_its_own(named, server).map(|port| Announced { opener: Direction::Original, port }))
    }
}

/// A line without its end.
enum Line<'l> {
    Whole(&'l [u8]),
    /// The beginning of a longer one
    Cut(&'l [u8]),
}

impl Stream {
    /// The other side has acknowledged everything before `ack`: what of it was not seen by now never will be.
    fn pass_over(&mut self, ack: u32) {
        let Some(next) = self.next.filter(|next| is_behind(ack, *next)) else { return };
        debug_assert_ne!(next, ack);
        self.next = Some(ack);
        self.line.clear();
        (self.is_long, self.is_lost) = (false, self.line_at != Some(ack));
    }

    fn read(&mut self, from: u32, payload: &[u8], mut each: impl FnMut(&Line<'_>)) {
        let end = from.wrapping_add(payload.len() as u32);
        let next = *self.next.get_or_insert(from);
        if is_behind(end, next) && payload.ends_with(b"\n") {
            self.line_at = Some(end);
        }
        if is_behind(from, next) || !is_behind(end, next) {
            return;
        }
        self.next = Some(end);
        let new = payload.get(next.wrapping_sub(from) as usize..).unwrap_or_default();
        for part in new.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_over) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = LONGEST.saturating_sub(self.line.len());
            self.is_long |= text.len() > room;
            self.line.extend_from_slice(text.get(..room).unwrap_or(text));
            if !is_over {
                continue;
            }
            if !self.is_lost {
                let text = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
                each(&if self.is_long { Line::Cut(text) } else { Line::Whole(text) });
            }
            self.line.clear();
            (self.is_long, self.is_lost) = (false, false);
        }
    }
}

/// Is the sequence number `a` behind `b`?
const fn is_behind(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// The port, where the address is that of the one who names both.
fn of_its_own(named: Option<(Addr, u16)>, own: Addr) -> Result<u16, Unheeded> {
    match named {
        None => Err(Unheeded::Unread),
        Some((host, _)) if host != own => Err(Unheeded::OtherAddress),
        Some((_, port)) => Ok(port),
    }
}

/// `h1,h2,h3,h4,p1,p2` (RFC 959 section 5.3.2)
fn host_and_port(text: &[u8]) -> Option<(Addr, u16)> {
    let mut numbers = text.trim_ascii().split(|byte| *byte == b',').map(number::<u8>);
    let mut next = || numbers.next().flatten();
    let host = [next()?, next()?, next()?, next()?];
    let port = u16::from_be_bytes([next()?, next()?]);
    numbers.next().is_none().then_some((Addr::v4(host), port))
}

/// The six numbers in a 227 reply: in parentheses, or without (RFC 1123 section 4.1.2.6).
fn numbers_in(text: &[u8]) -> Option<&[u8]> {
    let from = text.iter().position(|byte| *byte == b'(').map(|at| at + 1);
    let from = from.or_else(|| text.iter().position(u8::is_ascii_digit))?;
    let numbers = text.get(from..)?;
    let len =
        numbers.iter().position(|byte| !byte.is_ascii_digit() && *byte != b',').unwrap_or(numbers.len());
    numbers.get(..len)
}

/// `|1|10.1.0.7|40000|`, `|2|fd00::7|40000|`, with any other printable character for the bar (RFC 2428 section 2)
fn extended(text: &[u8]) -> Option<(Addr, u16)> {
    let mut parts = delimited(text.trim_ascii())?;
    let (family, host, port) = (parts.next()?, parts.next()?, number(parts.next()?)?);
    let host = std::str::from_utf8(host).ok()?;
    let host: Addr = match family {
        b"1" => host.parse::<std::net::Ipv4Addr>().ok().map(|host| Addr::v4(host.octets()))?,
        b"2" => {
            host.parse::<std::net::Ipv6Addr>().ok().filter(|host| host.to_ipv4_mapped().is_none())?.into()
        }
        _ => return None,
    };
    is_closed(parts).then_some((host, port))
}

/// The port in a 229 reply: `(|||40000|)` (RFC 2428 section 3)
fn in_parentheses(text: &[u8]) -> Option<u16> {
    let from = text.iter().position(|byte| *byte == b'(')? + 1;
    let len = text.get(from..)?.iter().position(|byte| *byte == b')')?;
    let mut parts = delimited(text.get(from..from + len)?)?;
    let (family, host, port) = (parts.next()?, parts.next()?, number(parts.next()?)?);
    (family.is_empty() && host.is_empty() && is_closed(parts)).then_some(port)
}

/// What stands between delimiters that are all like the first character.
fn delimited(text: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let (delimiter, rest) = text.split_first().filter(|(delimiter, _)| delimiter.is_ascii_graphic())?;
    Some(rest.split(move |byte| byte == delimiter))
}

/// Is there nothing behind the last delimiter, and was there one?
fn is_closed<'t>(mut parts: impl Iterator<Item = &'t [u8]>) -> bool {
    parts.next() == Some(&[]) && parts.next().is_none()
}

/// A decimal number, and nothing else: no sign and no blank.
fn number<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    let is_number = (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
#[path = "ftp/tests.rs"]
mod tests;
