//! One key on two tokens, of whatever make.
//!
//! A key born non-extractable never leaves its token. So a key for two tokens is born as an extractable session object, is
//! wrapped for each token under that token's own transport key, comes in there as a stored key that can never leave again, and
//! the birth object is destroyed. Both copies have one `CKA_ID` and one check value. Nobody sees the key in clear; whoever holds
//! a package can open it in the destination token only.
//!
//! While the birth object lives, a process that is logged in could wrap it for somebody else. That window belongs into a session
//! that two people control.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use serde::{Deserialize, Serialize};

use crate::class::RSA_EXPONENT;
use crate::key::PublicHalf;
use crate::keyring::with_fallback;
use crate::oaep::{RSA_BYTES, modulus_from_spki, spki_from_modulus};
use crate::ops::WRAPPED_LENGTH;
use crate::proof::is_about_parameters;
use crate::{HsmError, Key, KeyClass, KeyId, KeyRef, Keyring, OaepHash, Origin};

const WRAP: &str = "wrap a key for another token";
const ADMIT: &str = "admit a wrapped key";

/// A key at its birth: extractable, in no storage, destroyed with this.
pub struct BirthKey {
    key: Key,
    /// The copies' `CKA_ID`; the birth object has another, so that its own token can admit a copy while it lives.
    id: KeyId,
}

impl BirthKey {
    /// What its copies will be known by.
    pub fn reference(&self) -> KeyRef {
        KeyRef { id: self.id, origin: Origin::Replicated, ..self.key.reference().clone() }
    }
}

/// A token's address for wrapped keys: the public half of its transport pair. Not secret, but whoever swaps it receives the
/// keys, so its fingerprint belongs into a signed record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportKey {
    /// The token's serial number.
    pub serial: String,
    /// The hash its OAEP takes.
    pub hash: OaepHash,
    /// SubjectPublicKeyInfo, DER.
    #[serde(with = "hex::serde")]
    pub spki: Vec<u8>,
}

impl TransportKey {
    /// SHA-256 of the public key, hexadecimal: what two people compare.
    pub fn fingerprint(&self) -> String {
        hex::encode(digest(&SHA256, &self.spki))
    }
}

/// How a package is wrapped. The standard is named, as the mechanisms' numbers differ between makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Envelope {
    /// RFC 3394, AES-KW, under a synchronisation key.
    #[serde(rename = "rfc3394")]
    AesKw,
    /// RFC 8017, RSA-OAEP with SHA-1, under a transport key.
    #[serde(rename = "rfc8017-sha1")]
    OaepSha1,
    /// RFC 8017, RSA-OAEP with SHA-256, under a transport key.
    #[serde(rename = "rfc8017-sha256")]
    OaepSha256,
}

/// A key on its way to one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedPackage {
    /// How the blob is wrapped.
    pub rfc: Envelope,
    /// Serial number of the token it is for.
    pub destination: String,
    /// The key's `CKA_ID` on every token.
    pub id: KeyId,
    /// What the key is for.
    pub class: KeyClass,
    /// The key's check value.
    pub check: String,
    /// The key's label.
    pub label: String,
    /// The wrapped key.
    #[serde(with = "hex::serde")]
    pub blob: Vec<u8>,
}

impl WrappedPackage {
    /// The package as bytes: JSON without blanks.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A structure of strings always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads [`WrappedPackage::to_bytes`].
    ///
    /// # Errors
    /// [`HsmError::PackageMalformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HsmError> {
        serde_json::from_slice(bytes).map_err(|_| HsmError::PackageMalformed)
    }

    /// What the key will be known by once it is admitted.
    pub fn reference(&self) -> KeyRef {
        KeyRef {
            id: self.id,
            class: self.class,
            check: self.check.clone(),
            label: self.label.clone(),
            origin: Origin::Replicated,
        }
    }
}

impl Keyring {
    /// The address of this token for wrapped keys.
    ///
    /// # Errors
    /// [`HsmError::WrongClass`] for a key that is not a transport pair.
    pub fn transport_key(&self, transport: &Key) -> Result<TransportKey, HsmError> {
        let action = "read a transport key";
        transport.handle_for(&self.sessions, action, &[KeyClass::Transport])?;
        match &transport.public {
            Some(PublicHalf::Rsa(modulus)) => Ok(TransportKey {
                serial: self.serial().to_owned(),
                hash: self.oaep_hash(transport)?,
                spki: spki_from_modulus(modulus),
            }),
            _ => Err(HsmError::StrangeAnswer { action }),
        }
    }

