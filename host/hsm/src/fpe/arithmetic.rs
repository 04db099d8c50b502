//! The two halves of a value as numbers: in a machine word where they fit, otherwise through the `fpe` crate.

use fpe::ff1::{FlexibleNumeralString, NumeralString, Operations};

use super::shape::Shape;

/// A half of at most this many bytes leaves room for its pseudo-random number (d <= 16) in a `u128`.
const SMALL: usize = 12;

/// Which way the rounds run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Decrypt,
    Encrypt,
}

/// The halves A and B.
pub(super) enum Halves {
    Large { a: FlexibleNumeralString, b: FlexibleNumeralString },
    Small { a: u128, b: u128, modulus_u: u128, modulus_v: u128 },
}

impl Halves {
    /// Step 2. Let A = X[1..u]; B = X[u+1..n].
    pub(super) fn split(numerals: &[u16], shape: &Shape, radix: u32) -> Self {
        if shape.b <= SMALL {
            let (a, b) = numerals.split_at(shape.u);
            let number = |half: &[u16]| {
                half.iter().fold(0, |number: u128, numeral| number * u128::from(radix) + u128::from(*numeral))
            };
            let power = |exponent: usize| u128::from(radix).pow(exponent as u32);
            Self::Small { a: number(a), b: number(b), modulus_u: power(shape.u), modulus_v: power(shape.v) }
        } else {
            let (a, b) = FlexibleNumeralString::from(numerals.to_vec()).split();
            Self::Large { a, b }
        }
    }

    /// Writes the half that feeds the round function as `message.len()` big-endian bytes (step 6i).
    pub(super) fn write_source(&self, direction: Direction, radix: u32, message: &mut [u8]) {
        match self {
            Self::Large { a, b } => {
                let half = if direction == Direction::Encrypt { b } else { a };
                message.copy_from_slice(&half.to_be_bytes(radix, message.len()));
            }
            Self::Small { a, b, .. } => {
                let half = if direction == Direction::Encrypt { b } else { a };
                let bytes = half.to_be_bytes();
                message.copy_from_slice(&bytes[bytes.len() - message.len()..]);
            }
        }
    }

    /// Steps 6iv to 6ix with S as y.
    pub(super) fn advance(self, direction: Direction, round: u8, s: &[u8], shape: &Shape, radix: u32) -> Self {
        // Step 6v. If i is even, let m = u; else, let m = v.
        let even = round.is_multiple_of(2);
        match self {
            Self::Large { a, b } => {
                let m = if even { shape.u } else { shape.v };
                match direction {
                    Direction::Encrypt => Self::Large { b: a.add_mod_exp(s.iter().copied(), radix, m), a: b },
                    Direction::Decrypt => Self::Large { a: b.sub_mod_exp(s.iter().copied(), radix, m), b: a },
                }
            }
            Self::Small { a, b, modulus_u, modulus_v } => {
                let modulus = if even { modulus_u } else { modulus_v };
                let y = s.iter().fold(0, |y: u128, byte| (y << 8) | u128::from(*byte));
                let y = remainder(y, modulus);
                let (half, y) = match direction {
                    Direction::Encrypt => (a, y),
                    // Adding the complement subtracts.
                    Direction::Decrypt => (b, modulus - y),
                };
                // Half and y are at most the modulus and not both equal to it: one subtraction reduces their sum.
                let sum = half + y;
                let c = if sum >= modulus { sum - modulus } else { sum };
                let (a, b) = match direction {
                    Direction::Encrypt => (b, c),
                    Direction::Decrypt => (c, a),
                };
                Self::Small { a, b, modulus_u, modulus_v }
            }
        }
    }

    /// Step 7. Return A || B.
    pub(super) fn join(self, shape: &Shape, radix: u32) -> Vec<u16> {
        match self {
            Self::Large { a, b } => FlexibleNumeralString::concat(a, b).into(),
            Self::Small { a, b, .. } => {
                let mut numerals = vec![0; shape.length];
                let (left, right) = numerals.split_at_mut(shape.u);
                write_numerals(a, left, radix);
                write_numerals(b, right, radix);
                numerals
            }
        }
    }
}

/// Division of machine words is several times faster than of double words, and most halves are words.
fn remainder(number: u128, modulus: u128) -> u128 {
    match (u64::try_from(number), u64::try_from(modulus)) {
        (Ok(number), Ok(modulus)) => u128::from(number % modulus),
        _ => number % modulus,
    }
}

/// The numerals of a number, most significant first.
fn write_numerals(number: u128, numerals: &mut [u16], radix: u32) {
    if let Ok(mut number) = u64::try_from(number) {
        for numeral in numerals.iter_mut().rev() {
            *numeral = (number % u64::from(radix)) as u16;
            number /= u64::from(radix);
        }
    } else {
        let mut number = number;
        for numeral in numerals.iter_mut().rev() {
            *numeral = (number % u128::from(radix)) as u16;
            number /= u128::from(radix);
        }
    }
}
