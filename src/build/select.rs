//! The sources of COPY and ADD: which files they name.

use crate::dockerfile::glob::{Pattern, has_wildcards};
use crate::dockerfile::ignore::Ignore;
use crate::dockerfile::nearest;
use crate::layer::entry::is_below;
use crate::layer::{Found, Meta, Source, Spot};
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
        matches!(&self.content, Content::Files(files) if files.is_directory())
    }
}

/// A path of a tree, and what is selected below it.
pub(super) struct Files {
    /// The source itself.
    top: Found,
    /// Nothing for a root that no layer speaks of.
    spot: Option<Spot>,
    /// In order; the directories on the way to what is selected are with it.
    below: Vec<Spot>,
}

impl Files {
    /// What is at `path` (resolved) and all below it; `None` if nothing is there.
    pub(super) fn of(tree: &Tree, path: &[u8]) -> Option<Files> {
        let top = tree.lookup(path)?;
        let below = match top.entry.is_dir() {
            true => tree.spots_below(path),
            false => Vec::new(),
        };
        Some(Files {
            top,
            spot: tree.spot(path),
            below,
        })
    }

    /// The source itself.
    pub(super) fn top(&self) -> &Found {
        &self.top
    }

    /// Where it is in its tree, if that is anywhere.
    pub(super) fn spot(&self) -> Option<Spot> {
        self.spot
    }

    /// What is selected below it.
    pub(super) fn below(&self) -> &[Spot] {
        &self.below
    }

    /// Whether it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.top.entry.is_dir()
    }

    /// A path below the source, from there on.
    pub(super) fn relative<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        relative(path, &self.top.entry.path)
    }

    // Leaves what include and exclude patterns let through, with the directories that lead there.
    fn keep(&mut self, tree: &Tree, include: Option<&Ignore>, exclude: Option<&Ignore>) {
        if include.is_none() && exclude.is_none() {
            return;
        }
        let all = std::mem::take(&mut self.below);
        // Directories that are there only if something in them is; they are the ancestors of the current path.
        let mut pending: Vec<Spot> = Vec::new();
        for spot in all {
            let entry = tree.at(spot);
            while pending
                .last()
                .is_some_and(|dir| !is_below(tree.at(*dir).path, entry.path))
            {
                pending.pop();
            }
            let path = self.relative(entry.path);
            let wanted = include.is_none_or(|i| i.matches(path))
                && !exclude.is_some_and(|e| e.matches(path));
            if wanted {
                self.below.append(&mut pending);
                self.below.push(spot);
            } else if entry.is_dir() {
                pending.push(spot);
            }
        }
    }
}

/// What a source holds.
pub(super) enum Content {
    /// A file or link, or a directory and what is selected in it.
    Files(Files),
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
                let Some(mut files) = Files::of(tree, &found) else {
                    return Err(not_found(path, tree).into());
                };
                // `--exclude` is for what is below a source: BuildKit copies a file that was named, or that a wildcard found.
                files.keep(tree, None, excludes.as_ref());
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
    let mut files = Files::of(tree, b"").ok_or_else(|| not_found("/", tree))?;
    files.keep(tree, None, excludes.as_ref());
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
    let found = tree.walk(b"").find(is_it)?;
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
        let Some(mut files) = Files::of(tree, &found) else {
            return Err(not_found(path, tree).into());
        };
        let include = match pattern.is_empty() {
            true => None,
            false => {
                let include = Ignore::from_patterns(std::slice::from_ref(&pattern));
                Some(include.map_err(|_| CopyError::Pattern {
                    pattern: pattern.clone(),
                })?)
            }
        };
        files.keep(tree, include.as_ref(), excludes.as_ref());
        if files.below.is_empty() && !has_wildcards(&pattern) && !pattern.is_empty() {
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

fn relative<'p>(path: &'p [u8], base: &[u8]) -> &'p [u8] {
    let rest = path.strip_prefix(base).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest)
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
