//! A registry in memory that can be pulled from and pushed to, lies where a test wants it to, and can be made to wait.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::bases::Blob;
use crate::image::sha256;

/// How long a held request waits to be let go, and a test for a request to be held.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request: its method and path, and what it carries.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Arc<[u8]>,
    /// How much of the body is sent before the connection is closed; all of it if none.
    pub(crate) cut: Option<usize>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Arc<[u8]>>) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

/// What answers in place of the registry, where it answers.
type Fault = dyn Fn(&Asked) -> Option<Answer> + Send + Sync;

/// The running registry; dropping it stops it.
pub(crate) struct Registry {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    content: Mutex<Content>,
    fault: Mutex<Option<Arc<Fault>>>,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Content {
    /// By digest.
    blobs: BTreeMap<String, Blob>,
    /// (repository, tag) to the manifest's digest.
    tags: BTreeMap<(String, String), String>,
    uploads: u64,
}

#[derive(Default)]
struct Held {
    /// Method and part of a path: such a request is answered only when this is none.
    wanted: Option<(&'static str, &'static str)>,
    waiting: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Serves `blobs` and `tags` on a port of the system's choice.
    pub(crate) fn start(
        blobs: BTreeMap<String, Blob>,
        tags: BTreeMap<(String, String), String>,
    ) -> Registry {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen on loopback");
        let address = listener.local_addr().expect("it listens");
        let state = Arc::new(State {
            content: Mutex::new(Content {
                blobs,
                tags,
                uploads: 0,
            }),
            ..State::default()
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.stop.load(Ordering::SeqCst) {
                    break;
                }
                let state = Arc::clone(&shared);
                // A client that hangs up ends its own thread, nothing else.
                std::thread::spawn(move || drop(converse(&stream, &state)));
            }
        });
        Registry { address, state }
    }

    /// host:port
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Lets `fault` answer first from now on.
    pub(crate) fn fault(&self, fault: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) {
        *locked(&self.state.fault) = Some(Arc::new(fault));
    }

    /// Keeps back requests with this method whose path holds `part`, half answered if they are answered with a body.
    pub(crate) fn hold(&self, method: &'static str, part: &'static str) {
        locked(&self.state.held).wanted = Some((method, part));
    }

    /// Waits until a request is kept back.
    pub(crate) fn wait_held(&self) {
        let held = locked(&self.state.held);
        let (held, late) = self
            .state
            .changed
            .wait_timeout_while(held, PATIENCE, |held| held.waiting == 0)
            .unwrap_or_else(PoisonError::into_inner);
        drop(held);
        assert!(!late.timed_out(), "no request came that is to be held");
    }

