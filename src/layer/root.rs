//! Access to a tree by paths that cannot leave it.
//!
//! Everything that opens something of a layer's tree comes through here. The kernel is told to refuse links and `..`
//! (openat2, Linux 5.6); where it does not know how, each part of the path is opened on its own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::entry::parent;

/// The kernel takes no longer path in one call (PATH_MAX, less its NUL).
const MAX_PATH_BYTES: usize = 4095;

/// A directory, and the promise that what is reached through it is below it.
#[derive(Clone, Debug)]
pub struct Root(Arc<OwnedFd>);

impl Root {
    /// The directory at `path`, which is trusted: its links are followed.
    pub fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root(Arc::new(openat(CWD, path, flags, Mode::empty())?)))
    }

    /// The directory that is open as `fd`.
    pub fn new(fd: Arc<OwnedFd>) -> Root {
        Root(fd)
    }

    /// The directory's descriptor.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.0
    }

    /// Opens a directory below; the empty path is the root itself. No link is followed.
    pub fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        open_beneath(self.0.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens a file below for reading. No link is followed; a pipe does not block.
    pub fn open_file(&self, path: &[u8]) -> io::Result<File> {
        open_file_read(&self.0, path)
    }

    /// Opens the directory that a path is in, and gives the path's last part. The root is in no directory: an error.
    pub fn parent_dir<'p>(&self, path: &'p [u8]) -> io::Result<(OwnedFd, &'p [u8])> {
        let dir = parent(path).ok_or(Errno::INVAL)?;
        let name = &path[dir.len()..];
        let name = name.strip_prefix(b"/").unwrap_or(name);
        Ok((self.open_dir(dir)?, name))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens a file below `root` for reading. No link is followed; a pipe does not block.
pub fn open_file_read(root: &OwnedFd, path: &[u8]) -> io::Result<File> {
    open_beneath(root.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK).map(File::from)
}

/// Opens what is at a clean path below `root`, without following links.
pub fn open_beneath(root: BorrowedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = if path.is_empty() { b"." } else { path };
    if path.len() > MAX_PATH_BYTES {
        return open_by_parts(root, path, flags);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOSYS) => return open_by_parts(root, path, flags),
            // A rename elsewhere made the kernel unsure.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn open_by_parts(root: BorrowedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut here = openat(root, ".", way, Mode::empty())?;
    if path.starts_with(b"/") {
        return Err(Errno::XDEV.into());
    }
    let mut parts = path.split(|c| *c == b'/').peekable();
    while let Some(part) = parts.next() {
        if part == b".." {
            return Err(Errno::XDEV.into());
        }
        if parts.peek().is_none() {
            return Ok(openat(&here, part, flags, Mode::empty())?);
        }
        here = openat(&here, part, way, Mode::empty())?;
    }
    Err(Errno::NOENT.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_outside() {
        let home = tempfile::tempdir().unwrap();
        let inside = home.path().join("root/a");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(home.path().join("secret"), "s").unwrap();
        std::fs::write(inside.join("f"), "f").unwrap();
        std::os::unix::fs::symlink("../..", inside.join("up")).unwrap();
        std::os::unix::fs::symlink("f", inside.join("link")).unwrap();
        std::os::unix::fs::symlink("a", home.path().join("root/b")).unwrap();
        let root = Root::open(&home.path().join("root")).unwrap();
        assert!(root.open_file(b"a/f").is_ok());
        assert!(root.open_dir(b"").is_ok());
        assert_eq!(root.parent_dir(b"a/f").unwrap().1, b"f");
        assert!(root.parent_dir(b"").is_err());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        assert!(open_by_parts(root.as_fd(), b"a/f", flags).is_ok());
        for bad in [
            "../secret",
            "a/up/secret",
            "a/link",
            "b/f",
            "a/../../secret",
            "/etc/passwd",
            "a/f/x",
            "none",
        ] {
            assert!(root.open_file(bad.as_bytes()).is_err(), "{bad}");
            assert!(
                open_by_parts(root.as_fd(), bad.as_bytes(), flags).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn paths_longer_than_the_kernel_takes() {
        let home = tempfile::tempdir().unwrap();
        let root = Root::open(home.path()).unwrap();
        let part = "d".repeat(250);
        let mut path = Vec::new();
        for _ in 0..20 {
            let here = root.open_dir(&path).unwrap();
            rustix::fs::mkdirat(&here, part.as_str(), Mode::RWXU).unwrap();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(part.as_bytes());
        }
        assert!(path.len() > MAX_PATH_BYTES);
        assert!(root.open_dir(&path).is_ok());
    }
}
