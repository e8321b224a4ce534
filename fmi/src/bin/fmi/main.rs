//! The program `fmi`: serve a rendezvous, check that a group connects, launch a group here.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod launch;
mod nat;
mod perf;
mod ping;
mod plan;
mod rendezvous;

/// MPI-like message passing for functions behind NATs.
#[derive(Parser)]
#[command(version, about)]
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
    /// Show what the NAT before this machine does, and what will work with it.
    Nat(nat::Arguments),
    /// Show how a collective would be done, what it costs, and why; draw it.
    Plan(plan::Arguments),
    /// Measure messages and collectives.
    Perf(perf::Arguments),
    /// Run N processes of a program as one group on this machine.
    Launch(launch::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("FMI_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("fmi: cannot start: {error}");
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
        }
    })
}

/// Reads a time like `10s`, `500ms` or `2m`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds_per_unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        unit => return Err(format!("unknown unit {unit:?}; use ms, s or m")),
    };
    let value: f64 = digits.parse().map_err(|_| format!("{digits:?} is not a number"))?;
    let duration =
        std::time::Duration::try_from_secs_f64(value * seconds_per_unit).map_err(|error| error.to_string())?;
    if duration.is_zero() { Err("must be above zero".into()) } else { Ok(duration) }
}
