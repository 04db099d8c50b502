//! What keys do. Each operation names the classes it serves; any other key is refused before the token sees it.

use std::num::NonZeroUsize;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::MechanismType;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::kbkdf::{
    Endianness, KbkdfCounterFormat, KbkdfDkmLengthFormat, KbkdfDkmLengthMethod, KbkdfParams, PrfDataParam,
    PrfDataParamType,
};
use cryptoki::object::ObjectHandle;
use zeroize::Zeroizing;

use crate::key::PublicHalf;
use crate::keyring::with_fallback;
use crate::oaep::RSA_BYTES;
use crate::{HsmError, Key, KeyClass, KeyId, KeyRef, Keyring, Origin};

const IV_LENGTH: usize = 12;
const TAG_LENGTH: usize = 16;

/// AES-KW of a 32-byte key (RFC 3394 section 2.2.1: one block more).
pub(crate) const WRAPPED_LENGTH: usize = 40;

impl Keyring {
    /// Signs with Ed25519 (RFC 8032, pure).
    ///
    /// # Errors
    /// [`HsmError::WrongClass`], or as the module answers.
    pub fn sign(&self, key: &Key, message: &[u8]) -> Result<[u8; 64], HsmError> {
        let handle = key.handle_for(&self.sessions, "sign", &[KeyClass::AuditSigning, KeyClass::CustodianSigning])?;
        self.sign_with(handle, message)
    }

    /// Signs with ECDSA on P-256 over SHA-256 (FIPS 186-5): `r` and `s`, 32 bytes each, big-endian (PKCS#11 3.1 section 6.3.1).
    ///
    /// # Errors
    /// [`HsmError::WrongClass`], or as the module answers.
    pub fn sign_p256(&self, key: &Key, message: &[u8]) -> Result<[u8; 64], HsmError> {
        let handle = key.handle_for(&self.sessions, "sign", &[KeyClass::ApproverSigning])?;
        self.sign_p256_with(handle, message)
    }

    /// HMAC-SHA-256 (FIPS 198-1).
    ///
    /// # Errors
    /// [`HsmError::WrongClass`], or as the module answers.
    pub fn mac(&self, key: &Key, message: &[u8]) -> Result<[u8; 32], HsmError> {
        let handle = key.handle_for(&self.sessions, "compute a MAC", &[KeyClass::Token])?;
        self.mac_with(handle, message)
    }

