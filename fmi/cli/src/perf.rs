//! `fmi perf`

use std::process::ExitCode;
use std::time::Duration;

use fmi::config::Variables;
use fmi::net::Net;
use fmi::op::{Max, Sum};
use fmi::{Communicator, Config, RealNet, Result};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Operations to measure, separated by commas; all of them by default.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Measured {
    /// Half a round trip between ranks 0 and 1.
    Pingpong,
    /// A message of many in a row from rank 0 to rank 1.
    Stream,
    Barrier,
    Broadcast,
    Reduce,
    Allreduce,
    Gather,
    Scatter,
    Allgather,
    Alltoall,
    ReduceScatter,
    Scan,
    Exscan,
    /// From `FMI_PERF_START` (nanoseconds of the Unix clock) to the end of the first barrier, and private memory of a
    /// rank in KiB.
    Startup,
}

impl Measured {
    const DEFAULT: [Self; 13] = [
        Self::Pingpong,
        Self::Stream,
        Self::Barrier,
        Self::Broadcast,
        Self::Reduce,
        Self::Allreduce,
        Self::Gather,
        Self::Scatter,
        Self::Allgather,
        Self::Alltoall,
        Self::ReduceScatter,
        Self::Scan,
        Self::Exscan,
    ];

    fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).expect("all are named").get_name().to_owned()
    }

    /// Buffers of this many blocks, to send and to receive.
    fn blocks(self, size: usize) -> (usize, usize) {
        match self {
            Self::Gather | Self::Allgather => (1, size),
            Self::Scatter | Self::ReduceScatter => (size, 1),
            Self::Alltoall => (size, size),
            Self::Pingpong | Self::Stream | Self::Barrier | Self::Broadcast | Self::Reduce => (1, 1),
            Self::Allreduce | Self::Scan | Self::Exscan | Self::Startup => (1, 1),
        }
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
    let ops = if arguments.ops.is_empty() { Measured::DEFAULT.to_vec() } else { arguments.ops.clone() };
    if ops.contains(&Measured::Startup) {
        perf.startup().await?;
    }
    if ops.iter().any(|op| *op != Measured::Startup) {
        perf.heading();
    }
    for op in ops.into_iter().filter(|op| *op != Measured::Startup) {
        let lengths = if op == Measured::Barrier { vec![0] } else { arguments.bytes.clone() };
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
        let size = self.comm.size() as usize;
        if size < 2 && matches!(op, Measured::Pingpong | Measured::Stream) {
            return Ok(Vec::new());
        }
        let count = bytes.div_ceil(size_of::<f32>());
        let (send_blocks, receive_blocks) = op.blocks(size);
        let send = vec![1f32; count * send_blocks];
        let mut receive = vec![0f32; count * receive_blocks];
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
        let at_root = comm.rank() == 0;
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
                Measured::Barrier => comm.barrier().await?,
                Measured::Broadcast => comm.broadcast(receive, 0).await?,
                Measured::Reduce => comm.reduce(send, receive, Sum, 0).await?,
                Measured::Allreduce => comm.allreduce(send, receive, Sum).await?,
                Measured::Gather => comm.gather(send, receive, 0).await?,
                Measured::Scatter => comm.scatter(if at_root { send } else { &[] }, receive, 0).await?,
                Measured::Allgather => comm.allgather(send, receive).await?,
                Measured::Alltoall => comm.alltoall(send, receive).await?,
                Measured::ReduceScatter => comm.reduce_scatter_block(send, receive, Sum).await?,
                Measured::Scan => comm.scan(send, receive, Sum).await?,
                Measured::Exscan => comm.exscan(send, receive, Sum).await?,
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
