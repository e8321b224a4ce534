//! Goal: groups whose frames lie in a store work, leave nothing behind, and believe nothing that the store makes up. Method: ranks of one
//! process over a store in memory, which is asked through a layer that delays, swaps, changes, repeats and keeps back.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use fmi::store::{BoxFuture, Ledger, MemoryStore, Name, Placed, Put, Request, Result, Scope, Shelf, Store, Traits};
use fmi::{Communicator, Config, ErrorKind, RealNet, op};

const KEY: &[u8] = b"a key of 16 bytes";

/// What a store does to bodies that it hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Malice {
    None,
    /// Every request takes some polls.
    Slow,
    /// A bit of each body is changed.
    Changes,
    /// Bodies lack their last byte.
    Cuts,
    /// Each name has the body of the one that was written before it.
    Swaps,
    /// From some time on, nothing is handed out.
    KeepsBack,
}

#[derive(Debug)]
struct Layer {
    below: Arc<MemoryStore>,
    malice: Malice,
    /// Parts of messages, in the order in which they were written.
    written: Mutex<Vec<Name>>,
    bodies: Mutex<BTreeMap<Name, bytes::Bytes>>,
}

impl Layer {
    fn new(malice: Malice, part_bytes: usize) -> Arc<Self> {
        let below = Arc::new(MemoryStore::new(RealNet::new()).with_part_bytes(part_bytes));
        Arc::new(Self { below, malice, written: Mutex::default(), bodies: Mutex::default() })
    }

    /// Seats, signs of life and decisions are short, or lie here while the group meets; what is long is a message.
    fn is_message(body: &[u8]) -> bool {
        body.len() > 500
    }

    fn pass(&self, name: Name, body: bytes::Bytes) -> bytes::Bytes {
        if !Self::is_message(&body) {
            return body;
        }
        let mut bytes = body.to_vec();
        match self.malice {
            Malice::Changes => bytes[40] ^= 4,
            Malice::Cuts => drop(bytes.pop()),
            Malice::Swaps => {
                let written = self.written.lock().expect("no panic");
                let at = written.iter().position(|it| *it == name).expect("it was written");
                let other = written[at.checked_sub(1).unwrap_or(written.len() - 1)];
                return self.bodies.lock().expect("no panic")[&other].clone();
            }
            Malice::None | Malice::Slow | Malice::KeepsBack => {}
        }
        bytes.into()
    }
}

/// A future that is pending some times before it begins.
struct Later<T> {
    polls: u32,
    future: BoxFuture<T>,
}

impl<T> Future for Later<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if self.polls > 0 {
            self.polls -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.future.as_mut().poll(cx)
    }
}

impl Layer {
    fn later<T: 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> BoxFuture<T> {
        let polls = if self.malice == Malice::Slow { 3 } else { 0 };
        Box::pin(Later { polls, future: Box::pin(future) })
    }
}

impl Store for Layer {
    fn traits(&self) -> &Traits {
        self.below.traits()
    }

    fn ledger(&self) -> &Ledger {
        self.below.ledger()
    }

    fn put(self: Arc<Self>, put: Put) -> BoxFuture<Result<Placed>> {
        if Self::is_message(&put.body) {
            self.written.lock().expect("no panic").push(put.name);
            self.bodies.lock().expect("no panic").insert(put.name, put.body.clone());
        }
        let below = self.below.clone();
        self.later(async move { below.put(put).await })
    }

    fn get(self: Arc<Self>, name: Name, range: Option<Range<u64>>) -> BoxFuture<Result<Option<bytes::Bytes>>> {
        let below = self.below.clone();
        self.later(async move { below.get(name, range).await })
    }

    fn wait(self: Arc<Self>, shelf: Shelf, names: Vec<Name>) -> BoxFuture<Result<Vec<(usize, bytes::Bytes)>>> {
        let (below, layer) = (self.below.clone(), self.clone());
        self.later(async move {
            let found = below.wait(shelf, names.clone()).await?;
            if layer.malice == Malice::KeepsBack && found.iter().any(|(_, body)| Self::is_message(body)) {
                return std::future::pending().await;
            }
            Ok(found.into_iter().map(|(at, body)| (at, layer.pass(names[at], body))).collect())
        })
    }

