//! Addresses of git repositories, as BuildKit understands them.

use crate::plan::redacted;

use super::super::BuildError;

/// Where a checkout comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in super::super) struct GitUrl {
    /// The repository, without fragment and query.
    pub(super) remote: String,
    /// Branch, tag, full ref name or commit; the default branch if none.
    pub(super) reference: Option<String>,
    /// The folder that counts; the whole tree if none.
    pub(in super::super) subdir: Option<String>,
    /// The commit it has to be, or how it begins.
    pub(in super::super) checksum: Option<String>,
    /// Whether `.git` stays.
    pub(in super::super) keep_git_dir: bool,
    /// Whether submodules are fetched.
    pub(in super::super) submodules: bool,
    /// What times files get; `None` is for who asks to decide.
    pub(in super::super) mtime: Option<Mtime>,
    /// Whether the commit of `checksum` is fetched as it is, wherever the reference points to now.
    pub(super) fetch_by_commit: bool,
}

/// The modification times of a checkout's files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Mtime {
    /// When they were checked out.
    Checkout,
    /// The commit's time.
    Commit,
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
    pub(in super::super) fn parse(text: &str) -> Result<GitUrl, BuildError> {
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
                "mtime" => {
                    url.mtime = Some(match value.as_str() {
                        "checkout" => Mtime::Checkout,
                        "commit" => Mtime::Commit,
                        _ => return Err(bad("mtime: expected checkout or commit")),
                    });
                }
                "fetch-by-commit" => url.fetch_by_commit = truth(&value)?,
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
        let prefix =
            |c: &String| c.len() >= 7 && c.len() <= 64 && c.bytes().all(|b| b.is_ascii_hexdigit());
        if url.checksum.as_ref().is_some_and(|c| !prefix(c)) {
            return Err(bad(
                "a checksum is a commit, or at least its first 7 digits",
            ));
        }
        if url.fetch_by_commit && !url.checksum.as_deref().is_some_and(is_commit) {
            return Err(bad(
                "fetch-by-commit needs checksum=COMMIT, all of its digits",
            ));
        }
        Ok(url)
    }

    pub(super) fn host(&self) -> String {
        let rest = self
            .remote
            .split_once("://")
            .map_or(self.remote.as_str(), |(_, r)| r);
        let rest = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let rest = rest.rsplit('@').next().unwrap_or(rest);
        rest.split(':').next().unwrap_or(rest).to_owned()
    }
}

/// Whether a text is the whole name of a commit: SHA-1 or SHA-256.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|c| c.is_ascii_hexdigit())
}

/// What stands for a text in which `%XX` is a byte.
pub(in super::super) fn percent_decode(text: &str) -> String {
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

/// A remote's scheme and host with a slash, without and with the credentials that its URL holds. ssh's user is none.
pub(super) fn hosts(remote: &str) -> (String, String) {
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

/// What git is told, and what `.git/config` says: never a password. Git's configuration puts it back.
pub(super) fn without_credentials(remote: &str) -> String {
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
        assert_eq!((url.mtime, url.fetch_by_commit), (None, false));
        let url = format!(
            "https://h/x.git?commit={:040}&fetch-by-commit&mtime=commit",
            7
        );
        let url = GitUrl::parse(&url).unwrap();
        assert_eq!(
            (url.mtime, url.fetch_by_commit),
            (Some(Mtime::Commit), true)
        );
        for bad in [
            "https://h/x.git?ref=a#b",
            "https://h/x.git?what=1",
            "https://h/x.git#-o",
            "https://h/x.git?checksum=zz",
            "https://h/x.git?mtime=now",
            "https://h/x.git?ref=main&fetch-by-commit=true",
            "https://h/x.git?commit=0123456789&fetch-by-commit=true",
        ] {
            assert!(GitUrl::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            without_credentials("https://u:p@h/x@y.git"),
            "https://h/x@y.git"
        );
    }
}
