//! A case's data, and one build of it.
//!
//! A case is a folder `AREA-TOPIC` with a Dockerfile, its context, `expected.json` and `case.json`. In Dockerfiles, flags and
//! `setup` these are replaced: `@REG@` host:port of the registry, `@WEB@` URL of the case's folder `web`, `@GIT@` URL of
//! repo.git and sub.git, `@COMMIT@` and `@DEV@` commits of repo.git's branches, `@DIGEST:base@`, `@SSH@` an agent's socket,
//! `@RUN@` a name unique to this run and case (for cache mounts).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use serde::Deserialize;

use crate::world::{EPOCH, World};

/// One build may take this long, on a machine that does much else; then its processes are killed.
const TIMEOUT: Duration = Duration::from_secs(180);

/// `case.json`; only `about` is always there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// What the case shows.
    #[expect(
        dead_code,
        reason = "for who reads the case; here so that it must be there"
    )]
    pub(crate) about: String,
    /// Of a case of our own (`AREA-own-TOPIC`): which builder its expectations were recorded from, or which text they follow.
    pub(crate) oracle: Option<String>,
    /// The builder's flags.
    #[serde(default)]
    pub(crate) flags: Vec<String>,
    /// The Dockerfile's name; `-` feeds the file `stdin`.
    pub(crate) dockerfile: Option<String>,
    /// A folder or URL.
    pub(crate) context: Option<String>,
    /// A file to feed to the builder.
    pub(crate) stdin: Option<String>,
    /// More attributes of `--output`.
    pub(crate) output: Option<String>,
    /// Environment of the builder.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// The base image that the result is compared with.
    pub(crate) base: Option<String>,
    /// A shell script for what git cannot hold, run in the copied folder before the build.
    pub(crate) setup: Option<String>,
    /// `root`, `zstd`: without them the case is skipped.
    #[serde(default)]
    pub(crate) needs: Vec<String>,
    /// The build must fail, and its output match each of these expressions, whatever the case of letters.
    pub(crate) fail: Option<Vec<String>>,
    /// Expressions that the output must match.
    #[serde(default)]
    pub(crate) log: Vec<String>,
    /// Strings that may occur nowhere in the result.
    #[serde(default)]
    pub(crate) no_leak: Vec<String>,
    /// Patterns of paths whose time counts.
    #[serde(default)]
    pub(crate) mtime: Vec<String>,
    /// Patterns of paths that are not compared.
    #[serde(default)]
    pub(crate) ignore: Vec<String>,
    /// The config's time of creation counts.
    #[serde(default)]
    pub(crate) created: bool,
    /// Later builds of the case; `expected.json` is of the last.
    #[serde(default)]
    pub(crate) again: Vec<Again>,
}

/// A later build, compared with the one before it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Again {
    pub(crate) setup: Option<String>,
    /// Added to the case's.
    pub(crate) flags: Vec<String>,
    /// Paths that stay as they were.
    pub(crate) same: Vec<String>,
    /// Paths that must change.
    pub(crate) differ: Vec<String>,
    pub(crate) digest: Option<Change>,
}

/// What the image's digest has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    Same,
    Differ,
}

impl Case {
    /// The keys of the annotations that the flags ask for.
    pub(crate) fn annotation_keys(&self) -> Vec<&str> {
        let values = self.flags.iter().enumerate().filter_map(|(at, flag)| {
            match flag.strip_prefix("--annotation")? {
                "" => self.flags.get(at + 1).map(String::as_str),
                joined => joined.strip_prefix('='),
            }
        });
        let key = |value| {
            let name = str::split(value, '=').next().unwrap_or(value);
            name.rsplit(':').next().unwrap_or(name)
        };
        values.map(key).collect()
    }
}

/// How a build ended.
pub(crate) struct Built {
    /// None when it took too long and was killed.
    pub(crate) status: Option<ExitStatus>,
    /// What it printed, both streams.
    pub(crate) output: String,
    /// Where the image is when it succeeded.
    pub(crate) archive: PathBuf,
}

