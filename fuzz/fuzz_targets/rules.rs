//! The property of `tests/strata/properties/rules.rs`.
#![no_main]

#[path = "../../tests/strata/properties/rules.rs"]
mod rules;

libfuzzer_sys::fuzz_target!(|data: &[u8]| rules::check(data));
