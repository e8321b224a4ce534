//! The program `lab`: runs the catalogue, replays seeds, draws the matrix.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufWriter, IsTerminal};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use scenarios::catalog;
use tracing_subscriber::EnvFilter;

#[macro_use]
mod output;

mod matrix;
mod nats;
#[cfg(test)]
#[path = "../../../../fmi/cli/src/page.rs"]
mod page;
mod perf;
mod sweep;

/// Runs scenarios of functions behind NATs, each from a seed.
#[derive(Parser)]
#[command(name = "lab", version, after_help = "Without a command, runs the whole catalogue with one seed.")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// List the scenarios.
    List,
    /// Run scenarios with seeds.
    Run(RunArguments),
    /// Replay one scenario with one seed, and print the digest.
    Replay(ReplayArguments),
    /// List the NAT presets: what each does, and what that rests on.
    Nats {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Print the list of requirements, and which presets break them.
        #[arg(long)]
        requirements: bool,
    },
    /// Time collectives on virtual links, and compare with the model.
    Perf(perf::Arguments),
    /// Run every pair of NATs and compare with the oracle.
    Matrix {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Write a page for a browser.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Seed of all cells.
        #[arg(long, env = "FMI_SEED", default_value_t = 1)]
        seed: u64,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    /// Scenarios; all if none is named.
    names: Vec<String>,
    /// Seeds from A up to B, without B.
    #[arg(long, env = "FMI_SEEDS", value_name = "A..B", value_parser = seeds)]
    seeds: Option<Range<u64>>,
    /// The only seed, if no range is given.
    #[arg(long, env = "FMI_SEED", value_name = "SEED", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(..u64::MAX))]
    seed: u64,
    /// Parallel runs [default: number of cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// Print one JSON object for each run.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct ReplayArguments {
    /// The scenario.
    name: String,
    /// The seed.
    #[arg(long)]
    seed: u64,
    /// Write the packets, for Wireshark.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Write the events, a JSON object a line.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("give seeds as A..B, for instance 1..100")?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not a seed"));
    let seeds = number(from)?..number(to)?;
    if seeds.is_empty() { Err(format!("empty seed range {text} (the end is exclusive)")) } else { Ok(seeds) }
}

/// Ends with code 2, as bad usage does.
fn usage(message: &str) -> ExitCode {
    complain!("lab: {message}");
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Without a command, the variables of `run` count as well.
    let command = arguments.command.or_else(|| Arguments::parse_from(["lab", "run"]).command);
    let Some(command) = command else { return usage("no command") };
    let filter = match filter(std::env::var_os("FMI_LOG").as_deref()) {
        Ok(filter) => filter,
        Err(message) => return usage(&message),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    match command {
        Command::List => list(),
        Command::Run(arguments) => run(arguments),
        Command::Replay(arguments) => replay(&arguments),
        Command::Nats { json, requirements } => nats::run(json, requirements),
        Command::Matrix { json, html, seed } => matrix::run(json, html.as_deref(), seed),
        Command::Perf(arguments) => perf::run(&arguments),
    }
}

fn filter(variable: Option<&OsStr>) -> Result<EnvFilter, String> {
    let Some(text) = variable else { return Ok(EnvFilter::new("error")) };
    let filter = text.to_str().ok_or_else(|| "not UTF-8".to_owned());
    let filter = filter.and_then(|text| EnvFilter::try_new(text).map_err(|error| error.to_string()));
    filter.map_err(|error| format!("FMI_LOG: {text:?} is not a filter: {error}"))
}

fn list() -> ExitCode {
    let mut table = sweep::table(&["scenario", "functions", "what it shows"]);
    for scenario in catalog::all() {
        let functions = scenario.world.functions.len().to_string();
        table.add_row([scenario.name, functions, scenario.about]);
    }
    say!("{table}");
    ExitCode::SUCCESS
}

fn unknown(name: &str) -> ExitCode {
    usage(&format!("there is no scenario {name:?}; `lab list` shows all"))
}

fn run(arguments: RunArguments) -> ExitCode {
    let mut scenarios = Vec::new();
    for name in &arguments.names {
        match catalog::find_scenario(name) {
            Some(scenario) => scenarios.push(scenario),
            None => return unknown(name),
        }
    }
    if arguments.names.is_empty() {
        scenarios = catalog::all();
    }
    let seeds = arguments.seeds.unwrap_or(arguments.seed..arguments.seed + 1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = arguments.jobs.map_or(cores, usize::from);
    let shows_progress = !arguments.json && std::io::stderr().is_terminal();
    let outcomes = sweep::run(&scenarios, seeds, jobs, shows_progress);
    sweep::report(&outcomes, arguments.json)
}

fn create(path: Option<&Path>) -> Result<Option<Box<dyn scenarios::WriteSend>>, String> {
    let Some(path) = path else { return Ok(None) };
    let file = File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(Some(Box::new(BufWriter::new(file))))
}

fn replay(arguments: &ReplayArguments) -> ExitCode {
    let Some(scenario) = catalog::find_scenario(&arguments.name) else { return unknown(&arguments.name) };
    let files = create(arguments.pcap.as_deref()).and_then(|pcap| Ok((pcap, create(arguments.log.as_deref())?)));
    let (pcap, log) = match files {
        Ok(files) => files,
        Err(message) => return usage(&message),
    };
    let outcome = scenarios::run(&scenario, arguments.seed, scenarios::Options { pcap, log });
    say!("scenario {} seed {}", outcome.scenario, outcome.seed);
    for (rank, end) in &outcome.ends {
        let how = end.error.as_deref().unwrap_or("finished");
        say!("  rank {rank} after {:.3} s: {how}", end.at.as_secs_f64());
    }
    let report = &outcome.report;
    say!(
        "{:.3} s simulated, {} packets, {} events, {} lost, dropped {:?}",
        report.elapsed.as_secs_f64(),
        report.packets,
        report.events,
        report.lost,
        report.drops
    );
    say!("digest {}", report.digest);
    if outcome.passed() {
        return ExitCode::SUCCESS;
    }
    for violation in &outcome.violations {
        complain!("lab: {violation}");
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_page_of_the_reference_agrees_with_the_help() {
        super::page::assert_agrees(super::Arguments::command());
    }
}
