//! Pauses that double. Pure.

use std::time::Duration;

/// How long to wait after the next failure: the double of the last time, up to a bound.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts with a pause of `least`, or of `most` if that is shorter.
    pub const fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, failures: 0 }
    }

    /// The pause after the next failure.
    pub fn pause(&self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.least.saturating_mul(factor).min(self.most)
    }

    /// Counts a failure, and returns the pause after it.
    pub fn fail(&mut self) -> Duration {
        let pause = self.pause();
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// As [`Backoff::fail`], but from the upper half of the pause, as `draw` says: clients that failed together do
    /// not come back together.
    pub fn fail_drawn(&mut self, draw: u64) -> Duration {
        let half = u64::try_from(self.fail().as_nanos() / 2).unwrap_or(u64::MAX);
        Duration::from_nanos(half.saturating_add(draw % half.max(1)))
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_the_bound_and_start_over() {
        let mut backoff = Backoff::new(50 * MS, 300 * MS);
        let pauses: Vec<_> = (0..5).map(|_| backoff.fail()).collect();
        assert_eq!(pauses, [50, 100, 200, 300, 300].map(|pause| pause * MS));
        backoff.reset();
        assert_eq!((backoff.pause(), backoff.fail(), backoff.pause()), (50 * MS, 50 * MS, 100 * MS));
    }

    #[test]
    fn any_number_of_failures_stays_at_the_bound() {
        let mut backoff = Backoff::new(MS, Duration::MAX);
        (0..200).for_each(|_| {
            backoff.fail();
        });
        assert_eq!(backoff.pause(), MS * u32::MAX, "the factor saturates");
        assert_eq!(Backoff::new(5 * MS, MS).pause(), MS);
        assert_eq!(Backoff::new(Duration::ZERO, MS).fail_drawn(7), Duration::ZERO);
    }

    #[test]
    fn a_drawn_pause_lies_in_the_upper_half() {
        for draw in [0, 1, 24_999_999, 25_000_000, u64::MAX] {
            let pause = Backoff::new(50 * MS, 300 * MS).fail_drawn(draw);
            assert!(pause >= 25 * MS && pause < 50 * MS, "{pause:?}");
        }
    }
}
