//! `SOURCE_DATE_EPOCH`: the time of a result, and what may stand for it.

use strata::build::{Context, ContextSource as EngineSource};
use strata::dockerfile::ast::Dockerfile;
use strata::plan::graph::CopySource;
use strata::plan::{self, Graph, NamedContext, Op, Options, Vertex};

use super::build::Build;
use super::build_failure::Failure;
use super::error::CliError;
use super::resolve::Images;
use super::values::FlagError;

/// The argument's name.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// A value of `SOURCE_DATE_EPOCH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Epoch {
    /// Seconds since 1970.
    Seconds(i64),
    /// The time of what is called so: `context`, a named context, or a stage that is one ADD of a URL on `scratch`.
    Of(String),
}

impl Epoch {
    /// Takes what may be a number or a name.
    pub(crate) fn parse(text: &str) -> Result<Epoch, FlagError> {
        match text.parse() {
            Ok(seconds) => Ok(Epoch::Seconds(seconds)),
            // A number that is none is no name.
            Err(_) if text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                Ok(Epoch::Of(text.to_owned()))
            }
            Err(_) => Err(FlagError::new(NAME, text, EXPECTED)),
        }
    }
}

const EXPECTED: &str = "expected seconds since 1970, context, the name of a --build-context, or that of a stage that is FROM \
                        scratch and one ADD of a URL";

impl Build<'_> {
    /// The time of the result, seconds since 1970; none if nobody asked for one, or who was asked has none.
    pub(super) fn epoch(
        &self,
        dockerfile: &Dockerfile,
        options: &Options,
        images: &Images<'_>,
        context: Option<&Context>,
    ) -> Result<Option<i64>, Failure> {
        let name = match &self.request.source_date_epoch {
            None => return Ok(None),
            Some(Epoch::Seconds(seconds)) => return Ok(Some(*seconds)),
            Some(Epoch::Of(name)) => name,
        };
        if name == "context" {
            return Ok(context.and_then(Context::time));
        }
        let bad =
            |why: &str| CliError::from(FlagError::new(NAME, name, format!("{EXPECTED}{why}")));
        let named = options.contexts.get(&name.to_ascii_lowercase());
        let source = match named {
            Some(NamedContext::Local(_)) => return Ok(None),
            Some(NamedContext::Git(url)) => Some(git(url)),
            Some(NamedContext::Http(url)) => Some(EngineSource::Http(url.clone())),
            Some(NamedContext::Image(_) | NamedContext::Layout { .. }) => None,
            None => {
                let mut options = options.clone();
                options.target = Some(name.clone());
                options.all_stages = false;
                options.build_args.remove(NAME);
                let graph = plan::lower(dockerfile, &options, images);
                fetched(&graph.map_err(|error| bad(&format!("; {error}")))?)
            }
        };
        let source = source.ok_or_else(|| bad(""))?;
        Ok(self.load(source, name)?.time())
    }
}

/// What a plan of one ADD of one URL on nothing fetches.
fn fetched(graph: &Graph) -> Option<EngineSource<'static>> {
    let [
        Vertex {
            op: Op::Copy(copy),
            base: None,
            ..
        },
    ] = &graph.vertices[..]
    else {
        return None;
    };
    match &copy.sources[..] {
        [CopySource::Http { url, .. }] => Some(EngineSource::Http(url.clone())),
        [CopySource::Git { url, .. }] => Some(git(url)),
        _ => None,
    }
}

fn git(url: &str) -> EngineSource<'static> {
    EngineSource::Git {
        url: url.to_owned(),
        commit_times: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        assert_eq!(Epoch::parse("17").unwrap(), Epoch::Seconds(17));
        assert_eq!(Epoch::parse("-1").unwrap(), Epoch::Seconds(-1));
        for name in ["context", "src", "now"] {
            assert_eq!(Epoch::parse(name).unwrap(), Epoch::Of(name.to_owned()));
        }
        for bad in [
            "1e9",
            "17.5",
            "2020-01-01",
            "",
            " 1",
            "99999999999999999999",
        ] {
            assert!(Epoch::parse(bad).is_err(), "{bad}");
        }
    }
}
