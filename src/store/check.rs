//! Finding damage: what the store promises, held against what is on disk.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::lgetxattr;
use rustix::io::Errno;
use serde::Serialize;

use super::cache::read_record;
use super::failed::read_step;
use super::gc::Marks;
use super::layers::{CHAIN, read_toc};
use super::listing::is_whole;
use super::remove::remove_tree;
use super::{Store, StoreError, list, locked};
use crate::layer::{EntryRef, KindRef, Toc};
use crate::oci::{Descriptor, Digest, Document, Hasher};

/// How much to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CheckDepth {
    /// Every blob is read; of unpacked layers, names, types, sizes and link targets are compared.
    #[default]
    Quick,
    /// Every file of every unpacked layer is read too.
    Full,
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What a crash leaves; nothing refers to it, and it is made anew when it is needed.
    Leftover,
    /// Something that an image or the cache promises is not so.
    Error,
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "problem")]
pub enum Problem {
    /// A blob's bytes are not what its name says.
    WrongDigest {
        /// What they hash to.
        actual: Digest,
    },
    /// A blob that another refers to is not there.
    MissingBlob {
        /// What refers to it.
        needed_by: Digest,
    },
    /// A blob has not the length that another says.
    WrongSize {
        /// What says so.
        needed_by: Digest,
        /// Bytes.
        expected: u64,
        /// Bytes.
        actual: u64,
    },
    /// A document or table of contents that cannot be understood.
    Malformed {
        /// Why not.
        why: String,
    },
    /// A path of an unpacked layer is not what its table of contents says.
    LayerDiffers {
        /// The path in the layer, what is not UTF-8 replaced.
        path: String,
        /// In what.
        how: &'static str,
    },
    /// It was being written when the machine stopped.
    Unfinished,
    /// Nothing of a store.
    Stray,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::WrongDigest { actual } => write!(f, "its bytes are those of {actual}"),
            Problem::MissingBlob { needed_by } => write!(f, "not there, and {needed_by} needs it"),
            Problem::WrongSize {
                needed_by,
                expected,
                actual,
            } => write!(f, "{actual} bytes, {needed_by} says {expected}"),
            Problem::Malformed { why } => f.write_str(why),
            Problem::LayerDiffers { path, how } => {
                write!(f, "/{path} is not as its table of contents says: {how}")
            }
            Problem::Unfinished => f.write_str("unfinished when the machine stopped"),
            Problem::Stray => f.write_str("nothing of a store"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file or folder, below the root.
    pub path: PathBuf,
    /// What is wrong with it.
    #[serde(flatten)]
    pub problem: Problem,
    /// Whether it was removed.
    pub repaired: bool,
}

/// What a check saw.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CheckReport {
    /// Images of the index.
    pub images: u64,
    /// Blobs read.
    pub blobs: u64,
    /// Bytes of blobs read.
    pub bytes: u64,
    /// Unpacked layers compared.
    pub layers: u64,
    /// What is wrong, sorted by path.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether all that the store promises is so, now; what a crash left over does not count.
    pub fn is_clean(&self) -> bool {
        self.findings
            .iter()
            .all(|f| f.severity == Severity::Leftover || f.repaired)
    }
}

#[derive(Default)]
struct Checker {
    report: CheckReport,
    /// What repairing removes.
    doomed: BTreeSet<PathBuf>,
}

impl Checker {
    fn found(&mut self, severity: Severity, path: &Path, problem: Problem) {
        self.report.findings.push(Finding {
            severity,
            path: path.to_owned(),
            problem,
            repaired: false,
        });
    }

    /// Something that is better gone.
    fn doomed(&mut self, severity: Severity, path: &Path, problem: Problem) {
        self.found(severity, path, problem);
        self.doomed.insert(path.to_owned());
    }
}

impl Store {
    /// Holds everything in the store against what it promises. What others write meanwhile may be seen half.
    pub fn check(&self, depth: CheckDepth) -> Result<CheckReport, StoreError> {
        Ok(self.examine(depth)?.report)
    }

