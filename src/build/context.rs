//! Build contexts: where they come from, and their files once somebody asks.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crate::dockerfile::ignore::Ignore;
use crate::layer::{EntryRef, KindRef, Stack, Toc};
use crate::plan::graph::{Op, Origin};
use crate::store::{FileHashes, Store, Work};

use super::event::{EventKind, Events, StepId};
use super::folder::Folder;
use super::git::{self, GitUrl, Mtime};
use super::secrets::Secrets;
use super::tree::Tree;
use super::{BuildError, Request, SshAgents, archive, draft, transfer};

/// Where a context comes from.
pub enum ContextSource<'a> {
    /// A folder of the host.
    Folder(PathBuf),
    /// A tar, compressed or not, from a stream.
    Archive(Box<dyn Read + Send + 'a>),
    /// A git repository.
    Git {
        /// Its address, as given: a fragment or a query may name reference and folder.
        url: String,
        /// Whether its files get the time of the commit, where the address does not say.
        commit_times: bool,
    },
    /// An archive by http or https, or a single file.
    Http(String),
}

/// BuildKit's name for a file that is fetched as a context: a COPY may read it.
const LONE_FILE: &str = "context";

/// A context on disk.
pub struct Context {
    folder: PathBuf,
    ignore: Option<(Ignore, String)>,
    kind: Kind,
    /// When its source says that it was made, seconds since 1970.
    time: Option<i64>,
    // Files that were fetched or unpacked for it; removed when the context goes.
    _work: Option<Work>,
}

/// What a context's folder is.
enum Kind {
    /// Files as they are.
    Plain,
    /// The folder of what was fetched, which is one file.
    LoneFile,
    /// A checkout; its files have this time if any.
    Repository(Option<i64>),
    /// What was unpacked from an archive that held this: owners too, which the folder's files cannot all have.
    Archive(Arc<Toc>),
}

