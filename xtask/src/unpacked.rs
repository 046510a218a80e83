//! Debian packages that are unpacked below `target/` rather than installed: installed, they would change what the machine boots or
//! serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use eastgate_testkit::leftover;

use crate::{packages, run, target};

/// Programs that tests start, each from the package of its name, and what for. Installed, they would serve on all addresses.
const TOOLS: [(&str, &str); 1] =
    [("prometheus", "scrapes what eastgate counts; its promtool holds the alert rules")];

/// Fetches the programs that tests start and that are not to be installed.
pub(crate) fn tools() -> Result<()> {
    for (package, reason) in TOOLS {
        let home = target()?.join("tools").join(package);
        if !home.exists() && packages::find_command(package).is_none() {
            println!("Fetching {package}, which {reason}.");
            packages::refresh()?;
            fetch(package, &home, |_| Ok(()))?;
        }
    }
    Ok(())
}

/// Fetches `package` and unpacks it as `home`, whole or not at all. `finish` does what else there is to do.
pub(crate) fn fetch(package: &str, home: &Path, finish: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = home.parent().context("a folder has a place")?;
    let name = home.file_name().context("a folder has a name")?.to_string_lossy();
    let prefix = format!("{name}.new-");
    fs::create_dir_all(folder)?;
    for name in leftover::of_dead_runs(folder, &prefix)? {
        fs::remove_dir_all(folder.join(name))?;
    }
    // What is cut short stays under another name.
    let new = folder.join(format!("{prefix}{}", std::process::id()));
    fs::create_dir_all(&new)?;
    println!("{package} is unpacked in {}, and not installed.", home.display());
    run::output(Command::new("apt-get").args(["download", "-qq", package]).current_dir(&new))
        .with_context(|| format!("apt-get could not fetch {package}"))?;
    let archive = the_file(&new)?;
    run::output(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&new))?;
    fs::remove_file(&archive)?;
    finish(&new)?;
    fs::rename(&new, home).with_context(|| home.display().to_string())
}

/// The one file in `folder`: its name has the package's full version, in apt's own spelling.
fn the_file(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    match entries.as_slice() {
        [one] => Ok(one.path()),
        others => bail!("apt-get fetched {} files into {}", others.len(), folder.display()),
    }
}
