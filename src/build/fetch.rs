//! Files by http and https, for ADD and for contexts.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::oci::{Digest, Hasher};
use crate::plan::redacted;

use super::BuildError;
use super::secrets::Secrets;

/// What an answer is read in.
const CHUNK_BYTES: usize = 128 * 1024;

/// A file that was fetched.
pub(super) struct Fetched {
    /// What its address calls it.
    pub(super) name: String,
    /// Its content.
    pub(super) digest: Digest,
    /// Its length.
    pub(super) size_bytes: u64,
    /// When it was changed last, seconds since 1970, if the server said so.
    pub(super) modified: Option<i64>,
}

/// Fetches `url` into the file `target`. `Ok` means: the whole body is in the file.
pub(super) fn fetch(
    agent: &ureq::Agent,
    url: &str,
    target: &Path,
    secrets: &Secrets,
    cancel: &AtomicBool,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<Fetched, BuildError> {
    let failed = |why: String| BuildError::Fetch {
        url: redacted(url),
        why,
    };
    let host = url
        .split_once("://")
        .map_or(url, |(_, r)| r)
        .split(['/', '?', '#'])
        .next()
        .unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or(host);
    let mut request = agent.get(url);
    let header = secrets
        .read(&format!("HTTP_AUTH_HEADER_{host}"))?
        .map(|h| String::from_utf8_lossy(&h).trim().to_owned());
    let token = secrets.read(&format!("HTTP_AUTH_TOKEN_{host}"))?;
    let token = token.map(|t| format!("Bearer {}", String::from_utf8_lossy(&t).trim()));
    if let Some(value) = header.or(token) {
        request = request.header("Authorization", value);
    }
    let mut response = request.call().map_err(|e| match e {
        ureq::Error::StatusCode(404) => failed("404 not found".to_owned()),
        ureq::Error::StatusCode(code) => failed(format!("the server answered with status {code}")),
        other => failed(redacted(&other.to_string())),
    })?;
    let text = |name: &str| {
        response
            .headers()
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned)
    };
    let modified = text("last-modified")
        .and_then(|t| httpdate::parse_http_date(&t).ok())
        .and_then(|t| {
            t.duration_since(std::time::UNIX_EPOCH)
                .ok()
                .and_then(|d| i64::try_from(d.as_secs()).ok())
        });
    let name = name_of(url);
    let total = text("content-length").and_then(|t| t.parse().ok());
    let host_error = |source| BuildError::Host {
        action: "write",
        path: target.to_owned(),
        source,
    };
    let mut file = std::fs::File::create(target).map_err(host_error)?;
    let mut body = response.body_mut().as_reader();
    let (mut hasher, mut size_bytes, mut buffer) = (Hasher::sha256(), 0, vec![0; CHUNK_BYTES]);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(BuildError::Canceled);
        }
        let n = body.read(&mut buffer).map_err(|e| failed(e.to_string()))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(host_error)?;
        size_bytes += n as u64;
        progress(size_bytes, total);
    }
    Ok(Fetched {
        name,
        digest: hasher.finish(),
        size_bytes,
        modified,
    })
}

// The last element of a URL's path, its quoted characters read. What the server calls the file does not count: the name
// must be known before anything is asked.
fn name_of(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let path = path.split_once('/').map_or("", |(_, path)| path);
    let path = super::git::percent_decode(path);
    let last = path.trim_end_matches('/').rsplit('/').next();
    last.filter(|name| !matches!(*name, "" | "." | "..") && !name.contains('\0'))
        .unwrap_or("__unnamed__")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (url, want) in [
            ("http://h/a/b.txt", "b.txt"),
            ("http://h/a/b.txt?x=/y", "b.txt"),
            ("http://h/", "__unnamed__"),
            ("http://h", "__unnamed__"),
            ("http://h/a/..", "__unnamed__"),
            ("http://h/a/b/", "b"),
            ("http://h/a%20b", "a b"),
            ("http://h/a%2Fb", "b"),
            ("http://h/%", "%"),
        ] {
            assert_eq!(name_of(url), want, "{url}");
        }
    }
}
