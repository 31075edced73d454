//! The sources of COPY and ADD: which files they name.

use crate::dockerfile::glob::{Pattern, has_wildcards};
use crate::dockerfile::ignore::Ignore;
use crate::dockerfile::nearest;
use crate::layer::{Found, Meta, Source};
use crate::oci::Digest;
use crate::plan::graph::{CopyOp, CopySource};

use super::BuildError;
use super::copy::{CopyError, join};
use super::draft;
use super::tree::Tree;

/// One source, resolved.
pub(super) struct Item {
    /// What it is called inside a destination directory.
    pub(super) name: Vec<u8>,
    /// Its path in the origin.
    pub(super) from: Vec<u8>,
    /// What it holds.
    pub(super) content: Content,
}

impl Item {
    /// Whether it is a directory, whose members are copied.
    pub(super) fn is_directory(&self) -> bool {
        matches!(&self.content, Content::Files(files) if files[0].1.entry.is_dir())
    }
}

/// What a source holds.
pub(super) enum Content {
    /// A file or link, or a directory and what is selected in it; paths relative to the source, which is first.
    Files(Vec<(Vec<u8>, Found)>),
    /// A file that is in no tree: a here-document or a download.
    Bytes {
        meta: Meta,
        size_bytes: u64,
        digest: Digest,
        source: Source,
    },
}

/// Finds what `op`'s paths and here-documents name; other kinds of sources are fetched by the caller.
pub(super) fn select(
    op: &CopyOp,
    source: &CopySource,
    tree: &Tree,
) -> Result<Vec<Item>, BuildError> {
    match source {
        CopySource::Inline { name, content } => {
            let meta = Meta {
                mode: 0o644,
                ..Meta::default()
            };
            let bytes: std::sync::Arc<[u8]> = content.as_bytes().into();
            let (size_bytes, digest) = (bytes.len() as u64, Digest::of(&bytes));
            let content = Content::Bytes {
                meta,
                size_bytes,
                digest,
                source: Source::Bytes(bytes),
            };
            Ok(vec![Item {
                name: name.clone().into_bytes(),
                from: name.clone().into_bytes(),
                content,
            }])
        }
        CopySource::Path(path) if op.parents => select_parents(path, op, tree),
        CopySource::Path(path) => {
            let excludes = filter(&op.excludes)?;
            let mut items = Vec::new();
            for at in expand(path, tree)? {
                let name = at
                    .rsplit(|c| *c == b'/')
                    .next()
                    .unwrap_or_default()
                    .to_vec();
                let found = tree.resolve(&at)?;
                let Some(top) = tree.lookup(&found) else {
                    return Err(not_found(path, tree).into());
                };
                if !top.entry.is_dir() {
                    // `--exclude` is for what is below a source: BuildKit copies a file that was named, or that a wildcard
                    // found.
                    items.push(Item {
                        name,
                        from: at,
                        content: Content::Files(vec![(Vec::new(), top)]),
                    });
                    continue;
                }
                let below = tree.walk(&found).into_iter();
                let files = keep(
                    below.map(|f| (relative(&f.entry.path, &found), f)),
                    None,
                    excludes.as_ref(),
                );
                items.push(Item {
                    name,
                    from: at,
                    content: Content::Files(files),
                });
            }
            Ok(items)
        }
        CopySource::Http { .. } | CopySource::Git { .. } => Ok(Vec::new()),
    }
}

/// The whole of a tree, as one source.
pub(super) fn select_all(tree: &Tree, op: &CopyOp) -> Result<Item, BuildError> {
    let excludes = filter(&op.excludes)?;
    let files = keep(
        tree.walk(b"")
            .into_iter()
            .map(|f| (f.entry.path.clone(), f)),
        None,
        excludes.as_ref(),
    );
    Ok(Item {
        name: Vec::new(),
        from: Vec::new(),
        content: Content::Files(files),
    })
}

fn not_found(path: &str, tree: &Tree) -> CopyError {
    CopyError::NotFound {
        path: path.to_owned(),
        nearest: near(path, tree),
    }
}

/// A path that is there and may be meant: each of its names is that of `path` or comes near it, or the last one is the same.
pub(super) fn near(path: &str, tree: &Tree) -> Option<String> {
    let there = by_names(path, tree).or_else(|| elsewhere(path, tree))?;
    // As it was written: from the root, or not.
    Some(match path.starts_with('/') {
        true => format!("/{there}"),
        false => there,
    })
}

fn by_names(path: &str, tree: &Tree) -> Option<String> {
    let clean = draft::resolve(path.as_bytes(), &|_| None).ok()?;
    let mut found: Vec<u8> = Vec::new();
    for part in clean.split(|c| *c == b'/') {
        let exact = join(&found, part);
        let resolved = tree.resolve(&exact).ok()?;
        if tree.lookup(&resolved).is_some() {
            found = exact;
            continue;
        }
        let there = tree.children(&tree.resolve(&found).ok()?);
        let names: Vec<String> = there
            .iter()
            .filter_map(|f| String::from_utf8(f.entry.name().to_vec()).ok())
            .collect();
        let wanted = std::str::from_utf8(part).ok()?;
        let name = nearest(wanted, names.iter().map(String::as_str))?;
        found = join(&found, name.as_bytes());
    }
    Some(String::from_utf8_lossy(&found).into_owned())
}

