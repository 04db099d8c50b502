use std::fmt;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use casemate_types::{Digest, UserName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::BundleError;
use crate::json::canonical;

/// The secret Ed25519 key (RFC 8032) of one person who may approve.
///
/// The file form is JSON, `{"name":NAME,"pkcs8":BASE64}`, with the key as PKCS#8 v2 (RFC 5958, RFC 8410 section 10.3).
pub struct ApproverKey {
    public: ApproverPublic,
    pair: Ed25519KeyPair,
}

impl ApproverKey {
    /// A fresh key for the person `name` (a name as in `casemate_types::UserName`).
    pub fn generate(name: &str) -> Result<Self, BundleError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| BundleError::Crypto { action: "make an Ed25519 key" })?;
        Self::new(name, pair)
    }

    /// Writes the key to a new file that only its owner can read (mode 600). Never overwrites.
    pub fn save(&self, path: &Path) -> Result<(), BundleError> {
        let der = self.pair.to_pkcs8().map_err(|_| BundleError::Crypto { action: "encode an Ed25519 key" })?;
        let pkcs8 = Zeroizing::new(STANDARD.encode(&der));
        let file = KeyFile { name: &self.public.name, pkcs8: &pkcs8 };
        let text = serde_json::to_vec(&file).map(Zeroizing::new);
        let text = text.map_err(|_| BundleError::Crypto { action: "encode an Ed25519 key" })?;
        let io = |source| BundleError::Io { action: "write the new key file", path: path.to_owned(), source };
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        out.write_all(&text).and_then(|()| out.sync_all()).map_err(io)
    }

    /// Reads a key that [`ApproverKey::save`] wrote. Refuses a file that others can read.
    pub fn load(path: &Path) -> Result<Self, BundleError> {
        let io = |source| BundleError::Io { action: "read the key file", path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(BundleError::KeyFileExposed { path: path.to_owned(), mode });
        }
        // Filled in place: a buffer that grows would leave copies of the key behind.
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE));
        file.take(MAX_KEY_FILE as u64).read_to_end(&mut text).map_err(io)?;
        let bad = |why| BundleError::BadKeyFile { why };
        let parsed: KeyFile<'_> = serde_json::from_slice(&text).map_err(|_| bad("it is not the expected JSON"))?;
        let der = STANDARD.decode(parsed.pkcs8).map(Zeroizing::new).map_err(|_| bad("`pkcs8` is not base64"))?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| bad("`pkcs8` is not an Ed25519 key"))?;
        Self::new(parsed.name, pair)
    }

    /// The public half.
    pub fn public(&self) -> &ApproverPublic {
        &self.public
    }

    /// Signs a statement that is no TUF metadata: `message` is the pre-authentication encoding of DSSE v1 (protocol.md), which no
    /// metadata can be taken for.
    ///
    /// Errors: [`BundleError::NotDsse`] for a message of any other form.
    pub fn sign_dsse(&self, message: &[u8]) -> Result<[u8; 64], BundleError> {
        if !message.starts_with(b"DSSEv1 ") {
            return Err(BundleError::NotDsse);
        }
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        Ok(signature)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> String {
        hex::encode(self.pair.sign(message))
    }

    fn new(name: &str, pair: Ed25519KeyPair) -> Result<Self, BundleError> {
        let mut key = [0; 32];
        key.copy_from_slice(pair.public_key().as_ref());
        Ok(Self { public: ApproverPublic::new(name, key)?, pair })
    }
}

impl fmt::Debug for ApproverKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApproverKey({}, secret)", self.public.name)
    }
}

/// A person who may approve, and the key that proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApproverPublic {
    /// The person.
    pub name: String,
    /// The Ed25519 public key.
    pub key: [u8; 32],
}

impl ApproverPublic {
    pub(crate) fn new(name: &str, key: [u8; 32]) -> Result<Self, BundleError> {
        let name: UserName = name.parse().map_err(BundleError::ApproverName)?;
        Ok(Self { name: name.into(), key })
    }

    /// The TUF key id: SHA-256, in hexadecimal, of the canonical key object (TUF 1.0.34 section 4.2).
    ///
    /// The person's name is not part of it, so one key cannot have two ids under two names.
    pub fn key_id(&self) -> Result<String, BundleError> {
        Ok(Digest::of(&canonical("key", &self.tuf_key())?).hex())
    }

    /// The TUF key object, without the person's name.
    pub(crate) fn tuf_key(&self) -> Value {
        json!({"keytype": "ed25519", "keyval": {"public": hex::encode(self.key)}, "scheme": "ed25519"})
    }

    /// Whether `signature`, 128 lower-case hexadecimal digits, is this key's over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let mut raw = [0; 64];
        // Lower case only: one spelling per signature.
        !signature.bytes().any(|b| b.is_ascii_uppercase())
            && hex::decode_to_slice(signature, &mut raw).is_ok()
            && UnparsedPublicKey::new(&ED25519, self.key).verify(message, &raw).is_ok()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile<'a> {
    name: &'a str,
    pkcs8: &'a str,
}

const MAX_KEY_FILE: usize = 1024;
