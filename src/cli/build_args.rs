//! The flags of `build`, and what they say as one typed request.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use strata::build::Explain;
use strata::dockerfile::ast::Network;
use strata::oci::Reference;
use strata::plan::Options;

use super::build_values::{
    self as parse, Annotation, ContextSource, DockerfileSource, Secret, Ssh,
};
use super::calls::{self, Call, CallSpec};
use super::epoch::{self, Epoch};
use super::output_spec::{OutputSpec, output};
use super::progress::ProgressMode;
use super::values::{FlagError, boolean, bytes, pair, platforms, reference};

const EXAMPLES: &str = "\
Examples:
  strata build -t app .                                    from ./Dockerfile, named app:latest in the store
  strata build -f deploy/Dockerfile --target test src      another file, one stage, the context src/
  strata build -t reg.example/app:1 --push .               straight to a registry
  strata build --platform linux/amd64,linux/arm64 -t app . an index of two images
  strata build -o type=oci,dest=app.tar .                  an OCI archive; type=docker for docker load
  strata build -o out .                                    the files of the last stage in out/
  strata build --secret id=tok,env=TOKEN --ssh default .   secrets, never in a layer or a cache key
  strata build https://example.org/app.git#v1:service      a folder of a git repository at a tag
  strata build - < context.tar.gz                          a context (or a Dockerfile) on standard input
  strata build --explain -t app .                          and say why each step that runs was not cached
  strata build --verify --timestamp 0 .                    twice, and say what differs
  strata build --check .                                   only look for mistakes";

/// Build an image from a Dockerfile
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BuildArgs {
    /// A folder, an archive, `-` for standard input, or the URL of an archive, a Dockerfile or a git repository
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: String,
    /// The Dockerfile: a path, a URL, or `-` for standard input [default: CONTEXT/Dockerfile]
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<String>,
    /// Name the image; may be repeated
    #[arg(short = 't', long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// Build this stage, by its name or number
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set a build argument; without a value, the environment's is taken
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,
    /// Give a context a name: a folder, docker-image://REF, oci-layout://PATH, or a URL
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    build_contexts: Vec<String>,
    /// Set a label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Annotate the manifest, or what TYPE names: manifest, index, manifest-descriptor, index-descriptor
    #[arg(long = "annotation", value_name = "[TYPE:]KEY=VALUE")]
    annotations: Vec<String>,
    /// Build for these platforms; several make an index
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT],…")]
    platforms: Vec<String>,
    /// Use no earlier result
    #[arg(long)]
    no_cache: bool,
    /// Use no earlier result for these stages
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Say of every step that is not cached why: the file, argument, flag or base that differs from the last build
    #[arg(long)]
    explain: bool,
    /// Fail before the first step that is not cached, and say why
    #[arg(long)]
    expect_cached: bool,
    /// Ask the registry for base images even if the store has them
    #[arg(long)]
    pull: bool,
    /// Give RUN a secret: id=NAME[,src=FILE|,env=VARIABLE]
    #[arg(long = "secret", value_name = "SPEC")]
    secrets: Vec<String>,
    /// Give RUN and git an ssh agent: default, ID=SOCKET, or ID=KEYFILE[,KEYFILE…]
    #[arg(long = "ssh", value_name = "SPEC")]
    ssh: Vec<String>,
    /// The network of RUN
    #[arg(long, value_name = "MODE", value_parser = ["default", "none", "host"])]
    network: Option<String>,
    /// Add a line to /etc/hosts of RUN: NAME:IP
    #[arg(long = "add-host", value_name = "NAME:IP")]
    add_hosts: Vec<String>,
    /// Limit a resource of RUN: nofile=1024:4096
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    ulimits: Vec<String>,
    /// The size of /dev/shm of RUN [default: 64m]
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write the result's digests and names to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// How progress is shown, on standard error
    #[arg(
        long,
        value_name = "FORM",
        value_enum,
        env = "BUILDKIT_PROGRESS",
        default_value = "auto"
    )]
    progress: ProgressMode,
    /// Show nothing but the image ID, on standard output
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Push the image: --output type=registry
    #[arg(long)]
    push: bool,
    /// Keep the image in the store, which is the default
    #[arg(long)]
    load: bool,
    /// Where the result goes: DIR, -, or type=oci|docker|local|tar|registry|image|cacheonly[,dest=…][,KEY=VALUE…]
    #[arg(short = 'o', long = "output", value_name = "SPEC")]
    outputs: Vec<String>,
    /// Read the cache of another store (not yet supported)
    #[arg(long = "cache-from", value_name = "SPEC")]
    cache_from: Vec<String>,
    /// Write the cache for another store (not yet supported)
    #[arg(long = "cache-to", value_name = "SPEC")]
    cache_to: Vec<String>,
    /// Allow what needs a permission: network.host, security.insecure
    #[arg(long = "allow", value_name = "ENTITLEMENT", value_delimiter = ',')]
    allow: Vec<String>,
    /// Only look for mistakes in the Dockerfile: --call check
    #[arg(long)]
    check: bool,
    /// What to do instead of a build: check, outline, targets, subrequests.describe
    #[arg(long, value_name = "METHOD[,format=json]", default_value = "build")]
    call: String,
    /// What becomes of a RUN that fails: keep it for `strata debug`, open a shell in it at once, or discard it
    #[arg(long, value_name = "WHAT", value_enum, default_value = "keep")]
    on_error: OnError,
    /// Build twice without the cache, and fail where the results differ: name the first path that does, its step, and how
    #[arg(long)]
    verify: bool,
    /// Give the image and all files of its new layers this time, in seconds since 1970
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    timestamp: Option<i64>,
    /// Refuse what BuildKit does without a word though nobody means it, and secrets in layers
    #[arg(long)]
    strict: bool,
    /// How many steps run at once [default: one for each CPU]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Attach provenance (only "false" is supported yet)
    #[arg(long, value_name = "SPEC", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    provenance: Option<String>,
    /// Attach a list of packages (only "false" is supported yet)
    #[arg(long, value_name = "SPEC", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    sbom: Option<String>,
    /// Attach an attestation (only disabled ones are supported yet)
    #[arg(long = "attest", value_name = "SPEC")]
    attest: Vec<String>,
    /// Accepted for docker's sake: nothing intermediate is ever kept
    #[arg(long, hide = true)]
    rm: bool,
    /// Accepted for docker's sake
    #[arg(long, hide = true)]
    force_rm: bool,
    /// Accepted for docker's sake: there is one builder
    #[arg(long, hide = true, value_name = "NAME")]
    builder: Option<String>,
}

