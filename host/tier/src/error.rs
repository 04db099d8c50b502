use std::io;
use std::path::PathBuf;

use crate::Endpoint;

/// Why a tier could not be served, reached, or understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TierError {
    /// A text that names no endpoint.
    #[error("`{text}` is no endpoint; write unix:PATH or tls:HOST:PORT")]
    Endpoint {
        /// The text.
        text: String,
    },
    /// A file could not be read or written.
    #[error("{action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds no certificate, key or list of revoked certificates.
    #[error("read {path}: {reason}; issue it anew with `casemate inference ca issue`")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificates or keys do not fit together.
    #[error("TLS cannot be set up: {reason}")]
    Tls {
        /// What rustls says.
        reason: String,
    },
    /// The authority could not sign.
    #[error("make a certificate: {reason}")]
    Authority {
        /// What is wrong.
        reason: String,
    },
    /// A tier is not reached in clear.
    #[error("{endpoint} is in clear, which is for databases; a tier is reached by unix:PATH or tls:HOST:PORT")]
    InClear {
        /// As configured.
        endpoint: Endpoint,
    },
    /// A TLS endpoint needs certificates.
    #[error("{endpoint} wants mutual TLS; name the folder with ca.pem, certificate and key")]
    NoCertificates {
        /// The endpoint.
        endpoint: Endpoint,
    },
    /// Nothing answers there.
    #[error("reach the inference tier at {endpoint}; see that it runs")]
    Unreachable {
        /// The endpoint.
        endpoint: Endpoint,
        /// Why not.
        source: io::Error,
    },
    /// The process that dials for this one is gone, or does not know the endpoint.
    #[error("the process that dials for this one {reason}; start anew")]
    Broker {
        /// What happened.
        reason: String,
    },
    /// A connection broke, or was too slow.
    #[error("the connection to the inference tier broke")]
    Connection {
        /// Why.
        source: io::Error,
    },
    /// The peer's certificate is for another part.
    #[error("the peer's certificate is not that of {expected}")]
    WrongRole {
        /// What it should be.
        expected: &'static str,
    },
    /// Bytes that are no message, or not the one that is due.
    #[error("the peer sent {what}")]
    Protocol {
        /// What came.
        what: &'static str,
    },
    /// A message beyond what is taken.
    #[error("a message of {size} bytes; at most {limit} are taken")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The tier has as much to do as it takes on.
    #[error("the inference tier is busy: {what}; ask again later")]
    Busy {
        /// With what.
        what: String,
    },
    /// The tier refused, in its own words. It is not trusted, and neither are they.
    #[error("the inference tier says: {words}")]
    Refused {
        /// Its words.
        words: String,
    },
}

impl From<io::Error> for TierError {
    fn from(source: io::Error) -> Self {
        Self::Connection { source }
    }
}
