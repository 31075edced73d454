//! What every command shares: where the store is, what this process may do, and whether the user wants it to end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use strata::registry::Client;
use strata::sandbox::cgroup;
use strata::sandbox::userns::{self, Privilege};
use strata::store::{Store, StoreOptions};

use super::error::{CliError, Doing as _};
use super::registry::RegistryArgs;
use super::{interrupt, output};

/// The store of an ordinary user, below the data folder.
const USER_STORE: &str = "strata";

/// The store of root.
const SYSTEM_STORE: &str = "/var/lib/strata";

/// A command's surroundings.
pub(crate) struct Session {
    root: PathBuf,
    /// As `--root` or the environment has it.
    given_root: Option<PathBuf>,
    privilege: Privilege,
    cancel: Arc<AtomicBool>,
    client: Arc<Client>,
}

/// Whether a command works on unpacked layers, which may belong to any user of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Needs {
    /// Names and blobs only.
    Blobs,
    /// Unpacked layers: an ordinary user becomes root of a user namespace for it.
    Layers,
}

/// Where the store is. `var` is the environment; `is_root` is said of the user who called, outside any user namespace.
fn default_root(is_root: bool, var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name: &str| var(name).filter(|p| p.is_absolute());
    if is_root {
        return Some(PathBuf::from(SYSTEM_STORE));
    }
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|h| h.join(".local/share")))
        .map(|d| d.join(USER_STORE))
}

impl Session {
    /// Prepares a command. Called before any thread is started.
    pub(crate) fn start(
        root: Option<&Path>,
        registries: &RegistryArgs,
        needs: Needs,
    ) -> Result<Session, CliError> {
        // Asked before the user namespace is entered: inside, everybody is root.
        let is_root = rustix::process::geteuid().is_root();
        let given_root = root
            .map(Path::to_owned)
            .filter(|r| !r.as_os_str().is_empty());
        let root = given_root
            .clone()
            .or_else(|| default_root(is_root, |n| std::env::var_os(n).map(PathBuf::from)))
            .ok_or_else(|| {
                CliError::Refused(
                    "no place for a store: set HOME, or choose one with --root".to_owned(),
                )
            })?;
        let privilege = match needs {
            Needs::Blobs => userns::current().clone(),
            Needs::Layers => userns::enter().doing(|| "become able to unpack layers".to_owned())?,
        };
        if let Privilege::Single { reason } = &privilege
            && needs == Needs::Layers
        {
            output::note(&format!(
                "note: only one user id is available ({reason}); files keep their recorded owners in the image, but commands see one owner"
            ));
        }
        if needs == Needs::Layers {
            // What a killed command's sandboxes left; the store removes the rest.
            cgroup::reap();
        }
        let cancel = interrupt::install().doing(|| "handle signals".to_owned())?;
        Ok(Session {
            root,
            given_root,
            privilege,
            cancel,
            client: registries.client(),
        })
    }

    /// Ends the process soon after the user wants that, whatever it is waiting for.
    pub(crate) fn insist(self) -> Result<Session, CliError> {
        interrupt::insist().doing(|| "handle signals".to_owned())?;
        Ok(self)
    }

    /// How another command on the same store is typed: `strata`, or `strata --root DIR`.
    pub(crate) fn again(&self) -> String {
        let elsewhere = self
            .given_root
            .as_ref()
            .filter(|root| std::env::var_os("STRATA_ROOT").is_none_or(|env| **root != *env));
        match elsewhere {
            Some(root) => format!("strata --root {}", root.display()),
            None => "strata".to_owned(),
        }
    }

    /// The client for all registries.
    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// What this process may do.
    pub(crate) fn privilege(&self) -> &Privilege {
        &self.privilege
    }

    /// The store if there is one: a copy between two other places makes none.
    pub(crate) fn store_if_there(&self) -> Result<Option<Store>, CliError> {
        if self.root.join("strata.json").exists() {
            self.store().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Opens the store; made if it is not there.
    pub(crate) fn store(&self) -> Result<Store, CliError> {
        let options = StoreOptions {
            user_xattrs: self.privilege.userxattr(),
            single_id: !self.privilege.can_chown(),
            can_mknod: self.privilege.can_mknod(),
        };
        Store::open(&self.root, options).doing(|| format!("open the store {}", self.root.display()))
    }

    /// Set when the user wants the command to end.
    pub(crate) fn cancel(&self) -> &AtomicBool {
        &self.cancel
    }

    /// The same, for threads.
    pub(crate) fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// Whether the user wants the command to end.
    pub(crate) fn is_canceled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_by_user_and_environment() {
        let root = |is_root, set: &'static [(&str, &str)]| {
            default_root(is_root, |name| {
                set.iter()
                    .find(|(k, _)| *k == name)
                    .map(|(_, v)| PathBuf::from(v))
            })
        };
        for (is_root, set, want) in [
            (true, &[("HOME", "/h")][..], Some("/var/lib/strata")),
            (false, &[("HOME", "/h")], Some("/h/.local/share/strata")),
            (
                false,
                &[("HOME", "/h"), ("XDG_DATA_HOME", "/x")],
                Some("/x/strata"),
            ),
            (
                false,
                &[("HOME", "/h"), ("XDG_DATA_HOME", "relative")],
                Some("/h/.local/share/strata"),
            ),
            (false, &[], None),
        ] {
            assert_eq!(root(is_root, set), want.map(PathBuf::from), "{set:?}");
        }
    }
}
