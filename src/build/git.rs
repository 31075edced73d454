//! Git repositories as contexts and as sources of ADD.
//!
//! The work is git's own; this file understands BuildKit's addresses, keeps git away from the user's configuration and from
//! prompts, and turns a checkout into files whose modes do not depend on anyone's umask.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use crate::plan::redacted;

use super::secrets::Secrets;
use super::{BuildError, poll};

/// Where a checkout comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct GitUrl {
    /// The repository, without fragment and query.
    pub(super) remote: String,
    /// Branch, tag, full ref name or commit; the default branch if none.
    pub(super) reference: Option<String>,
    /// The folder that counts; the whole tree if none.
    pub(super) subdir: Option<String>,
    /// The commit it has to be, or how it begins.
    pub(super) checksum: Option<String>,
    /// Whether `.git` stays.
    pub(super) keep_git_dir: bool,
    /// Whether submodules are fetched.
    pub(super) submodules: bool,
}

/// A checkout that is on disk.
pub(super) struct Checkout {
    /// The folder that counts.
    pub(super) folder: PathBuf,
    /// Its commit.
    pub(super) commit: String,
}

/// Whether `text` is the address of a git repository rather than of a file.
pub fn is_git_url(text: &str) -> bool {
    let before = text.split(['#', '?']).next().unwrap_or(text);
    let lower = before.to_ascii_lowercase();
    let path = |scheme: &str| {
        lower
            .strip_prefix(scheme)
            .map(|rest| rest.trim_end_matches('/').ends_with(".git"))
    };
    lower.starts_with("git://")
        || lower.starts_with("ssh://")
        || (lower.starts_with("git@") && before.contains(':'))
        || path("http://") == Some(true)
        || path("https://") == Some(true)
        || lower.starts_with("github.com/")
}

impl GitUrl {
    /// `URL[?query][#ref[:subdir]]`.
    pub(super) fn parse(text: &str) -> Result<GitUrl, BuildError> {
        let bad = |why: &str| BuildError::GitUrl {
            url: redacted(text),
            why: why.to_owned(),
        };
        let (text_url, fragment) = text
            .split_once('#')
            .map_or((text, None), |(u, f)| (u, Some(f)));
        let (remote, query) = text_url
            .split_once('?')
            .map_or((text_url, None), |(u, q)| (u, Some(q)));
        let remote = if remote.starts_with("github.com/") {
            format!("https://{remote}")
        } else {
            remote.to_owned()
        };
        let mut url = GitUrl {
            remote,
            submodules: true,
            ..GitUrl::default()
        };
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment
                .split_once(':')
                .map_or((fragment, ""), |(r, s)| (r, s));
            url.reference = (!reference.is_empty()).then(|| reference.to_owned());
            url.subdir = (!subdir.is_empty()).then(|| subdir.to_owned());
        }
        let truth = |value: &str| match value {
            "" | "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(bad("expected true or false")),
        };
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|p| !p.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode(value);
            let set = |slot: &mut Option<String>, value: String| {
                if slot.as_ref().is_some_and(|old| *old != value) {
                    return Err(bad("the query and the fragment say different things"));
                }
                *slot = Some(value);
                Ok(())
            };
            match name {
                "ref" => set(&mut url.reference, value)?,
                "tag" => set(&mut url.reference, format!("refs/tags/{value}"))?,
                "branch" => set(&mut url.reference, format!("refs/heads/{value}"))?,
                "subdir" => set(&mut url.subdir, value)?,
                "checksum" | "commit" => set(&mut url.checksum, value)?,
                "keep-git-dir" => url.keep_git_dir = truth(&value)?,
                "submodules" => url.submodules = truth(&value)?,
                other => return Err(bad(&format!("unexpected query parameter {other:?}"))),
            }
        }
        let option = |t: &Option<String>| t.as_ref().is_some_and(|t| t.starts_with('-'));
        if text.chars().any(char::is_control) {
            return Err(bad("it holds a control character"));
        }
        if url.remote.starts_with('-') || option(&url.reference) || option(&url.subdir) {
            return Err(bad("a part of it looks like an option"));
        }
        let commit =
            |c: &String| c.len() >= 7 && c.len() <= 64 && c.bytes().all(|b| b.is_ascii_hexdigit());
        if url.checksum.as_ref().is_some_and(|c| !commit(c)) {
            return Err(bad(
                "a checksum is a commit, or at least its first 7 digits",
            ));
        }
        Ok(url)
    }

    fn host(&self) -> String {
        let rest = self
            .remote
            .split_once("://")
            .map_or(self.remote.as_str(), |(_, r)| r);
        let rest = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let rest = rest.rsplit('@').next().unwrap_or(rest);
        rest.split(':').next().unwrap_or(rest).to_owned()
    }
}

