//! The property of `tests/strata/properties/dockerfile.rs`.
#![no_main]

#[path = "../../tests/strata/properties/dockerfile.rs"]
mod dockerfile;
#[path = "../../tests/strata/properties/places.rs"]
mod places;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerfile::check(data));
