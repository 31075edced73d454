//! The command line: arguments in, text and an exit code out.
//!
//! ```text
//! arguments ─ clap ─► Command ─► typed request (build_args, transport, values) ─► library ─► result on standard output
//!                                                                     └─ events ─► progress on standard error
//!                                                                     └─ errors ─► error: … hint: … exit code
//! ```
//!
//! Invariants: only this module prints; results go to standard output and all else to standard error; every listing has
//! `--format json`; a value that cannot be understood names its flag and what is expected, before anything is done.
//!
//! Concurrency: single-threaded until a command has entered its user namespace (see [`strata::sandbox`]); the kernel refuses
//! to let a process with threads enter one.

mod build;
mod build_args;
mod build_failure;
mod build_output;
mod build_values;
mod calls;
mod completion;
mod debug;
mod dockerfile;
mod epoch;
mod error;
mod explore;
mod export;
mod failure;
mod images;
mod import;
mod inspect;
mod interrupt;
mod login;
mod medium;
mod output;
mod output_spec;
mod page;
mod progress;
mod registry;
mod report;
mod resolve;
mod run;
mod run_args;
mod session;
mod ssh;
mod storage;
mod transfer;
mod transport;
mod users;
mod values;
mod verify;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use self::error::{CliError, exit};
use self::session::{Needs, Session};

/// Build OCI images from Dockerfiles and keep them in a layered, content-addressed store
#[derive(clap::Parser, Debug)]
#[command(
    name = "strata",
    version,
    about,
    after_help = error::EXIT_CODES,
    max_term_width = 110,
    disable_help_subcommand = false
)]
pub(crate) struct Cli {
    /// The store [default: /var/lib/strata as root, else $XDG_DATA_HOME/strata]
    #[arg(long, global = true, env = "STRATA_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// How much is logged on standard error
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        value_enum,
        default_value = "warn"
    )]
    log_level: LogLevel,
    #[command(flatten)]
    registries: registry::RegistryArgs,
    #[command(subcommand)]
    command: Command,
}

/// `--log-level`
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Build(Box<build_args::BuildArgs>),
    Run(Box<run_args::RunArgs>),
    Debug(Box<debug::DebugArgs>),
    Images(images::ImagesArgs),
    Tag(images::TagArgs),
    Rmi(images::RmiArgs),
    History(images::HistoryArgs),
    Inspect(inspect::InspectArgs),
    Layers(report::LayersArgs),
    Files(report::FilesArgs),
    Diff(report::DiffArgs),
    Why(report::WhyArgs),
    Explore(explore::ExploreArgs),
    Dedup(report::DedupArgs),
    Pull(transfer::PullArgs),
    Push(transfer::PushArgs),
    Login(login::LoginArgs),
    Logout(login::LogoutArgs),
    Copy(transfer::CopyArgs),
    Save(transfer::SaveArgs),
    Load(transfer::LoadArgs),
    Import(import::ImportArgs),
    Unpack(storage::UnpackArgs),
    Df(storage::DfArgs),
    Prune(storage::PruneArgs),
    Check(storage::CheckArgs),
    Completion(completion::CompletionArgs),
    Man(completion::ManArgs),
    /// Show the version
    #[command(
        after_help = "Examples:\n  strata version\n  strata version | cut -d' ' -f2               the number alone"
    )]
    Version,
}

/// Runs strata with the process's arguments.
pub(crate) fn main() -> ExitCode {
    let arguments = normalise(std::env::args_os().collect());
    let parsed = Cli::command()
        .try_get_matches_from(arguments)
        .and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version come this way, too; a closed pipe must not turn them into a failure.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() {
                exit::USAGE
            } else {
                exit::OK
            });
        }
    };
    match cli.run() {
        Ok(()) => ExitCode::from(exit::OK),
        Err(e) => {
            if let Some(text) = e.render() {
                // There is nobody left to tell when this fails.
                let _ = std::io::stderr().lock().write_all(text.as_bytes());
            }
            ExitCode::from(e.exit_code())
        }
    }
}

