//! The property of `tests/strata/properties/tar.rs`.
#![no_main]

#[path = "../../tests/strata/properties/tar.rs"]
mod tar;

libfuzzer_sys::fuzz_target!(|data: &[u8]| tar::check(data));
