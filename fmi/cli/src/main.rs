//! The program `fmi`: serve a rendezvous, check that a group connects, launch a group here.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fmi::config::Variables;

#[macro_use]
mod output;

mod launch;
mod nat;
#[cfg(test)]
mod page;
mod perf;
mod ping;
mod plan;
mod rendezvous;
mod store;

/// MPI-like message passing for functions behind NATs.
#[derive(Parser)]
#[command(name = "fmi", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as the meeting point of groups; runs until it is stopped.
    Rendezvous(rendezvous::Arguments),
    /// Form a group and ping every peer; succeeds only if all answer.
    Ping(ping::Arguments),
    /// Classify the NAT in front of this machine and show which peers it can reach.
    Nat(nat::Arguments),
    /// Show, price and draw the schedule of a collective.
    Plan(plan::Arguments),
    /// Measure messages and collectives.
    Perf(perf::Arguments),
    /// Run N processes of a program as one group on this machine.
    Launch(launch::Arguments),
    /// Keep messages and counters for functions that do not run at the same time.
    Store(store::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = begin() {
        return failed(&error);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match arguments.command {
            Command::Rendezvous(arguments) => rendezvous::run(arguments).await,
            Command::Ping(arguments) => ping::run(arguments).await,
            Command::Nat(arguments) => nat::run(arguments).await,
            Command::Plan(arguments) => plan::run(&arguments),
            Command::Perf(arguments) => perf::run(arguments).await,
            Command::Launch(arguments) => launch::run(arguments).await,
            Command::Store(arguments) => store::run(arguments).await,
        }
    })
}

/// Checks the names of variables, and starts the log that `FMI_LOG` asks for.
fn begin() -> fmi::Result<()> {
    let variables = Variables::from_env();
    variables.check_names()?;
    let filter = variables.text("FMI_LOG")?.unwrap_or("warn");
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| invalid(format!("FMI_LOG: {filter:?}: {error}")))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A log that cannot be written must not end the program.
    log.log_internal_errors(false).init();
    Ok(())
}

/// A mistake in the configuration.
fn invalid(what: String) -> fmi::Error {
    fmi::Error::new(fmi::Operation::Configure, fmi::ErrorKind::InvalidConfig(what))
}

/// Says what went wrong and what may help. A wrong configuration ends with code 2, as wrong options do.
fn failed(error: &fmi::Error) -> ExitCode {
    match error.advice() {
        Some(advice) => complain!("{error}; {advice}"),
        None => complain!("{error}"),
    }
    let is_usage = error.operation() == fmi::Operation::Configure;
    if is_usage { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// Reads a time like `10s`, `500ms` or `2m` that is not zero.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let duration = fmi::config::units::duration(text)?;
    if duration.is_zero() { Err("must be greater than zero".into()) } else { Ok(duration) }
}

/// Reads a length like `64KiB`.
fn bytes(text: &str) -> Result<usize, String> {
    let bytes = fmi::config::units::bytes(text)?;
    usize::try_from(bytes).map_err(|_| format!("{text:?} is too long"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_page_of_the_reference_agrees_with_the_help() {
        super::page::assert_agrees(super::Arguments::command());
    }
}
