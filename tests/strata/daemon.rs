//! Debian's docker-registry on a free port.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running registry; dropping it ends it and removes what it holds.
pub(crate) struct Daemon {
    /// host:port
    pub(crate) host: String,
    child: Child,
    _folder: TempDir,
}

impl Daemon {
    pub(crate) fn start() -> Daemon {
        let parent =
            std::env::var_os("STRATA_TEST_DIR").unwrap_or_else(|| std::env::temp_dir().into());
        let folder = TempDir::with_prefix_in("strata-registry-", parent).expect("make a folder");
        // Another process can take the port between its choice and its use: then another is chosen.
        for _ in 0..5 {
            let free = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            let address = free.local_addr().expect("it is bound");
            drop(free);
            let config = format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
                 rootdirectory: {}/data\nhttp:\n  addr: {address}\n",
                folder.path().display()
            );
            let path = folder.path().join("config.yml");
            std::fs::write(&path, config).expect("write a file");
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(&path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("Debian's package docker-registry");
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(20)
                && child.try_wait().expect("it was started here").is_none()
            {
                if TcpStream::connect(address).is_ok() {
                    return Daemon {
                        host: address.to_string(),
                        child,
                        _folder: folder,
                    };
                }
                std::thread::yield_now();
            }
            drop(child.kill());
            drop(child.wait());
        }
        panic!("docker-registry does not start");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
