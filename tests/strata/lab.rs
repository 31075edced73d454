//! What a test of the whole program stands on: a folder of its own, a store in it, base images in a registry, and the binary.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bases::Bases;
use crate::registry::Registry;
use crate::user::User;

/// How long anything is waited for, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A folder, a store, a registry.
pub(crate) struct Lab {
    pub(crate) registry: Registry,
    /// The folder commands run in.
    pub(crate) folder: PathBuf,
    /// The store.
    pub(crate) root: PathBuf,
    /// The builder, where every user can run it.
    binary: PathBuf,
    /// Who runs the commands, if it is not who runs the tests.
    pub(crate) user: Option<User>,
    _temp: TempDir,
}

impl Lab {
    /// A lab of who runs the tests.
    pub(crate) fn new() -> Lab {
        Lab::of(None)
    }

    /// A lab of a user.
    pub(crate) fn of(user: Option<User>) -> Lab {
        let parent =
            std::env::var_os("STRATA_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let temp = tempfile::Builder::new()
            .prefix("strata-tests-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(parent)
            .expect("a folder to work in");
        let top = temp.path().canonicalize().expect("the folder is there");
        let folder = top.join("here");
        std::fs::create_dir_all(top.join("bin")).expect("make a folder");
        std::fs::create_dir_all(&folder).expect("make a folder");
        std::fs::create_dir_all(top.join("home")).expect("make a folder");
        if let Some(user) = &user {
            user.own(&top).expect("give the folder away");
        }
        let binary = top.join("bin/strata");
        if std::fs::hard_link(env!("CARGO_BIN_EXE_strata"), &binary).is_err() {
            std::fs::copy(env!("CARGO_BIN_EXE_strata"), &binary).expect("copy the binary");
        }
        let bases = bases();
        Lab {
            registry: Registry::start(bases.blobs.clone(), bases.tags.clone()),
            folder,
            root: top.join("store"),
            binary,
            user,
            _temp: temp,
        }
    }

    /// A new empty folder beside the others, not in the folder of the commands.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        let path = self.folder.with_file_name(name);
        std::fs::create_dir_all(&path).expect("make a folder");
        if let Some(user) = &self.user {
            user.own(&path).expect("give the folder away");
        }
        path
    }

    /// Writes a file of the folder, its parents too; `@REG@` in it becomes the registry's address.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("make a folder");
        let text = text.replace("@REG@", &self.registry.host());
        std::fs::write(path, text).expect("write a file");
        if let Some(user) = &self.user {
            user.own(&self.folder).expect("give the folder away");
        }
    }

    /// `strata --root STORE ARGUMENTS` in the folder, with nothing of the tester's own surroundings.
    pub(crate) fn strata(&self, arguments: &[&str]) -> Command {
        self.strata_on(&self.root, arguments)
    }

    /// The same on another store.
    pub(crate) fn strata_on(&self, root: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        let host = self.registry.host();
        command
            .arg("--root")
            .arg(root)
            .args(arguments.iter().map(|a| a.replace("@REG@", &host)));
        self.surround(&mut command);
        command
    }

    /// The words of a shell in which `strata` works on the store.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-euc", &script.replace("@REG@", &self.registry.host())])
            .env("STRATA_ROOT", &self.root);
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        let root = std::mem::take(&mut command.get_envs().find_map(|(name, value)| {
            (name == "STRATA_ROOT").then(|| value.map(ToOwned::to_owned))?
        }));
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        let own = self.binary.parent().expect("in a folder").display();
        command
            .env_clear()
            .env("PATH", format!("{own}:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("HOME", self.folder.with_file_name("home"))
            .env("USER", self.user.as_ref().map_or("root", |user| &user.name))
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        if let Some(root) = root {
            command.env("STRATA_ROOT", root);
        }
    }

    /// Runs a command that must succeed; its standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        succeed(&mut self.strata(arguments))
    }

