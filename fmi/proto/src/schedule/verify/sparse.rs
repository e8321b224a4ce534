//! Goal: where connections are missing, every collective still gives what it should, over connections that exist, or
//! the communicator is refused when it is made. Method: the symbolic run of all ranks, on whole groups of every size to
//! 33, and on drawn members of groups in a drawn order.

use super::*;

/// Where elements of each rank lie among all.
fn blocks(offsets: &[usize]) -> impl Fn(u32) -> Range<usize> + Copy + '_ {
    |rank| offsets[rank as usize]..offsets[rank as usize + 1]
}

/// Any collective, with segments that do not divide the vector.
fn verify_on(problem: &Problem, connections: &Connections, in_place: bool) -> Result<(), String> {
    for algorithm in candidates(problem, connections) {
        let choice = choice(problem, algorithm);
        let what = |error: String| format!("{algorithm}, in place {in_place}, on {connections:?}: {error}");
        let make = |problem: &Problem, me| {
            let schedule = build_on(problem, &choice, me, connections);
            assert!(connections.carries(me, &schedule), "{}", what(format!("{problem:?}: rank {me} leaves it")));
            schedule
        };
        if problem.collective == Collective::Barrier {
            verify_barrier(problem.size, |me, _| make(problem, me)).map_err(what)?;
        } else {
            let ranks = results(problem, in_place, make).map_err(what)?;
            compare(problem, in_place, &ranks).map_err(what)?;
        }
    }
    Ok(())
}

fn verify_all_on(connections: &Connections, size: u32, root: u32) -> Result<(), String> {
    for collective in Collective::ALL {
        let root = if collective.has_root() { root } else { 0 };
        for (count, commutative) in [(1, true), (1, false), (size as usize + 1, true), (size as usize + 1, false)] {
            let blocks = matches!(collective, Collective::Alltoall | Collective::ReduceScatter);
            let count = if blocks { count.min(2) } else { count };
            let problem = problem(*collective, size, root, count, commutative);
            verify_on(&problem, connections, false)?;
            verify_on(&problem, connections, true)?;
        }
    }
    Ok(())
}

/// Rank and index of each element that a rank holds.
type Held = Vec<Option<(u32, usize)>>;

/// Runs what `make` gives each rank, which sends and receives so many elements, and says what it then holds.
fn exchange(
    connections: &Connections,
    size: u32,
    sends: impl Fn(u32) -> usize,
    receives: impl Fn(u32) -> usize,
    make: impl Fn(u32) -> Schedule,
) -> Result<Vec<Held>, String> {
    let schedules: Vec<Schedule> = (0..size).map(|me| connections.route(me, size, &make)).collect();
    let mut ranks: Vec<Rank> = Vec::new();
    for (me, schedule) in (0..).zip(&schedules) {
        assert!(connections.carries(me, schedule), "rank {me} leaves {connections:?}");
        let own = (0..sends(me)).map(|index| own(me, index)).collect();
        ranks.push(Rank::new(own, vec![None; receives(me)], schedule.work));
    }
    run(&schedules, &mut ranks)?;
    let held = |rank: &Rank| {
        rank.memories[&Memory::Receive]
            .iter()
            .map(|value| value.as_ref().map(|value| value.contributions()[0]))
            .collect()
    };
    Ok(ranks.iter().map(held).collect())
}

