//! `--output`: where a result goes and in which form, from `type=…,KEY=VALUE`.

use std::path::PathBuf;

use strata::oci::Reference;

use super::build_values::{Annotation, annotation_target};
use super::values::{FlagError, attributes, boolean, reference};

const FLAG: &str = "--output";

/// One `--output`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum OutputSpec {
    /// An image in the store, and in a registry if `push` says so.
    Image {
        /// Names beyond those of `-t`.
        names: Vec<Reference>,
        /// Whether it is pushed to every name's registry.
        push: bool,
        /// Its form.
        form: Form,
    },
    /// An image in a file or folder.
    Archive {
        /// Which kind.
        kind: ArchiveKind,
        /// Where to.
        dest: Dest,
        /// Whether it is one tar file, not a folder.
        tar: bool,
        /// Names beyond those of `-t`.
        names: Vec<Reference>,
        /// Its form.
        form: Form,
    },
    /// The root filesystem as plain files or as a tar.
    Files {
        /// Where to.
        dest: Dest,
        /// Whether it is a tar.
        tar: bool,
        /// Whether several platforms get a folder each (`os_arch/`); unset for "if there are several".
        platform_split: Option<bool>,
    },
    /// Nothing but the cache.
    CacheOnly,
}

impl OutputSpec {
    /// Whether it is written to standard output.
    pub(crate) fn on_stdout(&self) -> bool {
        match self {
            OutputSpec::Archive { dest, .. } | OutputSpec::Files { dest, .. } => {
                *dest == Dest::Stdout
            }
            OutputSpec::Image { .. } | OutputSpec::CacheOnly => false,
        }
    }
}

/// Which archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ArchiveKind {
    /// An OCI image layout.
    Oci,
    /// What `docker load` reads.
    Docker,
}

/// Where an export goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Dest {
    /// Standard output.
    Stdout,
    /// A file or folder.
    Path(PathBuf),
}

/// How the layers of an exported image are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CompressionKind {
    /// Plain tars.
    Uncompressed,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// The form of an exported image.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Form {
    /// `compression`; none for the default, gzip.
    pub(crate) compression: Option<CompressionKind>,
    /// `compression-level`
    pub(crate) level: Option<i32>,
    /// `force-compression`: layers of the base, too.
    pub(crate) force_compression: bool,
    /// `rewrite-timestamp`: times inside layers are clamped to SOURCE_DATE_EPOCH.
    pub(crate) rewrite_timestamp: bool,
    /// `oci-mediatypes`; none for the output's default.
    pub(crate) oci_media_types: Option<bool>,
    /// `annotation….KEY=VALUE`
    pub(crate) annotations: Vec<Annotation>,
    /// `source-date-epoch`, seconds since 1970.
    pub(crate) source_date_epoch: Option<i64>,
}

