//! `fmi perf`

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use fmi::bytemuck::{cast_slice, cast_slice_mut};
use fmi::config::Variables;
use fmi::net::Net;
use fmi::op::{BuiltIn, Max};
use fmi::{Communicator, Config, Datatype, Invocation, RealNet};
use fmi_proto::schedule::Collective;

type Result<T, E = fmi::Error> = std::result::Result<T, E>;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure, separated by commas: pingpong, stream, startup, or collectives by name, like allreduce. All but
    /// startup by default.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    ops: Vec<Measured>,
    /// Lengths in bytes, separated by commas, like 8,1KiB,16MiB: of the vector, or of each rank's block.
    #[arg(long, value_delimiter = ',', value_parser = crate::bytes, default_value = "8,1KiB,64KiB,1MiB", value_name = "LIST")]
    bytes: Vec<usize>,
    /// Start this many ranks here. Without it, this process is one rank of a group (see `fmi launch`).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    ranks: Option<u32>,
    /// Print comma-separated values.
    #[arg(long)]
    csv: bool,
    /// Samples per message size.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Time for each sample.
    #[arg(long, default_value = "10ms", value_parser = crate::duration, value_name = "TIME")]
    time: Duration,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measured {
    /// Half a round trip between ranks 0 and 1.
    Pingpong,
    /// A message of many in a row from rank 0 to rank 1.
    Stream,
    /// A collective, on blocks of one length.
    Collective(Collective),
    /// From `FMI_PERF_START` (nanoseconds of the Unix clock) to the end of the first barrier, and private memory of a
    /// rank in KiB.
    Startup,
}

impl Measured {
    /// What is measured unless it is said: all but the start.
    fn default_ones() -> impl Iterator<Item = Self> + Clone {
        [Self::Pingpong, Self::Stream].into_iter().chain(Collective::ALL.iter().copied().map(Self::Collective))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pingpong => "pingpong",
            Self::Stream => "stream",
            Self::Collective(collective) => collective.name(),
            Self::Startup => "startup",
        }
    }
}

impl FromStr for Measured {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = Self::default_ones().chain([Self::Startup]);
        all.clone().find(|known| known.name() == text).ok_or_else(|| {
            let names: Vec<&str> = all.map(Self::name).collect();
            format!("expected one of: {}", names.join(", "))
        })
    }
}

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    if let Some(ranks) = arguments.ranks {
        return crate::launch::again(ranks, "--ranks").await;
    }
    match perf(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => crate::failed(&error),
    }
}

async fn perf(arguments: Arguments) -> Result<()> {
    let mut config = Config::from_env()?;
    config.join_deadline = config.join_deadline.max(Duration::from_secs(60));
    config.operation_deadline = config.operation_deadline.map(|limit| limit.max(Duration::from_secs(300)));
    let started = started_at()?;
    let net = RealNet::new();
    let comm = Communicator::connect(net, &config).await?;
    let mut perf = Perf { net, comm: &comm, arguments: &arguments, started };
    let ops = if arguments.ops.is_empty() { Measured::default_ones().collect() } else { arguments.ops.clone() };
    if ops.contains(&Measured::Startup) {
        perf.startup().await?;
    }
    if ops.iter().any(|op| *op != Measured::Startup) {
        perf.heading();
    }
    for op in ops.into_iter().filter(|op| *op != Measured::Startup) {
        let lengths = if op == Measured::Collective(Collective::Barrier) { vec![0] } else { arguments.bytes.clone() };
        for bytes in lengths {
            let samples = perf.measure(op, bytes).await?;
            if comm.rank() == 0 && !samples.is_empty() {
                perf.print(op, bytes, samples);
            }
        }
    }
    comm.barrier().await?;
    comm.leave().await;
    Ok(())
}

struct Perf<'a> {
    net: RealNet,
    comm: &'a Communicator,
    arguments: &'a Arguments,
    /// `FMI_PERF_START`.
    started: Option<u128>,
}

fn started_at() -> Result<Option<u128>> {
    let variables = Variables::from_env();
    let Some(text) = variables.text("FMI_PERF_START")? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| crate::invalid(format!("FMI_PERF_START: {text:?} is no number of nanoseconds")))
}

