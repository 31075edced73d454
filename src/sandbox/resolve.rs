//! A path inside a root filesystem, made if it is not there, without ever leaving it.
//!
//! The walk is by single names from descriptor to descriptor; links are read and walked here, `..` goes back along the walk. The
//! kernel never sees a link or a `..`, so nothing that the root filesystem holds can lead out of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatxFlags, fstat, mkdirat, mknodat, openat, readlinkat, statx,
};
use rustix::io::Errno;

use super::stubs::{Created, Keep, ModifiedAt, Recorder};

/// Links followed on one path before it counts as a loop: the kernel's own bound.
const MAX_LINKS: u32 = 40;

/// What is to be at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

/// A root filesystem in which places are made.
pub(super) struct Root<'a> {
    fd: BorrowedFd<'a>,
    /// The mount of the root itself: what is made in other mounts is not the root filesystem's.
    mount: u64,
    recorder: Recorder,
}

impl<'a> Root<'a> {
    /// A root filesystem by a descriptor of its root directory.
    pub(super) fn new(fd: &'a OwnedFd) -> Result<Self, Errno> {
        let fd = fd.as_fd();
        Ok(Self {
            fd,
            mount: mount_of(fd)?,
            recorder: Recorder::default(),
        })
    }

    /// What was created so far.
    pub(super) fn into_created(self) -> Result<Created, Errno> {
        self.recorder.finish(self.fd)
    }

    /// An O_PATH descriptor of `path`. What is missing is made: directories with mode 0755, the last one of `kind`; and recorded
    /// as `keep` says.
    pub(super) fn place(&mut self, path: &[u8], kind: Kind, keep: Keep) -> Result<OwnedFd, Errno> {
        let mut ahead: Vec<Vec<u8>> = components(path);
        let mut walked: Vec<(Vec<u8>, OwnedFd)> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                walked.pop();
                continue;
            }
            let here = walked.last().map_or(self.fd, |(_, fd)| fd.as_fd());
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(
                here,
                name.as_slice(),
                flags | OFlags::DIRECTORY,
                Mode::empty(),
            ) {
                Ok(fd) => walked.push((name, fd)),
                Err(Errno::NOENT) => {
                    let kind = if ahead.is_empty() {
                        kind
                    } else {
                        Kind::Directory
                    };
                    let names = || {
                        walked
                            .iter()
                            .map(|(name, _)| name.as_slice())
                            .chain([name.as_slice()])
                    };
                    let fd = self.create(here, names().collect(), kind, keep)?;
                    walked.push((name, fd));
                }
                Err(Errno::NOTDIR) => {
                    let fd = openat(here, name.as_slice(), flags, Mode::empty())?;
                    if FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::Symlink {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Errno::LOOP);
                        }
                        let target = readlinkat(&fd, "", Vec::new())?.into_bytes();
                        if target.starts_with(b"/") {
                            walked.clear();
                        }
                        ahead.extend(components(&target));
                    } else if ahead.is_empty() && kind == Kind::File {
                        walked.push((name, fd));
                    } else {
                        return Err(Errno::NOTDIR);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        match walked.pop() {
            Some((_, fd)) => Ok(fd),
            None => openat(
                self.fd,
                ".",
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            ),
        }
    }

    /// Makes the last of `names` in the directory `here`, which the others lead to.
    fn create(
        &mut self,
        here: BorrowedFd<'_>,
        names: Vec<&[u8]>,
        kind: Kind,
        keep: Keep,
    ) -> Result<OwnedFd, Errno> {
        let name = names.last().copied().ok_or(Errno::INVAL)?;
        let recorded = keep == Keep::Stub && mount_of(here)? == self.mount;
        let before = if recorded {
            Some(ModifiedAt::of(here)?)
        } else {
            None
        };
        let mode = |bits| Mode::from_raw_mode(bits);
        let made = match kind {
            Kind::Directory => mkdirat(here, name, mode(0o755)),
            Kind::File => mknodat(here, name, FileType::RegularFile, mode(0o644), 0),
        };
        match (made, before) {
            (Ok(()), Some(before)) => {
                before.restore(here)?;
                self.recorder.stub(names.join(&b'/'), kind);
            }
            // Another sandbox over the same root filesystem was faster: it is that one's to remove.
            (Ok(()) | Err(Errno::EXIST), _) => {}
            (Err(error), _) => return Err(error),
        }
        openat(
            here,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }
}

/// The names of a path, last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}

fn mount_of(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}
