//! Collectives on virtual links, timed by the clock of the lab, compared with what the model says of them.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fmi::bytemuck::{cast_slice, cast_slice_mut};
use fmi::net::Net;
use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::op::BuiltIn;
use fmi::time::Instant;
use fmi::{Communicator, Config, Error};
use fmi::{Datatype, Invocation};
use fmi_proto::model::Costs;
use fmi_proto::schedule::{Algorithm, Collective, Connections, Problem, candidates, price};
use nat_sim::topology::{HostSpec, INTERNET, TcpConfig, Topology};
use nat_sim::{SimNet, World, WorldError};

/// What lies between the ranks.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// Number of ranks, each on a host of its own.
    pub ranks: u32,
    /// From rank to rank, one way; a multiple of 20 us.
    pub latency: Duration,
    /// Of each rank's link, in each direction.
    pub bytes_per_second: u64,
}

/// How long one collective took with one algorithm and one length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// The collective.
    pub collective: Collective,
    /// The algorithm that it was made to take.
    pub algorithm: Algorithm,
    /// Length of the vector, or of each rank's block, in bytes.
    pub bytes: usize,
    /// From the first rank's end of a barrier until the last rank is done, in simulated time.
    pub simulated: Duration,
    /// The time that the model gives it.
    pub modelled: Duration,
}

const RENDEZVOUS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 7000;
/// One tick of the world.
pub const RESOLUTION: Duration = Duration::from_micros(10);

impl Links {
    /// What the model is told of them. Nothing computes in the lab, so messages cost no processor time.
    pub fn costs(&self) -> Costs {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let byte_ns = 1e9 / self.bytes_per_second as f64;
        Costs { latency: self.latency, overhead: Duration::ZERO, byte_ns, combine_ns: 0.0, crowding: 1.0 }
    }

    /// Times every algorithm of `collectives` with vectors of `bytes`.
    ///
    /// # Errors
    /// If the world cannot be built, or a rank fails.
    pub fn measure(&self, collectives: &[Collective], bytes: &[usize]) -> Result<Vec<Timing>, LinksError> {
        let mut timings = Vec::new();
        for collective in collectives {
            for bytes in bytes {
                let problem = self.problem(*collective, *bytes);
                for algorithm in candidates(&problem, &Connections::complete()) {
                    let simulated = self.run(&problem, algorithm)?;
                    let modelled = price(&problem, algorithm, &self.costs()).time;
                    timings.push(Timing { collective: *collective, algorithm, bytes: *bytes, simulated, modelled });
                }
            }
        }
        Ok(timings)
    }

    fn problem(&self, collective: Collective, bytes: usize) -> Problem {
        let (element_bytes, commutative, in_place) = (4, true, false);
        let count = bytes.div_ceil(element_bytes);
        Problem {
            collective,
            size: self.ranks,
            root: 0,
            count,
            element_bytes,
            commutative,
            in_place,
            reproducible: false,
        }
    }

    fn run(&self, problem: &Problem, algorithm: Algorithm) -> Result<Duration, LinksError> {
        let mut topology = Topology::new();
        let mut host = |address: Ipv4Addr| {
            let mut spec = HostSpec::plain(INTERNET, address, self.latency / 2);
            spec.link.bytes_per_second = Some(self.bytes_per_second);
            spec.link.queue_bytes = 64 << 20;
            spec.tcp = TcpConfig { mtu: 9001, receive_bytes: 4 << 20, send_bytes: 4 << 20 };
            topology.host(spec)
        };
        let rendezvous = host(RENDEZVOUS);
        let hosts: Vec<_> = (0..self.ranks).map(|rank| host(Ipv4Addr::from(0x0100_0001 + rank))).collect();
        let mut world = World::new(topology, 1, RESOLUTION);
        world.service(rendezvous, |net: SimNet| async move {
            let server = Rendezvous::bind(net, (RENDEZVOUS, PORT).into(), ServerConfig::default());
            match server {
                Ok(server) => match server.serve().await {},
                Err(error) => tracing::error!(%error, "no rendezvous"),
            }
        });
        let results: Arc<Mutex<Vec<Result<Span, Error>>>> = Arc::default();
        for (rank, host) in (0..self.ranks).zip(hosts) {
            let (results, problem) = (results.clone(), *problem);
            world.function(host, Duration::ZERO, move |net| {
                let results = results.clone();
                async move {
                    let timed = time(net, rank, &problem, algorithm).await;
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(timed);
                }
            });
        }
        let report = world.run()?;
        if let Some(stuck) = report.stuck {
            return Err(LinksError::Stuck(format!("{stuck:?}")));
        }
        let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut begun, mut ended) = (Instant::FAR_FUTURE, Instant::ZERO);
        for result in results {
            let (from, until) = result?;
            (begun, ended) = (begun.min(from), ended.max(until));
        }
        Ok(ended - begun)
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// The world cannot be built.
    #[error("{0}")]
    World(#[from] WorldError),
    /// An operation of a rank failed.
    #[error("{0}")]
    Rank(#[from] Error),
    /// The run was ended, and this is why.
    #[error("the simulation made no progress: {0}")]
    Stuck(String),
}

/// Begin and end on the clock of the world, which all ranks share.
type Span = (Instant, Instant);

/// When one rank makes the second of two runs; the first opens the windows.
async fn time(net: SimNet, rank: u32, problem: &Problem, algorithm: Algorithm) -> Result<Span, Error> {
    let mut config = Config::new(rank, problem.size, "links", format!("{RENDEZVOUS}:{PORT}"));
    config.algorithms = [(problem.collective, algorithm)].into();
    let comm = Communicator::connect(net.clone(), &config).await?;
    let operation = problem.collective.operation();
    let (sent, received) = operation.buffers(problem.count, problem.size, rank);
    let (send, mut receive) = (vec![1f32; sent], vec![0f32; received]);
    let mut span = (Instant::ZERO, Instant::ZERO);
    for _ in 0..2 {
        comm.barrier().await?;
        let begun = net.now();
        let call = Invocation::new(operation, Datatype::of::<f32>());
        let call = if problem.collective.is_reduction() { call.operator(BuiltIn::Sum) } else { call };
        comm.invoke(call.send(cast_slice(&send)).receive(cast_slice_mut(&mut receive))).await?;
        span = (begun, net.now());
    }
    comm.barrier().await?;
    comm.leave().await;
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The choice rests on the model; so where it prefers one algorithm clearly, the links must agree.
    #[test]
    fn the_model_ranks_algorithms_as_virtual_links_do() {
        let links = Links { ranks: 8, latency: Duration::from_micros(200), bytes_per_second: 400_000_000 };
        let collectives = [Collective::Broadcast, Collective::Allreduce, Collective::Allgather, Collective::Alltoall];
        let timings = links.measure(&collectives, &[8, 1 << 20]).expect("measured");
        for first in &timings {
            for second in timings.iter().filter(|it| (it.collective, it.bytes) == (first.collective, first.bytes)) {
                let clearly = first.modelled.as_secs_f64() * 2.0 < second.modelled.as_secs_f64();
                assert!(!clearly || first.simulated < second.simulated, "{first:?} and {second:?}");
            }
        }
    }
}
