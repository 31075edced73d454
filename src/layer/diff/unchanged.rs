//! Directories of an upper one that are no change: overlayfs copied them up when something was made in them, and that is gone again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, fstat, futimens, unlinkat};
use rustix::io::Errno;

use super::{DiffOptions, Seen, Walk, is_opaque, join};
use crate::layer::{LayerError, Ownership, Root, Stack, times};

struct Directory {
    path: Vec<u8>,
    /// The place of the one that it is in.
    parent: usize,
    /// How many names are in it.
    members: usize,
    /// Whether it hides what is lower, or one above it does: what is missing in it is gone.
    hides: bool,
}

/// Removes from `upper` the directories that hold nothing and are what `lower` has. They are no change, and on other layers they
/// would be in the way. All other directories keep their times.
pub fn remove_unchanged_directories(
    upper: &Arc<OwnedFd>,
    lower: &Stack,
    ownership: Ownership,
) -> Result<(), LayerError> {
    let root = Root::new(Arc::clone(upper));
    let mut all = directories(&root)?;
    let walk = Walk {
        upper: root,
        lower,
        options: &DiffOptions {
            ownership,
            ..DiffOptions::default()
        },
        seen: Seen::default(),
    };
    // Those in a directory go before it does; the root stays.
    for at in (1..all.len()).rev() {
        let Directory {
            ref path,
            parent,
            members,
            hides,
        } = all[at];
        if members == 0 && !hides && walk.is_what_lower_has(path)? {
            remove(&walk.upper, path)?;
            all[parent].members -= 1;
        }
    }
    Ok(())
}

/// All directories, each before those in it.
fn directories(root: &Root) -> Result<Vec<Directory>, LayerError> {
    let mut all = vec![Directory {
        path: Vec::new(),
        parent: 0,
        members: 0,
        hides: false,
    }];
    let mut at = 0;
    while at < all.len() {
        let path = all[at].path.clone();
        let dir = root.open_dir(&path);
        let dir = dir.map_err(|e| LayerError::file("open", &path, e))?;
        let hides = all[at].hides || is_opaque(dir.as_fd(), &path)?;
        all[at].hides = hides;
        let failed = |e: Errno| LayerError::file("list", &path, e);
        for entry in Dir::read_from(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            all[at].members += 1;
            // Where a file system does not tell types, they stay.
            if entry.file_type() == FileType::Directory {
                all.push(Directory {
                    path: join(&path, name),
                    parent: at,
                    members: 0,
                    hides,
                });
            }
        }
        at += 1;
    }
    Ok(all)
}

/// Removes an empty directory; the one that it is in keeps its times.
fn remove(root: &Root, path: &[u8]) -> Result<(), LayerError> {
    let remove = || {
        let (above, name) = root.parent_dir(path)?;
        let above = File::from(above);
        let times = times(&above.metadata()?);
        unlinkat(&above, name, AtFlags::REMOVEDIR)?;
        Ok(futimens(&above, &times)?)
    };
    remove().map_err(|e: io::Error| LayerError::file("remove", path, e))
}

impl Walk<'_> {
    /// Whether a directory is what the lower layers have, but for what is in it.
    fn is_what_lower_has(&self, path: &[u8]) -> Result<bool, LayerError> {
        let node = self.lower.node(path);
        let Some((node, old)) = node.as_ref().and_then(|n| Some((n, n.entry?))) else {
            return Ok(false);
        };
        let open = || {
            let dir = self.upper.open_dir(path)?;
            let stat = fstat(&dir)?;
            Ok((dir, stat))
        };
        let (dir, stat) = open().map_err(|e: io::Error| LayerError::file("look at", path, e))?;
        match self.entry(dir.as_fd(), b".", path.to_vec(), &stat)? {
            Some(entry) => self.same(&entry, node, old),
            None => Ok(false),
        }
    }
}
