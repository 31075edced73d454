//! A file that appears under its name when it is whole, and that a killed process leaves nothing of.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;

use super::super::layout::temp_in;

/// The mode of the file, less the umask.
const MODE: Mode = Mode::from_raw_mode(0o644);

/// A file that is being written.
pub(super) enum Fresh {
    /// One without a name: the kernel frees it if nothing else happens.
    Unnamed { file: File, dir: PathBuf },
    /// One with a name of its own, where the file system knows no files without.
    Named(tempfile::NamedTempFile),
}

impl Fresh {
    /// A new file on the file system of `dir`.
    pub(super) fn create(dir: &Path) -> io::Result<Fresh> {
        match openat(
            CWD,
            dir,
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            MODE,
        ) {
            Ok(file) => Ok(Fresh::Unnamed {
                file: file.into(),
                dir: dir.to_owned(),
            }),
            // What the errors of open(2) are for a kernel or a file system without it.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => temp_in(dir).map(Fresh::Named),
            Err(error) => Err(error.into()),
        }
    }

    fn file(&mut self) -> &mut File {
        match self {
            Fresh::Unnamed { file, .. } => file,
            Fresh::Named(temp) => temp.as_file_mut(),
        }
    }

    /// `Ok` means: the bytes are on disk, and `path` is this file, whatever it was before.
    pub(super) fn persist(mut self, path: &Path) -> io::Result<()> {
        self.file().sync_all()?;
        match self {
            Fresh::Named(temp) => {
                temp.persist(path)?;
                Ok(())
            }
            Fresh::Unnamed { file, dir } => match link(&file, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // A link cannot replace a file, a rename can.
                    let temp = tempfile::Builder::new()
                        .prefix(".tmp")
                        .make_in(&dir, |name| link(&file, name))?;
                    let (_, name) = temp.keep().map_err(|e| e.error)?;
                    fs::rename(&name, path).inspect_err(|_| drop(fs::remove_file(&name)))
                }
                result => result,
            },
        }
    }
}

/// Gives a file a name. By way of /proc, since an ordinary user cannot link a descriptor.
fn link(file: &File, path: &Path) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

impl Write for Fresh {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let named = || Fresh::Named(temp_in(dir.path()).unwrap());
        let ways: [&dyn Fn() -> Fresh; 2] = [&|| Fresh::create(dir.path()).unwrap(), &named];
        let names = || fs::read_dir(dir.path()).unwrap().count();
        for make in ways {
            for text in ["first", "second"] {
                let before = fs::read(&path).ok();
                let mut fresh = make();
                fresh.write_all(text.as_bytes()).unwrap();
                assert_eq!(fs::read(&path).ok(), before);
                fresh.persist(&path).unwrap();
                assert_eq!(fs::read(&path).unwrap(), text.as_bytes());
                assert_eq!(names(), 1);
            }
            let mut dropped = make();
            dropped.write_all(b"third").unwrap();
            drop(dropped);
            assert_eq!((names(), fs::read(&path).unwrap()), (1, b"second".to_vec()));
        }
    }

    #[test]
    fn errors_are_the_systems_own() {
        let dir = tempfile::tempdir().unwrap();
        let error = Fresh::create(&dir.path().join("none")).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(Errno::NOENT.raw_os_error()));
    }
}