/// Parses one `--output`. A value without `=` is a folder, and `-` a tar on standard output, as in docker.
pub(crate) fn output(text: &str) -> Result<OutputSpec, FlagError> {
    let bad = |problem: String| FlagError::new(FLAG, text, problem);
    if text == "-" {
        return Ok(OutputSpec::Files {
            dest: Dest::Stdout,
            tar: true,
            platform_split: None,
        });
    }
    if !text.is_empty() && !text.contains(['=', ',']) {
        return Ok(OutputSpec::Files {
            dest: Dest::Path(text.into()),
            tar: false,
            platform_split: None,
        });
    }
    let mut attributes = attributes(FLAG, text)?;
    let kind = attributes
        .iter()
        .position(|(k, _)| k == "type")
        .map(|at| attributes.remove(at).1)
        .ok_or_else(|| bad("expected type=oci|docker|local|tar|registry|image|cacheonly".into()))?;
    let mut fields = Fields {
        text,
        kind: &kind,
        dest: None,
        tar: None,
        push: None,
        platform_split: None,
        names: Vec::new(),
        form: Form::default(),
    };
    for (key, value) in attributes {
        fields.set(&key, value)?;
    }
    fields.check()?;
    let Fields {
        dest,
        tar,
        push,
        platform_split,
        names,
        form,
        ..
    } = fields;
    let path_or_stdout = |dest: Option<String>| match dest.as_deref() {
        None | Some("-") => Dest::Stdout,
        Some(path) => Dest::Path(path.into()),
    };
    match kind.as_str() {
        "image" | "registry" => Ok(OutputSpec::Image {
            names,
            push: push.unwrap_or(kind == "registry"),
            form,
        }),
        // Without a destination docker loads the image into its own store; strata's own store is the equal of that.
        "docker" if dest.is_none() => Ok(OutputSpec::Image {
            names,
            push: false,
            form,
        }),
        "oci" | "docker" => {
            let dest = path_or_stdout(dest);
            let tar = tar.unwrap_or(true);
            if dest == Dest::Stdout && !tar {
                return Err(bad("tar=false needs dest=FOLDER".into()));
            }
            if kind == "docker" && !tar {
                return Err(bad(
                    "a docker archive is always a tar file; use type=oci for a folder".into(),
                ));
            }
            Ok(OutputSpec::Archive {
                kind: if kind == "oci" {
                    ArchiveKind::Oci
                } else {
                    ArchiveKind::Docker
                },
                dest,
                tar,
                names,
                form,
            })
        }
        "local" => match dest {
            Some(path) if path != "-" => Ok(OutputSpec::Files {
                dest: Dest::Path(path.into()),
                tar: false,
                platform_split,
            }),
            _ => Err(bad("type=local needs dest=FOLDER".into())),
        },
        "tar" => Ok(OutputSpec::Files {
            dest: path_or_stdout(dest),
            tar: true,
            platform_split,
        }),
        "cacheonly" => Ok(OutputSpec::CacheOnly),
        other => Err(bad(format!(
            "unknown type {other:?}: expected oci, docker, local, tar, registry, image or cacheonly"
        ))),
    }
}

/// The attributes seen so far.
struct Fields<'a> {
    text: &'a str,
    kind: &'a str,
    dest: Option<String>,
    tar: Option<bool>,
    push: Option<bool>,
    platform_split: Option<bool>,
    names: Vec<Reference>,
    form: Form,
}

