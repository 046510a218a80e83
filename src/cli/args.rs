//! The command line's grammar.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use eastgate_wire::Vni;

use super::filter::FilterArgs;
use crate::control::{DEFAULT_SOCKET, network::Address};

const EXAMPLES: &str = "Examples:
  eastgate check /etc/eastgate/eastgate.toml        what is wrong with a configuration, all at once
  eastgate plan --config F --host alpha             what `run` would change on this machine
  eastgate run --config F --host alpha              be host alpha
  eastgate status                                   how the daemon is
  eastgate doctor                                   what is wrong here, and what to do about it
  eastgate show drops                               what was dropped, why, and by which rule
  eastgate observe --follow                         flows and drops as they happen, with names and rules
  eastgate top                                      what is going on, on a screen
  eastgate capture --verdict dropped                packets, each with what became of it and by which rules
  eastgate export ipfix --collector 192.0.2.9:4739  flows and drops for a collector
  eastgate trace --vni 5001 tcp 10.1.0.11:40000 10.1.0.21:5432
  eastgate probe tcp --from acme/web1 10.1.0.21:5432
                                                    really open a connection as that endpoint: where it gets lost
  eastgate policy who --to acme/db --port 5432/tcp  who may reach it, by which rules
  eastgate policy diff OLD NEW                      which traffic two versions treat differently
  eastgate reload                                   put an edited configuration in force, whole or not at all
  eastgate lab up labs/01-two-hosts                 two hosts in namespaces, to try it all

Exit codes: 0 done, 1 failed (`policy`: not as expected), 2 wrong usage, 3 wrong configuration, 4 no daemon answers,
5 packet of `trace` or `probe` dropped, 6 `status`, `doctor`: something that should pass does not, 7 `doctor`: warnings,
8 `probe`: no answer, 9 `probe`: refused or unreachable.";

/// VXLAN overlay and east-west traffic steering with stateful policy.
#[derive(Parser, Debug)]
#[command(name = "eastgate", version, about, after_help = EXAMPLES, propagate_version = true)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// How answers are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Options of every command that prints something.
#[derive(ClapArgs, Clone, Debug)]
pub struct Output {
    /// How to print
    #[arg(short, long, value_enum, default_value = "text", global = true)]
    pub output: Format,
}

/// Options of every command that talks to the daemon.
#[derive(ClapArgs, Clone, Debug)]
pub struct Daemon {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "EASTGATE_SOCKET", global = true)]
    pub socket: PathBuf,
}

