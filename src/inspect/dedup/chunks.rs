//! Files in pieces whose ends their content decides: what two versions of a large file have in common shows, too.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use fastcdc::v2020::{Error as Cut, StreamCDC};

use super::super::contents::{Reading, members, stream, unreadable};
use super::super::{Contents, InspectError};
use super::report::ContentSums;
use crate::image::Source;
use crate::layer::tar::{Data, Member, TarReader};
use crate::layer::{Kind, LayerError};
use crate::oci::{DiffId, Digest};

/// The smallest, the usual and the largest chunk, bytes: those of casync and of the registries that keep chunks. Others would give other
/// sums.
const SIZES_BYTES: [usize; 3] = [16 << 10, 64 << 10, 256 << 10];

/// The chunks of all layers so far, each layer once.
#[derive(Default)]
pub struct Chunks {
    layers: HashSet<DiffId>,
    /// How long each is, and how many there are.
    chunks: HashMap<Digest, (u64, u64)>,
}

impl Chunks {
    /// Adds the files of an image's layers. Every layer that was not there yet is read to its end.
    pub fn add(
        &mut self,
        contents: &Contents,
        source: &dyn Source,
        reading: Reading<'_>,
    ) -> Result<(), InspectError> {
        for layer in &contents.layers {
            if !self.layers.insert(layer.diff_id) {
                continue;
            }
            let input = stream(&layer.blob, source, reading)?;
            self.read(input).map_err(|source| InspectError::Layer {
                digest: layer.blob.digest,
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    fn read(&mut self, input: impl Read) -> Result<(), LayerError> {
        let mut tar = members(input)?;
        while let Some(member) = tar.next_member()? {
            let Member::Entry(entry) = member else {
                continue;
            };
            if !matches!(entry.kind, Kind::File { .. }) {
                continue;
            }
            let mut content = Content {
                tar: &mut tar,
                hole: 0,
                fault: None,
            };
            let [min, usual, max] = SIZES_BYTES;
            let mut failure = None;
            for chunk in StreamCDC::new(&mut content, min, usual, max) {
                match chunk {
                    Ok(chunk) => self.count(&chunk.data),
                    // Whoever goes on asking is told the same again.
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
            match (content.fault, failure) {
                (Some(fault), _) => return Err(fault),
                (None, Some(Cut::IoError(error))) => return Err(unreadable(error)),
                (None, Some(error)) => return Err(unreadable(io::Error::other(error.to_string()))),
                (None, None) => {}
            }
        }
        tar.drain()
    }

    fn count(&mut self, chunk: &[u8]) {
        if !chunk.is_empty() {
            let known = self.chunks.entry(Digest::of(chunk));
            known.or_insert((chunk.len() as u64, 0)).1 += 1;
        }
    }

    /// Their sums.
    pub fn sums(&self) -> ContentSums {
        let mut sums = ContentSums::default();
        for (size_bytes, copies) in self.chunks.values() {
            sums.add(*size_bytes, *copies);
        }
        sums
    }
}

/// The content of the member that was read last.
struct Content<'a, R> {
    tar: &'a mut TarReader<R>,
    /// Zero bytes that are to come first.
    hole: u64,
    /// What an I/O error cannot say.
    fault: Option<LayerError>,
}

impl<R: io::BufRead> Read for Content<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.hole == 0 {
            let count = match self.tar.data() {
                Ok(Data::Bytes(bytes)) => {
                    let count = bytes.len().min(out.len());
                    out[..count].copy_from_slice(&bytes[..count]);
                    count
                }
                Ok(Data::Hole(count)) => {
                    self.hole = count;
                    0
                }
                Ok(Data::End) => return Ok(0),
                Err(fault) => {
                    self.fault = Some(fault);
                    return Err(io::Error::other("a layer that cannot be read"));
                }
            };
            if count > 0 {
                self.tar.consume(count);
                return Ok(count);
            }
        }
        let count = usize::try_from(self.hole)
            .unwrap_or(usize::MAX)
            .min(out.len());
        out[..count].fill(0);
        self.hole -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that do not repeat.
    fn noise(seed: u64, count: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        };
        (0..count).map(|_| next()).collect()
    }

    fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, *content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn versions_of_a_file_have_most_chunks_in_common() {
        let one = noise(1, 2_000_000);
        let mut other = one.clone();
        other.splice(1_000_000..1_000_000, *b"a few bytes more");
        let mut chunks = Chunks::default();
        chunks.read(&layer(&[("a", &one), ("e", b"")])[..]).unwrap();
        let once = chunks.sums();
        assert_eq!((once.stored_bytes, once.wasted_bytes), (2_000_000, 0));
        chunks.read(&layer(&[("b", &other)])[..]).unwrap();
        let both = chunks.sums();
        assert_eq!(both.stored_bytes, 4_000_016);
        assert_eq!(both.stored_bytes, both.distinct_bytes + both.wasted_bytes);
        assert!(both.wasted_bytes > 1_500_000, "{both:?}");
        let cut = &layer(&[("a", &one)])[..5000];
        assert!(chunks.read(cut).is_err());
    }
}
