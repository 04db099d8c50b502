//! Numbers of machine words: halves of a value, their reduction, and their numerals.
//!
//! Every step has a divisor that is the same for thousands of values, so it is turned into a multiplication once. Wrapping
//! operations stand where the algorithm is defined modulo 2^64.

/// `radix^m`, prepared for reducing a round's output by it.
#[derive(Clone, Copy)]
pub(super) enum Modulus {
    /// Above 64 bits: the compiler's division.
    Double(u128),
    /// Up to 64 bits.
    Word(Reciprocal),
}

impl Modulus {
    /// `radix^exponent`, which has to fit: at most 96 bits for every caller.
    pub(super) fn power(radix: u32, exponent: usize) -> Self {
        let value = u128::from(radix).pow(exponent as u32);
        u64::try_from(value).map_or(Self::Double(value), |value| Self::Word(Reciprocal::new(value)))
    }
}

/// Addition and subtraction modulo one number.
pub(super) trait Reduce: Copy {
    fn value(self) -> u128;
    fn remainder(self, number: u128) -> u128;

    /// `(half + y) mod m` for a half below m.
    #[inline(always)]
    fn add(self, half: u128, y: u128) -> u128 {
        let sum = half.wrapping_add(self.remainder(y));
        sum.min(sum.wrapping_sub(self.value()))
    }

    /// `(half - y) mod m` for a half below m.
    #[inline(always)]
    fn subtract(self, half: u128, y: u128) -> u128 {
        let difference = half.wrapping_sub(self.remainder(y));
        difference.min(difference.wrapping_add(self.value()))
    }
}

impl Reduce for u128 {
    fn value(self) -> u128 {
        self
    }

    fn remainder(self, number: u128) -> u128 {
        number % self
    }
}

/// A divisor of one word with its reciprocal (Moeller and Granlund, "Improved division by invariant integers", 2011).
#[derive(Clone, Copy)]
pub(super) struct Reciprocal {
    /// The divisor, shifted so that its top bit is set.
    divisor: u64,
    inverse: u64,
    shift: u32,
}

impl Reciprocal {
    /// `divisor` is not zero.
    fn new(divisor: u64) -> Self {
        let shift = divisor.leading_zeros();
        let divisor = divisor << shift;
        // Section 3: v = floor((2^128 - 1) / d) - 2^64. The quotient is in 2^64..2^65, so the cast subtracts.
        let inverse = (u128::MAX / u128::from(divisor)) as u64;
        Self { divisor, inverse, shift }
    }

    /// Algorithm 4 without the quotient: `(high 2^64 + low) mod d` for high < d.
    #[inline(always)]
    fn step(self, high: u64, low: u64) -> u64 {
        let estimate = u128::from(self.inverse)
            .wrapping_mul(u128::from(high))
            .wrapping_add((u128::from(high) << 64) | u128::from(low));
        let quotient = ((estimate >> 64) as u64).wrapping_add(1);
        let mut rest = low.wrapping_sub(quotient.wrapping_mul(self.divisor));
        if rest > estimate as u64 {
            rest = rest.wrapping_add(self.divisor);
        }
        if rest >= self.divisor {
            rest = rest.wrapping_sub(self.divisor);
        }
        rest
    }
}

impl Reduce for Reciprocal {
    #[inline(always)]
    fn value(self) -> u128 {
        u128::from(self.divisor >> self.shift)
    }

    #[inline(always)]
    fn remainder(self, number: u128) -> u128 {
        let (high, low) = ((number >> 64) as u64, number as u64);
        // The number shifted like the divisor, in three words; `>> 1 >> (63 - shift)` also holds for a shift of zero.
        let carry = |word: u64| (word >> 1) >> (63 - self.shift);
        let middle = (high << self.shift) | carry(low);
        // One word of output, the common case: the middle word is below the divisor already.
        let middle = if high == 0 { middle } else { self.step(carry(high), middle) };
        u128::from(self.step(middle, low << self.shift) >> self.shift)
    }
}

