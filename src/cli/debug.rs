//! `debug`: a look into a step that failed.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};

use serde::Serialize;
use strata::build::{
    self, DebugCommand, DebugRequest, FailedRun, How, KeptStep, Secrets, SshAgents,
};
use strata::sandbox::{Stdio, terminal};
use strata::store::{FailedStep, Store};

use super::error::{CliError, Doing as _};
use super::output::{Format, Table, human_age, human_size, note, print, print_json, print_line};
use super::session::Session;
use super::ssh::Agents;
use super::{build as builds, build_values, run};

/// How much of a step's name a table shows, in characters.
const STEP_WIDTH: usize = 50;

const EXAMPLES: &str = "\
Examples:
  strata debug                              a shell in the step that failed last
  strata debug --list                       the failed steps that are kept
  strata debug 3f9a12c4 -- ls -l /src       one command in one of them
  strata debug --log                        the whole output of the last
  strata debug --rerun                      the step's own command again, on what it left
  strata debug --before                     a shell in its files as they were before it ran
  strata debug --secret id=tok,env=TOKEN    with a secret of the step: none is ever kept

The step's environment, user, working directory, mounts and network are as they were. What is changed is dropped at the end, in
the files and in caches, so that it can be done again. A failed build keeps the files of the RUN that failed where that takes no
copy: the last 10, at most 8 GiB, for 7 days. strata prune removes them, strata build --on-error discard keeps none.

Exit codes:
  125   strata failed before the command began
  126   the command cannot be executed
  127   there is no such command
  otherwise the command's own";

/// Open a shell where a build failed
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DebugArgs {
    /// The failed step: its id or the beginning of it, or `last`
    #[arg(value_name = "ID", default_value = "last")]
    id: String,
    /// A command in place of a shell
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<OsString>,
    /// Show the failed steps that are kept
    #[arg(long, conflicts_with_all = ["log", "rm", "command", "rerun", "before"])]
    list: bool,
    /// Print the step's whole output
    #[arg(long, conflicts_with_all = ["rm", "command", "rerun", "before"])]
    log: bool,
    /// Remove what is kept of the step
    #[arg(long, conflicts_with_all = ["command", "rerun", "before"])]
    rm: bool,
    /// Run the step's own command again
    #[arg(long, conflicts_with = "command")]
    rerun: bool,
    /// See the files as they were before the step ran
    #[arg(long)]
    before: bool,
    /// Give a secret of the step again: id=NAME[,src=FILE|,env=VARIABLE]
    #[arg(long = "secret", value_name = "SPEC")]
    secrets: Vec<String>,
    /// Give an ssh agent of the step again: default or ID[=SOCKET]
    #[arg(long = "ssh", value_name = "SPEC")]
    ssh: Vec<String>,
    /// Set a variable; without a value, the environment's is taken
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Another user than the step's
    #[arg(short = 'u', long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Another working directory than the step's
    #[arg(short = 'w', long, value_name = "PATH")]
    workdir: Option<String>,
    /// How --list is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// A failed step as `--list --format json` shows it.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    failed: String,
    step: &'a str,
    dockerfile: &'a str,
    line: u32,
    how: &'a How,
    bytes: u64,
    has_files: bool,
    secrets: Vec<&'a str>,
    ssh: Vec<&'a str>,
}

