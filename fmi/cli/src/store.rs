//! `fmi store`

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use fmi::net::Net;
use fmi::net::store::{StoreConfig, StoreServer};
use fmi::{RealNet, Result, Secret};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve a store in memory, for clients of Redis; runs until it is stopped.
    Serve(Serve),
    /// Delete what crashed groups have left in a store.
    Sweep(Sweep),
}

#[derive(clap::Args)]
struct Sweep {
    /// URL of the store; FMI_STORE by default.
    url: Option<String>,
    /// Only what was written before this time, as far as the store tells. Whatever runs now needs what is younger than its
    /// slowest step.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = fmi::config::units::duration)]
    older: Duration,
}

#[derive(clap::Args)]
struct Serve {
    /// Address to listen on; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6379")]
    listen: SocketAddr,
    /// All memory that it may use; what does not fit is refused.
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = crate::bytes)]
    memory: usize,
    /// File with the password that clients have to say first; a line break at its end does not count.
    #[arg(long, value_name = "F")]
    password_file: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    let serve = match arguments.command {
        Command::Serve(serve) => serve,
        Command::Sweep(sweep) => return run_sweep(sweep).await,
    };
    let files = crate::rendezvous::files_max(RealNet::new().allow_files());
    match bind(serve.listen, serve.memory, serve.password_file.as_deref(), files) {
        Ok(server) => match server.serve().await {},
        Err(error) => crate::failed(&error),
    }
}

async fn run_sweep(sweep: Sweep) -> ExitCode {
    let Some(url) = sweep.url.or_else(|| std::env::var("FMI_STORE").ok()) else {
        return crate::failed(&crate::invalid("neither a URL nor FMI_STORE is given".into()));
    };
    let swept = async {
        let store = fmi::store::connect(RealNet::new(), &url).await?;
        store.sweep(None, sweep.older).await
    };
    match swept.await {
        Ok(count) => {
            say!("{count} messages deleted");
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Listens, and says where, and who may do what.
pub(crate) fn bind(
    address: SocketAddr,
    memory: usize,
    password_file: Option<&Path>,
    clients_max: usize,
) -> Result<StoreServer<RealNet>> {
    let mut config = StoreConfig::default();
    config.memory_bytes_max = memory;
    config.clients_max = config.clients_max.min(clients_max);
    config.password = password_file.map(password).transpose()?;
    let is_open = config.password.is_none() && !address.ip().is_loopback();
    let server = StoreServer::bind(RealNet::new(), address, config)?;
    say!("store {}", server.local_addr()?);
    if is_open {
        complain!("without a password, whoever reaches {address} reads and writes all of the store");
    }
    Ok(server)
}

fn password(path: &Path) -> Result<Secret> {
    let invalid = |what: &str| crate::invalid(format!("password file {}: {what}", path.display()));
    let text = std::fs::read(path).map_err(|error| invalid(&error.to_string()))?;
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.is_empty() { Err(invalid("it is empty")) } else { Ok(text.into()) }
}
