//! Sizes that follow from the length of a value and of its tweak (SP 800-38G algorithm 7, steps 1 to 6i).

use crate::HsmError;

/// The longest value and the longest tweak taken, in numerals and bytes. Beyond it big-number steps get slow.
pub const MAXIMUM_LENGTH: usize = 4_096;

/// SP 800-38G r1 draft, section 5.1: radix^minlen >= 1,000,000.
const MINIMUM_DOMAIN: u64 = 1_000_000;

/// The shortest value FF1 may encrypt in this radix: 6 for decimal digits, 4 for base 36 and 62, 20 for bits.
///
/// A radix below 2 has no such length; it gives `usize::MAX`.
pub fn minimum_length(radix: u32) -> usize {
    if radix < 2 {
        return usize::MAX;
    }
    let (mut length, mut domain) = (1, u64::from(radix));
    while domain < MINIMUM_DOMAIN {
        domain *= u64::from(radix);
        length += 1;
    }
    // Both halves need a numeral.
    length.max(2)
}

/// Calls a batch of values of this radix, length and tweak length takes, as long as it holds at most 1,024 values.
///
/// `p + 10 (r + [x > 0])`: blocks of the common prefix, blocks of each round, and one call for longer outputs.
pub fn calls_per_batch(radix: u32, length: usize, tweak_length: usize) -> u32 {
    let shape = Shape::new(radix, length, tweak_length);
    (shape.prefix_blocks + 10 * (shape.round_blocks + usize::from(shape.extra_blocks > 0))) as u32
}

/// The sizes, named as in the standard where it names them.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Numerals of the value, `n`.
    pub(super) length: usize,
    /// Bytes of the tweak, `t`.
    pub(super) tweak: usize,
    /// Numerals of the left half.
    pub(super) u: usize,
    /// Numerals of the right half.
    pub(super) v: usize,
    /// Bytes of a half as a number.
    pub(super) b: usize,
    /// Bytes of the pseudo-random number added to a half.
    pub(super) d: usize,
    /// Bytes of the tweak and the zeroes after it.
    pub(super) padded_tweak: usize,
    /// Whole blocks of P, tweak and zeroes, the same in every round.
    pub(super) prefix_blocks: usize,
    /// Blocks that follow in each round.
    pub(super) round_blocks: usize,
    /// Blocks of S beyond the first.
    pub(super) extra_blocks: usize,
}

impl Shape {
    pub(super) fn new(radix: u32, length: usize, tweak_length: usize) -> Self {
        // Step 1. Let u = floor(n / 2); v = n - u.
        let u = length / 2;
        let v = length - u;
        // Step 3. Let b = ceil(ceil(v * log2(radix)) / 8), in exact arithmetic.
        let b = bits_of_power(radix, v).div_ceil(8);
        // Step 4. Let d = 4 * ceil(b / 4) + 4.
        let d = 4 * b.div_ceil(4) + 4;
        // Step 6i. T || [0]^((-t-b-1) mod 16) || [i] || [NUM(B)] fills whole blocks.
        let padded_tweak = (tweak_length + b + 1).next_multiple_of(16) - b - 1;
        let prefix_blocks = (16 + padded_tweak) / 16;
        let round_blocks = (padded_tweak + 1 + b) / 16 - padded_tweak / 16;
        let extra_blocks = d.div_ceil(16) - 1;
        Self { length, tweak: tweak_length, u, v, b, d, padded_tweak, prefix_blocks, round_blocks, extra_blocks }
    }

    /// Block `index` of P || T || zeroes, short where the last one is completed by each round.
    pub(super) fn prefix(&self, radix: u32, tweak: &[u8], index: usize) -> [u8; 16] {
        if index == 0 {
            // Step 5. Let P = [1] || [2] || [1] || [radix]^3 || [10] || [u mod 256] || [n]^4 || [t]^4.
            let mut block = [1, 2, 1, 0, 0, 0, 10, (self.u % 256) as u8, 0, 0, 0, 0, 0, 0, 0, 0];
            block[3..6].copy_from_slice(&radix.to_be_bytes()[1..]);
            block[8..12].copy_from_slice(&(self.length as u32).to_be_bytes());
            block[12..16].copy_from_slice(&(tweak.len() as u32).to_be_bytes());
            return block;
        }
        let mut block = [0; 16];
        let rest = tweak.get((index - 1) * 16..).unwrap_or_default();
        for (place, byte) in block.iter_mut().zip(rest) {
            *place = *byte;
        }
        block
    }

