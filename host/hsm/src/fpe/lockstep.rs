//! FF1 over a batch in lock step: SP 800-38G algorithms 7 (encrypt) and 8 (decrypt). Pure: the cipher is a parameter.

use super::arithmetic::{Direction, Halves};
use super::shape::{MAXIMUM_LENGTH, Shape, check_radix, minimum_length};
use super::{BatchReport, EcbBlocks, Ff1Value};
use crate::HsmError;

/// Blocks per call: 16 KiB. More gains nothing on software tokens, and some HSMs limit a buffer to this.
const CHUNK: usize = 1_024;

/// Encrypts every value in place. On any error no value is changed.
///
/// Values may differ in length and tweak; they share the radix.
///
/// # Errors
/// [`HsmError::UnsupportedRadix`], [`HsmError::DomainTooSmall`], [`HsmError::TooLong`],
/// [`HsmError::NumeralOutOfRange`], all before the first call; or the cipher's error.
pub fn encrypt_batch<E: EcbBlocks + ?Sized>(
    cipher: &E,
    radix: u32,
    batch: &mut [Ff1Value],
) -> Result<BatchReport, HsmError> {
    let (outputs, report) = compute(cipher, radix, batch, Direction::Encrypt)?;
    write_back(batch, outputs);
    Ok(report)
}

/// Decrypts every value in place. On any error no value is changed.
///
/// # Errors
/// As [`encrypt_batch`].
pub fn decrypt_batch<E: EcbBlocks + ?Sized>(
    cipher: &E,
    radix: u32,
    batch: &mut [Ff1Value],
) -> Result<BatchReport, HsmError> {
    let (outputs, report) = compute(cipher, radix, batch, Direction::Decrypt)?;
    write_back(batch, outputs);
    Ok(report)
}

/// Puts computed numerals into their values.
pub(super) fn write_back(batch: &mut [Ff1Value], outputs: Vec<Vec<u16>>) {
    for (value, numerals) in batch.iter_mut().zip(outputs) {
        value.numerals = numerals;
    }
}

/// Computes the new numerals of every value without touching the batch.
pub(super) fn compute<E: EcbBlocks + ?Sized>(
    cipher: &E,
    radix: u32,
    batch: &[Ff1Value],
    direction: Direction,
) -> Result<(Vec<Vec<u16>>, BatchReport), HsmError> {
    check_radix(radix)?;
    check_values(radix, batch)?;
    let mut walkers = Vec::with_capacity(batch.len());
    let mut known: Option<Shape> = None;
    for value in batch {
        let (length, tweak) = (value.numerals.len(), value.tweak.len());
        // Neighbours mostly have one shape, and a shape of a long value is slow to compute.
        let shape = match known {
            Some(known) if known.length == length && known.tweak == tweak => known,
            _ => Shape::new(radix, length, tweak),
        };
        known = Some(shape);
        walkers.push(Walker::new(value, shape, radix));
    }

    let mut calls = Calls { cipher, count: 0, blocks: Vec::with_capacity(walkers.len()) };
    // Step 5 and the constant part of step 6i: the CBC-MAC state after P || T || zeroes, once for all rounds.
    let prefix_blocks = walkers.iter().map(|walker| walker.shape.prefix_blocks).max().unwrap_or_default();
    for index in 0..prefix_blocks {
        calls.chain(
            &mut walkers,
            |walker| walker.shape.prefix_blocks > index,
            |walker| walker.shape.prefix(radix, walker.tweak, index),
        )?;
    }
    for walker in &mut walkers {
        walker.prefix = walker.state;
    }

    // Step 6. For i from 0 to 9 (algorithm 8: from 9 to 0).
    for step in 0..10 {
        let round = if direction == Direction::Encrypt { step } else { 9 - step };
        for walker in &mut walkers {
            walker.start_round(round, direction, radix);
        }
        // Step 6ii. Let R = PRF(P || Q).
        let round_blocks = walkers.iter().map(|walker| walker.shape.round_blocks).max().unwrap_or_default();
        for index in 0..round_blocks {
            calls.chain(
                &mut walkers,
                |walker| walker.shape.round_blocks > index,
                |walker| {
                    let mut block = [0; 16];
                    block.copy_from_slice(&walker.message[16 * index..16 * (index + 1)]);
                    block
                },
            )?;
        }
        // Step 6iii. S = the first d bytes of R || CIPH(R xor [1]) || CIPH(R xor [2]) ...
        calls.extend(&mut walkers)?;
        for walker in &mut walkers {
            walker.finish_round(round, direction, radix)?;
        }
    }

    let report = BatchReport { hsm_calls: calls.count, values: batch.len() };
    let outputs = walkers.into_iter().map(|walker| walker.finish(radix)).collect::<Result<_, _>>()?;
    Ok((outputs, report))
}