    /// Checks, and removes what is torn, damaged or unknown: a damaged blob of an image can then be pulled again. Waits until
    /// nobody else uses the store, as [`Store::prune`].
    pub fn repair(
        &mut self,
        depth: CheckDepth,
        on_wait: &dyn Fn(),
    ) -> Result<CheckReport, StoreError> {
        self.alone(on_wait, |store| {
            let mut checker = store.examine(depth)?;
            for path in &checker.doomed {
                remove_tree(path)?;
            }
            for finding in &mut checker.report.findings {
                finding.repaired = checker.doomed.contains(&finding.path);
            }
            Ok(checker.report)
        })
    }

    fn examine(&self, depth: CheckDepth) -> Result<Checker, StoreError> {
        let mut checker = Checker::default();
        let mut marks = Marks::default();
        let mut seen = HashSet::new();
        for named in self.index()?.descriptors() {
            if seen.insert(named.digest) {
                checker.report.images += 1;
                self.check_image(
                    named,
                    named.digest,
                    Missing::Error,
                    &mut checker,
                    &mut marks,
                )?;
            }
        }
        self.check_records(&mut checker, &mut marks)?;
        self.check_blobs(&mut checker, &marks)?;
        for dir in list(&self.root().join("layers"))? {
            self.check_layer(&dir, depth, &mut checker)?;
        }
        for path in self.failed_paths()? {
            if read_step(&path)?.is_none() {
                checker.doomed(Severity::Leftover, &path, Problem::Unfinished);
            }
        }
        for path in list(self.root())? {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            if !KNOWN.contains(&name) {
                checker.doomed(Severity::Leftover, &path, Problem::Stray);
            }
        }
        checker.report.findings.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(checker)
    }

