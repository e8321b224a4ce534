//! See `scenarios::fuzz::group`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scenarios::fuzz::group(bytes));
