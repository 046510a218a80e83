//! What a packet costs in the flow table: one that finds its flow, and one that opens a flow and sees it expire.

use std::{hint::black_box, sync::Arc, time::Duration};

use ahash::RandomState;
use criterion::{Criterion, criterion_group, criterion_main};
use eastgate_conntrack::flow::{
    Account, Admitted, FlowLimits, FlowTable, Quota, Segment, SegmentKind, StateSettings, Tracked,
};
use eastgate_wire::{
    Addr, FlowKey, Instant, Leg, Vni,
    view::{HeaderBits, Tcp},
};

const ADMITTED: Admitted = Admitted { epoch: 1, egress_rule: 1, ingress_rule: 2, stateless: [false; 2] };
const PLENTY: FlowLimits = FlowLimits { replied: 2_000_000, unreplied: 2_000_000 };

fn key(n: u32, proto: u8) -> FlowKey {
    let [_, a, b, c] = (n / 50_000).to_be_bytes();
    FlowKey {
        src: Addr::v4([10, a, b, c]),
        dst: Addr::v4([10, 200, 0, 1]),
        vni: Vni::from_wire([0, 19, 137]),
        sport: (n % 50_000) as u16,
        dport: 443,
        proto,
        leg: Leg::DIRECT,
    }
}

fn udp(key: FlowKey) -> Segment {
    Segment { key, kind: SegmentKind::Udp, packets: 1, bytes: 100, header: HeaderBits::default() }
}

fn tcp(key: FlowKey, flags: u8, seq: u32, ack: u32) -> Segment {
    let tcp = Tcp {
        sport: key.sport,
        dport: key.dport,
        seq,
        ack,
        flags,
        window: 60_000,
        header_len: 20,
        window_scale: None,
        mss_at: None,
        payload: 0,
    };
    Segment { key, kind: SegmentKind::Tcp(tcp), packets: 1, bytes: 54, header: HeaderBits::default() }
}

struct Bench {
    table: FlowTable,
    account: Arc<Account>,
    settings: StateSettings,
    now: Instant,
}

impl Bench {
    fn with_connections(flows: u32) -> Self {
        let account = Quota::new(PLENTY).network(key(0, 6).vni, PLENTY).account("", PLENTY);
        let table = FlowTable::new(RandomState::with_seeds(1, 2, 3, 4), flows);
        let mut bench =
            Self { table, account, settings: StateSettings::default(), now: Instant::from_secs(9) };
        for n in 0..flows {
            bench.open(&tcp(key(n, 6), 0x02, 1000, 0));
            assert!(matches!(bench.track(&tcp(key(n, 6).reversed(), 0x12, 5000, 1001)), Tracked::Pass(_)));
            assert!(matches!(bench.track(&tcp(key(n, 6), 0x10, 1001, 5001)), Tracked::Pass(_)));
        }
        bench
    }

    fn track(&mut self, segment: &Segment) -> Tracked {
        self.table.track(segment, &self.settings, ADMITTED.epoch, self.now)
    }

    fn open(&mut self, segment: &Segment) {
        let opened = self.table.open(segment, &ADMITTED, &self.settings, &self.account, self.now);
        assert!(opened.is_ok());
    }
}

fn hits(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow/hit");
    for flows in [1, 1000, 1_000_000] {
        let mut bench = Bench::with_connections(flows);
        let mut n = 0u32;
        group.bench_function(format!("tcp, {flows} flows"), |b| {
            b.iter(|| {
                // A walk that visits all of them and that no prefetcher follows.
                n = n.wrapping_add(2_654_435_761) % flows;
                black_box(bench.track(&tcp(key(n, 6), 0x10, 1001, 5001)))
            });
        });
        if flows == 1_000_000 {
            println!("memory: {:.1} bytes a flow", bench.table.memory() as f64 / f64::from(flows));
        }
    }
    group.finish();
}

fn churn(c: &mut Criterion) {
    let mut bench = Bench::with_connections(0);
    let mut n = 0u32;
    c.bench_function("flow/open and expire", |b| {
        b.iter(|| {
            // 30 s of life at 1,000 new flows a second: 30,000 are there at any time.
            n = (n + 1) % 1_000_000;
            bench.now = bench.now + Duration::from_millis(1);
            let segment = udp(key(n, 17));
            assert_eq!(bench.track(&segment), Tracked::New);
            bench.open(&segment);
            black_box(bench.table.handle_timeout(bench.now, 4))
        });
    });
}

criterion_group!(benches, hits, churn);
criterion_main!(benches);
