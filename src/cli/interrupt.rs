//! Ctrl-C and SIGTERM: the first asks the command to end, the second ends it at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

use super::error::exit;

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
