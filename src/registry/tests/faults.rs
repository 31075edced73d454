use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;

use super::super::{Client, ClientOptions, Credentials, RegistryError, Remote, Secret};
use super::server::{Registry, Reply, Request, Server};
use crate::image::testing::{self, Memory, chain};
use crate::image::{CopyError, CopyOptions, Silent, Source as _, copy};
use crate::oci::{Digest, MediaType};

fn options() -> ClientOptions {
    ClientOptions {
        first_wait: Duration::ZERO,
        ..ClientOptions::default()
    }
}

struct World {
    registry: Arc<Registry>,
    server: Server,
    client: Arc<Client>,
}

impl World {
    fn new() -> World {
        World::guarded(options(), |_| None)
    }

    /// A registry with a guard that may answer first.
    fn guarded(
        options: ClientOptions,
        guard: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> World {
        let registry = Arc::new(Registry::default());
        let inner = Arc::clone(&registry);
        let server =
            Server::start(move |request| guard(request).unwrap_or_else(|| inner.reply(request)));
        World {
            registry,
            server,
            client: Arc::new(Client::new(options)),
        }
    }

    fn remote(&self, name: &str) -> Remote {
        self.client
            .remote(&format!("{}/{name}", self.server.host()).parse().unwrap())
    }

    fn push(&self, image: &Memory, name: &str) -> Result<(), CopyError> {
        copy(image, &self.remote(name), &CopyOptions::default(), &Silent).map(drop)
    }

    fn pull(&self, name: &str) -> Result<Memory, CopyError> {
        let memory = Memory::default();
        copy(
            &self.remote(name),
            &memory,
            &CopyOptions::default(),
            &Silent,
        )?;
        Ok(memory)
    }

    fn pull_error(&self, name: &str) -> String {
        let error = self.pull(name).expect_err("the pull must fail");
        assert_eq!(self.registry.faults_left(), 0, "{}", chain(&error));
        chain(&error)
    }
}

fn blob_path(bytes: &[u8]) -> String {
    format!("GET /v2/app/blobs/{}", Digest::of(bytes))
}

#[test]
fn a_round_trip_keeps_every_byte() {
    let world = World::new();
    let image = testing::index_image();
    world.push(&image, "app:1").unwrap();
    assert_eq!(world.pull("app:1").unwrap(), image);
    let digest = image.named().unwrap();
    assert_eq!(world.pull(&format!("app@{digest}")).unwrap(), image);
    assert_eq!(world.remote("app:1").digest().unwrap(), Some(digest));
    assert_eq!(world.remote("app:2").digest().unwrap(), None);

    // A second push sends no blob, and the root only under its tag.
    let puts = world.server.count("PUT");
    world.push(&image, "app:2").unwrap();
    assert_eq!(world.server.count("POST"), image.blob_count());
    assert_eq!(world.server.count("PUT"), puts + image.manifest_count());
    assert_eq!(world.server.count("PUT /v2/app/manifests/2"), 1);
    assert_eq!(
        world
            .server
            .count(&format!("PUT /v2/app/manifests/{digest}")),
        0
    );
}

#[test]
fn what_passes_is_waited_for() {
    let world = World::new();
    let image = testing::image(&[b"a layer"]);
    world
        .registry
        .fail("POST", Reply::new(429).with("Retry-After", "0"));
    world.registry.fail("PUT /v2/app/blobs", Reply::new(503));
    world
        .registry
        .fail("PUT /v2/app/blobs", Reply::new(201).cut(None));
    world
        .registry
        .fail("PUT /v2/app/manifests", Reply::new(500));
    world.push(&image, "app").unwrap();
    world.registry.fail(
        "GET /v2/app/manifests",
        Reply::new(429).with("Retry-After", "0"),
    );
    world
        .registry
        .fail("GET /v2/app/manifests", Reply::new(200).cut(None));
    world.registry.fail(&blob_path(b"a layer"), Reply::new(503));
    assert_eq!(world.pull("app").unwrap(), image);
    assert_eq!(world.registry.faults_left(), 0);

    for _ in 0..options().attempts {
        world
            .registry
            .fail("GET /v2/app/manifests", Reply::new(503).body(b"busy"));
    }
    let text = world.pull_error("app");
    assert!(text.contains("answered 503: busy"), "{text}");
}

#[test]
fn a_broken_transfer_goes_on_where_it_ended() {
    let world = World::new();
    let layer: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let image = testing::image(&[&layer]);
    world.push(&image, "app").unwrap();
    let path = blob_path(&layer);
    let size = layer.len().to_string();
    world
        .registry
        .fail(&path, Reply::new(200).body(&layer).cut(Some(1000)));
    world.registry.fail(
        &path,
        Reply::new(206)
            .with("Content-Range", "bytes 1000-399999/400000")
            .body(&layer[1000..])
            .cut(Some(500)),
    );
    world.registry.fail(&path, Reply::new(503));
    // One that knows no ranges.
    world.registry.fail(
        &path,
        Reply::new(200)
            .with("Content-Length", &size)
            .body(&layer)
            .cut(Some(2000)),
    );
    assert_eq!(world.pull("app").unwrap(), image);
    assert_eq!(world.registry.faults_left(), 0);
    let ranges: Vec<_> = world
        .server
        .log()
        .iter()
        .filter_map(|r| r.header("range").map(str::to_owned))
        .collect();
    assert_eq!(
        ranges,
        ["bytes=1000-", "bytes=1500-", "bytes=1500-", "bytes=2000-"]
    );
}

#[test]
fn wrong_content_is_an_error() {
    let world = World::new();
    world.push(&testing::image(&[b"layer"]), "app").unwrap();
    let path = blob_path(b"layer");
    for (reply, want) in [
        (Reply::new(200).body(b"LAYER"), "does not match its digest"),
        (
            Reply::new(200).body(b"layers"),
            "6 bytes where the manifest says 5",
        ),
        (Reply::new(404), "not found in 127.0.0.1:"),
        (
            Reply::new(206)
                .with("Content-Range", "bytes 2-4/5")
                .body(b"yer"),
            "another part",
        ),
        (Reply::new(302), "a redirect without a valid address"),
        (
            Reply::new(418).body(b"\x1b[1mteapot\r\n"),
            "answered 418: [1mteapot",
        ),
    ] {
        world.registry.fail(&path, reply);
        let text = world.pull_error("app");
        assert!(text.contains(want), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
    }
    let manifest = "GET /v2/app/manifests";
    let huge = vec![b' '; 5 << 20];
    let other = Digest::of(b"other").to_string();
    for (reply, want) in [
        (Reply::new(200).body(&huge), "larger than 4194304 bytes"),
        (Reply::new(200).body(b"[]"), "malformed manifest"),
        (
            Reply::new(200)
                .body(b"{}")
                .with("Docker-Content-Digest", &other),
            "does not match its digest",
        ),
        (
            Reply::new(200).body(br#"{"schemaVersion":1}"#),
            "unsupported manifest schema version 1",
        ),
        (Reply::new(401), "pull access denied for"),
        (
            Reply::new(403).body(br#"{"errors":[{"code":"DENIED","message":"no"}]}"#),
            "server message: denied: no",
        ),
    ] {
        world.registry.fail(manifest, reply);
        let text = world.pull_error("app");
        assert!(text.contains(want), "{text}");
    }
    let text = world.pull_error("missing");
    assert!(
        text.contains("missing:latest not found in 127.0.0.1:"),
        "{text}"
    );
}

#[test]
fn a_source_that_fails_completes_no_upload() {
    let world = World::new();
    let image = testing::image(&[b"layer"]);
    image.corrupt(&Digest::of(b"layer"));
    let error = world.push(&image, "app").unwrap_err();
    assert!(
        chain(&error).contains("does not match its digest"),
        "{}",
        chain(&error)
    );
    let blobs = world.registry.blobs.lock().unwrap();
    assert!(
        !blobs
            .keys()
            .any(|(_, d)| *d == Digest::of(b"layer").to_string())
    );
    assert!(world.registry.manifests.lock().unwrap().is_empty());
}

#[test]
fn large_requests_that_are_refused_go_in_chunks() {
    let world = World::new();
    let layer = vec![7; (8 << 20) + 5];
    let image = testing::image(&[&layer]);
    world.registry.fail("PUT /v2/app/blobs", Reply::new(413));
    world.registry.fail("PATCH", Reply::new(503));
    let options = CopyOptions {
        jobs: std::num::NonZero::<usize>::MIN,
        ..CopyOptions::default()
    };
    copy(&image, &world.remote("app"), &options, &Silent).unwrap();
    assert_eq!(world.server.count("PATCH"), 3);
    assert_eq!(world.pull("app").unwrap(), image);
}

#[test]
fn blobs_are_mounted_from_the_same_registry() {
    let world = World::new();
    let image = testing::image(&[b"one", b"two"]);
    world.push(&image, "first").unwrap();
    let posts = world.server.count("POST");
    let copied = copy(
        &world.remote("first"),
        &world.remote("second"),
        &CopyOptions::default(),
        &Silent,
    )
    .unwrap();
    assert_eq!((copied.mounted, copied.written), (3, 0));
    assert_eq!(world.server.count("POST"), posts + 3);
    assert_eq!(world.pull("second").unwrap(), image);
    // A mount that comes to nothing has begun the upload.
    for _ in 0..3 {
        world.registry.fail("HEAD /v2/third", Reply::new(404));
    }
    let gone = Digest::of(b"one").to_string();
    let kept = world
        .registry
        .blobs
        .lock()
        .unwrap()
        .get(&("first".to_owned(), gone.clone()))
        .cloned()
        .unwrap();
    let location = "/v2/third/blobs/uploads/x";
    world.registry.fail(
        &format!("POST /v2/third/blobs/uploads/?mount={gone}"),
        Reply::new(202).with("Location", location),
    );
    world
        .registry
        .fail(&format!("PUT {location}"), Reply::new(201));
    copy(
        &world.remote("first"),
        &world.remote("third"),
        &CopyOptions::default(),
        &Silent,
    )
    .unwrap();
    let put = world
        .server
        .log()
        .into_iter()
        .find(|r| r.target.starts_with(location))
        .unwrap();
    assert_eq!(put.body, kept);
}

fn with_login(user: &str, password: &str, dir: &std::path::Path, host: &str) -> ClientOptions {
    let credentials = Credentials::at(&dir.join("config.json"));
    credentials
        .store(host, user, &Secret::new(password.to_owned()))
        .unwrap();
    ClientOptions {
        credentials,
        ..options()
    }
}

fn basic(user: &str, password: &str) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {pair}")
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() {
    let temp = tempfile::tempdir().unwrap();
    let elsewhere = Server::start(|_| Reply::new(200).body(b"layer"));
    let location = format!("http://{}/blob", elsewhere.host());
    let want = basic("me", "secret");
    let mut world = World::guarded(options(), move |request| {
        if request.header("authorization") != Some(&want) {
            return Some(Reply::new(401).with("WWW-Authenticate", "Basic realm=\"x\""));
        }
        let layer = request.line() == blob_path(b"layer");
        layer.then(|| Reply::new(307).with("Location", &location))
    });
    let options = with_login("me", "secret", temp.path(), &world.server.host());
    world.client = Arc::new(Client::new(options));
    let image = testing::image(&[b"layer"]);
    world.push(&image, "app").unwrap();
    assert_eq!(world.pull("app").unwrap(), image);
    let seen = elsewhere.log();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
    // The registry showed its challenge when it was probed: no request was made in vain.
    let vain = world
        .server
        .log()
        .into_iter()
        .filter(|r| r.header("authorization").is_none())
        .count();
    assert_eq!(vain, 1);

    let wrong = with_login("me", "wrong", temp.path(), &world.server.host());
    world.client = Arc::new(Client::new(wrong));
    let text = world.pull_error("app");
    assert!(text.contains("pull access denied for"), "{text}");
    assert!(!text.contains("wrong") && !text.contains("Basic"), "{text}");
    let error = world
        .client
        .check_login(&world.server.host(), "me", &Secret::new("no".to_owned()));
    assert!(matches!(error, Err(RegistryError::Unauthorized { .. })));
    let client = Client::new(super::faults::options());
    client
        .check_login(
            &world.server.host(),
            "me",
            &Secret::new("secret".to_owned()),
        )
        .unwrap();
}

#[test]
fn tokens_are_fetched_once_for_each_scope_and_again_when_they_end() {
    let issued = Arc::new(AtomicUsize::new(0));
    let revoked = Arc::new(AtomicUsize::new(0));
    let numbers = Arc::clone(&issued);
    let tokens = Server::start(move |request| {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        assert!(
            request.target.contains("service=reg%20istry"),
            "{}",
            request.target
        );
        Reply::new(200).body(format!(r#"{{"token":"t{number}","expires_in":300}}"#).as_bytes())
    });
    let realm = format!("http://{}/token", tokens.host());
    let least = Arc::clone(&revoked);
    let world = World::guarded(options(), move |request| {
        let least = least.load(Ordering::Relaxed);
        let number = request
            .header("authorization")
            .and_then(|h| h.strip_prefix("Bearer t")?.parse::<usize>().ok());
        if number.is_some_and(|n| n >= least) {
            return None;
        }
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"reg istry\",scope=\"repository:app:pull\"");
        Some(Reply::new(401).with("WWW-Authenticate", &challenge))
    });
    let image = testing::image(&[b"one", b"two", b"three"]);
    world.push(&image, "app").unwrap();
    assert_eq!(issued.load(Ordering::Relaxed), 1);
    assert!(
        tokens.log()[0]
            .target
            .contains("scope=repository%3Aapp%3Apull%2Cpush")
    );
    assert_eq!(world.pull("app").unwrap(), image);
    assert_eq!(issued.load(Ordering::Relaxed), 2);
    // All tokens so far stop to work; the five threads need one new one, or a few when they notice together.
    revoked.store(2, Ordering::Relaxed);
    assert_eq!(world.pull("app").unwrap(), image);
    assert!((3..=8).contains(&issued.load(Ordering::Relaxed)));
}

#[test]
fn an_identity_token_is_exchanged() {
    let temp = tempfile::tempdir().unwrap();
    let tokens = Server::start(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        if !body.contains("refresh_token=refresh%2Bme")
            || !body.contains("grant_type=refresh_token")
        {
            return Reply::new(401).body(br#"{"details":"incorrect token"}"#);
        }
        Reply::new(200).body(br#"{"access_token":"good"}"#)
    });
    let realm = format!("http://{}/token", tokens.host());
    let mut world = World::guarded(options(), move |request| {
        let fine = request.header("authorization") == Some("Bearer good");
        (!fine)
            .then(|| Reply::new(401).with("WWW-Authenticate", &format!("Bearer realm=\"{realm}\"")))
    });
    let image = testing::image(&[b"one"]);
    for (token, fine) in [("refresh+me", true), ("another", false)] {
        let path = temp.path().join("config.json");
        let text = serde_json::json!({"auths": {world.server.host(): {"identitytoken": token}}});
        std::fs::write(&path, text.to_string()).unwrap();
        world.client = Arc::new(Client::new(ClientOptions {
            credentials: Credentials::at(&path),
            ..options()
        }));
        match world.push(&image, "app") {
            Ok(()) => assert!(fine),
            Err(error) => {
                let text = chain(&error);
                assert!(
                    !fine && text.contains("refused the credentials: incorrect token"),
                    "{text}"
                );
                assert!(!text.contains("another"), "{text}");
            }
        }
    }
}

#[test]
fn hostile_token_servers_are_refused() {
    for (answer, want) in [
        (
            Reply::new(200).body(b"{\"token\": 5, \"hunter2\""),
            "malformed JSON in place of a token",
        ),
        (Reply::new(200).body(b"{}"), "no token"),
        (
            Reply::new(200).body(b"{\"token\":\"a\\nb\"}"),
            "no header can hold",
        ),
        (Reply::new(403).body(b"go away"), "server message: go away"),
    ] {
        let tokens = Server::start(move |_| answer.clone());
        let realm = format!("http://{}/token", tokens.host());
        let world = World::guarded(options(), move |_| {
            Some(Reply::new(401).with("WWW-Authenticate", &format!("Bearer realm=\"{realm}\"")))
        });
        let text = world.pull_error("app");
        assert!(text.contains(want) && !text.contains("hunter2"), "{text}");
    }
    let world = World::guarded(options(), |_| {
        Some(Reply::new(401).with("WWW-Authenticate", "Bearer realm=\"file:///etc/passwd\""))
    });
    let text = world.pull_error("app");
    assert!(text.contains("a token server"), "{text}");
}

#[test]
fn nobody_there_is_said_with_host_and_port() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let client = Arc::new(Client::new(options()));
    let remote = client.remote(&format!("127.0.0.1:{port}/app").parse().unwrap());
    let text = chain(&remote.root().unwrap_err());
    assert!(
        text.contains(&format!(
            "cannot connect to 127.0.0.1:{port}: connection refused"
        )),
        "{text}"
    );
}

#[test]
fn tags_are_listed_page_by_page_and_not_elsewhere() {
    let pages = Arc::new(Mutex::new(vec![
        Reply::new(200)
            .body(br#"{"tags":["a","b"]}"#)
            .with("Link", "</v2/app/tags/list?last=b&n=2>; rel=\"next\""),
        Reply::new(200).body(br#"{"tags":["c"]}"#),
        Reply::new(200)
            .body(br#"{"tags":["a"]}"#)
            .with("Link", "<http://127.0.0.1:1/x>; rel=\"next\""),
        Reply::new(200).body(br#"{"tags":["a b"]}"#),
        Reply::new(200).body(br#"{"tags":null}"#),
    ]));
    let world = World::guarded(options(), move |request| {
        let list = request.target.contains("/tags/list");
        list.then(|| pages.lock().unwrap().remove(0))
    });
    let tags = || world.remote("app").tags();
    assert_eq!(tags().unwrap(), ["a", "b", "c"]);
    assert!(matches!(tags(), Err(RegistryError::Answer { .. })));
    assert!(matches!(tags(), Err(RegistryError::Tag { .. })));
    assert!(tags().unwrap().is_empty());
}

#[test]
fn the_kind_of_a_manifest_is_what_it_says_before_what_the_header_says() {
    let world = World::new();
    let image = testing::image(&[b"one"]);
    world.push(&image, "app").unwrap();
    world
        .registry
        .manifests
        .lock()
        .unwrap()
        .values_mut()
        .for_each(|(m, _)| *m = "text/plain; charset=utf-8".to_owned());
    assert_eq!(
        world.remote("app").root().unwrap().media_type,
        MediaType::OciManifest
    );
}
