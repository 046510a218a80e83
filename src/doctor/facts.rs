//! What `eastgate doctor` knows when it judges: read from the machine, the configuration and the daemon, and nothing else.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use eastgate_api::{DropRow, EndpointRow, Status};
use eastgate_steering::settings::{Observed, Setting};

use crate::io::survey::{
    Look,
    clock::Clock,
    devices::Devices,
    firewall::Firewall,
    process::Capabilities,
    sockets::Listener,
    sysctl_files::Assignment,
    system::{Kernel, Memory},
};

/// Everything.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The machine
    pub machine: Machine,
    /// What is written
    pub configuration: Configuration,
    /// What follows from it for this host; nothing without a configuration that is right and has this host
    pub site: Option<Site>,
    /// Devices of this network namespace
    pub devices: Look<Devices>,
    /// The daemon
    pub daemon: Daemon,
    /// The version of this program
    pub version: String,
}

impl Facts {
    /// Whether what is seen of the network is what the daemon sees, where one answers.
    #[must_use]
    pub fn sees_the_daemons_devices(&self) -> bool {
        self.answers().is_none_or(|answers| answers.same_namespace != Ok(false))
    }

    /// What the daemon has answered, if one did.
    #[must_use]
    pub fn answers(&self) -> Option<&Answers> {
        match &self.daemon {
            Daemon::Answers(answers) => Some(answers),
            _ => None,
        }
    }
}

/// The machine, whatever is configured.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its kernel
    pub kernel: Kernel,
    /// What whoever asks may do
    pub capabilities: Look<Capabilities>,
    /// Its memory
    pub memory: Look<Memory>,
    /// Its clock
    pub clock: Clock,
    /// How many files may be open: by the daemon where there is one, otherwise by whoever asks
    pub open_files: Look<u64>,
    /// Where a bpffs is mounted
    pub bpf_mounts: Look<Vec<PathBuf>>,
    /// Where tables are to be pinned, and why they cannot be
    pub pin: Option<(PathBuf, Option<String>)>,
    /// Connections that the host tracks, and may track
    pub tracked: Option<(u64, u64)>,
    /// Bridges ask iptables about frames.
    pub bridges_ask_iptables: bool,
    /// Without a daemon: what loading the fast path's programs for a moment came to; nothing where it was not tried
    pub trial: Option<Look<()>>,
    /// What a daemon that was killed has left to be undone, in words
    pub left: Look<Vec<String>>,
    /// Devices with names of the fast path's that no record tells of
    pub strange_devices: Vec<String>,
}

/// The configuration file.
#[derive(Clone, Debug)]
pub enum Configuration {
    /// There is none where one would be, and none was named.
    Absent(PathBuf),
    /// It is refused.
    Broken {
        /// The file
        path: PathBuf,
        /// How many errors
        errors: usize,
        /// The first, with its place
        first: String,
    },
    /// It may not be read.
    Hidden {
        /// The file
        path: PathBuf,
        /// Why
        why: String,
    },
    /// It is taken.
    Good {
        /// The file
        path: PathBuf,
        /// What is odd in it
        warnings: Vec<String>,
        /// What it means, in a short form
        digest: String,
        /// Everyone may write to it.
        is_writable_by_all: bool,
        /// Why no host of it is this one
        no_host: Option<String>,
    },
}

/// What follows from the configuration for this host.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name
    pub host: String,
    /// Its VTEP
    pub vtep: IpAddr,
    /// The VTEP is an address of this machine.
    pub has_address: bool,
    /// UDP port
    pub port: u16,
    /// Bytes that the tunnel adds
    pub overhead: u32,
    /// Underlay devices
    pub underlay: Vec<String>,
    /// Tenant ports, by device
    pub ports: Vec<Port>,
    /// Its networks with an MTU of their own
    pub mtus: Vec<(String, u32)>,
    /// Other VTEPs of its networks
    pub peers: Vec<Peer>,
    /// Interface settings that are wanted
    pub settings: Vec<Setting>,
    /// How they are
    pub observed: Look<Observed>,
    /// What files say of interface settings
    pub assignments: Vec<Assignment>,
    /// What the host may do otherwise on the underlay, in words with the command that changes it
    pub odd_settings: Vec<(String, String)>,
    /// Where the kernel routes for networks of it (`neighbors = "kernel"`): what keeps it from that, in words with the command
    /// that changes it
    pub unrouted: Option<Vec<(String, String)>>,
    /// UDP sockets on the overlay's port
    pub listeners: Look<Vec<Listener>>,
    /// What the host's firewall says of the port
    pub firewall: Look<Firewall>,
    /// What is only tried out
    pub audit: Vec<String>,
    /// Source ports
    pub entropy_ports: u32,
    /// Bytes that tables take when they are full
    pub full_tables: u64,
}

/// A device that is configured as a tenant's port.
#[derive(Clone, Debug)]
pub struct Port {
    /// The device
    pub device: String,
    /// Endpoints on it, as tenant/name
    pub endpoints: Vec<String>,
    /// It is a trunk.
    pub is_trunk: bool,
    /// Why it cannot be one
    pub unfit: Option<String>,
}

/// Another VTEP.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its host
    pub host: String,
    /// Its address
    pub address: IpAddr,
    /// Why no route leads there
    pub no_route: Option<String>,
}

/// The daemon.
#[derive(Clone, Debug)]
pub enum Daemon {
    /// None runs here. `stale` says that a socket is there on which nobody listens.
    None {
        /// Its socket would be
        socket: PathBuf,
        /// There is one, and nobody listens.
        stale: bool,
    },
    /// None at this socket, but one in this network namespace: its process
    Elsewhere {
        /// This socket
        socket: PathBuf,
        /// Its process
        pid: u32,
    },
    /// One may be there, and may not be asked.
    Denied(String),
    /// It listens, and gives no answer that is understood.
    Silent(String),
    /// It answers.
    Answers(Box<Answers>),
}

/// What a daemon says, and can be seen of it.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Its process, where that has a number here
    pub pid: Option<u32>,
    /// It is in this network namespace.
    pub same_namespace: Look<bool>,
    /// How it is
    pub status: Status,
    /// Endpoints
    pub endpoints: Look<Vec<EndpointRow>>,
    /// What it has dropped, without chatter
    pub drops: Look<Vec<DropRow>>,
    /// The file that is staged beside the one in force
    pub staged: Option<String>,
    /// Its capabilities
    pub capabilities: Look<Capabilities>,
    /// Its sockets
    pub sockets: Look<BTreeSet<u64>>,
}
