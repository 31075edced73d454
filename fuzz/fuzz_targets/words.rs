//! The property of `tests/strata/properties/words.rs`.
#![no_main]

#[path = "../../tests/strata/properties/words.rs"]
mod words;

libfuzzer_sys::fuzz_target!(|data: &[u8]| words::check(data));
