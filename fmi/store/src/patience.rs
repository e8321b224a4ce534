//! When to ask again for a body that is not there yet, where a store has no bells. Pure.

use std::time::Duration;

/// A schedule of questions: the pause before each is a part of the time that has passed, within bounds. So a short wait is
/// noticed soon, a long one costs few requests, and a wait is never longer by more than a fifth than it had to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "whoever writes a store says all of it")]
pub struct Patience {
    /// The shortest pause: no question is answered sooner than a request takes.
    pub pause_min: Duration,
    /// The longest one.
    pub pause_max: Duration,
}

impl Patience {
    /// One part of so many that have passed.
    const PART: u32 = 5;

    /// The pause before the next question when so much time has passed since the first one.
    pub fn pause(&self, passed: Duration) -> Duration {
        (passed / Self::PART).clamp(self.pause_min, self.pause_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_costs_few_questions_and_ends_soon_after_the_body_comes() {
        let patience = Patience { pause_min: Duration::from_millis(10), pause_max: Duration::from_secs(2) };
        for comes in [1, 15, 90, 1_000, 60_000].map(Duration::from_millis) {
            let (mut passed, mut questions) = (Duration::ZERO, 1);
            while passed < comes {
                passed += patience.pause(passed);
                questions += 1;
            }
            let late = passed - comes;
            assert!(late <= patience.pause_min.max(comes / 5).min(patience.pause_max), "{comes:?}: {late:?}");
            assert!(questions <= 70, "{comes:?}: {questions}");
        }
    }
}