    /// Lets go of what is held.
    pub(crate) fn release(&self) {
        let mut held = locked(&self.state.held);
        held.wanted = None;
        self.state.changed.notify_all();
        // All of it: the next hold must find none of this one.
        drop(
            self.state
                .changed
                .wait_timeout_while(held, PATIENCE, |held| held.waiting > 0)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Whether a manifest has this name.
    pub(crate) fn has_tag(&self, repository: &str, tag: &str) -> bool {
        let name = (repository.to_owned(), tag.to_owned());
        locked(&self.state.content).tags.contains_key(&name)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.release();
        // Wakes the accept.
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    /// Waits while the request is one that is held.
    fn pass(&self, asked: &Asked) {
        let is_held = |held: &Held| {
            held.wanted
                .is_some_and(|(method, part)| asked.method == method && asked.path.contains(part))
        };
        let mut held = locked(&self.held);
        if !is_held(&held) {
            return;
        }
        held.waiting += 1;
        self.changed.notify_all();
        let (mut held, _) = self
            .changed
            .wait_timeout_while(held, PATIENCE, |held| is_held(held))
            .unwrap_or_else(PoisonError::into_inner);
        held.waiting -= 1;
        self.changed.notify_all();
    }
}

/// Answers the requests of one connection until the client closes it.
fn converse(stream: &TcpStream, state: &State) -> std::io::Result<()> {
    let mut input = BufReader::new(stream);
    while let Some((asked, closes)) = read(&mut input)? {
        let fault = locked(&state.fault).clone();
        let answer = fault
            .and_then(|fault| fault(&asked))
            .unwrap_or_else(|| state.answer(&asked));
        let mut head = format!(
            "HTTP/1.1 {} -\r\nContent-Length: {}\r\n",
            answer.status,
            answer.body.len()
        );
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let body = match asked.method.as_str() {
            "HEAD" => &[],
            _ => &answer.body[..answer.cut.unwrap_or(answer.body.len())],
        };
        let (first, rest) = body.split_at(body.len() / 2);
        let mut out = stream;
        if first.is_empty() {
            state.pass(&asked);
        }
        out.write_all(head.as_bytes())?;
        out.write_all(first)?;
        if !first.is_empty() {
            state.pass(&asked);
        }
        out.write_all(rest)?;
        if closes || answer.cut.is_some() {
            break;
        }
    }
    Ok(())
}

/// The next request, and whether the client closes the connection after it.
fn read(input: &mut impl BufRead) -> std::io::Result<Option<(Asked, bool)>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let (mut length, mut chunked, mut closes) = (0, false, false);
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let lower = line.trim_end().to_ascii_lowercase();
        let Some((name, value)) = lower.split_once(':') else {
            break;
        };
        match (name, value.trim()) {
            ("content-length", value) => length = value.parse().unwrap_or(0),
            ("transfer-encoding", value) => chunked = value == "chunked",
            ("connection", value) => closes = value == "close",
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            line.clear();
            input.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            input.by_ref().take(size).read_to_end(&mut body)?;
            // The line end after a chunk's data, and after the last, empty one.
            line.clear();
            input.read_line(&mut line)?;
            if size == 0 {
                break;
            }
        }
    } else {
        input.by_ref().take(length).read_to_end(&mut body)?;
    }
    Ok(Some((Asked { method, path, body }, closes)))
}

impl State {
    fn answer(&self, asked: &Asked) -> Answer {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let Some(path) = path.strip_prefix("/v2/") else {
            return Answer::new(404, *b"");
        };
        if path.is_empty() {
            return Answer::new(200, *b"{}").with("Content-Type", "application/json");
        }
        if let Some((name, upload)) = path.split_once("/blobs/uploads/") {
            return self.upload(asked, name, upload, query);
        }
        let Some((rest, reference)) = path.rsplit_once('/') else {
            return Answer::new(404, *b"");
        };
        let mut content = locked(&self.content);
        match (asked.method.as_str(), rest.rsplit_once('/')) {
            ("PUT", Some((name, "manifests"))) => {
                let digest = format!("sha256:{}", sha256(&asked.body));
                let text: serde_json::Value =
                    serde_json::from_slice(&asked.body).unwrap_or_default();
                let blob = Blob {
                    data: asked.body.clone().into(),
                    media_type: text["mediaType"].as_str().unwrap_or_default().to_owned(),
                };
                content.blobs.insert(digest.clone(), blob);
                let name = (name.to_owned(), reference.to_owned());
                content.tags.insert(name, digest.clone());
                Answer::new(201, *b"").with("Docker-Content-Digest", digest)
            }
            ("GET" | "HEAD", Some((name, kind))) => {
                let named = (name.to_owned(), reference.to_owned());
                let digest = content
                    .tags
                    .get(&named)
                    .cloned()
                    .unwrap_or_else(|| reference.to_owned());
                match content.blobs.get(&digest) {
                    Some(blob) => Answer::new(200, Arc::clone(&blob.data))
                        .with(
                            "Content-Type",
                            match kind {
                                "manifests" => &blob.media_type,
                                _ => "application/octet-stream",
                            },
                        )
                        .with("Docker-Content-Digest", digest),
                    None => Answer::new(404, *b"{}"),
                }
            }
            _ => Answer::new(405, *b""),
        }
    }

    /// An upload: begun by POST, fed by PATCH, ended by PUT.
    fn upload(&self, asked: &Asked, name: &str, upload: &str, query: &str) -> Answer {
        let mut content = locked(&self.content);
        if asked.method == "POST" {
            content.uploads += 1;
            let location = format!("/v2/{name}/blobs/uploads/{}", content.uploads);
            return Answer::new(202, *b"").with("Location", location);
        }
        let key = format!("upload {upload}");
        let mut data = content
            .blobs
            .remove(&key)
            .map_or_else(Vec::new, |blob| blob.data.to_vec());
        data.extend_from_slice(&asked.body);
        let blob = |data: Vec<u8>| Blob {
            data: data.into(),
            media_type: String::new(),
        };
        match asked.method.as_str() {
            "PATCH" => {
                let end = data.len().saturating_sub(1);
                content.blobs.insert(key, blob(data));
                let location = format!("/v2/{name}/blobs/uploads/{upload}");
                Answer::new(202, *b"")
                    .with("Location", location)
                    .with("Range", format!("0-{end}"))
            }
            "PUT" => {
                let digest = format!("sha256:{}", sha256(&data));
                if !query.replace("%3A", ":").contains(&digest) {
                    return Answer::new(400, *b"{}");
                }
                content.blobs.insert(digest.clone(), blob(data));
                Answer::new(201, *b"").with("Docker-Content-Digest", digest)
            }
            _ => Answer::new(405, *b""),
        }
    }
}
