//! Which files look like credentials: by their names, and by what is in them where that can be had.
//!
//! A name alone is enough where it says that there is a credential (`id_rsa`, `.netrc`). Where it says that there may be one (`*.pem`,
//! `.npmrc`), the content decides; where that is not at hand, the file counts unless its name or folder says that it is a
//! certificate. Empty files hold nothing. Contents are looked at here and go nowhere.

use std::collections::HashMap;
use std::io::Read;

use serde::Serialize;

use super::super::contents::{Reading, members, stream, unreadable};
use super::super::timeline::Place;
use super::super::{Contents, InspectError};
use crate::image::Source;
use crate::layer::tar::{Data, Member, TarReader};
use crate::layer::{EntryRef, Kind, KindRef, LayerError};
use crate::oci::Digest;

/// The longest file whose content is looked at, bytes. Keys and settings are a few KiB; a longer file is judged by its name.
const MAX_LOOK_BYTES: u64 = 1 << 20;

/// How many files of an image are looked into. More are no settings that somebody forgot, and are judged by their names.
const MAX_LOOKS: usize = 10_000;

/// What says that a file is a credential.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// Its name; nobody looked inside, or need to.
    Name,
    /// Its name says that it may be one, and its content that it is.
    Content,
}

/// How a name is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Suspicion {
    /// The name is enough.
    Certain,
    /// It is one if it holds a private key.
    Key,
    /// It is one if it holds one of these words.
    Words(&'static [&'static str]),
}

/// Names that say that there is a credential.
const NAMES: &[&str] = &[
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "ssh_host_rsa_key",
    "ssh_host_dsa_key",
    "ssh_host_ecdsa_key",
    "ssh_host_ed25519_key",
    ".env",
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".pgpass",
    ".htpasswd",
    ".vault-token",
    ".s3cfg",
    "credentials.tfrc.json",
    "terraform.tfstate",
];

/// Ends of paths that say so.
const PATHS: &[&str] = &[
    ".aws/credentials",
    ".azure/accessTokens.json",
    ".azure/msal_token_cache.json",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".config/gcloud/application_default_credentials.json",
    ".config/gcloud/credentials.db",
    ".config/gh/hosts.yml",
    ".gem/credentials",
    ".gnupg/secring.gpg",
    ".kube/config",
];

/// Ends of names that say so: containers of keys.
const ENDS: &[&str] = &[".p12", ".pfx", ".kdbx"];

/// Settings that may hold a credential: the end of the path, and the words before one.
const SETTINGS: &[(&str, &[&str])] = &[
    (".npmrc", &["_authToken", "_auth", "_password"]),
    (".yarnrc.yml", &["npmAuthToken", "npmAuthIdent"]),
    (".pypirc", &["password"]),
    (".dockercfg", &["\"auth\""]),
    (".docker/config.json", &["\"auth\"", "\"identitytoken\""]),
    ("containers/auth.json", &["\"auth\"", "\"identitytoken\""]),
];

/// Ends of `.env.*` that are examples.
const EXAMPLES: &[&str] = &["example", "sample", "template", "dist", "defaults"];

/// Words of names and folders of certificates, which are public.
const PUBLIC: &[&str] = &[
    "ca",
    "cacert",
    "cacerts",
    "cert",
    "certs",
    "certificate",
    "certificates",
    "chain",
    "fullchain",
    "bundle",
    "pub",
    "public",
    "crl",
    "dhparam",
    "dhparams",
    "trust",
];

/// Whether a path ends in these parts.
fn ends_in(path: &[u8], parts: &str) -> bool {
    let rest = path.strip_suffix(parts.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with(b"/"))
}

/// What the path of a file says.
fn suspicion(path: &[u8]) -> Option<Suspicion> {
    let name = path.rsplit(|c| *c == b'/').next().unwrap_or_default();
    let lower = name.to_ascii_lowercase();
    let is_name = |known: &&str| known.as_bytes() == name;
    let example = |end: &[u8]| {
        let mut words = end.split(|c| matches!(c, b'.' | b'-' | b'_'));
        words.any(|word| EXAMPLES.iter().any(|e| e.as_bytes() == word))
    };
    let environment = lower.strip_prefix(b".env.").is_some_and(|e| !example(e));
    if environment
        || NAMES.iter().any(is_name)
        || PATHS.iter().any(|parts| ends_in(path, parts))
        || ENDS.iter().any(|end| lower.ends_with(end.as_bytes()))
        || path.starts_with(b"run/secrets/")
        || memchr::memmem::find(path, b".gnupg/private-keys-v1.d/").is_some()
    {
        return Some(Suspicion::Certain);
    }
    if [".pem", ".key", ".ppk"]
        .iter()
        .any(|end| lower.ends_with(end.as_bytes()))
    {
        return Some(Suspicion::Key);
    }
    let settings = SETTINGS.iter().find(|(end, _)| ends_in(path, end));
    settings.map(|(_, words)| Suspicion::Words(words))
}

