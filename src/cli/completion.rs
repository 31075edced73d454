//! Shell completions and man pages, from the same description of the command line that parses it.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use super::error::{CliError, Doing as _};
use super::{Cli, output};

const COMPLETION_EXAMPLES: &str = "\
Examples:
  strata completion bash > /etc/bash_completion.d/strata
  strata completion zsh > ~/.zfunc/_strata
  strata completion fish > ~/.config/fish/completions/strata.fish";

/// Write a shell's completion script to standard output
#[derive(clap::Args, Debug)]
#[command(after_help = COMPLETION_EXAMPLES)]
pub(crate) struct CompletionArgs {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Write the man pages into a folder
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  strata man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The folder; made if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl CompletionArgs {
    /// Runs `completion`.
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "strata", &mut script);
        output::print(script)
    }
}

impl ManArgs {
    /// Runs `man`.
    pub(crate) fn run(&self) -> Result<(), CliError> {
        fs::create_dir_all(&self.dir).doing(|| format!("create {}", self.dir.display()))?;
        let mut command = Cli::command();
        command.build();
        page(&self.dir, &command, "strata")
    }
}

/// Writes the page of a command and those of its subcommands: `strata-build.1`.
fn page(dir: &Path, command: &clap::Command, name: &str) -> Result<(), CliError> {
    let title: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let mut text = Vec::new();
    let path = dir.join(format!("{name}.1"));
    clap_mangen::Man::new(command.clone().name(title))
        .render(&mut text)
        .and_then(|()| fs::write(&path, text))
        .doing(|| format!("write {}", path.display()))?;
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
        if sub.get_name() != "help" {
            page(dir, sub, &format!("{name}-{}", sub.get_name()))?;
        }
    }
    Ok(())
}
