//! `pull`, `push`, `copy`, `save` and `load`: an image from one place to another.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use strata::build::{EventKind, Events as _, StepId};
use strata::image::archive::{Archive, ArchiveWriter, Form};
use strata::image::layout::Layout;
use strata::image::{self, CopyError, CopyOptions, Name, Platforms, Put, Sink, Source};
use strata::oci::{Descriptor, Digest, Document, Reference};
use strata::store::Store;

use super::error::{CliError, Doing as _};
use super::inspect::{self, wanted_platform};
use super::medium;
use super::output::{note, print_line};
use super::progress::{Progress, ProgressMode};
use super::run::lowers;
use super::session::{Needs, Session};
use super::transport::Location;
use super::values::reference;

/// Fetch an image from a registry into the store
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata pull debian:bookworm
  strata pull --platform linux/arm64 registry.example/app:1
  strata pull --all-platforms 127.0.0.1:5000/app
  strata pull --unpack debian:bookworm            ready for run and RUN")]
pub(crate) struct PullArgs {
    /// The image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    /// The platform, where the image has several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Every platform
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Unpack the layers while they come, rather than when they are first needed
    #[arg(long, conflicts_with = "all_platforms")]
    unpack: bool,
    /// Show only the name
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Send an image to a registry
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata push registry.example/team/app:1.2
  strata push app 127.0.0.1:5000/app:1.2          under another name")]
pub(crate) struct PushArgs {
    /// A name or ID in the store
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Where to [default: the image's own name]
    #[arg(value_name = "NAME[:TAG]")]
    destination: Option<String>,
    /// Show only the digest
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Copy an image from anywhere to anywhere
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Places:
  docker://REGISTRY/NAME:TAG      a registry
  oci:FOLDER[:NAME]               an OCI image layout
  oci-archive:FILE[:NAME]         the same in a tar file
  docker-archive:FILE[:NAME:TAG]  what docker saves and loads
  NAME[:TAG]                      the store

Examples:
  strata copy docker://docker.io/library/debian:bookworm oci:layout:bookworm
  strata copy oci-archive:app.tar docker://127.0.0.1:5000/app:1
  strata copy app docker-archive:app.tar:app:latest
  strata copy docker://a.example/app:1 docker://b.example/app:1     nothing is kept here")]
pub(crate) struct CopyArgs {
    /// Where from
    #[arg(value_name = "SRC")]
    source: String,
    /// Where to
    #[arg(value_name = "DST")]
    destination: String,
    /// Only this platform, where the image has several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Show only the digest
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Write an image into an archive
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata save -o app.tar app                      docker load -i app.tar
  strata save --format oci-archive app > app.tar
  strata save app | ssh host docker load")]
pub(crate) struct SaveArgs {
    /// Names of one image, or its ID
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// The file [default: standard output]
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which kind of archive
    #[arg(
        long,
        value_enum,
        value_name = "FORM",
        default_value = "docker-archive"
    )]
    format: SaveFormat,
    /// The platform, where the image has several [default: this machine's for docker-archive, else all]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
}

/// `save --format`
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum SaveFormat {
    /// What docker load reads
    DockerArchive,
    /// An OCI image layout in a tar file
    OciArchive,
}

/// Read images from an archive or layout into the store
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata load -i app.tar
  docker save app | strata load
  strata load -i layout/                          every image of an OCI layout folder")]
pub(crate) struct LoadArgs {
    /// The archive or layout folder [default: standard input]
    #[arg(short = 'i', long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The name of an image that has none there
    #[arg(short = 't', long, value_name = "NAME[:TAG]")]
    tag: Option<String>,
    /// Show nothing while it runs
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Shows a copy: a step for each blob.
struct CopyProgress<'a> {
    session: &'a Session,
    progress: Progress,
    steps: Mutex<BTreeMap<Digest, StepId>>,
}

impl image::Progress for CopyProgress<'_> {
    fn started(&self, blob: &Descriptor) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let step = StepId(steps.len());
        steps.insert(blob.digest, step);
        self.progress.event(EventKind::Started {
            step,
            name: format!("sha256:{}", blob.digest.short()),
        });
    }

