//! An image's files: its layers applied in order, each path with what is compared of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;

use base64::Engine as _;
use serde_json::{Map, Value, json};
use tar::EntryType;

use crate::image::{BadImage, sha256};

/// What is known of one path: `type`, `mode`, `owner`, `mtime`, and by type `text` or `size` and `sha256`, `target`,
/// `device`, `capability`. Several names of one file say so in `same file as`.
pub(crate) type Entry = Map<String, Value>;

/// Absolute path to entry.
pub(crate) type Tree = BTreeMap<String, Entry>;

/// Files up to this many bytes are compared as text, so that a difference can be read; the expectations fix it.
const TEXT_BYTES: usize = 300;

/// While layers are applied the names of one file share an [`Arc`].
type Names = BTreeMap<String, Arc<Entry>>;

/// Applies plain tars in order.
pub(crate) fn flatten<L: AsRef<[u8]>>(layers: &[L]) -> Result<Tree, BadImage> {
    let mut names = Names::new();
    for layer in layers {
        apply(&mut names, layer.as_ref())?;
    }
    let mut files: BTreeMap<*const Entry, Vec<String>> = BTreeMap::new();
    for (path, entry) in &names {
        files
            .entry(Arc::as_ptr(entry))
            .or_default()
            .push(path.clone());
    }
    let named = |(path, entry): (&String, &Arc<Entry>)| {
        let mut known = Entry::clone(entry);
        let all = &files[&Arc::as_ptr(entry)];
        if all.len() > 1 {
            known.insert("same file as".into(), all[0].clone().into());
        }
        (path.clone(), known)
    };
    Ok(names.iter().map(named).collect())
}

fn apply(names: &mut Names, layer: &[u8]) -> Result<(), BadImage> {
    let mut new = BTreeSet::new();
    let mut archive = tar::Archive::new(layer);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = absolute(&entry.path_bytes());
        let (parent, name) = split(&path);
        if name == ".wh..wh..opq" {
            remove(names, parent, &new, false);
        } else if let Some(hidden) = name.strip_prefix(".wh.") {
            remove(names, &join(parent, hidden), &BTreeSet::new(), true);
        } else if path != "/" {
            let read = match entry.header().entry_type() {
                EntryType::Link => {
                    let target = entry.link_name_bytes().map(|target| absolute(&target));
                    let target = target.and_then(|target| names.get(&target).cloned());
                    target.unwrap_or_else(|| Arc::new(one("type", "broken hard link")))
                }
                _ => Arc::new(describe(&mut entry)?),
            };
            let is_folder = |entry: &Arc<Entry>| entry["type"] == "dir";
            if !(is_folder(&read) && names.get(&path).is_some_and(is_folder)) {
                remove(names, &path, &BTreeSet::new(), true);
            }
            parents(names, parent);
            names.insert(path.clone(), read);
            new.insert(path);
        }
    }
    Ok(())
}

/// Folders that no layer names are root's, 0755.
fn parents(names: &mut Names, mut folder: &str) {
    while folder != "/" && !names.contains_key(folder) {
        let made = json!({"type": "dir", "mode": "0755", "owner": "0:0", "mtime": 0});
        let Value::Object(made) = made else {
            unreachable!("written as an object above");
        };
        names.insert(folder.to_owned(), Arc::new(made));
        folder = split(folder).0;
    }
}

/// Removes what is below `path`, and `path` itself when told, except what `keep` holds.
fn remove(names: &mut Names, path: &str, keep: &BTreeSet<String>, itself: bool) {
    let below = format!("{}/", path.trim_end_matches('/'));
    names.retain(|name, _| {
        !(itself && name == path || name.starts_with(&below)) || keep.contains(name)
    });
}

