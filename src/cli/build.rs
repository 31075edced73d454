//! `build`: from the request to the result, through the rooms in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Cursor, Read as _};
use std::path::Path;

use strata::build::{
    self, BuildError, Built, Context, ContextSource as EngineSource, EventKind, Events as _,
    Request, SecretSource, Secrets, Verdict,
};
use strata::dockerfile::footgun::Footgun;
use strata::dockerfile::{self, Diagnostic, Severity, Span, diagnostic, lint};
use strata::oci::Digest;
use strata::plan::{self, Graph, NamedContext, Op, Origin, PlanError};
use strata::store::{FailedBounds, Store};

use super::build_args::{BuildRequest, OnError};
use super::build_failure::{Failure, ParseFailure};
use super::build_output::{self, image_options};
use super::build_values::{ContextSource, DockerfileSource, Secret, SecretFrom};
use super::calls::{self, Broken, Call, Source};
use super::debug;
use super::dockerfile::{self as text, Base, Text};
use super::epoch;
use super::error::{CliError, Doing as _};
use super::output::{note, print};
use super::progress::{Progress, ProgressMode};
use super::resolve::Images;
use super::session::Session;
use super::ssh::Agents;
use super::verify;

/// How much of standard input shows whether it is an archive: a tar's magic is at 257.
const HEAD_BYTES: u64 = 512;

/// The surroundings of a build.
pub(super) struct Build<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) session: &'a Session,
    pub(super) store: &'a Store,
    pub(super) progress: &'a Progress,
    http: ureq::Agent,
    secrets: Secrets,
    ssh: Agents,
}

/// Dockerfile and context.
struct Inputs {
    text: Text,
    context: Option<Context>,
}

/// Runs `build`.
pub(crate) fn run(request: &BuildRequest, session: &Session) -> Result<(), CliError> {
    let store = session.store()?;
    let progress = Progress::new(request.progress, "Building");
    let build = Build {
        request,
        session,
        store: &store,
        progress: &progress,
        http: ureq::Agent::new_with_defaults(),
        secrets: secrets(request),
        ssh: Agents::of_build(request)?,
    };
    let result = build.all();
    progress.finish();
    match result {
        Ok(done) => {
            build.show_warnings(&done.text);
            done.report(&build)
        }
        Err(failure) => {
            let kept = failure.kept().cloned();
            let error = build.explain(failure);
            if request.on_error == OnError::Shell {
                match &kept {
                    Some(kept) if kept.has_files => {
                        let (secrets, ssh) = (build.secrets.clone(), build.ssh.sockets.clone());
                        debug::open_kept(session, &store, kept, secrets, ssh);
                    }
                    _ => note("note: --on-error=shell: what failed left no files to look at"),
                }
            }
            Err(error)
        }
    }
}

/// What a build came to, for the last words.
struct Done {
    text: Text,
    report: Report,
}

enum Report {
    /// Images were made.
    Built(Box<Built>, Vec<Verdict>),
    /// Files were made, of which nothing more is asked.
    Files,
    /// What was called said what it had to say, or found mistakes.
    Called {
        /// The exit code.
        code: u8,
    },
}

impl Done {
    fn report(&self, build: &Build<'_>) -> Result<(), CliError> {
        match &self.report {
            Report::Built(built, verdicts) => {
                if let Some(verdict) = verdicts.first()
                    && !build.request.quiet
                {
                    let digest = verdict.digests[0];
                    note(&format!("two builds gave the same result: {digest}"));
                }
                let told = build_output::Told {
                    warnings: build.progress.warnings_json(),
                    explanations: build.progress.explanations(),
                    verdicts: verdicts.clone(),
                };
                build_output::report(build.request, built, &told)
            }
            Report::Files | Report::Called { code: 0 } => Ok(()),
            Report::Called { code } => Err(CliError::Exit(*code)),
        }
    }
}

fn secrets(request: &BuildRequest) -> Secrets {
    let mut secrets = Secrets::default();
    for secret in &request.secrets {
        add_secret(&mut secrets, secret);
    }
    secrets
}

pub(super) fn add_secret(secrets: &mut Secrets, secret: &Secret) {
    let source = match &secret.from {
        SecretFrom::File(path) => SecretSource::File(path.clone()),
        SecretFrom::Env(name) => SecretSource::Env(name.clone()),
    };
    secrets.add(&secret.id, source);
}