/// `--on-error`
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum OnError {
    /// Its files and output are kept for a while
    Keep,
    /// The same, and a shell is opened in it at once, on a terminal
    Shell,
    /// Nothing is kept
    Discard,
}

/// `build` as it was asked for, checked.
#[derive(Clone, Debug)]
pub(crate) struct BuildRequest {
    /// What to do.
    pub(crate) call: CallSpec,
    /// The context.
    pub(crate) context: ContextSource,
    /// The Dockerfile.
    pub(crate) dockerfile: DockerfileSource,
    /// `-t`
    pub(crate) tags: Vec<Reference>,
    /// What changes the plan.
    pub(crate) plan: Options,
    /// `--explain` and `--expect-cached`
    pub(crate) explain: Explain,
    /// `--pull`
    pub(crate) pull: bool,
    /// Where the result goes; never empty.
    pub(crate) outputs: Vec<OutputSpec>,
    /// `--annotation`
    pub(crate) annotations: Vec<Annotation>,
    /// `--secret`
    pub(crate) secrets: Vec<Secret>,
    /// `--ssh`
    pub(crate) ssh: Vec<Ssh>,
    /// `--iidfile`
    pub(crate) iidfile: Option<PathBuf>,
    /// `--metadata-file`
    pub(crate) metadata_file: Option<PathBuf>,
    /// `--progress`
    pub(crate) progress: ProgressMode,
    /// `-q`
    pub(crate) quiet: bool,
    /// `--verify`
    pub(crate) verify: bool,
    /// `--timestamp`
    pub(crate) timestamp: Option<i64>,
    /// `--on-error`
    pub(crate) on_error: OnError,
    /// `--strict`
    pub(crate) strict: bool,
    /// `--jobs`
    pub(crate) jobs: Option<NonZeroUsize>,
    /// `SOURCE_DATE_EPOCH` of the build arguments or the environment.
    pub(crate) source_date_epoch: Option<Epoch>,
}