impl Cli {
    fn run(self) -> Result<(), CliError> {
        log(self.log_level);
        let start = |needs| Session::start(self.root.as_deref(), &self.registries, needs);
        let session = |needs| start(needs)?.insist();
        match &self.command {
            Command::Build(args) => {
                let request = args.request(&build_args::World {
                    var: &|name| std::env::var(name).ok(),
                    is_file: &std::path::Path::is_file,
                })?;
                build::run(&request, &session(Needs::Layers)?)
            }
            // Signals are for the command that it runs.
            Command::Run(args) => args.run(&start(Needs::Layers)?),
            Command::Debug(args) => args.run(&start(Needs::Layers)?),
            Command::Images(args) => args.run(&session(Needs::Blobs)?),
            Command::Tag(args) => args.run(&session(Needs::Blobs)?),
            Command::Rmi(args) => args.run(&session(Needs::Layers)?),
            Command::History(args) => args.run(&session(Needs::Blobs)?),
            Command::Inspect(args) => args.run(&session(Needs::Blobs)?),
            Command::Layers(args) => args.run(&session(Needs::Blobs)?),
            Command::Files(args) => args.run(&session(Needs::Blobs)?),
            Command::Diff(args) => args.run(&session(Needs::Blobs)?),
            Command::Why(args) => args.run(&session(Needs::Blobs)?),
            Command::Explore(args) => args.run(&session(Needs::Blobs)?),
            Command::Dedup(args) => args.run(&session(args.needs())?),
            Command::Pull(args) => args.run(&session(args.needs())?),
            Command::Push(args) => args.run(&session(Needs::Blobs)?),
            Command::Login(args) => args.run(&self.registries.client()),
            Command::Logout(args) => args.run(),
            Command::Copy(args) => args.run(&session(Needs::Blobs)?),
            Command::Save(args) => args.run(&session(Needs::Blobs)?),
            Command::Load(args) => args.run(&session(Needs::Blobs)?),
            Command::Import(args) => args.run(&session(Needs::Layers)?),
            Command::Unpack(args) => args.run(&session(Needs::Layers)?),
            Command::Df(args) => args.run(&session(Needs::Layers)?),
            Command::Prune(args) => args.run(&session(Needs::Layers)?),
            Command::Check(args) => args.run(&session(Needs::Layers)?),
            Command::Completion(args) => args.run(),
            Command::Man(args) => args.run(),
            Command::Version => output::print_line(concat!("strata ", env!("CARGO_PKG_VERSION"))),
        }
    }
}

/// Sends the library's logs to standard error.
fn log(level: LogLevel) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        // Colours in logs would be a feature of the crate that nothing else needs.
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}

/// docker's switches take a value (`--pull=true`, `--no-cache=false`), clap's do not: for `build`, a true one loses its value
/// and a false one goes.
fn normalise(arguments: Vec<OsString>) -> Vec<OsString> {
    let is_build = arguments.iter().skip(1).any(|a| a == "build");
    if !is_build {
        return arguments;
    }
    let command = Cli::command();
    let Some(build) = command.find_subcommand("build") else {
        return arguments;
    };
    let is_switch = |name: &str| {
        build.get_arguments().any(|a| {
            a.get_long() == Some(name) && matches!(a.get_action(), clap::ArgAction::SetTrue)
        })
    };
    let mut rest = arguments.into_iter();
    let mut out: Vec<OsString> = Vec::new();
    for argument in rest.by_ref() {
        if argument == "--" {
            out.push(argument);
            break;
        }
        let switch = argument
            .to_str()
            .and_then(|a| a.strip_prefix("--"))
            .and_then(|a| a.split_once('='))
            .filter(|(name, _)| is_switch(name))
            .and_then(|(name, value)| Some((name, values::boolean("", value).ok()?)));
        match switch {
            Some((name, true)) => out.push(format!("--{name}").into()),
            Some((_, false)) => {}
            None => out.push(argument),
        }
    }
    out.extend(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
