//! The one way to move an image: any source to any sink.

use std::io::{self, Read};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use base64::Engine as _;

use super::tree::{Platforms, Tree};
use super::{ImageError, Put, SelectError, Sink, Source};
use crate::oci::{Descriptor, Digest};

/// How many blobs move at the same time unless told otherwise: enough to hide a registry's latency, few enough that each
/// connection still gets a fair part of the line.
const DEFAULT_JOBS: NonZero<usize> = NonZero::new(5).expect("five is not zero");

/// How often progress is told: as often as a person can see, and how soon a wish to end is seen.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// How to copy.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Which images of an index.
    pub platforms: Platforms,
    /// How many blobs move at the same time.
    pub jobs: NonZero<usize>,
}

impl Default for CopyOptions {
    fn default() -> CopyOptions {
        CopyOptions {
            platforms: Platforms::All,
            jobs: DEFAULT_JOBS,
        }
    }
}

/// Hears how a copy gets on, and can end it. Called from several threads; all calls for one blob come in order.
pub trait Progress: Sync {
    /// A blob that must be moved begins.
    fn started(&self, blob: &Descriptor) {
        let _ = blob;
    }

    /// It is on its way to the sink already, by another process or copy, and that is waited for.
    fn waiting(&self, blob: &Descriptor) {
        let _ = blob;
    }

    /// So many bytes of it have passed; told every now and then. Goes back to zero when a transfer starts over.
    fn advanced(&self, blob: &Descriptor, done_bytes: u64) {
        let _ = (blob, done_bytes);
    }

    /// A blob is there; called for those that were there before too, without [`Progress::started`].
    fn finished(&self, blob: &Descriptor, how: Put) {
        let _ = (blob, how);
    }

    /// Whether to stop. Asked often; an image that was stopped has no name in the sink.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Progress for nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}

/// What a copy did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// What the sink's name now points to.
    pub root: Descriptor,
    /// How many blobs were there before.
    pub present: usize,
    /// How many were mounted from another repository.
    pub mounted: usize,
    /// How many were written.
    pub written: usize,
    /// How many may not be distributed and were left where they are.
    pub skipped: usize,
    /// The size of the written ones, bytes.
    pub written_bytes: u64,
}

/// Why an image could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source failed while its manifests were read.
    #[error("cannot read {image}")]
    Read {
        /// The source's name.
        image: String,
        /// Why not.
        #[source]
        source: ImageError,
    },
    /// A blob did not get through; the cause says on which side.
    #[error("cannot copy {digest} from {from} to {to}")]
    Blob {
        /// Which.
        digest: Digest,
        /// The source's name.
        from: Box<str>,
        /// The sink's name.
        to: Box<str>,
        /// Why not.
        #[source]
        source: Box<ImageError>,
    },
    /// The sink failed on a manifest or on the name.
    #[error("cannot write {image}")]
    Write {
        /// The sink's name.
        image: String,
        /// Why not.
        #[source]
        source: ImageError,
    },
    /// The index has nothing for the platform.
    #[error("cannot use {image}")]
    Platform {
        /// The source's name.
        image: String,
        /// Why not.
        #[source]
        source: SelectError,
    },
    /// A manifest over the limit.
    #[error("manifest {digest} of {image} is too large: {size_bytes} bytes, at most {limit_bytes}")]
    TooLarge {
        /// The source's name.
        image: String,
        /// Which manifest.
        digest: Digest,
        /// How large it says it is.
        size_bytes: u64,
        /// How large it may be.
        limit_bytes: u64,
    },
    /// Indexes in indexes without end.
    #[error("indexes of {image} are nested too deep, at {digest}")]
    TooDeep {
        /// The source's name.
        image: String,
        /// Where it was given up.
        digest: Digest,
    },
    /// More manifests than fit.
    #[error("the manifests of {image} are too large together: more than {limit_bytes} bytes")]
    TooMuch {
        /// The source's name.
        image: String,
        /// How large they may be.
        limit_bytes: u64,
    },
    /// [`Progress::cancelled`] said so.
    #[error("canceled")]
    Cancelled,
}

