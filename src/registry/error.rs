//! What can go wrong with a registry, in words that say what to do.

use std::io::{self, Read};
use std::path::PathBuf;

use super::CredentialError;
use crate::image::ImageError;
use crate::oci::ReferenceError;

/// The longest message of a registry that is passed on, characters.
const MAX_MESSAGE_CHARS: usize = 512;

/// How much of an answer is read for its message, bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// Why a registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Nobody answers there.
    #[error("cannot connect to {host}: {why}")]
    Connect {
        /// Host and port.
        host: String,
        /// `connection refused`, `host not found`, …
        why: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The certificate or the TLS handshake.
    #[error(
        "cannot trust {host}: {why}; give its CA with --tls-ca or in /etc/docker/certs.d/{host}/ca.crt"
    )]
    Tls {
        /// Host and port.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// The connection broke, on each try.
    #[error("cannot {action} {what}: the connection to {host} failed")]
    Transfer {
        /// `read`, `write`, …
        action: &'static str,
        /// What.
        what: String,
        /// Host and port.
        host: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// Wrong or missing credentials, or no right, or no such repository: registries do not tell which.
    #[error(
        "{access} access denied for {repository}, repository does not exist or may require authorization: server message: {message}"
    )]
    Denied {
        /// `pull` or `push`.
        access: &'static str,
        /// Host and repository.
        repository: String,
        /// The registry's own words.
        message: String,
    },
    /// A name and a password that the registry or its token server does not take.
    #[error("{host} refused the credentials: {message}; log in again with: strata login {host}")]
    Unauthorized {
        /// Which.
        host: String,
        /// Its own words.
        message: String,
    },
    /// There is none.
    #[error("{what} not found on {host}")]
    NotFound {
        /// What.
        what: String,
        /// Where.
        host: String,
    },
    /// Another refusal.
    #[error("cannot {action} {what}: {host} answered {status}: {message}")]
    Status {
        /// `read`, `write`, …
        action: &'static str,
        /// What.
        what: String,
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The registry's own words.
        message: String,
    },
    /// An answer that makes no sense.
    #[error("cannot understand the answer of {host} for {what}: {why}")]
    Answer {
        /// Host and port.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate file.
    #[error("cannot read the CA certificates {}: {why}", .path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A proxy that is no URL.
    #[error("invalid proxy in the environment: {0}")]
    Proxy(&'static str),
    /// A credential file or helper.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// A token ran out while it was used.
    #[error("the registry's leave to write ended during the transfer")]
    Expired {
        /// What the registry said.
        #[source]
        source: Box<RegistryError>,
    },
    /// What was to be sent could not be read.
    #[error("cannot read what is to be sent")]
    Source(#[source] io::Error),
    /// What was to be sent could not be opened.
    #[error("cannot read what is to be sent")]
    Open(#[source] Box<ImageError>),
    /// A tag that a registry lists and that is none.
    #[error("{host} listed an invalid tag")]
    Tag {
        /// Which.
        host: String,
        /// Why not.
        #[source]
        source: ReferenceError,
    },
}

impl RegistryError {
    /// Whether the same request may succeed when it is made again.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            RegistryError::Transfer { source, .. } => !matches!(
                **source,
                ureq::Error::Http(_)
                    | ureq::Error::BadUri(_)
                    | ureq::Error::LargeResponseHeader(..)
            ),
            RegistryError::Status { status, .. } => is_transient(*status),
            _ => false,
        }
    }

    /// What a request that did not get an answer failed of.
    pub(super) fn of_transport(
        error: ureq::Error,
        host: &str,
        action: &'static str,
        what: &str,
    ) -> RegistryError {
        let connect = |why: &str, source| RegistryError::Connect {
            host: host.to_owned(),
            why: tls_problem(why),
            source: Box::new(source),
        };
        match error {
            ureq::Error::Io(ref io) if io.kind() == io::ErrorKind::ConnectionRefused => {
                connect("connection refused", error)
            }
            ureq::Error::Io(ref io)
                if matches!(
                    io.kind(),
                    io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable
                ) =>
            {
                connect("no route to it", error)
            }
            ureq::Error::HostNotFound => connect("host not found", error),
            ureq::Error::ConnectionFailed => connect("the connection failed", error),
            ureq::Error::ConnectProxyFailed(_) => connect("the proxy refused", error),
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                connect("it does not answer in time", error)
            }
            ureq::Error::Rustls(tls) => RegistryError::Tls {
                host: host.to_owned(),
                why: tls_problem(&tls.to_string()),
            },
            ureq::Error::Tls(why) => RegistryError::Tls {
                host: host.to_owned(),
                why: why.to_owned(),
            },
            // rustls reports a refused certificate through the stream it reads from.
            ureq::Error::Io(ref io) if io.get_ref().is_some_and(is_tls) => RegistryError::Tls {
                host: host.to_owned(),
                why: tls_problem(&io.to_string()),
            },
            error => RegistryError::Transfer {
                action,
                what: what.to_owned(),
                host: host.to_owned(),
                source: Box::new(error),
            },
        }
    }

    /// As a medium's failure.
    pub(super) fn into_image(self, action: &'static str, what: String) -> ImageError {
        match self {
            RegistryError::NotFound { what, host } => ImageError::NotFound { what, medium: host },
            RegistryError::Open(error) => *error,
            RegistryError::Source(error) => ImageError::from_io("read", &what, error),
            error => ImageError::Medium {
                action,
                what,
                source: Box::new(error),
            },
        }
    }
}

