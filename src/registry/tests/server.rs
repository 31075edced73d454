//! A small HTTP server, and a registry in memory on top of it that fails as it is told.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query
            .split('&')
            .find_map(|f| f.strip_prefix(name)?.strip_prefix('='))
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Hang up after so many bytes of the body; before the answer where it is `Some(None)`.
    pub(super) cut: Option<Option<usize>>,
}

impl Reply {
    pub(super) fn new(status: u16) -> Reply {
        Reply {
            status,
            ..Reply::default()
        }
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn body(mut self, bytes: &[u8]) -> Reply {
        self.body = bytes.to_owned();
        self
    }

    pub(super) fn cut(mut self, at: Option<usize>) -> Reply {
        self.cut = Some(at);
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

pub(super) struct Server {
    pub(super) address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let (their_log, their_stop) = (Arc::clone(&log), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if their_stop.load(Ordering::Relaxed) {
                    return;
                }
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&their_log));
                std::thread::spawn(move || serve(&stream.unwrap(), &*handler, &log));
            }
        });
        Server { address, log, stop }
    }

    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// How many requests began so.
    pub(super) fn count(&self, line: &str) -> usize {
        self.log()
            .iter()
            .filter(|r| r.line().starts_with(line))
            .count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: &TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        log.lock().unwrap().push(request.clone());
        let reply = handler(&request);
        if reply.cut == Some(None) {
            break;
        }
        let mut head = format!("HTTP/1.1 {} Status\r\n", reply.status);
        let mut headers = reply.headers.clone();
        if !headers
            .iter()
            .any(|(n, _)| n.eq_ignore_ascii_case("content-length"))
        {
            headers.push(("Content-Length".to_owned(), reply.body.len().to_string()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let body = if request.method == "HEAD" {
            &[][..]
        } else {
            &reply.body
        };
        let end = reply.cut.flatten().unwrap_or(body.len()).min(body.len());
        let mut out = stream;
        if out
            .write_all(head.as_bytes())
            .and_then(|()| out.write_all(&body[..end]))
            .is_err()
        {
            break;
        }
        if reply.cut.is_some() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())
            }
            None => break,
        };
    }
    let length = headers
        .get("content-length")
        .map_or(0, |l| l.parse().unwrap());
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).ok()?;
    (body.len() as u64 == length).then_some(Request {
        method,
        target,
        headers,
        body,
    })
}

/// A media type and the bytes.
type Typed = (String, Vec<u8>);

/// A registry's content and its troubles.
#[derive(Default)]
pub(super) struct Registry {
    /// By repository and digest.
    pub(super) blobs: Mutex<BTreeMap<(String, String), Vec<u8>>>,
    /// By repository and tag or digest.
    pub(super) manifests: Mutex<BTreeMap<(String, String), Typed>>,
    uploads: Mutex<HashMap<String, Vec<u8>>>,
    /// How many uploads were begun.
    begun: AtomicUsize,
    /// The first that a request's line begins with is taken out and answers in the registry's place.
    faults: Mutex<Vec<(String, Reply)>>,
}

impl Registry {
    pub(super) fn fail(&self, line: &str, reply: Reply) {
        self.faults.lock().unwrap().push((line.to_owned(), reply));
    }

    pub(super) fn faults_left(&self) -> usize {
        self.faults.lock().unwrap().len()
    }

    pub(super) fn reply(&self, request: &Request) -> Reply {
        let mut faults = self.faults.lock().unwrap();
        if let Some(at) = faults
            .iter()
            .position(|(line, _)| request.line().starts_with(line))
        {
            return faults.remove(at).1;
        }
        drop(faults);
        let path = request.target.split('?').next().unwrap();
        let Some(path) = path.strip_prefix("/v2/") else {
            return Reply::new(404);
        };
        if path.is_empty() {
            return Reply::new(200).body(b"{}");
        }
        if let Some((repository, _)) = path.split_once("/blobs/uploads/") {
            return self.upload(request, repository, path);
        }
        if let Some((repository, digest)) = path.split_once("/blobs/") {
            return match self
                .blobs
                .lock()
                .unwrap()
                .get(&(repository.to_owned(), digest.to_owned()))
            {
                Some(bytes) => content(request, bytes),
                None => Reply::new(404),
            };
        }
        if let Some((repository, name)) = path.split_once("/manifests/") {
            return self.manifest(request, repository, name);
        }
        Reply::new(404)
    }

    fn manifest(&self, request: &Request, repository: &str, name: &str) -> Reply {
        let key = (repository.to_owned(), name.to_owned());
        let mut manifests = self.manifests.lock().unwrap();
        if request.method == "PUT" {
            let digest = crate::oci::Digest::of(&request.body).to_string();
            let value = (
                request.header("content-type").unwrap().to_owned(),
                request.body.clone(),
            );
            manifests.insert((repository.to_owned(), digest.clone()), value.clone());
            manifests.insert(key, value);
            return Reply::new(201).with("Docker-Content-Digest", &digest);
        }
        match manifests.get(&key) {
            Some((media_type, bytes)) => Reply::new(200)
                .with("Content-Type", media_type)
                .with(
                    "Docker-Content-Digest",
                    &crate::oci::Digest::of(bytes).to_string(),
                )
                .body(bytes),
            None => Reply::new(404)
                .body(br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
        }
    }

    fn upload(&self, request: &Request, repository: &str, path: &str) -> Reply {
        let mut uploads = self.uploads.lock().unwrap();
        let mut blobs = self.blobs.lock().unwrap();
        match request.method.as_str() {
            "POST" => {
                if let (Some(digest), Some(from)) = (request.query("mount"), request.query("from"))
                    && let Some(bytes) = blobs.get(&(from.to_owned(), digest.to_owned())).cloned()
                {
                    blobs.insert((repository.to_owned(), digest.to_owned()), bytes);
                    return Reply::new(201);
                }
                let location = format!(
                    "/v2/{repository}/blobs/uploads/{}",
                    self.begun.fetch_add(1, Ordering::Relaxed)
                );
                uploads.insert(location.clone(), Vec::new());
                Reply::new(202).with("Location", &format!("{location}?state=x"))
            }
            "PATCH" => {
                let Some(bytes) = uploads.get_mut(&format!("/v2/{path}")) else {
                    return Reply::new(404);
                };
                let range = request.header("content-range").unwrap();
                assert!(range.starts_with(&format!("{}-", bytes.len())), "{range}");
                bytes.extend_from_slice(&request.body);
                Reply::new(202).with("Location", &format!("/v2/{path}"))
            }
            "PUT" => {
                let Some(mut bytes) = uploads.remove(&format!("/v2/{path}")) else {
                    return Reply::new(404);
                };
                bytes.extend_from_slice(&request.body);
                let digest = request.query("digest").unwrap().to_owned();
                if crate::oci::Digest::of(&bytes).to_string() != digest {
                    return Reply::new(400).body(br#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                blobs.insert((repository.to_owned(), digest), bytes);
                Reply::new(201)
            }
            _ => Reply::new(405),
        }
    }
}

fn content(request: &Request, bytes: &[u8]) -> Reply {
    let range = request
        .header("range")
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
    match range.map(|r| r.parse::<usize>().unwrap()) {
        Some(start) => Reply::new(206)
            .with(
                "Content-Range",
                &format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
            )
            .body(&bytes[start..]),
        None => Reply::new(200).body(bytes),
    }
}