/// What the request needs to know of the world, so that parsing stays pure.
pub(crate) struct World<'a> {
    /// A variable of the environment.
    pub(crate) var: &'a dyn Fn(&str) -> Option<String>,
    /// Whether a path is a regular file.
    pub(crate) is_file: &'a dyn Fn(&Path) -> bool,
}

/// Parses each value of a repeated flag.
fn each<T>(
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, FlagError>,
) -> Result<Vec<T>, FlagError> {
    texts.iter().map(|t| parse(t)).collect()
}

impl BuildArgs {
    /// Checks every value.
    pub(crate) fn request(&self, world: &World<'_>) -> Result<BuildRequest, FlagError> {
        self.refuse_unsupported()?;
        let build_args = self.build_args(world)?;
        let source_date_epoch = build_args
            .get(epoch::NAME)
            .filter(|v| !v.is_empty())
            .map(|v| Epoch::parse(v))
            .transpose()?;
        let mut call = calls::call(&self.call)?;
        if self.check {
            call.method = Call::Check;
        }
        let context = parse::context(&self.context, |p| (world.is_file)(Path::new(p)));
        let dockerfile = match self.file.as_deref() {
            None => DockerfileSource::Default,
            Some(text) => parse::dockerfile(text),
        };
        if context == ContextSource::Stdin && dockerfile == DockerfileSource::Stdin {
            return Err(FlagError::new(
                "--file",
                "-",
                "standard input cannot be both the context and the Dockerfile",
            ));
        }
        let plan = Options {
            dockerfile_name: self.dockerfile_name(),
            target: self.target.clone().filter(|t| !t.is_empty()),
            build_args,
            labels: each(&self.labels, label)?.into_iter().collect(),
            contexts: each(&self.build_contexts, parse::build_context)?
                .into_iter()
                .collect(),
            platforms: platforms("--platform", &self.platforms)?,
            // Of two builds that share results, one says nothing about the other.
            no_cache: self.no_cache || self.verify,
            no_cache_filter: self.no_cache_filter.clone(),
            network: self.network.as_deref().and_then(|n| match n {
                "none" => Some(Network::None),
                "host" => Some(Network::Host),
                _ => None,
            }),
            add_hosts: each(&self.add_hosts, parse::add_host)?,
            ulimits: each(&self.ulimits, parse::ulimit)?,
            shm_size_bytes: self
                .shm_size
                .as_deref()
                .map(|s| bytes("--shm-size", s))
                .transpose()?,
            entitlements: each(&self.allow, entitlement)?,
            all_stages: call.method == Call::Check,
            ignore: None,
        };
        Ok(BuildRequest {
            call,
            context,
            dockerfile,
            tags: each(&self.tags, |t| reference("--tag", t))?,
            plan,
            explain: match (self.expect_cached, self.explain) {
                (true, _) => Explain::Expect,
                (false, true) => Explain::Tell,
                (false, false) => Explain::No,
            },
            pull: self.pull,
            outputs: self.outputs()?,
            annotations: each(&self.annotations, parse::annotation)?.concat(),
            secrets: each(&self.secrets, |s| {
                parse::secret(s, |v| (world.var)(v).is_some())
            })?,
            ssh: each(&self.ssh, parse::ssh)?,
            iidfile: self.iidfile.clone(),
            metadata_file: self.metadata_file.clone(),
            progress: if self.quiet {
                ProgressMode::Quiet
            } else {
                self.progress
            },
            quiet: self.quiet,
            verify: self.verify,
            timestamp: self.timestamp,
            on_error: self.on_error,
            strict: self.strict,
            jobs: self.jobs,
            source_date_epoch,
        })
    }

