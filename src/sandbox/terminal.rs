//! strata's terminal, connected to the command's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{
    OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::error::SandboxError;
use super::spec::Terminal;

/// How much is copied at a time, in bytes: a terminal's own buffer is 4 KiB.
const CHUNK_BYTES: usize = 16 * 1024;

fn failed(step: &'static str) -> impl Fn(Errno) -> SandboxError {
    move |error| SandboxError::Terminal {
        step,
        source: error.into(),
    }
}

/// The size of strata's terminal, or 24 by 80 if it has none.
pub fn size() -> Terminal {
    match tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(rustix::stdio::stdin())) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => Terminal {
            rows: size.ws_row,
            columns: size.ws_col,
        },
        _ => Terminal {
            rows: 24,
            columns: 80,
        },
    }
}

pub(super) fn resize(terminal: &OwnedFd, rows: u16, columns: u16) -> Result<(), SandboxError> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).map_err(failed("setting its size"))
}

/// Puts a terminal back to how it was.
#[derive(Debug)]
struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// Every key goes to the command; `None` if this is no terminal.
    fn new(terminal: BorrowedFd<'a>) -> Result<Option<Self>, Errno> {
        if !isatty(terminal) {
            return Ok(None);
        }
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Copies between strata's standard streams and `master`, the end that [`Child::take_terminal`](super::Child::take_terminal) gave,
/// until the command and all that it started have closed theirs. strata's terminal is in raw mode meanwhile, and its changes of
/// size are passed on.
///
/// # Errors
///
/// [`SandboxError::Terminal`].
pub fn attach(master: &OwnedFd) -> Result<(), SandboxError> {
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let raw = RawMode::new(stdin).map_err(failed("raw mode"))?;
    let (resized, tell) = io::pipe().map_err(|source| SandboxError::Terminal {
        step: "a pipe",
        source,
    })?;
    let registered = signal_hook::low_level::pipe::register(
        signal_hook::consts::SIGWINCH,
        File::from(OwnedFd::from(tell)),
    )
    .map_err(|source| SandboxError::Terminal {
        step: "noticing changes of size",
        source,
    })?;
    let result = copy(stdin, stdout, master, resized.as_fd());
    signal_hook::low_level::unregister(registered);
    drop(raw);
    result
}

fn copy(
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    master: &OwnedFd,
    resized: BorrowedFd<'_>,
) -> Result<(), SandboxError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut input = true;
    loop {
        let mut sources = vec![
            PollFd::from_borrowed_fd(master.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(resized, PollFlags::IN),
        ];
        if input {
            sources.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
        match poll(&mut sources, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(failed("waiting")(error)),
        }
        let ready: Vec<bool> = sources
            .iter()
            .map(|source| !source.revents().is_empty())
            .collect();
        let is = |index: usize| ready.get(index).copied().unwrap_or(false);
        if is(1) {
            read(resized, &mut buffer).map_err(failed("noticing a change of size"))?;
            if let Ok(size) = tcgetwinsize(stdin).or_else(|_| tcgetwinsize(stdout)) {
                tcsetwinsize(master, size).map_err(failed("setting its size"))?;
            }
        }
        if is(2) {
            let length = read(stdin, &mut buffer).map_err(failed("reading strata's input"))?;
            if length == 0 {
                input = false;
                // What a terminal has for an end of file.
                write_all(master.as_fd(), &[4])
                    .or_else(closed)
                    .map_err(failed("writing to the command"))?;
            }
            write_all(master.as_fd(), buffer.get(..length).unwrap_or_default())
                .or_else(closed)
                .map_err(failed("writing to the command"))?;
        }
        if is(0) {
            match read(master.as_fd(), &mut buffer) {
                // The last one on the other side has closed.
                Ok(0) | Err(Errno::IO) => return Ok(()),
                Ok(length) => write_all(stdout, buffer.get(..length).unwrap_or_default())
                    .map_err(failed("writing strata's output"))?,
                Err(error) => return Err(failed("reading from the command")(error)),
            }
        }
    }
}

/// The command's side is closed; the loop will read that next.
fn closed(error: Errno) -> Result<(), Errno> {
    if error == Errno::IO {
        Ok(())
    } else {
        Err(error)
    }
}

fn read(from: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    rustix::io::retry_on_intr(|| rustix::io::read(from, &mut *buffer))
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(to, bytes))?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn input_output_and_size_go_across() {
        use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        resize(&slave, 5, 6).unwrap();
        assert_eq!(tcgetwinsize(&master).unwrap().ws_col, 6);
        let (stdin, mut keys) = io::pipe().unwrap();
        let (mut screen, stdout) = io::pipe().unwrap();
        let (_resized, _tell) = io::pipe().unwrap();
        std::thread::scope(|scope| {
            let (master, resized) = (&master, &_resized);
            let copying =
                scope.spawn(move || copy(stdin.as_fd(), stdout.as_fd(), master, resized.as_fd()));
            keys.write_all(b"key\n").unwrap();
            drop(keys);
            let mut command = File::from(slave);
            let mut line = [0; 4];
            command.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"key\n");
            assert_eq!(
                command.read(&mut line).unwrap(),
                0,
                "the end of the input is the end of the file"
            );
            command.write_all(b"out").unwrap();
            drop(command);
            copying.join().unwrap().unwrap();
        });
        let mut text = String::new();
        screen.read_to_string(&mut text).unwrap();
        assert!(
            text.starts_with("key\r\n") && text.ends_with("out"),
            "{text:?}"
        );
    }

    #[test]
    fn what_is_no_terminal_has_no_raw_mode() {
        let (read, _write) = io::pipe().unwrap();
        assert!(RawMode::new(read.as_fd()).unwrap().is_none());
    }
}
