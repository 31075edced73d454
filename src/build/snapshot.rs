//! A layer of a stack while a build uses it: active until its step's changes are packed, committed from then on.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::layer::Toc;
use crate::oci::{ChainId, Descriptor, DiffId, Digest};
use crate::plan::ResolvedImage;

use super::BuildError;

/// One layer. Shared by every stack that has it.
pub(super) struct Snapshot {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    fs: Option<Arc<OwnedFd>>,
    toc: Option<Arc<Toc>>,
    commit: Commit,
}

enum Commit {
    Pending,
    Done(Arc<Committed>),
    Failed(Arc<BuildError>),
}

/// What is known of a layer that does not change any more.
pub(super) struct Committed {
    pub(super) diff_id: DiffId,
    /// The identity of the stack up to and with this layer.
    pub(super) chain: ChainId,
    /// The identity of the stack below.
    pub(super) below: Option<ChainId>,
    /// Its blob; `None` of one that no output has had yet: it is there unpacked.
    pub(super) blob: Option<Descriptor>,
    /// The key of the step that made it; `None` for layers of images.
    pub(super) key: Option<Digest>,
    /// When the step ended, seconds since 1970.
    pub(super) created: i64,
    /// The image and the place in it that the blob can be fetched from, for layers that were not built here.
    pub(super) image: Option<(Arc<ResolvedImage>, usize)>,
}

struct End<'a> {
    snapshot: &'a Snapshot,
    result: Commit,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.snapshot.state().commit = std::mem::replace(&mut self.result, Commit::Pending);
        self.snapshot.changed.notify_all();
    }
}

impl Snapshot {
    /// A layer whose step has run; its files, if anybody needs them, are in `fs`.
    pub(super) fn active(fs: Option<Arc<OwnedFd>>) -> Arc<Snapshot> {
        Snapshot::with(State {
            fs,
            toc: None,
            commit: Commit::Pending,
        })
    }

    /// A layer that is there already.
    pub(super) fn committed(committed: Committed) -> Arc<Snapshot> {
        Snapshot::with(State {
            fs: None,
            toc: None,
            commit: Commit::Done(Arc::new(committed)),
        })
    }

    fn with(state: State) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Whether it is a layer of an image that the build started from.
    pub(super) fn is_image(&self) -> bool {
        matches!(&self.state().commit, Commit::Done(committed) if committed.image.is_some())
    }

    /// The directory with its files, if it is known: by descriptor, since its commit moves it while steps above stand on it.
    pub(super) fn fs(&self) -> Option<Arc<OwnedFd>> {
        self.state().fs.clone()
    }

    /// Says where its files are.
    pub(super) fn set_fs(&self, fs: Arc<OwnedFd>) {
        self.state().fs = Some(fs);
    }

    /// Its table of contents, if it is known.
    pub(super) fn toc(&self) -> Option<Arc<Toc>> {
        self.state().toc.clone()
    }

    /// Whether its table of contents is there without waiting.
    pub(super) fn is_known(&self) -> bool {
        let state = self.state();
        state.toc.is_some() || matches!(state.commit, Commit::Done(_))
    }

    /// Says what its table of contents is. It has to be the final one: layers above are made by it.
    pub(super) fn set_toc(&self, toc: Arc<Toc>) {
        self.state().toc = Some(toc);
        self.changed.notify_all();
    }

    /// Commits it. Whoever waits is woken whatever `commit` does, even if it panics.
    pub(super) fn commit(&self, commit: impl FnOnce() -> Result<Committed, BuildError>) {
        let mut end = End {
            snapshot: self,
            result: Commit::Failed(Arc::new(BuildError::Canceled)),
        };
        end.result = match commit() {
            Ok(committed) => Commit::Done(Arc::new(committed)),
            Err(error) => Commit::Failed(Arc::new(error)),
        };
    }

    /// Waits for the commit.
    pub(super) fn wait(&self) -> Result<Arc<Committed>, BuildError> {
        let mut state = self.state();
        loop {
            match &state.commit {
                Commit::Done(committed) => return Ok(committed.clone()),
                Commit::Failed(error) => return Err(BuildError::Shared(error.clone())),
                Commit::Pending => {
                    state = self
                        .changed
                        .wait(state)
                        .expect("no holder of this lock panics");
                }
            }
        }
    }

    /// Waits until the table of contents is known, or the commit has ended.
    pub(super) fn wait_toc(&self) -> Result<Option<Arc<Toc>>, BuildError> {
        let mut state = self.state();
        loop {
            if let Some(toc) = &state.toc {
                return Ok(Some(toc.clone()));
            }
            match &state.commit {
                Commit::Done(_) => return Ok(None),
                Commit::Failed(error) => return Err(BuildError::Shared(error.clone())),
                Commit::Pending => {
                    state = self
                        .changed
                        .wait(state)
                        .expect("no holder of this lock panics");
                }
            }
        }
    }
}
