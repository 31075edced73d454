//! How the images that were built here came to be: which lines of which Dockerfile made their layers, and what COPY took.
//!
//! `lineage/<manifest>` is JSON. It is no part of the image, and goes with it.

use std::io::ErrorKind;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::oci::Digest;

/// The version of a lineage. One of another version does not count.
const VERSION: u32 = 1;

/// How an image came to be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// One for each layer, bottom first; `None` for a layer that was not built here.
    pub layers: Vec<Option<Made>>,
    /// The Dockerfile and its base; a lineage of an earlier strata does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// The Dockerfile of an image, and what its target began with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The name of the Dockerfile.
    pub dockerfile: String,
    /// Where it was, if it was a file: absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBytes>,
    /// How many layers the base brought: none with `FROM scratch`.
    pub base_layers: usize,
    /// The `FROM` that names the base; `None` with `FROM scratch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<FromLine>,
}

/// A `FROM` with an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FromLine {
    /// The image, as the Dockerfile calls it.
    pub image: String,
    /// Its first line, from 1.
    pub line: u32,
    /// Its last line.
    pub end_line: u32,
    /// The stage's name, or `stage-N`.
    pub stage: String,
}

/// What made a layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Made {
    /// The name of the Dockerfile.
    pub dockerfile: String,
    /// The first line of the instruction, from 1.
    pub line: u32,
    /// Its last line.
    pub end_line: u32,
    /// The stage's name, or `stage-N`.
    pub stage: String,
    /// What COPY and ADD took, in order; later ones replace earlier ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copied: Vec<Copied>,
}

/// A file or folder that COPY or ADD took.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Copied {
    /// Where it is in the layer; what is below it is what is below the source.
    pub to: PathBytes,
    /// Where it was.
    pub from: PathBytes,
    /// Whose path that is.
    pub origin: CopyOrigin,
}

/// Whose files were copied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "name")]
pub enum CopyOrigin {
    /// The build context's.
    Context,
    /// A named context's.
    Named(String),
    /// Another stage's, or an image's.
    Stage(String),
    /// A here-document's.
    Inline,
    /// A URL's, without passwords.
    Url(String),
}

/// A path as it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct PathBytes(pub Vec<u8>);

/// Text where it is text.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<Written> for PathBytes {
    fn from(written: Written) -> PathBytes {
        PathBytes(match written {
            Written::Text(text) => text.into_bytes(),
            Written::Bytes(bytes) => bytes,
        })
    }
}

