//! What the lab costs: scenarios a second, and wall time for one simulated second.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use scenarios::{Options, catalog};

/// Simulated seconds of idleness that one measurement covers.
const IDLE_SECONDS: u64 = 20;

fn scenarios_a_second(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scenario");
    group.throughput(Throughput::Elements(1));
    let mut seed = 0;
    group.bench_function("two functions: join, punch, exchange 64 KiB, leave", |bencher| {
        let scenario = catalog::two_functions();
        bencher.iter(|| {
            seed += 1;
            assert!(scenarios::run(&scenario, seed, Options::default()).passed());
        });
    });
    group.sample_size(10);
    group.bench_function("256 functions: form, allreduce 8 B and 1 MiB, broadcast, barrier", |bencher| {
        let scenario = catalog::group_256();
        bencher.iter(|| assert!(scenarios::run(&scenario, 1, Options::default()).passed()));
    });
    group.finish();
}

/// The difference between the two lines of a size, divided by the seconds, is the cost of an idle
/// simulated second.
fn idle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("idle");
    group.sample_size(10);
    for size in [2, 16, 64, 256] {
        for seconds in [0, IDLE_SECONDS] {
            let scenario = catalog::idle(size, Duration::from_secs(seconds));
            group.bench_function(format!("{size} functions form and wait {seconds} simulated seconds"), |bencher| {
                bencher.iter(|| assert!(scenarios::run(&scenario, 1, Options::default()).passed()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, scenarios_a_second, idle);
criterion_main!(benches);
