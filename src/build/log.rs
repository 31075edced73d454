//! A step's whole output, on its way to the disk in case the step fails.
//!
//! A step that writes little costs no file: what fits stays in memory. Secrets of the step are masked before anything is written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::store::Work;

/// How much stays in memory before a file is made: what most steps write, and little beside what a step costs anyway.
const MEMORY_BYTES: usize = 64 << 10;

/// How much of a log is kept from its beginning. What is beyond is left out, but for the end.
const BEGIN_BYTES: u64 = 63 << 20;

/// How much is kept from the end of a log that is too long: where a failure shows.
const END_BYTES: usize = 1 << 20;

/// The shortest secret, or line of one, that is looked for: shorter ones are in every text.
const MASKED_BYTES: usize = 4;

/// What stands in a log for a secret.
const MASK: &[u8] = b"***";

/// The standard output and error of a step, as they come.
pub(super) struct Log {
    masks: [Mask; 2],
    memory: Vec<u8>,
    file: Option<(File, PathBuf)>,
    /// Bytes in the file.
    written: u64,
    end: VecDeque<u8>,
    left_out: u64,
    failed: Option<io::Error>,
    limit: u64,
}

impl Log {
    /// An empty log in which none of the secrets will be found.
    pub(super) fn new(secrets: &[Vec<u8>]) -> Log {
        let masks = Mask::new(secrets);
        Log {
            masks: [masks.clone(), masks],
            memory: Vec::new(),
            file: None,
            written: 0,
            end: VecDeque::new(),
            left_out: 0,
            failed: None,
            limit: BEGIN_BYTES,
        }
    }

    /// Adds what one of the two streams brought. A disk that takes no more is told of by [`Log::finish`].
    pub(super) fn push(&mut self, stderr: bool, data: &[u8], work: &Work) {
        let masked = self.masks[usize::from(stderr)].push(data);
        self.append(&masked, work);
    }

    fn append(&mut self, data: &[u8], work: &Work) {
        let room = self.limit - self.written - self.memory.len() as u64;
        let fits = usize::try_from(room).map_or(data.len(), |room| room.min(data.len()));
        let (begin, rest) = data.split_at(fits);
        self.memory.extend_from_slice(begin);
        self.end.extend(rest);
        let over = self.end.len().saturating_sub(END_BYTES);
        self.end.drain(..over);
        self.left_out += over as u64;
        if self.memory.len() >= MEMORY_BYTES
            && self.failed.is_none()
            && let Err(error) = self.spill(work)
        {
            self.failed = Some(error);
        }
        if self.failed.is_some() {
            // What cannot be written must not fill the memory either.
            self.memory.clear();
        }
    }

