use std::fmt;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use casemate_attest::{PublicKey, Signer, SignerError};
use casemate_types::{Digest, UserName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::BundleError;
use crate::json::canonical;
use crate::sealed;

/// The secret key of one person who may approve: Ed25519 (RFC 8032) or ECDSA on P-256 (FIPS 186-5).
///
/// The file form is JSON, `{"name":NAME,"pkcs8":BASE64}`, with the key as PKCS#8 (RFC 5958; RFC 8410 section 10.3 for Ed25519). In clear it
/// is for rehearsals; with a passphrase the member is `encrypted-pkcs8` (module `sealed`).
pub struct ApproverKey {
    public: ApproverPublic,
    pair: Pair,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    EcdsaP256(EcdsaKeyPair),
}

impl ApproverKey {
    /// A fresh key for the person `name` (a name as in `casemate_types::UserName`).
    pub fn generate(name: &str) -> Result<Self, BundleError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| BundleError::Crypto { action: "make an Ed25519 key" })?;
        Self::new(name, Pair::Ed25519(pair))
    }

    /// A fresh ECDSA key on P-256 for the person `name`.
    pub fn generate_p256(name: &str) -> Result<Self, BundleError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        let pair = pair.map_err(|_| BundleError::Crypto { action: "make a P-256 key" })?;
        Self::new(name, Pair::EcdsaP256(pair))
    }

    /// Writes the key in clear to a new file that only its owner can read (mode 600). Never overwrites. For rehearsals.
    pub fn save(&self, path: &Path) -> Result<(), BundleError> {
        let pkcs8 = Zeroizing::new(STANDARD.encode(&*self.pkcs8()?));
        self.write(path, &KeyFile { name: &self.public.name, pkcs8: Some(&pkcs8), encrypted_pkcs8: None })
    }

    /// Writes the key to a new file as [`ApproverKey::save`], encrypted under a passphrase (module `sealed`).
    ///
    /// Errors: [`BundleError::WeakPassphrase`] for fewer than 12 characters.
    pub fn save_encrypted(&self, path: &Path, passphrase: &str) -> Result<(), BundleError> {
        let sealed = STANDARD.encode(sealed::seal(&self.pkcs8()?, passphrase)?);
        self.write(path, &KeyFile { name: &self.public.name, pkcs8: None, encrypted_pkcs8: Some(&sealed) })
    }

    /// Reads a key that [`ApproverKey::save`] wrote. Refuses a file that others can read.
    ///
    /// Errors: [`BundleError::KeyFileEncrypted`] when it needs a passphrase.
    pub fn load(path: &Path) -> Result<Self, BundleError> {
        Self::load_with(path, || Err(BundleError::KeyFileEncrypted { path: path.to_owned() }))
    }

    /// Reads a key in either form; `passphrase` is asked only for an encrypted one.
    ///
    /// Errors: [`BundleError::WrongPassphrase`], and what `passphrase` says.
    pub fn load_with<E: From<BundleError>>(
        path: &Path,
        passphrase: impl FnOnce() -> Result<Zeroizing<String>, E>,
    ) -> Result<Self, E> {
        let io = |source| BundleError::Io { action: "read the key file", path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(BundleError::KeyFileExposed { path: path.to_owned(), mode }.into());
        }
        // Filled in place: a buffer that grows would leave copies of the key behind.
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE));
        file.take(MAX_KEY_FILE as u64).read_to_end(&mut text).map_err(io)?;
        let bad = |why| BundleError::BadKeyFile { why };
        let parsed: KeyFile<'_> = serde_json::from_slice(&text).map_err(|_| bad("it is not the expected JSON"))?;
        let decode = |text: &str| STANDARD.decode(text).map(Zeroizing::new).map_err(|_| bad("`pkcs8` is not base64"));
        let der = match (parsed.pkcs8, parsed.encrypted_pkcs8) {
            (Some(clear), None) => decode(clear)?,
            (None, Some(sealed)) => sealed::open(&decode(sealed)?, &passphrase()?)?,
            _ => return Err(bad("it must have either `pkcs8` or `encrypted-pkcs8`").into()),
        };
        let pair = match Ed25519KeyPair::from_pkcs8(&der) {
            Ok(pair) => Pair::Ed25519(pair),
            Err(_) => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der)
                .map(Pair::EcdsaP256)
                .map_err(|_| bad("`pkcs8` is neither an Ed25519 nor a P-256 key"))?,
        };
        Ok(Self::new(parsed.name, pair)?)
    }

    /// The public half.
    pub fn public(&self) -> &ApproverPublic {
        &self.public
    }

    /// Signs a statement that is no TUF metadata: `message` is the pre-authentication encoding of DSSE v1 (protocol.md), which no
    /// metadata can be taken for.
    ///
    /// Errors: [`BundleError::NotDsse`] for a message of any other form.
    pub fn sign_dsse(&self, message: &[u8]) -> Result<Vec<u8>, BundleError> {
        if message.starts_with(b"DSSEv1 ") { Ok(self.sign(message)?) } else { Err(BundleError::NotDsse) }
    }

    fn new(name: &str, pair: Pair) -> Result<Self, BundleError> {
        let key = match &pair {
            Pair::Ed25519(pair) => PublicKey::from_bytes(pair.public_key().as_ref()),
            Pair::EcdsaP256(pair) => PublicKey::from_bytes(pair.public_key().as_ref()),
        };
        Ok(Self { public: ApproverPublic::new(name, key?)?, pair })
    }

    /// PKCS#8 in clear.
    fn pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, BundleError> {
        let failed = |_| BundleError::Crypto { action: "encode a signing key" };
        Ok(Zeroizing::new(match &self.pair {
            Pair::Ed25519(pair) => pair.to_pkcs8().map_err(failed)?.as_ref().to_vec(),
            Pair::EcdsaP256(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
        }))
    }

    fn write(&self, path: &Path, file: &KeyFile<'_>) -> Result<(), BundleError> {
        let text = serde_json::to_vec(file).map(Zeroizing::new);
        let text = text.map_err(|_| BundleError::Crypto { action: "encode a signing key" })?;
        let io = |source| BundleError::Io { action: "write the new key file", path: path.to_owned(), source };
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        out.write_all(&text).and_then(|()| out.sync_all()).map_err(io)
    }
}