impl Build<'_> {
    fn all(&self) -> Result<Done, Failure> {
        let images = Images::new(self.session, self.store, self.progress, self.request.pull);
        build_output::check(self.request)?;
        self.secrets
            .check()
            .doing(|| "use the secrets".to_owned())?;
        let inputs = images.step("[internal] load build definition".to_owned(), || {
            self.inputs()
        })?;
        let Inputs { text, context } = inputs;
        self.progress.set_source(&text.name, &text.text);
        let call = self.request.call.method;
        if call == Call::Describe {
            return self.called(text, &calls::describe(self.request.call.json), true);
        }
        let parsed = match dockerfile::parse(&text.text) {
            Ok(parsed) => parsed,
            Err(errors) if call == Call::Check => return self.unparsed(text, &errors),
            Err(errors) => return Err(Failure::Parse(text, errors)),
        };
        if call == Call::Targets {
            let shown = calls::targets(source(&text), &parsed.dockerfile, self.request.call.json);
            return self.called(text, &shown, true);
        }
        let mut options = self.request.plan.clone();
        options.dockerfile_name.clone_from(&text.name);
        options.ignore = context.as_ref().and_then(Context::ignore).cloned();
        let epoch = self.epoch(&parsed.dockerfile, &options, &images, context.as_ref())?;
        options.build_args.remove(epoch::NAME);
        if let Some(seconds) = epoch {
            let name = epoch::NAME.to_owned();
            options.build_args.insert(name, seconds.to_string());
        }
        let rules = match options.build_args.get("BUILDKIT_DOCKERFILE_CHECK") {
            Some(rules) => lint::Config::parse(rules).map_err(|error| {
                CliError::Refused(format!("--build-arg BUILDKIT_DOCKERFILE_CHECK: {error}"))
            })?,
            None => match lint::config(&parsed.dockerfile) {
                Ok(rules) => rules,
                Err(error) => return Err(Failure::Parse(text, vec![error])),
            },
        };
        let mut found = lint::apply(&rules, &parsed.dockerfile, lint::check(&parsed));
        self.warn(found.clone());
        let mut noted = Vec::new();
        let planned = plan::lower_noting(&parsed.dockerfile, &options, &images, &mut noted);
        if let Ok(graph) = &planned {
            noted.clone_from(&graph.warnings);
        }
        let mut noted = lint::apply(&rules, &parsed.dockerfile, noted);
        let is_footgun = |d: &Diagnostic| d.rule.is_some_and(|r| Footgun::named(r).is_some());
        if call == Call::Check && !self.request.strict {
            // A check is BuildKit's.
            noted.retain(|d| !is_footgun(d));
        }
        let refused: Vec<Diagnostic> = match self.request.strict {
            true => noted.iter().filter(|d| is_footgun(d)).cloned().collect(),
            false => Vec::new(),
        };
        self.warn(noted.clone());
        found.extend(noted);
        let violation = lint::violation(&found);
        if call == Call::Check {
            let broken = match (&planned, violation) {
                (Err(error), _) => Some(broken(error)),
                (Ok(_), Some(message)) => Some(Broken {
                    message,
                    span: first_error(&found),
                    hint: None,
                }),
                (Ok(_), None) => None,
            };
            let found = self.progress.warnings();
            let shown = calls::check(
                source(&text),
                &found,
                broken.as_ref(),
                self.request.call.json,
            );
            return self.called(text, &shown, found.is_empty() && broken.is_none());
        }
        let graph = match planned {
            Ok(graph) => graph,
            Err(error) => return Err(Failure::Plan(text, Box::new(error))),
        };
        if let Some(violation) = violation {
            return Err(Failure::Lint(text, found, violation.into()));
        }
        if !refused.is_empty() && call == Call::Build {
            return Err(Failure::Strict(text, refused));
        }
        if call == Call::Outline {
            let shown = calls::outline(source(&text), &graph.outline, self.request.call.json);
            return self.called(text, &shown, true);
        }
        let contexts = match self.named_contexts(&graph) {
            Ok(contexts) => contexts,
            Err(error) => return Err(self.engine_failure(text, error)),
        };
        let speaks = |found: &Diagnostic| lint::speaks(&rules, &parsed.dockerfile, found);
        let mut request = Request {
            graph: &graph,
            context,
            contexts,
            secrets: self.secrets.clone(),
            strict: self.request.strict,
            speaks: &speaks,
            ssh: self.ssh.sockets.clone(),
            jobs: self.jobs(),
            last_first: false,
            privilege: self.session.privilege().clone(),
            http: self.http.clone(),
            image: image_options(self.request, None, epoch)?,
            dockerfile: text.name.clone(),
            dockerfile_path: text
                .host_path()
                .and_then(|path| std::path::absolute(path).ok())
                .map(|path| path.into_os_string().into_encoded_bytes()),
            build: self.identity(),
            no_cache: self.request.plan.no_cache,
            explain: self.request.explain,
            keep_failed: match self.request.on_error {
                OnError::Keep | OnError::Shell => FailedBounds::default(),
                OnError::Discard => FailedBounds {
                    count: 0,
                    ..FailedBounds::default()
                },
            },
            about: self.about(&text),
        };
        // What failed long ago goes by itself, even where nothing fails any more.
        self.store
            .bound_failed(&FailedBounds::default())
            .doing(|| "remove old failed steps".to_owned())?;
        request.image = image_options(self.request, None, epoch)?;
        if build_output::only_files(self.request, &request.image) {
            let made = build::build_files(
                self.store,
                &request,
                &images,
                self.progress,
                self.session.cancel(),
            );
            let made = match made {
                Ok(made) => made,
                Err(error) => return Err(self.engine_failure(text, error)),
            };
            for output in &self.request.outputs {
                build_output::deliver_files(self, &images, output, &made)?;
            }
            let report = Report::Files;
            return Ok(Done { text, report });
        }
        // Outputs of another form are another build, all of whose steps are cached by then.
        let mut built: Option<Built> = None;
        let mut verdicts = Vec::new();
        for group in build_output::groups(&self.request.outputs) {
            request.image = image_options(self.request, group.form, epoch)?;
            let one = match build::build(
                self.store,
                &request,
                &images,
                self.progress,
                self.session.cancel(),
            ) {
                Ok(one) => one,
                Err(error) => return Err(self.engine_failure(text, error)),
            };
            if self.request.verify {
                let compared = verify::again(
                    self.store,
                    &mut request,
                    &images,
                    self.progress,
                    self.session,
                )
                .and_then(|two| {
                    let dockerfile = (&*text.name, &*text.text);
                    verify::compare(
                        self.store,
                        &request,
                        self.progress,
                        [&one, &two],
                        dockerfile,
                    )
                });
                let verdict = match compared {
                    Ok(verdict) => verdict,
                    Err(error) => return Err(self.engine_failure(text, error)),
                };
                if !verdict.reproducible {
                    build_output::report_verdict(self.request, &verdict)?;
                    return Err(Failure::Other(CliError::Differ {
                        what: verify::short(&verdict, &text.name),
                        only_times: verdict.only_times,
                    }));
                }
                verdicts.push(verdict);
            }
            for output in &group.outputs {
                build_output::deliver(self, &images, output, &one)?;
            }
            built.get_or_insert(one);
        }
        match built {
            Some(built) => Ok(Done {
                text,
                report: Report::Built(Box::new(built), verdicts),
            }),
            None => Err(CliError::Usage("nothing to build: no output".to_owned()).into()),
        }
    }

    /// Prints what was called for.
    fn called(&self, text: Text, shown: &str, good: bool) -> Result<Done, Failure> {
        print(shown)?;
        let code = match good || self.request.call.ignore_status {
            true => super::error::exit::OK,
            false => super::error::exit::FAILED,
        };
        Ok(Done {
            text,
            report: Report::Called { code },
        })
    }

    /// A check of a file that cannot be read to its end.
    fn unparsed(&self, text: Text, errors: &[Diagnostic]) -> Result<Done, Failure> {
        let failure = ParseFailure::new(&text, errors);
        let broken = Broken {
            message: failure.to_string(),
            span: errors.first().map(|e| e.span),
            hint: errors.first().and_then(|e| e.hint.clone()),
        };
        let shown = calls::check(source(&text), &[], Some(&broken), self.request.call.json);
        self.called(text, &shown, false)
    }

    fn engine_failure(&self, text: Text, error: BuildError) -> Failure {
        if error.is_canceled() || self.session.is_canceled() {
            Failure::Other(CliError::Interrupted)
        } else {
            Failure::Engine(text, Box::new(error))
        }
    }

    /// What the context and the Dockerfile are called: a path by whatever way it is reached, a repository at whatever commit.
    fn identity(&self) -> Digest {
        let path = |path: &Path| {
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            path.into_os_string().into_encoded_bytes()
        };
        let git = |url: &str| {
            url.split(['#', '?'])
                .next()
                .unwrap_or(url)
                .as_bytes()
                .to_vec()
        };
        let context = match &self.request.context {
            ContextSource::Folder(folder) | ContextSource::Archive(folder) => path(folder),
            ContextSource::Stdin => b"-".to_vec(),
            ContextSource::Http(url) => url.clone().into_bytes(),
            ContextSource::Git(url) => git(url),
        };
        let dockerfile = match (&self.request.dockerfile, &self.request.context) {
            (DockerfileSource::Path(file), _) => path(file),
            (DockerfileSource::Default, ContextSource::Folder(folder)) => {
                path(&folder.join("Dockerfile"))
            }
            (DockerfileSource::Default, _) => Vec::new(),
            (DockerfileSource::Stdin, _) => b"-".to_vec(),
            (DockerfileSource::Http(url), _) => url.clone().into_bytes(),
        };
        Digest::of(&[context, dockerfile].join(&0))
    }

    /// What is built, for who finds a failed step of it.
    fn about(&self, text: &Text) -> String {
        match (&self.request.dockerfile, &self.request.context) {
            (DockerfileSource::Path(path), _) => std::path::absolute(path)
                .map_or_else(|_| text.name.clone(), |p| p.display().to_string()),
            (DockerfileSource::Default, ContextSource::Folder(folder)) => {
                folder.canonicalize().map_or_else(
                    |_| text.name.clone(),
                    |f| f.join(&text.name).display().to_string(),
                )
            }
            _ => text.name.clone(),
        }
    }

    /// Steps at once: as many as there are processors.
    fn jobs(&self) -> usize {
        let all = || std::thread::available_parallelism().unwrap_or(std::num::NonZeroUsize::MIN);
        self.request.jobs.unwrap_or_else(all).get()
    }

    fn warn(&self, warnings: Vec<Diagnostic>) {
        for warning in warnings {
            self.progress.event(EventKind::Warning(warning));
        }
    }

    /// Reads the Dockerfile and brings the context to disk. Only a folder is used where it is.
    fn inputs(&self) -> Result<Inputs, CliError> {
        let source = &self.request.dockerfile;
        let load = |from| self.load(from, "the build context");
        match &self.request.context {
            ContextSource::Folder(folder) => {
                if !folder.exists() {
                    return Err(CliError::Refused(format!(
                        "unable to prepare context: path {:?} not found",
                        folder.display().to_string()
                    )));
                }
                let base = Base::Own(folder);
                let text = self.text(source, base)?;
                let mut context = load(EngineSource::Folder(folder.clone()))?;
                set_ignore(&mut context, text.ignore(base)?);
                Ok(Inputs {
                    text,
                    context: Some(context),
                })
            }
            ContextSource::Stdin => {
                let mut head = Vec::new();
                io::stdin()
                    .lock()
                    .take(HEAD_BYTES)
                    .read_to_end(&mut head)
                    .doing(|| "read standard input".to_owned())?;
                if text::is_archive(&head) {
                    let stream = Cursor::new(head).chain(io::stdin());
                    return self.foreign(load(EngineSource::Archive(Box::new(stream)))?);
                }
                // A Dockerfile by itself, unless it was given elsewhere.
                let text = match source {
                    DockerfileSource::Path(_) | DockerfileSource::Http(_) => {
                        self.text(source, Base::Nothing)?
                    }
                    _ => {
                        io::stdin()
                            .lock()
                            .read_to_end(&mut head)
                            .doing(|| "read standard input".to_owned())?;
                        text::from_stream(&head)
                    }
                };
                Ok(Inputs {
                    text,
                    context: None,
                })
            }
            ContextSource::Archive(path) => {
                let file = fs::File::open(path).doing(|| format!("read {}", path.display()))?;
                self.foreign(load(EngineSource::Archive(Box::new(file)))?)
            }
            ContextSource::Http(url) => self.foreign(load(EngineSource::Http(url.clone()))?),
            ContextSource::Git(url) => self.foreign(load(self.git(url))?),
        }
    }

    /// A context that came from elsewhere, with the Dockerfile in it.
    fn foreign(&self, mut context: Context) -> Result<Inputs, CliError> {
        let folder = context.folder().to_owned();
        let base = Base::Foreign(&folder);
        let source = match (&self.request.dockerfile, context.lone_file()) {
            // What was fetched is the Dockerfile itself.
            (DockerfileSource::Default, Some(name)) => &DockerfileSource::Path(name.into()),
            (source, _) => source,
        };
        let text = self.text(source, base)?;
        set_ignore(&mut context, text.ignore(base)?);
        Ok(Inputs {
            text,
            context: Some(context),
        })
    }

    fn text(&self, source: &DockerfileSource, base: Base<'_>) -> Result<Text, CliError> {
        text::read(source, base, &|url| {
            self.load(EngineSource::Http(url.to_owned()), "the Dockerfile")
        })
    }

    /// A repository, which a result of a given time has at the commit's.
    fn git(&self, url: &str) -> EngineSource<'static> {
        EngineSource::Git {
            url: url.to_owned(),
            commit_times: self.request.source_date_epoch.is_some(),
        }
    }

    pub(super) fn load(&self, from: EngineSource<'_>, what: &str) -> Result<Context, CliError> {
        self.context(from).map_err(|error| {
            if error.is_canceled() {
                CliError::Interrupted
            } else {
                CliError::Cannot {
                    doing: format!("load {what}"),
                    source: error.into(),
                }
            }
        })
    }

    fn context(&self, from: EngineSource<'_>) -> Result<Context, BuildError> {
        Context::load(
            from,
            self.store,
            &self.http,
            &self.secrets,
            &self.ssh.sockets,
            self.session.cancel(),
        )
    }

    /// The named contexts with files that the graph reads; those it does not read are not fetched.
    fn named_contexts(&self, graph: &Graph) -> Result<BTreeMap<String, Context>, BuildError> {
        let used = named_origins(graph);
        let mut contexts = BTreeMap::new();
        for (name, source) in &self.request.plan.contexts {
            if !used.contains(name.as_str()) {
                continue;
            }
            let context = match source {
                NamedContext::Local(path) => {
                    let mut context = self.context(EngineSource::Folder(path.clone()))?;
                    if let Ok(ignore) = text::folder_ignore(path) {
                        set_ignore(&mut context, ignore);
                    }
                    context
                }
                NamedContext::Git(url) => self.context(self.git(url))?,
                NamedContext::Http(url) => self.context(EngineSource::Http(url.clone()))?,
                NamedContext::Image(_) | NamedContext::Layout { .. } => continue,
            };
            contexts.insert(name.clone(), context);
        }
        Ok(contexts)
    }

    /// The findings, in few words, after a build.
    pub(super) fn show_warnings(&self, text: &Text) {
        let warnings = self.progress.warnings();
        let shown = matches!(
            self.request.progress,
            ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain
        );
        if warnings.is_empty() || !shown || self.request.call.method != Call::Build {
            return;
        }
        let s = if warnings.len() == 1 { "" } else { "s" };
        let is_footgun = |d: &Diagnostic| d.rule.is_some_and(|r| Footgun::named(r).is_some());
        let strict = match warnings.iter().any(is_footgun) {
            true => " --strict",
            false => "",
        };
        note(&format!(
            "\n {} warning{s} found (see strata build --check{strict}):",
            warnings.len()
        ));
        for warning in &warnings {
            let (line, _) = diagnostic::position(&text.text, warning.span.start);
            let rule = warning.rule.map_or_else(String::new, |r| format!("{r}: "));
            note(&format!(" - {rule}{} (line {line})", warning.message));
        }
    }
}

