//! A blob to its table of contents, in one pass and without writing anything.

use std::collections::HashMap;
use std::io::Read;

use super::entry::{join, parent, push_parts};
use super::error::text;
use super::records::Records;
use super::tar::{Member, WhiteoutNames};
use super::tree::{MAX_LINKS, is_reserved};
use super::unpack::{content, content_size, pass, unwrap_limit};
use super::{Entry, Kind, LayerError, Meta, Toc};
use crate::oci::{DiffId, Digest};

/// What a pass over a layer saw.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The digest of the uncompressed bytes.
    pub diff_id: DiffId,
    /// The digest of the bytes as they were given.
    pub digest: Digest,
    /// How many bytes were given.
    pub size_bytes: u64,
    /// How many they are uncompressed.
    pub unpacked_size_bytes: u64,
    /// What the layer holds, with the digests of all contents: the table that [`super::unpack()`] gives.
    pub toc: Toc,
}

/// Reads the layer that `input` gives, compressed or not, to its end. `limit_bytes` bounds what it may unpack to. The caller
/// compares the digests.
pub fn scan(
    input: impl Read + Send,
    names: WhiteoutNames,
    limit_bytes: u64,
) -> Result<Scanned, LayerError> {
    let passed = pass(input, names, limit_bytes, |mut tar| {
        let mut list = List::default();
        let mut holes_left = limit_bytes;
        while let Some(member) = tar.next_member().map_err(unwrap_limit)? {
            match member {
                Member::Opaque(dir) => list.opaque(&dir)?,
                Member::Entry(entry) => {
                    let path = entry.path.clone();
                    let size_bytes = content_size(&entry);
                    if matches!(entry.kind, Kind::File { .. }) {
                        content(
                            None,
                            &path,
                            size_bytes,
                            &mut tar,
                            &mut holes_left,
                            limit_bytes,
                        )?;
                    }
                    list.put(entry)?;
                }
            }
        }
        tar.drain().map_err(unwrap_limit)?;
        Ok(list.records)
    })?;
    let mut records: Records = passed.result;
    records.set_contents(passed.contents);
    Ok(Scanned {
        diff_id: passed.diff_id,
        digest: passed.digest,
        size_bytes: passed.size_bytes,
        unpacked_size_bytes: passed.unpacked_size_bytes,
        toc: records.into_toc(),
    })
}

/// The entries, under the paths where unpacking would really put them: links that the layer itself made are followed.
#[derive(Default)]
struct List {
    records: Records,
    links: HashMap<Vec<u8>, Vec<u8>>,
}

impl List {
    fn put(&mut self, mut entry: Entry) -> Result<(), LayerError> {
        entry.meta.xattrs.retain(|(name, _)| !is_reserved(name));
        entry.path = self.locate(entry.path)?;
        match &mut entry.kind {
            Kind::Symlink { target } => drop(self.links.insert(entry.path.clone(), target.clone())),
            Kind::HardLink { target } => *target = self.locate(std::mem::take(target))?,
            _ if self.links.is_empty() => {}
            _ => drop(self.links.remove(&entry.path)),
        }
        self.records.push_open(&entry);
        Ok(())
    }

    fn opaque(&mut self, dir: &[u8]) -> Result<(), LayerError> {
        let mut inside = dir.to_vec();
        join(&mut inside, b"x");
        let located = self.locate(inside)?;
        let path = parent(&located).unwrap_or_default().to_vec();
        let marks = [
            Kind::Directory {
                opaque: false,
                implied: true,
            },
            // A whiteout and a directory of one path are an opaque directory.
            Kind::Whiteout,
        ];
        for kind in marks {
            self.records.push(&Entry {
                path: path.clone(),
                meta: Meta {
                    mode: 0o755,
                    ..Meta::default()
                },
                kind,
            });
        }
        Ok(())
    }