    fn ring(self: Arc<Self>, shelves: Vec<Shelf>) -> BoxFuture<Result<()>> {
        self.below.clone().ring(shelves)
    }

    fn count(self: Arc<Self>, name: Name, add: u64, time_to_live: Duration) -> BoxFuture<Result<u64>> {
        self.below.clone().count(name, add, time_to_live)
    }

    fn delete(self: Arc<Self>, names: Vec<Name>) -> BoxFuture<Result<()>> {
        let below = self.below.clone();
        self.later(async move { below.delete(names).await })
    }

    fn sweep(self: Arc<Self>, scope: Option<Scope>, age: Duration) -> BoxFuture<Result<u64>> {
        self.below.clone().sweep(scope, age)
    }
}

fn config(rank: u32, size: u32) -> Config {
    let mut config = Config::new(rank, size, "stored", "");
    config.key = Some(KEY.into());
    config.join_deadline = Duration::from_secs(20);
    config
}

/// Sums long vectors, sends one on in a ring, and leaves.
async fn work(comm: Communicator) -> fmi::Result<()> {
    let (rank, size) = (comm.rank(), comm.size());
    let own: Vec<u64> = (0..5000).map(|at| at * u64::from(rank + 1)).collect();
    let mut sum = vec![0; own.len()];
    comm.allreduce(&own, &mut sum, op::Sum).await?;
    let all: u64 = (1..=u64::from(size)).sum();
    assert!(sum.iter().zip(0u64..).all(|(sum, at)| *sum == at * all));
    let mut got = vec![0; own.len()];
    let (right, left) = ((rank + 1) % size, (rank + size - 1) % size);
    let receive = comm.recv(left, 5, &mut got);
    comm.send(right, 5, &own).await?;
    receive.await?;
    assert!(got.iter().zip(0u64..).all(|(got, at)| *got == at * u64::from(left + 1)));
    comm.barrier().await?;
    comm.leave().await;
    Ok(())
}

async fn begin(store: Arc<dyn Store>, config: Config) -> Communicator {
    Communicator::connect_by_store(RealNet::new(), &config, store).await.expect("nobody is waited for")
}

async fn run(store: &Arc<Layer>, size: u32) -> Vec<fmi::Result<()>> {
    let ranks = (0..size).map(|rank| {
        let store: Arc<dyn Store> = store.clone();
        async move {
            let config = config(rank, size);
            work(Communicator::connect_by_store(RealNet::new(), &config, store).await?).await
        }
    });
    futures_util::future::join_all(ranks).await
}

#[tokio::test]
async fn groups_work_over_any_length_of_parts_and_leave_nothing_but_last_words() {
    for (malice, part_bytes) in [(Malice::None, 1 << 20), (Malice::None, 1000), (Malice::Slow, 5000)] {
        let store = Layer::new(malice, part_bytes);
        for size in [2, 5] {
            let before = store.below.len();
            for result in run(&store, size).await {
                result.unwrap_or_else(|error| panic!("{malice:?}, {size}: {error}"));
            }
            // A goodbye and the end of what a rank has for another, which has left before.
            let left = store.below.len() - before;
            let most = 2 * (size * (size - 1)) as usize;
            assert!(left <= most, "{malice:?}, {size} ranks: {left} bodies are left, {most} can be last words");
        }
    }
}

#[tokio::test]
async fn a_store_that_changes_cuts_or_swaps_messages_is_named_and_never_believed() {
    for malice in [Malice::Changes, Malice::Cuts, Malice::Swaps] {
        let store = Layer::new(malice, 2000);
        let results = run(&store, 2).await;
        assert!(results.iter().all(fmi::Result::is_err), "{malice:?}");
        let is_named = |error: &fmi::Error| {
            matches!(error.kind(), ErrorKind::Store(what) if what.contains("does not verify")) && error.peer().is_some()
        };
        let errors: Vec<_> = results.into_iter().filter_map(fmi::Result::err).collect();
        assert!(errors.iter().any(is_named), "{malice:?}: {errors:?}");
    }
}

