//! The appliance's own MAC in a network, and the exchange of MACs on a frame that was sent to it.

use eastgate_wire::{MacAddr, PROXY_PREFIX, Vni};

/// The MAC that the appliance answers with in the proxy mode of network `vni`: locally administered, unicast,
/// and the same on every host, so that an endpoint that moves keeps a valid neighbour cache.
///
/// `e2:67:77` followed by the VNI: two networks never share one, also when a trunk carries both.
#[must_use]
pub const fn proxy_mac(vni: Vni) -> MacAddr {
    let ([x, y, z], [a, b, c]) = (PROXY_PREFIX, vni.to_wire());
    MacAddr([x, y, z, a, b, c])
}

/// Gives `frame` a new destination and source MAC and leaves every other byte alone: tags, TTL, IP ID and
/// checksums do not cover the MACs. False, and nothing done, when the frame is too short to have them.
#[must_use]
pub fn rewrite(frame: &mut [u8], new_src: MacAddr, new_dst: MacAddr) -> bool {
    let Some(macs) = frame.first_chunk_mut::<12>() else { return false };
    macs[..6].copy_from_slice(&new_dst.0);
    macs[6..].copy_from_slice(&new_src.0);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn proxy_macs_are_stations_of_local_administration_and_differ_by_network() {
        let one = proxy_mac(Vni::from_wire([0x01, 0x02, 0x03]));
        assert_eq!(one, MacAddr([0xe2, 0x67, 0x77, 1, 2, 3]));
        assert!(one.is_station() && one.0[0] & 2 != 0);
        assert_ne!(one, proxy_mac(Vni::from_wire([0x01, 0x02, 0x04])));
    }

    proptest! {
        #[test]
        fn only_the_macs_change(
            frame in proptest::collection::vec(any::<u8>(), 0..100),
            src: [u8; 6],
            dst: [u8; 6],
        ) {
            let mut changed = frame.clone();
            let done = rewrite(&mut changed, MacAddr(src), MacAddr(dst));
            prop_assert_eq!(done, frame.len() >= 12);
            if done {
                prop_assert_eq!(&changed[..6], dst);
                prop_assert_eq!(&changed[6..12], src);
                prop_assert_eq!(&changed[12..], &frame[12..]);
            } else {
                prop_assert_eq!(changed, frame);
            }
        }
    }
}
