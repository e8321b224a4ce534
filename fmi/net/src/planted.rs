//! Faults that tests plant, to show that the lab finds them.
//!
//! At the place of a fault stands one line that asks [`is`] or [`one_in`]. Without the feature `planted-faults` both are
//! constantly false, so nothing of the fault is left in the program. With it, a fault is there while a test runs within
//! `planted::with`, on the thread of the test: a world of the lab runs on one thread, so tests can run side by side.
//! `docs/design/tests.md` says what finds which fault, and how to plant another one.

#[cfg(all(feature = "planted-faults", not(debug_assertions)))]
compile_error!("the feature planted-faults is for tests: no build without debug assertions may carry it");

/// A fault that can be planted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "planted-faults", derive(Debug))]
#[cfg_attr(
    not(feature = "planted-faults"),
    expect(missing_debug_implementations, reason = "no program shows its name")
)]
#[non_exhaustive]
pub enum Fault {
    /// A frame in 1,000 is not sent, though its operation believes that it was.
    LostFrame,
    /// Two elements in the middle of a long allreduce change places.
    SwappedElements,
    /// A message that was stored before it was asked for stays there when it is taken, and is delivered again.
    StoredTwice,
    /// When a communicator fails, its last rank is not told by the others.
    SurvivorNotTold,
    /// The first half of the group's key takes the place of the tag of its name, which the rendezvous sees.
    HalfKeyOnWire,
    /// All records of a stream have the same nonce.
    FixedNonce,
    /// A record is taken whatever its tag.
    WrongMacAccepted,
    /// A gateway gives a port to a host while another one uses it.
    PortReused,
    /// A filter of a gateway admits one in 500 of the packets that it must not.
    LeakyFilter,
    /// An operation does not end at its deadline.
    DeadlinesIgnored,
    /// A receive from any source looks at the lowest rank first each time.
    UnfairAnySource,
    /// One in 50 of the operations that an event should wake is not woken.
    LostWakeUp,
    /// The rendezvous waits twice as long before it takes a silent rank for dead.
    LateDeath,
    /// A stream is taken for a peer's, whatever it says to prove that.
    AnyConfirmation,
    /// The rendezvous does not tell the last survivor that a rank is lost.
    SkippedSurvivor,
    /// A gateway drops inbound SYNs, for one seed in four.
    DroppedSyns,
}

/// Whether the fault is planted.
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
pub const fn is(_: Fault) -> bool {
    false
}

/// Whether the fault is planted, and this is the last of so many times that its place is reached.
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
pub const fn one_in(_: Fault, _: u64) -> bool {
    false
}

#[cfg(feature = "planted-faults")]
pub use switched::{is, one_in, with};

#[cfg(feature = "planted-faults")]
mod switched {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        /// What is planted on this thread, and how often its place was reached.
        static PLANTED: Cell<(Option<Fault>, u64)> = const { Cell::new((None, 0)) };
    }

    /// Whether the fault is planted.
    pub fn is(fault: Fault) -> bool {
        one_in(fault, 1)
    }

    /// Whether the fault is planted, and this is the last of so many times that its place is reached.
    pub fn one_in(fault: Fault, count: u64) -> bool {
        let (planted, reached) = PLANTED.get();
        if planted != Some(fault) {
            return false;
        }
        PLANTED.set((planted, reached + 1));
        (reached + 1).is_multiple_of(count)
    }

    /// Runs something while a fault is planted on this thread. The result, and how often the place of the fault was
    /// reached.
    pub fn with<T>(fault: Fault, act: impl FnOnce() -> T) -> (T, u64) {
        /// Takes the fault out again, also after a panic.
        struct Planted;
        impl Drop for Planted {
            fn drop(&mut self) {
                PLANTED.set((None, 0));
            }
        }
        PLANTED.set((Some(fault), 0));
        let planted = Planted;
        let result = act();
        let (_, reached) = PLANTED.get();
        drop(planted);
        (result, reached)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_fault_is_there_while_it_is_planted_and_nowhere_else() {
            assert!(!is(Fault::LostFrame));
            let ((mine, other, elsewhere), reached) = with(Fault::LostFrame, || {
                let elsewhere = std::thread::scope(|scope| scope.spawn(|| is(Fault::LostFrame)).join());
                (is(Fault::LostFrame), is(Fault::StoredTwice), elsewhere.expect("no panic"))
            });
            assert_eq!((mine, other, elsewhere, reached), (true, false, false, 1));
            assert!(!is(Fault::LostFrame));
        }

        #[test]
        fn a_rare_fault_is_as_rare_as_it_says() {
            let (hits, reached) =
                with(Fault::LeakyFilter, || (0..10).filter(|_| one_in(Fault::LeakyFilter, 4)).count());
            assert_eq!((hits, reached), (2, 10));
        }
    }
}
