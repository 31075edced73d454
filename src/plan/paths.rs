//! Paths of the image as text: joined and cleaned without looking at any file.

/// Go's `path.Clean` of an absolute path: no empty element, no `.`, no `..`; `/` for nothing. A relative one counts from `/`.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `path` as seen from the absolute folder `from`, clean.
pub(super) fn join(from: &str, path: &str) -> String {
    if path.starts_with('/') {
        clean(path)
    } else {
        clean(&format!("{from}/{path}"))
    }
}

/// [`join`] for the destination of a copy: what says "a folder" (`.`, `./`, `x/`, `x/.`) ends in a slash.
pub(super) fn join_destination(from: &str, path: &str) -> String {
    let folder = matches!(path, "" | ".") || path.ends_with('/') || path.ends_with("/.");
    let mut joined = join(from, path);
    if folder && joined != "/" {
        joined.push('/');
    }
    joined
}

/// WORKDIR's rule: an absolute path is taken as it is, a relative one is joined to the current one.
pub(super) fn workdir(current: &str, path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        join(current, path)
    }
}

/// Whether `..` leads above the root.
pub(super) fn leads_out(path: &str) -> bool {
    let mut depth = 0usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// The last element, or the whole where there is none.
pub(super) fn base_name(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins() {
        for (from, path, want) in [
            ("/", "a", "/a"),
            ("/w", "../../x", "/x"),
            ("/w", "/a//b/./c/", "/a/b/c"),
            ("", "", "/"),
        ] {
            assert_eq!(join(from, path), want, "{from} {path}");
        }
        for (from, path, want) in [
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "d/.", "/w/d/"),
            ("/w", "d/", "/w/d/"),
            ("/w", "d", "/w/d"),
            ("/w", "/", "/"),
            ("/", ".", "/"),
            ("/w", "../up", "/up"),
        ] {
            assert_eq!(join_destination(from, path), want, "{from} {path}");
        }
        assert_eq!(workdir("/a", "/x//y/"), "/x//y/");
        assert_eq!(workdir("/x//y/", "z"), "/x/y/z");
        assert_eq!(base_name("/keys/tok"), "tok");
        assert_eq!(base_name("tok"), "tok");
    }
}
