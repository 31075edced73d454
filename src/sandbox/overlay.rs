//! Directories stacked into a mount that has no place in the file system.
//!
//! The mount is detached: a descriptor owns it, a sandbox attaches it inside its own mount namespace, and it is gone when the last
//! descriptor and the last namespace that has it are. Features of overlayfs that an OCI layer cannot express (metadata-only copies,
//! redirects, an index) are off.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};
use rustix::thread::UnshareFlags;

use super::error::SandboxError;
use super::sys::{self, MountAttributes};

/// The kernel's own bound (OVL_MAX_STACK); more lower directories than this are refused.
pub const MAX_LOWERS: usize = 500;

/// Where changes go.
#[derive(Clone, Copy, Debug)]
pub struct Upper<'a> {
    /// The changes: an empty directory, or one that an earlier overlay of the same lowers left.
    pub changes: &'a Path,
    /// An empty directory on the same file system, for the kernel's use.
    pub work: &'a Path,
}

/// How an overlay behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Keep overlayfs's attributes in `user.overlay.*`: needed in a user namespace, where `trusted.*` cannot be written. Without
    /// it such a mount succeeds and fails later, at the first opaque directory.
    pub userxattr: bool,
    /// Let `fsync` do nothing. The upper directory of a crashed machine must then be thrown away.
    pub volatile: bool,
}

/// Mounts `lowers`, **bottom first**, and on top of them `upper`, if there is one; without it the mount is read-only.
///
/// A single lower without upper, and an upper without lowers, are bind mounts: there is nothing to merge.
///
/// # Errors
///
/// [`SandboxError::Overlay`] with the kernel's own explanation.
pub fn mount<P: AsRef<Path>>(
    lowers: &[P],
    upper: Option<Upper<'_>>,
    options: Options,
) -> Result<OwnedFd, SandboxError> {
    let lowers: Vec<&Path> = lowers.iter().map(AsRef::as_ref).collect();
    match (lowers.as_slice(), upper) {
        ([], None) => empty().map_err(|error| failed(0, "an empty folder", String::new(), error)),
        ([], Some(upper)) => bind(upper.changes, false, false),
        ([lower], None) => bind(lower, false, true),
        _ if kernel_has_lowerdir_plus() => mount_by_parameters(&lowers, upper, options),
        _ => mount_by_options(&lowers, upper, options),
    }
}

/// A detached copy of the mount that `path` is in, with `path` as its root.
///
/// # Errors
///
/// [`SandboxError::Bind`] if there is no such path, or it may not be mounted.
pub fn bind(path: &Path, recursive: bool, read_only: bool) -> Result<OwnedFd, SandboxError> {
    clone_tree(CWD, path.as_os_str().as_bytes(), recursive)
        .and_then(|mount| {
            if read_only {
                sys::mount_setattr(
                    mount.as_fd(),
                    MountAttributes {
                        set: libc::MOUNT_ATTR_RDONLY,
                        recursive,
                    },
                )?;
            }
            Ok(mount)
        })
        .map_err(|error| SandboxError::Bind {
            path: path.to_owned(),
            source: error.into(),
        })
}

/// [`bind`] of what a descriptor refers to; `OPEN_TREE_CLONE` of `path` below `at`, or of `at` itself if `path` is empty.
pub(super) fn clone_tree(
    at: BorrowedFd<'_>,
    path: &[u8],
    recursive: bool,
) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(at, path, flags)
}

