//! Which rows are wanted, as it is typed.

use std::net::IpAddr;

use clap::Args as ClapArgs;
use eastgate_api::Filter;
use eastgate_wire::{MacAddr, Vni};

use super::args::{parse_proto, parse_vni};

/// Which rows.
#[derive(ClapArgs, Clone, Debug)]
pub struct FilterArgs {
    /// Only this network
    #[arg(long, value_parser = parse_vni)]
    pub vni: Option<Vni>,
    /// Only rows of this endpoint: TENANT/NAME, or the name alone
    #[arg(long, value_name = "NAME")]
    pub endpoint: Option<String>,
    /// `show matrix`: only rows of this group: TENANT/NAME, or the name alone
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Only rows with this address on either side
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// Only rows with this MAC
    #[arg(long)]
    pub mac: Option<MacAddr>,
    /// Only flows and drops with this port on either side
    #[arg(long)]
    pub port: Option<u16>,
    /// Only flows and drops from this address; of a flow, the side that began it
    #[arg(long, value_name = "ADDRESS")]
    pub src: Option<IpAddr>,
    /// Only flows and drops to this address
    #[arg(long, value_name = "ADDRESS")]
    pub dst: Option<IpAddr>,
    /// Only flows and drops from this port
    #[arg(long, value_name = "PORT")]
    pub sport: Option<u16>,
    /// Only flows and drops to this port
    #[arg(long, value_name = "PORT")]
    pub dport: Option<u16>,
    /// Only flows and drops of this protocol: tcp, udp, icmp, icmpv6 or a number
    #[arg(long, value_parser = parse_proto)]
    pub proto: Option<u8>,
    /// Only flows in this state, such as `established`; only MACs and neighbors of this kind, such as `learned`
    #[arg(long)]
    pub state: Option<String>,
    /// At most this many rows; of `flows kill`, at most this many flows
    #[arg(long)]
    pub limit: Option<usize>,
    /// Only rows that come after those of an answer before: what `-o json` has as `next`
    #[arg(long, value_name = "PLACE")]
    pub after: Option<String>,
    /// `show drops`: chatter too, which every guest sends of its own accord; `flows kill`: all flows that the rest does not
    /// exclude
    #[arg(long)]
    pub all: bool,
    /// `show drops`: what passed, and would have been dropped if the rule that says so were not being tried out
    #[arg(long)]
    pub audit: bool,
}

impl From<FilterArgs> for Filter {
    fn from(args: FilterArgs) -> Self {
        let FilterArgs { vni, endpoint, group, address, mac, port, src, dst, sport, dport, .. } = args;
        let FilterArgs { proto, state, limit, after, all, audit, .. } = args;
        Self {
            vni,
            endpoint,
            group,
            address,
            mac,
            port,
            src,
            dst,
            sport,
            dport,
            proto,
            state,
            limit,
            after,
            all,
            audit,
            ..Self::default()
        }
    }
}
