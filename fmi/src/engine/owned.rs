//! Sends and receives whose memory is the engine's until they end.

use std::any::Any;
use std::task::Poll;

use bytes::Bytes;

use super::parcel::{Parcel, Room};
use super::task::Body;
use super::{Call, Engine};
use crate::channel::Mode;
use crate::datatype::{Element, code_of};
use crate::error::Result;
use crate::proto::frame::Envelope;
use crate::proto::group::Matched;
use crate::proto::mailbox::Pattern;
use crate::proto::rank::Slot;

/// A message that goes whichever operation is polled.
pub(crate) struct Outbound {
    pub(crate) peer: Slot,
    pub(crate) envelope: Envelope,
    pub(crate) data: Bytes,
    pub(crate) parcel: Parcel,
}

/// A receive that takes its message whichever operation is polled.
pub(crate) struct Inbound {
    pub(crate) pattern: Pattern,
    pub(crate) datatype: u32,
    pub(crate) room: Box<dyn OwnedRoom>,
    /// Bytes of the message that are there.
    pub(crate) moved: usize,
    pub(crate) matched: Option<Matched>,
    pub(crate) is_done: bool,
}

impl Inbound {
    pub(crate) fn new<T: Element>(pattern: Pattern, mut buffer: Vec<T>) -> Self {
        buffer.clear();
        let (datatype, room) = (code_of::<T>(), Box::new(buffer));
        Self { pattern, datatype, room, moved: 0, matched: None, is_done: false }
    }

    /// The memory, of elements of the type that was given, and the message that is in it.
    pub(crate) fn into_parts<T: Element>(self) -> (Vec<T>, Matched) {
        let elements = self.room.into_any().downcast::<Vec<T>>().expect("the memory that was given");
        (*elements, self.matched.expect("a receive ends with its message"))
    }
}

/// Memory for what arrives, which its owner gets back.
pub(crate) trait OwnedRoom: Room + Send {
    fn bytes(&self) -> &[u8];

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

impl<T: Element> OwnedRoom for Vec<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

impl Engine {
    /// Takes over a send that could not be done at its call.
    pub(crate) fn start_send(&mut self, call: &Call, send: Outbound) {
        self.start(call, Body::Send(send));
    }

    /// Takes over a receive.
    pub(crate) fn start_receive(&mut self, call: &Call, receive: Inbound) {
        self.group.drive(call.id);
        self.start(call, Body::Receive(receive));
    }

    /// The end of a send that was taken over.
    pub(crate) fn poll_sent(&mut self, mode: Mode<'_>, call: &mut Call) -> Poll<Result<()>> {
        let (result, body) = std::task::ready!(self.poll_end(mode, call));
        self.dispose(body);
        Poll::Ready(result)
    }

    /// The end of a receive that was taken over, with its memory.
    pub(crate) fn poll_received(&mut self, mode: Mode<'_>, call: &mut Call) -> Poll<Result<Inbound>> {
        let (result, body) = std::task::ready!(self.poll_end(mode, call));
        match (result, body) {
            (Ok(()), Body::Receive(receive)) => Poll::Ready(Ok(receive)),
            (Err(error), body) => {
                self.dispose(body);
                Poll::Ready(Err(error))
            }
            (Ok(()), Body::Send(_) | Body::Collective(_)) => panic!("a receive stays one"),
        }
    }

    pub(super) fn run_send(&mut self, mode: Mode<'_>, call: &mut Call, send: &mut Outbound) -> Poll<Result<()>> {
        let Outbound { peer, envelope, data, parcel } = send;
        self.poll_send_message(mode, call, *peer, (envelope, data), parcel)
    }

    pub(super) fn run_receive(&mut self, mode: Mode<'_>, call: &mut Call, receive: &mut Inbound) -> Poll<Result<()>> {
        let Inbound { pattern, datatype, room, moved, matched, is_done } = receive;
        *matched = Some(std::task::ready!(self.poll_match(mode, call, pattern))?);
        std::task::ready!(self.poll_message(mode, call, *datatype, &mut **room, moved))?;
        *is_done = true;
        Poll::Ready(Ok(()))
    }

    /// Ends a send. What is begun of it is sent whole.
    pub(super) fn end_send(&mut self, call: &Call, send: &Outbound) {
        let Outbound { peer, envelope, data, parcel } = send;
        self.give_up_send(call, *peer, envelope, data, *parcel);
    }

    /// Ends a receive; one that is not done leaves its message to others.
    pub(super) fn end_receive(&mut self, call: &Call, receive: &Inbound) {
        if receive.is_done {
            return self.end(call);
        }
        self.release(call, &receive.room.bytes()[..receive.moved]);
    }
}
