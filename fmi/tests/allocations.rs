//! Goal: no message and no collective takes memory once it has been called before. Method: two ranks on one thread
//! over loopback, under an allocator that counts.

use std::alloc::System;
use std::net::SocketAddr;

use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::op::Sum;
use fmi::{Communicator, Config, RealNet};
use futures_util::future::{Either, join, select};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One allocation in each call of any operation of a turn would be as many.
const TURNS: usize = 500;
/// What may be taken in that time: below one for each of the nine operations of a turn.
const ALLOWANCE: usize = TURNS / 2;

async fn turn(comm: &Communicator, buffers: &mut Buffers) -> fmi::Result<()> {
    let peer = 1 - comm.rank();
    let Buffers { short, long, all, out } = buffers;
    comm.sendrecv((peer, &short[..]), (peer, &mut out[..]), 1).await?;
    comm.barrier().await?;
    comm.broadcast(short, 0).await?;
    comm.allreduce(&short[..], &mut out[..], Sum).await?;
    comm.allreduce_in_place(long, Sum).await?;
    comm.reduce(&short[..], &mut out[..], Sum, 1).await?;
    comm.allgather(&short[..], &mut all[..]).await?;
    comm.alltoall_in_place(all).await?;
    comm.scan(&short[..], &mut out[..], Sum).await
}

struct Buffers {
    short: Vec<u64>,
    long: Vec<u64>,
    all: Vec<u64>,
    out: Vec<u64>,
}

async fn rank(rank: u32, address: SocketAddr, spin: std::time::Duration) -> fmi::Result<usize> {
    let mut config = Config::new(rank, 2, format!("allocations {spin:?}"), address.to_string());
    config.spin = spin;
    let comm = Communicator::connect(RealNet::new(), &config).await?;
    let mut buffers = Buffers { short: vec![1; 16], long: vec![1; 40_000], all: vec![1; 32], out: vec![0; 16] };
    for _ in 0..20 {
        turn(&comm, &mut buffers).await?;
    }
    let region = Region::new(COUNTING);
    for _ in 0..TURNS {
        turn(&comm, &mut buffers).await?;
    }
    let change = region.change();
    comm.leave().await;
    Ok(change.allocations + change.reallocations)
}

#[test]
fn nothing_is_allocated_in_steady_state() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for spin in [0, 20] {
        let spin = std::time::Duration::from_micros(spin);
        let counts = runtime.block_on(async {
            let config = ServerConfig::default();
            let server = Rendezvous::bind(RealNet::new(), ([127, 0, 0, 1], 0).into(), config).expect("bound");
            let address = server.local_addr().expect("an address");
            let ranks = std::pin::pin!(join(rank(0, address, spin), rank(1, address, spin)));
            match select(ranks, std::pin::pin!(server.serve())).await {
                Either::Left((counts, _)) => counts,
                Either::Right((never, _)) => match never {},
            }
        });
        for count in [counts.0.expect("all went well"), counts.1.expect("all went well")] {
            assert!(count < ALLOWANCE, "{count} allocations in {TURNS} turns with {spin:?} of yielding");
        }
    }
}
