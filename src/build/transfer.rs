//! COPY, ADD and WORKDIR as steps: their sources, their keys, their layers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::dockerfile::footgun;
use crate::dockerfile::glob::has_wildcards;
use crate::layer::{Changes, Kind, KindRef, Source, Spot, Stack, Toc};
use crate::plan::graph::{CopyOp, CopySource, Origin, VertexId, WorkdirOp};
use crate::plan::redacted;
use crate::store::{PathBytes, Remark};

use super::copy::{self, Manner, first_name};
use super::draft::Draft;
use super::engine::{Engine, Layers, Outcome, now, open_dir};
use super::event::{EventKind, StepId};
use super::folder::Folder;
use super::git::{self, GitUrl, Mtime};
use super::key::Key;
use super::listing::{self, Listing};
use super::select::{self, Content, Files, Item};
use super::tree::Tree;
use super::{BuildError, CopyError, archive, footguns, users};

/// The sources of a COPY or an ADD, selected and hashed.
pub(super) struct Prepared(pub(super) Vec<Part>);

/// One source; or what a bind mount shows.
pub(super) struct Part {
    pub(super) tree: Arc<Tree>,
    pub(super) items: Vec<Item>,
    unpack: Unpack,
    /// What identifies a checkout: commit, folder and what is fetched besides.
    commit: Option<String>,
}

impl Part {
    /// Files that are only looked at.
    pub(super) fn seen(tree: Arc<Tree>, files: Files) -> Part {
        let item = Item {
            name: Vec::new(),
            from: Vec::new(),
            content: Content::Files(files),
        };
        Part {
            tree,
            items: vec![item],
            unpack: Unpack::Never,
            commit: None,
        }
    }

    /// Lists what is in it, file by file.
    pub(super) fn list(&self, listing: &mut Listing<'_>) -> Result<(), BuildError> {
        if let Some(text) = self.inline() {
            listing.text(text);
            return Ok(());
        }
        for item in &self.items {
            listing.item(&item.name);
            match &item.content {
                Content::Bytes {
                    meta,
                    digest,
                    size_bytes,
                    ..
                } => {
                    let kind = Kind::File {
                        size_bytes: *size_bytes,
                        content: Some(*digest),
                    };
                    let entry = crate::layer::Entry {
                        path: Vec::new(),
                        meta: meta.clone(),
                        kind,
                    };
                    listing.entry(b"", &entry, Some(*digest));
                }
                Content::Files(files) => list_files(listing, &self.tree, files)?,
            }
        }
        Ok(())
    }

    /// The bytes of a here-document, which are its own listing.
    fn inline(&self) -> Option<&[u8]> {
        match &self.items[..] {
            [
                Item {
                    content:
                        Content::Bytes {
                            source: Source::Bytes(bytes),
                            ..
                        },
                    ..
                },
            ] => Some(bytes),
            _ => None,
        }
    }

