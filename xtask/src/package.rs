//! `cargo xtask package`: eastgate as a Debian package, and a look at it as a machine sees it that gets it.

mod check;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Need};
use crate::{PROGRAMS, cargo, run, target, workspace};

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  cargo xtask package                   target/package/eastgate_VERSION_ARCHITECTURE.deb\n  cargo xtask package --check           and install it in a bare Debian, upgrade it, and take it away again"
)]
pub(crate) struct Options {
    /// Pack the programs of this folder instead of building them for release
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Install it in a bare Debian, upgrade it, and take it away again
    #[arg(long)]
    check: bool,
    /// Build the programs a second time, from another folder into another one, and hold them to be the same
    #[arg(long, conflicts_with = "programs")]
    twice: bool,
}

/// Where the package and what it is made of are, below cargo's own folder
const FOLDER: &str = "package";

/// What runs the package's programs; found by `check`, which starts them in a root with these alone
const DEPENDS: &str =
    "adduser, init-system-helpers (>= 1.54~), libc6 (>= 2.36), libelf1 (>= 0.188), libgcc-s1, zlib1g";

/// Where this machine gets its packages from; the first that there is says so for a Debian that is made here
pub(crate) const SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/// Files that an administrator may change, and that an upgrade leaves alone
const CONFFILES: &[&str] = &["/etc/default/eastgate"];

pub(crate) fn run(options: &Options) -> Result<()> {
    packages::install(Need::Package)?;
    let packages = make(options.programs.as_deref())?;
    println!("{} ({} KiB)", packages.this.display(), fs::metadata(&packages.this)?.len() / 1024);
    if options.twice {
        build_elsewhere(&packages.programs)?;
        println!("built again elsewhere, and equal");
    }
    if options.check {
        check::install_upgrade_and_remove(&packages.this, &packages.next()?, &target()?.join(FOLDER))?;
    }
    Ok(())
}

/// A package, and what another one of the same programs is made of.
#[derive(Debug)]
pub(crate) struct Packages {
    /// Of this commit
    pub(crate) this: PathBuf,
    programs: PathBuf,
    version: String,
}

impl Packages {
    /// One that is newer by its number, to upgrade to.
    pub(crate) fn next(&self) -> Result<PathBuf> {
        pack(&workspace()?, &self.programs, &format!("{}+next", self.version))
    }
}

/// Makes a package of what is built here, or of the programs in a folder.
pub(crate) fn make(programs: Option<&Path>) -> Result<Packages> {
    let workspace = workspace()?;
    let built = || build(&workspace, &target()?.join(FOLDER).join("build"));
    let programs = programs.map_or_else(built, |folder| Ok(folder.to_owned()))?;
    let version = version(&workspace)?;
    Ok(Packages { this: pack(&workspace, &programs, &version)?, programs, version })
}

/// The programs as they are released: no path of the machine that built them is in them.
fn build(workspace: &Path, folder: &Path) -> Result<PathBuf> {
    let home = std::env::var("CARGO_HOME").map_or_else(|_| home().join(".cargo"), PathBuf::from);
    let rename = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    // The last that fits counts, and one may be in another.
    let flags = [
        rename(&home, "/cargo"),
        rename(workspace, "/eastgate"),
        rename(folder, "/eastgate/target"),
        "-Cstrip=symbols".to_owned(),
    ];
    run::visible(
        cargo()
            .args(["build", "--release", "--locked"])
            .args(PROGRAMS)
            .arg("--target-dir")
            .arg(folder)
            // A blank may stand in a path.
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .env("CARGO_INCREMENTAL", "0")
            .current_dir(workspace),
    )?;
    Ok(folder.join("release"))
}

/// What is committed, built from a folder of another name, is what was built here.
fn build_elsewhere(built: &Path) -> Result<()> {
    let elsewhere = target()?.join(FOLDER).join("elsewhere");
    if elsewhere.exists() {
        fs::remove_dir_all(&elsewhere)?;
    }
    let checkout = elsewhere.join("another-checkout");
    let mut clone = Command::new("git");
    run::output(clone.args(["clone", "--quiet", "--shared"]).arg(workspace()?).arg(&checkout))?;
    let again = build(&checkout, &elsewhere.join("another-target"))?;
    for program in ["eastgate", "eastgate-lab"] {
        let [first, second] = [built, &again].map(|folder| fs::read(folder.join(program)));
        ensure!(first? == second?, "{program} differs when it is built elsewhere");
    }
    fs::remove_dir_all(&elsewhere)?;
    Ok(())
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// That of the workspace, with the time and name of the commit: a later one is higher.
fn version(workspace: &Path) -> Result<String> {
    let mut command = Command::new("git");
    command.args(["log", "-1", "--format=%cd.%h", "--date=format-local:%Y%m%d%H%M%S"]).env("TZ", "UTC");
    let commit = run::output(command.current_dir(workspace))?;
    Ok(format!("{}+git{}", env!("CARGO_PKG_VERSION"), commit.trim()))
}

/// The time of the commit, which everything in the package has: who builds it again gets the same.
fn time(workspace: &Path) -> Result<String> {
    let output = run::output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(workspace))?;
    Ok(output.trim().to_owned())
}

