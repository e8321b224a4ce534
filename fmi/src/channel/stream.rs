//! One confirmed stream to a peer: frames in and out, straight from and into the caller's buffer.
//!
//! A better stream may take its place ([`Channel::switch_to`]). Each side then announces, between two frames,
//! that its next frame comes on the new stream, and sends there; it reads the old one up to the peer's
//! announcement and then the new one. The old one ends when both directions have moved.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;

use super::{Channel, ChannelError, LinkInfo, Mode, Outgoing};
use crate::error::Path;
use crate::net::ByteStream;
use crate::proto::frame::{ENVELOPE_BYTES, Envelope, Kind};
use crate::proto::wire::WireError;
use crate::time::Instant;

/// A peer whose kernel is silent for this long while bytes wait is lost.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(20);

/// The control channel is probed this often: a rendezvous that has restarted answers with a reset, and is
/// told of the group anew.
pub(crate) const CONTROL_KEEPALIVE: Duration = Duration::from_secs(2);
/// A rendezvous that is silent for this long is gone.
pub(crate) const CONTROL_SILENCE_MAX: Duration = Duration::from_secs(6);

/// How much is read ahead of what is asked for: small frames come whole, several at once.
const AHEAD_BYTES: usize = 8 << 10;

/// A frame up to this long is written as one piece: copying it is cheaper than a list for the kernel.
const JOINED_BYTES_MAX: usize = 1 << 10;
/// How much is written at once: what both sides of an exchange have in hand then stays in their caches.
const PIECE_BYTES: usize = 256 << 10;
/// What is asked for from here on is read alone: the frame behind it is worth a call of its own.
const ALONE_BYTES_MIN: usize = 32 << 10;

/// Memory that an empty outbox keeps.
const OUTBOX_KEPT_BYTES_MAX: usize = 64 << 10;

pub(crate) struct Link {
    stream: Box<dyn ByteStream>,
    info: LinkInfo,
    /// The stream that takes the place of this one.
    next: Option<(Box<dyn ByteStream>, LinkInfo)>,
    /// What was read ahead on it while its group of two formed.
    next_ahead: Vec<u8>,
    sending: Direction,
    /// Whether the peer has announced that it sends on the next stream.
    peer_has_switched: bool,
    /// Bytes read but not asked for, from `ahead_taken` to `ahead_filled`.
    ahead: Vec<u8>,
    ahead_taken: usize,
    ahead_filled: usize,
    /// Payload bytes of the frame at hand that have not been read.
    left: u64,
    /// Whether an operation's frame is partly written.
    mid_frame: bool,
    /// Whole frames, or the rest of one, that go ahead of any operation's.
    outbox: Vec<u8>,
    outbox_sent: usize,
    /// Whether a protected stream may hold the end of a frame back that nobody waits for.
    unflushed: bool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("info", &self.info).finish_non_exhaustive()
    }
}

/// On which stream this side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Current,
    /// The announcement ends here in the outbox; what is queued behind it goes on the next stream.
    Announcing(usize),
    Next,
}

impl Link {
    pub(crate) fn new(stream: Box<dyn ByteStream>, info: LinkInfo) -> Self {
        Self {
            stream,
            info,
            next: None,
            next_ahead: Vec::new(),
            sending: Direction::Current,
            peer_has_switched: false,
            ahead: Vec::new(),
            ahead_taken: 0,
            ahead_filled: 0,
            left: 0,
            mid_frame: false,
            outbox: Vec::new(),
            outbox_sent: 0,
            unflushed: false,
        }
    }

    /// How the peer is reached.
    pub(crate) fn info(&self) -> LinkInfo {
        self.info
    }

    /// Reads on where the next stream was left.
    fn read_next(&mut self) {
        let ahead = std::mem::take(&mut self.next_ahead);
        self.ahead.resize(self.ahead.len().max(ahead.len()), 0);
        self.ahead[..ahead.len()].copy_from_slice(&ahead);
        (self.ahead_taken, self.ahead_filled) = (0, ahead.len());
    }

    /// Drops the old stream once nothing more comes or goes on it.
    fn finish_switch(&mut self) {
        if self.peer_has_switched
            && self.sending == Direction::Next
            && let Some((stream, info)) = self.next.take()
        {
            (self.stream, self.info) = (stream, info);
            (self.sending, self.peer_has_switched) = (Direction::Current, false);
        }
    }

    /// Whether the peer is still to be told that the next frame comes on another stream.
    fn is_to_switch(&self) -> bool {
        self.next.is_some() && self.sending == Direction::Current
    }

