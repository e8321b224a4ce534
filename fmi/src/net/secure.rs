//! A stream of protected records over a stream of bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ByteStream;
use crate::proto::card::Security;
use crate::proto::record::{Direction, HEADER_BYTES, RECORD_BYTES_MAX, RecordError, TAG_BYTES};
use crate::proto::session::StreamKeys;

/// How much is read ahead of the record that is wanted: small records come several at once.
const READ_AHEAD_BYTES: usize = 4 << 10;

/// Seals what is written and opens what is read. A stream that somebody has changed ends with
/// [`io::ErrorKind::InvalidData`], and no changed byte is handed up.
///
/// What `poll_write` has taken may still wait in memory, one record of it; `poll_flush` sends it.
#[derive(Debug)]
pub(crate) struct Secure<S> {
    stream: S,
    sealing: Direction,
    opening: Direction,
    /// A sealed record, and how much of it is sent.
    outgoing: Vec<u8>,
    sent: usize,
    /// Bytes as they came: opened up to `opened`, of which `taken` are handed up.
    incoming: Vec<u8>,
    taken: usize,
    opened: usize,
    /// End of the record that is opened.
    record_end: usize,
    filled: usize,
}

impl<S> Secure<S> {
    /// Protects `stream` with the keys of a handshake.
    pub(crate) fn new(stream: S, security: Security, keys: StreamKeys) -> Self {
        let (sealing, opening) = keys.directions(security);
        Self {
            stream,
            sealing,
            opening,
            outgoing: Vec::new(),
            sent: 0,
            incoming: Vec::new(),
            taken: 0,
            opened: 0,
            record_end: 0,
            filled: 0,
        }
    }
}

