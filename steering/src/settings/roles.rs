//! What each kind of interface needs.

use super::{Key, Setting};

/// What an interface is to the appliance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortRole<'a> {
    /// A tenant's port: the appliance takes every frame, and the kernel's own IP must stay out of it.
    Tenant {
        /// The interface's name
        interface: &'a str,
    },
    /// The underlay: the kernel speaks IP there, for the addresses of this interface and no other.
    Underlay {
        /// The interface's name
        interface: &'a str,
    },
    /// The port of a tenant to which the kernel routes IPv6.
    RoutedPort {
        /// The interface's name
        interface: &'a str,
    },
    /// Where what was decided comes in for the kernel to route: it answers by proxy ARP and ND for endpoints with routes of their
    /// own (RFC 1027, 3069, 4389).
    KernelProxy {
        /// The interface's name
        interface: &'a str,
    },
}

/// The settings that an interface needs, in the order they are to be written: what closes comes before what
/// opens, and `forwarding` before `accept_redirects`, which it changes the meaning of.
#[must_use]
pub fn port_settings(role: &PortRole<'_>) -> Vec<Setting> {
    let (interface, wanted, instead) = match role {
        PortRole::Tenant { interface } => (interface, TENANT, &[][..]),
        PortRole::RoutedPort { interface } => (interface, TENANT, ROUTED_PORT),
        PortRole::Underlay { interface } => (interface, UNDERLAY, &[][..]),
        PortRole::KernelProxy { interface } => (interface, KERNEL_PROXY, &[][..]),
    };
    let is_instead = |row: &&Row| instead.iter().any(|(key, ..)| *key == row.0);
    wanted
        .iter()
        .filter(|row| !is_instead(row))
        .chain(instead)
        .map(|&(key, wanted, also, why)| Setting {
            key,
            interface: (*interface).to_owned(),
            wanted,
            also,
            why,
        })
        .collect()
}

type Row = (Key, i32, &'static [i32], &'static str);

const TENANT: &[Row] = &[
    (Key::DisableIpv6, 1, &[], "the kernel speaks no IPv6 to tenants: no link-local address, no ND answers"),
    (Key::ArpIgnore, 8, &[], "the kernel answers no ARP on a tenant's port, for whatever address"),
    (Key::ProxyArp, 0, &[], "nor for hosts it has a route to"),
    (Key::ProxyArpPvlan, 0, &[], "nor for hosts on the port itself"),
    (Key::ArpAnnounce, 2, &[], "an ARP request of the kernel would tell the tenant an underlay address"),
    (Key::ArpAccept, 0, &[], "a gratuitous ARP of a tenant makes no entry in the kernel's table"),
    (Key::ArpNotify, 0, &[], "the kernel announces nothing when the port comes up"),
    (Key::Forwarding, 0, &[], "the kernel routes nothing that a tenant sends past the policy"),
    (Key::RpFilter, 1, &[], "no route leads to a tenant's port, so the kernel takes no IPv4 from it"),
    (Key::AcceptLocal, 0, &[], "a tenant cannot send with an address of this host"),
    (Key::RouteLocalnet, 0, &[], "a tenant cannot reach 127.0.0.0/8"),
    (Key::AcceptSourceRoute, 0, &[], "a tenant's source route is not followed"),
    (Key::SendRedirects, 0, &[], "the kernel does not tell tenants to go around the appliance"),
    (Key::AcceptRedirects, 0, &[], "a tenant does not change the host's routes"),
    (Key::AcceptRa, 0, &[], "a tenant's router advertisement gives the host no route"),
    (Key::Autoconf, 0, &[], "nor an address"),
    (Key::AcceptRedirects6, 0, &[], "a tenant does not change the host's routes, should IPv6 be enabled"),
    (Key::Forwarding6, 0, &[], "nor is the port a router's, should IPv6 be enabled"),
    (Key::ProxyNdp, 0, &[], "the kernel answers no neighbour solicitation for others"),
];

