//! k-means over synthetic points, and the exchange through storage that serverless programs begin with.
#![allow(dead_code, reason = "each example uses its part")]

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Points of each rank, their dimensions, clusters, and rounds of refinement.
const POINTS: usize = 2_000;
const DIMENSIONS: usize = 8;
const CLUSTERS: usize = 10;
pub(crate) const EPOCHS: usize = 200;

/// For each cluster the sum of its points, and their number behind it.
const SUMS: usize = CLUSTERS * (DIMENSIONS + 1);

/// The points of one rank.
pub(crate) struct Points(Vec<[f64; DIMENSIONS]>);

impl Points {
    /// Draws points around as many centres as there are clusters, the same ones in every run.
    pub(crate) fn of_rank(rank: u32) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ (u64::from(rank) + 1).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let point = |index: usize| {
            std::array::from_fn(|dimension| centre(index % CLUSTERS, dimension) + 4.0 * (uniform() + uniform() - 1.0))
        };
        Self((0..POINTS).map(point).collect())
    }

    /// Assigns each point to its nearest centroid: sums and numbers of each cluster.
    pub(crate) fn assign(&self, centroids: &[[f64; DIMENSIONS]]) -> Vec<f64> {
        let mut sums = vec![0.0; SUMS];
        for point in &self.0 {
            let distance = |centroid: &[f64; DIMENSIONS]| -> f64 {
                centroid.iter().zip(point).map(|(a, b)| (a - b) * (a - b)).sum()
            };
            let nearest = (0..CLUSTERS).min_by(|a, b| distance(&centroids[*a]).total_cmp(&distance(&centroids[*b])));
            let of_cluster = &mut sums[nearest.unwrap_or(0) * (DIMENSIONS + 1)..][..=DIMENSIONS];
            of_cluster.iter_mut().zip(point.iter().chain([&1.0])).for_each(|(sum, value)| *sum += value);
        }
        sums
    }
}

fn centre(cluster: usize, dimension: usize) -> f64 {
    ((cluster * 7 + dimension * 3) % 23) as f64
}

/// Where every rank begins.
pub(crate) fn first_centroids() -> Vec<[f64; DIMENSIONS]> {
    (0..CLUSTERS).map(|cluster| std::array::from_fn(|dimension| centre(cluster, dimension) + 3.0)).collect()
}

/// The means of the clusters.
pub(crate) fn means(sums: &[f64], centroids: &mut [[f64; DIMENSIONS]]) {
    for (of_cluster, centroid) in sums.chunks(DIMENSIONS + 1).zip(centroids) {
        if of_cluster[DIMENSIONS] > 0.0 {
            *centroid = std::array::from_fn(|dimension| of_cluster[dimension] / of_cluster[DIMENSIONS]);
        }
    }
}

/// Prints what came out, and how long the rounds took.
pub(crate) fn report(rank: u32, centroids: &[[f64; DIMENSIONS]], took: Duration) {
    if rank == 0 {
        let checksum: f64 = centroids.iter().flatten().sum();
        println!(
            "{EPOCHS} epochs in {:.1} ms, {:.3} ms each; checksum {checksum:.6}",
            millis(took),
            millis(took) / EPOCHS as f64
        );
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// Reads the clock.
#[expect(clippy::disallowed_methods, reason = "an example measures itself")]
pub(crate) fn clock() -> std::time::Instant {
    std::time::Instant::now()
}

/// An exchange through objects in storage, as of the first serverless training systems: every rank puts its
/// vector under a name of its own, polls until all are there, and adds them up. Here a folder is the storage.
pub(crate) struct Storage {
    folder: PathBuf,
    rank: u32,
    size: u32,
    round: std::cell::Cell<u64>,
}

/// How often storage is asked, as the authors of FMI set it for Redis. Object stores are asked every 100 ms.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

impl Storage {
    /// Rank and size are those of `fmi launch`; `KMEANS_STORAGE` is the folder.
    pub(crate) fn from_env() -> Result<Self, Box<dyn std::error::Error>> {
        let config = fmi::Config::from_env()?;
        let folder = PathBuf::from(std::env::var("KMEANS_STORAGE").map_err(|_| "KMEANS_STORAGE names no folder")?);
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, rank: config.rank, size: config.size, round: std::cell::Cell::new(0) })
    }

    pub(crate) fn rank(&self) -> u32 {
        self.rank
    }

    /// Adds the vectors of all ranks up.
    pub(crate) fn sum_of_all(&self, vector: &mut [f64]) -> io::Result<()> {
        let round = self.round.replace(self.round.get() + 1);
        let name = |rank: u32| self.folder.join(format!("{round}-{rank}"));
        let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        // An object appears whole or not at all.
        let unfinished = self.folder.join(format!("unfinished-{}", self.rank));
        fs::write(&unfinished, bytes)?;
        fs::rename(&unfinished, name(self.rank))?;
        vector.fill(0.0);
        for rank in 0..self.size {
            let object = loop {
                match fs::read(name(rank)) {
                    Ok(object) => break object,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => pause(),
                    Err(error) => return Err(error),
                }
            };
            let values = object.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap_or_default()));
            vector.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "polling is what storage asks for")]
fn pause() {
    std::thread::sleep(POLL_INTERVAL);
}
