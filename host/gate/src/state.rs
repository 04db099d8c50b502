//! `state.json`: what `casemate init` made. Key references, wrapped keys and hashes of credentials; nothing that opens anything
//! without the HSM.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use casemate_hsm::KeyRef;
use casemate_hsm::probe::Fingerprint;
use casemate_types::{CompartmentName, Digest, UserName};
use serde::{Deserialize, Serialize};

use crate::GateError;

/// The whole file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SiteState {
    /// Made without two custodians: every transcript and log record says so.
    pub rehearsal: bool,
    /// Serial of the token that holds the keys.
    pub token_serial: String,
    /// What the probe found out about each token, by its serial.
    #[serde(default)]
    pub probed: BTreeMap<String, Fingerprint>,
    /// The site's own keys by name: see [`SiteKey`].
    pub keys: BTreeMap<SiteKey, KeyRef>,
    /// The data key of recordings and small state, sealed under [`SiteKey::AtRest`].
    #[serde(with = "hex::serde")]
    pub sealed_site_secrets: Vec<u8>,
    /// Compartment keys.
    pub compartments: BTreeMap<CompartmentName, CompartmentState>,
    /// Users' keys.
    pub users: BTreeMap<UserName, UserState>,
}

/// The site's own keys, one purpose each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteKey {
    /// Seals the site's data keys.
    AtRest,
    /// Signs audit checkpoints.
    Audit,
    /// Masks identifiers in answers (FF1).
    Mask,
    /// Encrypts metadata fields (FF1).
    Metadata,
    /// Keyed tokens of small domains.
    Tokens,
}

/// One compartment's keys.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CompartmentState {
    /// The compartment's key-encryption key in the HSM.
    pub key: KeyRef,
    /// FHE seed, data key and identifier key, sealed under it.
    #[serde(with = "hex::serde")]
    pub sealed_secrets: Vec<u8>,
}

/// One user's keys.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UserState {
    /// The user's key-encryption key in the HSM.
    pub kek: KeyRef,
    /// SHA-256 of the bearer token.
    pub credential: Digest,
    /// Compartment keys, each wrapped under the user's key-encryption key.
    pub wrapped: BTreeMap<CompartmentName, WrappedKey>,
}

/// A wrapped compartment key (AES-KW, RFC 3394).
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct WrappedKey(#[serde(with = "hex::serde")] pub Vec<u8>);

impl SiteState {
    /// Reads `state.json` of a site folder.
    pub fn read(site: &Path) -> Result<Self, GateError> {
        let path = site.join("state.json");
        let bytes = fs::read(&path).map_err(|source| GateError::NoSite { path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|error| GateError::Config { path, problem: error.to_string() })
    }

    /// Writes it whole or not at all.
    pub fn write(&self, site: &Path) -> Result<(), GateError> {
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| GateError::Config { path: site.join("state.json"), problem: error.to_string() })?;
        write_private(&site.join("state.json"), &bytes)
    }

    /// The reference of a site key.
    pub fn key(&self, key: SiteKey) -> Result<&KeyRef, GateError> {
        self.keys.get(&key).ok_or(GateError::StateIncomplete { what: format!("site key {key:?}") })
    }
}

/// Writes a file that only the owner can read: temporary file, fsync, rename.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), GateError> {
    use std::os::unix::fs::OpenOptionsExt;
    let io = |source| GateError::Io { action: "write", path: path.to_owned(), source };
    let temporary = path.with_extension("tmp");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&temporary, path).map_err(io)
}
