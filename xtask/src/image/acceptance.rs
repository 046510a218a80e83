//! `cargo xtask test --image`: the disk of the appliance boots between machines on a switch, and does what its page says
//! (docs/appliance.md). The switch is Linux's bridge with VLANs, in an emulated machine of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::appliance::{Appliance, Attached, Firmware, Place, wire};
use super::generator::Generator;
use super::machine::{Shell, wait_for};
use super::seed;
use crate::kernel::{debian, image as initramfs};
use crate::packages::{self, Need};
use crate::{package, stop, target};

/// The first process of the machine with the switch.
const SWITCH: &str = include_str!("switch.sh");
const SWITCH_TOOLS: &[&str] = &["busybox", "ip", "bridge", "ping", "curl"];
const SWITCH_MODULES: &[&str] = &["virtio_pci", "virtio_net", "veth", "bridge", "8021q"];

/// How long what should come to pass may take: an emulated processor is slow, and there may be others on this one.
const SOON: Duration = Duration::from_secs(120);
/// How many times each thing that might let a packet through is done.
const ROUNDS: u32 = 3;
/// What makes 100,000 flows: so many of one machine to each of these ports of another
const FLOWS_OF_EACH: u16 = 50_000;
const SERVICES: [u16; 2] = [53, 123];

/// What is tried.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Trial {
    /// With --image: the programs of this folder instead of building them for release
    #[arg(long, value_name = "FOLDER", requires = "image")]
    programs: Option<PathBuf>,
    /// With --image: a disk that `cargo xtask image` has made, instead of making one
    #[arg(long, value_name = "FILE", requires = "image")]
    disk: Option<PathBuf>,
}

/// Builds the disks and tries them.
pub(crate) fn test(options: &Trial) -> Result<()> {
    stop::on_signals()?;
    for need in [Need::Image, Need::Kernel, Need::Appliance] {
        packages::install(need)?;
    }
    let begun = Instant::now();
    let packages = package::make(options.programs.as_deref())?;
    let disk = match &options.disk {
        Some(disk) => std::path::absolute(disk)?,
        None => super::make(&packages.this)?.qcow2,
    };
    println!("Booting {}, which has {} MiB.", disk.display(), super::on_disk(&disk)? >> 20);
    play(Site::new()?, &disk, &packages.next()?)?;
    println!("\nThe appliance held, in {} s.", begun.elapsed().as_secs());
    Ok(())
}

fn play(mut site: Site, image: &Path, next: &Path) -> Result<()> {
    let own = site.place.folder.join("seed.img");
    a_seed_that_is_refused_opens_nothing(&mut site, image, &own)?;
    seed::own(&own, &site.place.folder, &configuration(Database::Closed), &site.place.key)?;
    let appliance = Appliance::boot(&site.place, image, &own, Firmware::Bios)?;
    let mut story = Story { site: &mut site, appliance };
    story.report_the_boot("its own seed disk, BIOS")?;
    story.the_doctor_is_content()?;
    story.the_cards_of_tenants_are_its_alone()?;
    story.what_is_allowed_passes()?;
    story.what_is_denied_has_its_reason()?;
    story.nobody_gets_round_it()?;
    story.tenants_do_not_reach_management()?;
    story.a_configuration_comes_by_ssh()?;
    story.nothing_passes_while_it_is_killed_and_reset(next)?;
    story.it_has_room_for_flows()?;
    drop(story);
    from_cloud_init(&mut site, image)?;
    a_seed_comes_late_and_is_changed(&mut site, image, &own)
}

/// An appliance whose seed cannot be taken has no policy: the machines do not reach each other through it, nor it.
fn a_seed_that_is_refused_opens_nothing(site: &mut Site, image: &Path, seed: &Path) -> Result<()> {
    seed::own(seed, &site.place.folder, "[tenant.acme.network.app]\nvni = 16777216\n", &site.place.key)?;
    let mut appliance =
        Appliance::power_on(&site.place, image, seed, Firmware::Bios, Attached::PvscsiAndIde)?;
    appliance.wait_until_it_says("nothing of the seed disk is taken over")?;
    appliance.wait_until_it_says("login:")?;
    for (from, to) in [(1, 2), (2, 1), (1, 3)] {
        ensure!(!site.answers(from, to)?, "vm{from} reaches vm{to} without any policy");
    }
    told("a seed that is refused opens nothing, and the console says why (disk by PVSCSI, seed by IDE)");
    Ok(())
}

