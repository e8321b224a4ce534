//! Groups in one process for tests: a clock that stands still, connections of any width, and an executor that polls
//! only what was woken. What hangs here has lost a wake-up, since no timer ever fires.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::Communicator;
use crate::channel::stored::Postbox;
use crate::channel::stream::Link;
use crate::channel::stream::testing::Pipe;
use crate::channel::{Channel, LinkInfo, memory};
use crate::config::Config;
use crate::connect::Control;
use crate::engine::Parts;
use crate::error::{Path, Result};
use crate::key::Key;
use crate::net::{BoxFuture, Clock, Machine};
use crate::proto::candidate::Technique;
use crate::proto::card::Security;
use crate::proto::cipher::Suite;
use crate::proto::stored::names::Names;
use crate::proto::stored::object::Sealer;
use crate::time::Instant;
use bytes::Bytes;
use fmi_store::{Ledger, MemoryStore, Name, Placed, Put, Scope, Shelf, Store, Traits};

/// A clock that is set by hand; who sleeps is woken when it passes the time.
#[derive(Default)]
pub(super) struct Hands {
    nanos: AtomicU64,
    sleepers: Mutex<Vec<Waker>>,
}

impl Hands {
    pub(super) fn pass(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).expect("short");
        self.nanos.fetch_add(nanos, Ordering::SeqCst);
        let sleepers = std::mem::take(&mut *self.sleepers.lock().expect("no panic"));
        sleepers.into_iter().for_each(Waker::wake);
    }
}

#[derive(Clone)]
struct HandClock(Arc<Hands>);

impl Clock for HandClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.nanos.load(Ordering::SeqCst))
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<()> {
        let clock = self.clone();
        Box::pin(std::future::poll_fn(move |cx| {
            if clock.now() >= at {
                return Poll::Ready(());
            }
            clock.0.sleepers.lock().expect("no panic").push(cx.waker().clone());
            Poll::Pending
        }))
    }

    fn yield_now(&self) -> bool {
        false
    }

    fn machine(&self) -> Machine {
        Machine { has_aes: true, cores: 2 }
    }
}

/// How ranks of a test are connected.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire {
    /// Byte streams that hold this many bytes in each direction.
    Pipe(usize),
    /// Memory.
    Memory,
    /// A store that takes long messages in parts of this length.
    Store(usize),
    /// The same, which answers only when nobody has anything else to do.
    LazyStore(usize),
}

pub(super) struct Bench {
    pub(super) hands: Arc<Hands>,
    pub(super) comms: Vec<Communicator>,
}

fn info(peer: u32) -> LinkInfo {
    let (addresses_known_at, connected_at) = (Instant::ZERO, Instant::ZERO);
    LinkInfo { peer, path: Path::Private, technique: Technique::Local, addresses_known_at, connected_at, attempts: 1 }
}

fn connect(wire: Wire, low: u32, high: u32) -> (Box<dyn Channel>, Box<dyn Channel>) {
    match wire {
        Wire::Memory => {
            let (near, far) = memory::pair(info(high), info(low));
            (Box::new(near), Box::new(far))
        }
        Wire::Store(_) | Wire::LazyStore(_) => unreachable!("a store connects all at once"),
        Wire::Pipe(width) => {
            let (near, far) = tokio::io::duplex(width);
            let link = |end, peer| Box::new(Link::new(Box::new(Pipe(end, None)), info(peer)));
            (link(near, high), link(far, low))
        }
    }
}

