//! Git repositories as contexts and as sources of ADD.
//!
//! The work is git's own; this file keeps git, and the ssh that it runs, away from the user's configuration and from prompts, and
//! turns a checkout into files whose modes do not depend on anyone's umask. [`GitUrl`] understands BuildKit's addresses.

mod url;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use crate::plan::redacted;

pub use url::is_git_url;
pub(super) use url::{GitUrl, Mtime, percent_decode};
use url::{hosts, is_commit, without_credentials};

use super::secrets::Secrets;
use super::{BuildError, poll};

/// A checkout that is on disk.
pub(super) struct Checkout {
    /// The folder that counts.
    pub(super) folder: PathBuf,
    /// Its commit.
    pub(super) commit: String,
    /// When that was made, seconds since 1970.
    pub(super) commit_time: i64,
}

impl Checkout {
    /// The time that all files get where they do not keep that of the checkout.
    pub(super) fn time_of_files(&self, url: &GitUrl) -> Option<i64> {
        (url.mtime == Some(Mtime::Commit)).then_some(self.commit_time)
    }
}

/// How ssh is run for git: with no configuration and no key but the agent's. Hosts that the user knows have to show the key that the
/// user knows; no other is remembered.
const SSH: &str = "ssh -F none -o BatchMode=yes -o IdentityFile=none -o StrictHostKeyChecking=accept-new \
                   -o 'UserKnownHostsFile=/dev/null ~/.ssh/known_hosts'";

/// git in one repository, with nothing of the user's configuration but the agent that was given.
struct Git<'a> {
    dir: &'a Path,
    url: &'a GitUrl,
    header: Option<String>,
    ssh_agent: Option<&'a str>,
    cancel: &'a AtomicBool,
}

