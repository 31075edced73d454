//! Answers to challenges: passwords and tokens.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::{HeaderMap, Method, Response, Uri, header};

use super::RegistryError;
use super::challenge::{self, Challenge};
use super::client::{Client, Endpoint, locked, without_port};
use super::error;
use super::exchange::{Call, Payload, Scope};
use super::network::is_loopback;
use super::secret::{Login, Secret};

/// The largest answer of a token server, bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// How long a token holds that does not say so, seconds (distribution's token specification).
const DEFAULT_LIFE_SECONDS: u64 = 60;

/// How long before its end a token is no longer used: a request must still arrive in time.
const MARGIN: Duration = Duration::from_secs(10);

/// What one registry wants to see, and what it was shown. Shared by all threads.
pub(super) struct Authority {
    challenge: Mutex<Option<Challenge>>,
    tokens: Mutex<HashMap<Scope, Token>>,
    /// By repository: files and helpers are asked once.
    logins: Mutex<HashMap<String, Option<Login>>>,
}

struct Token {
    value: Secret,
    until: Instant,
}

impl Authority {
    pub(super) fn new(challenge: Option<Challenge>) -> Authority {
        Authority {
            challenge: Mutex::new(challenge),
            tokens: Mutex::new(HashMap::new()),
            logins: Mutex::new(HashMap::new()),
        }
    }

    /// Uses a login in place of those of files and helpers.
    pub(super) fn set_login(&self, repository: &str, login: Option<Login>) {
        locked(&self.logins).insert(repository.to_owned(), login);
        locked(&self.tokens).clear();
    }

    /// The value of `Authorization` for a request; `None` as long as the registry has asked for nothing.
    pub(super) fn header(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        scope: &Scope,
    ) -> Result<Option<Secret>, RegistryError> {
        let challenge = locked(&self.challenge).clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match self.login(client, endpoint, scope)? {
                Some(Login::Password { user, password }) => Ok(Some(basic(&user, &password))),
                Some(Login::IdentityToken(_)) | None => Ok(None),
            },
            Some(Challenge::Bearer { realm, service, .. }) => {
                // Held while the token is fetched: the other threads want the same one.
                let mut tokens = locked(&self.tokens);
                if let Some(token) = tokens.get(scope).filter(|t| t.until > Instant::now()) {
                    return Ok(Some(token.value.clone()));
                }
                let login = self.login(client, endpoint, scope)?;
                let server = Server {
                    client,
                    endpoint,
                    realm: &realm,
                    service: service.as_deref(),
                };
                let token = server.token(scope, login.as_ref())?;
                let value = token.value.clone();
                tokens.insert(scope.clone(), token);
                Ok(Some(value))
            }
        }
    }

    /// Takes in the challenge of a 401. Whether there is something to try that was not tried: a password that was refused
    /// is not.
    pub(super) fn learn(&self, headers: &HeaderMap, scope: &Scope, authorised: bool) -> bool {
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let Some(new) = challenge::best(values.filter_map(|v| v.to_str().ok())) else {
            return false;
        };
        locked(&self.tokens).remove(scope);
        let known = locked(&self.challenge).replace(new.clone());
        !(authorised && new == Challenge::Basic && known == Some(Challenge::Basic))
    }

    fn login(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        scope: &Scope,
    ) -> Result<Option<Login>, RegistryError> {
        let mut logins = locked(&self.logins);
        if let Some(login) = logins.get(&scope.repository) {
            return Ok(login.clone());
        }
        let login = client
            .options
            .credentials
            .find(&endpoint.registry, &scope.repository)?;
        logins.insert(scope.repository.clone(), login.clone());
        Ok(login)
    }
}

fn basic(user: &str, password: &Secret) -> Secret {
    let pair = STANDARD.encode(format!("{user}:{}", password.reveal()));
    Secret::new(format!("Basic {pair}"))
}

/// A token server, as a registry named it.
struct Server<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    realm: &'a str,
    service: Option<&'a str>,
}