    fn check_image(
        &self,
        descriptor: &Descriptor,
        needed_by: Digest,
        missing: Missing,
        checker: &mut Checker,
        marks: &mut Marks,
    ) -> Result<(), StoreError> {
        let path = self.blob_path(&descriptor.digest);
        marks.blobs.insert(descriptor.digest);
        let actual = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if missing == Missing::Error && descriptor.urls.is_empty() {
                    let problem = Problem::MissingBlob { needed_by };
                    checker.found(Severity::Error, &path, problem);
                }
                return Ok(());
            }
            Err(e) => return Err(StoreError::file("stat", &path)(e)),
        };
        if actual != descriptor.size {
            let problem = Problem::WrongSize {
                needed_by,
                expected: descriptor.size,
                actual,
            };
            checker.found(Severity::Error, &path, problem);
            return Ok(());
        }
        let is_document = descriptor.media_type.is_manifest() || descriptor.media_type.is_index();
        if !is_document {
            return Ok(());
        }
        let document = match self.read_document(descriptor) {
            Ok(document) => document,
            // Found again, and removed, with the other blobs.
            Err(StoreError::Verify(_)) => return Ok(()),
            Err(StoreError::Manifest { source, .. }) => {
                let why = source.to_string();
                checker.found(Severity::Error, &path, Problem::Malformed { why });
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match document {
            Document::Index(index) => {
                for child in &index.manifests {
                    // An index may be kept with the images of some platforms only.
                    let by = descriptor.digest;
                    self.check_image(child, by, Missing::Fine, checker, marks)?;
                }
            }
            Document::Manifest(manifest) => {
                for child in manifest.layers.iter().chain([&manifest.config]) {
                    let by = descriptor.digest;
                    self.check_image(child, by, Missing::Error, checker, marks)?;
                }
            }
        }
        Ok(())
    }

    fn check_records(&self, checker: &mut Checker, marks: &mut Marks) -> Result<(), StoreError> {
        for path in list(&self.root().join("cache/records"))? {
            match read_record(&path)? {
                Some(record) => marks.blobs.extend(record.blob.map(|b| b.digest)),
                None => checker.doomed(Severity::Leftover, &path, Problem::Unfinished),
            }
        }
        for path in self.listings()? {
            if !is_whole(&path)? {
                checker.doomed(Severity::Leftover, &path, Problem::Unfinished);
            }
        }
        Ok(())
    }

    /// Hashes every blob, on every core.
    fn check_blobs(&self, checker: &mut Checker, marks: &Marks) -> Result<(), StoreError> {
        let mut blobs = Vec::new();
        for directory in list(&self.root().join("blobs"))? {
            for path in list(&directory)? {
                let part = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
                let text = part(&directory).zip(part(&path));
                let digest = text.and_then(|(a, h)| format!("{a}:{h}").parse::<Digest>().ok());
                match digest {
                    Some(digest) => blobs.push((path, digest)),
                    None => checker.doomed(Severity::Leftover, &path, Problem::Stray),
                }
            }
        }
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        let work = || {
            while let Some((path, digest)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = hash_file(path, digest);
                locked(&results).push((path, digest, result));
            }
        };
        std::thread::scope(|scope| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        for (path, digest, result) in results.into_inner().unwrap_or_else(|e| e.into_inner()) {
            // One that another process has just removed (an image that was the last to need it) is none to check.
            let Some((actual, size)) = result? else {
                continue;
            };
            checker.report.blobs += 1;
            checker.report.bytes += size;
            if actual != *digest {
                let (severity, problem) = if marks.blobs.contains(digest) {
                    (Severity::Error, Problem::WrongDigest { actual })
                } else {
                    (Severity::Leftover, Problem::Unfinished)
                };
                checker.doomed(severity, path, problem);
            }
        }
        Ok(())
    }

    fn check_layer(
        &self,
        dir: &Path,
        depth: CheckDepth,
        checker: &mut Checker,
    ) -> Result<(), StoreError> {
        let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or("");
        let hex = name.strip_prefix(CHAIN).unwrap_or(name);
        if format!("sha256:{hex}").parse::<Digest>().is_err()
            && format!("sha512:{hex}").parse::<Digest>().is_err()
        {
            checker.doomed(Severity::Leftover, dir, Problem::Stray);
            return Ok(());
        }
        if !self.is_sound(dir)? {
            checker.doomed(Severity::Leftover, dir, Problem::Unfinished);
            return Ok(());
        }
        let toc = match read_toc(&dir.join("toc")) {
            Ok(Some(toc)) => toc,
            Ok(None) => {
                checker.doomed(Severity::Error, dir, Problem::Stray);
                return Ok(());
            }
            Err(StoreError::Toc { source, .. }) => {
                let why = source.to_string();
                checker.doomed(Severity::Error, dir, Problem::Malformed { why });
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let fs = dir.join("fs");
        if !fs.exists() {
            return Ok(());
        }
        checker.report.layers += 1;
        for (path, how) in compare(&fs, &toc, depth)? {
            let path = String::from_utf8_lossy(&path).into_owned();
            checker.doomed(Severity::Error, dir, Problem::LayerDiffers { path, how });
        }
        Ok(())
    }
}

/// What belongs in the root.
const KNOWN: [&str; 14] = [
    "blobs",
    "cache",
    "failed",
    "gate",
    "index.json",
    "layers",
    "lineage",
    "lock",
    "locks",
    "lost+found",
    "mounts",
    "oci-layout",
    "strata.json",
    "work",
];

/// What it means that a blob is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Error,
    Fine,
}

/// The digest (by the algorithm of `like`) and length of a file; `None` if it is not there any more.
fn hash_file(path: &Path, like: &Digest) -> Result<Option<(Digest, u64)>, StoreError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::file("open", path)(e)),
    };
    let mut hasher = Hasher::new(like.algorithm());
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let n = file
            .read(&mut buffer)
            .map_err(StoreError::file("read", path))?;
        if n == 0 {
            return Ok(Some((hasher.finish(), size)));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}

