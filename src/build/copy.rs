//! COPY and ADD: what becomes of their sources in the image.
//!
//! [`super::select`] says which files the sources name, [`write()`] what becomes of them; both are pure but for reading
//! contents to be hashed. Between them stands the cache: what is selected is what the key is made of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::layer::entry::parent;
use crate::layer::{Change, Changes, Entry, Found, Kind, KindRef, Meta, Source, Spot};

use super::BuildError;
use super::draft::{Draft, display};
use super::mode::Mode;
use super::select::{Content, Files, Item};
use super::tree::{LinkId, Tree};

/// Why a COPY, ADD or WORKDIR cannot be done; paths are the image's or the source's, never the host's.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A source that is not there.
    #[error("{path:?}: not found{}", did_you_mean(nearest))]
    NotFound {
        /// As written.
        path: String,
        /// What is there instead, if a name comes near.
        nearest: Option<String>,
    },
    /// A file where a directory is needed.
    #[error("{path}: not a directory")]
    NotADirectory {
        /// In the image.
        path: String,
    },
    /// A directory in the way of a file.
    #[error("cannot replace to directory {path} with file")]
    FileOverDirectory {
        /// In the image.
        path: String,
    },
    /// A file in the way of a directory.
    #[error("cannot copy to non-directory: {path}")]
    DirectoryOverFile {
        /// In the image.
        path: String,
    },
    /// Links that lead in a circle.
    #[error("{path}: too many levels of symbolic links")]
    TooManyLinks {
        /// As written.
        path: String,
    },
    /// A pattern that is none.
    #[error("invalid pattern {pattern:?}")]
    Pattern {
        /// As written.
        pattern: String,
    },
    /// A hard link whose file is in no layer.
    #[error("{path}: hard link to a file that is not there")]
    DanglingHardLink {
        /// In the source.
        path: String,
    },
}
fn did_you_mean(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|name| format!(" (did you mean {name}?)"))
        .unwrap_or_default()
}

/// Who owns what is copied, and with which permissions.
#[derive(Clone)]
pub(super) struct Manner {
    /// `--chown`, as numbers.
    pub(super) owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub(super) mode: Option<Mode>,
}

impl Manner {
    fn directory_mode(&self) -> u32 {
        match &self.mode {
            // Set-id and sticky bits are for what is copied, not for folders made on the way.
            Some(Mode::Octal(mode)) => mode & 0o777,
            _ => 0o755,
        }
    }

    fn owner_of_made(&self) -> (u32, u32) {
        self.owner.unwrap_or((0, 0))
    }

    fn meta(&self, entry: &Entry) -> Meta {
        self.meta_of(entry.meta.clone(), &entry.kind)
    }

    /// What becomes of the metadata of something that is copied.
    pub(super) fn meta_of(&self, mut meta: Meta, kind: &Kind) -> Meta {
        meta.xattrs
            .retain(|(name, _)| name == b"security.capability");
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if let Some(mode) = &self.mode
            && !matches!(kind, Kind::Symlink { .. })
        {
            meta.mode = mode.apply(meta.mode, matches!(kind, Kind::Directory { .. }));
        }
        meta
    }
}

/// Writes one source to `destination` (absolute; a slash at its end says a directory). Says where it is now: the file, or the
/// directory whose members its members are.
pub(super) fn write(
    draft: &mut Draft<'_>,
    tree: &Arc<Tree>,
    item: &Item,
    destination: &[u8],
    manner: &Manner,
) -> Result<Vec<u8>, BuildError> {
    let (uid, gid) = manner.owner_of_made();
    make_destination(draft, destination, manner)?;
    let mut target = draft.resolve(destination)?;
    let there = draft.lookup(&target);
    let source_is_dir = item.is_directory();
    if !source_is_dir && there.as_ref().is_some_and(Entry::is_dir) {
        target = join(&target, &item.name);
    }
    match &item.content {
        Content::Bytes {
            meta,
            size_bytes,
            digest,
            source,
        } => {
            let kind = Kind::File {
                size_bytes: *size_bytes,
                content: Some(*digest),
            };
            let mut entry = Entry {
                path: target.clone(),
                meta: meta.clone(),
                kind,
            };
            entry.meta = manner.meta(&entry);
            if entry.meta.mtime == 0 {
                entry.meta.mtime = draft.now();
            }
            check_replaceable(draft, &entry)?;
            draft.put(Change {
                entry,
                source: source.clone(),
            });
            Ok(target)
        }
        Content::Files(files) => {
            if source_is_dir {
                if there.as_ref().is_some_and(|e| !e.is_dir()) {
                    return Err(CopyError::DirectoryOverFile {
                        path: display(&target),
                    }
                    .into());
                }
                draft.make_dirs(&target, manner.directory_mode(), uid, gid)?;
            } else if let Some(above) = parent(&target) {
                draft.make_dirs(above, manner.directory_mode(), uid, gid)?;
            }
            write_files(draft, tree, files, &target, manner)?;
            Ok(target)
        }
    }
}