pub(super) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten();
        match code.and_then(|c| u8::from_str_radix(c, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// git in one repository, with nothing of the user's configuration but their ssh agent.
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
            .env(
                "GIT_SSH_COMMAND",
                "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new",
            )
            .env("LC_ALL", "C")
            .env("HOME", self.dir);
        if let Some(socket) = self.ssh_agent {
            command.env("SSH_AUTH_SOCK", socket);
        }
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
            let mut lines: Vec<&str> = text
                .lines()
                .map(str::trim)
                .filter(|l| !l.is_empty())
                .collect();
            let last = lines.split_off(lines.len().saturating_sub(3)).join("; ");
            return Err(failed(redacted(&last)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    // The full name that a short one stands for, and its commit, as the remote has them now.
    fn resolve(&self) -> Result<(String, String), BuildError> {
        let wanted = self.url.reference.as_deref().unwrap_or("HEAD");
        let is_commit = wanted.len() == 40 && wanted.bytes().all(|c| c.is_ascii_hexdigit());
        if is_commit {
            return Ok((wanted.to_owned(), wanted.to_owned()));
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
    git.run(
        "prepare a checkout of",
        &["init", "--quiet", "--initial-branch=main", "."],
    )?;
    let (name, commit) = git.resolve()?;
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
    Ok(Checkout { folder, commit })
}

// A remote's scheme and host with a slash, without and with the credentials that its URL holds. ssh's user is none.
fn hosts(remote: &str) -> (String, String) {
    let Some((scheme @ ("http" | "https"), rest)) = remote.split_once("://") else {
        return (remote.to_owned(), remote.to_owned());
    };
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    (
        format!("{scheme}://{host}/"),
        format!("{scheme}://{authority}/"),
    )
}

// What git is told, and what `.git/config` says: never a password. Git's configuration puts it back.
fn without_credentials(remote: &str) -> String {
    let (plain, real) = hosts(remote);
    match remote.strip_prefix(&real) {
        Some(path) if plain != real => format!("{plain}{path}"),
        _ => remote.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_repository() {
        for yes in [
            "https://h/x.git",
            "https://h/x.git#main:sub",
            "http://h/x.git?branch=b",
            "git@h:x/y",
            "git://h/x",
            "ssh://git@h/x",
            "github.com/a/b",
        ] {
            assert!(is_git_url(yes), "{yes}");
        }
        for no in [
            "https://h/x.tar.gz",
            "https://h/x",
            "./x.git",
            "x.git",
            "git@nothing",
            "https://h/x.git.tar",
        ] {
            assert!(!is_git_url(no), "{no}");
        }
    }

    #[test]
    fn credentials_are_for_one_host_and_on_no_command_line() {
        for (remote, plain, told) in [
            ("https://u:p@h:8/x.git", "https://h:8/", "https://h:8/x.git"),
            ("http://h/x.git", "http://h/", "http://h/x.git"),
            ("https://t@h/a@b.git", "https://h/", "https://h/a@b.git"),
        ] {
            assert_eq!(
                (
                    hosts(remote).0.as_str(),
                    without_credentials(remote).as_str()
                ),
                (plain, told)
            );
        }
        for kept in ["ssh://git@h/x", "git@h:x"] {
            assert_eq!(without_credentials(kept), kept);
        }
    }

    #[test]
    fn fragments_and_queries() {
        let url = GitUrl::parse("https://u:p@h/x.git#v1:docs/a").unwrap();
        assert_eq!(
            (url.reference.as_deref(), url.subdir.as_deref()),
            (Some("v1"), Some("docs/a"))
        );
        let url =
            GitUrl::parse("https://h/x.git?tag=v1&subdir=d%2Fe&keep-git-dir=1&submodules=false")
                .unwrap();
        assert_eq!(
            (url.reference.as_deref(), url.subdir.as_deref()),
            (Some("refs/tags/v1"), Some("d/e"))
        );
        assert!(url.keep_git_dir && !url.submodules);
        for bad in [
            "https://h/x.git?ref=a#b",
            "https://h/x.git?what=1",
            "https://h/x.git#-o",
            "https://h/x.git?checksum=zz",
        ] {
            assert!(GitUrl::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            without_credentials("https://u:p@h/x@y.git"),
            "https://h/x@y.git"
        );
    }
}