/// Where an unpacked layer and its table differ.
fn compare(
    fs: &Path,
    toc: &Toc,
    depth: CheckDepth,
) -> Result<Vec<(Vec<u8>, &'static str)>, StoreError> {
    let mut differences = Vec::new();
    for entry in toc.refs() {
        let path = fs.join(std::ffi::OsStr::from_bytes(entry.path));
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) => Some(meta),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(StoreError::file("stat", &path)(e)),
        };
        // What an opaque directory hides needs no whiteout of its own.
        if meta.is_none() && entry.kind == KindRef::Whiteout && is_in_opaque(fs, &path)? {
            continue;
        }
        if let Some(how) = difference(&path, meta.as_ref(), &entry, depth)? {
            differences.push((entry.path.to_vec(), how));
        }
    }
    let mut pending = vec![fs.to_owned()];
    while let Some(dir) = pending.pop() {
        for path in list(&dir)? {
            let relative = path.strip_prefix(fs).unwrap_or(&path);
            let relative = relative.as_os_str().as_bytes();
            if toc.find(relative).is_none() {
                differences.push((relative.to_vec(), "not in the table"));
            }
            let meta = std::fs::symlink_metadata(&path).map_err(StoreError::file("stat", &path))?;
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(differences)
}

/// Whether a directory between `fs` and `path` hides all that lower layers have there.
fn is_in_opaque(fs: &Path, path: &Path) -> Result<bool, StoreError> {
    let above = path.ancestors().skip(1);
    for dir in above.take_while(|dir| dir.starts_with(fs)) {
        for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
            let mut value = [0; 16];
            match lgetxattr(dir, name, &mut value) {
                Ok(length) if &value[..length] == b"y" => return Ok(true),
                Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE | Errno::PERM) => {}
                Err(errno) => return Err(StoreError::call("read attributes of", dir)(errno)),
            }
        }
    }
    Ok(false)
}

