//! An ordinary user as the root of a user namespace.
//!
//! With ranges in /etc/subuid and /etc/subgid and the programs newuidmap and newgidmap, ids 1 and up are the ranges', one after
//! the other. Without them there is a single id: every file belongs to 0, and a filter of the sandbox lets calls that would give
//! it to another id succeed without doing anything.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getegid, geteuid, getpid, waitpid};
use rustix::thread::{
    CapabilitySet, Gid, Uid, UnshareFlags, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::error::SandboxError;
use super::overlay::make_private;
use super::sys;

/// What this process may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// The machine's root.
    Root,
    /// The root of a user namespace with this many ids.
    Mapped {
        /// How many user ids there are.
        uids: u64,
        /// How many group ids there are.
        gids: u64,
    },
    /// The root of a user namespace where no other id exists.
    Single {
        /// Why there is no range of ids, in words.
        reason: String,
    },
}

impl Privilege {
    /// Whether overlay mounts must keep their attributes in `user.overlay.*`.
    pub fn userxattr(&self) -> bool {
        *self != Self::Root
    }

    /// Whether device nodes can be made (whiteouts can be by everyone).
    pub fn can_mknod(&self) -> bool {
        *self == Self::Root
    }

    /// Whether files can be given to another user.
    pub fn can_chown(&self) -> bool {
        !matches!(self, Self::Single { .. })
    }
}

static CURRENT: OnceLock<Privilege> = OnceLock::new();

/// What [`enter`] found; if it was not called, what this process has anyway.
pub fn current() -> &'static Privilege {
    CURRENT.get_or_init(|| inside().unwrap_or(Privilege::Root))
}

/// Becomes able to build: root stays as it is, an ordinary user becomes root of a new user namespace, with a mount namespace of
/// its own. The process keeps its pid and its environment.
///
/// To be called first thing in `main`: a process with threads cannot enter a user namespace.
///
/// # Errors
///
/// If the kernel forbids it, with what forbids it in words.
pub fn enter() -> Result<Privilege, SandboxError> {
    let privilege = if has_sys_admin() {
        inside().unwrap_or(Privilege::Root)
    } else {
        let ids = Ids {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        };
        let before = (
            id_ranges("/proc/self/uid_map"),
            id_ranges("/proc/self/gid_map"),
        );
        let plan = if ids.uid == 0 {
            Plan::identity(before.0, before.1)
        } else {
            Plan::of_user(ids)
        };
        become_root(ids, plan)?
    };
    Ok(CURRENT.get_or_init(|| privilege).clone())
}

/// The privilege of a process that is in a user namespace already; `None` outside of any.
fn inside() -> Option<Privilege> {
    let total = |map: &str| {
        id_ranges(map)
            .iter()
            .fold(0_u64, |sum, range| sum.saturating_add(range.length))
    };
    let (uids, gids) = (total("/proc/self/uid_map"), total("/proc/self/gid_map"));
    match uids {
        // The initial namespace maps every id there is; no /proc tells nothing else.
        4_294_967_295 | 0 => None,
        1 => Some(Privilege::Single {
            reason: "the user namespace that strata was started in has one id".to_owned(),
        }),
        _ => Some(Privilege::Mapped { uids, gids }),
    }
}

fn has_sys_admin() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

#[derive(Clone, Copy)]
struct Ids {
    uid: u32,
    gid: u32,
}

/// A line of an id map: `length` ids from `inside` are those from `outside`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    inside: u64,
    outside: u64,
    length: u64,
}

fn id_ranges(path: &str) -> Vec<Range> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let number = |field: Option<&str>| field.and_then(|text| text.parse().ok());
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let [inside, outside, length] =
                [fields.next(), fields.next(), fields.next()].map(number);
            Some(Range {
                inside: inside?,
                outside: outside?,
                length: length?,
            })
        })
        .collect()
}

