//! Puts the labs' files into the program, so that `eastgate lab up NAME` works wherever it is run.
#![allow(clippy::expect_used, reason = "a build that cannot go on ends with what is missing")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is"));
    let labs = root.parent().expect("the package stands among the labs");
    println!("cargo:rerun-if-changed={}", labs.display());
    let mut text = String::from("&[\n");
    for lab in sorted(labs).into_iter().filter(|folder| folder.join("topology.toml").is_file()) {
        let files =
            sorted(&lab).into_iter().filter(|file| file.extension().is_some_and(|kind| kind == "toml"));
        text += &format!("({:?}, &[\n", name(&lab));
        for file in files {
            println!("cargo:rerun-if-changed={}", file.display());
            text += &format!("({:?}, include_str!({:?})),\n", name(&file), file.display().to_string());
        }
        text += "]),\n";
    }
    text += "]\n";
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to build")).join("labs.rs");
    fs::write(out, text).expect("the build's folder can be written to");
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
    let mut paths: Vec<PathBuf> = entries.unwrap_or_default();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
