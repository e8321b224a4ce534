//! A token bucket. Pure.

use std::time::Duration;

use fmi_net::time::Instant;

/// Allows `rate` units a second on average, and `burst` at once.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: u64,
    burst: u64,
    /// Billionths of a unit.
    level: u128,
    at: Instant,
}

const NANOS: u128 = 1_000_000_000;

impl Bucket {
    /// A full bucket. A rate of zero counts as one.
    pub fn new(now: Instant, rate: u64, burst: u64) -> Self {
        Self { rate: rate.max(1), burst, level: u128::from(burst) * NANOS, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let gained = u128::from(self.rate) * (now - self.at).as_nanos();
        self.level = self.level.saturating_add(gained).min(u128::from(self.burst) * NANOS);
        self.at = self.at.max(now);
    }

    /// Units that may be taken at `now`.
    pub fn available(&mut self, now: Instant) -> u64 {
        self.fill(now);
        u64::try_from(self.level / NANOS).expect("the level is at most the burst")
    }

    /// Takes `units` if they are there.
    pub fn take(&mut self, now: Instant, units: u64) -> bool {
        let fits = units <= self.available(now);
        if fits {
            self.level -= u128::from(units) * NANOS;
        }
        fits
    }

    /// When `units` will be there, at most the burst.
    pub fn ready_at(&mut self, now: Instant, units: u64) -> Instant {
        self.fill(now);
        let lacking = (u128::from(units.min(self.burst)) * NANOS).saturating_sub(self.level);
        let nanos = lacking.div_ceil(u128::from(self.rate));
        now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Whether it would not differ from a new one.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.available(now) == self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is asked when, no more is given than the burst and the rate allow, and nothing is
        /// refused that they allow.
        #[test]
        fn gives_what_rate_and_burst_allow(
            rate in 1u64..1000, burst in 1u64..100, asks in proptest::collection::vec((0u64..500_000_000, 1u64..20), 1..60),
        ) {
            let mut bucket = Bucket::new(Instant::ZERO, rate, burst);
            let (mut now, mut level) = (Instant::ZERO, u128::from(burst) * NANOS);
            for (pause, units) in asks {
                now += Duration::from_nanos(pause);
                level = (level + u128::from(pause) * u128::from(rate)).min(u128::from(burst) * NANOS);
                let fits = u128::from(units) * NANOS <= level;
                let ready_at = bucket.ready_at(now, units);
                prop_assert_eq!(ready_at == now, fits || (units > burst && bucket.is_full(now)));
                prop_assert_eq!(bucket.take(now, units), fits);
                level -= if fits { u128::from(units) * NANOS } else { 0 };
            }
        }
    }
}
