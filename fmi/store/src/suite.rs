//! What every store must do, as tests that every store must pass: [`CASES`]. Each panics if it does not.
//!
//! Nothing here looks at how long anything takes. Where a case waits for what time brings, it asks until it is there.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use fmi_net::{BoxFuture, Clock};
use futures_util::future::{join, join_all};

use crate::{Cause, Name, Placed, Put, Request, Scope, Shelf, Spent, Store};

/// A pause that lets a net do what it has to do.
const MOMENT: Duration = Duration::from_micros(100);
/// Longer than any case takes.
const LONG: Duration = Duration::from_secs(600);
/// Futures are dropped after so many polls, from none on.
const POLLS: std::ops::Range<usize> = 0..8;

/// What a case works on.
#[derive(Clone)]
pub struct Bench {
    first: Arc<dyn Store>,
    second: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    number: u64,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("first", &self.first).field("number", &self.number).finish_non_exhaustive()
    }
}

/// A case.
pub type Case = fn(Bench) -> BoxFuture<()>;

macro_rules! cases {
    ($($name:ident,)+) => {
        /// All cases, with their names.
        pub const CASES: &[(&str, Case)] = &[$((stringify!($name), |bench| Box::pin($name(bench)))),+];
    };
}

cases! {
    bodies_of_any_length_and_bytes_come_back,
    parts_are_cut_off_at_the_end,
    what_is_not_there_is_not_found,
    of_many_writers_one_is_the_first,
    bodies_expire,
    a_wait_ends_when_the_body_comes,
    a_wait_reads_all_that_are_there_in_order,
    a_wait_finds_the_one_of_many,
    bells_for_nothing_end_no_wait,
    two_waits_on_a_shelf_both_end,
    a_dropped_wait_loses_nothing,
    a_dropped_put_is_harmless,
    dropped_requests_hold_up_no_others,
    counters_count_each_once,
    deleting_takes_what_is_named_and_no_more,
    sweeping_knows_scope_and_age,
    what_is_too_long_is_refused,
    a_scope_holds_more_than_a_page_of_names,
    requests_and_bytes_are_counted,
}

impl Bench {
    /// A bench of two ways to one store, which may be the same one. What was written under the same `number` is in the way, so
    /// each case has one of its own.
    pub fn new(first: Arc<dyn Store>, second: Arc<dyn Store>, clock: Arc<dyn Clock>, number: u64) -> Self {
        Self { first, second, clock, number }
    }

    fn scope(&self, lane: u32) -> Scope {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..].copy_from_slice(&lane.to_be_bytes());
        Scope(bytes)
    }

    fn shelf(&self, number: u64) -> Shelf {
        Shelf { scope: self.scope(0), number }
    }

    fn name(&self, id: u128) -> Name {
        Name { shelf: self.shelf(0), id: id.to_be_bytes() }
    }

    fn answer(&self, id: u128) -> Name {
        Name { shelf: self.shelf(1), ..self.name(id) }
    }

    async fn put(&self, name: Name, body: impl Into<Bytes>) {
        let put = Put::new(name, body, LONG).ringing([name.shelf]);
        assert_eq!(self.second.clone().put(put).await.expect("it is written"), Placed::Written);
    }

    async fn get(&self, name: Name) -> Option<Bytes> {
        self.first.clone().get(name, None).await.expect("it is read")
    }

    async fn wait(&self, names: &[Name]) -> Vec<(usize, Bytes)> {
        let shelf = names.first().expect("there is one").shelf;
        self.first.clone().wait(shelf, names.to_vec()).await.expect("it ends well")
    }

    async fn moment(&self) {
        self.clock.sleep_until(self.clock.now() + MOMENT).await;
    }

    /// Polls so often, a moment after each other, and drops what has not completed then.
    async fn polled<T>(&self, mut future: BoxFuture<T>, polls: usize) -> Option<T> {
        for _ in 0..polls {
            if let Poll::Ready(it) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
                return Some(it);
            }
            self.moment().await;
        }
        None
    }
}

/// Bytes of all values, none like the next.
fn body(seed: usize, length: usize) -> Bytes {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)).wrapping_mul(31).wrapping_add(seed).to_le_bytes()[0]).collect()
}

