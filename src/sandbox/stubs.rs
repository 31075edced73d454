//! What mounts left in the root filesystem: empty files and directories that were made to mount on.
//!
//! An overlay's upper directory is the layer, so these stubs must go again, and with them the copies of their parent directories
//! that overlayfs made on the way, and the new modification times; unless the command changed something there itself.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, fstat, openat2, statat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use super::error::SandboxError;
use super::resolve::Kind;

/// What becomes of something made in the root filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keep {
    /// It is removed afterwards.
    Stub,
    /// It stays: /dev, /proc and /sys, which builders leave in the layer.
    Always,
    /// It is none of a mount's: the working directory.
    Unrecorded,
}

/// The mount points that a sandbox made in its root filesystem; the command never saw them empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Created {
    /// In the order they were made, so a parent comes before what is in it.
    stubs: Vec<Stub>,
    /// The directories that lead to the stubs and were there before, as they were when the command started.
    parents: Vec<Parent>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Stub {
    /// Relative to the root filesystem, without links.
    path: Vec<u8>,
    directory: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Parent {
    path: Vec<u8>,
    state: State,
}

/// What changes about a directory when anybody changes anything about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    fn of(fd: &OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(fd)?;
        let nanoseconds = |value| i64::try_from(value).unwrap_or(0);
        Ok(Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        })
    }
}

/// The modification time of a directory, to be put back after a change that is not the command's.
pub(super) struct ModifiedAt(Timestamps);

impl ModifiedAt {
    pub(super) fn of(directory: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = fstat(directory)?;
        let time = |seconds, nanoseconds| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
        };
        Ok(Self(Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        }))
    }

    pub(super) fn restore(self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        utimensat(directory, ".", &self.0, AtFlags::empty())
    }
}

/// Collects stubs while they are made.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    stubs: Vec<Stub>,
}

impl Recorder {
    pub(super) fn stub(&mut self, path: Vec<u8>, kind: Kind) {
        self.stubs.push(Stub {
            path,
            directory: kind == Kind::Directory,
        });
    }

    /// Ends the recording: from now on, changes are the command's.
    pub(super) fn finish(self, root: BorrowedFd<'_>) -> Result<Created, Errno> {
        let ours: BTreeSet<&[u8]> = self.stubs.iter().map(|stub| stub.path.as_slice()).collect();
        let paths: BTreeSet<&[u8]> = self
            .stubs
            .iter()
            .flat_map(|stub| ancestors(&stub.path))
            .collect();
        let mut parents = Vec::new();
        for path in paths.difference(&ours) {
            let state = State::of(&open(root, path, OFlags::PATH)?)?;
            parents.push(Parent {
                path: path.to_vec(),
                state,
            });
        }
        Ok(Created {
            stubs: self.stubs,
            parents,
        })
    }
}

impl Created {
    /// The paths of the stubs, relative to the root filesystem.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.stubs
            .iter()
            .map(|stub| PathBuf::from(OsStr::from_bytes(&stub.path)))
    }

    /// Removes the stubs from `upper`, the overlay's upper directory, which must have been empty when the overlay was mounted,
    /// once the command has ended. What the command put something into stays. Returns how many are gone.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Stub`]; a stub that is gone already is none.
    pub fn remove_stubs(&self, upper: BorrowedFd<'_>) -> Result<usize, SandboxError> {
        let fail = |path: &[u8]| {
            let path = PathBuf::from(OsStr::from_bytes(path));
            move |error: Errno| SandboxError::Stub {
                path,
                source: error.into(),
            }
        };
        // All states before the first removal, which changes the state of the directory above.
        let mut copies: Vec<&[u8]> = Vec::new();
        for parent in &self.parents {
            if unchanged(upper, parent).map_err(fail(&parent.path))? {
                copies.push(&parent.path);
            }
        }
        let mut removed = 0;
        for stub in self.stubs.iter().rev() {
            removed +=
                usize::from(remove(upper, &stub.path, stub.directory).map_err(fail(&stub.path))?);
        }
        // Deepest first: a path sorts after those that lead to it.
        copies.sort_unstable();
        for path in copies.into_iter().rev() {
            remove(upper, path, true).map_err(fail(path))?;
        }
        Ok(removed)
    }
}

/// Whether the directory in the upper layer is only the copy that making a stub caused.
fn unchanged(upper: BorrowedFd<'_>, parent: &Parent) -> Result<bool, Errno> {
    let Some(directory) = existing(open(
        upper,
        &parent.path,
        OFlags::RDONLY | OFlags::DIRECTORY,
    ))?
    else {
        return Ok(false);
    };
    if State::of(&directory)? != parent.state {
        return Ok(false);
    }
    // Attributes may be set within the clock tick in which the command started, and then leave the time as it was.
    let mut names = vec![0; rustix::fs::flistxattr_query(&directory)?];
    let length = rustix::fs::flistxattr(&directory, names.as_mut_slice())?;
    let bookkeeping = |name: &[u8]| {
        [&b"trusted.overlay."[..], b"user.overlay."]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            && !name.ends_with(b".opaque")
            || name == b"security.selinux"
    };
    let names = names
        .get(..length)
        .unwrap_or_default()
        .split(|&byte| byte == 0);
    Ok(names.filter(|name| !name.is_empty()).all(bookkeeping))
}

/// Removes an empty file or directory and puts the time of the one above back. `false` if it is not there or not empty.
fn remove(upper: BorrowedFd<'_>, path: &[u8], directory: bool) -> Result<bool, Errno> {
    let (above, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash + 1..).unwrap_or_default(),
        ),
        None => (&b"."[..], path),
    };
    let Some(above) = existing(open(upper, above, OFlags::PATH | OFlags::DIRECTORY))? else {
        return Ok(false);
    };
    if !directory {
        let Some(stat) = existing(statat(&above, name, AtFlags::SYMLINK_NOFOLLOW))? else {
            return Ok(false);
        };
        let regular =
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
        if !regular || stat.st_size != 0 {
            return Ok(false);
        }
    }
    let before = ModifiedAt::of(std::os::fd::AsFd::as_fd(&above))?;
    let flags = if directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    match unlinkat(&above, name, flags) {
        Ok(()) => before
            .restore(std::os::fd::AsFd::as_fd(&above))
            .map(|()| true),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(
        root,
        path,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

/// `None` for what is not there, or is something else by now.
fn existing<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The directories that lead to a path, without the root.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter()
        .enumerate()
        .filter(|&(_, &byte)| byte == b'/')
        .filter_map(|(slash, _)| path.get(..slash))
}
