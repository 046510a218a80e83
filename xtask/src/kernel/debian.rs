//! A kernel from Debian's archive, unpacked below `target/` rather than installed: this machine boots its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{packages, run, unpacked};

/// Depends on the newest build of the kernel that Debian makes for virtual machines, which is small.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel on disk.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What boots.
    pub(crate) image: PathBuf,
    /// Where its modules are, with `modules.dep`.
    pub(crate) modules: PathBuf,
    /// What `uname -r` says on it.
    pub(crate) release: String,
}

/// The kernel `version` from below `folder`, fetched and unpacked on first use.
pub(crate) fn kernel(version: &str, folder: &Path) -> Result<Kernel> {
    let home = folder.join(version);
    if !home.exists() {
        fetch(version, &home)?;
    }
    let modules = home.join("lib/modules");
    let mut releases = fs::read_dir(&modules).with_context(|| modules.display().to_string())?;
    let release = releases.next().context("the kernel's package has no modules")??.file_name();
    let release = release.to_string_lossy().into_owned();
    Ok(Kernel {
        image: home.join("boot").join(format!("vmlinuz-{release}")),
        modules: modules.join(&release),
        release,
    })
}

fn fetch(version: &str, home: &Path) -> Result<()> {
    packages::refresh()?;
    let package = newest(version)?;
    unpacked::fetch(&package, home, |new| {
        // What installing the package would do.
        let release = package.trim_start_matches("linux-image-");
        run::output(Command::new("busybox").args(["depmod", "-b"]).arg(new).arg(release)).map(drop)
    })
}

/// The package that has the kernel itself.
fn newest(version: &str) -> Result<String> {
    let said = run::output(Command::new("apt-cache").args(["depends", PACKAGE]))?;
    let names: Vec<&str> = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).collect();
    match names.iter().find(|name| name.starts_with(&format!("linux-image-{version}."))) {
        Some(name) => Ok((*name).to_owned()),
        None => bail!(
            "Linux {version} is Debian 12's; the package archive of this system has {}",
            names.join(", ")
        ),
    }
}
