//! [`fmi_net::Net`] of one simulated host.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use fmi_net::time::Instant;
use fmi_net::{ByteStream, Listener, Machine, Net};
use rand_core::Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::fabric::Fabric;
use crate::host::{ConnectionId, Effects, Host, ListenerId};
use crate::packet::Transport;
use crate::topology::HostId;

mod raw;
mod udp;

pub use raw::SimRaw;
pub use udp::SimUdp;

/// What all parts of a world share.
pub(crate) struct Shared {
    fabric: Mutex<Fabric>,
    /// Simulated time of one millisecond of tokio's clock.
    resolution: Duration,
    /// What [`Shared::now`] says outside of the sites' tasks, in nanoseconds.
    between_ticks: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("resolution", &self.resolution).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(fabric: Fabric, resolution: Duration) -> Arc<Self> {
        Arc::new(Self { fabric: Mutex::new(fabric), resolution, between_ticks: AtomicU64::new(0) })
    }

    pub(crate) fn fabric(&self) -> MutexGuard<'_, Fabric> {
        // A panic elsewhere must not hide behind a second one here.
        self.fabric.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Simulated time of one tick.
    pub(crate) fn tick(&self) -> Duration {
        self.resolution
    }

    pub(crate) fn scale(&self, tokio: Duration) -> Instant {
        let resolution = u64::try_from(self.resolution.as_nanos()).expect("a resolution is short");
        Instant::from_nanos(u64::try_from(tokio.as_micros()).expect("runs are short") / 1000 * resolution)
    }

    /// The simulated time. turmoil knows it while a site's tasks run; they are dropped outside of that, at a fault or at
    /// the end of a run, and what they drop may still send.
    pub(crate) fn now(&self) -> Instant {
        let between_ticks = || Instant::from_nanos(self.between_ticks.load(Ordering::Relaxed));
        turmoil::sim_elapsed().map_or_else(between_ticks, |elapsed| self.scale(elapsed))
    }

    /// Tells the simulated time between two ticks.
    pub(crate) fn set_now(&self, now: Instant) {
        self.between_ticks.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// How long tokio's clock runs from now until the simulated time is `at` or later.
    pub(crate) fn tokio_until(&self, at: Instant) -> Duration {
        let resolution = self.resolution.as_nanos();
        let ticks = u128::from(at.as_nanos()).div_ceil(resolution);
        let gone = turmoil::sim_elapsed().unwrap_or_default().as_millis();
        Duration::from_millis(u64::try_from(ticks.saturating_sub(gone)).unwrap_or(u64::MAX).min(MAX_SLEEP_MILLIS))
    }
}

/// tokio's timers end after two years; a longer sleep goes to sleep again.
const MAX_SLEEP_MILLIS: u64 = 1 << 35;

/// Sleeps on tokio's clock. The one place of the lab that does.
#[expect(clippy::disallowed_methods, reason = "the lab's clock is tokio's, scaled")]
pub(crate) async fn sleep(shared: &Shared, at: Instant) {
    while shared.now() < at {
        tokio::time::sleep(shared.tokio_until(at)).await;
    }
}

/// The network as one host sees it.
#[derive(Clone, Debug)]
pub struct SimNet {
    shared: Arc<Shared>,
    host: HostId,
    /// Longest segment of a connection.
    segment_max: Option<u16>,
}

impl SimNet {
    pub(crate) fn new(shared: Arc<Shared>, host: HostId) -> Self {
        Self { shared, host, segment_max: None }
    }

    /// Records something in the event log and the digest.
    pub fn record(&self, what: &str, detail: &str) {
        let now = self.shared.now();
        let detail = format!("host {}: {detail}", self.host.0);
        self.shared.fabric().capture.event(now, what, &detail);
    }

    /// The address of this host on its own network.
    pub fn address(&self) -> Ipv4Addr {
        self.shared.fabric().hosts[self.host.0].address
    }

    /// Its addresses of IPv6.
    pub fn ipv6_addresses(&self) -> Vec<IpAddr> {
        let addresses = self.shared.fabric().hosts[self.host.0].addresses().to_vec();
        addresses.into_iter().filter(IpAddr::is_ipv6).collect()
    }