impl Git<'_> {
    fn run(&self, action: &'static str, args: &[&str]) -> Result<String, BuildError> {
        let failed = |why: String| BuildError::Git {
            action,
            url: redacted(&self.url.remote),
            why,
        };
        let mut command = Command::new("git");
        command.arg("-C").arg(self.dir).args(args);
        // Nothing of the host's or the user's configuration reaches the checkout, and nothing asks questions.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GIT_") {
                command.env_remove(name);
            }
        }
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh")
            .env("GIT_SSH_COMMAND", SSH)
            .env("LC_ALL", "C")
            .env("HOME", self.dir);
        // Nor of a repository that the store may be in, before there is one here.
        if let Some(above) = self.dir.parent() {
            let above = std::path::absolute(above).map_err(|e| failed(e.to_string()))?;
            command.env("GIT_CEILING_DIRECTORIES", above);
        }
        match self.ssh_agent {
            Some(socket) => command.env("SSH_AUTH_SOCK", socket),
            None => command.env_remove("SSH_AUTH_SOCK"),
        };
        let mut configuration = vec![
            ("core.hooksPath".to_owned(), "/dev/null".to_owned()),
            ("advice.detachedHead".to_owned(), "false".to_owned()),
        ];
        let (plain, real) = hosts(&self.url.remote);
        if let Some(header) = &self.header {
            // For this host alone: a submodule may be anybody's.
            let key = format!("http.{plain}.extraHeader");
            configuration.push((key, format!("Authorization: {header}")));
        }
        if plain != real {
            configuration.push((format!("url.{real}.insteadOf"), plain));
        }
        // By environment: a credential on a command line would be seen by every process.
        command.env("GIT_CONFIG_COUNT", configuration.len().to_string());
        for (i, (key, value)) in configuration.iter().enumerate() {
            command
                .env(format!("GIT_CONFIG_KEY_{i}"), key)
                .env(format!("GIT_CONFIG_VALUE_{i}"), value);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => failed("git is not installed".to_owned()),
            _ => failed(e.to_string()),
        })?;
        let output = poll::output(child, self.cancel)
            .map_err(|e| failed(e.to_string()))?
            .ok_or(BuildError::Canceled)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            // Two lines that git says after any failure, and that would hide the reason before them.
            let advice = [
                "Please make sure you have the correct",
                "and the repository exists.",
            ];
            let said =
                |line: &&str| !line.is_empty() && !advice.iter().any(|a| line.starts_with(a));
            let mut lines: Vec<&str> = text.lines().map(str::trim).filter(said).collect();
            let last = lines.split_off(lines.len().saturating_sub(3)).join("; ");
            return Err(failed(redacted(&last)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    // The full name that a short one stands for, and its commit, as the remote has them now.
    fn resolve(&self) -> Result<(String, String), BuildError> {
        let wanted = self.url.reference.as_deref().unwrap_or("HEAD");
        let pinned = self
            .url
            .checksum
            .as_deref()
            .filter(|_| self.url.fetch_by_commit);
        if let Some(commit) = pinned.or(Some(wanted).filter(|wanted| is_commit(wanted))) {
            return Ok((commit.to_owned(), commit.to_owned()));
        }
        let listing = self.run(
            "list the references of",
            &["ls-remote", "--", &without_credentials(&self.url.remote)],
        )?;
        let refs: Vec<(&str, &str)> = listing.lines().filter_map(|l| l.split_once('\t')).collect();
        let names = [
            wanted.to_owned(),
            format!("refs/tags/{wanted}"),
            format!("refs/heads/{wanted}"),
            format!("refs/{wanted}"),
        ];
        for name in &names {
            // An annotated tag is listed twice; the peeled line is the commit.
            let peeled = format!("{name}^{{}}");
            let commit = refs
                .iter()
                .find(|(_, n)| *n == peeled)
                .or_else(|| refs.iter().find(|(_, n)| n == name));
            if let Some((commit, _)) = commit {
                return Ok((name.clone(), (*commit).to_owned()));
            }
        }
        if wanted == "HEAD"
            && let Some((commit, name)) = refs.first()
        {
            return Ok(((*name).to_owned(), (*commit).to_owned()));
        }
        Err(BuildError::Git {
            action: "find a reference of",
            url: redacted(&self.url.remote),
            why: format!("repository does not contain ref {wanted}"),
        })
    }
}

/// Checks a repository out below `dir`, an empty folder. `Ok` means: the tree of the commit is there, with submodules.
pub(super) fn checkout(
    url: &GitUrl,
    dir: &Path,
    secrets: &Secrets,
    ssh_agent: Option<&str>,
    cancel: &AtomicBool,
) -> Result<Checkout, BuildError> {
    let host = url.host();
    let read = |id: &str| secrets.read(id).transpose();
    let header = match read(&format!("GIT_AUTH_HEADER.{host}")).or_else(|| read("GIT_AUTH_HEADER"))
    {
        Some(header) => Some(String::from_utf8_lossy(&header?).trim().to_owned()),
        None => match read(&format!("GIT_AUTH_TOKEN.{host}")).or_else(|| read("GIT_AUTH_TOKEN")) {
            Some(token) => {
                use base64::Engine as _;
                let pair = format!("x-access-token:{}", String::from_utf8_lossy(&token?).trim());
                Some(format!(
                    "basic {}",
                    base64::engine::general_purpose::STANDARD.encode(pair)
                ))
            }
            None => None,
        },
    };
    let git = Git {
        dir,
        url,
        header,
        ssh_agent,
        cancel,
    };
    let (name, commit) = git.resolve()?;
    let format = match commit.len() {
        64 => "--object-format=sha256",
        _ => "--object-format=sha1",
    };
    git.run(
        "prepare a checkout of",
        &["init", "--quiet", "--initial-branch=main", format, "."],
    )?;
    if let Some(wanted) = &url.checksum
        && !commit.starts_with(&wanted.to_ascii_lowercase())
    {
        return Err(BuildError::Checksum {
            url: redacted(&url.remote),
            expected: wanted.clone(),
            actual: commit,
        });
    }
    let remote = without_credentials(&url.remote);
    git.run("name the remote of", &["remote", "add", "origin", &remote])?;
    // Servers without the smart protocol cannot send a part of the history; servers may refuse a commit that no ref names.
    let spec = format!("{name}:refs/strata/fetched");
    let attempts: [&[&str]; 3] = [
        &[
            "fetch",
            "--quiet",
            "--no-tags",
            "--depth",
            "1",
            "--",
            &remote,
            &spec,
        ],
        &["fetch", "--quiet", "--no-tags", "--", &remote, &spec],
        &[
            "fetch",
            "--quiet",
            "--tags",
            "--",
            &remote,
            "+refs/heads/*:refs/strata/heads/*",
        ],
    ];
    let mut result = Ok(String::new());
    for args in attempts {
        result = git.run("fetch from", args);
        if result.is_ok() || matches!(result, Err(BuildError::Canceled)) {
            break;
        }
    }
    result?;
    git.run(
        "check out",
        &["checkout", "--quiet", "--force", "--detach", &commit],
    )?;
    if url.submodules && dir.join(".gitmodules").exists() {
        let shallow = [
            "submodule",
            "update",
            "--quiet",
            "--init",
            "--recursive",
            "--depth",
            "1",
        ];
        match git.run("fetch the submodules of", &shallow) {
            Ok(_) => {}
            Err(BuildError::Canceled) => return Err(BuildError::Canceled),
            // A server may refuse to send a part of the history.
            Err(_) => {
                let whole = ["submodule", "update", "--quiet", "--init", "--recursive"];
                git.run("fetch the submodules of", &whole)?;
            }
        }
    }
    let time = git.run(
        "read the time of the commit of",
        &["show", "--no-patch", "--format=%ct", &commit],
    )?;
    let commit_time = time.parse().map_err(|_| BuildError::Git {
        action: "read the time of the commit of",
        url: redacted(&url.remote),
        why: format!("git said {time:?}"),
    })?;
    if !url.keep_git_dir {
        let removed = std::fs::remove_dir_all(dir.join(".git"));
        removed.map_err(|source| BuildError::Host {
            action: "remove",
            path: dir.join(".git"),
            source,
        })?;
    }
    let folder = match &url.subdir {
        None => dir.to_owned(),
        Some(subdir) => {
            let link = |path: &[u8]| {
                use std::os::unix::ffi::{OsStrExt, OsStringExt};
                let target =
                    std::fs::read_link(dir.join(std::ffi::OsStr::from_bytes(path))).ok()?;
                Some(target.into_os_string().into_vec())
            };
            use std::os::unix::ffi::OsStrExt;
            let inside = super::draft::resolve(subdir.as_bytes(), &link)?;
            dir.join(std::ffi::OsStr::from_bytes(&inside))
        }
    };
    if !folder.is_dir() {
        return Err(BuildError::Git {
            action: "find the folder in",
            url: redacted(&url.remote),
            why: format!("no folder {:?}", url.subdir.as_deref().unwrap_or_default()),
        });
    }
    Ok(Checkout {
        folder,
        commit,
        commit_time,
    })
}