    /// The names of the images in the store, and their digests.
    pub(crate) fn images(&self) -> String {
        self.ok(&["images", "--no-trunc", "--format", "json"])
    }

    /// Asserts that the store is what it promises, and that nothing is left of what was being written.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let checked = self.strata(&["check", "--full"]).output().expect("run it");
        assert!(checked.status.success(), "check: {}", said(&checked));
        let left = files(&self.root.join("work"));
        assert!(left.is_empty(), "left in work/: {left:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
        let root = self.root.display().to_string();
        assert!(!mounts.contains(&root), "still mounted: {mounts}");
    }
}

/// The labs of who runs the tests and, if that is root, of an ordinary user.
pub(crate) fn labs() -> Vec<Lab> {
    let mut labs = vec![Lab::new()];
    if rustix::process::geteuid().is_root() {
        labs.push(Lab::of(Some(User::ordinary())));
    }
    labs
}

/// The same, and of a user with a single id.
pub(crate) fn labs_with_one_id() -> Vec<Lab> {
    let mut labs = labs();
    if labs.len() > 1 {
        labs.push(Lab::of(Some(User::unknown())));
    }
    labs
}

/// The base images, made once for all that use them at the same time.
fn bases() -> Arc<Bases> {
    static BASES: OnceLock<Mutex<Weak<Bases>>> = OnceLock::new();
    let slot = BASES.get_or_init(Mutex::default);
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    slot.upgrade().unwrap_or_else(|| {
        let made = Arc::new(Bases::new());
        *slot = Arc::downgrade(&made);
        made
    })
}

/// Everything below a folder, as paths relative to it; none if it is not there.
pub(crate) fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut queue = vec![folder.to_owned()];
    while let Some(path) = queue.pop() {
        // What goes away meanwhile is not there.
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                queue.push(entry.path());
            }
            let path = entry.path();
            found.insert(path.strip_prefix(folder).expect("below it").to_owned());
        }
    }
    found
}

/// Runs a command that must succeed; its standard output.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("start the command");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command said, for reports.
pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Waits until `done` gives something; panics with `what` when it takes too long.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A command that runs in its own process group, and is killed with all of it when this is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    heard: Arc<Mutex<String>>,
    listener: JoinHandle<()>,
}

impl Running {
    /// Starts it; what it writes to standard error is collected.
    pub(crate) fn start(mut command: Command) -> Running {
        let mut child = command
            .process_group(0)
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the command");
        let mut stderr = child.stderr.take().expect("it is a pipe");
        let heard = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&heard);
        let listener = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                collected
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
        });
        Running {
            child,
            heard,
            listener,
        }
    }

    /// What it said so far on standard error.
    pub(crate) fn heard(&self) -> String {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until it has said something.
    #[track_caller]
    pub(crate) fn hear(&self, words: &str) {
        wait_for(words, || {
            // In this order: what is collected after the end is seen.
            let silent = self.listener.is_finished();
            let heard = self.heard();
            let found = heard.contains(words);
            assert!(found || !silent, "ended before {words:?}: {heard}");
            found.then_some(())
        });
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Ends it at once and waits for it.
    pub(crate) fn kill(mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.child.wait().expect("it was started here");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        wait_for("the end of a command", || {
            self.child.try_wait().expect("it was started here")
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let pid = rustix::process::Pid::from_child(&self.child);
        if let Ok(None) = self.child.try_wait() {
            rustix::process::kill_process_group(pid, rustix::process::Signal::KILL)
                .unwrap_or_default();
            drop(self.child.wait());
        }
    }
}

/// The ids of processes that have `word` in their command line.
pub(crate) fn processes(word: &str) -> Vec<u32> {
    let own = std::process::id();
    let all = std::fs::read_dir("/proc").expect("/proc is mounted");
    all.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            memchr::memmem::find(&line, word.as_bytes()).is_some()
        })
        .collect()
}
