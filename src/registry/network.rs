//! What lies between strata and a registry: certificates and proxies.

use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

use super::RegistryError;

/// Where distributions keep the certificates they trust, in one file.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where docker's and podman's users put a registry's own CA, in a folder of its name.
const HOST_FOLDERS: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

/// The certificates to trust for a host: the system's (`$SSL_CERT_FILE` in their place), the host's own, and `extra`.
/// Without a system bundle, Mozilla's as they were when strata was built.
pub(super) fn roots(host: &str, extra: &[PathBuf]) -> Result<RootCerts, RegistryError> {
    let mut own = Vec::new();
    for path in extra {
        if path.is_dir() {
            folder(path, &mut own)?;
        } else {
            file(path, &mut own)?;
        }
    }
    for parent in HOST_FOLDERS {
        let dir = Path::new(parent).join(host);
        if dir.is_dir() {
            folder(&dir, &mut own)?;
        }
    }
    let system = match env::var_os("SSL_CERT_FILE").filter(|v| !v.is_empty()) {
        Some(path) => Some(PathBuf::from(path)),
        None => SYSTEM_BUNDLES
            .iter()
            .map(PathBuf::from)
            .find(|p| p.exists()),
    };
    match system {
        Some(path) => file(&path, &mut own)?,
        None if own.is_empty() => return Ok(RootCerts::WebPki),
        None => {}
    }
    Ok(RootCerts::new_with_certs(&own))
}

fn folder(dir: &Path, certificates: &mut Vec<Certificate<'static>>) -> Result<(), RegistryError> {
    let failed = |e: std::io::Error| RegistryError::Certificate {
        path: dir.to_owned(),
        why: e.to_string(),
    };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "crt" || e == "pem") {
            file(&path, certificates)?;
        }
    }
    Ok(())
}

fn file(path: &Path, certificates: &mut Vec<Certificate<'static>>) -> Result<(), RegistryError> {
    let failed = |why: String| RegistryError::Certificate {
        path: path.to_owned(),
        why,
    };
    let bytes = fs::read(path).map_err(|e| failed(e.to_string()))?;
    let before = certificates.len();
    for item in parse_pem(&bytes) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| failed(e.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.len() == before {
        return Err(failed("it holds no certificate in PEM form".to_owned()));
    }
    Ok(())
}

/// The proxies to go through.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    none: Vec<String>,
}

impl Proxies {
    /// Every connection goes straight.
    pub fn none() -> Proxies {
        Proxies::default()
    }

    /// `$HTTP_PROXY`, `$HTTPS_PROXY`, `$ALL_PROXY` and `$NO_PROXY`, in either case.
    pub fn from_env() -> Proxies {
        let get = |name: &str| {
            [name.to_ascii_lowercase(), name.to_owned()]
                .iter()
                .find_map(|n| env::var(n).ok().filter(|v| !v.is_empty()))
        };
        let all = get("ALL_PROXY");
        Proxies {
            http: get("HTTP_PROXY").or_else(|| all.clone()),
            https: get("HTTPS_PROXY").or(all),
            none: get("NO_PROXY")
                .unwrap_or_default()
                .split(',')
                .map(|p| p.trim().to_ascii_lowercase())
                .filter(|p| !p.is_empty())
                .collect(),
        }
    }

    /// The proxy for a host, if one is to be used.
    pub(super) fn choose(
        &self,
        secure: bool,
        host: &str,
        port: u16,
    ) -> Result<Option<ureq::Proxy>, RegistryError> {
        let (url, name) = if secure {
            (&self.https, "HTTPS_PROXY")
        } else {
            (&self.http, "HTTP_PROXY")
        };
        match url {
            Some(url) if !self.bypasses(host, port) => {
                // The URL may hold a password: only the variable is named.
                ureq::Proxy::new(url)
                    .map(Some)
                    .map_err(|_| RegistryError::Proxy(name))
            }
            _ => Ok(None),
        }
    }

    /// Go's rules, which the tools of this field share: loopback never; `host`, `.suffix` and `host:port`; addresses and
    /// networks; `*`.
    fn bypasses(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = bare.parse().ok();
        if is_loopback(&host) {
            return true;
        }
        self.none.iter().any(|rule| {
            if rule == "*" {
                return true;
            }
            if let (Some((network, bits)), Some(address)) = (rule.split_once('/'), address) {
                return in_network(address, network, bits);
            }
            let (name, rule_port) = match rule.rsplit_once(':') {
                Some((name, digits)) if digits.parse::<u16>().is_ok() && !name.contains(':') => {
                    (name, digits.parse::<u16>().ok())
                }
                _ => (rule.as_str(), None),
            };
            if rule_port.is_some_and(|p| p != port) {
                return false;
            }
            let suffix = name.trim_start_matches('*');
            let whole = suffix.trim_start_matches('.');
            bare == whole && !suffix.starts_with('.')
                || bare
                    .strip_suffix(whole)
                    .is_some_and(|before| before.ends_with('.'))
        })
    }
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let Ok(bits) = bits.parse::<u32>() else {
        return false;
    };
    match (address, network.parse()) {
        (IpAddr::V4(a), Ok(IpAddr::V4(n))) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        (IpAddr::V6(a), Ok(IpAddr::V6(n))) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        _ => false,
    }
}

/// Whether a host, without its port, is this machine: where plain HTTP is not seen by anyone else.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_table() {
        let proxies = Proxies {
            http: Some("http://proxy:3128".to_owned()),
            https: Some("http://proxy:3128".to_owned()),
            none: [
                "example.com",
                ".sub.org",
                "10.0.0.0/8",
                "fd00::/8",
                "port.net:5000",
                "*.star.io",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        for (host, port, straight) in [
            ("localhost", 80, true),
            ("127.1.2.3", 80, true),
            ("[::1]", 80, true),
            ("example.com", 443, true),
            ("a.example.com", 443, true),
            ("notexample.com", 443, false),
            ("sub.org", 443, false),
            ("a.sub.org", 443, true),
            ("10.2.3.4", 443, true),
            ("11.2.3.4", 443, false),
            ("[fd00::1]", 443, true),
            ("port.net", 5000, true),
            ("port.net", 443, false),
            ("x.star.io", 443, true),
            ("other.dev", 443, false),
        ] {
            assert_eq!(
                proxies.choose(true, host, port).unwrap().is_none(),
                straight,
                "{host}:{port}"
            );
        }
        let wrong = Proxies {
            http: Some("http://user:hunter2@".to_owned()),
            ..Proxies::default()
        };
        let error = wrong
            .choose(false, "example.com", 80)
            .err()
            .unwrap()
            .to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn certificate_files_are_checked() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("ca.crt");
        fs::write(&path, "nothing").unwrap();
        let error = roots("x", &[temp.path().to_owned()])
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("no certificate"), "{error}");
        assert!(roots("x", &[temp.path().join("missing")]).is_err());
    }
}
