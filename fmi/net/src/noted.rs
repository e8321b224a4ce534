//! Keys that are made, for a lab that looks for them on its wires.
//!
//! Where a secret is made or derived stands one line that calls [`note`]. Without the feature `noted-keys`, which only the
//! lab enables, it does nothing and nothing of it is left in the program. With it, a key is noted while somebody
//! watches on this thread ([`Watch`]): a world of the lab runs on one thread, and real ranks run unwatched.

/// Notes a key, and what it is.
#[cfg(not(feature = "noted-keys"))]
#[inline(always)]
pub const fn note(_: &'static str, _: &[u8; 32]) {}

#[cfg(feature = "noted-keys")]
pub use watched::{Watch, note, take};

#[cfg(feature = "noted-keys")]
mod watched {
    use std::cell::RefCell;

    /// What a key is, and the key.
    type Noted = Vec<(&'static str, [u8; 32])>;

    thread_local! {
        static NOTED: RefCell<Option<Noted>> = const { RefCell::new(None) };
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
