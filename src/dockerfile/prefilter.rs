//! Which patterns can match a path, by three bytes of it.
//!
//! Most patterns of an ignore file begin or end with a letter (`dist`, `**/*.log`, `.env*`), and most paths with another. So a look
//! at the first byte of a path, the first of its last name and its very last leaves next to none of the patterns to be tried.

use super::glob::Program;

/// A set of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    pub(super) const ALL: Bytes = Bytes([u64::MAX; 4]);

    pub(super) const NONE: Bytes = Bytes([0; 4]);

    /// All that are no ASCII.
    pub(super) const HIGH: Bytes = Bytes([0, 0, u64::MAX, u64::MAX]);

    pub(super) fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
    }

    pub(super) fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] >> (byte % 64) & 1 == 1
    }
}

/// For each byte, which of 64 patterns allow it in one place: a bit each.
#[derive(Clone, Debug)]
struct Place([u64; 256]);

impl Place {
    fn add(&mut self, bit: u64, allowed: Bytes) {
        for byte in 0..=u8::MAX {
            if allowed.contains(byte) {
                self.0[usize::from(byte)] |= bit;
            }
        }
    }

    fn get(&self, byte: u8) -> u64 {
        self.0[usize::from(byte)]
    }
}

/// The three places of a path, for 64 patterns.
#[derive(Clone, Debug)]
pub(super) struct Prefilter {
    first: Place,
    name: Place,
    last: Place,
}

impl Prefilter {
    /// How many patterns one of these is for: those that a word has bits for.
    pub(super) const PATTERNS: usize = u64::BITS as usize;

    /// For these, the first in the lowest bit.
    pub(super) fn new<'a>(patterns: impl Iterator<Item = &'a Program>) -> Prefilter {
        let none = Place([0; 256]);
        let mut filter = Prefilter {
            first: none.clone(),
            name: none.clone(),
            last: none,
        };
        for (index, pattern) in patterns.take(Self::PATTERNS).enumerate() {
            let bit = 1 << index;
            filter.first.add(bit, pattern.first_bytes());
            filter.name.add(bit, pattern.name_bytes());
            filter.last.add(bit, pattern.last_bytes());
        }
        filter
    }

    /// Those that a path with these bytes may match; the others it does not match.
    pub(super) fn candidates(&self, ends: Ends) -> u64 {
        self.first.get(ends.first) & self.name.get(ends.name) & self.last.get(ends.last)
    }
}

/// The bytes of a path that are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    first: u8,
    name: u8,
    last: u8,
}

impl Ends {
    /// `None`: the path is empty, or its last name is.
    pub(super) fn of(path: &[u8]) -> Option<Ends> {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        Some(Ends {
            first: *path.first()?,
            name: *path.get(slash.map_or(0, |at| at + 1))?,
            last: *path.last()?,
        })
    }
}
