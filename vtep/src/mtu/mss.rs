//! MSS clamping: a TCP connection that never sends segments too big for the tunnel needs nobody to tell it.

use eastgate_wire::{Frame, View, checksum, view::Transport};

/// The MSS that fits a tenant MTU (RFC 6691): the packet without the IP and TCP headers, options not counted.
#[must_use]
pub const fn mss_for(tenant_mtu: u16, v4: bool) -> u16 {
    tenant_mtu.saturating_sub(if v4 { 40 } else { 60 })
}

/// Lowers the MSS option of a SYN to `max`; tells whether it did. A SYN without the option is left alone: the
/// peer assumes 536 or 1220 bytes then (RFC 9293 section 3.7.1), which fits. `view` is the view of `frame`.
#[inline]
pub fn clamp(frame: &mut Frame<'_>, view: &View, max: u16) -> bool {
    let Some(ip) = view.ip() else { return false };
    let Transport::Tcp(tcp) = ip.transport else { return false };
    let Some(mss_at) = tcp.mss_at else { return false };
    let l4 = usize::from(ip.l4);
    // A partial checksum covers only the pseudo-header so far, which has no MSS in it.
    let partial = frame.offload.checksum.is_some();
    lower(frame.bytes_mut(), usize::from(mss_at), l4, partial, max).unwrap_or(false)
}

fn lower(frame: &mut [u8], mss_at: usize, l4: usize, partial: bool, max: u16) -> Option<bool> {
    let field = frame.get_mut(mss_at..)?.first_chunk_mut::<2>()?;
    let old = u16::from_be_bytes(*field);
    if old <= max {
        return Some(false);
    }
    *field = max.to_be_bytes();
    if !partial {
        // At an odd offset the field straddles two words of the sum, which then sees its bytes swapped.
        let odd = (mss_at - l4) % 2 == 1;
        let (old, new) = if odd { (old.swap_bytes(), max.swap_bytes()) } else { (old, max) };
        let sum = frame.get_mut(l4 + 16..)?.first_chunk_mut::<2>()?;
        *sum = checksum::update(u16::from_be_bytes(*sum), old, new).to_be_bytes();
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{Offload, PartialChecksum};
    use proptest::prelude::*;

    use super::*;
    use crate::test_frames::{tag, tcp_syn_v4, tcp_v4};

    fn clamped(mut bytes: Vec<u8>, offload: Offload, max: u16) -> (bool, Vec<u8>) {
        let view = View::parse(&bytes).unwrap();
        let len = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, len, offload);
        let done = clamp(&mut frame, &view, max);
        (done, bytes)
    }

    proptest! {
        /// etherparse builds the SYN with the lower MSS from scratch: checksum and all must be alike.
        #[test]
        fn equals_a_syn_built_with_the_lower_mss(mss: u16, max: u16, odd: bool, tagged: bool) {
            let dress = |frame: Vec<u8>| if tagged { tag(&frame, 5) } else { frame };
            let (done, bytes) = clamped(dress(tcp_syn_v4(mss, odd)), Offload::default(), max);
            prop_assert_eq!(done, mss > max);
            prop_assert_eq!(bytes, dress(tcp_syn_v4(mss.min(max), odd)));
        }
    }

    #[test]
    fn a_partial_checksum_is_left_alone() {
        let partial = Offload { checksum: Some(PartialChecksum { start: 34, offset: 16 }), gso: None };
        let before = tcp_syn_v4(1460, false);
        let (done, after) = clamped(before.clone(), partial, 1410);
        assert!(done);
        assert_eq!(before[50..52], after[50..52]);
        assert_eq!(View::parse(&after).unwrap().ip().unwrap().l4, 34);
    }

    #[test]
    fn segments_without_the_option_are_left_alone() {
        let frame = tcp_v4(1, 2, 3, b"data");
        assert_eq!(clamped(frame.clone(), Offload::default(), 1), (false, frame));
    }

    #[test]
    fn mss_of_the_usual_tunnels() {
        assert_eq!((mss_for(1450, true), mss_for(1450, false), mss_for(10, true)), (1410, 1390, 0));
    }
}
