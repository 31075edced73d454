//! Where credentials lie: docker's and podman's files, and the helpers that keep them in a keychain.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::helper::Helper;
use super::secret::{Login, Secret};

/// The key that docker has used for its own registry since its first version.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The largest credential file, bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why credentials cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file that cannot be read or written.
    #[error("cannot {action} the credential file {}", .path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that is not what it should be. Its text is in no message.
    #[error("malformed credential file {}: {why}", .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A helper that is not there or fails.
    #[error("credential helper {name} failed for {registry}: {why}")]
    Helper {
        /// `docker-credential-…`
        name: String,
        /// For which registry.
        registry: String,
        /// What it said.
        why: String,
    },
    /// Nowhere to keep them.
    #[error("no place for credentials: set $HOME, $DOCKER_CONFIG or $REGISTRY_AUTH_FILE")]
    NoPlace,
}

/// The credentials of the user, read again whenever one is asked for.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Files to look in; the first that has an answer wins.
    files: Vec<PathBuf>,
    /// The file to write.
    home: Option<PathBuf>,
}

impl Credentials {
    /// No credentials: every request is anonymous.
    pub fn none() -> Credentials {
        Credentials::default()
    }

    /// The credentials of one file, which need not exist.
    pub fn at(path: &Path) -> Credentials {
        Credentials {
            files: vec![path.to_owned()],
            home: Some(path.to_owned()),
        }
    }

    /// The places of docker and podman: `$REGISTRY_AUTH_FILE` alone where it is set, else
    /// `$XDG_RUNTIME_DIR/containers/auth.json`, `$XDG_CONFIG_HOME/containers/auth.json` (`~/.config`),
    /// `$DOCKER_CONFIG/config.json` (`~/.docker`). Logins are written to docker's file.
    pub fn from_env() -> Credentials {
        let path = |name: &str| {
            let value = env::var_os(name).filter(|v| !v.is_empty());
            value.map(PathBuf::from)
        };
        if let Some(file) = path("REGISTRY_AUTH_FILE") {
            return Credentials::at(&file);
        }
        let home = path("HOME");
        let config = path("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let docker = path("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
        let docker = docker.map(|dir| dir.join("config.json"));
        let containers = [path("XDG_RUNTIME_DIR"), config];
        let containers = containers
            .into_iter()
            .flatten()
            .map(|d| d.join("containers/auth.json"));
        Credentials {
            files: containers.chain(docker.clone()).collect(),
            home: docker,
        }
    }

    /// The login for a repository: of the most exact key that fits, `HOST/PATH/…` before `HOST`.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Login>, CredentialError> {
        for path in &self.files {
            let Some(file) = ConfigFile::read(path)? else {
                continue;
            };
            if let Some(helper) = file.helper(registry)
                && let Some(login) = helper.get(registry)?
            {
                return Ok(Some(login));
            }
            if let Some(login) = file.login(registry, repository)? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    /// Keeps a login: in the helper that the file names, else in the file itself, which stays as it is otherwise and can
    /// be read by its owner only. Tells where.
    pub fn store(
        &self,
        registry: &str,
        user: &str,
        password: &Secret,
    ) -> Result<String, CredentialError> {
        let path = self.home.as_deref().ok_or(CredentialError::NoPlace)?;
        let mut file = ConfigFile::read(path)?.unwrap_or_else(|| ConfigFile::empty(path));
        if let Some(helper) = file.helper(registry) {
            helper.store(registry, user, password)?;
            return Ok(helper.name().to_owned());
        }
        let auth = STANDARD.encode(format!("{user}:{}", password.reveal()));
        let auths = file.object("auths")?;
        auths.retain(|key, _| !same_host(key, registry));
        auths.insert(key_of(registry).to_owned(), json!({ "auth": auth }));
        file.write()?;
        Ok(path.display().to_string())
    }

    /// Forgets the logins for a registry. Tells whether there was one.
    pub fn erase(&self, registry: &str) -> Result<bool, CredentialError> {
        let mut found = false;
        for path in &self.files {
            let Some(mut file) = ConfigFile::read(path)? else {
                continue;
            };
            if let Some(helper) = file.helper(registry)
                && helper.get(registry)?.is_some()
            {
                helper.erase(registry)?;
                found = true;
            }
            if file.value.get("auths").is_none() {
                continue;
            }
            let auths = file.object("auths")?;
            let before = auths.len();
            auths.retain(|key, _| !same_host(key, registry));
            if auths.len() != before {
                found = true;
                file.write()?;
            }
        }
        Ok(found)
    }
}

/// The key of a registry in files and helpers.
pub(super) fn key_of(registry: &str) -> &str {
    match registry {
        "docker.io" => DOCKER_HUB_KEY,
        other => other,
    }
}

/// A key as `HOST[/PATH]`: docker's may be URLs.
fn normal_key(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io",
        other => other,
    }
}

fn same_host(key: &str, registry: &str) -> bool {
    normal_key(key) == registry
}

struct ConfigFile {
    path: PathBuf,
    value: Map<String, Value>,
}

impl ConfigFile {
    fn empty(path: &Path) -> ConfigFile {
        ConfigFile {
            path: path.to_owned(),
            value: Map::new(),
        }
    }

