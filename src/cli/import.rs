//! `eastgate import`: policies of other systems as a configuration.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;

use super::exit;
use crate::import::{File, From, Map, import};

/// What is said under `eastgate import --help`.
pub const HELP: &str = "Writes TOML with tenants, networks, groups and endpoints, to be included by a file with your hosts. What is written is never wider than
what was read: what cannot be said is an error with its place, and then nothing is written (exit code 3). What becomes narrower
stands in a comment.

Examples:
  for group in $(openstack security group list -f value -c ID); do openstack security group show -f json $group; done > groups.json
  for port in $(openstack port list -f value -c ID); do openstack port show -f json $port; done > ports.json
  openstack network show -f json app > network.json; openstack subnet list -f json > subnets.json
  for list in \"group list\" \"group policy list\" \"group rule list\"; do openstack firewall $list --long -f json; done > firewall.json
  eastgate import neutron --map map.toml groups.json ports.json network.json subnets.json firewall.json > tenants/acme.toml

  virsh dumpxml web1 > web1.xml; virsh nwfilter-dumpxml my-filter > my-filter.xml
  eastgate import libvirt --map map.toml --host alpha web1.xml my-filter.xml /usr/share/libvirt/nwfilter/*.xml > tenants/acme.toml

  cmk set output json; cmk list securitygroups listall=true > groups.json; cmk list virtualmachines listall=true > machines.json
  eastgate import cloudstack --map map.toml groups.json machines.json > tenants/acme.toml

A mapping file says what only you know; every part of it may be left out:
  tenant = \"acme\"                            # where everything goes; --tenant
  host = \"alpha\"                             # where everything is; --host
  [project.\"id or name\"]                     # a Neutron project, a CloudStack account
  tenant = \"acme\"
  [hypervisor.\"compute-1.example.net\"]       # a hypervisor's name there
  host = \"alpha\"
  [network.\"id or name\"]
  name = \"app\"
  vni = 5001
  subnets = [\"10.1.0.0/24\"]
  gateways = [\"10.1.0.1\"]                   # for libvirt's clean-traffic-gateway
  [port.\"id, name or MAC\"]                   # an interface; skip = true leaves it out
  name = \"web1\"
  host = \"alpha\"
  port = \"tap0\"

What each construct becomes: docs/migrating.md.";

/// Options of `import`
#[derive(ClapArgs, Clone, Debug)]
pub struct Import {
    /// Whose policies
    #[arg(value_enum)]
    pub from: From,
    /// What its client has printed
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The mapping file
    #[arg(short, long, value_name = "FILE")]
    pub map: Option<PathBuf>,
    /// The tenant that everything goes to
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// The host that everything is on
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

pub(super) fn run(options: &Import) -> Result<u8> {
    let mut map = match &options.map {
        Some(path) => Map::read(path)?,
        None => Map::default(),
    };
    // What the command line says goes before the file.
    let mut said = String::new();
    for (key, name) in [("tenant", &options.tenant), ("host", &options.host)] {
        if let Some(name) = name {
            let _ = writeln!(said, "{key} = {name:?}");
        }
    }
    let said = Map::of("the command line", &said)?;
    map.tenant = said.tenant.or(map.tenant);
    map.host = said.host.or(map.host);
    let files: Result<Vec<File>> = options.files.iter().map(|path| File::read(path)).collect();
    let text = import(options.from, &files?, &map)?;
    print!("{text}");
    std::io::Write::flush(&mut std::io::stdout()).context("cannot write")?;
    Ok(exit::OK)
}
