//! Drops that look like a configuration that is not what was meant.

use std::collections::BTreeMap;

use eastgate_wire::DropReason;

use super::{
    Findings,
    check::{Check, Severity},
    facts::Facts,
};

/// What was dropped last longer ago than this is no news, in seconds.
const RECENT: u64 = 3600;

/// How many reasons are told.
const MOST: usize = 5;

pub(super) fn examine(facts: &Facts, found: &mut Findings) {
    let Some(answers) = facts.answers() else { return };
    let Some(rows) = found.look("drops", &answers.drops) else { return };
    let mut by_reason = BTreeMap::<&str, (u64, &eastgate_api::DropRow)>::new();
    for row in rows.iter().filter(|row| row.last_s <= RECENT) {
        let of = by_reason.entry(&row.reason).or_insert((0, row));
        of.0 += row.frames;
        if row.last_s < of.1.last_s {
            of.1 = row;
        }
    }
    let mut told: Vec<_> = by_reason
        .into_iter()
        .filter_map(|(name, (frames, last))| {
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == name)?;
            Some((frames, last, hint(*reason)?))
        })
        .collect();
    told.sort_by_key(|(frames, ..)| std::cmp::Reverse(*frames));
    if told.is_empty() {
        found.ok(Check::Drops, "none in the last hour that a configuration is likely to be the reason of");
    }
    for (frames, last, (severity, remedy)) in told.into_iter().take(MOST) {
        let frames = eastgate_wire::names::count(frames, "frame");
        let from = last.from.as_ref().map_or_else(String::new, |from| format!(" from {from}"));
        let what = last
            .last
            .as_ref()
            .map_or_else(String::new, |what| format!(", the last one {what}{from}, {} s ago", last.last_s));
        found.add(
            Check::Drops,
            severity,
            format!("{}: {frames}{what}. {}", last.reason, last.text),
            Some(remedy.to_owned()),
        );
    }
}

/// What to do about drops with this reason, where they are likely to come of the configuration or of the machine.
fn hint(reason: DropReason) -> Option<(Severity, &'static str)> {
    use Severity::{Note, Warning};
    Some(match reason {
        DropReason::UnknownVtep => (
            Note,
            "If it is a host of this overlay, add it: `[host.NAME]`, and its endpoints or `members` of the network.",
        ),
        DropReason::UnknownVni => {
            (Note, "Give all hosts the same configuration: `eastgate status` shows its digest.")
        }
        DropReason::BadChecksum => {
            (Note, "Look at the sender's checksum offload: `ethtool -K DEVICE tx off rx off` to try.")
        }
        DropReason::VxlanFlags => (
            Note,
            "Something that does not speak VXLAN sends to this port: find it, or choose another `[overlay] port`.",
        ),
        DropReason::VxlanReserved => {
            (Note, "Leave out `strict_reserved` of the network, if that sender is to be heard.")
        }
        DropReason::InnerVlan | DropReason::VlanTagged => {
            (Note, "If guests may use VLANs: `guest_vlans` of the endpoint or the network.")
        }
        DropReason::UnknownVlan => {
            (Note, "If a machine has this VLAN: an endpoint with that `port` and `vlan`.")
        }
        DropReason::UnknownStation => (
            Note,
            "If a machine of the segment has this MAC: an endpoint with that `port` and `mac`, and `shared = true`.",
        ),
        DropReason::DirectFrame => (
            Warning,
            "If it goes on: see that the switch isolates the machines of this segment (isolated ports, a private VLAN). Policy holds only for what comes this way.",
        ),
        DropReason::MacSpoofed | DropReason::UnknownEndpoint => (
            Note,
            "If it is its own: correct `mac` or `port` of the endpoint, or `eastgate fdb flush` after a move.",
        ),
        DropReason::IpSpoofed | DropReason::ArpSpoofed | DropReason::NdSpoofed => {
            (Note, "If the machine may use it: `addresses`, `allowed_pairs` or `learn` of the endpoint.")
        }
        DropReason::EthertypeRefused | DropReason::LinkProtocol => {
            (Note, "If it is wanted: `ethertypes` of both ends.")
        }
        DropReason::DhcpServerGuard => {
            (Note, "If it is a DHCP server: `dhcp_server = true` of the endpoint.")
        }
        DropReason::RaGuard => (Note, "If it is a router: `router = true` of the endpoint."),
        DropReason::MulticastRefused => (Note, "If the network is to carry it: `multicast` of the network."),
        DropReason::UnknownDestination => (
            Note,
            "`learning` or `unknown_destinations` of the network, if there are stations that the configuration does not name.",
        ),
        DropReason::NotSyn => (
            Note,
            "Connections that began elsewhere: `tcp = \"loose\"` of the network lets them be picked up.",
        ),
        DropReason::TooBig => {
            (Warning, "Raise the underlay's MTU, or give machines a lower one (`mtu` of the network).")
        }
        DropReason::NoPeer => (Note, "Give the endpoint's host a part in the network."),
        DropReason::PortGone => (Note, "`eastgate status` shows the port; start its machine."),
        DropReason::VtepUnreachable => (Warning, "`ip route get ADDRESS` of that VTEP."),
        DropReason::MacFrozen | DropReason::MacMoveRefused => {
            (Note, "Two stations have one MAC, or there is a loop: `eastgate show fdb --mac MAC`.")
        }
        DropReason::FlowLimit | DropReason::NewFlowLimit => (
            Warning,
            "Raise `limits` of the network or the host, or find out who opens so many: `eastgate top`.",
        ),
        DropReason::SlowPathLimit => (
            Warning,
            "Raise `slow_path_limit` of the network, or find out what is punted: `punt` of `eastgate status`.",
        ),
        DropReason::BumLimit => (Note, "Raise `bum_limit` of the network, or find out who floods."),
        DropReason::MacLimit => (Note, "Raise `mac_limit` of the network."),
        DropReason::Overrun | DropReason::QueueFull => {
            (Warning, "More `--workers`, the fast path, or less traffic: the machine does not keep up.")
        }
        _ => return None,
    })
}
