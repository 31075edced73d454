//! The property of `tests/strata/properties/documents.rs`.
#![no_main]

#[path = "../../tests/strata/properties/documents.rs"]
mod documents;

libfuzzer_sys::fuzz_target!(|data: &[u8]| documents::check(data));
