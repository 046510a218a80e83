//! TOS and TTL of the outer header, and ECN across the tunnel (RFC 6040): congestion marked on the underlay
//! reaches the inner packet, or the packet is lost, as TCP expects.

use eastgate_wire::{
    DropReason, View, checksum,
    view::{Ip, Net},
};

/// The ECN field: the two low bits of the TOS or traffic class (RFC 3168 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ecn {
    /// The transport does not do ECN.
    NotEct = 0,
    /// ECN-capable, codepoint 1
    Ect1 = 1,
    /// ECN-capable, codepoint 0
    Ect0 = 2,
    /// Congestion was met on the way.
    Ce = 3,
}

impl Ecn {
    /// The ECN field of a TOS or traffic class.
    #[must_use]
    pub const fn of_tos(tos: u8) -> Self {
        match tos & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// The DSCP of the outer header. Its ECN field always follows RFC 6040.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OuterTos {
    /// This TOS; the two low bits do not count
    Fixed(u8),
    /// That of the inner packet, 0 for a frame without one
    Inherit,
}

/// The TTL of the outer header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OuterTtl {
    /// This one
    Fixed(u8),
    /// That of the inner packet, [`DEFAULT_TTL`] for a frame without one
    Inherit,
}

/// The TTL of an outer header that has nothing to inherit from.
pub const DEFAULT_TTL: u8 = 64;

impl OuterTos {
    /// The outer TOS for a frame. ECN is RFC 6040's normal mode: the inner field, CE included, is copied;
    /// a frame that is not IP is not ECN-capable.
    #[inline]
    #[must_use]
    pub const fn encapsulate(self, view: &View) -> u8 {
        let inner = match view.ip() {
            Some(ip) => ip.tos,
            None => 0,
        };
        match self {
            Self::Fixed(tos) => tos & !3 | inner & 3,
            Self::Inherit => inner,
        }
    }
}

impl OuterTtl {
    /// The outer TTL for a frame.
    #[inline]
    #[must_use]
    pub const fn encapsulate(self, view: &View) -> u8 {
        match (self, view.ip()) {
            (Self::Fixed(ttl), _) => ttl,
            // A datagram with none left would not leave.
            (Self::Inherit, Some(ip)) if ip.ttl == 0 => 1,
            (Self::Inherit, Some(ip)) => ip.ttl,
            (Self::Inherit, None) => DEFAULT_TTL,
        }
    }
}

/// The ECN field that the inner packet leaves with (RFC 6040 section 4.2, figure 4); nothing when it is to be
/// dropped.
#[inline]
#[must_use]
pub const fn combine(inner: Ecn, outer: Ecn) -> Option<Ecn> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => None,
        (Ecn::NotEct, _) => Some(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Some(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => Some(Ecn::Ect1),
        (inner, _) => Some(inner),
    }
}

/// Carries the outer ECN field over to the inner packet; tells whether that changed it. `view` is the view
/// of `frame` and is kept true. A frame that is not IP (ARP above all) has no ECN field and passes: RFC 6040
/// speaks of IP in IP, and dropping ARP would not slow anyone down.
///
/// # Errors
/// [`DropReason::OuterEcn`] when the outer header is marked CE and the inner packet is not ECN-capable.
#[inline]
pub fn decapsulate(outer: Ecn, frame: &mut [u8], view: &mut View) -> Result<bool, DropReason> {
    let l3 = usize::from(view.l3);
    let Net::Ip(ip) = &mut view.net else { return Ok(false) };
    let inner = Ecn::of_tos(ip.tos);
    let ecn = combine(inner, outer).ok_or(DropReason::OuterEcn)?;
    if ecn == inner {
        return Ok(false);
    }
    let tos = ip.tos & !3 | ecn as u8;
    write_tos(frame, l3, ip, tos).ok_or(DropReason::FrameTruncated)?;
    ip.tos = tos;
    Ok(true)
}

