//! `login` and `logout`.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use strata::registry::{Client, Credentials, Secret};

use super::error::{CliError, Doing as _};
use super::output::note;

/// The longest user name or secret: more is a mistake, a file on standard input for example.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Keep credentials for a registry
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata login registry.example
  echo $TOKEN | strata login --username ci --password-stdin registry.example:5000

Credentials go to $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json or ~/.docker/config.json, or to the credential helper that
this file names.")]
pub(crate) struct LoginArgs {
    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    registry: String,
    /// The user
    #[arg(short = 'u', long, value_name = "NAME")]
    username: Option<String>,
    /// The password or token; others on this machine can see it: prefer --password-stdin
    #[arg(
        short = 'p',
        long,
        value_name = "TEXT",
        conflicts_with = "password_stdin"
    )]
    password: Option<String>,
    /// Read the password or token from standard input
    #[arg(long)]
    password_stdin: bool,
}

/// Forget the credentials for a registry
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  strata logout registry.example")]
pub(crate) struct LogoutArgs {
    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    registry: String,
}

/// The registry without a scheme and path, as people paste it.
fn registry(text: &str) -> Result<&str, CliError> {
    let bare = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    let host = bare.split('/').next().unwrap_or_default();
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(CliError::Usage(format!(
            "invalid registry {text:?}: expected HOST[:PORT]"
        )));
    }
    Ok(host)
}

impl LoginArgs {
    /// Runs `login`.
    pub(crate) fn run(&self, client: &Client) -> Result<(), CliError> {
        let registry = registry(&self.registry)?;
        let user = match &self.username {
            Some(user) => user.clone(),
            None if self.password_stdin => {
                return Err(CliError::Usage(
                    "--password-stdin needs --username".to_owned(),
                ));
            }
            None => ask("Username: ", true)?,
        };
        let secret = if self.password_stdin {
            let mut text = String::new();
            io::stdin()
                .lock()
                .take(MAX_SECRET_BYTES)
                .read_to_string(&mut text)
                .doing(|| "read the password from standard input".to_owned())?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        } else if let Some(password) = &self.password {
            note("warning: --password can be seen by others on this machine: use --password-stdin");
            password.clone()
        } else {
            ask("Password: ", false)?
        };
        if user.is_empty() || secret.is_empty() || user.contains(':') {
            return Err(CliError::Usage(
                "expected a user name without a colon, and a password".to_owned(),
            ));
        }
        let secret = Secret::new(secret);
        client
            .check_login(registry, &user, &secret)
            .doing(|| format!("log in to {registry}"))?;
        let place = Credentials::from_env()
            .store(registry, &user, &secret)
            .doing(|| format!("keep the credentials for {registry}"))?;
        note(&format!(
            "Login Succeeded: credentials for {registry} kept in {place}"
        ));
        Ok(())
    }
}

impl LogoutArgs {
    /// Runs `logout`.
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let registry = registry(&self.registry)?;
        let known = Credentials::from_env()
            .erase(registry)
            .doing(|| format!("remove the credentials for {registry}"))?;
        if known {
            note(&format!("credentials for {registry} removed"));
        } else {
            note(&format!("not logged in to {registry}"));
        }
        Ok(())
    }
}

/// Asks on the terminal; what is typed is shown only if `echo` says so.
fn ask(prompt: &str, echo: bool) -> Result<String, CliError> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(CliError::Usage(
            "standard input is no terminal: give --username and --password-stdin".to_owned(),
        ));
    }
    let doing = || "read from the terminal".to_owned();
    let before = tcgetattr(&stdin).doing(doing)?;
    // A prompt that cannot be shown does not keep the answer from being read.
    let _ = write!(io::stderr(), "{prompt}");
    if !echo {
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &hidden).doing(doing)?;
    }
    let mut line = String::new();
    let read = stdin.lock().take(MAX_SECRET_BYTES).read_line(&mut line);
    if !echo {
        tcsetattr(&stdin, OptionalActions::Now, &before).doing(doing)?;
        note("");
    }
    read.doing(doing)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_as_people_paste_them() {
        assert_eq!(registry("https://r.example/v2/").unwrap(), "r.example");
        assert_eq!(registry("127.0.0.1:5000").unwrap(), "127.0.0.1:5000");
        assert!(registry("https:///x").is_err());
        assert!(registry("a b").is_err());
    }
}
