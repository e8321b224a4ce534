//! See `scenarios::fuzz::store`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scenarios::fuzz::store(bytes));
