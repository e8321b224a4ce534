//! `lab perf`

use std::process::ExitCode;
use std::time::Duration;

use fmi::config::units;
use fmi_proto::schedule::Collective;
use scenarios::links::{Links, RESOLUTION};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Collectives, separated by commas; all by default.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    ops: Vec<Collective>,
    /// Lengths in bytes, separated by commas, like 8,1KiB,16MiB.
    #[arg(long, value_delimiter = ',', value_parser = length, default_value = "8,64KiB,1MiB", value_name = "LIST")]
    bytes: Vec<usize>,
    /// Number of ranks.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    ranks: u32,
    /// From rank to rank, one way, like 340us or 10ms; a multiple of 20us.
    #[arg(long, default_value = "340us", value_name = "TIME", value_parser = latency)]
    latency: Duration,
    /// Of each rank's link, in MB/s.
    #[arg(long, default_value_t = 400, value_name = "MB/S", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
}

/// Longest vector that is timed: each rank of a world in this process has several.
const LENGTH_MAX: usize = 1 << 28;

fn length(text: &str) -> Result<usize, String> {
    let bytes = units::bytes(text)?;
    let length = usize::try_from(bytes).ok().filter(|length| *length <= LENGTH_MAX);
    length.ok_or_else(|| format!("{text} is more than 256MiB"))
}

fn latency(text: &str) -> Result<Duration, String> {
    if text.ends_with(|c: char| c.is_ascii_digit()) {
        return Err("give a unit, like 340us or 10ms".into());
    }
    let latency = units::duration(text)?;
    // Each rank's link has half of it, in whole ticks of the world.
    let is_whole = latency.as_nanos().is_multiple_of(2 * RESOLUTION.as_nanos());
    if is_whole { Ok(latency) } else { Err(format!("{text} is not a multiple of {:?}", 2 * RESOLUTION)) }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let links =
        Links { ranks: arguments.ranks, latency: arguments.latency, bytes_per_second: arguments.rate * 1_000_000 };
    let ops = if arguments.ops.is_empty() { Collective::ALL.to_vec() } else { arguments.ops.clone() };
    match links.measure(&ops, &arguments.bytes) {
        Ok(timings) => {
            say!("op,algorithm,ranks,bytes,simulated_us,modelled_us");
            for timing in timings {
                let micros = |time: Duration| time.as_secs_f64() * 1e6;
                let (simulated, modelled) = (micros(timing.simulated), micros(timing.modelled));
                let (op, algorithm, ranks, bytes) = (timing.collective, timing.algorithm, links.ranks, timing.bytes);
                say!("{op},{algorithm},{ranks},{bytes},{simulated:.1},{modelled:.1}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}
