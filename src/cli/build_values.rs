//! What the flags of `build` say, as types: contexts, secrets, agents, hosts, limits, annotations.

use std::net::IpAddr;
use std::path::PathBuf;

use strata::oci::Platform;
use strata::plan::{NamedContext, Ulimit};

use super::values::{FlagError, attributes, boolean, pair, platforms, reference};

/// Where the files of a build come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ContextSource {
    /// A folder.
    Folder(PathBuf),
    /// An archive on disk.
    Archive(PathBuf),
    /// Standard input: an archive, or a Dockerfile without a context.
    Stdin,
    /// An archive or a Dockerfile by http or https.
    Http(String),
    /// A git repository; `#ref:folder` and `?query` are still in it.
    Git(String),
}

/// Where the Dockerfile comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum DockerfileSource {
    /// `Dockerfile` at the context's root.
    Default,
    /// A path: below the working directory for a folder, inside the context for any other.
    Path(PathBuf),
    /// A file by http or https.
    Http(String),
    /// Standard input.
    Stdin,
}

/// `--secret`: where its value is. It is read when the build starts and shown nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Secret {
    /// What RUN calls it.
    pub(crate) id: String,
    /// Where the value is.
    pub(crate) from: SecretFrom,
}

/// Where a secret's value is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SecretFrom {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Env(String),
}

/// `--ssh`: an agent's socket, or keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ssh {
    /// What RUN calls it.
    pub(crate) id: String,
    /// The agent's socket or the keys' files; none for `$SSH_AUTH_SOCK`.
    pub(crate) paths: Vec<PathBuf>,
}

/// Which document of the result an annotation goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AnnotationTarget {
    /// The image's manifest.
    Manifest,
    /// The index.
    Index,
    /// The manifest's descriptor in the index.
    ManifestDescriptor,
    /// The descriptor of the index or manifest in a layout.
    IndexDescriptor,
}

/// `--annotation`, for one document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Annotation {
    /// Where it goes.
    pub(crate) target: AnnotationTarget,
    /// The one platform it is for.
    pub(crate) platform: Option<Platform>,
    /// Its name.
    pub(crate) key: String,
    /// Its value.
    pub(crate) value: String,
}

impl AnnotationTarget {
    fn parse(text: &str) -> Option<AnnotationTarget> {
        Some(match text {
            "manifest" => AnnotationTarget::Manifest,
            "index" => AnnotationTarget::Index,
            "manifest-descriptor" => AnnotationTarget::ManifestDescriptor,
            "index-descriptor" => AnnotationTarget::IndexDescriptor,
            _ => return None,
        })
    }
}

/// Whether a context is a git repository, by BuildKit's rule: a scheme that only git has, a host that is always git, or a
/// URL whose path ends with `.git`.
fn is_git(text: &str) -> bool {
    let path = text.split(['#', '?']).next().unwrap_or_default();
    let http = path.starts_with("http://") || path.starts_with("https://");
    path.starts_with("git://")
        || path.starts_with("ssh://")
        || path.starts_with("git@")
        || path.starts_with("github.com/")
        || (http && path.ends_with(".git"))
}

fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// `--file`.
pub(crate) fn dockerfile(text: &str) -> DockerfileSource {
    match text {
        "-" => DockerfileSource::Stdin,
        t if is_http(t) => DockerfileSource::Http(t.to_owned()),
        t => DockerfileSource::Path(t.into()),
    }
}

/// CONTEXT. `is_file` says whether a path is a regular file, which must then be an archive.
pub(crate) fn context(text: &str, is_file: impl Fn(&str) -> bool) -> ContextSource {
    match text {
        "-" => ContextSource::Stdin,
        t if is_git(t) => ContextSource::Git(t.to_owned()),
        t if is_http(t) => ContextSource::Http(t.to_owned()),
        t if is_file(t) => ContextSource::Archive(t.into()),
        t => ContextSource::Folder(t.into()),
    }
}

