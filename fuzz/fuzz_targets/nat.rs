//! See `scenarios::fuzz::nat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scenarios::fuzz::nat(bytes));