/// Which configuration, and which host of it.
#[derive(ClapArgs, Clone, Debug)]
pub struct Site {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/eastgate/eastgate.toml")]
    pub config: PathBuf,
    /// This host's name in it; the only host that runs eastgate, if there is but one
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

/// What can be asked.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the daemon in the foreground
    #[command(
        after_help = "The daemon guards the tenant ports before anything else, loads the configuration, and forwards.\nSIGHUP reloads, SIGTERM and SIGINT stop it and leave the machine as it was."
    )]
    Run(Run),
    /// Check a configuration without touching the system
    #[command(after_help = "Example:\n  eastgate check configs/two-tenants.toml && echo fine")]
    Check {
        /// Configuration files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Output
        #[command(flatten)]
        output: Output,
    },
    /// Print the JSON schema of the configuration
    Schema,
    /// Show what `run` would change on this machine
    #[command(
        after_help = "Takes the options of `run` that decide what is done.\n\nExample:\n  eastgate plan --config configs/bare-host.toml --host alpha"
    )]
    Plan {
        /// Site
        #[command(flatten)]
        site: Site,
        /// How frames are to be carried
        #[command(flatten)]
        carrier: Carrier,
        /// What watches the daemon
        #[command(flatten)]
        monitoring: Monitoring,
        /// Where the daemon's state file would be: beside its socket
        #[command(flatten)]
        daemon: Daemon,
        /// Output
        #[command(flatten)]
        output: Output,
    },
    /// Put the edited configuration in force, whole or not at all
    #[command(
        after_help = "Says what changed. Exit code 3 when the configuration is refused: then nothing has changed."
    )]
    Reload(Ask),
    /// How the daemon is
    #[command(
        after_help = "Exit code 6 when it is not ready, does not listen, or a port cannot be served: the answer's `problems` say which."
    )]
    Status(Ask),
    /// Find what is wrong with machine, configuration and daemon, and say what to do about it
    #[command(after_help = super::doctor::HELP)]
    Doctor(super::doctor::Doctor),
    /// Pack what somebody who helps needs to see, without secrets
    #[command(after_help = super::support::HELP)]
    Support(super::support::Support),
    /// Print tables of the running daemon
    #[command(
        after_help = "An option that the table has no column for is refused.\n\nExamples:\n  eastgate show flows --vni 5001 --address 10.1.0.11\n  eastgate show flows --endpoint acme/web1 --state established --limit 20\n  eastgate show drops --port 22\n  eastgate show drops -o json"
    )]
    Show {
        /// Which table
        #[arg(value_enum)]
        table: ShowTable,
        /// Which rows
        #[command(flatten)]
        filter: FilterArgs,
        /// The daemon
        #[command(flatten)]
        ask: Ask,
    },
    /// Watch flows begin and end and frames be dropped, with names, rules and reasons
    Observe(super::observe::Observe),
    /// Capture frames at tenant ports and in the tunnel, each with what became of it and by which rules
    Capture(super::capture::Capture),
    /// Send flows and drops to a collector, or write them to a file
    #[command(after_help = super::export::HELP)]
    Export {
        /// Where to
        #[command(subcommand)]
        to: super::export::Export,
    },
    /// A screen of networks, endpoints, flows, drops and rules with their rates
    Top(super::top::Top),
    /// Work on the forwarding table
    Fdb {
        /// What to do
        #[command(subcommand)]
        action: FdbAction,
    },
    /// Work on the flow table
    Flows {
        /// What to do
        #[command(subcommand)]
        action: FlowsAction,
    },
    /// Walk a packet through the path, step by step to its verdict: one that nobody sent, one that was captured, or one like the last that was dropped
    #[command(
        after_help = "Examples:\n  eastgate trace --vni 5001 tcp 10.1.0.11:40000 10.1.0.21:5432\n  eastgate trace --vni 5001 udp [fd00:1::11]:5000 [fd00:1::21]:53\n  eastgate trace --vni 5001 icmp 10.1.0.11 10.1.0.21\n  eastgate trace --vni 5001 udp 0.0.0.0:68 255.255.255.255:67 --from web1\n  eastgate trace --config eastgate.toml --vni 5001 tcp 10.1.0.11:1 10.1.0.21:22    without a daemon\n  eastgate trace --vni 5001 --pcap veth-web1.pcap --packet 7    the 7th packet that tcpdump saw at the port\n  eastgate trace --pcap underlay0.pcap           a datagram in VXLAN, which says its network itself\n  eastgate trace --live --endpoint acme/web1     the next packet from or to web1 that is dropped\n  eastgate trace --last --port 5432              why the last packet with this port was dropped\n\nExit code 5 when the packet would be dropped."
    )]
    Trace(Trace),
    /// Send packets the real way, as an endpoint of this host or as the appliance, and tell step by step what comes of them
    #[command(after_help = super::probe::HELP)]
    Probe {
        /// What to ask
        #[command(subcommand)]
        probe: super::probe::Probe,
    },
    /// Ask what the rules of a configuration do, without a daemon
    Policy {
        /// What to ask
        #[command(subcommand)]
        command: super::policy::PolicyCommand,
    },
    /// Write policies of Neutron, CloudStack and libvirt as a configuration
    #[command(after_help = super::import::HELP)]
    Import(super::import::Import),
    /// Make tokens for the HTTP API
    Token {
        /// What to do
        #[command(subcommand)]
        command: super::token::TokenCommand,
    },
    /// List the reasons for which frames are dropped
    DropReasons {
        /// Output
        #[command(flatten)]
        output: Output,
    },
    /// Undo what a killed daemon left on the machine
    #[command(
        after_help = "A daemon that is killed leaves its ports closed. The next `run` takes over; `teardown` opens them instead."
    )]
    Teardown {
        /// The daemon
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Print what a shell completes commands by
    #[command(
        after_help = "Examples:\n  eastgate completions bash > /etc/bash_completion.d/eastgate\n  eastgate completions fish > ~/.config/fish/completions/eastgate.fish"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each command
    #[command(hide = true)]
    Manual {
        /// Where to
        folder: PathBuf,
    },
    /// Run labs: hosts, tenants and expectations in network namespaces
    Lab {
        /// What to do
        #[command(subcommand)]
        command: super::lab::LabCommand,
    },
}