#[tokio::test]
async fn a_store_that_keeps_messages_back_costs_a_deadline_and_no_more() {
    let store = Layer::new(Malice::KeepsBack, 2000);
    let ranks = (0..2).map(|rank| {
        let store: Arc<dyn Store> = store.clone();
        async move {
            let mut config = config(rank, 2);
            config.operation_deadline = Some(Duration::from_millis(300));
            work(Communicator::connect_by_store(RealNet::new(), &config, store).await?).await
        }
    });
    for result in futures_util::future::join_all(ranks).await {
        let error = result.expect_err("nothing comes");
        assert!(matches!(error.kind(), ErrorKind::Deadline { .. } | ErrorKind::Revoked(_)), "{error}");
    }
}

#[tokio::test]
async fn who_is_missing_is_named() {
    let store = Layer::new(Malice::None, 1 << 20);
    let mut config = config(0, 3);
    config.join_deadline = Duration::from_millis(100);
    let error = Communicator::connect_by_store(RealNet::new(), &config, store).await.expect_err("two are missing");
    let kind = error.kind();
    assert!(matches!(kind, ErrorKind::GroupIncomplete { present: 1, size: 3, missing: 1, .. }), "{error}");
}

#[tokio::test]
async fn nothing_in_the_store_shows_group_or_text() {
    let store = Layer::new(Malice::None, 1 << 20);
    let text = b"what nobody but the two may read";
    let ranks = (0..2).map(|rank| {
        let store: Arc<dyn Store> = store.clone();
        async move {
            let comm = Communicator::connect_by_store(RealNet::new(), &config(rank, 2), store).await?;
            let (long, mut got) = (text.repeat(40), vec![0u8; 40 * text.len()]);
            if rank == 0 { comm.send(1, 1, &long).await } else { comm.recv(0, 1, &mut got).await.map(drop) }?;
            comm.leave().await;
            Ok::<_, fmi::Error>(())
        }
    });
    futures_util::future::try_join_all(ranks).await.expect("the group works");
    let bodies = store.bodies.lock().expect("no panic");
    assert!(!bodies.is_empty());
    for (name, body) in &*bodies {
        assert!(!body.windows(8).any(|part| text.windows(8).any(|own| own == part)), "{name} shows the text");
        assert!(!name.to_string().contains("stored"));
    }
    assert!(store.ledger().spent().of(Request::Put) > 2);
}

#[tokio::test]
async fn what_was_sent_to_a_rank_that_comes_after_its_sender_has_ended_is_received() {
    let store = Layer::new(Malice::Slow, 3000);
    let apart = |rank| {
        let mut config = config(rank, 3);
        config.meet = false;
        begin(store.clone(), config)
    };
    let long: Vec<u32> = (0..200_000).collect();
    let sender = apart(0).await;
    sender.send(1, 7, &long).await.expect("the store takes it");
    sender.send(1, 8, &[5u8]).await.expect("the store takes it");
    sender.send(2, 8, &[6u8]).await.expect("the store takes it");
    sender.leave().await;
    for (rank, small) in [(2, 6), (1, 5)] {
        let receiver = apart(rank).await;
        let mut got = [0u8];
        receiver.recv(0, 8, &mut got).await.expect("it was there");
        assert_eq!(got, [small]);
        if rank == 1 {
            let mut all = vec![0u32; long.len()];
            receiver.recv(0, 7, &mut all).await.expect("it was there");
            assert!(all == long);
        }
        let error = receiver.recv(0, 9, &mut got).await.expect_err("the sender has left");
        assert!(matches!(error.kind(), ErrorKind::PeerLeft(_) | ErrorKind::ConnectionLost(_)), "{error}");
        receiver.leave().await;
    }
}

#[tokio::test]
async fn two_processes_that_are_one_rank_find_out() {
    let store = Layer::new(Malice::None, 3000);
    let apart = |rank| {
        let mut config = config(rank, 3);
        config.meet = false;
        begin(store.clone(), config)
    };
    let (first, twin) = (apart(1).await, apart(1).await);
    first.send(2, 1, &[1u8; 600]).await.expect("the store takes it");
    let mut results = vec![twin.send(2, 1, &[2u8; 600]).await];
    results.push(twin.send(2, 1, &[2u8; 600]).await);
    results.push(twin.recv(2, 1, &mut [0u8]).await.map(drop));
    let error = results.into_iter().find_map(fmi::Result::err).expect("its place is taken");
    assert!(error.to_string().contains("another process is this rank"), "{error}");
}
