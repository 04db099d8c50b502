use std::cell::{Cell, RefCell};

use super::lockstep::encrypt_batch;
use super::stream::Stream;
use super::token::{ACTION, Ff1};
use super::{BatchReport, EcbBlocks, Ff1Value};
use crate::{HsmError, KeyClass, Keyring};

impl Ff1 {
    /// As [`Ff1::encrypt`], and calls `event` right before call number `at` into the token, counted from 1: for drills.
    pub(crate) fn encrypt_interrupted(
        &self,
        keyring: &Keyring,
        batch: &mut [Ff1Value],
        at: u32,
        event: &mut dyn FnMut(),
    ) -> Result<BatchReport, HsmError> {
        let handle = self.key().handle_for(&keyring.sessions, ACTION, &[KeyClass::FpeFf1])?;
        let stream = Stream::open(&keyring.sessions, handle, ACTION)?;
        let mut result = batch.to_vec();
        let interrupted = Interrupted { stream, call: Cell::new(0), at, event: RefCell::new(event) };
        let report = encrypt_batch(&interrupted, self.radix(), &mut result)?;
        interrupted.stream.close()?;
        batch.clone_from_slice(&result);
        Ok(report)
    }
}

struct Interrupted<'a, 'e> {
    stream: Stream<'a>,
    call: Cell<u32>,
    at: u32,
    event: RefCell<&'e mut dyn FnMut()>,
}

impl EcbBlocks for Interrupted<'_, '_> {
    fn encrypt_blocks(&self, blocks: &mut [[u8; 16]]) -> Result<(), HsmError> {
        self.call.set(self.call.get() + 1);
        if self.call.get() == self.at {
            (self.event.borrow_mut())();
        }
        self.stream.encrypt_blocks(blocks)
    }
}