impl Fields<'_> {
    fn bad(&self, problem: impl Into<String>) -> FlagError {
        FlagError::new(FLAG, self.text, problem)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), FlagError> {
        let truth = |value: &str| {
            boolean(FLAG, value).map_err(|e| self.bad(format!("{key}: {}", e.problem)))
        };
        match key {
            "dest" => self.dest = Some(value),
            "tar" => self.tar = Some(truth(&value)?),
            "push" => self.push = Some(truth(&value)?),
            "platform-split" => self.platform_split = Some(truth(&value)?),
            "force-compression" => self.form.force_compression = truth(&value)?,
            "rewrite-timestamp" => self.form.rewrite_timestamp = truth(&value)?,
            "oci-mediatypes" => self.form.oci_media_types = Some(truth(&value)?),
            // The store always has the image, and unpacks its layers when something needs them.
            "store" | "unpack" => {
                truth(&value)?;
            }
            "name" => {
                for name in value.split(',').filter(|n| !n.is_empty()) {
                    self.names.push(reference(FLAG, name)?);
                }
            }
            "compression" => {
                self.form.compression = Some(match value.as_str() {
                    "uncompressed" => CompressionKind::Uncompressed,
                    "gzip" => CompressionKind::Gzip,
                    "zstd" => CompressionKind::Zstd,
                    other => {
                        return Err(self.bad(format!(
                            "unsupported compression {other:?}: expected uncompressed, gzip or zstd"
                        )));
                    }
                });
            }
            "compression-level" => {
                let level = value.parse::<i32>().ok().filter(|l| (0..=22).contains(l));
                self.form.level = Some(level.ok_or_else(|| {
                    self.bad("compression-level: expected 0 to 9 for gzip, 0 to 22 for zstd")
                })?);
            }
            "source-date-epoch" => {
                self.form.source_date_epoch = Some(
                    value
                        .parse()
                        .map_err(|_| self.bad("source-date-epoch: expected seconds since 1970"))?,
                );
            }
            "attestation-prefix"
            | "attestation-inline"
            | "oci-artifact"
            | "compatibility-version"
            | "push-by-digest"
            | "registry.insecure"
            | "name-canonical"
            | "dangling-name-prefix"
            | "danging-name-empty-only"
            | "prefer-nondist-layers"
            | "mode" => {
                return Err(self.bad(format!("the attribute {key} is not yet supported")));
            }
            _ => match annotation_key(key) {
                Some((kind, name)) => {
                    let kind = if kind.is_empty() { "manifest" } else { kind };
                    let (target, platform) = annotation_target(FLAG, self.text, kind)?;
                    self.form.annotations.push(Annotation {
                        target,
                        platform,
                        key: name.to_owned(),
                        value,
                    });
                }
                None => return Err(self.bad(format!("unknown attribute {key:?}"))),
            },
        }
        Ok(())
    }

    /// Whether attributes and type go together.
    fn check(&self) -> Result<(), FlagError> {
        let image = matches!(self.kind, "image" | "registry" | "oci" | "docker");
        let only = |given: bool, key: &str, fits: bool| {
            if given && !fits {
                Err(self.bad(format!("type={} has no attribute {key}", self.kind)))
            } else {
                Ok(())
            }
        };
        let archive = matches!(self.kind, "oci" | "docker");
        let files = matches!(self.kind, "local" | "tar");
        only(self.dest.is_some(), "dest", archive || files)?;
        only(self.tar.is_some(), "tar", archive)?;
        only(
            self.push.is_some(),
            "push",
            matches!(self.kind, "image" | "registry"),
        )?;
        only(self.platform_split.is_some(), "platform-split", files)?;
        only(!self.names.is_empty(), "name", image)?;
        only(self.form.compression.is_some(), "compression", image)?;
        only(self.form.level.is_some(), "compression-level", image)?;
        only(self.form.force_compression, "force-compression", image)?;
        only(self.form.rewrite_timestamp, "rewrite-timestamp", image)?;
        only(self.form.oci_media_types.is_some(), "oci-mediatypes", image)?;
        only(!self.form.annotations.is_empty(), "annotation", image)?;
        let gzip = self.form.compression != Some(CompressionKind::Zstd);
        if gzip && self.form.level.is_some_and(|l| l > 9) {
            return Err(self.bad("compression-level: expected 0 to 9 for gzip"));
        }
        Ok(())
    }
}

/// `annotation[-TYPE][[PLATFORM]].KEY`: the type with its platform, and the key.
fn annotation_key(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("annotation")?;
    // The platform in brackets may hold dots of its own.
    let end = rest.find(']').unwrap_or(0);
    let dot = end + rest.get(end..)?.find('.')?;
    let (kind, key) = (&rest[..dot], &rest[dot + 1..]);
    let kind = match kind.strip_prefix('-') {
        Some(kind) => kind,
        None if kind.is_empty() => kind,
        None => return None,
    };
    (!key.is_empty()).then_some((kind, key))
}

#[cfg(test)]
mod tests {
    use super::super::build_values::AnnotationTarget;
    use super::*;

    fn archive(kind: ArchiveKind, dest: &str, form: Form) -> OutputSpec {
        OutputSpec::Archive {
            kind,
            dest: Dest::Path(dest.into()),
            tar: true,
            names: Vec::new(),
            form,
        }
    }

