//! An image on a registry, as a source and as a sink.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use ureq::http::{Method, header};

use super::RegistryError;
use super::client::{Client, Endpoint, locked};
use super::download::Download;
use super::exchange::{Call, Scope, join};
use super::upload::{Session, Upload};
use crate::image::{
    ImageError, MAX_MANIFEST_BYTES, Put, Sink, Source, VerifyError, VerifyReader, read_verified,
};
use crate::oci::{Algorithm, Descriptor, Digest, Document, Hasher, MediaType, Reference};

/// What a registry may answer with when a tag is asked for.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How many tags are listed at the most: a list goes on from page to page for as long as the registry says so.
const MAX_TAGS: usize = 1_000_000;

/// The largest page of tags, bytes.
const MAX_PAGE_BYTES: u64 = 16 << 20;

/// An image on a registry.
pub struct Remote {
    client: Arc<Client>,
    reference: Reference,
    /// What the tag led to, so that it is asked for once.
    root: Mutex<Option<(Descriptor, Vec<u8>)>>,
    /// A manifest that is sent when what follows shows whether it needs its digest's name or gets a tag.
    pending: Mutex<Option<(Descriptor, Vec<u8>)>>,
    /// Uploads that a mount that came to nothing has begun.
    sessions: Mutex<HashMap<Digest, Session>>,
}

impl Remote {
    pub(super) fn new(client: Arc<Client>, reference: Reference) -> Remote {
        Remote {
            client,
            reference,
            root: Mutex::new(None),
            pending: Mutex::new(None),
            sessions: Mutex::new(HashMap::new()),
        }
    }

