//! A terminal for a test: what is typed, what is seen, and its size.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::lab::wait_for;

/// A command whose standard streams are a terminal. Killed when this is dropped.
pub(crate) struct OnTerminal {
    pub(crate) child: Child,
    master: OwnedFd,
    seen: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl OnTerminal {
    /// Starts it on a terminal of 24 by 80.
    pub(crate) fn start(mut command: Command) -> OnTerminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("open a terminal");
        unlockpt(&master).expect("unlock it");
        let slave = ioctl_tiocgptpeer(&master, flags).expect("open its other side");
        let stream = || slave.try_clone().expect("a descriptor");
        command
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .env("TERM", "vt100");
        set_size(&master, 24, 80);
        let child = command.spawn().expect("start the command");
        // The command's own copies are the last, so that its end is the terminal's.
        drop((command, slave));
        let seen = Arc::new(Mutex::new(String::new()));
        let (collected, mut screen) = (
            Arc::clone(&seen),
            File::from(master.try_clone().expect("a descriptor")),
        );
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let mut seen = collected.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push_str(&text);
            }
        });
        OnTerminal {
            child,
            master,
            seen,
            reader,
        }
    }

    /// Types something.
    pub(crate) fn type_in(&self, keys: &str) {
        let mut keyboard = File::from(self.master.try_clone().expect("a descriptor"));
        keyboard.write_all(keys.as_bytes()).expect("type");
    }

    /// All that was shown so far.
    pub(crate) fn seen(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    /// Waits until something is shown.
    #[track_caller]
    pub(crate) fn see(&self, words: &str) {
        wait_for(words, || {
            // In this order: what is shown after the end is seen.
            let ended = self.reader.is_finished();
            let seen = self.seen();
            let found = seen.contains(words);
            assert!(found || !ended, "ended before {words:?}: {seen}");
            found.then_some(())
        });
    }

    /// Changes the size, and tells the command as the kernel tells the foreground of a session.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
        self.signal(Signal::WINCH);
    }

    /// Sends a signal to the command alone.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the end of a command", || {
            self.child.try_wait().expect("it was started here")
        })
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn set_size(master: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).expect("set its size");
}
