//! `lab perf`

use std::process::ExitCode;
use std::time::Duration;

use fmi::schedule::Collective;
use scenarios::links::Links;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Collectives, separated by commas; all by default.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    ops: Vec<Collective>,
    /// Lengths in bytes, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "8,65536,1048576", value_name = "LIST")]
    bytes: Vec<usize>,
    /// Number of ranks.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    ranks: u32,
    /// From rank to rank, one way, in microseconds; a multiple of 20.
    #[arg(long, default_value_t = 340, value_name = "US")]
    latency: u64,
    /// Of each rank's link, in MB/s.
    #[arg(long, default_value_t = 400, value_name = "MB/S", value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let links = Links {
        ranks: arguments.ranks,
        latency: Duration::from_micros(arguments.latency),
        bytes_per_second: arguments.rate * 1_000_000,
    };
    let ops = if arguments.ops.is_empty() { Collective::ALL.to_vec() } else { arguments.ops.clone() };
    match links.measure(&ops, &arguments.bytes) {
        Ok(timings) => {
            println!("op,algorithm,ranks,bytes,simulated_us,modelled_us");
            for timing in timings {
                let micros = |time: Duration| time.as_secs_f64() * 1e6;
                let (simulated, modelled) = (micros(timing.simulated), micros(timing.modelled));
                let (op, algorithm, ranks, bytes) = (timing.collective, timing.algorithm, links.ranks, timing.bytes);
                println!("{op},{algorithm},{ranks},{bytes},{simulated:.1},{modelled:.1}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}
