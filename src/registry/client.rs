//! The client: what it knows of each host, and the connections it keeps.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ureq::Agent;
use ureq::http::{Method, Uri};

use super::auth::Authority;
use super::credentials::Credentials;
use super::exchange::{Call, Payload, Scope};
use super::network::{self, Proxies};
use super::secret::{Login, Secret};
use super::{RegistryError, Remote, challenge};
use crate::oci::Reference;

/// How long a connection may take, TLS included: a host that needs longer is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a connection may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a registry may think about an upload: it hashes and moves gigabytes before it answers.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(300);

/// How often a request is made before it has failed.
const ATTEMPTS: u32 = 6;

/// The wait before the second attempt; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Connections that stay open to one host: no fewer than blobs move at the same time.
const IDLE_CONNECTIONS: usize = 16;

/// What answers for `docker.io`.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// How to talk to registries.
#[derive(Clone)]
pub struct ClientOptions {
    /// Hosts (with their ports) whose certificates are not checked, and that may be asked without TLS.
    pub insecure: Vec<String>,
    /// More CA certificates: PEM files, or folders of them.
    pub certificates: Vec<PathBuf>,
    /// What the client calls itself.
    pub user_agent: String,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a connection may be silent; there is no limit to the whole of a transfer.
    pub idle_timeout: Duration,
    /// How often a request is made before it has failed.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles with each further one. A registry that asks for another gets it.
    pub first_wait: Duration,
    /// The proxies to go through.
    pub proxies: Proxies,
    /// Where logins are.
    pub credentials: Credentials,
}

impl Default for ClientOptions {
    /// No proxies, no credentials, nobody insecure; see [`ClientOptions::from_env`].
    fn default() -> ClientOptions {
        ClientOptions {
            insecure: Vec::new(),
            certificates: Vec::new(),
            user_agent: concat!("strata/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            attempts: ATTEMPTS,
            first_wait: FIRST_WAIT,
            proxies: Proxies::none(),
            credentials: Credentials::none(),
        }
    }
}

impl ClientOptions {
    /// The defaults, with the proxies and the credentials of the environment.
    pub fn from_env() -> ClientOptions {
        ClientOptions {
            proxies: Proxies::from_env(),
            credentials: Credentials::from_env(),
            ..ClientOptions::default()
        }
    }
}

/// A client for any number of registries and threads.
pub struct Client {
    pub(super) options: ClientOptions,
    endpoints: Mutex<HashMap<String, Arc<Endpoint>>>,
    agents: Mutex<HashMap<AgentKey, Agent>>,
}

#[derive(PartialEq, Eq, Hash)]
struct AgentKey {
    secure: bool,
    authority: String,
    patient: bool,
}

/// A registry as it was found.
pub(super) struct Endpoint {
    /// As references have it.
    pub(super) registry: String,
    /// `https://HOST[:PORT]`, nothing behind it.
    pub(super) origin: String,
    /// Whether anything goes: see [`ClientOptions::insecure`].
    pub(super) insecure: bool,
    pub(super) authority: Authority,
}

impl Endpoint {
    /// Host and port, as messages have it.
    pub(super) fn host(&self) -> &str {
        &self.registry
    }

    /// The URL of something in a repository; `path` is made of tags, digests and fixed words.
    pub(super) fn uri(&self, repository: &str, path: &str) -> Result<Uri, RegistryError> {
        let text = format!("{}/v2/{repository}/{path}", self.origin);
        text.parse().map_err(|_| RegistryError::Answer {
            host: self.registry.clone(),
            what: repository.to_owned(),
            why: "its address is no URL".to_owned(),
        })
    }
}

impl Client {
    /// A client that has not connected to anything yet.
    pub fn new(options: ClientOptions) -> Client {
        Client {
            options,
            endpoints: Mutex::new(HashMap::new()),
            agents: Mutex::new(HashMap::new()),
        }
    }

    /// An image on a registry, to read or to write. Connects at the first use.
    pub fn remote(self: &Arc<Client>, reference: &Reference) -> Remote {
        Remote::new(Arc::clone(self), reference.clone())
    }

    /// Asks a registry whether it takes these credentials. `Ok` means: it does, or it needs none.
    pub fn check_login(
        &self,
        registry: &str,
        user: &str,
        password: &Secret,
    ) -> Result<(), RegistryError> {
        let endpoint = self.endpoint(registry)?;
        let login = Login::Password {
            user: user.to_owned(),
            password: password.clone(),
        };
        let uri: Uri =
            format!("{}/v2/", endpoint.origin)
                .parse()
                .map_err(|_| RegistryError::Answer {
                    host: registry.to_owned(),
                    what: "/v2/".to_owned(),
                    why: "its address is no URL".to_owned(),
                })?;
        let scope = Scope::none();
        let call = Call::new(Method::GET, uri, &scope, "log in to", registry);
        endpoint.authority.set_login(&scope.repository, Some(login));
        let mut response = self.send(&endpoint, call).map_err(|error| match error {
            RegistryError::Denied { message, .. } => RegistryError::Unauthorized {
                host: registry.to_owned(),
                message,
            },
            other => other,
        })?;
        match response.status().as_u16() {
            200..300 => Ok(()),
            status => Err(RegistryError::Status {
                action: "log in to",
                what: registry.to_owned(),
                host: registry.to_owned(),
                status,
                message: super::error::message(response.body_mut()),
            }),
        }
    }

