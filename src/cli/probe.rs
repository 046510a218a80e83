//! `eastgate probe`: packets that go the real way, and what came of them step by step.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::Result;
use clap::{Args as ClapArgs, Subcommand};
use eastgate_api::{
    MAX_TOTAL_MS, NO_ANSWER, NO_NEIGHBOR, ProbeKind, ProbeReport, ProbeRequest, REACHED, REFUSED, Request,
    UNREACHABLE,
};
use eastgate_wire::{Vni, names};

use super::{
    args::{AddressPort, Ask, Daemon, Format, Output, parse_vni},
    commands::{ask, emit, misused},
    exit, print,
};

pub(super) const HELP: &str = "Packets are really sent: as if the endpoint had sent them, from its port, with its MAC and address and a port \
of their own, under the same policy. What is answered comes to the probe, and the endpoint sees nothing of it. `eastgate trace` asks what would \
happen, on all hosts, and sends nothing.

Examples:
  eastgate probe tcp --from acme/web1 10.1.0.21:5432     does the port take a connection, and if not, where does it get lost
  eastgate probe tcp --from web1 [fd00:1::21]:5432
  eastgate probe ping --from acme/web1 10.1.0.21 --count 5
  eastgate probe ping --from acme/web1 10.9.0.1 --via 10.1.0.1    by this router
  eastgate probe arp --from acme/web1 10.1.0.21          who says that it has the address, with which MAC (IPv6: neighbour discovery)
  eastgate probe pmtu --from acme/web1 10.1.0.21         the largest packet that gets there, and what narrows the path
  eastgate probe vtep                                    are the other hosts' VTEPs reached, and with which packets
  eastgate probe vtep beta -o json

Exit codes: 0 answered; 5 dropped on this host: the last step says why, and by which rule; 8 no answer, or nobody has the address; 9 refused
by the machine that was asked (RST, ICMP), or unreachable, as somebody on the way says; 1 not asked at all.";

/// Echo requests, unless told otherwise
const ECHOES: u32 = 3;

/// `eastgate probe`
#[derive(Subcommand, Debug)]
pub enum Probe {
    /// Ask who has an address: ARP, or neighbour discovery
    Arp {
        /// The address
        address: IpAddr,
        /// Who asks
        #[command(flatten)]
        asker: Asker,
        /// How often, and for how long
        #[command(flatten)]
        pace: Pace,
    },
    /// Send echo requests
    Ping {
        /// To this address
        address: IpAddr,
        /// Who asks
        #[command(flatten)]
        asker: Asker,
        /// How often, and for how long
        #[command(flatten)]
        pace: Pace,
        /// Bytes of each packet from its IP header on; it is sent with DF. 64 unless told otherwise
        #[arg(long, value_name = "BYTES")]
        size: Option<u16>,
    },
    /// Open a TCP connection, and close it
    Tcp {
        /// To this ADDRESS:PORT, IPv6 in brackets
        target: AddressPort,
        /// Who asks
        #[command(flatten)]
        asker: Asker,
        /// How often, and for how long
        #[command(flatten)]
        pace: Pace,
    },
    /// Find the largest packet that gets to an address: echo requests with DF
    Pmtu {
        /// The address
        address: IpAddr,
        /// Who asks
        #[command(flatten)]
        asker: Asker,
        /// For how long
        #[command(flatten)]
        pace: Pace,
        /// The largest that is tried, in bytes from its IP header on; the network's MTU unless told otherwise
        #[arg(long, value_name = "BYTES")]
        size: Option<u16>,
    },
    /// Ask from this host whether other hosts' VTEPs are reached, and with which packets of the underlay
    Vtep {
        /// Which host's, by its name in the configuration; all that have a network in common with this one unless told otherwise
        host: Option<String>,
        /// How often, and for how long
        #[command(flatten)]
        pace: Pace,
        /// The largest that is tried, in bytes from its IP header on; the MTU of the underlay's device unless told otherwise
        #[arg(long, value_name = "BYTES")]
        size: Option<u16>,
    },
}

/// Who asks.
#[derive(ClapArgs, Debug)]
pub struct Asker {
    /// The endpoint in whose name: TENANT/NAME, or the name alone. It has to be on this host
    #[arg(long, value_name = "ENDPOINT")]
    pub from: String,
    /// Its network, where an endpoint of this name is in several
    #[arg(long, value_parser = parse_vni)]
    pub vni: Option<Vni>,
    /// Its address that asks; the first of the family unless told otherwise
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
    /// The router that leads there, where the address is in no subnet of the network
    #[arg(long, value_name = "ADDRESS")]
    pub via: Option<IpAddr>,
}

/// How often, and for how long.
#[derive(ClapArgs, Debug)]
pub struct Pace {
    /// How often to ask, up to 100 times; `ping` three times and the others once unless told otherwise
    #[arg(long, value_name = "N")]
    pub count: Option<u32>,
    /// How long to wait for each answer, up to 10
    #[arg(long, value_name = "SECONDS", default_value = "2")]
    pub timeout: f64,
    /// The daemon
    #[command(flatten)]
    pub daemon: Daemon,
    /// Output
    #[command(flatten)]
    pub output: Output,
}

