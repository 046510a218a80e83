//! The largest packet that gets to an address: echo requests with DF, as large as they may be, then as large as somebody says, then by
//! halves. What is said is believed when it is so.

use std::time::Duration;

use eastgate_api::{Failure, NO_ANSWER, ProbeReport, ProbeRequest, REACHED};
use eastgate_wire::{Family, names};

use super::{
    super::View,
    asker::Asker,
    questions::{Echo, Echoed, LEAST, Neighbor, ask_echo, echo_proto, is_late},
    run::Run,
    stack::LARGEST,
    tell::{Teller, Went},
};
use crate::io::clock;

/// What links carry that nothing was said of
const USUAL_MTU: u16 = 1500;
/// Where nothing comes back, it may have been lost for another reason.
const TRIES: u32 = 2;

pub(super) fn probe(view: &View, asker: &Asker<'_>, request: &ProbeRequest) -> Result<ProbeReport, Failure> {
    let began = clock::now();
    let v4 = asker.to.is_v4();
    let flow = asker.free_flow(view, echo_proto(v4), None)?;
    let name = if v4 { "IPv4" } else { "IPv6" };
    let title = format!("path MTU ({name}) {} -> {} as {}", asker.own, asker.to, asker.name);
    let mut teller = Teller::new(view, asker, title, began);
    let mut run = Run::begin(view, asker, Some(flow), LARGEST, began)?;
    let mut search = Search {
        hop: asker.hop.to_string(),
        neighbor: Neighbor::default(),
        number: 0,
        wait: Duration::from_millis(request.wait_ms),
        narrowed_by: None,
    };
    let largest = request.size.unwrap_or_else(|| usual(view, asker));
    let mut ask = |teller: &mut Teller<'_>, search: &mut Search, size: u16| -> Result<Echoed, Failure> {
        let mut came = Echoed::Lost;
        for _ in 0..TRIES {
            search.number += 1;
            run.stack.echo(asker.to, flow.sport, search.number, size.into());
            let tell_fate = search.number == 1;
            let echo = Echo { flow: &flow, number: search.number, size: size.into(), tell_fate };
            came = ask_echo(&mut run, teller, &mut search.neighbor, &echo, search.wait, &search.hop)?;
            if came != Echoed::Lost {
                break;
            }
        }
        Ok(came)
    };
    // Whatever is known of a size says nothing where nothing passes at all.
    let least = LEAST as u16;
    let first = ask(&mut teller, &mut search, least.min(largest))?;
    if first != Echoed::Answered {
        teller.expect(flow.proto, Some(&flow));
        return Ok(teller.report);
    }
    let (mut fits, mut too_big) = (least.min(largest), largest.saturating_add(1));
    let mut next = largest;
    let mut is_bounded = false;
    while fits + 1 < too_big {
        if is_late(began) {
            break;
        }
        match ask(&mut teller, &mut search, next)? {
            Echoed::Answered => fits = next,
            came => {
                too_big = next;
                is_bounded = true;
                if let Echoed::Failed(Some(mtu)) = came
                    && let Ok(mtu) = u16::try_from(mtu)
                    && (fits + 1..too_big).contains(&mtu)
                {
                    // Said, and to be seen.
                    search.narrowed_by = Some(mtu);
                    next = mtu;
                    continue;
                }
            }
        }
        // Of what was said to fit, one byte more is said not to.
        next = if search.narrowed_by == Some(fits) && fits + 1 < too_big {
            search.narrowed_by = None;
            fits + 1
        } else {
            fits + (too_big - fits) / 2
        };
    }
    teller.report.path_mtu = Some(fits);
    teller.report.verdict = if teller.report.answered > 0 { REACHED } else { NO_ANSWER }.to_owned();
    let text = if fits + 1 < too_big {
        format!(
            "packets of {fits} bytes get there; from {too_big} on none was seen to, and between them there was no time to ask"
        )
    } else if is_bounded {
        format!("packets of {fits} bytes get there, and larger ones do not; {}", narrowest(view, asker, fits))
    } else {
        format!("packets of {fits} bytes get there, the largest that was tried (--size)")
    };
    teller.here(clock::now(), "path mtu", Went::Well, text, None);
    Ok(teller.report)
}

struct Search {
    hop: String,
    neighbor: Neighbor,
    number: u16,
    wait: Duration,
    /// What somebody says that fits
    narrowed_by: Option<u16>,
}

/// As large as a machine of the network would try.
fn usual(view: &View, asker: &Asker<'_>) -> u16 {
    asker
        .network
        .mtu
        .unwrap_or_else(|| link_leaves(view, asker).unwrap_or(USUAL_MTU).max(USUAL_MTU))
        .min(LARGEST as u16)
}

/// What the underlay's device leaves to packets of the network.
fn link_leaves(view: &View, asker: &Asker<'_>) -> Option<u16> {
    let link = view.shared.link_mtu.load(std::sync::atomic::Ordering::Relaxed);
    let family = if asker.snapshot.vtep.0.is_ipv4() { Family::V4 } else { Family::V6 };
    Some(eastgate_vtep::mtu::tenant_mtu(u16::try_from(link).ok()?, family, 0))
}

/// What makes it so, as far as this host knows.
fn narrowest(view: &View, asker: &Asker<'_>, fits: u16) -> String {
    use eastgate_vtep::fdb::Location;
    let at = asker.network.at_address(asker.to).map(|(endpoint, _)| endpoint.location);
    let Some(Location::Remote(vtep)) = at else {
        return "both ends are on this host, or it is not known where the other one is".to_owned();
    };
    let link = view.shared.link_mtu.load(std::sync::atomic::Ordering::Relaxed);
    let path = view.shared.path_mtu_to(vtep, clock::now());
    let leaves = eastgate_vtep::mtu::tenant_mtu(path, vtep.family(), 0);
    let overhead = names::count(path.saturating_sub(leaves), "byte");
    match (leaves == fits, u32::from(path) < link) {
        (true, false) => {
            format!("the underlay's device here has an MTU of {link}, of which the tunnel takes {overhead}")
        }
        (true, true) => format!(
            "the path to the VTEP {vtep} has an MTU of {path}, narrower than the device here ({link}), of which the tunnel \
             takes {overhead}"
        ),
        (false, _) => format!(
            "the tunnel to {vtep} leaves {leaves} bytes as far as this host knows: it is narrower elsewhere, at the other \
             end or behind it"
        ),
    }
}
