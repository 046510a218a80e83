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
    /// A segment where the kernel itself answers by proxy ARP for hosts with routes of their own (RFC 1027,
    /// 3069), and routes between them.
    KernelProxy {
        /// The interface's name
        interface: &'a str,
    },
}

/// The settings that an interface needs, in the order they are to be written: what closes comes before what
/// opens, and `forwarding` before `accept_redirects`, which it changes the meaning of.
#[must_use]
pub fn port_settings(role: &PortRole<'_>) -> Vec<Setting> {
    let (interface, wanted) = match role {
        PortRole::Tenant { interface } => (interface, TENANT),
        PortRole::Underlay { interface } => (interface, UNDERLAY),
        PortRole::KernelProxy { interface } => (interface, KERNEL_PROXY),
    };
    wanted
        .iter()
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

const KERNEL_PROXY: &[Row] = &[
    (Key::DisableIpv6, 1, &[], "there is no ND proxy in this mode, so no IPv6 passes around it"),
    (Key::ArpIgnore, 2, &[1], "own addresses are answered for on this segment only"),
    (Key::ArpAnnounce, 2, &[], "requests name an address of this segment"),
    (Key::RpFilter, 1, &[], "a host sends only what its route leads back to"),
    (Key::AcceptSourceRoute, 0, &[], "no source routes around the policy"),
    (Key::SendRedirects, 0, &[], "a redirect would tell hosts of one segment to talk directly"),
    (Key::ProxyDelay, 0, &[], "a proxied answer is delayed by up to 0.8 s otherwise"),
    (Key::ProxyArp, 1, &[], "the kernel answers for hosts behind other interfaces"),
    (Key::ProxyArpPvlan, 1, &[], "and for hosts on the interface the request came in at (RFC 3069)"),
    (Key::Forwarding, 1, &[], "what was attracted is routed on"),
    (Key::AcceptRedirects, 0, &[], "a host does not change the routes that steer it"),
];
