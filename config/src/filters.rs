//! Filters by the names that libvirt's nwfilter gives them: what each of them stands for here.
//!
//! Each is made of parts. What a part promises is either kept by what else the configuration says of the endpoint, or by rules
//! before its groups' that deny; where it is not, that is an error: no filter lets more pass than libvirt's does.

use eastgate_wire::Family;
use serde::Serialize;

/// A filter by its name.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Filter {
    /// Its name
    pub name: &'static str,
    /// What it stands for, in the configuration's own words
    pub stands_for: &'static str,
    #[serde(skip)]
    pub(super) parts: &'static [Part],
}

/// What a filter promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// MACs, addresses, ARP and ND are checked.
    Checked,
    /// Its MAC is the endpoint's own.
    OwnMac,
    /// Addresses of packets of a family are its own.
    OwnAddresses(Family),
    /// Addresses in ARP are its own.
    OwnArp,
    /// Nothing passes that no filter accepts.
    NothingElse,
    /// No IPv4 packets go to everybody.
    NoBroadcast,
    /// Packets to multicast groups of a family do not go out.
    NoMulticast(Family),
    /// A family is accepted.
    Accepts(Family),
    /// A family is accepted that comes in.
    AcceptsIncoming(Family),
    /// DHCP is of one server.
    OneServer,
    /// It asks for what rules here do not.
    Unsayable {
        /// What that is
        asks_for: &'static str,
        /// What to write
        instead: &'static str,
    },
}

use Part::{
    Accepts, AcceptsIncoming, Checked, NoBroadcast, NoMulticast, NothingElse, OneServer, OwnAddresses,
    OwnArp, OwnMac, Unsayable,
};

const GATEWAY: Part = Unsayable {
    asks_for: "a gateway by its MAC",
    instead: "write `clean-traffic`, and a group with the gateway, and with everything but the network's own `subnets`, in `from` and `to`: \
              { prefix = \"0.0.0.0/0\", except = [\"10.1.0.0/24\"] }",
};

/// All of them, sorted by name: those of libvirt's package of filters.
pub const FILTERS: [Filter; 24] = [
    filter("allow-arp", "what is always so: ARP for its own addresses", &[]),
    filter("allow-dhcp", "what is always so: endpoints with `dhcp_server` are asked, and answer", &[]),
    filter(
        "allow-dhcp-server",
        "`allow-dhcp`, and that one endpoint of the network at most has `dhcp_server = true`",
        &[OneServer],
    ),
    filter("allow-dhcpv6", "what is always so: endpoints with `dhcp_server` are asked, and answer", &[]),
    filter(
        "allow-dhcpv6-server",
        "`allow-dhcpv6`, and that one endpoint of the network at most has `dhcp_server = true`",
        &[OneServer],
    ),
    filter(
        "allow-incoming-ipv4",
        "without `groups`: `ingress = [{ family = \"ipv4\", from = \"any\" }]`",
        &[AcceptsIncoming(Family::V4)],
    ),
    filter(
        "allow-incoming-ipv6",
        "without `groups`: `ingress = [{ family = \"ipv6\", from = \"any\" }]`",
        &[AcceptsIncoming(Family::V6)],
    ),
    filter(
        "allow-ipv4",
        "without `groups`: `ingress = [{ family = \"ipv4\", from = \"any\" }]`, `egress = [{ family = \"ipv4\", to = \"any\" }]`",
        &[Accepts(Family::V4)],
    ),
    filter(
        "allow-ipv6",
        "without `groups`: `ingress = [{ family = \"ipv6\", from = \"any\" }]`, `egress = [{ family = \"ipv6\", to = \"any\" }]`",
        &[Accepts(Family::V6)],
    ),
    filter(
        "clean-traffic",
        "`no-mac-spoofing`, `no-ip-spoofing`, `no-arp-spoofing`, `allow-ipv4`, `no-other-l2-traffic`, `qemu-announce-self`",
        &[Checked, OwnMac, OwnAddresses(Family::V4), OwnArp, Accepts(Family::V4), NothingElse],
    ),
    filter(
        "clean-traffic-gateway",
        "refused: it asks for a gateway's MAC, and rules ask for addresses",
        &[GATEWAY],
    ),
    filter(
        "no-arp-ip-spoofing",
        "`port_security = true`, and no `allowed_pairs` that are prefixes of IPv4",
        &[Checked, OwnArp],
    ),
    filter(
        "no-arp-mac-spoofing",
        "`port_security = true`, and no `allowed_pairs` with a MAC",
        &[Checked, OwnMac],
    ),
    filter("no-arp-spoofing", "`no-arp-mac-spoofing`, `no-arp-ip-spoofing`", &[Checked, OwnMac, OwnArp]),
    filter(
        "no-ip-multicast",
        "before the groups: `egress = [{ action = \"deny\", to = \"224.0.0.0/4\" }]`",
        &[NoMulticast(Family::V4)],
    ),
    filter(
        "no-ip-spoofing",
        "`port_security = true`, and neither `routes` nor `allowed_pairs` that are prefixes of IPv4",
        &[Checked, OwnAddresses(Family::V4)],
    ),
    filter(
        "no-ipv6-multicast",
        "before the groups: `egress = [{ action = \"deny\", to = \"ff00::/8\" }]`",
        &[NoMulticast(Family::V6)],
    ),
    filter(
        "no-ipv6-spoofing",
        "`port_security = true`, and neither `routes` nor `allowed_pairs` that are prefixes of IPv6; a link-local address that it was the \
         first to choose is its own",
        &[Checked, OwnAddresses(Family::V6)],
    ),
    filter("no-mac-broadcast", "`multicast = \"drop\"` of the network", &[NoBroadcast]),
    filter(
        "no-mac-spoofing",
        "`port_security = true`, and no `allowed_pairs` with a MAC",
        &[Checked, OwnMac],
    ),
    filter(
        "no-other-l2-traffic",
        "no `ethertypes`, no VLAN tags, and before the groups `{ action = \"deny\" }` for each family that no `allow-` or `clean-` beside it \
         accepts",
        &[NothingElse],
    ),
    filter("no-other-rarp-traffic", "what is always so: no RARP but `qemu-announce-self-rarp`", &[]),
    filter("qemu-announce-self", "what is always so, as `qemu-announce-self-rarp`", &[]),
    filter(
        "qemu-announce-self-rarp",
        "what is always so: RARP by which a machine's own MAC is announced",
        &[],
    ),
];

const fn filter(name: &'static str, stands_for: &'static str, parts: &'static [Part]) -> Filter {
    Filter { name, stands_for, parts }
}

/// The filter with this name.
#[must_use]
pub fn filter_named(name: &str) -> Option<&'static Filter> {
    let at = FILTERS.binary_search_by(|filter| filter.name.cmp(name)).ok()?;
    FILTERS.get(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_name() {
        assert!(FILTERS.is_sorted_by(|a, b| a.name < b.name));
        assert!(
            FILTERS.iter().all(|filter| filter_named(filter.name).is_some_and(|it| it.name == filter.name))
        );
        assert!(filter_named("clean").is_none());
    }
}
