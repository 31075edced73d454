//! A folder of the host as a table of contents, to be compared with an image.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::InspectError;
use crate::layer::{Entry, Kind, Meta, Toc, TocBuilder};
use crate::oci::Hasher;

/// How much of a file is read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// The table of a folder: all that is in it, contents hashed, no link followed. Sockets are left out, as images have none.
pub fn folder(root: &Path) -> Result<Toc, InspectError> {
    let mut entries = TocBuilder::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut pending = vec![Vec::new()];
    while let Some(dir) = pending.pop() {
        let at = root.join(std::ffi::OsStr::from_bytes(&dir));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| InspectError::Folder { path, source }
        };
        for member in fs::read_dir(&at).map_err(failed(&at))? {
            let name = member.map_err(failed(&at))?.file_name().into_vec();
            let path = match dir.is_empty() {
                true => name,
                false => [&dir, &b"/"[..], &name].concat(),
            };
            let host = root.join(std::ffi::OsStr::from_bytes(&path));
            let meta = fs::symlink_metadata(&host).map_err(failed(&host))?;
            let kind = meta.file_type();
            let device = (
                rustix::fs::major(meta.rdev()),
                rustix::fs::minor(meta.rdev()),
            );
            let kind = if kind.is_dir() {
                pending.push(path.clone());
                Kind::Directory {
                    opaque: false,
                    implied: false,
                }
            } else if kind.is_symlink() {
                let target = fs::read_link(&host).map_err(failed(&host))?;
                Kind::Symlink {
                    target: target.into_os_string().into_vec(),
                }
            } else if kind.is_file() {
                let mut file = File::open(&host).map_err(failed(&host))?;
                let mut hasher = Hasher::sha256();
                let mut size_bytes = 0;
                loop {
                    let count = file.read(&mut buffer).map_err(failed(&host))?;
                    if count == 0 {
                        break;
                    }
                    hasher.update(&buffer[..count]);
                    size_bytes += count as u64;
                }
                Kind::File {
                    size_bytes,
                    content: Some(hasher.finish()),
                }
            } else if kind.is_fifo() {
                Kind::Fifo
            } else if kind.is_char_device() {
                Kind::CharDevice {
                    major: device.0,
                    minor: device.1,
                }
            } else if kind.is_block_device() {
                Kind::BlockDevice {
                    major: device.0,
                    minor: device.1,
                }
            } else {
                continue;
            };
            entries.push(&Entry {
                path,
                meta: Meta {
                    mode: meta.mode() & 0o7777,
                    uid: meta.uid(),
                    gid: meta.gid(),
                    mtime: meta.mtime(),
                    xattrs: Vec::new(),
                },
                kind,
            });
        }
    }
    Ok(entries.into_toc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn a_folder_is_a_table() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/a"), b"abc").unwrap();
        std::os::unix::fs::symlink("d/a", dir.path().join("l")).unwrap();
        let toc = folder(dir.path()).unwrap();
        let file = toc.get(b"d/a").unwrap();
        let content = Some(Digest::of(b"abc"));
        assert_eq!(
            file.kind,
            Kind::File {
                size_bytes: 3,
                content
            }
        );
        let target = b"d/a".to_vec();
        assert_eq!(toc.get(b"l").unwrap().kind, Kind::Symlink { target });
        assert!(folder(&dir.path().join("none")).is_err());
    }
}