    fn waiting(&self, blob: &Descriptor) {
        self.progress.event(waiting(&blob.digest));
    }

    fn advanced(&self, blob: &Descriptor, done_bytes: u64) {
        if let Some(step) = self.step(blob) {
            self.progress.event(EventKind::Progress {
                step,
                part: "blob".to_owned(),
                done_bytes,
                total_bytes: Some(blob.size),
            });
        }
    }

    fn finished(&self, blob: &Descriptor, how: Put) {
        if let Some(step) = self.step(blob) {
            self.progress.event(EventKind::Finished {
                step,
                cached: how != Put::Written,
            });
        }
    }

    fn cancelled(&self) -> bool {
        self.session.is_canceled()
    }
}

impl CopyProgress<'_> {
    fn step(&self, blob: &Descriptor) -> Option<StepId> {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.get(&blob.digest).copied()
    }
}

/// Says that a blob is waited for, which another process or another thread fetches.
pub(crate) fn waiting(digest: &Digest) -> EventKind {
    let blob = digest.short();
    EventKind::Notice(format!(
        "waiting for sha256:{blob}, which is being fetched already"
    ))
}

/// Copies with progress on a terminal, and silently elsewhere.
pub(crate) fn copy(
    session: &Session,
    source: &dyn Source,
    sink: &dyn Sink,
    platforms: Platforms,
    quiet: bool,
) -> Result<image::Copied, CliError> {
    let mode = if quiet || !io::stderr().is_terminal() {
        ProgressMode::Quiet
    } else {
        ProgressMode::Tty
    };
    let shown = CopyProgress {
        session,
        progress: Progress::new(mode, "Copying"),
        steps: Mutex::default(),
    };
    let options = CopyOptions {
        platforms,
        ..CopyOptions::default()
    };
    let result = image::copy(source, sink, &options, &shown);
    shown.progress.finish();
    match result {
        Err(CopyError::Cancelled) => Err(CliError::Interrupted),
        other => other.doing(|| format!("copy {} to {}", source.name(), sink.name())),
    }
}

/// Pulls an image into the store under its name: the platform's manifest, or all of them, and the index that lists them. With
/// `unpack`, layers that come are unpacked meanwhile.
pub(crate) fn pull(
    session: &Session,
    store: &Store,
    name: &Reference,
    platforms: Platforms,
    unpack: bool,
    quiet: bool,
) -> Result<Descriptor, CliError> {
    let source = super::registry::source(session, name)?;
    let doing = || format!("pull {}", name.familiar());
    let root = source.root().doing(doing)?;
    let named = name.tag().is_some();
    let names = if named {
        vec![name.clone()]
    } else {
        Vec::new()
    };
    let sink = store.sink(names);
    let sink = if unpack { sink.unpacking() } else { sink };
    let copied = copy(session, source.as_ref(), &sink, platforms, quiet)?;
    if copied.root.digest == root.digest {
        return Ok(root);
    }
    // One image of an index. The index's bytes are kept as they came, so that its digest stays good, and the name is its.
    let bytes = source.manifest(&root).doing(doing)?;
    store
        .put_bytes(root.media_type.clone(), &bytes)
        .doing(doing)?;
    if named {
        store.tag(name, &root).doing(doing)?;
    } else {
        store.keep(&root).doing(doing)?;
        store.forget(&copied.root.digest).doing(doing)?;
    }
    Ok(root)
}

impl PullArgs {
    /// What it works on.
    pub(crate) fn needs(&self) -> Needs {
        match self.unpack {
            true => Needs::Layers,
            false => Needs::Blobs,
        }
    }

