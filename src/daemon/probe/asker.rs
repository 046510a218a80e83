//! Who asks: the endpoint in whose name a probe is sent, its port, its address, and who leads to the one that is asked.

use eastgate_api::{ErrorCode, Failure, ProbeRequest, Scope};
use eastgate_dataplane::{
    pipeline::shared::lock,
    snapshot::{Endpoint, Network, Snapshot},
};
use eastgate_wire::{Addr, AttachmentId, FlowKey, Leg, MacAddr};

use super::super::{PortState, View, show::networks_of};
use crate::io::clock;

/// Ports and identifiers of probes: behind those that Linux gives to connections of its own.
const FIRST_OWN: u16 = 61_000;
/// How many are tried
const TRIES: u16 = 64;

/// Who asks.
pub(super) struct Asker<'s> {
    pub(super) snapshot: &'s Snapshot,
    pub(super) network: &'s Network,
    /// As tenant/name
    pub(super) name: String,
    pub(super) attachment: AttachmentId,
    /// Its port
    pub(super) port: String,
    pub(super) mac: MacAddr,
    pub(super) own: Addr,
    pub(super) to: Addr,
    /// Whose MAC it asks for: the one that is asked, or a router
    pub(super) hop: Addr,
    /// Bits of the prefix that it takes for its link
    pub(super) prefix: u8,
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::Invalid, text)
}

impl<'s> Asker<'s> {
    /// Finds who is to ask, and how.
    ///
    /// # Errors
    /// Why it cannot, and who can.
    pub(super) fn of(
        view: &View,
        snapshot: &'s Snapshot,
        request: &ProbeRequest,
        scope: &Scope,
    ) -> Result<Self, Failure> {
        let wanted = request.from.as_deref().unwrap_or_default();
        let to = request.to.ok_or_else(|| invalid("whom to ask is missing"))?;
        let (network, endpoint) = named(snapshot, request, scope, wanted)?;
        let name = format!("{}/{}", network.tenant.name, endpoint.name);
        if network.kernel_entry.is_some() {
            return Err(invalid(format!(
                "{name} is in a network in which the kernel routes (`neighbors = \"kernel\"`): what it answers would reach the machine, and not a \
                 probe; `eastgate trace` says what the rules do"
            )));
        }
        let attachment =
            endpoint.attachment().ok_or_else(|| elsewhere(snapshot, network, endpoint, &name))?;
        let (state, port) = {
            let visible = lock(&view.state);
            (visible.ports.get(&attachment).cloned(), visible.names.get(&attachment).map(ToString::to_string))
        };
        let port = port.unwrap_or_else(|| format!("port {}", attachment.0));
        match state {
            Some(PortState::Forwarding) => {}
            Some(PortState::Down) => return Err(closed(&name, &port, "is down: set it up first")),
            Some(PortState::Failed(why)) => {
                return Err(closed(&name, &port, &format!("cannot be served: {why}")));
            }
            Some(PortState::Absent) | None => {
                return Err(closed(
                    &name,
                    &port,
                    "is not there: nothing of this endpoint is carried on this host",
                ));
            }
        }
        let (own, mac) = source(network, endpoint, &name, request.source, to)?;
        if own == to {
            return Err(invalid(format!("{to} is {name}'s own address")));
        }
        let (hop, prefix) = hop(network, own, to, request.via)?;
        Ok(Self { snapshot, network, name, attachment, port, mac, own, to, hop, prefix })
    }

    /// A flow that nobody has: to this port, or with an identifier where it has none.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn free_flow(&self, view: &View, proto: u8, dport: Option<u16>) -> Result<FlowKey, Failure> {
        let key = |own: u16| FlowKey {
            src: self.own,
            dst: self.to,
            vni: self.network.vni,
            sport: own,
            dport: dport.unwrap_or(own),
            proto,
            leg: Leg::DIRECT,
        };
        let taken = view.flows_between(&key(0));
        let is_taken = |own: u16| {
            taken
                .iter()
                .any(|flow| flow.key.proto == proto && [flow.key.sport, flow.key.dport].contains(&own))
        };
        let start = view.random() % u64::from(u16::MAX - FIRST_OWN);
        let candidates = (0..TRIES).map(|step| {
            let places = u64::from(u16::MAX - FIRST_OWN);
            FIRST_OWN + ((start + u64::from(step)) % places) as u16
        });
        let free = candidates
            .map(|own| (own, key(own)))
            .find(|(own, key)| !is_taken(*own) && !view.shared.probes.has(key));
        free.map(|(_, key)| key).ok_or_else(|| {
            Failure::new(ErrorCode::Busy, format!("{TRIES} ports that were tried are all in use: try again"))
        })
    }

    /// The host that an address is at, as the configuration says; nothing where nobody has it.
    pub(super) fn host_of(&self, address: Addr) -> Option<(&'s str, bool)> {
        let (endpoint, _) = self.network.at_address(address)?;
        let host = &self.network.config()?.endpoint(&endpoint.name)?.host.host;
        let host = self.snapshot.config.host(host)?;
        Some((&host.name, host.runs_eastgate()))
    }
}