/// Whether the name or the folder of a file says that it is there to be read by all.
fn is_public(path: &[u8]) -> bool {
    let lower = path.to_ascii_lowercase();
    let mut words = lower.split(|c| !c.is_ascii_alphanumeric());
    !lower.ends_with(b".key") && words.any(|word| PUBLIC.iter().any(|p| p.as_bytes() == word))
}

impl Suspicion {
    /// What the content says.
    fn confirmed(self, content: &[u8]) -> bool {
        let has = |word: &str| memchr::memmem::find(content, word.as_bytes()).is_some();
        match self {
            Suspicion::Certain => true,
            Suspicion::Key => {
                // PEM has it in one line: `-----BEGIN RSA PRIVATE KEY-----`.
                let mut lines = content.split(|c| matches!(c, b'\n' | b'\r'));
                lines.any(|line| {
                    memchr::memmem::find(line, b"-----BEGIN ").is_some()
                        && memchr::memmem::find(line, b"PRIVATE KEY").is_some()
                }) || has("PuTTY-User-Key-File-")
            }
            Suspicion::Words(words) => words.iter().any(|word| has(word)),
        }
    }
}

/// The files of an image that look like credentials.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    found: Vec<(Place, Evidence)>,
}

impl Secrets {
    /// Judges by names alone.
    pub fn by_name(contents: &Contents) -> Secrets {
        Secrets::judged(contents, &HashMap::new())
    }

    /// Judges by names, and by the contents of what may be one. Layers with such files are read as far as the last of them: from the
    /// store, else from `source`. Without either, or if a file is longer than any key, the name decides.
    pub fn look(
        contents: &Contents,
        source: Option<&dyn Source>,
        reading: Reading<'_>,
    ) -> Result<Secrets, InspectError> {
        let mut answers = HashMap::new();
        let mut left = MAX_LOOKS;
        for (at, layer) in contents.layers.iter().enumerate() {
            let input = match (source, reading.store.filter(|s| s.has_blob(&layer.blob))) {
                (_, Some(store)) => Box::new(store.open_blob(&layer.blob)?),
                (Some(source), None) => stream(&layer.blob, source, reading)?,
                (None, None) => continue,
            };
            let mut wanted: HashMap<Vec<u8>, Wanted> = HashMap::new();
            for (index, entry) in layer.toc.refs().enumerate() {
                if left == 0 {
                    break;
                }
                if let Some(suspicion) = to_look_at(entry)
                    && let KindRef::File { content, .. } = entry.kind
                    && let Some(content) = content
                {
                    let place = Place { layer: at, index };
                    left -= 1;
                    let wish = Wanted {
                        place,
                        suspicion,
                        content,
                    };
                    wanted.insert(entry.path.to_vec(), wish);
                }
            }
            if !wanted.is_empty() {
                let read = read(input, wanted, reading, &mut answers);
                read.map_err(|source| InspectError::Layer {
                    digest: layer.blob.digest,
                    source: Box::new(source),
                })?;
            }
        }
        Ok(Secrets::judged(contents, &answers))
    }

    /// By the names, and what is known of contents.
    fn judged(contents: &Contents, answers: &HashMap<Place, bool>) -> Secrets {
        let mut found = Vec::new();
        for (at, layer) in contents.layers.iter().enumerate() {
            for (index, entry) in layer.toc.refs().enumerate() {
                let holds = match entry.kind {
                    KindRef::File { size_bytes, .. } => size_bytes > 0,
                    // A second name may be the one that tells.
                    KindRef::HardLink { .. } => true,
                    _ => false,
                };
                let Some(suspicion) = suspicion(entry.path).filter(|_| holds) else {
                    continue;
                };
                let place = Place { layer: at, index };
                let evidence = match (suspicion, answers.get(&place)) {
                    (Suspicion::Certain, _) => Some(Evidence::Name),
                    (_, Some(true)) => Some(Evidence::Content),
                    (_, Some(false)) => None,
                    (_, None) => (!is_public(entry.path)).then_some(Evidence::Name),
                };
                found.extend(evidence.map(|evidence| (place, evidence)));
            }
        }
        Secrets { found }
    }

    /// Where they are, by layer and path, and why they count.
    pub(super) fn found(&self) -> &[(Place, Evidence)] {
        &self.found
    }
}

