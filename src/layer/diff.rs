//! What an overlay upper directory changed, as the layer of it has to say it.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Stat, fgetxattr, lgetxattr, major, minor, readlinkat, statat};
use rustix::io::Errno;

use super::dirfd::{is_overlay_whiteout, names, proc_path};
use super::stack::Node;
use super::tree::OWNER_XATTR;
use super::{
    Change, Changes, Entry, EntryRef, Kind, KindRef, LayerError, Meta, Ownership, Root, Source,
    Stack,
};
use crate::oci::{Digest, Hasher};

mod unchanged;

pub use unchanged::remove_unchanged_directories;

/// The attribute that keeps what an executable may do.
const CAPABILITY: &str = "security.capability";

/// How an upper directory is read.
pub struct DiffOptions<'a> {
    /// Paths to leave out, with what is below: mount points and stubs that the builder made.
    pub exclude: &'a dyn Fn(&[u8]) -> bool,
    /// Where owners are kept.
    pub ownership: Ownership,
}

impl Default for DiffOptions<'_> {
    /// Nothing is left out; owners are the files' own.
    fn default() -> Self {
        DiffOptions {
            exclude: &|_| false,
            ownership: Ownership::Real,
        }
    }
}

/// The changes that the overlay upper directory `upper` makes to `lower`, in order.
///
/// What was copied up and is the same again is left out: equal type, mode, owner, whole-second time, capabilities, size and
/// content (unknown contents of the lower layer count as different). A directory is there if it changed or something in it
/// did. An opaque directory becomes a whiteout for each lower name that it hides and does not have. Sockets are left out. The
/// root itself is never there.
pub fn diff(
    upper: &Arc<OwnedFd>,
    lower: &Stack,
    options: &DiffOptions,
) -> Result<Changes, LayerError> {
    let mut walk = Walk {
        upper: Root::new(Arc::clone(upper)),
        lower,
        options,
        seen: Seen::default(),
    };
    walk.run()?;
    Ok(walk.seen.select())
}

/// The paths of the upper directory.
#[derive(Default)]
struct Seen {
    changes: Changes,
    /// For each, the place of its directory.
    parents: Vec<Option<usize>>,
    /// For each, whether it belongs into the layer.
    changed: Vec<bool>,
    /// Device and inode of files with several names, by their places.
    inodes: Vec<(usize, (u64, u64))>,
}

struct Walk<'a> {
    upper: Root,
    lower: &'a Stack,
    options: &'a DiffOptions<'a>,
    seen: Seen,
}

/// A directory whose content is still to be compared.
struct Pending<'a> {
    path: Vec<u8>,
    record: Option<usize>,
    /// The lower directory that is compared with.
    lower: Option<Node<'a>>,
    /// Whether it hides what that has.
    opaque: bool,
}

/// One name in a directory: in upper, or in lower only and hidden.
enum Step<'a> {
    Whiteout(Vec<u8>),
    Upper(Box<Name<'a>>),
}

