//! `fmi rendezvous`

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;

use fmi::net::Net;
use fmi::net::rendezvous::{Rendezvous, ServerConfig};
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
}

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    match bind(&arguments) {
        Ok((server, tcpunch)) => {
            let tcpunch = async move {
                match tcpunch {
                    Some(tcpunch) => tcpunch.serve().await,
                    None => std::future::pending().await,
                }
            };
            match in_turn(server.serve(), tcpunch).await {}
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
    clients_max: usize,
}

fn shares(files_max: Option<u64>, has_tcpunch: bool) -> Shares {
    let files = files_max.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let files = files.saturating_sub(OTHER_FILES).max(files / 2);
    let clients_max = if has_tcpunch { files / 4 } else { 0 };
    Shares { connections_max: files - clients_max, clients_max }
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

fn bind(arguments: &Arguments) -> Result<(Rendezvous<RealNet>, Option<Tcpunch<RealNet>>)> {
    let mut config = ServerConfig::default();
    config.relays_max = arguments.relays_max;
    let shares = shares(RealNet::new().allow_files(), arguments.tcpunch.is_some());
    config.connections_max = config.connections_max.min(shares.connections_max);
    let mut server = Rendezvous::bind(RealNet::new(), arguments.listen, config)?;
    if !arguments.vantage.is_empty() {
        server = server.with_vantages(&arguments.vantage)?;
    }
    let tcpunch = arguments.tcpunch.map(|address| Tcpunch::bind(RealNet::new(), address)).transpose()?;
    let tcpunch = tcpunch.map(|server| server.with_clients_max(CLIENTS_MAX.min(shares.clients_max)));
    say!("listening on {}", server.local_addr()?);
    for vantage in server.vantages().iter().skip(1) {
        say!("vantage {vantage}");
    }
    if let Some(tcpunch) = &tcpunch {
        say!("tcpunch {}", tcpunch.local_addr()?);
    }
    Ok((server, tcpunch))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn servers_take_no_more_connections_than_files_may_be_open() {
        assert_eq!(shares(Some(1024), false), Shares { connections_max: 768, clients_max: 0 });
        assert_eq!(shares(Some(1024), true), Shares { connections_max: 576, clients_max: 192 });
        assert_eq!(shares(Some(100), true), Shares { connections_max: 38, clients_max: 12 });
        assert!(shares(None, true).connections_max > 32_768);
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
