//! The property of `tests/strata/properties/reference.rs`.
#![no_main]

#[path = "../../tests/strata/properties/reference.rs"]
mod reference;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reference::check(data));
