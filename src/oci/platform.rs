//! Platforms (image-spec, image-index.md "platform"), in the spelling and with the normalisation of containerd.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where an image runs. Ordered as written: os, architecture, variant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// The CPU architecture, a GOARCH value.
    pub architecture: String,
    /// The operating system, a GOOS value.
    pub os: String,
    /// The version of a Windows image.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// Features the operating system must have.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The variant of the CPU, as in `arm/v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is no platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "invalid platform {0:?}: expected OS[/ARCH[/VARIANT]], for example linux/amd64 or linux/arm/v7"
)]
pub struct PlatformError(pub String);

impl Platform {
    /// A platform of `os` and `architecture`, normalised.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let (architecture, variant) = normalise(architecture, variant.unwrap_or_default());
        Platform {
            architecture,
            os: os.to_ascii_lowercase(),
            os_version: None,
            os_features: Vec::new(),
            variant,
        }
    }

    /// The platform strata runs on.
    pub fn host() -> Platform {
        Platform::new("linux", std::env::consts::ARCH, None)
    }

    /// How well an image for `self` serves someone who asked for `wanted`: `None` not at all, else higher is better.
    /// An arm variant serves the ones above it (v6 runs on v7), an exact match is best.
    pub fn serves(&self, wanted: &Platform) -> Option<u32> {
        if self.os != wanted.os || self.architecture != wanted.architecture {
            return None;
        }
        if self.os_version.is_some()
            && wanted.os_version.is_some()
            && self.os_version != wanted.os_version
        {
            return None;
        }
        let level = |v: &Option<String>| {
            v.as_deref()
                .and_then(|v| v.strip_prefix('v'))
                .and_then(|v| v.parse::<u32>().ok())
        };
        match (level(&self.variant), level(&wanted.variant)) {
            (have, want) if have == want => Some(u32::MAX),
            (Some(have), Some(want)) if have < want => Some(have + 1),
            (None, Some(_)) => Some(0),
            _ => None,
        }
    }
}

// containerd's platforms.normalizeArch: names of uname and of other tools become GOARCH values, default variants go.
fn normalise(architecture: &str, variant: &str) -> (String, Option<String>) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64", v) => ("ppc64", v),
        ("powerpc64le", v) => ("ppc64le", v),
        (a, v) => (a, v),
    };
    (
        architecture.to_owned(),
        (!variant.is_empty()).then(|| variant.to_owned()),
    )
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// `linux/amd64`, `linux/arm/v7`, `arm64` (on linux), `linux` (on this architecture), `local`.
    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        let bad = || PlatformError(text.to_owned());
        let fine = |p: &str| {
            !p.is_empty()
                && p.bytes()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.'))
        };
        if text == "local" {
            return Ok(Platform::host());
        }
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|p| fine(p)) {
            return Err(bad());
        }
        const SYSTEMS: [&str; 12] = [
            "aix",
            "android",
            "darwin",
            "dragonfly",
            "freebsd",
            "illumos",
            "js",
            "linux",
            "netbsd",
            "openbsd",
            "solaris",
            "windows",
        ];
        const ARCHITECTURES: [&str; 30] = [
            "386",
            "aarch64",
            "amd64",
            "arm",
            "arm64",
            "armbe",
            "armel",
            "armhf",
            "i386",
            "i686",
            "loong64",
            "mips",
            "mips64",
            "mips64le",
            "mipsle",
            "powerpc64",
            "powerpc64le",
            "ppc64",
            "ppc64le",
            "riscv",
            "riscv64",
            "s390",
            "s390x",
            "sparc",
            "sparc64",
            "wasm",
            "x86",
            "x86-64",
            "x86_64",
            "any",
        ];
        match parts[..] {
            [one] if SYSTEMS.contains(&one.to_ascii_lowercase().as_str()) => {
                Ok(Platform::new(one, std::env::consts::ARCH, None))
            }
            [one] if ARCHITECTURES.contains(&one.to_ascii_lowercase().as_str()) => {
                Ok(Platform::new("linux", one, None))
            }
            [os, arch] => Ok(Platform::new(os, arch, None)),
            [os, arch, variant] => Ok(Platform::new(os, arch, Some(variant))),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_table() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("Linux/AMD64", "linux/amd64"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(
                text.parse::<Platform>().unwrap().to_string(),
                want,
                "{text}"
            );
        }
        for bad in ["", "/", "linux/", "lin/ux/a/b", "linux/am d64", "nothing"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn arm_variants_serve_upwards() {
        let p = |t: &str| t.parse::<Platform>().unwrap();
        assert!(p("linux/arm/v6").serves(&p("linux/arm/v7")).is_some());
        assert!(p("linux/arm/v7").serves(&p("linux/arm/v6")).is_none());
        assert!(
            p("linux/arm/v7").serves(&p("linux/arm/v7"))
                > p("linux/arm/v6").serves(&p("linux/arm/v7"))
        );
        assert!(p("linux/arm64").serves(&p("linux/amd64")).is_none());
    }
}
