//! `layers --fail-on`: the rules, what they say in words, and where that is written.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use strata::dockerfile::Span;
use strata::image::Source;
use strata::inspect::gate::{self, Kind, Rules, Secrets, Verdict};
use strata::inspect::{Contents, Documents, LayersReport, Reading};

use super::screen::Screen;
use super::{broken, junit, sarif};
use crate::cli::error::{CliError, Doing as _, exit};
use crate::cli::failure;
use crate::cli::inspect::wanted_platform;
use crate::cli::medium;
use crate::cli::output::{Format, note, write_document};
use crate::cli::session::Session;
use crate::cli::transport::Location;

/// The longest file of rules, bytes: a rule is a line.
const MAX_RULES_BYTES: u64 = 1 << 20;

/// What `layers` takes to judge an image.
#[derive(clap::Args, Debug)]
pub(crate) struct GateArgs {
    /// Exit with 3 if the image is so: rules, separated by commas, or @FILE with a rule a line. Several times: all of them
    #[arg(long, value_name = "RULES")]
    fail_on: Vec<String>,
    /// Write what the rules say as JUnit XML, a test case a rule; - for standard output, without the list of layers
    #[arg(long, value_name = "FILE", requires = "fail_on")]
    junit: Option<PathBuf>,
    /// The same as SARIF 2.1.0, with lines of the Dockerfile
    #[arg(long, value_name = "FILE", requires = "fail_on")]
    sarif: Option<PathBuf>,
    /// The image that the Dockerfile begins with, for rules with "own" on images that were not built here
    #[arg(long, value_name = "IMAGE", requires = "fail_on")]
    base: Option<String>,
    /// How --junit and --sarif call the Dockerfile [default: its path in its repository]
    #[arg(long, value_name = "PATH", requires = "fail_on")]
    dockerfile: Option<String>,
}

/// The rules of a command, read before anything is done.
pub(crate) struct Gate<'g> {
    args: &'g GateArgs,
    rules: Rules,
}

impl GateArgs {
    /// Whether a document goes to standard output, and the report does not.
    pub(crate) fn takes_stdout(&self) -> bool {
        self.documents().any(is_stdout)
    }

    fn documents(&self) -> impl Iterator<Item = &Path> {
        [&self.junit, &self.sarif]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    /// Reads the rules, if some are given. `format` and `html` say what else is written.
    pub(crate) fn gate(
        &self,
        format: Format,
        html: Option<&Path>,
    ) -> Result<Option<Gate<'_>>, CliError> {
        let mut all = self.documents().chain(html);
        let stdout = all.by_ref().filter(|path| is_stdout(path)).count();
        if stdout > 1 || (stdout == 1 && format == Format::Json) {
            return Err(CliError::Usage(
                "one thing only can go to standard output: give others a file".to_owned(),
            ));
        }
        if self.fail_on.is_empty() {
            return Ok(None);
        }
        let mut rules = Rules::default();
        for text in &self.fail_on {
            rules.extend(match text.strip_prefix('@') {
                Some(path) => parsed(path, &rules_file(Path::new(path))?)?,
                None => parsed("--fail-on", text)?,
            });
        }
        Ok(Some(Gate { args: self, rules }))
    }
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

fn rules_file(path: &Path) -> Result<String, CliError> {
    let doing = || format!("read the rules in {}", path.display());
    let file = std::fs::File::open(path).doing(doing)?;
    let mut text = String::new();
    let mut bounded = file.take(MAX_RULES_BYTES + 1);
    bounded.read_to_string(&mut text).doing(doing)?;
    if text.len() as u64 > MAX_RULES_BYTES {
        return Err(CliError::Refused(format!(
            "{} is no file of rules: it is longer than {MAX_RULES_BYTES} bytes",
            path.display()
        )));
    }
    Ok(text)
}

/// The rules of a text, or where it is wrong.
fn parsed(name: &str, text: &str) -> Result<Rules, CliError> {
    Rules::parse(text).map_err(|error| {
        let at = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        let span = Span {
            start: at(error.span.start),
            end: at(error.span.end),
        };
        let marked = failure::marked(name, text, span);
        let (place, excerpt) = marked.split_once('\n').unwrap_or((name, ""));
        let message = strata::dockerfile::with_causes(&error);
        CliError::Rules {
            what: format!("{place}: {message}\n{excerpt}")
                .trim_end()
                .to_owned(),
            hint: error.problem.hint(),
        }
    })
}

impl Gate<'_> {
    /// Judges an image.
    pub(crate) fn judge<'a>(
        &'a self,
        session: &Session,
        contents: &'a Contents,
        source: &dyn Source,
        report: &LayersReport<'_>,
        args: (&str, Option<&str>),
    ) -> Result<Verdict<'a>, CliError> {
        let (image, platform) = args;
        let doing = || format!("judge {}", contents.documents.name);
        let base_layers = match &self.args.base {
            Some(base) => Some(self.base(session, contents, base, platform)?),
            None => contents.origin.as_ref().map(|origin| origin.base_layers),
        };
        let secrets = if self.rules.iter().any(|rule| rule.kind == Kind::SecretLike) {
            // A registry is not asked a second time for what its layers hold.
            let far = matches!(Location::parse("IMAGE", image)?, Location::Registry(_));
            let store = session.store_if_there()?;
            let reading = Reading {
                store: store.as_ref(),
                cancel: session.cancel(),
            };
            match Secrets::look(contents, (!far).then_some(source), reading) {
                Err(_) if session.is_canceled() => return Err(CliError::Interrupted),
                looked => looked.doing(doing)?,
            }
        } else {
            Secrets::default()
        };
        gate::judge(contents, report, &self.rules, &secrets, base_layers).doing(doing)
    }

    /// How many layers of an image its base brought.
    fn base(
        &self,
        session: &Session,
        contents: &Contents,
        base: &str,
        platform: Option<&str>,
    ) -> Result<usize, CliError> {
        let location = Location::parse("--base", base)?;
        let source = medium::source(session, &location)?;
        let documents = Documents::read(source.as_ref(), &wanted_platform(platform)?)
            .doing(|| format!("look into {}", source.name()))?;
        let layers = &documents.config.rootfs.diff_ids;
        gate::layers_of_base(contents, layers).ok_or_else(|| {
            CliError::Refused(format!(
                "{base} is not the base of {}: its layers are not the lowest ones there",
                contents.documents.name
            ))
        })
    }

    /// Writes the documents that were asked for, and says on standard error what is broken. The error is the exit code.
    pub(crate) fn tell<'a>(
        &self,
        contents: &'a Contents,
        report: &LayersReport<'_>,
        verdict: &Verdict<'a>,
    ) -> Result<(), CliError> {
        let paths = sarif::Paths::new(contents, verdict, self.args.dockerfile.as_deref());
        if let Some(path) = &self.args.junit {
            write_document(path, junit::render(report, verdict, &paths))?;
        }
        if let Some(path) = &self.args.sarif {
            write_document(path, sarif::render(report, verdict, &paths)?)?;
        }
        if verdict.passed {
            return Ok(());
        }
        note(broken::render(verdict, &Screen::of_stderr()).trim_end());
        Err(CliError::Exit(exit::RULE_BROKEN))
    }
}
