//! `layers`, `files`, `diff`, `why` and `dedup`: what is in an image, for people and as JSON.

mod broken;
mod dedup;
mod diff;
mod files;
mod gate;
mod junit;
mod layers;
mod sarif;
mod screen;
mod why;

pub(crate) use dedup::DedupArgs;
pub(crate) use diff::DiffArgs;
pub(crate) use files::{FilesArgs, permissions};
pub(crate) use layers::LayersArgs;
pub(crate) use screen::has_colours;
pub(crate) use why::{WhyArgs, why_text};

use strata::image::Source;
use strata::inspect::{Blame, Contents, Documents, ImageHead, InspectError, Reading};

use self::screen::Screen;
use super::error::{CliError, Doing as _};
use super::inspect::wanted_platform;
use super::medium;
use super::output::human_size;
use super::session::Session;
use super::transport::Location;

/// Reads an image with what its layers hold, from wherever it is.
pub(super) fn contents(
    session: &Session,
    text: &str,
    platform: Option<&str>,
) -> Result<Contents, CliError> {
    opened(session, text, platform).map(|(contents, _)| contents)
}

/// The same, with what it was read from.
fn opened(
    session: &Session,
    text: &str,
    platform: Option<&str>,
) -> Result<(Contents, Box<dyn Source>), CliError> {
    let location = Location::parse("IMAGE", text)?;
    let source = medium::source(session, &location)?;
    let doing = || format!("look into {}", source.name());
    let documents = Documents::read(source.as_ref(), &wanted_platform(platform)?).doing(doing)?;
    // Tables of contents are kept where there is a store; none is made for them.
    let store = session.store_if_there()?;
    let reading = Reading {
        store: store.as_ref(),
        cancel: session.cancel(),
    };
    let read: Result<Contents, InspectError> = Contents::read(documents, source.as_ref(), reading);
    match read {
        Err(_) if session.is_canceled() => Err(CliError::Interrupted),
        read => read.doing(doing).map(|contents| (contents, source)),
    }
}

/// The first line of a report: which image it is about.
fn head(screen: &Screen, image: &ImageHead<'_>) -> String {
    let mut text = format!(
        "{}  {}  {}\n",
        screen.bold(image.name),
        image.id.short(),
        image.platform
    );
    if image.read_bytes > 0 {
        text.push_str(&format!(
            "{} of layers were read; their tables of contents were not in the store\n",
            human_size(image.read_bytes)
        ));
    }
    text
}

/// Where a layer came from, in a few words: `Dockerfile:3 RUN make`.
pub(super) fn blamed(blame: &Blame<'_>) -> String {
    let instruction = blame.instruction.unwrap_or("(the history does not tell)");
    match blame.dockerfile {
        Some(lines) => format!("{}:{} {instruction}", lines.file, lines.line),
        None => instruction.to_owned(),
    }
}