/// How the ids of the new namespace are to be written.
enum Plan {
    /// By the helper itself, which has the capabilities for it: root without CAP_SYS_ADMIN.
    Write { uids: Vec<Range>, gids: Vec<Range> },
    /// By newuidmap and newgidmap.
    Programs { uids: Vec<Range>, gids: Vec<Range> },
    /// The own id only.
    Single(String),
}

impl Plan {
    fn identity(uids: Vec<Range>, gids: Vec<Range>) -> Self {
        let same = |ranges: Vec<Range>| {
            ranges
                .into_iter()
                .map(|range| Range {
                    outside: range.inside,
                    ..range
                })
                .collect()
        };
        Self::Write {
            uids: same(uids),
            gids: same(gids),
        }
    }

    fn of_user(ids: Ids) -> Self {
        let name = fs::read_to_string("/etc/passwd")
            .ok()
            .and_then(|passwd| user_name(&passwd, ids.uid));
        let user = name.clone().unwrap_or_else(|| ids.uid.to_string());
        let read = |path: &str, own: u32| {
            let text = fs::read_to_string(path).unwrap_or_default();
            map_of(own, &subordinate(&text, name.as_deref(), ids.uid))
        };
        let uids = read("/etc/subuid", ids.uid);
        let gids = read("/etc/subgid", ids.gid);
        if uids.len() < 2 {
            return Self::Single(format!("/etc/subuid has no range for {user}"));
        }
        if gids.len() < 2 {
            return Self::Single(format!("/etc/subgid has no range for {user}"));
        }
        for program in ["newuidmap", "newgidmap"] {
            if find_program(program).is_none() {
                return Self::Single(format!(
                    "{program} is not installed (Debian: uidmap, Fedora: shadow-utils)"
                ));
            }
        }
        Self::Programs { uids, gids }
    }
}

/// The name of a user in the text of /etc/passwd.
fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == uid).then(|| name.to_owned())
    })
}

/// The ranges (first, length) that the text of /etc/subuid or /etc/subgid gives a user, by name or number.
fn subordinate(text: &str, name: Option<&str>, uid: u32) -> Vec<(u64, u64)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let first = fields.next()?.parse().ok()?;
            let length = fields.next()?.parse().ok()?;
            let ours = Some(owner) == name || owner.parse() == Ok(uid);
            (ours && length > 0).then_some((first, length))
        })
        .collect()
}

/// 0 is the own id, the ranges follow.
fn map_of(own: u32, ranges: &[(u64, u64)]) -> Vec<Range> {
    let mut map = vec![Range {
        inside: 0,
        outside: own.into(),
        length: 1,
    }];
    let mut next: u64 = 1;
    for &(first, length) in ranges {
        // Ids are 32 bits wide, and the last one means "none".
        let length = length.min(u64::from(u32::MAX).saturating_sub(next));
        if length > 0 {
            map.push(Range {
                inside: next,
                outside: first,
                length,
            });
            next += length;
        }
    }
    map
}

/// Where set-user-id programs are. The environment is not asked: it may lead to another program.
fn find_program(name: &str) -> Option<String> {
    [
        "/usr/bin",
        "/bin",
        "/usr/sbin",
        "/sbin",
        "/usr/local/bin",
        "/run/wrappers/bin",
    ]
    .iter()
    .map(|folder| format!("{folder}/{name}"))
    .find(|path| Path::new(path).exists())
}

