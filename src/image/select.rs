//! Which image of an index runs on a platform.

use crate::oci::{Descriptor, Index, MediaType, Platform};

/// The entry of an index that serves a platform best.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Selection<'a> {
    /// The entry: a manifest, or an index to go on with.
    pub descriptor: &'a Descriptor,
    /// Whether it is for just that platform, and not for one that the platform can run too.
    pub exact: bool,
}

/// No entry of an index serves a platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no match for platform {wanted} in the index: it has {}", list(.available))]
pub struct SelectError {
    /// What was asked for.
    pub wanted: Box<Platform>,
    /// What there is, in the order of the index, each once.
    pub available: Vec<Platform>,
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "no platforms".to_owned();
    }
    let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Chooses the entry that serves `wanted` best; of equals, the first.
///
/// An entry without a platform may be anything, so it is taken only where it is the index's only image.
pub fn select<'a>(index: &'a Index, wanted: &Platform) -> Result<Selection<'a>, SelectError> {
    let mut best: Option<(u32, &Descriptor)> = None;
    for (descriptor, platform) in with_platform(index) {
        if let Some(score) = platform.serves(wanted)
            && best.is_none_or(|(b, _)| score > b)
        {
            best = Some((score, descriptor));
        }
    }
    if let Some((score, descriptor)) = best {
        return Ok(Selection {
            descriptor,
            exact: score == u32::MAX,
        });
    }
    let mut available: Vec<Platform> = Vec::new();
    for (_, platform) in with_platform(index) {
        if !available.contains(&platform) {
            available.push(platform);
        }
    }
    let mut unmarked = index.manifests.iter().filter(|d| {
        d.platform.is_none() && (d.media_type.is_manifest() || d.media_type.is_index())
    });
    match (unmarked.next(), unmarked.next()) {
        (Some(descriptor), None) if available.is_empty() => Ok(Selection {
            descriptor,
            exact: false,
        }),
        _ => Err(SelectError {
            wanted: Box::new(wanted.clone()),
            available,
        }),
    }
}

/// The platforms an index has images for, normalised, in its order; attestations left out.
fn with_platform(index: &Index) -> impl Iterator<Item = (&Descriptor, Platform)> {
    index
        .manifests
        .iter()
        .filter(|d| !matches!(d.media_type, MediaType::Other(ref t) if !t.is_empty()))
        .filter_map(|d| d.platform.as_ref().map(|p| (d, p)))
        .filter(|(_, p)| p.os != "unknown")
        .map(|(d, p)| {
            let normal = Platform {
                os_version: p.os_version.clone(),
                os_features: p.os_features.clone(),
                ..Platform::new(&p.os, &p.architecture, p.variant.as_deref())
            };
            (d, normal)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[Option<(&str, Option<&str>)>]) -> Index {
        let manifests = platforms
            .iter()
            .enumerate()
            .map(|(i, p)| Descriptor {
                platform: p.map(|(arch, variant)| Platform {
                    architecture: arch.to_owned(),
                    os: if arch == "unknown" {
                        "unknown"
                    } else {
                        "linux"
                    }
                    .to_owned(),
                    os_version: None,
                    os_features: Vec::new(),
                    variant: variant.map(str::to_owned),
                }),
                ..Descriptor::of(MediaType::OciManifest, &[u8::try_from(i).unwrap()])
            })
            .collect();
        Index {
            schema_version: 2,
            media_type: Some(MediaType::OciIndex),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: Default::default(),
        }
    }

    #[test]
    fn best_match_table() {
        let many = index(&[
            Some(("unknown", None)),
            Some(("amd64", None)),
            Some(("arm", Some("v6"))),
            Some(("arm", Some("v7"))),
            Some(("aarch64", Some("v8"))),
            Some(("amd64", None)),
        ]);
        for (wanted, position, exact) in [
            ("linux/amd64", Some(1), true),
            ("linux/arm/v7", Some(3), true),
            ("linux/arm/v8", Some(3), false),
            ("linux/arm/v6", Some(2), true),
            ("linux/arm64", Some(4), true),
            ("linux/arm/v5", None, false),
            ("linux/s390x", None, false),
        ] {
            let selected = select(&many, &wanted.parse().unwrap());
            match position {
                Some(i) => {
                    let want = Selection {
                        descriptor: &many.manifests[i],
                        exact,
                    };
                    assert_eq!(selected.unwrap(), want, "{wanted}");
                }
                None => {
                    let text = selected.unwrap_err().to_string();
                    assert!(
                        text.ends_with(
                            "it has linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64"
                        ),
                        "{text}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_entry_without_a_platform_serves_only_alone() {
        let wanted = Platform::new("linux", "amd64", None);
        assert!(select(&index(&[None]), &wanted).is_ok());
        assert!(select(&index(&[Some(("unknown", None)), None]), &wanted).is_ok());
        assert!(select(&index(&[None, None]), &wanted).is_err());
        assert!(select(&index(&[None, Some(("s390x", None))]), &wanted).is_err());
        let text = select(&index(&[]), &wanted).unwrap_err().to_string();
        assert!(text.ends_with("it has no platforms"), "{text}");
    }
}