impl Context {
    /// Brings a context to disk. Folders are used in place.
    pub fn load(
        source: ContextSource<'_>,
        store: &Store,
        http: &ureq::Agent,
        secrets: &Secrets,
        ssh: &SshAgents,
        cancel: &AtomicBool,
    ) -> Result<Context, BuildError> {
        let unpacked = |mut input: Box<dyn Read + Send + '_>| -> Result<Context, BuildError> {
            let work = store.work()?;
            let path = work.path().join("context.tar");
            let failed = |source| BuildError::Host {
                action: "write",
                path: path.clone(),
                source,
            };
            let mut file = std::fs::File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .map_err(failed)?;
            std::io::copy(&mut input, &mut file).map_err(failed)?;
            std::io::Seek::rewind(&mut file).map_err(failed)?;
            let is_archive = archive::is_archive(&mut file).map_err(failed)?;
            let folder = work.directory("context")?;
            let toc = match archive::unpack(file, &folder) {
                // One whose first entry is refused gets that entry's error.
                Err(error) if is_archive || archive::is_refusal(&error) => return Err(error),
                Ok(unpacked) if is_archive => unpacked.toc,
                _ => return Err(BuildError::NotAnArchive),
            };
            let dated = |entry: &EntryRef<'_>| {
                !matches!(entry.kind, KindRef::Directory { implied: true, .. })
            };
            let newest = toc.refs().filter(dated).map(|entry| entry.mtime).max();
            Ok(Context {
                folder,
                ignore: None,
                kind: Kind::Archive(Arc::new(toc)),
                time: newest,
                _work: Some(work),
            })
        };
        match source {
            ContextSource::Folder(folder) => {
                let failed = |source| BuildError::Host {
                    action: "read the build context",
                    path: folder.clone(),
                    source,
                };
                if !std::fs::metadata(&folder).map_err(failed)?.is_dir() {
                    return Err(BuildError::NotAFolder { path: folder });
                }
                Ok(Context {
                    folder,
                    ignore: None,
                    kind: Kind::Plain,
                    time: None,
                    _work: None,
                })
            }
            ContextSource::Archive(input) => unpacked(input),
            ContextSource::Git { url, commit_times } => {
                let work = store.work()?;
                let dir = work.directory("git")?;
                let mut url = GitUrl::parse(&url)?;
                if commit_times {
                    url.mtime.get_or_insert(Mtime::Commit);
                }
                let checkout = git::checkout(&url, &dir, secrets, ssh.socket("default"), cancel)?;
                Ok(Context {
                    kind: Kind::Repository(checkout.time_of_files(&url)),
                    folder: checkout.folder,
                    ignore: None,
                    time: Some(checkout.commit_time),
                    _work: Some(work),
                })
            }
            ContextSource::Http(url) => {
                let work = store.work()?;
                let path = work.path().join("download");
                let fetched = super::fetch::fetch(http, &url, &path, secrets, cancel, &|_, _| ())?;
                let failed = |source| BuildError::Host {
                    action: "read",
                    path: path.clone(),
                    source,
                };
                let mut file = std::fs::File::open(&path).map_err(failed)?;
                if archive::is_archive(&mut file).map_err(failed)? {
                    std::io::Seek::rewind(&mut file).map_err(failed)?;
                    let mut context = unpacked(Box::new(file))?;
                    context.time = fetched.modified.or(context.time);
                    return Ok(context);
                }
                drop(file);
                let folder = work.directory("context")?;
                std::fs::rename(&path, folder.join(LONE_FILE)).map_err(failed)?;
                Ok(Context {
                    folder,
                    ignore: None,
                    kind: Kind::LoneFile,
                    time: fetched.modified,
                    _work: Some(work),
                })
            }
        }
    }

    /// The name in the folder of what was fetched, where that is one file and no archive.
    pub fn lone_file(&self) -> Option<&'static str> {
        matches!(self.kind, Kind::LoneFile).then_some(LONE_FILE)
    }

    /// When its source says that it was made, seconds since 1970: the commit's time, `Last-Modified`, or that of an archive's
    /// newest entry. A folder does not say.
    pub fn time(&self) -> Option<i64> {
        self.time
    }

    /// The folder on disk.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it hides.
    pub fn ignore(&self) -> Option<&Ignore> {
        self.ignore.as_ref().map(|(ignore, _)| ignore)
    }

    /// Hides what `ignore` excludes; `name` is how messages call the file it was read from. An archive is whole as it is:
    /// who packed it chose what is in it.
    pub fn set_ignore(&mut self, ignore: Ignore, name: &str) {
        if !matches!(self.kind, Kind::Archive(_)) {
            self.ignore = Some((ignore, name.to_owned()));
        }
    }
}

// An unpacked archive, with the owners that it says.
fn archive_tree(toc: &Arc<Toc>, folder: &Path) -> Result<Tree, BuildError> {
    let failed = |source| BuildError::Host {
        action: "open",
        path: folder.to_owned(),
        source,
    };
    let root = std::fs::File::open(folder).map_err(failed)?;
    let stack = Stack::new(vec![Arc::clone(toc)]);
    Ok(Tree::of_layers(stack, vec![Arc::new(root.into())]))
}

/// The contexts of a build; each is read when a step first needs it, and let go when the last one has what it needs: the table of a
/// large one is not held while the layers are packed.
pub(super) struct Contexts<'a> {
    store: &'a Store,
    events: &'a dyn Events,
    main: Option<Slot<'a>>,
    named: BTreeMap<&'a str, Slot<'a>>,
}

struct Slot<'a> {
    context: &'a Context,
    step: StepId,
    name: String,
    state: Mutex<State>,
}

struct State {
    tree: Option<Arc<Tree>>,
    /// How often it is still an origin of a step.
    uses: usize,
}

