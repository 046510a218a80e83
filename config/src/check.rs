//! One file by itself: read, checked, and turned into the part of the model that it holds.
//!
//! Nothing here looks at another file. What needs several files is noted as [`Claims`] for [`super::cross`].

mod attachment;
mod endpoint;
mod filters;
mod header;
mod helper;
mod icmp;
mod includes;
mod kernel;
mod limits;
mod names;
mod negation;
mod network;
mod policy;
mod profile;
mod route;
mod rule;
mod site;
mod tenant;
mod variables;

pub(super) use self::{network::reserved_role, policy::mixed_own, site::Quotas};

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use eastgate_wire::{Attachment, TableSizes, Vni, VtepAddr};
use toml::de::DeTable;

use super::{
    diagnostics::{Found, KEPT},
    islands,
    leaf::Runs,
    model::{EndpointLimits, Host, HostRef, Limits, Name, Overlay, Tenant},
    parts::{Parts, differing},
    place::{Place, Source},
    policies::SitePolicy,
    problem::{Diagnostic, Near, Problem},
    read::{At, Field, Named, Reader, Span, Table as _},
    tables::{FastpathTable, FileTable, HostLimitsTable, HostTable, OverlayTable, VdpTable},
    values::is_station_address,
    vdp::VdpDevice,
};

/// What one file says.
#[derive(Debug)]
pub(super) struct FileContent {
    /// Its text.
    pub(super) source: Arc<Source>,
    /// The patterns of files that it includes.
    pub(super) include: Vec<(Arc<str>, Place)>,
    /// Tables that only the first file may have.
    pub(super) overlay: Option<(Overlay, Place)>,
    /// Likewise.
    pub(super) limits: Option<(Limits, Place)>,
    /// Of the same table.
    pub(super) kernel_tables: TableSizes,
    /// What it lays down for tenants; only the first file may.
    pub(super) site: Arc<SitePolicy>,
    /// What of tenants that names
    pub(super) site_names: Vec<Elsewhere>,
    /// Likewise.
    pub(super) quotas: Quotas,
    /// Its hosts.
    pub(super) hosts: Vec<HostClaim>,
    /// Its tenants. Those of a file with errors lack what is wrong with them, and are never handed out.
    pub(super) tenants: Vec<(Arc<Tenant>, Claims)>,
    /// What is wrong with it.
    pub(super) found: Found,
    /// Whether all of it could be read, so that what it does not name does not exist.
    pub(super) whole: bool,
    /// What was read of it in parts when that was possible last: where it was read whole since, there are errors in it.
    pub(super) known: Option<Arc<Known>>,
}

/// What need not be done again where tables are the ones that were read before.
#[derive(Debug)]
pub(super) struct Known {
    parts: Parts,
    /// In the order of its tenants
    checked: Vec<tenant::Checked>,
}

/// A host, complete or not: its name counts even if something in it is wrong.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct HostClaim {
    pub(super) name: Name,
    pub(super) at: Place,
    pub(super) vtep: Option<(IpAddr, Place)>,
    pub(super) runs: Runs,
    /// There if nothing is missing.
    pub(super) host: Option<Host>,
}

/// What a tenant says that other files have a say in.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) networks: Vec<NetworkClaim>,
    /// By name; the same allocation as when the file was read last where all came to the same again
    pub(super) endpoints: Arc<Vec<Arc<EndpointClaim>>>,
    /// What of other tenants its rules name
    pub(super) elsewhere: Vec<Elsewhere>,
    /// The tenants that it shares something with
    pub(super) shared_with: Vec<(Name, Place)>,
    /// The templates that its groups start from
    pub(super) templates: Vec<(Name, Place)>,
}

/// Something of a tenant that is named from outside.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Elsewhere {
    pub(super) kind: Kind,
    pub(super) tenant: Name,
    /// Its name in the tenant; of a tenant, its own
    pub(super) name: Name,
    pub(super) at: Place,
}

/// What is named from outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    Tenant,
    Network,
    Group,
    Endpoint,
    Set,
}

/// What a network says about numbers and hosts.
#[derive(Debug)]
pub(super) struct NetworkClaim {
    pub(super) name: Name,
    pub(super) vni: Option<(Vni, Place)>,
    pub(super) mtu: Option<(u16, Place)>,
    pub(super) hub: Option<HostRef>,
    /// The hosts of its `hosts` key.
    pub(super) hosts: Vec<HostRef>,
    /// Every host with a part in it.
    pub(super) members: Vec<HostRef>,
    pub(super) multicast_group: Option<(IpAddr, Place)>,
}