/// An appliance that finds no seed waits for none, and takes over the one that comes. What is changed on it then stays, until the seed
/// is another one.
fn a_seed_comes_late_and_is_changed(site: &mut Site, image: &Path, seed: &Path) -> Result<()> {
    seed::own(seed, &site.place.folder, &configuration(Database::Closed), &site.place.key)?;
    let mut appliance =
        Appliance::power_on(&site.place, image, seed, Firmware::Bios, Attached::NvmeAndNoSeed)?;
    appliance.wait_until_it_says("no disk has the label EASTGATE")?;
    appliance.wait_until_it_says("login:")?;
    ensure!(!site.answers(1, 2)?, "vm1 reaches vm2 without any policy");
    appliance.attach_seed()?;
    appliance.wait_until_it_serves()?;
    let mut story = Story { site, appliance };
    story.the_cards_of_tenants_are_its_alone()?;
    story.what_is_allowed_passes()?;
    ensure!(!story.site.answers(1, 3)?, "the database answers");
    told("a seed that comes while it runs is taken over, with the names of its cards (disk by NVMe)");

    // The disk that was plugged in is there from the start now.
    story.appliance.reload(&story.site.place, &configuration(Database::Open))?;
    story.appliance.run("sync")?;
    story.appliance.machine.reset()?;
    wait_for("what was changed is in force after a reset", SOON * 2, || story.site.answers(1, 3))?;
    let another = format!("# Another one\n{}", configuration(Database::Closed));
    seed::own(seed, &story.site.place.folder, &another, &story.site.place.key)?;
    story.appliance.machine.reset()?;
    wait_for("another seed's policy is in force after a reset", SOON * 2, || {
        Ok(story.site.answers(1, 2)? && !story.site.answers(1, 3)?)
    })?;
    told("what is changed on it stays over a reset, and a seed that is another one counts again");
    Ok(())
}

/// The same from cloud-init, started by UEFI with Secure Boot: what it says is in force, and so is what it says anew.
fn from_cloud_init(site: &mut Site, image: &Path) -> Result<()> {
    let disk = site.place.folder.join("cidata.img");
    let write = |place: &Place, instance: &str, database| {
        seed::cloud_init(&disk, &place.folder, instance, &configuration(database), &place.key)
    };
    write(&site.place, "first", Database::Closed)?;
    let appliance = Appliance::boot(&site.place, image, &disk, Firmware::Uefi)?;
    let mut story = Story { site, appliance };
    let secure = story.appliance.run("od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-*")?;
    ensure!(secure.trim() == "1", "Secure Boot is off: {secure}");
    story.report_the_boot("cloud-init, UEFI with Secure Boot")?;
    story.the_cards_of_tenants_are_its_alone()?;
    story.what_is_allowed_passes()?;
    ensure!(!story.site.answers(1, 3)?, "the database answers");
    write(&story.site.place, "second", Database::Open)?;
    story.appliance.machine.reset()?;
    wait_for("the seed's new policy is in force", SOON * 2, || story.site.answers(1, 3))?;
    told("cloud-init's seed was changed, and is in force after a reset");
    Ok(())
}

/// What the policy says of the database.
#[derive(Clone, Copy, Debug)]
enum Database {
    Open,
    Closed,
}

