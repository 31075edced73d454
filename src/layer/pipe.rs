//! Bytes that several threads look at: buffers that are counted and come back, and hashes on threads of their own.

use std::ops::{Deref, Range};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::oci::{Digest, Hasher};

/// What a buffer has at first. Most layers need no more, and clearing what is not needed takes longer than packing them.
const FIRST_BYTES: usize = 32 << 10;

/// So many buffers of one size and no more: memory is bounded by waiting for one to come back.
pub(crate) struct Pool {
    state: Mutex<State>,
    returned: Condvar,
    size: usize,
}

struct State {
    free: Vec<Vec<u8>>,
    unmade: usize,
}

impl Pool {
    /// A pool of `count` buffers of `size` bytes.
    pub(crate) fn new(count: usize, size: usize) -> Arc<Pool> {
        Arc::new(Pool {
            state: Mutex::new(State {
                free: Vec::new(),
                unmade: count,
            }),
            returned: Condvar::new(),
            size,
        })
    }

    /// An empty buffer; waits until there is one.
    pub(crate) fn take(self: &Arc<Pool>) -> Buffer {
        // The state is whole between any two statements that change it, so a poisoned lock is a good lock.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = loop {
            if let Some(bytes) = state.free.pop() {
                break bytes;
            }
            if state.unmade > 0 {
                state.unmade -= 1;
                break vec![0; self.size.min(FIRST_BYTES)];
            }
            let waited = self.returned.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        };
        Buffer {
            bytes,
            filled: 0,
            pool: Arc::clone(self),
        }
    }
}

/// A buffer of a [`Pool`], which gets it back in the end.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
    pool: Arc<Pool>,
}

impl Buffer {
    /// The part that holds nothing yet, or enough of it for `wanted` bytes.
    pub(crate) fn spare(&mut self, wanted: usize) -> &mut [u8] {
        let room = self.bytes.len() - self.filled;
        if room < wanted && self.bytes.len() < self.pool.size {
            let mut whole = vec![0; self.pool.size];
            whole[..self.filled].copy_from_slice(&self.bytes[..self.filled]);
            self.bytes = whole;
        }
        &mut self.bytes[self.filled..]
    }

    /// Says that the first `count` bytes of [`Buffer::spare`] hold something now.
    pub(crate) fn advance(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.bytes.len());
    }

    /// Whether nothing fits any more.
    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.pool.size
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let state = self.pool.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.free.push(bytes);
        drop(state);
        self.pool.returned.notify_one();
    }
}

/// Some bytes of the contents that are hashed one after another.
pub(crate) enum Piece {
    /// Stretches of a buffer; after one with the flag a content ends.
    Parts(Arc<Buffer>, Vec<(Range<usize>, bool)>),
    /// So many zero bytes.
    Zeros(u64),
    /// A content ends.
    End,
}

/// Hashes all that comes, as one content; also how many bytes came.
pub(crate) fn hash_stream(buffers: &Receiver<Arc<Buffer>>) -> (Digest, u64) {
    let mut hasher = Hasher::sha256();
    let mut size_bytes = 0;
    for buffer in buffers {
        hasher.update(&buffer);
        size_bytes += buffer.len() as u64;
    }
    (hasher.finish(), size_bytes)
}

/// A SHA-256: of a hundred thousand contents, half of what as many [`Digest`]s would take.
pub(crate) type Sum = [u8; 32];

/// What contents hash to, in the order in which they end.
pub(crate) struct Contents {
    hasher: Hasher,
    sums: Vec<Sum>,
}

impl Contents {
    pub(crate) fn new() -> Contents {
        Contents {
            hasher: Hasher::sha256(),
            sums: Vec::new(),
        }
    }

    /// More bytes of the content that has not ended.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// What those hash to that were added up to now.
    pub(crate) fn so_far(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// The content ends; what it hashes to.
    pub(crate) fn end(&mut self) -> Digest {
        let ended = std::mem::replace(&mut self.hasher, Hasher::sha256());
        let sum = ended.finish();
        // It is one.
        self.sums.extend(sum.sha256());
        sum
    }

    /// Those that have ended.
    pub(crate) fn sums(self) -> Vec<Sum> {
        self.sums
    }
}

/// Hashes contents, in the order in which they end.
pub(crate) fn hash_contents(pieces: &Receiver<Piece>) -> Vec<Sum> {
    let mut contents = Contents::new();
    let zeros = [0; 4096];
    for piece in pieces {
        match piece {
            Piece::Parts(buffer, parts) => {
                for (range, last) in parts {
                    contents.add(&buffer[range]);
                    if last {
                        contents.end();
                    }
                }
            }
            Piece::Zeros(mut count) => {
                while count > 0 {
                    let step = count.min(zeros.len() as u64);
                    contents.add(&zeros[..usize::try_from(step).unwrap_or(zeros.len())]);
                    count -= step;
                }
            }
            Piece::End => {
                contents.end();
            }
        }
    }
    contents.sums()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_buffer_has_room_for_what_is_wanted() {
        let size = 3 * FIRST_BYTES;
        let pool = Pool::new(1, size);
        let mut buffer = pool.take();
        buffer.spare(1)[0] = 7;
        buffer.advance(1);
        assert_eq!(buffer.spare(FIRST_BYTES - 1).len(), FIRST_BYTES - 1);
        assert_eq!(buffer.spare(FIRST_BYTES).len(), size - 1);
        assert_eq!(*buffer, [7]);
        buffer.advance(size);
        assert!(buffer.is_full() && buffer.spare(1).is_empty());
        drop(buffer);
        assert_eq!(pool.take().spare(1).len(), size);
    }

    #[test]
    fn contents_are_told_apart() {
        let pool = Pool::new(1, 8);
        let (sender, receiver) = mpsc::channel();
        let mut buffer = pool.take();
        buffer.spare(6)[..6].copy_from_slice(b"abcdef");
        buffer.advance(6);
        let parts = vec![(0..2, true), (2..2, true), (3..6, false)];
        sender.send(Piece::Parts(Arc::new(buffer), parts)).unwrap();
        sender.send(Piece::Zeros(5000)).unwrap();
        sender.send(Piece::End).unwrap();
        drop(sender);
        let long = [&b"def"[..], &[0; 5000]].concat();
        let want = [&b"ab"[..], b"", &long].map(|c| Digest::of(c).sha256().unwrap());
        assert_eq!(hash_contents(&receiver), want);
        // The one buffer came back.
        assert!(pool.take().is_empty());
    }
}
