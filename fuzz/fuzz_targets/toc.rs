//! The property of `tests/strata/properties/toc.rs`.
#![no_main]

#[path = "../../tests/strata/properties/toc.rs"]
mod toc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| toc::check(data));