    /// How messages call the file: relative to the context where it is inside.
    fn dockerfile_name(&self) -> String {
        match self.file.as_deref() {
            None | Some("-") => "Dockerfile".to_owned(),
            Some(path) => Path::new(path)
                .file_name()
                .map_or_else(|| path.to_owned(), |n| n.to_string_lossy().into_owned()),
        }
    }

    /// `--build-arg` with the environment's values filled in, and SOURCE_DATE_EPOCH from there, as buildx does.
    fn build_args(&self, world: &World<'_>) -> Result<BTreeMap<String, String>, FlagError> {
        let mut build_args = BTreeMap::new();
        if let Some(epoch) = (world.var)(epoch::NAME).filter(|v| !v.is_empty()) {
            build_args.insert(epoch::NAME.to_owned(), epoch);
        }
        for text in &self.build_args {
            match text.split_once('=') {
                Some(("", _)) => {
                    return Err(FlagError::new("--build-arg", text, "expected NAME[=VALUE]"));
                }
                Some((name, value)) => {
                    build_args.insert(name.to_owned(), value.to_owned());
                }
                None if text.is_empty() => {
                    return Err(FlagError::new("--build-arg", text, "expected NAME[=VALUE]"));
                }
                None => {
                    if let Some(value) = (world.var)(text) {
                        build_args.insert(text.clone(), value);
                    }
                }
            }
        }
        Ok(build_args)
    }

    /// `--output`, `--push` and `--load` together; an image in the store where none is given.
    fn outputs(&self) -> Result<Vec<OutputSpec>, FlagError> {
        let mut outputs = each(&self.outputs, output)?;
        let image = |push| OutputSpec::Image {
            names: Vec::new(),
            push,
            form: super::output_spec::Form::default(),
        };
        if self.push {
            // docker's rule: --push turns the image outputs that are there into pushing ones, and adds one if there is none.
            let mut found = false;
            for output in &mut outputs {
                if let OutputSpec::Image { push, .. } = output {
                    *push = true;
                    found = true;
                }
            }
            if !found {
                outputs.push(image(true));
            }
        }
        let has_image = outputs
            .iter()
            .any(|o| matches!(o, OutputSpec::Image { .. }));
        if outputs.is_empty() || (self.load && !has_image) {
            outputs.push(image(false));
        }
        Ok(outputs)
    }

    /// What is known and not there yet is said, never ignored.
    fn refuse_unsupported(&self) -> Result<(), FlagError> {
        const CACHE: &str =
            "cache transports are not yet supported; the store's own cache is always used";
        const ATTEST: &str = "attestations are not yet supported";
        for (flag, values) in [
            ("--cache-from", &self.cache_from),
            ("--cache-to", &self.cache_to),
        ] {
            if let Some(value) = values.first() {
                return Err(FlagError::new(flag, value, CACHE));
            }
        }
        for (flag, value) in [("--provenance", &self.provenance), ("--sbom", &self.sbom)] {
            if let Some(value) = value
                && boolean(flag, value) != Ok(false)
            {
                return Err(FlagError::new(
                    flag,
                    value,
                    format!("{ATTEST}; expected {flag}=false"),
                ));
            }
        }
        for value in &self.attest {
            let disabled = super::values::attributes("--attest", value)?
                .iter()
                .any(|(k, v)| k == "disabled" && boolean("--attest", v) == Ok(true));
            if !disabled {
                return Err(FlagError::new("--attest", value, ATTEST));
            }
        }
        Ok(())
    }
}

/// `--label KEY=VALUE`; docker takes a key without a value, too.
fn label(text: &str) -> Result<(String, String), FlagError> {
    let padded = if text.contains('=') {
        text.to_owned()
    } else {
        format!("{text}=")
    };
    pair("--label", &padded).map_err(|_| FlagError::new("--label", text, "expected KEY=VALUE"))
}

