//! An ssh agent that holds no identities: enough for `RUN --mount=type=ssh`, which only needs a socket that answers.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// SSH_AGENTC_REQUEST_IDENTITIES (draft-miller-ssh-agent, section 5.1).
const REQUEST_IDENTITIES: u8 = 11;
/// SSH_AGENT_IDENTITIES_ANSWER with a count of zero.
const NO_IDENTITIES: &[u8] = &[12, 0, 0, 0, 0];
/// SSH_AGENT_FAILURE, the answer to everything else.
const FAILURE: &[u8] = &[5];

/// The listening agent; dropping it closes the socket.
pub(crate) struct Agent {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    /// Listens at `path`, which must not exist. Any user may connect.
    pub(crate) fn listen(path: &Path) -> std::io::Result<Agent> {
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if seen.load(Ordering::SeqCst) {
                    break;
                }
                // A client that hangs up ends its own thread, nothing else.
                std::thread::spawn(move || drop(serve(stream)));
            }
        });
        Ok(Agent {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept; when nobody listens any more the thread has ended already.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            drop(thread.join());
        }
    }
}

fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut request = Vec::new();
        (&mut stream)
            .take(u64::from(u32::from_be_bytes(length)))
            .read_to_end(&mut request)?;
        let reply = match request.first() {
            Some(&REQUEST_IDENTITIES) => NO_IDENTITIES,
            _ => FAILURE,
        };
        let length = u32::try_from(reply.len()).expect("replies are a few bytes long");
        stream.write_all(&[&length.to_be_bytes(), reply].concat())?;
    }
}