    /// Seals with AES-256-GCM (SP 800-38D): a 12-byte random IV from the token, the ciphertext, the 16-byte tag.
    ///
    /// `aad` is bound to the result and not stored in it. At most 2^32 values per key (SP 800-38D section 8.3).
    ///
    /// # Errors
    /// [`HsmError::WrongClass`], or as the module answers.
    pub fn seal(&self, key: &Key, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, HsmError> {
        let handle = key.handle_for(&self.sessions, "seal", &[KeyClass::AtRest, KeyClass::Compartment])?;
        let mut iv = [0; IV_LENGTH];
        iv.copy_from_slice(&self.random(IV_LENGTH)?);
        let sealed = self.seal_with(handle, iv, aad, plaintext)?;
        Ok([&iv[..], &sealed].concat())
    }

    /// Opens what [`Keyring::seal`] made, under the same associated data.
    ///
    /// # Errors
    /// [`HsmError::SealRejected`] for a changed byte, another key or other associated data; [`HsmError::WrongClass`], or as
    /// the module answers.
    pub fn open_sealed(&self, key: &Key, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let action = "open a sealed value";
        let handle = key.handle_for(&self.sessions, action, &[KeyClass::AtRest, KeyClass::Compartment])?;
        let (iv, rest) = sealed.split_first_chunk::<IV_LENGTH>().ok_or(HsmError::SealRejected)?;
        let length = rest.len().checked_sub(TAG_LENGTH).ok_or(HsmError::SealRejected)?;
        let mut iv = *iv;
        let opened = self.sessions.with(action, |session| {
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, aad, 128.into())?);
            session.decrypt(&mechanism, handle, rest).map(Zeroizing::new)
        });
        match opened {
            Ok(plaintext) if plaintext.len() == length => Ok(plaintext),
            Ok(_) => Err(HsmError::StrangeAnswer { action }),
            Err(error) => Err(self.rejection(error, HsmError::SealRejected)),
        }
    }

    /// Wraps a compartment key under a user's key: AES-KW (RFC 3394), 40 bytes.
    ///
    /// # Errors
    /// [`HsmError::WrongClass`]; [`HsmError::Refused`] for a key that came out of [`Keyring::unwrap`], which cannot leave
    /// again; or as the module answers.
    pub fn wrap(&self, kek: &Key, target: &Key) -> Result<Vec<u8>, HsmError> {
        let action = "wrap a key";
        let kek = kek.handle_for(&self.sessions, action, &[KeyClass::UserKek])?;
        let target = target.handle_for(&self.sessions, action, &[KeyClass::Compartment])?;
        let blob = self.sessions.with(action, |session| session.wrap_key(&Mechanism::AesKeyWrap, kek, target))?;
        if blob.len() == WRAPPED_LENGTH { Ok(blob) } else { Err(HsmError::StrangeAnswer { action }) }
    }

    /// Unwraps a compartment key into a session object that cannot leave the token and dies with the returned [`Key`].
    ///
    /// `class` has to be [`KeyClass::Compartment`]: unwrapping under another class would give the key another purpose. The
    /// caller compares `reference().check` with the compartment's, or uses [`Keyring::unwrap_known`].
    ///
    /// # Errors
    /// [`HsmError::WrapRejected`] for a changed byte or another wrapping key; [`HsmError::WrongClass`],
    /// [`HsmError::AttributeMismatch`], or as the module answers.
    pub fn unwrap(&self, kek: &Key, class: KeyClass, blob: &[u8]) -> Result<Key, HsmError> {
        let action = "unwrap a key";
        let kek = kek.handle_for(&self.sessions, action, &[KeyClass::UserKek])?;
        if class != KeyClass::Compartment {
            return Err(HsmError::WrongClass { action, class });
        }
        self.unwrap_session(kek, class, Origin::Unwrapped, blob)
    }

    /// Unwraps 32 bytes into a session object of `class`. A key in transit has no check value: it can do nothing but leave.
    pub(crate) fn unwrap_session(
        &self,
        wrapping: ObjectHandle,
        class: KeyClass,
        origin: Origin,
        blob: &[u8],
    ) -> Result<Key, HsmError> {
        if blob.len() != WRAPPED_LENGTH {
            return Err(HsmError::WrapRejected);
        }
        let unwrapped = self.unwrap_object("unwrap a key", wrapping, &Mechanism::AesKeyWrap, class, origin, blob);
        unwrapped.map_err(|error| self.rejection(error, HsmError::WrapRejected))
    }

    /// Unwraps a compartment key and checks that it is the one the site recorded.
    ///
    /// # Errors
    /// As [`Keyring::unwrap`]; [`HsmError::KeyCheckMismatch`] when the blob holds another key.
    pub fn unwrap_known(&self, kek: &Key, original: &KeyRef, blob: &[u8]) -> Result<Key, HsmError> {
        let key = self.unwrap(kek, original.class, blob)?;
        if key.reference.check == original.check {
            Ok(key)
        } else {
            Err(HsmError::KeyCheckMismatch { id: original.id })
        }
    }

    /// Decrypts what was encrypted to this custodian (RSA-OAEP, see [`crate::encrypt_share`]).
    ///
    /// # Errors
    /// [`HsmError::ShareRejected`] for a changed byte or another custodian's share; [`HsmError::WrongClass`], or as the module
    /// answers.
    pub fn decrypt_share(&self, key: &Key, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let action = "decrypt a share";
        let handle = key.handle_for(&self.sessions, action, &[KeyClass::CustodianShares])?;
        if ciphertext.len() != RSA_BYTES {
            return Err(HsmError::ShareRejected);
        }
        let mechanism = self.oaep_hash(key)?.mechanism();
        let decrypted =
            self.sessions.with(action, |session| session.decrypt(&mechanism, handle, ciphertext).map(Zeroizing::new));
        decrypted.map_err(|error| self.rejection(error, HsmError::ShareRejected))
    }

    /// Derives a compartment key from a master into a session object that cannot leave the token and dies with the returned
    /// [`Key`]: SP 800-108r1 section 4.1 (counter mode), HMAC-SHA-256, over counter (32 bits), label, a zero byte, context and
    /// length in bits (32 bits).
    ///
    /// A derived key lives as long as its master: a key that must be destroyable on its own is generated instead.
    ///
    /// # Errors
    /// [`HsmError::WrongClass`]; [`HsmError::DerivationLabel`] for a label that is empty or holds a zero byte;
    /// [`HsmError::AttributeMismatch`], or as the module answers.
    pub fn derive(&self, master: &Key, label: &[u8], context: &[u8]) -> Result<Key, HsmError> {
        let action = "derive a key";
        let master = master.handle_for(&self.sessions, action, &[KeyClass::RbacMaster])?;
        if label.is_empty() || label.contains(&0) {
            return Err(HsmError::DerivationLabel);
        }
        self.derive_object(action, master, label, context)
    }

    pub(crate) fn derive_object(
        &self,
        action: &'static str,
        master: ObjectHandle,
        label: &[u8],
        context: &[u8],
    ) -> Result<Key, HsmError> {
        const WIDTH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);
        let counter = KbkdfCounterFormat::new(Endianness::Big, WIDTH);
        let length = KbkdfDkmLengthFormat::new(KbkdfDkmLengthMethod::SumOfKeys, Endianness::Big, WIDTH);
        let input = [
            PrfDataParam::new(PrfDataParamType::IterationVariable(Some(&counter))),
            PrfDataParam::new(PrfDataParamType::ByteArray(label)),
            PrfDataParam::new(PrfDataParamType::ByteArray(&[0])),
            PrfDataParam::new(PrfDataParamType::ByteArray(context)),
            PrfDataParam::new(PrfDataParamType::DkmLength(&length)),
        ];
        // Some tokens do not take a segment without bytes.
        let with_context = input;
        let [counter, label, zero, _, length] = input;
        let without_context = [counter, label, zero, length];
        let segments: &[PrfDataParam<'_>] = if context.is_empty() { &without_context } else { &with_context };
        let mechanism = Mechanism::KbkdfCounter(KbkdfParams::new(MechanismType::SHA256_HMAC, segments, None));
        let class = KeyClass::Compartment;
        let id = self.draw_id()?;
        let template = self.template(class, id, Origin::Unwrapped);
        let handle = self.sessions.with_anchor(action, |session| {
            with_fallback(&template, &[KeyClass::length()], |attributes| {
                session.derive_key(&mechanism, master, attributes)
            })
        })?;
        self.session_key(handle, id, class, Origin::Unwrapped)
    }

    /// Unwraps into a session object of `class`.
    pub(crate) fn unwrap_object(
        &self,
        action: &'static str,
        opener: ObjectHandle,
        mechanism: &Mechanism<'_>,
        class: KeyClass,
        origin: Origin,
        blob: &[u8],
    ) -> Result<Key, HsmError> {
        let id = self.draw_id()?;
        let template = self.template(class, id, origin);
        let handle = self.sessions.with_anchor(action, |session| {
            with_fallback(&template, &[], |attributes| session.unwrap_key(mechanism, opener, blob, attributes))
        })?;
        self.session_key(handle, id, class, origin)
    }

    /// A new session object becomes a key; it is destroyed on every path that does not return it.
    pub(crate) fn session_key(
        &self,
        handle: ObjectHandle,
        id: KeyId,
        class: KeyClass,
        origin: Origin,
    ) -> Result<Key, HsmError> {
        let mut key = Key {
            handle,
            public: None,
            reference: KeyRef { id, class, check: String::new(), label: String::new(), origin },
            session_object: true,
            sessions: Arc::clone(&self.sessions),
        };
        self.check_attributes(handle, class, id, &self.template(class, id, origin), &class.history(origin))?;
        if origin != Origin::Transit {
            key.reference.check = self.check_value(class, handle, None)?;
        }
        Ok(key)
    }

    /// Whether a key is the one with this check value.
    pub(crate) fn matches(
        &self,
        class: KeyClass,
        handle: ObjectHandle,
        public: Option<&PublicHalf>,
        check: &str,
    ) -> Result<bool, HsmError> {
        if class != KeyClass::SyncKekDestination {
            return Ok(self.check_value(class, handle, public)? == check);
        }
        // The half that only unwraps cannot compute the value; it opens it.
        match hex::decode(check) {
            Ok(blob) if blob.len() == WRAPPED_LENGTH => match self.unwraps_known_key(handle, &blob) {
                Ok(()) => Ok(true),
                Err(error) => match self.rejection(error, HsmError::WrapRejected) {
                    HsmError::WrapRejected | HsmError::StrangeAnswer { .. } => Ok(false),
                    other => Err(other),
                },
            },
            _ => Ok(false),
        }
    }

    /// Eight bytes, hexadecimal, that depend on the key and tell nothing about it.
    ///
    /// `CKA_CHECK_VALUE` is absent on some tokens and three bytes on others, so the key itself is used.
    pub(crate) fn check_value(
        &self,
        class: KeyClass,
        handle: ObjectHandle,
        public: Option<&PublicHalf>,
    ) -> Result<String, HsmError> {
        const ACTION: &str = "compute a key's check value";
        const MESSAGE: &[u8] = b"casemate key check 1";
        let strange = HsmError::StrangeAnswer { action: ACTION };
        let value = match class {
            // FF1's blocks begin 01 02 01 or are outputs of the cipher: no FF1 operation asks for this one.
            KeyClass::FpeFf1 => self.encrypt_block(handle, *b"\xffcasemate-check1")?,
            // Another block, so that neither class is found as the other: their attributes are the same.
            KeyClass::FpeFf3 => self.encrypt_block(handle, *b"\xffcasemate-check3")?,
            // One fixed message under one fixed IV. A random IV meets it with probability 2^-96, as any other.
            KeyClass::AtRest | KeyClass::Compartment => {
                let sealed = self.seal_with(handle, *b"key check iv", MESSAGE, &[0; 16])?;
                sealed.last_chunk::<TAG_LENGTH>().ok_or(strange)?.to_vec()
            }
            KeyClass::Token => self.mac_with(handle, MESSAGE)?.to_vec(),
            KeyClass::AuditSigning | KeyClass::CustodianSigning => {
                let Some(PublicHalf::Ed25519(public)) = public else { return Err(strange) };
                let signature = self.sign_with(handle, MESSAGE)?;
                // The halves have to belong together.
                UnparsedPublicKey::new(&ED25519, public).verify(MESSAGE, &signature).map_err(|_| strange)?;
                // Two classes with the same flags: a key of one must not be found as the other.
                let purpose: &[u8] = if class == KeyClass::AuditSigning { b"" } else { b"custodian signing" };
                digest(&SHA256, &[purpose, public].concat()).as_ref().to_vec()
            }
            KeyClass::ApproverSigning => {
                let Some(PublicHalf::P256(point)) = public else { return Err(strange) };
                let signature = self.sign_p256_with(handle, MESSAGE)?;
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                    .verify(MESSAGE, &signature)
                    .map_err(|_| strange)?;
                digest(&SHA256, point).as_ref().to_vec()
            }
            KeyClass::CustodianShares | KeyClass::Transport => {
                let Some(PublicHalf::Rsa(modulus)) = public else { return Err(strange) };
                if class == KeyClass::Transport {
                    self.prove_transport(handle, modulus)?;
                } else {
                    self.prove_shares(handle, modulus)?;
                }
                digest(&SHA256, modulus).as_ref().to_vec()
            }
            KeyClass::RbacMaster => return self.derive_known_key(handle),
            KeyClass::SyncKekSource => return Ok(hex::encode(self.wrap_known_key(handle)?)),
            // It can only unwrap: see `Keyring::matches`.
            KeyClass::SyncKekDestination => return Err(HsmError::WrongClass { action: ACTION, class }),
            // The classes of wrapping keys look alike to the token, so the check value tells them apart.
            KeyClass::KekWrapping => {
                let wrapped = [b"kek-wrapping".as_slice(), &self.wrap_known_key(handle)?].concat();
                digest(&SHA256, &wrapped).as_ref().to_vec()
            }
            KeyClass::UserKek => digest(&SHA256, &self.wrap_known_key(handle)?).as_ref().to_vec(),
        };
        let first = value.first_chunk::<8>().ok_or(HsmError::StrangeAnswer { action: ACTION })?;
        Ok(hex::encode(first))
    }

    fn encrypt_block(&self, handle: ObjectHandle, block: [u8; 16]) -> Result<Vec<u8>, HsmError> {
        self.sessions.with("compute a key's check value", |session| session.encrypt(&Mechanism::AesEcb, handle, &block))
    }

    fn sign_with(&self, handle: ObjectHandle, message: &[u8]) -> Result<[u8; 64], HsmError> {
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
        let signature = self.sessions.with("sign", |session| session.sign(&mechanism, handle, message))?;
        signature.try_into().map_err(|_| HsmError::StrangeAnswer { action: "sign" })
    }

    /// The digest is computed here: SoftHSM2 has no mechanism that hashes and signs.
    fn sign_p256_with(&self, handle: ObjectHandle, message: &[u8]) -> Result<[u8; 64], HsmError> {
        let hash = digest(&SHA256, message);
        let signature = self.sessions.with("sign", |session| session.sign(&Mechanism::Ecdsa, handle, hash.as_ref()))?;
        signature.try_into().map_err(|_| HsmError::StrangeAnswer { action: "sign" })
    }

    fn mac_with(&self, handle: ObjectHandle, message: &[u8]) -> Result<[u8; 32], HsmError> {
        let action = "compute a MAC";
        let mac = self.sessions.with(action, |session| session.sign(&Mechanism::Sha256Hmac, handle, message))?;
        mac.try_into().map_err(|_| HsmError::StrangeAnswer { action })
    }

    fn seal_with(
        &self,
        handle: ObjectHandle,
        mut iv: [u8; IV_LENGTH],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, HsmError> {
        let before = iv;
        let sealed = self.sessions.with("seal", |session| {
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, aad, 128.into())?);
            session.encrypt(&mechanism, handle, plaintext)
        })?;
        // Some modules replace the caller's IV: then the stored one would not open the value.
        if sealed.len() == plaintext.len() + TAG_LENGTH && iv == before {
            Ok(sealed)
        } else {
            Err(HsmError::StrangeAnswer { action: "seal" })
        }
    }

    /// Tokens answer a forged input with a device error; only a token that is really well makes it a forgery.
    pub(crate) fn rejection(&self, error: HsmError, verdict: HsmError) -> HsmError {
        match error {
            HsmError::Device { source: Pkcs11Error::Pkcs11(..), .. } => self.health().err().unwrap_or(verdict),
            HsmError::Refused { source: Pkcs11Error::Pkcs11(code, _), .. } if is_about_input(code) => verdict,
            other => other,
        }
    }
}

/// Codes that blame the bytes of the request.
fn is_about_input(code: RvError) -> bool {
    matches!(
        code,
        RvError::DataInvalid
            | RvError::DataLenRange
            | RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::SignatureInvalid
            | RvError::WrappedKeyInvalid
            | RvError::WrappedKeyLenRange
    )
}
