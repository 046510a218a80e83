//! The appliance as a virtual machine, managed as its user does it: by SSH to its management device.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::machine::{Machine, wait_for};
use super::seed::{GENERATOR_MAC, MANAGEMENT_MAC, TRUNK_MAC};
use crate::run;

/// How long it may take until it serves, on an emulated processor that has others beside it. What it takes is reported.
const BOOT_BOUND: Duration = Duration::from_secs(240);
/// How much memory it has.
const MEMORY_MIB: &str = "512";

/// What boots it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Firmware {
    Bios,
    /// With Secure Boot, and the keys that machines are sold with
    Uefi,
}

/// What its disk and its seed are attached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attached {
    /// Both by virtio
    Virtio,
    /// The disk by VMware's controller, the seed by IDE
    PvscsiAndIde,
    /// The disk by NVMe; the seed comes later ([`Appliance::attach_seed`])
    NvmeAndNoSeed,
}

impl Attached {
    fn arguments(self, disk: &Path, seed: &Path) -> Vec<String> {
        let drive = |id, format, file: &Path, more| {
            format!("if=none,id={id},format={format},file={}{more}", file.display())
        };
        let disk = drive("disk", "qcow2", disk, "");
        // IDE's disks may be written.
        let seed = drive("seed", "raw", seed, if self == Self::PvscsiAndIde { "" } else { ",readonly=on" });
        let devices: &[&str] = match self {
            Self::Virtio => &["virtio-blk-pci,drive=disk,bootindex=1", "virtio-blk-pci,drive=seed"],
            Self::PvscsiAndIde => &["pvscsi", "scsi-hd,drive=disk,bootindex=1", "ide-hd,drive=seed"],
            Self::NvmeAndNoSeed => &["nvme,drive=disk,serial=eastgate,bootindex=1"],
        };
        let mut words = vec!["-drive".to_owned(), disk, "-drive".to_owned(), seed];
        words.extend(devices.iter().flat_map(|device| ["-device".to_owned(), (*device).to_owned()]));
        words
    }
}

/// Where everything of a run is.
#[derive(Debug)]
pub(super) struct Place {
    /// Sockets, whose names may not be long
    pub(super) folder: PathBuf,
    /// Who may log in
    pub(super) key: String,
}

impl Place {
    /// A folder of this process, and a new key.
    pub(super) fn new() -> Result<Self> {
        let prefix = "eastgate-image-";
        let temporary = std::env::temp_dir();
        for name in eastgate_testkit::leftover::of_dead_runs(&temporary, prefix)? {
            std::fs::remove_dir_all(temporary.join(name))?;
        }
        let folder = temporary.join(format!("{prefix}{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let mut place = Self { folder, key: String::new() };
        let private = place.private_key();
        run::output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&private))?;
        place.key = std::fs::read_to_string(private.with_extension("pub"))?.trim().to_owned();
        Ok(place)
    }

