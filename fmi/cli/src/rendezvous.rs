//! `fmi rendezvous`

use std::net::SocketAddr;
use std::process::ExitCode;

use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::net::tcpunch::Tcpunch;
use fmi::{RealNet, Result};

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
            let both = futures_util::future::join(server.serve(), async move {
                if let Some(tcpunch) = tcpunch {
                    tcpunch.serve().await;
                }
            });
            match both.await.0 {}
        }
        Err(error) => crate::failed(&error),
    }
}

fn bind(arguments: &Arguments) -> Result<(Rendezvous<RealNet>, Option<Tcpunch<RealNet>>)> {
    let mut config = ServerConfig::default();
    config.relays_max = arguments.relays_max;
    let mut server = Rendezvous::bind(RealNet::new(), arguments.listen, config)?;
    if !arguments.vantage.is_empty() {
        server = server.with_vantages(&arguments.vantage)?;
    }
    let tcpunch = arguments.tcpunch.map(|address| Tcpunch::bind(RealNet::new(), address)).transpose()?;
    say!("listening on {}", server.local_addr()?);
    for vantage in server.vantages().iter().skip(1) {
        say!("vantage {vantage}");
    }
    if let Some(tcpunch) = &tcpunch {
        say!("tcpunch {}", tcpunch.local_addr()?);
    }
    Ok((server, tcpunch))
}
