//! EXPOSE: `[[IP:]HOST:]PORT[-LAST][/PROTOCOL]` to single ports.

use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Every port of every protocol: who exposes more says some twice, and a line of ranges would fill the memory.
pub(super) const MAX_PORTS: usize = 3 * 65536;

/// Why a text is no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Nothing before the slash.
    #[error("no port specified: {0}<empty>")]
    Missing(String),
    /// Not tcp, udp or sctp.
    #[error("invalid proto: {0}")]
    Protocol(String),
    /// Neither a number below 65536 nor a rising range.
    #[error("invalid containerPort: {0}")]
    Port(String),
    /// The same of the host's side.
    #[error("invalid hostPort: {0}")]
    HostPort(String),
    /// As many ports on one side as on the other, or one.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The container's.
        container: String,
        /// The host's.
        host: String,
    },
    /// More than 196608 in one instruction.
    #[error("too many ports: there are not more than {MAX_PORTS}")]
    TooMany,
    /// What stands before the host's port is no address.
    #[error("invalid IP address: {0}")]
    Address(String),
}

/// The single ports of one word, as `80/tcp`. The host's part is checked and dropped.
pub(super) fn parse(word: &str) -> Result<Vec<String>, PortError> {
    let (rest, container) = word.rsplit_once(':').unwrap_or(("", word));
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(PortError::Missing(container.to_owned()));
    }
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        other => return Err(PortError::Protocol(other.to_owned())),
    };
    let bare = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(PortError::Address(address.to_owned()));
    }
    let ports = range(port).ok_or_else(|| PortError::Port(port.to_owned()))?;
    if !host.is_empty() {
        let hosts = range(host).ok_or_else(|| PortError::HostPort(host.to_owned()))?;
        if ports.len() != hosts.len() && ports.len() != 1 {
            return Err(PortError::Ranges {
                container: port.to_owned(),
                host: host.to_owned(),
            });
        }
    }
    Ok(ports.map(|p| format!("{p}/{protocol}")).collect())
}

/// Whether the protocol is not all in lower case.
pub(super) fn protocol_has_capitals(word: &str) -> bool {
    word.rsplit_once('/')
        .is_some_and(|(_, protocol)| protocol.chars().any(char::is_uppercase))
}

/// Whether an address or a port of the host stands before the port.
pub(super) fn has_host_part(word: &str) -> bool {
    word.rsplit_once(':')
        .is_some_and(|(host, _)| !host.trim_matches(':').is_empty())
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |t: &str| {
        t.bytes()
            .all(|c| c.is_ascii_digit())
            .then(|| t.parse::<u16>().ok())
            .flatten()
    };
    match text.split_once('-') {
        None => number(text).map(|n| n..=n),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(first..=last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_table() {
        for (word, want) in [
            ("80", Ok("80/tcp")),
            ("443/TCP", Ok("443/tcp")),
            ("53/udp", Ok("53/udp")),
            ("8000-8002", Ok("8000/tcp 8001/tcp 8002/tcp")),
            ("9000-9001/sctp", Ok("9000/sctp 9001/sctp")),
            ("127.0.0.1:80:8080", Ok("8080/tcp")),
            ("[::1]:80:8080", Ok("8080/tcp")),
            ("80-90:8080/tcp", Ok("8080/tcp")),
            ("eighty", Err("invalid containerPort: eighty")),
            ("65536", Err("invalid containerPort: 65536")),
            ("+80", Err("invalid containerPort: +80")),
            ("90-80", Err("invalid containerPort: 90-80")),
            ("1-2-3", Err("invalid containerPort: 1-2-3")),
            ("80/icmp", Err("invalid proto: icmp")),
            ("/tcp", Err("no port specified: /tcp<empty>")),
            ("x:80", Err("invalid hostPort: x")),
            ("host:1:80", Err("invalid IP address: host")),
            (
                "1-3:4-5",
                Err("invalid ranges specified for container and host Ports: 4-5 and 1-3"),
            ),
        ] {
            let got = parse(word).map(|p| p.join(" ")).map_err(|e| e.to_string());
            assert_eq!(
                got,
                want.map(str::to_owned).map_err(str::to_owned),
                "{word}"
            );
        }
    }
}
