//! What the clones of a communicator, and the requests of its operations, share.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::{Shared, Until};
use crate::error::{Error, ErrorKind, Operation};
use crate::proto::rank::Members;

/// No time of its own: the group's limit applies.
const NONE: u64 = u64::MAX;

/// One communicator. The engine forgets it when the last clone and the last request of it are gone.
pub(super) struct Base {
    engine: Arc<Shared>,
    /// Its identity on the wire, 0 for the whole group.
    pub(super) id: u64,
    pub(super) members: Members,
    /// Time for each operation in nanoseconds, or [`NONE`].
    deadline: AtomicU64,
}

impl Base {
    pub(super) fn new(engine: Arc<Shared>, id: u64, members: Members) -> Arc<Self> {
        Arc::new(Self { engine, id, members, deadline: AtomicU64::new(NONE) })
    }

    /// Another communicator of the group, whose time for each operation is that of this one.
    pub(super) fn derived(&self, id: u64, members: Members) -> Arc<Self> {
        let deadline = AtomicU64::new(self.deadline.load(Ordering::Relaxed));
        Arc::new(Self { engine: self.engine.clone(), id, members, deadline })
    }

    pub(super) fn set_deadline(&self, deadline: Duration) {
        let nanos = u64::try_from(deadline.as_nanos()).unwrap_or(NONE).min(NONE - 1);
        self.deadline.store(nanos, Ordering::Relaxed);
    }

    /// When an operation that is called now fails, if `own` says nothing else.
    pub(super) fn until(&self, own: Option<Duration>) -> Until {
        let common = || match self.deadline.load(Ordering::Relaxed) {
            NONE => Until::Limit,
            nanos => Until::Within(Duration::from_nanos(nanos)),
        };
        own.map_or_else(common, Until::Within)
    }

    pub(super) fn rank(&self) -> u32 {
        self.members.me().get()
    }

    pub(super) fn error(&self, operation: Operation, kind: ErrorKind) -> Error {
        Error::new(operation, kind).on(self.rank())
    }

    /// Whether nothing else of the group is left in this process.
    pub(super) fn is_last(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && Arc::strong_count(&self.engine) == 1
    }
}

impl Deref for Base {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.engine
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        self.engine.with(|engine| engine.forget(self.id));
    }
}
