//! The command line of strata.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
