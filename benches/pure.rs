//! What needs no network: the translator per packet, schedules, frames, many operations at once in memory.
#![expect(clippy::print_stderr, reason = "memory is reported next to the times")]

use std::hint::black_box;
use std::net::SocketAddrV4;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fmi::time::Instant;
use fmi_proto::frame::{Envelope, Kind};
use fmi_proto::schedule::{self, Memory};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nat_sim::nat::{Nat, NatConfig, Pooling, Verdict, preset};
use nat_sim::packet::{Packet, Segment};

const SYN: Segment = Segment { syn: true, sequence: 1, window: 64_000, ..Segment::NONE };

fn packet(host: u16, port: u16, segment: Segment, payload: &[u8]) -> Packet {
    let [high, low] = host.to_be_bytes();
    let internal = SocketAddrV4::new([10, 0, high, low].into(), port);
    Packet::tcp(internal, SocketAddrV4::new([9, 9, 9, 9].into(), 443), segment, payload)
}

/// Flows of one host; the rest differ in the host.
const FLOWS_PER_HOST: u32 = 500;

/// The established flow of this number, one packet of it.
fn flow(number: u32, segment: Segment, payload: &[u8]) -> Packet {
    let small = |value: u32| u16::try_from(value).expect("small");
    packet(small(number / FLOWS_PER_HOST), small(1024 + number % FLOWS_PER_HOST), segment, payload)
}

/// A gateway that never runs out of ports: endpoints differ by external address.
fn gateway(config: NatConfig, flows: u32) -> Nat {
    let pool = (1..=4u8).map(|last| [203, 0, 113, last].into()).collect();
    let mut nat = Nat::with_pool(config, pool, 1);
    for number in 0..flows {
        let Verdict::Forward(_, out) = nat.outbound(Instant::ZERO, flow(number, SYN, &[])) else { panic!("no room") };
        let back = out.flow().expect("tcp").reversed();
        let answer = Segment { ack: true, acknowledgement: 2, ..SYN };
        nat.inbound(Instant::ZERO, Packet::tcp(back.source, back.destination, answer, &[]));
        nat.outbound(Instant::ZERO, flow(number, ACK, &[]));
    }
    nat
}

const ACK: Segment = Segment { syn: false, ack: true, sequence: 2, acknowledgement: 2, ..SYN };

/// Packets of one timed run.
const BATCH: usize = 4096;

/// Packets of all flows in an order without rule. Runs take turns, so that flows are not in a cache just
/// because the last run was theirs.
struct Traffic {
    packets: Vec<Packet>,
    at: usize,
}

impl Traffic {
    fn new(flows: u32) -> Self {
        let count = flows.max(u32::try_from(BATCH).expect("small"));
        let packets = (0..count).map(|index| {
            flow(u32::try_from(u64::from(index) * 7919 % u64::from(flows)).expect("below"), ACK, &[0; 64])
        });
        Self { packets: packets.collect(), at: 0 }
    }

    fn next(&mut self) -> Vec<Packet> {
        let run = self.packets.iter().cycle().skip(self.at).take(BATCH).cloned().collect();
        self.at = (self.at + BATCH) % self.packets.len();
        run
    }
}

fn resident_bytes() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

fn translator(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nat");
    group.throughput(Throughput::Elements(BATCH as u64));
    let ideal = NatConfig { limits: preset::linux_masq_drop().limits, ..preset::rfc_ideal() };
    let spread = NatConfig { pooling: Pooling::Arbitrary, ..ideal };
    let linux = NatConfig { limits: preset::rfc_ideal().limits, ..preset::linux_masq_drop() };
    let mut gateways = Vec::new();
    for (name, config, flows) in [
        ("endpoint-independent", spread, 100_000),
        ("Linux, windows tracked", linux, 60_000),
        ("endpoint-independent", ideal, 10),
        ("Linux, windows tracked", linux, 10),
    ] {
        let before = resident_bytes();
        gateways.push((name, gateway(config, flows), flows));
        if let (Some(before), Some(after)) = (before, resident_bytes())
            && flows >= 10_000
        {
            eprintln!(
                "{name}: {} bytes resident for each of {flows} mappings",
                after.saturating_sub(before) / u64::from(flows)
            );
        }
    }
    for (name, mut nat, flows) in gateways {
        let mut traffic = Traffic::new(flows);
        group.bench_function(format!("{name}, established, {flows} mappings"), |bencher| {
            bencher.iter_batched(
                || traffic.next(),
                |packets| {
                    for packet in packets {
                        black_box(nat.outbound(Instant::ZERO, packet));
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    // The floor of any translator: the same packets copied, and their checksums computed once.
    for flows in [10, 100_000] {
        let mut traffic = Traffic::new(flows);
        group.bench_function(format!("copy and full checksum of the same packets, {flows} flows"), |bencher| {
            bencher.iter_batched(
                || traffic.next(),
                |packets| {
                    for packet in packets {
                        let copy = black_box(&packet).clone();
                        assert!(copy.checksums_are_valid());
                        black_box(copy);
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn schedules(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("schedule");
    for size in [16u32, 256, 1024] {
        group.bench_function(format!("allreduce by halving, {size} ranks"), |bencher| {
            bencher.iter(|| schedule::allreduce_halving(black_box(size / 3), size, 1 << 20, Memory::Send));
        });
        group.bench_function(format!("binomial broadcast, {size} ranks"), |bencher| {
            bencher.iter(|| schedule::broadcast_binomial(black_box(size / 3), size, 1, 1 << 20));
        });
    }
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let envelope = Envelope { datatype: 12, sequence: 77, length: 4096, ..Envelope::new(Kind::Allreduce) };
    criterion.bench_function("frame/emit and parse an envelope", |bencher| {
        bencher.iter(|| Envelope::parse(&black_box(&envelope).emit()));
    });
}

/// Time per operation against the number of those that are outstanding: receives that were all called before
/// the first message comes, in the opposite order.
fn outstanding(criterion: &mut Criterion) {
    let runtime = fmi_benches::runtime();
    let mut group = criterion.benchmark_group("outstanding");
    group.sample_size(10);
    for count in [1u32, 100, 1_000, 10_000, 100_000] {
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(format!("{count} receives"), |bencher| {
            let ranks = fmi::Communicator::local(fmi::RealNet::new(), 2);
            let [zero, one] = &ranks[..] else { panic!("two ranks") };
            bencher.iter(|| {
                runtime.block_on(async {
                    let mut buffers = vec![[0u32]; count as usize];
                    let mut receives: FuturesUnordered<_> =
                        buffers.iter_mut().zip(0..).map(|(buffer, tag)| one.recv(0, tag, buffer)).collect();
                    let send = async {
                        for tag in (0..count).rev() {
                            zero.send(1, tag, &[tag]).await?;
                        }
                        Ok::<(), fmi::Error>(())
                    };
                    let receive = async {
                        while let Some(received) = receives.next().await {
                            received?;
                        }
                        Ok::<(), fmi::Error>(())
                    };
                    let (sent, received) = futures_util::future::join(send, receive).await;
                    sent.and(received).expect("nothing fails in memory");
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, translator, schedules, frames, outstanding);
criterion_main!(benches);
