//! Secrets: read when a step needs them, kept in memory only, shown to nobody.

use std::path::PathBuf;

use super::BuildError;

/// The most a secret may hold (BuildKit's limit).
const MAX_BYTES: usize = 500 * 1024;

/// Where a secret is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretSource {
    /// A file of the host.
    File(PathBuf),
    /// A variable of strata's environment.
    Env(String),
}

/// The secrets of a build, by id.
#[derive(Clone, Debug, Default)]
pub struct Secrets(std::collections::BTreeMap<String, SecretSource>);

impl Secrets {
    /// Adds a secret; a later one of the same id counts.
    pub fn add(&mut self, id: &str, source: SecretSource) {
        self.0.insert(id.to_owned(), source);
    }

    /// Fails where a secret's file is not there, before anything is built.
    pub fn check(&self) -> Result<(), BuildError> {
        for (id, source) in &self.0 {
            if let SecretSource::File(path) = source {
                std::fs::metadata(path).map_err(|source| BuildError::ReadSecret {
                    id: id.clone(),
                    from: path.display().to_string(),
                    source,
                })?;
            }
        }
        Ok(())
    }

    /// A secret's bytes; `None` if the build has no such secret.
    pub(super) fn read(&self, id: &str) -> Result<Option<Vec<u8>>, BuildError> {
        let failed = |from: String, source| BuildError::ReadSecret {
            id: id.to_owned(),
            from,
            source,
        };
        let bytes = match self.0.get(id) {
            None => return Ok(None),
            Some(SecretSource::File(path)) => {
                std::fs::read(path).map_err(|source| failed(path.display().to_string(), source))?
            }
            Some(SecretSource::Env(name)) => {
                use std::os::unix::ffi::OsStringExt;
                match std::env::var_os(name) {
                    Some(value) => value.into_vec(),
                    None => return Ok(None),
                }
            }
        };
        if bytes.len() > MAX_BYTES {
            return Err(BuildError::SecretSize { id: id.to_owned() });
        }
        Ok(Some(bytes))
    }
}