async fn bodies_of_any_length_and_bytes_come_back(bench: Bench) {
    for (at, length) in [0, 1, 3, 256, 65_535, 65_536, (1 << 20) + 1, 16 << 20].into_iter().enumerate() {
        let (name, body) = (bench.name(at as u128), body(at, length));
        bench.put(name, body.clone()).await;
        assert!(bench.get(name).await.as_ref() == Some(&body), "{length} bytes are the same");
        // A name is written once, and may be written again.
        bench.put(name, body.clone()).await;
        assert!(bench.get(name).await == Some(body), "{length} bytes are still the same");
    }
    // What texts end with, and what protocols are made of.
    for (at, text) in [&b"\r\n"[..], b"$-1\r\n", b"\0", b"\xff\xfe", b"<xml>&"].into_iter().enumerate() {
        let name = bench.name(100 + at as u128);
        bench.put(name, text).await;
        assert_eq!(bench.get(name).await.as_deref(), Some(text));
    }
}

async fn parts_are_cut_off_at_the_end(bench: Bench) {
    let (long, empty) = (body(1, 1_000), Bytes::new());
    let [of_long, of_empty, of_none] = [0, 1, 2].map(|id| bench.name(id));
    bench.put(of_long, long.clone()).await;
    bench.put(of_empty, empty.clone()).await;
    let part = |name, range| bench.first.clone().get(name, Some(range));
    for (range, there) in
        [(0..1, 0..1), (0..1_000, 0..1_000), (990..2_000, 990..1_000), (10..u64::MAX, 10..1_000), (5..5, 0..0)]
    {
        let got = part(of_long, range.clone()).await.expect("it is read");
        assert_eq!(got, Some(long.slice(there)), "{range:?}");
    }
    for range in [1_000..1_001, 5_000..6_000, u64::MAX - 1..u64::MAX] {
        assert_eq!(part(of_long, range.clone()).await, Ok(Some(empty.clone())), "{range:?}");
    }
    for range in [0..0, 0..10, 7..8] {
        assert_eq!(part(of_empty, range.clone()).await, Ok(Some(empty.clone())), "{range:?} of nothing");
        assert_eq!(part(of_none, range.clone()).await, Ok(None), "{range:?} of what is not there");
    }
}

async fn what_is_not_there_is_not_found(bench: Bench) {
    assert_eq!(bench.get(bench.name(0)).await, None);
    bench.put(bench.name(0), "here").await;
    for name in [
        bench.name(1),
        Name { shelf: bench.shelf(1), ..bench.name(0) },
        Name { shelf: Shelf { scope: bench.scope(1), number: 0 }, ..bench.name(0) },
    ] {
        assert_eq!(bench.get(name).await, None, "{name}");
    }
    assert_eq!(bench.get(bench.name(0)).await.as_deref(), Some(&b"here"[..]));
}

async fn of_many_writers_one_is_the_first(bench: Bench) {
    assert!(bench.first.traits().has_if_absent, "a store has it");
    for round in 0..4 {
        let name = bench.name(round);
        let writers = (0..16).map(|writer: usize| {
            let store = if writer.is_multiple_of(2) { &bench.first } else { &bench.second };
            store.clone().put(Put::new(name, body(writer, 100), LONG).only_if_absent())
        });
        let placed = join_all(writers).await;
        let won: Vec<_> = (0..16).filter(|writer| placed[*writer] == Ok(Placed::Written)).collect();
        let [winner] = won[..] else { panic!("one wins: {placed:?}") };
        for (writer, placed) in placed.into_iter().enumerate() {
            let told = if writer == winner { Placed::Written } else { Placed::Occupied(body(winner, 100)) };
            assert_eq!(placed, Ok(told), "{writer}, where {winner} won");
        }
        assert_eq!(bench.get(name).await, Some(body(winner, 100)));
        // The winner does not know that it has won, and tries again.
        let again = bench.first.clone().put(Put::new(name, body(winner, 100), LONG).only_if_absent());
        assert_eq!(again.await, Ok(Placed::Written));
    }
}

