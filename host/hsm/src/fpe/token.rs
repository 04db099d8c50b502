use std::sync::Arc;

use super::lockstep::Work;
use super::native::{Native, NativeFf1};
use super::shape::check_radix;
use super::stream::Stream;
use super::words::Direction;
use super::{Backend, BatchReport, Ff1Value};
use crate::sessions::Sessions;
use crate::{HsmError, Key, KeyClass, Keyring};

pub(super) const ACTION: &str = "encrypt with FF1";

/// FF1 under one key of the token, for one radix.
pub struct Ff1 {
    keyring: Arc<Keyring>,
    key: Key,
    radix: u32,
    native: Option<Native>,
}

impl Ff1 {
    /// FF1 with a key of class [`KeyClass::FpeFf1`].
    ///
    /// # Errors
    /// [`HsmError::WrongClass`], [`HsmError::ForeignKey`], [`HsmError::UnsupportedRadix`].
    pub fn new(keyring: Arc<Keyring>, key: Key, radix: u32) -> Result<Self, HsmError> {
        key.handle_for(&keyring.sessions, ACTION, &[KeyClass::FpeFf1])?;
        check_radix(radix)?;
        Ok(Self { keyring, key, radix, native: None })
    }

    /// As [`Ff1::new`], with the HSM's own mechanism where the login named one, the token lists it and the key allows it. It is
    /// compared with FF1 here and now.
    ///
    /// # Errors
    /// As [`Ff1::new`]; [`HsmError::NativeFf1`] for results that are not FF1's; as the module answers.
    pub fn best(keyring: Arc<Keyring>, key: Key, radix: u32) -> Result<Self, HsmError> {
        let plain = Self::new(keyring, key, radix)?;
        let Some(named) = plain.keyring.sessions.native_ff1 else { return Ok(plain) };
        let native = Native::new(named)?;
        let handle = plain.key.handle_for(&plain.keyring.sessions, ACTION, &[KeyClass::FpeFf1])?;
        if !native.is_offered(&plain.keyring.sessions, handle)? {
            tracing::warn!(key = %plain.key.id(), "the HSM's own FF1 is not there for this key; FF1 runs in lock-step");
            return Ok(plain);
        }
        native.compare(&plain.keyring.sessions, handle, radix)?;
        Ok(Self { native: Some(native), ..plain })
    }

    /// Lets the HSM's own mechanism encrypt, once it is found to give FF1's results under this key. Decryption stays here: it
    /// needs encryption by AES only, and the key has no other use.
    ///
    /// # Errors
    /// [`HsmError::NativeFf1`] for a number that is no vendor's; at the first use, also for results that are not FF1's.
    pub fn with_native(self, native: NativeFf1) -> Result<Self, HsmError> {
        Ok(Self { native: Some(Native::new(native)?), ..self })
    }

    /// Encrypts every value in place. On any error no value is changed.
    ///
    /// # Errors
    /// [`HsmError::DomainTooSmall`], [`HsmError::TooLong`], [`HsmError::NumeralOutOfRange`], or as the module answers.
    pub fn encrypt(&self, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        self.run(batch, Direction::Encrypt)
    }

    /// Decrypts every value in place. On any error no value is changed.
    ///
    /// # Errors
    /// As [`Ff1::encrypt`].
    pub fn decrypt(&self, batch: &mut [Ff1Value]) -> Result<BatchReport, HsmError> {
        self.run(batch, Direction::Decrypt)
    }

    /// The radix.
    pub fn radix(&self) -> u32 {
        self.radix
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Gives the key back, for instance to destroy it.
    pub fn into_key(self) -> Key {
        self.key
    }

    pub(super) fn run(&self, batch: &mut [Ff1Value], direction: Direction) -> Result<BatchReport, HsmError> {
        let handle = self.key.handle_for(&self.keyring.sessions, ACTION, &[KeyClass::FpeFf1])?;
        match &self.native {
            Some(native) if direction == Direction::Encrypt => {
                native.encrypt(&self.keyring.sessions, handle, self.radix, batch)
            }
            _ => run(&self.keyring.sessions, handle, self.radix, batch, direction),
        }
    }
}

/// FF1 with AES under any key handle. The batch is written only when the token has answered everything, the end included.
pub(super) fn run(
    sessions: &Sessions,
    key: cryptoki::object::ObjectHandle,
    radix: u32,
    batch: &mut [Ff1Value],
    direction: Direction,
) -> Result<BatchReport, HsmError> {
    let work = Work::prepare(radix, batch, direction)?;
    if batch.is_empty() {
        return Ok(BatchReport { hsm_calls: 0, values: 0, backend: Backend::HostFeistel });
    }
    let stream = Stream::open(sessions, key, ACTION)?;
    let (outputs, report) = work.run(&stream)?;
    stream.close()?;
    outputs.write(batch);
    Ok(report)
}
