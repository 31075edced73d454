//! A blob as a stream that goes on where a broken connection ended.

use std::io::{self, Read};
use std::sync::Arc;

use ureq::http::{Method, header};

use super::RegistryError;
use super::client::{Client, Endpoint};
use super::exchange::{Call, Scope, refusal};
use crate::oci::Descriptor;

/// The bytes of a blob, not yet verified. Every connection that brought something gives leave for as many more tries as
/// the first had.
pub(super) struct Download {
    client: Arc<Client>,
    endpoint: Arc<Endpoint>,
    scope: Scope,
    blob: Descriptor,
    body: Option<ureq::BodyReader<'static>>,
    offset: u64,
    failures: u32,
}

impl Download {
    /// Asks for the blob. `Ok` means: the registry has it and begins to send.
    pub(super) fn open(
        client: &Arc<Client>,
        endpoint: &Arc<Endpoint>,
        scope: Scope,
        blob: &Descriptor,
    ) -> Result<Download, RegistryError> {
        let mut download = Download {
            client: Arc::clone(client),
            endpoint: Arc::clone(endpoint),
            scope,
            blob: blob.clone(),
            body: None,
            offset: 0,
            failures: 0,
        };
        download.connect()?;
        Ok(download)
    }

    fn connect(&mut self) -> Result<(), RegistryError> {
        let digest = &self.blob.digest;
        let what = format!("blob {digest} of {}", self.scope.repository);
        let answer = |why: &str| RegistryError::Answer {
            host: self.endpoint.host().to_owned(),
            what: what.clone(),
            why: why.to_owned(),
        };
        let uri = self
            .endpoint
            .uri(&self.scope.repository, &format!("blobs/{digest}"))?;
        let mut call = Call::new(Method::GET, uri, &self.scope, "read", &what);
        if self.offset > 0 {
            call = call.header(header::RANGE, format!("bytes={}-", self.offset));
        }
        let response = self.client.send(&self.endpoint, call)?;
        let status = response.status().as_u16();
        if !matches!(status, 200 | 206) {
            return Err(refusal(&self.endpoint, &self.scope, "read", what, response));
        }
        let get = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let begins = if status == 206 {
            let range = get(header::CONTENT_RANGE).and_then(|r| r.strip_prefix("bytes "));
            let start = range
                .and_then(|r| r.split('-').next())
                .and_then(|s| s.parse::<u64>().ok());
            start.ok_or_else(|| answer("a part without its range"))?
        } else {
            0
        };
        if begins > self.offset {
            return Err(answer("another part than was asked for"));
        }
        let length = get(header::CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
        if length.is_some_and(|l| l.checked_add(begins) != Some(self.blob.size)) {
            return Err(answer(&format!(
                "{} bytes where the manifest says {}",
                length.unwrap_or_default().saturating_add(begins),
                self.blob.size
            )));
        }
        let mut body = response.into_body().into_reader();
        // A registry that knows no ranges sends what is here already once more.
        let again = self.offset - begins;
        let skipped = io::copy(&mut (&mut body).take(again), &mut io::sink());
        match skipped {
            Ok(n) if n == again => {}
            // Broken again before anything new came: the next read finds that out and counts it.
            _ => return Ok(()),
        }
        self.body = Some(body);
        Ok(())
    }

    fn failed(error: RegistryError) -> io::Error {
        io::Error::other(error)
    }
}

impl Read for Download {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let problem = match &mut self.body {
                Some(body) => match body.read(buf) {
                    Ok(0) if self.offset < self.blob.size && !buf.is_empty() => {
                        io::ErrorKind::UnexpectedEof.into()
                    }
                    Ok(n) => {
                        self.offset += n as u64;
                        if n > 0 {
                            self.failures = 0;
                        }
                        return Ok(n);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    // All there was to come has come; only the end of the connection was rough.
                    Err(_) if self.offset == self.blob.size => return Ok(0),
                    Err(error) => error,
                },
                None => io::ErrorKind::UnexpectedEof.into(),
            };
            self.body = None;
            self.failures += 1;
            if self.failures >= self.client.options.attempts {
                let what = format!("blob {} of {}", self.blob.digest, self.scope.repository);
                let host = self.endpoint.host();
                let error = ureq::Error::from(problem);
                return Err(Self::failed(RegistryError::Transfer {
                    action: "read",
                    what,
                    host: host.to_owned(),
                    source: Box::new(error),
                }));
            }
            tracing::debug!(digest = %self.blob.digest, offset = self.offset, "resuming");
            std::thread::sleep(self.client.wait(self.failures));
            self.connect().map_err(Self::failed)?;
        }
    }
}
