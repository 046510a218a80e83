//! What eastgate does to a machine, step by step. `eastgate plan` prints these very values, the daemon's only way to do any
//! of it is to carry one out (`src/daemon/execute.rs`), and each says what undoes it.
//!
//! What was carried out and what was undone is told to the log at `eastgate::plan=debug`, in the words of `plan -o json`.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use eastgate_fastpath::Limits;
use eastgate_steering::settings::{Change, SettingId, Why};
use eastgate_wire::{AttachmentId, MacAddr, VlanId, VtepAddr};
use serde::Serialize;
use serde_json::json;

use super::routing::Entry;
use crate::control::network::Address;

/// What a device is to eastgate, as far as it decides which programs stand there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A tenant port, with the fast path's program or without
    Port {
        /// With it
        accelerated: bool,
    },
    /// A device of eastgate's own
    Own,
    /// A device of the underlay
    Underlay,
}

impl Place {
    /// The programs at a device by direction, in their order.
    #[must_use]
    pub fn programs(self, hook: &str) -> Vec<(&'static str, Vec<&'static str>)> {
        let first = match self {
            Self::Port { accelerated: true } => "tenant",
            Self::Port { accelerated: false } => "refuse_all",
            Self::Own => "tunnel",
            Self::Underlay => "underlay",
        };
        // Filters on a clsact qdisc have no second place: what is behind them is the host's.
        let guarded = |first, last| if hook == "tcx" { vec![first, last] } else { vec![first] };
        match self {
            Self::Underlay => vec![("ingress", vec![first])],
            Self::Own => vec![("ingress", guarded(first, "refuse_all"))],
            Self::Port { .. } => vec![
                ("ingress", guarded(first, "refuse_all")),
                ("egress", guarded("only_marked", "only_marked")),
            ],
        }
    }
}

/// Whose frames those of a tenant port are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frames {
    /// One attachment's
    Own(AttachmentId),
    /// Those of the attachments that their tags name
    ByTag,
}

/// One step.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// The control socket, and the record of changes beside it
    Serve {
        /// The socket
        socket: PathBuf,
    },
    /// Metrics, health and readiness over HTTP
    ServeMetrics {
        /// Where
        address: SocketAddr,
    },
    /// The API over TLS
    ServeApi {
        /// Where, and by which files
        address: Address,
    },
    /// An interface setting is written.
    Set(Change),
    /// What a daemon before has left goes, as nobody could take flows back from its programs.
    ClearAway {
        /// Its devices
        devices: Vec<String>,
        /// The folder of its tables
        pins: Option<PathBuf>,
    },
    /// A folder of pinned tables that are not to be there any more
    Unpin {
        /// The folder
        folder: PathBuf,
    },
    /// The pair by which frames are punted
    MakeVeth {
        /// Frames are punted by this one
        device: &'static str,
        /// The workers listen at this one.
        peer: &'static str,
        /// Of both, in bytes
        mtu: u32,
    },
    /// The kernel's vxlan device that decapsulates GSO packets
    MakeVxlan {
        /// Its name
        device: &'static str,
        /// The first of these UDP ports that is free is its own.
        ports: Vec<u16>,
    },
    /// The pair by which packets of a network are handed to the kernel's routing, still down
    MakeRouter {
        /// They are sent out of this one,
        entry: String,
        /// and come in by this one,
        router: String,
        /// which has the appliance's MAC in the network.
        mac: MacAddr,
        /// The network, as tenant/name
        network: String,
    },
    /// Devices of eastgate's own are set up.
    BringUp {
        /// Their names
        devices: [String; 2],
        /// Of both, in bytes
        mtu: u32,
    },
    /// An entry of the kernel's routing
    Route(Entry),
    /// A setting of a device of eastgate's own, with which it goes
    SetOwn {
        /// Below `/proc/sys`
        file: String,
        /// The value
        to: u8,
        /// What for
        why: &'static str,
    },
    /// The fast path's programs and tables
    Load {
        /// How large tables may become
        limits: Limits,
    },
    /// The tables are pinned.
    Pin {
        /// In a folder of their own below this one
        below: PathBuf,
    },
    /// Programs are attached to a device.
    Attach {
        /// The device
        device: String,
        /// `tcx` or `clsact`
        hook: &'static str,
        /// What the device is
        place: Place,
    },
    /// Packet sockets on a tenant port, one for each worker
    OpenPort {
        /// Whose frames those of the device are
        frames: Frames,
        /// The device
        device: String,
        /// They hear what comes in; otherwise the fast path does, and they only send.
        hears: bool,
    },
    /// Frames of a VLAN of a trunk, or those without a tag, are an endpoint's.
    OpenVlan {
        /// Its attachment
        id: AttachmentId,
        /// The trunk
        device: String,
        /// The VLAN
        vlan: Option<VlanId>,
        /// Whose frames of it, where endpoints share it
        station: Option<MacAddr>,
    },
    /// A packet socket for LLDP and ECP, by which stations say which machines they have
    ServeStations {
        /// The device that they are behind
        device: String,
    },
    /// Sockets for datagrams of other VTEPs
    Listen {
        /// This host's address
        vtep: VtepAddr,
        /// The UDP port
        port: u16,
        /// The devices of the underlay
        devices: String,
        /// Multicast groups that are joined on each of them
        groups: Vec<IpAddr>,
    },
    /// Packet sockets for frames that are punted
    ListenForPunts {
        /// The device
        device: &'static str,
    },
}