async fn bodies_expire(bench: Bench) {
    let (short, long) = (bench.name(0), bench.name(1));
    bench.put(long, "long").await;
    if !bench.first.traits().expires {
        return;
    }
    for (name, is_first) in [(short, false), (short, true)] {
        let put = Put::new(name, "short", Duration::from_millis(20));
        let put = if is_first { put.only_if_absent() } else { put };
        assert_eq!(bench.first.clone().put(put).await, Ok(Placed::Written));
        while bench.get(name).await.is_some() {
            bench.clock.sleep_until(bench.clock.now() + Duration::from_millis(5)).await;
        }
    }
    // What is over is in nobody's way.
    let put = Put::new(short, "another", LONG).only_if_absent();
    assert_eq!(bench.first.clone().put(put).await, Ok(Placed::Written));
    assert_eq!(bench.get(short).await.as_deref(), Some(&b"another"[..]));
    assert_eq!(bench.get(long).await.as_deref(), Some(&b"long"[..]));
}

async fn a_wait_ends_when_the_body_comes(bench: Bench) {
    for id in 0..20 {
        let name = bench.name(id);
        let expected = vec![(0, body(7, 1_000))];
        if id % 2 == 0 {
            bench.put(name, body(7, 1_000)).await;
            assert_eq!(bench.wait(&[name]).await, expected, "it was there");
            continue;
        }
        let later = async {
            bench.moment().await;
            bench.put(name, body(7, 1_000)).await;
        };
        assert_eq!(join(bench.wait(&[name]), later).await.0, expected, "it came");
    }
}

async fn a_wait_reads_all_that_are_there_in_order(bench: Bench) {
    for id in [3, 1] {
        bench.put(bench.name(id as u128), body(id, 10)).await;
    }
    let names: Vec<_> = (0..5).map(|id| bench.name(id)).collect();
    let expected = [1, 3].map(|at| (at, body(at, 10)));
    assert_eq!(bench.wait(&names).await, expected);
    // Nothing is taken by that.
    assert_eq!(bench.wait(&names).await, expected);
}

async fn a_wait_finds_the_one_of_many(bench: Bench) {
    let names: Vec<_> = (0..100).map(|id| bench.name(id)).collect();
    let later = async {
        bench.moment().await;
        bench.put(names[61], "it").await;
    };
    assert_eq!(join(bench.wait(&names), later).await.0, [(61, "it".into())]);
}

async fn bells_for_nothing_end_no_wait(bench: Bench) {
    let name = bench.name(0);
    let later = async {
        for id in 1..4 {
            bench.first.clone().ring(vec![bench.shelf(0)]).await.expect("it rings");
            bench.second.clone().ring(vec![bench.shelf(1), bench.shelf(0)]).await.expect("it rings");
            // For somebody else.
            bench.put(bench.name(id), "else").await;
            bench.moment().await;
        }
        bench.put(name, "it").await;
    };
    assert_eq!(join(bench.wait(&[name]), later).await.0, [(0, "it".into())]);
}

async fn two_waits_on_a_shelf_both_end(bench: Bench) {
    for round in 0..4 {
        let names = [0, 1].map(|id| bench.name(2 * round + id));
        let later = async {
            for name in names {
                bench.moment().await;
                bench.put(name, "it").await;
            }
        };
        let waits = join(bench.wait(&names[..1]), bench.wait(&names[1..]));
        let both = [(0, Bytes::from("it"))];
        assert_eq!(join(waits, later).await.0, (both.to_vec(), both.to_vec()));
    }
}

async fn a_dropped_wait_loses_nothing(bench: Bench) {
    let mut id = 0;
    for (before, after) in POLLS.flat_map(|before| [0, 1, 4].map(|after| (before, after))) {
        id += 1;
        let name = bench.name(id);
        let mut waiting = bench.first.clone().wait(name.shelf, vec![name]);
        for _ in 0..before {
            let polled = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
            assert!(polled.is_pending(), "nothing is there: {polled:?}");
            bench.moment().await;
        }
        bench.put(name, body(before, 50)).await;
        drop(bench.polled(waiting, after).await);
        assert_eq!(bench.wait(&[name]).await, [(0, body(before, 50))], "dropped after {before} and {after} polls");
    }
}

