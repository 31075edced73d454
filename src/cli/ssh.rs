//! `--ssh`: the agents that steps may ask, the user's own or OpenSSH's for the time of the command, with keys from files.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use strata::build::SshAgents;
use tempfile::TempDir;

use super::build_args::BuildRequest;
use super::build_values::{ContextSource, Ssh};
use super::error::{CliError, Doing as _};

/// Where the user's ssh agent listens.
const AGENT: &str = "SSH_AUTH_SOCK";

/// Agents by id; those that hold keys from files live as long as this.
pub(super) struct Agents {
    pub(super) sockets: SshAgents,
    keys: Vec<KeyAgent>,
}

impl Agents {
    /// The agents of a build's flags; without any, the user's own for a context that they reach by ssh, as buildx has it.
    pub(super) fn of_build(request: &BuildRequest) -> Result<Agents, CliError> {
        let mut agents = Agents::start(&request.ssh)?;
        let by_ssh = |url: &str| url.starts_with("ssh://") || url.starts_with("git@");
        if let ContextSource::Git(url) = &request.context
            && by_ssh(url)
            && request.ssh.is_empty()
            && let Some(socket) = users_own()
        {
            agents.add("default", &socket);
        }
        Ok(agents)
    }

    /// The agents of flags: `$SSH_AUTH_SOCK` where no path is given, the one at a socket, or one that holds keys.
    pub(super) fn start(specs: &[Ssh]) -> Result<Agents, CliError> {
        let mut agents = Agents {
            sockets: SshAgents::default(),
            keys: Vec::new(),
        };
        for spec in specs {
            match &spec.paths[..] {
                [] => {
                    let socket = users_own().ok_or_else(|| {
                        CliError::Refused(format!(
                            "no ssh agent for --ssh {0}: {AGENT} is not set; --ssh {0}=KEYFILE gives a key",
                            spec.id
                        ))
                    })?;
                    if !is_socket(&socket)? {
                        return Err(CliError::Refused(format!(
                            "--ssh {}: {AGENT}={} is no socket",
                            spec.id,
                            socket.display()
                        )));
                    }
                    agents.add(&spec.id, &socket);
                }
                [one] if is_socket(one)? => agents.add(&spec.id, one),
                keys => {
                    let agent = KeyAgent::start(&spec.id, keys)?;
                    agents.add(&spec.id, &agent.socket());
                    agents.keys.push(agent);
                }
            }
        }
        Ok(agents)
    }

    fn add(&mut self, id: &str, socket: &Path) {
        self.sockets.add(id, &socket.display().to_string());
    }
}

fn users_own() -> Option<PathBuf> {
    std::env::var_os(AGENT)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

fn is_socket(path: &Path) -> Result<bool, CliError> {
    let found = fs::metadata(path).doing(|| format!("use --ssh {}", path.display()))?;
    Ok(found.file_type().is_socket())
}

/// OpenSSH's agent, which ends with this.
///
/// It runs a shell that waits for the end of our side of a pipe, and it ends by itself soon after that shell: so it goes even where
/// this process is killed.
struct KeyAgent {
    folder: TempDir,
    waiting: Child,
    agent: Pid,
}

impl KeyAgent {
    fn start(id: &str, keys: &[PathBuf]) -> Result<KeyAgent, CliError> {
        let doing = || format!("start ssh-agent for --ssh {id}");
        let folder = TempDir::new().doing(doing)?;
        let mut waiting = Command::new("ssh-agent")
            .arg("-a")
            .arg(folder.path().join("agent"))
            .args(["sh", "-c", "echo $SSH_AGENT_PID; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing(doing)?;
        let mut line = String::new();
        if let Some(said) = waiting.stdout.take() {
            BufReader::new(said).read_line(&mut line).doing(doing)?;
        }
        let Some(agent) = line.trim().parse().ok().and_then(Pid::from_raw) else {
            // It has said why.
            drop(waiting.stdin.take());
            waiting.wait().doing(doing)?;
            return Err(CliError::Refused(format!(
                "ssh-agent for --ssh {id} does not start"
            )));
        };
        let started = KeyAgent {
            folder,
            waiting,
            agent,
        };
        for key in keys {
            started.add(id, key)?;
        }
        Ok(started)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Gives it a key. The bytes go through a pipe, so that it does not matter who else may read the file.
    fn add(&self, id: &str, key: &Path) -> Result<(), CliError> {
        let doing = || format!("add {} to the agent of --ssh {id}", key.display());
        let bytes = fs::read(key).doing(doing)?;
        let mut adding = Command::new("ssh-add")
            .args([OsStr::new("-q"), OsStr::new("-")])
            .env(AGENT, self.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .doing(doing)?;
        if let Some(mut pipe) = adding.stdin.take() {
            pipe.write_all(&bytes).doing(doing)?;
        }
        let done = adding.wait_with_output().doing(doing)?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        Err(CliError::Refused(format!(
            "--ssh {id}: {} is no key that ssh-add takes: {}",
            key.display(),
            said.trim()
        )))
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        // Failing means that it has ended already.
        let _ended = kill_process(self.agent, Signal::TERM);
        drop(self.waiting.stdin.take());
        let _status = self.waiting.wait();
    }
}
