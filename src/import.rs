//! Policies of other systems as a configuration: what their own clients print, in; TOML, out.
//!
//! What is written is never wider than what was read. What cannot be said is an error with its place, and nothing is written then;
//! what becomes narrower stands in a comment beside it. Names and comments are kept. The result is read as a configuration before it
//! is handed out, so that whatever contradicts itself in what was read is told as well.

mod cloudstack;
mod json;
mod libvirt;
mod map;
mod neutron;
mod site;
mod toml_text;

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use eastgate_config::{Place, Severity, Source, load_str};

pub use self::map::Map;
use self::site::Site;
use crate::faults::Faults;

/// Whose policies are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum From {
    /// OpenStack Neutron: `openstack ... -f json`
    Neutron,
    /// Apache CloudStack: `cmk list ...`
    Cloudstack,
    /// libvirt: `virsh nwfilter-dumpxml`, `virsh dumpxml`
    Libvirt,
}

/// A file that was read.
#[derive(Debug)]
pub struct File {
    /// With its name, for places
    source: Arc<Source>,
    text: String,
}

impl File {
    /// A file of this name that says this.
    #[must_use]
    pub fn new(name: &str, text: String) -> Self {
        Self { source: Source::new(name, &text), text }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
        Ok(Self::new(&name, text))
    }

    /// What it says.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    fn place(&self, range: std::ops::Range<usize>) -> Place {
        self.source.place(range)
    }
}

/// The configuration that says what these files say.
///
/// # Errors
/// All that cannot be said, or is missing.
pub fn import(from: From, files: &[File], map: &Map) -> Result<String, Faults> {
    let mut faults = Faults::default();
    let site = match from {
        From::Neutron => neutron::import(files, map, &mut faults),
        From::Cloudstack => cloudstack::import(files, map, &mut faults),
        From::Libvirt => libvirt::import(files, map, &mut faults),
    };
    let (site, faults) = (faults.unless_any(site)?, Faults::default());
    let names: Vec<&str> = files.iter().map(|file| file.source.name()).collect();
    let text = toml_text::write(&site, &names);
    check(&site, &text, faults)?;
    Ok(text)
}

/// Reads what was written, with hosts of the names that it uses.
fn check(site: &Site, text: &str, mut faults: Faults) -> Result<(), Faults> {
    let hosts: String = (1..)
        .zip(site.hosts())
        .map(|(number, host)| {
            let [.., high, low] = u32::to_be_bytes(number);
            format!("[host.{}]\nvtep = \"198.18.{high}.{low}\"\ndevice = \"eth0\"\n", toml_text::key(host))
        })
        .collect();
    let Err(diagnostics) = load_str("the result", &(text.to_owned() + &hosts)) else { return Ok(()) };
    for found in diagnostics.iter().filter(|found| found.problem.severity() == Severity::Error) {
        let line = found.at.text().lines().next().unwrap_or_default();
        let remedy = format!("what was read says so, at `{line}` of the result: {}", found.problem.remedy());
        faults.add(found.at.clone(), found.problem.to_string(), remedy);
    }
    faults.unless_any(())
}