impl Built {
    pub(crate) fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Whether it ended itself, with an exit status.
    pub(crate) fn exited(&self) -> bool {
        self.status.is_some_and(|status| status.signal().is_none())
    }

    /// The last words, for reports.
    pub(crate) fn tail(&self) -> String {
        let lines: Vec<&str> = self.output.trim().lines().collect();
        let tail = lines[lines.len().saturating_sub(3)..].join(" | ");
        tail.chars()
            .skip(tail.chars().count().saturating_sub(400))
            .collect()
    }
}

/// A case's copied folder, ready to build.
pub(crate) struct Work<'a> {
    pub(crate) world: &'a World,
    pub(crate) folder: PathBuf,
    pub(crate) tokens: BTreeMap<String, String>,
}

impl Work<'_> {
    /// Runs `setup`, then the builder. `step` counts the builds of the case from 0.
    pub(crate) fn build(
        &self,
        case: &Case,
        again: &Again,
        setup: Option<&str>,
        step: usize,
    ) -> std::io::Result<Built> {
        self.fill_dockerfiles(&self.folder)?;
        if let Some(script) = setup {
            let script = format!("umask 022\n{}", self.fill(script));
            let done = self
                .command("sh".as_ref(), case)
                .args(["-euc", &script])
                .stdin(Stdio::null())
                .output()?;
            if !done.status.success() {
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                return Err(std::io::Error::other(format!(
                    "the case's setup failed: {}",
                    said.trim()
                )));
            }
        }
        let mut archive = self.folder.clone().into_os_string();
        archive.push(format!(".{step}.oci"));
        let mut output = OsString::from("type=oci,dest=");
        output.push(&archive);
        if let Some(attributes) = &case.output {
            output.push(format!(",{attributes}"));
        }
        let mut command = self.builder(case);
        command
            .arg("-f")
            .arg(case.dockerfile.as_deref().unwrap_or("Dockerfile"));
        command.args(
            case.flags
                .iter()
                .chain(&again.flags)
                .map(|flag| self.fill(flag)),
        );
        command
            .args(["--progress", "plain", "--output"])
            .arg(output);
        command.arg(self.fill(case.context.as_deref().unwrap_or(".")));
        match &case.stdin {
            Some(name) => command.stdin(File::open(self.folder.join(name))?),
            None => command.stdin(Stdio::null()),
        };
        let (status, output) = run(command)?;
        let archive = archive.into();
        Ok(Built {
            status,
            output,
            archive,
        })
    }

    fn builder(&self, case: &Case) -> Command {
        if let Ok(prefix) = std::env::var("STRATA_BUILDER") {
            let mut words = prefix.split_whitespace();
            let mut command = self.command(words.next().unwrap_or_default().as_ref(), case);
            command.args(words);
            return command;
        }
        let mut command = self.command(self.world.binary.as_os_str(), case);
        command.arg("--root").arg(&self.world.state).arg("build");
        command
    }

    /// A command in the case's folder, run by the user who builds.
    fn command(&self, program: &std::ffi::OsStr, case: &Case) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.folder)
            .env_remove("SOURCE_DATE_EPOCH");
        if let Some(user) = &self.world.user {
            command.uid(user.uid).gid(user.gid);
            command
                .env("HOME", &user.home)
                .env("USER", &user.name)
                .env("LOGNAME", &user.name);
            for name in [
                "XDG_RUNTIME_DIR",
                "XDG_DATA_HOME",
                "XDG_CACHE_HOME",
                "XDG_CONFIG_HOME",
                "TMPDIR",
            ] {
                command.env_remove(name);
            }
        }
        command.envs(&case.env);
        command
    }

    fn fill(&self, text: &str) -> String {
        let filled = fill(text.as_bytes(), &self.tokens);
        String::from_utf8(filled).expect("tokens are text, and so was the rest")
    }

    /// Puts values for tokens into every file that is a Dockerfile by its name.
    fn fill_dockerfiles(&self, folder: &Path) -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.fill_dockerfiles(&entry.path())?;
            } else if kind.is_file()
                && entry
                    .file_name()
                    .to_string_lossy()
                    .to_lowercase()
                    .contains("dockerfile")
            {
                let text = std::fs::read(entry.path())?;
                let filled = fill(&text, &self.tokens);
                if filled != text {
                    std::fs::write(entry.path(), filled)?;
                    set_time(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}

/// Runs a command in its own process group; its status, or none when it took too long, and both its outputs together.
fn run(mut command: Command) -> std::io::Result<(Option<ExitStatus>, String)> {
    let (mut reader, writer) = std::io::pipe()?;
    command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn()?;
    // The command holds the writing ends: without this the pipe would never end.
    drop(command);
    let (done, ended) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut output = Vec::new();
        let read = reader.read_to_end(&mut output);
        // Nobody listens any more when the time was up.
        done.send(()).unwrap_or_default();
        read.map(|_| output)
    });
    let in_time = ended.recv_timeout(TIMEOUT).is_ok();
    if !in_time {
        rustix::process::kill_process_group(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::KILL,
        )?;
    }
    let status = child.wait()?;
    let output = reading.join().expect("the reader does not panic")?;
    let mut output = String::from_utf8_lossy(&output).into_owned();
    if !in_time {
        output += &format!("\nno end after {} s\n", TIMEOUT.as_secs());
    }
    Ok((in_time.then_some(status), output))
}

