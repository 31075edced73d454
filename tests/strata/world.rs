//! What the cases stand on: base images, one server, git repositories, an ssh agent, and the folders they work in.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;

use crate::agent::Agent;
use crate::bases::Bases;
use crate::git;
use crate::server::{Content, Server};
use crate::tree::{Tree, flatten};
use crate::user::User;

/// 2024-01-01 in seconds since 1970: the time of every fixture and of every file of a case.
pub(crate) const EPOCH: i64 = 1_704_067_200;

/// Who builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The user who runs the tests.
    Me,
    /// An ordinary user; only root can become one.
    Ordinary,
}

/// The world of the tests that run at the same time. The last to let go of it removes it.
pub(crate) struct World {
    /// A folder a case: its context while it is built.
    pub(crate) work: PathBuf,
    /// The builder's storage, empty at first and shared by all cases.
    pub(crate) state: PathBuf,
    /// The builder under test, where every user can run it.
    pub(crate) binary: PathBuf,
    /// Whom the builder runs as when it is not who runs the tests.
    pub(crate) user: Option<User>,
    /// A word that no other run of the tests has.
    pub(crate) id: String,
    /// What `@TOKEN@` stands for in every case.
    pub(crate) tokens: BTreeMap<String, String>,
    bases: Arc<Bases>,
    listings: Mutex<BTreeMap<String, Arc<Tree>>>,
    // Dropped in this order: the servers before the folder they serve.
    _agent: Agent,
    _server: Server,
    folder: Option<TempDir>,
}

impl World {
    /// The world that running tests share, made when there is none.
    pub(crate) fn shared(who: Who) -> Arc<World> {
        static WORLDS: [Mutex<Weak<World>>; 2] = [const { Mutex::new(Weak::new()) }; 2];
        let mut slot = WORLDS[usize::from(who == Who::Ordinary)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        slot.upgrade().unwrap_or_else(|| {
            let made = Arc::new(World::new(who));
            *slot = Arc::downgrade(&made);
            made
        })
    }

    fn new(who: Who) -> World {
        let parent =
            std::env::var_os("STRATA_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = tempfile::Builder::new()
            .prefix("strata-tests-")
            .tempdir_in(parent)
            .expect("a folder to work in");
        let root = folder.path().canonicalize().expect("the folder is there");
        let (work, state, git) = (root.join("work"), root.join("state"), root.join("git"));
        for made in [&work, &state] {
            std::fs::create_dir(made).expect("make a folder");
        }
        let user = (who == Who::Ordinary).then(User::ordinary);
        if let Some(user) = &user {
            std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755))
                .expect("open the folder");
            for theirs in [&work, &state] {
                user.own(theirs).expect("give the folder away");
            }
        }
        let binary = root.join("strata");
        std::fs::copy(env!("CARGO_BIN_EXE_strata"), &binary).expect("copy the binary under test");
        let (bases, heads) = (Arc::new(Bases::new()), git::repositories(&git));
        let content = Content {
            bases: Arc::clone(&bases),
            git,
            work: work.clone(),
        };
        let server = Server::start(content).expect("listen on loopback");
        let socket = root.join("agent.sock");
        let agent = Agent::listen(&socket).expect("listen on a socket");
        let mut tokens = BTreeMap::from([
            ("REG".to_owned(), server.address.to_string()),
            ("GIT".to_owned(), format!("http://{}/git", server.address)),
            ("COMMIT".to_owned(), heads.main),
            ("DEV".to_owned(), heads.dev),
            ("SSH".to_owned(), socket.display().to_string()),
        ]);
        let latest = bases.tags.iter().filter(|((_, tag), _)| tag == "latest");
        tokens.extend(latest.map(|((name, _), digest)| (format!("DIGEST:{name}"), digest.clone())));
        let id = root
            .file_name()
            .expect("made with a name")
            .to_string_lossy();
        let id = id
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_lowercase();
        World {
            work,
            state,
            binary,
            user,
            id,
            tokens,
            bases,
            listings: Mutex::default(),
            _agent: agent,
            _server: server,
            folder: Some(folder),
        }
    }

    /// The address of the server.
    pub(crate) fn host(&self) -> &str {
        &self.tokens["REG"]
    }

    /// The files of a base image; none for a name that is no base.
    pub(crate) fn base(&self, name: &str, platform: &str) -> Arc<Tree> {
        let name = match (name, platform.split('/').nth(1)) {
            ("multi", Some(architecture)) => format!("multi-{architecture}"),
            _ => name.to_owned(),
        };
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let layers = self.bases.layers.get(&name).map_or(&[][..], Vec::as_slice);
            Arc::new(flatten(layers).expect("the base images are well made"))
        };
        Arc::clone(listings.entry(name.clone()).or_insert_with(make))
    }
}

#[expect(
    clippy::print_stderr,
    reason = "who keeps or loses a folder wants to know where it is"
)]
impl Drop for World {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else {
            return;
        };
        if std::env::var_os("STRATA_KEEP").is_some() {
            eprintln!("kept: {}", folder.keep().display());
            return;
        }
        let root = folder.path().to_owned();
        if folder.close().is_err() {
            // Files of subordinate ids, when the tests themselves run as an ordinary user: theirs to remove.
            let removed = std::process::Command::new("unshare")
                .args(["--map-auto", "--map-root-user", "rm", "-rf"])
                .arg(&root)
                .status();
            if !removed.is_ok_and(|status| status.success()) {
                eprintln!("cannot remove {}", root.display());
            }
        }
    }
}

/// Copies a folder with its symbolic links as they are.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path())?, target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
