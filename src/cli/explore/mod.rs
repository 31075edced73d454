//! `explore`: an image on the whole terminal, its layers at the left and its files at the right.
//!
//! ```text
//! Contents ─► Paths (every path, what each layer does to it)
//!               │ tree      what is there after a layer: marks, sums by folder, what is wasted; a pass over the paths
//!               ▼
//! keys ─Action─► model ─► view ─► terminal        model: where the user is; no terminal in it
//!                  │ pattern  what is searched for
//!                  │ card     a page over the others: help, a layer, why a path is as it is
//!                  └ layers   a layer in words
//! ```
//!
//! Invariants: nothing is read once the screen is there, and nothing changes the image. Only lines that are seen are drawn. Text of
//! the image (names, targets, instructions) reaches the screen escaped ([`strata::inspect::escaped`]), never raw. The terminal is as
//! it was when the command ends: with `q`, an error, a signal or a panic. Numbers are those of `strata layers` and `strata files`.
//!
//! Concurrency: one thread; signals wake it through a pipe.

mod card;
mod keys;
mod layers;
mod model;
mod pattern;
mod terminal;
#[cfg(test)]
mod testing;
mod tree;
mod view;

use ratatui::crossterm::event::{Event, KeyEventKind};
use strata::inspect::Paths;

use self::model::{Model, Outcome};
use self::terminal::{Next, Terminal};
use super::error::{CliError, Doing as _};
use super::report::{contents, has_colours};
use super::session::Session;

/// Look into an image on the terminal: its layers at the left, its files at the right
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata explore app
  strata explore docker://docker.io/library/debian:bookworm       without pulling it
  strata explore --platform linux/arm64 oci-archive:app.tar

Tab goes to the other side, the arrows or h j k l move, Space opens a folder, Enter says why a file is as it is, / searches.
a, m, r and u hide added, modified, removed and unmodified files, w shows only what is wasted. ? shows all keys, q ends.

For a file or a pipe: strata layers, strata files, strata why.")]
pub(crate) struct ExploreArgs {
    /// A name or ID in the store, or docker://, oci:, oci-archive:, docker-archive:
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The platform, where the image has several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
}

impl ExploreArgs {
    /// Runs `explore`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        // Asked first: an image may take a while to read.
        terminal::check().map_err(|missing| CliError::Hinted {
            message: format!("explore needs a terminal: {missing}"),
            hint: format!(
                "strata layers {0} and strata files {0} say the same in lines",
                self.image
            ),
        })?;
        let contents = contents(session, &self.image, self.platform.as_deref())?;
        let mut model = Model::new(Paths::new(&contents));
        show(&mut model)
    }
}

/// Shows it until the user or a signal ends it.
fn show(model: &mut Model<'_>) -> Result<(), CliError> {
    let colours = has_colours();
    let mut terminal = Terminal::enter().doing(|| "set up the terminal".to_owned())?;
    loop {
        let drawn = terminal.draw(|frame| view::draw(frame, model, colours));
        drawn.doing(|| "draw on the terminal".to_owned())?;
        // All that was typed meanwhile, so that the screen never lags behind the keyboard.
        let mut next = terminal.wait();
        while let Some(what) = next.doing(|| "read the terminal".to_owned())? {
            match what {
                Next::Event(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    let action = match model.is_typing() {
                        true => keys::typed(&key),
                        false => keys::action(&key, model.focus),
                    };
                    match action.map(|action| model.act(action)) {
                        Some(Outcome::Quit) => return Ok(()),
                        Some(Outcome::Suspend) => {
                            terminal.suspend().doing(|| "suspend".to_owned())?;
                            break;
                        }
                        Some(Outcome::Stay) | None => {}
                    }
                }
                Next::Event(_) | Next::Resized => {}
                Next::End => return Err(CliError::Interrupted),
            }
            next = terminal.poll();
        }
    }
}
