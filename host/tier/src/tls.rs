//! Mutual TLS 1.3 with the site's own certificates, and what part a certificate is for.

use std::path::Path;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::TierError;
use crate::authority::{AUTHORITY, REVOKED, Role, certificate_file, key_file};

/// How a tier proves itself, and whom it lets in.
#[derive(Debug, Clone)]
pub struct ServerTls(pub(crate) Arc<ServerConfig>);

/// How a gate, or a tier that reads another's store, proves itself.
#[derive(Debug, Clone)]
pub struct ClientTls(pub(crate) Arc<ClientConfig>);

impl ServerTls {
    /// Reads `ca.pem`, `revoked.pem`, and the certificate and key of the tier `name` from a folder that [`crate::Authority`] filled.
    ///
    /// # Errors
    /// A file that is missing or holds something else, by path; a key that is not the certificate's.
    pub fn read(folder: &Path, name: &str) -> Result<Self, TierError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(folder)?), provider())
            .with_crls(revoked(folder)?)
            .build()
            .map_err(tls)?;
        let (chain, key) = own(folder, name)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(tls)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A revoked certificate must not live on in a ticket.
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }
}

impl ClientTls {
    /// As [`ServerTls::read`], for the side that dials.
    ///
    /// # Errors
    /// As [`ServerTls::read`].
    pub fn read(folder: &Path, name: &str) -> Result<Self, TierError> {
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots(folder)?), provider())
                .with_crls(revoked(folder)?)
                .build()
                .map_err(tls)?;
        let (chain, key) = own(folder, name)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(chain, key)
            .map_err(tls)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

const ALPN: &[u8] = b"casemate-tier/1";

/// The part of the peer whose certificate chain was verified.
pub(crate) fn role(chain: Option<&[CertificateDer<'_>]>) -> Option<Role> {
    let certificate = ParsedCertificate::try_from(chain?.first()?).ok()?;
    [Role::Gate, Role::Tier].into_iter().find(|role| {
        ServerName::try_from(role.name()).is_ok_and(|name| verify_server_name(&certificate, &name).is_ok())
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(folder: &Path) -> Result<RootCertStore, TierError> {
    let path = folder.join(AUTHORITY);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&path)? {
        roots.add(certificate).map_err(tls)?;
    }
    Ok(roots)
}

fn own(folder: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TierError> {
    let path = key_file(folder, name);
    let key = PrivateKeyDer::from_pem_file(&path).map_err(|error| pem(&path, &error))?;
    Ok((certificates(&certificate_file(folder, name))?, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TierError> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().map_err(|error| pem(path, &error))?;
    if found.is_empty() {
        return Err(TierError::Pem { path: path.to_owned(), reason: "there is no certificate in it".to_owned() });
    }
    Ok(found)
}

/// The authority always writes a list, if an empty one: a folder without it was not filled by it.
fn revoked(folder: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TierError> {
    let path = folder.join(REVOKED);
    let read = || CertificateRevocationListDer::pem_file_iter(&path)?.collect::<Result<Vec<_>, _>>();
    let found = read().map_err(|error| pem(&path, &error))?;
    if found.is_empty() {
        return Err(TierError::Pem { path, reason: "there is no list of revoked certificates in it".to_owned() });
    }
    Ok(found)
}

fn pem(path: &Path, error: &rustls::pki_types::pem::Error) -> TierError {
    TierError::Pem { path: path.to_owned(), reason: error.to_string() }
}

fn tls(error: impl std::fmt::Display) -> TierError {
    TierError::Tls { reason: error.to_string() }
}
