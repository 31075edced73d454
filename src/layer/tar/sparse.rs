//! Sparse files: the maps of GNU's three ways to say where the data is.

use super::{BLOCK, field, number};
use crate::layer::TarFault;

/// More parts than any real file has; bounds the memory of a map.
const MAX_PARTS: usize = 1 << 20;

/// Where the stored bytes of a sparse file belong: offset and length of each part, ascending, within `size_bytes`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Map {
    pub(super) parts: Vec<(u64, u64)>,
    pub(super) size_bytes: u64,
}

impl Map {
    /// Checks that the parts ascend, fit, and add up to what is stored.
    pub(super) fn new(
        parts: Vec<(u64, u64)>,
        size_bytes: u64,
        stored_bytes: u64,
    ) -> Result<Map, TarFault> {
        let mut end = 0u64;
        let mut sum = 0u64;
        for (offset, length) in &parts {
            let next = offset.checked_add(*length).ok_or(TarFault::Sparse)?;
            if *offset < end || next > size_bytes {
                return Err(TarFault::Sparse);
            }
            end = next;
            sum += length;
        }
        if sum != stored_bytes {
            return Err(TarFault::Sparse);
        }
        Ok(Map { parts, size_bytes })
    }
}

/// The pairs of one block of the old GNU format, and whether another block follows.
pub(super) fn old_pairs(
    block: &[u8; BLOCK],
    main: bool,
    parts: &mut Vec<(u64, u64)>,
) -> Result<bool, TarFault> {
    let (at, count, more_at) = if main { (386, 4, 482) } else { (0, 21, 504) };
    for pair in block[at..at + count * 24].chunks_exact(24) {
        // A pair that starts with a NUL ends the list.
        if pair[0] == 0 {
            break;
        }
        let value = |field| number::parse(field).and_then(|n| u64::try_from(n).ok());
        let (offset, length) = value(&pair[..12])
            .zip(value(&pair[12..]))
            .ok_or(TarFault::Sparse)?;
        push(parts, offset, length)?;
    }
    Ok(block[more_at] != 0)
}

/// The whole size that the old GNU format keeps in the header.
pub(super) fn old_size(block: &[u8; BLOCK]) -> Result<u64, TarFault> {
    // It lies in what ustar calls the prefix.
    let at = field::PREFIX.start + 138;
    let size = number::parse(&block[at..at + 12]).and_then(|n| u64::try_from(n).ok());
    size.ok_or(TarFault::Sparse)
}

/// The map of pax format 0.1: `offset,length,offset,length…`.
pub(super) fn listed(text: &[u8]) -> Result<Vec<(u64, u64)>, TarFault> {
    let mut parts = Vec::new();
    if text.is_empty() {
        return Ok(parts);
    }
    let mut numbers = text.split(|c| *c == b',').map(number::parse_decimal);
    while let Some(offset) = numbers.next() {
        let length = numbers.next().flatten();
        let (offset, length) = offset.zip(length).ok_or(TarFault::Sparse)?;
        push(&mut parts, offset, length)?;
    }
    Ok(parts)
}

/// Reads the map of pax format 1.0, which precedes the content: lines of decimal numbers, the first says how many pairs follow.
#[derive(Default)]
pub(super) struct Lines {
    count: Option<u64>,
    offset: Option<u64>,
    line: Vec<u8>,
    pub(super) parts: Vec<(u64, u64)>,
}

impl Lines {
    /// Takes one block; true when the map is complete.
    pub(super) fn feed(&mut self, block: &[u8]) -> Result<bool, TarFault> {
        for c in block {
            if self.complete() {
                break;
            }
            if *c != b'\n' {
                // The longest number has 20 digits.
                if self.line.len() >= 20 {
                    return Err(TarFault::Sparse);
                }
                self.line.push(*c);
                continue;
            }
            let value = number::parse_decimal(&self.line).ok_or(TarFault::Sparse)?;
            self.line.clear();
            if self.count.is_none() {
                self.count = Some(value);
            } else if let Some(offset) = self.offset.take() {
                push(&mut self.parts, offset, value)?;
            } else {
                self.offset = Some(value);
            }
        }
        Ok(self.complete())
    }

    fn complete(&self) -> bool {
        self.count == Some(self.parts.len() as u64)
    }
}

pub(super) fn push(parts: &mut Vec<(u64, u64)>, offset: u64, length: u64) -> Result<(), TarFault> {
    if parts.len() >= MAX_PARTS {
        return Err(TarFault::Sparse);
    }
    parts.push((offset, length));
    Ok(())
}
