//! Goal: every schedule is right for every rank, size and root, before any byte moves. Method: all
//! ranks run against each other symbolically. An element's value is the sequence of ranks whose
//! contributions it holds; combining appends. The run proves that each send has its receive of
//! equal length, that nothing waits in a circle, that each contribution arrives exactly once, and
//! in rank order where that is asked for.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

/// Ranks in the order in which their values were combined.
type Value = Rc<Vec<u32>>;

fn combine(left: &Value, right: &Value) -> Value {
    Rc::new(left.iter().chain(right.iter()).copied().collect())
}

/// Runs one schedule for each rank; buffers hold one value per element.
///
/// Sends of a round do not wait: a rank that cannot go on waits for a receive only, as over TCP
/// when both directions are served at once.
fn run(schedules: &[Schedule], buffers: &mut [Vec<Value>]) -> Result<(), String> {
    let mut wires: BTreeMap<(usize, usize), VecDeque<Vec<Value>>> = BTreeMap::new();
    let mut places = vec![(0, false); schedules.len()];
    loop {
        let mut moved = false;
        for me in 0..schedules.len() {
            while let Some(round) = schedules[me].rounds.get(places[me].0) {
                if !places[me].1 {
                    for step in round {
                        if let Step::Send { to, range } = step {
                            let values = buffers[me][range.clone()].to_vec();
                            wires.entry((me, *to as usize)).or_default().push_back(values);
                        }
                    }
                    places[me].1 = true;
                    moved = true;
                }
                if !receive(round, me, &mut wires, &mut buffers[me])? {
                    break;
                }
                places[me] = (places[me].0 + 1, false);
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    if let Some(me) = (0..schedules.len()).find(|me| places[*me].0 < schedules[*me].rounds.len()) {
        return Err(format!("rank {me} waits for ever in round {}", places[me].0));
    }
    match wires.into_iter().find(|(_, wire)| !wire.is_empty()) {
        Some(((from, to), _)) => Err(format!("a message from {from} to {to} is never received")),
        None => Ok(()),
    }
}

/// Applies a round's receives if all have arrived.
fn receive(
    round: &Round,
    me: usize,
    wires: &mut BTreeMap<(usize, usize), VecDeque<Vec<Value>>>,
    buffer: &mut [Value],
) -> Result<bool, String> {
    let sources = |step: &Step| match step {
        Step::Send { .. } => None,
        Step::Receive { from, .. } | Step::Reduce { from, .. } => Some(*from as usize),
    };
    let mut wanted: BTreeMap<usize, usize> = BTreeMap::new();
    for from in round.iter().filter_map(sources) {
        *wanted.entry(from).or_default() += 1;
    }
    if wanted.iter().any(|(from, count)| wires.get(&(*from, me)).map_or(0, VecDeque::len) < *count) {
        return Ok(false);
    }
    for step in round {
        let (from, range, side) = match step {
            Step::Send { .. } => continue,
            Step::Receive { from, range } => (*from, range.clone(), None),
            Step::Reduce { from, range, side } => (*from, range.clone(), Some(*side)),
        };
        let values = wires.get_mut(&(from as usize, me)).and_then(VecDeque::pop_front).expect("counted above");
        if values.len() != range.len() {
            return Err(format!("rank {me} expects {} elements from {from}, gets {}", range.len(), values.len()));
        }
        for (own, value) in buffer[range].iter_mut().zip(values) {
            *own = match side {
                None => value,
                Some(Side::Left) => combine(&value, own),
                Some(Side::Right) => combine(own, &value),
            };
        }
    }
    Ok(true)
}

fn contributions(size: u32, count: usize) -> Vec<Vec<Value>> {
    let of_rank = |rank| {
        let value = Rc::new(vec![rank]);
        (0..count).map(|_| value.clone()).collect()
    };
    (0..size).map(of_rank).collect()
}

fn schedules(size: u32, make: impl Fn(u32) -> Schedule) -> Vec<Schedule> {
    (0..size).map(make).collect()
}

/// Checks `result` on the ranks that `has_result` selects.
fn check(
    size: u32,
    count: usize,
    make: impl Fn(u32) -> Schedule,
    has_result: impl Fn(u32) -> bool,
    is_right: impl Fn(&[u32]) -> bool,
) -> Result<(), String> {
    let schedules = schedules(size, make);
    let mut buffers = contributions(size, count);
    run(&schedules, &mut buffers)?;
    for rank in (0..size).filter(|rank| has_result(*rank)) {
        for (index, value) in buffers[rank as usize].iter().enumerate() {
            if !is_right(value) {
                return Err(format!("size {size}: rank {rank} holds {value:?} at element {index}"));
            }
        }
    }
    Ok(())
}

fn in_order(size: u32) -> impl Fn(&[u32]) -> bool {
    move |value| value.iter().copied().eq(0..size)
}

fn each_once(size: u32) -> impl Fn(&[u32]) -> bool {
    move |value| {
        let mut sorted = value.to_vec();
        sorted.sort_unstable();
        sorted.into_iter().eq(0..size)
    }
}

fn verify_size(size: u32, roots: impl Iterator<Item = u32>) -> Result<(), String> {
    let count = 2 * size as usize + 3;
    for count in [count, 1] {
        let doubling = |me| allreduce_recursive_doubling(me, size, count);
        check(size, count, doubling, |_| true, in_order(size))?;
    }
    check(size, count, |me| allreduce_halving(me, size, count), |_| true, in_order(size))?;
    let heard_from_all = verify_barrier(size);
    heard_from_all?;
    for root in roots {
        let broadcast = |me| broadcast_binomial(me, size, root, 2);
        check(size, 2, broadcast, |_| true, |value| value == [root])?;
        check(size, 2, |me| reduce_binomial(me, size, root, 2), |rank| rank == root, each_once(size))?;
        check(size, 2, |me| reduce_ordered(me, size, root, 2), |rank| rank == root, in_order(size))?;
    }
    Ok(())
}

/// A barrier moves no elements; give its messages one and combine, then all must have heard all.
fn verify_barrier(size: u32) -> Result<(), String> {
    let make = |me| {
        let mut schedule = barrier_dissemination(me, size);
        for step in schedule.rounds.iter_mut().flatten() {
            *step = match step.clone() {
                Step::Send { to, .. } => Step::Send { to, range: 0..1 },
                Step::Receive { from, .. } | Step::Reduce { from, .. } => {
                    Step::Reduce { from, range: 0..1, side: Side::Right }
                }
            };
        }
        schedule
    };
    let heard_all = |value: &[u32]| (0..size).all(|rank| value.contains(&rank));
    check(size, 1, make, |_| true, heard_all)
}

#[test]
fn all_schedules_are_right_for_sizes_to_33_and_every_root() {
    for size in 1..=33 {
        verify_size(size, 0..size).unwrap_or_else(|error| panic!("size {size}: {error}"));
    }
}

#[test]
fn every_schedule_stays_among_the_peers_of_its_rank() {
    for size in 1..=33 {
        for me in 0..size {
            let known = peers(me, size);
            assert!(known.iter().all(|peer| peers(*peer, size).contains(&me)), "symmetric");
            let roots = (0..size).flat_map(|root| {
                [
                    broadcast_binomial(me, size, root, 1),
                    reduce_binomial(me, size, root, 1),
                    reduce_ordered(me, size, root, 1),
                ]
            });
            let others = [
                barrier_dissemination(me, size),
                allreduce_recursive_doubling(me, size, 1),
                allreduce_halving(me, size, 64),
            ];
            for step in roots.chain(others).flat_map(|schedule| schedule.rounds).flatten() {
                let (Step::Send { to: peer, .. } | Step::Receive { from: peer, .. } | Step::Reduce { from: peer, .. }) =
                    step;
                assert!(known.contains(&peer), "size {size}: rank {me} uses {peer}");
            }
        }
    }
    assert_eq!(peers(77, 256).len(), 16, "rank 0 is not among the powers of two of 77");
}

#[test]
fn round_counts_are_logarithmic() {
    for size in 1..=1024 {
        let log = rounds_for(size) as usize;
        for me in [0, size / 2, size - 1] {
            assert!(broadcast_binomial(me, size, 0, 1).rounds.len() <= log);
            assert!(reduce_binomial(me, size, 0, 1).rounds.len() <= log);
            assert_eq!(barrier_dissemination(me, size).rounds.len(), log);
            assert!(allreduce_recursive_doubling(me, size, 1).rounds.len() <= log + 1);
        }
    }
}

#[test]
fn halving_moves_about_twice_the_vector() {
    for size in [2u32, 8, 64, 256] {
        let count = 1 << 16;
        let sent: usize = allreduce_halving(3 % size, size, count)
            .rounds
            .iter()
            .flatten()
            .map(|step| if let Step::Send { range, .. } = step { range.len() } else { 0 })
            .sum();
        assert!(sent < 2 * count && sent >= count, "size {size} sends {sent}");
    }
}

#[test]
fn the_verifier_notices_mistakes() {
    let whole = |me| allreduce_recursive_doubling(me, 4, 1);
    let missing_round = |me| {
        let mut schedule: Schedule = whole(me);
        schedule.rounds.pop();
        schedule
    };
    assert!(check(4, 1, missing_round, |_| true, in_order(4)).is_err());
    let swapped = |me| {
        let mut schedule: Schedule = whole(me);
        for step in schedule.rounds.iter_mut().flatten() {
            if let Step::Reduce { side, .. } = step {
                *side = if *side == Side::Left { Side::Right } else { Side::Left };
            }
        }
        schedule
    };
    assert!(check(4, 1, swapped, |_| true, in_order(4)).is_err(), "order matters");
    let deaf = |me| if me == 3 { Schedule::default() } else { whole(me) };
    assert!(check(4, 1, deaf, |_| true, in_order(4)).expect_err("deadlock").contains("waits for ever"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn schedules_are_right_for_sampled_sizes_to_1024(size in 34u32..=1024, root in any::<proptest::sample::Index>()) {
        let root = u32::try_from(root.index(size as usize)).expect("below size");
        // Symbolic values grow with the size; two elements suffice where halving needs none.
        let broadcast = |me| broadcast_binomial(me, size, root, 1);
        prop_assert_eq!(check(size, 1, broadcast, |_| true, |value| value == [root]), Ok(()));
        let reduce = |me| reduce_ordered(me, size, root, 1);
        prop_assert_eq!(check(size, 1, reduce, |rank| rank == root, in_order(size)), Ok(()));
        let doubling = |me| allreduce_recursive_doubling(me, size, 1);
        prop_assert_eq!(check(size, 1, doubling, |_| true, in_order(size)), Ok(()));
        let halving = |me| allreduce_halving(me, size, 5);
        prop_assert_eq!(check(size, 5, halving, |_| true, in_order(size)), Ok(()));
    }
}