    /// Whether the key has the digest of its listing.
    pub(super) fn is_listed(&self) -> bool {
        self.commit.is_none()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unpack {
    Never,
    /// If its content says it is an archive.
    IfArchive,
}

impl Engine<'_> {
    /// Finds the sources of a step and adds what they hold to its key.
    pub(super) fn prepare_copy(
        &self,
        id: VertexId,
        op: &CopyOp,
        below: &Layers,
        inputs: &BTreeMap<VertexId, Outcome>,
        key: &mut Key,
    ) -> Result<Prepared, BuildError> {
        key.add("destination", &op.destination);
        if let Some(chown) = &op.chown {
            key.add("chown", chown);
            if op.link && users::needs_names(chown) {
                // Names are looked up below even where nothing else is.
                let (uid, gid) = users::owner(chown, &self.reader(below))?;
                key.add("owner", &format!("{uid}:{gid}"));
            }
        }
        if let Some(chmod) = &op.chmod {
            key.add("chmod", chmod);
        }
        for (label, set) in [("add", op.add), ("parents", op.parents)] {
            if set {
                key.add(label, "true");
            }
        }
        if let Some(unpack) = op.unpack {
            key.add("unpack", &unpack.to_string());
        }
        op.excludes
            .iter()
            .for_each(|pattern| key.add("exclude", pattern));
        let mut parts = Vec::new();
        for (at, source) in op.sources.iter().enumerate() {
            let part = match source {
                CopySource::Path(path) => {
                    let tree = self.origin(&op.origin, inputs, false)?;
                    let items = select::select(op, source, &tree)
                        .map_err(|e| self.explain_missing(e, path, &op.origin))?;
                    // The first of `--parents` is where the pattern starts from.
                    let matched = |item: &Item| match &item.content {
                        Content::Files(files) => !op.parents || !files.below().is_empty(),
                        Content::Bytes { .. } => true,
                    };
                    if has_wildcards(path) && !items.iter().any(matched) {
                        let spans = &self.vertex_of(id).spans;
                        let span = spans.sources.get(at).unwrap_or(&spans.instruction);
                        self.warn(footgun::wildcard_without_match(*span, path))?;
                    }
                    let unpack = if op.add && op.unpack != Some(false) {
                        Unpack::IfArchive
                    } else {
                        Unpack::Never
                    };
                    Part {
                        tree,
                        items,
                        unpack,
                        commit: None,
                    }
                }
                CopySource::Inline { .. } => {
                    let tree = Arc::new(Tree::empty());
                    Part {
                        items: select::select(op, source, &tree)?,
                        tree,
                        unpack: Unpack::Never,
                        commit: None,
                    }
                }
                CopySource::Http { url, checksum } => {
                    self.download(id, op, url, checksum.as_ref())?
                }
                CopySource::Git {
                    url,
                    keep_git_dir,
                    checksum,
                } => self.clone_repository(op, url, *keep_git_dir, checksum)?,
            };
            let label = match source {
                CopySource::Path(path) => format!("files {path}"),
                CopySource::Inline { name, .. } => format!("heredoc {name}"),
                CopySource::Http { url, .. } => format!("file {}", redacted(url)),
                CopySource::Git { url, .. } => format!("repository {}", redacted(url)),
            };
            // A commit says what is in a checkout, and in its `.git` there is more than the content of the commit.
            let content = match &part.commit {
                Some(commit) => commit.clone(),
                None => listing::digest(|listing| part.list(listing))?.to_string(),
            };
            key.add(&label, &content);
            parts.push(part);
        }
        // Times are in no key, but these are what was asked for.
        if let Some(time) = self.contexts.time_of_files(&op.origin) {
            key.add("time of files", &time.to_string());
        }
        Ok(Prepared(parts))
    }

    // A file that is there, but hidden: says which line hid it.
    fn explain_missing(&self, error: BuildError, path: &str, origin: &Origin) -> BuildError {
        match (&error, origin) {
            (BuildError::Copy(CopyError::NotFound { .. }), Origin::Context) => {
                self.contexts.explain(path).unwrap_or(error)
            }
            _ => error,
        }
    }

    fn download(
        &self,
        id: VertexId,
        op: &CopyOp,
        url: &str,
        checksum: Option<&crate::oci::Digest>,
    ) -> Result<Part, BuildError> {
        let dir = self.work.directory("download")?;
        let file = dir.join("file");
        let progress = |done_bytes, total_bytes| {
            self.events.event(EventKind::Progress {
                step: StepId(id.0),
                part: redacted(url),
                done_bytes,
                total_bytes,
            });
        };
        let fetched = super::fetch::fetch(
            &self.request.http,
            url,
            &file,
            &self.request.secrets,
            self.cancel,
            &progress,
        )?;
        if let Some(expected) = checksum
            && *expected != fetched.digest
        {
            return Err(BuildError::Checksum {
                url: redacted(url),
                expected: expected.to_string(),
                actual: fetched.digest.to_string(),
            });
        }
        let meta = crate::layer::Meta {
            mode: 0o600,
            mtime: fetched.modified.unwrap_or(0),
            ..Default::default()
        };
        let source = Source::File {
            root: Arc::new(open_dir(&dir)?),
            path: b"file".to_vec(),
            stamp: None,
        };
        let content = Content::Bytes {
            meta,
            size_bytes: fetched.size_bytes,
            digest: fetched.digest,
            source,
        };
        let items = vec![Item {
            from: fetched.name.clone().into_bytes(),
            name: fetched.name.into_bytes(),
            content,
        }];
        let unpack = if op.unpack == Some(true) {
            Unpack::IfArchive
        } else {
            Unpack::Never
        };
        Ok(Part {
            tree: Arc::new(Tree::empty()),
            items,
            unpack,
            commit: None,
        })
    }

    fn clone_repository(
        &self,
        op: &CopyOp,
        url: &str,
        keep_git_dir: bool,
        checksum: &Option<String>,
    ) -> Result<Part, BuildError> {
        let mut url = GitUrl::parse(url)?;
        url.keep_git_dir |= keep_git_dir;
        if checksum.is_some() {
            url.checksum.clone_from(checksum);
        }
        let dir = self.work.directory("git")?;
        let agent = self.request.ssh.socket("default");
        let checkout = git::checkout(&url, &dir, &self.request.secrets, agent, self.cancel)?;
        let tree = repository_tree(&checkout.folder, checkout.time_of_files(&url))?;
        let mut commit = format!(
            "{} {:?} {} {}",
            checkout.commit, url.subdir, url.submodules, url.keep_git_dir
        );
        if url.mtime == Some(Mtime::Commit) {
            commit.push_str(" mtime=commit");
        }
        Ok(Part {
            commit: Some(commit),
            items: vec![select::select_all(&tree, op)?],
            tree: Arc::new(tree),
            unpack: Unpack::Never,
        })
    }

    /// Makes the layer of a COPY or an ADD.
    pub(super) fn copy(
        &self,
        id: VertexId,
        op: &CopyOp,
        below: &Layers,
        prepared: Prepared,
        inputs: &BTreeMap<VertexId, Outcome>,
        remarks: &mut Vec<Remark>,
    ) -> Result<(Changes, Vec<PathBytes>), BuildError> {
        let mut copied = self.sources(op, &prepared);
        let mut places = copied.iter_mut();
        let mut put = |to: Vec<u8>| {
            if let Some(copied) = places.next() {
                copied.to = PathBytes(to);
            }
        };
        let stack = if op.link {
            Stack::new(Vec::new())
        } else {
            self.stack(below)?
        };
        let mut draft = Draft::new(&stack, now());
        let owner = match &op.chown {
            Some(chown) if users::needs_names(chown) => {
                for name in users::unknown(chown, &self.reader(below))? {
                    self.remark(id, footguns::unknown_owner(&name), remarks)?;
                }
                Some(users::owner(chown, &self.reader(below))?)
            }
            Some(chown) => Some(users::owner(chown, &|_| Ok(None))?),
            None => None,
        };
        let mode = op.chmod.as_deref().map(str::parse).transpose()?;
        let manner = Manner { owner, mode };
        let destination = op.destination.as_bytes();
        let origin = match op.origin {
            Origin::Vertex(_) => Some(self.origin(&op.origin, inputs, true)?),
            _ => None,
        };
        // Whether a file was written to the destination itself, where a folder would hold several.
        let mut taken = false;
        for Part {
            tree,
            items,
            unpack,
            ..
        } in prepared.0
        {
            // Tables were enough to select; contents are read from the layers' directories.
            let tree = if tree.reads_contents() {
                tree
            } else {
                origin.clone().unwrap_or(tree)
            };
            for item in &items {
                if self.is_canceled() {
                    return Err(BuildError::Canceled);
                }
                if unpack == Unpack::IfArchive
                    && let Some(archive) = self.unpacked(&tree, item)?
                {
                    let to = copy::write_archive(&mut draft, &archive, destination, &manner)?;
                    put(to);
                    continue;
                }
                if !op.destination.ends_with('/') && !item.is_directory() && !op.parents {
                    let at = draft.resolve(destination)?;
                    if !draft.lookup(&at).is_some_and(|e| e.is_dir()) {
                        if taken {
                            let remark = footguns::several_sources(&op.destination);
                            self.remark(id, remark, remarks)?;
                        }
                        taken = true;
                    }
                }
                put(copy::write(&mut draft, &tree, item, destination, &manner)?);
            }
        }
        let to = copied.iter().map(|c| c.to.clone()).collect();
        self.taken.set(id, copied);
        Ok((draft.finish()?, to))
    }

    // Reads files of the layers below; they are unpacked only if there is something to read.
    fn reader<'a>(
        &'a self,
        below: &'a Layers,
    ) -> impl Fn(&str) -> Result<Option<Vec<u8>>, BuildError> + 'a {
        move |path| self.tree(below)?.read(path.as_bytes())
    }

    // The files of an archive; nothing if the item is none.
    fn unpacked(&self, tree: &Tree, item: &Item) -> Result<Option<Tree>, BuildError> {
        let source = match &item.content {
            Content::Bytes { source, .. } => source.clone(),
            Content::Files(files) => match tree.follow_hard_link(files.top()) {
                Some(found) if matches!(found.entry.kind, Kind::File { .. }) => tree.source(&found),
                _ => return Ok(None),
            },
        };
        let Source::File { root, path, .. } = source else {
            return Ok(None);
        };
        let shown = super::draft::display(&path);
        let failed = |source| BuildError::ReadRootfs {
            path: shown.clone(),
            source,
        };
        let mut file = crate::layer::open_file_read(&root, &path).map_err(failed)?;
        if !archive::is_archive(&mut file).map_err(failed)? {
            return Ok(None);
        }
        let dir = self.work.directory("archive")?;
        let unpacked = archive::unpack(file, &dir)?;
        let root = Arc::new(open_dir(&dir)?);
        let stack = crate::layer::Stack::new(vec![Arc::new(unpacked.toc)]);
        Ok(Some(Tree::of_layers(stack, vec![root])))
    }

    /// Makes the layer of a WORKDIR.
    pub(super) fn workdir(
        &self,
        id: VertexId,
        op: &WorkdirOp,
        below: &Layers,
        remarks: &mut Vec<Remark>,
    ) -> Result<Changes, BuildError> {
        let stack = self.stack(below)?;
        let mut draft = Draft::new(&stack, now());
        let path = draft.resolve(op.path.as_bytes())?;
        let (uid, gid) = if op.user.is_empty() || draft.lookup(&path).is_some() {
            (0, 0)
        } else {
            for name in users::unknown(&op.user, &self.reader(below))? {
                self.remark(id, footguns::unknown_owner(&name), remarks)?;
            }
            // As for `--chown`, not as for a RUN: a number is user and group.
            users::owner(&op.user, &self.reader(below))?
        };
        draft.make_dirs(&path, 0o755, uid, gid)?;
        draft.finish()
    }
}