    fn private_key(&self) -> PathBuf {
        self.folder.join("key")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A running one.
#[derive(Debug)]
pub(super) struct Appliance {
    pub(super) machine: Machine,
    port: u16,
    key: PathBuf,
}

impl Appliance {
    /// Boots a copy of `image` with a seed disk, and waits until it serves.
    pub(super) fn boot(place: &Place, image: &Path, seed: &Path, firmware: Firmware) -> Result<Self> {
        let mut appliance = Self::power_on(place, image, seed, firmware, Attached::Virtio)?;
        appliance.wait_until_it_serves()?;
        Ok(appliance)
    }

    /// Boots a copy of `image` with a seed disk.
    pub(super) fn power_on(
        place: &Place,
        image: &Path,
        seed: &Path,
        firmware: Firmware,
        attached: Attached,
    ) -> Result<Self> {
        let folder = &place.folder;
        let disk = folder.join("appliance.qcow2");
        let mut copy = Command::new("qemu-img");
        copy.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(image).arg(&disk);
        run::output(&mut copy)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let variables = folder.join("uefi-variables.fd");
        if firmware == Firmware::Uefi {
            std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.ms.fd", &variables).context("UEFI's variables")?;
        }
        let machine = Machine::start(folder, "appliance", |qemu| {
            qemu.args(["-m", MEMORY_MIB, "-smp", "2"]);
            if firmware == Firmware::Uefi {
                qemu.args([
                    "-machine",
                    "q35,smm=on",
                    "-global",
                    "driver=cfi.pflash01,property=secure,value=on",
                ]);
                qemu.args([
                    "-drive",
                    "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
                ]);
                qemu.arg("-drive").arg(format!("if=pflash,format=raw,file={}", variables.display()));
            }
            qemu.args(attached.arguments(&disk, seed));
            let forward = format!("user,id=management,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22");
            qemu.args(["-netdev", &forward]);
            for (id, device) in [("trunk", "a"), ("generator", "g")] {
                qemu.arg("-netdev").arg(wire(folder, id, device));
            }
            for (id, mac) in
                [("management", MANAGEMENT_MAC), ("trunk", TRUNK_MAC), ("generator", GENERATOR_MAC)]
            {
                qemu.args(["-device", &format!("virtio-net-pci,netdev={id},mac={mac}")]);
            }
        })?;
        Ok(Self { machine, port, key: place.private_key() })
    }

    /// Plugs the seed in, while it runs.
    pub(super) fn attach_seed(&self) -> Result<()> {
        self.machine.command(
            "{\"execute\": \"device_add\", \"arguments\": {\"driver\": \"virtio-blk-pci\", \"drive\": \"seed\", \"id\": \"late\"}}",
        )
    }

    /// Waits until policy is in force, after power on, a reset or a restart.
    pub(super) fn wait_until_it_serves(&mut self) -> Result<()> {
        let waited = wait_for("the appliance serves", BOOT_BOUND, || {
            self.machine.check()?;
            Ok(self.try_run("systemctl is-active --quiet eastgate").is_ok())
        });
        waited.with_context(|| format!("its console said:\n{}", self.machine.tail()))?;
        Ok(())
    }

    /// Waits until its console has said something.
    pub(super) fn wait_until_it_says(&mut self, what: &str) -> Result<()> {
        wait_for(what, BOOT_BOUND, || {
            self.machine.check()?;
            Ok(String::from_utf8_lossy(&std::fs::read(&self.machine.console).unwrap_or_default())
                .contains(what))
        })
        .map(drop)
    }

    /// What a command writes, which has to succeed.
    pub(super) fn run(&self, command: &str) -> Result<String> {
        self.try_run(command)
    }

    fn try_run(&self, command: &str) -> Result<String> {
        run::output(self.ssh("ssh", "-p").arg("admin@127.0.0.1").arg(command))
    }

    /// Puts a file into admin's home.
    pub(super) fn copy(&self, file: &Path, name: &str) -> Result<()> {
        run::output(self.ssh("scp", "-P").arg(file).arg(format!("admin@127.0.0.1:{name}"))).map(drop)
    }

    fn ssh(&self, program: &str, port: &str) -> Command {
        let mut command = Command::new(program);
        command.args([port, &self.port.to_string()]).arg("-i").arg(&self.key);
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=5",
            "ServerAliveInterval=5",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ] {
            command.args(["-o", option]);
        }
        command
    }

    /// When it served, in seconds of its own clock since its kernel started: the policy was in force, and the tenants' cards were up.
    pub(super) fn served_after(&self) -> Result<f64> {
        let said = self.run("sudo journalctl -b -u eastgate-serving -o cat --no-pager")?;
        let seconds = said.split_once("in force, ").and_then(|(_, rest)| rest.split_once(" s "));
        let (seconds, _) = seconds.with_context(|| said.clone())?;
        seconds.parse().with_context(|| said.clone())
    }

    /// Memory that is in use, in MiB.
    pub(super) fn memory_in_use(&self) -> Result<u64> {
        let said = self.run("free -m")?;
        let of_memory = said.lines().find_map(|line| line.strip_prefix("Mem:"));
        let used =
            of_memory.and_then(|line| line.split_whitespace().nth(1)).context("`free` says nothing")?;
        Ok(used.parse()?)
    }

    /// What `eastgate` answers in JSON.
    pub(super) fn ask(&self, words: &str) -> Result<serde_json::Value> {
        let said = self.run(&format!("sudo eastgate {words} -o json"))?;
        serde_json::from_str(&said).with_context(|| format!("`eastgate {words}` said {said}"))
    }

    /// Puts another configuration in force.
    pub(super) fn reload(&self, place: &Place, configuration: &str) -> Result<()> {
        let file = place.folder.join("new.toml");
        std::fs::write(&file, configuration)?;
        self.copy(&file, "new.toml")?;
        let done = self.run("sudo install -o root -g eastgate -m 0640 new.toml /etc/eastgate/eastgate.toml && sudo eastgate reload");
        ensure!(done.is_ok(), "reload: {done:?}");
        Ok(())
    }
}

/// A cable between two machines, or this program: frames as datagrams between two sockets, of which this one's is `end`.
pub(super) fn wire(folder: &Path, id: &str, end: &str) -> String {
    let [local, remote] = match end {
        "a" => ["wire-a", "wire-b"],
        "b" => ["wire-b", "wire-a"],
        _ => ["wire-g", "wire-h"],
    };
    let path = |name| folder.join(name).display().to_string();
    format!(
        "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
        path(local),
        path(remote)
    )
}