impl<'a> Contexts<'a> {
    pub(super) fn new(
        store: &'a Store,
        request: &'a Request<'a>,
        events: &'a dyn Events,
        first_step: usize,
    ) -> Contexts<'a> {
        let vertices = &request.graph.vertices;
        let uses = |wanted: &Origin| {
            let origins = vertices.iter().flat_map(|vertex| vertex.op.origins());
            origins.filter(|origin| *origin == wanted).count()
        };
        let slot = |context, step, name: String, uses| Slot {
            context,
            step: StepId(step),
            name,
            state: Mutex::new(State { tree: None, uses }),
        };
        let main = request.context.as_ref().map(|c| {
            let name = "[internal] load build context".to_owned();
            slot(c, first_step, name, uses(&Origin::Context))
        });
        let named = request
            .contexts
            .iter()
            .enumerate()
            .map(|(i, (name, context))| {
                (
                    name.as_str(),
                    slot(
                        context,
                        first_step + 1 + i,
                        format!("[context {name}] load build context"),
                        uses(&Origin::Named(name.clone())),
                    ),
                )
            });
        Contexts {
            store,
            events,
            main,
            named: named.collect(),
        }
    }

    /// How many steps contexts may take.
    pub(super) fn len(&self) -> usize {
        1 + self.named.len()
    }

    /// The files of a context.
    pub(super) fn tree(&self, name: Option<&str>) -> Result<Arc<Tree>, BuildError> {
        let slot = match name {
            None => self.main.as_ref(),
            Some(name) => self.named.get(name),
        };
        let slot = slot.ok_or_else(|| match name {
            Some(name) => BuildError::NoContext {
                name: name.to_owned(),
            },
            None => BuildError::NoFiles,
        })?;
        let mut state = slot.state.lock().expect("loading does not panic");
        if let Some(tree) = &state.tree {
            return Ok(tree.clone());
        }
        self.events.event(EventKind::Started {
            step: slot.step,
            name: slot.name.clone(),
        });
        let folder = &slot.context.folder;
        let tree = match &slot.context.kind {
            Kind::Repository(mtime) => transfer::repository_tree(folder, *mtime),
            Kind::Archive(toc) => archive_tree(toc, folder),
            Kind::Plain | Kind::LoneFile => self.read(slot.context),
        };
        match tree {
            Ok(tree) => {
                self.events.event(EventKind::Finished {
                    step: slot.step,
                    cached: false,
                });
                Ok(state.tree.insert(Arc::new(tree)).clone())
            }
            Err(error) => {
                self.events.event(EventKind::Failed {
                    step: slot.step,
                    message: error.to_string(),
                });
                Err(error)
            }
        }
    }

    fn read(&self, context: &Context) -> Result<Tree, BuildError> {
        let hashes = FileHashes::load(self.store, &context.folder.to_string_lossy())?;
        let (folder, toc) = Folder::walk(
            &context.folder,
            context.ignore.as_ref().map(|(i, _)| i),
            Some(self.store.root()),
            Some(hashes),
        )?;
        Ok(Tree::of_folder(Arc::new(folder), toc))
    }

    /// The time that all files of a context have, where that is given.
    pub(super) fn time_of_files(&self, origin: &Origin) -> Option<i64> {
        let slot = match origin {
            Origin::Context => self.main.as_ref(),
            Origin::Named(name) => self.named.get(name.as_str()),
            Origin::Vertex(_) => None,
        };
        match slot?.context.kind {
            Kind::Repository(mtime) => mtime,
            _ => None,
        }
    }

    /// Why a path of the main context is missing, if an ignore file hides it.
    pub(super) fn explain(&self, path: &str) -> Option<BuildError> {
        let context = self.main.as_ref()?.context;
        let (ignore, file) = context.ignore.as_ref()?;
        let clean = draft::resolve(path.as_bytes(), &|_| None).ok()?;
        let there = context
            .folder
            .join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&clean));
        std::fs::symlink_metadata(there).ok()?;
        let line = ignore.deciding_line(&clean)?;
        Some(BuildError::Ignored {
            path: path.to_owned(),
            line,
            file: file.clone(),
        })
    }

    /// Says that a step has what it needs of its origins. With the last step that reads a context, what its contents were hashed
    /// to is kept for the next build, and its table goes.
    pub(super) fn leave(&self, op: &Op) -> Result<(), BuildError> {
        for origin in op.origins() {
            let slot = match origin {
                Origin::Context => self.main.as_ref(),
                Origin::Named(name) => self.named.get(name.as_str()),
                Origin::Vertex(_) => None,
            };
            let Some(slot) = slot else { continue };
            let mut state = slot.state.lock().expect("loading does not panic");
            state.uses = state.uses.saturating_sub(1);
            let tree = match state.uses {
                0 => state.tree.take(),
                _ => None,
            };
            drop(state);
            if let Some(tree) = tree {
                tree.save_hashes(self.store)?;
            }
        }
        Ok(())
    }
}
