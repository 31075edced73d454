//! Directories by descriptor: what is in one, and how it goes away.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, unlinkat};
use rustix::io::Errno;

/// Whether this is how overlayfs says that a name is gone.
pub(crate) fn is_overlay_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// A path for the system calls on attributes, which take no directory.
pub(crate) fn proc_path(dir: BorrowedFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: BorrowedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes what is at a name, with everything in it; nothing being there is fine.
pub(crate) fn remove_all(dir: BorrowedFd, name: &[u8]) -> rustix::io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    // The way down: each directory with the names that are left in it and its own name.
    let open = |dir: BorrowedFd, name: &[u8]| {
        let fd = openat_dir(dir, name)?;
        let names = names(fd.as_fd())?;
        Ok::<_, Errno>((fd, names, name.to_vec()))
    };
    let mut way = vec![open(dir, name)?];
    while let Some((fd, names, _)) = way.last_mut() {
        if let Some(child) = names.pop() {
            match unlinkat(&*fd, child.as_slice(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    let next = open(fd.as_fd(), &child)?;
                    way.push(next);
                }
                Err(e) => return Err(e),
            }
        } else if let Some((_, _, empty)) = way.pop() {
            let above = way.last().map_or(dir, |(fd, _, _)| fd.as_fd());
            unlinkat(above, empty.as_slice(), AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

fn openat_dir(dir: BorrowedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_stays_inside() {
        let home = tempfile::tempdir().unwrap();
        let at = |path: &str| home.path().join(path);
        std::fs::create_dir_all(at("gone/a/b/c")).unwrap();
        std::fs::create_dir_all(at("gone/a/d")).unwrap();
        std::fs::create_dir(at("kept")).unwrap();
        std::fs::write(at("kept/f"), "").unwrap();
        std::os::unix::fs::symlink(at("kept"), at("gone/a/link")).unwrap();
        std::fs::write(at("gone/a/b/f"), "").unwrap();
        let dir = std::fs::File::open(home.path()).unwrap();
        remove_all(dir.as_fd(), b"gone").unwrap();
        remove_all(dir.as_fd(), b"gone").unwrap();
        assert_eq!(names(dir.as_fd()).unwrap(), [b"kept"]);
        assert!(at("kept/f").exists());
    }
}
