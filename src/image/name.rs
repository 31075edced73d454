//! How images are named in an `index.json`.

use crate::oci::{Descriptor, Digest, Index, MediaType, Reference};

use super::ImageError;

/// The name of an image in its layout (image-spec annotations.md).
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The full reference, as containerd and BuildKit write it.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";

/// A name to write into an `index.json`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Name {
    /// Just these words, as `oci:FOLDER:WORDS` has them.
    Plain(String),
    /// A reference: its tag is the name of the image in the layout, the whole of it goes beside that (BuildKit's way).
    Reference(Reference),
}

impl Name {
    /// The annotations of the image's entry.
    fn annotate(&self, entry: &mut Descriptor) {
        let mut set = |key: &str, value: String| {
            entry.annotations.insert(key.to_owned(), value);
        };
        match self {
            Name::Plain(words) => set(REF_NAME, words.clone()),
            Name::Reference(reference) => {
                set(IMAGE_NAME, reference.to_string());
                set(REF_NAME, reference.tag().unwrap_or_default().to_owned());
            }
        }
    }

    /// Whether an entry has this name, so that a new one takes its place.
    fn is_of(&self, entry: &Descriptor) -> bool {
        let has = |key: &str, value: &str| entry.annotations.get(key).is_some_and(|v| v == value);
        match self {
            Name::Plain(words) => has(REF_NAME, words),
            Name::Reference(reference) => has(IMAGE_NAME, &reference.to_string()),
        }
    }
}

/// An index without images, as it is in an `index.json`.
pub(super) fn empty_index() -> Index {
    Index {
        schema_version: 2,
        media_type: Some(MediaType::OciIndex),
        artifact_type: None,
        manifests: Vec::new(),
        subject: None,
        annotations: Default::default(),
    }
}

/// Puts `root` into an index under `names`; without any, as an entry of its own, once.
pub(super) fn insert(index: &mut Index, root: &Descriptor, names: &[Name]) {
    index
        .manifests
        .retain(|entry| !names.iter().any(|n| n.is_of(entry)));
    let bare = without_names(root);
    if names.is_empty() && !index.manifests.iter().any(|e| e.digest == root.digest) {
        index.manifests.push(bare);
        return;
    }
    for name in names {
        let mut entry = bare.clone();
        name.annotate(&mut entry);
        index.manifests.push(entry);
    }
}

/// Finds an image: by name, by full reference, by `sha256:…` (`@` before it or not), or without a wish the only one.
pub(super) fn find(
    index: &Index,
    wanted: Option<&str>,
    medium: &str,
) -> Result<Descriptor, ImageError> {
    let images = || index.manifests.iter();
    let found = match wanted {
        None => {
            let mut distinct: Vec<&Descriptor> = Vec::new();
            for entry in images() {
                if !distinct.iter().any(|d| d.digest == entry.digest) {
                    distinct.push(entry);
                }
            }
            if distinct.len() > 1 {
                return Err(ImageError::Ambiguous {
                    medium: medium.to_owned(),
                    names: distinct.into_iter().map(shown).collect(),
                });
            }
            distinct.pop()
        }
        Some(text) => match text.strip_prefix('@').unwrap_or(text).parse::<Digest>() {
            Ok(digest) => images().find(|e| e.digest == digest),
            Err(_) => {
                let has = |e: &&Descriptor, key: &str, value: &str| {
                    e.annotations.get(key).is_some_and(|v| v == value)
                };
                let full = text.parse::<Reference>().ok().map(|r| r.to_string());
                images()
                    .find(|e| has(e, REF_NAME, text))
                    .or_else(|| images().find(|e| has(e, IMAGE_NAME, text)))
                    .or_else(|| {
                        let full = full?;
                        images().find(|e| has(e, REF_NAME, &full) || has(e, IMAGE_NAME, &full))
                    })
            }
        },
    };
    found
        .map(without_names)
        .ok_or_else(|| ImageError::NotFound {
            what: wanted.map_or_else(|| "any image".to_owned(), |w| format!("image {w}")),
            medium: medium.to_owned(),
        })
}

/// Every image and the name it goes by.
pub(super) fn shown(entry: &Descriptor) -> String {
    [IMAGE_NAME, REF_NAME]
        .iter()
        .find_map(|key| entry.annotations.get(*key))
        .cloned()
        .unwrap_or_else(|| entry.digest.to_string())
}

/// What an entry says of the image itself.
fn without_names(entry: &Descriptor) -> Descriptor {
    let mut bare = entry.clone();
    bare.annotations
        .retain(|key, _| key != REF_NAME && key != IMAGE_NAME);
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_by_each_of_its_names() {
        let mut index = empty_index();
        let (one, two) = (
            Descriptor::of(MediaType::OciManifest, b"1"),
            Descriptor::of(MediaType::OciManifest, b"2"),
        );
        assert!(find(&index, None, "m").is_err());
        insert(
            &mut index,
            &one,
            &[Name::Reference("busybox:1".parse().unwrap())],
        );
        assert_eq!(find(&index, None, "m").unwrap(), one);
        insert(&mut index, &two, &[Name::Plain("other".to_owned())]);
        for (wanted, root) in [
            ("1", &one),
            ("docker.io/library/busybox:1", &one),
            ("busybox:1", &one),
            ("other", &two),
            (&two.digest.to_string(), &two),
            (&format!("@{}", one.digest), &one),
        ] {
            assert_eq!(&find(&index, Some(wanted), "m").unwrap(), root, "{wanted}");
        }
        let error = find(&index, None, "m").unwrap_err().to_string();
        assert_eq!(
            error,
            "m holds several images (docker.io/library/busybox:1, other); say which"
        );
        let error = find(&index, Some("third"), "m").unwrap_err().to_string();
        assert_eq!(error, "image third not found in m");
    }

    #[test]
    fn a_name_points_to_one_image() {
        let mut index = empty_index();
        let names = [Name::Plain("a".to_owned()), Name::Plain("b".to_owned())];
        for content in [b"1", b"2"] {
            let root = Descriptor::of(MediaType::OciManifest, content);
            insert(&mut index, &root, &names);
            insert(&mut index, &root, &[]);
            assert_eq!(find(&index, Some("a"), "m").unwrap(), root);
        }
        assert_eq!(index.manifests.len(), 2);
    }
}