    /// `None`: there is no such file.
    fn read(path: &Path) -> Result<Option<ConfigFile>, CredentialError> {
        let failed = |source| CredentialError::File {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let bytes = match fs::metadata(path) {
            Ok(meta) if meta.len() > MAX_FILE_BYTES => {
                return Err(failed(io::ErrorKind::FileTooLarge.into()));
            }
            Ok(_) => fs::read(path).map_err(failed)?,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(failed(e)),
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(value)) => Ok(Some(ConfigFile {
                path: path.to_owned(),
                value,
            })),
            Ok(_) => Err(malformed(path, "not a JSON object")),
            // Without the text around the place: it may hold a password.
            Err(e) => Err(malformed(
                path,
                &format!("not JSON, at line {}, column {}", e.line(), e.column()),
            )),
        }
    }

    fn helper(&self, registry: &str) -> Option<Helper> {
        let helpers = self.value.get("credHelpers").and_then(Value::as_object);
        let own = helpers
            .into_iter()
            .flatten()
            .find(|(key, _)| same_host(key, registry));
        let name = own
            .map(|(_, name)| name)
            .or_else(|| self.value.get("credsStore"))?;
        let name = name
            .as_str()
            .filter(|n| !n.is_empty() && !n.contains('/'))?;
        Some(Helper::new(name))
    }

    fn login(&self, registry: &str, repository: &str) -> Result<Option<Login>, CredentialError> {
        let Some(auths) = self.value.get("auths").and_then(Value::as_object) else {
            return Ok(None);
        };
        let mut wanted = format!("{registry}/{repository}");
        loop {
            for (key, entry) in auths {
                if normal_key(key) == wanted
                    && let Some(login) = self.entry(key, entry)?
                {
                    return Ok(Some(login));
                }
            }
            match wanted.rfind('/') {
                Some(at) => wanted.truncate(at),
                None => return Ok(None),
            }
        }
    }

    /// An empty entry only says that a helper has the login.
    fn entry(&self, key: &str, entry: &Value) -> Result<Option<Login>, CredentialError> {
        #[derive(Deserialize)]
        struct Entry {
            #[serde(default)]
            auth: String,
            #[serde(default)]
            username: String,
            #[serde(default)]
            password: String,
            #[serde(default)]
            identitytoken: String,
        }
        let bad = |why: &str| malformed(&self.path, &format!("the entry {key:?} {why}"));
        let entry = Entry::deserialize(entry).map_err(|_| bad("is not of the expected form"))?;
        if !entry.identitytoken.is_empty() {
            return Ok(Some(Login::IdentityToken(Secret::new(entry.identitytoken))));
        }
        if !entry.auth.is_empty() {
            let text = STANDARD
                .decode(entry.auth.trim())
                .ok()
                .and_then(|b| String::from_utf8(b).ok());
            let text = text.ok_or_else(|| bad("is not in base64"))?;
            let (user, password) = text
                .split_once(':')
                .ok_or_else(|| bad("has no colon after the user"))?;
            return Ok(Some(Login::Password {
                user: user.to_owned(),
                // Old versions of docker padded it with zeros.
                password: Secret::new(password.trim_end_matches('\0').to_owned()),
            }));
        }
        if entry.username.is_empty() {
            return Ok(None);
        }
        Ok(Some(Login::Password {
            user: entry.username,
            password: Secret::new(entry.password),
        }))
    }

    fn object(&mut self, name: &str) -> Result<&mut Map<String, Value>, CredentialError> {
        let entry = self.value.entry(name).or_insert_with(|| json!({}));
        let path = &self.path;
        entry
            .as_object_mut()
            .ok_or_else(|| malformed(path, &format!("{name:?} is not an object")))
    }

