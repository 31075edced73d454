//! The property of `tests/strata/properties/plan.rs`.
#![no_main]

#[path = "../../tests/strata/properties/places.rs"]
mod places;
#[path = "../../tests/strata/properties/plan.rs"]
mod plan;

libfuzzer_sys::fuzz_target!(|data: &[u8]| plan::check(data));
