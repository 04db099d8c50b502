//! FF3-1 over a batch in lock step: SP 800-38G r1 (draft of 2019), FF3-1.Encrypt and FF3-1.Decrypt. Pure: the cipher is a
//! parameter, and it runs under the byte-reversed key, REVB(K).
//!
//! The r1 draft of 2025 dropped FF3-1. It is here for data that exists.

use super::arithmetic::{Modulus, Radix};
use super::lockstep::{Calls, check_numerals};
use super::shape::{check_radix, minimum_length, word_length};
use super::words::{Direction, Lane, Run};
use super::{Backend, BatchReport, EcbBlocks, Ff1Value};
use crate::HsmError;

/// Bytes of an FF3-1 tweak.
pub const FF3_TWEAK: usize = 7;

/// A checked batch that nothing has been asked of the cipher for.
pub(super) struct Ff3Work {
    direction: Direction,
    numbers: Radix,
    lanes: Vec<Lane>,
    /// T_L and T_R of each lane, where the block has them.
    tweaks: Vec<[u128; 2]>,
    runs: Vec<Run>,
}

impl Ff3Work {
    /// Checks the values and takes them apart. Values that may not be encrypted cost no call.
    pub(super) fn prepare(radix: u32, batch: &[Ff1Value], direction: Direction) -> Result<Self, HsmError> {
        check_radix(radix)?;
        // Section 5.2: radix^minlen >= 1,000,000 and maxlen = 2 * floor(log_radix(2^96)).
        let (minimum, maximum) = (minimum_length(radix), word_length(radix));
        let mut work = Self {
            direction,
            numbers: Radix::new(radix),
            lanes: Vec::with_capacity(batch.len()),
            tweaks: Vec::with_capacity(batch.len()),
            runs: Vec::new(),
        };
        for (index, value) in batch.iter().enumerate() {
            let length = value.numerals.len();
            if length < minimum {
                return Err(HsmError::DomainTooSmall { length, minimum, radix });
            }
            if length > maximum {
                return Err(HsmError::TooLong { maximum, value: index });
            }
            check_numerals(radix, &value.numerals, index)?;
            let tweak = <[u8; FF3_TWEAK]>::try_from(value.tweak.as_slice());
            let tweak = tweak.map_err(|_| HsmError::Ff3Tweak { length: value.tweak.len(), value: index })?;
            work.push(radix, &value.numerals, tweak);
        }
        Ok(work)
    }

    fn push(&mut self, radix: u32, numerals: &[u16], tweak: [u8; FF3_TWEAK]) {
        // Steps 1 and 2. Let u = ceil(n / 2); v = n - u; A = X[1..u]; B = X[u+1..n]. Halves are read reversed, NUM(REV(X)).
        let (u, length, end) = (numerals.len().div_ceil(2), numerals.len(), self.lanes.len());
        let (a, b) = numerals.split_at(u);
        let (a, b) = (self.numbers.number(a.iter().rev().copied()), self.numbers.number(b.iter().rev().copied()));
        self.lanes.push(Lane::new(self.direction, a, b));
        // Step 3. Let T_L = T[0..27] || [0]^4 and T_R = T[32..55] || T[28..31] || [0]^4.
        let [t0, t1, t2, t3, t4, t5, t6] = tweak;
        let left = u32::from_be_bytes([t0, t1, t2, t3 & 0xf0]);
        let right = u32::from_be_bytes([t4, t5, t6, t3 << 4]);
        self.tweaks.push([left, right].map(|half| u128::from(half) << 96));
        match self.runs.last_mut() {
            Some(run) if run.length == length => run.lanes.end = end + 1,
            _ => {
                let moduli = [Modulus::power(radix, u), Modulus::power(radix, length - u)];
                self.runs.push(Run { lanes: end..end + 1, length, moduli });
            }
        }
    }

    /// Walks all values through the rounds: 8 calls for up to 1,024 of them. The batch itself is not touched.
    pub(super) fn run<E: EcbBlocks + ?Sized>(mut self, cipher: &E) -> Result<(Ff3Outputs, BatchReport), HsmError> {
        let mut calls = Calls::new(cipher, self.lanes.len());
        // Step 4. For i from 0 to 7 (decryption: from 7 to 0).
        for step in 0..8 {
            let round = if self.direction == Direction::Encrypt { step } else { 7 - step };
            // Step 4i. If i is even, let W = T_R; else, let W = T_L.
            let side = usize::from(round % 2 == 0);
            calls.begin();
            calls.extend(self.lanes.iter().zip(&self.tweaks).map(|(lane, tweak)| {
                // Step 4ii. Let P = W xor [i]^4 || [NUM(REV(B))]^12. The little-endian bytes are REVB(P).
                (tweak[side] ^ (u128::from(round) << 96) ^ lane.source).to_le_bytes()
            }));
            // Step 4iii. Let S = REVB(CIPH(REVB(P))).
            let blocks = calls.encrypt()?;
            for run in &self.runs {
                let range = run.lanes.clone();
                // Step 4iv. Let y = NUM(S).
                let y = u128::from_le_bytes;
                run.advance(self.direction, round, &mut self.lanes[range.clone()], &blocks[range], y);
            }
        }
        let report = BatchReport { hsm_calls: calls.count(), values: self.lanes.len(), backend: Backend::HostFeistel };
        Ok((Ff3Outputs { direction: self.direction, numbers: self.numbers, lanes: self.lanes }, report))
    }
}

