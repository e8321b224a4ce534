//! The traits of a network. Only drivers see them.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::time::Instant;

/// A future in a box.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// 1 January 2026.
const SIMULATED_WORLDS_BEGIN: Duration = Duration::from_secs(1_767_225_600);

/// What a machine can do, as far as anything is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "whoever writes a network says all of it")]
pub struct Machine {
    /// Whether the processor has instructions for AES and for the multiplication of GCM.
    pub has_aes: bool,
    /// Processors that this process may use.
    pub cores: u32,
}

/// A network with its clock.
///
/// One local port is shared by a listener and any number of connections from it, as with
/// `SO_REUSEADDR` and `SO_REUSEPORT`: hole punching rests on that.
pub trait Net: Clone + Send + Sync + 'static {
    /// The connections that it makes and accepts.
    type Stream: ByteStream;
    /// What accepts connections on a local address.
    type Listener: Listener<Stream = Self::Stream>;

    /// The time since this clock's origin. It never goes back.
    fn now(&self) -> Instant;

    /// Completes at `at`, or at once if that is past.
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + 'static;

    /// The time since the beginning of 1970, for what other machines must understand: signatures, dates in files. It may
    /// jump, and machines differ, so nothing is timed by it. Worlds of a simulation begin at a fixed one.
    fn unix_time(&self) -> Duration {
        SIMULATED_WORLDS_BEGIN + self.now().since_origin()
    }

    /// Fills `bytes` with entropy fit for secrets.
    fn fill_entropy(&self, bytes: &mut [u8]);

    /// What the machine can do. Simulations say the same on every machine, so that what is decided by it is the same.
    fn machine(&self) -> Machine;

    /// Connects from `local` to `remote`. Port 0 takes any free port, which later calls may share.
    ///
    /// # Errors
    /// As the system says: `ConnectionRefused` for an RST, `HostUnreachable` for most ICMP errors,
    /// `AddrNotAvailable` when the pair of addresses is in use, `AddrInUse` when no port is free, `QuotaExceeded` when no
    /// more files may be open.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt without a packet.
    fn connect(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send + 'static;

    /// The same network, on which new connections and listeners have segments of at most so many bytes, in both directions.
    /// Where that cannot be had, it changes nothing.
    #[must_use]
    fn with_segment_max(&self, bytes: u16) -> Self {
        let _ = bytes;
        self.clone()
    }

    /// Listens on `local`; up to `backlog` connections wait to be accepted.
    ///
    /// # Errors
    /// As the system says.
    fn listen(&self, local: SocketAddr, backlog: u32) -> io::Result<Self::Listener>;

    /// Yields the processor to other threads, and returns true: trying again at once may find what was not there.
    /// Returns false without an effect where time passes only between polls, as in a simulation.
    fn yield_now(&self) -> bool {
        false
    }

    /// Whether futures of this net may be polled here and now: those of a runtime only within it.
    fn is_at_hand(&self) -> bool {
        true
    }

    /// Raises the number of files that this process may have open as far as it may, and returns it; `None` where there is
    /// no limit. Processes that are started later inherit it.
    fn allow_files(&self) -> Option<u64> {
        None
    }

    /// Finds all addresses of `name`, which has the form `host:port`: of both families, in any order.
    ///
    /// # Errors
    /// If it has none, or whoever knows does not answer.
    fn resolve(&self, name: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static;
}

/// A socket that accepts connections on one local address.
pub trait Listener: Send + 'static {
    /// The connections that it accepts.
    type Stream;

    /// Accepts the next connection, or wakes the caller when one may be there.
    ///
    /// # Errors
    /// As the system says, about this one connection; later ones may be accepted.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;

    /// The address that it listens on.
    ///
    /// # Errors
    /// As the system says.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// An established TCP connection, which bytes pass in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Its own address.
    ///
    /// # Errors
    /// As the system says.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The address of the other end.
    ///
    /// # Errors
    /// As the system says.
    fn peer_addr(&self) -> io::Result<SocketAddr>;

    /// Breaks the connection when the other end's kernel has been silent for `silence_max` while something awaits its
    /// answer: bytes in flight, or probes of the connection once it has been idle for `interval`. Several packets
    /// must have been lost, and a closed window that is answered breaks nothing, however long
    /// ([`crate::liveness`]). Kernels count in whole seconds.
    ///
    /// # Errors
    /// As the system says.
    fn set_keepalive(&self, interval: Duration, silence_max: Duration) -> io::Result<()>;

    /// Has the connection reset when it is dropped, and what the other end has not acknowledged forgotten. Else the kernel
    /// goes on sending that, and it may arrive long after, when it means something else.
    fn reset_on_drop(&self);

    /// When the other end's kernel last answered anything, if this one tells.
    fn heard_at(&self) -> Option<Instant> {
        None
    }

    /// Whether the other end's kernel has acknowledged all that was written, if this one tells.
    fn is_acknowledged(&self) -> Option<bool> {
        None
    }

    /// Reads what is there into `bufs`, one after the other, without waiting and without a change to who is
    /// woken. Only used where [`Net::yield_now`] returns true.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; else as the system says.
    fn try_read(&mut self, bufs: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        let _ = bufs;
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Writes what there is room for, without waiting and without a change to who is woken.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; else as the system says.
    fn try_write(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let _ = bufs;
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Sends what `try_write` took and kept.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; else as the system says.
    fn try_flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Reads into `bufs`, one after the other; wakes the task when there is something.
    fn poll_read_vectored(&mut self, cx: &mut Context<'_>, bufs: &mut [io::IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        let Some(first) = bufs.iter_mut().find(|buf| !buf.is_empty()) else { return Poll::Ready(Ok(0)) };
        let mut buffer = ReadBuf::new(first);
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl ByteStream for Box<dyn ByteStream> {
    fn try_read(&mut self, bufs: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        (**self).try_read(bufs)
    }

    fn try_write(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        (**self).try_write(bufs)
    }

    fn try_flush(&mut self) -> io::Result<()> {
        (**self).try_flush()
    }

    fn poll_read_vectored(&mut self, cx: &mut Context<'_>, bufs: &mut [io::IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        (**self).poll_read_vectored(cx, bufs)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        (**self).local_addr()
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        (**self).peer_addr()
    }

    fn set_keepalive(&self, interval: Duration, silence_max: Duration) -> io::Result<()> {
        (**self).set_keepalive(interval, silence_max)
    }

    fn reset_on_drop(&self) {
        (**self).reset_on_drop();
    }

    fn heard_at(&self) -> Option<Instant> {
        (**self).heard_at()
    }

    fn is_acknowledged(&self) -> Option<bool> {
        (**self).is_acknowledged()
    }
}

/// A clock without its network: what is left of a [`Net`] once streams are erased.
pub trait Clock: Send + Sync {
    /// The time.
    fn now(&self) -> Instant;
    /// Completes at `at`.
    fn sleep_until(&self, at: Instant) -> BoxFuture<()>;
    /// The time since the beginning of 1970; as [`Net::unix_time`].
    fn unix_time(&self) -> Duration {
        SIMULATED_WORLDS_BEGIN + self.now().since_origin()
    }
    /// Yields the processor; as [`Net::yield_now`].
    fn yield_now(&self) -> bool;
    /// Whether futures may be polled here; as [`Net::is_at_hand`].
    fn is_at_hand(&self) -> bool {
        true
    }
    /// What the machine can do.
    fn machine(&self) -> Machine;
}

impl<N: Net> Clock for N {
    fn now(&self) -> Instant {
        Net::now(self)
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<()> {
        Box::pin(Net::sleep_until(self, at))
    }

    fn unix_time(&self) -> Duration {
        Net::unix_time(self)
    }

    fn yield_now(&self) -> bool {
        Net::yield_now(self)
    }

    fn is_at_hand(&self) -> bool {
        Net::is_at_hand(self)
    }

    fn machine(&self) -> Machine {
        Net::machine(self)
    }
}

/// A timer that is set again and again.
pub struct Timer {
    clock: Arc<dyn Clock>,
    at: Instant,
    sleep: Option<BoxFuture<()>>,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Timer {
    /// Makes a timer that is not set.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, at: Instant::FAR_FUTURE, sleep: None }
    }

    /// Whether `at` has come; else wakes the task then.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> bool {
        if self.clock.now() >= at {
            return true;
        }
        if self.at != at || self.sleep.is_none() {
            self.at = at;
            self.sleep = (at < Instant::FAR_FUTURE).then(|| self.clock.sleep_until(at));
        }
        let due = self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        if due {
            self.sleep = None;
        }
        due && self.clock.now() >= at
    }

    /// Whether it wakes the task that it was last polled by between `now` and `at`.
    pub fn is_set(&self, now: Instant, at: Instant) -> bool {
        self.sleep.is_some() && now < self.at && self.at <= at
    }

    /// As [`Timer::poll_until`], but a timer that is already set for an earlier time stays so: it wakes the
    /// task too early once, and takes no new sleep each time. `now` is the time at a last look at the clock.
    pub fn poll_lazily(&mut self, cx: &mut Context<'_>, now: Instant, at: Instant) -> bool {
        if self.at <= now {
            self.sleep = None;
        }
        if now >= at {
            return true;
        }
        let wanted = if self.sleep.is_some() { self.at.min(at) } else { at };
        // If the clock has moved on meanwhile, the task looks again.
        if self.poll_until(cx, wanted) {
            cx.waker().wake_by_ref();
        }
        false
    }
}

/// Runs `future` until `at`.
///
/// # Errors
/// The future's own, and `TimedOut` if it has not completed by then.
pub async fn within<N: Net, T>(net: &N, at: Instant, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let sleep = std::pin::pin!(net.sleep_until(at));
    let future = std::pin::pin!(future);
    // `select` polls its first argument first, always.
    match futures_util::future::select(future, sleep).await {
        futures_util::future::Either::Left((result, _)) => result,
        futures_util::future::Either::Right(((), _)) => Err(io::ErrorKind::TimedOut.into()),
    }
}
