//! What the command sees: the root filesystem with its mounts, built in a thread that has a mount namespace of its own.
//!
//! Everything happens relative to descriptors of the new root, while the old root is still there; ordinary code, since the thread
//! shares the process's memory. What needs the new PID namespace (/proc) is left to the child.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fstat, mkdirat, mknodat, openat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::thread::{Gid, Uid};

use super::error::SandboxError;
use super::overlay::{clone_tree, make_private, plain, tmpfs};
use super::resolve::{Kind, Root};
use super::spec::{Bind, Device, FileMount, Mount, Network, Security, Spec, Stdio};
use super::stubs::{Created, Keep};
use super::sys::{self, MountAttributes};
use super::userns::Privilege;

/// Devices of every sandbox: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Where the files of a sandbox are while it is built.
const FILES: &str = "/dev/.strata";

/// Links of every /dev: name, target.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// The group that owns terminals; `tty` on every distribution.
const TTY_GROUP: &str = "5";

const NOSUID_NODEV_NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// A root filesystem with its mounts, current in the calling thread; the old root is still mounted over it.
#[derive(Debug)]
pub(super) struct World {
    /// What was created in the root filesystem.
    pub(super) created: Created,
    /// Both ends of the terminal, if the command has one: strata's and its own.
    pub(super) terminal: Option<(OwnedFd, OwnedFd)>,
}

/// Mounts that are taken from the caller before the thread leaves its mount namespace, where they can still be copied.
#[derive(Debug)]
pub(super) struct Sources {
    root: OwnedFd,
    binds: Vec<OwnedFd>,
}

impl Sources {
    /// Copies the root filesystem and the sources of binds. A detached mount that the kernel cannot copy (before 6.15) is taken
    /// itself, and cannot be used for another sandbox.
    pub(super) fn take(spec: &Spec) -> Result<Self, SandboxError> {
        let root = detach(spec.rootfs.as_fd(), true)
            .map_err(SandboxError::start("taking the root filesystem"))?;
        let mut binds = Vec::new();
        for mount in &spec.mounts {
            if let Mount::Bind(bind) = mount {
                let source = detach(bind.source.as_fd(), bind.recursive)
                    .and_then(|source| {
                        if bind.read_only {
                            let attributes = MountAttributes {
                                set: libc::MOUNT_ATTR_RDONLY,
                                recursive: true,
                            };
                            sys::mount_setattr(source.as_fd(), attributes)?;
                        }
                        Ok(source)
                    })
                    .map_err(failed("a bind", &bind.target))?;
                binds.push(source);
            }
        }
        Ok(Self { root, binds })
    }
}

/// A detached copy of what `fd` refers to, or the detached mount itself.
fn detach(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    match clone_tree(fd, b"", recursive) {
        // In a user namespace, mounts that hide something below may not be left out.
        Err(Errno::INVAL) => match clone_tree(fd, b"", true) {
            Err(Errno::INVAL) => rustix::io::fcntl_dupfd_cloexec(fd, 3),
            other => other,
        },
        other => other,
    }
}

fn failed<'a, T: AsRef<OsStr> + ?Sized>(
    what: &'static str,
    target: &'a T,
) -> impl Fn(Errno) -> SandboxError + use<'a, T> {
    move |error| SandboxError::Mount {
        what,
        target: PathBuf::from(target.as_ref()),
        source: error.into(),
    }
}

fn attach(mount: &OwnedFd, at: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", at, "", flags)
}

