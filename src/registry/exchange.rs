//! One request and its answer: credentials, redirects, and trying again.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use ureq::http::{self, HeaderMap, Method, Response, Uri, header};
use ureq::{Body, SendBody};

use super::RegistryError;
use super::client::{Client, Endpoint};
use super::error::{self, is_transient};
use super::secret::Secret;

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;

/// The longest wait a registry may ask for: docker's limits reset after hours, which nobody waits for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What a request needs the right to do (distribution's token scopes).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Scope {
    /// Empty: only to log in.
    pub(super) repository: String,
    pub(super) push: bool,
    /// Another repository to mount blobs from.
    pub(super) from: Option<String>,
}

impl Scope {
    pub(super) fn none() -> Scope {
        Scope {
            repository: String::new(),
            push: false,
            from: None,
        }
    }

    /// As token servers are asked.
    pub(super) fn words(&self) -> Vec<String> {
        if self.repository.is_empty() {
            return Vec::new();
        }
        let actions = if self.push { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{actions}", self.repository);
        let from = self
            .from
            .as_ref()
            .map(|from| format!("repository:{from}:pull"));
        [own].into_iter().chain(from).collect()
    }

    fn access(&self) -> &'static str {
        if self.push { "push" } else { "pull" }
    }
}

/// A request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) scope: &'a Scope,
    /// What messages say of it.
    pub(super) action: &'static str,
    pub(super) what: String,
    pub(super) headers: Vec<(header::HeaderName, String)>,
    pub(super) payload: &'a [u8],
}

impl<'a> Call<'a> {
    pub(super) fn new(
        method: Method,
        uri: Uri,
        scope: &'a Scope,
        action: &'static str,
        what: &str,
    ) -> Call<'a> {
        Call {
            method,
            uri,
            scope,
            action,
            what: what.to_owned(),
            headers: Vec::new(),
            payload: &[],
        }
    }

    pub(super) fn header(mut self, name: header::HeaderName, value: impl Into<String>) -> Call<'a> {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn payload(mut self, bytes: &'a [u8]) -> Call<'a> {
        self.payload = bytes;
        self
    }
}

/// What a request carries.
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    Stream { reader: &'a mut dyn Read, size: u64 },
}

impl Client {
    /// Makes a request until there is an answer that is final: 401 has been answered with credentials, redirects have
    /// been followed, and what passes has been waited for.
    pub(super) fn send(
        &self,
        endpoint: &Endpoint,
        call: Call<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut attempt = 1;
        loop {
            let result = self.authorised(endpoint, &call);
            let wait = match &result {
                Ok(response) if is_transient(response.status().as_u16()) => {
                    retry_after(response.headers()).unwrap_or_else(|| self.wait(attempt))
                }
                Err(error) if error.is_transient() => self.wait(attempt),
                _ => return result,
            };
            if attempt >= self.options.attempts {
                return result;
            }
            tracing::debug!(what = call.what, attempt, ?wait, "trying again");
            if let Ok(mut response) = result {
                error::drain(response.body_mut());
            }
            std::thread::sleep(wait);
            attempt += 1;
        }
    }

    /// Makes a request that must answer with one of `expected`.
    pub(super) fn expect(
        &self,
        endpoint: &Endpoint,
        call: Call<'_>,
        expected: &[u16],
    ) -> Result<Response<Body>, RegistryError> {
        let (action, what) = (call.action, call.what.clone());
        let scope = call.scope.clone();
        let response = self.send(endpoint, call)?;
        if expected.contains(&response.status().as_u16()) {
            return Ok(response);
        }
        Err(refusal(endpoint, &scope, action, what, response))
    }

    /// Makes a request with what the registry wants to see; a second time where it wants more than before.
    fn authorised(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut sent = endpoint.authority.header(self, endpoint, call.scope)?;
        let mut again = false;
        loop {
            let mut response = self.follow(endpoint, call, sent.as_ref())?;
            if response.status().as_u16() != 401 {
                return Ok(response);
            }
            let learned = endpoint
                .authority
                .learn(response.headers(), call.scope, sent.is_some());
            if again || !learned {
                return Err(refusal(
                    endpoint,
                    call.scope,
                    call.action,
                    call.what.clone(),
                    response,
                ));
            }
            let fresh = endpoint.authority.header(self, endpoint, call.scope)?;
            if fresh.is_none() || fresh == sent {
                return Err(refusal(
                    endpoint,
                    call.scope,
                    call.action,
                    call.what.clone(),
                    response,
                ));
            }
            error::drain(response.body_mut());
            sent = fresh;
            again = true;
        }
    }

