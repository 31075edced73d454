//! Ctrl-C and SIGTERM: the first asks the command to end, the second ends it at once, and so does time.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use super::error::exit;

/// How long a command that was asked to end may take. It looks at the flag many times a second, but for one that waits for a
/// server to say something. Ctrl-C is to end everything in less than a second.
const GRACE: Duration = Duration::from_millis(700);

/// Installs the handlers and gives the flag that they set. No thread is started.
pub(crate) fn install() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order counts: handlers run as they were registered, so that the first signal finds the flag unset and only
        // sets it, and the second finds it set and exits. Sandboxes die with the process (see strata::sandbox).
        signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(exit::INTERRUPTED),
            Arc::clone(&flag),
        )?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// Ends the process [`GRACE`] after the first signal, if it has not ended by then. What it leaves is what a killed process
/// leaves: nothing that the next command does not remove. Starts a thread.
pub(crate) fn insist() -> io::Result<()> {
    let (mut asked, ask) = io::pipe()?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, ask.try_clone()?)?;
    }
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            // The handlers hold the writing ends as long as the process lives, so what ends this is a byte.
            if asked.read_exact(&mut [0]).is_ok() {
                std::thread::sleep(GRACE);
                // There is nobody left to tell when this fails.
                let _ = io::stderr().write_all(b"error: interrupted\n");
                std::process::exit(i32::from(exit::INTERRUPTED));
            }
        })?;
    Ok(())
}