/// Makes a package of programs that are there.
fn pack(workspace: &Path, programs: &Path, version: &str) -> Result<PathBuf> {
    let architecture = run::output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let folder = target()?.join(FOLDER);
    let name = format!("eastgate_{version}_{architecture}");
    let tree = Tree(folder.join(&name));
    if tree.0.exists() {
        fs::remove_dir_all(&tree.0)?;
    }
    tree.fill(workspace, programs)?;
    tree.describe(workspace, version, &architecture)?;
    let package = folder.join(format!("{name}.deb"));
    let mut command = Command::new("dpkg-deb");
    command.args(["--build", "--root-owner-group", "-Zxz"]).arg(&tree.0).arg(&package);
    run::output(command.env("SOURCE_DATE_EPOCH", time(workspace)?))?;
    fs::remove_dir_all(&tree.0)?;
    Ok(package)
}

/// What a package is made of: files where they are to be.
struct Tree(PathBuf);

impl Tree {
    fn write(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(())
    }

    fn copy(&self, from: &Path, path: &str, mode: u32) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write(path, content, mode)
    }

    fn fill(&self, workspace: &Path, programs: &Path) -> Result<()> {
        for program in ["eastgate", "eastgate-lab"] {
            self.copy(&programs.join(program), &format!("usr/bin/{program}"), 0o755)?;
        }
        let packaging = workspace.join("packaging");
        for unit in ["eastgate.service", r"run-eastgate\x2dbpf.mount"] {
            self.copy(&packaging.join(unit), &format!("lib/systemd/system/{unit}"), 0o644)?;
        }
        self.copy(&packaging.join("eastgate.default"), "etc/default/eastgate", 0o644)?;
        fs::create_dir_all(self.0.join("etc/eastgate"))?;
        let eastgate = programs.join("eastgate");
        for (shell, path) in [
            ("bash", "usr/share/bash-completion/completions/eastgate"),
            ("zsh", "usr/share/zsh/vendor-completions/_eastgate"),
            ("fish", "usr/share/fish/vendor_completions.d/eastgate.fish"),
        ] {
            let text = run::output(Command::new(&eastgate).args(["completions", shell]))?;
            self.write(path, text, 0o644)?;
        }
        let manual = self.0.join("usr/share/man/man1");
        fs::create_dir_all(&manual)?;
        run::output(Command::new(&eastgate).arg("manual").arg(&manual))?;
        for page in fs::read_dir(&manual)? {
            compress(&page?.path())?;
        }
        self.documents(workspace)
    }

    fn documents(&self, workspace: &Path) -> Result<()> {
        let doc = "usr/share/doc/eastgate";
        let about = "Copyright: the contributors of eastgate\n\nLicensed under the Apache License, version 2.0. On Debian systems its full text is in\n\
                     /usr/share/common-licenses/Apache-2.0.\n";
        self.write(&format!("{doc}/copyright"), about, 0o644)?;
        self.copy(&workspace.join("CHANGELOG.md"), &format!("{doc}/changelog"), 0o644)?;
        compress(&self.0.join(doc).join("changelog"))?;
        self.copy(&workspace.join("README.md"), &format!("{doc}/README.md"), 0o644)?;
        let folders = [
            ("docs", "docs"),
            ("docs/adr", "docs/adr"),
            ("docs/pictures", "docs/pictures"),
            ("configs", "examples"),
            ("packaging/prometheus", "prometheus"),
        ];
        for (from, to) in folders {
            for file in fs::read_dir(workspace.join(from))? {
                let (path, name) = file.map(|file| (file.path(), file.file_name()))?;
                if path.is_file() {
                    self.copy(&path, &format!("{doc}/{to}/{}", name.to_string_lossy()), 0o644)?;
                }
            }
        }
        Ok(())
    }

    /// What dpkg reads.
    fn describe(&self, workspace: &Path, version: &str, architecture: &str) -> Result<()> {
        let size = run::output(Command::new("du").args(["-sk", "--apparent-size"]).arg(&self.0))?;
        let size = size.split_whitespace().next().unwrap_or("0");
        let control = format!(
            "Package: eastgate\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: eastgate <eastgate@localhost>\n\
             Installed-Size: {size}\nDepends: {DEPENDS}\nRecommends: iproute2\nSection: net\nPriority: optional\n\
             Description: VXLAN overlay and east-west steering with stateful policy\n \
             A VTEP that carries tenants' frames in VXLAN, draws the flows between their\n \
             machines through itself, and holds each against the policies of both ends,\n \
             in eBPF programs or in userspace.\n"
        );
        self.write("DEBIAN/control", control, 0o644)?;
        self.write("DEBIAN/conffiles", CONFFILES.join("\n") + "\n", 0o644)?;
        for script in ["postinst", "prerm", "postrm"] {
            self.copy(&workspace.join("packaging").join(script), &format!("DEBIAN/{script}"), 0o755)?;
        }
        let sums =
            "find . -path ./DEBIAN -prune -o -type f -print0 | sort -z | xargs -0 md5sum | sed 's# \\./# #'";
        let sums = run::output(Command::new("sh").args(["-c", sums]).current_dir(&self.0))?;
        self.write("DEBIAN/md5sums", sums, 0o644)
    }
}

/// As Debian has manual pages and changelogs. No time and no name is in it.
fn compress(path: &Path) -> Result<()> {
    run::output(Command::new("gzip").args(["-9", "--no-name"]).arg(path))?;
    Ok(())
}