fn write_tos(frame: &mut [u8], l3: usize, ip: &Ip, tos: u8) -> Option<()> {
    let header = frame.get_mut(l3..)?.first_chunk_mut::<20>()?;
    if ip.src.is_v4() {
        let old = u16::from_be_bytes([header[0], header[1]]);
        let sum = u16::from_be_bytes([header[10], header[11]]);
        header[1] = tos;
        let new = u16::from_be_bytes([header[0], tos]);
        header[10..12].copy_from_slice(&checksum::update(sum, old, new).to_be_bytes());
    } else {
        header[0] = header[0] & 0xf0 | tos >> 4;
        header[1] = header[1] & 0x0f | tos << 4;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_frames::{arp, udp_v4, udp_v6};

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

    fn with_tos(mut frame: Vec<u8>, tos: u8) -> (Vec<u8>, View) {
        let mut view = View::parse(&frame).unwrap();
        let ip = *view.ip().unwrap();
        write_tos(&mut frame, 14, &ip, tos).unwrap();
        view = View::parse(&frame).expect("the header checksum is right");
        assert_eq!(view.ip().unwrap().tos, tos);
        (frame, view)
    }

    /// RFC 6040 section 4.2, figure 4: rows are the inner field, columns the outer one, in the order
    /// Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn decapsulation_table() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in ALL.into_iter().zip(row) {
                assert_eq!(combine(inner, outer), expected, "inner {inner:?}, outer {outer:?}");
                for frame in [udp_v4(1, 2, b"x"), udp_v6(1, 2, b"x")] {
                    let (mut frame, mut view) = with_tos(frame, 0xb8 | inner as u8);
                    let before = frame.clone();
                    let result = decapsulate(outer, &mut frame, &mut view);
                    let Some(ecn) = expected else {
                        assert_eq!((result, frame), (Err(DropReason::OuterEcn), before));
                        continue;
                    };
                    assert_eq!(result, Ok(ecn != inner));
                    assert_eq!(View::parse(&frame).unwrap(), view, "view and header checksum stay true");
                    assert_eq!(view.ip().unwrap().tos, 0xb8 | ecn as u8, "DSCP untouched");
                    assert_eq!(with_tos(frame, before_tos(&before)).0, before, "nothing else changed");
                }
            }
        }
    }

    fn before_tos(frame: &[u8]) -> u8 {
        View::parse(frame).unwrap().ip().unwrap().tos
    }

    /// RFC 6040 section 4.1, normal mode: the outer field is the inner one.
    #[test]
    fn encapsulation_table() {
        for ecn in ALL {
            for frame in [udp_v4(1, 2, b"x"), udp_v6(1, 2, b"x")] {
                let (_, view) = with_tos(frame, 0x28 | ecn as u8);
                assert_eq!(OuterTos::Inherit.encapsulate(&view), 0x28 | ecn as u8);
                assert_eq!(OuterTos::Fixed(0xbb).encapsulate(&view), 0xb8 | ecn as u8);
                assert_eq!(OuterTos::Fixed(0).encapsulate(&view), ecn as u8);
            }
        }
    }

    #[test]
    fn frames_that_are_not_ip() {
        let mut frame = arp();
        let mut view = View::parse(&frame).unwrap();
        assert_eq!(OuterTos::Inherit.encapsulate(&view), 0);
        assert_eq!(OuterTos::Fixed(0xff).encapsulate(&view), 0xfc);
        assert_eq!(OuterTtl::Inherit.encapsulate(&view), DEFAULT_TTL);
        assert_eq!(decapsulate(Ecn::Ce, &mut frame, &mut view), Ok(false));
        assert_eq!(frame, arp());
    }

    #[test]
    fn ttl_fixed_or_inherited() {
        let view = View::parse(&udp_v4(1, 2, b"")).unwrap();
        assert_eq!(OuterTtl::Fixed(7).encapsulate(&view), 7);
        assert_eq!(OuterTtl::Inherit.encapsulate(&view), view.ip().unwrap().ttl);
    }
}
