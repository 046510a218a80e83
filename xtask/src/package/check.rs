//! The package in a bare Debian: what it needs is all that it says it needs, an upgrade keeps what an administrator has written, and
//! nothing is left when it is purged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::SOURCES;
use crate::run;

/// By how much systemd says that a service is exposed, from 0 to 10, in tenths: what is left are its capabilities, the settings that it
/// writes, and the network.
const EXPOSURE_MAX: u32 = 25;

/// A root of a Debian, which is gone when it is dropped.
struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Root {
    /// A bare one, with what no package has to say that it needs.
    fn new(folder: &Path) -> Result<Self> {
        let root = Self(folder.join("root"));
        if root.0.exists() {
            fs::remove_dir_all(&root.0)?;
        }
        let release =
            run::output(Command::new("sh").args(["-c", ". /etc/os-release; echo $VERSION_CODENAME"]))?;
        println!("making a bare Debian {}", release.trim());
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=minbase", "--quiet", release.trim()]).arg(&root.0);
        command.args(SOURCES.iter().find(|file| Path::new(file).exists()));
        run::output(&mut command)?;
        // mmdebstrap leaves the lists of packages out.
        root.run(&["apt-get", "update", "-qq"])?;
        Ok(root)
    }

    fn run(&self, command: &[&str]) -> Result<String> {
        let mut chroot = Command::new("chroot");
        chroot.arg(&self.0).args([
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        ]);
        run::output(chroot.args(command))
    }

    /// Installs a package, and what it says that it needs.
    fn install(&self, package: &Path) -> Result<()> {
        fs::copy(package, self.0.join("eastgate.deb"))?;
        self.run(&["apt-get", "install", "-y", "-qq", "--no-install-recommends", "/eastgate.deb"])?;
        fs::remove_file(self.0.join("eastgate.deb"))?;
        Ok(())
    }

    /// Every file that is not a log or a cache of the package system's.
    fn files(&self) -> Result<BTreeSet<String>> {
        let command = "find / -xdev \\( -path /proc -o -path /sys -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache -o -path /var/log \\) -prune -o -print";
        Ok(self.run(&["sh", "-c", command])?.lines().map(str::to_owned).collect())
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path.trim_start_matches('/')).exists()
    }
}

pub(super) fn install_upgrade_and_remove(package: &Path, next: &Path, folder: &Path) -> Result<()> {
    let root = Root::new(folder)?;
    // What it depends on stays when it goes, so it is there before.
    root.run(&[
        "apt-get",
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
        "adduser",
        "libelf1",
        "zlib1g",
    ])?;
    let before = root.files()?;
    root.install(package)?;
    println!("installed");
    run_what_is_there(&root)?;
    hold_the_unit(&root)?;

    let options = "EASTGATE_OPTIONS=\"--host alpha\"\n";
    fs::write(root.0.join("etc/default/eastgate"), options)?;
    fs::copy(
        root.0.join("usr/share/doc/eastgate/examples/minimal.toml"),
        root.0.join("etc/eastgate/eastgate.toml"),
    )?;
    root.install(next)?;
    ensure!(
        fs::read_to_string(root.0.join("etc/default/eastgate"))? == options,
        "an upgrade has written over a conffile"
    );
    let check = root.run(&["eastgate", "check", "/etc/eastgate/eastgate.toml"])?;
    ensure!(check.contains("fine"), "the configuration does not hold after an upgrade: {check}");
    println!("upgraded");

    root.run(&["dpkg", "--remove", "eastgate"])?;
    ensure!(!root.has("/usr/bin/eastgate"), "it is still there");
    ensure!(
        root.has("/etc/eastgate/eastgate.toml") && root.has("/etc/default/eastgate"),
        "a removal has taken the configuration"
    );
    fs::remove_file(root.0.join("etc/eastgate/eastgate.toml"))?;
    root.run(&["dpkg", "--purge", "eastgate"])?;
    let users = fs::read_to_string(root.0.join("etc/passwd"))?;
    ensure!(!users.contains("eastgate"), "its user is left");
    let left: Vec<String> = root.files()?.difference(&before).cloned().collect();
    // What adduser makes for any package: backups of the lists of users, and its lock.
    let of_adduser = |path: &str| path == "/run/adduser" || path.starts_with("/etc/") && path.ends_with('-');
    let left: Vec<&String> = left.iter().filter(|path| !of_adduser(path)).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    println!("removed, and nothing is left");
    Ok(())
}

/// The programs start, and examples, manual pages and completions are where they are looked for.
fn run_what_is_there(root: &Root) -> Result<()> {
    for program in ["eastgate", "eastgate-lab"] {
        root.run(&[program, "--version"])?;
    }
    let examples = root.0.join("usr/share/doc/eastgate/examples");
    for example in fs::read_dir(&examples).with_context(|| examples.display().to_string())? {
        let name = example?.file_name();
        root.run(&[
            "eastgate",
            "check",
            &format!("/usr/share/doc/eastgate/examples/{}", name.to_string_lossy()),
        ])?;
    }
    for path in [
        "/usr/share/man/man1/eastgate.1.gz",
        "/usr/share/man/man1/eastgate-run.1.gz",
        "/usr/share/bash-completion/completions/eastgate",
        "/etc/default/eastgate",
    ] {
        ensure!(root.has(path), "there is no {path}");
    }
    let owner = root.run(&["stat", "-c", "%U:%G %a", "/etc/eastgate"])?;
    ensure!(owner.trim() == "root:eastgate 750", "/etc/eastgate is of {owner}");
    Ok(())
}

/// systemd knows every word of the unit, and says that it is exposed as little as may be.
fn hold_the_unit(root: &Root) -> Result<()> {
    let unit = root.0.join("lib/systemd/system/eastgate.service");
    let mut command = Command::new("systemd-analyze");
    let said = command.args(["security", "--offline=true", "--no-pager"]).arg(&unit).output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let exposure = said.lines().find_map(|line| {
        let (_, rest) = line.split_once("Overall exposure level for eastgate.service: ")?;
        let tenths: String = rest.split_whitespace().next()?.chars().filter(char::is_ascii_digit).collect();
        tenths.parse::<u32>().ok()
    });
    let exposure = exposure.with_context(|| format!("systemd-analyze says nothing of the unit: {said}"))?;
    println!("systemd calls the service's exposure {}.{}", exposure / 10, exposure % 10);
    if exposure > EXPOSURE_MAX {
        bail!("the service is exposed more than it needs to be:\n{said}");
    }
    Ok(())
}