    /// Follows redirects; credentials go to the registry itself only.
    fn follow(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        authorization: Option<&Secret>,
    ) -> Result<Response<Body>, RegistryError> {
        let answer = |why: &str| RegistryError::Answer {
            host: endpoint.host().to_owned(),
            what: call.what.clone(),
            why: why.to_owned(),
        };
        let mut uri = call.uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let own = same_origin(&uri, &call.uri);
            let payload = match call.payload {
                [] if !matches!(call.method, Method::POST | Method::PUT | Method::PATCH) => {
                    Payload::None
                }
                bytes => Payload::Bytes(bytes),
            };
            let mut response = self.once(&uri, call, payload, authorization.filter(|_| own))?;
            let redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirect || !matches!(call.method, Method::GET | Method::HEAD) {
                return Ok(response);
            }
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|v| v.to_str().ok());
            let next = location
                .and_then(|l| join(&uri, l))
                .ok_or_else(|| answer("a redirect without a valid address"))?;
            if uri.scheme_str() == Some("https")
                && next.scheme_str() != Some("https")
                && !endpoint.insecure
            {
                return Err(answer("a redirect from TLS to plain HTTP"));
            }
            error::drain(response.body_mut());
            uri = next;
        }
        Err(answer("too many redirects"))
    }

    /// Makes one request.
    pub(super) fn once(
        &self,
        uri: &Uri,
        call: &Call<'_>,
        payload: Payload<'_>,
        authorization: Option<&Secret>,
    ) -> Result<Response<Body>, RegistryError> {
        let host = uri.authority().map_or_else(String::new, |a| {
            // Whatever stands before an at sign is not for messages.
            let text = a.as_str();
            text.rsplit_once('@')
                .map_or(text, |(_, host)| host)
                .to_owned()
        });
        let answer = |why: &str| RegistryError::Answer {
            host: host.clone(),
            what: call.what.clone(),
            why: why.to_owned(),
        };
        let mut request = http::Request::builder()
            .method(call.method.clone())
            .uri(uri.clone());
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if let Some(secret) = authorization {
            let mut value = header::HeaderValue::from_str(secret.reveal())
                .map_err(|_| answer("credentials with characters that no header can hold"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let malformed = |_| answer("a request that cannot be written");
        let sent = match payload {
            Payload::None => {
                let agent = self.agent(uri, false)?;
                agent.run(request.body(()).map_err(malformed)?)
            }
            Payload::Bytes(bytes) => {
                let agent = self.agent(uri, true)?;
                agent.run(request.body(bytes).map_err(malformed)?)
            }
            Payload::Stream { reader, size } => {
                let agent = self.agent(uri, true)?;
                let request = request.header(header::CONTENT_LENGTH, size);
                let mut whole = Whole::new(reader, size);
                let body = SendBody::from_reader(&mut whole);
                let result = agent.run(request.body(body).map_err(malformed)?);
                if let Some(error) = whole.failure {
                    return Err(RegistryError::Source(error));
                }
                result
            }
        };
        sent.map_err(|error| RegistryError::of_transport(error, &host, call.action, &call.what))
    }
}

/// What an answer that was not hoped for means.
pub(super) fn refusal(
    endpoint: &Endpoint,
    scope: &Scope,
    action: &'static str,
    what: String,
    mut response: Response<Body>,
) -> RegistryError {
    let status = response.status().as_u16();
    let host = endpoint.host().to_owned();
    let message = error::message(response.body_mut());
    match status {
        401 | 403 => RegistryError::Denied {
            access: scope.access(),
            repository: format!("{host}/{}", scope.repository),
            message,
        },
        404 => RegistryError::NotFound { what, host },
        status => RegistryError::Status {
            action,
            what,
            host,
            status,
            message,
        },
    }
}

/// When a busy registry wants to be asked again (RFC 9110, section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_WAIT))
}

/// Whether two addresses are of one server, as far as credentials go.
pub(super) fn same_origin(one: &Uri, two: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        (secure, uri.host().map(str::to_ascii_lowercase), port)
    };
    origin(one) == origin(two)
}

