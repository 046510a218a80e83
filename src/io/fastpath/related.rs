//! What a flow follows from, as an entry of the kernel's table has it for the daemon that follows: in fields that only flows which were
//! created in the kernel use otherwise.

use eastgate_conntrack::{expect::Related, flow::Direction};
use eastgate_fastpath::{FLOW_RELATED, Flow};
use eastgate_wire::{Helper, view::HeaderBits};

/// By the other end of the control flow
const BY_OTHER: u32 = 1 << 8;
const DSCP_AT: u32 = 16;
const TCP_FLAGS_AT: u32 = 24;

/// Writes it into an entry.
pub(super) fn write(flow: &mut Flow, related: &Related) {
    let Related { helper, opener, sport, dport, header } = *related;
    let by_other = if opener == Direction::Reply { BY_OTHER } else { 0 };
    let bits = u32::from(header.dscp) << DSCP_AT | u32::from(header.tcp_flags) << TCP_FLAGS_AT;
    flow.marks |= FLOW_RELATED;
    flow.created = u32::from(helper.number()) | by_other | bits;
    let [low, high] = &mut flow.dirs;
    (low.tcp.account_half, high.tcp.account_half) = (sport, dport);
}

/// Reads it again; nothing of a flow that follows from none.
pub(super) fn read(flow: &Flow) -> Option<Related> {
    if flow.marks & FLOW_RELATED == 0 {
        return None;
    }
    let word = flow.created;
    let [sport, dport] = flow.dirs.each_ref().map(|way| way.tcp.account_half);
    Some(Related {
        helper: Helper::from_number(word as u8)?,
        opener: if word & BY_OTHER == 0 { Direction::Original } else { Direction::Reply },
        sport,
        dport,
        header: HeaderBits { dscp: (word >> DSCP_AT) as u8, tcp_flags: (word >> TCP_FLAGS_AT) as u8 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written() {
        for (helper, opener) in [(Helper::Ftp, Direction::Original), (Helper::Tftp, Direction::Reply)] {
            let header = HeaderBits { dscp: 46, tcp_flags: 0xc2 };
            let related = Related { helper, opener, sport: 40_000, dport: 21, header };
            let mut flow = Flow::default();
            assert_eq!(read(&flow), None);
            write(&mut flow, &related);
            assert_eq!(read(&flow), Some(related));
        }
    }
}