    fn spill(&mut self, work: &Work) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(work.file("log").map_err(io::Error::other)?);
        }
        if let Some((file, _)) = &mut self.file {
            file.write_all(&self.memory)?;
            self.written += self.memory.len() as u64;
            self.memory.clear();
        }
        Ok(())
    }

    /// Puts the log to `path`. `Ok` means: all of it is there, but for what is said to be left out.
    pub(super) fn finish(mut self, path: &Path, work: &Work) -> io::Result<()> {
        for stream in 0..self.masks.len() {
            let rest = self.masks[stream].rest();
            self.append(&rest, work);
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut file = match self.file.take() {
            Some((file, from)) => {
                std::fs::rename(from, path)?;
                file
            }
            None => File::create_new(path)?,
        };
        file.write_all(&self.memory)?;
        if self.left_out > 0 {
            let left_out = format!("\n[{} bytes are left out here]\n", self.left_out);
            file.write_all(left_out.as_bytes())?;
        }
        let (one, two) = self.end.as_slices();
        file.write_all(one)?;
        file.write_all(two)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some((_, path)) = self.file.take() {
            // The folder that it is in goes at the end of the build, if this fails.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Replaces secrets in a stream, wherever it is cut.
#[derive(Clone)]
struct Mask {
    secrets: Vec<Vec<u8>>,
    /// The end of what came, if it may be the beginning of a secret.
    held: Vec<u8>,
}

impl Mask {
    fn new(secrets: &[Vec<u8>]) -> Mask {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for secret in secrets {
            let whole = secret.trim_ascii();
            // Of a key in several lines each line is one.
            let lines = whole.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            for part in std::iter::once(whole).chain(lines) {
                if part.len() >= MASKED_BYTES && !all.iter().any(|known| known == part) {
                    all.push(part.to_vec());
                }
            }
        }
        // The longest first: a line must not take a part out of the whole.
        all.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Mask {
            secrets: all,
            held: Vec::new(),
        }
    }

    fn push(&mut self, data: &[u8]) -> Vec<u8> {
        if self.secrets.is_empty() {
            return data.to_vec();
        }
        self.held.extend_from_slice(data);
        self.replace(true)
    }

    /// What is still held, at the stream's end.
    fn rest(&mut self) -> Vec<u8> {
        self.replace(false)
    }

    fn replace(&mut self, more: bool) -> Vec<u8> {
        let (mut out, mut at) = (Vec::new(), 0);
        while let here = &self.held[at..]
            && let Some(first) = here.first()
        {
            let begins = |s: &Vec<u8>| s.len() > here.len() && s.starts_with(here);
            if more && self.secrets.iter().any(begins) {
                break;
            }
            match self.secrets.iter().find(|s| here.starts_with(s)) {
                Some(secret) => {
                    out.extend_from_slice(MASK);
                    at += secret.len();
                }
                None => {
                    out.push(*first);
                    at += 1;
                }
            }
        }
        self.held.drain(..at);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreOptions};

    fn logged(
        secrets: &[&str],
        limit: u64,
        pieces: &[(bool, &[u8])],
    ) -> (Vec<u8>, Vec<std::path::PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let work = store.work().unwrap();
        let secrets: Vec<Vec<u8>> = secrets.iter().map(|s| s.as_bytes().to_vec()).collect();
        let mut log = Log::new(&secrets);
        log.limit = limit;
        for (stderr, data) in pieces {
            log.push(*stderr, data, &work);
        }
        let path = dir.path().join("log");
        log.finish(&path, &work).unwrap();
        let left = std::fs::read_dir(work.path()).unwrap();
        (
            std::fs::read(path).unwrap(),
            left.map(|e| e.unwrap().path()).collect(),
        )
    }

    #[test]
    fn all_of_it_is_there_in_memory_or_on_disk() {
        for size in [0, 10, MEMORY_BYTES - 1, MEMORY_BYTES, 5 * MEMORY_BYTES + 3] {
            let data: Vec<u8> = (0..=250u8).cycle().take(size).collect();
            let pieces: Vec<(bool, &[u8])> = data
                .chunks(777)
                .map(|chunk| (chunk[0] > 9, chunk))
                .collect();
            let (log, left) = logged(&[], BEGIN_BYTES, &pieces);
            assert!(log == data, "{size}");
            assert_eq!(left, [""; 0].map(std::path::PathBuf::from), "{size}");
        }
    }

    #[test]
    fn a_log_that_is_too_long_has_its_beginning_and_its_end() {
        let line = |n: usize| format!("line {n:>10}\n").into_bytes();
        let lines: Vec<Vec<u8>> = (0..200_000).map(line).collect();
        let pieces: Vec<(bool, &[u8])> = lines.iter().map(|l| (false, &l[..])).collect();
        let (log, _) = logged(&[], 1 << 20, &pieces);
        let text = String::from_utf8(log).unwrap();
        assert!(text.starts_with("line          0\n") && text.ends_with("line     199999\n"));
        let left_out = lines.len() * 16 - (2 << 20);
        assert!(text.contains(&format!("\n[{left_out} bytes are left out here]\n")));
        assert!(text.len() < (2 << 20) + 100);
    }

    #[test]
    fn secrets_are_masked_wherever_the_stream_is_cut() {
        let secrets = [
            "s3cr3t-token\n",
            "-----BEGIN\nline one\nline two\n-----END",
            "ab",
        ];
        let text = b"x s3cr3t-token y ab s3cr3t-tok -----BEGIN\nline one\nline two\n-----END line two s3cr";
        let want = "x *** y ab s3cr3t-tok *** *** s3cr";
        for size in 1..text.len() {
            let pieces: Vec<(bool, &[u8])> = text.chunks(size).map(|c| (true, c)).collect();
            let (log, _) = logged(&secrets, BEGIN_BYTES, &pieces);
            assert_eq!(String::from_utf8(log).unwrap(), want, "{size}");
        }
    }
}