fn become_root(ids: Ids, plan: Plan) -> Result<Privilege, SandboxError> {
    let step = |step: &'static str| {
        move |error: Errno| SandboxError::UserNamespace {
            step,
            source: error.into(),
        }
    };
    let (privilege, helper) = match plan {
        Plan::Single(reason) => (Privilege::Single { reason }, None),
        Plan::Write { uids, gids } => {
            let privilege = mapped(&uids, &gids);
            (
                privilege,
                Some(Helper::start(move |pid| write_maps(pid, &uids, &gids))?),
            )
        }
        Plan::Programs { uids, gids } => {
            let privilege = mapped(&uids, &gids);
            (
                privilege,
                Some(Helper::start(move |pid| run_programs(pid, &uids, &gids))?),
            )
        }
    };
    // Before this call there must be a helper outside the namespace, for only from outside can more than the own id be mapped.
    sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(refused)?;
    let privilege = match helper.map(Helper::finish) {
        None => privilege,
        Some(Ok(())) => privilege,
        // Nothing was written, so the own id can still be mapped.
        Some(Err(reason)) => Privilege::Single { reason },
    };
    if let Privilege::Single { .. } = privilege {
        let write = |path: &str, text: String| {
            fs::write(path, text).map_err(|source| SandboxError::UserNamespace {
                step: "mapping the own id",
                source,
            })
        };
        // The kernel wants this before an unprivileged gid_map.
        write("/proc/self/setgroups", "deny".to_owned())?;
        write("/proc/self/uid_map", format!("0 {} 1", ids.uid))?;
        write("/proc/self/gid_map", format!("0 {} 1", ids.gid))?;
    }
    // One thread, so the calls for a thread are calls for the process. Groups first: afterwards they could not be left.
    if privilege.can_chown() {
        set_thread_groups(&[]).map_err(step("leaving the supplementary groups"))?;
    }
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(step("becoming group 0"))?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(step("becoming user 0"))?;
    make_private().map_err(step("private mount propagation"))?;
    Ok(privilege)
}

fn mapped(uids: &[Range], gids: &[Range]) -> Privilege {
    let total = |ranges: &[Range]| ranges.iter().map(|range| range.length).sum();
    Privilege::Mapped {
        uids: total(uids),
        gids: total(gids),
    }
}

/// Why the kernel refused a user namespace, as far as it can be found out.
fn refused(error: Errno) -> SandboxError {
    let setting = |path: &str| {
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    if error == Errno::INVAL && fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1)
    {
        return SandboxError::ManyThreads;
    }
    let hint = if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        "user namespaces are switched off for ordinary users: sysctl kernel.unprivileged_userns_clone=1".to_owned()
    } else if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        "user namespaces are switched off: sysctl user.max_user_namespaces=15000".to_owned()
    } else if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref()
        == Some("1")
    {
        "AppArmor restricts user namespaces: give strata a profile that allows userns, or sysctl \
         kernel.apparmor_restrict_unprivileged_userns=0"
            .to_owned()
    } else if geteuid().is_root() {
        "root here has no CAP_SYS_ADMIN, as in a container: start the container with a seccomp profile that allows unshare and \
         mount, or with CAP_SYS_ADMIN"
            .to_owned()
    } else {
        "a seccomp profile or security module of the surroundings forbids it, as in a container"
            .to_owned()
    };
    SandboxError::Unprivileged {
        what: "a user namespace",
        hint,
        source: error.into(),
    }
}

/// A process that stays outside the namespace and maps its ids.
struct Helper {
    pid: Pid,
    /// A byte in here says that the namespace exists.
    go: OwnedFd,
    /// What went wrong, in words; nothing if all is well.
    report: OwnedFd,
}

