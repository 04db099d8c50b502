//! How keys that only wrap, only unwrap, only decrypt shares or only derive show which key they are: by an operation with
//! something everybody knows.

use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use zeroize::Zeroizing;

use crate::oaep::{encrypt_share, spki_from_modulus};
use crate::{HsmError, KeyClass, Keyring, OaepHash, Origin};

const ACTION: &str = "compute a key's check value";

/// A key that is no secret.
const KNOWN_KEY: &[u8; 32] = b"casemate: a key everybody knows!";

/// The check value of [`KNOWN_KEY`] as a compartment key: the first 8 bytes of AES-256-GCM's tag (see
/// [`Keyring::check_value`]). A test computes it in software.
pub(crate) const KNOWN_CHECK: &str = "905847edf33c11e0";

const KNOWN_SHARE: &[u8] = b"casemate key check 1";

impl Keyring {
    /// A wrapping key can only wrap, so its check value comes from a key everybody knows. AES-KW: 40 bytes.
    pub(crate) fn wrap_known_key(&self, kek: ObjectHandle) -> Result<Vec<u8>, HsmError> {
        let known = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(true),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
            Attribute::Value(KNOWN_KEY.to_vec()),
        ];
        self.sessions.with_anchor(ACTION, |session| {
            let object = session.create_object(&known)?;
            let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, kek, object);
            session.destroy_object(object)?;
            wrapped
        })
    }

    /// A key that only unwraps has to bring the known key out of the recorded blob.
    pub(crate) fn unwraps_known_key(&self, kek: ObjectHandle, blob: &[u8]) -> Result<(), HsmError> {
        self.unwrap_known_with(kek, &Mechanism::AesKeyWrap, blob)
    }

    /// The halves of a transport pair belong together if the private one brings the known key out of what the public one hid.
    pub(crate) fn prove_transport(&self, private: ObjectHandle, modulus: &[u8]) -> Result<(), HsmError> {
        self.try_hashes(|hash| {
            let blob = encrypt_share(&spki_from_modulus(modulus), hash, KNOWN_KEY)?;
            self.unwrap_known_with(private, &hash.mechanism(), &blob)
        })
    }

    /// Likewise for a pair that decrypts shares.
    pub(crate) fn prove_shares(&self, private: ObjectHandle, modulus: &[u8]) -> Result<(), HsmError> {
        self.try_hashes(|hash| {
            let ciphertext = encrypt_share(&spki_from_modulus(modulus), hash, KNOWN_SHARE)?;
            let decrypted = self
                .sessions
                .with(ACTION, |session| session.decrypt(&hash.mechanism(), private, &ciphertext).map(Zeroizing::new))?;
            if *decrypted == KNOWN_SHARE { Ok(()) } else { Err(HsmError::StrangeAnswer { action: ACTION }) }
        })
    }

    /// Runs `attempt` with the best hash that the token takes, and remembers it.
    fn try_hashes(&self, attempt: impl Fn(OaepHash) -> Result<(), HsmError>) -> Result<(), HsmError> {
        if let Some(hash) = self.oaep.get() {
            return attempt(*hash);
        }
        let mut outcome = Err(HsmError::StrangeAnswer { action: ACTION });
        for hash in OaepHash::BEST_FIRST {
            outcome = attempt(hash);
            match &outcome {
                Ok(()) => {
                    self.oaep.get_or_init(|| hash);
                    break;
                }
                Err(error) if is_about_parameters(error) => {}
                Err(_) => break,
            }
        }
        outcome
    }

    fn unwrap_known_with(&self, opener: ObjectHandle, mechanism: &Mechanism<'_>, blob: &[u8]) -> Result<(), HsmError> {
        let known = self.unwrap_object(ACTION, opener, mechanism, KeyClass::Compartment, Origin::Unwrapped, blob)?;
        if known.reference().check == KNOWN_CHECK { Ok(()) } else { Err(HsmError::StrangeAnswer { action: ACTION }) }
    }

    /// The check value of what a master derives for a fixed label.
    pub(crate) fn derive_known_key(&self, master: ObjectHandle) -> Result<String, HsmError> {
        let derived = self.derive_object(ACTION, master, KNOWN_SHARE, &[])?;
        debug_assert_eq!(derived.reference().origin, Origin::Unwrapped);
        Ok(derived.reference().check.clone())
    }
}

/// Whether a token refused the mechanism's parameters, as opposed to the bytes or the key.
pub(crate) fn is_about_parameters(error: &HsmError) -> bool {
    let HsmError::Refused { source: Pkcs11Error::Pkcs11(code, _), .. } = error else { return false };
    matches!(code, RvError::ArgumentsBad | RvError::MechanismParamInvalid)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    use super::*;

    #[test]
    fn the_known_check_value_is_the_known_keys() {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, KNOWN_KEY).unwrap());
        let nonce = Nonce::assume_unique_for_key(*b"key check iv");
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(b"casemate key check 1"), &mut [0; 16]).unwrap();
        assert_eq!(hex::encode(&tag.as_ref()[..8]), KNOWN_CHECK);
    }
}