/// `--build-context NAME=VALUE`; names are lower-cased, as stage names are.
pub(crate) fn build_context(text: &str) -> Result<(String, NamedContext), FlagError> {
    const FLAG: &str = "--build-context";
    let (name, value) = pair(FLAG, text)?;
    let bad = |problem: &str| FlagError::new(FLAG, text, problem);
    if value.is_empty() {
        return Err(bad(
            "expected NAME=FOLDER, docker-image://REF, oci-layout://PATH, or a URL",
        ));
    }
    let context = if let Some(image) = value.strip_prefix("docker-image://") {
        NamedContext::Image(reference(FLAG, image)?)
    } else if let Some(layout) = value.strip_prefix("oci-layout://") {
        let (path, reference) = split_layout(layout);
        if path.is_empty() {
            return Err(bad("expected oci-layout://PATH[:TAG][@DIGEST]"));
        }
        NamedContext::Layout {
            path: path.into(),
            reference: reference.map(str::to_owned),
        }
    } else if value.starts_with("target:") {
        return Err(bad("targets of other builds are known to bake files only"));
    } else if is_git(&value) {
        NamedContext::Git(value)
    } else if is_http(&value) {
        NamedContext::Http(value)
    } else if let Some((scheme, _)) = value.split_once("://") {
        return Err(bad(&format!(
            "unsupported scheme {scheme}://: expected docker-image://, oci-layout://, http://, https://, git:// or ssh://"
        )));
    } else {
        NamedContext::Local(value.into())
    };
    Ok((name.to_ascii_lowercase(), context))
}

/// `PATH[:NAME][@DIGEST]`: the path, and what is after it; a digest wins over a name. The path ends at the first colon, as in
/// skopeo, because a name may be a whole reference with colons and slashes of its own.
pub(crate) fn split_layout(text: &str) -> (&str, Option<&str>) {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    (path, digest.or(tag))
}

/// `--secret`. Without a type and a source it is the variable of its own name if that is set (`is_set`), else the file.
pub(crate) fn secret(text: &str, is_set: impl Fn(&str) -> bool) -> Result<Secret, FlagError> {
    const FLAG: &str = "--secret";
    let bad = |problem: &str| FlagError::new(FLAG, text, problem);
    let (mut id, mut kind, mut src, mut env) = (None, None, None, None);
    for (key, value) in attributes(FLAG, text)? {
        match key.as_str() {
            "id" => id = Some(value),
            "type" if matches!(value.as_str(), "file" | "env") => kind = Some(value),
            "type" => return Err(bad("expected type=file or type=env")),
            "src" | "source" => src = Some(value),
            "env" => env = Some(value),
            _ => {
                return Err(bad(&format!(
                    "unexpected key {key:?}: expected type, id, src or env"
                )));
            }
        }
    }
    let id = id
        .filter(|i| !i.is_empty())
        .ok_or_else(|| bad("expected id=NAME[,src=FILE|,env=VARIABLE]"))?;
    let from = match (kind.as_deref(), src, env) {
        (Some("env"), src, env) => SecretFrom::Env(env.or(src).unwrap_or_else(|| id.clone())),
        (_, Some(src), _) => SecretFrom::File(src.into()),
        (None, None, Some(env)) => SecretFrom::Env(env),
        (None, None, None) if is_set(&id) => SecretFrom::Env(id.clone()),
        (_, None, _) => SecretFrom::File(id.clone().into()),
    };
    Ok(Secret { id, from })
}

/// `--ssh`: `default`, or `ID[=SOCKET|KEY[,KEY…]]`.
pub(crate) fn ssh(text: &str) -> Result<Ssh, FlagError> {
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    if id.is_empty() {
        return Err(FlagError::new(
            "--ssh",
            text,
            "expected default or ID[=SOCKET|KEY[,KEY…]]",
        ));
    }
    let mut list = Vec::new();
    for part in paths.split(',').filter(|p| !p.is_empty()) {
        match part.strip_prefix("raw=") {
            // A socket is handed over as it is in any case, which is what raw asks for.
            Some(raw) => {
                boolean("--ssh", raw)?;
            }
            None => list.push(PathBuf::from(part)),
        }
    }
    Ok(Ssh {
        id: id.to_owned(),
        paths: list,
    })
}

/// `--add-host`: `NAME:IP`, `NAME=IP`, IPv6 with or without brackets, or `host-gateway`.
pub(crate) fn add_host(text: &str) -> Result<(String, String), FlagError> {
    let bad = || {
        FlagError::new(
            "--add-host",
            text,
            "expected NAME:IP, for example db:10.0.0.2, db=[::1] or db:host-gateway",
        )
    };
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(bad)?;
    let address = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    let name_is_fine = !name.is_empty()
        && name
            .bytes()
            .all(|c| c.is_ascii_graphic() && !matches!(c, b'#' | b':' | b'/'));
    if !name_is_fine || (address != "host-gateway" && address.parse::<IpAddr>().is_err()) {
        return Err(bad());
    }
    Ok((name.to_owned(), address.to_owned()))
}