/// A detached tmpfs with the given parameters.
pub(super) fn tmpfs(
    parameters: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in parameters {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached file system without parameters.
pub(super) fn plain(kind: &str, attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn empty() -> Result<OwnedFd, Errno> {
    tmpfs(
        &[("mode", "0755"), ("size", "4k")],
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}

fn failed(lowers: usize, step: &str, log: String, source: Errno) -> SandboxError {
    SandboxError::Overlay {
        lowers,
        step: step.to_owned(),
        log,
        source: source.into(),
    }
}

/// Linux 6.5 brought `lowerdir+`, one call a directory. Before it all of them had to fit one page of options.
fn kernel_has_lowerdir_plus() -> bool {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 5)
}

fn mount_by_parameters(
    lowers: &[&Path],
    upper: Option<Upper<'_>>,
    options: Options,
) -> Result<OwnedFd, SandboxError> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|error| failed(lowers.len(), "overlayfs", String::new(), error))?;
    let check = |step: &str, result: Result<(), Errno>| {
        result.map_err(|error| failed(lowers.len(), step, kernel_log(&context), error))
    };
    let set_path = |key: &str, path: &Path| {
        check(
            &format!("{key}={}", path.display()),
            fsconfig_set_string(&context, key, path),
        )
    };
    // nofollow rather than off: a redirect that a hostile layer carries is then not followed either.
    for (key, value) in [
        ("metacopy", "off"),
        ("redirect_dir", "nofollow"),
        ("index", "off"),
        ("xino", "off"),
    ] {
        check(key, fsconfig_set_string(&context, key, value))?;
    }
    if options.userxattr {
        check("userxattr", fsconfig_set_flag(&context, "userxattr"))?;
    }
    // The kernel wants the topmost first.
    for lower in lowers.iter().rev() {
        set_path("lowerdir+", lower)?;
    }
    let mut attributes = MountAttrFlags::empty();
    match upper {
        Some(upper) => {
            set_path("upperdir", &escaped(upper.changes))?;
            set_path("workdir", &escaped(upper.work))?;
            // Otherwise a trusted.overlay.uuid appears on the upper directory.
            check("uuid", fsconfig_set_string(&context, "uuid", "off"))?;
            if options.volatile {
                check("volatile", fsconfig_set_flag(&context, "volatile"))?;
            }
        }
        None => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
    }
    check("mount", fsconfig_create(&context))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|error| failed(lowers.len(), "mount", kernel_log(&context), error))
}

/// The kernel takes backslashes out of these two paths, though not out of `lowerdir+`.
fn escaped(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let escape = |&byte: &u8| (byte == b'\\').then_some(b'\\').into_iter().chain([byte]);
    PathBuf::from(OsString::from_vec(bytes.iter().flat_map(escape).collect()))
}

/// The messages that the kernel left in the file system context, without their level.
fn kernel_log(context: &OwnedFd) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    // A read takes one message; ENODATA ends them.
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let message = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        let message = message.trim_end();
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(message.get(2..).unwrap_or(message));
    }
    text
}

/// The way of kernels before 6.5: mount(2) in a thread with a mount namespace of its own, and a detached copy of the result.
///
/// Its options must fit a page, so the directories get names of one to three bytes: links in a tmpfs.
fn mount_by_options(
    lowers: &[&Path],
    upper: Option<Upper<'_>>,
    options: Options,
) -> Result<OwnedFd, SandboxError> {
    let count = lowers.len();
    let scratch = || -> Result<OwnedFd, (&'static str, Errno)> {
        let step = |name: &'static str| move |error: Errno| (name, error);
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|_| ("absolute path", Errno::NOENT));
        sys::unshare(UnshareFlags::NEWNS).map_err(step("mount namespace"))?;
        make_private().map_err(step("private propagation"))?;
        let place = tmpfs(&[("mode", "0700")], MountAttrFlags::empty()).map_err(step("tmpfs"))?;
        let link = |path: &Path, name: &str| {
            rustix::fs::symlinkat(absolute(path)?.as_path(), &place, name).map_err(step("link"))
        };
        let mut data = String::from("metacopy=off,redirect_dir=nofollow,index=off,xino=off");
        for (number, lower) in lowers.iter().rev().enumerate() {
            let name = format!("{number:x}");
            link(lower, &name)?;
            data.push_str(if number == 0 { ",lowerdir=" } else { ":" });
            data.push_str(&name);
        }
        let mut flags = MountFlags::RDONLY;
        if let Some(upper) = upper {
            link(upper.changes, "u")?;
            link(upper.work, "w")?;
            data.push_str(",upperdir=u,workdir=w");
            data.push_str(if options.volatile { ",volatile" } else { "" });
            flags = MountFlags::empty();
        }
        data.push_str(if options.userxattr { ",userxattr" } else { "" });
        rustix::fs::mkdirat(&place, "m", Mode::RWXU).map_err(step("mount point"))?;
        // Only a mount that has a place can be mounted on. Paths still resolve from the root below it.
        move_mount(
            &place,
            "",
            CWD,
            "/",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(step("scratch place"))?;
        rustix::process::fchdir(&place).map_err(step("scratch place"))?;
        let data = CString::new(data).map_err(|_| ("options", Errno::INVAL))?;
        rustix::mount::mount("overlay", "m", "overlay", flags, data.as_c_str())
            .map_err(step("mount"))?;
        clone_tree(CWD, b"m", false).map_err(step("detach"))
    };
    let outcome = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("overlay".to_owned())
            .spawn_scoped(scope, scratch);
        thread.and_then(|thread| {
            thread
                .join()
                .map_err(|_| io::Error::other("the thread panicked"))
        })
    });
    match outcome {
        Ok(result) => result.map_err(|(step, error)| failed(count, step, String::new(), error)),
        Err(source) => Err(SandboxError::Start {
            step: "a thread for the overlay mount",
            source,
        }),
    }
}

