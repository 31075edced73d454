//! Bytes held against their descriptor while they pass.

use std::io::{self, Read};

use crate::oci::{Descriptor, Digest, Hasher};

/// Bytes that are not what their descriptor says.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum VerifyError {
    /// Another digest.
    #[error("content does not match its digest: expected {expected}, got {actual}")]
    Digest {
        /// What the descriptor says.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// Another length.
    #[error("content of {digest} has the wrong size: expected {expected} bytes, got {actual}")]
    Size {
        /// Which content.
        digest: Digest,
        /// What the descriptor says, bytes.
        expected: u64,
        /// What came, bytes; one more than expected when it was cut off there.
        actual: u64,
    },
}

/// A reader that ends with an error unless exactly the described bytes came through it.
pub struct VerifyReader<R> {
    inner: R,
    expected: Descriptor,
    hasher: Option<Hasher>,
    seen: u64,
}

impl<R: Read> VerifyReader<R> {
    /// Holds what `inner` gives against `expected`.
    pub fn new(inner: R, expected: &Descriptor) -> VerifyReader<R> {
        let hasher = Some(Hasher::new(expected.digest.algorithm()));
        VerifyReader {
            inner,
            expected: expected.clone(),
            hasher,
            seen: 0,
        }
    }
}

impl<R: Read> Read for VerifyReader<R> {
    /// An error of kind `InvalidData` with a [`VerifyError`] inside when the bytes are wrong.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let wrong = |e: VerifyError| io::Error::new(io::ErrorKind::InvalidData, e);
        let n = self.inner.read(buf)?;
        self.seen += n as u64;
        let size = |actual| VerifyError::Size {
            digest: self.expected.digest,
            expected: self.expected.size,
            actual,
        };
        if self.seen > self.expected.size {
            return Err(wrong(size(self.seen)));
        }
        if n > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buf[..n]);
            }
            return Ok(n);
        }
        if self.seen != self.expected.size {
            return Err(wrong(size(self.seen)));
        }
        if let Some(hasher) = self.hasher.take() {
            let actual = hasher.finish();
            if actual != self.expected.digest {
                return Err(wrong(VerifyError::Digest {
                    expected: self.expected.digest,
                    actual,
                }));
            }
        }
        Ok(0)
    }
}

/// Reads a document whole. `Ok` means: these are the described bytes.
pub fn read_verified(reader: impl Read, expected: &Descriptor) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    VerifyReader::new(reader, expected).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::MediaType;

    #[test]
    fn wrong_bytes_and_lengths_are_errors() {
        let right = Descriptor::of(MediaType::OciLayer, b"content");
        assert_eq!(read_verified(&b"content"[..], &right).unwrap(), b"content");
        for wrong in [&b"Content"[..], b"conten", b"contents", b""] {
            let error = read_verified(wrong, &right).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.get_ref().is_some_and(|e| e.is::<VerifyError>()));
        }
    }
}
