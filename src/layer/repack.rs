//! A blob to another blob of the same layer: other compression, other times.

use std::io::{BufReader, Read, Write};

use super::blocks::{Blocks, Stop, write};
use super::reuse::Sources;
use super::tar::{
    BLOCK, Data, Member, TRAILER_BYTES, TarReader, WhiteoutNames, field, number, padding_bytes,
    write_header,
};
use super::{Decoder, Entry, Kind, LayerError, Meta, PackOptions, Times};
use crate::oci::{DiffId, Digest, MediaType};

/// What is read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A layer that was packed anew. The blob is written but not synced.
#[derive(Clone, Debug)]
pub struct Repacked {
    /// The digest of the uncompressed bytes: another one only if times changed.
    pub diff_id: DiffId,
    /// The digest of the blob.
    pub digest: Digest,
    /// The blob's length.
    pub size_bytes: u64,
    /// What the blob is.
    pub media_type: MediaType,
}

/// Packs the layer that `input` gives, compressed or not, into `blob` as `options` say. Where times stay, so do
/// the tar's bytes; else its headers are written anew. A layer that unpacks to more than `limit_bytes` is an error.
pub fn repack(
    input: impl Read,
    blob: impl Write + Send,
    options: &PackOptions,
    limit_bytes: u64,
) -> Result<Repacked, LayerError> {
    let tar = Decoder::new(BufReader::with_capacity(BUFFER_BYTES, input), limit_bytes).map_err(
        |source| LayerError::Input {
            offset_bytes: 0,
            source,
        },
    )?;
    let sources = Sources::default();
    let written = match options.times {
        Times::Keep => write(blob, options, &sources, None, |blocks| copy(tar, blocks))?,
        times => {
            let tar = BufReader::with_capacity(BUFFER_BYTES, tar);
            write(blob, options, &sources, None, |blocks| {
                retime(tar, times, blocks)
            })?
        }
    };
    Ok(Repacked {
        diff_id: written.diff_id,
        digest: written.digest,
        size_bytes: written.size_bytes,
        media_type: options.compression.media_type(),
    })
}

fn copy(mut tar: impl Read, blocks: &mut Blocks) -> Result<(), Stop> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut offset_bytes = 0;
    let mut scan = Scan::default();
    loop {
        match tar.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                scan.write(&buffer[..count], blocks)?;
                offset_bytes += count as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(LayerError::Input {
                    offset_bytes,
                    source,
                }
                .into());
            }
        }
    }
    scan.end(blocks)?;
    blocks.end()
}

/// Finds where entries and their contents begin, so that the blocks are those of [`super::pack()`]. What it takes wrong makes other
/// blocks, and nothing worse.
#[derive(Default)]
struct Scan {
    /// A header that has come in part.
    header: Vec<u8>,
    /// What is left until the next header.
    left: u64,
    /// Whether the header that comes next belongs to the entry before.
    goes_on: bool,
    /// Whether a block of zeros has come: what follows is no entry.
    ended: bool,
}

impl Scan {
    fn write(&mut self, mut bytes: &[u8], blocks: &mut Blocks) -> Result<(), Stop> {
        while !bytes.is_empty() {
            if self.ended {
                return blocks.write(bytes);
            }
            if self.left > 0 {
                let most = usize::try_from(self.left).unwrap_or(usize::MAX);
                let (now, rest) = bytes.split_at(most.min(bytes.len()));
                blocks.write(now)?;
                self.left -= now.len() as u64;
                bytes = rest;
                continue;
            }
            let missing = BLOCK - self.header.len();
            let (now, rest) = bytes.split_at(missing.min(bytes.len()));
            self.header.extend_from_slice(now);
            bytes = rest;
            if self.header.len() == BLOCK {
                self.entry(blocks)?;
                self.header.clear();
            }
        }
        Ok(())
    }

    fn entry(&mut self, blocks: &mut Blocks) -> Result<(), Stop> {
        let header = &self.header[..];
        if header.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return blocks.write(header);
        }
        if self.goes_on {
            blocks.write(header)?;
        } else {
            blocks.header(header)?;
        }
        let kind = header[field::TYPE];
        self.goes_on = matches!(kind, b'x' | b'g' | b'L' | b'K');
        let size_bytes = match kind {
            b'1'..=b'6' => 0,
            _ => number::parse(&header[field::SIZE]).map_or(0, i64::unsigned_abs),
        };
        if !self.goes_on {
            blocks.begin(size_bytes)?;
        }
        let padding = padding_bytes(size_bytes) as u64;
        self.left = size_bytes.saturating_add(padding);
        Ok(())
    }

    /// A header that is cut off.
    fn end(&mut self, blocks: &mut Blocks) -> Result<(), Stop> {
        blocks.write(&self.header)
    }
}

fn retime(tar: impl std::io::BufRead, times: Times, blocks: &mut Blocks) -> Result<(), Stop> {
    let mut tar = TarReader::new(tar, WhiteoutNames::Oci);
    let mut header = Vec::new();
    while let Some(member) = tar.next_member()? {
        let mut entry = match member {
            Member::Entry(entry) => entry,
            // The one name that no entry has; its header is that of an empty file.
            Member::Opaque(mut path) => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(b".wh..wh..opq");
                let kind = Kind::File {
                    size_bytes: 0,
                    content: None,
                };
                Entry {
                    path,
                    meta: Meta::default(),
                    kind,
                }
            }
        };
        entry.meta.mtime = times.of(entry.meta.mtime);
        header.clear();
        write_header(&mut header, &entry)?;
        blocks.header(&header)?;
        let Kind::File { size_bytes, .. } = entry.kind else {
            continue;
        };
        blocks.begin(size_bytes)?;
        loop {
            match tar.data()? {
                Data::Bytes(bytes) => {
                    let count = bytes.len();
                    blocks.write(bytes)?;
                    tar.consume(count);
                }
                Data::Hole(mut count) => {
                    while count > 0 {
                        let zeros = [0; 4096];
                        let some =
                            usize::try_from(count).map_or(zeros.len(), |n| n.min(zeros.len()));
                        blocks.write(&zeros[..some])?;
                        count -= some as u64;
                    }
                }
                Data::End => break,
            }
        }
        blocks.write(&[0; 512][..padding_bytes(size_bytes)])?;
    }
    blocks.write(&[0; TRAILER_BYTES])?;
    blocks.end()
}