fn set_ignore(context: &mut Context, ignore: Option<(dockerfile::ignore::Ignore, String)>) {
    if let Some((ignore, name)) = ignore {
        context.set_ignore(ignore, &name);
    }
}

/// The names of contexts whose files a graph reads.
fn named_origins(graph: &Graph) -> BTreeSet<&str> {
    use strata::plan::graph::RunMount;
    let mut names = BTreeSet::new();
    for vertex in &graph.vertices {
        match &vertex.op {
            Op::Copy(copy) => names.extend(named(&copy.origin)),
            Op::Run(run) => {
                for mount in &run.mounts {
                    match mount {
                        RunMount::Bind { origin, .. }
                        | RunMount::Cache {
                            from: Some((origin, _)),
                            ..
                        } => names.extend(named(origin)),
                        _ => {}
                    }
                }
            }
            Op::Image(_) | Op::Workdir(_) => {}
        }
    }
    names
}

fn named(origin: &Origin) -> Option<&str> {
    match origin {
        Origin::Named(name) => Some(name),
        _ => None,
    }
}

fn source(text: &Text) -> Source<'_> {
    Source {
        name: &text.name,
        text: &text.text,
    }
}

fn first_error(found: &[Diagnostic]) -> Option<Span> {
    let errors = found.iter().filter(|d| d.severity == Severity::Error);
    errors.map(|d| d.span).min_by_key(|span| span.start)
}

fn broken(error: &PlanError) -> Broken {
    match error.diagnostic() {
        Some(found) => Broken {
            message: found.message,
            span: Some(found.span),
            hint: found.hint,
        },
        None => Broken {
            message: dockerfile::with_causes(error),
            span: None,
            hint: error.hint(),
        },
    }
}
