//! Several operations at once, without `async`.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Runtime;

use super::Communicator;
use crate::error::{Error, Result};

/// Operations that make progress together: whichever is waited for, all are polled.
///
/// Buffers that they use are borrowed until the scope ends.
pub struct Scope<'env> {
    running: RefCell<FuturesUnordered<Running<'env>>>,
    /// The first error of an operation that was not waited for.
    unseen: Unseen,
    runtime: Arc<Runtime>,
}

type Running<'env> = Pin<Box<dyn Future<Output = ()> + 'env>>;
type Unseen = Rc<RefCell<Option<Error>>>;

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

/// An operation of a [`Scope`] that was started. Dropping this does not give the operation up.
#[must_use = "an error of an operation that is not waited for is that of the scope"]
pub struct Started<T> {
    result: Rc<RefCell<Option<Result<T>>>>,
    unseen: Unseen,
}

impl<T> fmt::Debug for Started<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started").finish_non_exhaustive()
    }
}

impl<T> Drop for Started<T> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.result.take() {
            self.unseen.borrow_mut().get_or_insert(error);
        }
    }
}

impl Communicator {
    /// Runs `work`, which starts operations and waits for them in any order, and then waits for those that are left.
    ///
    /// Whichever is waited for, all that were started make progress, so no order of waits hangs: a receive and a send may
    /// be started, and either be waited for first. What an operation borrows must outlive the scope, as in
    /// [`std::thread::scope`]; a buffer that it writes can be read after the scope.
    ///
    /// # Errors
    /// That of `work`; else the first one of an operation that was not waited for.
    ///
    /// # Panics
    /// If `work` does, in which case operations are dropped.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> fmi::Result<()> {
    /// let ranks = fmi::blocking::Communicator::local(2)?;
    /// std::thread::scope(|threads| {
    ///     for comm in &ranks {
    ///         threads.spawn(move || {
    ///             let (own, mut other) = (vec![comm.rank(); 1 << 20], vec![0; 1 << 20]);
    ///             comm.scope(|scope| {
    ///                 let send = scope.start(comm.inner().send(1 - comm.rank(), 0, &own));
    ///                 let receive = scope.start(comm.inner().recv(1 - comm.rank(), 0, &mut other));
    ///                 scope.wait(send)?;
    ///                 scope.wait(receive)
    ///             })
    ///             .expect("both are there");
    ///             assert_eq!(other[7], 1 - comm.rank());
    ///         });
    ///     }
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn scope<'env, T>(&self, work: impl FnOnce(&Scope<'env>) -> Result<T>) -> Result<T> {
        let scope = Scope {
            running: RefCell::new(FuturesUnordered::new()),
            unseen: Unseen::default(),
            runtime: self.hosted.runtime.clone(),
        };
        let result = work(&scope);
        scope.wait_for_all();
        let unseen = scope.unseen.take();
        match (result, unseen) {
            (Ok(_), Some(error)) => Err(error),
            (result, _) => result,
        }
    }
}

impl<'env> Scope<'env> {
    /// Starts an operation. It has its place from the call that made `request`, and makes progress while any
    /// operation of the scope is waited for.
    pub fn start<T: 'env>(&self, request: impl Future<Output = Result<T>> + 'env) -> Started<T> {
        let result = Rc::new(RefCell::new(None));
        let (place, unseen) = (result.clone(), self.unseen.clone());
        self.running.borrow_mut().push(Box::pin(async move {
            match request.await {
                // Whoever would look at it is gone.
                Err(error) if Rc::strong_count(&place) == 1 => drop(unseen.borrow_mut().get_or_insert(error)),
                result => *place.borrow_mut() = Some(result),
            }
        }));
        Started { result, unseen: self.unseen.clone() }
    }

    /// Waits for an operation of this scope. The others make progress meanwhile.
    ///
    /// # Errors
    /// As the operation.
    ///
    /// # Panics
    /// If the operation belongs to another scope, which has ended.
    pub fn wait<T>(&self, started: Started<T>) -> Result<T> {
        self.runtime.block_on(std::future::poll_fn(|cx| {
            let is_idle = self.poll_all(cx).is_ready();
            match started.result.take() {
                Some(result) => Poll::Ready(result),
                None if is_idle => panic!("the operation belongs to another scope"),
                None => Poll::Pending,
            }
        }))
    }

    /// Looks whether an operation has ended, without waiting for it. All make progress.
    ///
    /// # Errors
    /// As the operation.
    pub fn test<T>(&self, started: &mut Started<T>) -> Result<Option<T>> {
        self.runtime.block_on(crate::request::test(&mut std::future::poll_fn(|cx| {
            let poll = self.poll_all(cx);
            if started.result.borrow().is_some() { Poll::Ready(()) } else { poll }
        })));
        started.result.take().transpose()
    }

    /// Waits for all that were started. Their results stay where they are.
    pub fn wait_for_all(&self) {
        self.runtime.block_on(std::future::poll_fn(|cx| self.poll_all(cx)));
    }

    /// Polls what can make progress; ready when none is left.
    fn poll_all(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut running = self.running.borrow_mut();
        while let Some(()) = std::task::ready!(running.poll_next_unpin(cx)) {}
        Poll::Ready(())
    }
}
