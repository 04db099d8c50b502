use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::TierError;

/// Where a tier listens, `unix:PATH` or `tls:HOST:PORT`, or a database on this machine: `loopback:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// A Unix socket on this machine; who may use it is a matter of file permissions.
    Unix(PathBuf),
    /// TCP in clear to 127.0.0.1: for databases, never for a tier.
    Loopback(u16),
    /// Mutual TLS. The host's name or address must be in the tier's certificate.
    Tls {
        /// A DNS name, an IPv4 address, or an IPv6 address without brackets.
        host: String,
        /// The TCP port.
        port: u16,
    },
}

impl FromStr for Endpoint {
    type Err = TierError;

    fn from_str(text: &str) -> Result<Self, TierError> {
        let wrong = || TierError::Endpoint { text: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Some(port) = text.strip_prefix("loopback:") {
            return port.parse().ok().filter(|port| *port != 0).map(Self::Loopback).ok_or_else(wrong);
        }
        let (host, port) = text.strip_prefix("tls:").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        if rustls::pki_types::ServerName::try_from(host).is_err() {
            return Err(wrong());
        }
        Ok(Self::Tls { host: host.to_owned(), port })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = TierError;

    fn try_from(text: String) -> Result<Self, TierError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(port) => write!(f, "loopback:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls { host, port } if host.contains(':') => write!(f, "tls:[{host}]:{port}"),
            Self::Tls { host, port } => write!(f, "tls:{host}:{port}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_as_it_is_written_and_others_are_refused() {
        for text in [
            "loopback:6333",
            "unix:/run/tier.sock",
            "unix:tier.sock",
            "tls:tier.example:8471",
            "tls:10.0.0.5:8471",
            "tls:[::1]:1",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "unix:",
            "tls:",
            "tls:host",
            "tls:host:0",
            "tls:host:70000",
            "loopback:",
            "loopback:0",
            "loopback:db:1",
            "tls::1",
            "tcp:a:1",
            "tls:a b:1",
            "/run/x",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
