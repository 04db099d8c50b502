//! Keys whose bytes everybody knows: published test vectors, run through a token's own AES.

use std::sync::Arc;

use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};

use super::words::Direction;
use super::{BatchReport, Ff1Value, legacy, token};
use crate::sessions::Sessions;
use crate::{HsmError, Keyring};

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
    /// As [`crate::Ff3::encrypt`] without a permit, and [`HsmError::UnsupportedRadix`].
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
