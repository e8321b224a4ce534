//! RESP, the protocol of Redis, as a server speaks it: requests come in pieces, answers go out in pieces.
//!
//! A [`Reader`] takes a stream of bytes apart into requests. What is small stays where it was read to; an argument of
//! [`BODY_BYTES_MIN`] or more is read straight into memory of its own, which then is the body that a store keeps. An
//! [`Answer`] collects what is said to a client, and carries large bodies by reference.
//!
//! A request is a flat list of arguments. Its number of arguments, the length of each, that of lines, and all that it
//! holds at once are bounded; nothing is set aside for bytes that were only announced.

mod answer;
mod inline;

use bytes::buf::Limit;
use bytes::{BufMut, Bytes};

pub use answer::Answer;

/// The longest line, as with Redis: a header, or a request of one line.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// The longest argument, as with Redis by default (`proto-max-bulk-len`).
pub const ARGUMENT_BYTES_MAX: usize = 512 << 20;
/// The most arguments of a request.
pub const ARGUMENTS_MAX: usize = 1 << 20;
/// From this length on an argument has memory of its own.
pub const BODY_BYTES_MIN: usize = 16 << 10;
/// A request that holds no more than this is taken however little memory there is, so that somebody can make room.
pub const SMALL_REQUEST_BYTES: usize = 64 << 10;
/// Room for bytes whose meaning is not known yet.
const READ_BYTES: usize = 64 << 10;
/// The least room that is worth a call of the system.
const ROOM_BYTES_MIN: usize = 4 << 10;
/// A body has all of its memory once so much of it has come.
const FIRST_BYTES: usize = 1 << 20;

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "internal")]
pub struct Limits {
    /// Whether it may send requests of any use; else they are as small as what makes it known.
    pub is_known: bool,
    /// What this reader may hold.
    pub held_bytes_max: usize,
}

/// Bytes that are no request. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts, which are those of Redis, say it")]
#[non_exhaustive]
pub enum ProtocolError {
    #[error("ERR Protocol error: too big inline request")]
    LongLine,
    #[error("ERR Protocol error: unbalanced quotes in request")]
    Quotes,
    #[error("ERR Protocol error: too big mbulk count string")]
    LongCount,
    #[error("ERR Protocol error: invalid multibulk length")]
    Count,
    #[error("ERR Protocol error: unauthenticated multibulk length")]
    StrangersCount,
    #[error("ERR Protocol error: expected '$', got '{}'", char::from(*.0))]
    NoArgument(u8),
    #[error("ERR Protocol error: too big bulk count string")]
    LongLength,
    #[error("ERR Protocol error: invalid bulk length")]
    Length,
    #[error("ERR Protocol error: unauthenticated bulk length")]
    StrangersLength,
}

/// One that is not known says who it is, and no more.
const STRANGERS_ARGUMENTS_MAX: usize = 10;
const STRANGERS_BYTES_MAX: usize = 16 << 10;

#[derive(Debug)]
enum Argument {
    /// In the bytes that were read, counted from the start of the request.
    Span {
        start: usize,
        end: usize,
    },
    Body(Bytes),
}

#[derive(Debug, Default)]
enum State {
    /// Between requests.
    #[default]
    Start,
    /// The header of an argument is next.
    Header,
    /// An argument among the bytes that were read, and the end of its line.
    Short(usize),
    /// An argument with memory of its own.
    Body { body: Vec<u8>, length: usize },
    /// Bytes that there is no room for.
    Skip(usize),
    /// A request is complete.
    Whole,
}

/// Takes apart what one client sends.
#[derive(Debug, Default)]
pub struct Reader {
    raw: Vec<u8>,
    /// Where the request begins.
    start: usize,
    /// What follows has not been understood yet.
    at: usize,
    /// Up to here no end of a line was found.
    searched: usize,
    state: State,
    arguments: Vec<Argument>,
    /// Arguments that are still to come.
    left: usize,
    bodies_bytes: usize,
    /// Bytes of this request that were read among others, and are part of a body now.
    moved: usize,
    is_oversized: bool,
}

/// A whole number as Redis reads it: no sign but one minus, no zeros before it.
pub fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_plain = match digits {
        b"0" => digits.len() == text.len(),
        [first, ..] => (b'1'..=b'9').contains(first),
        [] => false,
    };
    let text = std::str::from_utf8(text).ok().filter(|_| is_plain)?;
    text.parse().ok()
}

impl Reader {
    /// Room for what the client sends next. Bytes that are put there are understood by [`next`](Self::next). `spare` is memory
    /// that readers lend each other, see [`tidy`](Self::tidy).
    pub fn room(&mut self, spare: &mut Vec<u8>) -> Limit<&mut Vec<u8>> {
        if let State::Body { body, length } = &mut self.state {
            // The end of the line is read with it, and cut off.
            let needed = *length + 2 - body.len();
            return body.limit(needed);
        }
        if self.raw.capacity() == 0 {
            self.raw = std::mem::take(spare);
        }
        if self.raw.capacity() - self.raw.len() < ROOM_BYTES_MIN {
            self.raw.reserve(READ_BYTES);
        }
        let room = self.raw.capacity() - self.raw.len();
        (&mut self.raw).limit(room)
    }

