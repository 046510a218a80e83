//! What the compiled policy costs: a lookup against the number of rules, compiling one large network, compiling
//! ten thousand small ones, and the admission check of a frame.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to report")]

use std::{hint::black_box, net::Ipv4Addr, sync::Arc};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use eastgate_policy::{
    admission::{self, Context, Sender, Site},
    compile::Compiled,
    rule::{
        Direction, EndpointRules, Group, GroupId, Header, MAX_TIERS, Peer, PortProtocol, PortRange, Probe,
        Rule, RuleId, Service, Source, Then, Tier, TierEnd, Verdict,
    },
};
use eastgate_wire::{Addr, EndpointId, Family, Holdings, MacAddr, Ownership, View};

const SIZES: [u32; 5] = [10, 100, 1_000, 10_000, 100_000];

fn tcp(port: u16) -> Service {
    Service::Ports {
        protocol: PortProtocol::Tcp,
        destination: Some(vec![PortRange::single(port)]),
        source: None,
    }
}

fn rule(id: u32, peer: Peer, service: Service) -> Rule {
    Rule { family: Some(Family::V4), ..Rule::new(RuleId(id), peer, service, Then::Settle(Verdict::ALLOW)) }
}

/// Spreads consecutive numbers over the space (Knuth's multiplicative hash), so that no search has luck.
const fn spread(n: u32) -> u32 {
    n.wrapping_mul(2_654_435_761)
}

fn network(n: u32) -> Addr {
    Ipv4Addr::from_bits(10 << 24 | spread(n) >> 8).into()
}

/// One endpoint whose ingress allows `n` prefixes a port each.
fn by_prefix(n: u32) -> Source {
    let rules = (0..n).map(|i| {
        let len = 96 + 24 + (i % 9) as u8;
        rule(i, Peer::Prefix { network: network(i), len }, tcp(1 + (i % 1000) as u16))
    });
    one_endpoint(rules.collect())
}

/// One endpoint whose ingress allows `n` disjoint pairs of protocol and port from anywhere.
fn by_port(n: u32) -> Source {
    let rules = (0..n).map(|i| {
        let protocol = if i & 1 == 0 { PortProtocol::Tcp } else { PortProtocol::Udp };
        let destination = Some(vec![PortRange::single((i / 2) as u16)]);
        rule(i, Peer::Any, Service::Ports { protocol, destination, source: None })
    });
    one_endpoint(rules.collect())
}

fn one_endpoint(ingress: Vec<Rule>) -> Source {
    let addresses = vec![(Addr::v4([10, 0, 0, 1]), 128)];
    Source {
        groups: vec![Group { ingress, egress: vec![] }.into()],
        endpoints: vec![EndpointRules::of_groups(addresses, vec![GroupId(0)])],
    }
}

/// The same rules in the last of all tiers. Those before it have as many, which pass on what they match.
fn behind_tiers(n: u32) -> Source {
    let mut source = by_prefix(n);
    let last = source.groups.clone();
    for rule in source.groups.iter_mut().flat_map(|group| &mut Arc::make_mut(group).ingress) {
        rule.then = Then::Pass;
    }
    let before = source.groups.clone();
    source.groups = [vec![before; MAX_TIERS - 1], vec![last]].concat().concat();
    let tiers = (0..MAX_TIERS as u32).map(|group| Tier { groups: vec![GroupId(group)], end: TierEnd::Pass });
    for endpoint in &mut source.endpoints {
        endpoint.ingress = Arc::new(tiers.clone().collect());
    }
    source
}