/// The new numerals of every value of a batch.
pub(super) struct Ff3Outputs {
    direction: Direction,
    numbers: Radix,
    lanes: Vec<Lane>,
}

impl Ff3Outputs {
    /// Step 5. Return A || B: into the values they came from.
    pub(super) fn write(self, batch: &mut [Ff1Value]) {
        for (value, lane) in batch.iter_mut().zip(&self.lanes) {
            let (a, b) = lane.halves(self.direction);
            let u = value.numerals.len().div_ceil(2);
            let (left, right) = value.numerals.split_at_mut(u);
            self.numbers.write(a, left.iter_mut());
            self.numbers.write(b, right.iter_mut());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use aes::Aes128;
    use aes::cipher::{Block, BlockCipherEncrypt, KeyInit};

    use super::*;

    struct Software(Aes128);

    impl EcbBlocks for Software {
        fn encrypt_blocks(&self, blocks: &mut [[u8; 16]]) -> Result<(), HsmError> {
            for block in blocks {
                let mut cell = Block::<Aes128>::from(*block);
                self.0.encrypt_block(&mut cell);
                block.copy_from_slice(&cell);
            }
            Ok(())
        }
    }

    fn digits(text: &str) -> Vec<u16> {
        text.chars().filter_map(|digit| digit.to_digit(10)).map(|digit| digit as u16).collect()
    }

    fn run(direction: Direction, batch: &mut [Ff1Value], key: &str) -> BatchReport {
        let mut key = hex::decode(key).unwrap();
        key.reverse();
        let cipher = Software(Aes128::new_from_slice(&key).unwrap());
        let (outputs, report) = Ff3Work::prepare(10, batch, direction).unwrap().run(&cipher).unwrap();
        outputs.write(batch);
        report
    }

    /// usnistgov/ACVP-Server, gen-val/json-files/ACVP-AES-FF3-1-1.0, test cases 1, 2 and 6: even, longest and odd.
    #[test]
    fn nist_acvp_samples() {
        for (key, tweak, plain, cipher) in [
            ("AD41EC5D2356DEAE53AE76F50B4BA6D2", "CF29DA1E18D970", "6520935496", "4716569208"),
            (
                "3C0ABB8C4D50528320ED6EF4F536371C",
                "2E0B7EE01C1370",
                "37411281822299620587806308530316674537844784195073078382",
                "45217408528208365340847148215470453887037524494034613315",
            ),
            ("DA0C3307FD184C1E47FF9B8ACFD75305", "D9F1ABD9C7CE64", "16554083965640402", "92429329291203011"),
        ] {
            let value = Ff1Value { numerals: digits(plain), tweak: hex::decode(tweak).unwrap() };
            let mut batch = [value.clone(), value];
            assert_eq!(
                run(Direction::Encrypt, &mut batch, key),
                BatchReport { hsm_calls: 8, values: 2, backend: Backend::HostFeistel }
            );
            assert!(batch.iter().all(|value| value.numerals == digits(cipher)), "{plain}");
            run(Direction::Decrypt, &mut batch, key);
            assert!(batch.iter().all(|value| value.numerals == digits(plain)), "{plain}");
        }
    }

    #[test]
    fn hostile_values_are_refused() {
        let refuse = |numerals: usize, tweak: usize| {
            let batch = [Ff1Value { numerals: vec![0; numerals], tweak: vec![0; tweak] }];
            Ff3Work::prepare(10, &batch, Direction::Encrypt).map(drop).unwrap_err()
        };
        assert!(matches!(refuse(5, 7), HsmError::DomainTooSmall { minimum: 6, .. }));
        assert!(matches!(refuse(57, 7), HsmError::TooLong { maximum: 56, .. }));
        for length in [0, 6, 8, 16] {
            assert!(matches!(refuse(10, length), HsmError::Ff3Tweak { value: 0, .. }), "{length}");
        }
    }
}