    /// Bytes that were read and not understood yet, or that make a request which is not finished.
    pub fn held(&self) -> usize {
        self.raw.len() - self.start + self.waiting()
    }

    /// The same without what was read ahead.
    fn waiting(&self) -> usize {
        let body = if let State::Body { body, .. } = &self.state { body.len() } else { 0 };
        self.bodies_bytes + body + self.arguments.len() * size_of::<Argument>()
    }

    /// Whether the client has begun something that it has not ended.
    pub fn is_within(&self) -> bool {
        self.held() > 0 || !matches!(self.state, State::Start)
    }

    /// Whether a whole request is there. After it, look at its arguments, then [`finish`](Self::finish) it.
    ///
    /// # Errors
    /// If what came is no request. Nothing after it can be understood.
    pub fn next(&mut self, limits: Limits) -> Result<bool, ProtocolError> {
        loop {
            let is_done = match &mut self.state {
                State::Whole => return Ok(true),
                State::Start => self.begin(limits)?,
                State::Header => self.header(limits)?,
                State::Short(length) => {
                    let end = self.at + *length;
                    let is_there = self.raw.len() >= end + 2;
                    if is_there {
                        let (start, end) = (self.at - self.start, end - self.start);
                        self.at += *length + 2;
                        self.push(Argument::Span { start, end });
                    }
                    is_there
                }
                State::Body { .. } => self.body(limits),
                State::Skip(left) => {
                    let count = (*left).min(self.raw.len() - self.at);
                    *left -= count;
                    let is_done = *left == 0;
                    // Nothing is kept of it.
                    self.raw.drain(self.at..self.at + count);
                    if is_done {
                        self.push(Argument::Span { start: 0, end: 0 });
                    }
                    is_done
                }
            };
            if !is_done {
                return Ok(false);
            }
        }
    }

    fn push(&mut self, argument: Argument) {
        self.searched = self.at;
        self.arguments.push(argument);
        self.left -= 1;
        self.state = if self.left == 0 { State::Whole } else { State::Header };
    }

    /// The position of `end` behind what is understood.
    fn find(&mut self, end: u8) -> Option<usize> {
        let from = self.searched.max(self.at);
        let found = self.raw[from..].iter().position(|byte| *byte == end).map(|at| from + at);
        self.searched = found.unwrap_or(self.raw.len());
        found
    }

    /// The number in a header of one line, without its first byte; `None` as long as the line is not whole.
    fn number(&mut self, too_long: ProtocolError) -> Result<Option<Option<i64>>, ProtocolError> {
        let Some(end) = self.find(b'\r') else {
            return if self.raw.len() - self.at > LINE_BYTES_MAX { Err(too_long) } else { Ok(None) };
        };
        if self.raw.len() < end + 2 {
            return Ok(None);
        }
        let number = integer(&self.raw[self.at + 1..end]);
        self.at = end + 2;
        self.searched = self.at;
        Ok(Some(number))
    }

    fn begin(&mut self, limits: Limits) -> Result<bool, ProtocolError> {
        self.start = self.at;
        match self.raw.get(self.at) {
            None => return Ok(false),
            Some(b'*') => {}
            Some(_) => return self.line(),
        }
        let Some(count) = self.number(ProtocolError::LongCount)? else { return Ok(false) };
        let count = count.ok_or(ProtocolError::Count)?;
        // None, or fewer, are no request, and no mistake either.
        let Ok(count) = usize::try_from(count.max(0)) else { return Err(ProtocolError::Count) };
        if count > ARGUMENTS_MAX {
            return Err(ProtocolError::Count);
        }
        if count > STRANGERS_ARGUMENTS_MAX && !limits.is_known {
            return Err(ProtocolError::StrangersCount);
        }
        if count == 0 {
            self.start = self.at;
        } else {
            self.left = count;
            self.state = State::Header;
        }
        Ok(true)
    }

