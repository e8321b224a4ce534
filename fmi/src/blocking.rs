//! The same without `async`: for programs that have no runtime.
//!
//! ```no_run
//! # fn main() -> fmi::Result<()> {
//! let comm = fmi::blocking::Communicator::from_env()?;
//! let mut sum = [0];
//! comm.allreduce(&[comm.rank()], &mut sum, fmi::op::Sum)?;
//! # Ok(())
//! # }
//! ```
//!
//! Each method waits for the operation of the same name. Several at once run in a [scope](Communicator::scope), in which
//! each is started without waiting, and waited for in any order:
//!
//! ```
//! # fn main() -> fmi::Result<()> {
//! let comm = fmi::blocking::Communicator::local(1)?.remove(0);
//! let (mut sum, mut all) = ([0], vec![0; comm.size() as usize]);
//! let (one, two) = ([1], [comm.rank()]);
//! comm.scope(|scope| {
//!     let reduce = scope.start(comm.inner().allreduce(&one, &mut sum, fmi::op::Sum));
//!     let gather = scope.start(comm.inner().allgather(&two, &mut all));
//!     scope.wait(gather)?;
//!     scope.wait(reduce)
//! })?;
//! assert_eq!((sum, all), ([1], vec![0]));
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::communicator::{Communicator as Inner, Destination, Group, Invocation, Requests, Source, Status, Tag};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::op::Op;
use crate::request::Payload;
use crate::store::Store;
use crate::time::Instant;
use crate::{Config, Element, LinkInfo, RealNet, Remark};

mod persistent;
mod scope;

pub use persistent::{Message, Persistent, PersistentRecv, PersistentSend};
pub use scope::{Scope, Started};

/// A [`crate::Communicator`] with a runtime of its own, which clones and communicators made of it share. It must not be
/// used inside another runtime. Threads that use clones of it take turns at waiting.
#[derive(Clone)]
pub struct Communicator {
    hosted: Hosted<Inner>,
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator").field("inner", self.inner()).finish_non_exhaustive()
    }
}

/// Something of a group, which is dropped where the runtime of its connections is known.
struct Hosted<T> {
    inner: Option<T>,
    runtime: Arc<Runtime>,
}

impl<T> Hosted<T> {
    fn get(&self) -> &T {
        self.inner.as_ref().expect("it is given up with the host alone")
    }

    fn take(mut self) -> (T, Arc<Runtime>) {
        (self.inner.take().expect("it is given up with the host alone"), self.runtime.clone())
    }

    /// Another thing of the same group.
    fn other<U>(&self, inner: U) -> Hosted<U> {
        Hosted { inner: Some(inner), runtime: self.runtime.clone() }
    }
}

impl<T: Clone> Clone for Hosted<T> {
    fn clone(&self) -> Self {
        self.other(self.get().clone())
    }
}

impl<T> Drop for Hosted<T> {
    fn drop(&mut self) {
        let _context = self.runtime.enter();
        self.inner = None;
    }
}