    #[test]
    fn forms() {
        let files = |dest, tar| OutputSpec::Files {
            dest,
            tar,
            platform_split: None,
        };
        for (text, want) in [
            ("out", files(Dest::Path("out".into()), false)),
            ("-", files(Dest::Stdout, true)),
            (
                "type=local,dest=out",
                files(Dest::Path("out".into()), false),
            ),
            ("type=tar", files(Dest::Stdout, true)),
            (
                "type=tar,dest=x.tar",
                files(Dest::Path("x.tar".into()), true),
            ),
            ("type=cacheonly", OutputSpec::CacheOnly),
            (
                "type=oci,dest=a.tar",
                archive(ArchiveKind::Oci, "a.tar", Form::default()),
            ),
            (
                "type=docker,dest=a.tar",
                archive(ArchiveKind::Docker, "a.tar", Form::default()),
            ),
            (
                "type=oci,dest=a,compression=uncompressed,force-compression=true",
                archive(
                    ArchiveKind::Oci,
                    "a",
                    Form {
                        compression: Some(CompressionKind::Uncompressed),
                        force_compression: true,
                        ..Form::default()
                    },
                ),
            ),
            (
                "type=oci,dest=a,compression=zstd,compression-level=19,rewrite-timestamp=true",
                archive(
                    ArchiveKind::Oci,
                    "a",
                    Form {
                        compression: Some(CompressionKind::Zstd),
                        level: Some(19),
                        rewrite_timestamp: true,
                        ..Form::default()
                    },
                ),
            ),
            (
                "type=image,\"name=a,b:1\",push=true",
                OutputSpec::Image {
                    names: vec!["a".parse().unwrap(), "b:1".parse().unwrap()],
                    push: true,
                    form: Form::default(),
                },
            ),
            (
                "type=registry",
                OutputSpec::Image {
                    names: Vec::new(),
                    push: true,
                    form: Form::default(),
                },
            ),
            (
                "type=docker",
                OutputSpec::Image {
                    names: Vec::new(),
                    push: false,
                    form: Form::default(),
                },
            ),
        ] {
            assert_eq!(output(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn annotations_in_keys() {
        let OutputSpec::Archive { form, .. } =
            output("type=oci,dest=a,annotation.x.y=1,annotation-index[linux/arm64].z=2").unwrap()
        else {
            panic!("an archive");
        };
        assert_eq!(form.annotations[0].key, "x.y");
        assert_eq!(form.annotations[0].target, AnnotationTarget::Manifest);
        assert_eq!(form.annotations[1].key, "z");
        assert_eq!(form.annotations[1].target, AnnotationTarget::Index);
        assert_eq!(
            form.annotations[1].platform.as_ref().unwrap().to_string(),
            "linux/arm64"
        );
    }

    #[test]
    fn refused() {
        for (bad, why) in [
            ("", "KEY=VALUE"),
            ("dest=x", "expected type="),
            ("type=what", "unknown type"),
            ("type=local", "needs dest"),
            ("type=local,dest=-", "needs dest"),
            ("type=oci,tar=false", "needs dest"),
            ("type=docker,dest=x,tar=false", "always a tar"),
            ("type=oci,dest=x,compression=lz4", "unsupported compression"),
            (
                "type=oci,dest=x,compression=estargz",
                "unsupported compression",
            ),
            ("type=oci,dest=x,compression-level=10", "0 to 9"),
            ("type=oci,dest=x,compression-level=x", "0 to 9"),
            ("type=oci,dest=x,push=maybe", "true or false"),
            ("type=oci,dest=x,push=true", "has no attribute push"),
            ("type=local,dest=x,compression=gzip", "has no attribute"),
            ("type=cacheonly,dest=x", "has no attribute"),
            ("type=oci,dest=x,wat=1", "unknown attribute"),
            ("type=oci,dest=x,annotationx.y=1", "unknown attribute"),
            (
                "type=oci,dest=x,annotation-what.y=1",
                "unknown annotation type",
            ),
            ("type=image,name=UPPER", "lowercase"),
            ("type=image,push-by-digest=true", "not yet supported"),
        ] {
            let error = output(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