fn entitlement(text: &str) -> Result<String, FlagError> {
    match text {
        "network.host" | "security.insecure" => Ok(text.to_owned()),
        _ => Err(FlagError::new(
            "--allow",
            text,
            "expected network.host or security.insecure",
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: BuildArgs,
    }

    fn request(args: &[&str]) -> Result<BuildRequest, FlagError> {
        let all = ["strata"].iter().chain(args);
        let parsed = Command::try_parse_from(all).expect("flags that clap accepts");
        parsed.args.request(&World {
            var: &|name| (name == "HELD").then(|| "from the environment".to_owned()),
            is_file: &|path| path == Path::new("a.tar"),
        })
    }

    #[test]
    fn a_full_line() {
        let r = request(&[
            "-f",
            "deploy/App.Dockerfile",
            "-t",
            "app",
            "-t",
            "h:5/x:1",
            "--build-arg",
            "A=1=2",
            "--build-arg",
            "HELD",
            "--build-arg",
            "UNSET",
            "--label",
            "k=v w",
            "--platform",
            "linux/amd64,linux/arm64",
            "--no-cache-filter",
            "a,b",
            "--network",
            "none",
            "--shm-size",
            "128m",
            "--ulimit",
            "nofile=1:2",
            "--add-host",
            "n:1.2.3.4",
            "--provenance=false",
            ".",
        ])
        .unwrap();
        assert_eq!(r.plan.dockerfile_name, "App.Dockerfile");
        assert_eq!(r.tags.len(), 2);
        let args: Vec<_> = r.plan.build_args.iter().collect();
        assert_eq!(
            args,
            [
                (&"A".to_owned(), &"1=2".to_owned()),
                (&"HELD".to_owned(), &"from the environment".to_owned())
            ]
        );
        assert_eq!(r.plan.platforms.len(), 2);
        assert_eq!(r.plan.no_cache_filter, ["a", "b"]);
        assert_eq!(r.plan.network, Some(Network::None));
        assert_eq!(r.plan.shm_size_bytes, Some(128 << 20));
        assert_eq!(r.plan.ulimits[0].to_string(), "nofile=1:2");
        assert!(matches!(
            r.outputs[..],
            [OutputSpec::Image { push: false, .. }]
        ));
    }

    #[test]
    fn push_load_and_output_together() {
        let pushes = |args: &[&str]| -> Vec<Option<bool>> {
            let outputs = request(args).unwrap().outputs;
            let push = |o: &OutputSpec| match o {
                OutputSpec::Image { push, .. } => Some(*push),
                _ => None,
            };
            outputs.iter().map(push).collect()
        };
        assert_eq!(pushes(&["."]), [Some(false)]);
        assert_eq!(pushes(&["--push", "."]), [Some(true)]);
        assert_eq!(pushes(&["--load", "."]), [Some(false)]);
        assert_eq!(pushes(&["--push", "--load", "."]), [Some(true)]);
        assert_eq!(pushes(&["-o", "out", "."]), [None]);
        assert_eq!(pushes(&["-o", "out", "--load", "."]), [None, Some(false)]);
        assert_eq!(pushes(&["-o", "type=image", "--push", "."]), [Some(true)]);
    }

    #[test]
    fn refused() {
        for (args, why) in [
            (&["--cache-to", "type=inline", "."][..], "not yet supported"),
            (&["--cache-from", "type=gha", "."], "not yet supported"),
            (&["--provenance=mode=max", "."], "not yet supported"),
            (&["--sbom", "."], "not yet supported"),
            (&["--attest", "type=sbom", "."], "not yet supported"),
            (&["--build-arg", "=x", "."], "expected NAME"),
            (&["--label", "=x", "."], "expected KEY"),
            (&["--allow", "all", "."], "expected network.host"),
            (&["-t", "Upper", "."], "lowercase"),
            (&["-f", "-", "-"], "both the context"),
            (
                &["--build-arg", "SOURCE_DATE_EPOCH=2020-01-01", "."],
                "seconds since 1970",
            ),
        ] {
            let error = request(args).unwrap_err().to_string();
            assert!(error.contains(why), "{args:?}: {error}");
        }
        assert!(request(&["--attest", "type=sbom,disabled=true", "."]).is_ok());
    }

    #[test]
    fn source_date_epoch_is_an_argument() {
        let r = request(&["--build-arg", "SOURCE_DATE_EPOCH=1700000000", "."]).unwrap();
        assert_eq!(r.source_date_epoch, Some(Epoch::Seconds(1_700_000_000)));
    }
}
