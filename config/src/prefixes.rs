//! What is left of a prefix without others.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The prefixes that hold exactly the addresses of `net` that are in none of `except`, in the order of their addresses.
#[must_use]
pub fn without(net: IpNet, except: &[IpNet]) -> Vec<IpNet> {
    let mut left = Vec::new();
    subtract(net, except, &mut left);
    left
}

fn subtract(net: IpNet, except: &[IpNet], left: &mut Vec<IpNet>) {
    if except.iter().any(|other| other.contains(&net)) {
        return;
    }
    let inside: Vec<IpNet> = except.iter().filter(|other| net.contains(*other)).copied().collect();
    match halves(net) {
        Some(halves) if !inside.is_empty() => {
            halves.into_iter().for_each(|half| subtract(half, &inside, left))
        }
        _ => left.push(net),
    }
}

/// The two prefixes that a prefix consists of; none of a single address.
fn halves(net: IpNet) -> Option<[IpNet; 2]> {
    let len = net.prefix_len() + 1;
    (len <= net.max_prefix_len()).then_some(())?;
    match net {
        IpNet::V4(v4) => {
            let low = u32::from(v4.network());
            let halves = [low, low | 1 << (32 - len)].map(|half| Ipv4Net::new(half.into(), len));
            let [low, high] = halves;
            Some([low.ok()?.into(), high.ok()?.into()])
        }
        IpNet::V6(v6) => {
            let low = u128::from(v6.network());
            let halves = [low, low | 1 << (128 - len)].map(|half| Ipv6Net::new(half.into(), len));
            let [low, high] = halves;
            Some([low.ok()?.into(), high.ok()?.into()])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_left_is_in_as_few_prefixes_as_can_be() {
        for (net, except, left) in [
            ("10.0.0.0/8", "", "10.0.0.0/8"),
            ("10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9"),
            ("10.0.0.0/30", "10.0.0.1/32", "10.0.0.0/32 10.0.0.2/31"),
            ("10.0.0.0/30", "10.0.0.0/31 10.0.0.2/31", ""),
            ("10.0.0.1/32", "10.0.0.1/32", ""),
            ("10.0.0.0/24", "10.0.0.0/8", ""),
            ("10.0.0.0/24", "10.1.0.0/16 fd00::/8", "10.0.0.0/24"),
            ("0.0.0.0/0", "128.0.0.0/1", "0.0.0.0/1"),
            ("fd00::/126", "fd00::1/128 fd00::2/127", "fd00::/128"),
            ("::/0", "::/1 8000::/2", "c000::/2"),
        ] {
            assert_eq!(without(net.parse().unwrap(), &nets(except)), nets(left), "{net} without {except}");
        }
        let one = without("::/0".parse().unwrap(), &nets("fd00::1/128"));
        assert_eq!(one.len(), 128);
    }

    proptest! {
        #[test]
        fn every_address_is_where_it_belongs(
            net in (any::<u8>(), 24u8..=32), except in proptest::collection::vec((any::<u8>(), 24u8..=32), 0..5)
        ) {
            let net_of = |(last, len): (u8, u8)| -> IpNet {
                IpNet::from(Ipv4Net::new([10, 0, 0, last].into(), len).unwrap()).trunc()
            };
            let (net, except) = (net_of(net), except.into_iter().map(net_of).collect::<Vec<_>>());
            let left = without(net, &except);
            for last in 0..=u8::MAX {
                let address = std::net::IpAddr::from([10, 0, 0, last]);
                let wanted = net.contains(&address) && !except.iter().any(|other| other.contains(&address));
                prop_assert_eq!(left.iter().filter(|part| part.contains(&address)).count(), usize::from(wanted));
            }
        }
    }
}
