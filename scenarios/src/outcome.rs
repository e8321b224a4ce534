//! What came out of a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fmi::LinkInfo;
use nat_sim::Report;

/// How one rank ended.
#[derive(Clone, Debug)]
pub struct RankEnd {
    /// Simulated time of its end.
    pub at: Duration,
    /// The error it ended with; `None` for success.
    pub error: Option<String>,
    /// The rank that the error names.
    pub names: Option<u32>,
    /// Whether the error says that a peer could not be connected.
    pub unconnected: bool,
    /// Whether a result was wrong.
    pub wrong: bool,
}

/// What a program recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Simulated time of the record.
    pub at: Duration,
    /// The rank that recorded it.
    pub rank: u32,
    /// What kind of thing it is.
    pub what: String,
    /// The program's own words.
    pub detail: String,
}

/// What came out of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: String,
    /// The seed that repeats it.
    pub seed: u64,
    /// What the lab reports.
    pub report: Report,
    /// How each rank ended, if it did.
    pub ends: BTreeMap<u32, RankEnd>,
    /// How each rank that joined reaches its peers.
    pub links: BTreeMap<u32, Vec<LinkInfo>>,
    /// The same at the end of its program.
    pub links_at_end: BTreeMap<u32, Vec<LinkInfo>>,
    /// When each rank had joined.
    pub joined_at: BTreeMap<u32, Duration>,
    /// What programs recorded, in order of time.
    pub records: Vec<Record>,
    /// Bytes of streams that the rendezvous sent: what it says itself, and all that it relays.
    pub served_bytes: u64,
    /// How often the attack of the world hit what it is meant for.
    pub hits: u64,
    /// What is not as it must be; empty for a pass.
    pub violations: Vec<String>,
}

impl Outcome {
    pub(crate) fn new(scenario: String, seed: u64) -> Self {
        Self {
            scenario,
            seed,
            report: Report::default(),
            ends: BTreeMap::new(),
            links: BTreeMap::new(),
            links_at_end: BTreeMap::new(),
            joined_at: BTreeMap::new(),
            records: Vec::new(),
            served_bytes: 0,
            hits: 0,
            violations: Vec::new(),
        }
    }

    /// Takes over what the ranks left on the board.
    pub(crate) fn take(&mut self, board: &SharedBoard) {
        let Board { ends, links, links_at_end, joined_at, records } = std::mem::take(&mut *Board::lock(board));
        (self.ends, self.links, self.links_at_end) = (ends, links, links_at_end);
        (self.joined_at, self.records) = (joined_at, records);
    }

    /// Whether everything is as it must be.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// The command that repeats the run.
    pub fn replay_command(&self) -> String {
        format!("cargo run --release -p scenarios -- replay {} --seed {}", self.scenario, self.seed)
    }
}

/// Where ranks leave what is to be seen of them.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) ends: BTreeMap<u32, RankEnd>,
    pub(crate) links: BTreeMap<u32, Vec<LinkInfo>>,
    pub(crate) links_at_end: BTreeMap<u32, Vec<LinkInfo>>,
    pub(crate) joined_at: BTreeMap<u32, Duration>,
    pub(crate) records: Vec<Record>,
}

pub(crate) type SharedBoard = Arc<Mutex<Board>>;

impl Board {
    pub(crate) fn lock(board: &SharedBoard) -> MutexGuard<'_, Self> {
        board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