    fn write(&self) -> Result<(), CredentialError> {
        let write = || {
            // A link stays a link: dotfiles are often kept elsewhere.
            let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
            let dir = path.parent().unwrap_or(Path::new("."));
            if !dir.exists() {
                use std::os::unix::fs::DirBuilderExt as _;
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(dir)?;
            }
            // Temporary files are made with mode 0600.
            let mut temp = tempfile::Builder::new().prefix(".tmp").tempfile_in(dir)?;
            let mut text = serde_json::to_vec_pretty(&self.value).map_err(io::Error::other)?;
            text.push(b'\n');
            temp.write_all(&text)?;
            temp.as_file().sync_all()?;
            temp.persist(&path)?;
            Ok(())
        };
        write().map_err(|source| CredentialError::File {
            action: "write",
            path: self.path.clone(),
            source,
        })
    }
}

fn malformed(path: &Path, why: &str) -> CredentialError {
    CredentialError::Malformed {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(login: Option<Login>) -> String {
        match login {
            None => "-".to_owned(),
            Some(Login::Password { user, password }) => format!("{user}/{}", password.reveal()),
            Some(Login::IdentityToken(token)) => format!("token {}", token.reveal()),
        }
    }

    #[test]
    fn the_most_exact_key_wins() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config.json");
        let auth = |text: &str| STANDARD.encode(text);
        let text = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": auth("hub:a:b")},
            "https://reg.example/v2/": {"username": "u", "password": "p"},
            "reg.example/team": {"auth": auth("team:t")},
            "reg.example/team/app": {"identitytoken": "refresh"},
            "127.0.0.1:5000": {"auth": auth("local:l")},
            "helper.example": {},
        }});
        fs::write(&path, text.to_string()).unwrap();
        let credentials = Credentials::at(&path);
        for (registry, repository, want) in [
            ("docker.io", "library/busybox", "hub/a:b"),
            ("reg.example", "other/app", "u/p"),
            ("reg.example", "team/other", "team/t"),
            ("reg.example", "team/app", "token refresh"),
            ("reg.example", "team/apple", "team/t"),
            ("127.0.0.1:5000", "x", "local/l"),
            ("127.0.0.1:5001", "x", "-"),
            ("helper.example", "x", "-"),
        ] {
            assert_eq!(
                shown(credentials.find(registry, repository).unwrap()),
                want,
                "{registry}/{repository}"
            );
        }
    }

    #[test]
    fn a_login_keeps_the_rest_of_the_file_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("new/config.json");
        let credentials = Credentials::at(&path);
        assert!(!credentials.erase("reg.example").unwrap());
        credentials
            .store("reg.example", "me", &Secret::new("one".to_owned()))
            .unwrap();
        let mut file = ConfigFile::read(&path).unwrap().unwrap();
        file.value.insert("other".to_owned(), json!([1]));
        file.write().unwrap();
        credentials
            .store("docker.io", "hub", &Secret::new("h".to_owned()))
            .unwrap();
        credentials
            .store("reg.example", "me", &Secret::new("two".to_owned()))
            .unwrap();
        assert_eq!(
            shown(credentials.find("reg.example", "x").unwrap()),
            "me/two"
        );
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("https://index.docker.io/v1/") && text.contains("\"other\""),
            "{text}"
        );
        assert!(credentials.erase("docker.io").unwrap());
        assert_eq!(shown(credentials.find("docker.io", "x").unwrap()), "-");
        assert_eq!(fs::read_dir(temp.path().join("new")).unwrap().count(), 1);
    }

    #[test]
    fn malformed_files_are_said_so_without_their_text() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config.json");
        for text in [
            "{\"auths\": {\"r\": {\"auth\": \"hunter2",
            "[\"hunter2\"]",
            "{\"auths\": {\"r\": {\"auth\": \"hunter2!\"}}}",
            "{\"auths\": {\"r\": {\"auth\": {\"hunter2\": 1}}}}",
        ] {
            fs::write(&path, text).unwrap();
            let error = Credentials::at(&path)
                .find("r", "x")
                .err()
                .unwrap()
                .to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        fs::write(&path, "\n").unwrap();
        assert!(Credentials::at(&path).find("r", "x").unwrap().is_none());
    }
}