/// What an endpoint says about hosts.
#[derive(Debug)]
pub(super) struct EndpointClaim {
    pub(super) name: Name,
    pub(super) at: Place,
    pub(super) host: Option<HostRef>,
    pub(super) attachment: Option<(Attachment, Place)>,
    pub(super) port_missing: bool,
    pub(super) addresses: Box<[(IpAddr, Place)]>,
    pub(super) routes: Box<[(ipnet::IpNet, Place)]>,
}

impl FileContent {
    /// A file of which nothing is known but what is wrong with it.
    pub(super) fn only(source: Arc<Source>, found: Diagnostic) -> Self {
        Self { found: std::iter::once(found).collect(), ..Self::empty(source) }
    }

    fn empty(source: Arc<Source>) -> Self {
        Self {
            source,
            include: Vec::new(),
            overlay: None,
            limits: None,
            kernel_tables: kernel_tables(None, None),
            site: Arc::default(),
            site_names: Vec::new(),
            quotas: Quotas::default(),
            hosts: Vec::new(),
            tenants: Vec::new(),
            found: Found::default(),
            whole: false,
            known: None,
        }
    }
}

/// Reads and checks one file. `included` says that another file brought it in, `before` what it said when it was read last.
pub(super) fn file(source: Arc<Source>, included: bool, before: Option<&FileContent>) -> FileContent {
    let known = before.and_then(|before| before.known.as_ref());
    if let Some(parts) = Parts::read(&source, included, known.map(|known| &known.parts)) {
        return in_parts(parts, known);
    }
    let content = whole_file(source, included, before);
    // Once it is mended it goes on from there.
    let known = known.filter(|_| content.found.has_errors());
    FileContent { known: known.cloned(), ..content }
}

fn in_parts(parts: Parts, known: Option<&Arc<Known>>) -> FileContent {
    let mut reader = Reader::new(parts.sources.clone());
    let before = |name: &Name| {
        let known = known?;
        let tenants = &known.parts.file.tenant.value;
        let at = tenants.binary_search_by(|(before, _)| before.value.cmp(name)).ok()?;
        Some((&*tenants.get(at)?.1, known.checked.get(at)?))
    };
    let mut checked = Vec::new();
    let tenants = parts.file.tenant.value.iter().map(|(name, table)| {
        let (tenant, claims, of_tenant) = tenant::check(name, table, before(&name.value), &mut reader);
        checked.push(of_tenant);
        (Arc::new(tenant), claims)
    });
    let tenants = tenants.collect();
    let content = content(&parts.file, tenants, reader);
    FileContent { known: Some(Arc::new(Known { parts, checked })), ..content }
}

/// Reads it in one.
pub(super) fn whole_file(source: Arc<Source>, included: bool, before: Option<&FileContent>) -> FileContent {
    let mut reader = Reader::new(vec![source.clone()]);
    if !is_mostly_known(&source, before) && is_no_configuration(&source, &mut reader) {
        return FileContent { found: reader.found, ..FileContent::empty(source) };
    }
    let blanked;
    let mut parsed = DeTable::parse_recoverable(source.text());
    let mut broken = false;
    if islands::has_syntax_errors(&parsed.1) {
        let (text, syntax_errors) = islands::blank_errors(source.text());
        blanked = text;
        parsed = DeTable::parse_recoverable(&blanked);
        broken = true;
        for (message, range) in syntax_errors {
            reader.report(Problem::Syntax { message }, range.into());
        }
    }
    let (table, errors) = parsed;
    key_errors(&errors, &mut reader);
    reader.guesses = !broken;
    let file = FileTable::read_table(table.get_ref(), Span::default(), &mut reader);
    if included {
        refuse_misplaced(table.get_ref(), &mut reader);
    }
    let tenants = match broken {
        true => Vec::new(),
        false => tenants(&file.tenant.value, &mut reader),
    };
    FileContent { whole: !broken, ..content(&file, tenants, reader) }
}

/// What the tables of a file say beside these tenants; `reader` knows what was wrong with them.
fn content(file: &FileTable, tenants: Vec<(Arc<Tenant>, Claims)>, mut reader: Reader) -> FileContent {
    let reader = &mut reader;
    let overlay = file.overlay.good().map(|table| (overlay(&table.value, reader), reader.place(table.span)));
    let limits = file.limits.good().map(|table| (limits(&table.value), reader.place(table.span)));
    let kernel_tables =
        kernel_tables(file.limits.good().map(|at| &at.value), file.fastpath.good().map(|at| &at.value));
    let quotas = file.quota.good().map(|at| Quotas::of(&at.value, reader)).unwrap_or_default();
    let (site, site_names) = site::check(file, reader);
    let hosts = hosts(&file.host.value, reader);
    let include =
        file.include.value.items.iter().map(|at| (at.value.clone(), reader.place(at.span))).collect();
    FileContent {
        source: reader.source().clone(),
        include,
        overlay,
        limits,
        kernel_tables,
        site: Arc::new(site),
        site_names,
        quotas,
        hosts,
        tenants,
        found: std::mem::take(&mut reader.found),
        whole: true,
        known: None,
    }
}

