//! What an emulated machine has in memory: programs with their libraries, files, kernel modules, and the script that is its first
//! process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use super::debian::Kernel;
use super::modules;
use crate::packages;

/// Where programs are, those of Debian's `/usr/sbin` too.
const PROGRAMS: &str = "/bin";

/// What is in it.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    /// Its first process
    pub(crate) init: &'a str,
    /// Programs that this machine has in its path
    pub(crate) tools: &'a [&'a str],
    /// Programs that were built
    pub(crate) built: &'a [PathBuf],
    /// Modules, which are loaded by `init`; those that they need come with them
    pub(crate) modules: &'a [&'a str],
    /// Folders, each below `/labs` by its name
    pub(crate) stories: &'a [PathBuf],
}

/// Writes the image to `path`.
pub(crate) fn write(path: &Path, kernel: &Kernel, contents: &Contents<'_>) -> Result<()> {
    // Not compressed: the emulated processor would take longer to unpack it than to be given it.
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    for folder in ["/dev", "/proc", "/run", "/sys", "/tmp"] {
        archive.folder(Path::new(folder))?;
    }
    archive.file(Path::new("/init"), contents.init.as_bytes())?;
    let tools = contents.tools.iter().map(|name| {
        packages::find_command(name).with_context(|| format!("there is no `{name}` on this machine"))
    });
    let mut programs = tools.collect::<Result<Vec<_>>>()?;
    programs.extend_from_slice(contents.built);
    let mut libraries = BTreeSet::new();
    for program in &programs {
        let name = program.file_name().context("a program without a name")?;
        archive.file(&Path::new(PROGRAMS).join(name), &read(program)?)?;
        libraries.extend(libraries_of(program)?);
    }
    for library in libraries {
        archive.file(&library, &read(&library)?)?;
    }
    add_modules(&mut archive, kernel, contents.modules)?;
    for story in contents.stories {
        let name = story.file_name().context("a story without a name")?;
        add_folder(&mut archive, story, &Path::new("/labs").join(name))?;
    }
    archive.finish().with_context(|| path.display().to_string())
}

/// The modules, and a list of them in the order in which they are loaded.
fn add_modules<W: std::io::Write>(archive: &mut Archive<W>, kernel: &Kernel, wanted: &[&str]) -> Result<()> {
    let text = |name: &str| {
        let path = kernel.modules.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let mut list = String::new();
    for file in modules::in_order(wanted, &text("modules.dep")?, &text("modules.builtin")?)? {
        let place = format!("/lib/modules/{}/{file}", kernel.release);
        archive.file(Path::new(&place), &read(&kernel.modules.join(file))?)?;
        list += &format!("{place}\n");
    }
    archive.file(Path::new("/modules"), list.as_bytes())?;
    Ok(())
}

fn add_folder<W: std::io::Write>(archive: &mut Archive<W>, from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            add_folder(archive, &path, &place)?;
        } else {
            archive.file(&place, &read(&path)?)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// The shared libraries a program is linked with, the loader among them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    // Cargo's own libraries are not the program's.
    let told = Command::new("ldd")
        .arg(program)
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .context("cannot start `ldd`")?;
    let (said, complaint) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    if complaint.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    if !told.status.success() {
        bail!("`ldd {}` failed ({}): {}", program.display(), told.status, complaint.trim());
    }
    libraries(&said).with_context(|| program.display().to_string())
}

/// What `ldd` tells: `name => path (address)`, or `path (address)` for the loader.
fn libraries(said: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in said.lines() {
        if line.contains("=> not found") {
            bail!("a library is missing: {}", line.trim());
        }
        // What the kernel itself provides has no path.
        found.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_and_a_missing_one_is_told() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2a)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f2b)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(said).unwrap(), expected);
        let error = libraries("\tlibelf.so.1 => not found\n").unwrap_err();
        assert_eq!(error.to_string(), "a library is missing: libelf.so.1 => not found");
    }
}
