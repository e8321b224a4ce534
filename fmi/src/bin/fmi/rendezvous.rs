//! `fmi rendezvous`

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
}

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    let bound = Rendezvous::bind(RealNet::new(), arguments.listen, ServerConfig::default())
        .and_then(|server| server.local_addr().map(|address| (server, address)));
    match bound {
        Ok((server, address)) => {
            println!("listening on {address}");
            match server.serve().await {}
        }
        Err(error) => {
            eprintln!("fmi: {error}");
            ExitCode::FAILURE
        }
    }
}
