//! `fmi rendezvous`

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use fmi::RealNet;
use fmi::net::rendezvous::Rendezvous;
use fmi::proto::rendezvous::server::ServerConfig;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address to listen on; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Another endpoint; may be given several times. The next port is one anyway, if it is free: there ranks
    /// are seen a second time. For `fmi nat`, one with another address tells the rest.
    #[arg(long, value_name = "ADDR")]
    vantage: Vec<SocketAddr>,
}

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    let bound = Rendezvous::bind(RealNet::new(), arguments.listen, ServerConfig::default())
        .and_then(
            |server| if arguments.vantage.is_empty() { Ok(server) } else { server.with_vantages(&arguments.vantage) },
        )
        .and_then(|server| server.local_addr().map(|address| (server, address)));
    match bound {
        Ok((server, address)) => {
            println!("listening on {address}");
            // Nobody may read on: who only wanted the first line has left.
            let mut out = std::io::stdout();
            for vantage in server.vantages().iter().skip(1) {
                let _ = writeln!(out, "vantage {vantage}");
            }
            match server.serve().await {}
        }
        Err(error) => {
            eprintln!("fmi: {error}");
            ExitCode::FAILURE
        }
    }
}
