//! The terminal: taken over, waited for, and given back as it was.

use std::io::{self, IsTerminal as _, PipeReader, Read as _, Stdout};
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Frame;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Signal, kill_current_process_group};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};

/// Whether the terminal is taken over now. The panic hook has to know, and hooks belong to the process.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What is waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// A key, for the most part.
    Event(Event),
    /// The screen has another size, or something else was on it.
    Resized,
    /// A signal asks for the end, or the terminal is gone.
    End,
}

/// The terminal, taken over; given back when this is dropped, or in a panic before it is told of.
pub(super) struct Terminal {
    inner: ratatui::Terminal<CrosstermBackend<Stdout>>,
    ended: PipeReader,
    resized: PipeReader,
}

/// Whether there is a terminal to show something on; else, what is missing.
pub(super) fn check() -> Result<(), &'static str> {
    if !io::stdout().is_terminal() {
        return Err("standard output is none");
    }
    if !io::stdin().is_terminal() {
        return Err("standard input is none");
    }
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return Err("TERM=dumb has no cursor to move");
    }
    Ok(())
}

impl Terminal {
    /// Takes the terminal over.
    pub(super) fn enter() -> io::Result<Terminal> {
        let ended = on_signals(&[SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
        let resized = on_signals(&[SIGWINCH, SIGCONT])?;
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // Else the message would be lost with the screen.
            give_back();
            hook(info);
        }));
        take_over()?;
        let inner = ratatui::Terminal::new(CrosstermBackend::new(io::stdout()));
        let inner = inner.inspect_err(|_| give_back())?;
        Ok(Terminal {
            inner,
            ended,
            resized,
        })
    }

    /// Draws the screen; only what changes is sent.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.inner.draw(draw).map(drop)
    }

    /// Waits for what comes next.
    pub(super) fn wait(&mut self) -> io::Result<Option<Next>> {
        loop {
            // What came with the last keys is there without another byte.
            if let Some(next) = self.poll()? {
                return Ok(Some(next));
            }
            self.readable(None)?;
        }
    }

    /// What is there already.
    pub(super) fn poll(&mut self) -> io::Result<Option<Next>> {
        let ready = self.readable(Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }))?;
        if ready.ended {
            return Ok(Some(Next::End));
        }
        // Not before it is known that the terminal is there: crossterm would read at the end of a closed one for ever.
        if event::poll(std::time::Duration::ZERO)? {
            return event::read().map(|event| Some(Next::Event(event)));
        }
        if ready.resized {
            // It is readable, so this byte is there.
            self.resized.read_exact(&mut [0])?;
            return Ok(Some(Next::Resized));
        }
        Ok(None)
    }

    /// Waits, as long as said, until there is something to read.
    fn readable(&self, timeout: Option<&Timespec>) -> io::Result<Ready> {
        let stdin = io::stdin();
        let mut fds = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::new(&self.ended, PollFlags::IN),
            PollFd::new(&self.resized, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, timeout) {
            Ok(_) => {}
            // A signal: its pipe says which.
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let has = |at: usize, flags| fds[at].revents().intersects(flags);
        Ok(Ready {
            ended: has(1, PollFlags::IN) || has(0, PollFlags::HUP | PollFlags::ERR),
            resized: has(2, PollFlags::IN),
        })
    }

    /// Gives the terminal to the shell, and takes it over again when the shell says so.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        give_back();
        // All processes of the shell's job, as the terminal itself would do it. This one stops here.
        kill_current_process_group(Signal::TSTP)?;
        take_over()?;
        self.inner.clear()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// What there is to read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Ready {
    ended: bool,
    resized: bool,
}

/// A pipe that gets a byte when one of the signals comes.
fn on_signals(signals: &[i32]) -> io::Result<PipeReader> {
    let (reader, writer) = io::pipe()?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

fn take_over() -> io::Result<()> {
    TAKEN.store(true, Ordering::SeqCst);
    let taken = enable_raw_mode().and_then(|()| execute!(io::stdout(), EnterAlternateScreen));
    taken.inspect_err(|_| give_back())
}

/// Gives the terminal back, once. A terminal that cannot be written to any more has nothing to be restored, and nobody to be told.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}
