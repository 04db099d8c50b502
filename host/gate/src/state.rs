//! `state.json`: what `casemate init` and `casemate keys` made. Key references, wrapped keys and hashes of credentials; nothing
//! that opens anything without the HSM, and no user's key without that user's credential either.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::Path;

use casemate_custody::{Ahead, KeyVersions, Stage};
use casemate_hsm::probe::Fingerprint;
use casemate_hsm::{KeyRef, WrappedKek};
use casemate_types::{CompartmentName, Digest, UserName};
use serde::{Deserialize, Serialize};

use crate::GateError;
use crate::config::UserConfig;
use crate::consent::AdoptedRoster;

/// The version of the file's format that this code reads and writes.
pub const STATE_FORMAT: u32 = 2;

/// The whole file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SiteState {
    /// [`STATE_FORMAT`].
    pub format: u32,
    /// Made without two custodians: every transcript and log record says so.
    pub rehearsal: bool,
    /// Serial of the token that holds the keys.
    pub token_serial: String,
    /// What the probe found out about each token, by its serial.
    #[serde(default)]
    pub probed: BTreeMap<String, Fingerprint>,
    /// The site's own keys by name: see [`SiteKey`].
    pub keys: BTreeMap<SiteKey, KeyRef>,
    /// Versions of the site's own keys that were rotated, or are about to be; `keys` holds those in force.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<SiteKey, KeyVersions>,
    /// The data key of recordings and small state, sealed under [`SiteKey::AtRest`].
    #[serde(with = "hex::serde")]
    pub sealed_site_secrets: Vec<u8>,
    /// Compartment keys.
    pub compartments: BTreeMap<CompartmentName, CompartmentState>,
    /// Users' keys.
    pub users: BTreeMap<UserName, UserState>,
    /// Users' keys issued so far; the next one gets the next number, so no two ever share one.
    pub issued: u64,
    /// Keys that the next opening of the site destroys: of an operation that was cut off, on either side of its commit.
    pub doomed: Vec<KeyRef>,
    /// Rises with every change of the file, so that an old copy is known; 0 until the first.
    #[serde(default)]
    pub generation: u64,
    /// HMAC under [`SiteKey::Tokens`] over generation, doomed keys and keys in force; empty until the first change.
    #[serde(default, with = "hex::serde")]
    pub keys_tag: Vec<u8>,
    /// Ed25519 public key that signs the manifests of the site's pair of tokens; none for a site with one token.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex_option")]
    pub manifest_signer: Option<[u8; 32]>,
    /// The custodians who are asked before anything is done with a key; none for a site of one person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custody: Option<AdoptedRoster>,
    /// SHA-256 of the statement that enabled FF3-1 (`custody/legacy.json`); none while it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legacy: Option<Digest>,
    /// Date of the newest list of certificates that this site has accepted.
    pub cmvp_floor: Option<jiff::civil::Date>,
}

/// The site's own keys, one purpose each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteKey {
    /// Seals the site's data keys.
    AtRest,
    /// Signs audit checkpoints.
    Audit,
    /// FF3-1, for data that exists; only where custodians had it made.
    Legacy,
    /// Masks identifiers in answers (FF1).
    Mask,
    /// Encrypts metadata fields (FF1).
    Metadata,
    /// Keyed tokens of small domains.
    Tokens,
    /// Wraps users' key-encryption keys. Replaced whenever a user's key ends, so that no copy of the old one opens.
    UserKekWrapping,
}

impl SiteKey {
    /// The keys with versions, which custodians rotate.
    pub const ROTATED: [Self; 3] = [Self::AtRest, Self::Mask, Self::Metadata];

    pub(crate) fn label(self) -> String {
        format!("site/{self}")
    }
}

impl fmt::Display for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtRest => "at-rest",
            Self::Audit => "audit",
            Self::Legacy => "legacy",
            Self::Mask => "mask",
            Self::Metadata => "metadata",
            Self::Tokens => "tokens",
            Self::UserKekWrapping => "user-kek-wrapping",
        })
    }
}

