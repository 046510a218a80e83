//! What `eastgate doctor` looks for: each with a name that stays, why it matters, and what to do about it. The table in
//! docs/doctor.md is made of this.

use serde::{Serialize, Serializer};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be
    Ok,
    /// Worth knowing; nothing has to be done
    Note,
    /// Something is lost, slow, or will be
    Warning,
    /// Something that should pass does not, or the daemon cannot start
    Problem,
}

impl Severity {
    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

macro_rules! checks {
    ($($variant:ident, $id:literal, $worst:ident, $why:literal, $remedy:literal;)*) => {
        /// Something that is looked at.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Check {
            $(#[doc = concat!("`", $id, "`: ", $why)] $variant,)*
        }

        impl Check {
            /// All of them, in the order in which they are told.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name, which stays as it is.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$variant => $id),* }
            }

            /// How bad it can be.
            #[must_use]
            pub const fn worst(self) -> Severity {
                match self { $(Self::$variant => Severity::$worst),* }
            }

            /// Why it matters.
            #[must_use]
            pub const fn why(self) -> &'static str {
                match self { $(Self::$variant => $why),* }
            }

            /// What to do in general; a finding may say it with its own names and values.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy),* }
            }
        }
    };
}

checks! {
    NotLookedAt, "not-looked-at", Note,
        "What was not looked at may be wrong all the same.", "Run it as root: `sudo eastgate doctor`.";

    Daemon, "daemon", Problem,
        "Without a daemon that answers no policy changes, and with none at all nothing passes but what the kernel carries on its own.",
        "`systemctl start eastgate`, or `eastgate run --config FILE --host NAME`; another socket: `--socket PATH`.";
    OtherDaemon, "other-daemon", Warning,
        "There is one daemon in a network namespace: a second one is refused, and what is said here of the daemon is not said of that one.",
        "Name its socket: `eastgate doctor --socket PATH`.";
    OtherNamespace, "other-namespace", Warning,
        "Devices, settings and sockets belong to a network namespace: those that are seen from here are not the daemon's.",
        "`nsenter --net=/proc/PID/ns/net eastgate doctor`.";
    DaemonProblem, "daemon-problem", Problem,
        "The daemon itself says that something does not pass that should.", "`eastgate status`, and the daemon's log.";
    DaemonVersion, "daemon-version", Note,
        "The program was replaced and the daemon was not started again: what was mended in it is not in force.",
        "`systemctl restart eastgate`: with `--on-stop keep`, flows in the kernel go on.";
    Configuration, "configuration", Problem,
        "A daemon that starts or reloads refuses a configuration with errors as a whole.", "`eastgate check FILE` shows all of it.";
    ConfigurationWarning, "configuration-warning", Warning,
        "It is taken as it is written, which may not be what was meant.", "`eastgate check FILE` shows the places.";
    ConfigurationWritable, "configuration-writable", Warning,
        "Whoever can write the configuration decides what every tenant may do.", "`chmod o-w FILE`.";
    Host, "host", Problem,
        "A host that the configuration does not name has no VTEP and no endpoints.",
        "Name it: `--host NAME`, or add `[host.NAME]` to the configuration.";
    ReloadRefused, "reload-refused", Warning,
        "The daemon goes on with the configuration before: what was edited since is not in force.",
        "`eastgate check FILE`, mend it, `eastgate reload`.";
    ApiFiles, "api-files", Warning,
        "The HTTP API goes on with the tokens or the certificate that it had, or lets nobody in where there is no file of tokens.",
        "Mend the file: it is read again within a second. `eastgate token` makes the table of a token.";
    NotReloaded, "not-reloaded", Note,
        "The file means something else than what is in force.", "`eastgate reload` puts it in force, `eastgate policy diff` shows what it changes.";
    Leftovers, "leftovers", Warning,
        "What a daemon that was killed left stays until it is taken over or undone: its ports are closed to the host.",
        "`eastgate run` takes it over; `eastgate teardown` undoes it.";
    LeftoverDevices, "leftover-devices", Problem,
        "The fast path makes devices of these names, and touches none that is not its own.", "`ip link delete NAME`, if no eastgate of another socket runs here.";

    Kernel, "kernel", Warning,
        "From Linux 6.1 on flows are carried in the kernel, from 6.6 on programs stand in tcx lists beside the host's qdiscs.",
        "A newer kernel; without it userspace carries all frames, and ports are guarded by filters on a clsact qdisc.";
    KernelBtf, "kernel-btf", Warning,
        "The fast path's programs are fitted to the kernel by what it says of its own types (BTF).",
        "A kernel with CONFIG_DEBUG_INFO_BTF, as those of distributions are.";
    KernelLockdown, "kernel-lockdown", Warning,
        "Under `lockdown=confidentiality` programs may not read the kernel's memory, which the fast path's do.",
        "`lockdown=integrity`, or userspace carries all frames.";
    FastPath, "fast-path", Warning,
        "Userspace carries all frames: several times slower, and nothing passes while the daemon is restarted.",
        "The daemon's log and `eastgate plan` say what the kernel refused.";
    Capabilities, "capabilities", Warning,
        "A daemon without them cannot guard ports, or has no fast path.",
        "The unit of the package has them all (`AmbientCapabilities=`); see docs/operations.md.";
    OpenFiles, "open-files", Warning,
        "Each worker has a socket on each port, and each source port two: with fewer, ports fail or datagrams spread over fewer queues.",
        "`LimitNOFILE=` in the unit, or `ulimit -n`.";
    Memory, "memory", Warning,
        "A machine out of memory drops frames, and then ends processes.",
        "More memory, or lower `limits.flows` and `[fastpath] policy_mib`.";
    Clock, "clock", Warning,
        "Events, logs and leases of learned addresses carry the time of this clock.", "`timedatectl set-ntp true`, or start chrony.";
    Bpffs, "bpffs", Warning,
        "Tables are pinned on a bpffs: without one `run --pin` is refused.", "`mkdir -p DIR && mount -t bpf bpf DIR`.";
    HostConntrack, "host-conntrack", Warning,
        "Where the host tracks connections, datagrams of VTEPs are tracked too, and dropped when its table is full.",
        "Leave the overlay's port out of it (`udp dport 4789 notrack` in a chain at prerouting of priority raw), or raise `net.netfilter.nf_conntrack_max`.";

    UnderlayDevice, "underlay-device", Problem,
        "Datagrams come and go by it.", "`ip link set DEVICE up`, or correct `device` of this host.";
    UnderlayAddress, "underlay-address", Problem,
        "A socket hears nothing at an address that the host does not have.", "`ip address add ADDRESS/LENGTH dev DEVICE`, or correct `vtep` of this host.";
    UnderlayMtu, "underlay-mtu", Warning,
        "What is larger than the tunnel is cut, or dropped with a message to its sender.",
        "`ip link set DEVICE mtu N` here and on the switches between, or a lower `mtu` of the network.";
    PortMtu, "port-mtu", Note,
        "The machine may send what the tunnel does not carry: TCP is told (`mss_clamp`), other senders are told when it happens.",
        "`mtu` of the network, given to machines by DHCP, or a larger MTU of the underlay.";
    VtepRoute, "vtep-route", Problem,
        "Nothing reaches a VTEP that no route leads to.", "`ip route get ADDRESS`; add the route.";
    VtepSilent, "vtep-silent", Warning,
        "The VTEP, or what leads to it, does not answer ARP or ND: what is sent there is lost.",
        "See whether that host is up and on this network: `ping ADDRESS`, `ip neighbor`.";
    UnderlaySilent, "underlay-silent", Warning,
        "Datagrams were sent and none has ever come: a firewall, the switch, another port, or peers that do not know this VTEP.",
        "`tcpdump -ni DEVICE udp port 4789` here and at a peer shows where they stay.";
    VxlanPort, "vxlan-port", Problem,
        "Two on one UDP port take each other's datagrams, or the daemon cannot listen.",
        "Stop the other, or choose another `[overlay] port` for all hosts.";
    Firewall, "firewall", Warning,
        "Datagrams that the host's firewall drops reach neither the daemon nor the device that decapsulates.",
        "Let the port pass for the other VTEPs, and for nobody else: `nft insert rule inet filter input iifname DEVICE ip saddr { VTEP, VTEP } udp dport 4789 accept`, if the chain is that one.";
    BridgeNetfilter, "bridge-netfilter", Note,
        "The host's iptables rules decide about frames on the bridge that the underlay is on.", "`sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0`, unless containers or Kubernetes here need their rules on bridges: then leave it, and let the port pass in them.";
    KernelRouting, "kernel-routing", Warning,
        "What the host does not forward does not reach its receiver in a network that the kernel routes (`neighbors = \"kernel\"`).",
        "Accept what comes in at `eg-rt-*`, for instance `nft insert rule ip filter FORWARD iifname 'eg-rt-*' accept`, if the chain is that one; the finding says what else.";
    UnderlaySettings, "underlay-settings", Note,
        "Settings that eastgate leaves to the host decide whether its VTEP is found and by which way it answers.",
        "`sysctl` as the finding says.";

    PortMissing, "port-missing", Note,
        "A machine without its device is on no network.", "Start the machine or make the device; it is served as soon as it appears. Otherwise correct `port` of the endpoint.";
    PortDown, "port-down", Note,
        "Nothing passes a device that is down.", "`ip link set DEVICE up`.";
    PortUnfit, "port-unfit", Problem,
        "The device cannot be a tenant's port, and is not served.", "As the finding says.";
    ForeignXdp, "foreign-xdp", Warning,
        "An XDP program has frames before eastgate, and may drop, change or take them.", "`ip link set DEVICE xdp off`, if it is not wanted.";
    ForeignProgram, "foreign-program", Warning,
        "A program that comes before eastgate's has frames first; eastgate goes back to the first place within a second. One behind it sees only what eastgate lets by.",
        "`bpftool net show dev DEVICE` tells whose it is; have that agent leave the device alone.";
    ForeignFilter, "foreign-filter", Note,
        "Filters and policers where frames come in do not see what a machine sends, as eastgate takes it before them; those where frames go out hold.",
        "Limit it at the ports that receive it, at the underlay device or inside the machine; `tc filter show dev DEVICE ingress`.";
    Lro, "lro", Warning,
        "Large receive offload merges packets so that they cannot be cut again as they were: what is forwarded is broken or dropped.",
        "`ethtool -K DEVICE lro off`.";
    Offloads, "offloads", Note,
        "Without it each packet costs the processor more.", "`ethtool -K DEVICE FEATURE on`.";
    VlanFilter, "vlan-filter", Note,
        "A card that filters VLANs may keep those of a trunk to itself, although the device is promiscuous.", "`ethtool -K DEVICE rx-vlan-filter off`.";
    Settings, "settings", Warning,
        "They are a second line behind the guard on ports, and keep the underlay's addresses where they belong.",
        "The daemon puts them right within a second; find out what writes them.";
    SettingsChanged, "settings-changed", Note,
        "Someone else changes interface settings again and again, and between that and the repair they are not as they should be.",
        "Look at sysctl.d, systemd-networkd, NetworkManager and agents of configuration management.";
    SettingsFile, "settings-file", Note,
        "The file sets it otherwise when the machine starts and at each `sysctl --system`.", "Take the line out, or leave eastgate's interfaces out of it.";

    Restored, "restored", Note,
        "Someone else takes away what eastgate needs on the machine.", "`status` says what it was last; find the agent that does it.";
    Audit, "audit", Note,
        "What these rules would refuse passes.", "`eastgate show drops --audit`, then take `mode = \"audit\"` out and `eastgate reload`.";
    Staged, "staged", Note,
        "A version that is tried out beside the one in force takes memory, and is not in force.",
        "`eastgate policy promote`, or `eastgate policy unstage`.";
    Unprotected, "unprotected", Note,
        "The operator has excluded these endpoints: they are carried without any policy.", "Take them out of `exclude` when that is over, and `eastgate reload`.";
    Userspace, "userspace-endpoints", Note,
        "Flows of these endpoints begin or stay in userspace, where each packet costs more.", "docs/fastpath.md says what each reason means.";
    Drops, "drops", Warning,
        "Drops of this kind often come of a configuration that is not what was meant.", "`eastgate show drops`, and what the finding says of the reason.";
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_kebab_case_and_unique() {
        let ids: BTreeSet<&str> = Check::ALL.iter().map(|check| check.id()).collect();
        assert_eq!(ids.len(), Check::ALL.len());
        for check in Check::ALL {
            assert!(
                check.id().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{}",
                check.id()
            );
            assert!(check.why().ends_with('.') && check.remedy().ends_with('.'), "{}", check.id());
        }
    }
}
