//! What would save a finding, in the words of a Dockerfile.

use super::super::LayerContents;
use super::report::{FindingKind, shown};
use crate::layer::EntryRef;
use crate::store::CopyOrigin;

/// What an instruction is, as far as advice on it differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Copy,
    Run,
    /// Of the base, or unknown.
    Other,
}

fn source(layer: &LayerContents) -> Source {
    let text = layer.instruction.as_deref().unwrap_or_default();
    match text.split_whitespace().next() {
        Some("COPY" | "ADD") => Source::Copy,
        Some("RUN") => Source::Run,
        _ => Source::Other,
    }
}

/// How a layer is called in advice: `line 3 (COPY src /app)`.
fn called(number: usize, layer: &LayerContents) -> String {
    let text = layer.instruction.as_deref().unwrap_or("of unknown origin");
    let mut text = text.to_owned();
    if let Some((at, _)) = text.char_indices().nth(MAX_WORDS) {
        text.truncate(at);
        text.push('…');
    }
    match &layer.made {
        Some(made) => format!("{} line {} ({text})", made.dockerfile, made.line),
        None => format!("layer {} ({text})", number + 1),
    }
}

/// How much of an instruction is repeated, characters.
const MAX_WORDS: usize = 48;

/// What advice is about.
pub(super) struct Matter<'a> {
    pub(super) kind: FindingKind,
    /// The layer with the needless bytes, and its place.
    pub(super) layer: (usize, &'a LayerContents),
    /// The layer that overwrites, deletes or has them, too.
    pub(super) by: (usize, &'a LayerContents),
    /// The folder or path.
    pub(super) path: &'a [u8],
    /// What is needless, in words: the path, where that is all there is.
    pub(super) what: String,
    /// Of files that are stored again, the metadata before and after, where all have the same.
    pub(super) meta: Option<(EntryRef<'a>, EntryRef<'a>)>,
}

/// What would save it.
pub(super) fn advice(matter: &Matter<'_>) -> String {
    let Matter { layer, by, .. } = matter;
    let here = called(layer.0, layer.1);
    let there = called(by.0, by.1);
    let path = &matter.what;
    let (made, later) = (source(layer.1), source(by.1));
    match (matter.kind, made) {
        (FindingKind::Metadata, Source::Copy) => {
            format!("use {} in {here}, and leave out {there}", flags(matter))
        }
        (FindingKind::Moved, Source::Copy) => {
            format!("let {here} copy to where {there} moves it")
        }
        (FindingKind::Metadata | FindingKind::Moved, Source::Run) if later == Source::Run => {
            format!("merge {there} into {here}")
        }
        (FindingKind::Metadata | FindingKind::Moved, _) => {
            format!("make the change where the files are made: {here}; {there} stores them again")
        }
        (FindingKind::Deleted, Source::Copy) => match ignorable(layer.1, matter.path) {
            Some(line) => format!("add {line:?} to .dockerignore, or --exclude it in {here}"),
            None => format!(
                "do not copy {path} in {here}: RUN --mount=type=bind shows files without storing them"
            ),
        },
        (FindingKind::Deleted, Source::Run) if later == Source::Run => match cache(matter.path) {
            Some(cache) => format!(
                "use RUN --mount=type=cache,target={cache} in {here}, or delete {path} there"
            ),
            None => format!("delete {path} in {here}, which makes it: merge {there} into it"),
        },
        (FindingKind::Deleted, _) => {
            format!("{path} stays in {here}, whatever {there} deletes: take a base without it")
        }
        (FindingKind::Overwritten, Source::Copy) => {
            format!("leave {path} out of {here}: {there} overwrites it")
        }
        (FindingKind::Overwritten, Source::Run) if later == Source::Run => {
            format!("merge {there} into {here}: both write {path}")
        }
        (FindingKind::Overwritten, _) => {
            format!(
                "{there} overwrites {path} of {here}: write it elsewhere, or take a base without it"
            )
        }
        (FindingKind::Duplicate, Source::Run) if layer.0 != by.0 => {
            format!("link to the files of {there} (ln -s, cp -s) instead of copying them in {here}")
        }
        (FindingKind::Duplicate, _) if layer.0 == by.0 => {
            format!("keep one copy in {here}, and make the others links")
        }
        (FindingKind::Duplicate, _) => {
            format!("leave the files out of {here}: {there} has them; links can lead there")
        }
        (FindingKind::AcrossImages, _) => {
            format!(
                "{here} and {there} hold the same files: put them into one layer of a common base"
            )
        }
    }
}

/// The flags of COPY that give files the metadata that a later layer gives them.
fn flags(matter: &Matter<'_>) -> String {
    let mut flags = Vec::new();
    if let Some((was, now)) = matter.meta {
        if was.mode != now.mode {
            flags.push(format!("--chmod={:04o}", now.mode));
        }
        if (was.uid, was.gid) != (now.uid, now.gid) {
            flags.push(format!("--chown={}:{}", now.uid, now.gid));
        }
        if flags.is_empty() {
            return "the files as they are".to_owned();
        }
    } else {
        flags.push("--chmod=… or --chown=…".to_owned());
    }
    flags.join(" ")
}

/// The line of a `.dockerignore` that keeps a path of a COPY of the context out.
fn ignorable(layer: &LayerContents, path: &[u8]) -> Option<String> {
    let (from, origin) = layer.made.as_ref()?.source_of(path)?;
    let context = matches!(origin, CopyOrigin::Context | CopyOrigin::Named(_));
    (context && !from.is_empty()).then(|| shown(&from))
}

/// Folders that package managers fill and nobody needs in an image.
const CACHES: [&str; 8] = [
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/cache/apk",
    "var/cache/dnf",
    "root/.cache",
    "root/.npm",
    "root/.cargo/registry",
    "go/pkg/mod",
];

/// The folder that is better a cache mount.
fn cache(path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let found = CACHES.iter().find(|c| {
        path.strip_prefix(**c)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    found.map(|c| format!("/{c}"))
}
