//! FF1 over a batch in lock step: SP 800-38G algorithms 7 (encrypt) and 8 (decrypt). Pure: the cipher is a parameter.
//!
//! A half of at most 96 bits is a number in a lane (`words`), and its round costs one block; longer halves are walkers. What a
//! batch allocates does not grow with the number of rounds, and lanes allocate nothing of their own.

use super::arithmetic::{Modulus, Radix};
use super::shape::{MAXIMUM_LENGTH, Shape, check_radix, minimum_length, word_length};
use super::walker::Walker;
use super::words::{Direction, Lane, Run};
use super::{Backend, BatchReport, EcbBlocks, Ff1Value};
use crate::HsmError;

/// Blocks per call: 16 KiB. More gains nothing on software tokens, and some HSMs limit a buffer to this.
pub(super) const CHUNK: usize = 1_024;

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
    let (outputs, report) = Work::prepare(radix, batch, Direction::Encrypt)?.run(cipher)?;
    outputs.write(batch);
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
    let (outputs, report) = Work::prepare(radix, batch, Direction::Decrypt)?.run(cipher)?;
    outputs.write(batch);
    Ok(report)
}

/// A checked batch that nothing has been asked of the cipher for.
pub(super) struct Work<'a> {
    direction: Direction,
    radix: u32,
    numbers: Radix,
    lanes: Vec<Lane>,
    runs: Vec<Ff1Run>,
    /// Long values, each with the place of its prefix.
    walkers: Vec<(usize, Walker)>,
    prefixes: Vec<Prefix<'a>>,
    values: usize,
}

/// Neighbouring lanes of one length.
struct Ff1Run {
    words: Run,
    /// Where the round number stands in a block, in bits from the right.
    counter: u32,
    /// Bits of a block beyond the d bytes of S.
    excess: u32,
}

/// What neighbours of one length and one tweak share: the constant part of the CBC-MAC. Looking for equal ones further away
/// costs more than the block it saves.
struct Prefix<'a> {
    shape: Shape,
    tweak: &'a [u8],
    /// CBC-MAC state after the last whole block.
    state: [u8; 16],
    lanes: std::ops::Range<usize>,
}

impl<'a> Work<'a> {
    /// Checks the values and takes them apart. Values that may not be encrypted cost no call.
    pub(super) fn prepare(radix: u32, batch: &'a [Ff1Value], direction: Direction) -> Result<Self, HsmError> {
        check_radix(radix)?;
        let (minimum, word_length) = (minimum_length(radix), word_length(radix));
        let mut work = Self {
            direction,
            radix,
            numbers: Radix::new(radix),
            lanes: Vec::with_capacity(batch.len()),
            runs: Vec::new(),
            walkers: Vec::new(),
            prefixes: Vec::new(),
            values: batch.len(),
        };
        for (index, value) in batch.iter().enumerate() {
            check_value(radix, minimum, value, index)?;
            work.share_prefix(value);
            if value.numerals.len() <= word_length {
                work.push_lane(&value.numerals);
            } else if let Some(prefix) = work.prefixes.last() {
                let walker = Walker::new(&value.numerals, &value.tweak, prefix.shape);
                work.walkers.push((work.prefixes.len() - 1, walker));
            }
        }
        Ok(work)
    }

    /// Walks all values through the rounds. The batch itself is not touched.
    pub(super) fn run<E: EcbBlocks + ?Sized>(mut self, cipher: &E) -> Result<(Outputs, BatchReport), HsmError> {
        let mut calls = Calls::new(cipher, self.values);
        self.run_prefixes(&mut calls)?;
        // Step 6. For i from 0 to 9 (algorithm 8: from 9 to 0).
        for step in 0..10 {
            let round = if self.direction == Direction::Encrypt { step } else { 9 - step };
            self.run_round(round, &mut calls)?;
        }
        let report = BatchReport { hsm_calls: calls.count(), values: self.values, backend: Backend::HostFeistel };
        let long = self.walkers.into_iter().map(|(_, walker)| walker.finish()).collect::<Result<_, _>>()?;
        let (direction, radix, numbers) = (self.direction, self.radix, self.numbers);
        Ok((Outputs { direction, word_length: word_length(radix), numbers, lanes: self.lanes, long }, report))
    }

