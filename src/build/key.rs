//! Cache keys: what a step's result depends on, input by input.
//!
//! In a key: the instruction's own text after expansion, the environment it sees, the identity of the files below it and the
//! content of every file it reads (path, type, mode, owner inside the image, link target, device, capability, bytes).
//! Not in it: times and host owners of context files, the context's place, proxies, addresses of extra hosts, values of
//! secrets, contents of cache mounts.
//!
//! Each input has a label, and a record keeps them, so that a later miss can be explained (see `explain`). Both are length-prefixed in the
//! hash: no two lists of inputs read the same.

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
