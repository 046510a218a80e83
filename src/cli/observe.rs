//! `eastgate observe`: flows as they begin and end, and frames that are dropped, with names.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use clap::{Args, ValueEnum};
use eastgate_api::{EventKind, EventRow, Events, Filter, MAX_EVENTS, Request, Verdict};
use eastgate_wire::{Addr, MacAddr, Vni, names};
use serde_json::json;

use super::{
    args::{Ask, Daemon, Format, Output, parse_proto, parse_vni},
    commands::{ask, misused},
    exit,
    print::{control_flow, side},
};

/// How often it is asked what has happened since.
pub(super) const FOLLOW: Duration = Duration::from_millis(500);

const HELP: &str = "The newest 1,000, or as many as --last says; with --follow, what happens from then on too. All that is given must match. Of dropped frames
the first of each kind is told: `show drops` counts them all. Events that nobody fetched in time are lost, and it is said how many.

With `-o json` each event is an object on a line of its own. With `-o vpc` each direction of a flow that has ended, and each kind of dropped
frame, is a line of these fields: version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action
log-status, as in an AWS VPC flow log, and vni tenant endpoint rule; `-` where there is none. Of a flow that the pipeline began and the kernel's programs went on
with, packets and bytes are those of before.

Examples:
  eastgate observe --follow
  eastgate observe --verdict dropped --endpoint acme/web1 --last 20
  eastgate observe -f --reason ip-spoofed --tenant acme
  eastgate observe --rule 'acme/db ingress #1'
  eastgate observe -f -o json | jq 'select(.event == \"denied\")'";

/// Options of `observe`.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct Observe {
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub follow: bool,
    /// At most this many of those that there are: 1,000 unless told otherwise, and no more
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Only the network with this VNI
    #[arg(long, value_parser = parse_vni)]
    pub vni: Option<Vni>,
    /// Which events
    #[command(flatten)]
    pub which: Which,
    /// Only what comes after this `seq`
    #[arg(long, value_name = "SEQ")]
    pub after: Option<String>,
    /// The daemon
    #[command(flatten)]
    pub daemon: Daemon,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Lines,
    /// How long to wait for an answer; 30 unless told otherwise
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// Which events, beside the network's number.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// Only this tenant
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Only this network: TENANT/NAME, or the name alone
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Only what is from or to this endpoint: TENANT/NAME, or the name alone
    #[arg(long, value_name = "NAME")]
    pub endpoint: Option<String>,
    /// Only what is from or to a member of this group: TENANT/NAME, or the name alone
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Only what this rule, or one of this group or policy, has admitted or refused
    #[arg(long)]
    pub rule: Option<String>,
    /// Only with this reason: one of `eastgate drop-reasons`, or how a flow ended
    #[arg(long)]
    pub reason: Option<String>,
    /// Only with this verdict
    #[arg(long, value_enum)]
    pub verdict: Option<VerdictArg>,
    /// Only with this address on either side
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// Only with this port on either side
    #[arg(long)]
    pub port: Option<u16>,
    // The packet of `trace` has these names too.
    /// Only from this address; of a flow, the side that began it
    #[arg(id = "which-src", long = "src", value_name = "ADDRESS")]
    pub src: Option<IpAddr>,
    /// Only to this address
    #[arg(id = "which-dst", long = "dst", value_name = "ADDRESS")]
    pub dst: Option<IpAddr>,
    /// Only from this port
    #[arg(id = "which-sport", long = "sport", value_name = "PORT")]
    pub sport: Option<u16>,
    /// Only to this port
    #[arg(id = "which-dport", long = "dport", value_name = "PORT")]
    pub dport: Option<u16>,
    /// Only this protocol: tcp, udp, icmp, icmpv6 or a number
    #[arg(long, value_parser = parse_proto)]
    pub proto: Option<u8>,
    /// Only dropped frames with this MAC
    #[arg(long)]
    pub mac: Option<MacAddr>,
}

/// A verdict, as it is typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum VerdictArg {
    /// Flows that began and ended
    Forwarded,
    /// What was dropped
    Dropped,
    /// What passed because a rule is being tried out
    Audit,
}

/// What the lines are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Lines {
    /// All that is known, for people
    Text,
    /// Names, ports and the verdict
    Compact,
    /// For programs
    Json,
    /// As AWS VPC flow logs
    Vpc,
}

impl Observe {
    /// How what goes wrong is told.
    pub(super) const fn format(&self) -> Format {
        if matches!(self.output, Lines::Json) { Format::Json } else { Format::Text }
    }

    fn filter(&self) -> Filter {
        Filter { vni: self.vni, limit: self.last, after: self.after.clone(), ..self.which.filter() }
    }
}