    /// What it is called.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The digest the reference has now, without the manifest (a request that registries do not count); `None`: there is
    /// no such image.
    pub fn digest(&self) -> Result<Option<Digest>, RegistryError> {
        if let Some(digest) = self.reference.digest() {
            return Ok(Some(*digest));
        }
        let endpoint = self.endpoint()?;
        let scope = self.scope(false);
        let what = self.reference.to_string();
        let uri = endpoint.uri(
            self.reference.repository(),
            &format!("manifests/{}", self.target()),
        )?;
        let call =
            Call::new(Method::HEAD, uri, &scope, "read", &what).header(header::ACCEPT, ACCEPT);
        let response = self.client.expect(&endpoint, call, &[200, 404])?;
        if response.status().as_u16() == 404 {
            return Ok(None);
        }
        let digest = response.headers().get("docker-content-digest");
        match digest
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok())
        {
            Some(digest) => Ok(Some(digest)),
            // Not all registries say it: the bytes do.
            None => self
                .fetch_root(&endpoint)
                .map(|(root, _)| Some(root.digest)),
        }
    }

    /// The tags of the repository, in the registry's order.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let endpoint = self.endpoint()?;
        let scope = self.scope(false);
        let what = format!("the tags of {}", self.reference.repository());
        let answer = |why: &str| RegistryError::Answer {
            host: endpoint.host().to_owned(),
            what: what.clone(),
            why: why.to_owned(),
        };
        let first = endpoint.uri(self.reference.repository(), "tags/list")?;
        let mut next = Some(first.clone());
        let mut tags = Vec::new();
        while let Some(uri) = next.take() {
            let call = Call::new(Method::GET, uri.clone(), &scope, "read", &what);
            let response = self.client.expect(&endpoint, call, &[200])?;
            let link = response
                .headers()
                .get(header::LINK)
                .and_then(|v| v.to_str().ok());
            let link = link
                .filter(|l| l.contains("rel=\"next\""))
                .and_then(|l| l.split(['<', '>']).nth(1));
            next = link.and_then(|l| join(&uri, l));
            if next
                .as_ref()
                .is_some_and(|n| !super::exchange::same_origin(n, &first) || *n == uri)
            {
                return Err(answer("a list that leads elsewhere"));
            }
            let bytes =
                bounded(response.into_body(), MAX_PAGE_BYTES).map_err(|why| answer(&why))?;
            let page: Page =
                serde_json::from_slice(&bytes).map_err(|_| answer("malformed JSON"))?;
            let before = tags.len();
            for tag in page.tags.unwrap_or_default() {
                let tagged = self.reference.with_tag(&tag);
                tagged.map_err(|source| RegistryError::Tag {
                    host: endpoint.host().to_owned(),
                    source,
                })?;
                tags.push(tag);
            }
            if tags.len() > MAX_TAGS || (next.is_some() && tags.len() == before) {
                return Err(answer("a list without an end"));
            }
        }
        Ok(tags)
    }

    /// Deletes the manifest that the reference points to, by its digest: all its tags go with it.
    pub fn delete(&self) -> Result<(), RegistryError> {
        let endpoint = self.endpoint()?;
        let digest = self.digest()?.ok_or_else(|| RegistryError::NotFound {
            what: self.reference.to_string(),
            host: endpoint.host().to_owned(),
        })?;
        let scope = self.scope(true);
        let what = format!("manifest {digest} of {}", self.reference.repository());
        let uri = endpoint.uri(self.reference.repository(), &format!("manifests/{digest}"))?;
        let call = Call::new(Method::DELETE, uri, &scope, "delete", &what);
        self.client.expect(&endpoint, call, &[200, 202]).map(drop)
    }

    fn endpoint(&self) -> Result<Arc<Endpoint>, RegistryError> {
        self.client.endpoint(self.reference.registry())
    }

    fn scope(&self, push: bool) -> Scope {
        Scope {
            repository: self.reference.repository().to_owned(),
            push,
            from: None,
        }
    }

    /// What the reference names on the registry: a digest before a tag.
    fn target(&self) -> String {
        match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        }
    }

    fn fetch_root(&self, endpoint: &Endpoint) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let scope = self.scope(false);
        let what = self.reference.to_string();
        let answer = |why: &str| RegistryError::Answer {
            host: endpoint.host().to_owned(),
            what: what.clone(),
            why: why.to_owned(),
        };
        let uri = endpoint.uri(
            self.reference.repository(),
            &format!("manifests/{}", self.target()),
        )?;
        let call =
            Call::new(Method::GET, uri, &scope, "read", &what).header(header::ACCEPT, ACCEPT);
        let response = self.client.expect(endpoint, call, &[200])?;
        let text = |name: &str| {
            let value = response.headers().get(name).and_then(|v| v.to_str().ok());
            value.map(str::to_owned)
        };
        let told = text("docker-content-digest").and_then(|d| d.parse::<Digest>().ok());
        let kind = text("content-type").unwrap_or_default();
        let kind = MediaType::from(kind.split(';').next().unwrap_or_default().trim());
        let bytes =
            bounded(response.into_body(), MAX_MANIFEST_BYTES).map_err(|why| answer(&why))?;
        let expected = self.reference.digest().copied().or(told);
        let algorithm = expected.map_or(Algorithm::Sha256, |d| d.algorithm());
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&bytes);
        let actual = hasher.finish();
        if let Some(expected) = expected.filter(|e| *e != actual) {
            return Err(answer(
                &VerifyError::Digest { expected, actual }.to_string(),
            ));
        }
        // The document knows best what it is; the header is for those that do not say.
        let inside = match Document::parse(&bytes) {
            Ok(Document::Manifest(m)) => m.media_type.unwrap_or(match kind {
                MediaType::DockerManifest => MediaType::DockerManifest,
                _ => MediaType::OciManifest,
            }),
            Ok(Document::Index(i)) => i.media_type.unwrap_or(match kind {
                MediaType::DockerManifestList => MediaType::DockerManifestList,
                _ => MediaType::OciIndex,
            }),
            // Whoever reads it gets the same error with its cause.
            Err(_) => kind,
        };
        Ok((Descriptor::new(inside, actual, bytes.len() as u64), bytes))
    }

    fn upload<T>(
        &self,
        blob: &Descriptor,
        from: Option<&str>,
        run: impl FnOnce(&Upload<'_>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let endpoint = self.endpoint()?;
        let scope = Scope {
            from: from.map(str::to_owned),
            ..self.scope(true)
        };
        run(&Upload {
            client: &self.client,
            endpoint: &endpoint,
            scope: &scope,
            blob,
        })
    }

    /// Sends a manifest under a tag or its digest. `Ok` means: the registry has it, and everything it refers to.
    fn send_manifest(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        name: &str,
    ) -> Result<(), RegistryError> {
        let endpoint = self.endpoint()?;
        let scope = self.scope(true);
        let what = format!("manifest {} to {}", descriptor.digest, self.reference);
        let uri = endpoint.uri(self.reference.repository(), &format!("manifests/{name}"))?;
        let call = Call::new(Method::PUT, uri, &scope, "write", &what)
            .header(header::CONTENT_TYPE, descriptor.media_type.as_str())
            .payload(bytes);
        let response = self.client.expect(&endpoint, call, &[200, 201, 202])?;
        let told = response.headers().get("docker-content-digest");
        let told = told
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse::<Digest>().ok());
        match told {
            Some(told)
                if told != descriptor.digest
                    && told.algorithm() == descriptor.digest.algorithm() =>
            {
                Err(RegistryError::Answer {
                    host: endpoint.host().to_owned(),
                    what,
                    why: format!("it stored {told}"),
                })
            }
            _ => Ok(()),
        }
    }

    fn download(&self, descriptor: &Descriptor) -> Result<Download, ImageError> {
        let open = || {
            Download::open(
                &self.client,
                &self.endpoint()?,
                self.scope(false),
                descriptor,
            )
        };
        open().map_err(self.failed("read"))
    }

    fn failed(&self, action: &'static str) -> impl Fn(RegistryError) -> ImageError {
        let what = self.reference.to_string();
        move |error| error.into_image(action, what.clone())
    }
}

