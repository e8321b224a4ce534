//! Small worlds for tests.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use nat_sim::nat::NatConfig;
use nat_sim::topology::{GatewaySpec, HostId, HostSpec, INTERNET, NetworkId, Topology};
use nat_sim::{SimNet, World};

pub(crate) const RENDEZVOUS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const RENDEZVOUS_PORT: u16 = 7000;
/// The secret of the group "test".
pub(crate) const KEY: &[u8] = b"the key of the healthy";

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A value that programs of a world leave for the test.
#[derive(Debug, Default)]
pub(crate) struct Board<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Board<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Board<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn put(&self, value: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(value);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A file in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct File(Arc<Mutex<Vec<u8>>>);

impl File {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::io::Write for File {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A rank of the group "test".
pub(crate) fn config(rank: u32, size: u32) -> fmi::Config {
    let mut config = fmi::Config::new(rank, size, "test", format!("{RENDEZVOUS}:{RENDEZVOUS_PORT}"));
    config.key = Some(KEY.into());
    config
}

pub(crate) fn host(network: NetworkId, address: [u8; 4], latency: Duration) -> HostSpec {
    HostSpec::plain(network, address, latency)
}

/// The internet with a server on it, and one host behind each gateway. The private addresses are
/// all the same.
pub(crate) fn behind(
    nats: &[NatConfig],
    lan: Duration,
    wan: Duration,
    server: Duration,
) -> (Topology, HostId, Vec<HostId>) {
    let mut topology = Topology::new();
    let rendezvous = topology.host(host(INTERNET, RENDEZVOUS.octets(), server));
    let hosts = (1u8..).zip(nats).map(|(number, nat)| {
        let inner = topology.network(format!("lan-{number}"));
        topology.gateway(GatewaySpec::plain(*nat, [203, 0, 113, number], wan, inner));
        topology.host(host(inner, [10, 0, 0, 2], lan))
    });
    let hosts = hosts.collect();
    (topology, rendezvous, hosts)
}

pub(crate) fn serve(world: &mut World, host: HostId) {
    world.service(host, |net| async move {
        let address = (RENDEZVOUS, RENDEZVOUS_PORT).into();
        let rendezvous = Rendezvous::bind(net, address, ServerConfig::default()).expect("bound");
        match rendezvous.serve().await {}
    });
}

/// Runs `program` as rank 0, 1, … on each host from the start; what it returns goes to the board.
pub(crate) fn ranks<T: 'static, F: Future<Output = T> + 'static>(
    world: &mut World,
    hosts: &[HostId],
    program: impl Fn(SimNet, u32) -> F + Clone + 'static,
) -> Board<T> {
    let board = Board::new();
    for (rank, host) in (0u32..).zip(hosts) {
        let (board, program) = (board.clone(), program.clone());
        world.function(*host, Duration::ZERO, move |net| {
            let (board, run) = (board.clone(), program(net, rank));
            async move { board.put(run.await) }
        });
    }
    board
}