/// Methods that wait for the operation of the same name.
macro_rules! waits {
    ($($(#[$doc:meta])* $name:ident $([$($generics:tt)*])? ($($argument:ident: $type:ty),*) $(-> $result:ty)?;)+) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// As the method of the same name of [`crate::Communicator`].
            pub fn $name $(<$($generics)*>)? (&self, $($argument: $type),*) -> waits!(@result $($result)?) {
                self.wait(self.inner().$name($($argument),*))
            }
        )+
    };
    (@result) => { Result<()> };
    (@result $result:ty) => { Result<$result> };
}

/// Methods that plan a persistent operation.
macro_rules! plans {
    ($($(#[$doc:meta])* $name:ident $([$($generics:tt)*])? ($($argument:ident: $type:ty),*) -> $result:ty;)+) => {
        $(
            $(#[$doc])*
            ///
            /// See the method of the same name of [`crate::Communicator`].
            pub fn $name $(<$($generics)*>)? (&self, $($argument: $type),*) -> $result {
                self.planned(self.inner().$name($($argument),*))
            }
        )+
    };
    (fallible: $($(#[$doc:meta])* $name:ident $([$($generics:tt)*])? ($($argument:ident: $type:ty),*) -> $result:ty;)+) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// As the method of the same name of [`crate::Communicator`].
            pub fn $name $(<$($generics)*>)? (&self, $($argument: $type),*) -> Result<$result> {
                self.inner().$name($($argument),*).map(|plan| self.planned(plan))
            }
        )+
    };
}

fn runtime(rank: u32) -> Result<Arc<Runtime>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map(Arc::new).map_err(|error| {
        let what = format!("cannot make a runtime: {error}");
        Error::new(Operation::Join, ErrorKind::Local(what)).on(rank).caused_by(error)
    })
}

impl Communicator {
    /// Joins the group that the environment names, as [`Config::from_env`] reads it.
    ///
    /// # Errors
    /// As [`Config::from_env`] and [`crate::Communicator::connect`].
    pub fn from_env() -> Result<Self> {
        Self::connect(&Config::from_env()?)
    }

    /// Joins a group.
    ///
    /// # Errors
    /// As [`crate::Communicator::connect`]; [`ErrorKind::Local`] if the system gives no runtime.
    pub fn connect(config: &Config) -> Result<Self> {
        let runtime = runtime(config.rank)?;
        let inner = runtime.block_on(async { Inner::connect(RealNet::new(), config).await })?;
        Ok(Self { hosted: Hosted { inner: Some(inner), runtime } })
    }

    /// Joins a group in a store: [`crate::Communicator::connect_by_store`].
    ///
    /// # Errors
    /// As [`crate::Communicator::connect_by_store`]; [`ErrorKind::Local`] if the system gives no runtime.
    pub fn connect_by_store(config: &Config, store: Arc<dyn Store>) -> Result<Self> {
        let runtime = runtime(config.rank)?;
        let inner = runtime.block_on(async { Inner::connect_by_store(RealNet::new(), config, store).await })?;
        Ok(Self { hosted: Hosted { inner: Some(inner), runtime } })
    }

    /// A group of `size` ranks in this process, by rank, each to be moved to a thread of its own.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] if the system gives no runtime.
    pub fn local(size: u32) -> Result<Vec<Self>> {
        let ranks = Inner::local(RealNet::new(), size).into_iter();
        let hosted = |inner: Inner| {
            let runtime = runtime(inner.rank())?;
            Ok(Self { hosted: Hosted { inner: Some(inner), runtime } })
        };
        ranks.map(hosted).collect()
    }

    /// The communicator inside, whose operations are requests.
    pub fn inner(&self) -> &Inner {
        self.hosted.get()
    }

    fn other(&self, inner: Inner) -> Self {
        Self { hosted: self.hosted.other(inner) }
    }

    // Waiting.

    /// Waits for any future, for instance a request. Others that wait meanwhile make no progress of their own:
    /// [`Communicator::scope`] lets several make progress together.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.hosted.runtime.block_on(future)
    }

    /// Waits for all requests, whether they fail or not: [`crate::request::wait_all`].
    pub fn wait_all<F: Future + Unpin>(&self, requests: impl IntoIterator<Item = F>) -> Vec<F::Output> {
        self.wait(crate::request::wait_all(requests))
    }

    /// Waits for one of the requests to end, and removes it: [`Requests::wait_any`].
    pub fn wait_any<F: Future + Unpin>(&self, requests: &mut Requests<F>) -> Option<(usize, F::Output)> {
        self.wait(requests.wait_any())
    }

    /// Waits for at least one of the requests to end, and removes all that have: [`Requests::wait_some`].
    pub fn wait_some<F: Future + Unpin>(&self, requests: &mut Requests<F>) -> Vec<(usize, F::Output)> {
        self.wait(requests.wait_some())
    }

    /// Looks whether a request has ended, without waiting for it: [`crate::request::test`].
    pub fn test<F: Future + Unpin>(&self, request: &mut F) -> Option<F::Output> {
        self.wait(crate::request::test(request))
    }

    // The group.

    /// This rank.
    pub fn rank(&self) -> u32 {
        self.inner().rank()
    }

    /// Number of ranks.
    pub fn size(&self) -> u32 {
        self.inner().size()
    }

    /// The time on the clock of the net below.
    pub fn now(&self) -> Instant {
        self.inner().now()
    }

    /// Sets the time for each operation that is called from now on: [`crate::Communicator::set_deadline`].
    pub fn set_deadline(&self, deadline: impl Into<Option<Duration>>) {
        self.inner().set_deadline(deadline);
    }

    /// A clone whose operations have this time: [`crate::Communicator::with_deadline`].
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        self.other(self.inner().with_deadline(deadline))
    }

    /// How each peer is reached, in rank order.
    pub fn links(&self) -> impl Iterator<Item = LinkInfo> + use<> {
        self.inner().links()
    }

    /// What this rank noticed of the network while the group formed that may be worth mending.
    pub fn remarks(&self) -> Vec<Remark> {
        self.inner().remarks()
    }

    /// Leaves the group gracefully: [`crate::Communicator::leave`].
    pub fn leave(self) {
        let (inner, runtime) = self.hosted.take();
        runtime.block_on(inner.leave());
    }

    /// Makes progress until `at` without an operation: [`crate::Communicator::progress_until`].
    pub fn progress_until(&self, at: Instant) {
        self.wait(self.inner().progress_until(at));
    }

    /// Its processes, in rank order.
    pub fn group(&self) -> Group {
        self.inner().group()
    }

    /// A communicator of the same ranks, whose operations never meet those of this one.
    ///
    /// # Errors
    /// As [`crate::Communicator::duplicate`].
    pub fn duplicate(&self) -> Result<Self> {
        self.inner().duplicate().map(|inner| self.other(inner))
    }

    /// Splits the ranks by `color`.
    ///
    /// # Errors
    /// As [`crate::Communicator::split`].
    pub fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Self>> {
        Ok(self.wait(self.inner().split(color, key))?.map(|inner| self.other(inner)))
    }

    /// Makes a communicator of `group`.
    ///
    /// # Errors
    /// As [`crate::Communicator::create_group`].
    pub fn create_group(&self, group: &Group, tag: u32) -> Result<Option<Self>> {
        Ok(self.inner().create_group(group, tag)?.map(|inner| self.other(inner)))
    }

    // Messages.

    /// Takes a message that comes, so that no other receive gets it.
    ///
    /// # Errors
    /// As [`crate::Communicator::matched_probe`].
    pub fn matched_probe(&self, source: impl Into<Source>, tag: impl Into<Tag>) -> Result<Message> {
        Ok(Message::new(self, self.wait(self.inner().matched_probe(source, tag))?))
    }

    /// Takes a message, so that no other receive gets it, if there is one.
    ///
    /// # Errors
    /// As [`crate::Communicator::try_matched_probe`].
    pub fn try_matched_probe(&self, source: impl Into<Source>, tag: impl Into<Tag>) -> Result<Option<Message>> {
        let found = self.wait(self.inner().try_matched_probe(source, tag))?;
        Ok(found.map(|message| Message::new(self, message)))
    }

    waits! {
        /// Sends a message.
        send[T: Element](to: impl Into<Destination>, tag: u32, data: &[T]);
        /// Sends a message whose memory is given away.
        send_owned(to: u32, tag: u32, data: impl Into<Payload>);
        /// Receives a message.
        recv[T: Element](source: impl Into<Source>, tag: impl Into<Tag>, buffer: &mut [T]) -> Status;
        /// Receives a message of any length into new memory.
        recv_vec[T: Element](source: impl Into<Source>, tag: impl Into<Tag>) -> (Vec<T>, Status);
        /// Receives a message of any length into the memory of `buffer`.
        recv_owned[T: Element](source: impl Into<Source>, tag: impl Into<Tag>, buffer: Vec<T>) -> (Vec<T>, Status);
        /// Sends and receives at once.
        sendrecv[T: Element](send: (impl Into<Destination>, &[T]), receive: (impl Into<Source>, &mut [T]), tag: u32) -> Status;
        /// Sends and receives at once, in one buffer.
        sendrecv_replace[T: Element](buffer: &mut [T], to: impl Into<Destination>, source: impl Into<Source>, tag: u32) -> Status;
        /// Sends a message, and waits until a receive has got it.
        ssend[T: Element](to: impl Into<Destination>, tag: u32, data: &[T]);
        /// Runs an operation that is given by value.
        invoke(call: Invocation<'_>) -> Option<Status>;
        /// Waits for a message and leaves it where it is.
        probe(source: impl Into<Source>, tag: impl Into<Tag>) -> Status;
        /// Looks for a message without waiting, and leaves it where it is.
        try_probe(source: impl Into<Source>, tag: impl Into<Tag>) -> Option<Status>;
    }

    // Collectives.

    waits! {
        /// Returns once all ranks have called it.
        barrier();
        /// Sends `buffer` of the root to all.
        broadcast[T: Element](buffer: &mut [T], root: u32);
        /// Gathers equally long blocks at the root.
        gather[T: Element](send: &[T], receive: &mut [T], root: u32);
        /// Gathers equally long blocks at the root, in one buffer.
        gather_in_place[T: Element](buffer: &mut [T], root: u32);
        /// Gathers blocks of any length at the root.
        gatherv[T: Element](send: &[T], receive: &mut [T], counts: &[usize], root: u32);
        /// Gathers blocks of any length at the root, in one buffer.
        gatherv_in_place[T: Element](buffer: &mut [T], counts: &[usize], root: u32);
        /// Scatters blocks of any length from the root, in one buffer.
        scatterv_in_place[T: Element](buffer: &mut [T], counts: &[usize], root: u32);
        /// Scatters equally long blocks from the root.
        scatter[T: Element](send: &[T], receive: &mut [T], root: u32);
        /// Scatters equally long blocks from the root, in one buffer.
        scatter_in_place[T: Element](buffer: &mut [T], root: u32);
        /// Scatters blocks of any length from the root.
        scatterv[T: Element](send: &[T], counts: &[usize], receive: &mut [T], root: u32);
        /// Gathers equally long blocks to all.
        allgather[T: Element](send: &[T], receive: &mut [T]);
        /// Gathers equally long blocks to all, in one buffer.
        allgather_in_place[T: Element](buffer: &mut [T]);
        /// Gathers blocks of any length to all.
        allgatherv[T: Element](send: &[T], receive: &mut [T], counts: &[usize]);
        /// Gathers blocks of any length to all, in one buffer.
        allgatherv_in_place[T: Element](buffer: &mut [T], counts: &[usize]);
        /// A block from each to each.
        alltoall[T: Element](send: &[T], receive: &mut [T]);
        /// A block from each to each, in one buffer.
        alltoall_in_place[T: Element](buffer: &mut [T]);
        /// A block of any length from each to each.
        alltoallv[T: Element](send: &[T], send_counts: &[usize], receive: &mut [T], receive_counts: &[usize]);
        /// A block of any length from each to each, in one buffer.
        alltoallv_in_place[T: Element](buffer: &mut [T], counts: &[usize]);
        /// Combines to the root.
        reduce[T: Element, O: Op<T>](send: &[T], receive: &mut [T], op: O, root: u32);
        /// Combines to the root, in one buffer.
        reduce_in_place[T: Element, O: Op<T>](buffer: &mut [T], op: O, root: u32);
        /// Combines to all.
        allreduce[T: Element, O: Op<T>](send: &[T], receive: &mut [T], op: O);
        /// Combines to all, in one buffer.
        allreduce_in_place[T: Element, O: Op<T>](buffer: &mut [T], op: O);
        /// Combines, and gives each rank its block, of any length, in one buffer.
        reduce_scatter_in_place[T: Element, O: Op<T>](buffer: &mut [T], counts: &[usize], op: O);
        /// Combines, and gives each rank its block.
        reduce_scatter_block[T: Element, O: Op<T>](send: &[T], receive: &mut [T], op: O);
        /// Combines, and gives each rank its block, in one buffer.
        reduce_scatter_block_in_place[T: Element, O: Op<T>](buffer: &mut [T], op: O);
        /// Combines, and gives each rank its block, of any length.
        reduce_scatter[T: Element, O: Op<T>](send: &[T], receive: &mut [T], counts: &[usize], op: O);
        /// Combines the ranks up to this one.
        scan[T: Element, O: Op<T>](send: &[T], receive: &mut [T], op: O);
        /// Combines the ranks up to this one, in one buffer.
        scan_in_place[T: Element, O: Op<T>](buffer: &mut [T], op: O);
        /// Combines the ranks below this one.
        exscan[T: Element, O: Op<T>](send: &[T], receive: &mut [T], op: O);
        /// Combines the ranks below this one, in one buffer.
        exscan_in_place[T: Element, O: Op<T>](buffer: &mut [T], op: O);
    }
}

/// Values.
#[cfg(feature = "values")]
impl Communicator {
    waits! {
        /// Sends a value.
        send_value[V: serde::Serialize](to: u32, tag: u32, value: &V);
        /// Receives a value.
        recv_value[V: serde::de::DeserializeOwned](source: impl Into<Source>, tag: impl Into<Tag>) -> (V, Status);
        /// Sends a value of the root to all.
        broadcast_value[V: serde::Serialize + serde::de::DeserializeOwned](value: Option<&V>, root: u32) -> V;
        /// Gathers a value of each rank to all.
        allgather_value[V: serde::Serialize + serde::de::DeserializeOwned](value: &V) -> Vec<V>;
        /// Gathers a value of each rank at the root.
        gather_value[V: serde::Serialize + serde::de::DeserializeOwned](value: &V, root: u32) -> Vec<V>;
    }
}

/// Persistent operations.
impl Communicator {
    fn planned<P: persistent::Planned>(&self, plan: P) -> P::Blocking {
        plan.hosted(self)
    }

    plans! {
        /// Plans a barrier.
        barrier_init() -> Persistent<u8>;
        /// Plans a reduction to all.
        allreduce_init[T: Element, O: Op<T>](count: usize, op: O) -> Persistent<T, O>;
        /// Plans a reduction to all, in one buffer.
        allreduce_in_place_init[T: Element, O: Op<T>](count: usize, op: O) -> Persistent<T, O>;
        /// Plans a gather to all.
        allgather_init[T: Element](count: usize) -> Persistent<T>;
        /// Plans a gather to all, in one buffer.
        allgather_in_place_init[T: Element](count: usize) -> Persistent<T>;
        /// Plans an exchange of blocks.
        alltoall_init[T: Element](count: usize) -> Persistent<T>;
        /// Plans an exchange of blocks, in one buffer.
        alltoall_in_place_init[T: Element](count: usize) -> Persistent<T>;
        /// Plans a reduction that gives each rank its block.
        reduce_scatter_block_init[T: Element, O: Op<T>](count: usize, op: O) -> Persistent<T, O>;
        /// Plans a reduction that gives each rank its block, in one buffer.
        reduce_scatter_block_in_place_init[T: Element, O: Op<T>](count: usize, op: O) -> Persistent<T, O>;
        /// Plans an inclusive scan.
        scan_init[T: Element, O: Op<T>](count: usize, op: O) -> Persistent<T, O>;
        /// Plans an inclusive scan, in one buffer.
        scan_in_place_init[T: Element, O: Op<T>](count: usize, op: O) -> Persistent<T, O>;
        /// Plans an exclusive scan.
        exscan_init[T: Element, O: Op<T>](count: usize, op: O) -> Persistent<T, O>;
        /// Plans an exclusive scan, in one buffer.
        exscan_in_place_init[T: Element, O: Op<T>](count: usize, op: O) -> Persistent<T, O>;
    }

    plans! {
        fallible:
        /// Prepares sends to a rank with a tag.
        send_init[T: Element](to: impl Into<Destination>, tag: u32) -> PersistentSend<T>;
        /// Prepares receives from a source with a tag.
        recv_init[T: Element](source: impl Into<Source>, tag: impl Into<Tag>) -> PersistentRecv<T>;
        /// Plans a broadcast.
        broadcast_init[T: Element](count: usize, root: u32) -> Persistent<T>;
        /// Plans a reduction to the root.
        reduce_init[T: Element, O: Op<T>](count: usize, op: O, root: u32) -> Persistent<T, O>;
        /// Plans a reduction to the root, in one buffer.
        reduce_in_place_init[T: Element, O: Op<T>](count: usize, op: O, root: u32) -> Persistent<T, O>;
        /// Plans a gather at the root.
        gather_init[T: Element](count: usize, root: u32) -> Persistent<T>;
        /// Plans a gather at the root, in one buffer.
        gather_in_place_init[T: Element](count: usize, root: u32) -> Persistent<T>;
        /// Plans a gather of blocks of any length at the root.
        gatherv_init[T: Element](own: usize, counts: &[usize], root: u32) -> Persistent<T>;
        /// Plans a scatter from the root.
        scatter_init[T: Element](count: usize, root: u32) -> Persistent<T>;
        /// Plans a scatter from the root, in one buffer.
        scatter_in_place_init[T: Element](count: usize, root: u32) -> Persistent<T>;
        /// Plans a scatter of blocks of any length from the root.
        scatterv_init[T: Element](counts: &[usize], own: usize, root: u32) -> Persistent<T>;
        /// Plans a gather of blocks of any length to all.
        allgatherv_init[T: Element](own: usize, counts: &[usize]) -> Persistent<T>;
        /// Plans an exchange of blocks of any length.
        alltoallv_init[T: Element](send_counts: &[usize], receive_counts: &[usize]) -> Persistent<T>;
        /// Plans a gather of blocks of any length at the root, in one buffer.
        gatherv_in_place_init[T: Element](own: usize, counts: &[usize], root: u32) -> Persistent<T>;
        /// Plans a scatter of blocks of any length from the root, in one buffer.
        scatterv_in_place_init[T: Element](counts: &[usize], own: usize, root: u32) -> Persistent<T>;
        /// Plans a gather of blocks of any length to all, in one buffer.
        allgatherv_in_place_init[T: Element](counts: &[usize]) -> Persistent<T>;
        /// Plans an exchange of blocks of any length, in one buffer.
        alltoallv_in_place_init[T: Element](counts: &[usize]) -> Persistent<T>;
        /// Plans a reduction that gives each rank its block, of any length, in one buffer.
        reduce_scatter_in_place_init[T: Element, O: Op<T>](counts: &[usize], op: O) -> Persistent<T, O>;
        /// Plans a reduction that gives each rank its block, of any length.
        reduce_scatter_init[T: Element, O: Op<T>](counts: &[usize], op: O) -> Persistent<T, O>;
    }
}