const UNDERLAY: &[Row] = &[
    (
        Key::ArpIgnore,
        1,
        &[2],
        "one answer on a segment with several interfaces: for this one's addresses only",
    ),
    (
        Key::ArpAnnounce,
        2,
        &[],
        "requests name an address of this interface, so peers learn the right MAC for it",
    ),
    (Key::ProxyArp, 0, &[], "the host answers the underlay for nobody else"),
    (Key::ProxyArpPvlan, 0, &[], "nor for hosts on the segment itself"),
    (
        Key::RpFilter,
        2,
        &[1],
        "a VTEP's address that is not routable is forged; asymmetric underlays still work",
    ),
    (Key::AcceptSourceRoute, 0, &[], "no source routes into the underlay"),
    (Key::SendRedirects, 0, &[], "a VTEP advises nobody on routes"),
    (Key::AcceptRedirects, 0, &[], "a forged redirect would lead tunnels to somebody else"),
    (Key::AcceptRedirects6, 0, &[], "the same over IPv6"),
];

/// Nothing comes in there but what was admitted and decided.
const KERNEL_PROXY: &[Row] = &[
    (Key::AcceptSourceRoute, 0, &[], "no source routes around the policy"),
    (Key::SendRedirects, 0, &[], "the kernel tells nobody of a shorter way"),
    (Key::AcceptRa, 0, &[], "nobody's router advertisement gives the host a route"),
    (Key::Autoconf, 0, &[], "nor an address"),
    (Key::AcceptRedirects6, 0, &[], "nobody changes the routes that steer"),
    (Key::AcceptLocal, 0, &[], "no packet from an address of this host"),
    (Key::RouteLocalnet, 0, &[], "none to 127.0.0.0/8"),
    (Key::ArpIgnore, 8, &[], "the kernel answers for none of the host's own addresses"),
    (Key::ArpAnnounce, 2, &[], "nor does it ask in their name"),
    (Key::ArpAccept, 0, &[], "a gratuitous ARP makes no entry"),
    (Key::ArpNotify, 0, &[], "nothing is announced when the device comes up"),
    (Key::OwnAddressesOnly6, 1, &[], "answers come from no underlay address"),
    (Key::AcceptDad, 0, &[], "the device's link-local address is nobody else's there"),
    (Key::AddrGenMode, 0, &[2, 3], "it has one, from which solicitations are answered"),
    (Key::DisableIpv6, 0, &[], "answers to solicitations come from a link-local address"),
    (
        Key::RpFilter,
        0,
        &[],
        "whose a source address is was found out before; the host's routes know of no tenant",
    ),
    (Key::ProxyDelay, 0, &[], "a proxied answer is delayed by up to 0.8 s otherwise"),
    (Key::ProxyDelay6, 0, &[], "the same over IPv6"),
    (Key::ProxyArp, 1, &[], "the kernel answers for the endpoints that it has routes to"),
    (Key::ProxyArpPvlan, 1, &[], "for all of them, as they are one segment (RFC 3069)"),
    (Key::ProxyNdp, 1, &[], "the same over IPv6"),
    (Key::Forwarding, 1, &[], "what was attracted is routed on"),
    (Key::Forwarding6, 1, &[], "a router answers solicitations for others"),
    (Key::ForceForwarding6, 1, &[], "the same of IPv6, and of no other device (Linux 6.17)"),
    // Behind `forwarding`, which changes its meaning.
    (Key::AcceptRedirects, 0, &[], "nobody changes the routes that steer"),
];

/// What of a tenant's port is otherwise where the kernel routes IPv6 out of it. It still hears nothing there.
const ROUTED_PORT: &[Row] = &[
    (Key::AddrGenMode, 1, &[], "the kernel takes no address on a tenant's port"),
    (Key::DisableIpv6, 0, &[], "the kernel has IPv6 routes out of the port, and is let hear nothing there"),
];
