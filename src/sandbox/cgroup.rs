//! Control groups: limits of memory, CPU time and processes, on hierarchies of version 1 and 2.
//!
//! A group is a directory `strata-<pid>-<number>` in each hierarchy that is needed; [`Group`] removes it. Groups that a killed
//! strata left are empty, for its sandboxes died with it; [`reap`] removes them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::SandboxError;
use super::spec::Limits;

/// The period of the CPU quota in microseconds, the kernel's default: short enough not to be felt, long enough to be cheap.
const CPU_PERIOD_US: u64 = 100_000;

/// The smallest quota that the kernel takes, in microseconds.
const MIN_CPU_QUOTA_US: u64 = 1_000;

/// The processes of a group.
const PROCESSES: &str = "cgroup.procs";

/// A controller that has a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Controller {
    Memory,
    Cpu,
    Pids,
}

const CONTROLLERS: [Controller; 3] = [Controller::Memory, Controller::Cpu, Controller::Pids];

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// A mounted hierarchy, and where in it this process is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Hierarchy {
    mount: PathBuf,
    /// This process's own group.
    own: PathBuf,
    /// The controllers of a version 1 hierarchy; `None` is version 2.
    controllers: Option<Vec<String>>,
}

/// A file of a group and what is written to it; files that not every kernel has are optional.
struct Setting {
    file: &'static str,
    value: String,
    optional: bool,
}

/// The control groups of one sandbox. Dropping it removes them; the processes in them must have ended.
#[derive(Debug)]
pub struct Group {
    directories: Vec<PathBuf>,
    /// The file [`PROCESSES`] of each.
    processes: Vec<OwnedFd>,
}

impl Group {
    /// Makes groups for `limits`; none for no limits.
    ///
    /// # Errors
    ///
    /// [`SandboxError::ControlGroup`] if a limit cannot be held: it was asked for.
    pub fn new(limits: &Limits) -> Result<Self, SandboxError> {
        let mut group = Self {
            directories: Vec::new(),
            processes: Vec::new(),
        };
        if limits.is_empty() {
            return Ok(group);
        }
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "strata-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let hierarchies = hierarchies();
        for controller in CONTROLLERS {
            let first = hierarchies
                .iter()
                .filter_map(|hierarchy| hierarchy.controllers.as_ref());
            let v1 = first.flatten().any(|name| name == controller.name());
            let settings = settings(limits, controller, v1);
            if settings.is_empty() {
                continue;
            }
            let directory = group.directory(&hierarchies, controller, &name)?;
            for setting in settings {
                match fs::write(directory.join(setting.file), &setting.value) {
                    Err(_) if setting.optional => {}
                    result => result.map_err(|source| SandboxError::ControlGroup {
                        controller: controller.name(),
                        reason: format!(
                            "{} does not take {}",
                            directory.join(setting.file).display(),
                            setting.value
                        ),
                        source,
                    })?,
                }
            }
        }
        let open = |(index, directory): (usize, &PathBuf)| {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(directory.join(PROCESSES));
            file.map(OwnedFd::from)
                .map_err(|source| group.refusal(index, source))
        };
        let opened = group.directories.iter().enumerate().map(open);
        group.processes = opened.collect::<Result<_, _>>()?;
        Ok(group)
    }

    /// Where a process writes `0` to join the groups, whatever its root is.
    pub(super) fn processes(&self) -> &[OwnedFd] {
        &self.processes
    }

    /// Why a process could not join one of them, by its place among them.
    pub(super) fn refusal(&self, index: usize, source: io::Error) -> SandboxError {
        let directory = self
            .directories
            .get(index)
            .map_or(Path::new(""), PathBuf::as_path);
        SandboxError::ControlGroup {
            controller: "a process",
            reason: format!("{} does not take it", directory.join(PROCESSES).display()),
            source,
        }
    }