impl Signer for ApproverKey {
    fn public_key(&self) -> &PublicKey {
        &self.public.key
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::EcdsaP256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message);
                Ok(signature.map_err(|error| SignerError(Box::new(error)))?.as_ref().to_vec())
            }
        }
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
    /// The public key.
    pub key: PublicKey,
}

impl ApproverPublic {
    /// The person `name` (a name as in `casemate_types::UserName`) with this key.
    pub fn new(name: &str, key: PublicKey) -> Result<Self, BundleError> {
        let name: UserName = name.parse().map_err(BundleError::ApproverName)?;
        Ok(Self { name: name.into(), key })
    }

    /// The TUF key id: as [`key_id`].
    pub fn key_id(&self) -> Result<String, BundleError> {
        key_id(&self.key)
    }
}

/// The TUF key id: SHA-256, in hexadecimal, of the canonical key object (TUF 1.0.34 section 4.2).
///
/// A person's name is not part of it, so one key cannot have two ids under two names.
pub fn key_id(key: &PublicKey) -> Result<String, BundleError> {
    Ok(Digest::of(&canonical("key", &tuf_key(key))?).hex())
}

/// The TUF key object, without the person's name.
pub(crate) fn tuf_key(key: &PublicKey) -> Value {
    match key {
        PublicKey::Ed25519(key) => {
            json!({"keytype": "ed25519", "keyval": {"public": hex::encode(key)}, "scheme": "ed25519"})
        }
        PublicKey::EcdsaP256(point) => json!({
            "keytype": "ecdsa", "keyval": {"public": p256_pem(point)}, "scheme": "ecdsa-sha2-nistp256"
        }),
    }
}

/// The key of a TUF key object. Any spelling is decoded, so that keys can be compared.
pub(crate) fn public_of(keytype: &str, public: &str) -> Option<PublicKey> {
    let bytes = match keytype {
        "ed25519" => hex::decode(public).ok().filter(|bytes| bytes.len() == 32)?,
        "ecdsa" => {
            let body: String = public.lines().filter(|line| !line.starts_with("-----")).flat_map(str::chars).collect();
            STANDARD.decode(body).ok()?.strip_prefix(&P256_SPKI)?.to_vec()
        }
        _ => return None,
    };
    PublicKey::from_bytes(&bytes).ok()
}

/// SubjectPublicKeyInfo (RFC 5480) as PEM (RFC 7468).
fn p256_pem(point: &[u8; 65]) -> String {
    let body = STANDARD.encode([P256_SPKI.as_slice(), point].concat());
    let (first, second) = body.split_at(64);
    format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n")
}

/// SubjectPublicKeyInfo of a point on P-256, up to the point: id-ecPublicKey, prime256v1, and the head of a bit string of 66 bytes.
const P256_SPKI: [u8; 26] =
    *b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct KeyFile<'a> {
    name: &'a str,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pkcs8: Option<&'a str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    encrypted_pkcs8: Option<&'a str>,
}

const MAX_KEY_FILE: usize = 2048;