/// The first path with the same last name.
fn elsewhere(path: &str, tree: &Tree) -> Option<String> {
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    let is_it = |f: &Found| f.entry.name().eq_ignore_ascii_case(name.as_bytes());
    let found = tree.walk(b"").into_iter().find(is_it)?;
    Some(String::from_utf8_lossy(&found.entry.path).into_owned())
}

fn select_parents(path: &str, op: &CopyOp, tree: &Tree) -> Result<Vec<Item>, BuildError> {
    let (base, pattern) = path.split_once("/./").unwrap_or(("", path));
    let mut items = Vec::new();
    let excludes = filter(&op.excludes)?;
    let clean = draft::resolve(pattern.as_bytes(), &|_| None)?;
    let pattern = String::from_utf8_lossy(&clean).into_owned();
    for at in expand(base, tree)? {
        let found = tree.resolve(&at)?;
        if tree.lookup(&found).is_none() {
            return Err(not_found(path, tree).into());
        }
        let all = tree
            .walk(&found)
            .into_iter()
            .map(|f| (relative(&f.entry.path, &found), f));
        let files = if pattern.is_empty() {
            keep(all, None, excludes.as_ref())
        } else {
            let include = Ignore::from_patterns(std::slice::from_ref(&pattern)).map_err(|_| {
                CopyError::Pattern {
                    pattern: pattern.clone(),
                }
            })?;
            keep(all, Some(&include), excludes.as_ref())
        };
        if files.len() <= 1 && !has_wildcards(&pattern) && !pattern.is_empty() {
            return Err(not_found(path, tree).into());
        }
        items.push(Item {
            name: Vec::new(),
            from: at,
            content: Content::Files(files),
        });
    }
    Ok(items)
}

fn filter(patterns: &[String]) -> Result<Option<Ignore>, CopyError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    Ignore::from_patterns(patterns)
        .map(Some)
        .map_err(|_| CopyError::Pattern {
            pattern: patterns.join(" "),
        })
}

// What include and exclude patterns let through, with the directories that lead there. The first entry, the source
// itself, always stays.
fn keep(
    entries: impl Iterator<Item = (Vec<u8>, Found)>,
    include: Option<&Ignore>,
    exclude: Option<&Ignore>,
) -> Vec<(Vec<u8>, Found)> {
    let mut kept: Vec<(Vec<u8>, Found)> = Vec::new();
    // Directories that are there only if something in them is; they are the ancestors of the current path.
    let mut pending: Vec<(Vec<u8>, Found)> = Vec::new();
    for (path, found) in entries {
        if path.is_empty() {
            kept.push((path, found));
            continue;
        }
        while pending
            .last()
            .is_some_and(|(dir, _)| !(path.starts_with(dir) && path.get(dir.len()) == Some(&b'/')))
        {
            pending.pop();
        }
        let wanted =
            include.is_none_or(|i| i.matches(&path)) && !exclude.is_some_and(|e| e.matches(&path));
        if wanted {
            kept.append(&mut pending);
            kept.push((path, found));
        } else if found.entry.is_dir() {
            pending.push((path, found));
        }
    }
    kept
}

pub(super) fn relative(path: &[u8], base: &[u8]) -> Vec<u8> {
    let rest = path.strip_prefix(base).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest).to_vec()
}

// The paths that a source names: itself, or what its pattern matches, each clean and without following links but in the
// part before the first wildcard.
fn expand(source: &str, tree: &Tree) -> Result<Vec<Vec<u8>>, CopyError> {
    let clean = draft::resolve(source.as_bytes(), &|_| None)?;
    let text = String::from_utf8_lossy(&clean).into_owned();
    if !has_wildcards(&text) {
        let plain = tree.resolve(&clean)?;
        if tree.lookup(&plain).is_none() && text.contains('\\') {
            return Ok(vec![unescape(&clean)]);
        }
        return Ok(vec![clean]);
    }
    let parts: Vec<&str> = text.split('/').collect();
    let fixed = parts.iter().take_while(|p| !has_wildcards(p)).count();
    let start = tree.resolve(parts[..fixed].join("/").as_bytes())?;
    let mut found = vec![start];
    for part in &parts[fixed..] {
        let pattern = Pattern::new(part).map_err(|_| CopyError::Pattern {
            pattern: source.to_owned(),
        })?;
        let mut next = Vec::new();
        for dir in found {
            if !tree.lookup(&dir).is_some_and(|f| f.entry.is_dir()) {
                continue;
            }
            let members = tree.children(&dir).into_iter();
            next.extend(
                members
                    .filter(|m| pattern.matches(m.entry.name()))
                    .map(|m| m.entry.path),
            );
        }
        found = next;
    }
    Ok(found)
}

fn unescape(path: &[u8]) -> Vec<u8> {
    let mut bytes = path.iter();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(if *byte == b'\\' {
            *bytes.next().unwrap_or(byte)
        } else {
            *byte
        });
    }
    plain
}