/// A name that upper has.
struct Name<'a> {
    entry: Entry,
    /// Device and inode, if it is a file with several names.
    inode: Option<(u64, u64)>,
    lower: Option<Node<'a>>,
    /// Whether it is in a directory that hides all that is lower.
    opaque: bool,
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Result<(), LayerError> {
        // Directories being walked: what is left of each, next one last. No descriptor stays open on the way down, so depth
        // costs memory only.
        let root = Pending {
            path: Vec::new(),
            record: None,
            lower: Some(self.lower.root()),
            opaque: false,
        };
        let mut open = vec![(None, self.steps(&root)?)];
        while let Some((parent, steps)) = open.last_mut() {
            let parent = *parent;
            let Some(step) = steps.pop() else {
                open.pop();
                continue;
            };
            if let Some(dir) = self.take(step, parent)? {
                let steps = self.steps(&dir)?;
                open.push((dir.record, steps));
            }
        }
        Ok(())
    }

    /// Records one step; a directory is to be walked next.
    fn take(
        &mut self,
        step: Step<'a>,
        parent: Option<usize>,
    ) -> Result<Option<Pending<'a>>, LayerError> {
        let Name {
            entry,
            inode,
            lower,
            opaque,
        } = match step {
            Step::Whiteout(path) => {
                let entry = Entry {
                    path,
                    meta: Meta::default(),
                    kind: Kind::Whiteout,
                };
                self.record(entry, parent, true, None);
                return Ok(None);
            }
            Step::Upper(name) => *name,
        };
        let changed = match lower.as_ref().and_then(|n| Some((n, n.entry?))) {
            Some((node, old)) => !self.same(&entry, node, old)?,
            None => true,
        };
        let path = entry.path.clone();
        let is_dir = entry.is_dir();
        self.record(entry, parent, changed, inode);
        Ok(is_dir.then(|| Pending {
            path,
            record: Some(self.seen.changes.len() - 1),
            lower: lower.filter(Node::is_dir),
            opaque,
        }))
    }

    fn record(
        &mut self,
        entry: Entry,
        parent: Option<usize>,
        changed: bool,
        inode: Option<(u64, u64)>,
    ) {
        let source = match entry.kind {
            Kind::File { .. } => Source::File {
                root: Arc::clone(self.upper.fd()),
                path: entry.path.clone(),
                stamp: None,
            },
            _ => Source::None,
        };
        let seen = &mut self.seen;
        let inode = inode.map(|inode| (seen.changes.len(), inode));
        seen.inodes.extend(inode);
        seen.parents.push(parent);
        seen.changed.push(changed);
        seen.changes.push(Change { entry, source });
    }

    /// What is to be compared in a directory, the first last.
    fn steps(&self, dir: &Pending<'a>) -> Result<Vec<Step<'a>>, LayerError> {
        let fd = self.upper.open_dir(&dir.path);
        let fd = fd.map_err(|e| LayerError::file("open", &dir.path, e))?;
        let opaque = dir.opaque || is_opaque(fd.as_fd(), &dir.path)?;
        let mut lower: BTreeMap<&[u8], Node> = match &dir.lower {
            Some(node) => self.lower.child_nodes(node),
            None => BTreeMap::new(),
        };
        let names = names(fd.as_fd()).map_err(|e| LayerError::file("list", &dir.path, e))?;
        let mut steps = Vec::with_capacity(names.len());
        for name in names {
            let path = join(&dir.path, &name);
            let old = lower.remove(name.as_slice());
            if (self.options.exclude)(&path) {
                continue;
            }
            let stat = statat(&fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
            let stat = stat.map_err(|e| LayerError::file("look at", &path, e))?;
            if is_overlay_whiteout(&stat) {
                if old.is_some() {
                    steps.push(Step::Whiteout(path));
                }
                continue;
            }
            // A socket leaves nothing, and what it covers is gone.
            let Some(entry) = self.entry(fd.as_fd(), &name, path.clone(), &stat)? else {
                if old.is_some() {
                    steps.push(Step::Whiteout(path));
                }
                continue;
            };
            let links = matches!(entry.kind, Kind::File { .. }) && stat.st_nlink > 1;
            steps.push(Step::Upper(Box::new(Name {
                entry,
                inode: links.then_some((stat.st_dev, stat.st_ino)),
                lower: old,
                opaque,
            })));
        }
        if opaque {
            let hidden = lower.into_keys().map(|name| join(&dir.path, name));
            let hidden = hidden.filter(|path| !(self.options.exclude)(path));
            steps.extend(hidden.map(Step::Whiteout));
            // One directory: its order is that of the names.
            steps.sort_by(|a, b| a.path().cmp(b.path()));
        }
        steps.reverse();
        Ok(steps)
    }

    fn entry(
        &self,
        dir: BorrowedFd,
        name: &[u8],
        path: Vec<u8>,
        stat: &Stat,
    ) -> Result<Option<Entry>, LayerError> {
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        let mut meta = Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            xattrs: Vec::new(),
        };
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let kind = match file_type {
            FileType::RegularFile => Kind::File {
                size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
                content: None,
            },
            FileType::Directory => Kind::Directory {
                opaque: false,
                implied: false,
            },
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new());
                let target = target.map_err(|e| LayerError::file("read the link", &path, e))?;
                Kind::Symlink {
                    target: target.into_bytes(),
                }
            }
            FileType::CharacterDevice => Kind::CharDevice {
                major: device.0,
                minor: device.1,
            },
            FileType::BlockDevice => Kind::BlockDevice {
                major: device.0,
                minor: device.1,
            },
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(None),
        };
        if file_type == FileType::RegularFile {
            let value = xattr(dir, name, CAPABILITY, &path)?;
            let value = value.map(second_form);
            meta.xattrs.extend(value.map(|v| (CAPABILITY.into(), v)));
        }
        if self.options.ownership == Ownership::Xattr {
            (meta.uid, meta.gid) = (0, 0);
            if matches!(file_type, FileType::RegularFile | FileType::Directory)
                && let Some(value) = xattr(dir, name, OWNER_XATTR, &path)?
            {
                (meta.uid, meta.gid) = parse_owner(&value).ok_or_else(|| {
                    let bad = io::Error::new(io::ErrorKind::InvalidData, OWNER_XATTR);
                    LayerError::file("read the owner of", &path, bad)
                })?;
            }
        }
        Ok(Some(Entry { path, meta, kind }))
    }

    /// Whether an entry is what the lower layers have.
    fn same(&self, new: &Entry, node: &Node, old: EntryRef) -> Result<bool, LayerError> {
        let toc = &self.lower.layers()[node.layer];
        // Another name of a file is that file.
        let old = match old.kind {
            KindRef::HardLink { target } => match toc.find(target) {
                Some(first) => first,
                None => return Ok(false),
            },
            _ => old,
        };
        let meta = &new.meta;
        let capability = meta.xattrs.first().map(|(_, value)| value.as_slice());
        // A directory's time alone is no change: what was made in it and removed again leaves nothing.
        if (meta.mode, meta.uid, meta.gid) != (old.mode, old.uid, old.gid)
            || (meta.mtime != old.mtime && !new.is_dir())
            || capability != old.xattr(CAPABILITY.as_bytes())
        {
            return Ok(false);
        }
        Ok(match (&new.kind, old.kind) {
            (
                Kind::File { size_bytes, .. },
                KindRef::File {
                    size_bytes: size,
                    content: Some(content),
                },
            ) => *size_bytes == size && self.content(&new.path)? == content,
            (Kind::Directory { .. }, KindRef::Directory { .. }) => true,
            (new, old) => *new == old.to_kind() && !matches!(new, Kind::File { .. }),
        })
    }

    fn content(&self, path: &[u8]) -> Result<Digest, LayerError> {
        let failed = |e| LayerError::file("read", path, e);
        let mut file = self.upper.open_file(path).map_err(failed)?;
        let mut hasher = Hasher::sha256();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(count) => hasher.update(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }
}

