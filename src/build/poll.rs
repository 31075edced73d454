//! Waiting for a helper program that the user may no longer want.

use std::io::Read;
use std::process::{Child, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a canceled build may go on before the helper program is ended.
const INTERVAL: Duration = Duration::from_millis(20);

/// What a program printed, once it has ended; `None` when `cancel` was set first and the program was killed.
pub(super) fn output(mut child: Child, cancel: &AtomicBool) -> std::io::Result<Option<Output>> {
    fn reader(
        stream: Option<impl Read + Send + 'static>,
    ) -> std::thread::JoinHandle<std::io::Result<Vec<u8>>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                stream.read_to_end(&mut bytes)?;
            }
            Ok(bytes)
        })
    }
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if cancel.load(Ordering::Relaxed) {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(INTERVAL);
    };
    let join = |handle: std::thread::JoinHandle<std::io::Result<Vec<u8>>>| {
        handle.join().unwrap_or_else(|_| {
            Err(std::io::Error::other(
                "a reader of a helper program's output failed",
            ))
        })
    };
    let (stdout, stderr) = (join(stdout)?, join(stderr)?);
    Ok(status.map(|status| Output {
        status,
        stdout,
        stderr,
    }))
}
