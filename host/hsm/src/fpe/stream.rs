use std::cell::{Cell, RefCell};

use cryptoki::error::Error as Pkcs11Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;

use super::EcbBlocks;
use crate::HsmError;
use crate::sessions::{Lent, Sessions};

/// One open AES-ECB operation: begun once per batch, so that a round costs one call into the token.
///
/// An operation goes on working after its key was destroyed or the user logged out, so none outlives its batch: it is
/// finished, or its session is closed.
pub(super) struct Stream<'a> {
    lent: RefCell<Lent<'a>>,
    sessions: &'a Sessions,
    output: RefCell<Vec<[u8; 16]>>,
    action: &'static str,
    finished: Cell<bool>,
}

impl<'a> Stream<'a> {
    pub(super) fn open(sessions: &'a Sessions, key: ObjectHandle, action: &'static str) -> Result<Self, HsmError> {
        let mut lent = sessions.lend(action)?;
        let begun = match lent.session() {
            Some(session) => session.encrypt_init(&Mechanism::AesEcb, key),
            None => Err(Pkcs11Error::InvalidValue),
        };
        begun.map_err(|source| {
            lent.discard();
            HsmError::from_pkcs11(action, source)
        })?;
        let output = RefCell::default();
        Ok(Self { lent: RefCell::new(lent), sessions, output, action, finished: Cell::new(false) })
    }

    pub(super) fn close(self) -> Result<(), HsmError> {
        let action = self.action;
        let lent = self.lent.borrow();
        let session = lent.session().ok_or(HsmError::StrangeAnswer { action })?;
        let rest = self.sessions.module.raw.encrypt_final(session);
        let rest = rest.map_err(|source| HsmError::from_pkcs11(action, source))?;
        // Bytes held back would mean that the rounds saw fewer than they gave.
        if rest != 0 {
            return Err(HsmError::StrangeAnswer { action });
        }
        self.finished.set(true);
        Ok(())
    }
}

impl EcbBlocks for Stream<'_> {
    fn encrypt_blocks(&self, blocks: &mut [[u8; 16]]) -> Result<(), HsmError> {
        let action = self.action;
        let lent = self.lent.borrow();
        let session = lent.session().ok_or(HsmError::StrangeAnswer { action })?;
        let mut output = self.output.borrow_mut();
        output.resize(blocks.len(), [0; 16]);
        let written = self.sessions.module.raw.encrypt_update(session, blocks, &mut output);
        let written = written.map_err(|source| HsmError::from_pkcs11(action, source))?;
        // PKCS#11 lets a token hold blocks back; then the result would be computed from stale ones.
        if written != 16 * blocks.len() {
            return Err(HsmError::StrangeAnswer { action });
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
