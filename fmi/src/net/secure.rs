//! A stream of protected records over a stream of bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ByteStream;
use super::buffer::{Buffer, LARGE_BYTES};
use crate::proto::card::Security;
use crate::proto::record::{Direction, HEADER_BYTES, OVERHEAD_BYTES, RECORD_BYTES_MAX, RecordError};
use crate::proto::session::StreamKeys;

/// Several pieces up to this length together make one record: copying them costs less than another record.
const GATHERED_BYTES_MAX: usize = 4 << 10;
/// A reader that asks for so much is given several records of one call of the system.
const MUCH_BYTES: usize = 32 << 10;

/// Seals what is written and opens what is read. A stream that somebody has changed ends with
/// [`io::ErrorKind::InvalidData`], and no changed byte is handed up.
///
/// What `poll_write` has taken may still wait in memory, sealed; `poll_flush` sends it. Long pieces are sealed from the memory
/// of the caller, and opened into it, several records a call of the system.
#[derive(Debug)]
pub(crate) struct Secure<S> {
    stream: S,
    sealing: Direction,
    opening: Direction,
    /// Sealed records.
    outgoing: Buffer,
    /// Bytes as they came.
    incoming: Buffer,
    /// What was opened and not asked for.
    opened: Buffer,
    /// The stream was changed.
    failed: Option<RecordError>,
}

impl<S> Secure<S> {
    /// Protects `stream` with the keys of a handshake.
    pub(crate) fn new(stream: S, security: Security, keys: StreamKeys) -> Self {
        let (sealing, opening) = keys.directions(security);
        let [outgoing, incoming, opened] = [(); 3].map(|()| Buffer::default());
        Self { stream, sealing, opening, outgoing, incoming, opened, failed: None }
    }

