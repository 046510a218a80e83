//! The filters that libvirt ships, as Debian's package has them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use eastgate::import::File;

/// The filters that Debian ships, where its package has installed them.
const SHIPPED: &str = "/usr/share/libvirt/nwfilter";

pub(crate) fn shipped() -> Vec<(String, File)> {
    let entries = fs::read_dir(SHIPPED).unwrap_or_else(|error| {
        panic!("{SHIPPED}: {error}; `cargo xtask test` installs libvirt-daemon-config-nwfilter")
    });
    let paths: BTreeSet<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), File::read(path).unwrap())).collect()
}