/// What is wrong with a certificate, in words where the library has only a name for a common case.
fn tls_problem(text: &str) -> String {
    if text.contains("CaUsedAsEndEntity") {
        // What `openssl req -x509` makes. Other tools take it when it is trusted; this library never does.
        "it shows a CA certificate as its own; make it one without CA:TRUE (openssl req -x509 -addext basicConstraints=critical,CA:FALSE)".to_owned()
    } else {
        text.to_owned()
    }
}

fn is_tls(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    // The type is not nameable without rustls as a direct dependency; its messages are stable.
    let text = error.to_string();
    text.contains("certificate") || text.contains("UnknownIssuer") || text.contains("alert")
}

/// Statuses that pass: the registry is busy, or restarts.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// What a registry says in an error (distribution-spec, "Error Codes"): its first error's code and message, else the
/// beginning of its text. Never a control character, and never much.
pub(super) fn message(body: &mut ureq::Body) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<Item>,
        #[serde(default)]
        details: String,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut bytes = Vec::new();
    // An answer that breaks off still has a beginning.
    let _ = body
        .as_reader()
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut bytes);
    let text = match serde_json::from_slice::<Errors>(&bytes) {
        Ok(Errors { errors, details }) => match errors.into_iter().next() {
            Some(Item { code, message }) => {
                let code = code.to_ascii_lowercase().replace('_', " ");
                match (code.is_empty(), message.is_empty()) {
                    (false, false) => format!("{code}: {message}"),
                    (false, true) => code,
                    _ => message,
                }
            }
            None => details,
        },
        Err(_) => String::from_utf8_lossy(&bytes).into_owned(),
    };
    let text = sanitise(&text);
    if text.is_empty() {
        return "no message".to_owned();
    }
    text
}

/// Reads what is left of a small answer, so that its connection can serve again; a large one is not worth it.
pub(super) fn drain(body: &mut ureq::Body) {
    let _ = io::copy(
        &mut body.as_reader().take(MAX_ANSWER_BYTES),
        &mut io::sink(),
    );
}

/// Text from outside as one line that a terminal can show.
pub(super) fn sanitise(text: &str) -> String {
    let visible: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        // Marks that turn the direction of what follows could show another text than there is.
        .filter(|c| !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
        .take(MAX_MESSAGE_CHARS)
        .collect();
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> ureq::Body {
        ureq::Body::builder().data(text.to_owned())
    }

    #[test]
    fn message_table() {
        for (text, want) in [
            (
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known","detail":{}}]}"#,
                "name unknown: repository name not known",
            ),
            (r#"{"errors":[{"code":"DENIED"}]}"#, "denied"),
            (r#"{"errors":[]}"#, "no message"),
            (
                r#"{"details":"incorrect username or password"}"#,
                "incorrect username or password",
            ),
            ("plain\r\n\u{1b}[31mtext\u{202e}", "plain [31mtext"),
            ("", "no message"),
        ] {
            assert_eq!(message(&mut body(text)), want);
        }
        assert_eq!(
            message(&mut body(&"x".repeat(100_000))).len(),
            MAX_MESSAGE_CHARS
        );
    }
}