/// Text as large as this is looked through before it is read whole: something else than a configuration, taken for one,
/// would become many times its size in memory.
const LARGE: usize = 1 << 20;

/// Whether most of a text was there before, without a syntax error: then it is no other thing than a configuration.
fn is_mostly_known(source: &Source, known: Option<&FileContent>) -> bool {
    let Some(known) = known.filter(|known| known.whole) else { return false };
    let (new, old) = (source.text().as_bytes(), known.source.text().as_bytes());
    let (differs, _) = differing(new, old);
    differs.len() < new.len() / 2
}

/// Whether a large text has more syntax errors than are ever told; these are reported.
fn is_no_configuration(source: &Source, reader: &mut Reader) -> bool {
    if source.text().len() < LARGE {
        return false;
    }
    let mut errors = Found::default();
    for (message, range) in islands::errors_in_parts(source.text(), LARGE).take(KEPT) {
        errors.push(Diagnostic::new(Problem::Syntax { message }, reader.place(range.into())));
    }
    let full = errors.is_full();
    if full {
        errors.give_up();
        reader.found.append(&errors);
    }
    full
}

/// Reports keys that contradict others: there twice, or a table where there is a value already.
fn key_errors(errors: &[toml::de::Error], reader: &mut Reader) {
    let source = reader.source().clone();
    for (range, first) in islands::duplicates(source.text(), errors) {
        let at = source.place(range);
        let found = Diagnostic::new(Problem::DuplicateKey { key: at.text().to_owned() }, at);
        reader.found.push(match first {
            Some(first) => found.and(source.place(first), "first here"),
            None => found,
        });
    }
    for error in errors.iter().filter(|error| islands::is_syntax_error(error)) {
        let span = Span::from(error.span().unwrap_or_default());
        reader.report(Problem::Syntax { message: error.message().to_owned() }, span);
    }
}

/// Reports tables that only the first file may have.
pub(super) fn refuse_misplaced(table: &DeTable<'_>, reader: &mut Reader) {
    for (key, _) in table {
        const FIRST: [&str; 10] = [
            "include",
            "overlay",
            "limits",
            "fastpath",
            "quota",
            "policy",
            "set",
            "template",
            "exclude",
            "underlay_access",
        ];
        if FIRST.contains(&key.get_ref().as_ref()) {
            reader.report(Problem::Misplaced { key: key.get_ref().to_string() }, key.span().into());
        }
    }
}

/// The overlay that a table describes.
fn overlay(table: &OverlayTable, reader: &mut Reader) -> Overlay {
    let count: u32 = table.entropy_ports.value.get();
    let ports = table.source_ports.value;
    // The largest power of two that the range holds.
    let most = 1 << ports.count().max(1).ilog2();
    if !count.is_power_of_two() || count > most {
        reader.report(Problem::EntropyPorts { count, most }, table.entropy_ports.span);
    }
    if ports.first == 0 {
        reader
            .report(Problem::OutOfRange { value: "0".into(), min: 1, max: 65_535 }, table.source_ports.span);
    }
    // A socket that only sends from the port on which others listen would get a part of what comes in.
    if count == 1 && u64::from(ports.first) == table.port.value.0 {
        reader.report(Problem::OwnSourcePort { port: ports.first }, table.source_ports.span);
    }
    plain_overlay(table)
}

fn plain_overlay(table: &OverlayTable) -> Overlay {
    Overlay {
        port: table.port.value.get(),
        ttl: table.ttl.value.0,
        tos: table.tos.value,
        source_ports: table.source_ports.value,
        entropy_ports: table.entropy_ports.value.get(),
        udp_checksum: table.udp_checksum.value,
        dont_fragment: table.dont_fragment.value,
    }
}

impl Default for Overlay {
    fn default() -> Self {
        plain_overlay(&OverlayTable::default())
    }
}

fn limits(table: &HostLimitsTable) -> Limits {
    Limits {
        flows: table.flows.value.get(),
        unreplied: table.unreplied.value.get(),
        // Those of endpoints are their network's to say.
        endpoint: EndpointLimits {
            flows: table.flows.value.get(),
            unreplied: table.unreplied.value.get(),
            new_flows: None,
        },
        new_flows: None,
        fragments: table.fragments.value.get(),
    }
}

/// The kernel's tables where nothing is said of them.
pub(super) fn default_tables() -> TableSizes {
    kernel_tables(None, None)
}

