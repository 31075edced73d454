//! Where a report is shown: how wide it is, and whether colours mean anything there.

use std::io;
use std::os::fd::AsFd;

use crate::cli::output::truncate;

/// What standard output or standard error is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Screen {
    /// Characters in a line. Elsewhere than on a terminal nothing is cut.
    columns: Option<usize>,
    colours: bool,
}

impl Screen {
    /// No terminal.
    pub(super) const PLAIN: Screen = Screen {
        columns: None,
        colours: false,
    };

    /// Standard output as it is now.
    pub(super) fn of_stdout() -> Screen {
        Screen::of(io::stdout())
    }

    /// Standard error as it is now.
    pub(super) fn of_stderr() -> Screen {
        Screen::of(io::stderr())
    }

    fn of(stream: impl io::IsTerminal + AsFd) -> Screen {
        if !stream.is_terminal() {
            return Screen::PLAIN;
        }
        let size = rustix::termios::tcgetwinsize(&stream).ok();
        let columns = size.map(|s| usize::from(s.ws_col)).filter(|c| *c > 0);
        Screen {
            columns: Some(columns.unwrap_or(80)),
            colours: has_colours(),
        }
    }

    /// A text cut off so that it fits a line that `used` characters of are taken already.
    pub(super) fn fit(&self, text: &str, used: usize) -> String {
        match self.columns {
            // Less than a few words say nothing, however narrow the terminal.
            Some(columns) => truncate(text, columns.saturating_sub(used).max(16)),
            None => text.to_owned(),
        }
    }

    /// How long running text may be in a line that `used` characters of are taken already: at most `most`, which is what it is
    /// elsewhere than on a terminal.
    pub(super) fn width(&self, used: usize, most: usize) -> usize {
        let columns = self.columns.map_or(most, |c| c.saturating_sub(used));
        columns.clamp(24, most)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// What matters.
    pub(super) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What matters less.
    pub(super) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    /// What is new.
    pub(super) fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What is other than it was.
    pub(super) fn yellow(&self, text: &str) -> String {
        self.paint("33", text)
    }

    /// What is gone or wasted.
    pub(super) fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    /// What contains others.
    pub(super) fn blue(&self, text: &str) -> String {
        self.paint("34", text)
    }
}

/// Whether the user's terminal has colours, and the user wants them.
pub(crate) fn has_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|t| t != "dumb")
}

/// A cell of so many characters, its text at the right.
pub(super) fn right(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(text.chars().count());
    format!("{}{text}", " ".repeat(missing))
}
