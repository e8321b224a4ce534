//! See `scenarios::fuzz::tcpunch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scenarios::fuzz::tcpunch(bytes));