impl View {
    /// A number that nobody can guess.
    pub(super) fn random(&self) -> u64 {
        self.shared.hash_of(clock::monotonic())
    }
}

fn closed(name: &str, port: &str, why: &str) -> Failure {
    invalid(format!("{name}'s port {port} {why}"))
}

fn named<'s>(
    snapshot: &'s Snapshot,
    request: &ProbeRequest,
    scope: &Scope,
    wanted: &str,
) -> Result<(&'s Network, &'s Endpoint), Failure> {
    let (tenant, name) = match wanted.split_once('/') {
        Some((tenant, name)) => (Some(tenant), name),
        None => (None, wanted),
    };
    let of_tenant = |network: &&&'s std::sync::Arc<Network>| {
        scope.has(&network.tenant.name) && tenant.is_none_or(|it| it == &*network.tenant.name)
    };
    let networks = networks_of(snapshot, request.vni);
    let found = networks.iter().filter(of_tenant).flat_map(|network| {
        let its = network.endpoints().filter(|endpoint| &*endpoint.name == name);
        its.map(|endpoint| (&***network, endpoint))
    });
    let found: Vec<(&Network, &Endpoint)> = found.collect();
    match found[..] {
        [only] => Ok(only),
        [] => Err(invalid(format!(
            "no network of this host has an endpoint {wanted}: `eastgate show endpoints` lists them"
        ))),
        _ => {
            let names: Vec<String> = found
                .iter()
                .map(|(network, _)| format!("{} (--vni {})", network.name, network.vni))
                .collect();
            Err(invalid(format!("{wanted} is in several networks: {}", names.join(", "))))
        }
    }
}

fn elsewhere(snapshot: &Snapshot, network: &Network, endpoint: &Endpoint, name: &str) -> Failure {
    let config = network.config().and_then(|network| network.endpoint(&endpoint.name));
    let host = config.and_then(|config| snapshot.config.host(&config.host.host));
    let text = match host {
        Some(host) if host.runs_eastgate() => {
            format!("{name} is on host {}: ask there, `eastgate probe` begins at its port", host.name)
        }
        Some(host) => format!(
            "{name} is on host {}, which does not run eastgate: there is no port of it that a probe could begin at",
            host.name
        ),
        None => format!("{name} is on another host"),
    };
    invalid(text)
}

/// The address that asks, which the endpoint holds at the moment, and its MAC.
fn source(
    network: &Network,
    endpoint: &Endpoint,
    name: &str,
    wanted: Option<Addr>,
    to: Addr,
) -> Result<(Addr, MacAddr), Failure> {
    let holds = |address: Addr| {
        network
            .at_address(address)
            .filter(|(holder, _)| holder.id == endpoint.id)
            .map(|(_, mac)| (address, mac))
    };
    if let Some(address) = wanted {
        return holds(address).ok_or_else(|| match network.at_address(address) {
            Some((holder, _)) => {
                invalid(format!("{address} is at {}/{} now, not at {name}", network.tenant.name, holder.name))
            }
            None => invalid(format!("{address} is no address of {name}")),
        });
    }
    let mut its: Vec<Addr> = endpoint.holdings().addresses.clone();
    its.retain(|address| address.family() == to.family());
    its.sort_by_key(|address| address.is_link_local() != to.is_link_local());
    its.into_iter().find_map(holds).ok_or_else(|| {
        let family = if to.is_v4() { "IPv4" } else { "IPv6" };
        invalid(format!(
            "{name} has no {family} address that it holds now: a probe to {to} needs one, --source ADDRESS"
        ))
    })
}

/// Whose MAC is asked for, and how many bits of the address say that somebody is on the same link.
fn hop(network: &Network, own: Addr, to: Addr, via: Option<Addr>) -> Result<(Addr, u8), Failure> {
    let subnets = network.config().map(|config| &*config.subnets).unwrap_or_default();
    let contains = |address: Addr| subnets.iter().find(|subnet| subnet.contains(&address.to_ip()));
    let of_family = subnets.iter().any(|subnet| subnet.addr().is_ipv4() == own.is_v4());
    let is_beside = to.is_link_local() || !of_family || contains(to).is_some();
    let router = match via {
        Some(router) => Some(router),
        None if is_beside => None,
        None => Some(router_to(network, to).ok_or_else(|| {
            invalid(format!(
                "{to} is in no subnet of {}: say which router leads there, --via ADDRESS",
                network.name
            ))
        })?),
    };
    // All of the family is on the link, where no router is asked for.
    let Some(router) = router else { return Ok((to, 0)) };
    let subnet = contains(own).filter(|subnet| subnet.contains(&router.to_ip()));
    match subnet {
        Some(subnet) if !subnet.contains(&to.to_ip()) => Ok((router, subnet.prefix_len())),
        Some(_) => Err(invalid(format!("{to} is in the same subnet as {own}: no router leads there"))),
        None => Err(invalid(format!("the router {router} is in no subnet that {own} is in"))),
    }
}

/// The address of the endpoint that the configuration has the address behind.
fn router_to(network: &Network, to: Addr) -> Option<Addr> {
    let its = &network.behind(to)?.holdings().addresses;
    its.iter().copied().find(|address| address.family() == to.family() && !address.is_link_local())
}
