//! `fmi rendezvous`

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use fmi::net::rendezvous::Rendezvous;
use fmi::net::tcpunch::Tcpunch;
use fmi::proto::rendezvous::server::ServerConfig;
use fmi::{RealNet, Result};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address to listen on; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Another endpoint; may be given several times. The next port is one anyway, if it is free: there ranks
    /// are seen a second time. For `fmi nat`, one with another address tells the rest.
    #[arg(long, value_name = "ADDR")]
    vantage: Vec<SocketAddr>,
    /// Serve clients of the original FMI (TCPunch) as well, on this address. Their protocol has no
    /// authentication: who knows a name is paired.
    #[arg(long, value_name = "ADDR")]
    tcpunch: Option<SocketAddr>,
    /// Most pairs that are relayed at once; 0 for none.
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
        Err(error) => {
            eprintln!("fmi: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bind(arguments: &Arguments) -> Result<(Rendezvous<RealNet>, Option<Tcpunch<RealNet>>)> {
    let config = ServerConfig { relays_max: arguments.relays_max, ..ServerConfig::default() };
    let mut server = Rendezvous::bind(RealNet::new(), arguments.listen, config)?;
    if !arguments.vantage.is_empty() {
        server = server.with_vantages(&arguments.vantage)?;
    }
    let tcpunch = arguments.tcpunch.map(|address| Tcpunch::bind(RealNet::new(), address)).transpose()?;
    println!("listening on {}", server.local_addr()?);
    // Nobody may read on: who only wanted the first line has left.
    let mut out = std::io::stdout();
    for vantage in server.vantages().iter().skip(1) {
        let _ = writeln!(out, "vantage {vantage}");
    }
    if let Some(tcpunch) = &tcpunch {
        let _ = writeln!(out, "tcpunch {}", tcpunch.local_addr()?);
    }
    Ok((server, tcpunch))
}
