//! Compiles the programs in `bpf/` with clang into the objects that the crate embeds.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use libbpf_cargo::SkeletonBuilder;

/// What is compiled, and the object it becomes.
const OBJECTS: [(&str, &str); 3] = [
    ("bpf/fastpath.bpf.c", "fastpath.bpf.o"),
    ("bpf/guard.bpf.c", "guard.bpf.o"),
    // For the tests alone
    ("bpf/constants.bpf.c", "constants.bpf.o"),
];

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    let clang = Command::new("clang").arg("--version").output();
    if !clang.is_ok_and(|output| output.status.success()) {
        fail("clang is not installed; on Debian: apt-get install clang libelf-dev zlib1g-dev");
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for (source, object) in OBJECTS {
        compile(source, &folder.join(object));
    }
}

fn compile(source: &str, object: &Path) {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // The second folder is where Debian keeps <asm/types.h>, which clang does not search for this target.
    // Files are named as they are called here: what is built elsewhere is the same.
    let here = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let arguments = ["-Wall", "-Werror", "-mcpu=v3"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("-I/usr/include/{arch}-linux-gnu"), format!("-ffile-prefix-map={here}=.")]);
    if let Err(error) = SkeletonBuilder::new().source(source).obj(object).clang_args(arguments).build() {
        fail(&format!("{source} does not compile: {error:?}"));
    }
}

fn fail(why: &str) -> ! {
    eprintln!("error: {why}");
    std::process::exit(1)
}