    /// Runs `pull`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let name = reference("NAME", &self.image)?;
        let platforms = if self.all_platforms {
            Platforms::All
        } else {
            Platforms::One(wanted_platform(self.platform.as_deref())?)
        };
        let store = session.store()?;
        let root = pull(session, &store, &name, platforms, self.unpack, self.quiet)?;
        if self.unpack {
            // Those that were there before, and those that lean on others.
            let source = store.source(&name.familiar(), root.clone());
            let platform = wanted_platform(self.platform.as_deref())?;
            lowers(&store, &inspect::read(&source, &platform)?)?;
        }
        if !self.quiet {
            note(&format!("Digest: {}", root.digest));
        }
        print_line(&name.to_string())
    }
}

/// Which images of a stored index can be sent: all if all are there, else this machine's.
fn complete(store: &Store, root: &Descriptor) -> Result<Platforms, CliError> {
    if !root.media_type.is_index() {
        return Ok(Platforms::All);
    }
    let doing = || format!("read {}", root.digest);
    let bytes = store.read_blob(root).doing(doing)?;
    let Document::Index(index) = Document::parse(&bytes).doing(doing)? else {
        return Ok(Platforms::All);
    };
    if index.manifests.iter().all(|m| store.has_blob(m)) {
        return Ok(Platforms::All);
    }
    note("note: not all platforms of this image are in the store; only this machine's is sent");
    Ok(Platforms::One(strata::oci::Platform::host()))
}

/// Pushes an image of the store. Gives the digest that is there now.
pub(crate) fn push(
    session: &Session,
    store: &Store,
    root: &Descriptor,
    shown: &str,
    destination: &Reference,
    quiet: bool,
) -> Result<Digest, CliError> {
    let platforms = complete(store, root)?;
    let source = store.source(shown, root.clone());
    let sink = super::registry::sink(session, destination)?;
    let copied = copy(session, &source, sink.as_ref(), platforms, quiet)?;
    Ok(copied.root.digest)
}

impl PushArgs {
    /// Runs `push`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let store = session.store()?;
        let image = store
            .find(&self.image)
            .doing(|| format!("push {}", self.image))?;
        let destination = match (&self.destination, self.image.parse::<Reference>()) {
            (Some(text), _) => {
                let bare = text.strip_prefix("docker://").unwrap_or(text);
                reference("NAME", bare)?
            }
            (None, Ok(name)) if image.names.contains(&name) => name,
            (None, _) => {
                return Err(CliError::Usage(format!(
                    "{} is no name to push to: give one, strata push {} REGISTRY/NAME:TAG",
                    self.image, self.image
                )));
            }
        };
        let digest = push(
            session,
            &store,
            &image.descriptor,
            &self.image,
            &destination,
            self.quiet,
        )?;
        if self.quiet {
            print_line(&digest.to_string())
        } else {
            print_line(&format!("{destination} digest: {digest}"))
        }
    }
}

impl CopyArgs {
    /// Runs `copy`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let from = Location::parse("SRC", &self.source)?;
        let to = Location::parse("DST", &self.destination)?;
        let platforms = match &self.platform {
            Some(text) => Platforms::One(wanted_platform(Some(text))?),
            None => Platforms::All,
        };
        let source = medium::source(session, &from)?;
        let sink = medium::sink(session, &to)?;
        let copied = copy(
            session,
            source.as_ref(),
            sink.as_ref(),
            platforms,
            self.quiet,
        )?;
        if !self.quiet {
            note(&format!(
                "{} blobs written ({}), {} mounted, {} there before",
                copied.written,
                super::output::human_size(copied.written_bytes),
                copied.mounted,
                copied.present
            ));
        }
        print_line(&copied.root.digest.to_string())
    }
}