async fn a_dropped_put_is_harmless(bench: Bench) {
    for polls in POLLS {
        for (at, length) in [10, 3 << 20].into_iter().enumerate() {
            let name = bench.name((2 * polls + at) as u128);
            let put = Put::new(name, body(polls, length), LONG).ringing([name.shelf]);
            drop(bench.polled(bench.first.clone().put(put.clone()), polls).await);
            let there = bench.second.clone().get(name, None).await.expect("it is read");
            assert!(there.is_none_or(|there| there == body(polls, length)), "whole or not at all");
            assert_eq!(bench.first.clone().put(put).await, Ok(Placed::Written));
            assert!(bench.second.clone().get(name, None).await == Ok(Some(body(polls, length))), "{length} bytes");
            // And nothing that was left unfinished is in the way of anything else.
            assert_eq!(bench.get(bench.name(1_000)).await, None);
        }
    }
}

async fn dropped_requests_hold_up_no_others(bench: Bench) {
    let name = bench.name(0);
    bench.put(name, body(0, 100_000)).await;
    for polls in POLLS {
        let requests = (0..16).map(|request| {
            let (get, bench) = (bench.first.clone().get(name, None), bench.clone());
            async move {
                if request % 2 == 0 {
                    drop(bench.polled(get, polls).await);
                } else {
                    assert!(get.await == Ok(Some(body(0, 100_000))), "request {request}");
                }
            }
        });
        join_all(requests).await;
    }
}

async fn counters_count_each_once(bench: Bench) {
    let count = |store: &Arc<dyn Store>, add| store.clone().count(bench.name(0), add, LONG);
    if !bench.first.traits().has_counters {
        let error = count(&bench.first, 1).await.expect_err("it has none");
        assert!(matches!(error.cause, Cause::Unsupported(_)), "{error}");
        return;
    }
    let adds = (0..32).map(|at| count(if at % 2 == 0 { &bench.first } else { &bench.second }, 1));
    let mut sums: Vec<_> = join_all(adds).await.into_iter().map(|sum| sum.expect("it counts")).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=32).collect::<Vec<_>>());
    assert_eq!(count(&bench.second, 0).await, Ok(32));
    assert_eq!(count(&bench.first, 1_000_000).await, Ok(1_000_032));
    // A counter is no body.
    assert_eq!(bench.get(bench.name(0)).await, None);
}

async fn deleting_takes_what_is_named_and_no_more(bench: Bench) {
    for id in 0..4 {
        bench.put(bench.name(id), "body").await;
    }
    let gone = [0, 2, 9].map(|id| bench.name(id));
    bench.first.clone().delete(gone.to_vec()).await.expect("they are deleted, or were not there");
    bench.first.clone().delete(Vec::new()).await.expect("nothing is deleted");
    for (id, is_there) in [(0, false), (1, true), (2, false), (3, true)] {
        assert_eq!(bench.get(bench.name(id)).await.is_some(), is_there, "{id}");
    }
}

async fn sweeping_knows_scope_and_age(bench: Bench) {
    let name = |lane, id: u128| Name { shelf: Shelf { scope: bench.scope(lane), number: 7 }, id: id.to_be_bytes() };
    for (lane, id) in [(0, 0), (0, 1), (1, 0)] {
        bench.put(name(lane, id), "body").await;
    }
    let sweep = |lane, age| bench.first.clone().sweep(Some(bench.scope(lane)), age);
    assert_eq!(sweep(0, Duration::from_secs(3_600)).await, Ok(0), "none is so old");
    assert_eq!(sweep(2, Duration::ZERO).await, Ok(0), "none is there");
    assert_eq!(sweep(0, Duration::ZERO).await, Ok(2));
    for (lane, id, is_there) in [(0, 0, false), (0, 1, false), (1, 0, true)] {
        assert_eq!(bench.get(name(lane, id)).await.is_some(), is_there, "{lane}, {id}");
    }
    // The scope is as it was before.
    bench.put(name(0, 2), "body").await;
    assert_eq!(bench.get(name(0, 2)).await.as_deref(), Some(&b"body"[..]));
}

async fn what_is_too_long_is_refused(bench: Bench) {
    let max = bench.first.traits().body_bytes_max;
    let bytes = max + 1;
    let Ok(length) = usize::try_from(bytes) else { return };
    let refused = bench.first.clone().put(Put::new(bench.name(0), vec![0; length], LONG)).await;
    assert_eq!(refused.expect_err("it is too long").cause, Cause::TooLarge { bytes, max });
    assert_eq!(bench.get(bench.name(0)).await, None);
}