impl From<PathBytes> for Written {
    fn from(path: PathBytes) -> Written {
        match String::from_utf8(path.0) {
            Ok(text) => Written::Text(text),
            Err(e) => Written::Bytes(e.into_bytes()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Versioned<L> {
    version: u32,
    #[serde(flatten)]
    lineage: L,
}

impl Made {
    /// Where a path of the layer came from: the path there, and whose it is.
    pub fn source_of(&self, path: &[u8]) -> Option<(Vec<u8>, &CopyOrigin)> {
        // The closest wins; of equals, the last, which replaced the others.
        let under = self.copied.iter().filter_map(|copied| {
            let to = &copied.to.0;
            let rest = match path.strip_prefix(to.as_slice())? {
                rest if rest.is_empty() || to.is_empty() => rest,
                rest => rest.strip_prefix(b"/")?,
            };
            Some((to.len(), rest, copied))
        });
        let (_, rest, copied) = under.max_by_key(|(length, ..)| *length)?;
        let mut from = copied.from.0.clone();
        if !rest.is_empty() {
            if !from.is_empty() && from != b"/" {
                from.push(b'/');
            }
            from.extend_from_slice(rest);
        }
        Some((from, &copied.origin))
    }
}

impl Store {
    pub(super) fn lineage_path(&self, manifest: &Digest) -> PathBuf {
        self.root().join("lineage").join(manifest.hex())
    }

    /// How an image came to be, if it was built here. One that is torn, or of another version, is not there.
    pub fn lineage(&self, manifest: &Digest) -> Result<Option<Lineage>, StoreError> {
        let path = self.lineage_path(manifest);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::file("read", &path)(e)),
        };
        let read = serde_json::from_slice::<Versioned<Lineage>>(&bytes).ok();
        Ok(read.filter(|r| r.version == VERSION).map(|r| r.lineage))
    }

    /// Remembers how an image came to be. A power loss may lose it, and cannot tear it unnoticed.
    pub fn put_lineage(&self, manifest: &Digest, lineage: &Lineage) -> Result<(), StoreError> {
        let path = self.lineage_path(manifest);
        let bytes = serde_json::to_vec(&Versioned {
            version: VERSION,
            lineage,
        })
        .expect("no field of a lineage fails to serialise");
        // A store of an earlier strata has no such folder.
        let dir = self.root().join("lineage");
        match std::fs::DirBuilder::new().create(&dir) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(StoreError::file("create", &dir)(e));
            }
            _ => {}
        }
        self.replace_unflushed(&path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::store;
    use super::*;

    fn copied(to: &str, from: &str) -> Copied {
        Copied {
            to: PathBytes(to.into()),
            from: PathBytes(from.into()),
            origin: CopyOrigin::Context,
        }
    }

    fn made(copied: Vec<Copied>) -> Made {
        Made {
            dockerfile: "Dockerfile".to_owned(),
            line: 3,
            end_line: 4,
            stage: "stage-0".to_owned(),
            copied,
        }
    }

    #[test]
    fn sources_of_copied_paths() {
        let made = made(vec![
            copied("app", "src"),
            copied("app/conf", "etc/conf"),
            copied("", "root"),
            copied("all", ""),
            copied("one", "a"),
            copied("one", "b"),
        ]);
        for (path, want) in [
            ("app", "src"),
            ("app/x/y", "src/x/y"),
            ("app/conf", "etc/conf"),
            ("app/conf/z", "etc/conf/z"),
            ("app/config", "src/config"),
            ("apple", "root/apple"),
            ("all/x", "x"),
            ("one", "b"),
        ] {
            let (from, _) = made.source_of(path.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(from).unwrap(), want, "{path}");
        }
        let run = self::made(Vec::new());
        assert_eq!(run.source_of(b"x"), None);
    }

    #[test]
    fn a_lineage_is_kept_and_torn_ones_do_not_count() {
        let (_dir, store) = store();
        let manifest = Digest::of(b"manifest");
        assert_eq!(store.lineage(&manifest).unwrap(), None);
        let odd = Copied {
            from: PathBytes(b"a\xff".to_vec()),
            ..copied("x", "")
        };
        let lineage = Lineage {
            layers: vec![None, Some(made(vec![odd]))],
            origin: Some(Origin {
                dockerfile: "Dockerfile".to_owned(),
                path: Some(PathBytes(b"/src/\xff/Dockerfile".to_vec())),
                base_layers: 1,
                from: Some(FromLine {
                    image: "busybox".to_owned(),
                    line: 1,
                    end_line: 1,
                    stage: "stage-0".to_owned(),
                }),
            }),
        };
        store.put_lineage(&manifest, &lineage).unwrap();
        assert_eq!(store.lineage(&manifest).unwrap(), Some(lineage));
        let path = store.lineage_path(&manifest);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(store.lineage(&manifest).unwrap(), None);
        let other = whole.replace("\"version\":1", "\"version\":2");
        std::fs::write(&path, other).unwrap();
        assert_eq!(store.lineage(&manifest).unwrap(), None);
        // An earlier strata wrote no origin.
        std::fs::write(&path, r#"{"version":1,"layers":[null]}"#).unwrap();
        let earlier = store.lineage(&manifest).unwrap().unwrap();
        assert_eq!((earlier.layers.len(), earlier.origin), (1, None));
    }
}
