//! One seed, split by purpose into streams of random numbers.

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

/// Purposes of the streams that one seed is split into.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Purpose {
    /// Loss, jitter and duplication of links.
    Links = 1,
    /// Ports that gateways choose.
    Gateways = 2,
    /// Entropy of hosts; each has a stream of its own above this number.
    Hosts = 1 << 32,
    /// What is changed on the way.
    Tampering = 4,
    /// What a scenario draws for itself.
    Workload = 3,
}

/// The stream of `seed` for a purpose. A draw from one moves no other.
pub fn stream(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut entropy = ChaCha8Rng::seed_from_u64(seed);
    entropy.set_stream(purpose as u64 + index);
    entropy
}
