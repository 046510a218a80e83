//! A kernel from Debian's archive, unpacked below `target/` rather than installed: this machine boots its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use eastgate_testkit::leftover;

use crate::{packages, run};

/// Depends on the newest build of the kernel that Debian makes for virtual machines, which is small.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel on disk.
#[derive(Debug)]
pub(super) struct Kernel {
    /// What boots.
    pub(super) image: PathBuf,
    /// Where its modules are, with `modules.dep`.
    pub(super) modules: PathBuf,
    /// What `uname -r` says on it.
    pub(super) release: String,
}

/// The kernel `version` from below `folder`, fetched and unpacked on first use.
pub(super) fn kernel(version: &str, folder: &Path) -> Result<Kernel> {
    let home = folder.join(version);
    if !home.exists() {
        fetch(version, folder, &home)?;
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

fn fetch(version: &str, folder: &Path, home: &Path) -> Result<()> {
    let prefix = format!("{version}.new-");
    for name in leftover::of_dead_runs(folder, &prefix)? {
        fs::remove_dir_all(folder.join(name))?;
    }
    // Whole or not at all: what is cut short stays under another name.
    let new = folder.join(format!("{prefix}{}", std::process::id()));
    fs::create_dir_all(&new)?;
    packages::refresh()?;
    let package = newest(version)?;
    println!("Fetching {package}: it is unpacked in {}, and not installed.", home.display());
    run::output(Command::new("apt-get").args(["download", "-qq", &package]).current_dir(&new))
        .context("apt-get could not fetch the kernel")?;
    let archive = the_file(&new)?;
    run::output(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&new))?;
    fs::remove_file(&archive)?;
    // What installing the package would do.
    let release = package.trim_start_matches("linux-image-");
    run::output(Command::new("busybox").args(["depmod", "-b"]).arg(&new).arg(release))?;
    fs::rename(&new, home).with_context(|| home.display().to_string())
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

/// The one file in `folder`: its name has the package's full version, in apt's own spelling.
fn the_file(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    match entries.as_slice() {
        [one] => Ok(one.path()),
        others => bail!("apt-get fetched {} files into {}", others.len(), folder.display()),
    }
}