    /// Sends what is sealed.
    fn send(&mut self, mut write: impl FnMut(&mut S, &[u8]) -> Poll<io::Result<usize>>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(write(&mut self.stream, self.outgoing.bytes()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.take(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn seal(&mut self, plain: &[u8]) {
        let length = plain.len() + OVERHEAD_BYTES;
        self.sealing.seal(plain, &mut self.outgoing.room(length)[..length]);
        self.outgoing.fill(length);
    }

    /// Seals records of what is given, as far as there is room, and sends what it can of them.
    fn write(
        &mut self,
        bufs: &[io::IoSlice<'_>],
        mut write: impl FnMut(&mut S, &[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.send(&mut write))?;
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut written = 0;
        if total <= GATHERED_BYTES_MAX && bufs.iter().filter(|buf| !buf.is_empty()).count() > 1 {
            let mut gathered = [0; GATHERED_BYTES_MAX];
            for buf in bufs {
                gathered[written..written + buf.len()].copy_from_slice(buf);
                written += buf.len();
            }
            self.seal(&gathered[..written]);
        } else {
            for piece in bufs.iter().flat_map(|buf| buf.chunks(RECORD_BYTES_MAX)) {
                if self.outgoing.room_max() < piece.len() + OVERHEAD_BYTES {
                    break;
                }
                self.seal(piece);
                written += piece.len();
            }
        }
        // A failure shows at the next call: these bytes are taken.
        let _ = self.send(write);
        Poll::Ready(Ok(written))
    }

    /// Length of the record that comes next, once its header is there.
    fn next_record(&self) -> Result<Option<usize>, RecordError> {
        self.incoming.bytes().first_chunk().map(|header| Direction::record_bytes(*header)).transpose()
    }

    /// Reads more of the next record, and of those behind it. False at the end of the stream between records.
    fn fill(
        &mut self,
        wanted: usize,
        read: &mut impl FnMut(&mut S, &mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<bool>> {
        let record = self.next_record().map_err(changed)?.unwrap_or(HEADER_BYTES);
        let missing = record - self.incoming.bytes().len();
        let room =
            if wanted < MUCH_BYTES { missing } else { self.incoming.room_max().min(LARGE_BYTES / 2).max(missing) };
        let count = read(&mut self.stream, self.incoming.room(room));
        let count = match count {
            Poll::Ready(count) => count?,
            Poll::Pending => {
                self.incoming.tidy();
                return Poll::Pending;
            }
        };
        if count == 0 {
            // A cut inside a record may be somebody's doing.
            let is_whole = self.incoming.is_empty();
            self.incoming.tidy();
            return Poll::Ready(if is_whole { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
        }
        self.incoming.fill(count);
        Poll::Ready(Ok(true))
    }

    /// Opens the whole record that comes next, of so many bytes, to where it is wanted.
    fn open(&mut self, record: usize, plain: Option<&mut [u8]>) -> Result<(), RecordError> {
        let length = record - OVERHEAD_BYTES;
        let bytes = &self.incoming.bytes()[..record];
        let opened = match plain {
            Some(plain) => self.opening.open(bytes, plain),
            None => {
                self.opening.open(bytes, &mut self.opened.room(length)[..length]).map(|()| self.opened.fill(length))
            }
        };
        self.incoming.take(record);
        self.opened.tidy();
        opened.inspect_err(|error| self.failed = Some(*error))
    }

    fn receive(
        &mut self,
        bufs: &mut [io::IoSliceMut<'_>],
        mut read: impl FnMut(&mut S, &mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let wanted = bufs.iter().map(|buf| buf.len()).sum();
        let mut count = 0;
        for target in bufs {
            let mut target = &mut **target;
            while !target.is_empty() {
                let done = match self.open_into(target, count > 0) {
                    Ok(0) if count > 0 => return Poll::Ready(Ok(count)),
                    Ok(0) => {
                        if !ready!(self.fill(wanted, &mut read))? {
                            return Poll::Ready(Ok(0));
                        }
                        continue;
                    }
                    Ok(done) => done,
                    // What came before it is good.
                    Err(_) if count > 0 => return Poll::Ready(Ok(count)),
                    Err(error) => return Poll::Ready(Err(changed(error))),
                };
                count += done;
                target = &mut target[done..];
            }
        }
        Poll::Ready(Ok(count))
    }

    /// Bytes that can be had without reading, if any.
    fn open_into(&mut self, target: &mut [u8], has_some: bool) -> Result<usize, RecordError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.opened.is_empty() {
            let Some(record) = self.next_record()?.filter(|record| *record <= self.incoming.bytes().len()) else {
                return Ok(0);
            };
            let length = record - OVERHEAD_BYTES;
            if length <= target.len() {
                return self.open(record, Some(&mut target[..length])).map(|()| length);
            }
            if has_some {
                // Whoever asks again may have room for the whole of it.
                return Ok(0);
            }
            self.open(record, None)?;
        }
        let count = target.len().min(self.opened.bytes().len());
        target[..count].copy_from_slice(&self.opened.bytes()[..count]);
        self.opened.take(count);
        Ok(count)
    }
}

fn changed(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
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
            width in 1usize..90_000, encrypted: bool,
            writes in proptest::collection::vec((0usize..6000, 0usize..200_000, any::<bool>()), 1..8),
            reads in proptest::collection::vec((0usize..100_000, 1usize..7000), 1..5),
        ) {
            let security = if encrypted { Security::Encrypted } else { Security::Authenticated };
            let (near, far) = tokio::io::duplex(width);
            let (mut near, mut far) = (Secure::new(near, security, keys(false)), Secure::new(far, security, keys(true)));
            let total: usize = writes.iter().map(|(head, body, _)| head + body).sum();
            let byte = |index: usize| u8::try_from(index % 251).expect("below 251");
            let sent: Vec<u8> = (0..total).map(byte).collect();
            let send = async {
                let mut at = 0;
                for (head, body, is_flushed) in writes {
                    let (middle, end) = (at + head, at + head + body);
                    while at < end {
                        let parts = [io::IoSlice::new(&sent[at..middle.max(at)]), io::IoSlice::new(&sent[at.max(middle)..end])];
                        at += near.write_vectored(&parts).await?;
                    }
                    if is_flushed {
                        near.flush().await?;
                    }
                }
                near.shutdown().await
            };
            let receive = async {
                let mut received = Vec::new();
                for (first, second) in reads.into_iter().cycle() {
                    let (mut first, mut second) = (vec![0; first], vec![0; second]);
                    let count = std::future::poll_fn(|cx| {
                        far.receive(&mut [&mut first, &mut second].map(|it| io::IoSliceMut::new(it)), polled(cx))
                    });
                    let count = count.await?;
                    if count == 0 {
                        break;
                    }
                    received.extend([first, second].concat().into_iter().take(count));
                }
                io::Result::Ok(received)
            };
            let (done, received) = block_on(async { futures_util::future::join(send, receive).await });
            prop_assert!(done.is_ok());
            prop_assert!(received.expect("whole") == sent);
        }
    }

    /// A pipe of which each call is one of the system.
    #[derive(Default)]
    struct Pipe {
        bytes: Vec<u8>,
        calls: usize,
    }

    impl Pipe {
        fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.bytes.extend_from_slice(bytes);
            self.calls += 1;
            Poll::Ready(Ok(bytes.len()))
        }

        fn read(&mut self, target: &mut [u8]) -> Poll<io::Result<usize>> {
            let count = target.len().min(self.bytes.len());
            target[..count].copy_from_slice(&self.bytes[..count]);
            self.bytes.drain(..count);
            self.calls += 1;
            Poll::Ready(Ok(count))
        }
    }

    fn written(parts: &[&[u8]]) -> Pipe {
        let mut near = Secure::new(Pipe::default(), Security::Encrypted, keys(false));
        let parts: Vec<_> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
        let total: usize = parts.iter().map(|part| part.len()).sum();
        assert!(matches!(near.write(&parts, Pipe::write), Poll::Ready(Ok(count)) if count == total));
        near.stream
    }

    #[test]
    fn one_call_of_the_system_carries_several_records() {
        let (head, payload) = ([1; 48], vec![2; 2 * RECORD_BYTES_MAX]);
        let pipe = written(&[&head, &payload]);
        assert_eq!(pipe.calls, 1);
        assert_eq!(pipe.bytes.len(), 48 + payload.len() + 3 * OVERHEAD_BYTES);
        let mut far = Secure::new(Pipe { calls: 0, ..pipe }, Security::Encrypted, keys(true));
        let (mut ahead, mut target, mut filled) = ([0; 8192], vec![0; payload.len()], 0);
        let read = far.receive(&mut [io::IoSliceMut::new(&mut ahead)], Pipe::read);
        assert!(matches!(read, Poll::Ready(Ok(48))), "{read:?}");
        while filled < target.len() {
            let read = far.receive(&mut [io::IoSliceMut::new(&mut target[filled..])], Pipe::read);
            let Poll::Ready(Ok(count @ 1..)) = read else { panic!("{read:?}") };
            filled += count;
        }
        assert_eq!(target, payload);
        assert!(far.stream.calls <= 3, "{}", far.stream.calls);
    }

    #[test]
    fn short_pieces_make_one_record() {
        let pipe = written(&[&[1; 48], &[], &[2; 2000]]);
        assert_eq!((pipe.calls, pipe.bytes.len()), (1, 2048 + OVERHEAD_BYTES));
    }

    #[test]
    fn what_came_before_a_change_is_handed_up_and_then_the_error_stays() {
        let mut pipe = written(&[&[5; 5000], &[6; 5000]]);
        pipe.bytes[5000 + OVERHEAD_BYTES + 100] ^= 1;
        let mut far = Secure::new(pipe, Security::Encrypted, keys(true));
        let mut target = vec![0; 1 << 16];
        let mut read = || far.receive(&mut [io::IoSliceMut::new(&mut target)], Pipe::read);
        assert!(matches!(read(), Poll::Ready(Ok(5000))));
        for _ in 0..2 {
            assert!(matches!(read(), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData));
        }
        assert_eq!(target[..5000], [5; 5000]);
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