/// Three machines on the switch's trunk, and two that this program plays.
fn configuration(database: Database) -> String {
    let ingress = match database {
        Database::Open => "{ proto = \"icmp\", from = \"group:web\" }",
        Database::Closed => "",
    };
    let mut text = format!(
        "[host.appliance]\nvtep = \"10.0.2.15\"\ndevice = \"mgmt0\"\n\n\
         [tenant.acme.network.app]\nvni = 5001\nsubnets = [\"10.1.0.0/24\", \"fd00:1::/64\"]\nneighbors = \"proxy\"\nlimits = {{ flows = 150000 }}\ntimeouts = {{ udp_exchange = 1200 }}\n\n\
         [tenant.acme.group.web]\ningress = [\n  {{ proto = \"tcp\", ports = 80, from = \"group:web\" }},\n  \
         {{ proto = \"udp\", from = \"group:web\" }},\n  {{ proto = \"icmp\", from = \"group:web\" }},\n]\negress = [{{ to = \"any\" }}]\n\n\
         [tenant.acme.group.db]\ningress = [{ingress}]\negress = [{{ to = \"any\" }}]\n"
    );
    for (name, port, vlan, mac, number, group) in [
        ("vm1", "trunk0", 101, "02:00:00:00:01:01", 11, "web"),
        ("vm2", "trunk0", 102, "02:00:00:00:01:02", 12, "web"),
        ("vm3", "trunk0", 103, "02:00:00:00:01:03", 13, "db"),
        ("vm4", "trunk1", 201, "02:00:00:00:02:01", 21, "web"),
        ("vm5", "trunk1", 202, "02:00:00:00:02:02", 22, "web"),
    ] {
        text += &format!(
            "\n[tenant.acme.endpoint.{name}]\nnetwork = \"app\"\nhost = \"appliance\"\nport = \"{port}\"\nvlan = {vlan}\nmac = \"{mac}\"\n\
             addresses = [\"10.1.0.{number}\", \"fd00:1::{number}\"]\ngroups = [\"{group}\"]\n"
        );
    }
    text
}

fn told(what: &str) {
    println!("  {what}");
}

/// The machines round the appliance.
struct Site {
    place: Place,
    switch: Shell,
    generator: Generator,
}

impl Site {
    fn new() -> Result<Self> {
        let place = Place::new()?;
        let kernel_folder = target()?.join("kernel");
        let kernel = debian::kernel("6.1", &kernel_folder)?;
        let memory: PathBuf = place.folder.join("switch.cpio");
        let contents = initramfs::Contents {
            init: SWITCH,
            tools: SWITCH_TOOLS,
            built: &[],
            modules: SWITCH_MODULES,
            stories: &[],
        };
        initramfs::write(&memory, &kernel, &contents)?;
        let generator = Generator::new(&place.folder)?;
        let switch = Shell::start(&place.folder, "switch", |qemu| {
            qemu.args(["-m", "256", "-smp", "1"]).arg("-kernel").arg(&kernel.image);
            qemu.arg("-initrd").arg(&memory).args(["-append", "console=ttyS0 loglevel=5 panic=-1"]);
            qemu.arg("-netdev").arg(wire(&place.folder, "trunk", "b"));
            qemu.args(["-device", "virtio-net-pci,netdev=trunk,mac=52:54:00:00:01:01"]);
        })?;
        Ok(Self { place, switch, generator })
    }

    /// Runs a command in a machine on the switch, which has to succeed.
    fn at(&mut self, machine: u8, command: &str) -> Result<String> {
        self.switch.run(&format!("ip netns exec vm{machine} {command}"))
    }

    /// Whether one machine's echo request is answered by another.
    fn answers(&mut self, from: u8, to: u8) -> Result<bool> {
        self.switch.succeeds(&format!("ip netns exec vm{from} ping -q -c 1 -W 2 10.1.0.1{to}"))
    }

    /// Echo requests that have come to a machine, whoever sent them.
    fn asked(&mut self, machine: u8) -> Result<u64> {
        let said = self.at(machine, "busybox cat /proc/net/snmp /proc/net/snmp6")?;
        let mut icmp = said.lines().filter(|line| line.starts_with("Icmp:"));
        let (names, values) = (icmp.next().context("no Icmp:")?, icmp.next().context("no Icmp:")?);
        let of_v4 = names.split_whitespace().zip(values.split_whitespace());
        let v4 = of_v4.filter(|(name, _)| *name == "InEchos").map(|(_, value)| value);
        let v6 = said.lines().filter_map(|line| line.strip_prefix("Icmp6InEchos"));
        v4.chain(v6).map(|value| value.trim().parse::<u64>().with_context(|| said.clone())).sum()
    }
}

/// An appliance between them.
struct Story<'a> {
    site: &'a mut Site,
    appliance: Appliance,
}

