//! How long a wait yields the processor before it parks. Pure.
//!
//! Waking a parked process costs 20 to 30 us on the machines this was measured on, a yielding poll 5 us. So a
//! wait first tries again and again, and lets others run in between. Where that comes to nothing,
//! because ranks outnumber cores or peers are far, it is given up: each miss halves the share of waits that
//! try it, each hit restores it.

use std::time::Duration;

/// Misses after which one wait in `2^MISSES_MAX` still tries.
const MISSES_MAX: u32 = 5;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    budget: Duration,
    misses: u32,
    skips: u32,
}

impl Spin {
    pub(crate) fn new(budget: Duration) -> Self {
        Self { budget, misses: 0, skips: 0 }
    }

    /// How long the next wait may try; `None` to park at once.
    pub(crate) fn budget(&mut self) -> Option<Duration> {
        if self.budget.is_zero() {
            return None;
        }
        if self.skips > 0 {
            self.skips -= 1;
            return None;
        }
        Some(self.budget)
    }

    /// Trying again is of no use on this net.
    pub(crate) fn stop(&mut self) {
        self.budget = Duration::ZERO;
    }

    /// A wait was over after `waited`.
    pub(crate) fn hit(&mut self, waited: Duration) {
        // A wait that took most of its time was luck.
        self.misses = if waited < self.budget / 2 { 0 } else { self.misses / 2 };
        self.skips = 0;
    }

    /// A wait was not over in time.
    pub(crate) fn miss(&mut self) {
        self.misses = (self.misses + 1).min(MISSES_MAX);
        self.skips = (1 << self.misses) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_micros(50);

    #[test]
    fn vain_waits_become_rare_and_never_stop() {
        let mut spin = Spin::new(BUDGET);
        let mut tries = 0;
        for _ in 0..1000 {
            if spin.budget().is_some() {
                tries += 1;
                spin.miss();
            }
        }
        assert!((30..50).contains(&tries), "{tries}");
    }

    #[test]
    fn one_success_restores_it() {
        let mut spin = Spin::new(BUDGET);
        (0..10).for_each(|_| spin.miss());
        while spin.budget().is_none() {}
        spin.hit(Duration::from_micros(5));
        assert!((0..10).all(|_| spin.budget() == Some(BUDGET)));
    }

    #[test]
    fn no_budget_parks_at_once() {
        assert_eq!(Spin::new(Duration::ZERO).budget(), None);
    }
}