/// Gives a copied folder the modes and times that it has in every checkout.
pub(crate) fn normalise(path: &Path) -> std::io::Result<()> {
    let meta = path.symlink_metadata()?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            normalise(&entry?.path())?;
        }
    }
    if !meta.is_symlink() {
        let mode = if meta.is_dir() || meta.permissions().mode() & 0o100 != 0 {
            0o755
        } else {
            0o644
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    set_time(path)
}

fn set_time(path: &Path) -> std::io::Result<()> {
    let time = Timespec {
        tv_sec: EPOCH,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Replaces `@NAME@` and `@NAME:argument@`; names that are not known stay.
fn fill(text: &[u8], tokens: &BTreeMap<String, String>) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some(at) = memchr::memchr(b'@', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let end = token_end(rest).unwrap_or(1);
        let known = std::str::from_utf8(&rest[1..end.max(2) - 1])
            .ok()
            .and_then(|name| tokens.get(name));
        out.extend_from_slice(known.map_or(&rest[..end], |value| value.as_bytes()));
        rest = &rest[end..];
    }
    out.extend_from_slice(rest);
    out
}

/// The length of the token at the start of `text`, with both its `@`.
fn token_end(text: &[u8]) -> Option<usize> {
    let span = |from: usize, is: fn(&u8) -> bool| {
        from + text[from..].iter().take_while(|byte| is(byte)).count()
    };
    let mut end = span(1, u8::is_ascii_uppercase);
    if end == 1 {
        return None;
    }
    if text.get(end) == Some(&b':') {
        let after = span(end + 1, |byte| {
            byte.is_ascii_alphanumeric() || b"_-".contains(byte)
        });
        end = (after > end + 1).then_some(after)?;
    }
    (text.get(end) == Some(&b'@')).then_some(end + 1)
}

#[test]
fn tokens_are_filled() {
    let tokens = BTreeMap::from([
        ("REG".into(), "h:1".into()),
        ("DIGEST:a-b".into(), "sha256:0".into()),
    ]);
    for (text, want) in [
        ("FROM @REG@/x@v", "FROM h:1/x@v"),
        ("@DIGEST:a-b@@REG@", "sha256:0h:1"),
        ("@@REG@", "@h:1"),
        ("@NO@REG@", "@NO@REG@"),
        ("user@host @", "user@host @"),
    ] {
        assert_eq!(
            String::from_utf8(fill(text.as_bytes(), &tokens)).unwrap(),
            want
        );
    }
}