/// Copies an image: blobs first, then manifests, children before parents, then the name.
///
/// `Ok` means: the sink's name points to the image and everything of it that may be distributed is there. After an error
/// the sink has at most content without a name.
pub fn copy(
    source: &dyn Source,
    sink: &dyn Sink,
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<Copied, CopyError> {
    let tree = Tree::read(source, &options.platforms)?;
    let mut blobs: Vec<&Descriptor> = tree.blobs.iter().collect();
    let jobs = if sink.ordered() {
        blobs.sort_by_key(|b| b.digest);
        1
    } else {
        // The largest first: a long transfer that starts last would run alone.
        blobs.sort_by_key(|b| std::cmp::Reverse(b.size));
        options.jobs.get().min(blobs.len())
    };
    let transfer = Transfer {
        source,
        sink,
        progress,
        stop: Arc::new(AtomicBool::new(false)),
        active: Mutex::new(Vec::new()),
    };
    let mut copied = Copied {
        root: tree.root.clone(),
        present: 0,
        mounted: 0,
        written: 0,
        skipped: 0,
        written_bytes: 0,
    };
    for (blob, how) in transfer.all(&blobs, jobs)? {
        match how {
            Some(Put::Present) => copied.present += 1,
            Some(Put::Mounted) => copied.mounted += 1,
            Some(Put::Written) => {
                copied.written += 1;
                copied.written_bytes += blob.size;
            }
            None => copied.skipped += 1,
        }
    }
    let write = |error| CopyError::Write {
        image: sink.name(),
        source: error,
    };
    for node in &tree.documents {
        transfer.check()?;
        sink.put_manifest(&node.descriptor, &node.bytes)
            .map_err(write)?;
    }
    transfer.check()?;
    sink.finish(&tree.root).map_err(write)?;
    Ok(copied)
}

struct Transfer<'a> {
    source: &'a dyn Source,
    sink: &'a dyn Sink,
    progress: &'a dyn Progress,
    /// Set when one blob failed or the copy is to end, so that the others end soon.
    stop: Arc<AtomicBool>,
    /// The blobs on their way, for the thread that tells of them.
    active: Mutex<Vec<(Descriptor, Arc<AtomicU64>)>>,
}