impl Which {
    /// For the daemon.
    pub(super) fn filter(&self) -> Filter {
        let verdict = self.verdict.map(|verdict| match verdict {
            VerdictArg::Forwarded => Verdict::Forwarded,
            VerdictArg::Dropped => Verdict::Dropped,
            VerdictArg::Audit => Verdict::Audit,
        });
        Filter {
            tenant: self.tenant.clone(),
            network: self.network.clone(),
            endpoint: self.endpoint.clone(),
            group: self.group.clone(),
            rule: self.rule.clone(),
            reason: self.reason.clone(),
            verdict,
            address: self.address,
            port: self.port,
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            proto: self.proto,
            mac: self.mac,
            ..Filter::default()
        }
    }
}

pub(super) fn observe(options: &Observe) -> Result<u8> {
    let mut filter = options.filter();
    if let Some(code) = misused(&Request::Events(filter.clone())) {
        return Ok(code);
    }
    let asking = Ask {
        daemon: options.daemon.clone(),
        output: Output { output: options.format() },
        timeout: options.timeout,
    };
    loop {
        let answer: Events = ask(&asking, &Request::Events(filter.clone()))?;
        if answer.lost > 0 {
            match options.output {
                Lines::Json => println!("{}", json!({ "lost": answer.lost })),
                Lines::Text | Lines::Compact => println!("-- {} lost", names::count(answer.lost, "event")),
                // A line with this status stands for records that there are none of.
                Lines::Vpc => println!("2 - - - - - - - - - - - - SKIPDATA - - - -"),
            }
        }
        for event in &answer.events {
            match options.output {
                Lines::Json => println!("{}", serde_json::to_string(event)?),
                Lines::Text => println!("{}", text(event)),
                Lines::Compact => println!("{}", compact(event)),
                Lines::Vpc => vpc(event).iter().for_each(|line| println!("{line}")),
            }
        }
        if !options.follow {
            return Ok(exit::OK);
        }
        // How many there are at first says nothing of what comes then.
        filter.limit = None;
        filter.after = Some(answer.next);
        if answer.events.len() < MAX_EVENTS {
            std::thread::sleep(FOLLOW);
        }
    }
}

/// Who it was, and at which address.
fn end(endpoint: Option<&String>, address: Option<&Addr>, port: u16, mac: Option<MacAddr>) -> String {
    let at = address.map(|address| side(address, port)).or_else(|| mac.map(|mac| mac.to_string()));
    match (endpoint, at) {
        (Some(endpoint), Some(at)) => format!("{endpoint} {at}"),
        (Some(endpoint), None) => endpoint.clone(),
        (None, at) => at.unwrap_or_else(|| "somebody".into()),
    }
}

/// One line: when, what, who with whom, and why.
pub(super) fn text(event: &EventRow) -> String {
    let src = end(event.src_endpoint.as_ref(), event.src.as_ref(), event.sport, event.src_mac);
    let dst = end(event.dst_endpoint.as_ref(), event.dst.as_ref(), event.dport, event.dst_mac);
    let network = event.network.clone().or_else(|| event.vni.map(|vni| format!("VNI {vni}")));
    let proto = event.proto.clone().unwrap_or_default();
    let mut text = format!("{} {:<7}", time_of_day(event.time_ms), event.event.name());
    let probe = if event.probe { "[PROBE]" } else { "" };
    for word in
        [&network.unwrap_or_default(), &proto, &src, "->", &dst, probe].iter().filter(|word| !word.is_empty())
    {
        text += &format!(" {word}");
    }
    let mut add = |words: String| text += &format!(", {words}");
    // What has no ports or is no IP packet is told in words.
    if event.event.verdict() != Verdict::Forwarded
        && (event.sport, event.dport) == (0, 0)
        && let Some(what) = &event.what
    {
        add(what.clone());
    }
    if let Some(reason) = &event.reason {
        add(reason.clone());
    }
    if let Some(state) = &event.state {
        add(format!("in state {state}"));
    }
    if let Some(lasted) = event.lasted_ms {
        add(format!("lasted {}.{:03} s", lasted / 1000, lasted % 1000));
    }
    if let (Some(packets), Some(replies)) = (event.packets, event.reply_packets) {
        let least = if event.partial { "at least " } else { "" };
        let replies = if replies == 1 { "1 reply".to_owned() } else { format!("{replies} replies") };
        add(format!("{least}{}, {replies}", names::count(packets, "packet")));
    }
    if let (Some(packets @ 2..), None) = (event.packets, event.reply_packets) {
        add(names::count(packets, "packet"));
    }
    if let Some(from) = event.from.as_ref().filter(|_| event.src_endpoint.is_none()) {
        add(format!("from {from}"));
    }
    let rules = [&event.egress_rule, &event.ingress_rule, &event.refused_by];
    for rule in rules.into_iter().flatten() {
        add(format!("{} ({})", rule.rule, rule.at));
    }
    if let Some(related) = &event.related {
        add(format!("announced by {} {}", related.helper, control_flow(related)));
    }
    if let Some(sentence) = event.text.as_ref().filter(|_| event.refused_by.is_none()) {
        add(format!("that is: {sentence}"));
    }
    text
}

