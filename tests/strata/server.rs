//! One plain-http server on a free loopback port: `/v2/` a read-only registry, `/git/` bare repositories, `/w/CASE/` the
//! files of a case's folder `web`.
//!
//! `/w/CASE/via/redirect/FILE` redirects to the file, `/w/CASE/via/named/NAME/FILE` sends it with a Content-Disposition.
//! Repositories below `private/` ask for credentials.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::bases::Bases;
use crate::image::sha256;

/// What the server serves.
pub(crate) struct Content {
    pub(crate) bases: Arc<Bases>,
    /// The bare repositories.
    pub(crate) git: PathBuf,
    /// The cases' work folders.
    pub(crate) work: PathBuf,
}

/// The running server; dropping it stops it.
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `content` on a port of the system's choice.
    pub(crate) fn start(content: Content) -> std::io::Result<Server> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, content) = (Arc::clone(&stop), Arc::new(content));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if seen.load(Ordering::SeqCst) {
                    break;
                }
                let content = Arc::clone(&content);
                // A client that hangs up ends its own thread, nothing else.
                std::thread::spawn(move || drop(converse(&stream, &content)));
            }
        });
        let thread = Some(thread);
        Ok(Server {
            address,
            stop,
            thread,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept; when nobody listens any more the thread has ended already.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            drop(thread.join());
        }
    }
}

/// A request's line and headers (names in lower case); bodies are not read.
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

struct Reply {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Arc<[u8]>,
}

impl Reply {
    fn new(status: &'static str, body: impl Into<Arc<[u8]>>) -> Reply {
        let body = body.into();
        Reply {
            status,
            headers: Vec::new(),
            body,
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }
}

/// Answers the requests of one connection until the client closes it.
fn converse(stream: &TcpStream, content: &Content) -> std::io::Result<()> {
    let mut input = BufReader::new(stream);
    while let Some(request) = read_request(&mut input)? {
        let reply = match request.method.as_str() {
            "GET" | "HEAD" => answer(&request, content),
            _ => Reply::new("405 Method Not Allowed", *b"").with("Connection", "close"),
        };
        let mut head = format!(
            "HTTP/1.1 {}\r\nContent-Length: {}\r\n",
            reply.status,
            reply.body.len()
        );
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut message = (head + "\r\n").into_bytes();
        if request.method != "HEAD" {
            message.extend_from_slice(&reply.body);
        }
        (&mut &*stream).write_all(&message)?;
        let closes = request
            .headers
            .get("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if closes || request.method != "GET" && request.method != "HEAD" {
            break;
        }
    }
    Ok(())
}

fn read_request(input: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, path) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default().to_owned(),
    );
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Some(Request {
        method,
        path,
        headers,
    }))
}

fn answer(request: &Request, content: &Content) -> Reply {
    let path = unquote(request.path.split('?').next().unwrap_or_default());
    if let Some(path) = path.strip_prefix("/v2/") {
        return registry(path, &content.bases);
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    match parts.split_first() {
        Some((_, [])) => Reply::new("404 Not Found", *b""),
        Some((&"git", rest)) => file(&content.git, rest, request),
        Some((&"w", [case, "via", "redirect", rest @ ..])) => {
            Reply::new("302 Found", *b"").with("Location", format!("/w/{case}/{}", rest.join("/")))
        }
        Some((&"w", [case, "via", "named", name, rest @ ..])) => {
            let named = format!("attachment; filename=\"{name}\"");
            web(content, case, rest, request).with("Content-Disposition", named)
        }
        Some((&"w", [case, rest @ ..])) => web(content, case, rest, request),
        _ => Reply::new("404 Not Found", *b""),
    }
}

fn web(content: &Content, case: &str, parts: &[&str], request: &Request) -> Reply {
    file(&content.work, &[&[case, "web"], parts].concat(), request)
}

fn file(root: &Path, parts: &[&str], request: &Request) -> Reply {
    let path = root.join(parts.join("/"));
    let read = || -> std::io::Result<(Vec<u8>, std::time::SystemTime)> {
        Ok((std::fs::read(&path)?, std::fs::metadata(&path)?.modified()?))
    };
    let Some((body, modified)) = read().ok().filter(|_| !parts.contains(&"..")) else {
        return Reply::new("404 Not Found", *b"not here\n");
    };
    let tag = format!("\"{}\"", &sha256(&body)[..16]);
    if request.headers.get("if-none-match") == Some(&tag) {
        return Reply::new("304 Not Modified", *b"").with("ETag", tag);
    }
    Reply::new("200 OK", body)
        .with("Content-Type", "application/octet-stream")
        .with("ETag", tag)
        .with("Last-Modified", httpdate::fmt_http_date(modified))
}

fn registry(path: &str, bases: &Bases) -> Reply {
    if path.is_empty() {
        return Reply::new("200 OK", *b"{}").with("Content-Type", "application/json");
    }
    let Some((rest, reference)) = path.rsplit_once('/') else {
        return Reply::new("404 Not Found", *b"");
    };
    let (name, manifest) = match rest.rsplit_once('/') {
        Some((name, "manifests")) => (name, true),
        Some((name, "blobs")) => (name, false),
        _ => return Reply::new("404 Not Found", *b""),
    };
    if name.starts_with("private/") {
        let body = *br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        return Reply::new("401 Unauthorized", body)
            .with("WWW-Authenticate", "Basic realm=\"fixture\"");
    }
    let digest = match reference.starts_with("sha256:") {
        true => Some(reference),
        false => bases
            .tags
            .get(&(name.to_owned(), reference.to_owned()))
            .map(String::as_str),
    };
    let Some((digest, blob)) = digest.and_then(|digest| Some((digest, bases.blobs.get(digest)?)))
    else {
        let code = if manifest {
            "MANIFEST_UNKNOWN"
        } else {
            "BLOB_UNKNOWN"
        };
        let body = format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#).into_bytes();
        return Reply::new("404 Not Found", body).with("Content-Type", "application/json");
    };
    let media_type = if manifest {
        &blob.media_type
    } else {
        "application/octet-stream"
    };
    Reply::new("200 OK", Arc::clone(&blob.data))
        .with("Content-Type", media_type)
        .with("Docker-Content-Digest", digest)
}

/// Undoes percent encoding.
fn unquote(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits
            .and_then(|two| u8::from_str_radix(two, 16).ok())
            .filter(|_| byte == b'%')
        {
            Some(decoded) => {
                out.push(decoded);
                rest = &after[2..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn percent_encoding_is_undone() {
    for (text, want) in [
        ("/a%20b", "/a b"),
        ("/100%", "/100%"),
        ("/%zz", "/%zz"),
        ("/%C3%A9", "/é"),
    ] {
        assert_eq!(unquote(text), want);
    }
}
