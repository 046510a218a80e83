//! Disks that say who an appliance is: eastgate's own, and cloud-init's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{packages, run};

/// The appliance's address at its management device, which is also where the emulator forwards SSH to.
pub(super) const MANAGEMENT: &str = "10.0.2.15";

/// The devices of the appliance, by MAC.
pub(super) const MANAGEMENT_MAC: &str = "52:54:00:00:00:01";
pub(super) const TRUNK_MAC: &str = "52:54:00:00:00:02";
pub(super) const GENERATOR_MAC: &str = "52:54:00:00:00:03";

const NAMES: [(&str, &str); 3] =
    [("mgmt0", MANAGEMENT_MAC), ("trunk0", TRUNK_MAC), ("trunk1", GENERATOR_MAC)];

/// A disk with the label EASTGATE.
pub(super) fn own(disk: &Path, scratch: &Path, configuration: &str, key: &str) -> Result<()> {
    let links = NAMES.iter().map(|(name, mac)| {
        (format!("network/{name}.link"), format!("[Match]\nMACAddress={mac}\n\n[Link]\nName={name}\n"))
    });
    let mut files: Vec<_> = links.collect();
    files.push(("eastgate.toml".to_owned(), configuration.to_owned()));
    files.push(("authorized_keys".to_owned(), format!("{key}\n")));
    // Not by DHCP: what the seed says of management counts.
    files.push((
        "network/mgmt0.network".to_owned(),
        format!("[Match]\nName=mgmt0\n\n[Network]\nAddress={MANAGEMENT}/24\n"),
    ));
    write(disk, scratch, "EASTGATE", &files)
}

/// A disk with the label CIDATA, of the data source NoCloud. `instance` is another one where all of it is to be done again.
pub(super) fn cloud_init(
    disk: &Path,
    scratch: &Path,
    instance: &str,
    configuration: &str,
    key: &str,
) -> Result<()> {
    let indented: String = configuration.lines().map(|line| format!("      {line}\n")).collect();
    let user = format!(
        "#cloud-config\nhostname: appliance\nssh_authorized_keys:\n  - {key}\nwrite_files:\n  - path: /etc/eastgate/eastgate.toml\n    \
         owner: root:eastgate\n    permissions: '0640'\n    content: |\n{indented}"
    );
    let mut network = "version: 2\nethernets:\n".to_owned();
    for (name, mac) in NAMES {
        let dhcp = name == "mgmt0";
        network += &format!(
            "  {name}:\n    match: {{macaddress: \"{mac}\"}}\n    set-name: {name}\n    dhcp4: {dhcp}\n    optional: true\n"
        );
    }
    let files = [
        ("meta-data".to_owned(), format!("instance-id: {instance}\n")),
        ("user-data".to_owned(), user),
        ("network-config".to_owned(), network),
    ];
    write(disk, scratch, "CIDATA", &files)
}

fn write(disk: &Path, scratch: &Path, label: &str, files: &[(String, String)]) -> Result<()> {
    let folder = scratch.join(format!("seed-{label}"));
    let _ = fs::remove_dir_all(&folder);
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        fs::write(path, text)?;
    }
    File::create(disk)?.set_len(4 << 20)?;
    let mkfs = packages::find_command("mkfs.vfat").context("there is no `mkfs.vfat`")?;
    run::output(Command::new(mkfs).args(["-n", label]).arg(disk))?;
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    run::output(Command::new("mcopy").args(["-s", "-i"]).arg(disk).args(paths).arg("::")).map(drop)
}