/// Resolves a reference against an address (RFC 3986, section 5.2, without dot segments, which no registry sends).
pub(super) fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let text = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else if location.is_empty() || location.split('/').next().is_some_and(|p| p.contains(':')) {
        return None;
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{scheme}://{authority}{dir}/{location}")
    };
    let uri: Uri = text.parse().ok()?;
    // A name and a password in an address are nothing a registry has to give.
    (uri.authority().is_some_and(|a| !a.as_str().contains('@'))).then_some(uri)
}

/// A reader of so many bytes that asks for the end before it gives the last ones away: there the source says whether they
/// were right, and wrong ones must not complete a request.
struct Whole<'a> {
    inner: &'a mut dyn Read,
    left: u64,
    failure: Option<io::Error>,
}

impl<'a> Whole<'a> {
    fn new(inner: &'a mut dyn Read, size: u64) -> Whole<'a> {
        Whole {
            inner,
            left: size,
            failure: None,
        }
    }

    fn fill(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        let n = self.inner.read(&mut buf[..most])?;
        self.left -= n as u64;
        if n == 0 && self.left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.left == 0 && self.inner.read(&mut [0])? != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "longer than its descriptor says",
            ));
        }
        Ok(n)
    }
}

impl Read for Whole<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buf.is_empty() {
            return Ok(0);
        }
        self.fill(buf).map_err(|error| {
            let kind = error.kind();
            self.failure = Some(error);
            io::Error::new(kind, "what is to be sent cannot be read")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let base: Uri = "https://reg:5000/v2/a/blobs/uploads/?x=1".parse().unwrap();
        for (location, want) in [
            ("https://other/x?y", Some("https://other/x?y")),
            ("//other/x", Some("https://other/x")),
            ("/v2/a?b=c", Some("https://reg:5000/v2/a?b=c")),
            (
                "uuid?s=1",
                Some("https://reg:5000/v2/a/blobs/uploads/uuid?s=1"),
            ),
            ("?s=1", Some("https://reg:5000/v2/a/blobs/uploads/?s=1")),
            ("/x#fragment", Some("https://reg:5000/x")),
            ("ftp://other/x", None),
            ("https://user:word@other/x", None),
            ("", None),
        ] {
            let joined = join(&base, location).map(|u| u.to_string());
            assert_eq!(joined.as_deref(), want, "{location}");
        }
    }

    #[test]
    fn waits_are_read_and_bounded() {
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(wait("0"), Some(Duration::ZERO));
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999"), Some(MAX_WAIT));
        assert_eq!(wait("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn origins_are_compared_with_their_ports() {
        for (one, two, same) in [
            ("https://a/x", "https://a:443/y", true),
            ("https://a/x", "https://A/y", true),
            ("http://a/x", "https://a/x", false),
            ("https://a/x", "https://b.a/x", false),
            ("http://a:1/x", "http://a:2/x", false),
        ] {
            assert_eq!(
                same_origin(&one.parse().unwrap(), &two.parse().unwrap()),
                same,
                "{one} {two}"
            );
        }
    }

    #[test]
    fn wrong_bytes_do_not_complete_a_request() {
        struct Wrong(usize);
        impl Read for Wrong {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::Error::other("wrong digest"));
                }
                self.0 -= 1;
                buf[0] = 1;
                Ok(1)
            }
        }
        let mut inner = Wrong(3);
        let mut whole = Whole::new(&mut inner, 3);
        let mut got = Vec::new();
        assert!(whole.read_to_end(&mut got).is_err());
        assert_eq!(got.len(), 2);
        assert!(whole.failure.is_some());
        for (bytes, size, fine) in [
            (&b"abc"[..], 3, true),
            (b"abc", 4, false),
            (b"abc", 2, false),
        ] {
            let mut inner = bytes;
            let result = Whole::new(&mut inner, size).read_to_end(&mut Vec::new());
            assert_eq!(result.is_ok(), fine, "{size}");
        }
    }
}