/// One compartment's keys.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CompartmentState {
    /// The compartment's key-encryption key in the HSM.
    pub key: KeyRef,
    /// FHE seed, data key and identifier key, sealed under it.
    #[serde(with = "hex::serde")]
    pub sealed_secrets: Vec<u8>,
}

/// One user's key, issued for a set of attributes.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UserState {
    /// Which key of the site this is; rises with every issue.
    pub version: u64,
    /// The user's key-encryption key, wrapped under [`SiteKey::UserKekWrapping`].
    pub kek: WrappedKek,
    /// SHA-256 of the bearer token.
    pub credential: Digest,
    /// Salt of the key that is derived from the bearer token.
    #[serde(with = "hex::serde")]
    pub salt: [u8; 32],
    /// What the key was issued for. For people and for comparison; what counts in a session is inside `sealed`.
    pub attributes: UserConfig,
    /// The compartments whose keys are inside `sealed`. For people.
    pub compartments: BTreeSet<CompartmentName>,
    /// HMAC under [`SiteKey::Tokens`] over the fields above, but for the wrapped key.
    #[serde(with = "hex::serde")]
    pub tag: [u8; 32],
    /// Attributes and compartment keys, sealed under the user's credential; each compartment key is wrapped under `kek` besides.
    #[serde(with = "hex::serde")]
    pub sealed: Vec<u8>,
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
        let malformed = |error: serde_json::Error| GateError::Config { path: path.clone(), problem: error.to_string() };
        // Read first and alone: another format has other fields.
        let found = serde_json::from_slice::<FormatOnly>(&bytes).map_err(malformed)?.format.unwrap_or(1);
        if found != STATE_FORMAT {
            return Err(GateError::StateFormat { path, found });
        }
        serde_json::from_slice(&bytes).map_err(malformed)
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

    /// The number of the version of a site key that is in force; 1 for a key that was never rotated.
    pub fn version_in_force(&self, key: SiteKey) -> u32 {
        self.versions.get(&key).map_or(1, KeyVersions::in_force)
    }

    /// The versions of a site key that can still be used, the one in force first, then older ones that are not to be destroyed.
    pub fn live(&self, key: SiteKey) -> Result<Vec<(u32, KeyRef)>, GateError> {
        let mut live = vec![(self.version_in_force(key), self.key(key)?.clone())];
        let older = self.versions.get(&key).map(KeyVersions::older).unwrap_or_default();
        let usable = older.iter().filter(|older| matches!(older.stage, Stage::DecryptOnly | Stage::ReEncrypted));
        live.extend(usable.map(|older| (older.version, older.key.clone())));
        Ok(live)
    }

    /// Every key that must not be destroyed.
    pub(crate) fn held(&self) -> impl Iterator<Item = &KeyRef> {
        let versions = self.versions.values().flat_map(|versions| {
            let older =
                versions.older().iter().filter(|older| matches!(older.stage, Stage::DecryptOnly | Stage::ReEncrypted));
            let next = versions.ahead().and_then(|ahead| match ahead {
                Ahead::Noticed(notice) => Some(&notice.next),
                Ahead::Proposed { .. } => None,
            });
            older.map(|older| &older.key).chain(next)
        });
        self.keys.values().chain(self.compartments.values().map(|held| &held.key)).chain(versions)
    }
}

/// 32 bytes that may be missing, hexadecimal.
mod hex_option {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<[u8; 32]>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_some(&hex::encode(bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 32]>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map_err(de::Error::custom)?;
        Ok(Some(bytes))
    }
}

#[derive(Deserialize)]
struct FormatOnly {
    format: Option<u32>,
}

/// Writes a file that only the owner can read: temporary file, fsync, rename.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), GateError> {
    use std::os::unix::fs::OpenOptionsExt;
    let io = |source| GateError::Io { action: "write", path: path.to_owned(), source };
    let temporary = path.with_extension("tmp");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&temporary, path).map_err(io)?;
    // The new name has to survive a power cut as well.
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder).and_then(|folder| folder.sync_all())).map_err(io)
}
