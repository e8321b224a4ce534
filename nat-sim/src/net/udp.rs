//! UDP sockets and echo requests of a simulated host. The seam of `fmi` has neither: these are for
//! programs that look at the network itself.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use super::SimNet;

/// A UDP socket of the lab, on all addresses of its host.
#[derive(Debug)]
pub struct SimUdp {
    net: SimNet,
    port: u16,
}

impl SimNet {
    /// Binds a UDP port; 0 takes a free one.
    ///
    /// # Errors
    /// `AddrInUse` if it is taken.
    pub fn bind_udp(&self, port: u16) -> io::Result<SimUdp> {
        let port = self.act(|host, _, _| host.bind_datagrams(port))?;
        Ok(SimUdp { net: self.clone(), port })
    }

    /// Asks for an echo and waits for it. Returns the round trip. Silence is waited for without end:
    /// race it with a sleep.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the question.
    pub async fn ping(&self, to: Ipv4Addr) -> Duration {
        let sent = self.shared.now();
        let asked = Asked { net: self, identifier: self.act(|host, _, _| host.echo_identifier()) };
        self.act(|host, _, effects| host.send_echo(to, asked.identifier, 1, effects));
        let answered = poll_fn(|cx| {
            self.act(|host, _, _| match host.echoes.get_mut(&asked.identifier) {
                Some(echoes) => match echoes.answered.pop() {
                    Some((_, at)) => Poll::Ready(at),
                    None => {
                        echoes.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                },
                // The host was killed.
                None => Poll::Pending,
            })
        });
        answered.await - sent
    }
}

/// An echo identifier in use.
struct Asked<'a> {
    net: &'a SimNet,
    identifier: u16,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let identifier = self.identifier;
        self.net.act(|host, _, _| host.echoes.remove(&identifier));
    }
}

impl SimUdp {
    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends a datagram; what exceeds the MTU goes in fragments.
    ///
    /// # Errors
    /// `InvalidInput` above 65,507 bytes, `NetworkUnreachable` without an address of that family.
    pub fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        let port = self.port;
        self.net.act(|host, _, effects| host.send_datagram(port, to, payload, effects))
    }

    /// Waits for a datagram.
    ///
    /// # Cancel safety
    /// No datagram is lost.
    pub async fn recv_from(&self) -> (SocketAddr, Vec<u8>) {
        poll_fn(|cx| {
            self.net.act(|host, _, _| match host.take_datagram(self.port) {
                Some(received) => Poll::Ready(received),
                None => {
                    if let Some(socket) = host.datagrams.get_mut(&self.port) {
                        socket.waker = Some(cx.waker().clone());
                    }
                    Poll::Pending
                }
            })
        })
        .await
    }
}

impl Drop for SimUdp {
    fn drop(&mut self) {
        let port = self.port;
        self.net.act(|host, _, _| host.datagrams.remove(&port));
    }
}
