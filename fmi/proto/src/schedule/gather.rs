//! Gather to one root, and scatter from one root. Blocks lie in rank order at the root.

use std::ops::Range;

use super::family::{Measures, Method, always, tally};
use super::{Algorithm, Memory, Problem, Relative, Schedule, Span, Step, rounds_for, subtree};
use crate::model::Shape;

pub(super) const GATHER: &[Method] = &[
    Method {
        algorithm: Algorithm::Binomial,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: along_a_tree,
        build: |problem, _, me| gather_binomial(me, problem.size, problem.root, problem.count, problem.in_place),
    },
    Method {
        algorithm: Algorithm::Linear,
        sparse: false,
        reproducible: true,
        admits: always,
        shape: at_once,
        build: |problem, _, me| {
            let Problem { size, root, count, in_place, .. } = *problem;
            gather_linear(me, size, root, count, in_place, problem.equal_blocks())
        },
    },
];

pub(super) const SCATTER: &[Method] = &[
    Method {
        algorithm: Algorithm::Binomial,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: along_a_tree,
        build: |problem, _, me| scatter_binomial(me, problem.size, problem.root, problem.count, problem.in_place),
    },
    Method {
        algorithm: Algorithm::Linear,
        sparse: false,
        reproducible: true,
        admits: always,
        shape: at_once,
        build: |problem, _, me| {
            let Problem { size, root, count, in_place, .. } = *problem;
            scatter_linear(me, size, root, count, in_place, problem.equal_blocks())
        },
    },
];

fn at_once(m: &Measures) -> Shape {
    tally(1.0, m.others, m.others, m.others * m.block, m.others * m.block, 0.0)
}

/// Inner nodes copy what they pass on.
fn along_a_tree(m: &Measures) -> Shape {
    let moved: u32 = (1..m.size).map(|rank| subtree(rank, m.size)).sum();
    let (bytes, moved) = (m.others * m.block, f64::from(moved) * m.block);
    tally(m.log, m.log, m.others + m.at_other_root, bytes, moved, m.ranks / 2.0 * m.block)
}

/// All others send their block to the root at once. `block` gives where a rank's block lies at the root,
/// `own` the length of this rank's. A root that works in place has its own block there already.
pub fn gather_linear(
    me: u32,
    size: u32,
    root: u32,
    own: usize,
    in_place: bool,
    block: impl Fn(u32) -> Range<usize>,
) -> Schedule {
    let mine = Memory::Send.at(0..own);
    let mut schedule = Schedule::default();
    if me != root {
        schedule.push_all([Step::Send { to: root, data: mine }]);
        return schedule;
    }
    let relative = Relative { size, root };
    let others = (1..size).map(|distance| relative.rank(distance));
    let receives = others.map(|from| Step::Receive { from, into: Memory::Receive.at(block(from)) });
    let copy = (!in_place).then(|| Step::Copy { data: mine, into: Memory::Receive.at(block(me)) });
    schedule.push_all(receives.chain(copy));
    schedule
}

/// The root sends each of the others its block at once: [`gather_linear`] backwards.
pub fn scatter_linear(
    me: u32,
    size: u32,
    root: u32,
    own: usize,
    in_place: bool,
    block: impl Fn(u32) -> Range<usize>,
) -> Schedule {
    backwards(gather_linear(me, size, root, own, in_place, block))
}

/// A schedule that takes everything back where it came from: its rounds in the opposite order, each with the transfers
/// and copies the other way. What was sent is received, so both buffers change places.
fn backwards(mut schedule: Schedule) -> Schedule {
    let other = |span: Span| {
        let memory = match span.memory {
            Memory::Send => Memory::Receive,
            Memory::Receive => Memory::Send,
            Memory::Work => Memory::Work,
        };
        Span { memory, ..span }
    };
    schedule.rounds.reverse();
    for step in schedule.rounds.iter_mut().flatten() {
        *step = match *step {
            Step::Send { to, data } => Step::Receive { from: to, into: other(data) },
            Step::Receive { from, into } => Step::Send { to: from, data: other(into) },
            Step::Copy { data, into } => Step::Copy { data: other(into), into: other(data) },
            Step::Reduce { .. } | Step::Combine { .. } => unreachable!("what is combined cannot be taken apart"),
        };
    }
    schedule
}

/// Consecutive blocks, counted from the root, as they lie in rank order: one run, or two around the end.
fn runs(relative: Relative, blocks: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    let wrap = relative.size - relative.root;
    let (low, high) = (blocks.start..blocks.end.min(wrap), blocks.start.max(wrap)..blocks.end);
    [low, high].into_iter().filter(|run| run.start < run.end)
}

fn children(own: u32, size: u32) -> impl Iterator<Item = u32> {
    let below = if own == 0 { rounds_for(size) } else { own.trailing_zeros() };
    (0..below).rev().map(move |k| own + (1 << k)).filter(move |child| *child < size)
}

/// Blocks of `count` elements each go up a binomial tree, joined on the way.
pub fn gather_binomial(me: u32, size: u32, root: u32, count: usize, in_place: bool) -> Schedule {
    let relative = Relative { size, root };
    let own = relative.of(me);
    let mut schedule = Schedule::default();
    let mine = Memory::Send.at(0..count);
    // Elsewhere than at the root, block `own` lies at the start of work memory.
    let held = |run: &Range<u32>| Memory::Work.at((run.start - own) as usize * count..(run.end - own) as usize * count);
    let at_root = |run: &Range<u32>| {
        let first = relative.rank(run.start) as usize;
        Memory::Receive.at(first * count..(first + run.len()) * count)
    };
    let place = |run: &Range<u32>| if own == 0 { at_root(run) } else { held(run) };
    let received = children(own, size).flat_map(|child| {
        let blocks = child..child + subtree(child, size);
        let cuts: Vec<_> = if own == 0 { runs(relative, blocks).collect() } else { vec![blocks] };
        cuts.into_iter().map(move |run| (child, run))
    });
    let receives: Vec<Step> =
        received.map(|(child, run)| Step::Receive { from: relative.rank(child), into: place(&run) }).collect();
    let is_leaf = receives.is_empty();
    let copy = (own == 0 && !in_place || own != 0 && !is_leaf)
        .then(|| Step::Copy { data: mine, into: place(&(own..own + 1)) });
    schedule.push(receives.into_iter().chain(copy));
    if own == 0 {
        return schedule;
    }
    let parent = own & (own - 1);
    let blocks = own..own + subtree(own, size);
    let to = relative.rank(parent);
    if is_leaf {
        schedule.push([Step::Send { to, data: mine }]);
    } else {
        schedule.work = blocks.len() * count;
        let cuts: Vec<_> = if parent == 0 { runs(relative, blocks).collect() } else { vec![blocks] };
        schedule.push(cuts.iter().map(|run| Step::Send { to, data: held(run) }));
    }
    schedule
}

/// Blocks of `count` elements each go down a binomial tree, split on the way: [`gather_binomial`] backwards.
pub fn scatter_binomial(me: u32, size: u32, root: u32, count: usize, in_place: bool) -> Schedule {
    backwards(gather_binomial(me, size, root, count, in_place))
}
