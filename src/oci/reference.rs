//! Image references (distribution-spec "Pulling manifests"), with docker's defaults and its grammar.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Digest, DigestError};

/// The registry that a name without one belongs to.
const DEFAULT_REGISTRY: &str = "docker.io";

/// The longest repository name, registry included (distribution's limit).
const MAX_NAME_BYTES: usize = 255;

/// A normalised reference: `REGISTRY/REPOSITORY[:TAG][@DIGEST]`. `busybox` is `docker.io/library/busybox:latest`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// Nothing at all.
    #[error("invalid reference format: the reference is empty")]
    Empty,
    /// The grammar allows lower-case letters only.
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    Uppercase {
        /// The repository as given.
        name: String,
    },
    /// A character or an order that the grammar does not allow.
    #[error("invalid reference format: {what} in {text:?}")]
    Form {
        /// What is wrong.
        what: &'static str,
        /// What was given.
        text: String,
    },
    /// The part after `@`.
    #[error("invalid reference format: {text:?}")]
    Digest {
        /// What was given.
        text: String,
        /// Why it is no digest.
        #[source]
        source: DigestError,
    },
    /// Longer than registries accept.
    #[error(
        "invalid reference format: repository name must not be longer than 255 characters: {0:?}"
    )]
    TooLong(String),
}

impl Reference {
    /// The host, and port if any: `docker.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path on the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` was filled in where neither a tag nor a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when the reference pins one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository, at `digest` and without a tag.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository, at `tag` and without a digest; the tag is checked.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        check_tag(tag, tag)?;
        Ok(Reference {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The name as docker shows it: without `docker.io/` and `library/`. It reads back as this reference: where what follows
    /// would pass for a host, `docker.io/` stays.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(short) = full.strip_prefix("docker.io/") else {
            return full;
        };
        match short.split_once('/') {
            Some(("library", rest)) if !rest.contains('/') => rest.to_owned(),
            Some((first, _)) if is_host(first) => full,
            _ => short.to_owned(),
        }
    }

    /// [`Reference::familiar`] without tag and digest.
    pub fn familiar_name(&self) -> String {
        Reference {
            tag: None,
            digest: None,
            ..self.clone()
        }
        .familiar()
    }
}

/// Whether what comes before the first slash is a host rather than a part of the repository.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|c| c.is_ascii_uppercase())
}

fn check_tag(tag: &str, text: &str) -> Result<(), ReferenceError> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let fine = tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || matches!(c, b'.' | b'-'));
    if fine {
        Ok(())
    } else {
        Err(ReferenceError::Form {
            what: "a tag has 1 to 128 of [A-Za-z0-9_.-]",
            text: text.to_owned(),
        })
    }
}

fn check_registry(registry: &str, text: &str) -> Result<(), ReferenceError> {
    let bad = |what| ReferenceError::Form {
        what,
        text: text.to_owned(),
    };
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest
                .split_once(']')
                .ok_or_else(|| bad("an address without its closing bracket"))?;
            if host.is_empty() || !host.bytes().all(|c| c.is_ascii_hexdigit() || c == b':') {
                return Err(bad("a malformed address"));
            }
            (
                "",
                after
                    .strip_prefix(':')
                    .or(if after.is_empty() { None } else { Some("") }),
            )
        }
        None => registry
            .split_once(':')
            .map_or((registry, None), |(h, p)| (h, Some(p))),
    };
    if port.is_some_and(|p| p.is_empty() || p.len() > 5 || !p.bytes().all(|c| c.is_ascii_digit())) {
        return Err(bad("a malformed port"));
    }
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if registry.starts_with('[') || host.split('.').all(label) {
        Ok(())
    } else {
        Err(bad("a malformed registry host"))
    }
}

fn check_repository(repository: &str, text: &str) -> Result<(), ReferenceError> {
    if repository.bytes().any(|c| c.is_ascii_uppercase()) {
        return Err(ReferenceError::Uppercase {
            name: repository.to_owned(),
        });
    }
    // path-component := alpha-numeric [ (. | _ | __ | -*) alpha-numeric ]*
    let component = |part: &str| {
        let bytes = part.as_bytes();
        let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        if bytes.is_empty() || !alnum(bytes[0]) || !alnum(bytes[bytes.len() - 1]) {
            return false;
        }
        part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .filter(|s| !s.is_empty())
            .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|c| c == b'-'))
    };
    if repository.split('/').all(component) {
        Ok(())
    } else {
        Err(ReferenceError::Form {
            what: "a malformed repository name",
            text: text.to_owned(),
        })
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|source| ReferenceError::Digest {
                    text: text.to_owned(),
                    source,
                })?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash starts a tag; one before it is a port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') => (before, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag {
            check_tag(tag, text)?;
        }
        // What comes before the first slash is a host only if it looks like one: docker's rule.
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest.to_owned()),
            Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
            None => (DEFAULT_REGISTRY, name.to_owned()),
        };
        let registry = if registry == "index.docker.io" {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        check_registry(registry, text)?;
        check_repository(&repository, text)?;
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        if registry.len() + 1 + repository.len() > MAX_NAME_BYTES {
            return Err(ReferenceError::TooLong(text.to_owned()));
        }
        let tag = tag
            .map(str::to_owned)
            .or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Reference {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|t| write!(f, ":{t}"))?;
        self.digest.iter().try_for_each(|d| write!(f, "@{d}"))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_table() {
        for (text, full, familiar) in [
            (
                "busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("a/b:c", "docker.io/a/b:c", "a/b:c"),
            (
                "docker.io/busybox:1",
                "docker.io/library/busybox:1",
                "busybox:1",
            ),
            (
                "index.docker.io/library/x",
                "docker.io/library/x:latest",
                "x:latest",
            ),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            // Short, these would be images of other registries.
            (
                "docker.io/localhost/x",
                "docker.io/localhost/x:latest",
                "docker.io/localhost/x:latest",
            ),
            (
                "docker.io/a.b/x:1",
                "docker.io/a.b/x:1",
                "docker.io/a.b/x:1",
            ),
            (
                "127.0.0.1:5000/x/y:t",
                "127.0.0.1:5000/x/y:t",
                "127.0.0.1:5000/x/y:t",
            ),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            (
                "ghcr.io/a__b/c-d.e",
                "ghcr.io/a__b/c-d.e:latest",
                "ghcr.io/a__b/c-d.e:latest",
            ),
        ] {
            let parsed: Reference = text.parse().unwrap();
            assert_eq!(
                (parsed.to_string().as_str(), parsed.familiar().as_str()),
                (full, familiar),
                "{text}"
            );
        }
        let pinned = format!("x:1@sha256:{}", "0".repeat(64));
        assert_eq!(
            pinned.parse::<Reference>().unwrap().to_string(),
            format!("docker.io/library/{pinned}")
        );
    }

    #[test]
    fn refused_table() {
        for bad in [
            "",
            ":",
            "x:",
            "x@",
            "x@sha256:12",
            "BusyBox",
            "a/B",
            "-x",
            "x-",
            "a//b",
            "a/",
            "/a",
            "a b",
            "x:ta g",
            "x@bad",
            "a.b:99999x/c",
            "http://x/y",
            "a/../b",
            "x___y",
            "a..b",
            &format!("x:{}", "t".repeat(129)),
            &"a/".repeat(200),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
