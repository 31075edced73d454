//! Archives by content: what ADD unpacks and what a context may be packed in.

use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::path::Path;

use crate::layer::tar::{TarReader, WhiteoutNames};
use crate::layer::{
    Decoder, Devices, LayerError, Ownership, Root, TarFault, TreeOptions, UnpackOptions, Unpacked,
    Whiteouts,
};

use super::BuildError;

/// The most that an archive may unpack to: more than any disk strata will meet, less than what overflows.
const LIMIT_BYTES: u64 = 1 << 50;

/// Whether `file` holds a tar, compressed or not: the content decides, not the name. The file is read from its start after.
pub(super) fn is_archive(file: &mut File) -> io::Result<bool> {
    let probe = BufReader::new(file.try_clone()?);
    // A file that only begins like a compressed one is a file. A first entry that is refused is an archive's all the same.
    let there = Decoder::new(probe, LIMIT_BYTES).is_ok_and(|tar| {
        match TarReader::new(BufReader::new(tar), WhiteoutNames::Literal).next_member() {
            Ok(first) => first.is_some(),
            Err(error) => is_entry_fault(&error),
        }
    });
    file.rewind()?;
    Ok(there)
}

/// Whether an error is about an entry of an archive, not about bytes that are none.
pub(super) fn is_refusal(error: &BuildError) -> bool {
    matches!(error, BuildError::Layer(error) if is_entry_fault(error))
}

fn is_entry_fault(error: &LayerError) -> bool {
    matches!(error, LayerError::Archive { fault, .. }
        if !matches!(fault, TarFault::Checksum | TarFault::Truncated))
}

/// Unpacks a tar below `target`, an empty folder, as files to be read again: owners and devices are known from the table of
/// contents, not from the files.
pub(super) fn unpack(input: File, target: &Path) -> Result<Unpacked, BuildError> {
    let failed = |source| BuildError::Host {
        action: "open",
        path: target.to_owned(),
        source,
    };
    let tree = TreeOptions {
        ownership: Ownership::Xattr,
        whiteouts: Whiteouts::Apply,
        devices: Devices::Skip,
    };
    let options = UnpackOptions {
        tree,
        names: WhiteoutNames::Literal,
        limit_bytes: LIMIT_BYTES,
        below: None,
    };
    Ok(crate::layer::unpack(
        input,
        &Root::open(target).map_err(failed)?,
        &options,
    )?)
}