/// How large the kernel's tables are to be; what is not said is as usual.
fn kernel_tables(limits: Option<&HostLimitsTable>, table: Option<&FastpathTable>) -> TableSizes {
    let usual = (HostLimitsTable::default(), FastpathTable::default());
    let (limits, table) = (limits.unwrap_or(&usual.0), table.unwrap_or(&usual.1));
    TableSizes {
        networks: table.networks.value.get(),
        vteps: table.vteps.value.get(),
        ports: table.attachments.value.get(),
        endpoints: table.endpoints.value.get(),
        policy_mib: table.policy_mib.value.get(),
        policy_cache: table.policy_cache.value.get(),
        neighbor_cache: table.neighbor_cache.value.get(),
        closed_flows: table.closed_flows.value.get(),
        policy_drops: table.policy_drops.value.get(),
        datagrams: limits.fragments.value.get(),
    }
}

impl Limits {
    /// What one host holds over all networks if nothing else is said.
    #[must_use]
    pub fn of_host() -> Self {
        limits(&HostLimitsTable::default())
    }
}

fn hosts(tables: &Named<HostTable>, reader: &mut Reader) -> Vec<HostClaim> {
    tables.iter().map(|(name, table)| host(name, table, reader)).collect()
}

fn host(name: &At<Name>, table: &HostTable, reader: &mut Reader) -> HostClaim {
    let at = reader.place(name.span);
    let runs = table.runs.value;
    let vtep = table.vtep.good().map(|vtep| (vtep.value, reader.place(vtep.span)));
    if let Some(vtep) = table.vtep.good()
        && !is_vtep_address(vtep.value)
    {
        reader.report(Problem::VtepAddress { address: vtep.value }, vtep.span);
    }
    let vdp =
        table.vdp.value.iter().map(|(device, table)| vdp_device(device, name, runs, table, reader)).collect();
    let host = match (table.vtep.good(), table.device.good()) {
        (Some(vtep), Some(device)) => Some(Host {
            name: name.value.clone(),
            at: at.clone(),
            vtep: VtepAddr(vtep.value),
            devices: devices(device.value.0.iter().map(|device| &device.value.0)),
            udp_checksum: table.udp_checksum.good().map(|sum| sum.value),
            runs,
            management: table.management.value.items.iter().map(|prefix| prefix.value).collect(),
            vdp,
        }),
        _ => None,
    };
    HostClaim { name: name.value.clone(), at, vtep, runs, host }
}

/// A device behind which stations are.
fn vdp_device(
    device: &At<Name>,
    host: &At<Name>,
    runs: Runs,
    table: &VdpTable,
    reader: &mut Reader,
) -> (Arc<str>, VdpDevice) {
    if device.value.len() >= 16 {
        reader.report(Problem::BadDevice { name: device.value.to_string() }, device.span);
    }
    if runs != Runs::Eastgate {
        reader.report(Problem::VdpHost { host: host.value.to_string() }, device.span);
    }
    let listed = table.stations.good().and_then(|stations| stations.value.0.as_ref());
    for mac in listed.into_iter().flat_map(|list| &list.items).filter(|mac| !mac.value.is_station()) {
        reader.report(Problem::MacKind { mac: mac.value }, mac.span);
    }
    let stations = match &table.stations {
        Field::Good(stations) => {
            stations.value.0.as_ref().map(|list| list.items.iter().map(|mac| mac.value).collect())
        }
        Field::Missing | Field::Bad => Some(BTreeSet::new()),
    };
    let vdp = VdpDevice {
        at: reader.place(device.span),
        stations,
        machines: table.machines.value.get(),
        keep_alive: Duration::from_secs(table.keep_alive.value.0),
    };
    (device.value.clone(), vdp)
}

/// Each once, in their order.
fn devices<'t>(written: impl Iterator<Item = &'t Arc<str>>) -> Box<[Arc<str>]> {
    let mut devices: Vec<Arc<str>> = Vec::new();
    for device in written {
        if !devices.contains(device) {
            devices.push(device.clone());
        }
    }
    devices.into()
}

/// Whether other hosts can send to this address: a link-local one would need a device beside it.
fn is_vtep_address(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    is_station_address(address) && !link_local
}

fn tenants(tables: &Named<super::tables::TenantTable>, reader: &mut Reader) -> Vec<(Arc<Tenant>, Claims)> {
    let tenants = tables.iter().map(|(name, table)| tenant::check(name, table, None, reader));
    tenants.map(|(tenant, claims, _)| (Arc::new(tenant), claims)).collect()
}

/// Reports `name` unless `known` has it.
fn known_name<T>(
    kind: &'static str,
    name: &At<super::values::NameText>,
    known: &Named<T>,
    reader: &mut Reader,
) -> bool {
    let found = known.binary_search_by(|(known, _)| (*known.value).cmp(&*name.value.0)).is_ok();
    if !found {
        let near = Near::new(&name.value.0, known.iter().map(|(name, _)| &*name.value));
        reader.report(Problem::UnknownName { kind, name: name.value.0.to_string(), near }, name.span);
    }
    found
}
