//! The table of files, as columns: a folder's path is written once, however many files are in it.
//!
//! ```text
//! folders     { parent: [n…], name: [text…] }        0 is the root; a parent comes before what is in it
//! attributes  [[mode, uid, gid]…]
//! files       { folder: [n…], name: [text…], size: [bytes…], layer: [n…], attribute: [n…],
//!               change: "aac…"  added, changed, removed       a letter a file
//!               fate: "kod…"    kept, overwritten, deleted
//!               kind: "flw…" }  file, link, hard link, char and block device, pipe; w is what was removed
//! ```

use std::collections::HashMap;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::text::{quote, raw};

/// What a layer does to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// There was nothing.
    Added,
    /// There was something.
    Changed,
    /// It is gone.
    Removed,
}

/// What later layers do to the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// They are in the image.
    Kept,
    /// Others are in their place.
    Overwritten,
    /// They are gone.
    Deleted,
}

/// One path of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'p> {
    /// Relative, clean.
    pub(crate) path: &'p [u8],
    /// Of the content; nothing for what has none.
    pub(crate) size_bytes: u64,
    /// From 0.
    pub(crate) layer: usize,
    pub(crate) change: Change,
    pub(crate) fate: Fate,
    /// The letter of the head of this file.
    pub(crate) kind: u8,
    /// Mode, owner and group.
    pub(crate) attributes: (u32, u32, u32),
}

/// Files of all layers.
#[derive(Default)]
pub(crate) struct FileTable {
    folder_numbers: HashMap<Vec<u8>, usize>,
    parents: Vec<usize>,
    folder_names: Vec<Vec<u8>>,
    attribute_numbers: HashMap<(u32, u32, u32), usize>,
    attributes: Vec<(u32, u32, u32)>,
    folders: Vec<usize>,
    /// A JSON array, not yet closed.
    names: String,
    sizes: Vec<u64>,
    layers: Vec<usize>,
    attribute: Vec<usize>,
    changes: String,
    fates: Vec<Fate>,
    kinds: String,
}

impl FileTable {
    /// Adds a row.
    pub(crate) fn push(&mut self, row: Row) {
        let (folder, name) = match row.path.iter().rposition(|c| *c == b'/') {
            Some(slash) => (&row.path[..slash], &row.path[slash + 1..]),
            None => (&b""[..], row.path),
        };
        let folder = self.folder(folder);
        self.folders.push(folder);
        self.names
            .push(if self.sizes.is_empty() { '[' } else { ',' });
        quote(&mut self.names, name);
        self.sizes.push(row.size_bytes);
        self.layers.push(row.layer);
        let next = self.attributes.len();
        let number = *self.attribute_numbers.entry(row.attributes).or_insert(next);
        if number == next {
            self.attributes.push(row.attributes);
        }
        self.attribute.push(number);
        self.changes.push(match row.change {
            Change::Added => 'a',
            Change::Changed => 'c',
            Change::Removed => 'r',
        });
        self.fates.push(row.fate);
        self.kinds.push(row.kind.into());
    }

    fn folder(&mut self, path: &[u8]) -> usize {
        if let Some(number) = self.folder_numbers.get(path) {
            return *number;
        }
        let (parent, name) = match path.iter().rposition(|c| *c == b'/') {
            _ if path.is_empty() => (None, path),
            Some(slash) => (Some(&path[..slash]), &path[slash + 1..]),
            None => (Some(&b""[..]), path),
        };
        // The root is its own parent.
        let parent = parent.map_or(0, |parent| self.folder(parent));
        let number = self.parents.len();
        self.parents.push(parent);
        self.folder_names.push(name.to_vec());
        self.folder_numbers.insert(path.to_vec(), number);
        number
    }
}

impl Serialize for FileTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut names = String::from("[");
        for (at, name) in self.folder_names.iter().enumerate() {
            if at > 0 {
                names.push(',');
            }
            quote(&mut names, name);
        }
        names.push(']');
        let columns = |map: &[(&str, String)]| {
            let fields: Vec<String> = map
                .iter()
                .map(|(key, json)| format!("\"{key}\":{json}"))
                .collect();
            format!("{{{}}}", fields.join(","))
        };
        let fate = |fate: &Fate| match fate {
            Fate::Kept => 'k',
            Fate::Overwritten => 'o',
            Fate::Deleted => 'd',
        };
        let fates: String = self.fates.iter().map(fate).collect();
        let folders = columns(&[("parent", numbers(&self.parents)), ("name", names)]);
        let files = columns(&[
            ("folder", numbers(&self.folders)),
            (
                "name",
                match self.names.as_str() {
                    "" => "[]".to_owned(),
                    names => format!("{names}]"),
                },
            ),
            ("size", numbers(&self.sizes)),
            ("layer", numbers(&self.layers)),
            ("attribute", numbers(&self.attribute)),
            ("change", format!("\"{}\"", self.changes)),
            ("fate", format!("\"{fates}\"")),
            ("kind", format!("\"{}\"", self.kinds)),
        ]);
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("folders", &raw(folders)?)?;
        map.serialize_entry("attributes", &self.attributes)?;
        map.serialize_entry("files", &raw(files)?)?;
        map.end()
    }
}

fn numbers<N: std::fmt::Display>(numbers: &[N]) -> String {
    let texts: Vec<String> = numbers.iter().map(N::to_string).collect();
    format!("[{}]", texts.join(","))
}