    /// Makes a key for several tokens. For a synchronisation key, `class` is [`KeyClass::SyncKekSource`].
    ///
    /// # Errors
    /// [`HsmError::NotReplicable`] for a class of which each token has keys of its own; otherwise as [`Keyring::generate`].
    pub fn birth(&self, class: KeyClass, label: &str) -> Result<BirthKey, HsmError> {
        self.birth_announced(self.draw_id()?, class, label)
    }

    /// As [`Keyring::birth`], for copies under an identifier that was drawn and written down before ([`KeyRef::announced`]).
    ///
    /// # Errors
    /// As [`Keyring::birth`].
    pub fn birth_announced(&self, id: KeyId, class: KeyClass, label: &str) -> Result<BirthKey, HsmError> {
        if !class.is_replicable() {
            return Err(HsmError::NotReplicable { class });
        }
        let (handle, reference) = self.generate_as(class, label, Origin::Birth)?;
        let sessions = Arc::clone(&self.sessions);
        let key = Key { handle, public: None, reference, session_object: true, sessions };
        Ok(BirthKey { key, id })
    }

    /// Wraps a new key for the token with this transport key: RSA-OAEP (RFC 8017), 384 bytes.
    ///
    /// # Errors
    /// [`HsmError::PublicKeyInvalid`], [`HsmError::ForeignKey`], or as the module answers.
    pub fn wrap_for(&self, birth: &BirthKey, destination: &TransportKey) -> Result<WrappedPackage, HsmError> {
        self.wrap_as(birth, birth.key.class(), destination)
    }

    /// As [`Keyring::wrap_for`], for the half of a new synchronisation key that only unwraps.
    ///
    /// # Errors
    /// As [`Keyring::wrap_for`]; [`HsmError::WrongClass`] for a key that has no such half.
    pub fn wrap_destination_half(
        &self,
        birth: &BirthKey,
        destination: &TransportKey,
    ) -> Result<WrappedPackage, HsmError> {
        if birth.key.class() != KeyClass::SyncKekSource {
            return Err(HsmError::WrongClass { action: WRAP, class: birth.key.class() });
        }
        self.wrap_as(birth, KeyClass::SyncKekDestination, destination)
    }

    /// Wraps a new key under a synchronisation key that this token shares with token `destination`: AES-KW (RFC 3394).
    ///
    /// # Errors
    /// [`HsmError::WrongClass`] for another wrapping key, [`HsmError::ForeignKey`], or as the module answers.
    pub fn wrap_under(&self, birth: &BirthKey, kek: &Key, destination: &str) -> Result<WrappedPackage, HsmError> {
        let kek = kek.handle_for(&self.sessions, WRAP, &[KeyClass::SyncKekSource])?;
        let target = birth.key.handle_for(&self.sessions, WRAP, &[birth.key.class()])?;
        let blob = self.sessions.with_anchor(WRAP, |session| session.wrap_key(&Mechanism::AesKeyWrap, kek, target))?;
        package(birth, birth.key.class(), Envelope::AesKw, destination, blob)
    }

