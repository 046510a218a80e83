//! Compiles the programs in `bpf/` with clang into the object that the crate embeds.

use std::{env, path::PathBuf, process::Command};

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "bpf/fastpath.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    let clang = Command::new("clang").arg("--version").output();
    if !clang.is_ok_and(|output| output.status.success()) {
        fail("clang is not installed; on Debian: apt-get install clang libelf-dev zlib1g-dev");
    }
    let object = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("fastpath.bpf.o");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // The second folder is where Debian keeps <asm/types.h>, which clang does not search for this target.
    let arguments = ["-Wall", "-Werror", "-mcpu=v3"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("-I/usr/include/{arch}-linux-gnu")]);
    if let Err(error) = SkeletonBuilder::new().source(SOURCE).obj(&object).clang_args(arguments).build() {
        fail(&format!("{SOURCE} does not compile: {error:?}"));
    }
}

fn fail(why: &str) -> ! {
    eprintln!("error: {why}");
    std::process::exit(1)
}