impl Helper {
    #[expect(unsafe_code, reason = "fork")]
    fn start(map: impl FnOnce(Pid) -> Result<(), String>) -> Result<Self, SandboxError> {
        let step = |step: &'static str| {
            move |error: Errno| SandboxError::UserNamespace {
                step,
                source: error.into(),
            }
        };
        if fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
            return Err(SandboxError::ManyThreads);
        }
        let (go_read, go) = pipe_with(PipeFlags::CLOEXEC).map_err(step("a pipe"))?;
        let (report, report_write) = pipe_with(PipeFlags::CLOEXEC).map_err(step("a pipe"))?;
        let parent = getpid();
        // SAFETY: this is the only thread, as counted above, so the child may do what it likes.
        match unsafe { sys::fork() }.map_err(step("starting a helper process"))? {
            Some(pid) => Ok(Self { pid, go, report }),
            None => {
                drop((go, report));
                // No byte: the namespace was refused, there is nothing to map.
                if let Ok(1) = fs::File::from(go_read).read(&mut [0])
                    && let Err(reason) = map(parent)
                {
                    // Nobody is left to tell if this fails; the exit code says the same.
                    let told = fs::File::from(report_write).write_all(reason.as_bytes());
                    sys::exit_now(if told.is_ok() { 1 } else { 2 });
                }
                sys::exit_now(0)
            }
        }
    }

    fn finish(self) -> Result<(), String> {
        let words = |error: io::Error| format!("the helper that maps ids failed: {error}");
        rustix::io::write(&self.go, &[1]).map_err(|error| words(error.into()))?;
        drop(self.go);
        let mut reason = String::new();
        fs::File::from(self.report)
            .read_to_string(&mut reason)
            .map_err(words)?;
        let status = loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                other => break other.map_err(|error| words(error.into()))?,
            }
        };
        match (
            reason.is_empty(),
            status.and_then(|(_, status)| status.exit_status()),
        ) {
            (true, Some(0)) => Ok(()),
            (false, _) => Err(reason),
            (true, code) => Err(format!("the helper that maps ids ended with {code:?}")),
        }
    }
}

fn write_maps(pid: Pid, uids: &[Range], gids: &[Range]) -> Result<(), String> {
    for (name, ranges) in [("uid_map", uids), ("gid_map", gids)] {
        let text: String = ranges
            .iter()
            .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.length))
            .collect();
        let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
        fs::write(&path, text).map_err(|error| format!("cannot write {path}: {error}"))?;
    }
    Ok(())
}

fn run_programs(pid: Pid, uids: &[Range], gids: &[Range]) -> Result<(), String> {
    for (name, ranges) in [("newuidmap", uids), ("newgidmap", gids)] {
        let program = find_program(name).ok_or_else(|| format!("{name} is not installed"))?;
        let numbers = ranges
            .iter()
            .flat_map(|range| [range.inside, range.outside, range.length]);
        let output = Command::new(program)
            .arg(pid.as_raw_nonzero().to_string())
            .args(numbers.map(|number| number.to_string()))
            .env_clear()
            .output()
            .map_err(|error| format!("cannot run {name}: {error}"))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "{name} failed ({}): {}",
                output.status,
                words.trim()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ranges_are_found_by_name_and_by_number() {
        let text = "alice:100000:65536\nbob:165536:65536\n1000:300000:10\n# no\nalice:x:1\nalice:500000:0\n";
        for (name, uid, expected) in [
            (Some("alice"), 1000, vec![(100_000, 65_536), (300_000, 10)]),
            (Some("bob"), 1001, vec![(165_536, 65_536)]),
            (None, 1000, vec![(300_000, 10)]),
            (Some("carol"), 1002, vec![]),
        ] {
            assert_eq!(subordinate(text, name, uid), expected, "{name:?} {uid}");
        }
    }

    #[test]
    fn ranges_follow_the_own_id_and_stay_below_the_last() {
        let range = |inside, outside, length| Range {
            inside,
            outside,
            length,
        };
        assert_eq!(map_of(1000, &[]), [range(0, 1000, 1)]);
        assert_eq!(
            map_of(1000, &[(100_000, 65_536), (300_000, 10)]),
            [
                range(0, 1000, 1),
                range(1, 100_000, 65_536),
                range(65_537, 300_000, 10)
            ]
        );
        assert_eq!(
            map_of(0, &[(1, u64::MAX)]),
            [range(0, 0, 1), range(1, 1, 4_294_967_294)]
        );
    }

    #[test]
    fn a_user_has_a_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nalice:x:1000:1000::/:\n";
        assert_eq!(user_name(passwd, 1000).as_deref(), Some("alice"));
        assert_eq!(user_name(passwd, 1), None);
    }
}