/// The limits that `setrlimit` knows, by docker's names.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `--ulimit NAME=SOFT[:HARD]`; -1 is no limit.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, FlagError> {
    let bad = |problem: &str| FlagError::new("--ulimit", text, problem);
    const FORM: &str = "expected NAME=SOFT[:HARD], for example nofile=1024:4096";
    let (name, limits) = text.split_once('=').ok_or_else(|| bad(FORM))?;
    if !ULIMITS.contains(&name) {
        return Err(bad(&format!(
            "unknown limit {name:?}: expected one of {}",
            ULIMITS.join(", ")
        )));
    }
    let number = |text: &str| match text {
        "-1" => Ok(u64::MAX),
        digits => digits.parse::<u64>().map_err(|_| bad(FORM)),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(bad("the soft limit is above the hard limit"));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// `--annotation [TYPE[PLATFORM],…:]KEY=VALUE`: one for each type it names.
pub(crate) fn annotation(text: &str) -> Result<Vec<Annotation>, FlagError> {
    const FLAG: &str = "--annotation";
    let (head, value) = pair(FLAG, text)?;
    let (types, key) = match head.split_once(':') {
        Some((types, key)) => (types, key),
        None => ("manifest", head.as_str()),
    };
    if key.is_empty() {
        return Err(FlagError::new(FLAG, text, "expected [TYPE:]KEY=VALUE"));
    }
    types
        .split(',')
        .map(|kind| {
            let (target, platform) = annotation_target(FLAG, text, kind)?;
            Ok(Annotation {
                target,
                platform,
                key: key.to_owned(),
                value: value.clone(),
            })
        })
        .collect()
}

/// `TYPE[PLATFORM]` of an annotation.
pub(crate) fn annotation_target(
    flag: &str,
    text: &str,
    kind: &str,
) -> Result<(AnnotationTarget, Option<Platform>), FlagError> {
    let (name, platform) = match kind.split_once('[') {
        Some((name, rest)) => {
            let inner = rest.strip_suffix(']').ok_or_else(|| {
                FlagError::new(flag, text, "a platform in brackets is not closed")
            })?;
            let parsed = platforms(flag, &[inner.to_owned()])?;
            (name, parsed.into_iter().next())
        }
        None => (kind, None),
    };
    let target = AnnotationTarget::parse(name).ok_or_else(|| {
        FlagError::new(
            flag,
            text,
            format!(
                "unknown annotation type {name:?}: expected manifest, index, manifest-descriptor or index-descriptor"
            ),
        )
    })?;
    Ok((target, platform))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_by_their_form() {
        let git = |t: &str| ContextSource::Git(t.to_owned());
        let http = |t: &str| ContextSource::Http(t.to_owned());
        for (text, want) in [
            (".", ContextSource::Folder(".".into())),
            ("-", ContextSource::Stdin),
            ("a.tar", ContextSource::Archive("a.tar".into())),
            ("https://h/r.git#v1:d", git("https://h/r.git#v1:d")),
            ("http://h/r.git?branch=x", git("http://h/r.git?branch=x")),
            ("git@h:r", git("git@h:r")),
            ("github.com/a/b", git("github.com/a/b")),
            ("ssh://git@h/r", git("ssh://git@h/r")),
            ("https://h/ctx.tar.gz", http("https://h/ctx.tar.gz")),
        ] {
            assert_eq!(context(text, |p| p == "a.tar"), want, "{text}");
        }
    }

    #[test]
    fn named_contexts() {
        let layout = |path: &str, reference: Option<&str>| NamedContext::Layout {
            path: path.into(),
            reference: reference.map(str::to_owned),
        };
        for (text, name, want) in [
            ("Lib=../x", "lib", NamedContext::Local("../x".into())),
            (
                "b=docker-image://busybox",
                "b",
                NamedContext::Image("busybox".parse().unwrap()),
            ),
            ("b=oci-layout://lay", "b", layout("lay", None)),
            (
                "b=oci-layout:///a/lay:v1",
                "b",
                layout("/a/lay", Some("v1")),
            ),
            (
                "b=oci-layout://lay:t@sha256:aa",
                "b",
                layout("lay", Some("sha256:aa")),
            ),
            (
                "g=https://h/r.git#main",
                "g",
                NamedContext::Git("https://h/r.git#main".into()),
            ),
            (
                "h=https://h/a.tgz",
                "h",
                NamedContext::Http("https://h/a.tgz".into()),
            ),
        ] {
            assert_eq!(
                build_context(text).unwrap(),
                (name.to_owned(), want),
                "{text}"
            );
        }
        for bad in [
            "x",
            "=x",
            "x=",
            "x=docker-image://UPPER",
            "x=oci-layout://",
            "x=target:y",
            "x=ftp://h/x",
        ] {
            assert!(build_context(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets() {
        let file = |p: &str| SecretFrom::File(p.into());
        let env = |v: &str| SecretFrom::Env(v.to_owned());
        for (text, id, from) in [
            ("id=a,src=f", "a", file("f")),
            ("id=a,source=f", "a", file("f")),
            ("type=file,id=a,src=f", "a", file("f")),
            ("id=a,env=V", "a", env("V")),
            ("type=env,id=a", "a", env("a")),
            ("type=env,id=a,env=V", "a", env("V")),
            ("id=SET", "SET", env("SET")),
            ("id=unset", "unset", file("unset")),
            ("type=file,id=SET", "SET", file("SET")),
        ] {
            let parsed = secret(text, |v| v == "SET").unwrap();
            assert_eq!(
                parsed,
                Secret {
                    id: id.to_owned(),
                    from
                },
                "{text}"
            );
        }
        for bad in ["a", "src=f", "id=", "id=a,type=x", "id=a,what=x"] {
            assert!(secret(bad, |_| false).is_err(), "{bad}");
        }
    }

    #[test]
    fn agents() {
        assert_eq!(ssh("default").unwrap().paths, Vec::<PathBuf>::new());
        let parsed = ssh("k=/a,/b,raw=true").unwrap();
        assert_eq!(parsed.id, "k");
        assert_eq!(parsed.paths, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert!(ssh("=x").is_err());
    }

    #[test]
    fn hosts() {
        for (text, name, address) in [
            ("a:10.1.2.3", "a", "10.1.2.3"),
            ("a=10.1.2.3", "a", "10.1.2.3"),
            ("a:[::1]", "a", "::1"),
            ("a=[fe80::1]", "a", "fe80::1"),
            ("a:::1", "a", "::1"),
            ("a.b:host-gateway", "a.b", "host-gateway"),
        ] {
            assert_eq!(
                add_host(text).unwrap(),
                (name.to_owned(), address.to_owned()),
                "{text}"
            );
        }
        for bad in ["a", "a:", ":1.2.3.4", "a:1.2.3", "a:gateway", "a b:1.2.3.4"] {
            assert!(add_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits() {
        for (text, want) in [
            ("nofile=1062:1063", "nofile=1062:1063"),
            ("nofile=5", "nofile=5:5"),
            ("core=0:-1", "core=0:18446744073709551615"),
        ] {
            assert_eq!(ulimit(text).unwrap().to_string(), want, "{text}");
        }
        for bad in ["nofile", "files=1", "nofile=x", "nofile=2:1", "nofile=-1:5"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn annotations() {
        let targets = |text: &str| -> Vec<(AnnotationTarget, Option<String>)> {
            annotation(text)
                .unwrap()
                .into_iter()
                .map(|a| (a.target, a.platform.map(|p| p.to_string())))
                .collect()
        };
        assert_eq!(targets("a=b"), [(AnnotationTarget::Manifest, None)]);
        assert_eq!(
            targets("index,manifest-descriptor[linux/arm64]:a=b"),
            [
                (AnnotationTarget::Index, None),
                (
                    AnnotationTarget::ManifestDescriptor,
                    Some("linux/arm64".to_owned())
                )
            ]
        );
        assert_eq!(annotation("a=b:c").unwrap()[0].value, "b:c");
        for bad in [
            "a",
            "=b",
            "what:a=b",
            "index[:a=b",
            "manifest[x y]:a=b",
            "index:=b",
        ] {
            assert!(annotation(bad).is_err(), "{bad}");
        }
    }
}