/// Keeps what this mount namespace does from the one it was copied from.
pub(super) fn make_private() -> Result<(), Errno> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use rustix::fs::{OFlags, openat};

    use super::*;

    /// Directories `0`, `1` …, each with a file of its own name and a file `same`.
    fn lowers(base: &Path, count: usize) -> Vec<PathBuf> {
        let make = |number: usize| {
            let path = base.join(format!("{number}:a\\b,c"));
            fs::create_dir(&path).unwrap();
            fs::write(path.join(format!("f{number}")), "").unwrap();
            fs::write(path.join("same"), number.to_string()).unwrap();
            path
        };
        (0..count).map(make).collect()
    }

    fn upper(base: &Path) -> (PathBuf, PathBuf) {
        let (changes, work) = (base.join("u:p\\p,er"), base.join("work"));
        fs::create_dir(&changes).unwrap();
        fs::create_dir(&work).unwrap();
        (changes, work)
    }

    fn read(mount: &OwnedFd, name: &str) -> Result<String, Errno> {
        let mut file = fs::File::from(openat(mount, name, OFlags::RDONLY, Mode::empty())?);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    fn write(mount: &OwnedFd, name: &str) -> Result<(), Errno> {
        openat(
            mount,
            name,
            OFlags::CREATE | OFlags::WRONLY,
            Mode::from_raw_mode(0o644),
        )
        .map(drop)
    }

    #[test]
    fn the_last_lower_is_on_top_and_changes_go_to_the_upper() {
        for ways in [mount_by_parameters, mount_by_options] {
            for count in [2, 3, 130] {
                let scratch = tempfile::tempdir().unwrap();
                let lowers = lowers(scratch.path(), count);
                let lowers: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
                let read_only = ways(&lowers, None, Options::default()).unwrap();
                assert_eq!(read(&read_only, "same").unwrap(), (count - 1).to_string());
                read(&read_only, "f0").unwrap();
                assert_eq!(write(&read_only, "new"), Err(Errno::ROFS));

                let (changes, work) = upper(scratch.path());
                let place = Upper {
                    changes: &changes,
                    work: &work,
                };
                let mount = ways(
                    &lowers,
                    Some(place),
                    Options {
                        userxattr: false,
                        volatile: true,
                    },
                )
                .unwrap();
                write(&mount, "new").unwrap();
                rustix::fs::unlinkat(&mount, "f0", rustix::fs::AtFlags::empty()).unwrap();
                assert!(changes.join("new").exists());
                assert!(changes.join("f0").symlink_metadata().is_ok(), "a whiteout");
            }
        }
    }

    #[test]
    fn nothing_to_merge_is_a_bind() {
        let scratch = tempfile::tempdir().unwrap();
        let one = lowers(scratch.path(), 1);
        let mount_one = mount(&one, None, Options::default()).unwrap();
        assert_eq!(read(&mount_one, "same").unwrap(), "0");
        assert_eq!(write(&mount_one, "new"), Err(Errno::ROFS));

        let none: [&Path; 0] = [];
        let empty = mount(&none, None, Options::default()).unwrap();
        assert_eq!(write(&empty, "new"), Err(Errno::ROFS));
        let (changes, work) = upper(scratch.path());
        let bare = mount(
            &none,
            Some(Upper {
                changes: &changes,
                work: &work,
            }),
            Options::default(),
        )
        .unwrap();
        write(&bare, "new").unwrap();
        assert!(changes.join("new").exists());
    }

    #[test]
    fn errors_have_the_kernels_words() {
        let scratch = tempfile::tempdir().unwrap();
        let mut many = lowers(scratch.path(), 2);
        many.push(scratch.path().join("nosuch"));
        let error = mount(&many, None, Options::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("nosuch"), "{error}");
        let same = vec![many[0].clone(); MAX_LOWERS + 1];
        let error = mount(&same, None, Options::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("limit is 500"), "{error}");
        assert!(matches!(
            bind(Path::new("/no/such"), true, true),
            Err(SandboxError::Bind { .. })
        ));
    }
}