/// How frames are carried, and what that leaves on the machine.
#[derive(ClapArgs, Clone, Debug)]
pub struct Carrier {
    /// What carries frames
    #[arg(long, value_enum, default_value = "auto", env = "EASTGATE_DATAPLANE")]
    pub dataplane: crate::daemon::Dataplane,
    /// By what programs are attached to devices
    #[arg(long, value_enum, default_value = "auto", env = "EASTGATE_ATTACH")]
    pub attach: crate::io::guard::Attach,
    /// Pin the fast path's tables below this folder of a bpffs: the next `run` takes them over without CAP_SYS_ADMIN
    #[arg(long, value_name = "DIR", env = "EASTGATE_PIN")]
    pub pin: Option<PathBuf>,
}

/// How the daemon is watched.
#[derive(ClapArgs, Clone, Debug)]
pub struct Monitoring {
    /// Serve /metrics for Prometheus, /healthz and /readyz over HTTP at this address. Whoever reaches it reads the names of
    /// tenants, endpoints and rules, so it is best one of the loopback or of a network for management
    #[arg(long, value_name = "ADDRESS:PORT", env = "EASTGATE_METRICS")]
    pub metrics: Option<SocketAddr>,
    /// Serve the HTTP API and its page over TLS at this address, to whoever has a token
    #[arg(long, value_name = "ADDRESS:PORT", env = "EASTGATE_API", requires_all = ["api_certificate", "api_key", "api_tokens"])]
    pub api: Option<SocketAddr>,
    /// Its certificate, and those that lead to its authority, in PEM; read again when it is another
    #[arg(long, value_name = "FILE", env = "EASTGATE_API_CERTIFICATE")]
    pub api_certificate: Option<PathBuf>,
    /// The certificate's key, in PEM, which not everybody may read; likewise
    #[arg(long, value_name = "FILE", env = "EASTGATE_API_KEY")]
    pub api_key: Option<PathBuf>,
    /// The tokens, as `eastgate token new` prints them; likewise
    #[arg(long, value_name = "FILE", env = "EASTGATE_API_TOKENS")]
    pub api_tokens: Option<PathBuf>,
}

impl Monitoring {
    /// Where the API is served, and by which files.
    #[must_use]
    pub fn api(&self) -> Option<Address> {
        Some(Address {
            address: self.api?,
            certificate: self.api_certificate.clone()?,
            key: self.api_key.clone()?,
            tokens: self.api_tokens.clone()?,
        })
    }
}

/// Options of `run`.
#[derive(ClapArgs, Debug)]
pub struct Run {
    /// Site
    #[command(flatten)]
    pub site: Site,
    /// Daemon
    #[command(flatten)]
    pub daemon: Daemon,
    /// Worker threads; one a core unless told otherwise
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// How frames are carried
    #[command(flatten)]
    pub carrier: Carrier,
    /// How it is watched
    #[command(flatten)]
    pub monitoring: Monitoring,
    /// What a stop leaves of the fast path
    #[arg(long, value_enum, default_value = "restore", env = "EASTGATE_ON_STOP")]
    pub on_stop: crate::daemon::OnStop,
    /// How to log; EASTGATE_LOG chooses what (such as `info` or `eastgate=debug`)
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: Format,
}