    /// The directory of this group in the hierarchy of `controller`, made if it is not there yet.
    fn directory(
        &mut self,
        hierarchies: &[Hierarchy],
        controller: Controller,
        name: &str,
    ) -> Result<PathBuf, SandboxError> {
        let mut refusal = (
            "no mounted hierarchy has this controller".to_owned(),
            io::Error::from(io::ErrorKind::NotFound),
        );
        for parent in candidates(hierarchies, controller) {
            let directory = parent.join(name);
            if self.directories.contains(&directory) {
                return Ok(directory);
            }
            match fs::create_dir(&directory) {
                Ok(()) => {
                    self.directories.push(directory.clone());
                    return Ok(directory);
                }
                Err(source) => {
                    refusal = (
                        format!(
                            "cannot make {}: a delegated control group or root is needed",
                            directory.display()
                        ),
                        source,
                    )
                }
            }
        }
        let (reason, source) = refusal;
        Err(SandboxError::ControlGroup {
            controller: controller.name(),
            reason,
            source,
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for directory in &self.directories {
            // What is still in use is left to the next `reap`.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Removes the groups of strata processes that are no more. Returns how many.
pub fn reap() -> usize {
    let hierarchies = hierarchies();
    let mut parents: Vec<PathBuf> = CONTROLLERS
        .iter()
        .flat_map(|controller| possible_parents(&hierarchies, *controller))
        .collect();
    parents.sort_unstable();
    parents.dedup();
    let mut removed = 0;
    for entry in parents
        .iter()
        .filter_map(|parent| fs::read_dir(parent).ok())
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| {
            name.strip_prefix("strata-")?
                .split('-')
                .next()?
                .parse::<u32>()
                .ok()
        });
        if let Some(owner) = owner
            && !Path::new(&format!("/proc/{owner}")).exists()
        {
            // The kernel refuses if a process is left in it.
            removed += usize::from(fs::remove_dir(entry.path()).is_ok());
        }
    }
    removed
}

fn settings(limits: &Limits, controller: Controller, v1: bool) -> Vec<Setting> {
    let setting = |file, value: String| Setting {
        file,
        value,
        optional: false,
    };
    // Swap is an extra of some kernels; docker's default is as much swap as memory.
    let swap = |file, value: u64| Setting {
        file,
        value: value.to_string(),
        optional: true,
    };
    match controller {
        Controller::Memory => limits.memory_bytes.map_or(Vec::new(), |bytes| {
            if v1 {
                vec![
                    setting("memory.limit_in_bytes", bytes.to_string()),
                    swap("memory.memsw.limit_in_bytes", bytes.saturating_mul(2)),
                ]
            } else {
                vec![
                    setting("memory.max", bytes.to_string()),
                    swap("memory.swap.max", bytes),
                ]
            }
        }),
        Controller::Cpu => limits.cpus.map_or(Vec::new(), |cpus| {
            let quota = quota_us(cpus);
            if v1 {
                vec![
                    setting("cpu.cfs_period_us", CPU_PERIOD_US.to_string()),
                    setting("cpu.cfs_quota_us", quota.to_string()),
                ]
            } else {
                vec![setting("cpu.max", format!("{quota} {CPU_PERIOD_US}"))]
            }
        }),
        Controller::Pids => limits.pids.map_or(Vec::new(), |pids| {
            vec![setting("pids.max", pids.to_string())]
        }),
    }
}

fn quota_us(cpus: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "saturates, and rounding is meant"
    )]
    let quota = (cpus * CPU_PERIOD_US as f64).round() as u64;
    quota.max(MIN_CPU_QUOTA_US)
}

/// Where a group that limits `controller` could be.
fn possible_parents(hierarchies: &[Hierarchy], controller: Controller) -> Vec<PathBuf> {
    let named = |hierarchy: &&Hierarchy| {
        hierarchy
            .controllers
            .as_ref()
            .is_some_and(|names| names.iter().any(|name| name == controller.name()))
    };
    if let Some(first) = hierarchies.iter().find(named) {
        return vec![first.own.clone(), first.mount.clone()];
    }
    // In version 2 a group with processes, such as our own, has no limited groups below it: so one beside it, or at the top.
    let second = hierarchies
        .iter()
        .filter(|hierarchy| hierarchy.controllers.is_none());
    second
        .flat_map(|hierarchy| {
            let beside = hierarchy
                .own
                .parent()
                .filter(|parent| parent.starts_with(&hierarchy.mount));
            beside
                .map(Path::to_owned)
                .into_iter()
                .chain([hierarchy.mount.clone()])
        })
        .collect()
}

/// [`possible_parents`] that really give their children the controller.
fn candidates(hierarchies: &[Hierarchy], controller: Controller) -> Vec<PathBuf> {
    let mut parents = possible_parents(hierarchies, controller);
    let word = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_ascii_whitespace()
            .any(|name| name == controller.name())
    };
    parents.retain(|parent| {
        let control = parent.join("cgroup.subtree_control");
        // Only version 2 has the file.
        if !control.exists() || word(control.clone()) {
            return true;
        }
        word(parent.join("cgroup.controllers"))
            && fs::write(control, format!("+{}", controller.name())).is_ok()
    });
    parents
}

