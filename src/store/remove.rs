//! Removing trees that nobody vouches for: no link is followed, no mount entered, no depth or mode stops it.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, chmodat, fchmod, openat, openat2,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::StoreError;

/// How many directories are open at once; what lies deeper is first moved up to the top. Far below the usual limit of 1024
/// open files, far above the depth of real trees.
const MAX_OPEN: u32 = 64;

/// What a removal freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Freed {
    /// Files and directories that are gone.
    pub entries: u64,
    /// Bytes on disk (allocated blocks) that are free now; a file with another link elsewhere frees none.
    pub bytes: u64,
}

impl std::ops::AddAssign for Freed {
    fn add_assign(&mut self, other: Freed) {
        self.entries += other.entries;
        self.bytes += other.bytes;
    }
}

struct Remover<'a> {
    shown: &'a Path,
    top: OwnedFd,
    moved: u64,
    freed: Freed,
}

/// Removes a file or a whole tree. What is not there is removed already.
pub(super) fn remove_tree(path: &Path) -> Result<Freed, StoreError> {
    let error = |errno| StoreError::call("remove", path)(errno);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(error(Errno::INVAL));
    };
    let name = c_name(name).map_err(error)?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let top = match openat(CWD, parent, flags, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(Freed::default()),
        Err(errno) => return Err(error(errno)),
    };
    let at = top.try_clone().map_err(StoreError::file("remove", path))?;
    let mut remover = Remover {
        shown: path,
        top,
        moved: 0,
        freed: Freed::default(),
    };
    remover.entry(at.as_fd(), &name, 0)?;
    // Moved-up directories may move up more of theirs, so this counts while it runs.
    let mut done = 0;
    while done < remover.moved {
        let name = aside(done);
        remover.entry(at.as_fd(), &name, 0)?;
        done += 1;
    }
    Ok(remover.freed)
}

fn c_name(name: &OsStr) -> Result<CString, Errno> {
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}

fn aside(number: u64) -> CString {
    let name = format!(".strata-deep-{}-{number}", std::process::id());
    CString::new(name).expect("digits and letters hold no zero byte")
}

impl Remover<'_> {
    fn error(&self, errno: Errno) -> StoreError {
        match errno {
            Errno::XDEV | Errno::BUSY => StoreError::Mounted(self.shown.to_owned()),
            errno => StoreError::call("remove", self.shown)(errno),
        }
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<(), StoreError> {
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(self.error(errno)),
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir {
            self.directory(parent, name, depth)?;
        }
        let flags = if is_dir {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        match unlinkat(parent, name, flags) {
            Ok(()) => {
                self.freed.entries += 1;
                if is_dir || stat.st_nlink == 1 {
                    self.freed.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                }
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error(errno)),
        }
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        depth: u32,
    ) -> Result<(), StoreError> {
        if depth >= MAX_OPEN {
            // To rename a directory one must be able to write to it: its `..` changes.
            let to = aside(self.moved);
            let moved = renameat(parent, name, &self.top, &to).or_else(|errno| {
                if errno != Errno::ACCESS {
                    return Err(errno);
                }
                chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
                renameat(parent, name, &self.top, &to)
            });
            moved.map_err(|errno| self.error(errno))?;
            self.moved += 1;
            return Ok(());
        }
        let dir = open_dir(parent, name).map_err(|errno| self.error(errno))?;
        let mut entries = Dir::read_from(&dir).map_err(|errno| self.error(errno))?;
        // A directory without write permission refuses its owner (though not root); asking first would cost a call each.
        let mut opened_up = false;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(|errno| self.error(errno))?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            match self.entry(dir.as_fd(), entry.file_name(), depth + 1) {
                Err(StoreError::File { source, .. })
                    if !opened_up && source.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    opened_up = true;
                    fchmod(&dir, Mode::RWXU).map_err(|errno| self.error(errno))?;
                    self.entry(dir.as_fd(), entry.file_name(), depth + 1)?;
                }
                result => result?,
            }
        }
        Ok(())
    }
}

/// Opens a directory for reading; one without permissions (overlayfs leaves such behind) gets them first.
fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // NO_XDEV stops at mount points too, where a comparison of device numbers would walk into a bind mount.
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let open = || openat2(parent, name, flags, Mode::empty(), resolve);
    match open() {
        Err(Errno::ACCESS) => {
            // A file swapped in here for the directory would change its mode only: the path holds no link to follow, since
            // work directories belong to one process, and a dead one's to nobody.
            chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            open()
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), b"x").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink(&outside, dir.path().join("tree-link")).unwrap();
        fs::hard_link(outside.join("precious"), tree.join("a/hard")).unwrap();
        let freed = remove_tree(&tree).unwrap();
        assert_eq!(freed.entries, 5);
        remove_tree(&dir.path().join("tree-link")).unwrap();
        assert!(!tree.exists() && !dir.path().join("tree-link").exists());
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"x");
        assert_eq!(remove_tree(&tree).unwrap(), Freed::default());
    }

    #[test]
    fn modes_and_depth_do_not_stop_it() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        // 1,500 levels: more than the usual limit of open files, and than a path may be long.
        let mut at = rustix::fs::open(&tree, OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&at, "deeper", Mode::RWXU).unwrap();
            at = openat(&at, "deeper", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let closed = tree.join("closed");
        fs::create_dir_all(closed.join("in")).unwrap();
        fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
        assert_eq!(remove_tree(&tree).unwrap().entries, 1503);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