    /// The stream, and the one that takes its place.
    fn streams(&mut self) -> impl Iterator<Item = &mut Box<dyn ByteStream>> {
        [&mut self.stream].into_iter().chain(self.next.as_mut().map(|(stream, _)| stream))
    }

    fn writing_stream(&mut self) -> &mut Box<dyn ByteStream> {
        match (self.sending, &mut self.next) {
            (Direction::Next, Some((stream, _))) => stream,
            _ => &mut self.stream,
        }
    }

    /// Sends the outbox up to `end`, and forgets that part of it.
    fn poll_outbox(&mut self, mode: Mode<'_>, end: usize) -> Poll<Result<(), ChannelError>> {
        while self.outbox_sent < end {
            let outbox = std::mem::take(&mut self.outbox);
            let sent = self.outbox_sent;
            let written = write(self.writing_stream(), mode, &[IoSlice::new(&outbox[sent..end])]);
            self.outbox = outbox;
            self.outbox_sent += ready!(written)?;
        }
        self.unflushed = true;
        ready!(flush(self.writing_stream(), mode))?;
        self.unflushed = false;
        self.outbox.drain(..end);
        self.outbox_sent = 0;
        if self.outbox.is_empty() {
            // The rest of a long frame that was given up leaves no memory behind.
            self.outbox.shrink_to(OUTBOX_KEPT_BYTES_MAX);
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes read ahead.
    fn ahead(&self) -> usize {
        self.ahead_filled - self.ahead_taken
    }

    /// Reads into `target`, and what comes behind it ahead.
    fn poll_read(&mut self, mode: Mode<'_>, target: &mut [u8]) -> Poll<Result<usize, ChannelError>> {
        if self.ahead.is_empty() {
            self.ahead.resize(AHEAD_BYTES, 0);
        }
        if self.ahead_taken == self.ahead_filled {
            (self.ahead_taken, self.ahead_filled) = (0, 0);
        }
        let stream = match (self.peer_has_switched, &mut self.next) {
            (false, _) => &mut self.stream,
            (true, Some((stream, _))) => stream,
            // Only the peer knows of the next stream.
            (true, None) => return Poll::Pending,
        };
        let wanted = target.len();
        let mut parts = [IoSliceMut::new(target), IoSliceMut::new(&mut self.ahead[self.ahead_filled..])];
        let parts = match wanted {
            0 => &mut parts[1..],
            ALONE_BYTES_MIN.. => &mut parts[..1],
            _ => &mut parts[..],
        };
        let read = match mode {
            Mode::Try => tried(stream.try_read(parts)),
            Mode::Park(waker) => stream.poll_read_vectored(&mut Context::from_waker(waker), parts),
        };
        let read = ready!(read)?;
        if read == 0 {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
        }
        let hit = read.min(wanted);
        self.ahead_filled += read - hit;
        Poll::Ready(Ok(hit))
    }
}

impl Channel for Link {
    fn poll_head(&mut self, mode: Mode<'_>) -> Poll<Result<Envelope, ChannelError>> {
        loop {
            while self.ahead() < ENVELOPE_BYTES {
                if self.ahead_taken > 0 {
                    self.ahead.copy_within(self.ahead_taken..self.ahead_filled, 0);
                    (self.ahead_taken, self.ahead_filled) = (0, self.ahead());
                }
                ready!(self.poll_read(mode, &mut []))?;
            }
            let head = self.ahead[self.ahead_taken..].first_chunk().expect("as long as an envelope");
            let envelope = Envelope::parse(head)?;
            self.ahead_taken += ENVELOPE_BYTES;
            if envelope.kind != Kind::Switch {
                self.left = envelope.length;
                return Poll::Ready(Ok(envelope));
            }
            if self.peer_has_switched || self.ahead() > 0 || envelope.length > 0 {
                return Poll::Ready(Err(WireError::Trailing(self.ahead()).into()));
            }
            self.peer_has_switched = true;
            if self.next.is_some() {
                self.read_next();
            }
            self.finish_switch();
        }
    }

    fn poll_body(&mut self, mode: Mode<'_>, target: &mut [u8]) -> Poll<Result<usize, ChannelError>> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let wanted = target.len().min(left);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        let ahead = self.ahead_filled - self.ahead_taken;
        let read = if ahead > 0 {
            let count = wanted.min(ahead);
            target[..count].copy_from_slice(&self.ahead[self.ahead_taken..self.ahead_taken + count]);
            self.ahead_taken += count;
            count
        } else {
            ready!(self.poll_read(mode, &mut target[..wanted]))?
        };
        self.left -= read as u64;
        Poll::Ready(Ok(read))
    }

    fn left(&self) -> u64 {
        self.left
    }

    fn poll_send(&mut self, mode: Mode<'_>, frame: Outgoing<'_>, sent: &mut usize) -> Poll<Result<(), ChannelError>> {
        let Outgoing { head, payload, whole } = frame;
        if *sent == 0 {
            ready!(self.poll_flush(mode))?;
        }
        let stream = match (self.sending, &mut self.next) {
            (Direction::Next, Some((stream, _))) => stream,
            _ => &mut self.stream,
        };
        let length = ENVELOPE_BYTES + payload.len();
        while *sent < length {
            let written = if *sent == 0 && length <= JOINED_BYTES_MAX {
                let mut joined = [0; JOINED_BYTES_MAX];
                joined[..ENVELOPE_BYTES].copy_from_slice(head);
                joined[ENVELOPE_BYTES..length].copy_from_slice(payload);
                write(stream, mode, &[IoSlice::new(&joined[..length])])
            } else if *sent < ENVELOPE_BYTES {
                let piece = &payload[..payload.len().min(PIECE_BYTES)];
                write(stream, mode, &[IoSlice::new(&head[*sent..]), IoSlice::new(piece)])
            } else {
                let rest = &payload[*sent - ENVELOPE_BYTES..];
                write(stream, mode, &[IoSlice::new(&rest[..rest.len().min(PIECE_BYTES)])])
            };
            *sent += ready!(written)?;
            self.mid_frame = true;
            if !whole && *sent < length {
                return Poll::Pending;
            }
        }
        // A protected stream may hold the last record back.
        ready!(flush(stream, mode))?;
        self.mid_frame = false;
        Poll::Ready(Ok(()))
    }

    fn take_over(&mut self, frame: Outgoing<'_>, sent: usize) {
        let Outgoing { head, payload, .. } = frame;
        let (head, payload) = (&head[sent.min(ENVELOPE_BYTES)..], &payload[sent.saturating_sub(ENVELOPE_BYTES)..]);
        // It was begun before what is queued, and nothing queued is partly sent while a frame is.
        let queued = std::mem::take(&mut self.outbox);
        self.outbox.reserve_exact(head.len() + payload.len() + queued.len());
        for part in [head, payload, &queued] {
            self.outbox.extend_from_slice(part);
        }
        (self.mid_frame, self.unflushed) = (false, true);
    }

    fn queue(&mut self, envelope: &Envelope, payload: &[u8]) {
        self.outbox.extend_from_slice(&envelope.emit());
        self.outbox.extend_from_slice(payload);
    }

    fn has_queued(&self) -> bool {
        self.outbox_sent < self.outbox.len() || self.unflushed || self.is_to_switch()
    }

    fn queued(&self) -> usize {
        self.outbox.len() - self.outbox_sent
    }

    fn is_mid_frame(&self) -> bool {
        self.mid_frame
    }

    fn poll_flush(&mut self, mode: Mode<'_>) -> Poll<Result<(), ChannelError>> {
        if self.mid_frame {
            return Poll::Pending;
        }
        if self.is_to_switch() {
            self.queue(&Envelope::new(Kind::Switch), &[]);
            self.sending = Direction::Announcing(self.outbox.len());
        }
        if let Direction::Announcing(end) = self.sending {
            ready!(self.poll_outbox(mode, end))?;
            self.sending = Direction::Next;
            self.finish_switch();
        }
        if self.has_queued() { self.poll_outbox(mode, self.outbox.len()) } else { Poll::Ready(Ok(())) }
    }

    /// A stream that is closed with bytes unread resets, and what is still on its way to the peer would be lost:
    /// hence the reading. A peer that has not switched still sends on the old stream.
    fn poll_close(&mut self, waker: &Waker) -> Poll<()> {
        let mut cx = Context::from_waker(waker);
        if ready!(self.poll_flush(Mode::Park(waker))).is_err() {
            return Poll::Ready(());
        }
        let mut is_open = false;
        for stream in self.streams() {
            is_open |= match Pin::new(&mut *stream).poll_shutdown(&mut cx) {
                Poll::Ready(Ok(())) => drained(stream, &mut cx).is_pending(),
                Poll::Ready(Err(_)) => false,
                Poll::Pending => true,
            };
        }
        if is_open { Poll::Pending } else { Poll::Ready(()) }
    }

    fn info(&self) -> LinkInfo {
        self.info
    }

    fn ends(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (self.stream.local_addr().ok(), self.stream.peer_addr().ok())
    }

    fn heard_at(&self) -> Option<Instant> {
        // On a relayed connection it is the rendezvous' kernel that answers.
        if self.info.path == Path::Relay { None } else { self.stream.heard_at() }
    }

    fn is_acknowledged(&self) -> Option<bool> {
        let streams =
            [(&self.stream, &self.info)].into_iter().chain(self.next.as_ref().map(|(stream, info)| (stream, info)));
        let direct = streams.filter(|(_, info)| info.path != Path::Relay);
        direct.filter_map(|(stream, _)| stream.is_acknowledged()).reduce(|one, other| one && other)
    }

    fn settle(&self, keepalive: Duration) {
        // A stream that refuses the option is broken, which its next use tells. Losses are the rendezvous' to notice; these
        // probes keep mappings alive.
        let _ = self.stream.set_keepalive(keepalive, SILENCE_MAX);
    }

    fn switch_to(&mut self, better: Link) {
        self.next_ahead = better.ahead[better.ahead_taken..better.ahead_filled].to_vec();
        // The better one comes from a group of two, with numbers of its own.
        self.next = Some((better.stream, LinkInfo { peer: self.info.peer, ..better.info }));
        if self.peer_has_switched {
            self.read_next();
        }
        self.finish_switch();
    }

    fn into_link(self: Box<Self>) -> Option<Link> {
        Some(*self)
    }
}

fn tried<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

/// Reads what still comes, for nobody, up to the end of the stream.
fn drained(stream: &mut Box<dyn ByteStream>, cx: &mut Context<'_>) -> Poll<()> {
    let mut bin = [0; 4096];
    loop {
        if matches!(ready!(stream.poll_read_vectored(cx, &mut [IoSliceMut::new(&mut bin)])), Ok(0) | Err(_)) {
            return Poll::Ready(());
        }
    }
}

/// Writes at least one byte.
fn write(stream: &mut Box<dyn ByteStream>, mode: Mode<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize, ChannelError>> {
    let written = match mode {
        Mode::Try => tried(stream.try_write(parts)),
        Mode::Park(waker) => Pin::new(stream).poll_write_vectored(&mut Context::from_waker(waker), parts),
    };
    match ready!(written)? {
        0 => Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
        written => Poll::Ready(Ok(written)),
    }
}

fn flush(stream: &mut Box<dyn ByteStream>, mode: Mode<'_>) -> Poll<Result<(), ChannelError>> {
    match mode {
        Mode::Try => tried(stream.try_flush()).map_err(ChannelError::from),
        Mode::Park(waker) => Pin::new(stream).poll_flush(&mut Context::from_waker(waker)).map_err(ChannelError::from),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A byte stream in memory.

    use super::*;
    use tokio::io::{AsyncRead, DuplexStream, ReadBuf};

    /// The kernel of the other end has acknowledged all that was written, or not.
    #[derive(Debug)]
    pub(crate) struct Pipe(pub(crate) DuplexStream, pub(crate) Option<bool>);

    impl AsyncRead for Pipe {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    impl ByteStream for Pipe {
        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn peer_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn reset_on_drop(&self) {}

        fn set_keepalive(&self, _: Duration, _: Duration) -> io::Result<()> {
            Ok(())
        }

        fn is_acknowledged(&self) -> Option<bool> {
            self.1
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: no byte is lost or out of its stream while a better stream takes the place of another. Method: pipes
    //! whose far ends the test holds.

    use super::testing::Pipe;
    use super::*;
    use crate::proto::candidate::Technique;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    fn link(path: Path) -> (Link, DuplexStream) {
        acknowledging(path, None)
    }

    fn acknowledging(path: Path, is_acknowledged: Option<bool>) -> (Link, DuplexStream) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (technique, attempts) = (Technique::Relay, 1);
        let (addresses_known_at, connected_at) = (Instant::ZERO, Instant::ZERO);
        let info = LinkInfo { peer: 1, path, technique, addresses_known_at, connected_at, attempts };
        (Link::new(Box::new(Pipe(near, is_acknowledged)), info), far)
    }

    fn frame(tag: u32) -> Vec<u8> {
        Envelope { root_or_tag: tag, ..Envelope::new(Kind::Message) }.emit().to_vec()
    }

    /// The tags of the frames that have come.
    fn tags(link: &mut Link) -> Vec<u32> {
        let mut tags = Vec::new();
        while let Poll::Ready(Ok(envelope)) = link.poll_head(Mode::Park(Waker::noop())) {
            tags.push(envelope.root_or_tag);
        }
        tags
    }

    fn run(program: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(program);
    }

    #[test]
    fn what_was_read_ahead_on_a_better_stream_is_not_lost() {
        for announced_before in [false, true] {
            run(async {
                let ((mut old, mut old_far), (mut better, mut far)) = (link(Path::Relay), link(Path::Direct));
                // The last frame of its forming and the first one of the group come at once.
                far.write_all(&[frame(1), frame(2)].concat()).await.expect("room");
                assert!(better.poll_head(Mode::Park(Waker::noop())).is_ready());
                let announcement = [frame(3), Envelope::new(Kind::Switch).emit().to_vec()].concat();
                old_far.write_all(&announcement).await.expect("room");
                if announced_before {
                    assert_eq!(tags(&mut old), [3]);
                    old.switch_to(better);
                    assert_eq!(tags(&mut old), [2]);
                } else {
                    old.switch_to(better);
                    assert_eq!(tags(&mut old), [3, 2]);
                }
            });
        }
    }

    #[test]
    fn what_is_queued_behind_the_announcement_goes_on_the_next_stream() {
        run(async {
            let ((mut old, mut old_far), (better, mut far)) = (link(Path::Relay), link(Path::Direct));
            // No room for the announcement as yet.
            let (full, mut reader) = tokio::io::duplex(8);
            old.stream = Box::new(Pipe(full, None));
            old.switch_to(better);
            assert!(old.poll_flush(Mode::Park(Waker::noop())).is_pending());
            old.queue(&Envelope { root_or_tag: 9, ..Envelope::new(Kind::Message) }, &[]);
            let mut announcement = vec![0; ENVELOPE_BYTES];
            let mut read = 0;
            while read < ENVELOPE_BYTES {
                read += reader.read(&mut announcement[read..]).await.expect("open");
                let _ = old.poll_flush(Mode::Park(Waker::noop()));
            }
            let mut queued = vec![0; ENVELOPE_BYTES];
            far.read_exact(&mut queued).await.expect("it comes here");
            assert_eq!((announcement, queued), (Envelope::new(Kind::Switch).emit().to_vec(), frame(9)));
            drop(old);
            assert_eq!(old_far.read(&mut [0]).await.expect("closed"), 0);
        });
    }

    #[test]
    fn a_link_that_half_switched_is_closed_on_both_streams() {
        run(async {
            let ((mut old, mut old_far), (better, mut far)) = (link(Path::Relay), link(Path::Direct));
            old.switch_to(better);
            let close = |link: &mut Link| link.poll_close(Waker::noop()).is_ready();
            assert!(!close(&mut old));
            // The peer has not switched: what it sends on the old stream is read, so that no reset overtakes our last words.
            old_far.write_all(&vec![7; 60_000]).await.expect("room");
            assert!(!close(&mut old));
            old_far.write_all(&vec![7; 60_000]).await.expect("what came has been read");
            drop(far.shutdown().await);
            assert!(!close(&mut old), "one stream is still open");
            drop(old_far.shutdown().await);
            assert!(close(&mut old));
            let mut announced = Vec::new();
            old_far.read_to_end(&mut announced).await.expect("closed");
            assert_eq!(announced, Envelope::new(Kind::Switch).emit());
        });
    }

    #[test]
    fn all_is_acknowledged_that_was_sent_on_either_stream() {
        for (path, before, after, all) in [
            (Path::Direct, Some(true), Some(true), Some(true)),
            (Path::Direct, Some(false), Some(true), Some(false)),
            (Path::Direct, Some(true), Some(false), Some(false)),
            (Path::Direct, None, Some(true), Some(true)),
            // The kernel of the rendezvous acknowledges, not that of the peer.
            (Path::Relay, Some(true), Some(false), Some(false)),
            (Path::Relay, Some(false), None, None),
        ] {
            let ((mut old, _old_far), (better, _far)) =
                (acknowledging(path, before), acknowledging(Path::Direct, after));
            assert_eq!(old.is_acknowledged(), if path == Path::Relay { None } else { before });
            old.switch_to(better);
            assert_eq!(old.is_acknowledged(), all, "{path:?} {before:?} {after:?}");
        }
    }
}
