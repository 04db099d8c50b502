use std::fmt;
use std::sync::Arc;

use casemate_types::Digest;
use rayon::prelude::*;

use crate::fft::{self, Fft, Lane};
use crate::kernel::GROUPS_PER_QUAD;
use crate::stream::{self, Domain, SEED_BYTES};
use crate::wire::{self, HEADER, Kind, Reader};
use crate::{DIGIT_BITS, FheError, Params, RING_DEGREE};

/// Groups that are prepared together at most.
pub const GROUPS_PER_TILE: usize = 8;

/// P documents at rest: the seed of the shared mask, and one body per block with its top 24 or 32 bits.
///
/// `body_j = a s_j + Delta D_j + e_j`, where coefficient `p b + i` of `D_j` is component `j b + i` of document `p`.
/// At 384 dimensions, block 8 and 24 bits: 294,996 bytes for 256 documents, 1,152 per document.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptedGroup {
    params: Params,
    seed: [u8; SEED_BYTES],
    bodies: Vec<u32>,
}

impl EncryptedGroup {
    /// A group from its parts: `bodies` holds the top 32 bits of m * N values, block after block; with 24-bit bodies the low 8
    /// of them are zero.
    ///
    /// # Errors
    /// [`FheError::Length`] when the number of values is another, [`FheError::Range`] when a dropped bit is set.
    pub fn from_parts(params: Params, seed: [u8; SEED_BYTES], bodies: Vec<u32>) -> Result<Self, FheError> {
        let expected = params.blocks() * RING_DEGREE;
        if bodies.len() != expected {
            return Err(FheError::Length {
                what: Kind::Group.name(),
                expected: expected * 4,
                actual: bodies.len().saturating_mul(4),
            });
        }
        let dropped = (1_u64 << (32 - params.body_bits())) - 1;
        if bodies.iter().any(|body| u64::from(*body) & dropped != 0) {
            return Err(FheError::Range { what: Kind::Group.name() });
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
        let bodies = reader.last(Self::bytes_for(&params) - HEADER - SEED_BYTES)?;
        let bodies = if params.body_bits() == 24 {
            bodies.as_chunks::<3>().0.iter().map(|[a, b, c]| u32::from_le_bytes([0, *a, *b, *c])).collect()
        } else {
            bodies.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
        };
        Self::from_parts(params, seed, bodies)
    }

    /// The byte form: header, seed, bodies of 3 or 4 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = wire::header(Kind::Group, &self.params, Self::bytes_for(&self.params) - HEADER);
        out.extend_from_slice(&self.seed);
        let dropped = 4 - self.params.body_bits() as usize / 8;
        out.extend(self.bodies.iter().flat_map(|body| body.to_le_bytes().into_iter().skip(dropped)));
        out
    }

