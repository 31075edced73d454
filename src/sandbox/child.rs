//! What the new process does between fork and exec.
//!
//! It is a copy of one thread of a process that may have many, so any lock may be held for ever: only system calls on data that was
//! prepared before the fork, no allocation, nothing that can panic. Whatever fails goes back through a pipe as two numbers.

#![expect(unsafe_code, reason = "exec")]

use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_char, sock_filter};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsmount, fsopen, mount, mount_bind, mount_remount, move_mount, unmount,
};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags, capabilities,
    clear_ambient_capability_set, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::sys;

/// docker's 14: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE
/// SETFCAP.
pub(super) const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

/// Files of /proc that show the host; hidden under /dev/null.
const MASKED_FILES: [&CStr; 6] = [
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/sched_debug",
    c"/proc/timer_list",
    c"/proc/interrupts",
];

/// Directories that show the host; hidden under an empty one.
const MASKED_DIRECTORIES: [&CStr; 5] = [
    c"/proc/acpi",
    c"/proc/asound",
    c"/proc/scsi",
    c"/sys/firmware",
    c"/sys/devices/virtual/powercap",
];

/// Parts of /proc through which the host could be changed.
const READ_ONLY: [&CStr; 5] = [
    c"/proc/bus",
    c"/proc/fs",
    c"/proc/irq",
    c"/proc/sys",
    c"/proc/sysrq-trigger",
];

/// What the child was doing when it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Step {
    Session,
    Proc,
    ControlGroup,
    OldRoot,
    Masks,
    Streams,
    Limit,
    WorkingDirectory,
    Capabilities,
    Seccomp,
    User,
    Exec,
}

impl Step {
    const ALL: [Self; 12] = [
        Self::Session,
        Self::Proc,
        Self::ControlGroup,
        Self::OldRoot,
        Self::Masks,
        Self::Streams,
        Self::Limit,
        Self::WorkingDirectory,
        Self::Capabilities,
        Self::Seccomp,
        Self::User,
        Self::Exec,
    ];

    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Session => "a session of its own",
            Self::Proc => "mounting /proc",
            Self::ControlGroup => "a control group namespace",
            Self::OldRoot => "leaving the old root",
            Self::Masks => "masking parts of /proc and /sys",
            Self::Streams => "connecting the standard streams",
            Self::Limit => "setting a resource limit",
            Self::WorkingDirectory => "entering the working directory",
            Self::Capabilities => "dropping capabilities",
            Self::Seccomp => "loading the seccomp filter",
            Self::User => "becoming the user",
            Self::Exec => "executing the command",
        }
    }
}

/// What a failed child tells: the step, which of several (limits), and the error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Report {
    pub(super) step: Step,
    pub(super) index: u32,
    pub(super) errno: i32,
}

impl Report {
    /// Length on the pipe; a pipe takes so few bytes at once.
    pub(super) const LENGTH: usize = 12;

    fn encode(self) -> [u8; Self::LENGTH] {
        let [a, b, c, d] = (self.step as u32).to_ne_bytes();
        let [e, f, g, h] = self.index.to_ne_bytes();
        let [i, j, k, l] = self.errno.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// `None` if these are not bytes that [`Report::encode`] made.
    pub(super) fn decode(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let &[a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        let step = u32::from_ne_bytes([a, b, c, d]);
        Some(Self {
            step: Step::ALL.into_iter().find(|&known| known as u32 == step)?,
            index: u32::from_ne_bytes([e, f, g, h]),
            errno: i32::from_ne_bytes([i, j, k, l]),
        })
    }
}

/// The command's standard streams; `None` is strata's own.
#[derive(Debug)]
pub(super) struct Streams {
    /// Whether there is no input: /dev/null, the sandbox's.
    pub(super) no_input: bool,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// The command's end of its terminal, which then is all three.
    pub(super) terminal: Option<OwnedFd>,
    /// Whether the descriptors are strata's to give to the command's user.
    pub(super) chown: bool,
}

/// Everything the child needs, with nothing left to allocate.
pub(super) struct Program<'a> {
    /// Paths to try, in the order of `PATH`.
    pub(super) candidates: &'a [&'a CStr],
    /// Null-terminated.
    pub(super) arguments: &'a [*const c_char],
    /// Null-terminated.
    pub(super) environment: &'a [*const c_char],
    pub(super) cwd: &'a CStr,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    /// `None`: they cannot be set, and are what they are.
    pub(super) groups: Option<&'a [Gid]>,
    pub(super) limits: &'a [(Resource, Rlimit)],
    /// Docker's restrictions; otherwise everything strata may do.
    pub(super) restricted: bool,
    pub(super) filters: &'a [&'static [sock_filter]],
    pub(super) streams: &'a Streams,
    /// A byte comes when the process is in its control groups; end of file means that strata is no more.
    pub(super) go: BorrowedFd<'a>,
    /// Where a report goes; exec closes it.
    pub(super) report: BorrowedFd<'a>,
}

