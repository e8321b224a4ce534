//! See `scenarios::fuzz::punch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scenarios::fuzz::punch(bytes));
