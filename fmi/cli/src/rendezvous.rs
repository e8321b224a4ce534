//! `fmi rendezvous`

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;

use fmi::net::Net;
use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::net::store::StoreServer;
use fmi::net::tcpunch::Tcpunch;
use fmi::{RealNet, Result};
use fmi_proto::tcpunch::CLIENTS_MAX;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address to listen on; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Additional endpoint (repeatable). The next port is always used if it is free. For `fmi nat`, one at another
    /// address tells the rest.
    #[arg(long, value_name = "ADDR")]
    vantage: Vec<SocketAddr>,
    /// Serve clients of the original FMI (TCPunch) as well, on this address. Their protocol has no
    /// authentication: anyone who knows the pair's name can join it.
    #[arg(long, value_name = "ADDR")]
    tcpunch: Option<SocketAddr>,
    /// Maximum number of relayed pairs; 0 for none.
    #[arg(long, value_name = "N", default_value_t = ServerConfig::default().relays_max)]
    relays_max: usize,
    /// Serve a store in memory as well, as `fmi store serve` does; by default on port 6379 of the main endpoint.
    #[arg(long, value_name = "ADDR", num_args = 0..=1)]
    store: Option<Option<SocketAddr>>,
    /// All memory that the store may use.
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = crate::bytes, requires = "store")]
    store_memory: usize,
    /// File with the password of the store.
    #[arg(long, value_name = "F", requires = "store")]
    store_password_file: Option<PathBuf>,
}

/// Where Redis listens.
const STORE_PORT: u16 = 6379;

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    match bind(&arguments) {
        Ok(Servers { rendezvous, tcpunch, store }) => {
            let tcpunch = async move {
                match tcpunch {
                    Some(tcpunch) => tcpunch.serve().await,
                    None => std::future::pending().await,
                }
            };
            let store = async move {
                match store {
                    Some(store) => store.serve().await,
                    None => std::future::pending().await,
                }
            };
            match in_turn(rendezvous.serve(), in_turn(tcpunch, store)).await {}
        }
        Err(error) => crate::failed(&error),
    }
}

/// Files for listeners, calls back, connections that are being refused, and the runtime.
const OTHER_FILES: usize = 256;

/// How many connections each server may have, so that what comes beyond them is refused and not left to wait.
#[derive(Debug, PartialEq, Eq)]
struct Shares {
    connections_max: usize,
    tcpunch_max: usize,
    store_max: usize,
}

/// The connections that may be open at once in a process with so many files.
pub(crate) fn files_max(files_max: Option<u64>) -> usize {
    let files = files_max.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    files.saturating_sub(OTHER_FILES).max(files / 2)
}

fn shares(files: Option<u64>, has_tcpunch: bool, has_store: bool) -> Shares {
    let files = files_max(files);
    let tcpunch_max = if has_tcpunch { files / 4 } else { 0 };
    let store_max = if has_store { files / 4 } else { 0 };
    Shares { connections_max: files - tcpunch_max - store_max, tcpunch_max, store_max }
}

/// Runs two servers in one task. Which comes first alternates: what a runtime allows a task before others have their
/// turn, one that is flooded would use up.
async fn in_turn(one: impl Future<Output = Infallible>, other: impl Future<Output = Infallible>) -> Infallible {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let mut is_ones_turn = false;
    poll_fn(|cx| {
        is_ones_turn = !is_ones_turn;
        for is_one in [is_ones_turn, !is_ones_turn] {
            let polled = if is_one { one.as_mut().poll(cx) } else { other.as_mut().poll(cx) };
            if let Poll::Ready(never) = polled {
                match never {}
            }
        }
        Poll::Pending
    })
    .await
}

struct Servers {
    rendezvous: Rendezvous<RealNet>,
    tcpunch: Option<Tcpunch<RealNet>>,
    store: Option<StoreServer<RealNet>>,
}

fn bind(arguments: &Arguments) -> Result<Servers> {
    let mut config = ServerConfig::default();
    config.relays_max = arguments.relays_max;
    let shares = shares(RealNet::new().allow_files(), arguments.tcpunch.is_some(), arguments.store.is_some());
    config.connections_max = config.connections_max.min(shares.connections_max);
    let mut rendezvous = Rendezvous::bind(RealNet::new(), arguments.listen, config)?;
    if !arguments.vantage.is_empty() {
        rendezvous = rendezvous.with_vantages(&arguments.vantage)?;
    }
    let tcpunch = arguments.tcpunch.map(|address| Tcpunch::bind(RealNet::new(), address)).transpose()?;
    let tcpunch = tcpunch.map(|server| server.with_clients_max(CLIENTS_MAX.min(shares.tcpunch_max)));
    say!("listening on {}", rendezvous.local_addr()?);
    for vantage in rendezvous.vantages().iter().skip(1) {
        say!("vantage {vantage}");
    }
    if let Some(tcpunch) = &tcpunch {
        say!("tcpunch {}", tcpunch.local_addr()?);
    }
    let store = arguments.store.map(|address| {
        let address = address.unwrap_or_else(|| SocketAddr::new(arguments.listen.ip(), STORE_PORT));
        let password_file = arguments.store_password_file.as_deref();
        crate::store::bind(address, arguments.store_memory, password_file, shares.store_max)
    });
    Ok(Servers { rendezvous, tcpunch, store: store.transpose()? })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn servers_take_no_more_connections_than_files_may_be_open() {
        let of = |connections_max, tcpunch_max, store_max| Shares { connections_max, tcpunch_max, store_max };
        assert_eq!(shares(Some(1024), false, false), of(768, 0, 0));
        assert_eq!(shares(Some(1024), true, false), of(576, 192, 0));
        assert_eq!(shares(Some(1024), true, true), of(384, 192, 192));
        assert_eq!(shares(Some(100), true, false), of(38, 12, 0));
        assert!(shares(None, true, true).connections_max > 32_768);
    }

    #[test]
    fn neither_server_is_always_the_first() {
        let polled = RefCell::new(Vec::new());
        let server = |name: char| {
            let polled = &polled;
            poll_fn(move |_| {
                polled.borrow_mut().push(name);
                Poll::Pending
            })
        };
        let mut both = pin!(in_turn(server('a'), server('b')));
        for _ in 0..4 {
            assert!(both.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(polled.take(), ['a', 'b', 'b', 'a', 'a', 'b', 'b', 'a']);
    }
}