fn hierarchies() -> Vec<Hierarchy> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

/// Hierarchies by the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn parse(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let own_path = |wanted: &dyn Fn(&str) -> bool| {
        cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            wanted(names).then(|| path.to_owned())
        })
    };
    let mounted = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, mount) = (fields.next()?, PathBuf::from(fields.next()?));
        let mut fields = after.split(' ');
        let kind = fields.next()?;
        let options = fields.nth(1)?;
        let (path, controllers) = match kind {
            "cgroup2" => (own_path(&str::is_empty)?, None),
            "cgroup" => {
                let names = CONTROLLERS.map(Controller::name);
                let has: Vec<String> = options
                    .split(',')
                    .filter(|option| names.contains(option))
                    .map(str::to_owned)
                    .collect();
                let first = has.first()?.clone();
                (
                    own_path(&|names| names.split(',').any(|name| name == first))?,
                    Some(has),
                )
            }
            _ => return None,
        };
        // A mount shows the tree from its root down; a group outside of that is not visible at all.
        let below = Path::new(&path).strip_prefix(root).unwrap_or(Path::new(""));
        let own = mount.join(below.strip_prefix("/").unwrap_or(below));
        Some(Hierarchy {
            mount,
            own,
            controllers,
        })
    });
    mounted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let hybrid = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let own = "4:memory:/jobs/a\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n";
        let found = parse(hybrid, own);
        let of = |mount: &str, own: &str, controllers: Option<&[&str]>| Hierarchy {
            mount: mount.into(),
            own: own.into(),
            controllers: controllers
                .map(|names| names.iter().map(|&name| name.to_owned()).collect()),
        };
        assert_eq!(
            found,
            [
                of(
                    "/sys/fs/cgroup/cpu,cpuacct",
                    "/sys/fs/cgroup/cpu,cpuacct/",
                    Some(&["cpu"])
                ),
                of(
                    "/sys/fs/cgroup/memory",
                    "/sys/fs/cgroup/memory/jobs/a",
                    Some(&["memory"])
                ),
                of("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/", None),
            ]
        );

        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = parse(unified, "0::/user.slice/user-1000.slice/session-2.scope\n");
        assert_eq!(
            possible_parents(&found, Controller::Memory),
            [
                Path::new("/sys/fs/cgroup/user.slice/user-1000.slice"),
                Path::new("/sys/fs/cgroup")
            ]
        );
        assert_eq!(parse("", ""), []);
    }

    #[test]
    fn a_container_sees_its_group_as_the_root() {
        let info = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let found = parse(info, "4:memory:/docker/abc\n");
        assert_eq!(
            found.first().map(|found| found.own.as_path()),
            Some(Path::new("/sys/fs/cgroup/memory/"))
        );
    }

    #[test]
    fn quotas_are_microseconds_of_a_period() {
        for (cpus, expected) in [
            (1.0, 100_000),
            (1.5, 150_000),
            (0.001, 1_000),
            (0.0, 1_000),
            (-3.0, 1_000),
        ] {
            assert_eq!(quota_us(cpus), expected, "{cpus}");
        }
    }
}
