//! What a command can fail with, in words, with a hint and an exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

use strata::build::BuildError;
use strata::dockerfile::with_causes;
use strata::inspect::InspectError;
use strata::store::StoreError;

use super::values::FlagError;

/// The exit codes of strata. `run` also exits with the command's own code, or with 128 and the signal that ended it.
pub(crate) mod exit {
    /// It worked.
    pub(crate) const OK: u8 = 0;
    /// The operation failed.
    pub(crate) const FAILED: u8 = 1;
    /// The command line cannot be understood.
    pub(crate) const USAGE: u8 = 2;
    /// `layers`: the image breaks a rule of `--fail-on`.
    pub(crate) const RULE_BROKEN: u8 = 3;
    /// `run`: strata failed before the command began.
    pub(crate) const RUN_FAILED: u8 = 125;
    /// `run`: the command cannot be executed.
    pub(crate) const RUN_NOT_EXECUTABLE: u8 = 126;
    /// `run`: there is no such command.
    pub(crate) const RUN_NOT_FOUND: u8 = 127;
    /// Ended by Ctrl-C or SIGTERM.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// The exit codes as `--help` shows them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    it worked
  1    the operation failed
  2    the command line is wrong
  3    layers: the image breaks a rule of --fail-on
  125  run, debug: strata failed before the command began
  126  run, debug: the command cannot be executed
  127  run, debug: there is no such command
  128+ run, debug: the command was ended by signal N (128 + N)
  130  interrupted";

/// Any error, as other rooms give it.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Why a command ended without doing what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A flag's value.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    /// Rules that cannot be understood.
    #[error("{what}")]
    Rules {
        /// Where and why, with the line.
        what: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// Something was attempted.
    #[error("cannot {doing}")]
    Cannot {
        /// What: `read context.tar`.
        doing: String,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// Something that was asked for is not there or does not fit, and there is no deeper cause.
    #[error("{0}")]
    Refused(String),
    /// The same, where there is something to do about it.
    #[error("{message}")]
    Hinted {
        /// What is not there or does not fit.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A build failed. The log's end and the Dockerfile's lines were shown before.
    #[error("failed to build")]
    Build {
        /// Why.
        #[source]
        source: BoxError,
        /// What to do.
        hint: Option<String>,
    },
    /// `build --verify` found that two builds differ.
    #[error("{what}")]
    Differ {
        /// Where and how.
        what: String,
        /// Whether nothing but times differs.
        only_times: bool,
    },
    /// `run` could not run the command.
    #[error("cannot run {command:?}")]
    Run {
        /// The command's first word.
        command: String,
        /// 125, 126 or 127.
        code: u8,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// `debug` could not prepare a failed step's world.
    #[error("cannot look into the failed step {id}")]
    Debug {
        /// The step.
        id: String,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// The user or the system asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// Standard output.
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    /// Nothing to say: a report with this exit code is out already.
    #[error("exit code {0}")]
    Exit(u8),
}

impl CliError {
    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::Flag(_) | CliError::Usage(_) | CliError::Rules { .. } => exit::USAGE,
            CliError::Run { code, .. } | CliError::Exit(code) => *code,
            CliError::Debug { .. } => exit::RUN_FAILED,
            CliError::Interrupted => exit::INTERRUPTED,
            // Whoever closed the pipe has what it wants (`strata images | head -1`).
            CliError::Stdout(e) if e.kind() == io::ErrorKind::BrokenPipe => exit::OK,
            _ => exit::FAILED,
        }
    }

    /// The text for standard error; none where there is nothing to say.
    pub(crate) fn render(&self) -> Option<String> {
        let lead = match self {
            CliError::Exit(_) => return None,
            CliError::Stdout(e) if e.kind() == io::ErrorKind::BrokenPipe => return None,
            // buildx's form, which scripts look for: all on one line.
            CliError::Build { .. } => "ERROR: ",
            _ => "error: ",
        };
        let mut text = format!("{lead}{}", with_causes(self));
        text.push('\n');
        if let Some(hint) = self.hint() {
            // A String takes any text.
            let _ = writeln!(text, "hint: {hint}");
        }
        Some(text)
    }

    /// What to do about it.
    fn hint(&self) -> Option<String> {
        if let CliError::Usage(_) | CliError::Flag(_) = self {
            return Some("see strata COMMAND --help".to_owned());
        }
        if let CliError::Rules { hint, .. } = self {
            return hint.clone();
        }
        if let CliError::Differ { only_times, .. } = self {
            let hint = "only times differ: --timestamp SECONDS gives all files and the image one";
            return only_times.then(|| hint.to_owned());
        }
        if let CliError::Build {
            hint: Some(hint), ..
        }
        | CliError::Hinted { hint, .. } = self
        {
            return Some(hint.clone());
        }
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(hint) = hint_for(error) {
                return Some(hint);
            }
            cause = error.source();
        }
        None
    }
}

/// The hint for one error of a chain, by its type.
fn hint_for(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(failed) = error.downcast_ref::<SolveFailure>() {
        return failed.hint.clone();
    }
    if let Some(BuildError::NoShell { .. }) = error.downcast_ref::<BuildError>() {
        return Some("give a program that the image has: strata debug ID -- PROGRAM".to_owned());
    }
    if let Some(StoreError::NoSuchFailedStep(_)) = error.downcast_ref::<StoreError>() {
        return Some("strata debug --list shows what is kept".to_owned());
    }
    if let Some(InspectError::NoBase { .. }) = error.downcast_ref::<InspectError>() {
        return Some("--base IMAGE names the base".to_owned());
    }
    let io = error.downcast_ref::<io::Error>()?;
    let hint = match io.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full; strata df shows what the store holds, strata prune frees space"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only; choose another store with --root or STRATA_ROOT"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// A build that failed, in the words scripts look for.
#[derive(Debug, thiserror::Error)]
#[error("failed to solve")]
pub(crate) struct SolveFailure {
    /// Why.
    #[source]
    pub(crate) source: Box<BuildError>,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

/// Says what was attempted when something fails.
pub(crate) trait Doing<T> {
    /// `doing` completes "cannot …".
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, CliError>;
}

impl<T, E: Into<BoxError>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, CliError> {
        self.map_err(|e| CliError::Cannot {
            doing: doing(),
            source: e.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error(transparent)]
        struct Wrapper(#[from] io::Error);
        let inner = io::Error::other("disk on fire");
        let error = Err::<(), _>(Wrapper(inner))
            .doing(|| "read x".to_owned())
            .unwrap_err();
        assert_eq!(
            error.render().unwrap(),
            "error: cannot read x: disk on fire\n"
        );
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_full_disk_has_a_hint() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = Err::<(), _>(full)
            .doing(|| "store x".to_owned())
            .unwrap_err();
        assert!(error.render().unwrap().contains("\nhint: the disk is full"));
    }

    #[test]
    fn a_closed_pipe_is_a_quiet_end() {
        let error = CliError::Stdout(io::ErrorKind::BrokenPipe.into());
        assert_eq!((error.exit_code(), error.render()), (0, None));
    }

    #[test]
    fn usage_is_two() {
        let error = CliError::from(FlagError::new("--x", "y", "expected z"));
        assert_eq!(error.exit_code(), 2);
        assert_eq!(
            error.render().unwrap(),
            "error: invalid value \"y\" for --x: expected z\nhint: see strata COMMAND --help\n"
        );
    }
}