fn describe(entry: &mut tar::Entry<'_, &[u8]>) -> Result<Entry, BadImage> {
    let header = entry.header().clone();
    let kind = header.entry_type();
    let name = match kind {
        EntryType::Directory => "dir",
        EntryType::Symlink => "symlink",
        EntryType::Char => "char",
        EntryType::Block => "block",
        EntryType::Fifo => "fifo",
        _ => "file",
    };
    let mut known = one("type", name);
    known.insert(
        "owner".into(),
        format!("{}:{}", header.uid()?, header.gid()?).into(),
    );
    known.insert("mtime".into(), header.mtime()?.into());
    if kind != EntryType::Symlink {
        known.insert(
            "mode".into(),
            format!("{:04o}", header.mode()? & 0o7777).into(),
        );
    }
    match name {
        "symlink" => {
            let target = entry.link_name_bytes().unwrap_or_default();
            known.insert("target".into(), String::from_utf8_lossy(&target).into());
        }
        "char" | "block" => {
            let (major, minor) = (
                header.device_major()?.unwrap_or(0),
                header.device_minor()?.unwrap_or(0),
            );
            known.insert("device".into(), format!("{major}:{minor}").into());
        }
        "file" => {
            let mut data = Vec::new();
            entry.read_to_end(&mut data)?;
            match String::from_utf8(data).map_err(|not_text| not_text.into_bytes()) {
                Ok(text) if text.len() <= TEXT_BYTES => {
                    drop(known.insert("text".into(), text.into()))
                }
                Ok(long) => digest(&mut known, long.as_bytes()),
                Err(bytes) => digest(&mut known, &bytes),
            }
        }
        _ => {}
    }
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        if record.key_bytes() == b"SCHILY.xattr.security.capability" {
            let value = base64::engine::general_purpose::STANDARD.encode(record.value_bytes());
            known.insert("capability".into(), value.into());
        }
        // A time that a plain header does not hold: before 1970, or past its eleven digits.
        if record.key_bytes() == b"mtime"
            && let Some(seconds) = record.value().ok().and_then(|v| v.split('.').next())
            && let Ok(seconds) = seconds.parse::<i64>()
        {
            known.insert("mtime".into(), seconds.into());
        }
    }
    Ok(known)
}

fn digest(known: &mut Entry, data: &[u8]) {
    known.insert("size".into(), data.len().into());
    known.insert("sha256".into(), sha256(data).into());
}

fn one(key: &str, value: &str) -> Entry {
    Entry::from_iter([(key.to_owned(), value.into())])
}

/// A tar's name as an absolute path without `.`, `..` and doubled slashes. (A name that is itself absolute keeps a second
/// slash: it is no name for a layer, and must not compare equal.)
fn absolute(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let lead = if name.starts_with('/') && !name.starts_with("//") {
        "//"
    } else {
        "/"
    };
    lead.to_owned() + &parts.join("/")
}

fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => ("/", path),
    }
}

fn join(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}

#[test]
fn layers_are_applied_in_order() {
    let bases = crate::bases::Bases::new();
    let tree = flatten(&bases.layers["whiteout"]).unwrap();
    let data: Vec<&str> = tree
        .keys()
        .map(String::as_str)
        .filter(|path| path.starts_with("/data"))
        .collect();
    assert_eq!(
        data,
        [
            "/data",
            "/data/a",
            "/data/a/now-a-dir",
            "/data/b",
            "/data/link",
            "/data/sub",
            "/data/sub/d"
        ]
    );
    assert_eq!(tree["/data/b"]["mode"], "0600");
    let tree = flatten(&bases.layers["hardlinks"]).unwrap();
    assert_eq!(tree["/hl/two"]["same file as"], "/hl/one");
    let tree = flatten(&bases.layers["modes"]).unwrap();
    assert_eq!(tree["/m/cap"]["capability"], "AQAAAgAEAAAAAAAAAAAAAAAAAAA=");
    assert_eq!(tree["/m/null"]["device"], "1:3");
}

#[test]
fn names_become_absolute_paths() {
    for (name, want) in [
        ("a/b/", "/a/b"),
        ("./a", "/a"),
        ("/a", "//a"),
        ("a/../../b", "/b"),
        ("./", "/"),
    ] {
        assert_eq!(absolute(name.as_bytes()), want);
    }
}