/// A request of a lazy store that waits for its turn.
#[derive(Default)]
struct Turn {
    has_come: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

thread_local! {
    static TURNS: RefCell<VecDeque<Arc<Turn>>> = const { RefCell::new(VecDeque::new()) };
}

/// Lets the oldest request of a lazy store go on; whether there was one.
fn give_turn() -> bool {
    let Some(turn) = TURNS.with_borrow_mut(VecDeque::pop_front) else { return false };
    turn.has_come.store(true, Ordering::SeqCst);
    let waker = turn.waker.lock().expect("no panic").take();
    waker.into_iter().for_each(Waker::wake);
    true
}

/// Completes when it is this request's turn.
async fn turn() {
    let turn = Arc::<Turn>::default();
    TURNS.with_borrow_mut(|turns| turns.push_back(turn.clone()));
    std::future::poll_fn(|cx| {
        if turn.has_come.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        *turn.waker.lock().expect("no panic") = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// A store that answers only when nobody has anything else to do.
#[derive(Debug)]
struct Lazy(Arc<MemoryStore>);

/// Gives a request its turn, and does it.
fn in_turn<T: 'static>(request: BoxFuture<T>) -> BoxFuture<T> {
    Box::pin(async move {
        turn().await;
        request.await
    })
}

impl Store for Lazy {
    fn traits(&self) -> &Traits {
        self.0.traits()
    }

    fn ledger(&self) -> &Ledger {
        self.0.ledger()
    }

    fn put(self: Arc<Self>, put: Put) -> BoxFuture<fmi_store::Result<Placed>> {
        in_turn(self.0.clone().put(put))
    }

    fn get(self: Arc<Self>, name: Name, range: Option<Range<u64>>) -> BoxFuture<fmi_store::Result<Option<Bytes>>> {
        in_turn(self.0.clone().get(name, range))
    }

    fn wait(self: Arc<Self>, shelf: Shelf, names: Vec<Name>) -> BoxFuture<fmi_store::Result<Vec<(usize, Bytes)>>> {
        let wait = in_turn(self.0.clone().wait(shelf, names));
        Box::pin(async move {
            let found = wait.await;
            turn().await;
            found
        })
    }

    fn ring(self: Arc<Self>, shelves: Vec<Shelf>) -> BoxFuture<fmi_store::Result<()>> {
        in_turn(self.0.clone().ring(shelves))
    }

    fn count(self: Arc<Self>, name: Name, add: u64, time_to_live: Duration) -> BoxFuture<fmi_store::Result<u64>> {
        in_turn(self.0.clone().count(name, add, time_to_live))
    }

    fn delete(self: Arc<Self>, names: Vec<Name>) -> BoxFuture<fmi_store::Result<()>> {
        in_turn(self.0.clone().delete(names))
    }

    fn sweep(self: Arc<Self>, scope: Option<Scope>, age: Duration) -> BoxFuture<fmi_store::Result<u64>> {
        in_turn(self.0.clone().sweep(scope, age))
    }
}

/// All ends of a group in a store, by rank and peer.
fn store(clock: HandClock, size: u32, part_bytes: usize, is_lazy: bool) -> Vec<Vec<Option<Box<dyn Channel>>>> {
    TURNS.take();
    let below = Arc::new(MemoryStore::new(clock.clone()).with_part_bytes(part_bytes));
    let clock: Arc<dyn Clock> = Arc::new(clock);
    let store: Arc<dyn Store> = if is_lazy { Arc::new(Lazy(below)) } else { below };
    let key = Key::new("harness", b"a secret of 16 b");
    let sealer = |from, to| Sealer::new(Security::Encrypted, Suite::ChaCha20Poly1305, &[3; 32].into(), from, to);
    let ends = |rank: u32| {
        let peers = (0..size).filter(|peer| *peer != rank);
        let sealers = peers.map(|peer| (peer, (sealer(rank, peer), sealer(peer, rank))));
        let names = Names::of_run(&key, &[7; 32]);
        let postbox = Postbox::new((store.clone(), clock.clone()), names, rank, Duration::from_secs(60), sealers);
        let mut channels = postbox.into_channels(info);
        let end = |peer| channels.remove(&peer).map(|channel| Box::new(channel) as Box<dyn Channel>);
        (0..size).map(end).collect()
    };
    (0..size).map(ends).collect()
}

impl Bench {
    pub(super) fn new(size: u32, wire: Wire) -> Self {
        Self::configured(size, wire, |_| {}, |_| None)
    }

    /// A group whose configuration is changed, with the control channel of each rank if there is one.
    pub(super) fn configured(
        size: u32,
        wire: Wire,
        change: impl Fn(&mut Config),
        mut control: impl FnMut(u32) -> Option<Control>,
    ) -> Self {
        let hands = Arc::<Hands>::default();
        let mut ends: Vec<Vec<Option<Box<dyn Channel>>>> = match wire {
            Wire::Store(part_bytes) => store(HandClock(hands.clone()), size, part_bytes, false),
            Wire::LazyStore(part_bytes) => store(HandClock(hands.clone()), size, part_bytes, true),
            Wire::Pipe(_) | Wire::Memory => (0..size).map(|_| (0..size).map(|_| None).collect()).collect(),
        };
        for low in 0..size {
            for high in (low + 1..size).filter(|_| !matches!(wire, Wire::Store(_) | Wire::LazyStore(_))) {
                let (near, far) = connect(wire, low, high);
                ends[low as usize][high as usize] = Some(near);
                ends[high as usize][low as usize] = Some(far);
            }
        }
        let comms = (0..size).zip(ends).map(|(rank, channels)| {
            let mut config = Config::new(rank, size, "harness", "127.0.0.1:1");
            change(&mut config);
            let control = control(rank);
            let parts = Parts { channels, control, session: [0; 16], upgrade: None, lifeline: None };
            let comm = Communicator::over(&config, Arc::new(HandClock(hands.clone())), parts);
            comm.mark_formed();
            comm
        });
        let comms = comms.collect();
        Self { hands, comms }
    }
}

/// A task that knows whether it was woken.
struct Task {
    woken: AtomicBool,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
    }
}

type Running<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Futures that are polled when they were woken, and not otherwise.
#[derive(Default)]
pub(super) struct Executor<'a> {
    tasks: Vec<(Option<Running<'a>>, Arc<Task>)>,
    started: usize,
    stalled: Vec<usize>,
    pub(super) polls: u64,
}

impl<'a> Executor<'a> {
    pub(super) fn spawn(&mut self, future: impl Future<Output = ()> + 'a) -> usize {
        self.tasks.push((Some(Box::pin(future)), Arc::new(Task { woken: AtomicBool::new(true) })));
        self.tasks.len() - 1
    }

    /// A task whose result must be good.
    pub(super) fn must<T>(&mut self, future: impl Future<Output = Result<T>> + 'a) -> usize {
        self.spawn(async move {
            if let Err(error) = future.await {
                panic!("{error}");
            }
        })
    }

    /// Drops a task that has not ended.
    pub(super) fn cancel(&mut self, task: usize) {
        self.tasks[task].0 = None;
    }

    /// Polls one task, woken or not.
    pub(super) fn poll(&mut self, task: usize) {
        let (future, task) = &mut self.tasks[task];
        let Some(running) = future else { return };
        task.woken.store(false, Ordering::SeqCst);
        self.polls += 1;
        let waker = Waker::from(task.clone());
        if running.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            *future = None;
        }
    }

    fn is_due(&self, index: usize) -> bool {
        let (future, task) = &self.tasks[index];
        future.is_some() && task.woken.load(Ordering::SeqCst) && !self.stalled.contains(&index)
    }

    /// Does not poll a task, whether it is woken or not, until it may go on.
    pub(super) fn stall(&mut self, task: usize) {
        self.stalled.push(task);
    }

    /// Lets a stalled task go on.
    pub(super) fn unstall(&mut self, task: usize) {
        self.stalled.retain(|stalled| *stalled != task);
    }

    /// Polls each task that was never polled, so that what it calls has its place.
    pub(super) fn start_new(&mut self) {
        for task in self.started..self.tasks.len() {
            self.poll(task);
        }
        self.started = self.tasks.len();
    }

    /// Number of tasks that have not ended.
    pub(super) fn left(&self) -> usize {
        self.tasks.iter().filter(|(future, _)| future.is_some()).count()
    }

    /// Polls each task once that is woken, but one; whether there was any.
    pub(super) fn poll_woken_but(&mut self, spared: usize) -> bool {
        let due: Vec<usize> = (0..self.tasks.len()).filter(|task| *task != spared && self.is_due(*task)).collect();
        due.iter().for_each(|task| self.poll(*task));
        !due.is_empty() || give_turn()
    }

    /// Polls what is woken until nothing is; whether all tasks have ended. `order` picks the next one among those
    /// that are woken, by their number.
    pub(super) fn run(&mut self, mut order: impl FnMut(usize) -> usize) -> bool {
        loop {
            let due: Vec<usize> = (0..self.tasks.len()).filter(|task| self.is_due(*task)).collect();
            if due.is_empty() {
                if give_turn() {
                    continue;
                }
                return self.tasks.iter().all(|(future, _)| future.is_none());
            }
            let next = due[order(due.len()) % due.len()];
            self.poll(next);
            assert!(self.polls < 50_000_000, "a task is woken again and again without an end");
        }
    }

    /// As [`Executor::run`], in rounds: each task that is woken is polled once, before any is polled again.
    pub(super) fn run_in_rounds(&mut self) -> bool {
        loop {
            let mut any = false;
            for task in 0..self.tasks.len() {
                if self.is_due(task) {
                    self.poll(task);
                    any = true;
                }
            }
            if !any && !give_turn() {
                return self.tasks.iter().all(|(future, _)| future.is_none());
            }
        }
    }
}
