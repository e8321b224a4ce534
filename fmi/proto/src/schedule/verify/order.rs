//! Goal: the bits of a result are what the docs say. Method: the symbolic run keeps how each element came about, so two
//! results have the same bits if their terms are equal, whatever the numbers and the operator.

use super::*;

pub(super) const REDUCTIONS: [Collective; 5] =
    [Collective::Reduce, Collective::Allreduce, Collective::ReduceScatter, Collective::Scan, Collective::Exscan];

/// The terms of the result of each rank that gets one, in the order of its elements.
fn terms(problem: &Problem, choice: &Choice, in_place: bool, connections: &Connections) -> Vec<(u32, Vec<Value>)> {
    let make = |problem: &Problem, me| build_on(problem, choice, me, connections);
    let ranks = results(problem, in_place, make).unwrap_or_else(|error| panic!("{problem:?}: {error}"));
    let length = lengths(problem).1;
    let gets = |me: &u32| match problem.collective {
        Collective::Reduce => *me == problem.root,
        Collective::Exscan => *me > 0,
        _ => true,
    };
    let of = |me: u32| (me, ranks[me as usize].memories[&Memory::Receive][..length].to_vec());
    (0..problem.size).filter(gets).map(of).collect()
}

/// The order of the docs, for the elements with `index` of all ranks.
fn balanced(size: u32, index: usize) -> Value {
    let surplus = size - (1 << size.ilog2());
    let one = |rank| Rc::new(Term::Own(rank, index));
    let pair = |rank| Rc::new(Term::Combined(one(rank), one(rank + 1)));
    let mut terms: Vec<Rc<Term>> =
        (0..surplus).map(|number| pair(2 * number)).chain((2 * surplus..size).map(one)).collect();
    while terms.len() > 1 {
        terms = terms.chunks(2).map(|two| Rc::new(Term::Combined(two[0].clone(), two[1].clone()))).collect();
    }
    terms.pop()
}

/// Recursive doubling of a scan: what `distance` ranks up to each hold doubles, up to rank `me`.
fn doubled(lowest: u32, me: u32, index: usize) -> Value {
    let mut terms: Vec<Rc<Term>> = (lowest..=me).map(|rank| Rc::new(Term::Own(rank, index))).collect();
    let mut distance = 1;
    while distance < terms.len() {
        let at = |rank: usize| match rank.checked_sub(distance) {
            Some(lower) => Rc::new(Term::Combined(terms[lower].clone(), terms[rank].clone())),
            None => terms[rank].clone(),
        };
        terms = (0..terms.len()).map(at).collect();
        distance *= 2;
    }
    terms.pop()
}

fn documented(problem: &Problem, me: u32, index: usize) -> Value {
    match problem.collective {
        Collective::ReduceScatter => balanced(problem.size, me as usize * problem.count + index),
        Collective::Scan => doubled(0, me, index),
        Collective::Exscan => doubled(0, me - 1, index),
        _ => balanced(problem.size, index),
    }
}

fn is_documented(problem: &Problem, choice: &Choice, in_place: bool, connections: &Connections) {
    for (me, terms) in terms(problem, choice, in_place, connections) {
        for (index, term) in terms.iter().enumerate() {
            let documented = documented(problem, me, index);
            assert_eq!(*term, documented, "{choice:?} {problem:?}, in place {in_place}: element {index} of rank {me}");
        }
    }
}

/// Whatever is chosen, by any network or by the caller, for any count and segment.
#[test]
fn the_order_of_a_reproducible_result_depends_on_the_size_alone() {
    for (size, collective) in (1..=33u32).flat_map(|size| REDUCTIONS.map(|collective| (size, collective))) {
        let networks = [Connections::complete(), Connections::of_group(size)];
        let long = size as usize + 3;
        let counts: &[usize] = if collective == Collective::ReduceScatter { &[1, 2] } else { &[1, 2, long] };
        let roots: &[u32] = if collective.has_root() { &[0, size / 2, size - 1] } else { &[0] };
        for (count, root) in counts.iter().flat_map(|count| roots.iter().map(move |root| (*count, *root))) {
            for (commutative, connections) in networks.iter().flat_map(|it| [(true, it), (false, it)]) {
                let problem = Problem { reproducible: true, ..problem(collective, size, root, count, commutative) };
                for algorithm in candidates(&problem, connections) {
                    for segment in [1, 2, usize::MAX] {
                        let choice = Choice { segment, ..choice(&problem, algorithm) };
                        is_documented(&problem, &choice, segment == 2, connections);
                    }
                }
            }
        }
    }
}

#[test]
fn members_of_sparse_groups_combine_in_that_order_too() {
    for members in [&[5u32, 0, 9, 3, 12, 21, 30][..], &[0, 31, 7], &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11]] {
        let connections = Connections::of_members(33, members).expect("joined");
        let size = u32::try_from(members.len()).expect("small");
        for (collective, commutative) in REDUCTIONS.into_iter().flat_map(|it| [(it, true), (it, false)]) {
            let problem = Problem { reproducible: true, ..problem(collective, size, 0, 2, commutative) };
            for algorithm in candidates(&problem, &connections) {
                is_documented(&problem, &choice(&problem, algorithm), false, &connections);
            }
        }
    }
}

/// Also without the option: no algorithm gives two ranks different bits for one element, or another run other ones.
#[test]
fn all_ranks_get_the_same_bits_from_every_algorithm() {
    for size in 1..=33u32 {
        for (count, commutative) in [(1, true), (1, false), (size as usize + 3, true), (size as usize + 3, false)] {
            let problem = problem(Collective::Allreduce, size, 0, count, commutative);
            for algorithm in candidates(&problem, &Connections::complete()) {
                for in_place in [false, true] {
                    let terms = terms(&problem, &choice(&problem, algorithm), in_place, &Connections::complete());
                    for (me, theirs) in &terms {
                        assert_eq!(*theirs, terms[0].1, "{algorithm} {problem:?}: rank {me} and rank 0");
                    }
                }
            }
        }
    }
}

/// Without it, the order may depend on the count: the option is there for a reason.
#[test]
fn a_ring_combines_in_another_order() {
    let problem = problem(Collective::Allreduce, 4, 0, 8, true);
    let choice = choice(&problem, Algorithm::Ring);
    let (_, terms) = terms(&problem, &choice, false, &Connections::complete()).swap_remove(0);
    assert!((0..8).any(|index| terms[index] != balanced(4, index)));
    let strict = Problem { reproducible: true, ..problem };
    assert!(!candidates(&strict, &Connections::complete()).contains(&Algorithm::Ring));
    let choice = chosen(&strict, Some(Algorithm::Ring), &Costs::region(), &Connections::complete());
    assert_ne!(choice.algorithm, Algorithm::Ring);
}
