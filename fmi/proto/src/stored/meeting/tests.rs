//! Goal: whoever meets, meets the same group, of living processes with one seat each; nobody waits for a run that crashed. Method:
//! processes and a store, run by a drawn schedule that delays each request, kills, restarts and doubles processes.

use std::collections::BTreeSet;

use super::*;
use proptest::prelude::*;

const MILLI: Duration = Duration::from_millis(1);

/// One process: a machine, and what it waits for of the store.
struct Process {
    rank: u32,
    meeting: Meeting,
    waits_for: Vec<Lobby>,
    /// Requests under way, in order.
    requests: VecDeque<Output>,
    is_alive: bool,
    /// The nonces that it has met.
    met: Option<Vec<Nonce>>,
    failed: Option<Trouble>,
}

struct Bench {
    key: Key,
    size: u32,
    now: Instant,
    store: BTreeMap<Lobby, Vec<u8>>,
    processes: Vec<Process>,
}

impl Bench {
    fn new(size: u32) -> Self {
        let (key, now, store) = (Key::new("g", b"a secret"), Instant::ZERO, BTreeMap::new());
        Self { key, size, now, store, processes: Vec::new() }
    }

    fn start(&mut self, rank: u32) -> usize {
        let mut nonce = [0; 16];
        nonce[0] = u8::try_from(self.processes.len()).expect("few");
        let meeting = Meeting::new(&self.key, rank, self.size, nonce, b"card");
        let (waits_for, requests) = (Vec::new(), VecDeque::new());
        self.processes.push(Process { rank, meeting, waits_for, requests, is_alive: true, met: None, failed: None });
        self.processes.len() - 1
    }

    fn start_all(&mut self, ranks: impl IntoIterator<Item = u32>) {
        for rank in ranks {
            self.start(rank);
        }
    }

    fn started(size: u32) -> Self {
        let mut bench = Self::new(size);
        bench.start_all(0..size);
        bench
    }

    /// Does one step of a process: takes its outputs, or answers a request, or what it waits for; false if there is nothing.
    fn step(&mut self, at: usize) -> bool {
        let now = self.now;
        let process = &mut self.processes[at];
        if !process.is_alive {
            return false;
        }
        if process.meeting.poll_timeout().is_some_and(|(due, _)| due <= now) {
            process.meeting.handle_timeout(now);
        }
        while let Some(output) = process.meeting.poll_output() {
            match output {
                Output::Wait(bodies) => process.waits_for = bodies,
                Output::Met(handout) => process.met = Some(handout.members.iter().map(|member| member.nonce).collect()),
                Output::Failed(trouble) => process.failed = Some(trouble),
                request @ (Output::Put { .. } | Output::Get(_)) => process.requests.push_back(request),
            }
        }
        let input = match process.requests.pop_front() {
            Some(Output::Put { body, bytes, only_if_absent, .. }) => match self.store.get(&body) {
                Some(there) if only_if_absent && *there != bytes => Input::Occupied(body, there.clone()),
                Some(_) | None => {
                    self.store.insert(body, bytes);
                    Input::Written(body)
                }
            },
            Some(Output::Get(body)) => Input::Found(body, self.store.get(&body).cloned()),
            Some(_) | None => {
                let there = |body: &&Lobby| self.store.contains_key(*body);
                let Some(body) = process.waits_for.iter().find(there).copied() else { return false };
                process.waits_for.clear();
                Input::Found(body, self.store.get(&body).cloned())
            }
        };
        process.meeting.handle_input(now, input);
        true
    }

    /// Runs all fairly, for so long at most, until each process has met or failed.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until && self.processes.iter().any(|it| it.is_alive && it.met.is_none() && it.failed.is_none())
        {
            let mut moved = true;
            while moved {
                moved = false;
                for at in 0..self.processes.len() {
                    moved |= self.step(at);
                }
            }
            self.now += 100 * MILLI;
        }
    }

    /// What must always hold.
    fn check(&self) {
        for process in &self.processes {
            let Some(met) = &process.met else { continue };
            assert_eq!(met.len(), self.size as usize);
            for (rank, nonce) in (0u32..).zip(met) {
                let of = &self.processes[usize::from(nonce[0])];
                assert_eq!(of.rank, rank, "a process sits on the seat of another rank");
                assert!(of.met.is_none() || of.met.as_ref() == Some(met), "two that met met different groups");
            }
            assert!(met.contains(&self.nonce_of(process)), "a process met a group that it is not in");
        }
    }

    fn nonce_of(&self, process: &Process) -> Nonce {
        process.meeting.nonce
    }
}

#[test]
fn ranks_meet_in_one_generation_with_few_requests() {
    let mut bench = Bench::started(8);
    bench.run(Duration::from_secs(5));
    assert!(bench.processes.iter().all(|process| process.met.is_some()));
    bench.check();
    // A seat and a pulse of each, and one decision.
    assert_eq!(bench.store.len(), 17);
    let litter: BTreeSet<Lobby> = bench.processes.iter().flat_map(|it| it.meeting.litter().0).collect();
    let decision = bench.processes[0].meeting.litter().1;
    let left: Vec<_> = bench.store.keys().filter(|body| !litter.contains(body)).collect();
    assert_eq!(left, [&decision]);
}

#[test]
fn a_run_that_crashed_before_and_after_it_met_is_neither_joined_nor_in_the_way() {
    for ran in [Duration::ZERO, Duration::from_secs(5)] {
        let mut bench = Bench::new(3);
        bench.start_all(0..2);
        if !ran.is_zero() {
            bench.start(2);
        }
        bench.run(Duration::from_secs(1));
        bench.processes.iter_mut().for_each(|process| process.is_alive = false);
        let first = bench.processes.len();
        bench.start_all(0..3);
        bench.run(2 * LEASE);
        bench.check();
        for process in &bench.processes[first..] {
            let met = process.met.as_ref().expect("the new run meets");
            assert!(met.iter().all(|nonce| usize::from(nonce[0]) >= first), "of the crashed run: {met:?}");
        }
    }
}

