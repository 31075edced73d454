//! Entries to files: one tree being written below a root.
//!
//! A parent is reached without following links; where the layer itself made one of the parts a link, it is resolved by hand
//! inside the root, as containerd does. What is in the way is unlinked, never opened. Directories get their owner, mode and
//! time when all else is done: a mode that forbids writing, or a time that writing changes, must come last.
//!
//! No time is the clock's. A directory that the layer has no header for looks as the layers below have it, its time too, and if
//! they have none, it is from 1970. Where layers are applied, that is the time it had before: umoci does the same.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, fchmod, fchown, fsetxattr, fstat, futimens, linkat, lsetxattr, makedev,
    mkdirat, mknodat, openat, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::dirfd::{is_overlay_whiteout, names, proc_path, remove_all};
use super::entry::{join, parent, push_parts};
use super::error::text;
use super::pipe::Sum;
use super::records::Records;
use super::reuse::EarlierTree;
use super::unpack::Below;
use super::{Entry, Kind, KindRef, LayerError, Meta, Root, Toc};

mod options;

pub use options::{Devices, Note, Ownership, TreeOptions, Whiteouts};

/// As many links as the kernel follows in one path (path_resolution(7)).
pub(super) const MAX_LINKS: usize = 40;

/// The attribute that keeps the owner where files cannot have one; `UID:GID` in decimal.
pub(crate) const OWNER_XATTR: &str = "user.strata.owner";

/// Attributes that steer overlayfs or strata, and so must not come from a layer.
const RESERVED: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"user.strata."];

/// Whether an attribute must not come from a layer.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    RESERVED.iter().any(|p| name.starts_with(p))
}

/// A tree being written.
pub(crate) struct Tree<'a> {
    root: Root,
    options: TreeOptions,
    below: Option<Below<'a>>,
    earlier: Option<EarlierTree>,
    /// The directory that was written to last.
    here: Here,
    /// What was written, under the paths where it really is; of changes the directories, which are finished last.
    records: Records,
    /// Whether somebody else knows what is written.
    known: bool,
    /// The file that was put last.
    last: Option<Entry>,
    /// The paths of this layer and all above them; kept only where whiteouts are applied.
    made: HashSet<Vec<u8>>,
    notes: Vec<Note>,
    identity: (u32, u32),
}

/// A directory of the tree.
struct Here {
    /// As the layer calls it.
    said: Vec<u8>,
    /// Where it is, without links.
    real: Vec<u8>,
    fd: OwnedFd,
    /// The time to give back to it, if any.
    time: Option<Timestamps>,
}

