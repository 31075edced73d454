//! Sending a blob (distribution-spec, "Pushing blobs").

use std::io::Read;
use std::time::Duration;

use ureq::Body;
use ureq::http::{Method, Response, Uri, header};

use super::RegistryError;
use super::client::{Client, Endpoint};
use super::error::is_transient;
use super::exchange::{Call, Payload, Scope, join, refusal, retry_after, same_origin};
use crate::image::ImageError;
use crate::oci::Descriptor;

/// How much goes into one request where a registry does not take a blob in one, bytes. Held in memory, so that a chunk
/// can be sent again.
const CHUNK_BYTES: u64 = 8 << 20;

/// A blob on its way to a repository.
pub(super) struct Upload<'a> {
    pub(super) client: &'a Client,
    pub(super) endpoint: &'a Endpoint,
    pub(super) scope: &'a Scope,
    pub(super) blob: &'a Descriptor,
}

/// Where to send the bytes to: an upload that a registry has begun.
pub(super) struct Session {
    location: Uri,
    /// Whether the registry wants chunks of at least so many bytes.
    chunk_bytes: Option<u64>,
}

type Open<'a> = &'a (dyn Fn() -> Result<Box<dyn Read + Send>, ImageError> + Sync);

impl Upload<'_> {
    fn what(&self) -> String {
        format!("blob {} to {}", self.blob.digest, self.scope.repository)
    }

    fn call(&self, method: Method, uri: Uri) -> Call<'_> {
        Call::new(method, uri, self.scope, "write", &self.what())
    }

    /// Begins an upload.
    pub(super) fn begin(&self) -> Result<Session, RegistryError> {
        let uri = self
            .endpoint
            .uri(&self.scope.repository, "blobs/uploads/")?;
        let response =
            self.client
                .expect(self.endpoint, self.call(Method::POST, uri.clone()), &[202])?;
        self.session(&uri, &response)
    }

    /// Asks the registry to take the blob from another of its repositories. `None`: it did.
    pub(super) fn mount(&self, from: &str) -> Result<Option<Session>, RegistryError> {
        let path = format!("blobs/uploads/?mount={}&from={from}", self.blob.digest);
        let uri = self.endpoint.uri(&self.scope.repository, &path)?;
        let response = self.client.expect(
            self.endpoint,
            self.call(Method::POST, uri.clone()),
            &[201, 202],
        )?;
        match response.status().as_u16() {
            201 => Ok(None),
            _ => self.session(&uri, &response).map(Some),
        }
    }

    fn answer(&self, why: &str) -> RegistryError {
        RegistryError::Answer {
            host: self.endpoint.host().to_owned(),
            what: self.what(),
            why: why.to_owned(),
        }
    }

    fn session(&self, base: &Uri, response: &Response<Body>) -> Result<Session, RegistryError> {
        let get = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let location = get("location").and_then(|l| join(base, l));
        let location = location.ok_or_else(|| self.answer("an upload without a valid location"))?;
        if base.scheme_str() == Some("https")
            && location.scheme_str() != Some("https")
            && !self.endpoint.insecure
        {
            return Err(self.answer("an upload that leaves TLS"));
        }
        Ok(Session {
            location,
            chunk_bytes: get("oci-chunk-min-length").and_then(|l| l.parse().ok()),
        })
    }

    /// Sends the bytes; from the start again, with a new session, when the connection breaks. `Ok` means: the registry
    /// has them and has checked their digest.
    pub(super) fn send(
        &self,
        session: Option<Session>,
        open: Open<'_>,
    ) -> Result<(), RegistryError> {
        let mut session = session;
        let mut attempt = 1;
        loop {
            let begun = match session.take() {
                Some(session) => session,
                None => self.begin()?,
            };
            let error = match self.attempt(begun, open) {
                Ok(()) => return Ok(()),
                Err((error, _)) if !error.is_transient() && !expired(&error, attempt) => {
                    return Err(error);
                }
                Err((error, wait)) => (error, wait),
            };
            if attempt >= self.client.options.attempts {
                return Err(error.0);
            }
            std::thread::sleep(error.1.unwrap_or_else(|| self.client.wait(attempt)));
            // The answer may be all that was lost.
            if self.exists()? {
                return Ok(());
            }
            attempt += 1;
        }
    }

    /// Whether the repository has the blob.
    pub(super) fn exists(&self) -> Result<bool, RegistryError> {
        let path = format!("blobs/{}", self.blob.digest);
        let uri = self.endpoint.uri(&self.scope.repository, &path)?;
        let response =
            self.client
                .expect(self.endpoint, self.call(Method::HEAD, uri), &[200, 404])?;
        Ok(response.status().as_u16() == 200)
    }

    fn attempt(
        &self,
        session: Session,
        open: Open<'_>,
    ) -> Result<(), (RegistryError, Option<Duration>)> {
        let plain = |error| (error, None);
        let mut reader = open().map_err(|e| plain(RegistryError::Open(Box::new(e))))?;
        if let Some(least) = session.chunk_bytes {
            return self
                .chunks(session.location, &mut reader, least)
                .map_err(plain);
        }
        let uri = self.closing(&session.location).map_err(plain)?;
        let response = self.stream(&uri, &mut reader).map_err(plain)?;
        match response.status().as_u16() {
            201 | 204 => Ok(()),
            // Something in between takes no requests of this length.
            413 => {
                let session = self.begin().map_err(plain)?;
                let mut reader = open().map_err(|e| plain(RegistryError::Open(Box::new(e))))?;
                self.chunks(session.location, &mut reader, 0).map_err(plain)
            }
            status => {
                let wait = is_transient(status)
                    .then(|| retry_after(response.headers()))
                    .flatten();
                let expired = status == 401
                    && self
                        .endpoint
                        .authority
                        .learn(response.headers(), self.scope, true);
                let error = refusal(self.endpoint, self.scope, "write", self.what(), response);
                Err((
                    if expired {
                        RegistryError::Expired {
                            source: Box::new(error),
                        }
                    } else {
                        error
                    },
                    wait,
                ))
            }
        }
    }

    /// The address that ends an upload.
    fn closing(&self, location: &Uri) -> Result<Uri, RegistryError> {
        let mark = if location.query().is_some() { '&' } else { '?' };
        let text = format!("{location}{mark}digest={}", self.blob.digest);
        text.parse()
            .map_err(|_| self.answer("an upload without a valid location"))
    }

    /// One request with all of the bytes.
    fn stream(&self, uri: &Uri, reader: &mut dyn Read) -> Result<Response<Body>, RegistryError> {
        let authorization = self.authorization(uri)?;
        let call = self
            .call(Method::PUT, uri.clone())
            .header(header::CONTENT_TYPE, "application/octet-stream");
        let payload = Payload::Stream {
            reader,
            size: self.blob.size,
        };
        self.client
            .once(uri, &call, payload, authorization.as_ref())
    }

    /// Credentials for the upload's address, unless it is another host's.
    fn authorization(&self, uri: &Uri) -> Result<Option<super::Secret>, RegistryError> {
        let own = self
            .endpoint
            .uri(&self.scope.repository, "blobs/uploads/")?;
        if !same_origin(uri, &own) {
            return Ok(None);
        }
        self.endpoint
            .authority
            .header(self.client, self.endpoint, self.scope)
    }

    /// The bytes in several requests, each of which may be made again.
    fn chunks(
        &self,
        mut location: Uri,
        reader: &mut dyn Read,
        least: u64,
    ) -> Result<(), RegistryError> {
        let most = CHUNK_BYTES.max(least.min(CHUNK_BYTES * 8));
        let mut offset = 0;
        loop {
            let mut chunk = Vec::new();
            reader
                .take(most)
                .read_to_end(&mut chunk)
                .map_err(RegistryError::Source)?;
            if chunk.is_empty() {
                break;
            }
            let end = offset + chunk.len() as u64 - 1;
            let call = self
                .call(Method::PATCH, location.clone())
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .header(header::CONTENT_RANGE, format!("{offset}-{end}"))
                .payload(&chunk);
            let response = self.client.expect(self.endpoint, call, &[202])?;
            location = self.session(&location, &response)?.location;
            offset = end + 1;
        }
        let call = self.call(Method::PUT, self.closing(&location)?);
        self.client
            .expect(self.endpoint, call, &[201, 204])
            .map(drop)
    }
}

/// Whether a token ran out under way; that may be so once.
fn expired(error: &RegistryError, attempt: u32) -> bool {
    matches!(error, RegistryError::Expired { .. }) && attempt == 1
}