    /// Bytes of a group of these parameters.
    pub fn bytes_for(params: &Params) -> usize {
        HEADER + SEED_BYTES + params.blocks() * RING_DEGREE * params.body_bits() as usize / 8
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

/// Up to 8 groups ready for scoring: digits in the Fourier domain, in the order the kernel reads them, so that a scan is one
/// sequential stream from memory.
///
/// Layout `[lane][quad][row][group of the quad]`, one [`Lane`] (a cache line) each; a quad is up to four groups. Takes
/// 8 (1 + 2/m) bytes per coefficient: 3,200 bytes per document at 384 dimensions and block 8.
pub struct PreparedTile {
    params: Params,
    groups: usize,
    lanes: Vec<Lane>,
}

impl PreparedTile {
    /// Splits bodies and masks of 1 to [`GROUPS_PER_TILE`] groups into signed digits and transforms them. Needs no key and no
    /// query.
    ///
    /// # Errors
    /// [`FheError::Tile`] for another number of groups, [`FheError::ParamsMismatch`], [`FheError::Cipher`].
    pub fn new(groups: &[EncryptedGroup]) -> Result<Self, FheError> {
        let (Some(first), 1..=GROUPS_PER_TILE) = (groups.first(), groups.len()) else {
            return Err(FheError::Tile { groups: groups.len() });
        };
        let mut fft = Fft::new();
        let params = first.params;
        let (count, rows) = (groups.len(), params.rows());
        let mut lanes = fft::lanes(rows * count);
        for (number, group) in groups.iter().enumerate() {
            if group.params != params {
                return Err(FheError::ParamsMismatch { expected: params, actual: group.params });
            }
            let (quad, place) = (number / GROUPS_PER_QUAD, number % GROUPS_PER_QUAD);
            let width = (count - quad * GROUPS_PER_QUAD).min(GROUPS_PER_QUAD);
            let start = |row: usize| quad * GROUPS_PER_QUAD * rows + row * width + place;
            let stride = rows * count;
            for (row, body) in group.bodies().enumerate() {
                fft.forward(body, |body| f64::from(body_digit(body)), &mut lanes[start(row)..], stride);
            }
            let mask = group.mask()?;
            fft.forward(&mask, |mask| f64::from(mask_digits(mask).0), &mut lanes[start(rows - 2)..], stride);
            fft.forward(&mask, |mask| f64::from(mask_digits(mask).1), &mut lanes[start(rows - 1)..], stride);
        }
        Ok(Self { params, groups: count, lanes })
    }

    /// One group whose digits were put in place by the caller: `[lane][row]`.
    pub(crate) fn from_lanes(params: Params, lanes: Vec<Lane>) -> Self {
        Self { params, groups: 1, lanes }
    }

    /// Prepares any number of groups, all cores of the current rayon pool.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn prepare(groups: &[EncryptedGroup]) -> Result<Vec<Arc<Self>>, FheError> {
        groups.par_chunks(GROUPS_PER_TILE).map(|groups| Self::new(groups).map(Arc::new)).collect()
    }

    /// The parameters of the groups.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        Self::bytes_for(&self.params) * self.groups
    }

    /// Bytes of memory a group of these parameters takes.
    pub fn bytes_for(params: &Params) -> usize {
        params.rows() * fft::LANES * size_of::<Lane>()
    }

    pub(crate) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }
}

impl fmt::Debug for PreparedTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedTile({}, {} groups)", self.params, self.groups)
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
    fn wrong_bodies_are_refused() {
        let params = Params::new(16, 8).unwrap();
        assert!(EncryptedGroup::from_parts(params, [0; 32], vec![0x100; 2 * RING_DEGREE]).is_ok());
        assert!(matches!(
            EncryptedGroup::from_parts(params, [0; 32], vec![0; 2 * RING_DEGREE - 1]),
            Err(FheError::Length { .. })
        ));
        // 24-bit bodies have no low byte.
        let body = vec![0x101; 2 * RING_DEGREE];
        assert!(matches!(EncryptedGroup::from_parts(params, [0; 32], body.clone()), Err(FheError::Range { .. })));
        assert!(EncryptedGroup::from_parts(params.with_body_bits(32).unwrap(), [0; 32], body).is_ok());
    }

    #[test]
    fn both_forms_at_rest_come_back() {
        for bits in [24, 32] {
            let params = Params::new(16, 8).unwrap().with_body_bits(bits).unwrap();
            let bodies = (0..2 * RING_DEGREE as u32).map(|n| n.wrapping_mul(0x9e37_79b9) << (32 - bits)).collect();
            let group = EncryptedGroup::from_parts(params, [4; 32], bodies).unwrap();
            let bytes = group.to_bytes();
            assert_eq!(bytes.len(), params.group_bytes());
            assert_eq!(EncryptedGroup::from_bytes(&bytes).unwrap(), group);
        }
    }

    #[test]
    fn tiles_hold_one_to_eight_groups_of_one_kind() {
        let params = Params::new(8, 8).unwrap();
        let group = |params| EncryptedGroup::from_parts(params, [0; 32], vec![0; RING_DEGREE]).unwrap();
        assert!(matches!(PreparedTile::new(&[]), Err(FheError::Tile { groups: 0 })));
        assert!(matches!(PreparedTile::new(&vec![group(params); 9]), Err(FheError::Tile { groups: 9 })));
        let other = params.with_reply_bits(16).unwrap();
        assert!(matches!(PreparedTile::new(&[group(params), group(other)]), Err(FheError::ParamsMismatch { .. })));
    }
}