impl Step<'_> {
    fn path(&self) -> &[u8] {
        match self {
            Step::Whiteout(path) => path,
            Step::Upper(name) => &name.entry.path,
        }
    }
}

impl Seen {
    /// What makes the layer: the changed ones, all names of a file if one of them changed, and the directories above.
    fn select(mut self) -> Changes {
        let mut inodes: HashMap<(u64, u64), bool> = HashMap::new();
        for (at, inode) in &self.inodes {
            *inodes.entry(*inode).or_default() |= self.changed[*at];
        }
        for (at, inode) in &self.inodes {
            self.changed[*at] |= inodes[inode];
        }
        for at in (0..self.changed.len()).rev() {
            if let (true, Some(parent)) = (self.changed[at], self.parents[at]) {
                self.changed[parent] = true;
            }
        }
        if self.inodes.is_empty() && self.changed.iter().all(|changed| *changed) {
            return self.changes;
        }
        // The first name has the content, the others link to it.
        let mut first: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        let mut several = self.inodes.iter().peekable();
        let mut kept = Changes::default();
        for at in 0..self.changes.len() {
            let inode = several.next_if(|(named, _)| *named == at);
            if !self.changed[at] {
                continue;
            }
            let mut change = self.changes.get(at);
            if let Some((_, inode)) = inode {
                if let Some(target) = first.get(inode) {
                    change.entry.kind = Kind::HardLink {
                        target: target.clone(),
                    };
                    change.source = Source::None;
                } else {
                    first.insert(*inode, change.entry.path.clone());
                }
            }
            kept.push(change);
        }
        kept
    }
}

fn is_opaque(dir: BorrowedFd, path: &[u8]) -> Result<bool, LayerError> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        let mut value = [0; 16];
        match fgetxattr(dir, name, &mut value) {
            Ok(length) => {
                if &value[..length] == b"y" {
                    return Ok(true);
                }
            }
            Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE | Errno::PERM) => {}
            Err(e) => return Err(LayerError::file("read the attributes of", path, e)),
        }
    }
    Ok(false)
}

fn xattr(
    dir: BorrowedFd,
    name: &[u8],
    xattr: &str,
    path: &[u8],
) -> Result<Option<Vec<u8>>, LayerError> {
    // Longer than a capability or an owner ever is.
    let mut value = [0; 64];
    match lgetxattr(proc_path(dir, name), xattr, &mut value) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(e) => Err(LayerError::file("read the attributes of", path, e)),
    }
}

/// A capability as it is outside of user namespaces: the third form (linux/capability.h, VFS_CAP_REVISION_3) adds the id of
/// the namespace's root, which means nothing in an image.
fn second_form(mut value: Vec<u8>) -> Vec<u8> {
    const REVISION: usize = 3;
    if value.len() == 24 && value[REVISION] == 3 {
        value[REVISION] = 2;
        value.truncate(20);
    }
    value
}

fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}

#[cfg(test)]
mod tests;
