//! Progress of a build on standard error, from the engine's events.
//!
//! [`Steps`] keeps what is known of each step; a view ([`plain`], [`tty`], [`raw`]) turns each change into bytes. Events come from
//! any thread: one lock is held while a change is applied and written, so that lines never mix.

pub(crate) mod plain;
pub(crate) mod raw;
pub(crate) mod steps;
pub(crate) mod tty;

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use strata::build::{EventKind, Events, Explanation};
use strata::dockerfile::Diagnostic;

use self::plain::Plain;
use self::raw::Raw;
use self::steps::{FailedStep, Steps};
use self::tty::Tty;
use super::calls::{self, Source};

/// How often a terminal is redrawn: often enough to look alive, seldom enough to cost nothing.
const TICK: Duration = Duration::from_millis(100);

/// `--progress`
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum ProgressMode {
    /// `tty` where standard error is a terminal, else `plain`
    Auto,
    /// A live view of what runs
    Tty,
    /// A line for everything that happens
    Plain,
    /// Errors only
    #[value(alias = "none")]
    Quiet,
    /// A JSON object a line, of the shape of BuildKit's SolveStatus
    Rawjson,
}

/// What turns changes into bytes.
enum View {
    Plain(Plain),
    Tty(Tty),
    Raw(Raw),
    Quiet,
}

struct Inner {
    started: Instant,
    steps: Steps,
    view: View,
    warnings: Vec<Diagnostic>,
    /// The Dockerfile's name and text, which places of warnings are in.
    source: Option<(String, String)>,
}

/// Shows a build. Call [`Progress::finish`] before anything else is written to standard error.
pub(crate) struct Progress {
    inner: Arc<Mutex<Inner>>,
    ticker: Mutex<Option<(mpsc::Sender<()>, JoinHandle<()>)>>,
}

/// Whether colours are wanted on standard error (no-color.org).
pub(crate) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && io::stderr().is_terminal()
}

impl Progress {
    /// A progress view for `mode`; `doing` is what a terminal's summary calls the work (`Building`). A terminal's view falls back to plain lines where there is no terminal.
    pub(crate) fn new(mode: ProgressMode, doing: &'static str) -> Progress {
        let terminal =
            io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let view = match mode {
            ProgressMode::Auto | ProgressMode::Tty if terminal => {
                View::Tty(Tty::new(doing, colours()))
            }
            ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain => {
                View::Plain(Plain::default())
            }
            ProgressMode::Quiet => View::Quiet,
            ProgressMode::Rawjson => View::Raw(Raw),
        };
        let live = matches!(view, View::Tty(_));
        let inner = Arc::new(Mutex::new(Inner {
            started: Instant::now(),
            steps: Steps::default(),
            view,
            warnings: Vec::new(),
            source: None,
        }));
        let ticker = live.then(|| {
            let (stop, stopped) = mpsc::channel();
            let inner = Arc::clone(&inner);
            let thread = std::thread::spawn(move || {
                while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                    lock(&inner).redraw();
                }
            });
            (stop, thread)
        });
        Progress {
            inner,
            ticker: Mutex::new(ticker),
        }
    }

    /// Ends the live view: what is on the screen stays, the cursor is below it.
    pub(crate) fn finish(&self) {
        let ticker = self
            .ticker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((stop, thread)) = ticker {
            drop(stop);
            // A ticker that panicked has nothing more to draw.
            let _ = thread.join();
        }
        let mut inner = lock(&self.inner);
        let at = inner.started.elapsed();
        let Inner { steps, view, .. } = &mut *inner;
        if let View::Tty(tty) = view {
            write(&tty.end(at, steps));
        }
    }

    /// Whether it is a live view, from which what steps wrote is gone at the end.
    pub(crate) fn is_live(&self) -> bool {
        matches!(lock(&self.inner).view, View::Tty(_))
    }

    /// The first step that failed, with the end of its log.
    pub(crate) fn failed(&self) -> Option<FailedStep> {
        lock(&self.inner).steps.failed()
    }

    /// Says which text the places of warnings are in.
    pub(crate) fn set_source(&self, name: &str, text: &str) {
        lock(&self.inner).source = Some((name.to_owned(), text.to_owned()));
    }

    /// What was warned of, each once, as buildx's metadata has it.
    pub(crate) fn warnings_json(&self) -> Vec<serde_json::Value> {
        let inner = lock(&self.inner);
        let source = inner.source();
        let json = |warning| calls::build_warning(source, warning);
        inner.warnings.iter().map(json).collect()
    }

    /// Why the steps that ran were not cached, in their order; empty unless that was asked.
    pub(crate) fn explanations(&self) -> Vec<Arc<Explanation>> {
        lock(&self.inner).steps.explanations()
    }

    /// What was warned of, each once.
    pub(crate) fn warnings(&self) -> Vec<Diagnostic> {
        lock(&self.inner).warnings.clone()
    }
}

impl Events for Progress {
    fn event(&self, kind: EventKind) {
        lock(&self.inner).apply(&kind);
    }
}

impl Inner {
    fn apply(&mut self, kind: &EventKind) {
        let at = self.started.elapsed();
        if let EventKind::Warning(warning) = kind {
            if self.warnings.contains(warning) {
                return;
            }
            self.warnings.push(warning.clone());
        }
        let change = self.steps.apply(at, kind);
        match &mut self.view {
            View::Plain(plain) => write(&plain.change(at, &self.steps, &change)),
            View::Raw(raw) => {
                let source = self
                    .source
                    .as_ref()
                    .map(|(name, text)| Source { name, text });
                write(&raw.change(SystemTime::now(), &self.steps, source, kind));
            }
            View::Tty(tty) => {
                if tty.change(&self.steps, &change) {
                    self.redraw();
                }
            }
            View::Quiet => {}
        }
    }

    fn source(&self) -> Option<Source<'_>> {
        let (name, text) = self.source.as_ref()?;
        Some(Source { name, text })
    }

    fn redraw(&mut self) {
        let at = self.started.elapsed();
        if let View::Tty(tty) = &mut self.view {
            write(&tty.draw(at, &self.steps, tty::size()));
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    // A panic in the middle of a line spoils that line, nothing else.
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One write, so that lines of several processes on one terminal do not mix. There is nobody to tell of a failure.
fn write(bytes: &[u8]) {
    if !bytes.is_empty() {
        let _ = io::stderr().lock().write_all(bytes);
    }
}