/// Gather, scatter, allgather and all-to-all of blocks of different lengths, some of them empty.
fn verify_blocks_on(connections: &Connections, size: u32, root: u32) -> Result<(), String> {
    let count = |rank: u32| (rank as usize * 5 + 2) % 4;
    let offsets = offsets(&(0..size).map(count).collect::<Vec<_>>());
    let (total, block) = (offsets[size as usize], blocks(&offsets));
    let in_order: Vec<_> = (0..size).flat_map(|rank| (0..count(rank)).map(move |index| Some((rank, index)))).collect();

    let at_root = |me| if me == root { total } else { 0 };
    let gathered =
        exchange(connections, size, count, at_root, |me| gather_linear(me, size, root, count(me), false, block))?;
    assert_eq!(gathered[root as usize], in_order);

    let scattered =
        exchange(connections, size, at_root, count, |me| scatter_linear(me, size, root, count(me), false, block))?;
    for (me, held) in (0..).zip(scattered) {
        assert_eq!(held, block(me).map(|index| Some((root, index))).collect::<Vec<_>>());
    }

    let to_all = exchange(connections, size, count, |_| total, |me| allgather_ring(me, size, false, block))?;
    assert!(to_all.iter().all(|held| *held == in_order));

    let length = |from: u32, to: u32| ((from * 7 + to * 3) % 4) as usize;
    let sends = |me: u32| super::offsets(&(0..size).map(|to| length(me, to)).collect::<Vec<_>>());
    let receives = |me: u32| super::offsets(&(0..size).map(|from| length(from, me)).collect::<Vec<_>>());
    let make = |me| {
        let (sends, receives) = (sends(me), receives(me));
        alltoall_linear(me, size, &Blocks { send: blocks(&sends), receive: blocks(&receives), in_place: None })
    };
    let last = |offsets: Vec<usize>| offsets[size as usize];
    let exchanged = exchange(connections, size, |me| last(sends(me)), |me| last(receives(me)), make)?;
    for (me, held) in (0..).zip(exchanged) {
        let of = |from: u32| blocks(&sends(from))(me).map(move |index| Some((from, index)));
        assert_eq!(held, (0..size).flat_map(of).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn whole_groups_of_every_size_run_everything() {
    for size in 1..=33 {
        let connections = Connections::of_group(size);
        for root in [0, size / 2, size - 1] {
            verify_all_on(&connections, size, root).unwrap_or_else(|error| panic!("size {size}: {error}"));
        }
        verify_blocks_on(&connections, size, size / 2).unwrap_or_else(|error| panic!("size {size}: {error}"));
    }
}

/// Members of a group of `size`, by a bit for each, ordered by `turn`.
fn members(size: u32, chosen: u64, turn: u32) -> Vec<u32> {
    let mut members: Vec<u32> = (0..size).filter(|rank| chosen & (1 << rank) != 0).collect();
    members.sort_by_key(|member| (member * turn) % 67);
    members
}

/// Whether connections between members join them all: a plain closure over pairs.
fn reach_each_other(size: u32, members: &[u32]) -> bool {
    let mut reached = BTreeMap::from([(members[0], ())]);
    for _ in members {
        for member in members {
            if peers(*member, size).iter().any(|peer| reached.contains_key(peer)) {
                reached.insert(*member, ());
            }
        }
    }
    reached.len() == members.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn drawn_members_run_everything_or_are_refused(
        size in 1u32..=40, chosen in 1u64.., fewer: u64, root in any::<proptest::sample::Index>(), turn in 1u32..67,
    ) {
        let members = members(size, if fewer.is_multiple_of(2) { chosen } else { chosen & fewer }, turn);
        prop_assume!(!members.is_empty());
        let number = u32::try_from(members.len()).expect("small");
        let root = u32::try_from(root.index(members.len())).expect("small");
        match Connections::of_members(size, &members) {
            Ok(connections) => {
                prop_assert!(reach_each_other(size, &members));
                prop_assert_eq!(verify_all_on(&connections, number, root), Ok(()));
                prop_assert_eq!(verify_blocks_on(&connections, number, root), Ok(()));
            }
            Err(apart) => {
                prop_assert!(!reach_each_other(size, &members), "{}", apart);
                prop_assert!(apart.one < number && apart.other < number);
            }
        }
    }
}

#[test]
fn a_line_of_ranks_runs_everything() {
    for size in [2, 3, 7, 10] {
        let line = Connections::new(size, |one, other| one.abs_diff(other) == 1).expect("joined");
        for root in [0, size / 2, size - 1] {
            verify_all_on(&line, size, root).unwrap_or_else(|error| panic!("size {size}: {error}"));
            verify_blocks_on(&line, size, root).unwrap_or_else(|error| panic!("size {size}: {error}"));
        }
    }
}

#[test]
fn members_without_a_way_are_refused() {
    // 3 and 6 are neither a power of two apart nor partners.
    assert_eq!(Connections::of_members(33, &[3, 6]), Err(Apart { one: 0, other: 1 }));
    assert_eq!(Connections::of_members(33, &[3, 6, 0]).map(|connections| connections.is_complete()), Ok(false));
    assert_eq!(Connections::of_members(33, &[4, 5]).map(|connections| connections.is_complete()), Ok(true));
}

#[test]
fn the_hub_carries_no_more_than_its_share_where_others_can() {
    let (size, connections) = (64, Connections::of_group(64));
    let schedule = |me| {
        let block = |rank: u32| rank as usize..rank as usize + 1;
        connections
            .route(me, size, |me| alltoall_linear(me, size, &Blocks { send: block, receive: block, in_place: None }))
    };
    let (hub, other) = (schedule(0).messages(), schedule(13).messages());
    assert!(hub <= 2 * other, "rank 0 sends {hub} messages, rank 13 {other}");
}

/// Routing works out what the others do, and does not know which of them work in place.
#[test]
fn transfers_are_the_same_in_place() {
    let transfers = |schedule: Schedule| -> Vec<Vec<(u32, bool, usize)>> {
        let of = |step: &Step| match step {
            Step::Send { to, data } => Some((*to, true, data.len())),
            Step::Receive { from, into } | Step::Reduce { from, into, .. } => Some((*from, false, into.len())),
            Step::Copy { .. } | Step::Combine { .. } => None,
        };
        let rounds = schedule.rounds.iter().map(|round| round.iter().filter_map(of).collect::<Vec<_>>());
        rounds.filter(|round| !round.is_empty()).collect()
    };
    for (size, collective) in (1..=33).flat_map(|size| Collective::ALL.iter().map(move |it| (size, *it))) {
        for (root, commutative) in [(0, true), (size - 1, false)] {
            let root = if collective.has_root() { root } else { 0 };
            let problem = problem(collective, size, root, 2 * size as usize, commutative);
            for algorithm in candidates(&problem, &Connections::complete()) {
                for me in (0..size).filter(|me| may_be_in_place(&problem, *me)) {
                    let make = |in_place| build(&Problem { in_place, ..problem }, &choice(&problem, algorithm), me);
                    assert_eq!(transfers(make(false)), transfers(make(true)), "{algorithm} {problem:?}, rank {me}");
                }
            }
        }
    }
}
