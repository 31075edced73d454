//! Cache keys: what a step's result depends on, input by input.
//!
//! In a key: the instruction's own text after expansion, the environment it sees, the identity of the files below it and the
//! content of every file it reads (path, type, mode, owner inside the image, link target, device, capability, bytes).
//! Not in it: times and host owners of context files, the context's place, proxies, addresses of extra hosts, values of
//! secrets, contents of cache mounts.
//!
//! Each input has a label, and a record keeps them, so that a later miss can be explained. Both are length-prefixed in the
//! hash: no two lists of inputs read the same.

use crate::layer::{Entry, Kind};
use crate::oci::{Digest, Hasher};

/// A key in the making.
pub(super) struct Key {
    hasher: Hasher,
    inputs: Vec<(String, String)>,
}

impl Key {
    /// Starts the key of a step of this kind. The kind's number changes when the meaning of its inputs does.
    pub(super) fn new(kind: &str) -> Key {
        let mut key = Key {
            hasher: Hasher::sha256(),
            inputs: Vec::new(),
        };
        key.add("kind", kind);
        key
    }

    /// Adds an input.
    pub(super) fn add(&mut self, label: &str, value: &str) {
        for text in [label, value] {
            self.hasher.update(&(text.len() as u64).to_le_bytes());
            self.hasher.update(text.as_bytes());
        }
        self.inputs.push((label.to_owned(), value.to_owned()));
    }

    /// Adds an input whose value is no one's business: only its digest is kept.
    pub(super) fn add_hidden(&mut self, label: &str, value: &str) {
        self.add(label, &Digest::of(value.as_bytes()).to_string());
    }

    /// The key, and its inputs by label.
    pub(super) fn finish(self) -> (Digest, Vec<(String, String)>) {
        (self.hasher.finish(), self.inputs)
    }
}

/// A digest over files: what COPY and bind mounts read.
pub(super) struct FilesHash(Hasher);

impl FilesHash {
    pub(super) fn new() -> FilesHash {
        FilesHash(Hasher::sha256())
    }

    /// Adds a name that stands by itself.
    pub(super) fn name(&mut self, name: &[u8]) {
        self.0.update(&(name.len() as u64).to_le_bytes());
        self.0.update(name);
    }

    /// Adds an entry at `path`; `content` is a regular file's.
    pub(super) fn entry(&mut self, path: &[u8], entry: &Entry, content: Option<Digest>) {
        self.name(path);
        let meta = &entry.meta;
        for number in [meta.mode, meta.uid, meta.gid] {
            self.0.update(&number.to_le_bytes());
        }
        let (kind, numbers, bytes): (u8, [u64; 2], &[u8]) = match &entry.kind {
            Kind::File { size_bytes, .. } => (0, [*size_bytes, 0], &[]),
            Kind::Directory { .. } => (1, [0, 0], &[]),
            Kind::Symlink { target } => (2, [0, 0], target),
            Kind::HardLink { target } => (3, [0, 0], target),
            Kind::CharDevice { major, minor } => (4, [u64::from(*major), u64::from(*minor)], &[]),
            Kind::BlockDevice { major, minor } => (5, [u64::from(*major), u64::from(*minor)], &[]),
            Kind::Fifo => (6, [0, 0], &[]),
            Kind::Whiteout => (7, [0, 0], &[]),
        };
        self.0.update(&[kind]);
        for number in numbers {
            self.0.update(&number.to_le_bytes());
        }
        self.name(bytes);
        for (name, value) in meta
            .xattrs
            .iter()
            .filter(|(name, _)| name == b"security.capability")
        {
            self.name(name);
            self.name(value);
        }
        if let Some(content) = content {
            self.0.update(content.bytes());
        }
    }

    pub(super) fn finish(self) -> Digest {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lists_read_the_same() {
        let key = |inputs: &[(&str, &str)]| {
            let mut key = Key::new("run");
            inputs.iter().for_each(|(l, v)| key.add(l, v));
            key.finish().0
        };
        let lists: [&[(&str, &str)]; 6] = [
            &[],
            &[("a", "bc")],
            &[("ab", "c")],
            &[("a", "b"), ("c", "")],
            &[("a", ""), ("b", "c")],
            &[("", "abc")],
        ];
        for (i, one) in lists.iter().enumerate() {
            for (j, two) in lists.iter().enumerate() {
                assert_eq!(key(one) == key(two), i == j, "{one:?} {two:?}");
            }
        }
    }
}
