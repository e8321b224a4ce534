//! What ranks do: steps that the lab knows, or a program of the user's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fmi::net::Net;
use fmi::time::Instant;
use fmi::{Communicator, Config, Error};
use nat_sim::SimNet;

use crate::outcome::{Board, Record, SharedBoard};

/// One thing that all ranks do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A barrier among all ranks.
    Barrier,
    /// A broadcast, whose content every rank checks.
    Broadcast {
        /// The rank that has the data.
        root: u32,
        /// Length in bytes.
        bytes: usize,
    },
    /// A sum of vectors of `u64` on all ranks.
    Allreduce {
        /// Length of each vector in bytes.
        bytes: usize,
    },
    /// A reduction by an operator that does not commute.
    OrderedReduce {
        /// The rank that gets the result.
        root: u32,
    },
    /// Every rank exchanges a message with every other, content checked.
    Exchange {
        /// Length of each message in bytes.
        bytes: usize,
    },
    /// Operations of every kind, drawn from the number of the step.
    Drawn,
    /// Waits for this simulated time, and makes no progress meanwhile.
    Sleep(Duration),
    /// Waits for this simulated time, and lets the communicator make progress.
    Progress(Duration),
}

/// How a rank ends that does not finish its program.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An operation failed. A scenario may expect that.
    #[error(transparent)]
    Operation(#[from] Error),
    /// A result is wrong. No scenario expects that.
    #[error("{0}")]
    Wrong(String),
}

/// What all ranks do, and how they are configured.
///
/// # Examples
/// ```
/// use fmi::op::Sum;
/// use scenarios::{Context, Failure, Program};
///
/// let program = Program::of(Program::config(), async |comm, context: &Context| {
///     let mut sum = [context.rank() + 1];
///     comm.allreduce_in_place(&mut sum, Sum).await?;
///     context.record("sum", &sum[0].to_string());
///     let expected = comm.size() * (comm.size() + 1) / 2;
///     if sum[0] == expected { Ok(()) } else { Err(Failure::Wrong(format!("the sum is {}", sum[0]))) }
/// });
/// # let _ = program;
/// ```
#[derive(Clone, Debug)]
pub struct Program {
    /// The configuration of each rank. The lab fills in rank, size, group and rendezvous, and a key if there is none.
    pub config: Config,
    /// What each rank does.
    pub work: Work,
}

/// What each rank does.
#[derive(Clone)]
pub enum Work {
    /// It joins, takes steps whose results are checked, and leaves.
    Steps {
        /// One after the other.
        steps: Vec<Action>,
        /// How often.
        rounds: u32,
    },
    /// It joins, runs a program of the user's, and leaves. See [`Program::of`].
    Joined(Arc<dyn JoinedBody>),
    /// It runs a program of the user's that joins by itself. See [`Program::alone`].
    Alone(Arc<dyn AloneBody>),
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps { steps, rounds } => {
                f.debug_struct("Steps").field("steps", steps).field("rounds", rounds).finish()
            }
            Self::Joined(_) => f.write_str("Joined(..)"),
            Self::Alone(_) => f.write_str("Alone(..)"),
        }
    }
}

/// How the program of a rank ends, boxed.
pub type Ending<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// A program that gets a communicator: any `async |comm: &Communicator, context: &Context| { … }`.
pub trait JoinedBody: Send + Sync {
    /// Runs it on one rank.
    fn run<'a>(&'a self, comm: &'a Communicator, context: &'a Context) -> Ending<'a>;
}

impl<F: AsyncFn(&Communicator, &Context) -> Result<(), Failure> + Send + Sync> JoinedBody for F {
    fn run<'a>(&'a self, comm: &'a Communicator, context: &'a Context) -> Ending<'a> {
        Box::pin(self(comm, context))
    }
}

/// A program that joins by itself, or not at all: any `async |context: &Context| { … }`.
pub trait AloneBody: Send + Sync {
    /// Runs it on one rank.
    fn run<'a>(&'a self, context: &'a Context) -> Ending<'a>;
}

impl<F: AsyncFn(&Context) -> Result<(), Failure> + Send + Sync> AloneBody for F {
    fn run<'a>(&'a self, context: &'a Context) -> Ending<'a> {
        Box::pin(self(context))
    }
}

impl Program {
    /// A configuration to change, with 30 s for the join and for each operation.
    pub fn config() -> Config {
        let mut config = Config::new(0, 1, "", "");
        (config.join_deadline, config.operation_deadline) = (Duration::from_secs(30), Some(Duration::from_secs(30)));
        config
    }

    /// These steps once.
    pub fn once(steps: impl Into<Vec<Action>>) -> Self {
        Self::steps(steps, 1)
    }

    /// These steps, so many times.
    pub fn steps(steps: impl Into<Vec<Action>>, rounds: u32) -> Self {
        Self { config: Self::config(), work: Work::Steps { steps: steps.into(), rounds } }
    }

    /// A program of the user's: each rank joins, runs `body`, and leaves if that ends well. It is polled within the
    /// function's scope: a fault that kills or freezes the function kills or freezes it. A panic fails the run.
    pub fn of<F>(config: Config, body: F) -> Self
    where
        F: AsyncFn(&Communicator, &Context) -> Result<(), Failure> + Send + Sync + 'static,
    {
        Self { config, work: Work::Joined(Arc::new(body)) }
    }

    /// The same for a program that joins by itself, with [`Context::join`] or otherwise.
    pub fn alone<F>(config: Config, body: F) -> Self
    where
        F: AsyncFn(&Context) -> Result<(), Failure> + Send + Sync + 'static,
    {
        Self { config, work: Work::Alone(Arc::new(body)) }
    }
}

/// What the program of one rank gets in addition to its communicator.
#[derive(Debug)]
pub struct Context {
    net: SimNet,
    config: Config,
    board: SharedBoard,
}

impl Context {
    pub(crate) fn new(net: SimNet, config: Config, board: SharedBoard) -> Self {
        Self { net, config, board }
    }

    /// The network as the host of this rank sees it.
    pub fn net(&self) -> &SimNet {
        &self.net
    }

    /// This rank.
    pub fn rank(&self) -> u32 {
        self.config.rank
    }

    /// The configuration of this rank.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The simulated time.
    pub fn now(&self) -> Instant {
        Net::now(&self.net)
    }

    /// Waits for this simulated time, and makes no progress meanwhile.
    pub async fn sleep(&self, time: Duration) {
        Net::sleep_until(&self.net, self.now() + time).await;
    }

    /// Records something for the checks, in the event log and in the digest.
    pub fn record(&self, what: &str, detail: &str) {
        self.net.record(what, detail);
        let (at, rank) = (self.now().since_origin(), self.rank());
        let record = Record { at, rank, what: what.to_owned(), detail: detail.to_owned() };
        Board::lock(&self.board).records.push(record);
    }

    /// Joins the group, and notes for the outcome how its peers are reached.
    ///
    /// # Errors
    /// Those of [`Communicator::connect`].
    pub async fn join(&self) -> Result<Communicator, Error> {
        let comm = Communicator::connect(self.net.clone(), &self.config).await?;
        let rank = self.rank();
        let mut board = Board::lock(&self.board);
        board.links.insert(rank, comm.links().collect());
        board.joined_at.insert(rank, self.now().since_origin());
        drop(board);
        self.net.record("joined", &rank.to_string());
        Ok(comm)
    }

    /// Notes how peers are reached at the end of the program.
    pub(crate) fn note_end(&self, comm: &Communicator) {
        Board::lock(&self.board).links_at_end.insert(self.rank(), comm.links().collect());
    }
}
