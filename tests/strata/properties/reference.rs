//! References, digests and platforms: what is shown is read back as the same.

use strata::oci::{Digest, Platform, Reference};

/// `data` is a name as somebody types it.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(reference) = text.parse::<Reference>() {
        let shown = reference.to_string();
        assert_eq!(shown.parse().as_ref(), Ok(&reference), "{text:?}");
        let familiar = reference.familiar();
        assert_eq!(familiar.parse().as_ref(), Ok(&reference), "{familiar:?}");
        assert!(shown.is_ascii() && !shown.contains(char::is_whitespace));
        assert!(
            !reference
                .repository()
                .split('/')
                .any(|part| part == ".." || part.is_empty())
        );
        assert!(reference.tag().is_some() || reference.digest().is_some());
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        assert!(shown.starts_with(&repository), "{shown}");
        assert!(repository.len() <= 255, "{repository}");
        let pinned = reference.with_digest(Digest::of(data));
        assert_eq!(pinned.to_string().parse(), Ok(pinned));
        let json = serde_json::to_string(&reference).expect("a string");
        assert_eq!(
            serde_json::from_str::<Reference>(&json).ok(),
            Some(reference)
        );
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text, "a digest has one form");
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse(), Ok(platform), "{text:?}");
    }
}