    /// Ends with the prefix that this value uses: its predecessor's where length and tweak are the same.
    fn share_prefix(&mut self, value: &'a Ff1Value) {
        let (length, tweak) = (value.numerals.len(), value.tweak.as_slice());
        let last = self.prefixes.last();
        if last.is_some_and(|last| last.shape.length == length && last.tweak == tweak) {
            return;
        }
        // A shape of a long value is slow to compute.
        let shape = match last {
            Some(last) if last.shape.length == length && last.shape.tweak == tweak.len() => last.shape,
            _ => Shape::new(self.radix, length, tweak.len()),
        };
        let end = self.lanes.len();
        self.prefixes.push(Prefix { shape, tweak, state: [0; 16], lanes: end..end });
    }

    fn push_lane(&mut self, numerals: &[u16]) {
        let Some(prefix) = self.prefixes.last_mut() else { return };
        let shape = prefix.shape;
        let end = self.lanes.len();
        // Step 2. Let A = X[1..u]; B = X[u+1..n].
        let (a, b) = numerals.split_at(shape.u);
        let (a, b) = (self.numbers.number(a.iter().copied()), self.numbers.number(b.iter().copied()));
        self.lanes.push(Lane::new(self.direction, a, b));
        prefix.lanes.end = end + 1;
        match self.runs.last_mut() {
            Some(run) if run.words.length == shape.length => {
                run.words.lanes.end = end + 1;
            }
            _ => {
                let moduli = [Modulus::power(self.radix, shape.u), Modulus::power(self.radix, shape.v)];
                let words = Run { lanes: end..end + 1, length: shape.length, moduli };
                // Step 6iii. S is the first d bytes of R; d is at most 16 for words.
                self.runs.push(Ff1Run {
                    words,
                    counter: shape.counter_bits(),
                    excess: 128u32.saturating_sub(8 * shape.d as u32),
                });
            }
        }
    }

    /// Step 5 and the constant part of step 6i: the CBC-MAC state after P || T || zeroes, once for all rounds.
    fn run_prefixes<E: EcbBlocks + ?Sized>(&mut self, calls: &mut Calls<'_, E>) -> Result<(), HsmError> {
        let count = self.prefixes.iter().map(|prefix| prefix.shape.prefix_blocks).max().unwrap_or_default();
        for index in 0..count {
            let radix = self.radix;
            let mut chosen =
                self.prefixes.iter_mut().filter(|prefix| prefix.shape.prefix_blocks > index).collect::<Vec<_>>();
            calls.begin();
            calls
                .extend(chosen.iter().map(|prefix| xor(prefix.state, prefix.shape.prefix(radix, prefix.tweak, index))));
            for (prefix, block) in chosen.iter_mut().zip(calls.encrypt()?) {
                prefix.state = *block;
            }
        }
        for prefix in &self.prefixes {
            // The rest of T || zeroes, left-aligned in the one block of a lane's round.
            let base = u128::from_be_bytes(xor(prefix.state, prefix.shape.tail(prefix.tweak)));
            for lane in &mut self.lanes[prefix.lanes.clone()] {
                lane.base = base;
            }
        }
        Ok(())
    }

    fn run_round<E: EcbBlocks + ?Sized>(&mut self, round: u8, calls: &mut Calls<'_, E>) -> Result<(), HsmError> {
        for (prefix, walker) in &mut self.walkers {
            walker.start_round(self.prefixes[*prefix].state, round, self.direction, self.radix);
        }
        // Step 6ii. Let R = PRF(P || Q). A lane has one block; walkers may have more.
        let blocks = self.walkers.iter().map(|(_, walker)| walker.shape.round_blocks).max().unwrap_or(1);
        for index in 0..blocks {
            calls.begin();
            let lanes = if index == 0 { self.lanes.len() } else { 0 };
            if index == 0 {
                for run in &self.runs {
                    let counter = u128::from(round) << run.counter;
                    let lanes = self.lanes[run.words.lanes.clone()].iter();
                    calls.extend(lanes.map(|lane| (lane.base ^ counter ^ lane.source).to_be_bytes()));
                }
            }
            let long = self.walkers.iter_mut().filter(|(_, walker)| walker.shape.round_blocks > index);
            let mut long = long.map(|(_, walker)| walker).collect::<Vec<_>>();
            calls.extend(long.iter().map(|walker| xor(walker.state, walker.block(index))));
            let (words, rest) = calls.encrypt()?.split_at(lanes);
            for (walker, block) in long.iter_mut().zip(rest) {
                walker.state = *block;
            }
            if index == 0 {
                for run in &self.runs {
                    let range = run.words.lanes.clone();
                    // Step 6iv. Let y = NUM(S).
                    let y = |block| u128::from_be_bytes(block) >> run.excess;
                    run.words.advance(self.direction, round, &mut self.lanes[range.clone()], &words[range], y);
                }
            }
        }
        self.finish_walkers(round, calls)
    }

