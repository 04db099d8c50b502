//! The Feistel network of FF1 over halves of more than 96 bits: one walker a value, arithmetic by the `fpe` crate.

use fpe::ff1::{FlexibleNumeralString, NumeralString, Operations};

use super::shape::Shape;
use super::words::Direction;
use crate::HsmError;

/// One long value on its way through the rounds.
pub(super) struct Walker {
    pub(super) shape: Shape,
    /// `None` only while a round is being finished.
    halves: Option<(FlexibleNumeralString, FlexibleNumeralString)>,
    /// CBC-MAC state; after the round's last block, R.
    pub(super) state: [u8; 16],
    /// The rest of Q: tail of tweak and zeroes, round number, half.
    message: Vec<u8>,
    /// Blocks of S after R.
    pub(super) extra: Vec<[u8; 16]>,
}

impl Walker {
    /// Step 2. Let A = X[1..u]; B = X[u+1..n].
    pub(super) fn new(numerals: &[u16], tweak: &[u8], shape: Shape) -> Self {
        let mut message = vec![0; shape.round_blocks * 16];
        let tail_start = shape.padded_tweak - shape.tail_length();
        for (place, byte) in message.iter_mut().zip(tweak.get(tail_start..).unwrap_or_default()) {
            *place = *byte;
        }
        Self {
            shape,
            halves: Some(FlexibleNumeralString::from(numerals.to_vec()).split()),
            state: [0; 16],
            message,
            extra: vec![[0; 16]; shape.extra_blocks],
        }
    }

    /// Begins a round at the CBC-MAC state after the common prefix.
    pub(super) fn start_round(&mut self, prefix: [u8; 16], round: u8, direction: Direction, radix: u32) {
        self.state = prefix;
        let tail = self.shape.tail_length();
        self.message[tail] = round;
        if let Some((a, b)) = &self.halves {
            let half = if direction == Direction::Encrypt { b } else { a };
            let place = &mut self.message[tail + 1..];
            place.copy_from_slice(&half.to_be_bytes(radix, place.len()));
        }
    }

    /// Block `index` of the round's message.
    pub(super) fn block(&self, index: usize) -> [u8; 16] {
        let mut block = [0; 16];
        block.copy_from_slice(&self.message[16 * index..16 * (index + 1)]);
        block
    }

    /// Steps 6iii to 6ix.
    pub(super) fn finish_round(&mut self, round: u8, direction: Direction, radix: u32) -> Result<(), HsmError> {
        let (a, b) = self.halves.take().ok_or(LOST)?;
        let bytes = self.state.iter().chain(self.extra.as_flattened()).copied().take(self.shape.d);
        // Step 6v. If i is even, let m = u; else, let m = v.
        let m = if round.is_multiple_of(2) { self.shape.u } else { self.shape.v };
        self.halves = Some(match direction {
            Direction::Encrypt => {
                let c = a.add_mod_exp(bytes, radix, m);
                (b, c)
            }
            Direction::Decrypt => {
                let c = b.sub_mod_exp(bytes, radix, m);
                (c, a)
            }
        });
        Ok(())
    }

    /// Step 7. Return A || B.
    pub(super) fn finish(self) -> Result<Vec<u16>, HsmError> {
        let (a, b) = self.halves.ok_or(LOST)?;
        Ok(FlexibleNumeralString::concat(a, b).into())
    }
}

/// Cannot happen: a walker without halves. An error rather than a panic.
const LOST: HsmError = HsmError::StrangeAnswer { action: "run FF1" };
