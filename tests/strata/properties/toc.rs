//! Tables of contents from a disk that may hold anything: what is taken can be looked up in every way, and stays as it is.

use strata::layer::Toc;

/// `data` is a table of contents.
pub(crate) fn check(data: &[u8]) {
    let Ok(toc) = Toc::parse(data.to_vec()) else {
        return;
    };
    assert_eq!(toc.as_bytes(), data);
    assert_eq!(toc.entries().len(), toc.len());
    assert_eq!(toc.subtree(b"").count(), toc.len());
    assert_eq!(toc.is_empty(), toc.entries().next().is_none());
    toc.leans_on_lower();
    let mut below = 0;
    for entry in toc.entries() {
        assert_eq!(toc.get(&entry.path).as_ref(), Some(&entry));
        assert_eq!(toc.subtree(&entry.path).next().as_ref(), Some(&entry));
        for child in toc.children(&entry.path) {
            assert_eq!(child.parent(), Some(entry.path.as_slice()));
            below += 1;
        }
    }
    if toc.get(b"").is_none() {
        below += toc.children(b"").count();
    } else {
        below += 1;
    }
    assert_eq!(below, toc.len(), "everything is below one thing");
    let again = Toc::from_entries(toc.entries().collect());
    assert_eq!(Toc::parse(again.to_bytes()).as_ref().ok(), Some(&again));
}
