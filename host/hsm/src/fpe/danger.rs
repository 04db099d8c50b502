//! What must not be used on data as it stands: keys whose bytes everybody knows, which published test vectors need, and FF3-1 without
//! its permit.

use std::sync::Arc;

use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};

use super::shape::check_radix;
use super::words::Direction;
use super::{BatchReport, Ff1Value, legacy, token};
use crate::sessions::Sessions;
use crate::{HsmError, Key, KeyClass, Keyring};

/// FF3-1 encryption, each value in place with a tweak of 7 bytes, **without asking anybody**: `LegacyPermit` of `casemate-custody`, which
/// only a verified approval makes, is the way to it. On any error no value is changed.
///
/// # Errors
/// [`HsmError::WrongClass`], [`HsmError::ForeignKey`], [`HsmError::UnsupportedRadix`], [`HsmError::DomainTooSmall`],
/// [`HsmError::TooLong`], [`HsmError::NumeralOutOfRange`], [`HsmError::Ff3Tweak`], or as the module answers.
pub fn ff3_encrypt(keyring: &Keyring, key: &Key, radix: u32, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
    ff3(keyring, key, radix, batch, Direction::Encrypt)
}

/// FF3-1 decryption, without asking anybody.
///
/// # Errors
/// As [`ff3_encrypt`].
pub fn ff3_decrypt(keyring: &Keyring, key: &Key, radix: u32, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
    ff3(keyring, key, radix, batch, Direction::Decrypt)
}

fn ff3(
    keyring: &Keyring,
    key: &Key,
    radix: u32,
    batch: &mut [Ff1Value],
    direction: Direction,
) -> Result<BatchReport, HsmError> {
    let handle = key.handle_for(&keyring.sessions, legacy::ACTION, &[KeyClass::FpeFf3])?;
    check_radix(radix)?;
    legacy::run(&keyring.sessions, handle, radix, batch, direction)
}

/// An imported AES key that can run test vectors and nothing else.
///
/// It is a session object with the attributes of an FF1 key, but it is no [`crate::Key`] and has no reference: nothing that
/// protects data takes it, and [`Keyring::find`] refuses an imported key whatever its attributes say. It is destroyed on drop.
pub struct VectorKey {
    handle: ObjectHandle,
    sessions: Arc<Sessions>,
}

impl VectorKey {
    /// Imports a published key of 16, 24 or 32 bytes.
    ///
    /// # Errors
    /// [`HsmError::VectorKeyLength`], or as the module answers.
    pub fn import(keyring: &Keyring, key: &[u8]) -> Result<Self, HsmError> {
        if !matches!(key.len(), 16 | 24 | 32) {
            return Err(HsmError::VectorKeyLength { length: key.len() });
        }
        let attributes = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
            Attribute::Value(key.to_vec()),
        ];
        let sessions = Arc::clone(&keyring.sessions);
        let handle =
            sessions.with_anchor("import a test vector's key", |session| session.create_object(&attributes))?;
        Ok(Self { handle, sessions })
    }

    /// FF1 encryption; as [`crate::Ff1::encrypt`].
    ///
    /// # Errors
    /// As [`crate::Ff1::encrypt`], and [`HsmError::UnsupportedRadix`].
    pub fn ff1_encrypt(&self, radix: u32, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        token::run(&self.sessions, self.handle, radix, batch, Direction::Encrypt)
    }

    /// FF1 decryption.
    ///
    /// # Errors
    /// As [`VectorKey::ff1_encrypt`].
    pub fn ff1_decrypt(&self, radix: u32, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        token::run(&self.sessions, self.handle, radix, batch, Direction::Decrypt)
    }

    /// FF3-1 encryption. The key must have been imported with its bytes reversed.
    ///
    /// # Errors
    /// As [`ff3_encrypt`].
    pub fn ff3_encrypt(&self, radix: u32, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        legacy::run(&self.sessions, self.handle, radix, batch, Direction::Encrypt)
    }

    /// FF3-1 decryption.
    ///
    /// # Errors
    /// As [`VectorKey::ff3_encrypt`].
    pub fn ff3_decrypt(&self, radix: u32, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        legacy::run(&self.sessions, self.handle, radix, batch, Direction::Decrypt)
    }
}

impl Drop for VectorKey {
    fn drop(&mut self) {
        let destroyed =
            self.sessions.with_anchor("destroy a test vector's key", |session| session.destroy_object(self.handle));
        if let Err(error) = destroyed {
            tracing::warn!(%error, "a test vector's key outlives its handle");
        }
    }
}