/// In what a path of a layer is not as its table says. Modes, owners and devices are not compared: what a single id or a user
/// namespace cannot represent is unpacked as well as can be.
fn difference(
    path: &Path,
    meta: Option<&Metadata>,
    entry: &EntryRef<'_>,
    depth: CheckDepth,
) -> Result<Option<&'static str>, StoreError> {
    let unlike = |fine: bool| Ok((!fine).then_some("another type"));
    let Some(meta) = meta else {
        let optional = matches!(
            entry.kind,
            KindRef::CharDevice { .. } | KindRef::BlockDevice { .. }
        );
        return Ok((!optional).then_some("missing"));
    };
    match entry.kind {
        KindRef::File {
            size_bytes,
            content,
        } => {
            if !meta.is_file() {
                return unlike(false);
            }
            if meta.len() != size_bytes {
                return Ok(Some("another size"));
            }
            let Some(content) = content.filter(|_| depth == CheckDepth::Full) else {
                return Ok(None);
            };
            let actual = hash_file(path, &content)?;
            Ok((actual.map(|(d, _)| d) != Some(content)).then_some("other content"))
        }
        KindRef::Directory { .. } => unlike(meta.is_dir()),
        KindRef::Symlink { target } => {
            if !meta.is_symlink() {
                return unlike(false);
            }
            let actual = std::fs::read_link(path).map_err(StoreError::file("read", path))?;
            Ok((actual.as_os_str().as_bytes() != target).then_some("another target"))
        }
        // One to a file of a layer below is a copy.
        KindRef::HardLink { .. } => unlike(!meta.is_dir()),
        KindRef::Fifo => unlike(meta.file_type().is_fifo()),
        KindRef::Whiteout => unlike(meta.file_type().is_char_device() || meta.is_file()),
        KindRef::CharDevice { .. } | KindRef::BlockDevice { .. } => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{image_of, layer, name, record, store};
    use super::*;
    use crate::oci::MediaType;

    fn findings(store: &Store, depth: CheckDepth) -> Vec<(Severity, &'static str)> {
        let report = store.check(depth).unwrap();
        let mut found: Vec<_> = report
            .findings
            .iter()
            .map(|f| {
                let word = match f.problem {
                    Problem::WrongDigest { .. } => "wrong digest",
                    Problem::MissingBlob { .. } => "missing",
                    Problem::WrongSize { .. } => "wrong size",
                    Problem::Malformed { .. } => "malformed",
                    Problem::LayerDiffers { how, .. } => how,
                    Problem::Unfinished => "unfinished",
                    Problem::Stray => "stray",
                };
                (f.severity, word)
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn every_damage_is_found_and_repaired() {
        use CheckDepth::{Full, Quick};
        use Severity::{Error, Leftover};
        type Case = (
            &'static str,
            fn(&Store),
            CheckDepth,
            &'static [(Severity, &'static str)],
        );
        let table: [Case; 13] = [
            ("nothing", |_| (), Full, &[]),
            (
                "a flipped bit",
                |s| std::fs::write(s.blob_path(&Digest::of(b"a")), b"A").unwrap(),
                Quick,
                &[(Error, "wrong digest")],
            ),
            (
                "a torn blob of an image",
                |s| std::fs::write(s.blob_path(&Digest::of(b"a")), b"").unwrap(),
                Quick,
                &[(Error, "wrong digest"), (Error, "wrong size")],
            ),
            (
                "a torn blob of nobody",
                |s| std::fs::write(s.blob_path(&Digest::of(b"z")), b"").unwrap(),
                Quick,
                &[(Leftover, "unfinished")],
            ),
            (
                "a lost blob",
                |s| std::fs::remove_file(s.blob_path(&Digest::of(b"a"))).unwrap(),
                Quick,
                &[(Error, "missing")],
            ),
            (
                "a stray file",
                |s| std::fs::write(s.root().join("index.json.tmp"), b"").unwrap(),
                Quick,
                &[(Leftover, "stray")],
            ),
            (
                "a stray blob",
                |s| std::fs::write(s.root().join("blobs/sha256/x"), b"").unwrap(),
                Quick,
                &[(Leftover, "stray")],
            ),
            (
                "a torn record",
                |s| std::fs::write(s.root().join("cache/records/x"), b"{").unwrap(),
                Quick,
                &[(Leftover, "unfinished")],
            ),
            (
                "a changed file",
                |s| std::fs::write(layer(s, "a").fs().join("file"), b"b").unwrap(),
                Full,
                &[(Error, "other content")],
            ),
            (
                "a longer file",
                |s| std::fs::write(layer(s, "a").fs().join("file"), b"aa").unwrap(),
                Quick,
                &[(Error, "another size")],
            ),
            (
                "a file more",
                |s| std::fs::write(layer(s, "a").fs().join("more"), b"").unwrap(),
                Quick,
                &[(Error, "not in the table")],
            ),
            (
                "a torn table",
                |s| std::fs::write(layer(s, "a").fs().with_file_name("toc"), b"").unwrap(),
                Quick,
                &[(Error, "malformed")],
            ),
            (
                "a layer of another boot",
                |s| std::fs::write(layer(s, "a").fs().with_file_name("boot"), b"?").unwrap(),
                Quick,
                &[(Leftover, "unfinished")],
            ),
        ];
        for (what, damage, depth, want) in table {
            let (_dir, mut store) = store();
            let image = image_of(&store, &["a", "b"]);
            store.tag(&name("app"), &image).unwrap();
            store.cache_put(&record(&store, "c")).unwrap();
            layer(&store, "a");
            damage(&store);
            assert_eq!(findings(&store, depth), want, "{what}");
            let clean = want.iter().all(|(s, _)| *s == Leftover);
            assert_eq!(store.check(depth).unwrap().is_clean(), clean, "{what}");
            store.repair(depth, &|| ()).unwrap();
            store.put_bytes(MediaType::OciLayer, b"a").unwrap();
            assert_eq!(findings(&store, Full), [], "{what}");
            layer(&store, "a");
            assert_eq!(findings(&store, Full), [], "{what}");
        }
    }
}
