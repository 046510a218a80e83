//! Datagrams in fragments that the programs have begun to carry, and leave to the pipeline.

use eastgate_conntrack::{
    flow::{Query, Segment, SegmentKind},
    fragment::{DatagramKey, Imported},
};
use eastgate_fastpath::DatagramOf;
use eastgate_wire::{
    FlowKey, Leg,
    view::{HeaderBits, proto},
};

use super::KernelPath;
use crate::io::clock;

impl KernelPath {
    pub(super) fn imported(&self, key: &DatagramKey) -> Option<Imported> {
        let DatagramKey { src, dst, vni, .. } = *key;
        let found = self.fastpath.take_datagram(&of(key), clock::monotonic());
        let passed =
            found.inspect_err(|error| tracing::error!(%error, "a datagram is lost")).ok().flatten()?;
        let kind = match passed.proto {
            proto::UDP => SegmentKind::Udp,
            proto::ICMP => SegmentKind::Query(Query { request: passed.asks, kind: 8, code: 0 }),
            proto::ICMPV6 => SegmentKind::Query(Query { request: passed.asks, kind: 128, code: 0 }),
            _ => return None,
        };
        let leg = Leg::DIRECT;
        let key =
            FlowKey { src, dst, vni, sport: passed.sport, dport: passed.dport, proto: passed.proto, leg };
        Some(Imported {
            first: Segment { key, kind, packets: 1, bytes: 0, header: HeaderBits::default() },
            pieces: passed.pieces,
            end: passed.end,
            deadline: clock::from_monotonic(passed.until),
        })
    }

    pub(super) fn forgotten(&self, key: &DatagramKey) {
        if let Err(error) = self.fastpath.forget_datagram(&of(key)) {
            tracing::error!(%error, "the place of a datagram that is over is not cleared");
        }
    }

    pub(super) fn clear_datagrams(&self) {
        if let Err(error) = self.fastpath.clear_datagrams(clock::monotonic()) {
            tracing::error!(%error, "places of datagrams in fragments cannot be cleared");
        }
    }
}

fn of(key: &DatagramKey) -> DatagramOf {
    let DatagramKey { src, dst, vni, id, proto } = *key;
    DatagramOf { vni: vni.get(), src, dst, id, proto }
}
