//! The system calls that rustix does not have, each as one safe function where that is possible.

#![expect(unsafe_code, reason = "raw system calls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

/// What `mount_setattr` changes.
#[derive(Clone, Copy)]
pub(super) struct MountAttributes {
    /// `MOUNT_ATTR_*` to set.
    pub(super) set: u64,
    /// Whether mounts below are changed too.
    pub(super) recursive: bool,
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}

/// Changes the attributes of the mount that `mount` is the root of.
pub(super) fn mount_setattr(
    mount: BorrowedFd<'_>,
    attributes: MountAttributes,
) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH
        | if attributes.recursive {
            libc::AT_RECURSIVE
        } else {
            0
        };
    // SAFETY: the path is a C string, and `attr` is alive and as long as the size says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// What a process started by [`start_in_pid_namespace`] stands on; its pages are there when they are used.
const STACK_BYTES: usize = 256 << 10;

/// Its lower end that may not be used, at least one page of any size.
const GUARD_BYTES: usize = 64 << 10;

/// Memory for a stack. Who runs over its end, ends.
struct Stack {
    start: *mut libc::c_void,
}

impl Stack {
    fn new() -> Result<Self, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: new memory, at a place of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), STACK_BYTES, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let stack = Self { start };
        // SAFETY: the start of memory that nobody else knows of.
        match unsafe { libc::mprotect(start, GUARD_BYTES, libc::PROT_NONE) } {
            0 => Ok(stack),
            _ => Err(last_errno()),
        }
    }

    /// Where it begins: it grows downwards.
    fn top(&self) -> *mut libc::c_void {
        self.start.wrapping_byte_add(STACK_BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped; whoever stood on it has ended or has memory of its own.
        unsafe { libc::munmap(self.start, STACK_BYTES) };
    }
}

/// Starts a process in a new PID namespace and waits until it has executed a program or ended; says its number and gives a
/// descriptor of it. Until then it uses the memory of this one, as after `vfork(2)`, and has a stack of its own: copying the page
/// tables of a large process, and every page that is written to afterwards, would cost more than the rest of a sandbox.
///
/// All signals should be blocked: a handler that ran in the new process would change the memory of this one. A child that becomes
/// another user closes this memory to that user's debuggers, for good: the kernel then clears the "dumpable" of both (prctl(2)).
///
/// # Safety
///
/// `child` may only make system calls (in particular neither allocate, nor take a lock, nor unwind), and must end in `execve` or
/// `_exit`. `argument` must be good for it.
pub(super) unsafe fn start_in_pid_namespace(
    child: extern "C" fn(*mut libc::c_void) -> libc::c_int,
    argument: *mut libc::c_void,
) -> Result<(Pid, OwnedFd), Errno> {
    let stack = Stack::new()?;
    let mut pidfd: libc::c_int = -1;
    let flags =
        libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_NEWPID | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the stack is the child's alone and outlives it, for CLONE_VFORK lets this thread go on when the child no longer uses
    // this memory. With CLONE_PIDFD the descriptor goes where the fifth argument says, which outlives the call. The caller vouches
    // for the child's conduct.
    let pid = unsafe { libc::clone(child, stack.top(), flags, argument, &raw mut pidfd) };
    let pid = Pid::from_raw(pid)
        .filter(|_| pid > 0)
        .ok_or_else(last_errno)?;
    // SAFETY: the kernel has just made the descriptor for us, and nobody else knows it.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// A descriptor that can be read from once this thread has ended; before Linux 6.9, once its process has.
pub(super) fn this_thread() -> Result<OwnedFd, Errno> {
    const PIDFD_THREAD: u32 = libc::O_EXCL.cast_unsigned();
    let flags = rustix::process::PidfdFlags::from_bits_retain(PIDFD_THREAD);
    match rustix::process::pidfd_open(rustix::thread::gettid(), flags) {
        Err(Errno::INVAL) => rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        ),
        opened => opened,
    }
}

/// Forks a process that has one thread.
///
/// # Safety
///
/// The process must have a single thread, or the child keep to system calls until it ends.
pub(super) unsafe fn fork() -> Result<Option<Pid>, Errno> {
    // SAFETY: the caller vouches for the child's conduct.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(last_errno());
    }
    Ok(Pid::from_raw(pid))
}

/// Ends the process at once, with no destructor and no exit handler.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` is always safe to call.
    unsafe { libc::_exit(code) }
}

/// Leaves the namespaces of the other threads. See `unshare(2)`; never `CLONE_FILES`.
pub(super) fn unshare(flags: rustix::thread::UnshareFlags) -> Result<(), Errno> {
    debug_assert!(
        !flags.contains(rustix::thread::UnshareFlags::FILES),
        "descriptors stay shared"
    );
    // SAFETY: the descriptor table is not unshared, which is the only hazard of this call.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Installs a seccomp filter for this thread without setting no_new_privs, which takes CAP_SYS_ADMIN.
pub(super) fn load_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, of which pointer and length are right, and does not write to it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const header,
        )
    };
    check(result).map(drop)
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(super) fn close_from_on_exec(first: u32) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: three integers; closes nothing yet.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// Takes a capability out of the bounding set; `false` if the kernel knows no such number.
pub(super) fn drop_bounding(capability: u32) -> Result<bool, Errno> {
    // SAFETY: integers only.
    match check(unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0)
    }) {
        Ok(_) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Blocks every signal for this thread and returns what was blocked before.
pub(super) fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are plain data that the calls below fill.
    let (mut all, mut old) = unsafe {
        (
            std::mem::zeroed::<libc::sigset_t>(),
            std::mem::zeroed::<libc::sigset_t>(),
        )
    };
    // SAFETY: both pointers are to live sets.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
    }
    old
}

/// Puts back what [`block_signals`] returned.
pub(super) fn restore_signals(old: &libc::sigset_t) {
    // SAFETY: `old` is a live set; the old value is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old, std::ptr::null_mut()) };
}

/// Gives every signal its default action and blocks none: what a command expects to start with.
pub(super) fn reset_signals() {
    // The kernel's struct sigaction, at most 32 bytes on any architecture: all zero is SIG_DFL, no flags, an empty mask. The C
    // library's function would refuse the two signals that it keeps for itself.
    let default = [0_u64; 4];
    let mask_bytes = size_of::<u64>();
    for signal in 1..=64 {
        // SAFETY: the pointer is to a live struct, the old action is not asked for. SIGKILL and SIGSTOP are refused, which does
        // no harm.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                mask_bytes,
            )
        };
    }
    let none = 0_u64;
    // SAFETY: as above, with a live mask of that size.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            mask_bytes,
        )
    };
}

/// Switches the loopback interface of this thread's network namespace on.
pub(super) fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes_with_nul()) {
        *to = from.cast_signed() as libc::c_char;
    }
    // Up and running; the constants are wider than the field they are for.
    request.ifr_ifru.ifru_flags = 0x1 | 0x40;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw const request,
        )
    })
    .map(drop)
}

/// Replaces the process by a program. Returns only if that failed.
///
/// # Safety
///
/// Both lists must be null-terminated arrays of pointers to C strings that are alive.
pub(super) unsafe fn execve(
    path: &std::ffi::CStr,
    arguments: *const *const libc::c_char,
    environment: *const *const libc::c_char,
) -> Errno {
    // SAFETY: `path` is a C string, the caller vouches for the lists.
    unsafe { libc::execve(path.as_ptr(), arguments, environment) };
    last_errno()
}
