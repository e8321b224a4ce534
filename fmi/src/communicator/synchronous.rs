//! Synchronous messages, whose sender learns that they were received.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::channel::Mode;
use crate::communicator::Communicator;
use crate::communicator::base::Base;
use crate::communicator::message::Destination;
use crate::datatype::{Datatype, Element};
use crate::engine::parcel::Parcel;
use crate::engine::{Call, Engine};
use crate::error::{Operation, Result};
use crate::proto::frame::Envelope;
use crate::proto::group::What;
use crate::proto::rank::{Rank, Slot};

/// A synchronous message on its way out. MPI 4.1 §3.7.2, the request of MPI_Issend.
#[must_use = "a request makes progress when it is polled"]
pub struct SsendRequest<'a> {
    base: Arc<Base>,
    data: &'a [u8],
    state: State,
}

enum State {
    Over(Option<Result<()>>),
    Running { call: Call, peer: Slot, envelope: Envelope, parcel: Parcel, is_sent: bool },
}

impl fmt::Debug for SsendRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SsendRequest").finish_non_exhaustive()
    }
}

impl Communicator {
    /// As [`Communicator::send`], but the future is done only once a receive has got the message: from then on, what the
    /// receiver does next depends on this rank no more. A probe is no receive, but a message that it took is received
    /// once [`Message::recv`](crate::Message::recv) is polled.
    ///
    /// The receiver's word of it goes out like all else, when that rank's operations are polled: as a rule at once.
    ///
    /// Two ranks that each wait for such a message to be received before they receive themselves wait for each other
    /// until their deadline.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fmi::Result<()> {
    /// let ranks = fmi::Communicator::local(fmi::RealNet::new(), 2);
    /// let (mut word, [zero, one]) = ([0u8], [&ranks[0], &ranks[1]]);
    /// futures_util::future::try_join(zero.ssend(1, 7, &[42u8]), one.recv(0, 7, &mut word)).await?;
    /// assert_eq!(word, [42]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Communicator::send`]; [`ErrorKind::Deadline`](crate::ErrorKind::Deadline) if nobody receives it in time, in
    /// which case it can still be received.
    ///
    /// # Cancel safety
    /// As [`Communicator::send`]: a message that is sent can be received, whether its sender still waits or not.
    ///
    /// MPI 4.1 §3.4, MPI_Ssend; §3.7.2, MPI_Issend.
    pub fn ssend<'a, T: Element>(&self, to: impl Into<Destination>, tag: u32, data: &'a [T]) -> SsendRequest<'a> {
        self.ssend_as(to.into(), tag, Datatype::of::<T>(), bytemuck::cast_slice(data))
    }

    pub(super) fn ssend_as<'a>(
        &self,
        to: Destination,
        tag: u32,
        datatype: Datatype,
        data: &'a [u8],
    ) -> SsendRequest<'a> {
        let state = match self.checked_destination(Operation::SynchronousSend, to) {
            Ok(Some(rank)) => self.begin_ssend(rank, tag, datatype, data),
            Ok(None) => Ok(State::Over(Some(Ok(())))),
            Err(error) => Err(error),
        };
        let state = state.unwrap_or_else(|error| State::Over(Some(Err(error))));
        SsendRequest { base: self.shared.clone(), data, state }
    }

    fn begin_ssend(&self, to: Rank, tag: u32, datatype: Datatype, data: &[u8]) -> Result<State> {
        let (operation, peer) = (Operation::SynchronousSend, self.shared.members.slot(to));
        self.shared.with(|engine| {
            if let Some(error) = engine.revocation(self.id, operation) {
                return Err(error);
            }
            let message = self.next_message(engine, peer, tag, datatype.code(), data.len());
            let envelope = Envelope { synchronous: true, ..message };
            let call = engine.post(self.id, operation, What::Send(peer), self.until())?;
            engine.group.expect_match(call.id, envelope.sequence);
            let is_sent = peer == engine.me;
            if is_sent {
                engine.group.begun(call.id);
                if let Err(failure) = engine.group.send_to_self(envelope, data) {
                    let error = engine.error_of(&call, failure);
                    engine.end(&call);
                    return Err(error);
                }
            } else {
                engine.announce(&call, &envelope);
            }
            let mut state = State::Running { call, peer, envelope, parcel: Parcel::default(), is_sent };
            // Nobody waits yet: whoever polls it says so. What fails fails again then.
            let _ = state.advance(engine, Mode::Try, data);
            Ok(state)
        })
    }
}

impl State {
    /// Sends what is left to be sent; ready when it is.
    fn advance(&mut self, engine: &mut Engine, mode: Mode<'_>, data: &[u8]) -> Poll<Result<()>> {
        let Self::Running { call, peer, envelope, parcel, is_sent } = self else { return Poll::Ready(Ok(())) };
        if !*is_sent {
            ready!(engine.poll_send_message(mode, call, *peer, (envelope, data), parcel))?;
            engine.group.sent(call.id);
            *is_sent = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Future for SsendRequest<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { base, data, state } = &mut *self;
        let State::Running { call, peer, envelope, parcel, is_sent } = state else {
            let State::Over(result) = state else { panic!("just seen to be over") };
            return Poll::Ready(result.take().expect("polled once after its end"));
        };
        let result = ready!(base.drive(cx, call, |engine, call, mode| {
            if !*is_sent {
                ready!(engine.poll_send_message(mode, call, *peer, (envelope, data), parcel))?;
                engine.group.sent(call.id);
                *is_sent = true;
            }
            engine.poll_matched(mode, call, *peer)
        }));
        self.end();
        Poll::Ready(result)
    }
}

impl SsendRequest<'_> {
    fn end(&mut self) {
        if let State::Running { call, peer, envelope, parcel, is_sent } = &self.state {
            self.base.with(|engine| {
                if *is_sent {
                    engine.end(call);
                } else {
                    engine.give_up_send(call, *peer, envelope, self.data, *parcel);
                }
            });
            self.state = State::Over(None);
        }
    }
}

impl Drop for SsendRequest<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