    /// Where a path really is: every part but the last is followed if it is a link.
    fn locate(&self, path: Vec<u8>) -> Result<Vec<u8>, LayerError> {
        let above = parent(&path).unwrap_or_default();
        let linked = |end: usize| self.links.contains_key(&path[..end]);
        let mut ends = memchr::memchr_iter(b'/', &path);
        if self.links.is_empty() || above.is_empty() || !ends.any(linked) {
            return Ok(path);
        }
        let mut todo = Vec::new();
        push_parts(&mut todo, above);
        let mut real = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                let up = parent(&real).unwrap_or_default().len();
                real.truncate(up);
                continue;
            }
            let before = real.len();
            join(&mut real, &part);
            let Some(target) = self.links.get(&real) else {
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(LayerError::Loop { path: text(&path) });
            }
            real.truncate(if target.starts_with(b"/") { 0 } else { before });
            push_parts(&mut todo, target);
        }
        join(&mut real, &path[above.len() + 1..]);
        Ok(real)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Root, UnpackOptions, unpack};
    use super::*;
    use crate::layer::{Devices, Ownership, TreeOptions, Whiteouts};

    /// `KIND PATH [TARGET OR CONTENT]`, a line each.
    fn tar(lines: &[&str]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_mtime(7);
            let (kind, link) = match words[0] {
                "f" => (tar::EntryType::Regular, None),
                "d" => (tar::EntryType::Directory, None),
                "s" => (tar::EntryType::Symlink, Some(words[2])),
                "l" => (tar::EntryType::Link, Some(words[2])),
                other => panic!("{other}"),
            };
            header.set_entry_type(kind);
            match link {
                Some(target) => tar.append_link(&mut header, words[1], target).unwrap(),
                None => {
                    let content = words.get(2).unwrap_or(&"").as_bytes();
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, words[1], content).unwrap();
                }
            }
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn a_scan_sees_what_unpacking_sees() {
        for lines in [
            &["d a", "f a/b x", "l a/c a/b", "s a/l b"][..],
            &[
                "d usr",
                "d usr/lib",
                "s lib usr/lib",
                "f lib/x 1",
                "l lib/y lib/x",
            ],
            &["d a", "s l /a", "s m l", "f m/x 1"],
            &[
                "d a",
                "f a/x 1",
                "f a/.wh.gone",
                "f a/.wh..wh..opq",
                "f .wh.b",
            ],
            &[
                "d a",
                "f a/x 1",
                "f a/x 22",
                "s a/x y",
                "d a/x",
                "f a/x/z 3",
            ],
            &["f deep/er/file 1"],
            &["d a", "s l a", "d l", "f l/x 1"],
        ] {
            let bytes = tar(lines);
            let scanned = scan(&bytes[..], WhiteoutNames::Oci, 1 << 20).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let options = UnpackOptions {
                tree: TreeOptions {
                    ownership: Ownership::Xattr,
                    whiteouts: Whiteouts::OverlayUser,
                    devices: Devices::Skip,
                },
                names: WhiteoutNames::Oci,
                limit_bytes: 1 << 20,
                below: None,
            };
            let root = Root::open(dir.path()).unwrap();
            let unpacked = unpack(&bytes[..], &root, &options).unwrap();
            assert_eq!(scanned.toc, unpacked.toc, "{lines:?}");
            assert_eq!(scanned.diff_id, unpacked.diff_id);
            assert_eq!(scanned.digest, unpacked.digest);
            assert_eq!(scanned.size_bytes, bytes.len() as u64);
            assert_eq!(scanned.unpacked_size_bytes, unpacked.unpacked_size_bytes);
        }
    }

    #[test]
    fn links_in_a_circle_and_cut_layers_are_errors() {
        let bytes = tar(&["s a b", "s b a", "f a/x 1"]);
        let error = scan(&bytes[..], WhiteoutNames::Oci, 1 << 20).unwrap_err();
        assert!(matches!(error, LayerError::Loop { .. }), "{error}");
        let bytes = tar(&["f a 123"]);
        assert!(scan(&bytes[..514], WhiteoutNames::Oci, 1 << 20).is_err());
        assert!(scan(&bytes[..], WhiteoutNames::Oci, 512).is_err());
    }
}
