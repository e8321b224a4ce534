//! Goal: sums of half-precision numbers are rounded where the documentation says, and nowhere else. Method: every algorithm
//! of a reduction, in a group in one process, against additions in the documented order, each rounded to the type.

use half::{bf16, f16};

use super::harness::{Bench, Executor, Wire};
use crate::datatype::Element;
use crate::op::{Op, Sum};
use crate::schedule::{Algorithm, Collective};

/// Numbers whose sums do not fit the type.
fn contribution(rank: u32) -> f32 {
    [1.0, 0.001, 3.0, 0.0007, 2.5, 0.03, 777.0, 0.4, 0.0001][rank as usize]
}

/// `((0 1) 2) (3 4)` and its like: pairs of the fold first, then neighbours, then neighbouring pairs.
fn balanced<T: Copy>(values: &[T], add: impl Fn(T, T) -> T) -> T {
    let surplus = values.len() - (1 << values.len().ilog2());
    let (folded, rest) = values.split_at(2 * surplus);
    let mut level: Vec<T> = folded.chunks(2).map(|pair| add(pair[0], pair[1])).chain(rest.iter().copied()).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| add(pair[0], pair[1])).collect();
    }
    level[0]
}

/// What rank 0 has after a reduction of one element by `algorithm`.
fn reduced<T: Element + PartialEq>(size: u32, collective: Collective, algorithm: Algorithm, of: fn(f32) -> T) -> T
where
    Sum: Op<T>,
{
    let configure = |config: &mut crate::Config| config.algorithms = [(collective, algorithm)].into();
    let bench = Bench::configured(size, Wire::Memory, configure, |_| None);
    let mut results = vec![[T::zeroed()]; size as usize];
    let mut executor = Executor::default();
    for (comm, result) in bench.comms.iter().zip(&mut results) {
        executor.must(async move {
            let mine = [of(contribution(comm.rank()))];
            if collective == Collective::Reduce {
                comm.reduce(&mine, result, Sum, 0).await
            } else {
                comm.allreduce(&mine, result, Sum).await
            }
        });
    }
    assert!(executor.run(|_| 0), "somebody was not woken");
    drop(executor);
    results[0][0]
}

fn is_rounded_as_documented<T: Element + PartialEq + std::fmt::Debug>(of: fn(f32) -> T, to: fn(T) -> f32)
where
    Sum: Op<T>,
{
    // In `f32`, then rounded.
    let add = |left: T, right: T| of(to(left) + to(right));
    let mut differ = false;
    for size in 2..=9 {
        let values: Vec<T> = (0..size).map(|rank| of(contribution(rank))).collect();
        let in_turn = values.iter().copied().reduce(add).expect("two or more");
        let as_a_tree = balanced(&values, add);
        differ |= in_turn != as_a_tree || to(as_a_tree) != (0..size).map(contribution).sum::<f32>();
        for algorithm in [Algorithm::Ordered, Algorithm::Halving] {
            assert_eq!(reduced(size, Collective::Reduce, algorithm, of), as_a_tree, "{algorithm} among {size}");
        }
        for algorithm in [Algorithm::RecursiveDoubling, Algorithm::Tree] {
            assert_eq!(reduced(size, Collective::Allreduce, algorithm, of), as_a_tree, "{algorithm} among {size}");
        }
        // The root adds one after the other, and rounds once.
        let carried = of((0..size).map(|rank| to(of(contribution(rank)))).sum());
        differ |= carried != in_turn;
        assert_eq!(reduced(size, Collective::Reduce, Algorithm::Linear, of), carried, "linear among {size}");
    }
    assert!(differ, "the numbers show where it is rounded");
}

#[test]
fn half_precision_sums_are_rounded_where_the_documentation_says() {
    is_rounded_as_documented(f16::from_f32, f16::to_f32);
    is_rounded_as_documented(bf16::from_f32, bf16::to_f32);
}

#[test]
fn what_is_sent_on_is_never_carried() {
    // Whatever the algorithm, all ranks have the same bits, as they would not if each carried its own part.
    let collective = Collective::Allreduce;
    for algorithm in [Algorithm::RecursiveDoubling, Algorithm::Tree, Algorithm::Ring, Algorithm::Halving] {
        for size in 2..=9u32 {
            let configure = |config: &mut crate::Config| config.algorithms = [(collective, algorithm)].into();
            let bench = Bench::configured(size, Wire::Memory, configure, |_| None);
            let mut results = vec![[f16::ZERO; 20]; size as usize];
            let mut executor = Executor::default();
            for (comm, result) in bench.comms.iter().zip(&mut results) {
                let mine = [f16::from_f32(contribution(comm.rank())); 20];
                executor.must(async move { comm.allreduce(&mine, result, Sum).await });
            }
            assert!(executor.run(|_| 0), "somebody was not woken");
            drop(executor);
            assert!(results.iter().all(|result| *result == results[0]), "{algorithm} among {size}: {results:?}");
        }
    }
}