async fn a_scope_holds_more_than_a_page_of_names(bench: Bench) {
    const NAMES: usize = 1_100;
    let names: Vec<_> = (0..NAMES).map(|id| bench.name(id as u128)).collect();
    for names in names.chunks(50) {
        join_all(names.iter().map(|name| bench.put(*name, name.id.to_vec()))).await;
    }
    let last = names.last().expect("there are many");
    assert_eq!(bench.get(*last).await.as_deref(), Some(&last.id[..]));
    let (few, rest) = names.split_at(20);
    bench.first.clone().delete(few.to_vec()).await.expect("they are deleted");
    assert_eq!(bench.first.clone().sweep(Some(bench.scope(0)), Duration::ZERO).await, Ok(rest.len() as u64));
    assert_eq!(bench.get(*last).await, None);
    bench.first.clone().delete(names).await.expect("so many may be deleted that are not there");
}

async fn requests_and_bytes_are_counted(bench: Bench) {
    let store = &bench.first;
    let (has_bells, has_counters) = (store.traits().patience.is_none(), store.traits().has_counters);
    let before = store.ledger().spent();
    let names: Vec<_> = (0..6).map(|id| bench.name(id)).collect();
    for (name, length) in names.iter().zip([10, 0, 1_000]) {
        let put = Put::new(*name, body(0, length), LONG).ringing([name.shelf]);
        assert_eq!(store.clone().put(put).await, Ok(Placed::Written));
    }
    for (name, range) in [(0, None), (1, None), (2, Some(990..1_010)), (3, None), (4, Some(0..1))] {
        store.clone().get(names[name], range).await.expect("it is read");
    }
    store.clone().ring(vec![bench.shelf(0)]).await.expect("it rings");
    let counted = store.clone().count(names[0], 1, LONG).await;
    assert_eq!(counted.is_ok(), has_counters);
    store.clone().delete(vec![names[5]]).await.expect("it is deleted");
    let spent = store.ledger().spent();
    let more = |of: &dyn Fn(Spent) -> u64| of(spent) - of(before);
    for (request, expected) in [
        (Request::Connect, 0),
        (Request::Put, 3),
        (Request::Get, 3),
        (Request::Miss, 2),
        (Request::Wait, 0),
        (Request::Ring, u64::from(has_bells)),
        (Request::Count, u64::from(has_counters)),
        (Request::Delete, 1),
        (Request::List, 0),
    ] {
        assert_eq!(more(&|spent| spent.of(request)), expected, "{request}");
    }
    assert_eq!((more(&|it| it.bytes_up), more(&|it| it.bytes_down)), (1_010, 20));

    bench.wait(&names[2..3]).await;
    let waited = store.ledger().spent();
    assert_eq!(waited.bytes_down - spent.bytes_down, 1_000);
    let kind = if has_bells { Request::Wait } else { Request::Get };
    assert_eq!(waited.of(kind) - spent.of(kind), 1, "{kind}");
}

/// What another process does in [`two_processes`].
pub async fn other_process(bench: Bench) {
    for round in 0..ROUNDS {
        let [(_, asked)] = &bench.wait(&[bench.name(round)]).await[..] else { panic!("one is there") };
        let answer: Bytes = asked.iter().rev().copied().collect();
        bench.put(bench.answer(round), answer).await;
    }
    let contended = Put::new(bench.name(1_000), "other", LONG).only_if_absent();
    drop(bench.first.clone().put(contended).await.expect("it is written or not"));
}

/// Rounds of asking another process.
const ROUNDS: u128 = 20;

/// Asks another process, which is in [`other_process`] with a bench of the same number. Each reads from a shelf of its own.
pub async fn two_processes(bench: Bench) {
    for (seed, round) in (0..ROUNDS).enumerate() {
        let asked = body(seed, 10_000);
        bench.put(bench.name(round), asked.clone()).await;
        let [(_, answer)] = &bench.wait(&[bench.answer(round)]).await[..] else { panic!("one is there") };
        assert!(asked.iter().rev().eq(answer), "round {round}");
    }
    let contended = Put::new(bench.name(1_000), "this", LONG).only_if_absent();
    let there = match bench.first.clone().put(contended).await.expect("it is written or not") {
        Placed::Written => Bytes::from("this"),
        Placed::Occupied(there) => there,
    };
    assert_eq!(bench.get(bench.name(1_000)).await, Some(there));
}
