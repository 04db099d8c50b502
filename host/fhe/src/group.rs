use std::fmt;

use casemate_types::Digest;

use crate::fft::{self, Fft, Lane};
use crate::stream::{self, Domain, SEED_BYTES};
use crate::wire::{self, Kind, Reader};
use crate::{DIGIT_BITS, FheError, Params, RING_DEGREE};

/// P documents at rest: the seed of the shared mask, and one body per block with its top 32 bits.
///
/// `body_j = a s_j + Delta D_j + e_j`, where coefficient `p b + i` of `D_j` is component `j b + i` of document `p`.
/// At 384 dimensions and block 8: 393,292 bytes for 256 documents, 1,536 per document.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptedGroup {
    params: Params,
    seed: [u8; SEED_BYTES],
    bodies: Vec<u32>,
}

impl EncryptedGroup {
    /// A group from its parts: `bodies` holds m * N values, block after block.
    ///
    /// # Errors
    /// [`FheError::Length`] when the number of values is another.
    pub fn from_parts(params: Params, seed: [u8; SEED_BYTES], bodies: Vec<u32>) -> Result<Self, FheError> {
        let expected = params.blocks() * RING_DEGREE;
        if bodies.len() != expected {
            return Err(FheError::Length {
                what: Kind::Group.name(),
                expected: expected * 4,
                actual: bodies.len().saturating_mul(4),
            });
        }
        Ok(Self { params, seed, bodies })
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// Foreign, damaged, truncated or extended bytes, each by name.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FheError> {
        let (params, mut reader) = Reader::open(Kind::Group, bytes)?;
        let seed = reader.array()?;
        let bodies = reader.last(params.blocks() * RING_DEGREE * 4)?;
        Self::from_parts(params, seed, bodies.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }

    /// The byte form: header, seed, bodies.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = wire::header(Kind::Group, &self.params, SEED_BYTES + self.bodies.len() * 4);
        out.extend_from_slice(&self.seed);
        out.extend(self.bodies.iter().flat_map(|body| body.to_le_bytes()));
        out
    }

    /// The parameters it was encrypted under.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The shared mask `a`: N coefficients.
    ///
    /// # Errors
    /// [`FheError::Cipher`].
    pub fn mask(&self) -> Result<Vec<u64>, FheError> {
        stream::mask(&self.seed, Domain::GroupMask, 0)
    }

    /// The top 32 bits of each body, one slice of N per block.
    pub fn bodies(&self) -> impl Iterator<Item = &[u32]> {
        self.bodies.chunks_exact(RING_DEGREE)
    }
}

impl fmt::Debug for EncryptedGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptedGroup({}, {})", self.params, Digest::of(&self.seed))
    }
}

/// A group ready for scoring: digits in the Fourier domain, `[lane][row]`, m + 2 rows of one [`Lane`] each.
///
/// 8 (1 + 2/m) bytes per coefficient: 3,200 bytes per document at 384 dimensions and block 8.
pub struct PreparedGroup {
    params: Params,
    lanes: Vec<Lane>,
}

impl PreparedGroup {
    /// Splits bodies and mask into signed digits and transforms them. Needs no key and no query.
    ///
    /// # Errors
    /// [`FheError::Cipher`].
    pub fn new(group: &EncryptedGroup) -> Result<Self, FheError> {
        let mut fft = Fft::new();
        let params = group.params;
        let rows = params.rows();
        let mut lanes = fft::lanes(rows);
        for (row, body) in group.bodies().enumerate() {
            fft.forward(body, |body| f64::from(body_digit(body)), &mut lanes[row..], rows);
        }
        let mask = group.mask()?;
        fft.forward(&mask, |mask| f64::from(mask_digits(mask).0), &mut lanes[rows - 2..], rows);
        fft.forward(&mask, |mask| f64::from(mask_digits(mask).1), &mut lanes[rows - 1..], rows);
        Ok(Self { params, lanes })
    }

    /// The parameters of the group.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        Self::bytes_for(&self.params)
    }

    /// Bytes of memory a group of these parameters takes.
    pub fn bytes_for(params: &Params) -> usize {
        params.rows() * fft::LANES * size_of::<Lane>()
    }

    pub(crate) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }
}

impl fmt::Debug for PreparedGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedGroup({})", self.params)
    }
}

/// The signed digit d with `body 2^32 = d 2^(64 - B)` up to rounding.
#[inline(always)]
fn body_digit(body: u32) -> i32 {
    const DROPPED: u32 = 32 - DIGIT_BITS;
    (body.wrapping_add(1 << (DROPPED - 1)) as i32) >> DROPPED
}

/// Signed digits with `mask = d1 2^(64 - B) + d2 2^(64 - 2B)` modulo 2^64 up to rounding.
#[inline(always)]
fn mask_digits(mask: u64) -> (i32, i32) {
    const DROPPED: u32 = 64 - 2 * DIGIT_BITS;
    const SPARE: u32 = 32 - DIGIT_BITS;
    let rounded = mask.wrapping_add(1 << (DROPPED - 1)) >> DROPPED;
    let second = ((rounded as u32) << SPARE) as i32 >> SPARE;
    let carried = rounded.wrapping_sub(second as i64 as u64) >> DIGIT_BITS;
    let first = ((carried as u32) << SPARE) as i32 >> SPARE;
    (first, second)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn digits_recompose() {
        for mask in stream::mask(&[1; 32], Domain::GroupMask, 0).unwrap().into_iter().chain([0, u64::MAX, 1 << 63]) {
            let (first, second) = mask_digits(mask);
            assert!(first.abs() <= 1 << 24 && second.abs() <= 1 << 24);
            let back = ((first as i64 as u64) << 39).wrapping_add((second as i64 as u64) << 14);
            assert!((back.wrapping_sub(mask) as i64).unsigned_abs() <= 1 << 13, "{mask:x}");
            let body = (mask >> 32) as u32;
            let error = ((body_digit(body) << 7) as u32).wrapping_sub(body) as i32;
            assert!(error.abs() <= 64, "{body:x}");
        }
    }

    #[test]
    fn wrong_number_of_bodies_is_refused() {
        let params = Params::new(16, 8).unwrap();
        assert!(EncryptedGroup::from_parts(params, [0; 32], vec![0; 2 * RING_DEGREE]).is_ok());
        assert!(matches!(
            EncryptedGroup::from_parts(params, [0; 32], vec![0; 2 * RING_DEGREE - 1]),
            Err(FheError::Length { .. })
        ));
    }
}
