//! The Debian packages contributors' commands need, each with its reason, and how a missing one is got.
//!
//! This is the only list: `cargo xtask demo`, `test` and `bench` install from it what is missing, and nothing else.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{privilege, run};

/// Which of our commands needs a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Building eastgate, which all of the others do too.
    Build,
    /// `cargo xtask demo`.
    Demo,
    /// `cargo xtask test`.
    Test,
    /// `cargo xtask test --kernel`.
    Kernel,
    /// `cargo xtask bench`.
    Bench,
    /// `cargo xtask package`.
    Package,
    /// `cargo xtask image`.
    Image,
    /// `cargo xtask test --image`, beside what the image and the emulated machine need.
    Appliance,
}

struct Package {
    name: &'static str,
    /// A command that succeeds where it is there, however it was installed.
    probe: &'static [&'static str],
    needed_by: &'static [Need],
    reason: &'static str,
}

const EVERYONE: &[Need] =
    &[Need::Build, Need::Demo, Need::Test, Need::Kernel, Need::Bench, Need::Package, Need::Image];

const PACKAGES: &[Package] = &[
    Package {
        name: "clang",
        probe: &["clang", "--version"],
        needed_by: EVERYONE,
        reason: "compiles the fast path's eBPF programs",
    },
    Package {
        name: "libelf-dev",
        probe: &["pkg-config", "--exists", "libelf"],
        needed_by: EVERYONE,
        reason: "libbpf, which loads those programs, reads them with it",
    },
    Package {
        name: "zlib1g-dev",
        probe: &["pkg-config", "--exists", "zlib"],
        needed_by: EVERYONE,
        reason: "libelf needs it",
    },
    Package {
        name: "pkg-config",
        probe: &["pkg-config", "--version"],
        needed_by: EVERYONE,
        reason: "finds those two libraries",
    },
    Package {
        name: "make",
        probe: &["make", "--version"],
        needed_by: EVERYONE,
        reason: "libbpf is built by it",
    },
    Package {
        name: "iproute2",
        probe: &["ip", "-Version"],
        needed_by: &[Need::Demo, Need::Test, Need::Kernel, Need::Bench],
        reason: "labs and benchmarks are built of network namespaces and veth pairs",
    },
    Package {
        name: "ethtool",
        probe: &["ethtool", "--version"],
        needed_by: &[Need::Test],
        reason: "where packets are compared as they are, no device may cut or merge them",
    },
    Package {
        name: "dnsmasq-base",
        probe: &["dnsmasq", "--version"],
        needed_by: &[Need::Test],
        reason: "addresses are learned from what a real DHCP and DHCPv6 server leases",
    },
    Package {
        name: "udhcpc",
        probe: &["sh", "-c", "command -v udhcpc"],
        needed_by: &[Need::Test],
        reason: "to a real DHCP client",
    },
    Package {
        name: "isc-dhcp-client",
        probe: &["sh", "-c", "command -v dhclient"],
        needed_by: &[Need::Test],
        reason: "and to a real DHCPv6 client",
    },
    Package {
        name: "lldpad",
        probe: &["sh", "-c", "command -v lldpad && command -v vdptool"],
        needed_by: &[Need::Test, Need::Kernel],
        reason: "machines are associated by a real station of IEEE 802.1Qbg",
    },
    Package {
        name: "python3-pyftpdlib",
        probe: &["/usr/bin/python3", "-c", "import pyftpdlib"],
        needed_by: &[Need::Test],
        reason: "files are had from a real FTP server",
    },
    Package {
        name: "curl",
        probe: &["curl", "--version"],
        needed_by: &[Need::Test, Need::Appliance],
        reason: "by a real FTP and TFTP client; the API is asked by it; machines of the emulated switch get pages by it",
    },
    Package {
        name: "libusrsctp-examples",
        probe: &["sh", "-c", "test -x /usr/lib/usrsctp/echo_server"],
        needed_by: &[Need::Test],
        reason: "associations of SCTP are those of a real stack",
    },
    Package {
        name: "iptables",
        probe: &["iptables", "--version"],
        needed_by: &[Need::Test, Need::Bench],
        reason: "eastgate is compared with Linux's own firewall, and with Neutron's rules",
    },
    Package {
        name: "ipset",
        probe: &["ipset", "--version"],
        needed_by: &[Need::Test],
        reason: "the groups of Neutron's rules are sets of addresses",
    },
    Package {
        name: "nftables",
        probe: &["nft", "--version"],
        needed_by: &[Need::Test],
        reason: "policies are compared with Linux's other firewall too",
    },
    Package {
        name: "python3-jsonschema",
        probe: &["/usr/bin/python3", "-c", "from jsonschema import Draft202012Validator"],
        needed_by: &[Need::Test],
        reason: "the schema of configurations is held to the examples by it, the description of the API to its answers",
    },
    Package {
        name: "openssl",
        probe: &["openssl", "version"],
        needed_by: &[Need::Test],
        reason: "makes certificates for the API",
    },
    Package {
        name: "python3-scapy",
        probe: &["/usr/bin/python3", "-c", "import scapy"],
        needed_by: &[Need::Test],
        reason: "headers are held to an encoder that shares no code with ours",
    },
    Package {
        name: "nfdump",
        probe: &["nfcapd", "-V"],
        needed_by: &[Need::Test],
        reason: "collects the flows that `eastgate export` sends",
    },
    Package {
        name: "python3-pyte",
        probe: &["/usr/bin/python3", "-c", "import pyte"],
        needed_by: &[Need::Test],
        reason: "reads the screen of `eastgate top` as a terminal does",
    },
    Package {
        name: "chromium",
        probe: &["sh", "-c", "command -v chromium"],
        needed_by: &[Need::Test],
        reason: "the page is looked at by a real browser",
    },
    Package {
        name: "chromium-driver",
        probe: &["chromedriver", "--version"],
        needed_by: &[Need::Test],
        reason: "which presses its keys as WebDriver says",
    },
    Package {
        name: "pngquant",
        probe: &["pngquant", "--version"],
        needed_by: &[Need::Test],
        reason: "pictures of it in the documentation are made small",
    },
    Package {
        name: "fonts-dejavu-core",
        probe: &["test", "-r", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"],
        needed_by: &[Need::Test],
        reason: "and has letters to show",
    },
    Package {
        name: "iputils-ping",
        probe: &["ping", "-V"],
        needed_by: &[Need::Test, Need::Appliance],
        reason: "tests send the echo requests a reader would type",
    },
    Package {
        name: "tcpdump",
        probe: &["tcpdump", "--version"],
        needed_by: &[Need::Test],
        reason: "says which VLAN tags there are on a cable",
    },
    Package {
        name: "tshark",
        probe: &["tshark", "--version"],
        needed_by: &[Need::Test],
        reason: "reads captures as Wireshark does, comments and verdicts with them",
    },
    Package {
        name: "keepalived",
        probe: &["keepalived", "--version"],
        needed_by: &[Need::Test],
        reason: "moves addresses between machines as people do it (VRRP)",
    },
    Package {
        name: "libvirt-daemon-config-nwfilter",
        probe: &["ls", "/usr/share/libvirt/nwfilter/clean-traffic.xml"],
        needed_by: &[Need::Test],
        reason: "the filters that libvirt ships are imported, as they are installed",
    },
    Package {
        name: "qemu-system-x86",
        probe: &["qemu-system-x86_64", "--version"],
        needed_by: &[Need::Kernel],
        reason: "another kernel runs in an emulated machine",
    },
    Package {
        name: "busybox-static",
        probe: &["busybox", "depmod", "--help"],
        needed_by: &[Need::Kernel],
        reason: "that machine's shell and tools; here it lists which kernel module needs which",
    },
    Package {
        name: "mmdebstrap",
        probe: &["mmdebstrap", "--version"],
        needed_by: &[Need::Package, Need::Image],
        reason: "the package is installed in a Debian that has nothing else",
    },
    Package {
        name: "fdisk",
        probe: &["sfdisk", "--version"],
        needed_by: &[Need::Image],
        reason: "the appliance's disk has partitions",
    },
    Package {
        name: "e2fsprogs",
        probe: &["sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; command -v mkfs.ext4"],
        needed_by: &[Need::Image],
        reason: "one of them has its files",
    },
    Package {
        name: "dosfstools",
        probe: &["sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; command -v mkfs.vfat"],
        needed_by: &[Need::Image, Need::Appliance],
        reason: "another what UEFI reads; and a seed disk is one such",
    },
    Package {
        name: "mtools",
        probe: &["mcopy", "-V"],
        needed_by: &[Need::Image, Need::Appliance],
        reason: "fills both without mounting them",
    },
    Package {
        name: "qemu-utils",
        probe: &["qemu-img", "--version"],
        needed_by: &[Need::Image],
        reason: "hypervisors take disks of other formats",
    },
    Package {
        name: "openssh-client",
        probe: &["ssh", "-V"],
        needed_by: &[Need::Appliance],
        reason: "the appliance is managed by it",
    },
    Package {
        name: "ovmf",
        probe: &["test", "-r", "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"],
        needed_by: &[Need::Appliance],
        reason: "the appliance is booted by UEFI too",
    },
    Package {
        name: "systemd",
        probe: &["systemd-analyze", "--version"],
        needed_by: &[Need::Package],
        reason: "says what it thinks of the service's unit",
    },
];

/// Installs what `need` lacks through apt-get, saying why for each package.
pub(crate) fn install(need: Need) -> Result<()> {
    let missing: Vec<_> = PACKAGES.iter().filter(|package| package.needed_by.contains(&need)).collect();
    let missing: Vec<_> = missing.into_iter().filter(|package| !package.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("Installing what is missing (apt-get{}):", privilege::note());
    for package in &missing {
        println!("  {:<16} {}", package.name, package.reason);
    }
    if find_command("apt-get").is_none() {
        let names: Vec<_> = missing.iter().map(|package| package.name).collect();
        bail!(
            "this system has no apt-get; install by hand what corresponds to Debian's {}",
            names.join(", ")
        );
    }
    refresh()?;
    let mut words = vec!["install", "-y", "-qq", "--no-install-recommends"];
    words.extend(missing.iter().map(|package| package.name));
    apt_get(&words)
}

/// Brings the list of what can be installed up to date.
pub(crate) fn refresh() -> Result<()> {
    apt_get(&["update", "-qq"])
}

impl Package {
    fn is_there(&self) -> bool {
        let Some((program, words)) = self.probe.split_first() else { return false };
        let Some(program) = find_command(program) else { return false };
        run::output(Command::new(program).args(words)).is_ok()
    }
}

fn apt_get(words: &[&str]) -> Result<()> {
    let mut command = privilege::command("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120"]).args(words);
    run::output(&mut command).context("apt-get failed").map(drop)
}

/// Where a command is, `/sbin` included: an ordinary user's PATH often lacks it on Debian.
pub(crate) fn find_command(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned());
    std::env::split_paths(&path).chain(sbin).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dependencies, workspace};

    /// What every Debian machine has, or one with a Rust toolchain that links, or a package brings along with a command of its
    /// own: `ip` and `tc` come with iproute2, python3 with scapy, nfdump with nfcapd.
    const THERE: [&str; 19] = [
        "/usr/bin/python3",
        "cat",
        "cc",
        "echo",
        "env",
        "false",
        "install",
        "ip",
        "modprobe",
        "nfdump",
        "python3",
        "setpriv",
        "sh",
        "sleep",
        "tail",
        "tar",
        "tc",
        "timeout",
        "unshare",
    ];

    /// Programs that source files start by `Command::new` or a namespace's `command`, by a name that stands there
    fn started(sources: &str) -> Vec<&str> {
        let after = |start| sources.split(start).skip(1);
        let names = after("Command::new(\"").chain(after(".command(\""));
        names.filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn programs_are_found_in_sources() {
        assert_eq!(started(r#"space.command("arping").arg("x"); Command::new("ss")"#), ["ss", "arping"]);
    }

    fn sources_of_tests() -> String {
        let mut sources = String::new();
        for folder in ["tests", "labs/runner", "testkit"] {
            dependencies::read_all(&workspace().unwrap().join(folder), &mut sources).unwrap();
        }
        sources
    }

    /// See `eastgate_testkit::command::install`.
    #[test]
    fn no_test_writes_a_program_that_it_starts() {
        let sources = sources_of_tests();
        let written = ["fs::copy(EASTGATE", "fs::copy(PROGRAM"];
        let written: Vec<_> = written.into_iter().filter(|how| sources.contains(how)).collect();
        assert!(written.is_empty(), "use command::install: {written:?}");
    }

    #[test]
    fn whatever_tests_start_is_installed() {
        let sources = sources_of_tests();
        let is_installed = |name: &str| {
            PACKAGES.iter().any(|package| package.needed_by.contains(&Need::Test) && package.probe[0] == name)
        };
        let mut missing = started(&sources);
        missing.retain(|name| !THERE.contains(name) && !is_installed(name) && *name != "/no/such/program");
        assert!(missing.is_empty(), "no package brings {missing:?}");
    }
}