    /// Takes a key in: stores it under the package's `CKA_ID` as a key that can never leave, and checks that it is the one the
    /// package names. Admitting a package again gives the same reference.
    ///
    /// # Errors
    /// [`HsmError::ForeignPackage`]; [`HsmError::WrapRejected`] for a changed byte or another key;
    /// [`HsmError::KeyCheckMismatch`] when the blob holds another key than it says; [`HsmError::KeyTwin`] when another object
    /// has its identifier; [`HsmError::NotReplicable`]; [`HsmError::WrongClass`], or as the module answers.
    pub fn admit(&self, opener: &Key, package: &WrappedPackage) -> Result<KeyRef, HsmError> {
        let (openers, mechanism, length) = match package.rfc {
            Envelope::AesKw => (KeyClass::SyncKekDestination, Mechanism::AesKeyWrap, WRAPPED_LENGTH),
            Envelope::OaepSha1 => (KeyClass::Transport, OaepHash::Sha1.mechanism(), RSA_BYTES),
            Envelope::OaepSha256 => (KeyClass::Transport, OaepHash::Sha256.mechanism(), RSA_BYTES),
        };
        let opener = opener.handle_for(&self.sessions, ADMIT, &[openers])?;
        let (id, class) = (package.id, package.class);
        if package.destination != self.serial() {
            return Err(HsmError::ForeignPackage {
                expected: package.destination.clone(),
                found: self.serial().to_owned(),
            });
        }
        if !class.is_replicable() && class != KeyClass::SyncKekDestination {
            return Err(HsmError::NotReplicable { class });
        }
        if let Some(mechanism) = class.needs()
            && !self.sessions.has_mechanism(mechanism)?
        {
            return Err(HsmError::MechanismMissing { class, mechanism: mechanism.to_string() });
        }
        if package.blob.len() != length {
            return Err(HsmError::WrapRejected);
        }
        let reference = package.reference();
        // A ceremony that broke off after this step comes here again.
        match self.find(&reference) {
            Ok(_) => return Ok(reference),
            Err(HsmError::KeyMissing { .. }) if self.objects(id)?.is_empty() => {}
            Err(error) => return Err(error),
        }
        let template = self.template(class, id, Origin::Replicated);
        let label = Attribute::Label(package.label.as_bytes().to_vec());
        let admitted = self.sessions.with_anchor(ADMIT, |session| {
            with_fallback(&template, std::slice::from_ref(&label), |attributes| {
                session.unwrap_key(&mechanism, opener, &package.blob, attributes)
            })
        });
        admitted.map_err(|error| self.rejection(error, HsmError::WrapRejected))?;
        match self.find(&reference) {
            Ok(_) => Ok(reference),
            Err(error) => {
                // Nothing else had this identifier, so what is there now came out of the package.
                self.forget(id);
                drop(self.destroy_objects(id));
                Err(error)
            }
        }
    }

    fn wrap_as(
        &self,
        birth: &BirthKey,
        class: KeyClass,
        destination: &TransportKey,
    ) -> Result<WrappedPackage, HsmError> {
        let target = birth.key.handle_for(&self.sessions, WRAP, &[birth.key.class()])?;
        let modulus = modulus_from_spki(&destination.spki)?;
        let try_hash = |hash: OaepHash| self.wrap_with(target, &modulus, &hash.mechanism());
        let (hash, blob) = match (destination.hash, try_hash(destination.hash)) {
            // This token may know less than the other; SHA-1 is taken everywhere.
            (OaepHash::Sha256, Err(error)) if is_about_parameters(&error) => {
                (OaepHash::Sha1, try_hash(OaepHash::Sha1)?)
            }
            (hash, result) => (hash, result?),
        };
        let rfc = match hash {
            OaepHash::Sha1 => Envelope::OaepSha1,
            OaepHash::Sha256 => Envelope::OaepSha256,
        };
        package(birth, class, rfc, &destination.serial, blob)
    }

    /// The other token's public key comes in for this one call.
    fn wrap_with(&self, target: ObjectHandle, modulus: &[u8], mechanism: &Mechanism<'_>) -> Result<Vec<u8>, HsmError> {
        let public = [
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::RSA),
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Encrypt(false),
            Attribute::Verify(false),
            Attribute::VerifyRecover(false),
            Attribute::Wrap(true),
            Attribute::Derive(false),
            Attribute::Modulus(modulus.to_vec()),
            Attribute::PublicExponent(RSA_EXPONENT.to_vec()),
            Attribute::Modifiable(false),
        ];
        self.sessions.with_anchor(WRAP, |session| {
            let public = session.create_object(&public)?;
            let wrapped = session.wrap_key(mechanism, public, target);
            session.destroy_object(public)?;
            wrapped
        })
    }
}

fn package(
    birth: &BirthKey,
    class: KeyClass,
    rfc: Envelope,
    destination: &str,
    blob: Vec<u8>,
) -> Result<WrappedPackage, HsmError> {
    let length = if rfc == Envelope::AesKw { WRAPPED_LENGTH } else { RSA_BYTES };
    if blob.len() != length {
        return Err(HsmError::StrangeAnswer { action: WRAP });
    }
    let KeyRef { id, check, label, .. } = birth.reference();
    Ok(WrappedPackage { rfc, destination: destination.to_owned(), id, class, check, label, blob })
}