impl SaveArgs {
    /// Runs `save`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let store = session.store()?;
        let mut root: Option<Descriptor> = None;
        let mut names = Vec::new();
        for text in &self.images {
            let image = store.find(text).doing(|| format!("save {text}"))?;
            let same = root.get_or_insert_with(|| image.descriptor.clone()).digest
                == image.descriptor.digest;
            if !same {
                return Err(CliError::Usage(
                    "an archive holds one image under one or more names; save each to its own file, or copy them to one oci: layout"
                        .to_owned(),
                ));
            }
            let by_name = text
                .parse::<Reference>()
                .ok()
                .filter(|r| image.names.contains(r));
            names.extend(by_name.map(Name::Reference));
        }
        let Some(root) = root else {
            return Err(CliError::Usage("which image?".to_owned()));
        };
        let form = match self.format {
            SaveFormat::DockerArchive => Form::Docker,
            SaveFormat::OciArchive => Form::Oci,
        };
        let platforms = match (&self.platform, form) {
            (Some(text), _) => Platforms::One(wanted_platform(Some(text))?),
            (None, Form::Docker) => Platforms::One(strata::oci::Platform::host()),
            (None, Form::Oci) => complete(&store, &root)?,
        };
        // A single image is saved whatever its platform is.
        let platforms = if root.media_type.is_index() {
            platforms
        } else {
            Platforms::All
        };
        let sink = archive(self.output.as_deref(), form, names)?;
        let source = store.source(&self.images.join(", "), root);
        copy(session, &source, &sink, platforms, self.output.is_none()).map(drop)
    }
}

/// An archive in a file, or on standard output unless that is a terminal.
pub(crate) fn archive(
    path: Option<&Path>,
    form: Form,
    names: Vec<Name>,
) -> Result<ArchiveWriter, CliError> {
    match path.filter(|p| p.as_os_str() != "-") {
        Some(path) => {
            ArchiveWriter::create(path, form, names).doing(|| format!("write {}", path.display()))
        }
        None if io::stdout().is_terminal() => Err(CliError::Usage(
            "standard output is a terminal: give a file, or send it somewhere".to_owned(),
        )),
        None => Ok(ArchiveWriter::stream(
            Box::new(io::stdout()),
            "standard output",
            form,
            names,
        )),
    }
}

impl LoadArgs {
    /// Runs `load`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let store = session.store()?;
        let fallback = self
            .tag
            .as_deref()
            .map(|t| reference("--tag", t))
            .transpose()?;
        match self.input.as_deref().filter(|p| p.as_os_str() != "-") {
            Some(path) if path.is_dir() => {
                let doing = || format!("load {}", path.display());
                let images = Layout::open(path, None)
                    .and_then(|l| l.images())
                    .doing(doing)?;
                for (name, descriptor) in &images {
                    let wanted = descriptor.digest.to_string();
                    let source = Layout::open(path, Some(&wanted)).doing(doing)?;
                    self.one(session, &store, &source, name, fallback.as_ref())?;
                }
                Ok(())
            }
            input => {
                let work = store
                    .work()
                    .doing(|| "make a temporary folder".to_owned())?;
                let mut archive = match input {
                    Some(path) => {
                        Archive::open(path, None).doing(|| format!("load {}", path.display()))?
                    }
                    None if io::stdin().is_terminal() => {
                        return Err(CliError::Usage(
                            "standard input is a terminal: give a file with -i".to_owned(),
                        ));
                    }
                    None => Archive::from_stream(
                        io::stdin().lock(),
                        "standard input",
                        Some(work.path()),
                        None,
                    )
                    .doing(|| "load standard input".to_owned())?,
                };
                for (name, descriptor) in archive.images() {
                    archive = archive.with_image(&descriptor.digest.to_string());
                    self.one(session, &store, &archive, &name, fallback.as_ref())?;
                }
                Ok(())
            }
        }
    }

    /// Stores one image of several. A name that is no reference (`v1` in a layout) is not taken over.
    fn one(
        &self,
        session: &Session,
        store: &Store,
        source: &dyn Source,
        name: &str,
        fallback: Option<&Reference>,
    ) -> Result<(), CliError> {
        let is_digest = name.parse::<Digest>().is_ok();
        let own = name.parse::<Reference>().ok().filter(|_| !is_digest);
        let name = own.or_else(|| fallback.cloned());
        let sink = store.sink(name.iter().cloned().collect());
        let copied = copy(session, source, &sink, Platforms::All, self.quiet)?;
        match name {
            Some(name) => print_line(&format!("Loaded image: {}", name.familiar())),
            None => print_line(&format!("Loaded image ID: {}", copied.root.digest)),
        }
    }
}
