//! The Feistel network over halves of at most 96 bits: one lane a value, ten machine instructions a step.
//!
//! FF1 and FF3-1 differ in the block a round encrypts and in how its output becomes a number; the rest is here. Encryption
//! replaces A and keeps B, decryption the other way round, so a lane says `target` and `source` instead.

use std::ops::Range;

use super::arithmetic::{Modulus, Reduce};

/// Which way the rounds run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Decrypt,
    Encrypt,
}

/// One value on its way through the rounds.
pub(super) struct Lane {
    /// What every round's block is XORed with.
    pub(super) base: u128,
    /// The half that feeds the round function.
    pub(super) source: u128,
    /// The half that the round replaces.
    pub(super) target: u128,
}

impl Lane {
    pub(super) fn new(direction: Direction, a: u128, b: u128) -> Self {
        match direction {
            Direction::Encrypt => Self { base: 0, source: b, target: a },
            Direction::Decrypt => Self { base: 0, source: a, target: b },
        }
    }

    /// A and B.
    pub(super) fn halves(&self, direction: Direction) -> (u128, u128) {
        match direction {
            Direction::Encrypt => (self.target, self.source),
            Direction::Decrypt => (self.source, self.target),
        }
    }
}

/// Neighbouring lanes of one length.
pub(super) struct Run {
    pub(super) lanes: Range<usize>,
    /// Numerals of each value.
    pub(super) length: usize,
    /// `radix^u` and `radix^v`, for even and odd rounds.
    pub(super) moduli: [Modulus; 2],
}

impl Run {
    /// Replaces each target by target plus (or minus) y, and swaps the halves.
    pub(super) fn advance(
        &self,
        direction: Direction,
        round: u8,
        lanes: &mut [Lane],
        blocks: &[[u8; 16]],
        y: impl Fn([u8; 16]) -> u128,
    ) {
        // Step 6v of FF1, 4i of FF3-1. If i is even, let m = u; else, let m = v.
        match self.moduli[usize::from(round % 2)] {
            Modulus::Word(modulus) => advance(direction, modulus, lanes, blocks, y),
            Modulus::Double(modulus) => advance(direction, modulus, lanes, blocks, y),
        }
    }
}

#[inline(always)]
fn advance(
    direction: Direction,
    modulus: impl Reduce,
    lanes: &mut [Lane],
    blocks: &[[u8; 16]],
    y: impl Fn([u8; 16]) -> u128,
) {
    let pairs = lanes.iter_mut().zip(blocks);
    match direction {
        Direction::Encrypt => pairs.for_each(|(lane, block)| {
            let c = modulus.add(lane.target, y(*block));
            lane.target = std::mem::replace(&mut lane.source, c);
        }),
        Direction::Decrypt => pairs.for_each(|(lane, block)| {
            let c = modulus.subtract(lane.target, y(*block));
            lane.target = std::mem::replace(&mut lane.source, c);
        }),
    }
}