impl Pace {
    fn request(&self, kind: ProbeKind) -> ProbeRequest {
        ProbeRequest {
            kind,
            from: None,
            vni: None,
            source: None,
            to: None,
            port: 0,
            via: None,
            host: None,
            count: self.count.unwrap_or(if kind == ProbeKind::Ping { ECHOES } else { 1 }),
            // What is no time is 0, and refused as such.
            wait_ms: (self.timeout * 1000.0) as u64,
            size: None,
        }
    }

    fn ask(&self) -> Ask {
        // A probe ends by itself.
        let timeout = Some(MAX_TOTAL_MS / 1000 + 15);
        Ask { daemon: self.daemon.clone(), output: self.output.clone(), timeout }
    }
}

impl Probe {
    /// How its answer is printed.
    #[must_use]
    pub const fn format(&self) -> Format {
        match self {
            Self::Arp { pace, .. }
            | Self::Ping { pace, .. }
            | Self::Tcp { pace, .. }
            | Self::Pmtu { pace, .. }
            | Self::Vtep { pace, .. } => pace.output.output,
        }
    }

    fn request(&self) -> (ProbeRequest, Ask) {
        let by = |request: ProbeRequest, asker: &Asker, to: IpAddr| ProbeRequest {
            from: Some(asker.from.clone()),
            vni: asker.vni,
            source: asker.source.map(Into::into),
            via: asker.via.map(Into::into),
            to: Some(to.into()),
            ..request
        };
        match self {
            Self::Arp { address, asker, pace } => {
                (by(pace.request(ProbeKind::Arp), asker, *address), pace.ask())
            }
            Self::Ping { address, asker, pace, size } => {
                let request = by(pace.request(ProbeKind::Ping), asker, *address);
                (ProbeRequest { size: *size, ..request }, pace.ask())
            }
            Self::Tcp { target, asker, pace } => {
                let request = by(pace.request(ProbeKind::Tcp), asker, target.ip);
                (ProbeRequest { port: target.port.unwrap_or(0), ..request }, pace.ask())
            }
            Self::Pmtu { address, asker, pace, size } => {
                let request = by(pace.request(ProbeKind::Pmtu), asker, *address);
                (ProbeRequest { size: *size, ..request }, pace.ask())
            }
            Self::Vtep { host, pace, size } => {
                let request = pace.request(ProbeKind::Vtep);
                (ProbeRequest { host: host.clone(), size: *size, ..request }, pace.ask())
            }
        }
    }
}

/// Probes; the exit code.
///
/// # Errors
/// Why it could not.
pub(super) fn probe(probe: &Probe) -> Result<u8> {
    let (request, options) = probe.request();
    let request = Request::Probe(request);
    if let Some(code) = misused(&request) {
        return Ok(code);
    }
    let report: ProbeReport = ask(&options, &request)?;
    emit(&options.output, &report, text)?;
    Ok(code(&report.verdict))
}

fn code(verdict: &str) -> u8 {
    match verdict {
        REACHED => exit::OK,
        NO_ANSWER | NO_NEIGHBOR => exit::NO_ANSWER,
        REFUSED | UNREACHABLE => exit::REFUSED,
        _ => exit::DROPPED,
    }
}

fn text(report: &ProbeReport) -> String {
    let mut text = format!("{}\n\n", report.probe);
    for step in &report.steps {
        let at = step
            .after_us
            .map_or_else(String::new, |us| format!("{}.{:03}s", us / 1_000_000, us % 1_000_000 / 1000));
        print::step(&mut text, &format!("{at:>7}  "), &step.step);
    }
    let _ = writeln!(text, "\nverdict: {}", report.verdict);
    if report.sent > 0 {
        let sent = names::count(report.sent, "question");
        let _ = write!(text, "{sent}, {} answered", report.answered);
        if let (Some(least), Some(most)) =
            (report.round_trips_us.iter().min(), report.round_trips_us.iter().max())
        {
            let millis = |us: u64| format!("{}.{:02}", us / 1000, us % 1000 / 10);
            let _ = write!(text, ", after {} to {} ms", millis(*least), millis(*most));
        }
        text.push('\n');
    }
    if let Some(mtu) = report.path_mtu {
        let _ = writeln!(text, "path MTU: {mtu} bytes");
    }
    text + &print::to_pass(&report.to_pass)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_has_its_code() {
        let of = |verdict: &str| code(verdict);
        assert_eq!([REACHED, NO_ANSWER, NO_NEIGHBOR].map(of), [exit::OK, exit::NO_ANSWER, exit::NO_ANSWER]);
        assert_eq!([REFUSED, UNREACHABLE].map(of), [exit::REFUSED; 2]);
        assert_eq!(of("egress-denied"), exit::DROPPED);
    }
}