    /// What there is to know of a registry; found out at the first call.
    pub(super) fn endpoint(&self, registry: &str) -> Result<Arc<Endpoint>, RegistryError> {
        // Held while the registry is asked: the other threads would only ask the same.
        let mut endpoints = locked(&self.endpoints);
        if let Some(endpoint) = endpoints.get(registry) {
            return Ok(Arc::clone(endpoint));
        }
        let endpoint = Arc::new(self.find(registry)?);
        endpoints.insert(registry.to_owned(), Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// Which protocol a registry speaks: on this machine HTTP before TLS, elsewhere TLS and nothing else, unless the user
    /// called the host insecure.
    fn find(&self, registry: &str) -> Result<Endpoint, RegistryError> {
        let authority = match registry {
            "docker.io" => DOCKER_HUB,
            other => other,
        };
        let insecure = self.is_insecure(registry);
        let endpoint = |scheme: &str, challenge| Endpoint {
            registry: registry.to_owned(),
            origin: format!("{scheme}://{authority}"),
            insecure,
            authority: Authority::new(challenge),
        };
        let schemes = if network::is_loopback(without_port(authority)) {
            ["http", "https"]
        } else if insecure {
            ["https", "http"]
        } else {
            return Ok(endpoint("https", None));
        };
        let mut attempt = 0;
        loop {
            let mut first = None;
            for scheme in schemes {
                match self.ping(scheme, authority) {
                    Ok(Ping::Speaks(challenge)) => return Ok(endpoint(scheme, challenge)),
                    Ok(Ping::WantsTls) => {}
                    // What the second says matters only where the first says nothing.
                    Err(error) => {
                        first.get_or_insert(error);
                    }
                }
            }
            attempt += 1;
            match first {
                Some(error) if error.is_transient() && attempt < self.options.attempts => {
                    std::thread::sleep(self.wait(attempt));
                }
                Some(error) => return Err(error),
                None => {
                    return Err(RegistryError::Answer {
                        host: registry.to_owned(),
                        what: "/v2/".to_owned(),
                        why: "it speaks neither HTTP nor TLS".to_owned(),
                    });
                }
            }
        }
    }

    fn ping(&self, scheme: &str, authority: &str) -> Result<Ping, RegistryError> {
        let uri: Uri =
            format!("{scheme}://{authority}/v2/")
                .parse()
                .map_err(|_| RegistryError::Answer {
                    host: authority.to_owned(),
                    what: "/v2/".to_owned(),
                    why: "its address is no URL".to_owned(),
                })?;
        let scope = Scope::none();
        let call = Call::new(Method::GET, uri.clone(), &scope, "reach", authority);
        let mut response = self.once(&uri, &call, Payload::None, None)?;
        // Go's and nginx's servers say so in these words.
        if scheme == "http"
            && response.status().as_u16() == 400
            && super::error::message(response.body_mut()).contains("HTTPS")
        {
            return Ok(Ping::WantsTls);
        }
        let values = response.headers().get_all("www-authenticate").iter();
        let challenge = challenge::best(values.filter_map(|v| v.to_str().ok()));
        super::error::drain(response.body_mut());
        Ok(Ping::Speaks(challenge))
    }

    /// The wait before attempt number `attempt + 1`.
    pub(super) fn wait(&self, attempt: u32) -> Duration {
        self.options
            .first_wait
            .saturating_mul(1 << attempt.saturating_sub(1).min(6))
    }

    pub(super) fn is_insecure(&self, host: &str) -> bool {
        let bare = without_port(host);
        self.options
            .insecure
            .iter()
            .any(|h| h == "*" || h == host || h == bare)
    }

    /// The connections to a host. `patient` ones wait longer for an answer.
    pub(super) fn agent(&self, uri: &Uri, patient: bool) -> Result<Agent, RegistryError> {
        let secure = uri.scheme_str() == Some("https");
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let key = AgentKey {
            secure,
            authority,
            patient,
        };
        let mut agents = locked(&self.agents);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let options = &self.options;
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let idle = if patient {
            options.idle_timeout.max(COMMIT_TIMEOUT)
        } else {
            options.idle_timeout
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed by hand: credentials must not go along.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(&options.user_agent)
            .proxy(options.proxies.choose(secure, host, port)?)
            .timeout_connect(Some(options.connect_timeout))
            .timeout_resolve(Some(options.connect_timeout))
            .timeout_per_read(Some(idle))
            .timeout_per_write(Some(options.idle_timeout))
            .max_idle_connections(IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS);
        if secure {
            let tls = ureq::tls::TlsConfig::builder();
            let tls = if self.is_insecure(&key.authority) {
                tls.disable_verification(true)
            } else {
                tls.root_certs(network::roots(&key.authority, &options.certificates)?)
            };
            config = config.tls_config(tls.build());
        }
        let agent = Agent::new_with_config(config.build());
        agents.insert(key, agent.clone());
        Ok(agent)
    }
}

enum Ping {
    Speaks(Option<challenge::Challenge>),
    WantsTls,
}

/// `HOST` of `HOST:PORT`, also in brackets.
pub(super) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked with the lock held left a map that is still a map.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
