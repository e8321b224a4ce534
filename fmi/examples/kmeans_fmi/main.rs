//! Distributed k-means whose ranks exchange sums with FMI. Beside it, the same through storage: four lines differ.
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "an example")]

#[path = "../kmeans/mod.rs"]
mod kmeans;
use fmi::{blocking::Communicator, op::Sum};

use kmeans::{EPOCHS, Points, clock, first_centroids, means, report};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ranks = Communicator::from_env()?;
    let points = Points::of_rank(ranks.rank());
    let mut centroids = first_centroids();
    let begun = clock();
    for _ in 0..EPOCHS {
        let mut sums = points.assign(&centroids);
        ranks.allreduce_in_place(&mut sums, Sum)?;
        means(&sums, &mut centroids);
    }
    report(ranks.rank(), &centroids, begun.elapsed());
    Ok(())
}
