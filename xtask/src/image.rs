//! `cargo xtask image`: the appliance as the disk of a virtual machine: Debian, its kernel for virtual machines, and eastgate's
//! package. [`acceptance`] boots it.

pub(crate) mod acceptance;
mod appliance;
mod disk;
mod generator;
mod machine;
mod seed;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Need};
use crate::{package, privilege, run, target, workspace};

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  cargo xtask image              target/image/eastgate.qcow2, .vmdk and .raw\n  cargo xtask test --image       the same, and boots it between machines that try to get past it"
)]
pub(crate) struct Options {
    /// Pack the programs of this folder instead of building them for release
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

/// Where the disks are, below cargo's own folder
const FOLDER: &str = "image";

/// The release of Debian that the appliance is
const RELEASE: &str = "bookworm";

/// What it has beside a bare Debian and what eastgate's package needs
const PACKAGES: &[&str] = &[
    "bash-completion",
    "ca-certificates",
    "cloud-init",
    "dbus",
    "grub-efi-amd64-signed",
    "grub-pc-bin",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "less",
    "linux-image-cloud-amd64",
    "nftables",
    "openssh-server",
    "shim-signed",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "tcpdump",
    "udev",
    "zstd",
];

/// What of those packages nobody reads on an appliance
const LEFT_OUT: &[&str] = &["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*"];

/// And what of that they do
const KEPT: &[&str] = &["/usr/share/doc/*/copyright", "/usr/share/doc/eastgate/*"];

/// The largest that a disk to download may be
const SIZE_MAX: u64 = 400 << 20;

/// The disks of one build.
#[derive(Debug)]
pub(crate) struct Image {
    /// For QEMU, libvirt and Proxmox
    pub(crate) qcow2: PathBuf,
    /// For vSphere
    pub(crate) vmdk: PathBuf,
    /// Sector by sector, sparse
    pub(crate) raw: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    packages::install(Need::Image)?;
    let image = make(&package::make(options.programs.as_deref())?.this)?;
    for disk in [&image.qcow2, &image.vmdk, &image.raw] {
        println!("{} ({} MiB)", disk.display(), on_disk(disk)? >> 20);
    }
    Ok(())
}

/// Makes the disks of an appliance that has this package.
pub(crate) fn make(package: &Path) -> Result<Image> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the appliance has an x86-64 processor, and eastgate is built here"
    );
    let folder = target()?.join(FOLDER);
    fs::create_dir_all(&folder)?;
    let root = Root(folder.join("root"));
    root.remove()?;
    println!("Making a Debian {RELEASE} with eastgate; that takes some minutes.");
    root.make(package)?;
    let raw = folder.join("eastgate.raw");
    disk::write(&root.0, &folder, &raw)?;
    root.remove()?;
    let (qcow2, vmdk) = (folder.join("eastgate.qcow2"), folder.join("eastgate.vmdk"));
    convert(&raw, &qcow2, &["-c", "-O", "qcow2"])?;
    // As vSphere takes it over a network; it is compressed too.
    convert(&raw, &vmdk, &["-O", "vmdk", "-o", "subformat=streamOptimized"])?;
    for disk in [&qcow2, &vmdk] {
        let size = on_disk(disk)?;
        ensure!(size <= SIZE_MAX, "{} has {} MiB", disk.display(), size >> 20);
    }
    Ok(Image { qcow2, vmdk, raw })
}

fn convert(raw: &Path, disk: &Path, how: &[&str]) -> Result<()> {
    run::output(Command::new("qemu-img").args(["convert", "-f", "raw"]).args(how).arg(raw).arg(disk))
        .map(drop)
}

/// How much room a file takes, holes left out.
fn on_disk(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata(path).with_context(|| path.display().to_string())?.blocks() * 512)
}

/// The appliance's files, which root owns.
struct Root(PathBuf);

impl Root {
    fn make(&self, package: &Path) -> Result<()> {
        let packaging = workspace()?.join("packaging");
        let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let customize = format!(
            "{} \"$1\" {} {}",
            quoted(&packaging.join("image.sh")),
            quoted(package),
            quoted(&packaging.join("image"))
        );
        let mut command = privilege::command("mmdebstrap")?;
        command.args(["--variant=minbase", "--quiet", "--include", &PACKAGES.join(",")]);
        let rules = LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}"));
        command.args(rules.chain(KEPT.iter().map(|path| format!("--dpkgopt=path-include={path}"))));
        command.arg(format!("--customize-hook={customize}")).arg(RELEASE).arg(&self.0);
        command.args(package::SOURCES.iter().find(|file| Path::new(file).exists()));
        run::output(&mut command).map(drop)
    }

    fn remove(&self) -> Result<()> {
        run::output(privilege::command("rm")?.args(["-rf", "--one-file-system"]).arg(&self.0)).map(drop)
    }
}
