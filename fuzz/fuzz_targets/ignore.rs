//! The property of `tests/strata/properties/ignore.rs`.
#![no_main]

#[path = "../../tests/strata/properties/ignore.rs"]
mod ignore;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ignore::check(data));
