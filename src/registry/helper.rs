//! Programs that keep credentials in a keychain (docker-credential-helpers' protocol).

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use super::CredentialError;
use super::credentials::key_of;
use super::secret::{Login, Secret};

/// One of them.
pub(super) struct Helper {
    name: String,
}

impl Helper {
    /// The helper that configurations call `suffix`; a plain word, since it becomes the name of a program.
    pub(super) fn new(suffix: &str) -> Helper {
        Helper {
            name: format!("docker-credential-{suffix}"),
        }
    }

    /// The name of the program.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn get(&self, registry: &str) -> Result<Option<Login>, CredentialError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            username: String,
            secret: String,
        }
        let (fine, output) = self.run("get", registry, key_of(registry).as_bytes())?;
        if !fine {
            if output.contains("credentials not found") {
                return Ok(None);
            }
            return Err(self.failed(registry, &output));
        }
        let answer: Answer = serde_json::from_str(&output)
            .map_err(|_| self.failed(registry, "it answered something else than credentials"))?;
        let secret = Secret::new(answer.secret);
        Ok(Some(match answer.username.as_str() {
            "<token>" => Login::IdentityToken(secret),
            _ => Login::Password {
                user: answer.username,
                password: secret,
            },
        }))
    }

    pub(super) fn store(
        &self,
        registry: &str,
        user: &str,
        password: &Secret,
    ) -> Result<(), CredentialError> {
        let input =
            json!({ "ServerURL": key_of(registry), "Username": user, "Secret": password.reveal() });
        self.done("store", registry, input.to_string().as_bytes())
    }

    pub(super) fn erase(&self, registry: &str) -> Result<(), CredentialError> {
        self.done("erase", registry, key_of(registry).as_bytes())
    }

    fn done(&self, verb: &str, registry: &str, input: &[u8]) -> Result<(), CredentialError> {
        match self.run(verb, registry, input)? {
            (true, _) => Ok(()),
            (false, output) => Err(self.failed(registry, &output)),
        }
    }

    /// Whether it ended well, and what it wrote.
    fn run(
        &self,
        verb: &str,
        registry: &str,
        input: &[u8],
    ) -> Result<(bool, String), CredentialError> {
        let run = || {
            let mut child = Command::new(&self.name)
                .arg(verb)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                match stdin.write_all(input) {
                    // It need not read what it can do without.
                    Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
                    _ => {}
                }
            }
            child.wait_with_output()
        };
        let output = run().map_err(|e| self.failed(registry, &e.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status.success(), text))
    }

    fn failed(&self, registry: &str, why: &str) -> CredentialError {
        CredentialError::Helper {
            name: self.name.clone(),
            registry: registry.to_owned(),
            why: super::error::sanitise(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A helper that keeps one login in a file beside it.
    const SCRIPT: &str = r#"#!/bin/sh
kept="$0.kept"
case $1 in
store) cat > "$kept" ;;
get) test "$(cat)" = https://index.docker.io/v1/ && cat "$kept" 2>/dev/null ||
    { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm "$kept" 2>/dev/null || { echo "nothing to erase"; exit 1; } ;;
esac
"#;

    #[test]
    fn a_helper_stores_gets_and_erases() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("docker-credential-test");
        std::fs::write(&path, SCRIPT).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let helper = Helper {
            name: path.display().to_string(),
        };
        assert!(helper.get("docker.io").unwrap().is_none());
        helper
            .store("docker.io", "me", &Secret::new("word".to_owned()))
            .unwrap();
        let Some(Login::Password { user, password }) = helper.get("docker.io").unwrap() else {
            panic!("no password");
        };
        assert_eq!((user.as_str(), password.reveal()), ("me", "word"));
        helper
            .store("docker.io", "<token>", &Secret::new("fresh".to_owned()))
            .unwrap();
        assert!(matches!(
            helper.get("docker.io").unwrap(),
            Some(Login::IdentityToken(_))
        ));
        helper.erase("docker.io").unwrap();
        let error = helper.erase("docker.io").unwrap_err().to_string();
        assert!(
            error.ends_with("failed for docker.io: nothing to erase"),
            "{error}"
        );
        let missing = Helper::new("that-is-not-installed").get("docker.io");
        assert!(missing.is_err());
    }
}
