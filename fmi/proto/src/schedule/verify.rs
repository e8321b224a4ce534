//! Goal: every schedule is right for every rank, size and root, before any byte moves. Method: all
//! ranks run against each other symbolically. An element's value is the term that made it, whose
//! leaves are contributions, each of a rank and with an index. The run proves that each send has its receive of
//! equal length, that nothing waits in a circle, that nothing unwritten is read, that each contribution
//! arrives exactly once, and in rank order where that is asked for.
#![expect(clippy::wildcard_enum_match_arm, reason = "most collectives are alike to each question")]

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::model::Costs;
use crate::operation::Layout;

mod choices;
mod order;
mod sparse;

/// How an element came about; `None` where nothing was written.
type Value = Option<Rc<Term>>;

/// A contribution, of a rank and with an index, or a combination.
#[derive(Debug, PartialEq, Eq)]
enum Term {
    Own(u32, usize),
    Combined(Rc<Self>, Rc<Self>),
}

impl Term {
    /// Contributions in the order in which they were combined.
    fn contributions(&self) -> Vec<(u32, usize)> {
        match self {
            Self::Own(rank, index) => vec![(*rank, *index)],
            Self::Combined(left, right) => {
                let mut contributions = left.contributions();
                contributions.extend(right.contributions());
                contributions
            }
        }
    }
}

fn own(rank: u32, index: usize) -> Value {
    Some(Rc::new(Term::Own(rank, index)))
}

fn combine(left: &Value, right: &Value) -> Result<Value, String> {
    let (Some(left), Some(right)) = (left, right) else { return Err("combines what was never written".into()) };
    Ok(Some(Rc::new(Term::Combined(left.clone(), right.clone()))))
}

/// The memories of one rank.
#[derive(Clone)]
struct Rank {
    memories: BTreeMap<Memory, Vec<Value>>,
}

impl Rank {
    fn new(send: Vec<Value>, receive: Vec<Value>, work: usize) -> Self {
        let memories = [(Memory::Send, send), (Memory::Receive, receive), (Memory::Work, vec![None; work])];
        Self { memories: memories.into() }
    }

    fn read(&self, span: Span) -> Result<Vec<Value>, String> {
        let values = self.memories[&span.memory].get(span.range()).ok_or_else(|| format!("{span} is outside"))?;
        if values.iter().any(Option::is_none) {
            return Err(format!("{span} was never written"));
        }
        Ok(values.to_vec())
    }

    fn write(&mut self, span: Span, values: Vec<Value>) -> Result<(), String> {
        if span.memory == Memory::Send {
            return Err(format!("{span} is not to be written"));
        }
        let memory = self.memories.get_mut(&span.memory).expect("three memories");
        let target = memory.get_mut(span.range()).ok_or_else(|| format!("{span} is outside"))?;
        if target.len() != values.len() {
            return Err(format!("{span} gets {} elements", values.len()));
        }
        target.clone_from_slice(&values);
        Ok(())
    }

    fn combined(&self, other: &[Value], own: Span, side: Side) -> Result<Vec<Value>, String> {
        let own = self.read(own)?;
        let pairs = own.iter().zip(other);
        pairs.map(|(own, other)| if side == Side::Left { combine(other, own) } else { combine(own, other) }).collect()
    }
}

type Wires = BTreeMap<(u32, u32), VecDeque<Vec<Value>>>;