fn changed(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S> Secure<S> {
    /// Sends what is sealed.
    fn send(&mut self, mut write: impl FnMut(&mut S, &[u8]) -> Poll<io::Result<usize>>) -> Poll<io::Result<()>> {
        while self.sent < self.outgoing.len() {
            let sent = ready!(write(&mut self.stream, &self.outgoing[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        self.outgoing.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Seals a record of what is given, as far as it fits, and sends what it can of it.
    fn write(
        &mut self,
        bufs: &[io::IoSlice<'_>],
        mut write: impl FnMut(&mut S, &[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.send(&mut write))?;
        self.outgoing.resize(HEADER_BYTES, 0);
        for buf in bufs {
            let room = HEADER_BYTES + RECORD_BYTES_MAX - self.outgoing.len();
            self.outgoing.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        let written = self.outgoing.len() - HEADER_BYTES;
        if written == 0 {
            self.outgoing.clear();
            return Poll::Ready(Ok(0));
        }
        self.sealing.seal(&mut self.outgoing);
        // A failure shows at the next call: these bytes are taken.
        let _ = self.send(write);
        Poll::Ready(Ok(written))
    }

    /// Reads until `end` bytes of the buffer are there. False at the end of the stream between records.
    fn fill(
        &mut self,
        end: usize,
        read: &mut impl FnMut(&mut S, &mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<bool>> {
        while self.filled < end {
            let room = (end + READ_AHEAD_BYTES).max(self.incoming.len());
            self.incoming.resize(room, 0);
            let count = ready!(read(&mut self.stream, &mut self.incoming[self.filled..]))?;
            if count == 0 {
                let is_whole = self.filled == self.record_end;
                // A cut inside a record may be somebody's doing.
                return Poll::Ready(if is_whole { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
            }
            self.filled += count;
        }
        Poll::Ready(Ok(true))
    }

    /// Opens the next record. False at the end of the stream.
    fn open(&mut self, mut read: impl FnMut(&mut S, &mut [u8]) -> Poll<io::Result<usize>>) -> Poll<io::Result<bool>> {
        if self.record_end > 0 {
            self.incoming.copy_within(self.record_end..self.filled, 0);
            self.filled -= self.record_end;
            (self.taken, self.opened, self.record_end) = (0, 0, 0);
        }
        if !ready!(self.fill(HEADER_BYTES, &mut read))? {
            return Poll::Ready(Ok(false));
        }
        let header = self.incoming.first_chunk().copied().expect("the header has been filled");
        let length = Direction::record_bytes(header).map_err(changed)?;
        ready!(self.fill(length, &mut read))?;
        self.opening.open(&mut self.incoming[..length]).map_err(changed)?;
        (self.taken, self.opened, self.record_end) = (HEADER_BYTES, length - TAG_BYTES, length);
        Poll::Ready(Ok(true))
    }

    /// Hands up what is opened.
    fn hand_up(&mut self, buf: &mut [u8]) -> usize {
        let count = buf.len().min(self.opened - self.taken);
        buf[..count].copy_from_slice(&self.incoming[self.taken..self.taken + count]);
        self.taken += count;
        count
    }

    fn receive(
        &mut self,
        bufs: &mut [io::IoSliceMut<'_>],
        mut read: impl FnMut(&mut S, &mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        while self.taken == self.opened {
            if !ready!(self.open(&mut read))? {
                return Poll::Ready(Ok(0));
            }
        }
        Poll::Ready(Ok(bufs.iter_mut().map(|buf| self.hand_up(buf)).sum()))
    }
}

/// What a system that does not wait says, as what a poll says.
fn tried<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

fn untried<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Reads by polling.
fn polled<'a, 'b, S: AsyncRead + Unpin>(
    cx: &'a mut Context<'b>,
) -> impl FnMut(&mut S, &mut [u8]) -> Poll<io::Result<usize>> + use<'a, 'b, S> {
    move |stream, bytes| {
        let mut buffer = ReadBuf::new(bytes);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secure<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut target = [io::IoSliceMut::new(buf.initialize_unfilled())];
        let count = ready!(self.receive(&mut target, polled(cx)))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secure<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(bufs, |stream, bytes| Pin::new(stream).poll_write(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(|stream, bytes| Pin::new(stream).poll_write(cx, bytes)))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(|stream, bytes| Pin::new(stream).poll_write(cx, bytes)))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: ByteStream> ByteStream for Secure<S> {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    fn set_keepalive(&self, interval: Duration, silence_max: Duration) -> io::Result<()> {
        self.stream.set_keepalive(interval, silence_max)
    }

    fn reset_on_drop(&self) {
        self.stream.reset_on_drop();
    }

    fn heard_at(&self) -> Option<crate::time::Instant> {
        self.stream.heard_at()
    }

    fn is_acknowledged(&self) -> Option<bool> {
        self.stream.is_acknowledged()
    }

    fn try_read(&mut self, bufs: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        untried(self.receive(bufs, |stream, bytes| tried(stream.try_read(&mut [io::IoSliceMut::new(bytes)]))))
    }

    fn try_write(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        untried(self.write(bufs, |stream, bytes| tried(stream.try_write(&[io::IoSlice::new(bytes)]))))
    }

    fn try_flush(&mut self) -> io::Result<()> {
        untried(self.send(|stream, bytes| tried(stream.try_write(&[io::IoSlice::new(bytes)]))))
    }

    fn poll_read_vectored(&mut self, cx: &mut Context<'_>, bufs: &mut [io::IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        self.receive(bufs, polled(cx))
    }
}

#[cfg(test)]
mod tests {
    //! Goal: bytes of any cut come out as they went in, and changed ones never do. Method: a pipe of any
    //! width, and a wire that flips a bit.

    use super::*;
    use crate::proto::cipher::Suite;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn keys(flipped: bool) -> StreamKeys {
        let (send, receive) = if flipped { ([2; 32], [1; 32]) } else { ([1; 32], [2; 32]) };
        StreamKeys::new(Suite::Aes256Gcm, send, receive)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    proptest! {
        #[test]
        fn any_cut_of_writes_and_reads_keeps_the_bytes(
            width in 1usize..9000, writes in proptest::collection::vec(0usize..5000, 1..12), read in 1usize..7000, encrypted: bool,
        ) {
            let security = if encrypted { Security::Encrypted } else { Security::Authenticated };
            let (near, far) = tokio::io::duplex(width);
            let (mut near, mut far) = (Secure::new(near, security, keys(false)), Secure::new(far, security, keys(true)));
            let total: usize = writes.iter().sum();
            let byte = |index: usize| u8::try_from(index % 251).expect("below 251");
            let sent: Vec<u8> = (0..total).map(byte).collect();
            let send = async {
                let mut at = 0;
                for length in writes {
                    near.write_all(&sent[at..at + length]).await?;
                    at += length;
                }
                near.shutdown().await
            };
            let receive = async {
                let (mut received, mut buffer) = (Vec::new(), vec![0; read]);
                loop {
                    match far.read(&mut buffer).await? {
                        0 => return io::Result::Ok(received),
                        count => received.extend_from_slice(&buffer[..count]),
                    }
                }
            };
            let (done, received) = block_on(async { futures_util::future::join(send, receive).await });
            prop_assert!(done.is_ok());
            prop_assert_eq!(received.expect("whole"), sent);
        }
    }

    #[test]
    fn a_changed_or_cut_stream_ends_before_its_bytes_are_handed_up() {
        let wire = block_on(async {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            let mut near = Secure::new(near, Security::Encrypted, keys(false));
            near.write_all(&[7; 1000]).await.expect("room");
            near.shutdown().await.expect("open");
            let mut wire = Vec::new();
            far.read_to_end(&mut wire).await.expect("closed");
            wire
        });
        let receive = |wire: Vec<u8>| {
            block_on(async move {
                let (mut near, far) = tokio::io::duplex(1 << 20);
                near.write_all(&wire).await.expect("room");
                near.shutdown().await.expect("open");
                let mut received = Vec::new();
                let result = Secure::new(far, Security::Encrypted, keys(true)).read_to_end(&mut received).await;
                (result.map_err(|error| error.kind()), received)
            })
        };
        assert_eq!(receive(wire.clone()), (Ok(1000), vec![7; 1000]));
        let mut flipped = wire.clone();
        flipped[500] ^= 1;
        assert_eq!(receive(flipped), (Err(io::ErrorKind::InvalidData), vec![]));
        assert_eq!(receive(wire[..900].to_vec()), (Err(io::ErrorKind::UnexpectedEof), vec![]));
        let mut long = wire;
        long[0] = 255;
        assert_eq!(receive(long), (Err(io::ErrorKind::InvalidData), vec![]));
    }
}