/// Makes the directories that a destination names.
pub(super) fn make_destination(
    draft: &mut Draft<'_>,
    destination: &[u8],
    manner: &Manner,
) -> Result<(), BuildError> {
    let (uid, gid) = manner.owner_of_made();
    let end = destination.iter().rposition(|c| *c == b'/').unwrap_or(0);
    let ensured = draft.resolve(&destination[..end])?;
    Ok(draft.make_dirs(&ensured, manner.directory_mode(), uid, gid)?)
}

fn write_files(
    draft: &mut Draft<'_>,
    tree: &Arc<Tree>,
    files: &Files,
    target: &[u8],
    manner: &Manner,
) -> Result<(), BuildError> {
    let mut written: HashMap<LinkId, Vec<u8>> = HashMap::new();
    if !files.is_directory() {
        return match files.spot() {
            Some(spot) => write_file(draft, tree, spot, target.to_vec(), manner, &mut written),
            None => Ok(()),
        };
    }
    let at = |spot: Spot| join(target, files.relative(tree.at(spot).path));
    // Where nothing is, nothing can be in the way.
    if !draft.is_bare(target) {
        for spot in files.below() {
            let (at, is_dir) = (at(*spot), tree.at(*spot).is_dir());
            match draft.lookup(&at) {
                Some(there) if is_dir && !there.is_dir() => {
                    return Err(CopyError::DirectoryOverFile { path: display(&at) }.into());
                }
                Some(there) if !is_dir && there.is_dir() => {
                    return Err(CopyError::FileOverDirectory { path: display(&at) }.into());
                }
                _ => {}
            }
        }
    }
    let (alone, linked) = apart(tree, files)?;
    draft.put_below(target, tree, &files.top().entry.path, alone, manner);
    for spot in linked {
        write_file(draft, tree, spot, at(spot), manner, &mut written)?;
    }
    // The source itself gives its members and its time, nothing else.
    draft.set_time(target, files.top().entry.meta.mtime);
    Ok(())
}

/// What is below a source; second, the files of which several may be names of one.
fn apart(tree: &Tree, files: &Files) -> Result<(Vec<Spot>, Vec<Spot>), BuildError> {
    let is_link = |spot: &&Spot| matches!(tree.at(**spot).kind, KindRef::HardLink { .. });
    let mut firsts = HashSet::new();
    for spot in files.below().iter().filter(is_link) {
        let first = first_name(tree, &tree.found(*spot))?;
        firsts.insert((first.layer, first.entry.path));
    }
    let is_first = |spot: &Spot, path: &[u8]| {
        !firsts.is_empty() && firsts.contains(&(spot.layer(), path.to_vec()))
    };
    Ok(files.below().iter().partition(|spot| {
        let entry = tree.at(**spot);
        match entry.kind {
            KindRef::HardLink { .. } => false,
            KindRef::File { .. } => {
                let linked = tree.folder().is_some_and(|f| f.link(spot.at()).is_some());
                !linked && !is_first(spot, entry.path)
            }
            _ => true,
        }
    }))
}

/// Writes a file, link or device to `at`; names of one file that are written one after another become links to the first.
fn write_file(
    draft: &mut Draft<'_>,
    tree: &Tree,
    spot: Spot,
    at: Vec<u8>,
    manner: &Manner,
    written: &mut HashMap<LinkId, Vec<u8>>,
) -> Result<(), BuildError> {
    let link = tree.link_id(spot);
    if let Some(first) = link.as_ref().and_then(|l| written.get(l)) {
        let meta = draft.lookup(first).map(|e| e.meta).unwrap_or_default();
        let entry = Entry {
            path: at,
            meta,
            kind: Kind::HardLink {
                target: first.clone(),
            },
        };
        check_replaceable(draft, &entry)?;
        draft.put(Change {
            entry,
            source: Source::None,
        });
        return Ok(());
    }
    let first = first_name(tree, &tree.found(spot))?;
    let (kind, source) = match &first.entry.kind {
        Kind::File { size_bytes, .. } => {
            let content = Some(tree.digest(&first)?);
            (
                Kind::File {
                    size_bytes: *size_bytes,
                    content,
                },
                tree.source(&first),
            )
        }
        other => (other.clone(), Source::None),
    };
    let entry = Entry {
        path: at.clone(),
        meta: manner.meta(&first.entry),
        kind,
    };
    check_replaceable(draft, &entry)?;
    draft.put(Change { entry, source });
    if let Some(link) = link {
        written.insert(link, at);
    }
    Ok(())
}