/// How the content of a file is judged, if it is to be.
fn to_look_at(entry: EntryRef<'_>) -> Option<Suspicion> {
    let suspicion = suspicion(entry.path).filter(|s| *s != Suspicion::Certain)?;
    let KindRef::File { size_bytes, .. } = entry.kind else {
        return None;
    };
    (1..=MAX_LOOK_BYTES)
        .contains(&size_bytes)
        .then_some(suspicion)
}

/// A file to look into.
struct Wanted {
    place: Place,
    suspicion: Suspicion,
    content: Digest,
}

/// Reads a layer until all that is wanted was seen. What is not the file that the table speaks of has no answer.
fn read(
    input: impl Read,
    mut wanted: HashMap<Vec<u8>, Wanted>,
    reading: Reading<'_>,
    answers: &mut HashMap<Place, bool>,
) -> Result<(), LayerError> {
    let mut tar = members(input)?;
    while let Some(member) = tar.next_member()? {
        if reading.cancel.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(unreadable(std::io::Error::other("interrupted")));
        }
        let Member::Entry(entry) = member else {
            continue;
        };
        let Kind::File { size_bytes, .. } = entry.kind else {
            continue;
        };
        let Some(wish) = wanted.get(&entry.path) else {
            continue;
        };
        if size_bytes > MAX_LOOK_BYTES {
            continue;
        }
        let content = whole(&mut tar)?;
        // A path may be in a layer several times; the table speaks of the last.
        if Digest::of(&content) == wish.content {
            answers.insert(wish.place, wish.suspicion.confirmed(&content));
            wanted.remove(&entry.path);
            if wanted.is_empty() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The content of the member that was read last; at most [`MAX_LOOK_BYTES`] of it.
fn whole<R: std::io::BufRead>(tar: &mut TarReader<R>) -> Result<Vec<u8>, LayerError> {
    let most = usize::try_from(MAX_LOOK_BYTES).expect("a MiB is a usize");
    let mut content = Vec::new();
    loop {
        let left = most - content.len();
        let count = match tar.data()? {
            Data::End => return Ok(content),
            Data::Hole(count) => {
                let zeros = usize::try_from(count).unwrap_or(left).min(left);
                content.resize(content.len() + zeros, 0);
                continue;
            }
            Data::Bytes(bytes) => {
                let count = bytes.len();
                content.extend_from_slice(&bytes[..count.min(left)]);
                count
            }
        };
        tar.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_something() {
        let certain = Some(Suspicion::Certain);
        for (path, want) in [
            ("root/.ssh/id_rsa", certain),
            ("root/.ssh/id_rsa.pub", None),
            ("app/.env", certain),
            ("app/.env.production", certain),
            ("app/.env.example", None),
            ("app/.env.local.sample", None),
            ("app/env", None),
            ("root/.aws/credentials", certain),
            ("root/aws/credentials", None),
            ("x.aws/credentials", None),
            ("etc/ssl/private/server.key", Some(Suspicion::Key)),
            ("CERT.PEM", Some(Suspicion::Key)),
            ("app/store.p12", certain),
            ("run/secrets/token", certain),
            ("etc/shadow", None),
            ("usr/share/doc/netrc", None),
            ("", None),
        ] {
            assert_eq!(suspicion(path.as_bytes()), want, "{path}");
        }
        let npmrc = suspicion(b"root/.npmrc").unwrap();
        assert!(npmrc.confirmed(b"//registry/:_authToken=x"));
        assert!(!npmrc.confirmed(b"registry=https://registry/"));
        let pypirc = suspicion(b"root/.pypirc").unwrap();
        assert!(pypirc.confirmed(b"[pypi]\npassword = x"));
    }

    #[test]
    fn keys_and_certificates() {
        for (content, want) in [
            ("-----BEGIN RSA PRIVATE KEY-----\nMII", true),
            ("text\r\n-----BEGIN ENCRYPTED PRIVATE KEY-----\r\n", true),
            ("PuTTY-User-Key-File-3: ssh-ed25519", true),
            (
                "-----BEGIN CERTIFICATE-----\nPRIVATE KEY of somebody\n",
                false,
            ),
            ("-----BEGIN PUBLIC KEY-----\n", false),
            ("", false),
        ] {
            assert_eq!(
                Suspicion::Key.confirmed(content.as_bytes()),
                want,
                "{content}"
            );
        }
        for (path, want) in [
            ("etc/ssl/certs/x.pem", true),
            ("usr/lib/python3/certifi/cacert.pem", true),
            ("app/fullchain.pem", true),
            ("app/local.pem", false),
            ("app/privkey.pem", false),
            ("etc/ssl/certs/x.key", false),
        ] {
            assert_eq!(is_public(path.as_bytes()), want, "{path}");
        }
    }
}
