//! What methods of a blocking communicator return that has operations of its own.

use std::fmt;

use super::{Communicator, Hosted};
use crate::communicator::{self, Nothing, Status};
use crate::datatype::Element;
use crate::error::Result;
use crate::op::Op;
use crate::schedule::Algorithm;

/// A [`crate::Message`], which is received by waiting.
pub struct Message {
    hosted: Hosted<communicator::Message>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hosted.get().fmt(f)
    }
}

impl Message {
    pub(super) fn new(comm: &Communicator, message: communicator::Message) -> Self {
        Self { hosted: comm.hosted.other(message) }
    }

    /// Its sender, its tag and its length in bytes.
    pub fn status(&self) -> Status {
        self.hosted.get().status()
    }

    /// Receives it into the front of `buffer`.
    ///
    /// # Errors
    /// As [`crate::Message::recv`].
    pub fn recv<T: Element>(self, buffer: &mut [T]) -> Result<Status> {
        let (message, runtime) = self.hosted.take();
        runtime.block_on(message.recv(buffer))
    }
}

/// A persistent operation that becomes a blocking one.
pub(super) trait Planned {
    /// The blocking one.
    type Blocking;

    /// The blocking one, of the same runtime as `comm`.
    fn hosted(self, comm: &Communicator) -> Self::Blocking;
}

macro_rules! blocking {
    ($($(#[$doc:meta])* $name:ident [$($generics:tt)*] <$($given:ident),+>;)+) => {
        $(
            $(#[$doc])*
            pub struct $name <$($generics)*> {
                hosted: Hosted<communicator::$name<$($given),+>>,
            }

            impl<$($given),+> fmt::Debug for $name<$($given),+> {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.inner().fmt(f)
                }
            }

            impl<$($given),+> $name<$($given),+> {
                /// The operation inside, whose runs are requests: for a [scope](Communicator::scope).
                pub fn inner(&self) -> &communicator::$name<$($given),+> {
                    self.hosted.get()
                }
            }

            impl<$($given),+> Planned for communicator::$name<$($given),+> {
                type Blocking = $name<$($given),+>;

                fn hosted(self, comm: &Communicator) -> Self::Blocking {
                    $name { hosted: comm.hosted.other(self) }
                }
            }
        )+
    };
}

blocking! {
    /// A [`crate::Persistent`], whose runs are waited for.
    Persistent[T, O = Nothing]<T, O>;
    /// A [`crate::PersistentSend`], whose runs are waited for.
    PersistentSend[T]<T>;
    /// A [`crate::PersistentRecv`], whose runs are waited for.
    PersistentRecv[T]<T>;
}

impl<T: Element, O: Op<T>> Persistent<T, O> {
    /// Runs it with these buffers.
    ///
    /// # Errors
    /// As [`crate::Persistent::start`].
    pub fn start(&self, send: &[T], receive: &mut [T]) -> Result<()> {
        self.hosted.runtime.block_on(self.inner().start(send, receive))
    }

    /// Runs it in one buffer.
    ///
    /// # Errors
    /// As [`crate::Persistent::start_in_place`].
    pub fn start_in_place(&self, buffer: &mut [T]) -> Result<()> {
        self.hosted.runtime.block_on(self.inner().start_in_place(buffer))
    }

    /// The algorithm that was chosen.
    pub fn algorithm(&self) -> Algorithm {
        self.inner().algorithm()
    }
}

impl<T: Element> PersistentSend<T> {
    /// Sends `data`.
    ///
    /// # Errors
    /// As [`crate::PersistentSend::start`].
    pub fn start(&self, data: &[T]) -> Result<()> {
        self.hosted.runtime.block_on(self.inner().start(data))
    }
}

impl<T: Element> PersistentRecv<T> {
    /// Receives a message into the front of `buffer`.
    ///
    /// # Errors
    /// As [`crate::PersistentRecv::start`].
    pub fn start(&self, buffer: &mut [T]) -> Result<Status> {
        self.hosted.runtime.block_on(self.inner().start(buffer))
    }
}
