//! ssh agents for RUN: a socket of strata's own, with the mode and owner that were asked for, that passes on to the agent's.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::BuildError;

/// The agents of a build, by id.
#[derive(Clone, Debug, Default)]
pub struct SshAgents(BTreeMap<String, String>);

impl SshAgents {
    /// Adds the agent that listens at `socket`.
    pub fn add(&mut self, id: &str, socket: &str) {
        self.0.insert(id.to_owned(), socket.to_owned());
    }

    pub(super) fn socket(&self, id: &str) -> Option<&str> {
        self.0.get(id).map(String::as_str)
    }
}

/// A socket that leads to an agent while it lives.
#[derive(Debug)]
pub(super) struct Forward {
    /// Where it is on the host.
    pub(super) path: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Forward {
    /// Listens in `dir` and connects whoever comes to `agent`.
    pub(super) fn start(
        id: &str,
        agent: &str,
        dir: &Path,
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> Result<Forward, BuildError> {
        let failed = |source| BuildError::Ssh {
            id: id.to_owned(),
            path: agent.to_owned(),
            source,
        };
        UnixStream::connect(agent).map_err(failed)?;
        let path = dir.join("agent");
        // A socket's address is at most 107 bytes long; through the descriptor it always fits.
        let root: OwnedFd = super::engine::open_dir(dir)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/agent", root.as_raw_fd()))
            .map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        if (uid, gid) != (0, 0) {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(failed)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, agent) = (stop.clone(), agent.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // A client whose agent is gone sees its connection end, as it would without strata.
                if let (Ok(client), Ok(agent)) = (client, UnixStream::connect(&agent)) {
                    std::thread::spawn(move || connect(&client, &agent));
                }
            }
        });
        Ok(Forward { path, stop })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener; if it is gone already, so much the better.
        let _ = UnixStream::connect(&self.path);
    }
}

fn connect(client: &UnixStream, agent: &UnixStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| pass(client, agent));
        pass(agent, client);
    });
}

fn pass(mut from: &UnixStream, mut to: &UnixStream) {
    // Either side may hang up at any time; then so does the other.
    let _: io::Result<u64> = io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}