impl Perf<'_> {
    fn heading(&self) {
        if self.comm.rank() == 0 {
            if self.arguments.csv {
                say!("op,ranks,bytes,median_us,min_us");
            } else {
                say!("{:<15} {:>5} {:>10} {:>12} {:>12}", "op", "ranks", "bytes", "median us", "min us");
            }
        }
    }

    fn print(&self, op: Measured, bytes: usize, mut samples: Vec<f64>) {
        samples.sort_by(f64::total_cmp);
        let (median, min) = (samples[samples.len() / 2], samples[0]);
        let (name, ranks) = (op.name(), self.comm.size());
        if self.arguments.csv {
            say!("{name},{ranks},{bytes},{median:.3},{min:.3}");
        } else {
            say!("{name:<15} {ranks:>5} {bytes:>10} {median:>12.2} {min:>12.2}");
        }
    }

    /// Microseconds for each operation, one for each repetition: the mean of the slowest rank.
    async fn measure(&mut self, op: Measured, bytes: usize) -> Result<Vec<f64>> {
        let size = self.comm.size();
        if size < 2 && matches!(op, Measured::Pingpong | Measured::Stream) {
            return Ok(Vec::new());
        }
        let count = bytes.div_ceil(size_of::<f32>());
        let (sent, received) = match op {
            Measured::Collective(collective) => collective.operation().buffers(count, size, self.comm.rank()),
            Measured::Pingpong | Measured::Stream | Measured::Startup => (count, count),
        };
        let send = vec![1f32; sent];
        let mut receive = vec![0f32; received];
        // One to warm up, a few to find out how many fit the time.
        self.turns(op, 2, &send, &mut receive).await?;
        let trial = self.turns(op, 3, &send, &mut receive).await?;
        let mut iterations =
            [u64::try_from(self.arguments.time.as_nanos() / (trial.as_nanos() / 3).max(1)).unwrap_or(1)];
        self.comm.broadcast(&mut iterations, 0).await?;
        let iterations = iterations[0].clamp(1, 20_000);
        let mut samples = Vec::new();
        for _ in 0..self.arguments.repetitions {
            self.comm.barrier().await?;
            let took = self.turns(op, iterations, &send, &mut receive).await?;
            #[expect(clippy::cast_precision_loss, reason = "a mean")]
            let mean = took.as_secs_f64() * 1e6 / iterations as f64;
            let mut slowest = [0.0];
            self.comm.allreduce(&[mean], &mut slowest, Max).await?;
            samples.push(if op == Measured::Pingpong { slowest[0] / 2.0 } else { slowest[0] });
        }
        Ok(samples)
    }

    async fn turns(&mut self, op: Measured, iterations: u64, send: &[f32], receive: &mut [f32]) -> Result<Duration> {
        const TAG: u32 = 1;
        let comm = self.comm;
        let begun = self.net.now();
        for _ in 0..iterations {
            match op {
                Measured::Pingpong => match comm.rank() {
                    0 => {
                        comm.send(1, TAG, send).await?;
                        comm.recv(1, TAG, receive).await?;
                    }
                    1 => {
                        comm.recv(0, TAG, receive).await?;
                        comm.send(0, TAG, send).await?;
                    }
                    _ => {}
                },
                Measured::Stream => match comm.rank() {
                    0 => comm.send(1, TAG, send).await?,
                    1 => drop(comm.recv(0, TAG, receive).await?),
                    _ => {}
                },
                Measured::Collective(collective) => {
                    let call = Invocation::new(collective.operation(), Datatype::of::<f32>());
                    let call = if collective.is_reduction() { call.operator(BuiltIn::Sum) } else { call };
                    let (send, receive) = (cast_slice(send), cast_slice_mut(receive));
                    comm.invoke(call.send(send).receive(receive)).await?;
                }
                Measured::Startup => {}
            }
        }
        if op == Measured::Stream {
            // A stream has ended when its last byte has arrived.
            let mut word = [0u8];
            match comm.rank() {
                0 => drop(comm.recv(1, TAG, &mut word).await?),
                1 => comm.send(0, TAG, &word).await?,
                _ => {}
            }
        }
        Ok(self.net.now() - begun)
    }

    /// Prints how long it took to get here from the start, and what a rank holds.
    async fn startup(&self) -> Result<()> {
        self.comm.barrier().await?;
        let took = self.started.map_or(0.0, |began| unix_nanos().saturating_sub(began) as f64 / 1e3);
        let mut slowest = [0.0];
        self.comm.allreduce(&[took], &mut slowest, Max).await?;
        let mut memory = [0.0];
        self.comm.allreduce(&[private_kib()], &mut memory, Max).await?;
        if self.comm.rank() == 0 {
            say!("startup,{},0,{:.1},{:.1}", self.comm.size(), slowest[0], slowest[0]);
            say!("memory_kib,{},0,{:.1},{:.1}", self.comm.size(), memory[0], memory[0]);
        }
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the start of other processes is known by the clock of the machine alone"
)]
fn unix_nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// Private memory of this process; 0 where the system does not tell.
fn private_kib() -> f64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/smaps_rollup") else { return 0.0 };
    let private = text.lines().filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"));
    private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum()
}