/// Becomes the command, or reports and ends.
///
/// # Safety
///
/// Only in a child of [`sys::fork_into_pid_namespace`]; `arguments` and `environment` must be null-terminated arrays of C strings
/// that are alive.
pub(super) unsafe fn run(program: &Program<'_>) -> ! {
    // SAFETY: as the caller says.
    let report = unsafe { become_command(program) };
    // The process ends either way, and there is nobody else to tell.
    let _ = rustix::io::write(program.report, &report.encode());
    sys::exit_now(127)
}

/// # Safety
///
/// As [`run`].
unsafe fn become_command(program: &Program<'_>) -> Report {
    if let Err(report) = prepare(program) {
        return report;
    }
    sys::reset_signals();
    let mut failure = Errno::NOENT;
    for path in program.candidates {
        // SAFETY: the caller vouches for the lists.
        let errno = unsafe {
            sys::execve(
                path,
                program.arguments.as_ptr(),
                program.environment.as_ptr(),
            )
        };
        match errno {
            // As execvp: look on, but remember that something was there that could not be executed.
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => failure = errno,
            _ => {
                failure = errno;
                break;
            }
        }
    }
    Report {
        step: Step::Exec,
        index: 0,
        errno: failure.raw_os_error(),
    }
}

fn prepare(program: &Program<'_>) -> Result<(), Report> {
    let at = |step: Step| {
        move |errno: Errno| Report {
            step,
            index: 0,
            errno: errno.raw_os_error(),
        }
    };
    die_with_parent(program.go).map_err(at(Step::Session))?;
    // Wait for the control groups.
    match rustix::io::read(program.go, &mut [0_u8; 1]) {
        Ok(1) => {}
        _ => sys::exit_now(127),
    }
    rustix::process::setsid().map_err(at(Step::Session))?;
    // In its groups now, so these become the root of what it sees of them.
    sys::unshare(UnshareFlags::NEWCGROUP).map_err(at(Step::ControlGroup))?;

    mount_proc().map_err(at(Step::Proc))?;
    unmount(c".", UnmountFlags::DETACH).map_err(at(Step::OldRoot))?;
    if program.restricted {
        mask().map_err(at(Step::Masks))?;
    }
    mount_control_groups();

    connect(program).map_err(at(Step::Streams))?;
    for (index, (resource, limit)) in (0..).zip(program.limits) {
        setrlimit(*resource, *limit).map_err(|errno| Report {
            step: Step::Limit,
            index,
            errno: errno.raw_os_error(),
        })?;
    }
    // As root still: the folder may be one that the user cannot reach, and runtimes allow that.
    rustix::process::chdir(program.cwd).map_err(at(Step::WorkingDirectory))?;

    let kept = CapabilitySet::from_bits_retain(DEFAULT_CAPABILITIES);
    if program.restricted {
        // Takes CAP_SETPCAP, so before anything is given up.
        drop_bounding(kept).map_err(at(Step::Capabilities))?;
    }
    // Takes CAP_SYS_ADMIN, for no_new_privs stays off: sudo and su work in the sandbox. From here on its rules hold.
    for filter in program.filters {
        sys::load_filter(filter).map_err(at(Step::Seccomp))?;
    }
    become_user(program).map_err(at(Step::User))?;
    if program.restricted {
        keep_capabilities(kept).map_err(at(Step::Capabilities))?;
    }
    // Changing ids cleared it.
    die_with_parent(program.go).map_err(at(Step::Session))?;
    match sys::close_from_on_exec(3) {
        // Before Linux 5.11: everything of strata's is close-on-exec by itself.
        Ok(()) | Err(Errno::INVAL | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(at(Step::Streams)(errno)),
    }
}

/// SIGKILL when the thread that forked this process ends, also if it has ended already.
fn die_with_parent(go: BorrowedFd<'_>) -> Result<(), Errno> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The other end of the pipe is the parent's; nobody else holds it for long.
    let mut ends = [PollFd::from_borrowed_fd(go, PollFlags::IN)];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut ends, Some(&now))?;
    let [end] = &ends;
    if end.revents().contains(PollFlags::HUP) && !end.revents().contains(PollFlags::IN) {
        sys::exit_now(127);
    }
    Ok(())
}