    /// All flows of TCP that stand at the gateways of the world, from the external endpoint to the remote one: what an
    /// attacker may be told that is meant to know everything but keys and sequence numbers.
    pub fn flows(&self) -> Vec<(SocketAddrV4, SocketAddrV4)> {
        let now = self.shared.now();
        let mut fabric = self.shared.fabric();
        let rows = fabric.gateways.iter_mut().flat_map(|gateway| gateway.snapshot(now));
        let streams = rows.filter(|row| row.transport == Transport::Tcp);
        streams.map(|row| (row.external, row.remote)).collect()
    }

    fn act<R>(&self, act: impl FnOnce(&mut Host, Instant, &mut Effects) -> R) -> R {
        let now = self.shared.now();
        self.shared.fabric().with_host(self.host, now, |host, effects| act(host, now, effects))
    }
}

/// A sleep that the watchdogs know of.
struct KnownSleep {
    net: SimNet,
    number: u64,
    sleep: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for KnownSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}

impl Drop for KnownSleep {
    fn drop(&mut self) {
        self.net.shared.fabric().sleeps.remove(&(self.net.host, self.number));
    }
}

impl Net for SimNet {
    type Stream = SimStream;
    type Listener = SimListener;

    fn now(&self) -> Instant {
        self.shared.now()
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + 'static {
        let number = {
            let mut fabric = self.shared.fabric();
            fabric.next_sleep += 1;
            let number = fabric.next_sleep;
            fabric.sleeps.insert((self.host, number), at);
            number
        };
        let shared = self.shared.clone();
        KnownSleep { net: self.clone(), number, sleep: Box::pin(async move { sleep(&shared, at).await }) }
    }

    fn fill_entropy(&self, bytes: &mut [u8]) {
        self.shared.fabric().hosts[self.host.0].entropy.fill_bytes(bytes);
    }

    fn machine(&self) -> Machine {
        self.shared.fabric().machines[self.host.0]
    }

    fn connect(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> impl Future<Output = io::Result<SimStream>> + Send + 'static {
        Connect { net: self.clone(), local, remote, id: None }
    }

    fn listen(&self, local: SocketAddr, backlog: u32) -> io::Result<SimListener> {
        let backlog = usize::try_from(backlog).unwrap_or(usize::MAX);
        self.check_local(local)?;
        let id = self.act(|host, _, _| host.listen(local, backlog, self.segment_max))?;
        Ok(SimListener { net: self.clone(), id })
    }

    fn with_segment_max(&self, bytes: u16) -> Self {
        let bytes = bytes.min(self.segment_max.unwrap_or(u16::MAX));
        Self { segment_max: Some(bytes), ..self.clone() }
    }

