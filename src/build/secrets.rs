//! Secrets: read when a step needs them, kept in memory only, shown to nobody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

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
pub struct Secrets {
    sources: BTreeMap<String, SecretSource>,
    /// What was read: a pipe gives it only once.
    values: Arc<Mutex<Values>>,
}

#[derive(Default)]
struct Values(BTreeMap<String, Vec<u8>>);

// Values are for nobody to see.
impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Values")
    }
}

impl Secrets {
    /// Adds a secret; a later one of the same id counts.
    pub fn add(&mut self, id: &str, source: SecretSource) {
        self.sources.insert(id.to_owned(), source);
    }

    /// Fails where a secret's file is not there, before anything is built.
    pub fn check(&self) -> Result<(), BuildError> {
        for (id, source) in &self.sources {
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
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = values.0.get(id) {
            return Ok(Some(value.clone()));
        }
        let bytes = match self.sources.get(id) {
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
        values.0.insert(id.to_owned(), bytes.clone());
        Ok(Some(bytes))
    }

    /// Every secret with its bytes; `None` for one that cannot be read, which is told when a step wants it.
    pub(super) fn values(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let value = |id: &String| match self.read(id) {
            Ok(None) => None,
            Ok(value) => Some((id.clone(), value)),
            Err(_) => Some((id.clone(), None)),
        };
        self.sources.keys().filter_map(value).collect()
    }
}
