//! What the new process does before it executes the command.
//!
//! It uses the memory of a process that may have many threads, so any lock may be held for ever: only system calls on data that was
//! prepared before, no allocation, nothing that can panic. Of that memory it changes one place, where it says what has failed.

#![expect(unsafe_code, reason = "exec")]

use std::cell::Cell;
use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_char, c_int, c_void, sock_filter};
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
pub(super) enum Step {
    Session,
    ControlGroup,
    ControlGroupNamespace,
    Proc,
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
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Session => "a session of its own",
            Self::ControlGroup => "joining a control group",
            Self::ControlGroupNamespace => "a control group namespace",
            Self::Proc => "mounting /proc",
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

/// What a failed child tells: the step, which of several (control groups, limits), and the error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Report {
    pub(super) step: Step,
    pub(super) index: usize,
    pub(super) errno: Errno,
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
    /// The `cgroup.procs` of its control groups.
    pub(super) groups_to_join: &'a [OwnedFd],
    /// The thread that started the process: it can be read from when that has ended.
    pub(super) keeper: BorrowedFd<'a>,
    /// What has failed, if something has.
    pub(super) report: Cell<Option<Report>>,
}

/// Becomes the command, or reports and ends. For [`sys::start_in_pid_namespace`], whose argument is a [`Program`]; its `arguments`
/// and `environment` must be null-terminated arrays of C strings.
pub(super) extern "C" fn run(program: *mut c_void) -> c_int {
    // SAFETY: it was made for this call, and is not used by the thread that made it before the call has ended.
    let program = unsafe { &*program.cast_const().cast::<Program<'_>>() };
    // SAFETY: the lists are what they must be.
    let report = unsafe { become_command(program) };
    program.report.set(Some(report));
    sys::exit_now(127)
}

/// # Safety
///
/// The program's lists must be null-terminated arrays of C strings.
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
        errno: failure,
    }
}

fn prepare(program: &Program<'_>) -> Result<(), Report> {
    let of_several = |step: Step, index: usize| move |errno: Errno| Report { step, index, errno };
    let at = |step: Step| of_several(step, 0);
    die_with(program.keeper).map_err(at(Step::Session))?;
    for (index, group) in program.groups_to_join.iter().enumerate() {
        // Whoever writes this.
        let joined = rustix::io::write(group, b"0").map(drop);
        joined.map_err(of_several(Step::ControlGroup, index))?;
    }
    rustix::process::setsid().map_err(at(Step::Session))?;
    // In its groups now, so these become the root of what it sees of them.
    sys::unshare(UnshareFlags::NEWCGROUP).map_err(at(Step::ControlGroupNamespace))?;

    mount_proc().map_err(at(Step::Proc))?;
    unmount(c".", UnmountFlags::DETACH).map_err(at(Step::OldRoot))?;
    if program.restricted {
        mask().map_err(at(Step::Masks))?;
    }
    mount_control_groups();

    connect(program).map_err(at(Step::Streams))?;
    for (index, (resource, limit)) in program.limits.iter().enumerate() {
        setrlimit(*resource, *limit).map_err(of_several(Step::Limit, index))?;
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
    die_with(program.keeper).map_err(at(Step::Session))?;
    match sys::close_from_on_exec(3) {
        // Before Linux 5.11: everything of strata's is close-on-exec by itself.
        Ok(()) | Err(Errno::INVAL | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(at(Step::Streams)(errno)),
    }
}

/// SIGKILL when the thread that started this process ends, also if it has ended already.
fn die_with(keeper: BorrowedFd<'_>) -> Result<(), Errno> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut ends = [PollFd::from_borrowed_fd(keeper, PollFlags::IN)];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut ends, Some(&now))? {
        0 => Ok(()),
        _ => sys::exit_now(127),
    }
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