/// The entry that has the content of a hard link; anything else is itself.
pub(super) fn first_name(tree: &Tree, found: &Found) -> Result<Found, CopyError> {
    tree.follow_hard_link(found)
        .ok_or_else(|| CopyError::DanglingHardLink {
            path: display(&found.entry.path),
        })
}

// Fails if a directory is where `entry` is to be.
fn check_replaceable(draft: &Draft<'_>, entry: &Entry) -> Result<(), CopyError> {
    match draft.lookup(&entry.path) {
        Some(there) if there.is_dir() => Err(CopyError::FileOverDirectory {
            path: display(&entry.path),
        }),
        _ => Ok(()),
    }
}

/// Unpacks an archive, whose entries are `tree`, into `destination` as tar does: its owners, modes and times count, and a
/// path of the archive replaces what is there unless both are directories. Says into which directory.
pub(super) fn write_archive(
    draft: &mut Draft<'_>,
    tree: &Tree,
    destination: &[u8],
    manner: &Manner,
) -> Result<Vec<u8>, BuildError> {
    // An archive brings its own modes: `--chmod` is for what is copied.
    let manner = Manner {
        owner: manner.owner,
        mode: None,
    };
    let (uid, gid) = manner.owner_of_made();
    let target = draft.resolve(destination)?;
    draft.make_dirs(&target, 0o755, uid, gid)?;
    for found in tree.walk(b"") {
        let path = &found.entry.path;
        let Some(above) = parent(path) else { continue };
        let above = draft.resolve(&join(&target, above))?;
        draft.make_dirs(&above, 0o755, uid, gid)?;
        let at = join(&above, found.entry.name());
        let there_is_dir = draft.lookup(&at).is_some_and(|e| e.is_dir());
        let mut entry = Entry {
            path: at,
            meta: manner.meta(&found.entry),
            kind: found.entry.kind.clone(),
        };
        let mut source = Source::None;
        match &mut entry.kind {
            Kind::Directory { implied: true, .. } => {
                draft.make_dirs(&entry.path, 0o755, uid, gid)?;
                continue;
            }
            Kind::Directory { .. } => {}
            Kind::File { content, .. } => {
                *content = Some(tree.digest(&found)?);
                source = tree.source(&found);
            }
            // Links on the way are followed, but it is the last name itself that is linked, even if it is a link.
            Kind::HardLink { target: first } => {
                let above = parent(first).map_or(Ok(target.clone()), |above| {
                    draft.resolve(&join(&target, above))
                })?;
                let name = first.rsplit(|c| *c == b'/').next().unwrap_or_default();
                *first = join(&above, name);
            }
            Kind::Whiteout => continue,
            _ => {}
        }
        if there_is_dir && !entry.is_dir() {
            draft.drop_below(&entry.path);
        }
        draft.put(Change { entry, source });
    }
    Ok(target)
}

/// What is at `path` and all in it, with the directories that lead there, as a layer of their own.
pub(super) fn as_changes(tree: &Tree, path: &[u8]) -> Result<Changes, BuildError> {
    let mut changes = Changes::default();
    let ends = path
        .iter()
        .enumerate()
        .filter(|(_, c)| **c == b'/')
        .map(|(at, _)| at);
    for end in ends {
        if let Some(found) = tree.lookup(&path[..end]) {
            changes.push(Change {
                entry: found.entry,
                source: Source::None,
            });
        }
    }
    for found in tree.walk(path) {
        if !found.entry.path.is_empty() {
            changes.push(change(tree, found, path.len(), path)?);
        }
    }
    Ok(changes)
}

/// All that is in the directory at `path`, as a layer of its own.
pub(super) fn below_as_changes(tree: &Tree, path: &[u8]) -> Result<Changes, BuildError> {
    let below = tree
        .walk(path)
        .filter(|found| found.entry.path.len() > path.len());
    below
        .map(|found| change(tree, found, path.len(), b""))
        .collect()
}

fn change(tree: &Tree, found: Found, base: usize, prefix: &[u8]) -> Result<Change, BuildError> {
    let first = first_name(tree, &found)?;
    let rest = &found.entry.path[base..];
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    let source = if matches!(first.entry.kind, Kind::File { .. }) {
        tree.source(&first)
    } else {
        Source::None
    };
    let entry = Entry {
        path: join(prefix, rest),
        meta: first.entry.meta,
        kind: first.entry.kind,
    };
    Ok(Change { entry, source })
}

