//! The flow table in virtual time.

mod associations;
mod connections;
mod life;
mod limits;
mod offload;
mod simulation;

use std::{sync::Arc, time::Duration};

use eastgate_wire::{
    Addr, Leg,
    view::{HeaderBits, Quoted, Tcp},
};
use proptest::prelude::*;

use super::*;

pub(super) const ALLOWED: Admitted =
    Admitted { epoch: 1, egress_rule: 11, ingress_rule: 22, stateless: [false; 2] };
const PLENTY: FlowLimits = FlowLimits { replied: 1_000_000, unreplied: 1_000_000 };

/// One table, one clock, and a policy that allows everything.
pub(super) struct World {
    pub(super) quota: Quota,
    pub(super) table: FlowTable,
    pub(super) settings: StateSettings,
    pub(super) limits: FlowLimits,
    /// Of each endpoint
    pub(super) endpoint: FlowLimits,
    pub(super) now: Instant,
    pub(super) epoch: u32,
}

/// What happened to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Opened,
    Passed(FlowState),
    Stale,
    Dropped(DropReason),
}

impl World {
    pub(super) fn new() -> Self {
        Self::limited(PLENTY, PLENTY)
    }

    pub(super) fn limited(total: FlowLimits, network: FlowLimits) -> Self {
        Self {
            quota: Quota::new(total),
            table: FlowTable::new(RandomState::with_seeds(1, 2, 3, 4), 16),
            settings: StateSettings::default(),
            limits: network,
            endpoint: PLENTY,
            now: Instant::from_secs(1_000_000),
            epoch: ALLOWED.epoch,
        }
    }

    pub(super) fn wait(&mut self, secs: u64) {
        self.now = self.now + Duration::from_secs(secs);
    }

    pub(super) fn page(&self, vni: Vni) -> Arc<NetworkQuota> {
        let page = self.quota.network(vni, self.limits);
        page.set_limits(self.limits, None);
        page
    }

    /// Who pays for what the sender of this packet opens
    pub(super) fn account(&self, key: &FlowKey) -> Arc<Account> {
        let account = self.page(key.vni).account(&key.src.to_string(), self.endpoint);
        account.set_limits(self.endpoint, None);
        account
    }

    pub(super) fn send(&mut self, segment: &Segment) -> Fate {
        match self.table.track(segment, &self.settings, self.epoch, self.now) {
            Tracked::Pass(hit) => Fate::Passed(self.table.info(hit.flow).unwrap().state),
            Tracked::Stale { .. } => Fate::Stale,
            Tracked::Offloaded { .. } => panic!("nothing was offloaded"),
            Tracked::Drop(reason) => Fate::Dropped(reason),
            Tracked::New => {
                let account = self.account(&segment.key);
                let admitted = Admitted { epoch: self.epoch, ..ALLOWED };
                match self.table.open(segment, &admitted, &self.settings, &account, self.now) {
                    Ok(_) => Fate::Opened,
                    Err(reason) => Fate::Dropped(reason),
                }
            }
        }
    }

    pub(super) fn flows(&self) -> Vec<FlowInfo> {
        let (mut from, mut out) = (Some(0), Vec::new());
        while let Some(at) = from {
            from = self.table.page(at, 7, &FlowFilter::default(), self.now, &mut out);
        }
        out
    }
}

pub(super) fn vni(number: u32) -> Vni {
    Vni::new_checked(number).unwrap()
}

/// The `n`th flow of a network, as its opener sends.
pub(super) fn key(network: u32, proto: u8, n: u16) -> FlowKey {
    FlowKey {
        src: Addr::v4([10, 1, 0, 11]),
        dst: Addr::v4([10, 1, 0, 21]),
        vni: vni(network),
        sport: n,
        dport: 443,
        proto,
        leg: Leg::DIRECT,
    }
}

pub(super) fn udp(key: FlowKey) -> Segment {
    Segment { key, kind: SegmentKind::Udp, packets: 1, bytes: 100, header: HeaderBits::default() }
}

pub(super) fn ping(key: FlowKey, request: bool) -> Segment {
    let query = Query { request, kind: 8, code: 0 };
    let key = FlowKey { dport: key.sport, ..key };
    Segment { key, kind: SegmentKind::Query(query), packets: 1, bytes: 64, header: HeaderBits::default() }
}

pub(super) fn tcp(key: FlowKey, flags: u8, seq: u32, ack: u32, payload: u16) -> Segment {
    let tcp = Tcp {
        sport: key.sport,
        dport: key.dport,
        seq,
        ack,
        flags,
        window: 10_000,
        header_len: 20,
        window_scale: None,
        mss_at: None,
        payload,
    };
    Segment {
        key,
        kind: SegmentKind::Tcp(tcp),
        packets: 1,
        bytes: 40 + u32::from(payload),
        header: HeaderBits::default(),
    }
}
