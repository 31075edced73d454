//! Files of an upper directory that the layer made of it does not have: what was copied up and is as it was.
//!
//! They must go before other stacks use the directory, for there they would hide what is below. While steps stand on it they
//! must stay, for nothing may change under a mounted overlay.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, utimensat};

use super::BuildError;
use crate::layer::{Toc, times};

fn host(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::Host {
        action,
        path,
        source,
    }
}

/// What `fs` has and `toc` has not; of a folder only its own name.
pub(super) fn find(fs: &Path, toc: &Toc) -> Result<Vec<PathBuf>, BuildError> {
    let mut strays = Vec::new();
    let mut pending = vec![fs.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(host("read", &dir))? {
            let entry = entry.map_err(host("read", &dir))?;
            let path = entry.path();
            let relative = path.strip_prefix(fs).unwrap_or(&path);
            if toc.find(relative.as_os_str().as_bytes()).is_none() {
                strays.push(path);
            } else if entry.file_type().map_err(host("stat", &path))?.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(strays)
}

/// Removes what [`find`] found; the folders that held it keep their times.
pub(super) fn remove(strays: &[PathBuf]) -> Result<(), BuildError> {
    for path in strays {
        let parent = path.parent().unwrap_or(path);
        let above = fs::symlink_metadata(parent).map_err(host("stat", parent))?;
        let is_dir = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
        let removed = if is_dir {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        removed.map_err(host("remove", path))?;
        utimensat(CWD, parent, &times(&above), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| host("set the times of", parent)(e.into()))?;
    }
    Ok(())
}