pub(super) fn join(dir: &[u8], path: &[u8]) -> Vec<u8> {
    match (dir.is_empty(), path.is_empty()) {
        (true, _) => path.to_vec(),
        (_, true) => dir.to_vec(),
        _ => [dir, b"/", path].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::select::select;
    use crate::layer::{Stack, Toc};
    use crate::oci::Digest;
    use crate::plan::graph::{CopyOp, CopySource, Origin};

    // `d/` is a directory, `l -> d` a link, anything else a file that holds its own path and is 0640 of 5:6.
    fn stack(paths: &[&str]) -> Stack {
        let entries = paths.iter().map(|text| {
            let mut meta = Meta {
                mode: 0o640,
                uid: 5,
                gid: 6,
                mtime: 3,
                xattrs: vec![(b"user.x".to_vec(), Vec::new())],
            };
            let (path, kind) = if let Some(dir) = text.strip_suffix('/') {
                meta.mode = 0o700;
                let kind = Kind::Directory {
                    opaque: false,
                    implied: false,
                };
                (dir, kind)
            } else if let Some((path, target)) = text.split_once(" -> ") {
                let target = target.as_bytes().to_vec();
                (path, Kind::Symlink { target })
            } else {
                let content = Some(Digest::of(text.as_bytes()));
                let size_bytes = text.len() as u64;
                (
                    *text,
                    Kind::File {
                        size_bytes,
                        content,
                    },
                )
            };
            Entry {
                path: path.as_bytes().to_vec(),
                meta,
                kind,
            }
        });
        Stack::new(vec![Arc::new(Toc::from_entries(entries.collect()))])
    }

    fn tree(paths: &[&str]) -> Tree {
        Tree::of_layers(stack(paths), Vec::new())
    }

    fn op() -> CopyOp {
        CopyOp {
            add: false,
            origin: Origin::Context,
            sources: Vec::new(),
            destination: String::new(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            excludes: Vec::new(),
            unpack: None,
        }
    }

    const SOURCE: [&str; 7] = ["d/", "d/s/", "d/s/y", "d/x", "f", "g", "l -> d/x"];

    fn selected(op: &CopyOp, path: &str) -> Result<String, BuildError> {
        let items = select(op, &CopySource::Path(path.to_owned()), &tree(&SOURCE))?;
        let show = |item: Item| {
            let Content::Files(files) = item.content else {
                return String::new();
            };
            let of = tree(&SOURCE);
            let below = files.below().iter().map(|spot| {
                String::from_utf8_lossy(files.relative(of.at(*spot).path)).into_owned()
            });
            let paths: Vec<String> = [String::new()].into_iter().chain(below).collect();
            String::from_utf8_lossy(&item.name).into_owned() + "=" + &paths.join(",")
        };
        Ok(items.into_iter().map(show).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_sources_name() {
        for (path, want) in [
            ("f", "f="),
            ("/../f", "f="),
            ("d", "d=,s,s/y,x"),
            ("d/", "d=,s,s/y,x"),
            ("l", "l="),
            ("[fg]", "f= g="),
            ("d/*", "s=,y x="),
            ("nothing*", ""),
        ] {
            assert_eq!(selected(&op(), path).unwrap(), want, "{path}");
        }
        for path in ["missing", "f/x", "d/missing"] {
            let error = selected(&op(), path).unwrap_err();
            assert!(
                matches!(error, BuildError::Copy(CopyError::NotFound { .. })),
                "{path}: {error}"
            );
        }
        let mut op = op();
        op.excludes = vec!["s".to_owned(), "f".to_owned()];
        for (path, want) in [("d", "d=,x"), ("*", "d=,x f= g= l="), ("f", "f=")] {
            assert_eq!(selected(&op, path).unwrap(), want, "{path} with excludes");
        }
    }

    // The layer that a copy to `destination` makes over a stack, a word an entry: path, mode, owner, time.
    fn written(below: &[&str], path: &str, destination: &str, manner: &Manner) -> String {
        let (below, tree) = (stack(below), Arc::new(tree(&SOURCE)));
        let mut draft = Draft::new(&below, 9);
        let source = CopySource::Path(path.to_owned());
        for item in select(&op(), &source, &tree).unwrap() {
            if let Err(error) = write(&mut draft, &tree, &item, destination.as_bytes(), manner) {
                return error.to_string();
            }
        }
        let show = |change: Change| {
            let Entry { path, meta, .. } = &change.entry;
            let path = String::from_utf8_lossy(path);
            assert!(meta.xattrs.is_empty() || meta.uid == 5, "{path}");
            let Meta {
                mode, uid, mtime, ..
            } = meta;
            format!("{path}:{mode:o}:{uid}:{mtime}")
        };
        let shown: Vec<String> = draft.finish().unwrap().iter().map(show).collect();
        shown.join(" ")
    }

    #[test]
    fn where_copies_go() {
        let plain = Manner {
            owner: None,
            mode: None,
        };
        let below = ["e/", "e/old", "le -> /e", "lf -> /new/f", "t"];
        for (path, destination, want) in [
            ("f", "/x", "x:640:5:3"),
            ("f", "/x/", "x:755:0:9 x/f:640:5:3"),
            ("f", "/a/b/x", "a:755:0:9 a/b:755:0:9 a/b/x:640:5:3"),
            ("f", "/e", "e:700:5:9 e/f:640:5:3"),
            ("f", "/le", "e:700:5:9 e/f:640:5:3"),
            ("f", "/t", "t:640:5:3"),
            ("f", "/lf", "new:755:0:9 new/f:640:5:3"),
            ("f", "/t/", "/t: not a directory"),
            ("d", "/t", "cannot copy to non-directory: /t"),
            ("d", "/x", "x:755:0:3 x/s:700:5:3 x/s/y:640:5:3 x/x:640:5:3"),
            ("d", "/e", "e:700:5:3 e/s:700:5:3 e/s/y:640:5:3 e/x:640:5:3"),
        ] {
            let got = written(&below, path, destination, &plain);
            assert_eq!(got, want, "{path} to {destination}");
        }
        let told = Manner {
            owner: Some((1, 2)),
            mode: Some(Mode::Octal(0o711)),
        };
        assert_eq!(written(&[], "f", "/x/", &told), "x:711:1:9 x/f:711:1:3");
        let in_the_way = ["x/", "x/x/"];
        assert_eq!(
            written(&in_the_way, "d", "/x", &plain),
            "cannot replace to directory /x/x with file"
        );
    }

    #[test]
    fn a_folder_over_one_that_was_just_copied() {
        let below = stack(&["x/", "x/old", "x/s/", "x/s/same"]);
        let source = [
            "a/", "a/f", "a/s/", "a/s/p", "a/t/", "a/t/q", "b/", "b/f", "b/s/", "b/s/n", "b/t",
            "c/", "c/s/", "c/s/p",
        ];
        let tree = Arc::new(tree(&source));
        let plain = Manner {
            owner: None,
            mode: None,
        };
        let copied = |paths: &[&str], destination: &str| {
            let mut draft = Draft::new(&below, 9);
            for path in paths {
                let source = CopySource::Path((*path).to_owned());
                for item in select(&op(), &source, &tree).unwrap() {
                    let to = destination.as_bytes();
                    if let Err(error) = write(&mut draft, &tree, &item, to, &plain) {
                        return error.to_string();
                    }
                }
            }
            let show = |change: Change| {
                let path = String::from_utf8(change.entry.path).unwrap();
                match change.entry.kind {
                    Kind::File { content, .. } => {
                        let from = source
                            .iter()
                            .find(|s| content == Some(Digest::of(s.as_bytes())));
                        format!("{path}={}", from.unwrap())
                    }
                    _ => path,
                }
            };
            let shown: Vec<String> = draft.finish().unwrap().iter().map(show).collect();
            shown.join(" ")
        };
        for (paths, destination, want) in [
            (
                &["a"][..],
                "/n/",
                "n n/f=a/f n/s n/s/p=a/s/p n/t n/t/q=a/t/q",
            ),
            (
                &["a", "c"],
                "/n/",
                "n n/f=a/f n/s n/s/p=c/s/p n/t n/t/q=a/t/q",
            ),
            (
                &["c", "a"],
                "/x/",
                "x x/f=a/f x/s x/s/p=a/s/p x/t x/t/q=a/t/q",
            ),
            (
                &["a", "a/s/p"],
                "/n/",
                "n n/f=a/f n/p=a/s/p n/s n/s/p=a/s/p n/t n/t/q=a/t/q",
            ),
            (
                &["a", "b"],
                "/n/",
                "cannot replace to directory /n/t with file",
            ),
            (&["b", "a"], "/n/", "cannot copy to non-directory: /n/t"),
            (&["b/s", "a/f", "b/f"], "/n/", "n n/f=b/f n/n=b/s/n"),
        ] {
            assert_eq!(
                copied(paths, destination),
                want,
                "{paths:?} to {destination}"
            );
        }
    }
}
