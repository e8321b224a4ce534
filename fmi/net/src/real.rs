//! Real sockets: tokio's reactor, options set through socket2.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::liveness::{Probes, Sample, Verdict, Watch, choked};
use crate::time::Instant;
use crate::{ByteStream, Listener, Machine, Net};

/// The network of this machine. Needs a tokio runtime with I/O and time.
#[derive(Clone, Copy, Debug)]
pub struct RealNet {
    origin: tokio::time::Instant,
    /// Longest segment of a connection.
    segment_max: Option<u16>,
}

impl RealNet {
    /// Starts a clock on the network of this machine.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "making one reads the clock")]
    pub fn new() -> Self {
        Self { origin: clock(), segment_max: None }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where real time enters")]
fn clock() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Whether the processor has instructions for AES and for the multiplication without carries that GCM needs.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// Gives the failures that the standard library has no kind for the kinds that [`Net`] promises.
fn kinded(error: io::Error) -> io::Error {
    #[cfg(unix)]
    {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => return io::Error::new(io::ErrorKind::QuotaExceeded, error),
            Some(libc::ENOBUFS) => return io::Error::new(io::ErrorKind::OutOfMemory, error),
            Some(_) | None => {}
        }
    }
    error
}

fn shared_socket(local: SocketAddr, segment_max: Option<u16>) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    // Before the connection is made, or else it has no effect. A system that refuses a length keeps its own.
    #[cfg(unix)]
    if let Some(bytes) = segment_max {
        let _ = socket.set_tcp_mss(bytes.into());
    }
    socket.bind(&local.into())?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Flags of each send. A library may live in a process that has not set SIGPIPE aside, as Rust programs do at their
/// start and C and Python programs need not: there a write to a connection that its peer has closed would end the
/// process. Of the standard library's own writes only those of one buffer carry the flag.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
/// Elsewhere the socket has an option for it, which is set when it is made.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
const SEND_FLAGS: libc::c_int = 0;

fn send(stream: &TcpStream, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
    let socket = SockRef::from(stream);
    match bufs {
        // The kernel takes one buffer faster than a list of one.
        [buf] => socket.send_with_flags(buf, SEND_FLAGS),
        bufs => socket.send_vectored_with_flags(bufs, SEND_FLAGS),
    }
}

fn poll_send(stream: &TcpStream, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match stream.try_io(Interest::WRITABLE, || send(stream, bufs)) {
            // Readiness was an old one, which that has cleared.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

impl Net for RealNet {
    type Stream = RealStream;
    type Listener = RealListener;

    fn now(&self) -> Instant {
        let nanos = clock().saturating_duration_since(self.origin).as_nanos();
        Instant::from_nanos(u64::try_from(nanos).expect("a process runs for less than 584 years"))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where real time enters")]
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + 'static {
        let at = self.origin.checked_add(at.since_origin());
        async move {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where real time enters")]
    fn unix_time(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }

    fn fill_entropy(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the system gives entropy");
    }

    fn machine(&self) -> Machine {
        let cores =
            std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
        Machine { has_aes: has_aes(), cores }
    }

    fn connect(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> impl Future<Output = io::Result<RealStream>> + Send + 'static {
        let net = *self;
        async move {
            let socket = shared_socket(local, net.segment_max).map_err(kinded)?;
            let stream = socket.connect(remote).await.map_err(kinded)?;
            Ok(RealStream::new(net, stream))
        }
    }

    fn listen(&self, local: SocketAddr, backlog: u32) -> io::Result<RealListener> {
        let socket = shared_socket(local, self.segment_max);
        let listener = socket.and_then(|socket| socket.listen(backlog)).map_err(kinded)?;
        Ok(RealListener { net: *self, listener })
    }

    fn with_segment_max(&self, bytes: u16) -> Self {
        Self { segment_max: Some(bytes.min(self.segment_max.unwrap_or(u16::MAX))), ..*self }
    }

    fn yield_now(&self) -> bool {
        std::thread::yield_now();
        true
    }

    fn is_at_hand(&self) -> bool {
        tokio::runtime::Handle::try_current().is_ok()
    }

    #[cfg(unix)]
    fn allow_files(&self) -> Option<u64> {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum {
            // Some systems name no limit and keep one all the same; what is there then is what there is.
            let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        }
        getrlimit(Resource::Nofile).current
    }

    fn resolve(&self, name: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        let name = name.to_owned();
        async move { Ok(tokio::net::lookup_host(name).await?.collect()) }
    }
}

/// A TCP connection of this machine.
#[derive(Debug)]
pub struct RealStream {
    stream: TcpStream,
    net: RealNet,
    /// Milliseconds for which the other kernel may be silent; 0 for any time.
    silence_max_millis: AtomicU64,
    watch: Watch,
    /// Wakes whoever waits on this stream for the next look of the watch.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    /// How the watch found it to have ended.
    ended: Option<Verdict>,
}

/// A TCP listener of this machine.
#[derive(Debug)]
pub struct RealListener {
    net: RealNet,
    listener: TcpListener,
}

impl Listener for RealListener {
    type Stream = RealStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<RealStream>> {
        let net = self.net;
        self.listener.poll_accept(cx).map_err(kinded).map_ok(|(stream, _)| {
            // A connection that its peer has already reset refuses options; reading will tell.
            let _ = stream.set_nodelay(true);
            RealStream::new(net, stream)
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl RealStream {
    fn new(net: RealNet, stream: TcpStream) -> Self {
        let silence_max_millis = AtomicU64::new(0);
        Self { stream, net, silence_max_millis, watch: Watch::default(), timer: None, ended: None }
    }

    fn silence_max(&self) -> Duration {
        Duration::from_millis(self.silence_max_millis.load(Ordering::Relaxed))
    }

    /// Notes that bytes are on their way, and passes on how many.
    fn wrote(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        if let Ok(bytes) = written {
            self.watch.count(bytes);
        }
        if written.is_ok() && !self.watch.is_on() {
            let silence_max = self.silence_max();
            if !silence_max.is_zero() {
                self.watch.wrote(self.net.now(), silence_max);
            }
        }
        written
    }

    /// What is pending stays so, unless the other kernel has been silent for too long. Looks now and then, as long as
    /// bytes await an acknowledgement, and wakes the task for it.
    fn pending<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        while let Some(at) = self.watch.poll_timeout() {
            let now = self.net.now();
            if now < at {
                let wanted = self.net.origin + at.since_origin();
                if tokio::runtime::Handle::try_current().is_err() {
                    // Called outside a runtime, where nobody waits: the next poll in one sets the timer.
                    break;
                }
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(wanted)));
                if timer.deadline() != wanted {
                    timer.as_mut().reset(wanted);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    break;
                }
                continue;
            }
            let silence_max = self.silence_max();
            match sample(&self.stream).map(|sample| self.watch.look(now, silence_max, sample)) {
                Some(Verdict::Idle | Verdict::Waiting) => {}
                Some(verdict @ (Verdict::Dead | Verdict::Choked)) => {
                    self.ended = Some(verdict);
                    self.watch.rest();
                }
                None => self.watch.rest(),
            }
        }
        match self.ended {
            Some(Verdict::Choked) => Poll::Ready(Err(choked())),
            Some(_) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where real time enters")]
fn sleep_until(at: tokio::time::Instant) -> tokio::time::Sleep {
    tokio::time::sleep_until(at)
}

/// What the kernel knows of a connection, where it tells.
#[cfg(target_os = "linux")]
fn sample(stream: &TcpStream) -> Option<Sample> {
    let progress = fmi_sys::tcp_progress(std::os::fd::AsFd::as_fd(stream)).ok()?;
    let fmi_sys::TcpProgress { waits, retransmissions, probes, heard_ago, acknowledged, segment_bytes, .. } = progress;
    let segment_bytes = usize::try_from(segment_bytes).unwrap_or(usize::MAX);
    Some(Sample { waits, repetitions: retransmissions, window_probes: probes, heard_ago, acknowledged, segment_bytes })
}

/// Other systems are not asked. Bytes in flight then wait as long as the kernel repeats them, and the control
/// channel, on which nothing is in flight for long, tells of dead ranks.
#[cfg(not(target_os = "linux"))]
fn sample(_: &TcpStream) -> Option<Sample> {
    None
}

impl ByteStream for RealStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    fn reset_on_drop(&self) {
        // A socket that refuses the option is broken already.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn set_keepalive(&self, interval: Duration, silence_max: Duration) -> io::Result<()> {
        let probes = Probes::new(interval, silence_max);
        let keepalive = TcpKeepalive::new().with_time(probes.idle);
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows))]
        let keepalive = keepalive.with_interval(probes.pause);
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        let keepalive = keepalive.with_retries(probes.count);
        SockRef::from(&self.stream).set_tcp_keepalive(&keepalive)?;
        let millis = u64::try_from(silence_max.as_millis()).unwrap_or(u64::MAX);
        self.silence_max_millis.store(millis, Ordering::Relaxed);
        Ok(())
    }

    fn heard_at(&self) -> Option<Instant> {
        sample(&self.stream).map(|sample| self.net.now() - sample.heard_ago)
    }

    fn is_acknowledged(&self) -> Option<bool> {
        sample(&self.stream).map(|sample| !sample.waits)
    }

    fn try_read(&mut self, bufs: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        let socket = SockRef::from(&self.stream);
        match bufs {
            // The kernel takes one buffer faster than a list of one.
            [buf] => (&*socket).read(buf),
            bufs => (&*socket).read_vectored(bufs),
        }
    }

    fn try_write(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let written = send(&self.stream, bufs);
        self.wrote(written)
    }

    fn poll_read_vectored(&mut self, cx: &mut Context<'_>, bufs: &mut [io::IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        if let [buf] = bufs {
            // It knows that nothing is left when less came than there was room for, without asking.
            let mut buffer = ReadBuf::new(buf);
            ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
            return Poll::Ready(Ok(buffer.filled().len()));
        }
        loop {
            let Poll::Ready(readiness) = self.stream.poll_read_ready(cx) else { return self.pending(cx) };
            readiness?;
            match self.stream.try_read_vectored(bufs) {
                // Readiness was an old one, which that has cleared.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncRead for RealStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.pending(cx),
            read => read,
        }
    }
}

impl AsyncWrite for RealStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Pending => self.pending(cx),
            Poll::Ready(written) => Poll::Ready(self.wrote(written)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match poll_send(&self.stream, cx, bufs) {
            Poll::Pending => self.pending(cx),
            Poll::Ready(written) => Poll::Ready(self.wrote(written)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::future::poll_fn;
    use std::io::{IoSlice, Write};

    use tokio::signal::unix::{Signal, SignalKind, signal};

    use super::*;

    /// A connection whose peer has answered what was sent with a reset: the next write to it meets EPIPE.
    async fn broken() -> RealStream {
        let net = RealNet::new();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let remote = listener.local_addr().expect("an address");
        let mut stream = net.connect(([127, 0, 0, 1], 0).into(), remote).await.expect("connected");
        drop(listener.accept().expect("a connection"));
        // The first writes only provoke the reset.
        for _ in 0..1000 {
            match stream.try_write(&[IoSlice::new(b"x")]) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return stream,
                _ => tokio::task::yield_now().await,
            }
        }
        panic!("the connection did not break");
    }

    async fn has_come(signal: &mut Signal) -> bool {
        poll_fn(|cx| Poll::Ready(signal.poll_recv(cx).is_ready())).await
    }

    #[tokio::test]
    async fn no_write_to_a_closed_connection_raises_sigpipe() {
        let mut sigpipe = signal(SignalKind::pipe()).expect("a handler");
        let mut later = signal(SignalKind::user_defined1()).expect("a handler");
        let bufs = [IoSlice::new(b"one"), IoSlice::new(b"two")];
        let mut stream = broken().await;
        for count in 1..=bufs.len() {
            let error = stream.try_write(&bufs[..count]).expect_err("closed");
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            let error = poll_fn(|cx| Pin::new(&mut stream).poll_write_vectored(cx, &bufs[..count])).await;
            assert_eq!(error.expect_err("closed").kind(), io::ErrorKind::BrokenPipe);
        }
        let error = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"one")).await.expect_err("closed");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        // Signals are handed on in one go, so that one which came before this one has been seen with it.
        let raised = std::process::Command::new("kill").args(["-USR1", &std::process::id().to_string()]).status();
        assert!(raised.expect("kill runs").success());
        later.recv().await;
        assert!(!has_come(&mut sigpipe).await, "a write raised SIGPIPE");

        // The standard library's write of several buffers does, which shows that this test would see it.
        let plain = stream.stream.into_std().expect("a socket");
        assert!((&plain).write_vectored(&bufs).is_err());
        sigpipe.recv().await;
    }
}