/// Options of commands that ask the daemon and print its answer.
#[derive(ClapArgs, Clone, Debug)]
pub struct Ask {
    /// Daemon
    #[command(flatten)]
    pub daemon: Daemon,
    /// Output
    #[command(flatten)]
    pub output: Output,
    /// How long to wait for the answer; 30 unless told otherwise, and 600 where a configuration is read
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

impl Command {
    /// How its answer is printed.
    #[must_use]
    pub const fn output(&self) -> Format {
        match self {
            Self::Check { output, .. } | Self::Plan { output, .. } | Self::DropReasons { output } => {
                output.output
            }
            Self::Reload(ask) | Self::Status(ask) | Self::Show { ask, .. } => ask.output.output,
            Self::Fdb { action: FdbAction::Flush { ask, .. } } => ask.output.output,
            Self::Flows { action: FlowsAction::Kill { ask, .. } } => ask.output.output,
            Self::Trace(trace) => trace.ask.output.output,
            Self::Doctor(doctor) => doctor.ask.output.output,
            Self::Support(support) => support.ask.output.output,
            Self::Observe(observe) => observe.format(),
            Self::Capture(capture) => capture.format(),
            Self::Probe { probe } => probe.format(),
            Self::Policy { command } => command.output(),
            Self::Token { command } => command.output(),
            Self::Run(_)
            | Self::Top(_)
            | Self::Export { .. }
            | Self::Schema
            | Self::Import(_)
            | Self::Teardown { .. }
            | Self::Completions { .. }
            | Self::Manual { .. }
            | Self::Lab { .. } => Format::Text,
        }
    }
}

/// The tables of a running daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ShowTable {
    /// Endpoints of this host's networks
    Endpoints,
    /// Where MACs are
    Fdb,
    /// Live flows
    Flows,
    /// Flows that helpers (FTP, TFTP) expect
    Expectations,
    /// Addresses, their MACs, and what ARP and ND are answered with
    Neighbors,
    /// What was dropped, why, and by which rule
    Drops,
    /// Groups and rules, with hits
    Policy,
    /// What each rule has done: flows, packets, bytes, when first and when last; `never` where it is unused
    Rules,
    /// Between groups: who may reach whom, by which services and rules; who does, and who was refused
    Matrix,
    /// Machines that stations have associated (VDP)
    Vdp,
}

/// `eastgate fdb`
#[derive(Subcommand, Debug)]
pub enum FdbAction {
    /// Forget learned entries; configured ones stay
    Flush {
        /// Which
        #[command(flatten)]
        filter: FilterArgs,
        /// The daemon
        #[command(flatten)]
        ask: Ask,
    },
}

/// `eastgate flows`
#[derive(Subcommand, Debug)]
pub enum FlowsAction {
    /// End flows: their next packet is decided anew
    #[command(
        after_help = "All that is given must match. Without anything that says which, --all is needed.\n\nExamples:\n  eastgate flows kill --vni 5001 --address 10.1.0.11\n  eastgate flows kill --proto tcp --port 22 --limit 5"
    )]
    Kill {
        /// Which
        #[command(flatten)]
        filter: FilterArgs,
        /// The daemon
        #[command(flatten)]
        ask: Ask,
    },
}

