//! Runs the steps of a program on one rank, and compares what comes out with the reference.

use fmi::Communicator;
use fmi::op::{Custom, Sum};

use crate::program::{Action, Context, Failure};
use crate::reference::{compose, sum, value, vector};

/// Tag of exchanges.
const TAG: u32 = 7;
/// Code of the operator that does not commute.
const AFFINE: u32 = 1025;

fn compare(action: &Action, got: &[u64], expected: impl Fn(usize) -> u64) -> Result<(), Failure> {
    match got.iter().enumerate().find(|(index, got)| **got != expected(*index)) {
        None => Ok(()),
        Some((index, got)) => {
            let expected = expected(index);
            let what = format!("{action:?}: element {index} is {got:#x}, the reference says {expected:#x}");
            Err(Failure::Wrong(what))
        }
    }
}

pub(crate) async fn run(
    context: &Context,
    comm: &Communicator,
    actions: &[Action],
    rounds: u32,
) -> Result<(), Failure> {
    let mut number = 0;
    for _ in 0..rounds {
        for action in actions {
            act(context, comm, action, number).await?;
            number += 1;
        }
    }
    Ok(())
}

async fn act(context: &Context, comm: &Communicator, action: &Action, number: u64) -> Result<(), Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    match *action {
        Action::Barrier => comm.barrier().await?,
        Action::Broadcast { root, bytes } => {
            let mut buffer = if rank == root { vector(root, number, bytes) } else { vec![0; bytes.div_ceil(8)] };
            comm.broadcast(&mut buffer, root).await?;
            compare(action, &buffer, |index| value(root, number, index))?;
        }
        Action::Allreduce { bytes } => {
            let send = vector(rank, number, bytes);
            let mut receive = vec![0; send.len()];
            comm.allreduce(&send, &mut receive, Sum).await?;
            let expected = sum(size, number, send.len());
            compare(action, &receive, |index| expected[index])?;
            compare(action, &send, |index| value(rank, number, index))?;
        }
        Action::OrderedReduce { root } => {
            let send = vector(rank, number, 32);
            let mut receive = vec![0; send.len()];
            comm.reduce(&send, &mut receive, Custom::ordered(AFFINE, compose), root).await?;
            if rank == root {
                let fold = |index| {
                    (1..size).fold(value(0, number, index), |acc, rank| compose(acc, value(rank, number, index)))
                };
                compare(action, &receive, fold)?;
            }
        }
        Action::Exchange { bytes } => {
            let send = vector(rank, number, bytes);
            for distance in 1..size {
                let (to, from) = ((rank + distance) % size, (rank + size - distance) % size);
                let mut receive = vec![0; send.len()];
                comm.sendrecv((to, &send), (from, &mut receive), TAG).await?;
                compare(action, &receive, |index| value(from, number, index))?;
            }
        }
        Action::Drawn => Box::pin(crate::drawn::run(comm, number)).await?,
        Action::Progress(time) => comm.progress_until(context.now() + time).await,
        Action::Sleep(time) => context.sleep(time).await,
    }
    Ok(())
}
