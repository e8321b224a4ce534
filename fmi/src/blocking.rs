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
//! Each method waits for the operation of the same name. Several at once are awaited through
//! [`Communicator::wait`]:
//!
//! ```no_run
//! # fn example(comm: &fmi::blocking::Communicator) -> fmi::Result<()> {
//! let (mut sum, mut all) = ([0], vec![0; comm.size() as usize]);
//! let (one, two) = ([1], [comm.rank()]);
//! let both = futures_util::future::try_join(
//!     comm.inner().allreduce(&one, &mut sum, fmi::op::Sum),
//!     comm.inner().allgather(&two, &mut all),
//! );
//! comm.wait(both)?;
//! # Ok(())
//! # }
//! ```

use std::fmt;

use tokio::runtime::Runtime;

use crate::communicator::{Source, Status, Tag};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::op::Op;
use crate::{Config, Element, RealNet};

/// A [`crate::Communicator`] with a runtime of its own. It belongs to the thread that made it, and must not be used
/// inside another runtime.
pub struct Communicator {
    inner: Option<crate::Communicator>,
    runtime: Runtime,
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator").field("inner", &self.inner).finish_non_exhaustive()
    }
}

macro_rules! forward {
    ($($(#[$doc:meta])* $name:ident $([$($generic:ident: $bound:path),+])? ($($argument:ident: $type:ty),*);)+) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// As the method of the same name of [`crate::Communicator`].
            pub fn $name$(<$($generic: $bound),+>)?(&self, $($argument: $type),*) -> Result<()> {
                self.wait(self.inner().$name($($argument),*))
            }
        )+
    };
    (by operator: $($(#[$doc:meta])* $name:ident ($($argument:ident: $type:ty),*);)+) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// As the method of the same name of [`crate::Communicator`].
            pub fn $name<T: Element, O: Op<T>>(&self, $($argument: $type),*) -> Result<()> {
                self.wait(self.inner().$name($($argument),*))
            }
        )+
    };
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
            let what = format!("cannot make a runtime: {error}");
            Error::new(Operation::Join, ErrorKind::Local(what)).on(config.rank).caused_by(error)
        })?;
        let inner = runtime.block_on(async { crate::Communicator::connect(RealNet::new(), config).await })?;
        Ok(Self { inner: Some(inner), runtime })
    }

    /// The communicator inside, whose operations are futures.
    pub fn inner(&self) -> &crate::Communicator {
        self.inner.as_ref().expect("it is given up with the facade alone")
    }

    /// Waits for any future, for instance of several operations.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// This rank.
    pub fn rank(&self) -> u32 {
        self.inner().rank()
    }

    /// Number of ranks.
    pub fn size(&self) -> u32 {
        self.inner().size()
    }

    /// Leaves the group gracefully.
    pub fn leave(mut self) {
        if let Some(inner) = self.inner.take() {
            self.runtime.block_on(inner.leave());
        }
    }

    /// Receives a message.
    ///
    /// # Errors
    /// As [`crate::Communicator::recv`].
    pub fn recv<T: Element>(&self, source: impl Into<Source>, tag: impl Into<Tag>, buffer: &mut [T]) -> Result<Status> {
        self.wait(self.inner().recv(source, tag, buffer))
    }

    /// Sends and receives at once.
    ///
    /// # Errors
    /// As [`crate::Communicator::sendrecv`].
    pub fn sendrecv<T: Element>(
        &self,
        send: (u32, &[T]),
        receive: (impl Into<Source>, &mut [T]),
        tag: u32,
    ) -> Result<Status> {
        self.wait(self.inner().sendrecv(send, receive, tag))
    }

    /// Waits for a message and leaves it where it is.
    ///
    /// # Errors
    /// As [`crate::Communicator::probe`].
    pub fn probe(&self, source: impl Into<Source>, tag: impl Into<Tag>) -> Result<Status> {
        self.wait(self.inner().probe(source, tag))
    }

    forward! {
        /// Returns once all ranks have called it.
        barrier();
        /// Sends a message.
        send[T: Element](to: u32, tag: u32, data: &[T]);
        /// Sends `buffer` of the root to all.
        broadcast[T: Element](buffer: &mut [T], root: u32);
        /// Gathers equally long blocks at the root.
        gather[T: Element](send: &[T], receive: &mut [T], root: u32);
        /// Gathers equally long blocks at the root, in one buffer.
        gather_in_place[T: Element](buffer: &mut [T], root: u32);
        /// Gathers blocks of any length at the root.
        gatherv[T: Element](send: &[T], receive: &mut [T], counts: &[usize], root: u32);
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
        /// A block from each to each.
        alltoall[T: Element](send: &[T], receive: &mut [T]);
        /// A block from each to each, in one buffer.
        alltoall_in_place[T: Element](buffer: &mut [T]);
        /// A block of any length from each to each.
        alltoallv[T: Element](send: &[T], send_counts: &[usize], receive: &mut [T], receive_counts: &[usize]);
    }

    forward! {
        by operator:
        /// Combines to the root.
        reduce(send: &[T], receive: &mut [T], op: O, root: u32);
        /// Combines to the root, in one buffer.
        reduce_in_place(buffer: &mut [T], op: O, root: u32);
        /// Combines to all.
        allreduce(send: &[T], receive: &mut [T], op: O);
        /// Combines to all, in one buffer.
        allreduce_in_place(buffer: &mut [T], op: O);
        /// Combines, and gives each rank its block.
        reduce_scatter_block(send: &[T], receive: &mut [T], op: O);
        /// Combines, and gives each rank its block, of any length.
        reduce_scatter(send: &[T], receive: &mut [T], counts: &[usize], op: O);
        /// Combines the ranks up to this one.
        scan(send: &[T], receive: &mut [T], op: O);
        /// Combines the ranks below this one.
        exscan(send: &[T], receive: &mut [T], op: O);
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Connections are closed where their runtime is known.
        let _context = self.runtime.enter();
        self.inner = None;
    }
}