/// What undoes a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Undo {
    /// The files are removed.
    Remove {
        /// The socket
        socket: PathBuf,
    },
    /// The value that was there is written, unless someone else has changed it since.
    Restore {
        /// The setting
        id: SettingId,
        /// What was there
        to: i32,
    },
    /// The entry is deleted.
    Unroute(Entry),
    /// The device is deleted.
    Delete {
        /// Its name
        device: String,
    },
    /// The folder of pinned tables is removed.
    Unpin {
        /// The folder above it
        below: PathBuf,
    },
    /// The programs are taken off.
    Detach {
        /// The device
        device: String,
    },
    /// It goes with the device.
    WithDevice,
    /// It goes with the daemon, however that ends.
    WithDaemon,
    /// Its programs go with the last device that they are on.
    WithPrograms,
}

impl Undo {
    /// What it is done to, where it is something that has to be done.
    #[must_use]
    pub fn object(&self) -> Option<String> {
        match self {
            Self::Remove { socket } => Some(socket.display().to_string()),
            Self::Restore { id, .. } => Some(id.to_string()),
            Self::Unroute(entry) => Some(entry.to_string()),
            Self::Delete { device } | Self::Detach { device } => Some(device.clone()),
            Self::Unpin { below } => Some(below.display().to_string()),
            Self::WithDevice | Self::WithDaemon | Self::WithPrograms => None,
        }
    }

    /// Tells the log that it was done.
    pub fn done(&self) {
        if let Some(object) = self.object() {
            tracing::debug!(undone = %json!({ "object": object, "undo": self.to_string() }), "undone");
        }
    }
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove { .. } => write!(f, "remove both files"),
            Self::Restore { to, .. } => write!(f, "write {to}"),
            Self::Unroute(_) => write!(f, "delete it"),
            Self::Delete { .. } => write!(f, "delete the device"),
            Self::Unpin { .. } => write!(f, "remove the folder"),
            Self::Detach { .. } => write!(f, "take the programs off"),
            Self::WithDevice => write!(f, "(gone with the device)"),
            Self::WithDaemon => write!(f, "(gone with the daemon)"),
            Self::WithPrograms => write!(f, "(gone with the last program attached)"),
        }
    }
}

impl Step {
    /// What undoes it; nothing where it is itself what undoes something.
    #[must_use]
    pub fn undo(&self) -> Option<Undo> {
        Some(match self {
            Self::Serve { socket } => Undo::Remove { socket: socket.clone() },
            Self::Set(change) => Undo::Restore { id: change.id.clone(), to: change.from },
            Self::ClearAway { .. } | Self::Unpin { .. } => return None,
            Self::MakeVeth { device, .. } | Self::MakeVxlan { device, .. } => {
                Undo::Delete { device: (*device).to_owned() }
            }
            Self::MakeRouter { entry, .. } => Undo::Delete { device: entry.clone() },
            Self::Route(entry) => Undo::Unroute(entry.clone()),
            Self::SetOwn { .. } | Self::BringUp { .. } => Undo::WithDevice,
            Self::Load { .. } => Undo::WithPrograms,
            Self::Pin { below } => Undo::Unpin { below: below.clone() },
            Self::Attach { device, .. } => Undo::Detach { device: device.clone() },
            Self::OpenPort { .. }
            | Self::OpenVlan { .. }
            | Self::ServeStations { .. }
            | Self::Listen { .. }
            | Self::ListenForPunts { .. }
            | Self::ServeMetrics { .. }
            | Self::ServeApi { .. } => Undo::WithDaemon,
        })
    }