    /// Step 6iii. S = the first d bytes of R || CIPH(R xor [1]) || CIPH(R xor [2]) ..., which do not depend on each other.
    fn finish_walkers<E: EcbBlocks + ?Sized>(&mut self, round: u8, calls: &mut Calls<'_, E>) -> Result<(), HsmError> {
        calls.begin();
        for (_, walker) in &self.walkers {
            let counters = 1..=walker.extra.len() as u128;
            calls.extend(counters.map(|counter| xor(walker.state, counter.to_be_bytes())));
        }
        let places = self.walkers.iter_mut().flat_map(|(_, walker)| &mut walker.extra);
        for (place, block) in places.zip(calls.encrypt()?) {
            *place = *block;
        }
        for (_, walker) in &mut self.walkers {
            walker.finish_round(round, self.direction, self.radix)?;
        }
        Ok(())
    }
}

/// What [`encrypt_batch`] checks before the first call.
pub(super) fn check_values(radix: u32, batch: &[Ff1Value]) -> Result<(), HsmError> {
    let minimum = minimum_length(radix);
    batch.iter().enumerate().try_for_each(|(index, value)| check_value(radix, minimum, value, index))
}

fn check_value(radix: u32, minimum: usize, value: &Ff1Value, index: usize) -> Result<(), HsmError> {
    let length = value.numerals.len();
    if length < minimum {
        return Err(HsmError::DomainTooSmall { length, minimum, radix });
    }
    if length > MAXIMUM_LENGTH || value.tweak.len() > MAXIMUM_LENGTH {
        return Err(HsmError::TooLong { maximum: MAXIMUM_LENGTH, value: index });
    }
    check_numerals(radix, &value.numerals, index)
}

pub(super) fn check_numerals(radix: u32, numerals: &[u16], index: usize) -> Result<(), HsmError> {
    let outside = |numeral: u16| u32::from(numeral) >= radix;
    if !outside(numerals.iter().copied().fold(0, u16::max)) {
        return Ok(());
    }
    let position = numerals.iter().position(|numeral| outside(*numeral)).unwrap_or_default();
    Err(HsmError::NumeralOutOfRange { position, radix, value: index })
}

/// The new numerals of every value of a batch.
pub(super) struct Outputs {
    direction: Direction,
    word_length: usize,
    numbers: Radix,
    lanes: Vec<Lane>,
    long: Vec<Vec<u16>>,
}

impl Outputs {
    /// Step 7. Return A || B: into the values they came from.
    pub(super) fn write(self, batch: &mut [Ff1Value]) {
        let (mut lanes, mut long) = (self.lanes.iter(), self.long.into_iter());
        for value in batch {
            if value.numerals.len() > self.word_length {
                if let Some(numerals) = long.next() {
                    value.numerals = numerals;
                }
            } else if let Some(lane) = lanes.next() {
                let (a, b) = lane.halves(self.direction);
                let u = value.numerals.len() / 2;
                let (left, right) = value.numerals.split_at_mut(u);
                self.numbers.write(a, left.iter_mut().rev());
                self.numbers.write(b, right.iter_mut().rev());
            }
        }
    }
}

/// Gathers one block of each value and encrypts them together.
pub(super) struct Calls<'a, E: ?Sized> {
    cipher: &'a E,
    count: u32,
    blocks: Vec<[u8; 16]>,
}

impl<'a, E: EcbBlocks + ?Sized> Calls<'a, E> {
    pub(super) fn new(cipher: &'a E, capacity: usize) -> Self {
        Self { cipher, count: 0, blocks: Vec::with_capacity(capacity) }
    }

    pub(super) fn begin(&mut self) {
        self.blocks.clear();
    }

    pub(super) fn extend(&mut self, blocks: impl Iterator<Item = [u8; 16]>) {
        self.blocks.extend(blocks);
    }

    pub(super) fn encrypt(&mut self) -> Result<&[[u8; 16]], HsmError> {
        for chunk in self.blocks.chunks_mut(CHUNK) {
            self.count += 1;
            self.cipher.encrypt_blocks(chunk)?;
        }
        Ok(&self.blocks)
    }

    /// Calls made so far.
    pub(super) fn count(&self) -> u32 {
        self.count
    }
}

fn xor(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

#[cfg(test)]
mod tests;
