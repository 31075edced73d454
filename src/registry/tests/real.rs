//! Debian's docker-registry, and skopeo as a second reader.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Client, ClientOptions, Credentials, Secret};
use crate::image::testing::{self, Memory, chain};
use crate::image::{CopyOptions, Silent, Source as _, copy};

struct Daemon {
    child: Child,
    host: String,
    _dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a registry; `more` is what its configuration says besides, given the folder it may put files into.
fn start(more: impl Fn(&Path) -> (String, String)) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let (http, rest) = more(dir.path());
    // Another process can take the port between its choice and its use: then another is chosen.
    for _ in 0..5 {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let root = dir.path().display();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n{http}{rest}"
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new("docker-registry")
            .args(["serve", path.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) && child.try_wait().unwrap().is_none() {
            if std::net::TcpStream::connect(address).is_ok() {
                return Daemon {
                    child,
                    host: address.to_string(),
                    _dir: dir,
                };
            }
            std::thread::yield_now();
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("the registry does not start");
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the tool is installed");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

fn round_trip(client: &Arc<Client>, host: &str) {
    let image = testing::gzip_image();
    let remote = client.remote(&format!("{host}/team/app:1").parse().unwrap());
    copy(&image, &remote, &CopyOptions::default(), &Silent).unwrap();
    let back = Memory::default();
    let remote = client.remote(&format!("{host}/team/app:1").parse().unwrap());
    copy(&remote, &back, &CopyOptions::default(), &Silent).unwrap();
    assert_eq!(back, image);
    assert_eq!(remote.digest().unwrap(), image.named());
    assert_eq!(remote.tags().unwrap(), ["1"]);
}

#[test]
fn push_pull_mount_delete_and_skopeo() {
    let daemon = start(|_| (String::new(), String::new()));
    let client = Arc::new(Client::new(ClientOptions::default()));
    let host = &daemon.host;
    round_trip(&client, host);
    let index = testing::index_image();
    let reference = |name: &str| format!("{host}/{name}").parse().unwrap();
    copy(
        &index,
        &client.remote(&reference("index:2")),
        &CopyOptions::default(),
        &Silent,
    )
    .unwrap();
    let back = Memory::default();
    copy(
        &client.remote(&reference("index:2")),
        &back,
        &CopyOptions::default(),
        &Silent,
    )
    .unwrap();
    assert_eq!(back, index);

    let copied = copy(
        &client.remote(&reference("team/app:1")),
        &client.remote(&reference("other:1")),
        &CopyOptions::default(),
        &Silent,
    )
    .unwrap();
    assert_eq!((copied.mounted, copied.written), (2, 0));

    let inspected = run(Command::new("skopeo").args([
        "inspect",
        "--tls-verify=false",
        &format!("docker://{host}/team/app:1"),
    ]));
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(
        inspected["Digest"],
        testing::gzip_image().named().unwrap().to_string()
    );
    let dir = tempfile::tempdir().unwrap();
    run(Command::new("skopeo").args([
        "copy",
        "--src-tls-verify=false",
        &format!("docker://{host}/team/app:1"),
        &format!("oci:{}:x", dir.path().join("layout").display()),
    ]));

    let remote = client.remote(&reference("other:1"));
    remote.delete().unwrap();
    assert_eq!(client.remote(&reference("other:1")).digest().unwrap(), None);
    let text = chain(&client.remote(&reference("other:1")).root().unwrap_err());
    assert!(text.contains("other:1 not found in"), "{text}");
}

#[test]
fn passwords() {
    let daemon = start(|dir| {
        let file = run(Command::new("htpasswd").args(["-Bbn", "-C", "4", "me", "secret"]));
        std::fs::write(dir.join("htpasswd"), file).unwrap();
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}/htpasswd\n",
            dir.display()
        );
        (String::new(), auth)
    });
    let anonymous = Arc::new(Client::new(ClientOptions::default()));
    let remote = anonymous.remote(&format!("{}/app", daemon.host).parse().unwrap());
    let text = chain(&remote.root().unwrap_err());
    assert!(
        text.contains("pull access denied") && text.contains("authentication required"),
        "{text}"
    );

    let temp = tempfile::tempdir().unwrap();
    let credentials = Credentials::at(&temp.path().join("config.json"));
    let secret = Secret::new("secret".to_owned());
    anonymous.check_login(&daemon.host, "me", &secret).unwrap();
    credentials.store(&daemon.host, "me", &secret).unwrap();
    let client = Arc::new(Client::new(ClientOptions {
        credentials,
        ..ClientOptions::default()
    }));
    round_trip(&client, &daemon.host);
    // What strata stores, others read.
    run(Command::new("skopeo").args([
        "inspect",
        "--tls-verify=false",
        "--authfile",
        temp.path().join("config.json").to_str().unwrap(),
        &format!("docker://{}/team/app:1", daemon.host),
    ]));
}

#[test]
fn tls_with_an_own_ca() {
    let certificates = tempfile::tempdir().unwrap();
    let dir = certificates.path().to_owned();
    let openssl = |words: &str| {
        run(Command::new("openssl")
            .args(words.split(' '))
            .current_dir(&dir)
            .stderr(Stdio::null()));
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt",
    );
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1 -keyout tls.key -out tls.csr",
    );
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out tls.crt",
    );
    let daemon = start(|_| {
        let tls = format!(
            "  tls:\n    certificate: {0}/tls.crt\n    key: {0}/tls.key\n",
            dir.display()
        );
        (tls, String::new())
    });
    let client = |options| Arc::new(Client::new(options));
    let strange = client(ClientOptions::default());
    let text = chain(
        &strange
            .remote(&format!("{}/x", daemon.host).parse().unwrap())
            .root()
            .unwrap_err(),
    );
    assert!(text.contains("--tls-ca"), "{text}");
    for extra in [dir.join("ca.crt"), dir.clone()] {
        std::fs::remove_file(dir.join("tls.crt")).ok();
        round_trip(
            &client(ClientOptions {
                certificates: vec![extra],
                ..ClientOptions::default()
            }),
            &daemon.host,
        );
    }
    let insecure = client(ClientOptions {
        insecure: vec![daemon.host.clone()],
        ..ClientOptions::default()
    });
    round_trip(&insecure, &daemon.host);
}