impl DebugArgs {
    /// Runs `debug`. The command's own code is the exit code.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let store = session.store()?;
        if self.list {
            return self.show_list(&store);
        }
        let failed = store
            .failed_step(&self.id)
            .doing(|| "look into a failed step".to_owned())?;
        if self.log {
            let path = failed.log();
            let doing = || format!("read {}", path.display());
            let mut file = std::fs::File::open(&path).doing(doing)?;
            return io::copy(&mut file, &mut io::stdout().lock())
                .map(drop)
                .map_err(CliError::Stdout);
        }
        if self.rm {
            let id = failed.step.id.clone();
            drop(failed);
            let removed = store
                .remove_failed(&id)
                .doing(|| format!("remove the failed step {id}"))?;
            return match removed {
                Some(freed) => print_line(&format!("Removed: {id} ({})", human_size(freed.bytes))),
                None => Err(CliError::Refused(format!(
                    "the failed step {id} is being looked at"
                ))),
            };
        }
        let mut secrets = Secrets::default();
        for text in &self.secrets {
            let secret = build_values::secret(text, |name| std::env::var_os(name).is_some())?;
            builds::add_secret(&mut secrets, &secret);
        }
        let specs = self.ssh.iter().map(|text| build_values::ssh(text));
        let ssh = Agents::start(&specs.collect::<Result<Vec<_>, _>>()?)?;
        let command = match &self.command[..] {
            _ if self.rerun => DebugCommand::Again,
            [] => DebugCommand::Shell,
            command => DebugCommand::Command(command.to_vec()),
        };
        let request = DebugRequest {
            failed: &failed,
            command,
            before: self.before,
            secrets,
            ssh: ssh.sockets.clone(),
            env: self.variables(&failed.step)?,
            user: self.user.clone(),
            cwd: self.workdir.clone(),
            privilege: session.privilege().clone(),
        };
        match open(session, &store, request)? {
            0 => Ok(()),
            code => Err(CliError::Exit(code)),
        }
    }

    /// `-e`, and the environment's proxies where the step had some.
    fn variables(&self, step: &FailedStep) -> Result<Vec<(String, OsString)>, CliError> {
        let mut variables = Vec::new();
        let run = FailedRun::of(step).doing(|| "look into a failed step".to_owned())?;
        for name in run.proxies() {
            variables.extend(std::env::var_os(name).map(|value| (name.clone(), value)));
        }
        for text in &self.env {
            match text.split_once('=') {
                Some(("", _)) => {
                    return Err(CliError::Usage(format!(
                        "invalid value {text:?} for --env: expected NAME[=VALUE]"
                    )));
                }
                Some((name, value)) => variables.push((name.to_owned(), value.into())),
                None => variables.extend(std::env::var_os(text).map(|v| (text.clone(), v))),
            }
        }
        Ok(variables)
    }

    fn show_list(&self, store: &Store) -> Result<(), CliError> {
        let doing = || "list the failed steps".to_owned();
        let steps = store.failed_steps().doing(doing)?;
        let runs: Vec<FailedRun> = steps
            .iter()
            .map(FailedRun::of)
            .collect::<Result<_, _>>()
            .doing(doing)?;
        let all = steps.iter().zip(&runs);
        if self.format == Format::Json {
            let listed: Vec<Listed<'_>> = all
                .map(|(step, run)| {
                    let (secrets, ssh) = run.credentials();
                    let failed = jiff::Timestamp::from_second(step.failed_seconds());
                    Listed {
                        id: &step.id,
                        failed: failed.map_or_else(|_| String::new(), |t| t.to_string()),
                        step: &step.name,
                        dockerfile: &run.about,
                        line: run.lines.start,
                        how: &run.how,
                        bytes: step.bytes,
                        has_files: step.left_out_bytes.is_none(),
                        secrets,
                        ssh,
                    }
                })
                .collect();
            return print_json(&listed);
        }
        let now = jiff::Timestamp::now().as_second();
        let mut table = Table::new(&["ID", "FAILED", "EXIT", "SIZE", "DOCKERFILE", "STEP"]);
        for (step, run) in all {
            let age = u64::try_from(now - step.failed_seconds()).unwrap_or(0);
            table.row(vec![
                step.id.clone(),
                format!("{} ago", human_age(age)),
                match &run.how {
                    How::Exited(code) => code.to_string(),
                    How::NotStarted(_) => "-".to_owned(),
                },
                human_size(step.bytes),
                format!("{}:{}", run.about, run.lines.start),
                short(&step.name),
            ]);
        }
        print(table.render())
    }
}

