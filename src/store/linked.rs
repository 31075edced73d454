//! A tree made of another's files by links.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{
    Gid, Mode, Uid, XattrFlags, fchmod, fchown, fsetxattr, futimens, lgetxattr, llistxattr,
};
use rustix::io::Errno;

use super::StoreError;
use crate::layer::{Toc, times};

/// Extended attributes: name and value.
pub(super) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Makes `new` a directory that has of `old` what `toc` tells: files are links, directories are made anew with all that they
/// are. `old` stays as it is, but that its files have another name.
pub(super) fn copy_by_links(old: &Path, new: &Path, toc: &Toc) -> Result<(), StoreError> {
    directory(old, new, &mut Vec::new(), toc)
}

fn directory(old: &Path, new: &Path, path: &mut Vec<u8>, toc: &Toc) -> Result<(), StoreError> {
    DirBuilder::new()
        .mode(0o700)
        .create(new)
        .map_err(StoreError::file("create", new))?;
    for member in fs::read_dir(old).map_err(StoreError::file("read", old))? {
        let member = member.map_err(StoreError::file("read", old))?;
        let name = member.file_name();
        let length = path.len();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        if toc.find(path).is_some() {
            let (from, to) = (old.join(&name), new.join(&name));
            let kind = member.file_type();
            if kind.map_err(StoreError::file("stat", &from))?.is_dir() {
                directory(&from, &to, path, toc)?;
            } else {
                link(&from, &to)?;
            }
        }
        path.truncate(length);
    }
    let meta = fs::symlink_metadata(old).map_err(StoreError::file("stat", old))?;
    let dir = File::open(new).map_err(StoreError::file("open", new))?;
    give_meta(old, &meta, &dir, new)
}

fn link(from: &Path, to: &Path) -> Result<(), StoreError> {
    let error = match fs::hard_link(from, to) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let meta = fs::symlink_metadata(from).map_err(StoreError::file("stat", from))?;
    if error.raw_os_error() != Some(Errno::MLINK.raw_os_error()) || !meta.is_file() {
        return Err(StoreError::file("link", to)(error));
    }
    // There are as many links as there can be.
    copy_file(from, to, &meta)
}

/// Makes `to` a file of its own with all that `from` is; `meta` is that of `from`.
pub(super) fn copy_file(from: &Path, to: &Path, meta: &Metadata) -> Result<(), StoreError> {
    let mut input = File::open(from).map_err(StoreError::file("open", from))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(StoreError::file("create", to))?;
    io::copy(&mut input, &mut file).map_err(StoreError::file("write", to))?;
    give_meta(from, meta, &file, to)
}

/// A path's extended attributes, sorted.
pub(super) fn attributes(path: &Path) -> Result<Attributes, StoreError> {
    // Linux's bounds on the list and on a value (xattr(7)): 64 KiB.
    let mut names = vec![0u8; 64 << 10];
    let count = match llistxattr(path, &mut names) {
        Ok(count) => count,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(StoreError::call("list attributes of", path)(errno)),
    };
    let mut value = vec![0u8; 64 << 10];
    let mut all = Vec::new();
    for name in names[..count].split(|c| *c == 0).filter(|n| !n.is_empty()) {
        let count = lgetxattr(path, name, &mut value)
            .map_err(StoreError::call("read attributes of", path))?;
        all.push((name.to_vec(), value[..count].to_vec()));
    }
    all.sort();
    Ok(all)
}

/// Gives a new file or directory what an old one has. The owner first, which clears set-id bits and attributes; the time last.
pub(super) fn give_meta(
    old: &Path,
    meta: &Metadata,
    file: &File,
    new: &Path,
) -> Result<(), StoreError> {
    let call = |action| StoreError::call(action, new);
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    fchown(file, Some(uid), Some(gid)).map_err(call("set the owner of"))?;
    let there = attributes(new)?;
    for (name, value) in attributes(old)? {
        // A label that it has already is one that it may not be allowed to set.
        if there.contains(&(name.clone(), value.clone())) {
            continue;
        }
        fsetxattr(file, name.as_slice(), &value, XattrFlags::empty())
            .map_err(call("set attributes of"))?;
    }
    fchmod(file, Mode::from_raw_mode(meta.mode() & 0o7777)).map_err(call("set the mode of"))?;
    futimens(file, &times(meta)).map_err(call("set the time of"))
}
