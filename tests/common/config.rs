//! The text of a configuration: hosts, and tenants with one network and one group each.

use std::fmt::{self, Display, Formatter};

use eastgate_wire::Family;

/// A host of the overlay.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    name: &'a str,
    vtep: &'a str,
    runs_eastgate: bool,
}

/// A tenant: network `lan`, group `all`, and endpoints that are in both.
#[derive(Clone, Copy)]
pub struct Tenant<'a> {
    pub name: &'a str,
    pub vni: u32,
    /// Which addresses its endpoints have
    pub families: &'a [Family],
    /// More lines of its network
    pub network: &'a str,
    /// What its group lets in, each rule an inline table; it lets everything out
    pub ingress: &'a [&'a str],
    pub endpoints: &'a [Endpoint<'a>],
}

/// An endpoint. MAC and addresses end with its number, in hexadecimal digits.
#[derive(Clone, Copy)]
pub struct Endpoint<'a> {
    pub name: &'a str,
    pub host: &'a str,
    /// None behind a VTEP that does not run eastgate
    pub port: Option<&'a str>,
    pub number: u8,
}

/// The text of a whole file.
pub fn configuration(hosts: &[Host<'_>], tenants: &[Tenant<'_>]) -> String {
    let hosts = hosts.iter().map(Host::to_string);
    hosts.chain(tenants.iter().map(Tenant::to_string)).collect()
}

impl<'a> Host<'a> {
    /// A host that runs eastgate.
    pub const fn new(name: &'a str, vtep: &'a str) -> Self {
        Self { name, vtep, runs_eastgate: true }
    }

    /// Someone else's VTEP.
    pub const fn plain(name: &'a str, vtep: &'a str) -> Self {
        Self { name, vtep, runs_eastgate: false }
    }
}

impl Display for Host<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "[host.{}]\nvtep = \"{}\"\ndevice = \"underlay0\"", self.name, self.vtep)?;
        if !self.runs_eastgate {
            writeln!(out, "runs = \"vxlan\"")?;
        }
        Ok(())
    }
}

impl Display for Tenant<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, vni, network, .. } = self;
        let subnets = quoted(self.families, |family| match family {
            Family::V4 => "10.1.0.0/24".to_owned(),
            Family::V6 => "fd00:1::/64".to_owned(),
        });
        writeln!(out, "\n[tenant.{name}.network.lan]\nvni = {vni}\nsubnets = [{subnets}]\n{network}")?;
        writeln!(out, "\n[tenant.{name}.group.all]\ningress = [")?;
        for rule in self.ingress {
            writeln!(out, "  {rule},")?;
        }
        writeln!(out, "]\negress = [{{ to = \"any\" }}]")?;
        self.endpoints.iter().try_for_each(|endpoint| self.write_endpoint(endpoint, out))
    }
}

impl Tenant<'_> {
    fn write_endpoint(&self, endpoint: &Endpoint<'_>, out: &mut Formatter<'_>) -> fmt::Result {
        let Endpoint { name, host, port, number } = endpoint;
        writeln!(out, "\n[tenant.{}.endpoint.{name}]\nnetwork = \"lan\"\nhost = \"{host}\"", self.name)?;
        if let Some(port) = port {
            writeln!(out, "port = \"{port}\"")?;
        }
        let addresses = quoted(self.families, |family| match family {
            Family::V4 => format!("10.1.0.{number:x}"),
            Family::V6 => format!("fd00:1::{number:x}"),
        });
        writeln!(out, "mac = \"02:00:00:00:00:{number:02x}\"\naddresses = [{addresses}]\ngroups = [\"all\"]")
    }
}

/// What stands in a list of strings, one for each family.
fn quoted(families: &[Family], text: impl Fn(Family) -> String) -> String {
    families.iter().map(|family| format!("\"{}\"", text(*family))).collect::<Vec<_>>().join(", ")
}