/// Reads a document whole, or says why not.
fn bounded(body: ureq::Body, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = body.into_reader().take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|e| format!("it breaks off: {e}"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("it is larger than {limit} bytes"));
    }
    Ok(bytes)
}

impl Source for Remote {
    fn name(&self) -> String {
        format!("docker://{}", self.reference)
    }

    fn root(&self) -> Result<Descriptor, ImageError> {
        let mut root = locked(&self.root);
        if let Some((descriptor, _)) = &*root {
            return Ok(descriptor.clone());
        }
        let fetch = || self.fetch_root(&*self.endpoint()?);
        let fetched = fetch().map_err(self.failed("read"))?;
        Ok(root.insert(fetched).0.clone())
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if let Some((root, bytes)) = &*locked(&self.root)
            && root.digest == descriptor.digest
            && root.size == descriptor.size
        {
            return Ok(bytes.clone());
        }
        let what = format!(
            "manifest {} of {}",
            descriptor.digest,
            self.reference.repository()
        );
        let fetch = || {
            let endpoint = self.endpoint()?;
            let scope = self.scope(false);
            let path = format!("manifests/{}", descriptor.digest);
            let uri = endpoint.uri(self.reference.repository(), &path)?;
            let call =
                Call::new(Method::GET, uri, &scope, "read", &what).header(header::ACCEPT, ACCEPT);
            self.client.expect(&endpoint, call, &[200])
        };
        let response = fetch().map_err(self.failed("read"))?;
        let limited = response
            .into_body()
            .into_reader()
            .take(MAX_MANIFEST_BYTES + 1);
        read_verified(limited, descriptor).map_err(|e| ImageError::from_io("read", &what, e))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        let download = self.download(descriptor)?;
        Ok(Box::new(VerifyReader::new(download, descriptor)))
    }

    fn unverified_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        Ok(Box::new(self.download(descriptor)?))
    }

    fn origin(&self) -> Option<&Reference> {
        Some(&self.reference)
    }
}

impl Sink for Remote {
    fn name(&self) -> String {
        format!("docker://{}", self.reference)
    }

    fn reuse(
        &self,
        descriptor: &Descriptor,
        origin: Option<&Reference>,
    ) -> Result<Option<Put>, ImageError> {
        let there = self.upload(descriptor, None, |u| u.exists());
        if there.map_err(self.failed("write"))? {
            return Ok(Some(Put::Present));
        }
        let from = origin.filter(|o| {
            o.registry() == self.reference.registry()
                && o.repository() != self.reference.repository()
        });
        let Some(from) = from.map(Reference::repository) else {
            return Ok(None);
        };
        match self.upload(descriptor, Some(from), |u| u.mount(from)) {
            Ok(None) => Ok(Some(Put::Mounted)),
            Ok(Some(session)) => {
                locked(&self.sessions).insert(descriptor.digest, session);
                Ok(None)
            }
            // No right to read the other repository: the bytes can still be sent.
            Err(
                RegistryError::Denied { .. }
                | RegistryError::Unauthorized { .. }
                | RegistryError::Status { .. },
            ) => Ok(None),
            Err(error) => Err(self.failed("write")(error)),
        }
    }

    fn put_blob(
        &self,
        descriptor: &Descriptor,
        open: &(dyn Fn() -> Result<Box<dyn Read + Send>, ImageError> + Sync),
    ) -> Result<(), ImageError> {
        let session = locked(&self.sessions).remove(&descriptor.digest);
        let sent = self.upload(descriptor, None, |u| u.send(session, open));
        sent.map_err(self.failed("write"))
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), ImageError> {
        let earlier = locked(&self.pending).replace((descriptor.clone(), bytes.to_owned()));
        if let Some((earlier, bytes)) = earlier {
            let name = earlier.digest.to_string();
            self.send_manifest(&earlier, &bytes, &name)
                .map_err(self.failed("write"))?;
        }
        Ok(())
    }

    fn finish(&self, root: &Descriptor) -> Result<(), ImageError> {
        let last = locked(&self.pending).take();
        let Some((descriptor, bytes)) = last.filter(|(d, _)| d.digest == root.digest) else {
            return Err(ImageError::NotFound {
                what: format!("the manifest {} that was to be named", root.digest),
                medium: Sink::name(self),
            });
        };
        let pinned = self.reference.digest().filter(|d| **d != root.digest);
        if let Some(pinned) = pinned {
            return Err(ImageError::Verify(Box::new(VerifyError::Digest {
                expected: *pinned,
                actual: root.digest,
            })));
        }
        let name = self
            .reference
            .tag()
            .map_or_else(|| root.digest.to_string(), str::to_owned);
        self.send_manifest(&descriptor, &bytes, &name)
            .map_err(self.failed("write"))
    }

    fn current(&self) -> Result<Option<Digest>, ImageError> {
        self.digest().map_err(self.failed("read"))
    }
}
