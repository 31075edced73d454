//! Where `login` keeps what it was told: docker's `config.json`, or the credential helper it names.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::error::{CliError, Doing as _};

/// The key docker keeps the credentials of docker.io under, for historical reasons.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The file: `$REGISTRY_AUTH_FILE`, else `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
pub(crate) fn file(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name: &str| var(name).filter(|v| !v.as_os_str().is_empty());
    set("REGISTRY_AUTH_FILE")
        .or_else(|| set("DOCKER_CONFIG").map(|d| d.join("config.json")))
        .or_else(|| set("HOME").map(|h| h.join(".docker/config.json")))
}

/// The key of a registry in the file.
fn key(registry: &str) -> &str {
    match registry {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB_KEY,
        other => other,
    }
}

/// The credential helper that a configuration names for a registry.
fn helper<'a>(config: &'a Value, registry: &str) -> Option<&'a str> {
    config["credHelpers"][key(registry)]
        .as_str()
        .or_else(|| config["credHelpers"][registry].as_str())
        .or_else(|| config["credsStore"].as_str())
        .filter(|h| !h.is_empty())
}

/// Keeps credentials. Gives where they are: a file's path or a helper's name, for the user.
pub(crate) fn store(
    path: &Path,
    registry: &str,
    user: &str,
    secret: &str,
) -> Result<String, CliError> {
    let mut config = read(path)?;
    if let Some(helper) = helper(&config, registry) {
        let input = json!({ "ServerURL": key(registry), "Username": user, "Secret": secret });
        call(helper, "store", &input.to_string())?;
        return Ok(format!("docker-credential-{helper}"));
    }
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{secret}"));
    let auths = object(&mut config)
        .entry("auths")
        .or_insert_with(|| json!({}));
    object(auths).insert(key(registry).to_owned(), json!({ "auth": auth }));
    write(path, &config)?;
    Ok(path.display().to_string())
}

/// Forgets credentials; whether there were any.
pub(crate) fn erase(path: &Path, registry: &str) -> Result<bool, CliError> {
    let mut config = read(path)?;
    if let Some(helper) = helper(&config, registry) {
        call(helper, "erase", key(registry))?;
        return Ok(true);
    }
    let known = config["auths"]
        .as_object_mut()
        .is_some_and(|a| a.remove(key(registry)).is_some());
    if known {
        write(path, &config)?;
    }
    Ok(known)
}

/// The value as an object; anything else (a damaged file was refused before) is replaced by an empty one.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("made an object just above")
}

fn read(path: &Path) -> Result<Value, CliError> {
    let doing = || format!("read {}", path.display());
    match fs::read(path) {
        Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Ok(json!({})),
        Ok(bytes) => {
            let value: Value = serde_json::from_slice(&bytes).doing(doing)?;
            if value.is_object() {
                Ok(value)
            } else {
                Err(CliError::Refused(format!(
                    "{} holds no JSON object",
                    path.display()
                )))
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(json!({})),
        Err(e) => Err(e).doing(doing),
    }
}

/// Replaces the file whole, readable by its owner only. A link is followed, so that it stays one.
fn write(path: &Path, config: &Value) -> Result<(), CliError> {
    let doing = || format!("write {}", path.display());
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).doing(doing)?;
    let mut text = serde_json::to_vec_pretty(config).doing(doing)?;
    text.push(b'\n');
    let attempt = || {
        let mut temp = tempfile::Builder::new()
            .prefix(".config")
            .permissions(fs::Permissions::from_mode(0o600))
            .make_in(dir, |p| {
                fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(p)
            })?;
        temp.write_all(&text)?;
        temp.as_file().sync_all()?;
        temp.persist(&path).map_err(|e| e.error)
    };
    attempt().doing(doing)?;
    Ok(())
}

/// Runs `docker-credential-HELPER VERB` with `input`; its output may hold secrets and is not shown.
fn call(helper: &str, verb: &str, input: &str) -> Result<(), CliError> {
    let program = format!("docker-credential-{helper}");
    let doing = || format!("run {program} {verb}");
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .doing(doing)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).doing(doing)?;
    }
    let status = child.wait().doing(doing)?;
    if status.success() {
        Ok(())
    } else {
        Err(CliError::Refused(format!("{program} {verb}: {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_by_the_environment() {
        let lookup = |set: &[(&str, &str)]| {
            let set: Vec<(String, PathBuf)> = set
                .iter()
                .map(|(k, v)| ((*k).to_owned(), PathBuf::from(v)))
                .collect();
            file(move |name| {
                set.iter()
                    .find(|(k, _)| k == name)
                    .map(|(_, v)| v.clone())
            })
        };
        for (set, want) in [
            (&[("HOME", "/h")][..], Some("/h/.docker/config.json")),
            (
                &[("HOME", "/h"), ("DOCKER_CONFIG", "/d")],
                Some("/d/config.json"),
            ),
            (
                &[("DOCKER_CONFIG", "/d"), ("REGISTRY_AUTH_FILE", "/a")],
                Some("/a"),
            ),
            (
                &[("HOME", "/h"), ("DOCKER_CONFIG", "")],
                Some("/h/.docker/config.json"),
            ),
            (&[], None),
        ] {
            assert_eq!(lookup(set), want.map(PathBuf::from), "{set:?}");
        }
    }

    #[test]
    fn what_else_is_in_the_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/config.json");
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(&path, r#"{"other":1,"auths":{"b":{"auth":"eDp5"}}}"#).unwrap();
        store(&path, "docker.io", "me", "s3cret").unwrap();
        store(&path, "127.0.0.1:5000", "me", "pass:word").unwrap();
        let config = read(&path).unwrap();
        assert_eq!(config["other"], 1);
        assert_eq!(config["auths"]["b"]["auth"], "eDp5");
        assert_eq!(config["auths"][DOCKER_HUB_KEY]["auth"], "bWU6czNjcmV0");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(erase(&path, "127.0.0.1:5000").unwrap());
        assert!(!erase(&path, "127.0.0.1:5000").unwrap());
        assert!(read(&path).unwrap()["auths"]["b"].is_object());
    }

    #[test]
    fn a_damaged_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for damaged in ["{", "[]", "7"] {
            fs::write(&path, damaged).unwrap();
            assert!(store(&path, "r", "u", "s").is_err(), "{damaged}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn helpers_by_registry() {
        let config = json!({ "credsStore": "all", "credHelpers": { "r:1": "one", "x": "" } });
        assert_eq!(helper(&config, "r:1"), Some("one"));
        assert_eq!(helper(&config, "other"), Some("all"));
        assert_eq!(helper(&json!({}), "other"), None);
    }
}