impl Transfer<'_> {
    fn check(&self) -> Result<(), CopyError> {
        if self.progress.cancelled() {
            return Err(CopyError::Cancelled);
        }
        Ok(())
    }

    /// Moves the blobs on `jobs` threads; the first error ends all of them.
    fn all<'b>(
        &self,
        blobs: &[&'b Descriptor],
        jobs: usize,
    ) -> Result<Vec<(&'b Descriptor, Option<Put>)>, CopyError> {
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<CopyError>> = Mutex::new(None);
        let work = || {
            let mut done = Vec::new();
            while let Some(&blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.stop.load(Ordering::Relaxed) {
                    break;
                }
                match self.check().and_then(|()| self.one(blob)) {
                    Ok(how) => done.push((blob, how)),
                    Err(error) => {
                        self.stop.store(true, Ordering::Relaxed);
                        // What fails after the first fails because of it.
                        locked(&failure).get_or_insert(error);
                        break;
                    }
                }
            }
            done
        };
        let done = std::thread::scope(|scope| {
            let (end, ended) = mpsc::channel::<()>();
            scope.spawn(move || self.tell(&ended));
            let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            let done = threads
                .into_iter()
                .flat_map(|t| t.join().expect("a panic of a medium is passed on"))
                .collect();
            drop(end);
            done
        });
        self.check()?;
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(done),
        }
    }

    /// Reports the blobs on their way until `ended` hangs up, and looks out for the wish to end.
    fn tell(&self, ended: &mpsc::Receiver<()>) {
        while ended.recv_timeout(TELL_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            if self.progress.cancelled() {
                self.stop.store(true, Ordering::Relaxed);
            }
            // Told under the lock, so that no report of a blob follows its end.
            for (blob, done_bytes) in locked(&self.active).iter() {
                self.progress
                    .advanced(blob, done_bytes.load(Ordering::Relaxed));
            }
        }
    }

    fn one(&self, blob: &Descriptor) -> Result<Option<Put>, CopyError> {
        let failed = |source| {
            if self.progress.cancelled() {
                return CopyError::Cancelled;
            }
            CopyError::Blob {
                digest: blob.digest,
                from: self.source.name().into(),
                to: self.sink.name().into(),
                source: Box::new(source),
            }
        };
        let reused = || {
            let how = self.sink.reuse(blob, self.source.origin());
            how.map_err(failed).inspect(|how| {
                if let Some(how) = how {
                    self.progress.finished(blob, *how);
                }
            })
        };
        if let Some(how) = reused()? {
            return Ok(Some(how));
        }
        if is_foreign(blob) {
            return Ok(None);
        }
        self.progress.started(blob);
        let on_wait = || self.progress.waiting(blob);
        let claim = self.sink.claim(blob, &self.stop, &on_wait);
        let claim = claim.map_err(failed)?;
        // Another may have brought it since, also without being waited for.
        if claim.is_some()
            && let Some(how) = reused()?
        {
            return Ok(Some(how));
        }
        let done_bytes = Arc::new(AtomicU64::new(0));
        locked(&self.active).push((blob.clone(), Arc::clone(&done_bytes)));
        let put = self.sink.put_blob(blob, &|| self.open(blob, &done_bytes));
        locked(&self.active).retain(|(b, _)| b.digest != blob.digest);
        put.map_err(failed)?;
        self.progress.advanced(blob, blob.size);
        self.progress.finished(blob, Put::Written);
        Ok(Some(Put::Written))
    }

    fn open(
        &self,
        blob: &Descriptor,
        done_bytes: &Arc<AtomicU64>,
    ) -> Result<Box<dyn Read + Send>, ImageError> {
        let inner: Box<dyn Read + Send> = match embedded(blob) {
            Some(bytes) => Box::new(io::Cursor::new(bytes)),
            None if self.sink.verifies() => self.source.unverified_blob(blob)?,
            None => self.source.blob(blob)?,
        };
        done_bytes.store(0, Ordering::Relaxed);
        Ok(Box::new(Watched {
            inner,
            done_bytes: Arc::clone(done_bytes),
            stop: Arc::clone(&self.stop),
        }))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked with the lock held left a list that is still a list.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a blob's owner forbids its distribution (image-spec layer.md "Non-Distributable Layers"): it stays at its URLs.
fn is_foreign(blob: &Descriptor) -> bool {
    let media_type = blob.media_type.as_str();
    !blob.urls.is_empty()
        && (media_type.contains(".foreign.") || media_type.contains(".nondistributable."))
}

/// The content a descriptor carries, if it does and it is what the descriptor says.
fn embedded(blob: &Descriptor) -> Option<Vec<u8>> {
    let data = blob.data.as_ref()?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(data)
        .ok()?;
    super::read_verified(bytes.as_slice(), blob).ok()
}

/// A reader that counts, and fails when the copy is to end.
struct Watched {
    inner: Box<dyn Read + Send>,
    done_bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(CopyError::Cancelled));
        }
        let n = self.inner.read(buf)?;
        self.done_bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, Memory};
    use super::*;
    use crate::oci::{MediaType, Platform};

    #[derive(Default)]
    struct Heard {
        calls: Mutex<Vec<(Digest, String)>>,
        cancel: bool,
    }

    impl Progress for Heard {
        fn started(&self, blob: &Descriptor) {
            locked(&self.calls).push((blob.digest, "started".to_owned()));
        }

        fn finished(&self, blob: &Descriptor, how: Put) {
            locked(&self.calls).push((blob.digest, format!("{how:?}")));
        }

        fn cancelled(&self) -> bool {
            self.cancel
        }
    }

    #[test]
    fn everything_of_an_index_or_one_platform() {
        let source = testing::index_image();
        let all = Memory::default();
        copy(&source, &all, &CopyOptions::default(), &Silent).unwrap();
        assert_eq!(all, source);

        let one = Memory::default();
        let options = CopyOptions {
            platforms: Platforms::One(Platform::new("linux", "arm64", None)),
            jobs: NonZero::<usize>::MIN,
        };
        let copied = copy(&source, &one, &options, &Silent).unwrap();
        assert!(copied.root.media_type.is_manifest());
        assert_eq!(one.named(), Some(copied.root.digest));
        assert!(one.blob_count() < source.blob_count());

        let options = CopyOptions {
            platforms: Platforms::One(Platform::new("linux", "s390x", None)),
            ..CopyOptions::default()
        };
        let none = Memory::default();
        let error = copy(&source, &none, &options, &Silent).unwrap_err();
        assert!(testing::chain(&error).contains("it has linux/amd64, linux/arm64"));
        assert_eq!(none, Memory::default());
    }

    #[test]
    fn equal_blobs_move_once_and_present_ones_never() {
        let source = testing::image(&[b"same", b"same", b"other"]);
        let sink = Memory::default();
        let heard = Heard::default();
        let copied = copy(&source, &sink, &CopyOptions::default(), &heard).unwrap();
        assert_eq!((copied.written, copied.present), (3, 0));
        assert_eq!(locked(&heard.calls).len(), 6);
        let again = copy(&source, &sink, &CopyOptions::default(), &heard).unwrap();
        assert_eq!(
            (again.written, again.written_bytes, again.present),
            (0, 0, 3)
        );
        assert_eq!(locked(&heard.calls)[6].1, "Present");
    }

    #[test]
    fn a_failure_or_a_cancellation_names_nothing() {
        let source = testing::image(&[b"one", b"two"]);
        source.corrupt(&Digest::of(b"two"));
        let sink = Memory::default();
        let error = copy(&source, &sink, &CopyOptions::default(), &Silent).unwrap_err();
        assert!(matches!(error, CopyError::Blob { digest, .. } if digest == Digest::of(b"two")));
        assert_eq!((sink.named(), sink.manifest_count()), (None, 0));

        let stop = Heard {
            cancel: true,
            ..Heard::default()
        };
        let error = copy(
            &testing::image(&[b"x"]),
            &sink,
            &CopyOptions::default(),
            &stop,
        );
        assert!(matches!(error, Err(CopyError::Cancelled)));
        assert_eq!(sink.named(), None);
    }

    #[test]
    fn foreign_layers_stay_and_embedded_ones_need_no_blob() {
        let mut foreign = Descriptor::of(
            MediaType::from("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
            b"foreign",
        );
        foreign.urls.push("https://example.com/layer".to_owned());
        let embedded = Descriptor {
            data: Some("e30=".to_owned()),
            ..Descriptor::of(
                MediaType::Other("application/vnd.oci.empty.v1+json".to_owned()),
                b"{}",
            )
        };
        let source = testing::image_of(vec![foreign, embedded.clone()]);
        let sink = Memory::default();
        let copied = copy(&source, &sink, &CopyOptions::default(), &Silent).unwrap();
        assert_eq!((copied.skipped, copied.written), (1, 2));
        assert!(sink.reuse(&embedded, None).unwrap().is_some());
    }

    #[test]
    fn manifests_are_bounded_before_they_are_read() {
        let source = testing::image(&[]);
        let mut root = source.root().unwrap();
        root.size = super::super::MAX_MANIFEST_BYTES + 1;
        source.set_root(root);
        let error = copy(
            &source,
            &Memory::default(),
            &CopyOptions::default(),
            &Silent,
        );
        assert!(matches!(error, Err(CopyError::TooLarge { .. })));
        let error = copy(
            &testing::nested(20),
            &Memory::default(),
            &CopyOptions::default(),
            &Silent,
        );
        assert!(matches!(error, Err(CopyError::TooDeep { .. })));
        copy(
            &testing::nested(3),
            &Memory::default(),
            &CopyOptions::default(),
            &Silent,
        )
        .unwrap();
    }
}
