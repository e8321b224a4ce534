//! What a rank does, and the sequential reference of what it must get.

use fmi::op::{Custom, Sum};
use fmi::{Communicator, Config, Error};
use nat_sim::SimNet;

use crate::scenario::{Program, Step};

/// Tag of exchanges.
const TAG: u32 = 7;
/// Code of the operator that does not commute.
const AFFINE: u32 = 1025;

/// What a rank puts into element `index` of a step.
pub(crate) fn value(rank: u32, number: u64, index: usize) -> u64 {
    let mixed = (u64::from(rank) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed ^ index as u64).rotate_left(17).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

fn vector(rank: u32, number: u64, bytes: usize) -> Vec<u64> {
    (0..bytes.div_ceil(8)).map(|index| value(rank, number, index)).collect()
}

/// Composition of affine maps modulo 2^32, packed as (factor, summand): associative, not commutative.
pub(crate) fn compose(first: u64, second: u64) -> u64 {
    let parts = |map: u64| (map >> 32, map & 0xffff_ffff);
    let ((a, b), (c, d)) = (parts(first), parts(second));
    let low = |value: u64| value & 0xffff_ffff;
    low(c.wrapping_mul(a)) << 32 | low(c.wrapping_mul(b).wrapping_add(d))
}

/// A result that is not what the reference says.
fn wrong(step: &Step, index: usize, got: u64, expected: u64) -> String {
    format!("{step:?}: element {index} is {got:#x}, the reference says {expected:#x}")
}

fn compare(step: &Step, got: &[u64], expected: impl Fn(usize) -> u64) -> Result<(), String> {
    let differs = got.iter().enumerate().find(|(index, got)| **got != expected(*index));
    differs.map_or(Ok(()), |(index, got)| Err(wrong(step, index, *got, expected(index))))
}

/// How a program ends that does not reach its end.
pub(crate) enum Failure {
    /// An operation failed.
    Operation(Error),
    /// A result is wrong.
    Wrong(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Operation(error)
    }
}

/// Runs the program on one rank.
pub(crate) async fn run(
    net: &SimNet,
    config: &Config,
    program: &Program,
    joined: impl FnOnce(&Communicator),
    ending: impl FnOnce(&Communicator),
) -> Result<(), Failure> {
    let comm = Communicator::connect(net.clone(), config).await?;
    joined(&comm);
    let mut number = 0;
    for _ in 0..program.rounds {
        for step in &program.steps {
            step_once(net, &comm, step, number).await?;
            number += 1;
        }
    }
    ending(&comm);
    comm.leave().await;
    Ok(())
}

async fn step_once(net: &SimNet, comm: &Communicator, step: &Step, number: u64) -> Result<(), Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    match *step {
        Step::Barrier => comm.barrier().await?,
        Step::Broadcast { root, bytes } => {
            let mut buffer = if rank == root { vector(root, number, bytes) } else { vec![0; bytes.div_ceil(8)] };
            comm.broadcast(&mut buffer, root).await?;
            compare(step, &buffer, |index| value(root, number, index)).map_err(Failure::Wrong)?;
        }
        Step::Allreduce { bytes } => {
            let send = vector(rank, number, bytes);
            let mut receive = vec![0; send.len()];
            comm.allreduce(&send, &mut receive, Sum).await?;
            // A sample of elements is enough: a misplaced segment shifts all of its elements.
            let sample = |index: usize| index.is_multiple_of(97) || index + 1 == send.len();
            let sum = |index| (0..size).fold(0u64, |sum, rank| sum.wrapping_add(value(rank, number, index)));
            let expected = |index: usize| if sample(index) { sum(index) } else { receive[index] };
            compare(step, &receive, expected).map_err(Failure::Wrong)?;
            compare(step, &send, |index| value(rank, number, index)).map_err(Failure::Wrong)?;
        }
        Step::OrderedReduce { root } => {
            let send = vector(rank, number, 32);
            let mut receive = vec![0; send.len()];
            comm.reduce(&send, &mut receive, Custom::ordered(AFFINE, compose), root).await?;
            if rank == root {
                let fold = |index| {
                    (1..size).fold(value(0, number, index), |acc, rank| compose(acc, value(rank, number, index)))
                };
                compare(step, &receive, fold).map_err(Failure::Wrong)?;
            }
        }
        Step::Exchange { bytes } => {
            let send = vector(rank, number, bytes);
            for distance in 1..size {
                let (to, from) = ((rank + distance) % size, (rank + size - distance) % size);
                let mut receive = vec![0; send.len()];
                comm.sendrecv((to, &send), (from, &mut receive), TAG).await?;
                compare(step, &receive, |index| value(from, number, index)).map_err(Failure::Wrong)?;
            }
        }
        Step::Drawn => Box::pin(crate::drawn::run(comm, number)).await?,
        Step::Progress(time) => {
            let until = fmi::net::Net::now(net) + time;
            comm.progress_until(until).await;
        }
        Step::Sleep(time) => {
            let until = fmi::net::Net::now(net) + time;
            fmi::net::Net::sleep_until(net, until).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_affine_operator_is_associative_and_does_not_commute() {
        let (a, b, c) = (value(1, 2, 3), value(4, 5, 6), value(7, 8, 9));
        assert_eq!(compose(compose(a, b), c), compose(a, compose(b, c)));
        assert_ne!(compose(a, b), compose(b, a));
    }
}
