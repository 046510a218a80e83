//! `eastgate trace`: a packet, step by step to its verdict; one that nobody sent, one that was captured, or one like another that
//! was dropped.

use std::{
    io::{IsTerminal, Read as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use eastgate_api::{
    EventRow, Events, FLOW_ENDINGS, Filter, Hex, MAX_EVENTS, Request, TraceReport, TraceRequest, Verdict,
};
use eastgate_config::{Config, Loader};
use eastgate_dataplane::{
    snapshot::Snapshot,
    trace::{Live, trace},
};
use eastgate_vtep::header;
use eastgate_wire::{Addr, View, Vni, names, view::Transport};
use serde::Serialize;

use super::{
    args::{Ask, Trace},
    capture_file,
    commands::{ask, emit, misused, offline},
    exit,
    observe::{self, FOLLOW},
    print,
};
use crate::daemon;

/// Characters of a frame that is given as text: those of the largest with an offset on each line
const LONGEST_TEXT: u64 = 1 << 18;

/// An event, and what becomes of a packet like it now.
#[derive(Serialize)]
struct Walked {
    event: EventRow,
    trace: TraceReport,
}

pub(super) fn walk(options: &Trace) -> Result<u8> {
    if options.live || options.last {
        return walk_event(options);
    }
    let request = match frame(options)? {
        Some(frame) => of_frame(options, frame)?,
        None => in_words(options)?,
    };
    let report: TraceReport = match &options.config {
        Some(path) => {
            let (config, first) = offline_for(path, &request)?;
            drop(config);
            trace(&first, &request, Live::NOTHING, crate::io::clock::now()).map_err(anyhow::Error::msg)?
        }
        None => ask(&options.ask, &Request::Trace(request))?,
    };
    emit(&options.ask.output, &report, print::trace)?;
    Ok(code(&report))
}

fn in_words(options: &Trace) -> Result<TraceRequest> {
    let (Some(vni), Some(proto), Some(src), Some(dst)) =
        (options.vni, options.protocol, options.src, options.dst)
    else {
        bail!("say which packet: --vni VNI PROTO SRC DST");
    };
    Ok(TraceRequest {
        vni,
        frame: None,
        proto,
        src: src.ip.into(),
        dst: dst.ip.into(),
        sport: src.port.unwrap_or(0),
        dport: dst.port.unwrap_or(0),
        icmp: options.kind.map(|kind| (kind, options.code)),
        from: options.from.clone(),
    })
}

/// The frame that is given, if one is.
fn frame(options: &Trace) -> Result<Option<Vec<u8>>> {
    if let Some(path) = &options.pcap {
        return capture_file::packet(path, options.packet).map(Some);
    }
    let read = |text: &str| {
        let text = match text {
            "-" => {
                let mut text = String::new();
                std::io::stdin().take(LONGEST_TEXT + 1).read_to_string(&mut text)?;
                if text.len() as u64 > LONGEST_TEXT {
                    bail!("--hex: that is more text than any frame takes");
                }
                text
            }
            text => text.to_owned(),
        };
        let Hex(bytes) = text.parse().context("--hex")?;
        if bytes.len() > capture_file::LARGEST {
            bail!("--hex: that is {} bytes; a frame has at most {}", bytes.len(), capture_file::LARGEST);
        }
        Ok(bytes)
    };
    options.hex.as_deref().map(read).transpose()
}

/// A frame of a network, or in VXLAN as the underlay carries it.
fn of_frame(options: &Trace, frame: Vec<u8>) -> Result<TraceRequest> {
    let (vni, frame) = match options.vni {
        Some(vni) => (vni, frame),
        None => in_vxlan(&frame).context("say --vni: it is no frame in VXLAN, which would say it")?,
    };
    let nobody = Addr::v4([0; 4]);
    let from = options.from.clone();
    let frame = Some(Hex(frame));
    Ok(TraceRequest { vni, frame, proto: 0, src: nobody, dst: nobody, sport: 0, dport: 0, icmp: None, from })
}

/// What a VXLAN datagram carries, and of which network it is.
fn in_vxlan(datagram: &[u8]) -> Option<(Vni, Vec<u8>)> {
    const UDP_LEN: usize = 8;
    let view = View::parse(datagram).ok()?;
    let ip = view.ip().filter(|ip| matches!(ip.transport, Transport::Udp { .. }) && ip.fragment.is_none())?;
    let l4 = usize::from(ip.l4);
    let payload = datagram.get(l4 + UDP_LEN..l4 + usize::from(ip.l4_len))?;
    let header = header::decode(payload).ok()?;
    let vni = header.accept(true).ok()?;
    Some((vni, payload.get(header::VXLAN_LEN..)?.to_vec()))
}

fn code(report: &TraceReport) -> u8 {
    if matches!(report.verdict.as_str(), "forwarded" | "answered") { exit::OK } else { exit::DROPPED }
}

fn walk_event(options: &Trace) -> Result<u8> {
    let mut filter = Filter { vni: options.vni, ..options.which.filter() };
    // What passes is asked for seldom.
    let of_flow = filter.reason.as_deref().is_some_and(|reason| FLOW_ENDINGS.contains(&reason));
    filter.verdict = filter.verdict.or((!of_flow).then_some(Verdict::Dropped));
    if let Some(code) = misused(&Request::Events(filter.clone())) {
        return Ok(code);
    }
    let (event, request) = if options.live { next(options, filter)? } else { last(options, filter)? };
    let trace = ask(&options.ask, &Request::Trace(request))
        .with_context(|| format!("one like this cannot be walked: {}", observe::text(&event)))?;
    let walked = Walked { event, trace };
    emit(&options.ask.output, &walked, text)?;
    Ok(code(&walked.trace))
}

/// The first that fits from now on. `--timeout` is of the packet; answers have their usual time.
fn next(options: &Trace, filter: Filter) -> Result<(EventRow, TraceRequest)> {
    let begun = Instant::now();
    let asking = Ask { timeout: None, ..options.ask.clone() };
    let now: Events = ask(&asking, &Request::Events(Filter { limit: Some(0), ..filter.clone() }))?;
    let mut after = now.next;
    loop {
        let request = Filter { after: Some(after), ..filter.clone() };
        let events: Events = ask(&asking, &Request::Events(request))?;
        if let Some(found) = events.events.into_iter().find_map(packet) {
            return Ok(found);
        }
        after = events.next;
        if let Some(seconds) = options.ask.timeout
            && begun.elapsed() > Duration::from_secs(seconds)
        {
            bail!("no packet that fits has come within {seconds} s");
        }
        std::thread::sleep(FOLLOW);
    }
}

/// The last that fits of those that are remembered.
fn last(options: &Trace, filter: Filter) -> Result<(EventRow, TraceRequest)> {
    let filter = Filter { limit: Some(MAX_EVENTS), ..filter };
    let events: Events = ask(&options.ask, &Request::Events(filter))?;
    let found = events.events.into_iter().rev().find_map(packet);
    found.context(
        "no packet that fits is remembered: --live waits for the next, `eastgate observe` lists all that is",
    )
}

/// An IP packet like the one that an event is about; none where it was another frame.
fn packet(event: EventRow) -> Option<(EventRow, TraceRequest)> {
    let proto = event.proto.as_deref().and_then(names::protocol_number)?;
    let has_ports = names::has_ports(proto);
    let request = TraceRequest {
        vni: event.vni?,
        frame: None,
        proto,
        src: event.src?,
        dst: event.dst?,
        sport: if has_ports { event.sport } else { 0 },
        dport: if has_ports { event.dport } else { 0 },
        icmp: event.icmp,
        // Whoever sent it, whatever its source address said.
        from: event.src_endpoint.clone().filter(|_| event.verdict == Verdict::Dropped),
    };
    Some((event, request))
}

fn text(walked: &Walked) -> String {
    let Walked { event, trace } = walked;
    let mut text = format!("{}\n\nnow, step by step: {}", observe::text(event), print::trace(trace));
    if let Some(reason) = event.reason.as_ref().filter(|reason| **reason != trace.verdict)
        && event.verdict == Verdict::Dropped
    {
        text += &format!(
            "note: that one was dropped ({reason}). It differed in what is not known of it any more (MACs, flags, \
             checksum, length), or flows, limits or rules have changed since\n"
        );
    }
    text
}

/// The snapshot of a host that has a part in the packet's network.
fn offline_for(path: &Path, request: &TraceRequest) -> Result<(Arc<Config>, Snapshot)> {
    let mut loader = Loader::new(path);
    let config = daemon::load(&mut loader, std::io::stderr().is_terminal())?;
    let member = config
        .networks()
        .find(|(_, network)| network.vni == request.vni)
        .and_then(|(_, network)| config.members(network).find(|host| host.runs_eastgate()))
        .map(|host| host.name.clone())
        .with_context(|| format!("no host that runs eastgate has a part in VNI {}", request.vni))?;
    offline(path, Some(&member))
}
