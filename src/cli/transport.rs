//! Where an image is, as `copy`, `inspect`, `save` and `load` name it: `docker://`, `oci:`, `oci-archive:`, `docker-archive:`, or a
//! name in the store.

use std::fmt;
use std::path::PathBuf;

use strata::oci::Reference;

use super::values::FlagError;

/// A place of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Location {
    /// `docker://REF`: a registry.
    Registry(Reference),
    /// `oci:PATH[:NAME][@DIGEST]`: an image layout folder.
    Layout {
        /// The folder.
        path: PathBuf,
        /// A name or digest in it.
        reference: Option<String>,
    },
    /// `oci-archive:PATH[:TAG]`: an image layout in a tar file.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// A name in it.
        reference: Option<String>,
    },
    /// `docker-archive:PATH[:REF]`: what docker saves and loads.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// A name in it.
        reference: Option<Reference>,
    },
    /// A name or image ID in the store.
    Store(String),
}

impl Location {
    /// Reads `text`, the value of `argument`.
    pub(crate) fn parse(argument: &str, text: &str) -> Result<Location, FlagError> {
        let bad = |problem: &str| FlagError::new(argument, text, problem);
        let reference = |t: &str| super::values::reference(argument, t);
        let Some((scheme, rest)) = text.split_once(':') else {
            return Ok(Location::Store(text.to_owned()));
        };
        let path_and_name = || {
            let (path, name) = super::build_values::split_layout(rest);
            if path.is_empty() {
                Err(bad("the path is missing"))
            } else {
                Ok((PathBuf::from(path), name.map(str::to_owned)))
            }
        };
        match scheme {
            "docker" => match rest.strip_prefix("//") {
                Some(name) => Ok(Location::Registry(reference(name)?)),
                None => Err(bad("expected docker://REGISTRY/NAME:TAG")),
            },
            "oci" => path_and_name().map(|(path, reference)| Location::Layout { path, reference }),
            "oci-archive" => {
                path_and_name().map(|(path, reference)| Location::OciArchive { path, reference })
            }
            "docker-archive" => {
                let (path, name) = rest.split_once(':').unwrap_or((rest, ""));
                if path.is_empty() {
                    return Err(bad("the path is missing"));
                }
                Ok(Location::DockerArchive {
                    path: path.into(),
                    reference: (!name.is_empty()).then(|| reference(name)).transpose()?,
                })
            }
            "store" | "containers-storage" => Ok(Location::Store(rest.to_owned())),
            "dir" | "docker-daemon" | "tarball" | "sif" | "ostree" => Err(bad(
                "unsupported transport: expected docker://, oci:, oci-archive:, docker-archive: or a name in the store",
            )),
            _ => Ok(Location::Store(text.to_owned())),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named =
            |f: &mut fmt::Formatter<'_>, scheme: &str, path: &PathBuf, name: &Option<String>| {
                write!(f, "{scheme}:{}", path.display())?;
                name.iter().try_for_each(|n| {
                    let mark = if n.starts_with("sha256:") { '@' } else { ':' };
                    write!(f, "{mark}{n}")
                })
            };
        match self {
            Location::Registry(reference) => write!(f, "docker://{reference}"),
            Location::Layout { path, reference } => named(f, "oci", path, reference),
            Location::OciArchive { path, reference } => named(f, "oci-archive", path, reference),
            Location::DockerArchive { path, reference } => {
                let name = reference.as_ref().map(ToString::to_string);
                named(f, "docker-archive", path, &name)
            }
            Location::Store(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        for (text, shown) in [
            (
                "docker://busybox",
                "docker://docker.io/library/busybox:latest",
            ),
            ("docker://127.0.0.1:5/x:1", "docker://127.0.0.1:5/x:1"),
            ("oci:lay", "oci:lay"),
            ("oci:/a/lay:v1", "oci:/a/lay:v1"),
            (
                "oci:lay:127.0.0.1:5000/x/app:1",
                "oci:lay:127.0.0.1:5000/x/app:1",
            ),
            ("oci:lay@sha256:00", "oci:lay@sha256:00"),
            ("oci-archive:x.tar:v1", "oci-archive:x.tar:v1"),
            ("docker-archive:x.tar", "docker-archive:x.tar"),
            (
                "docker-archive:x.tar:app:1",
                "docker-archive:x.tar:docker.io/library/app:1",
            ),
            ("app", "app"),
            ("app:1", "app:1"),
            ("127.0.0.1:5000/app:1", "127.0.0.1:5000/app:1"),
            ("sha256:00", "sha256:00"),
        ] {
            assert_eq!(
                Location::parse("SRC", text).unwrap().to_string(),
                shown,
                "{text}"
            );
        }
        for bad in [
            "docker:busybox",
            "docker://",
            "docker://UPPER/x y",
            "oci:",
            "oci-archive:",
            "docker-archive:",
            "docker-archive:x:UPPER",
            "dir:x",
        ] {
            assert!(Location::parse("SRC", bad).is_err(), "{bad}");
        }
    }
}