/// Runs a command in a failed step's world, on this terminal if there is one; its exit code.
fn open(session: &Session, store: &Store, request: DebugRequest<'_>) -> Result<u8, CliError> {
    let step = &request.failed.step;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| CliError::Debug {
        id: step.id.clone(),
        source,
    };
    let run = FailedRun::of(step).map_err(|e| failed(e.into()))?;
    let on_terminal = is_terminal();
    let stdio = if on_terminal {
        Stdio::Terminal(terminal::size())
    } else {
        Stdio::Inherit { stdin: true }
    };
    let mut debugging = build::debug(store, &request, stdio).map_err(|e| failed(e.into()))?;
    for missing in &debugging.missing {
        note(&format!("note: not here: {missing}"));
    }
    if run.insecure {
        note("note: the step ran with --security=insecure, and so does this");
    }
    let has_term = debugging.spec.env.iter().any(|(name, _)| name == "TERM");
    if on_terminal && !has_term {
        let term = std::env::var_os("TERM").unwrap_or_else(|| "xterm".into());
        debugging.spec.env.push(("TERM".into(), term));
    }
    if on_terminal && request.command == DebugCommand::Shell {
        let when = if request.before {
            "before it ran"
        } else {
            "as it left it"
        };
        note(&format!(
            "{} {when}; it {}. What is changed here is dropped at the end.\nIts command: {}",
            step.name,
            failure(&run.how),
            shell_words(&run.command)
        ));
    }
    let program = debugging.spec.args.first().cloned().unwrap_or_default();
    let code = run::execute(session, debugging.spec, &program.to_string_lossy());
    drop(debugging.guards);
    code
}

/// After a build that failed: a shell at once, on a terminal. What goes wrong with it is told, and changes nothing.
pub(super) fn open_kept(
    session: &Session,
    store: &Store,
    kept: &KeptStep,
    secrets: Secrets,
    ssh: SshAgents,
) {
    if !is_terminal() {
        note("note: --on-error=shell needs a terminal, and there is none");
        return;
    }
    let shown = || -> Result<u8, CliError> {
        let failed = store
            .failed_step(&kept.id)
            .doing(|| "look into a failed step".to_owned())?;
        let run = FailedRun::of(&failed.step).doing(|| "look into a failed step".to_owned())?;
        let env = run.proxies().iter();
        let env = env.filter_map(|n| std::env::var_os(n).map(|value| (n.clone(), value)));
        let request = DebugRequest {
            failed: &failed,
            command: DebugCommand::Shell,
            before: false,
            secrets,
            ssh,
            env: env.collect(),
            user: None,
            cwd: None,
            privilege: session.privilege().clone(),
        };
        open(session, store, request)
    };
    if let Some(text) = shown().err().and_then(|error| error.render()) {
        note(text.trim_end());
    }
}

/// A step's name in a table.
fn short(name: &str) -> String {
    let line = name.lines().next().unwrap_or(name);
    if line.chars().count() <= STEP_WIDTH {
        return line.to_owned();
    }
    let begin: String = line.chars().take(STEP_WIDTH - 1).collect();
    format!("{begin}…")
}

fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}

fn failure(how: &How) -> String {
    match how {
        How::Exited(code) => format!("ended with exit code {code}"),
        How::NotStarted(why) => format!("was not started: {why}"),
    }
}

/// What failed, as one would type it: the script where a shell ran it.
fn shell_words(command: &[String]) -> String {
    match command {
        [shell, flag, script] if shell.starts_with('/') && flag.starts_with('-') => script.clone(),
        words => words
            .iter()
            .map(|word| {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b);
                if !word.is_empty() && word.bytes().all(plain) {
                    word.clone()
                } else {
                    format!("'{}'", word.replace('\'', r"'\''"))
                }
            })
            .collect::<Vec<_>>()
            .join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_as_one_would_type_them() {
        for (command, want) in [
            (
                &["/bin/sh", "-c", "make && echo 'x'"][..],
                "make && echo 'x'",
            ),
            (
                &["/bin/echo", "a b", "it's", ""],
                r"/bin/echo 'a b' 'it'\''s' ''",
            ),
            (&["make", "-j4", "CC=gcc"], "make -j4 CC=gcc"),
        ] {
            let command: Vec<String> = command.iter().map(|w| (*w).to_owned()).collect();
            assert_eq!(shell_words(&command), want);
        }
    }
}
