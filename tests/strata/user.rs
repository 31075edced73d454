//! The ordinary user who runs the rootless tests: an account with a range of subordinate ids, made when it is missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The account's name. It stays after the tests: making it again would take another range of ids.
const NAME: &str = "strata-tests";

/// An account to run a builder as.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: PathBuf,
}

impl User {
    /// The tests' ordinary user.
    pub(crate) fn ordinary() -> User {
        static USER: OnceLock<User> = OnceLock::new();
        USER.get_or_init(|| {
            look_up().unwrap_or_else(|| {
                // Without these files useradd hands out no ranges.
                for file in ["/etc/subuid", "/etc/subgid"] {
                    std::fs::OpenOptions::new()
                        .create(true)
                        .append(true)
                        .open(file)
                        .expect(file);
                }
                let made = Command::new("useradd")
                    .args(["--create-home", "--shell", "/bin/sh", NAME])
                    .output();
                let made = made.expect("start useradd");
                look_up()
                    .unwrap_or_else(|| panic!("useradd: {}", String::from_utf8_lossy(&made.stderr)))
            })
        })
        .clone()
    }

    /// A user without an account, and so without subordinate ids.
    pub(crate) fn unknown() -> User {
        User {
            name: "nobody-in-particular".to_owned(),
            uid: 61_234,
            gid: 61_234,
            home: PathBuf::from("/"),
        }
    }

    /// Gives everything at and below `path` to the user.
    pub(crate) fn own(&self, path: &Path) -> std::io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))?;
        if path.symlink_metadata()?.is_dir() {
            for entry in std::fs::read_dir(path)? {
                self.own(&entry?.path())?;
            }
        }
        Ok(())
    }
}

fn look_up() -> Option<User> {
    let accounts = std::fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let fields: Vec<&str> = accounts
        .lines()
        .map(|line| line.split(':').collect())
        .find(|f: &Vec<&str>| f[0] == NAME)?;
    Some(User {
        name: NAME.to_owned(),
        uid: fields[2].parse().ok()?,
        gid: fields[3].parse().ok()?,
        home: PathBuf::from(fields[5]),
    })
}