#[test]
fn a_rank_that_died_while_the_group_met_may_be_started_again() {
    for dies in 0..3 {
        let mut bench = Bench::new(3);
        bench.start_all((0..3).filter(|rank| *rank != (dies + 1) % 3));
        bench.run(Duration::from_secs(1));
        let dead = bench.processes.iter().position(|process| process.rank == dies).expect("there");
        bench.processes[dead].is_alive = false;
        bench.start(dies);
        bench.start((dies + 1) % 3);
        bench.run(3 * LEASE);
        bench.check();
        let met = bench.processes.iter().filter(|process| process.met.is_some()).count();
        assert_eq!(met, 3, "rank {dies} died");
    }
}

#[test]
fn of_two_processes_for_one_rank_one_stays_alone() {
    let mut bench = Bench::started(2);
    let twin = bench.start(1);
    bench.run(Duration::from_secs(20));
    bench.check();
    assert_eq!(bench.processes.iter().filter(|process| process.met.is_some()).count(), 2);
    let alone = bench.processes.iter().find(|process| process.met.is_none()).expect("one of them");
    assert!(alone.meeting.is_running() && alone.rank == bench.processes[twin].rank);
    assert_eq!(alone.meeting.waiting(), (1, Some(0)));
}

#[test]
fn what_nobody_of_the_group_wrote_is_an_error() {
    let mut bench = Bench::started(2);
    bench.run(Duration::from_secs(1));
    let decision = Lobby::Decision { generation: 0 };
    let genuine = bench.store[&decision].clone();
    let mut changed = genuine.clone();
    *changed.last_mut().expect("bytes") ^= 1;
    for bytes in [changed, genuine[..20].to_vec(), Vec::new()] {
        let mut victim = Bench::new(2);
        victim.start(0);
        victim.store.insert(decision, bytes);
        victim.run(Duration::from_secs(1));
        assert_eq!(victim.processes[0].failed, Some(Trouble::Altered("a decision")));
    }
    // One of another generation under this name.
    let mut victim = Bench::new(2);
    victim.start(0);
    victim.store.insert(decision, Vec::new());
    let elsewhere = Lobby::Decision { generation: 1 };
    let mut other = Bench::new(2);
    other.store.insert(decision, genuine);
    // Their nonces are others.
    other.start_all(0..2);
    other.processes.iter_mut().for_each(|process| process.is_alive = false);
    other.start_all(0..2);
    other.run(Duration::from_secs(1));
    victim.store.insert(decision, other.store[&elsewhere].clone());
    victim.run(Duration::from_secs(1));
    assert!(victim.processes[0].failed.is_some());
}

#[derive(Clone, Debug)]
enum Event {
    Step(usize),
    Pass(u16),
    Kill(usize),
    Start(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => (0..12usize).prop_map(Event::Step),
        3 => (1..8000u16).prop_map(Event::Pass),
        1 => (0..12usize).prop_map(Event::Kill),
        1 => (0..4u32).prop_map(Event::Start),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_nobody_meets_a_group_that_others_do_not(
        size in 1..4u32, events in proptest::collection::vec(event(), 0..300),
    ) {
        let mut bench = Bench::started(size);
        for event in events {
            let count = bench.processes.len();
            match event {
                Event::Step(at) => {
                    bench.step(at % count);
                }
                Event::Pass(millis) => bench.now += u32::from(millis) * MILLI,
                Event::Kill(at) => bench.processes[at % count].is_alive = false,
                Event::Start(rank) if count < 12 => bench.start_all([rank % size]),
                Event::Start(_) => {}
            }
            bench.check();
        }
        // Those who met go, and a fresh set of processes meets, whatever is left of all that.
        bench.processes.iter_mut().for_each(|process| process.is_alive = false);
        let first = bench.processes.len();
        bench.start_all(0..size);
        bench.run(20 * LEASE);
        bench.check();
        for process in &bench.processes[first..] {
            prop_assert!(process.met.is_some(), "rank {} does not meet: {:?}", process.rank, process.meeting);
            let met = process.met.as_ref().expect("checked");
            prop_assert!(met.iter().all(|nonce| usize::from(nonce[0]) >= first));
        }
    }

    #[test]
    fn no_bytes_from_a_store_panic(
        events in proptest::collection::vec((0..4u8, 0..3u32, 0..3u32, proptest::collection::vec(any::<u8>(), 0..60)), 0..60),
    ) {
        let mut meeting = Meeting::new(&Key::new("g", b"s"), 0, 3, [1; 16], b"card");
        let mut now = Instant::ZERO;
        for (kind, rank, number, bytes) in events {
            let generation = number / 2;
            let body = match kind {
                0 => Lobby::Seat { generation, rank },
                1 => Lobby::Pulse { generation, rank, since: [1; 16], number },
                2 => Lobby::Contest { generation },
                _ => Lobby::Decision { generation },
            };
            let input = match bytes.len() % 3 {
                0 => Input::Found(body, (!bytes.is_empty()).then_some(bytes)),
                1 => Input::Written(body),
                _ => Input::Occupied(body, bytes),
            };
            now += 300 * MILLI;
            meeting.handle_input(now, input);
            meeting.handle_timeout(now);
            while meeting.poll_output().is_some() {}
            let _ = (meeting.waiting(), meeting.litter(), meeting.poll_timeout());
        }
    }
}
