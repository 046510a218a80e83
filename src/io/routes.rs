//! Entries of the kernel's routing as rtnetlink has them: rules, routes, neighbours and those that are answered for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use eastgate_steering::kernel::{RULES, is_own_device, is_own_table};
use eastgate_wire::{Family, MacAddr};
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{
            RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
        },
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use super::netlink::{Link, Netlink, NetlinkError, errno};
use crate::plan::Entry;

/// Whose routes these are, as `ip route` tells: no routing daemon's (rtnetlink(7) leaves what is above 4 to users).
const PROTOCOL: u8 = 0x65;

/// On its way through the kernel a packet is neither cut nor too big, as it is nowhere on this host: what does not fit the port is
/// lost there. The most that the kernel takes of IPv6 is 15 less than the most of all.
const MTU: u32 = 65_520;

/// The bit of a metric that is to hold whatever the device says
const LOCK_MTU: u32 = 1 << 2;

/// What there is.
#[derive(Debug, Default)]
pub struct Found {
    /// Of the kinds that eastgate makes, at the devices asked about and at its own
    pub entries: BTreeSet<Entry>,
    /// Routes in tables of eastgate's that lead elsewhere than an entry can say
    strange: Vec<RouteMessage>,
}

impl Found {
    /// How many routes stand in tables of eastgate's that it does not make.
    #[must_use]
    pub fn strange(&self) -> usize {
        self.strange.len()
    }
}

impl Netlink {
    /// Adds an entry, or puts it in the place of what has its key.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn add_entry(&self, entry: &Entry, links: &BTreeMap<String, Link>) -> Result<(), NetlinkError> {
        let refused = |source| NetlinkError::Refused { what: format!("add {entry}"), source };
        let Some(message) = message(entry, links) else { return Err(NetlinkError::Gone(entry.to_string())) };
        // The kernel has a rule as often as it is added, and replaces none.
        let flags = match message {
            RouteNetlinkMessage::NewRule(_) => NLM_F_CREATE | NLM_F_EXCL,
            _ => NLM_F_CREATE | NLM_F_REPLACE,
        };
        match self.change(message, flags).await {
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            other => other.map_err(refused),
        }
    }

    /// Deletes an entry. One that is gone, by itself or with its device, is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_entry(
        &self,
        entry: &Entry,
        links: &BTreeMap<String, Link>,
    ) -> Result<(), NetlinkError> {
        let Some(message) = message(entry, links) else { return Ok(()) };
        let message = match message {
            RouteNetlinkMessage::NewRule(rule) => RouteNetlinkMessage::DelRule(rule),
            RouteNetlinkMessage::NewRoute(route) => RouteNetlinkMessage::DelRoute(route),
            RouteNetlinkMessage::NewNeighbour(neighbour) => RouteNetlinkMessage::DelNeighbour(neighbour),
            other => other,
        };
        self.forget(message, &entry.to_string()).await
    }

    /// Deletes routes that somebody else has put into tables of eastgate's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_strange(&self, found: Found) -> Result<(), NetlinkError> {
        for route in found.strange {
            self.forget(RouteNetlinkMessage::DelRoute(route), "a route in a table of eastgate's").await?;
        }
        Ok(())
    }

    async fn forget(&self, message: RouteNetlinkMessage, what: &str) -> Result<(), NetlinkError> {
        match self.change(message, 0).await {
            Err(error)
                if matches!(
                    errno(&error),
                    Some(
                        libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT
                    )
                ) =>
            {
                Ok(())
            }
            Err(source) => Err(NetlinkError::Refused { what: format!("delete {what}"), source }),
            Ok(()) => Ok(()),
        }
    }

    /// What there is of such entries: in these tables, and of neighbours at these devices.
    pub async fn entries(&self, tables: &BTreeSet<u32>, links: &BTreeMap<String, Link>) -> Found {
        let name = |index: u32| links.values().find(|link| link.index == index).map(|link| link.name.clone());
        let mut found = Found::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut rules = RuleMessage::default();
            rules.header.family = family;
            for message in self.list(RouteNetlinkMessage::GetRule(rules)).await {
                if let RouteNetlinkMessage::NewRule(rule) = message {
                    found.entries.extend(rule_entry(&rule));
                }
            }
            for table in tables {
                let mut routes = RouteMessage::default();
                routes.header.address_family = family;
                routes.attributes.push(RouteAttribute::Table(*table));
                for message in self.list(RouteNetlinkMessage::GetRoute(routes)).await {
                    let RouteNetlinkMessage::NewRoute(route) = message else { continue };
                    if table_of(&route) != Some(*table) {
                        continue;
                    }
                    match route_entry(&route, &name) {
                        Some(entry) => _ = found.entries.insert(entry),
                        None => found.strange.push(route),
                    }
                }
            }
            for flags in [NeighbourFlags::empty(), NeighbourFlags::Proxy] {
                let mut neighbours = NeighbourMessage::default();
                neighbours.header.family = family;
                neighbours.header.flags = flags;
                for message in self.list(RouteNetlinkMessage::GetNeighbour(neighbours)).await {
                    if let RouteNetlinkMessage::NewNeighbour(neighbour) = message {
                        found.entries.extend(neighbour_entry(&neighbour, &name));
                    }
                }
            }
        }
        found
    }
}

const fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// What adds an entry; nothing where its device is gone.
fn message(entry: &Entry, links: &BTreeMap<String, Link>) -> Option<RouteNetlinkMessage> {
    let index = || Some(links.get(entry.device())?.index);
    Some(match entry {
        Entry::Lookup { family, device, table } => {
            let attributes = [RuleAttribute::Table(*table), RuleAttribute::Priority(RULES[0])];
            RouteNetlinkMessage::NewRule(rule(*family, device, RuleAction::ToTable, &attributes))
        }
        Entry::Nowhere { family, device } => {
            let attributes = [RuleAttribute::Priority(RULES[1])];
            RouteNetlinkMessage::NewRule(rule(*family, device, RuleAction::Blackhole, &attributes))
        }
        Entry::Route { address, table, .. } => {
            let mut route = RouteMessage::default();
            route.header.address_family = family_of(*address);
            route.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
            route.header.protocol = RouteProtocol::Other(PROTOCOL);
            route.header.scope = if address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
            route.header.kind = RouteType::Unicast;
            route.attributes = vec![
                RouteAttribute::Destination(RouteAddress::from(*address)),
                RouteAttribute::Oif(index()?),
                RouteAttribute::Table(*table),
                RouteAttribute::Metrics(vec![RouteMetric::Lock(LOCK_MTU), RouteMetric::Mtu(MTU)]),
            ];
            RouteNetlinkMessage::NewRoute(route)
        }
        Entry::Neighbor { address, mac, .. } => {
            let mut message = neighbour(*address, index()?);
            message.header.state = NeighbourState::Permanent;
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
            RouteNetlinkMessage::NewNeighbour(message)
        }
        Entry::Proxy { address, .. } => {
            let mut message = neighbour((*address).into(), index()?);
            message.header.flags = NeighbourFlags::Proxy;
            RouteNetlinkMessage::NewNeighbour(message)
        }
    })
}

fn rule(family: Family, device: &str, action: RuleAction, attributes: &[RuleAttribute]) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    message.header.action = action;
    message.attributes = attributes.to_vec();
    message.attributes.push(RuleAttribute::Iifname(device.to_owned()));
    message
}

fn neighbour(address: IpAddr, ifindex: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = ifindex;
    let address = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}

/// A rule of ours; nothing for another one's.
fn rule_entry(rule: &RuleMessage) -> Option<Entry> {
    let (mut device, mut table, mut priority) = (None, u32::from(rule.header.table), 0);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Iifname(name) => device = Some(name.clone()),
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(number) => priority = *number,
            // Whatever else it asks for, it is no rule of ours.
            RuleAttribute::Source(_)
            | RuleAttribute::Destination(_)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => return None,
            _ => {}
        }
    }
    let device = device.filter(|device| is_own_device(device))?;
    let family = match rule.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    match rule.header.action {
        RuleAction::ToTable if priority == RULES[0] => Some(Entry::Lookup { family, device, table }),
        RuleAction::Blackhole if priority == RULES[1] => Some(Entry::Nowhere { family, device }),
        _ => None,
    }
}

fn table_of(route: &RouteMessage) -> Option<u32> {
    let named = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    named.filter(|table| is_own_table(*table))
}

/// A route to one address by one device; nothing for any other kind.
fn route_entry(route: &RouteMessage, name: &dyn Fn(u32) -> Option<String>) -> Option<Entry> {
    let (mut address, mut device) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => address = Some(IpAddr::V4(*to)),
            RouteAttribute::Destination(RouteAddress::Inet6(to)) => address = Some(IpAddr::V6(*to)),
            RouteAttribute::Oif(index) => device = name(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                return None;
            }
            _ => {}
        }
    }
    let address = address?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let plain = route.header.kind == RouteType::Unicast && route.header.destination_prefix_length == whole;
    Some(Entry::Route { address, device: device.filter(|_| plain)?, table: table_of(route)? })
}

/// A permanent neighbour, or one that is answered for; nothing for those that are learned.
fn neighbour_entry(message: &NeighbourMessage, name: &dyn Fn(u32) -> Option<String>) -> Option<Entry> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => address = Some(IpAddr::V4(*to)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(to)) => address = Some(IpAddr::V6(*to)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.first_chunk::<6>().copied(),
            _ => {}
        }
    }
    let device = name(message.header.ifindex)?;
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        let IpAddr::V6(address) = address? else { return None };
        return is_own_device(&device).then_some(Entry::Proxy { address, device });
    }
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    Some(Entry::Neighbor { address: address?, device, mac: MacAddr(mac?) })
}