/// Builds the world of `spec` in the calling thread, which must have a mount namespace of its own (and an IPC and, if asked for, a
/// network namespace), and makes it the thread's root.
pub(super) fn build(
    spec: &Spec,
    sources: Sources,
    privilege: &Privilege,
) -> Result<World, SandboxError> {
    let start = SandboxError::start::<Errno>;
    // The file creation mask is this thread's own since it left the others' file system attributes.
    rustix::process::umask(Mode::empty());
    make_private().map_err(start("private mount propagation"))?;
    move_mount(
        &sources.root,
        "",
        CWD,
        "/",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(start("mounting the root filesystem"))?;

    let mut world = Builder {
        root: Root::new(&sources.root).map_err(start("reading the root filesystem"))?,
        spec,
        privilege,
    };
    world
        .place("/proc", Kind::Directory, Keep::Always)
        .map_err(failed("proc", "/proc"))?;
    let terminal = world.dev()?;
    world.sys()?;
    let files = world.files()?;
    let mut binds = sources.binds.iter();
    for (number, mount) in spec.mounts.iter().enumerate() {
        match mount {
            Mount::Bind(bind) => {
                let source = binds
                    .next()
                    .ok_or_else(|| failed("a bind", &bind.target)(Errno::NOENT))?;
                world.bind(bind, source)?;
            }
            Mount::Tmpfs {
                target,
                size_bytes,
                mode,
            } => world.tmpfs(target, *size_bytes, *mode)?,
            Mount::Device(device) => world.device(device)?,
            Mount::File(file) => {
                let files = files
                    .as_ref()
                    .ok_or_else(|| failed("a file", &file.target)(Errno::NOENT))?;
                world.file(file, files, &number.to_string())?;
            }
        }
    }
    if let Some(files) = files {
        world.hide_files(&files)?;
    }
    let cwd = spec.cwd.as_bytes();
    world
        .root
        .place(cwd, Kind::Directory, Keep::Unrecorded)
        .map_err(|error| SandboxError::WorkingDirectory {
            path: PathBuf::from(&spec.cwd),
            source: error.into(),
        })?;
    let created = world
        .root
        .into_created()
        .map_err(start("reading the root filesystem"))?;

    if spec.read_only {
        let attributes = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            recursive: false,
        };
        sys::mount_setattr(sources.root.as_fd(), attributes)
            .map_err(start("a read-only root filesystem"))?;
    }
    // With the same path twice the old root ends up over the new one, where the child takes it off: it must be there until
    // /proc is mounted, since in a user namespace only one who sees an uncovered /proc may mount another.
    rustix::process::fchdir(&sources.root).map_err(start("entering the root filesystem"))?;
    rustix::process::pivot_root(".", ".").map_err(start("pivot_root"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(World { created, terminal })
}

struct Builder<'a> {
    root: Root<'a>,
    spec: &'a Spec,
    privilege: &'a Privilege,
}

impl Builder<'_> {
    fn place(&mut self, target: &str, kind: Kind, keep: Keep) -> Result<OwnedFd, Errno> {
        self.root.place(target.as_bytes(), kind, keep)
    }

    /// /dev and the mounts in it. Returns the terminal's two ends.
    fn dev(&mut self) -> Result<Option<(OwnedFd, OwnedFd)>, SandboxError> {
        let fail = failed("devices", "/dev");
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
        let dev = tmpfs(&[("mode", "0755"), ("size", "64m")], attributes).map_err(&fail)?;
        for directory in ["pts", "shm", "mqueue"] {
            mkdirat(&dev, directory, Mode::from_raw_mode(0o755)).map_err(&fail)?;
        }
        for (name, target) in LINKS {
            symlinkat(target, &dev, name).map_err(&fail)?;
        }
        let at = self
            .place("/dev", Kind::Directory, Keep::Always)
            .map_err(&fail)?;
        attach(&dev, &at).map_err(&fail)?;
        // After attaching: where nodes cannot be made, they are mounts.
        for (name, major, minor) in DEVICES {
            self.node(&dev, name, rustix::fs::makedev(major, minor))
                .map_err(failed("a device", name))?;
        }

        let pts = self.devpts().map_err(failed("terminals", "/dev/pts"))?;
        let shm_size = self.spec.shm_size_bytes.to_string();
        let shm = tmpfs(
            &[("mode", "1777"), ("size", &shm_size)],
            NOSUID_NODEV_NOEXEC,
        )
        .map_err(failed("shared memory", "/dev/shm"))?;
        // A kernel without POSIX queues has no mqueue.
        let mqueue = match plain("mqueue", NOSUID_NODEV_NOEXEC) {
            Err(Errno::NODEV) => None,
            other => Some(other.map_err(failed("queues", "/dev/mqueue"))?),
        };
        for (name, mount) in [
            ("pts", Some(&pts)),
            ("shm", Some(&shm)),
            ("mqueue", mqueue.as_ref()),
        ] {
            if let Some(mount) = mount {
                open_in(&dev, name)
                    .and_then(|at| attach(mount, &at))
                    .map_err(failed("a device file system", name))?;
            }
        }
        match &self.spec.stdio {
            Stdio::Terminal(_) => self
                .terminal(&dev, &pts)
                .map(Some)
                .map_err(failed("a terminal", "/dev/console")),
            Stdio::Capture { .. } | Stdio::Inherit { .. } => Ok(None),
        }
    }

    fn node(&self, dev: &OwnedFd, name: &str, device: u64) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(0o666);
        if self.privilege.can_mknod() {
            return mknodat(dev, name, FileType::CharacterDevice, mode, device);
        }
        let source = clone_tree(CWD, format!("/dev/{name}").as_bytes(), false)?;
        mknodat(dev, name, FileType::RegularFile, mode, 0)?;
        attach(&source, &open_in(dev, name)?)
    }

    fn devpts(&self) -> Result<OwnedFd, Errno> {
        let context = fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [("ptmxmode", "0666"), ("mode", "0620")] {
            fsconfig_set_string(&context, key, value)?;
        }
        // With a single id there is no such group.
        if self.privilege.can_chown() {
            fsconfig_set_string(&context, "gid", TTY_GROUP)?;
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }

    fn terminal(&self, dev: &OwnedFd, pts: &OwnedFd) -> Result<(OwnedFd, OwnedFd), Errno> {
        use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
        let master = openat(
            pts,
            "ptmx",
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        // The instance is new, so this is its first terminal.
        let source = clone_tree(pts.as_fd(), b"0", false)?;
        mknodat(
            dev,
            "console",
            FileType::RegularFile,
            Mode::from_raw_mode(0o620),
            0,
        )?;
        attach(&source, &open_in(dev, "console")?)?;
        Ok((master, slave))
    }

    fn sys(&mut self) -> Result<(), SandboxError> {
        let fail = failed("sysfs", "/sys");
        let mut attributes = NOSUID_NODEV_NOEXEC;
        if self.spec.security == Security::Default {
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        let mount = match plain("sysfs", attributes) {
            // A user namespace may mount it only with a network namespace of its own, and where /sys is not partly covered.
            Err(Errno::PERM) if !self.privilege.can_mknod() => {
                let copy = clone_tree(CWD, b"/sys", true).map_err(&fail)?;
                let mut set =
                    libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
                if self.spec.security == Security::Default {
                    set |= libc::MOUNT_ATTR_RDONLY;
                }
                sys::mount_setattr(
                    copy.as_fd(),
                    MountAttributes {
                        set,
                        recursive: true,
                    },
                )
                .map_err(&fail)?;
                copy
            }
            other => other.map_err(&fail)?,
        };
        let at = self
            .place("/sys", Kind::Directory, Keep::Always)
            .map_err(&fail)?;
        attach(&mount, &at).map_err(&fail)
    }

    fn bind(&mut self, bind: &Bind, source: &OwnedFd) -> Result<(), SandboxError> {
        refuse_proc(&bind.target)?;
        let fail = failed("a bind", &bind.target);
        let stat = fstat(source).map_err(&fail)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            _ => Kind::File,
        };
        let at = self
            .root
            .place(bind.target.as_bytes(), kind, Keep::Stub)
            .map_err(&fail)?;
        attach(source, &at).map_err(&fail)
    }

    fn tmpfs(
        &mut self,
        target: &OsStr,
        size_bytes: Option<u64>,
        mode: u32,
    ) -> Result<(), SandboxError> {
        refuse_proc(target)?;
        let fail = failed("a tmpfs", target);
        let mode = format!("{mode:o}");
        let size = size_bytes.map(|bytes| bytes.to_string());
        let mut parameters = vec![("mode", mode.as_str())];
        parameters.extend(size.as_deref().map(|size| ("size", size)));
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let mount = tmpfs(&parameters, attributes).map_err(&fail)?;
        let at = self
            .root
            .place(target.as_bytes(), Kind::Directory, Keep::Stub)
            .map_err(&fail)?;
        attach(&mount, &at).map_err(&fail)
    }

    /// Memory for [`FileMount`]s, if there are any. It is attached while they are made: a detached mount could be copied from
    /// only since Linux 6.15.
    fn files(&mut self) -> Result<Option<OwnedFd>, SandboxError> {
        if !self
            .spec
            .mounts
            .iter()
            .any(|mount| matches!(mount, Mount::File(_)))
        {
            return Ok(None);
        }
        let fail = failed("files", FILES);
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let mount = tmpfs(&[("mode", "0700")], attributes).map_err(&fail)?;
        let at = self
            .place(FILES, Kind::Directory, Keep::Unrecorded)
            .map_err(&fail)?;
        attach(&mount, &at).map_err(&fail)?;
        Ok(Some(mount))
    }

    fn file(&mut self, file: &FileMount, files: &OwnedFd, name: &str) -> Result<(), SandboxError> {
        refuse_proc(&file.target)?;
        let fail = failed("a file", &file.target);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = openat(files, name, flags, Mode::from_raw_mode(0o600)).map_err(&fail)?;
        let mut rest = file.content.as_slice();
        while !rest.is_empty() {
            let written = rustix::io::write(&fd, rest).map_err(&fail)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        if (file.uid, file.gid) != (0, 0) && self.privilege.can_chown() {
            let (uid, gid) = (Uid::from_raw(file.uid), Gid::from_raw(file.gid));
            rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(&fail)?;
        }
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(file.mode)).map_err(&fail)?;
        drop(fd);
        let source = clone_tree(files.as_fd(), name.as_bytes(), false).map_err(&fail)?;
        let attributes = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            recursive: false,
        };
        sys::mount_setattr(source.as_fd(), attributes).map_err(&fail)?;
        let at = self
            .root
            .place(file.target.as_bytes(), Kind::File, Keep::Stub)
            .map_err(&fail)?;
        attach(&source, &at).map_err(&fail)
    }

    /// Takes the memory of [`FileMount`]s out of sight; what was mounted from it stays.
    fn hide_files(&mut self, files: &OwnedFd) -> Result<(), SandboxError> {
        let fail = failed("files", FILES);
        let path = format!("/proc/self/fd/{}", files.as_raw_fd());
        unmount(path, UnmountFlags::DETACH).map_err(&fail)?;
        let dev = self
            .place("/dev", Kind::Directory, Keep::Unrecorded)
            .map_err(&fail)?;
        let name = FILES.trim_start_matches("/dev/");
        unlinkat(&dev, name, AtFlags::REMOVEDIR).map_err(&fail)
    }

    /// A device of the host: its node, bound in place, so that it works without the right to make nodes.
    fn device(&mut self, device: &Device) -> Result<(), SandboxError> {
        refuse_proc(&device.target)?;
        let fail = failed("a device", &device.target);
        let source =
            clone_tree(CWD, device.source.as_os_str().as_bytes(), false).map_err(|error| {
                SandboxError::Bind {
                    path: device.source.clone(),
                    source: error.into(),
                }
            })?;
        let at = self
            .root
            .place(device.target.as_bytes(), Kind::File, Keep::Stub)
            .map_err(&fail)?;
        attach(&source, &at).map_err(&fail)
    }
}

fn open_in(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    openat(
        directory,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// /proc is mounted after everything else and would cover it.
fn refuse_proc(target: &OsStr) -> Result<(), SandboxError> {
    let mut words = target
        .as_bytes()
        .split(|&byte| byte == b'/')
        .filter(|word| !word.is_empty() && *word != b".");
    if words.next() == Some(b"proc") {
        return Err(SandboxError::TargetInProc {
            target: PathBuf::from(target),
        });
    }
    Ok(())
}

/// Whether the network namespace is to be a new one.
pub(super) fn own_network(spec: &Spec) -> bool {
    spec.network == Network::None
}