/// Lists files, with their contents.
fn list_files(listing: &mut Listing<'_>, tree: &Tree, files: &Files) -> Result<(), BuildError> {
    match files.spot() {
        Some(top) => list_file(listing, tree, b"", top)?,
        None => listing.entry(b"", &files.top().entry, None),
    }
    for spot in files.below() {
        list_file(listing, tree, files.relative(tree.at(*spot).path), *spot)?;
    }
    Ok(())
}

fn list_file(
    listing: &mut Listing<'_>,
    tree: &Tree,
    path: &[u8],
    spot: Spot,
) -> Result<(), BuildError> {
    let entry = tree.at(spot);
    if let KindRef::HardLink { .. } = entry.kind {
        let first = first_name(tree, &tree.found(spot))?;
        let content = match first.entry.kind {
            Kind::File { .. } => Some(tree.digest(&first)?),
            _ => None,
        };
        listing.entry(path, &first.entry, content);
        return Ok(());
    }
    let content = match entry.kind {
        KindRef::File { .. } => Some(tree.digest_at(spot)?),
        _ => None,
    };
    listing.parts(path, &entry.meta(), &entry.kind.to_kind(), content);
    Ok(())
}

/// A checkout as a tree, with the modes git knows, whatever the umask was.
pub(super) fn repository_tree(folder: &Path, mtime: Option<i64>) -> Result<Tree, BuildError> {
    let (folder, toc) = Folder::walk(folder, None, None, None)?;
    let entries = toc.entries().map(|mut entry| {
        entry.meta.mode = match &entry.kind {
            Kind::Symlink { .. } => 0o777,
            Kind::Directory { .. } => 0o755,
            _ if entry.meta.mode & 0o100 != 0 => 0o755,
            _ => 0o644,
        };
        entry.meta.mtime = mtime.unwrap_or(entry.meta.mtime);
        entry
    });
    let toc: Toc = entries.collect();
    Ok(Tree::of_folder(Arc::new(folder), toc))
}
