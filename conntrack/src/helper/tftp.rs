//! TFTP (RFC 1350): a request goes to the server's well-known port, and the transfer goes on between the port that it came from and
//! another one of the server, which the server begins.

use super::{Announced, Direction};

const READ_REQUEST: u16 = 1;
const WRITE_REQUEST: u16 = 2;

/// What follows from a datagram that the opener of a control flow has sent from `port`; nothing from one that is no request.
#[must_use]
pub fn announced(payload: &[u8], port: u16) -> Option<Announced> {
    let [high, low, rest @ ..] = payload else { return None };
    let opcode = u16::from_be_bytes([*high, *low]);
    // A file name and a mode, each with a zero behind it; options (RFC 2347) may follow.
    let mut words = rest.split(|byte| *byte == 0);
    let (name, mode, behind) = (words.next()?, words.next()?, words.next());
    let is_request = matches!(opcode, READ_REQUEST | WRITE_REQUEST)
        && !name.is_empty()
        && !mode.is_empty()
        && behind.is_some();
    is_request.then_some(Announced { opener: Direction::Reply, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_announces_the_port_that_it_comes_from_and_nothing_else_does() {
        let follows = Some(Announced { opener: Direction::Reply, port: 40_000 });
        for request in [
            &b"\0\x01file\0octet\0"[..],
            b"\0\x02some/other file\0netascii\0",
            b"\0\x01f\0OCTET\0blksize\x001428\0tsize\x000\0",
        ] {
            assert_eq!(announced(request, 40_000), follows, "{request:?}");
        }
        for other in [
            &b""[..],
            b"\0",
            b"\0\x01",
            b"\0\x01file",
            b"\0\x01file\0",
            b"\0\x01file\0octet",
            b"\0\x01\0octet\0",
            b"\0\x01file\0\0",
            b"\0\x03\0\x01data\0data\0",
            b"\0\x04\0\x01",
            b"\0\x05\0\x01gone\0",
            b"\x01\0file\0octet\0",
            b"\0\x06blksize\x001428\0",
        ] {
            assert_eq!(announced(other, 40_000), None, "{other:?}");
        }
    }
}
