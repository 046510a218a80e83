//! The disk: a GUID partition table with GRUB for BIOS and for UEFI (its signed one, by Debian's shim), and the root file system.
//! No loop device and no mount: file systems are made of folders, and put where the table says.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{packages, privilege, run};

const SECTOR: u64 = 512;

/// A partition: its first sector, and how many there are.
#[derive(Clone, Copy)]
struct Extent {
    first: u64,
    sectors: u64,
}

/// GRUB's core for BIOS, which has no file system: right behind the table
const CORE: Extent = Extent { first: 34, sectors: 2048 - 34 };
/// What UEFI reads
const EFI: Extent = Extent { first: 2048, sectors: (16 << 20) / SECTOR };
/// The appliance. It has room for upgrades and for the logs, which are bounded.
const ROOT: Extent = Extent { first: EFI.first + EFI.sectors, sectors: (1800 << 20) / SECTOR };
/// The table's second copy is at the end.
const TAIL: u64 = 2048;

/// Where GRUB's `boot.img` has the sector of the core
const BOOT_CORE_AT: usize = 0x5c;
/// What of the first sector is code: the rest is the table of partitions of the old kind
const BOOT_CODE: usize = 440;
/// Where the core's first sector has the sector of what follows it
const CORE_REST_AT: usize = 500;

/// Writes the disk of an appliance whose files are below `root`. `scratch` is a folder for what it is made of.
pub(super) fn write(root: &Path, scratch: &Path, disk: &Path) -> Result<()> {
    let boot = root.join("boot/grub/i386-pc");
    let (first, core) = (first_sector(&boot.join("boot.img"))?, core(&boot.join("core.img"))?);
    let parts = [(EFI, efi(root, scratch)?), (ROOT, system(root, scratch)?)];
    let file = File::create(disk).with_context(|| disk.display().to_string())?;
    file.set_len((ROOT.first + ROOT.sectors + TAIL) * SECTOR)?;
    partition(disk)?;
    // Not over the table of partitions of the old kind, which follows the code.
    file.write_all_at(&first, 0)?;
    file.write_all_at(&core, CORE.first * SECTOR)?;
    for (extent, part) in parts {
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", part.display())).arg(format!("of={}", disk.display()));
        dd.args(["bs=1M", "oflag=seek_bytes", "conv=notrunc,sparse", "status=none"]);
        run::output(dd.arg(format!("seek={}", extent.first * SECTOR)))?;
        fs::remove_file(part)?;
    }
    Ok(())
}

/// The table, by `sfdisk`.
fn partition(disk: &Path) -> Result<()> {
    let line =
        |extent: Extent, kind| format!("start={}, size={}, type={kind}\n", extent.first, extent.sectors);
    let table = [
        "label: gpt\nfirst-lba: 34\n".to_owned(),
        line(CORE, "21686148-6449-6E6F-744E-656564454649"),
        line(EFI, "U"),
        line(ROOT, "L"),
    ];
    let mut sfdisk = Command::new(packages::find_command("sfdisk").context("there is no `sfdisk`")?);
    let mut child = sfdisk.args(["--quiet", "--no-reread"]).arg(disk).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("no pipe")?.write_all(table.concat().as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "`sfdisk` failed ({status})");
    Ok(())
}

/// GRUB's code of the first sector, told where the core is.
fn first_sector(path: &Path) -> Result<Vec<u8>> {
    let mut code = fs::read(path).with_context(|| path.display().to_string())?;
    code.truncate(BOOT_CODE);
    put(&mut code, BOOT_CORE_AT, CORE.first)?;
    Ok(code)
}

/// GRUB's core, whose first sector is told where the others are.
fn core(path: &Path) -> Result<Vec<u8>> {
    let mut core = fs::read(path).with_context(|| path.display().to_string())?;
    let room = CORE.sectors * SECTOR;
    ensure!(core.len() as u64 <= room, "GRUB's core has {} bytes, and its partition {room}", core.len());
    put(&mut core, CORE_REST_AT, CORE.first + 1)?;
    Ok(core)
}

fn put(bytes: &mut [u8], at: usize, sector: u64) -> Result<()> {
    let place = bytes.get_mut(at..at + 8).context("a part of GRUB is too short")?;
    place.copy_from_slice(&sector.to_le_bytes());
    Ok(())
}

/// What UEFI reads: the loaders that the appliance's files have below `/boot/efi`.
fn efi(root: &Path, scratch: &Path) -> Result<PathBuf> {
    let part = empty(scratch, "efi.fat", EFI)?;
    let mkfs = packages::find_command("mkfs.vfat").context("there is no `mkfs.vfat`")?;
    run::output(Command::new(mkfs).args(["-n", "EFI"]).arg(&part))?;
    let folder = root.join("boot/efi/EFI");
    run::output(Command::new("mcopy").args(["-s", "-i"]).arg(&part).arg(folder).arg("::"))?;
    Ok(part)
}

/// The appliance's files. Their owners are root and others, whom only root may copy.
fn system(root: &Path, scratch: &Path) -> Result<PathBuf> {
    let part = empty(scratch, "root.ext4", ROOT)?;
    let mkfs = packages::find_command("mkfs.ext4").context("there is no `mkfs.ext4`")?;
    let mut command = privilege::command(mkfs)?;
    // Features that GRUB 2.06 does not read.
    command.args([
        "-q",
        "-F",
        "-m",
        "1",
        "-L",
        "eastgate-root",
        "-O",
        "^metadata_csum_seed,^orphan_file",
        "-d",
    ]);
    run::output(command.arg(root).arg(&part))?;
    Ok(part)
}

fn empty(scratch: &Path, name: &str, extent: Extent) -> Result<PathBuf> {
    let path = scratch.join(name);
    File::create(&path)?.set_len(extent.sectors * SECTOR)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_each_other_on_whole_mebibytes() {
        assert_eq!(CORE.first + CORE.sectors, EFI.first);
        assert_eq!(EFI.first + EFI.sectors, ROOT.first);
        assert!([EFI.first, ROOT.first].iter().all(|sector| sector % 2048 == 0));
    }

    #[test]
    fn a_loader_that_is_none_is_refused() {
        let path = std::env::temp_dir().join(format!("eastgate-xtask-boot-{}", std::process::id()));
        fs::write(&path, [0; 64]).unwrap();
        let said =
            [first_sector(&path).unwrap_err(), core(&path).unwrap_err()].map(|error| error.to_string());
        fs::write(&path, vec![0; (CORE.sectors * SECTOR) as usize + 1]).unwrap();
        let large = core(&path).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        assert_eq!(said, ["a part of GRUB is too short", "a part of GRUB is too short"]);
        assert_eq!(large, "GRUB's core has 1031169 bytes, and its partition 1031168");
    }
}