    /// Bytes of the tweak's padding that each round's message starts with.
    pub(super) fn tail_length(&self) -> usize {
        self.padded_tweak % 16
    }

    /// The bytes of the tweak that did not fill a block of the prefix, then zeroes. Only for halves of at most 12 bytes, whose
    /// round is one block: tail || [i] || [NUM(half)].
    pub(super) fn tail(&self, tweak: &[u8]) -> [u8; 16] {
        let mut block = [0; 16];
        let rest = tweak.get(self.padded_tweak - self.tail_length()..).unwrap_or_default();
        for (place, byte) in block.iter_mut().zip(rest) {
            *place = *byte;
        }
        block
    }

    /// How far left of a block's last bit the round number stands, where a round is one block.
    pub(super) fn counter_bits(&self) -> u32 {
        8 * self.b as u32
    }
}

/// Checks that a radix is one FF1 takes.
pub(super) fn check_radix(radix: u32) -> Result<(), HsmError> {
    if (2..=65_536).contains(&radix) { Ok(()) } else { Err(HsmError::UnsupportedRadix { radix }) }
}

/// The longest value whose halves are at most 96 bits: 56 decimal digits. Also FF3-1's `maxlen`.
pub(super) fn word_length(radix: u32) -> usize {
    let (mut half, mut number) = (0, u128::from(radix));
    while number <= 1 << 96 {
        number *= u128::from(radix);
        half += 1;
    }
    2 * half
}

/// Bits of radix^v - 1, which is ceil(v * log2(radix)) without a rounding error.
fn bits_of_power(radix: u32, v: usize) -> usize {
    if radix.is_power_of_two() {
        return v * radix.trailing_zeros() as usize;
    }
    // Not a power of two, so subtracting one does not change the number of bits.
    let mut limbs = vec![1u32];
    for _ in 0..v {
        let mut carry = 0;
        for limb in &mut limbs {
            let product = u64::from(*limb) * u64::from(radix) + carry;
            *limb = product as u32;
            carry = product >> 32;
        }
        if carry > 0 {
            limbs.push(carry as u32);
        }
    }
    let top = limbs.last().copied().unwrap_or_default();
    limbs.len() * 32 - top.leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_floor() {
        for (radix, length) in [(2, 20), (10, 6), (26, 5), (36, 4), (62, 4), (1000, 2), (65_535, 2), (65_536, 2)] {
            assert_eq!(minimum_length(radix), length, "radix {radix}");
        }
        assert_eq!(minimum_length(1), usize::MAX);
    }

    #[test]
    fn calls_are_those_of_the_published_table() {
        for (radix, length, tweak, calls) in [
            (10, 6, 0, 11),
            (10, 16, 8, 11),
            (10, 16, 32, 13),
            (10, 19, 16, 12),
            (36, 24, 8, 12),
            (62, 20, 16, 12),
            (10, 57, 8, 22),
            (65_536, 16, 8, 31),
            (10, 80, 8, 31),
            (256, 64, 8, 41),
        ] {
            assert_eq!(calls_per_batch(radix, length, tweak), calls, "radix {radix}, length {length}, tweak {tweak}");
        }
    }

    #[test]
    fn words_end_where_a_half_has_twelve_bytes() {
        for (radix, length) in [(2, 192), (10, 56), (26, 40), (36, 36), (62, 32), (64, 32), (65_535, 12), (65_536, 12)]
        {
            assert_eq!(word_length(radix), length, "radix {radix}");
        }
        for radix in 2..=65_536 {
            let half = word_length(radix) / 2;
            assert!(bits_of_power(radix, half) <= 96 && bits_of_power(radix, half + 1) > 96, "radix {radix}");
            // One block a round, and S within it.
            let shape = Shape::new(radix, 2 * half, 5);
            assert!(shape.round_blocks == 1 && shape.extra_blocks == 0 && shape.tail_length() + 1 + shape.b == 16);
        }
    }

    /// Floating point has failed here: ln(256^29) / ln(2) rounds up.
    #[test]
    fn bits_are_exact() {
        assert_eq!(bits_of_power(256, 29), 232);
        assert_eq!(bits_of_power(10, 8), 27);
        assert_eq!(bits_of_power(10, 28), 94);
        assert_eq!(bits_of_power(65_535, 4), 64);
        assert_eq!(bits_of_power(3, 81), 129);
    }
}
