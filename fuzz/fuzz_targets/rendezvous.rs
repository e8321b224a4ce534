//! See `scenarios::fuzz::rendezvous`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scenarios::fuzz::rendezvous(bytes));