impl Server<'_> {
    fn token(&self, scope: &Scope, login: Option<&Login>) -> Result<Token, RegistryError> {
        let response = self.ask(scope, login)?;
        let status = response.status().as_u16();
        let (_, mut body) = response.into_parts();
        if !(200..300).contains(&status) {
            let message = error::message(&mut body);
            let host = self.endpoint.host().to_owned();
            return Err(match (status, login) {
                (400 | 401 | 403, Some(_)) => RegistryError::Unauthorized { host, message },
                (400 | 401 | 403, None) => RegistryError::Denied {
                    access: if scope.push { "push" } else { "pull" },
                    repository: format!("{host}/{}", scope.repository),
                    message,
                },
                _ => RegistryError::Status {
                    action: "get",
                    what: format!("a token for {}", scope.repository),
                    host,
                    status,
                    message,
                },
            });
        }
        let mut bytes = Vec::new();
        let read = body
            .into_reader()
            .take(MAX_TOKEN_BYTES)
            .read_to_end(&mut bytes);
        read.map_err(|e| self.answer(&format!("a token that breaks off: {e}")))?;
        self.parse(&bytes)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Token, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        // Without the parser's message: it may quote the token.
        let answer: Answer = serde_json::from_slice(bytes)
            .map_err(|_| self.answer("malformed JSON in place of a token"))?;
        let token = answer
            .token
            .filter(|t| !t.is_empty())
            .or(answer.access_token);
        let token = token
            .filter(|t| !t.is_empty())
            .ok_or_else(|| self.answer("no token"))?;
        let life = Duration::from_secs(
            answer
                .expires_in
                .unwrap_or(DEFAULT_LIFE_SECONDS)
                .min(24 * 3600),
        );
        Ok(Token {
            value: Secret::new(format!("Bearer {token}")),
            until: Instant::now() + life.saturating_sub(MARGIN.min(life / 2)),
        })
    }

    fn ask(
        &self,
        scope: &Scope,
        login: Option<&Login>,
    ) -> Result<Response<ureq::Body>, RegistryError> {
        let realm: Uri = self
            .realm
            .parse()
            .map_err(|_| self.answer("a token server without a valid address"))?;
        self.check(&realm)?;
        let mut fields: Vec<(&str, String)> = Vec::new();
        fields.extend(self.service.map(|s| ("service", s.to_owned())));
        let mut authorization = None;
        let mut form = None;
        match login {
            Some(Login::IdentityToken(refresh)) => {
                fields.push(("grant_type", "refresh_token".to_owned()));
                fields.push(("client_id", "strata".to_owned()));
                fields.push(("scope", scope.words().join(" ")));
                fields.push(("refresh_token", refresh.reveal().to_owned()));
                form = Some(encode(&fields));
            }
            Some(Login::Password { user, password }) => {
                fields.push(("account", user.clone()));
                fields.extend(scope.words().into_iter().map(|w| ("scope", w)));
                authorization = Some(basic(user, password));
            }
            None => fields.extend(scope.words().into_iter().map(|w| ("scope", w))),
        }
        let what = "a token";
        let mut attempt = 1;
        loop {
            let result = match &form {
                Some(form) => {
                    let call = Call::new(Method::POST, realm.clone(), scope, "get", what)
                        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                    self.client
                        .once(&realm, &call, Payload::Bytes(form.as_bytes()), None)
                }
                None => {
                    let mark = if self.realm.contains('?') { '&' } else { '?' };
                    let text = format!("{}{mark}{}", self.realm, encode(&fields));
                    let uri: Uri = text
                        .parse()
                        .map_err(|_| self.answer("a token server without a valid address"))?;
                    let call = Call::new(Method::GET, uri.clone(), scope, "get", what);
                    self.client
                        .once(&uri, &call, Payload::None, authorization.as_ref())
                }
            };
            let passes = match &result {
                Ok(response) => error::is_transient(response.status().as_u16()),
                Err(error) => error.is_transient(),
            };
            if !passes || attempt >= self.client.options.attempts {
                return result;
            }
            let asked = result
                .as_ref()
                .ok()
                .and_then(|r| super::exchange::retry_after(r.headers()));
            std::thread::sleep(asked.unwrap_or_else(|| self.client.wait(attempt)));
            attempt += 1;
        }
    }

    /// A registry that was reached safely must not have credentials sent in the open.
    fn check(&self, realm: &Uri) -> Result<(), RegistryError> {
        let open = realm.scheme_str() != Some("https");
        let excused = realm.host().is_some_and(|h| is_loopback(without_port(h)))
            || self.endpoint.insecure
            || self.endpoint.origin.starts_with("http://");
        match realm.scheme_str() {
            Some("http" | "https") if !open || excused => Ok(()),
            _ => Err(self.answer("a token server that is not reached by TLS")),
        }
    }

    fn answer(&self, why: &str) -> RegistryError {
        RegistryError::Answer {
            host: self.endpoint.host().to_owned(),
            what: "a token".to_owned(),
            why: why.to_owned(),
        }
    }
}

/// `name=value&…`, percent-encoded.
fn encode(fields: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    text.push(char::from(byte))
                }
                byte => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}