/// Numbers to numerals and back in one radix.
#[derive(Clone, Copy)]
pub(super) struct Radix {
    radix: u64,
    /// `floor(2^64 / radix) + 1`: the high word of its product with a number below 2^48 is the exact quotient.
    inverse: u64,
    /// Numerals of a chunk: as many as fit below 2^48.
    chunk: usize,
    /// `radix^chunk`.
    power: u64,
}

impl Radix {
    /// `radix` is in 2..=65,536.
    pub(super) fn new(radix: u32) -> Self {
        let radix = u64::from(radix);
        let (mut chunk, mut power) = (0, 1);
        while power <= (1 << 48) / radix {
            power *= radix;
            chunk += 1;
        }
        Self { radix, inverse: (u64::MAX / radix).wrapping_add(1), chunk, power }
    }

    /// The number of numerals, most significant first. The result fits: at most 96 bits for every caller.
    #[inline(always)]
    pub(super) fn number(&self, numerals: impl ExactSizeIterator<Item = u16>) -> u128 {
        if numerals.len() <= self.chunk {
            return u128::from(
                numerals.fold(0u64, |number, numeral| number.wrapping_mul(self.radix).wrapping_add(u64::from(numeral))),
            );
        }
        let radix = u128::from(self.radix);
        numerals.fold(0, |number: u128, numeral| number.wrapping_mul(radix).wrapping_add(u128::from(numeral)))
    }

    /// Writes a number into numerals, the least significant first, with leading zeroes.
    #[inline(always)]
    pub(super) fn write<'a>(&self, mut number: u128, mut places: impl ExactSizeIterator<Item = &'a mut u16>) {
        while places.len() > self.chunk {
            let part = match u64::try_from(number) {
                Ok(word) => {
                    number = u128::from(word / self.power);
                    word % self.power
                }
                Err(_) => {
                    let part = number % u128::from(self.power);
                    number /= u128::from(self.power);
                    part as u64
                }
            };
            self.write_chunk(part, places.by_ref().take(self.chunk));
        }
        self.write_chunk(number as u64, places);
    }

    #[inline(always)]
    fn write_chunk<'a>(&self, mut number: u64, places: impl Iterator<Item = &'a mut u16>) {
        for place in places {
            let quotient = ((u128::from(number) * u128::from(self.inverse)) >> 64) as u64;
            *place = number.wrapping_sub(quotient.wrapping_mul(self.radix)) as u16;
            number = quotient;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_reciprocal_divides_like_division(bits in 1u32..=64, noise in any::<u64>(), number in any::<u128>(), cut in 0u32..128) {
            let divisor = ((1u64 << (bits - 1)) | (noise >> (64 - bits))).max(1);
            for divisor in [divisor, 1 << (bits - 1), u64::MAX >> (64 - bits)] {
                let reciprocal = Reciprocal::new(divisor);
                prop_assert_eq!(reciprocal.value(), u128::from(divisor));
                for number in [number, number >> cut, u128::MAX >> cut, u128::from(divisor), u128::from(divisor) - 1] {
                    prop_assert_eq!(reciprocal.remainder(number), number % u128::from(divisor), "{} mod {}", number, divisor);
                }
            }
        }

        #[test]
        fn sums_and_differences_stay_below_the_modulus(modulus in 2u128..1 << 96, half in any::<u128>(), y in any::<u128>()) {
            let half = half % modulus;
            prop_assert_eq!(modulus.add(half, y), (half + y % modulus) % modulus);
            prop_assert_eq!(modulus.subtract(half, y), (half + modulus - y % modulus) % modulus);
        }

        #[test]
        fn numerals_survive(radix in prop_oneof![Just(2u32), Just(10), Just(65_535), Just(65_536), 2u32..=65_536], seed in any::<u128>()) {
            let table = Radix::new(radix);
            let length = (96.0 / f64::from(radix).log2()) as usize;
            for length in 1..=length {
                for number in [seed % u128::from(radix).pow(length as u32), u128::from(radix).pow(length as u32) - 1] {
                    let mut numerals = vec![0; length];
                    table.write(number, numerals.iter_mut().rev());
                    prop_assert!(numerals.iter().all(|numeral| u32::from(*numeral) < radix));
                    prop_assert_eq!(table.number(numerals.iter().copied()), number);
                }
            }
        }
    }
}
