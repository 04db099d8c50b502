use std::cell::{Cell, RefCell};
use std::sync::Arc;

use cryptoki::error::Error as Pkcs11Error;
use cryptoki::mechanism::Mechanism;

use super::arithmetic::Direction;
use super::lockstep::{compute, write_back};
use super::shape::check_radix;
use super::{BatchReport, EcbBlocks, Ff1Value};
use crate::sessions::Lent;
use crate::{HsmError, Key, KeyClass, Keyring};

const ACTION: &str = "encrypt with FF1";

/// FF1 under one key of the token, for one radix.
pub struct Ff1 {
    keyring: Arc<Keyring>,
    key: Key,
    radix: u32,
}

impl Ff1 {
    /// FF1 with a key of class [`KeyClass::FpeFf1`].
    ///
    /// # Errors
    /// [`HsmError::WrongClass`], [`HsmError::ForeignKey`], [`HsmError::UnsupportedRadix`].
    pub fn new(keyring: Arc<Keyring>, key: Key, radix: u32) -> Result<Self, HsmError> {
        key.handle_for(&keyring.sessions, ACTION, &[KeyClass::FpeFf1])?;
        check_radix(radix)?;
        Ok(Self { keyring, key, radix })
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

    fn run(&self, batch: &mut [Ff1Value], direction: Direction) -> Result<BatchReport, HsmError> {
        let stream = Stream::open(&self.keyring, &self.key)?;
        let (outputs, report) = compute(&stream, self.radix, batch, direction)?;
        stream.close()?;
        write_back(batch, outputs);
        Ok(report)
    }
}

/// One open AES-ECB operation: begun once per batch, so that a round costs one call into the token.
///
/// An operation goes on working after its key was destroyed or the user logged out, so none outlives its batch: it is
/// finished, or its session is closed.
pub(super) struct Stream<'a> {
    lent: RefCell<Lent<'a>>,
    keyring: &'a Keyring,
    output: RefCell<Vec<[u8; 16]>>,
    finished: Cell<bool>,
}

impl<'a> Stream<'a> {
    pub(super) fn open(keyring: &'a Keyring, key: &Key) -> Result<Self, HsmError> {
        let handle = key.handle_for(&keyring.sessions, ACTION, &[KeyClass::FpeFf1])?;
        let mut lent = keyring.sessions.lend(ACTION)?;
        let begun = match lent.session() {
            Some(session) => session.encrypt_init(&Mechanism::AesEcb, handle),
            None => Err(Pkcs11Error::InvalidValue),
        };
        begun.map_err(|source| {
            lent.discard();
            HsmError::from_pkcs11(ACTION, source)
        })?;
        Ok(Self { lent: RefCell::new(lent), keyring, output: RefCell::default(), finished: Cell::new(false) })
    }

    pub(super) fn close(self) -> Result<(), HsmError> {
        let lent = self.lent.borrow();
        let session = lent.session().ok_or(HsmError::StrangeAnswer { action: ACTION })?;
        let rest = self
            .keyring
            .sessions
            .module
            .raw
            .encrypt_final(session)
            .map_err(|source| HsmError::from_pkcs11(ACTION, source))?;
        // Bytes held back would mean that the rounds saw fewer than they gave.
        if rest != 0 {
            return Err(HsmError::StrangeAnswer { action: ACTION });
        }
        self.finished.set(true);
        Ok(())
    }
}

impl EcbBlocks for Stream<'_> {
    fn encrypt_blocks(&self, blocks: &mut [[u8; 16]]) -> Result<(), HsmError> {
        let lent = self.lent.borrow();
        let session = lent.session().ok_or(HsmError::StrangeAnswer { action: ACTION })?;
        let mut output = self.output.borrow_mut();
        output.resize(blocks.len(), [0; 16]);
        let written = self
            .keyring
            .sessions
            .module
            .raw
            .encrypt_update(session, blocks, &mut output)
            .map_err(|source| HsmError::from_pkcs11(ACTION, source))?;
        // PKCS#11 lets a token hold blocks back; then the result would be computed from stale ones.
        if written != 16 * blocks.len() {
            return Err(HsmError::StrangeAnswer { action: ACTION });
        }
        blocks.copy_from_slice(&output);
        Ok(())
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if !self.finished.get() {
            self.lent.borrow_mut().discard();
        }
    }
}
