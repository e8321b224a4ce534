//! Connections to a server by name, with the net that they are made on erased.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use fmi_net::time::Instant;
use fmi_net::{BoxFuture, ByteStream, Clock, Net, Timer, within};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection, encrypted or not.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, encrypted or not.
pub(crate) type Link = Box<dyn Duplex>;

/// For so long a connection may take until it can be used, and one of its addresses may.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const ADDRESS_WITHIN: Duration = Duration::from_secs(5);

/// Fills bytes with entropy.
type FillEntropy = dyn Fn(&mut [u8]) + Send + Sync;
/// A connection that is being made.
type Dialling = BoxFuture<io::Result<Box<dyn ByteStream>>>;

/// A server, and the ways to it. A name is resolved anew for each connection: it may be that of another machine by then.
pub(crate) struct Server {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) host: String,
    dial: Box<dyn Fn() -> Dialling + Send + Sync>,
    fill_entropy: Box<FillEntropy>,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Tls>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Server {
    /// A server at a port of a host; over TLS if `is_encrypted`.
    ///
    /// # Errors
    /// If there is no TLS here, or this machine has no certificates to trust.
    pub(crate) fn new(net: impl Net, host: &str, port: u16, is_encrypted: bool) -> Result<Self, String> {
        #[cfg(feature = "tls")]
        let tls = if is_encrypted { Some(crate::tls::Tls::new(host)?) } else { None };
        #[cfg(not(feature = "tls"))]
        if is_encrypted {
            return Err("a store over TLS needs the feature `rediss` of faas-fmi-store".into());
        }
        let (entropy, dialling, to) = (net.clone(), net.clone(), host.to_owned());
        Ok(Self {
            clock: Arc::new(net),
            host: host.to_owned(),
            dial: Box::new(move || Box::pin(dial(dialling.clone(), to.clone(), port))),
            fill_entropy: Box::new(move |bytes| entropy.fill_entropy(bytes)),
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// Connects. It has an end only within [`Self::within`].
    pub(crate) async fn connect(&self) -> io::Result<Link> {
        let stream = (self.dial)().await?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.wrap(stream).await;
        }
        Ok(Box::new(stream))
    }

    /// Runs a future until a time; `None` if it has not completed by then.
    pub(crate) async fn within<T>(&self, at: Instant, future: impl Future<Output = T>) -> Option<T> {
        let (mut future, mut timer) = (pin!(future), Timer::new(self.clock.clone()));
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(it) => Poll::Ready(Some(it)),
            Poll::Pending if timer.poll_until(cx, at) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Fills `bytes` with entropy.
    #[cfg(feature = "s3")]
    pub(crate) fn fill_entropy(&self, bytes: &mut [u8]) {
        (self.fill_entropy)(bytes);
    }

    /// A pause before another try: longer with each, and another one in each process.
    pub(crate) async fn pause(&self, tries: u32) {
        const FIRST: Duration = Duration::from_millis(20);
        const DOUBLINGS_MAX: u32 = 6;
        let longest = FIRST * (1 << tries.min(DOUBLINGS_MAX));
        let mut draw = [0; 4];
        (self.fill_entropy)(&mut draw);
        let part = f64::from(u32::from_le_bytes(draw)) / f64::from(u32::MAX);
        self.clock.sleep_until(self.clock.now() + longest.mul_f64(0.5 + part / 2.0)).await;
    }
}

async fn dial<N: Net>(net: N, host: String, port: u16) -> io::Result<Box<dyn ByteStream>> {
    let end = net.now() + CONNECT_WITHIN;
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => within(&net, end, net.resolve(&format!("{host}:{port}"))).await?,
    };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for remote in addresses {
        let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let at = end.min(net.now() + ADDRESS_WITHIN);
        match within(&net, at, net.connect(SocketAddr::new(any, 0), remote)).await {
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) => failure = io::Error::new(error.kind(), format!("{remote}: {error}")),
        }
    }
    Err(failure)
}

/// A stream of which it is noted when bytes move.
pub(crate) struct Noted {
    link: Link,
    clock: Arc<dyn Clock>,
    moved_at: Arc<AtomicU64>,
}

impl Noted {
    /// Notes the times, in nanoseconds since the origin.
    pub(crate) fn new(link: Link, clock: Arc<dyn Clock>, moved_at: Arc<AtomicU64>) -> Self {
        Self { link, clock, moved_at }
    }

    fn note(&self, bytes: usize) {
        if bytes > 0 {
            self.moved_at.store(self.clock.now().as_nanos(), Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.link).poll_read(cx, buf))?;
        self.note(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.link).poll_write(cx, bytes))?;
        self.note(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(cx)
    }
}