/// Names where there are any, ports, and what became of it.
fn compact(event: &EventRow) -> String {
    let end = |endpoint: &Option<String>, address: &Option<Addr>, port: u16, mac: Option<MacAddr>| match (
        endpoint, port,
    ) {
        (Some(endpoint), 0) => endpoint.clone(),
        (Some(endpoint), port) => format!("{endpoint}:{port}"),
        (None, port) => end(None, address.as_ref(), port, mac),
    };
    let src = end(&event.src_endpoint, &event.src, event.sport, event.src_mac);
    let dst = end(&event.dst_endpoint, &event.dst, event.dport, event.dst_mac);
    let proto = event.proto.as_deref().or(event.what.as_deref()).unwrap_or("frame");
    let verdict = event.verdict.name().to_uppercase();
    let why = match event.event {
        EventKind::Begun => "begun",
        _ => event.reason.as_deref().unwrap_or_default(),
    };
    format!("{} {proto} {src} -> {dst} {verdict} {why}", time_of_day(event.time_ms))
}

/// Lines of a flow log: one for each direction that packets went in. A flow that has only begun has none yet.
fn vpc(event: &EventRow) -> Vec<String> {
    let or_none = |text: Option<String>| text.map_or_else(|| "-".to_owned(), |text| text.replace(' ', "_"));
    let tenant =
        event.network.as_ref().and_then(|name| name.split_once('/')).map(|(tenant, _)| tenant.to_owned());
    let proto = event.proto.as_deref().and_then(names::protocol_number).map(|number| number.to_string());
    // A flow's last packet is its end, and not that it was forgotten some time later.
    let begun_ms = event.begun_ms.unwrap_or(event.time_ms);
    let end = event.lasted_ms.map_or(event.time_ms, |lasted| begun_ms.saturating_add(lasted)) / 1000;
    let start = begun_ms / 1000;
    let action = if event.verdict == Verdict::Dropped { "REJECT" } else { "ACCEPT" };
    let line = |from: (Option<Addr>, u16),
                to: (Option<Addr>, u16),
                (packets, bytes),
                endpoint,
                rule: Option<String>| {
        let address = |address: Option<Addr>| or_none(address.map(|address| address.to_string()));
        let (interface, proto) = (or_none(event.from.clone()), or_none(proto.clone()));
        let (vni, tenant) = (or_none(event.vni.map(|vni| vni.to_string())), or_none(tenant.clone()));
        let (endpoint, rule): (String, String) = (or_none(endpoint), or_none(rule));
        format!(
            "2 - {interface} {} {} {} {} {proto} {packets} {bytes} {start} {end} {action} OK {vni} {tenant} {endpoint} {rule}",
            address(from.0),
            address(to.0),
            from.1,
            to.1
        )
    };
    let (src, dst) = ((event.src, event.sport), (event.dst, event.dport));
    let count =
        |packets: Option<u64>, bytes: Option<u64>| (packets.unwrap_or_default(), bytes.unwrap_or_default());
    let there = count(event.packets, event.bytes);
    let rule = |rule: &Option<eastgate_api::RuleRef>| rule.as_ref().map(|rule| rule.rule.clone());
    match event.event {
        EventKind::Begun => Vec::new(),
        EventKind::Ended => {
            let rule = || rule(&event.ingress_rule).or_else(|| rule(&event.egress_rule));
            let back = count(event.reply_packets, event.reply_bytes);
            let there = (there.0 > 0).then(|| line(src, dst, there, event.src_endpoint.clone(), rule()));
            let back = (back.0 > 0).then(|| line(dst, src, back, event.dst_endpoint.clone(), rule()));
            there.into_iter().chain(back).collect()
        }
        EventKind::Denied | EventKind::Dropped | EventKind::WouldBeDenied => {
            let why = rule(&event.refused_by).or_else(|| event.reason.clone());
            vec![line(src, dst, there, event.src_endpoint.clone(), why)]
        }
    }
}

/// The time of day in UTC.
pub(super) fn time_of_day(millis: u64) -> String {
    let seconds = millis / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, millis % 1000)
}
