//! Every rank sends a block to every rank. Blocks for the others lie in `source`, [`Memory::Send`] or, in place,
//! [`Memory::Receive`], which is then copied to work memory first.

use std::ops::Range;

use super::family::{Method, always, tally};
use super::{Algorithm, Memory, Problem, Schedule, Step};

pub(super) const ALLTOALL: &[Method] = &[
    Method {
        algorithm: Algorithm::Bruck,
        sparse: true,
        reproducible: true,
        admits: always,
        shape: |m| {
            let moved = f64::from((0..m.size).map(u32::count_ones).sum::<u32>()) * m.block;
            let copied = 2.0 * moved + 2.0 * m.ranks * m.block;
            tally(m.log, m.log, m.ranks * m.log, moved, m.ranks * moved, copied)
        },
        build: |problem, _, me| alltoall_bruck(me, problem.size, problem.count, problem.in_place),
    },
    Method {
        algorithm: Algorithm::Pairwise,
        sparse: false,
        reproducible: true,
        admits: always,
        shape: |m| {
            let (messages, bytes) = (m.ranks * m.others, m.others * m.block);
            tally(m.others, m.others, messages, bytes, m.ranks * m.others * m.block, 0.0)
        },
        build: |problem, _, me| alltoall_pairwise(me, problem.size, &equal_blocks(problem)),
    },
    Method {
        algorithm: Algorithm::Linear,
        sparse: false,
        reproducible: true,
        admits: always,
        shape: |m| {
            let (messages, bytes) = (m.ranks * m.others, m.others * m.block);
            tally(1.0, m.others, messages, bytes, m.ranks * m.others * m.block, 0.0)
        },
        build: |problem, _, me| alltoall_linear(me, problem.size, &equal_blocks(problem)),
    },
];

fn equal_blocks(problem: &Problem) -> Blocks<impl Fn(u32) -> Range<usize>, impl Fn(u32) -> Range<usize>> {
    let total = problem.in_place.then_some(problem.size as usize * problem.count);
    Blocks { send: problem.equal_blocks(), receive: problem.equal_blocks(), in_place: total }
}

/// Where a rank's blocks lie.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<S, R> {
    /// Of the block for a rank, in the send buffer.
    pub send: S,
    /// Of the block from a rank, in the receive buffer.
    pub receive: R,
    /// Elements of the send buffer if it is the receive buffer too.
    pub in_place: Option<usize>,
}

impl<S: Fn(u32) -> Range<usize>, R: Fn(u32) -> Range<usize>> Blocks<S, R> {
    /// Saves what lies in place; returns where to send from.
    fn begin(&self, schedule: &mut Schedule) -> Memory {
        let Some(total) = self.in_place else { return Memory::Send };
        schedule.work = total;
        schedule.push([Step::Copy { data: Memory::Receive.at(0..total), into: Memory::Work.at(0..total) }]);
        Memory::Work
    }

    fn own(&self, me: u32, source: Memory) -> Step {
        Step::Copy { data: source.at((self.send)(me)), into: Memory::Receive.at((self.receive)(me)) }
    }
}

/// All transfers at once.
pub fn alltoall_linear(
    me: u32,
    size: u32,
    blocks: &Blocks<impl Fn(u32) -> Range<usize>, impl Fn(u32) -> Range<usize>>,
) -> Schedule {
    let mut schedule = Schedule::default();
    let source = blocks.begin(&mut schedule);
    let up = (1..size).map(|distance| (me + distance) % size);
    let down = (1..size).map(|distance| (me + size - distance) % size);
    let sends = up.map(|to| Step::Send { to, data: source.at((blocks.send)(to)) });
    let receives = down.map(|from| Step::Receive { from, into: Memory::Receive.at((blocks.receive)(from)) });
    schedule.push_all(sends.chain(receives).chain([blocks.own(me, source)]));
    schedule
}

/// `size` - 1 rounds; in round k every rank sends to the rank k above it and receives from the rank k below.
pub fn alltoall_pairwise(
    me: u32,
    size: u32,
    blocks: &Blocks<impl Fn(u32) -> Range<usize>, impl Fn(u32) -> Range<usize>>,
) -> Schedule {
    let mut schedule = Schedule::default();
    let source = blocks.begin(&mut schedule);
    for distance in 1..size {
        let (to, from) = ((me + distance) % size, (me + size - distance) % size);
        schedule.push_all([
            Step::Send { to, data: source.at((blocks.send)(to)) },
            Step::Receive { from, into: Memory::Receive.at((blocks.receive)(from)) },
        ]);
    }
    schedule.push([blocks.own(me, source)]);
    schedule
}

/// Bruck's algorithm: ⌈log₂ `size`⌉ rounds, in each of which half of the blocks go on. A block for the rank
/// d above travels the binary digits of d; blocks have `count` elements.
pub fn alltoall_bruck(me: u32, size: u32, count: usize, in_place: bool) -> Schedule {
    let source = if in_place { Memory::Receive } else { Memory::Send };
    // Work memory: the blocks by distance, then those on their way out, then those that come in.
    let moved = |k: u32| (0..size).filter(move |distance| distance & (1 << k) != 0);
    let most = (0..super::rounds_for(size)).map(|k| moved(k).count()).max().unwrap_or(0);
    let (out, incoming) = (size as usize * count, (size as usize + most) * count);
    let mut schedule = Schedule { work: (size as usize + 2 * most) * count, ..Schedule::default() };
    let blocks = |base: usize, first: usize, number: usize| base + first * count..base + (first + number) * count;
    let held = |distance: u32, number: usize| Memory::Work.at(blocks(0, distance as usize, number));
    let user = |memory: Memory, rank: u32, number: usize| memory.at(blocks(0, rank as usize, number));
    let (up, wrap) = ((size - me) as usize, size - me);
    schedule.push([
        Step::Copy { data: user(source, me, up), into: held(0, up) },
        Step::Copy { data: user(source, 0, me as usize), into: held(wrap, me as usize) },
    ]);
    for k in 0..super::rounds_for(size) {
        // Runs of 2^k distances have the digit.
        let length = 1usize << k;
        let runs: Vec<(u32, usize)> = (1..size.div_ceil(1 << k))
            .step_by(2)
            .map(|run| (run << k, length.min((size - (run << k)) as usize)))
            .collect();
        let number = runs.iter().map(|(_, length)| length).sum();
        let copies = |base: usize, outwards: bool| {
            let mut done = 0;
            let runs: Vec<Step> = runs
                .iter()
                .map(|(first, length)| {
                    let packed = Memory::Work.at(blocks(base, done, *length));
                    done += length;
                    let kept = held(*first, *length);
                    if outwards {
                        Step::Copy { data: kept, into: packed }
                    } else {
                        Step::Copy { data: packed, into: kept }
                    }
                })
                .collect();
            runs
        };
        schedule.push(copies(out, true));
        let transfers = [
            Step::Send { to: (me + (1 << k)) % size, data: Memory::Work.at(blocks(out, 0, number)) },
            Step::Receive { from: (me + size - (1 << k)) % size, into: Memory::Work.at(blocks(incoming, 0, number)) },
        ];
        schedule.push(transfers.into_iter().chain(copies(incoming, false)));
    }
    // The block at distance d has come from the rank d below.
    let from = |distance: u32| (me + size - distance) % size;
    schedule.push(
        (0..size)
            .map(|distance| Step::Copy { data: held(distance, 1), into: user(Memory::Receive, from(distance), 1) }),
    );
    schedule
}
