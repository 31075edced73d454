//! The flags of `run`, and what they make of an image's configuration.

use strata::oci::Config;

use super::values::FlagError;

const EXAMPLES: &str = "\
Examples:
  strata run --rm app                                the image's own command
  strata run -it app sh                              a shell on this terminal
  strata run -e KEY=value -w /src -v \"$PWD:/src\" app make
  strata run --network none --read-only --memory 256m --pids-limit 100 app
  strata run --entrypoint /bin/true docker.io/library/busybox

Changes of the root filesystem are dropped at the end, with --rm or without it.

Exit codes:
  125   strata failed before the command began
  126   the command cannot be executed
  127   there is no such command
  128+N the command was ended by signal N
  otherwise the command's own";

/// Run a command in an image, in the foreground
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// The image: a name or ID in the store; pulled if it is not there
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// The command and its arguments, in place of the image's CMD
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) command: Vec<String>,
    /// Accepted for docker's sake: what a container changes is always dropped when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// Set a variable; without a value, the environment's is taken
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Show a folder or file of the host inside
    #[arg(short = 'v', long = "volume", value_name = "HOST:PATH[:ro]")]
    pub(crate) volumes: Vec<String>,
    /// The working directory
    #[arg(short = 'w', long, value_name = "PATH")]
    pub(crate) workdir: Option<String>,
    /// The user, by name or number
    #[arg(short = 'u', long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Run this in place of the image's ENTRYPOINT; its CMD is dropped
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// Which network the command sees
    #[arg(long, value_name = "MODE", value_parser = ["host", "none"], default_value = "host")]
    pub(crate) network: String,
    /// Limit the memory
    #[arg(short = 'm', long, value_name = "BYTES")]
    pub(crate) memory: Option<String>,
    /// Limit the CPUs, as 1.5
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<f64>,
    /// Limit the processes and threads
    #[arg(long, value_name = "N")]
    pub(crate) pids_limit: Option<i64>,
    /// Make the root filesystem read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// The host name
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// The platform of the image, where a name stands for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// The size of /dev/shm
    #[arg(long, value_name = "BYTES", default_value = "64m")]
    pub(crate) shm_size: String,
    /// Limit a resource: nofile=1024:4096
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimits: Vec<String>,
}

/// `-v HOST:PATH[:ro|rw]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Volume {
    /// On the host.
    pub(crate) source: String,
    /// Inside, absolute.
    pub(crate) target: String,
    /// Whether it can be written to.
    pub(crate) read_only: bool,
}

/// Parses a volume. Options that change nothing here (`z`, `Z`, `rbind` …) are accepted.
pub(crate) fn volume(text: &str) -> Result<Volume, FlagError> {
    let bad = |problem: &str| FlagError::new("--volume", text, problem);
    const FORM: &str = "expected HOST:PATH[:ro], PATH absolute";
    let mut parts = text.split(':');
    let (source, target) = match (parts.next(), parts.next()) {
        (Some(source), Some(target)) if !source.is_empty() && target.starts_with('/') => {
            (source, target)
        }
        _ => return Err(bad(FORM)),
    };
    if !source.contains('/') && source != "." && source != ".." {
        return Err(bad(
            "named volumes do not exist here; give a path, ./NAME for a folder beside you",
        ));
    }
    let mut read_only = false;
    for option in parts.flat_map(|p| p.split(',')) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "z" | "Z" | "bind" | "rbind" | "private" | "rprivate" => {}
            _ => return Err(bad("unknown option: expected ro or rw")),
        }
    }
    Ok(Volume {
        source: source.to_owned(),
        target: target.to_owned(),
        read_only,
    })
}

/// The words to execute: docker's rule for ENTRYPOINT, CMD, `--entrypoint` and arguments.
pub(crate) fn command(
    config: &Config,
    entrypoint: Option<&str>,
    arguments: &[String],
) -> Vec<String> {
    let (mut words, default) = match entrypoint {
        // An empty one takes the image's away and puts nothing in its place.
        Some("") => (Vec::new(), Vec::new()),
        Some(text) => (vec![text.to_owned()], Vec::new()),
        None => (
            config.entrypoint.clone().unwrap_or_default(),
            config.cmd.clone().unwrap_or_default(),
        ),
    };
    if arguments.is_empty() {
        words.extend(default);
    } else {
        words.extend_from_slice(arguments);
    }
    words
}

/// The environment: the image's, then `-e`, later ones in the place of earlier ones of the same name. `HOSTNAME`, `HOME` and
/// `TERM` are set where nobody does, as docker does.
pub(crate) fn environment(
    config: &Config,
    flags: &[String],
    var: impl Fn(&str) -> Option<String>,
    defaults: &[(&str, &str)],
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| match env.iter_mut().find(|(n, _)| n == name) {
        Some(pair) => pair.1 = value,
        None => env.push((name.to_owned(), value)),
    };
    for text in &config.env {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        set(name, value.to_owned());
    }
    for text in flags {
        match text.split_once('=') {
            Some((name, value)) => set(name, value.to_owned()),
            None => {
                if let Some(value) = var(text) {
                    set(text, value);
                }
            }
        }
    }
    for (name, value) in defaults {
        if !env.iter().any(|(n, _)| n == name) {
            env.push(((*name).to_owned(), (*value).to_owned()));
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn volumes() {
        for (text, source, target, read_only) in [
            ("/a:/b", "/a", "/b", false),
            (".:/b:ro", ".", "/b", true),
            ("./a:/b:ro,z", "./a", "/b", true),
            ("/a:/b:rw", "/a", "/b", false),
        ] {
            let want = Volume {
                source: source.to_owned(),
                target: target.to_owned(),
                read_only,
            };
            assert_eq!(volume(text).unwrap(), want, "{text}");
        }
        for bad in ["", "/a", "/a:b", ":/b", "name:/b", "/a:/b:x"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn commands() {
        let config = Config {
            entrypoint: Some(words("/e -x")),
            cmd: Some(words("c d")),
            ..Config::default()
        };
        for (entrypoint, arguments, want) in [
            (None, "", "/e -x c d"),
            (None, "a", "/e -x a"),
            (Some("/n"), "", "/n"),
            (Some("/n"), "a b", "/n a b"),
            (Some(""), "a b", "a b"),
            (Some(""), "", ""),
        ] {
            assert_eq!(
                command(&config, entrypoint, &words(arguments)),
                words(want),
                "{entrypoint:?} {arguments}"
            );
        }
    }

    #[test]
    fn environments() {
        let config = Config {
            env: vec!["PATH=/bin".to_owned(), "A=1".to_owned()],
            ..Config::default()
        };
        let flags = ["A=2", "B=x=y", "HELD", "UNSET"].map(str::to_owned);
        let env = environment(
            &config,
            &flags,
            |n| (n == "HELD").then(|| "h".to_owned()),
            &[("HOME", "/root"), ("PATH", "/never")],
        );
        let shown: Vec<String> = env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(shown, ["PATH=/bin", "A=2", "B=x=y", "HELD=h", "HOME=/root"]);
    }
}