/// Runs one schedule for each rank.
///
/// Sends of a round do not wait: a rank that cannot go on waits for a receive only, as over TCP
/// when both directions are served at once.
fn run(schedules: &[Schedule], ranks: &mut [Rank]) -> Result<(), String> {
    let mut wires = Wires::new();
    let mut places = vec![(0, false); schedules.len()];
    loop {
        let mut moved = false;
        for (me, number) in (0..schedules.len()).zip(0u32..) {
            while let Some(round) = schedules[me].rounds.get(places[me].0) {
                if !places[me].1 {
                    for step in round {
                        if let Step::Send { to, data } = step {
                            let values = ranks[me].read(*data).map_err(|error| format!("rank {me} sends: {error}"))?;
                            wires.entry((number, *to)).or_default().push_back(values);
                        }
                    }
                    places[me].1 = true;
                    moved = true;
                }
                let done = receive(round, number, &mut wires, &mut ranks[me]);
                if !done.map_err(|error| format!("rank {me}, round {}: {error}", places[me].0))? {
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
        return Err(format!("rank {me} waits forever in round {}", places[me].0));
    }
    match wires.into_iter().find(|(_, wire)| !wire.is_empty()) {
        Some(((from, to), _)) => Err(format!("a message from {from} to {to} is never received")),
        None => Ok(()),
    }
}

/// Applies a round's receives if all have arrived, then its local steps.
fn receive(round: &Round, me: u32, wires: &mut Wires, rank: &mut Rank) -> Result<bool, String> {
    let mut wanted: BTreeMap<u32, usize> = BTreeMap::new();
    for (from, _) in round.iter().filter_map(Step::lands) {
        *wanted.entry(from).or_default() += 1;
    }
    if wanted.iter().any(|(from, count)| wires.get(&(*from, me)).map_or(0, VecDeque::len) < *count) {
        return Ok(false);
    }
    let mut arrive = |from: u32| wires.get_mut(&(from, me)).and_then(VecDeque::pop_front).expect("counted above");
    for step in round {
        match *step {
            Step::Send { .. } | Step::Copy { .. } | Step::Combine { .. } => {}
            Step::Receive { from, into } => rank.write(into, arrive(from))?,
            Step::Reduce { from, own, into, side } => {
                if own != into && own.overlaps(&into) {
                    return Err(format!("{own} overlaps {into}"));
                }
                let values = rank.combined(&arrive(from), own, side)?;
                rank.write(into, values)?;
            }
        }
    }
    for step in round {
        match *step {
            Step::Copy { data, into } => {
                if data.overlaps(&into) {
                    return Err(format!("{data} overlaps {into}"));
                }
                rank.write(into, rank.read(data)?)?;
            }
            Step::Combine { other, into, side } => {
                let values = rank.combined(&rank.read(other)?, into, side)?;
                rank.write(into, values)?;
            }
            Step::Send { .. } | Step::Receive { .. } | Step::Reduce { .. } => {}
        }
    }
    Ok(true)
}

/// Elements that a rank contributes and gets.
fn lengths(problem: &Problem) -> (usize, usize) {
    let (one, all) = (problem.count, problem.count * problem.size as usize);
    match problem.collective {
        Collective::Barrier => (0, 0),
        Collective::Broadcast | Collective::Reduce | Collective::Allreduce | Collective::Scan | Collective::Exscan => {
            (one, one)
        }
        Collective::Gather | Collective::Allgather => (one, all),
        Collective::Scatter | Collective::ReduceScatter => (all, one),
        Collective::Alltoall => (all, all),
    }
}

/// Which contributions element `index` of the result of `me` is made of; `None` where no result is due.
fn expected(problem: &Problem, me: u32, index: usize) -> Option<Vec<(u32, usize)>> {
    let count = problem.count;
    let at_root = me == problem.root;
    let all = |index: usize| (0..problem.size).map(|rank| (rank, index)).collect();
    let block = u32::try_from(index / count.max(1)).expect("a rank");
    match problem.collective {
        Collective::Barrier => None,
        Collective::Broadcast => Some(vec![(problem.root, index)]),
        Collective::Reduce => at_root.then(|| all(index)),
        Collective::Allreduce => Some(all(index)),
        Collective::Gather => at_root.then(|| vec![(block, index % count)]),
        Collective::Allgather => Some(vec![(block, index % count)]),
        Collective::Scatter => Some(vec![(problem.root, me as usize * count + index)]),
        Collective::Alltoall => Some(vec![(block, me as usize * count + index % count)]),
        Collective::ReduceScatter => Some(all(me as usize * count + index)),
        Collective::Scan => Some((0..=me).map(|rank| (rank, index)).collect()),
        Collective::Exscan => (me > 0).then(|| (0..me).map(|rank| (rank, index)).collect()),
    }
}

/// The other definition, against which ranks that run are held, was made apart from this one.
#[test]
fn both_definitions_of_each_collective_say_the_same() {
    for collective in Collective::ALL.iter().copied().filter(|collective| *collective != Collective::Barrier) {
        for (size, count) in [(1, 1), (2, 3), (5, 2)] {
            for root in 0..if collective.has_root() { size } else { 1 } {
                let problem = problem(collective, size, root, count, true);
                let (operation, length) = (collective.operation(), |_, _| count);
                let layout = Layout { size, root, length: &length };
                for me in 0..size {
                    for index in 0..layout.buffers(operation, me).1 {
                        let other = operation.origin(&layout, me, index);
                        let other = other.map(|it| it.ranks.map(|rank| (rank, it.index)).collect::<Vec<_>>());
                        assert_eq!(other, expected(&problem, me, index), "{problem:?}: element {index} of rank {me}");
                    }
                }
            }
        }
    }
}

/// Whether a rank may be asked to work in place.
fn may_be_in_place(problem: &Problem, me: u32) -> bool {
    match problem.collective {
        Collective::Barrier | Collective::Broadcast => false,
        Collective::Reduce | Collective::Gather | Collective::Scatter => me == problem.root,
        _ => true,
    }
}

fn memories(problem: &Problem, me: u32, in_place: bool, work: usize) -> Rank {
    let own = |index: usize| own(me, index);
    let (sends, receives) = lengths(problem);
    let mut receive: Vec<Value> = vec![None; receives.max(if in_place { sends } else { 0 })];
    if problem.collective == Collective::Broadcast {
        if me == problem.root {
            receive = (0..receives).map(own).collect();
        }
        return Rank::new(vec![], receive, work);
    }
    if !in_place {
        return Rank::new((0..sends).map(own).collect(), receive, work);
    }
    match problem.collective {
        // The own block lies in its place.
        Collective::Gather | Collective::Allgather => {
            (0..sends).for_each(|index| receive[me as usize * sends + index] = own(index));
        }
        // The root's own block stays where it is.
        Collective::Scatter => return Rank::new((0..sends).map(own).collect(), receive, work),
        _ => (0..sends).for_each(|index| receive[index] = own(index)),
    }
    Rank::new(vec![], receive, work)
}

fn choice(problem: &Problem, algorithm: Algorithm) -> Choice {
    // Segments that do not divide the vector.
    Choice { segment: (problem.count / 3).max(1), ..price(problem, algorithm, &Costs::local(1.0)) }
}

/// Builds the schedules of all ranks, runs them and compares.
fn verify(
    problem: &Problem,
    algorithm: Algorithm,
    in_place: bool,
    altered: impl Fn(u32, &mut Schedule),
) -> Result<(), String> {
    let choice = choice(problem, algorithm);
    let make = |problem: &Problem, me| {
        let mut schedule = build(problem, &choice, me);
        altered(me, &mut schedule);
        schedule
    };
    let ranks = results(problem, in_place, make);
    let ranks = ranks.map_err(|error| format!("{algorithm} {problem:?}, in place {in_place}: {error}"));
    compare(problem, in_place, &ranks?)
}

/// The memories of all ranks after they have run the schedules that `make` gives.
fn results(problem: &Problem, in_place: bool, make: impl Fn(&Problem, u32) -> Schedule) -> Result<Vec<Rank>, String> {
    let is_in_place = |me| in_place && may_be_in_place(problem, me);
    let schedules: Vec<Schedule> =
        (0..problem.size).map(|me| make(&Problem { in_place: is_in_place(me), ..*problem }, me)).collect();
    let memories = |me: u32| memories(problem, me, is_in_place(me), schedules[me as usize].work);
    let mut ranks: Vec<Rank> = (0..problem.size).map(memories).collect();
    run(&schedules, &mut ranks)?;
    Ok(ranks)
}

/// Whether all ranks hold what they should.
fn compare(problem: &Problem, in_place: bool, ranks: &[Rank]) -> Result<(), String> {
    for me in 0..problem.size {
        if problem.collective == Collective::Scatter && in_place && me == problem.root {
            continue;
        }
        for index in 0..lengths(problem).1 {
            let Some(expected) = expected(problem, me, index) else { continue };
            let got = ranks[me as usize].memories[&Memory::Receive][index].clone();
            let mut got = got.map(|value| value.contributions()).unwrap_or_default();
            if problem.commutative {
                got.sort_unstable();
            }
            if got != expected {
                return Err(format!("{problem:?}: rank {me} holds {got:?} at {index}, not {expected:?}"));
            }
        }
    }
    Ok(())
}

fn problem(collective: Collective, size: u32, root: u32, count: usize, commutative: bool) -> Problem {
    Problem { collective, size, root, count, element_bytes: 8, commutative, in_place: false, reproducible: false }
}

/// Every algorithm of every collective.
fn verify_size(size: u32) -> Result<(), String> {
    for collective in Collective::ALL.iter().copied().filter(|collective| *collective != Collective::Barrier) {
        let long = size as usize + 3;
        let (counts, roots): (&[usize], _) = match collective {
            Collective::Gather | Collective::Scatter | Collective::Allgather | Collective::Alltoall => (&[1, 2], size),
            Collective::ReduceScatter => (&[1], 1),
            _ => (&[0, 1, long], size),
        };
        let roots = if collective.has_root() { roots } else { 1 };
        for (root, count) in (0..roots).flat_map(|root| counts.iter().map(move |count| (root, *count))) {
            for commutative in [true, false] {
                let mut problem = problem(collective, size, root, count, commutative);
                if collective == Collective::ReduceScatter {
                    // All candidates need a block each.
                    problem.count = count.max(1);
                }
                for algorithm in &candidates(&problem, &Connections::complete()) {
                    verify(&problem, *algorithm, false, |_, _| ())?;
                    verify(&problem, *algorithm, true, |_, _| ())?;
                }
            }
        }
    }
    verify_barrier(size, barrier_dissemination)?;
    verify_barrier(size, barrier_exchange)?;
    for is_complete in [false, true] {
        verify_barrier(size, |me, size| barrier_of_join(me, size, is_complete))?;
    }
    verify_barrier(size, barrier_tree)
}

/// A barrier moves no elements; give its messages one and combine, then all must have heard all.
fn verify_barrier(size: u32, barrier: impl Fn(u32, u32) -> Schedule) -> Result<(), String> {
    let one = Memory::Receive.at(0..1);
    let schedules: Vec<Schedule> = (0..size)
        .map(|me| {
            let mut schedule = barrier(me, size);
            for step in schedule.rounds.iter_mut().flatten() {
                *step = match *step {
                    Step::Send { to, .. } => Step::Send { to, data: one },
                    Step::Receive { from, .. } => Step::Reduce { from, own: one, into: one, side: Side::Right },
                    other => other,
                };
            }
            schedule
        })
        .collect();
    let mut ranks: Vec<Rank> = (0..size).map(|me| Rank::new(vec![], vec![own(me, 0)], 0)).collect();
    run(&schedules, &mut ranks)?;
    for (me, rank) in ranks.iter().enumerate() {
        let heard = rank.memories[&Memory::Receive][0].as_ref().map(|value| value.contributions()).unwrap_or_default();
        if let Some(other) = (0..size).find(|other| !heard.contains(&(*other, 0))) {
            return Err(format!("rank {me} of {size} leaves before {other} has come"));
        }
    }
    Ok(())
}

#[test]
fn all_schedules_are_right_for_sizes_to_33_and_every_root() {
    for size in 1..=33 {
        verify_size(size).unwrap_or_else(|error| panic!("size {size}: {error}"));
    }
}

#[test]
fn schedules_for_blocks_of_different_lengths_are_right() {
    for size in 1..=17u32 {
        let counts: Vec<usize> = (0..size).map(|rank| (rank as usize * 5 + 2) % 4).collect();
        let offsets = offsets(&counts);
        let total = offsets[size as usize];
        let block = |rank: u32| offsets[rank as usize]..offsets[rank as usize + 1];
        for in_place in [false, true] {
            for ring in [false, true] {
                let make = if ring { allgather_ring } else { allgather_linear };
                let schedules: Vec<Schedule> = (0..size).map(|me| make(me, size, in_place, block)).collect();
                let mut ranks: Vec<Rank> = (0..size)
                    .map(|me| {
                        let own = |index: usize| own(me, index);
                        let (send, mut receive) = ((0..counts[me as usize]).map(own).collect(), vec![None; total]);
                        if in_place {
                            (0..counts[me as usize]).for_each(|index| receive[block(me).start + index] = own(index));
                        }
                        Rank::new(if in_place { vec![] } else { send }, receive, 0)
                    })
                    .collect();
                run(&schedules, &mut ranks).unwrap_or_else(|error| panic!("size {size}: {error}"));
                for rank in &ranks {
                    let got: Vec<_> = rank.memories[&Memory::Receive]
                        .iter()
                        .map(|value| value.as_ref().map(|value| value.contributions()[0]))
                        .collect();
                    let expected: Vec<_> = (0..size)
                        .flat_map(|rank| (0..counts[rank as usize]).map(move |index| Some((rank, index))))
                        .collect();
                    assert_eq!(got, expected);
                }
            }
        }
        let algorithms = [Algorithm::Halving, Algorithm::Pairwise, Algorithm::Ordered];
        for (algorithm, source) in algorithms.into_iter().flat_map(|it| [(it, Memory::Send), (it, Memory::Receive)]) {
            let schedules: Vec<Schedule> =
                (0..size).map(|me| reduce_scatter(algorithm, me, size, &offsets, source)).collect();
            let mut ranks: Vec<Rank> = (0..size)
                .map(|me| {
                    let own: Vec<Value> = (0..total).map(|index| own(me, index)).collect();
                    let work = schedules[me as usize].work;
                    if source == Memory::Send {
                        Rank::new(own, vec![None; counts[me as usize]], work)
                    } else {
                        Rank::new(vec![], own, work)
                    }
                })
                .collect();
            run(&schedules, &mut ranks).unwrap_or_else(|error| panic!("{algorithm} of {size}: {error}"));
            for (me, rank) in (0..size).zip(&ranks) {
                for (got, index) in rank.memories[&Memory::Receive].iter().zip(block(me)) {
                    let mut got = got.as_ref().expect("written").contributions();
                    got.sort_unstable();
                    assert_eq!(got, (0..size).map(|rank| (rank, index)).collect::<Vec<_>>());
                }
            }
        }
    }
}

#[test]
fn every_sparse_schedule_stays_among_the_peers_of_its_rank() {
    for size in 1..=33 {
        for me in 0..size {
            let known = peers(me, size);
            assert!(known.iter().all(|peer| peers(*peer, size).contains(&me)), "symmetric");
            for collective in Collective::ALL {
                let roots = if collective.has_root() { size } else { 1 };
                for (root, commutative) in (0..roots).flat_map(|root| [(root, true), (root, false)]) {
                    let problem = problem(*collective, size, root, 64, commutative);
                    for algorithm in &candidates(&problem, &Connections::of_group(size)) {
                        let schedule = build(&problem, &choice(&problem, *algorithm), me);
                        for peer in schedule.rounds.iter().flatten().filter_map(Step::peer) {
                            assert!(known.contains(&peer), "{algorithm} {problem:?}: rank {me} uses {peer}");
                        }
                    }
                }
            }
        }
    }
    assert_eq!(peers(77, 256).len(), 16, "rank 0 is not among the powers of two of 77");
}

/// The model prices what the schedules do.
#[test]
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn shapes_say_what_the_schedules_do() {
    let mut wrong = Vec::new();
    for size in 1..=33u32 {
        for collective in Collective::ALL {
            for (root, commutative) in [(0, true), (size - 1, true), (size - 1, false)] {
                let root = if collective.has_root() { root } else { 0 };
                let problem = problem(*collective, size, root, 16 * size as usize, commutative);
                for algorithm in &candidates(&problem, &Connections::complete()) {
                    let choice = choice(&problem, *algorithm);
                    let shape = shape(&problem, *algorithm, choice.segment);
                    let schedules: Vec<_> = (0..size).map(|me| build(&problem, &choice, me)).collect();
                    let messages: usize = schedules.iter().map(Schedule::messages).sum();
                    let bytes = 8.0 * schedules.iter().map(Schedule::sent).sum::<usize>() as f64;
                    let rounds = schedules.iter().map(|schedule| schedule.rounds.len()).max().unwrap_or(0) as f64;
                    let most = schedules.iter().map(Schedule::messages).max().unwrap_or(0) as f64;
                    let what = format!("{algorithm} {problem:?}: {shape:?}");
                    let near = |model: f64, real: f64, slack: f64| (model - real).abs() <= slack * real.max(1.0) + 2.0;
                    // Scatter-allgather skips what a rank has; inner nodes of trees at another root cut in two.
                    let slack = if *algorithm == Algorithm::ScatterAllgather { 0.6 } else { 0.1 };
                    let claims = [
                        (near(shape.messages_total, messages as f64, slack), format!("{messages} messages")),
                        (near(shape.bytes_total, bytes, 0.35), format!("{bytes} bytes")),
                        (shape.messages * 1.01 + 1.0 >= most, format!("{most} messages of one rank")),
                        // What a root receives from all is one round in time, whatever it does with it.
                        (
                            *algorithm == Algorithm::Linear || shape.rounds + shape.messages + 3.0 >= rounds / 2.0,
                            format!("{rounds} rounds"),
                        ),
                    ];
                    wrong.extend(
                        claims.into_iter().filter(|(holds, _)| !holds).map(|(_, real)| format!("{what}: {real}")),
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them: {:#?}", wrong.len(), wrong);
}

#[test]
fn the_ring_moves_the_least_possible() {
    for size in [2u32, 3, 8, 24] {
        let count = 240 * size as usize;
        for me in 0..size {
            let sent = allreduce_ring(me, size, count, Memory::Send).sent();
            assert_eq!(sent, 2 * (size as usize - 1) * count / size as usize);
        }
        let halving = allreduce_halving(0, size, count, Memory::Send).sent();
        assert!(halving <= 3 * count, "size {size} sends {halving}");
    }
}

#[test]
fn choices_follow_size_and_length() {
    let (crowded, region) = (Costs::local(8.0), Costs::region());
    let chosen = |collective, size, count, costs| {
        choose(&problem(collective, size, 0, count, true), costs, &Connections::complete()).algorithm
    };
    let allreduce = Collective::Allreduce;
    assert_eq!(chosen(allreduce, 16, 1, &region), Algorithm::RecursiveDoubling);
    assert_eq!(chosen(allreduce, 16, 1, &crowded), Algorithm::Tree);
    assert!(matches!(chosen(allreduce, 16, 1 << 24, &region), Algorithm::Halving | Algorithm::Ring));
    assert_eq!(chosen(allreduce, 24, 1 << 27, &region), Algorithm::Ring);
    assert_eq!(chosen(Collective::Alltoall, 1024, 1, &region), Algorithm::Bruck);
    assert_ne!(chosen(Collective::Alltoall, 64, 1 << 16, &region), Algorithm::Bruck);
    assert!(matches!(chosen(Collective::Broadcast, 256, 1, &region), Algorithm::Binomial | Algorithm::Tree));
    assert_ne!(chosen(Collective::Broadcast, 16, 1 << 21, &region), Algorithm::Binomial);
    assert_eq!(chosen(Collective::Barrier, 16, 0, &region), Algorithm::Dissemination);
    assert_eq!(chosen(Collective::Barrier, 16, 0, &crowded), Algorithm::Tree);
}

#[test]
fn the_verifier_notices_mistakes() {
    let problem = problem(Collective::Allreduce, 4, 0, 1, false);
    let altered = |change: fn(u32, &mut Schedule)| verify(&problem, Algorithm::RecursiveDoubling, false, change);
    assert_eq!(altered(|_, _| ()), Ok(()));
    let missing_round = altered(|_, schedule| drop(schedule.rounds.pop()));
    assert!(missing_round.is_err());
    let swapped = altered(|_, schedule| {
        for step in schedule.rounds.iter_mut().flatten() {
            if let Step::Reduce { side, .. } = step {
                *side = if *side == Side::Left { Side::Right } else { Side::Left };
            }
        }
    });
    assert!(swapped.expect_err("order matters").contains("holds"));
    let deaf = altered(|me, schedule| {
        if me == 3 {
            schedule.rounds.clear();
        }
    });
    assert!(deaf.expect_err("deadlock").contains("waits forever"));
    let unwritten = altered(|_, schedule| {
        for step in schedule.rounds.iter_mut().flatten() {
            if let Step::Send { data, .. } = step {
                data.memory = Memory::Receive;
            }
        }
    });
    assert!(unwritten.expect_err("reads nothing").contains("never written"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn schedules_are_right_for_sampled_sizes_to_1024(size in 34u32..=1024, root in any::<proptest::sample::Index>()) {
        let root = u32::try_from(root.index(size as usize)).expect("below size");
        // Symbolic values grow with the size, so these take one element.
        let few = [
            (Collective::Broadcast, Algorithm::Binomial),
            (Collective::Reduce, Algorithm::Ordered),
            (Collective::Allreduce, Algorithm::RecursiveDoubling),
            (Collective::Gather, Algorithm::Binomial),
            (Collective::Scatter, Algorithm::Binomial),
            (Collective::Scan, Algorithm::RecursiveDoubling),
        ];
        for (collective, algorithm) in few {
            let root = if collective.has_root() { root } else { 0 };
            let problem = problem(collective, size, root, 1, false);
            prop_assert_eq!(verify(&problem, algorithm, false, |_, _| ()), Ok(()));
        }
    }
}
