//! Keys that are made, for a lab that looks for them on its wires.
//!
//! Where a secret is made or derived stands one line that calls [`note`]. Without the feature `noted-keys`, which only the
//! lab enables, it does nothing and nothing of it is left in the program. With it, a key is noted while somebody
//! watches on this thread ([`Watch`]): a world of the lab runs on one thread, and real ranks run unwatched.
//!
//! In the same way [`judge`] counts how often what a stranger of the lab says was read as far as its proof, and not refused
//! for its form: outside, each refusal looks like any other.

/// What a stranger of the lab says where a rank proves itself.
pub const NO_PROOF: [u8; 32] = [7; 32];

/// Counts a proof that is looked at, if it is [`NO_PROOF`].
#[cfg(not(feature = "noted-keys"))]
#[inline(always)]
pub const fn judge(_: &[u8; 32]) {}

/// Notes a key, and what it is.
#[cfg(not(feature = "noted-keys"))]
#[inline(always)]
pub const fn note(_: &'static str, _: &[u8; 32]) {}

#[cfg(feature = "noted-keys")]
pub use watched::{Watch, judge, judged, note, take};

#[cfg(feature = "noted-keys")]
mod watched {
    use std::cell::{Cell, RefCell};

    use super::NO_PROOF;

    /// What a key is, and the key.
    type Noted = Vec<(&'static str, [u8; 32])>;

    thread_local! {
        static NOTED: RefCell<Option<Noted>> = const { RefCell::new(None) };
        static JUDGED: Cell<u64> = const { Cell::new(0) };
    }

    /// Counts a proof that is looked at, if it is [`NO_PROOF`].
    pub fn judge(proof: &[u8; 32]) {
        if *proof == NO_PROOF {
            JUDGED.set(JUDGED.get() + 1);
        }
    }

    /// How often [`NO_PROOF`] has been looked at since somebody began to watch.
    pub fn judged() -> u64 {
        JUDGED.get()
    }

    /// Notes a key, and what it is.
    pub fn note(what: &'static str, key: &[u8; 32]) {
        NOTED.with_borrow_mut(|noted| {
            if let Some(noted) = noted {
                noted.push((what, *key));
            }
        });
    }

    /// What has been noted since the last call.
    pub fn take() -> Vec<(&'static str, [u8; 32])> {
        NOTED.with_borrow_mut(|noted| noted.as_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Has the keys of this thread noted until it is dropped.
    #[derive(Debug)]
    #[non_exhaustive]
    pub struct Watch;

    impl Watch {
        /// Begins to watch.
        pub fn begin() -> Self {
            NOTED.set(Some(Vec::new()));
            JUDGED.set(0);
            Self
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            NOTED.set(None);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn strangers_without_a_proof_are_counted_from_when_somebody_watches() {
            judge(&NO_PROOF);
            let _watch = Watch::begin();
            judge(&[8; 32]);
            judge(&NO_PROOF);
            assert_eq!(judged(), 1);
        }

        #[test]
        fn a_key_is_noted_while_somebody_watches_on_its_thread() {
            note("before", &[1; 32]);
            let watch = Watch::begin();
            note("watched", &[2; 32]);
            std::thread::scope(|scope| scope.spawn(|| note("elsewhere", &[3; 32])).join()).expect("no panic");
            assert_eq!(take(), [("watched", [2; 32])]);
            assert_eq!(take(), []);
            note("forgotten", &[4; 32]);
            drop(watch);
            assert_eq!(take(), []);
        }
    }
}