impl<'a> Tree<'a> {
    /// A tree to be written below `root`.
    pub(crate) fn new(
        root: &Root,
        options: TreeOptions,
        below: Option<Below<'a>>,
    ) -> Result<Tree<'a>, LayerError> {
        let fd = root
            .open_dir(b"")
            .map_err(|e| LayerError::file("open", b"", e))?;
        let here = Here {
            said: Vec::new(),
            real: Vec::new(),
            fd,
            time: None,
        };
        Ok(Tree {
            root: root.clone(),
            options,
            below,
            earlier: None,
            here,
            records: Records::default(),
            known: false,
            last: None,
            made: HashSet::new(),
            notes: Vec::new(),
            identity: (geteuid().as_raw(), getegid().as_raw()),
        })
    }

    /// A tree that is told changes, of which no table is wanted.
    pub(crate) fn of_changes(root: &Root, options: TreeOptions) -> Result<Tree<'a>, LayerError> {
        let mut tree = Tree::new(root, options, None)?;
        tree.known = true;
        Ok(tree)
    }

    fn record(&mut self, entry: &Entry) {
        if !self.known || entry.is_dir() {
            self.records.push_open(entry);
        }
    }

    /// Gives files of an earlier tree that are the same another name here instead of writing them.
    pub(crate) fn take_from(&mut self, earlier: EarlierTree) {
        self.earlier = Some(earlier);
    }

    /// Puts an entry; a file is given back empty, for its content and then [`Tree::finish_file`], unless it is there already.
    pub(crate) fn put(&mut self, mut entry: Entry) -> Result<Option<File>, LayerError> {
        self.drop_reserved(&mut entry);
        if entry.path.is_empty() {
            self.record(&entry);
            return Ok(None);
        }
        entry.path = self.locate(&entry.path)?;
        let name = entry.name().to_vec();
        let mut file = None;
        match &entry.kind {
            Kind::Directory { .. } => self.directory(&entry.path, &name)?,
            Kind::Whiteout => {
                self.whiteout(&entry.path, &name)?;
                self.record(&entry);
                return Ok(None);
            }
            Kind::HardLink { target } => {
                let target = target.clone();
                let target = self.hard_link(&entry, &name, &target)?;
                entry.kind = Kind::HardLink { target };
            }
            Kind::File { .. } if self.link_earlier(&entry, &name) => {}
            Kind::File { .. } => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let private = Mode::RUSR | Mode::WUSR;
                let fd = self.create(&entry.path, &name, |dir, name| {
                    openat(dir, name, flags, private)
                })?;
                file = Some(File::from(fd));
            }
            Kind::Symlink { target } => {
                self.create(&entry.path, &name, |dir, name| {
                    symlinkat(target.as_slice(), dir, name)
                })?;
                self.node_meta(&entry, &name)?;
            }
            Kind::CharDevice { major, minor } => {
                self.device(&entry, &name, FileType::CharacterDevice, *major, *minor)?;
            }
            Kind::BlockDevice { major, minor } => {
                self.device(&entry, &name, FileType::BlockDevice, *major, *minor)?;
            }
            Kind::Fifo => {
                self.create(&entry.path, &name, |dir, name| {
                    mknodat(dir, name, FileType::Fifo, Mode::empty(), 0)
                })?;
                self.node_meta(&entry, &name)?;
            }
        }
        self.remember(&entry.path);
        self.record(&entry);
        self.last = file.is_some().then_some(entry);
        Ok(file)
    }

    /// Whether the file is there now because an earlier tree has the same.
    fn link_earlier(&mut self, entry: &Entry, name: &[u8]) -> bool {
        let linked = self
            .earlier
            .as_mut()
            .map(|e| e.link(entry, &self.here.fd, name));
        // Whatever keeps it from being linked, it can be written: that fails, or replaces what is in the way.
        matches!(linked, Some(Ok(true)))
    }

    /// Gives the file that was put last its owner, attributes, mode and time, in this order: a new owner clears attributes and
    /// set-id bits, and attributes need a mode that allows writing.
    pub(crate) fn finish_file(&mut self, file: &File) -> Result<(), LayerError> {
        match self.last.take() {
            Some(entry) => self.fd_meta(file.as_fd(), &entry.path, &entry.meta),
            None => Ok(()),
        }
    }

    /// Makes the directory at `path` hide what lower layers have in it.
    pub(crate) fn opaque(&mut self, path: &[u8]) -> Result<(), LayerError> {
        // Any name will do: its directory is made if it is not there.
        let inside = if path.is_empty() {
            b"x".to_vec()
        } else {
            [path, b"/x"].concat()
        };
        self.locate(&inside)?;
        let real = self.here.real.clone();
        if self.options.whiteouts == Whiteouts::Apply {
            // The directory itself stays.
            self.remember(&real);
            return self.remove_lower(&real);
        }
        if real.is_empty() {
            self.imply(&real, Meta::default());
        }
        // A whiteout and a directory of one path are an opaque directory.
        self.record(&Entry {
            path: real,
            meta: Meta::default(),
            kind: Kind::Whiteout,
        });
        Ok(())
    }

    /// Finishes the directories. `contents` are the digests of the files' contents, in the order in which they were put.
    pub(crate) fn finish(mut self, contents: Vec<Sum>) -> Result<(Toc, Vec<Note>), LayerError> {
        self.leave()?;
        let mut records = std::mem::take(&mut self.records);
        records.set_contents(contents);
        let toc = records.into_toc();
        // From the leaves up: a directory that forbids entering would hide those in it.
        for entry in toc.refs().rev() {
            let KindRef::Directory { opaque, implied } = entry.kind else {
                continue;
            };
            let apply = self.options.whiteouts == Whiteouts::Apply;
            // Where layers are applied, a directory without a header has what the earlier ones gave it; and the root is the
            // caller's unless the layer speaks of it.
            if implied && (apply || entry.path.is_empty() && !opaque) {
                continue;
            }
            let fd = self.root.open_dir(entry.path);
            let fd = fd.map_err(|e| LayerError::file("open", entry.path, e))?;
            // Before the mode, which may forbid it to anyone but root.
            let name = match self.options.whiteouts {
                Whiteouts::OverlayTrusted => Some("trusted.overlay.opaque"),
                Whiteouts::OverlayUser => Some("user.overlay.opaque"),
                Whiteouts::Apply => None,
            };
            if let Some(name) = name.filter(|_| opaque) {
                fsetxattr(&fd, name, b"y", XattrFlags::empty())
                    .map_err(|e| LayerError::file("make opaque", entry.path, e))?;
            }
            if !(implied && entry.path.is_empty()) {
                self.fd_meta(fd.as_fd(), entry.path, &entry.meta())?;
            }
        }
        Ok((toc, self.notes))
    }

    fn drop_reserved(&mut self, entry: &mut Entry) {
        let taken = entry
            .meta
            .xattrs
            .extract_if(.., |(name, _)| is_reserved(name));
        self.notes.extend(taken.map(|(name, _)| Note::Reserved {
            path: entry.path.clone(),
            name,
        }));
    }

    fn remember(&mut self, path: &[u8]) {
        if self.options.whiteouts != Whiteouts::Apply {
            return;
        }
        let mut next = Some(path);
        while let Some(path) = next.filter(|p| !self.made.contains(*p)) {
            self.made.insert(path.to_vec());
            next = parent(path);
        }
    }

    fn imply(&mut self, path: &[u8], meta: Meta) {
        self.remember(path);
        self.record(&Entry {
            path: path.to_vec(),
            meta,
            kind: Kind::Directory {
                opaque: false,
                implied: true,
            },
        });
    }

    /// Goes to the directory that `path` is in, and says where `path` really is.
    fn locate(&mut self, path: &[u8]) -> Result<Vec<u8>, LayerError> {
        let dir = parent(path).unwrap_or_default();
        if self.here.said != dir {
            self.leave()?;
            let (real, fd) = match self.root.open_dir(dir) {
                Ok(fd) => (dir.to_vec(), fd),
                Err(e) if needs_a_way(&e) => {
                    let way = self.way(dir, true)?;
                    way.ok_or_else(|| LayerError::file("open", dir, e))?
                }
                Err(e) => return Err(LayerError::file("open", dir, e)),
            };
            self.here = Here {
                time: self.time(&fd, &real)?,
                said: dir.to_vec(),
                real,
                fd,
            };
        }
        let at = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let mut real = self.here.real.clone();
        join(&mut real, &path[at..]);
        Ok(real)
    }

    /// Gives the directory that was written to back its time.
    fn leave(&self) -> Result<(), LayerError> {
        give_back(&self.here.fd, &self.here.real, self.here.time.as_ref())
    }

    /// The time that a directory has to have again when something in it was written. None is needed where all directories get
    /// theirs at the end, and for the root, which is the caller's.
    fn time(&self, fd: &OwnedFd, path: &[u8]) -> Result<Option<Timestamps>, LayerError> {
        if self.options.whiteouts != Whiteouts::Apply || path.is_empty() {
            return Ok(None);
        }
        let stat = fstat(fd).map_err(|e| LayerError::file("look at", path, e))?;
        Ok(Some(modified(Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: (stat.st_mtime_nsec.try_into()).expect("nanoseconds are below 1e9"),
        })))
    }

    /// Goes to a directory part by part, resolving links inside the root, and making what is missing if told to. `None`: a
    /// part is missing.
    fn way(&mut self, dir: &[u8], make: bool) -> Result<Option<(Vec<u8>, OwnedFd)>, LayerError> {
        let open = |path: &[u8], root: &Root| {
            root.open_dir(path)
                .map_err(|e| LayerError::file("open", path, e))
        };
        let mut todo: Vec<Vec<u8>> = Vec::new();
        push_parts(&mut todo, dir);
        let mut real: Vec<u8> = Vec::new();
        let mut fd = open(b"", &self.root)?;
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                let up = parent(&real).unwrap_or_default().len();
                real.truncate(up);
                fd = open(&real, &self.root)?;
                continue;
            }
            let mut next = real.clone();
            join(&mut next, &part);
            let link = match self.look(&fd, &part, &next)? {
                Part::Directory => None,
                Part::Link(target) => Some(target),
                Part::Missing if !make => return Ok(None),
                Part::Missing => {
                    let time = self.time(&fd, &real)?;
                    let link = self.make_parent(&fd, &part, &next)?;
                    give_back(&fd, &real, time.as_ref())?;
                    link
                }
                Part::Other => return Err(LayerError::NotDirectory { path: text(&next) }),
            };
            let Some(target) = link else {
                fd = open(&next, &self.root)?;
                real = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(LayerError::Loop { path: text(dir) });
            }
            if target.starts_with(b"/") {
                real.clear();
                fd = open(b"", &self.root)?;
            }
            push_parts(&mut todo, &target);
        }
        Ok(Some((real, fd)))
    }

    /// What is at a name.
    fn look(&self, dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Part, LayerError> {
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Part::Missing),
            Err(e) => return Err(LayerError::file("look at", path, e)),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Part::Directory,
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new());
                let target = target.map_err(|e| LayerError::file("read the link", path, e))?;
                Part::Link(target.into_bytes())
            }
            _ if self.is_whiteout(&stat) => Part::Missing,
            _ => Part::Other,
        })
    }

    fn is_whiteout(&self, stat: &Stat) -> bool {
        self.options.whiteouts != Whiteouts::Apply && is_overlay_whiteout(stat)
    }

    /// Makes a directory that the layer has no header for, as the layers below have it; if they have a link there, nothing is
    /// made and the link is to be followed.
    fn make_parent(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<Vec<u8>>, LayerError> {
        let found = |e| LayerError::file("remove", path, e);
        let hidden = match unlinkat(dir, name, AtFlags::empty()) {
            // An overlay whiteout of this layer: what is below does not count.
            Ok(()) => true,
            Err(Errno::NOENT) => false,
            Err(e) => return Err(found(e)),
        };
        let lower = self.below.filter(|_| !hidden);
        let lower = lower.and_then(|b| b.stack.lookup(path)).map(|f| f.entry);
        let meta = match lower {
            Some(Entry {
                kind: Kind::Symlink { target },
                ..
            }) => return Ok(Some(target)),
            Some(entry) if entry.is_dir() => entry.meta,
            _ => Meta {
                mode: 0o755,
                ..Meta::default()
            },
        };
        let made = |e| LayerError::file("create the directory", path, e);
        mkdirat(dir, name, Mode::RWXU).map_err(made)?;
        if self.options.whiteouts == Whiteouts::Apply {
            // Left as it is from now on; see `finish`.
            let mode = Mode::from_raw_mode(meta.mode);
            chmodat(dir, name, mode, AtFlags::empty()).map_err(made)?;
            utimensat(dir, name, &times(&meta), AtFlags::SYMLINK_NOFOLLOW).map_err(made)?;
        }
        self.imply(path, meta);
        Ok(None)
    }

    /// Makes something that is not there, after removing what is.
    fn create<T>(
        &self,
        path: &[u8],
        name: &[u8],
        make: impl Fn(BorrowedFd, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T, LayerError> {
        let dir = self.here.fd.as_fd();
        let made = match make(dir, name) {
            Err(Errno::EXIST) => {
                remove_all(dir, name).map_err(|e| LayerError::file("replace", path, e))?;
                make(dir, name)
            }
            other => other,
        };
        made.map_err(|e| LayerError::file("create", path, e))
    }

    fn directory(&self, path: &[u8], name: &[u8]) -> Result<(), LayerError> {
        let dir = &self.here.fd;
        match mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(LayerError::file("create the directory", path, e)),
        }
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|e| LayerError::file("look at", path, e))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(());
        }
        self.create(path, name, |dir, name| mkdirat(dir, name, Mode::RWXU))
    }

    fn whiteout(&mut self, path: &[u8], name: &[u8]) -> Result<(), LayerError> {
        if self.options.whiteouts == Whiteouts::Apply {
            return self.remove_lower(path);
        }
        match mknodat(
            &self.here.fd,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        ) {
            // What the layer itself has there stays; see `Toc::from_entries`.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(LayerError::file("create the whiteout", path, e)),
        }
    }

    /// Removes what earlier layers left at and below `path`, and nothing that this layer made.
    fn remove_lower(&self, path: &[u8]) -> Result<(), LayerError> {
        let failed = |e: io::Error| LayerError::file("remove", path, e);
        if !self.made.contains(path) && !path.is_empty() {
            let (dir, name) = match self.root.parent_dir(path) {
                Ok(found) => found,
                Err(e) if needs_a_way(&e) => return Ok(()),
                Err(e) => return Err(failed(e)),
            };
            return remove_all(dir.as_fd(), name).map_err(|e| failed(e.into()));
        }
        let fd = match self.root.open_dir(path) {
            Ok(fd) => fd,
            Err(e) if needs_a_way(&e) => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        let time = self.time(&fd, path)?;
        for name in names(fd.as_fd()).map_err(|e| failed(e.into()))? {
            let mut child = path.to_vec();
            join(&mut child, &name);
            self.remove_lower(&child)?;
        }
        give_back(&fd, path, time.as_ref())
    }

    /// Makes the link; gives where its target really is.
    fn hard_link(
        &mut self,
        entry: &Entry,
        name: &[u8],
        target: &[u8],
    ) -> Result<Vec<u8>, LayerError> {
        let missing = || LayerError::LinkTarget {
            path: text(&entry.path),
            target: text(target),
        };
        let dir = parent(target).unwrap_or_default();
        let at = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let target_name = &target[at..];
        let found = match self.root.open_dir(dir) {
            Ok(fd) => Some((dir.to_vec(), fd)),
            Err(e) if needs_a_way(&e) => self.way(dir, false)?,
            Err(e) => return Err(LayerError::file("open", dir, e)),
        };
        let mut real = target.to_vec();
        if let Some((mut dir, fd)) = found {
            join(&mut dir, target_name);
            // Replacing a name by itself would lose it.
            if dir == entry.path {
                return Err(missing());
            }
            let present = statat(&fd, target_name, AtFlags::SYMLINK_NOFOLLOW);
            if present.is_ok_and(|stat| !self.is_whiteout(&stat)) {
                self.create(&entry.path, name, |here, name| {
                    linkat(&fd, target_name, here, name, AtFlags::empty())
                })?;
                return Ok(dir);
            }
            real = dir;
        }
        self.copy_lower(entry, name, target)?.ok_or_else(missing)?;
        Ok(real)
    }

    /// Makes a copy of a file of the layers below, as overlayfs would before linking to it.
    fn copy_lower(
        &mut self,
        entry: &Entry,
        name: &[u8],
        target: &[u8],
    ) -> Result<Option<()>, LayerError> {
        let Some(below) = self.below else {
            return Ok(None);
        };
        let found = below.stack.resolve_parent(target)?.found;
        let root = found.as_ref().and_then(|f| below.roots.get(f.layer));
        let (Some(found), Some(root)) = (&found, root) else {
            return Ok(None);
        };
        if !matches!(found.entry.kind, Kind::File { .. } | Kind::HardLink { .. }) {
            return Ok(None);
        }
        let failed = |e| LayerError::file("copy", &found.entry.path, e);
        let mut from = root.open_file(&found.entry.path).map_err(failed)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let private = Mode::RUSR | Mode::WUSR;
        let fd = self.create(&entry.path, name, |dir, name| {
            openat(dir, name, flags, private)
        })?;
        let mut file = File::from(fd);
        io::copy(&mut from, &mut file).map_err(failed)?;
        self.fd_meta(file.as_fd(), &entry.path, &found.entry.meta)?;
        Ok(Some(()))
    }

    fn device(
        &mut self,
        entry: &Entry,
        name: &[u8],
        kind: FileType,
        major: u32,
        minor: u32,
    ) -> Result<(), LayerError> {
        if self.options.devices == Devices::Skip {
            let path = entry.path.clone();
            self.notes.push(Note::Device { path });
            // Skipping must still hide what is there.
            let removed = remove_all(self.here.fd.as_fd(), name);
            return removed.map_err(|e| LayerError::file("replace", &entry.path, e));
        }
        self.create(&entry.path, name, |dir, name| {
            mknodat(dir, name, kind, Mode::empty(), makedev(major, minor))
        })?;
        self.node_meta(entry, name)
    }

    fn owner(&self, meta: &Meta) -> Option<(Option<Uid>, Option<Gid>)> {
        if self.options.ownership == Ownership::Xattr {
            return None;
        }
        // New files are ours already, unless a directory of an earlier layer passes its group on.
        let ours = (meta.uid, meta.gid) == self.identity;
        if ours && self.options.whiteouts != Whiteouts::Apply {
            return None;
        }
        Some((Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid))))
    }

    /// Owner, attributes, mode and time of a file or directory that is open.
    fn fd_meta(&mut self, fd: BorrowedFd, path: &[u8], meta: &Meta) -> Result<(), LayerError> {
        if let Some((uid, gid)) = self.owner(meta) {
            fchown(fd, uid, gid).map_err(|e| LayerError::file("set the owner of", path, e))?;
        }
        if self.options.ownership == Ownership::Xattr && (meta.uid, meta.gid) != (0, 0) {
            let owner = format!("{}:{}", meta.uid, meta.gid);
            fsetxattr(fd, OWNER_XATTR, owner.as_bytes(), XattrFlags::empty())
                .map_err(|e| LayerError::file("set the owner of", path, e))?;
        }
        for (name, value) in &meta.xattrs {
            if let Err(e) = fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                self.notes.push(Note::Xattr {
                    path: path.to_vec(),
                    name: name.clone(),
                    errno: e.raw_os_error(),
                });
            }
        }
        fchmod(fd, Mode::from_raw_mode(meta.mode & 0o7777))
            .map_err(|e| LayerError::file("set the mode of", path, e))?;
        futimens(fd, &times(meta)).map_err(|e| LayerError::file("set the time of", path, e))
    }

    /// The same of what cannot be opened; it was made by us a moment ago.
    fn node_meta(&mut self, entry: &Entry, name: &[u8]) -> Result<(), LayerError> {
        let dir = &self.here.fd;
        let meta = &entry.meta;
        if let Some((uid, gid)) = self.owner(meta) {
            chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| LayerError::file("set the owner of", &entry.path, e))?;
        }
        for (xattr, value) in &meta.xattrs {
            let path = proc_path(dir.as_fd(), name);
            if let Err(e) = lsetxattr(path, xattr.as_slice(), value, XattrFlags::empty()) {
                self.notes.push(Note::Xattr {
                    path: entry.path.clone(),
                    name: xattr.clone(),
                    errno: e.raw_os_error(),
                });
            }
        }
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            let mode = Mode::from_raw_mode(meta.mode & 0o7777);
            chmodat(dir, name, mode, AtFlags::empty())
                .map_err(|e| LayerError::file("set the mode of", &entry.path, e))?;
        }
        utimensat(dir, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| LayerError::file("set the time of", &entry.path, e))
    }
}

/// What is at one part of a path.
enum Part {
    Directory,
    Link(Vec<u8>),
    Missing,
    Other,
}

/// Whether a path did not open because a part of it is missing or no directory.
fn needs_a_way(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::XDEV)
    )
}

fn give_back(dir: &OwnedFd, path: &[u8], time: Option<&Timestamps>) -> Result<(), LayerError> {
    let Some(time) = time else { return Ok(()) };
    futimens(dir, time).map_err(|e| LayerError::file("set the time of", path, e))
}

fn times(meta: &Meta) -> Timestamps {
    modified(Timespec {
        tv_sec: meta.mtime,
        tv_nsec: 0,
    })
}

fn modified(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: time,
    }
}