/// Ten endpoints in three groups with ten rules, as most tenants have.
fn small(seed: u32) -> Source {
    let addresses = |e: u32| vec![(Ipv4Addr::from_bits(10 << 24 | seed << 8 | e).into(), 128u8)];
    let any = |id| rule(id, Peer::Any, Service::Any);
    let office = Peer::Prefix { network: Addr::v4([192, 0, 2, 0]), len: 96 + 24 };
    let web = vec![rule(0, Peer::Any, tcp(80)), rule(1, Peer::Any, tcp(443)), rule(2, office, tcp(22))];
    let app = vec![rule(4, Peer::Group(GroupId(0)), tcp(8080)), rule(5, office, tcp(22))];
    let db = vec![rule(7, Peer::Group(GroupId(1)), tcp(5432)), rule(8, office, tcp(22))];
    let group = |ingress, id| Group { ingress, egress: vec![any(id)] }.into();
    Source {
        groups: vec![group(web, 3), group(app, 6), group(db, 9)],
        endpoints: (0..10).map(|e| EndpointRules::of_groups(addresses(e), vec![GroupId(e % 3)])).collect(),
    }
}

fn probes(n: u32) -> Vec<(Addr, Probe)> {
    let probe = |port| Probe::new(6, Header::Ports { source: 40_000, destination: port });
    (0..4096).map(|i| spread(i) % n).map(|i| (network(i), probe(1 + (i % 1000) as u16))).collect()
}

fn lookup(c: &mut Criterion) {
    for (name, source) in
        [("prefixes", by_prefix as fn(u32) -> Source), ("ports", by_port), ("tiers", behind_tiers)]
    {
        let mut group = c.benchmark_group(format!("lookup/{name}"));
        group.throughput(Throughput::Elements(1));
        for n in SIZES {
            let compiled = Compiled::compile(&source(n)).unwrap();
            eprintln!("{name} {n}: {:?}", compiled.stats());
            let probes = probes(n);
            let mut at = 0;
            group.bench_function(BenchmarkId::from_parameter(n), |b| {
                b.iter(|| {
                    at = (at + 1) & 4095;
                    let (peer, probe) = &probes[at];
                    black_box(compiled.decide(EndpointId(0), Direction::Ingress, *peer, probe))
                });
            });
        }
    }
}

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    group.sample_size(10);
    for n in SIZES {
        let source = by_prefix(n);
        group.bench_function(BenchmarkId::new("prefixes", n), |b| {
            b.iter(|| Compiled::compile(&source).unwrap())
        });
    }
    let networks: Vec<_> = (0..10_000).map(small).collect();
    let bytes: usize = networks.iter().map(|s| Compiled::compile(s).unwrap().stats().resident_bytes).sum();
    eprintln!("10000 networks: {bytes} bytes");
    group.bench_function("10000 networks", |b| {
        b.iter_batched(
            || Vec::with_capacity(networks.len()),
            |mut all| {
                all.extend(networks.iter().map(|source| Compiled::compile(source).unwrap()));
                all
            },
            BatchSize::LargeInput,
        );
    });
}

fn admit(c: &mut Criterion) {
    let mut frame = Vec::new();
    let (mac, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    etherparse::PacketBuilder::ethernet2(mac, other)
        .ipv4([10, 1, 0, 11], [10, 1, 0, 21], 64)
        .tcp(40_000, 443, 1, 1000)
        .write(&mut frame, b"payload")
        .unwrap();
    let view = View::parse(&frame).unwrap();
    let mut holdings = Holdings { endpoint: Some(EndpointId(0)), ..Holdings::new(MacAddr(mac)) };
    holdings.addresses.push(Addr::v4([10, 1, 0, 11]));
    let ownership = Ownership::new([&holdings]);
    let sender = Sender { holdings: holdings.into(), ..Sender::new(MacAddr(mac)) };
    let site =
        Site::new(&[MacAddr([2, 0, 0, 0, 0xff, 1])], &[(Addr::v4([192, 0, 2, 0]), 120)], 4789).unwrap();
    let context = Context { sender: &sender, ownership: &ownership, site: &site, chosen: false };
    c.bench_function("admit", |b| b.iter(|| admission::admit(black_box(&view), &frame, &context)));
}

criterion_group!(benches, lookup, compile, admit);
criterion_main!(benches);