    /// As `plan` prints it.
    #[must_use]
    pub fn line(&self) -> Line {
        let line = |action: &str, object: String, detail: String, why: &str| Line {
            action: action.into(),
            object,
            detail,
            why: why.into(),
            undo: self.undo().map(|undo| undo.to_string()),
        };
        match self {
            Self::Serve { socket } => line(
                "serve",
                socket.display().to_string(),
                "control socket, and the record of changes beside it".into(),
                "requests, and what has to be undone",
            ),
            Self::ServeMetrics { address } => line(
                "serve",
                address.to_string(),
                "/metrics, /healthz and /readyz over HTTP".into(),
                "whoever watches the daemon",
            ),
            Self::ServeApi { address } => line(
                "serve",
                address.address.to_string(),
                format!("the HTTP API over TLS, to the tokens of {}", address.tokens.display()),
                "whoever asks from elsewhere",
            ),
            Self::Set(change) => line(
                "set",
                change.id.to_string(),
                format!("{} -> {}", change.from, change.to),
                why(change.why),
            ),
            Self::ClearAway { devices, pins } => {
                let mut what = devices.clone();
                what.extend(pins.as_ref().map(|folder| folder.display().to_string()));
                line(
                    "clear away",
                    "what a daemon before has left".into(),
                    if what.is_empty() {
                        "its programs".into()
                    } else {
                        format!("its programs; {}", what.join(", "))
                    },
                    "its flows end",
                )
            }
            Self::Unpin { folder } => line(
                "unpin",
                folder.display().to_string(),
                "the folder is removed".into(),
                "a daemon before pinned its tables there",
            ),
            Self::MakeVeth { device, peer, mtu } => line(
                "make veth",
                (*device).into(),
                format!("with {peer}, MTU {mtu}, up"),
                "frames that the programs leave to the daemon",
            ),
            Self::MakeVxlan { device, ports } => {
                let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
                line(
                    "make vxlan",
                    (*device).into(),
                    format!("at the first free UDP port of {}, up", ports.join(", ")),
                    "the kernel decapsulates GSO packets",
                )
            }
            Self::MakeRouter { entry, router, mac, network } => line(
                "make veth",
                entry.clone(),
                format!("with {router}, which is {mac}"),
                &format!("packets of {network} are handed to the kernel's routing"),
            ),
            Self::BringUp { devices, mtu } => line(
                "set up",
                devices.join(" and "),
                format!("with an MTU of {mtu}"),
                "any packet fits, also one that is cut later",
            ),
            Self::Route(entry) => line("add", entry.to_string(), "as `ip` has it".into(), entry.why()),
            Self::SetOwn { file, to, why } => line("set", file.clone(), format!("-> {to}"), why),
            Self::Load { limits } => line(
                "load",
                "programs tenant, underlay, tunnel".into(),
                format!("tables for {} flows", limits.flows),
                "the fast path",
            ),
            Self::Pin { below } => line(
                "pin",
                below.display().to_string(),
                "the tables, in a folder of their own".into(),
                "the next `run` takes them over",
            ),
            Self::Attach { device, hook, place } => {
                let at = |(direction, programs): (&str, Vec<&str>)| {
                    format!("{direction} {}", programs.join(" + "))
                };
                let programs: Vec<_> = place.programs(hook).into_iter().map(at).collect();
                line(
                    "attach",
                    device.clone(),
                    format!("{hook}: {}", programs.join("; ")),
                    match place {
                        Place::Port { .. } => "the kernel neither hears the tenant nor speaks to it",
                        Place::Own => "what the programs do not take is for nobody",
                        Place::Underlay => "the fast path takes what is for it, the rest is the host's",
                    },
                )
            }
            Self::OpenPort { device, hears, .. } => line(
                "open",
                device.clone(),
                "packet sockets, one for each worker".into(),
                if *hears { "frames of the tenant, and to it" } else { "frames to the tenant" },
            ),
            Self::OpenVlan { device, vlan, station, .. } => {
                let (object, what) = match vlan {
                    Some(vlan) => (format!("{device}.{vlan}"), format!("VLAN {vlan} of {device}")),
                    None => (device.clone(), format!("what is untagged on {device}")),
                };
                match station {
                    Some(mac) => line(
                        "open",
                        format!("{object}/{mac}"),
                        format!("{what}, from {mac}"),
                        "frames of the tenant, and to it: the segment must isolate it from the others there",
                    ),
                    None => line("open", object, what, "frames of the tenant, and to it"),
                }
            }
            Self::ServeStations { device } => line(
                "open",
                device.clone(),
                "packet socket for LLDP and ECP".into(),
                "stations say there which machines they have (VDP)",
            ),
            Self::Listen { vtep, port, devices, groups } => {
                let groups: String = groups.iter().map(|group| format!(", joins {group}")).collect();
                line(
                    "listen",
                    format!("{vtep} udp port {port}"),
                    format!("device {devices}{groups}"),
                    "datagrams of other VTEPs",
                )
            }
            Self::ListenForPunts { device } => line(
                "open",
                (*device).into(),
                "packet sockets, one for each worker".into(),
                "frames that the programs leave to the daemon",
            ),
        }
    }

    /// Tells the log that it was carried out.
    pub fn done(&self) {
        tracing::debug!(step = %json!(self.line()), "carried out");
    }
}

const fn why(why: Why) -> &'static str {
    match why {
        Why::Wanted(why) | Why::Unblock(why) => why,
        Why::Keep => "keeps another interface as it is",
        Why::Restore => "gives back what was there",
    }
}

/// A step, or something that is to be known about it, in words.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Line {
    /// `attach`, `set`, `listen` and so on for steps; `missing`, `refuse port` and `note` for what is none
    pub action: String,
    /// On what
    pub object: String,
    /// From what to what, or with what
    pub detail: String,
    /// What for
    pub why: String,
    /// What undoes it
    pub undo: Option<String>,
}

impl Line {
    /// What is to be known, and is no step.
    #[must_use]
    pub fn note(action: &str, object: impl Into<String>, detail: impl Into<String>, why: &str) -> Self {
        Self {
            action: action.into(),
            object: object.into(),
            detail: detail.into(),
            why: why.into(),
            undo: None,
        }
    }
}