fn check_values(radix: u32, batch: &[Ff1Value]) -> Result<(), HsmError> {
    let minimum = minimum_length(radix);
    for (index, value) in batch.iter().enumerate() {
        let length = value.numerals.len();
        if length < minimum {
            return Err(HsmError::DomainTooSmall { length, minimum, radix });
        }
        if length > MAXIMUM_LENGTH || value.tweak.len() > MAXIMUM_LENGTH {
            return Err(HsmError::TooLong { maximum: MAXIMUM_LENGTH, value: index });
        }
        if let Some(position) = value.numerals.iter().position(|numeral| u32::from(*numeral) >= radix) {
            return Err(HsmError::NumeralOutOfRange { position, radix, value: index });
        }
    }
    Ok(())
}

/// One value on its way through the rounds.
struct Walker<'a> {
    shape: Shape,
    tweak: &'a [u8],
    /// `None` only while a round is being finished.
    halves: Option<Halves>,
    /// CBC-MAC state after the prefix.
    prefix: [u8; 16],
    /// CBC-MAC state; after the round's last block, R.
    state: [u8; 16],
    /// The rest of Q: tail of tweak and zeroes, round number, half.
    message: Vec<u8>,
    /// Blocks of S after R.
    extra: Vec<[u8; 16]>,
}

impl<'a> Walker<'a> {
    fn new(value: &'a Ff1Value, shape: Shape, radix: u32) -> Self {
        let mut message = vec![0; shape.round_blocks * 16];
        let tail_start = shape.padded_tweak - shape.tail_length();
        for (place, byte) in message.iter_mut().zip(value.tweak.get(tail_start..).unwrap_or_default()) {
            *place = *byte;
        }
        Self {
            shape,
            tweak: &value.tweak,
            halves: Some(Halves::split(&value.numerals, &shape, radix)),
            prefix: [0; 16],
            state: [0; 16],
            message,
            extra: vec![[0; 16]; shape.extra_blocks],
        }
    }

    fn start_round(&mut self, round: u8, direction: Direction, radix: u32) {
        self.state = self.prefix;
        let tail = self.shape.tail_length();
        self.message[tail] = round;
        if let Some(halves) = &self.halves {
            halves.write_source(direction, radix, &mut self.message[tail + 1..]);
        }
    }

    fn finish_round(&mut self, round: u8, direction: Direction, radix: u32) -> Result<(), HsmError> {
        let halves = self.halves.take().ok_or(LOST)?;
        let shape = &self.shape;
        self.halves = Some(if self.extra.is_empty() {
            halves.advance(direction, round, &self.state[..shape.d], shape, radix)
        } else {
            let s = [&self.state, self.extra.as_flattened()].concat();
            halves.advance(direction, round, &s[..shape.d], shape, radix)
        });
        Ok(())
    }

    fn finish(self, radix: u32) -> Result<Vec<u16>, HsmError> {
        Ok(self.halves.ok_or(LOST)?.join(&self.shape, radix))
    }
}

/// Cannot happen: a walker without halves. An error rather than a panic.
const LOST: HsmError = HsmError::StrangeAnswer { action: "run FF1" };

/// Gathers one block of each walker, encrypts them together and hands them back.
struct Calls<'a, E: ?Sized> {
    cipher: &'a E,
    count: u32,
    blocks: Vec<[u8; 16]>,
}

impl<E: EcbBlocks + ?Sized> Calls<'_, E> {
    /// One block of each chosen walker's CBC-MAC.
    fn chain(
        &mut self,
        walkers: &mut [Walker<'_>],
        chosen: impl Fn(&Walker<'_>) -> bool,
        block: impl Fn(&Walker<'_>) -> [u8; 16],
    ) -> Result<(), HsmError> {
        self.blocks.clear();
        self.blocks
            .extend(walkers.iter().filter(|walker| chosen(walker)).map(|walker| xor(walker.state, block(walker))));
        self.encrypt()?;
        for (walker, block) in walkers.iter_mut().filter(|walker| chosen(walker)).zip(&self.blocks) {
            walker.state = *block;
        }
        Ok(())
    }

    /// All further blocks of S of all walkers, which do not depend on each other.
    fn extend(&mut self, walkers: &mut [Walker<'_>]) -> Result<(), HsmError> {
        self.blocks.clear();
        for walker in walkers.iter() {
            let counters = 1..=walker.extra.len() as u128;
            self.blocks.extend(counters.map(|counter| xor(walker.state, counter.to_be_bytes())));
        }
        self.encrypt()?;
        let places = walkers.iter_mut().flat_map(|walker| &mut walker.extra);
        for (place, block) in places.zip(&self.blocks) {
            *place = *block;
        }
        Ok(())
    }

    fn encrypt(&mut self) -> Result<(), HsmError> {
        for chunk in self.blocks.chunks_mut(CHUNK) {
            self.count += 1;
            self.cipher.encrypt_blocks(chunk)?;
        }
        Ok(())
    }
}

fn xor(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

#[cfg(test)]
mod tests;
