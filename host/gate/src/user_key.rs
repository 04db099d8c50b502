//! A user's key: the keys of the compartments the user satisfies, behind two locks.
//!
//! ```text
//! credential --HKDF-SHA-256 (salt)--> AES-256-GCM --opens--> attributes, { compartment: blob }
//! token: kek-wrapping key --unwraps--> user's key-encryption key --unwraps--> blob -> compartment key
//! ```
//!
//! Without the credential the blobs cannot be read, whoever has the token; without the token they cannot be unwrapped, whoever
//! has the credential. The attributes are inside, so a changed policy file gives nobody more than the key was issued for.

use std::collections::BTreeMap;

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use casemate_fhe_owner::DataKey;
use casemate_types::{CompartmentName, Digest, UserName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::GateError;
use crate::config::{SiteConfig, UserConfig};
use crate::state::{CompartmentState, UserState, WrappedKey};
use crate::vault::{Vault, VaultKey};

/// What is behind the credential.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct UserKey {
    /// What the key was issued for.
    pub(crate) attributes: UserConfig,
    /// Compartment keys, each wrapped under the user's key-encryption key.
    pub(crate) compartments: BTreeMap<CompartmentName, WrappedKey>,
}

/// A fresh credential: 256 random bits from the token, hexadecimal.
pub(crate) fn credential(keyring: &Vault) -> Result<Zeroizing<String>, GateError> {
    Ok(Zeroizing::new(hex::encode(keyring.random(32)?.as_slice())))
}

/// What issuing keys needs.
pub(crate) struct Issuer<'a> {
    pub(crate) keyring: &'a Vault,
    /// Wraps users' key-encryption keys.
    pub(crate) wrapping: &'a VaultKey,
    /// Vouches for the part of an entry that people read.
    pub(crate) tokens: &'a VaultKey,
    pub(crate) config: &'a SiteConfig,
    pub(crate) compartments: &'a BTreeMap<CompartmentName, CompartmentState>,
}

/// Issues a key: a fresh key-encryption key, and under it the keys of every compartment that `attributes` satisfy.
pub(crate) fn issue(
    issuer: &Issuer<'_>,
    (user, version): (&UserName, u64),
    attributes: &UserConfig,
    credential: &str,
) -> Result<UserState, GateError> {
    let Issuer { keyring, wrapping, tokens, config, compartments } = issuer;
    let kek = keyring.generate_user_kek(wrapping, &format!("user/{user}"))?;
    let key = keyring.open_user_kek(wrapping, &kek)?;
    let mut wrapped = BTreeMap::new();
    for name in config.compartments_of(attributes) {
        let compartment = compartments
            .get(&name)
            .ok_or_else(|| GateError::StateIncomplete { what: format!("key of compartment `{name}`") })?;
        let blob = keyring.wrap(&key, &keyring.find(&compartment.key)?)?;
        wrapped.insert(name, WrappedKey(blob));
    }
    let names = wrapped.keys().cloned().collect();
    let contents = UserKey { attributes: attributes.clone(), compartments: wrapped };
    let bytes = serde_json::to_vec(&contents).map_err(|error| GateError::Store(error.to_string()))?;
    let mut salt = [0; 32];
    salt.copy_from_slice(&keyring.random(32)?);
    let sealed = sealing_key(credential, &salt)?
        .seal("a user's key", &place(user, version, &kek.key.id.to_string()).each_ref().map(Vec::as_slice), &bytes)
        .map_err(|error| GateError::Store(error.to_string()))?;
    let mut state = UserState {
        version,
        kek,
        credential: Digest::of(credential.as_bytes()),
        salt,
        attributes: attributes.clone(),
        compartments: names,
        tag: [0; 32],
        sealed,
    };
    state.tag = keyring.mac(tokens, &entry(user, &state)?)?;
    Ok(state)
}

/// Refuses an entry whose readable part is not as it was issued: officers and commands decide by it.
pub(crate) fn check(keyring: &Vault, tokens: &VaultKey, user: &UserName, state: &UserState) -> Result<(), GateError> {
    let tag = keyring.mac(tokens, &entry(user, state)?)?;
    aws_lc_rs::constant_time::verify_slices_are_equal(&tag, &state.tag)
        .map_err(|_| GateError::UserKey { user: user.clone() })
}

/// What the tag covers: everything but the wrapped key, which moves to another wrapping key, and the seal, which has a tag of its own.
fn entry(user: &UserName, state: &UserState) -> Result<Vec<u8>, GateError> {
    let UserState { version, kek, credential, salt, attributes, compartments, .. } = state;
    let fields = serde_json::to_vec(&(user, version, &kek.key, credential, salt, attributes, compartments))
        .map_err(|error| GateError::Store(error.to_string()))?;
    Ok([b"casemate/user-entry/1".as_slice(), &fields].concat())
}

/// Opens what [`issue`] sealed. The compartment keys in it are still wrapped.
pub(crate) fn open(user: &UserName, state: &UserState, credential: &str) -> Result<UserKey, GateError> {
    let refused = || GateError::UserKey { user: user.clone() };
    let place = place(user, state.version, &state.kek.key.id.to_string());
    let bytes = sealing_key(credential, &state.salt)?
        .open("a user's key", &place.each_ref().map(Vec::as_slice), &state.sealed)
        .map_err(|_| refused())?;
    serde_json::from_slice(&bytes).map_err(|_| refused())
}

/// HKDF (RFC 5869). The credential has 256 bits, so no slow password hash is needed.
fn sealing_key(credential: &str, salt: &[u8; 32]) -> Result<DataKey, GateError> {
    let fault = |what: &str| GateError::Store(format!("cannot derive the key of a user's key: {what}"));
    let mut key = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, salt)
        .extract(credential.as_bytes())
        .expand(&[b"casemate/user-key/1"], HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .map_err(|_| fault("HKDF failed"))?;
    DataKey::from_bytes(&key).map_err(|error| fault(&error.to_string()))
}

/// Binds a sealed key to its user, its version and its key-encryption key.
fn place(user: &UserName, version: u64, kek: &str) -> [Vec<u8>; 4] {
    [b"user-key/1".to_vec(), user.as_str().as_bytes().to_vec(), version.to_be_bytes().to_vec(), kek.as_bytes().to_vec()]
}
