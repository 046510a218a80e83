//! What encapsulation costs per frame: encapsulating and unwrapping a small one, the FDB, cutting up 64 KB, merging 44
//! segments.
#![allow(clippy::unwrap_used, reason = "the frames are our own")]

use std::{hint::black_box, net::Ipv4Addr};

use ahash::RandomState;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use eastgate_vtep::{
    ecn::{Ecn, OuterTos, OuterTtl},
    encap::{Decapsulation, Encapsulation, decapsulate, encapsulate},
    entropy::SourcePorts,
    fdb::{Fdb, FdbSettings, Location},
    header,
    offload::{coalesce::Coalescer, segment::segment},
    peers::{PeerKind, Peers},
};
use eastgate_wire::{Frame, Gso, GsoKind, Instant, MacAddr, Offload, View, Vni, VtepAddr};
use etherparse::PacketBuilder;

const SEGMENT: u16 = 1410;

fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 2, 1])
        .ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64)
        .tcp(40000, 443, 7, 512)
        .ack(9)
        .write(&mut out, payload)
        .unwrap();
    out
}

fn hasher() -> RandomState {
    RandomState::with_seeds(1, 2, 3, 4)
}

fn small_frames(c: &mut Criterion) {
    let network = Encapsulation {
        vni: Vni::from_wire([0, 0, 5]),
        vlan_aware: false,
        tos: OuterTos::Inherit,
        ttl: OuterTtl::Fixed(64),
        ports: SourcePorts::default(),
    };
    let frame = tcp(b"");
    let hasher = hasher();
    let mut buffer = [&[0u8; 8], &frame[..]].concat();
    let end = buffer.len();
    c.bench_function("encapsulate small frame", |b| {
        b.iter(|| {
            let mut frame = Frame::new(&mut buffer, 8, end, Offload::default());
            let mut view = View::parse(frame.bytes()).unwrap();
            black_box(encapsulate(&mut frame, &mut view, &network, &hasher))
        });
    });

    let from = |n: u32| VtepAddr(Ipv4Addr::from_bits(0x0a00_0000 + n).into());
    let peers =
        Peers::new((0..1000).map(|n| (from(n), PeerKind::Eastgate)), RandomState::with_seeds(5, 6, 7, 8));
    c.bench_function("decapsulate small frame, 1000 peers", |b| {
        b.iter(|| {
            let mut datagram = Frame::new(&mut buffer, 0, end, Offload::default());
            let said = Decapsulation { peers: &peers, strict: false, vlan_aware: false, own_macs: &[] };
            black_box(decapsulate(&mut datagram, from(black_box(500)), Ecn::NotEct, |_| Some(said)))
        });
    });

    let mut fdb = Fdb::new(FdbSettings::default(), RandomState::with_seeds(5, 6, 7, 8));
    let mac = |n: u32| {
        let [a, b, c, d] = n.to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    };
    let place = |n: u32| Location::Remote(from(n % 1000));
    for n in 0..10_000 {
        fdb.learn(mac(n), place(n), Instant::ZERO).unwrap();
    }
    let mut n = 0;
    c.bench_function("fdb: refresh and look up, 10,000 MACs", |b| {
        b.iter(|| {
            n = (n + 7919) % 10_000;
            let _ = black_box(fdb.learn(mac(n), place(n), Instant::ZERO));
            black_box(fdb.lookup(mac(9999 - n), Instant::ZERO))
        });
    });
}

fn gso_packets(c: &mut Criterion) {
    let payload: Vec<u8> = (0..44 * u32::from(SEGMENT)).map(|n| n as u8).collect();
    let frame = tcp(&payload);
    let view = View::parse(&frame).unwrap();
    let gso = Gso { kind: GsoKind::TcpV4, segment: SEGMENT };
    let prefix = header::encode(Vni::from_wire([0, 0, 5]));
    let mut group = c.benchmark_group("offload");
    group.throughput(Throughput::Bytes(payload.len() as u64));
    let mut out = Vec::new();
    group.bench_function("segment 62 KB into 44", |b| {
        b.iter(|| {
            out.clear();
            black_box(segment(&frame, &view, gso, &prefix, &mut out).unwrap())
        });
    });

    out.clear();
    let layout = segment(&frame, &view, gso, &[], &mut out).unwrap();
    let frames: Vec<(&[u8], View)> = out.chunks(layout.size).map(|f| (f, View::parse(f).unwrap())).collect();
    group.bench_function("coalesce 44 segments", |b| {
        b.iter_batched_ref(
            Coalescer::new,
            |run| {
                for (frame, view) in &frames {
                    assert!(run.push(frame, view));
                }
                black_box(run.finish().map(|merged| merged.offload))
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, small_frames, gso_packets);
criterion_main!(benches);