/// The process list of this PID namespace.
fn mount_proc() -> Result<(), Errno> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let proc = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(
        &proc,
        c"",
        CWD,
        c"/proc",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// What a kernel does not have need not be masked.
fn if_there(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn mask() -> Result<(), Errno> {
    for path in MASKED_FILES {
        if_there(mount_bind(c"/dev/null", path))?;
    }
    for path in MASKED_DIRECTORIES {
        if_there(mount(
            c"tmpfs",
            path,
            c"tmpfs",
            MountFlags::RDONLY,
            c"size=4k,mode=555",
        ))?;
    }
    let flags = MountFlags::BIND
        | MountFlags::RDONLY
        | MountFlags::NOSUID
        | MountFlags::NODEV
        | MountFlags::NOEXEC;
    for path in READ_ONLY {
        match mount_bind(path, path) {
            Err(Errno::NOENT) => {}
            result => result.and_then(|()| mount_remount(path, flags, c""))?,
        }
    }
    Ok(())
}

/// The group of the command, read-only, where there is one hierarchy for all controllers. Programs that look for their limits
/// find them there; those that find nothing go by the machine's. On other machines, or if it is refused, there is nothing.
fn mount_control_groups() {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // On a kernel with version 1 hierarchies the unified one holds none of the limits and would only mislead, but does no harm.
    let _ = mount(c"cgroup", c"/sys/fs/cgroup", c"cgroup2", flags, None);
}

fn connect(program: &Program<'_>) -> Result<(), Errno> {
    let streams = program.streams;
    if let Some(terminal) = &streams.terminal {
        rustix::process::ioctl_tiocsctty(terminal)?;
        give_to_user(terminal, program);
        return [0, 1, 2]
            .into_iter()
            .try_for_each(|number| onto(terminal, number));
    }
    if streams.no_input {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let null = openat(CWD, c"/dev/null", flags, Mode::empty())?;
        onto(&null, 0)?;
    }
    for (stream, number) in [(&streams.stdout, 1), (&streams.stderr, 2)] {
        if let Some(stream) = stream {
            if streams.chown {
                give_to_user(stream, program);
            }
            onto(stream, number)?;
        }
    }
    Ok(())
}

/// Lets the user open the stream again by /dev/stdout and the like. What has no owner to change is open to all.
fn give_to_user(stream: &OwnedFd, program: &Program<'_>) {
    let _ = rustix::fs::fchown(stream, Some(program.uid), None);
}

/// `dup2` onto a standard stream.
fn onto(from: &OwnedFd, number: RawFd) -> Result<(), Errno> {
    // SAFETY: the number is open or becomes it, and is not closed here: the wrapper is never dropped.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    if from.as_raw_fd() == number {
        return rustix::io::fcntl_setfd(from.as_fd(), rustix::io::FdFlags::empty());
    }
    rustix::io::dup2(from, &mut target)
}

fn drop_bounding(kept: CapabilitySet) -> Result<(), Errno> {
    for capability in 0..64 {
        if kept.bits() & (1 << capability) == 0 && !sys::drop_bounding(capability)? {
            // The first number that the kernel does not know.
            break;
        }
    }
    Ok(())
}

fn become_user(program: &Program<'_>) -> Result<(), Errno> {
    if let Some(groups) = program.groups {
        set_thread_groups(groups)?;
    }
    set_thread_res_gid(program.gid, program.gid, program.gid)?;
    set_thread_res_uid(program.uid, program.uid, program.uid)
}

/// Root keeps these of what it has; another user lost them all with the change of ids.
fn keep_capabilities(kept: CapabilitySet) -> Result<(), Errno> {
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(errno),
    }
    let now = capabilities(None)?;
    let sets = CapabilitySets {
        effective: now.effective & kept,
        permitted: now.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}

/// A null-terminated list of pointers to C strings.
pub(super) fn pointers(strings: &[std::ffi::CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}