    /// A request of one line, as a person types it.
    fn line(&mut self) -> Result<bool, ProtocolError> {
        let Some(end) = self.find(b'\n') else {
            let is_long = self.raw.len() - self.at > LINE_BYTES_MAX;
            return if is_long { Err(ProtocolError::LongLine) } else { Ok(false) };
        };
        let line = &self.raw[self.at..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let arguments = inline::split(line).ok_or(ProtocolError::Quotes)?;
        self.at = end + 1;
        self.searched = self.at;
        self.start = self.at;
        if !arguments.is_empty() {
            self.bodies_bytes = arguments.iter().map(Vec::len).sum();
            self.arguments.extend(arguments.into_iter().map(|it| Argument::Body(it.into())));
            self.state = State::Whole;
        }
        Ok(true)
    }

    fn header(&mut self, limits: Limits) -> Result<bool, ProtocolError> {
        match self.raw.get(self.at) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(byte) => return Err(ProtocolError::NoArgument(*byte)),
        }
        let Some(length) = self.number(ProtocolError::LongLength)? else { return Ok(false) };
        let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(ProtocolError::Length)?;
        if length > ARGUMENT_BYTES_MAX {
            return Err(ProtocolError::Length);
        }
        if length > STRANGERS_BYTES_MAX && !limits.is_known {
            return Err(ProtocolError::StrangersLength);
        }
        let there = self.at - self.start - self.moved + self.waiting();
        if self.is_oversized || there + length > limits.held_bytes_max.max(SMALL_REQUEST_BYTES) {
            self.give_up(length + 2);
        } else if length < BODY_BYTES_MIN {
            self.state = State::Short(length);
        } else {
            let mut body = Vec::new();
            if body.try_reserve_exact((length + 2).min(FIRST_BYTES)).is_err() {
                self.give_up(length + 2);
            } else {
                self.state = State::Body { body, length };
            }
        }
        Ok(true)
    }

    /// Keeps no more of a request that there is no memory for; `skip` bytes of this argument are still to come.
    fn give_up(&mut self, skip: usize) {
        self.is_oversized = true;
        (self.bodies_bytes, self.moved) = (0, 0);
        for argument in &mut self.arguments {
            *argument = Argument::Span { start: 0, end: 0 };
        }
        self.raw.drain(self.start..self.at);
        self.at = self.start;
        self.searched = self.at;
        self.state = State::Skip(skip);
    }

    /// True once all of a body is there, or it was given up.
    fn body(&mut self, limits: Limits) -> bool {
        let there = self.at - self.start - self.moved + self.waiting();
        let State::Body { body, length } = &mut self.state else { return false };
        let needed = *length + 2;
        let count = (needed - body.len()).min(self.raw.len() - self.at);
        let is_too_much = there + count > limits.held_bytes_max.max(SMALL_REQUEST_BYTES);
        if is_too_much || body.try_reserve_exact(count).is_err() {
            let left = needed - body.len();
            self.give_up(left);
            return true;
        }
        body.extend_from_slice(&self.raw[self.at..self.at + count]);
        self.at += count;
        self.moved += count;
        self.searched = self.at;
        if body.len() < needed {
            // Whoever has sent so much gets room for the rest.
            let is_full = body.len() == body.capacity();
            if is_full && body.try_reserve_exact(needed - body.len()).is_err() {
                let left = needed - body.len();
                self.give_up(left);
                return true;
            }
            return false;
        }
        body.truncate(*length);
        let body = Bytes::from(std::mem::take(body));
        self.bodies_bytes += body.len();
        self.push(Argument::Body(body));
        true
    }

    /// The number of arguments of the request.
    pub fn len(&self) -> usize {
        self.arguments.len()
    }

    /// Whether there is no request.
    pub fn is_empty(&self) -> bool {
        self.arguments.is_empty()
    }

    /// Whether there was no memory for the request. Its arguments are void.
    pub fn is_oversized(&self) -> bool {
        self.is_oversized
    }

    /// An argument; nothing if there are not so many.
    pub fn argument(&self, index: usize) -> &[u8] {
        match self.arguments.get(index) {
            Some(Argument::Span { start, end }) => &self.raw[self.start + start..self.start + end],
            Some(Argument::Body(body)) => body,
            None => &[],
        }
    }

    /// Takes an argument out of the request; a long one without a copy.
    pub fn take(&mut self, index: usize) -> Bytes {
        match self.arguments.get_mut(index) {
            Some(Argument::Body(body)) => {
                self.bodies_bytes -= body.len();
                std::mem::take(body)
            }
            Some(Argument::Span { .. }) | None => Bytes::copy_from_slice(self.argument(index)),
        }
    }

    /// Forgets the request; the next one begins behind it.
    pub fn finish(&mut self) {
        self.arguments.clear();
        self.arguments.shrink_to(64);
        (self.left, self.bodies_bytes, self.moved, self.is_oversized) = (0, 0, 0, false);
        self.start = self.at;
        self.state = State::Start;
    }

    /// Moves what is left of the bytes to the front, and gives memory that is not needed back, to `spare` if that is empty:
    /// a client that is idle has none.
    pub fn tidy(&mut self, spare: &mut Vec<u8>) {
        let rest = self.raw.len() - self.start;
        if rest == 0 || (rest < ROOM_BYTES_MIN && self.raw.capacity() >= READ_BYTES && spare.capacity() == 0) {
            let kept = self.raw[self.start..].to_vec();
            let mut raw = std::mem::replace(&mut self.raw, kept);
            if spare.capacity() == 0 && raw.capacity() <= 2 * READ_BYTES {
                raw.clear();
                *spare = raw;
            }
        } else if self.start > 0 {
            self.raw.drain(..self.start);
        }
        self.at -= self.start;
        self.searched = self.searched.max(self.start) - self.start;
        self.start = 0;
    }
}

#[cfg(test)]
mod tests;