impl Story<'_> {
    fn report_the_boot(&self, how: &str) -> Result<()> {
        let (after, memory) = (self.appliance.served_after()?, self.appliance.memory_in_use()?);
        told(&format!(
            "booted by {how}: policy in force {after:.1} s after its kernel started, {memory} MiB in use"
        ));
        let dataplane = self.appliance.ask("status")?["dataplane"].to_string();
        ensure!(dataplane.contains("ebpf"), "the dataplane is {dataplane}");
        Ok(())
    }

    fn the_doctor_is_content(&self) -> Result<()> {
        let said = self.appliance.run("sudo eastgate doctor")?;
        told("`eastgate doctor` finds no problem:");
        for line in said.lines() {
            told(&format!("    {line}"));
        }
        let failed = self.appliance.run("systemctl --failed --no-legend --plain")?;
        ensure!(failed.trim().is_empty(), "units failed: {failed}");
        Ok(())
    }

    /// Until the policy was in force they were down, and the host has nothing of its own on them.
    fn the_cards_of_tenants_are_its_alone(&self) -> Result<()> {
        for card in ["trunk0", "trunk1"] {
            let file = self.appliance.run(&format!("networkctl status {card} --no-pager"))?;
            ensure!(file.contains("90-tenants.network"), "{card} is configured by another file: {file}");
            let addresses = self.appliance.run(&format!("ip -br addr show {card}"))?;
            ensure!(!addresses.contains('.') && !addresses.contains("::"), "it has an address: {addresses}");
        }
        // What the kernel says when a card comes up, in the order of its log.
        let log =
            self.appliance.run("sudo journalctl -b -o cat --no-pager -u systemd-networkd -u eastgate")?;
        let at = |what: &str| log.find(what).with_context(|| format!("`{what}` is not in the log: {log}"));
        ensure!(at("trunk0: Link UP")? > at("ready")?, "trunk0 was up before the policy: {log}");
        Ok(())
    }

    /// From machine to machine of one subnet, on one switch, through the appliance.
    fn what_is_allowed_passes(&mut self) -> Result<()> {
        wait_for("vm1 reaches vm2", SOON, || self.site.answers(1, 2))?;
        let ping = self.site.at(1, "ping -c 3 -i 0.2 10.1.0.12")?;
        ensure!(ping.contains("ttl=64"), "the appliance shows: {ping}");
        let six = self.site.at(1, "ping -c 3 -i 0.2 fd00:1::12")?;
        ensure!(six.contains("ttl=64"), "the appliance shows: {six}");
        let page = self.site.at(1, "curl -s -m 20 http://10.1.0.12/")?;
        ensure!(page.trim() == "the page of vm2", "vm2 answers {page}");
        let flows = self.appliance.ask("show flows --endpoint acme/vm1")?;
        ensure!(flows.to_string().contains("10.1.0.12"), "the appliance has not seen it: {flows}");
        let first = ping.lines().find_map(|line| line.split_once("icmp_seq=1 ")).map_or("", |(_, rest)| rest);
        told(&format!("what is allowed passes, over IPv4 and IPv6, with its TTL ({first})"));
        Ok(())
    }

    fn what_is_denied_has_its_reason(&mut self) -> Result<()> {
        ensure!(!self.site.answers(1, 3)?, "the database answers");
        ensure!(self.site.asked(3)? == 0, "an echo request has come to the database");
        let shut =
            !self.site.switch.succeeds("ip netns exec vm1 busybox wget -T 2 -q -O - http://10.1.0.13/")?;
        ensure!(shut, "the database serves a page");
        let drops = self.appliance.run("sudo eastgate show drops")?;
        let reason = drops.lines().find(|line| line.contains("ingress-denied") && line.contains("acme/db"));
        told(&format!("what is denied does not: {}", reason.with_context(|| drops.clone())?.trim()));
        Ok(())
    }

    /// Attack 28: VLANs of others, MACs of others, addresses of others, and straight to the other one's MAC.
    fn nobody_gets_round_it(&mut self) -> Result<()> {
        for (what, prepare, undo) in [
            (
                "the database's own MAC",
                "ip -n vm1 neigh replace 10.1.0.13 lladdr 02:00:00:00:01:03 dev eth0",
                "ip -n vm1 neigh del 10.1.0.13 dev eth0",
            ),
            (
                "everybody's MAC",
                "ip -n vm1 neigh replace 10.1.0.13 lladdr ff:ff:ff:ff:ff:ff dev eth0",
                "ip -n vm1 neigh del 10.1.0.13 dev eth0",
            ),
            (
                "the database's VLAN",
                "ip -n vm1 link add link eth0 name eth0.103 type vlan id 103 && ip -n vm1 link set eth0.103 up && \
                 ip -n vm1 route replace 10.1.0.13 dev eth0.103 && \
                 ip -n vm1 neigh replace 10.1.0.13 lladdr 02:00:00:00:01:03 dev eth0.103",
                "ip -n vm1 link del eth0.103",
            ),
            (
                "vm2's address",
                "ip -n vm1 addr add 10.1.0.12/32 dev eth0 && ip -n vm1 route replace 10.1.0.13 dev eth0 src 10.1.0.12",
                "ip -n vm1 route del 10.1.0.13 dev eth0 && ip -n vm1 addr del 10.1.0.12/32 dev eth0",
            ),
            (
                "vm2's MAC",
                "ip -n vm1 link set eth0 address 02:00:00:00:01:02",
                "ip -n vm1 link set eth0 address 02:00:00:00:01:01",
            ),
        ] {
            self.site.switch.run(prepare)?;
            let answered =
                self.site.switch.succeeds("ip netns exec vm1 ping -q -c 20 -i 0.02 -W 1 10.1.0.13")?;
            self.site.switch.run(undo)?;
            ensure!(!answered && self.site.asked(3)? == 0, "the database is reached by {what}");
        }
        wait_for("vm1 reaches vm2 again", SOON, || self.site.answers(1, 2))?;
        told("nobody gets round it: by others' MACs, VLANs and addresses nothing comes to the database");
        Ok(())
    }

    /// The appliance's own address and its SSH are for whoever is at its management device.
    fn tenants_do_not_reach_management(&mut self) -> Result<()> {
        let proxy = self.site.at(1, "ip neigh show 10.1.0.12")?;
        let proxy =
            proxy.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).context(proxy.clone())?;
        for mac in [seed::TRUNK_MAC, proxy, "ff:ff:ff:ff:ff:ff"] {
            self.site.switch.run(&format!(
                "ip -n vm1 route replace 10.0.2.15 dev eth0 && ip -n vm1 neigh replace 10.0.2.15 lladdr {mac} dev eth0"
            ))?;
            for attempt in
                ["ping -q -c 3 -i 0.2 -W 1 10.0.2.15", "curl -s -m 3 --http0.9 http://10.0.2.15:22/"]
            {
                let reached = self.site.switch.succeeds(&format!("ip netns exec vm1 {attempt}"))?;
                ensure!(!reached, "a tenant reaches management: {attempt}, by {mac}");
            }
        }
        self.site.switch.run("ip -n vm1 route del 10.0.2.15 dev eth0")?;
        ensure!(
            !self.site.switch.succeeds("ip netns exec vm1 busybox arping -c 2 -w 2 -I eth0 10.0.2.15")?,
            "the appliance answers ARP for its own address"
        );
        let sockets = self.appliance.run("sudo ss -Hltun")?;
        // SSH at the management device; VXLAN and its source ports at its address, and GSO packets that come by that.
        let known = ["127.0.0.", "%mgmt0:22 ", " 10.0.2.15:", ":14789 "];
        let open = sockets.lines().filter(|line| !known.iter().any(|known| line.contains(known)));
        let open: Vec<_> = open.collect();
        ensure!(open.is_empty(), "it listens where tenants might hear: {open:?}");
        told("tenants reach neither its address nor its SSH, which listens on mgmt0 alone");
        Ok(())
    }

    fn a_configuration_comes_by_ssh(&mut self) -> Result<()> {
        self.appliance.reload(&self.site.place, &configuration(Database::Open))?;
        wait_for("the database answers once it may", SOON, || self.site.answers(1, 3))?;
        self.appliance.reload(&self.site.place, &configuration(Database::Closed))?;
        ensure!(!self.site.answers(1, 3)?, "the database answers although it may not any more");
        let bad = self.appliance.reload(&self.site.place, "[tenant.acme.network.app]\nvni = 16777216\n");
        let said = bad.err().context("a bad configuration is taken")?.to_string();
        ensure!(said.contains("eastgate.toml:2:"), "it does not say where: {said}");
        ensure!(self.site.answers(1, 2)?, "a bad configuration disturbs traffic");
        let good = configuration(Database::Closed);
        self.appliance.reload(&self.site.place, &good)?;
        told("a policy comes by SSH and `eastgate reload`, and a bad one is refused with its place");
        Ok(())
    }

    /// A denied flow hammers, and whatever happens to the daemon and to the machine, nothing of it comes through.
    fn nothing_passes_while_it_is_killed_and_reset(&mut self, next: &Path) -> Result<()> {
        let before = self.site.asked(3)?;
        ensure!(before > 0, "what comes to the database is not counted");
        // Straight to its MAC, so that no ARP has to be answered meanwhile.
        self.site.switch.run("ip -n vm1 neigh replace 10.1.0.13 lladdr 02:00:00:00:01:03 dev eth0")?;
        self.site.switch.run(
            "/bin/ip netns exec vm1 ping -i 0.005 -q 10.1.0.13 >/tmp/hammer 2>&1 & echo $! >/tmp/hammer.pid",
        )?;
        for _ in 0..ROUNDS {
            for command in ["sudo systemctl kill -s KILL eastgate", "sudo systemctl restart eastgate"] {
                let daemon = self.appliance.run("systemctl show eastgate -p MainPID --value")?;
                self.appliance.run(command)?;
                wait_for("another daemon is there", SOON, || {
                    let now = self.appliance.run("systemctl show eastgate -p MainPID --value")?;
                    Ok(now != daemon && now.trim() != "0")
                })?;
                self.appliance.wait_until_it_serves()?;
                wait_for("what is allowed goes on", SOON, || self.site.answers(1, 2))?;
            }
        }
        self.appliance.copy(next, "next.deb")?;
        self.appliance.run(
            "sudo apt-get install -y -qq ./next.deb >/dev/null 2>&1 && sudo systemctl is-active eastgate",
        )?;
        self.appliance.wait_until_it_serves()?;
        let version = self.appliance.run("dpkg-query -W -f '${Version}' eastgate")?;
        ensure!(version.ends_with("+next"), "it was not upgraded: {version}");
        wait_for("what is allowed goes on after the upgrade", SOON, || self.site.answers(1, 2))?;
        for _ in 0..ROUNDS {
            self.appliance.machine.reset()?;
            self.appliance.wait_until_it_serves()?;
            wait_for("what is allowed goes on after a reset", SOON, || self.site.answers(1, 2))?;
        }
        // It ends with an error, as it was not answered.
        self.site.switch.run("pid=$(busybox cat /tmp/hammer.pid); kill -INT $pid; wait $pid || true")?;
        let hammered = self.site.switch.run("busybox cat /tmp/hammer")?;
        let sent = hammered.lines().find(|line| line.contains("transmitted")).context(hammered.clone())?;
        let count = sent.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        ensure!(count.is_some_and(|count| count > 1000), "the hammer did not strike: {sent}");
        let came = self.site.asked(3)? - before;
        ensure!(came == 0, "{came} packets of a denied flow came through: {sent}");
        told(&format!(
            "killed and restarted {ROUNDS} times, upgraded, reset {ROUNDS} times, and nothing of a denied flow came through: {sent}"
        ));
        Ok(())
    }

    /// As many as a machine of this size is to have room for, all of them answered, so that none makes room for another.
    fn it_has_room_for_flows(&mut self) -> Result<()> {
        let begun = Instant::now();
        for service in SERVICES {
            self.site.generator.exchange(FLOWS_OF_EACH, service)?;
        }
        let seconds = begun.elapsed().as_secs();
        let flows = self.appliance.ask("status")?["flows"].clone();
        let count = flows["replied"].as_u64().with_context(|| flows.to_string())?;
        let expected = u64::from(FLOWS_OF_EACH) * SERVICES.len() as u64;
        ensure!(count >= expected, "of {expected} flows there are {count}");
        ensure!(self.site.answers(1, 2)?, "what is allowed does not pass beside so many flows");
        told(&format!(
            "{count} flows, opened in {seconds} s: {} MiB in use",
            self.appliance.memory_in_use()?
        ));
        Ok(())
    }
}