/// Options of `trace`.
#[derive(ClapArgs, Debug)]
pub struct Trace {
    /// The network; of a frame in VXLAN, that says itself
    #[arg(long, value_parser = parse_vni, required_unless_present_any = ["live", "last", "pcap", "hex"])]
    pub vni: Option<Vni>,
    /// tcp, udp, icmp, icmpv6 or a protocol number
    #[arg(value_parser = parse_proto, value_name = "PROTO", required_unless_present_any = ["live", "last", "pcap", "hex"], conflicts_with_all = ["Which", "pcap", "hex"])]
    pub protocol: Option<u8>,
    /// Source: ADDRESS or ADDRESS:PORT, IPv6 with a port in brackets
    #[arg(required_unless_present_any = ["live", "last", "pcap", "hex"])]
    pub src: Option<AddressPort>,
    /// Destination
    #[arg(required_unless_present_any = ["live", "last", "pcap", "hex"])]
    pub dst: Option<AddressPort>,
    /// ICMP type; an echo request unless told otherwise
    #[arg(long = "type", value_name = "N", conflicts_with_all = ["live", "last", "pcap", "hex"])]
    pub kind: Option<u8>,
    /// ICMP code
    #[arg(long, value_name = "N", default_value = "0", conflicts_with_all = ["live", "last", "pcap", "hex"])]
    pub code: u8,
    /// Walk a packet of this capture (pcap or pcapng, as tcpdump and Wireshark write them): with --vni as one that is captured at a port of that
    /// network, without as one in VXLAN
    #[arg(long, value_name = "FILE", conflicts_with_all = ["live", "last", "Which"])]
    pub pcap: Option<PathBuf>,
    /// Its number in the capture, as tcpdump --number and Wireshark count them
    #[arg(long, value_name = "N", default_value = "1", requires = "pcap", value_parser = clap::value_parser!(u64).range(1..))]
    pub packet: u64,
    /// Walk this frame: bytes in hexadecimal digits, from the Ethernet header on, as tcpdump's -xx prints them; - reads them
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["live", "last", "pcap", "Which"])]
    pub hex: Option<String>,
    /// The endpoint that sends it, where its source address does not say
    #[arg(long, value_name = "NAME", conflicts_with_all = ["live", "last"])]
    pub from: Option<String>,
    /// Use this configuration instead of asking a daemon
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["live", "last"])]
    pub config: Option<PathBuf>,
    /// Wait for the next packet that is dropped and that fits, and walk one like it. Of packets that are alike (ends, ports, rule) only the
    /// first is told: --last has those that go on. Waits for ever, or as long as --timeout says
    #[arg(long, conflicts_with_all = ["protocol", "src", "dst", "last"])]
    pub live: bool,
    /// The same of the last one that there was
    #[arg(long, conflicts_with_all = ["protocol", "src", "dst"])]
    pub last: bool,
    /// Of --live and --last
    #[command(flatten, next_help_heading = "Which packet, with --live and --last")]
    pub which: super::observe::Which,
    /// The daemon
    #[command(flatten, next_help_heading = "Options")]
    pub ask: Ask,
}

/// An address with or without a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressPort {
    /// The address
    pub ip: IpAddr,
    /// The port, if one was given
    pub port: Option<u16>,
}

impl FromStr for AddressPort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Self { ip, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(both) => Ok(Self { ip: both.ip(), port: Some(both.port()) }),
            Err(_) => Err("write 10.1.0.11, 10.1.0.11:443, fd00:1::11 or [fd00:1::11]:443".into()),
        }
    }
}

pub(super) fn parse_vni(text: &str) -> Result<Vni, String> {
    let number: u32 = text.parse().map_err(|_| "a VNI is a number from 0 to 16777215".to_owned())?;
    Vni::new_checked(number).map_err(|error| error.to_string())
}

pub(super) fn parse_proto(text: &str) -> Result<u8, String> {
    eastgate_wire::names::protocol_number(text)
        .ok_or_else(|| "write tcp, udp, icmp, icmpv6, sctp, gre, esp, ah or a number from 0 to 255".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn addresses_with_and_without_ports() {
        let parse = |text: &str| text.parse::<AddressPort>();
        assert_eq!(parse("10.1.0.11:443").unwrap().port, Some(443));
        assert_eq!(parse("10.1.0.11").unwrap().port, None);
        assert_eq!(parse("[fd00::1]:53").unwrap().port, Some(53));
        assert_eq!(parse("fd00::1").unwrap().port, None);
        assert!(parse("10.1.0.11:").is_err() && parse("web1").is_err());
    }
}
