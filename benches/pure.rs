//! What needs no network: the translator per packet, schedules, frames.

use std::hint::black_box;
use std::net::SocketAddrV4;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fmi::proto::frame::{Envelope, Kind};
use fmi::schedule;
use fmi::time::Instant;
use nat_sim::nat::{Nat, preset};
use nat_sim::packet::{Packet, Segment};

const SYN: Segment = Segment {
    syn: true,
    ack: false,
    fin: false,
    rst: false,
    sequence: 1,
    acknowledgement: 0,
    window: 64_000,
    payload: 0,
};

fn packet(host: u16, port: u16, segment: Segment, payload: &[u8]) -> Packet {
    let [high, low] = host.to_be_bytes();
    let internal = SocketAddrV4::new([10, 0, high, low].into(), port);
    Packet::tcp(internal, SocketAddrV4::new([9, 9, 9, 9].into(), 443), segment, payload)
}

fn translator(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nat");
    group.throughput(Throughput::Elements(1));
    let ack = Segment { syn: false, ack: true, ..SYN };
    for sessions in [10u16, 10_000] {
        let mut nat = Nat::new(preset::linux_masq_drop(), [203, 0, 113, 1].into(), 1);
        for session in 0..sessions {
            nat.outbound(Instant::ZERO, packet(session / 100, 1024 + session % 100, SYN, &[]));
        }
        let mut next = 0;
        group.bench_function(format!("established flow among {sessions}, 64 bytes"), |bencher| {
            bencher.iter_batched(
                || {
                    next = (next + 7919) % sessions;
                    packet(next / 100, 1024 + next % 100, ack, &[0; 64])
                },
                |packet| nat.outbound(Instant::ZERO, packet),
                BatchSize::SmallInput,
            );
        });
    }
    // The floor of any translator: the same packet copied, and its checksum computed once.
    let sample = packet(1, 1024, ack, &[0; 64]);
    group.bench_function("copy and full checksum of the same packet", |bencher| {
        bencher.iter(|| {
            let copy = black_box(&sample).clone();
            assert!(copy.checksums_are_valid());
            copy
        });
    });
    group.finish();
}

fn schedules(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("schedule");
    for size in [16u32, 256, 1024] {
        group.bench_function(format!("allreduce by halving, {size} ranks"), |bencher| {
            bencher.iter(|| schedule::allreduce_halving(black_box(size / 3), size, 1 << 20));
        });
        group.bench_function(format!("binomial broadcast, {size} ranks"), |bencher| {
            bencher.iter(|| schedule::broadcast_binomial(black_box(size / 3), size, 1, 1 << 20));
        });
    }
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let envelope = Envelope {
        kind: Kind::Allreduce,
        commutative: true,
        datatype: 12,
        communicator: 1,
        epoch: 2,
        root_or_tag: 3,
        sequence: 4,
        step: 5,
        operator: 1,
        length: 6,
    };
    criterion.bench_function("frame/emit and parse an envelope", |bencher| {
        bencher.iter(|| Envelope::parse(&black_box(&envelope).emit()));
    });
}

criterion_group!(benches, translator, schedules, frames);
criterion_main!(benches);