    /// Finds the addresses of a name of the [topology](crate::topology::Topology::name). Addresses separated by `|` are
    /// those of a name that is not in it.
    fn resolve(&self, name: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        let (net, name) = (self.clone(), name.to_owned());
        async move {
            let literal: Result<Vec<SocketAddr>, _> = name.split('|').map(str::parse).collect();
            if let Ok(addresses) = literal {
                return Ok(addresses);
            }
            let (host, port) = name.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let port = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
            let delay = net.shared.fabric().names.delay(host);
            if !delay.is_zero() {
                net.sleep_until(net.now() + delay).await;
            }
            let now = net.now();
            let addresses = net.shared.fabric().names.resolve(now, host).ok_or(io::ErrorKind::NotFound)?;
            Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        }
    }
}

impl SimNet {
    fn check_local(&self, local: SocketAddr) -> io::Result<()> {
        let is_mine =
            local.ip().is_unspecified() || self.shared.fabric().hosts[self.host.0].addresses().contains(&local.ip());
        if is_mine { Ok(()) } else { Err(io::ErrorKind::AddrNotAvailable.into()) }
    }
}

struct Connect {
    net: SimNet,
    local: SocketAddr,
    remote: SocketAddr,
    id: Option<ConnectionId>,
}

impl Future for Connect {
    type Output = io::Result<SimStream>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<SimStream>> {
        let id = match self.id {
            Some(id) => id,
            None => {
                self.net.check_local(self.local)?;
                let (ends, segment_max) = ((self.local, self.remote), self.net.segment_max);
                let id = self.net.act(|host, now, effects| host.connect(now, ends, segment_max, effects))?;
                self.id = Some(id);
                id
            }
        };
        let connected = self.net.act(|host, _, _| match host.connection(id) {
            Some(connection) => connection.poll_connected(cx),
            None => Poll::Ready(Err(io::ErrorKind::NetworkDown.into())),
        });
        match connected {
            Poll::Ready(Ok(())) => {
                self.id = None;
                Poll::Ready(Ok(SimStream::new(self.net.clone(), id)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.net.act(|host, now, effects| host.close(now, id, effects));
        }
    }
}

/// A TCP listener of the lab.
#[derive(Debug)]
pub struct SimListener {
    net: SimNet,
    id: ListenerId,
}

impl Listener for SimListener {
    type Stream = SimStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<SimStream>> {
        let id = self.id;
        let accepted = self.net.act(|host, _, _| {
            let accepted = host.accept(id);
            if accepted.is_none()
                && let Some(listener) = host.listeners.get_mut(&id)
            {
                listener.waker = Some(cx.waker().clone());
            }
            accepted
        });
        match accepted {
            Some(id) => Poll::Ready(Ok(SimStream::new(self.net.clone(), id))),
            None => Poll::Pending,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let (port, address) = self.id;
        Ok(SocketAddr::new(address.unwrap_or_else(|| self.net.address().into()), port))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let id = self.id;
        self.net.act(|host, now, effects| host.close_listener(now, id, effects));
    }
}

/// A TCP connection of the lab.
#[derive(Debug)]
pub struct SimStream {
    net: SimNet,
    id: ConnectionId,
    resets: AtomicBool,
}

impl SimStream {
    fn new(net: SimNet, id: ConnectionId) -> Self {
        Self { net, id, resets: AtomicBool::new(false) }
    }

    fn endpoints(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        self.net.act(|host, _, _| {
            let connection = host.connection(self.id).ok_or(io::ErrorKind::NotConnected)?;
            Ok((connection.local, connection.remote))
        })
    }
}

impl ByteStream for SimStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoints().map(|(local, _)| local)
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.endpoints().map(|(_, peer)| peer)
    }

    fn reset_on_drop(&self) {
        self.resets.store(true, Ordering::Relaxed);
    }

    fn set_keepalive(&self, interval: Duration, silence_max: Duration) -> io::Result<()> {
        self.net.act(|host, now, effects| {
            let connection = host.connection(self.id).ok_or(io::ErrorKind::NotConnected)?;
            connection.set_keepalive(now, interval, silence_max);
            host.service(now, self.id, None, effects);
            Ok(())
        })
    }

    fn heard_at(&self) -> Option<Instant> {
        self.net.act(|host, _, _| host.connection(self.id)?.heard_at())
    }

    fn is_acknowledged(&self) -> Option<bool> {
        self.net.act(|host, _, _| Some(!host.connection(self.id)?.waits()))
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let id = self.id;
        let read = self.net.act(|host, now, effects| {
            let Some(connection) = host.connection(id) else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let read = connection.poll_read(cx, buf.initialize_unfilled());
            if let Poll::Ready(Ok(1..)) = read {
                // The window may have opened.
                host.service(now, id, None, effects);
                host.progress += 1;
            }
            read
        });
        read.map_ok(|read| buf.advance(read))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let id = self.id;
        self.net.act(|host, now, effects| {
            let mut written = 0;
            for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
                let Some(connection) = host.connection(id) else {
                    return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
                };
                match connection.poll_write(cx, buf) {
                    Poll::Ready(Ok(taken)) => {
                        written += taken;
                        if taken < buf.len() {
                            break;
                        }
                    }
                    Poll::Ready(Err(_)) | Poll::Pending if written > 0 => break,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            host.service(now, id, None, effects);
            Poll::Ready(Ok(written))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let id = self.id;
        self.net.act(|host, now, effects| {
            if let Some(connection) = host.connection(id) {
                connection.shut_write();
                host.service(now, id, None, effects);
            }
        });
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let (id, resets) = (self.id, *self.resets.get_mut());
        self.net.act(
            |host, now, effects| {
                if resets { host.abandon(now, id, effects) } else { host.close(now, id, effects) }
            },
        );
    }
}
