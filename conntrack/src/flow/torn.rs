//! How the ends of a TCP connection that is cut are told: by resets that they believe.
//!
//! An end takes a reset that has exactly the number that it expects next, and challenges one elsewhere in its window (RFC 5961
//! section 3). What it expects is what it has acknowledged, or, where its next acknowledgement is still to come, what is behind
//! all that was sent to it: one reset for each.

use eastgate_wire::{FlowKey, view::proto};

use super::{
    FlowId, FlowTable, flow_id,
    offload::Side,
    original,
    segment::Key,
    tcp::{self, Expects},
};

/// A reset in the name of one end of a connection, for the other one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reset {
    /// As it travels
    pub key: FlowKey,
    /// Its sequence number
    pub seq: u32,
    /// What it acknowledges, where its receiver has sent anything
    pub ack: Option<u32>,
}

impl Reset {
    /// Those for both ends of a connection, by the key of the packet that opened it and by what its opener and the other one have
    /// sent. None for what is no connection, or is over already.
    #[must_use]
    pub fn of(opened: &FlowKey, sides: &[Side; 2]) -> Vec<Self> {
        let [opener, other] = sides;
        if opened.proto != proto::TCP || tcp::is_over(sides) {
            return Vec::new();
        }
        let ways = [(*opened, opener, other), (opened.reversed(), other, opener)];
        let resets = ways.into_iter().flat_map(|(key, sender, receiver)| {
            let Expects { numbers, is_one, ack } = tcp::expects(sender, receiver);
            let numbers = numbers.into_iter().skip(usize::from(is_one));
            numbers.map(move |seq| Self { key, seq, ack })
        });
        resets.collect()
    }
}

impl FlowTable {
    /// The flow of the packet that opened it.
    #[must_use]
    pub fn opened_by(&self, packet: &FlowKey) -> Option<FlowId> {
        let index = self.find(&Key::of_offload(packet).0)?;
        Some(flow_id(self.slab.at(index), index))
    }

    /// The resets that tell the ends of a flow of this table, by the key of the packet that opened it; none for what is no
    /// connection.
    #[must_use]
    pub fn resets(&self, opened: &FlowKey) -> Vec<Reset> {
        let entry = self.find(&Key::of_offload(opened).0).map(|index| self.slab.at(index));
        entry.map_or_else(Vec::new, |entry| Reset::of(&original(entry), &entry.connection.sides()))
    }
}

#[cfg(test)]
mod tests {
    use eastgate_wire::{Addr, Leg, Vni};

    use super::*;

    const OPENED: FlowKey = FlowKey {
        src: Addr::v4([10, 1, 0, 1]),
        dst: Addr::v4([10, 1, 0, 2]),
        vni: Vni::from_wire([0, 0, 7]),
        sport: 4000,
        dport: 80,
        proto: proto::TCP,
        leg: Leg::DIRECT,
    };

    fn side(end: u32, max_ack: u32, names: &[&str]) -> Side {
        let flags = tcp::SIDE_FLAGS.iter().filter(|(name, _)| names.contains(name)).map(|(_, flag)| flag);
        Side { end, max_ack, flags: flags.sum(), ..Side::default() }
    }

    /// To whom, by which number, and what it acknowledges
    fn told(opener: Side, other: Side) -> Vec<(u16, u32, Option<u32>)> {
        let resets = Reset::of(&OPENED, &[opener, other]);
        resets.iter().map(|reset| (reset.key.dport, reset.seq, reset.ack)).collect()
    }

    #[test]
    fn each_end_is_told_by_what_it_may_expect_next() {
        let has = ["HEARD", "ACKED"];
        let idle = told(side(1100, 5200, &has), side(5200, 1100, &has));
        assert_eq!(idle, [(80, 1100, Some(5200)), (4000, 5200, Some(1100))]);
        // What was sent last is not acknowledged yet, and may have been lost.
        let busy = told(side(1100, 5200, &has), side(5200, 1001, &has));
        assert_eq!(busy, [(80, 1001, Some(5200)), (80, 1100, Some(5200)), (4000, 5200, Some(1100))]);
        // One that was found in mid-stream, of which one end has not been heard.
        let found = told(side(1100, 5200, &has), side(5200, 0, &[]));
        assert_eq!(found, [(80, 1100, None), (4000, 5200, Some(1100))]);
        // A SYN that nobody has answered: its sender looks at what is acknowledged.
        let opening = told(side(1001, 0, &["HEARD", "SYN_ONLY"]), Side::default());
        assert_eq!(opening, [(80, 1001, None), (4000, 0, Some(1001))]);
    }

    #[test]
    fn nobody_is_told_of_what_is_no_connection_or_is_over() {
        let has = ["HEARD", "ACKED"];
        assert_eq!(told(side(1, 2, &["HEARD", "ACKED", "RESET"]), side(2, 1, &has)), []);
        let closed = ["HEARD", "ACKED", "FIN", "FIN_ACKED"];
        assert_eq!(told(side(1, 2, &closed), side(2, 1, &closed)), [], "it waits for late segments alone");
        assert_eq!(told(side(1, 2, &closed), side(2, 1, &has)).len(), 2, "it is half closed");
        let udp = FlowKey { proto: proto::UDP, ..OPENED };
        assert_eq!(Reset::of(&udp, &[side(1, 2, &has), side(2, 1, &has)]), []);
    }
}
