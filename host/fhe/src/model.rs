//! Linear models over encrypted vectors: the weights as the tier gets them, in clear or as a ciphertext.
//!
//! A model is scored as a group is: each class lies in a slot, and its logit is the dot product of its weights with the query. The
//! bias is one more component, which the owner's query meets with a one. Weights in clear are a group that nobody encrypted: its
//! mask is zero, so only the rows of the query that hold the vector take part. What comes out is a ciphertext under the query's own
//! secret either way.

use std::fmt;
use std::sync::Arc;

use casemate_types::Digest;

use crate::fft::{self, Fft};
use crate::wire::{self, HEADER, Kind, Reader};
use crate::{
    DEFAULT_BLOCK, DIGIT_BITS, EncryptedGroup, FheError, Measure, NormBound, Params, PreparedTile, RING_DEGREE,
};

/// Classes of a model at most: the slots of one group.
pub const MAX_CLASSES: usize = RING_DEGREE / DEFAULT_BLOCK;

impl Params {
    /// The parameters of a model for vectors of `dimension`: dot products of `dimension + 1` components, rows of norm `bound` at
    /// most, the bias included.
    ///
    /// # Errors
    /// [`FheError::Dimension`].
    pub fn of_model(dimension: usize, bound: NormBound) -> Result<Self, FheError> {
        let width = dimension.checked_add(1).ok_or(FheError::Dimension { dimension })?;
        Ok(Self::new(width, DEFAULT_BLOCK)?.with_body_bits(32)?.with_measure(Measure::Dot(bound)))
    }
}

/// Weights in clear: one row for each class, the bias last.
#[derive(Clone, PartialEq)]
pub struct PlainModel {
    params: Params,
    rows: Vec<f32>,
}

impl PlainModel {
    /// A model from its rows of `params.dimension()` components each.
    ///
    /// # Errors
    /// [`FheError::Classes`], [`FheError::Length`], and [`FheError::Weights`] for a row that is not finite or beyond the bound that the
    /// parameters declare.
    pub fn new(params: Params, rows: &[Vec<f32>]) -> Result<Self, FheError> {
        if let Some(row) = rows.iter().find(|row| row.len() != params.dimension()) {
            let (expected, actual) = (params.dimension() * 4, row.len() * 4);
            return Err(FheError::Length { what: Kind::Model.name(), expected, actual });
        }
        Self::checked(params, rows.concat())
    }

    fn checked(params: Params, rows: Vec<f32>) -> Result<Self, FheError> {
        let classes = rows.len() / params.dimension();
        if classes == 0 || classes > params.documents_per_group() {
            return Err(FheError::Classes { classes, limit: params.documents_per_group() });
        }
        let Measure::Dot(bound) = params.measure() else { return Err(FheError::Weights) };
        // Written so that a NaN is refused.
        let within = |row: &[f32]| {
            row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() <= bound.value() * (1.0 + BOUND_TOLERANCE)
        };
        if rows.chunks(params.dimension()).all(within) { Ok(Self { params, rows }) } else { Err(FheError::Weights) }
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// One row for each class, the bias last.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.rows.chunks_exact(self.params.dimension())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = wire::header(Kind::Model, &self.params, 4 + self.rows.len() * 4);
        out.extend_from_slice(&(self.rows().len() as u32).to_le_bytes());
        out.extend(self.rows.iter().flat_map(|x| x.to_le_bytes()));
        out
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, FheError> {
        let (params, mut reader) = Reader::open(Kind::Model, bytes)?;
        let classes = u32::from_le_bytes(reader.array()?) as usize;
        if classes > params.documents_per_group() {
            return Err(FheError::Classes { classes, limit: params.documents_per_group() });
        }
        let rows = reader.last(classes * params.dimension() * 4)?;
        Self::checked(params, rows.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect())
    }

    /// The weights as the digits of a group whose mask is zero.
    fn prepare(&self) -> Result<PreparedTile, FheError> {
        let Measure::Dot(bound) = self.params.measure() else { return Err(FheError::Weights) };
        let block = self.params.block();
        let one = self.params.delta() / bound.value() / 2f64.powi(64 - DIGIT_BITS as i32);
        let mut fft = Fft::new();
        let rows = self.params.rows();
        let mut lanes = fft::lanes(rows);
        let mut digits = vec![0.0; RING_DEGREE];
        for j in 0..self.params.blocks() {
            digits.fill(0.0);
            for (digits, weights) in digits.chunks_exact_mut(block).zip(self.rows()) {
                for (digit, weight) in digits.iter_mut().zip(weights.iter().skip(j * block)) {
                    *digit = (f64::from(*weight) * one).round();
                }
            }
            fft.forward(&digits, |digit| digit, &mut lanes[j..], rows);
        }
        Ok(PreparedTile::from_lanes(self.params, lanes))
    }
}

impl fmt::Debug for PlainModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainModel({}, {} classes)", self.params, self.rows().len())
    }
}

/// Rounding of an f32 row may exceed the bound by so much.
const BOUND_TOLERANCE: f64 = 1e-6;

/// A model as the tier gets it: nothing but weights. What its classes are called stays with the owner.
#[derive(Debug, Clone, PartialEq)]
pub struct TierModel {
    weights: Weights,
    bytes: Vec<u8>,
    digest: Digest,
}

#[derive(Debug, Clone, PartialEq)]
enum Weights {
    Encrypted(EncryptedGroup),
    Plain(PlainModel),
}

impl TierModel {
    /// Weights that the tier may read.
    pub fn plain(model: PlainModel) -> Self {
        let bytes = model.to_bytes();
        Self { digest: Digest::of(&bytes), bytes, weights: Weights::Plain(model) }
    }

    /// Weights that it may not read.
    pub fn encrypted(group: EncryptedGroup) -> Self {
        let bytes = group.to_bytes();
        Self { digest: Digest::of(&bytes), bytes, weights: Weights::Encrypted(group) }
    }

    /// Reads what [`Self::bytes`] gives: a model in clear, or an encrypted group.
    ///
    /// # Errors
    /// Foreign, damaged, truncated or extended bytes, each by name.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, FheError> {
        let weights = if wire::is(Kind::Group, &bytes) {
            let group = EncryptedGroup::from_bytes(&bytes)?;
            match group.params().measure() {
                Measure::Dot(_) => Weights::Encrypted(group),
                _ => return Err(FheError::Weights),
            }
        } else {
            Weights::Plain(PlainModel::from_bytes(&bytes)?)
        };
        Ok(Self { weights, digest: Digest::of(&bytes), bytes })
    }

    /// Bytes of the longest model there is: those of an encrypted one are the same for every number of classes.
    pub fn limit(params: &Params) -> usize {
        EncryptedGroup::bytes_for(params).max(HEADER + 4 + MAX_CLASSES * params.dimension() * 4)
    }

    /// The byte form.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Digest of the byte form: what the tier knows the model by.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The parameters that a query must have.
    pub fn params(&self) -> &Params {
        match &self.weights {
            Weights::Encrypted(group) => group.params(),
            Weights::Plain(model) => model.params(),
        }
    }

    /// Whether the tier can read the weights.
    pub fn is_plain(&self) -> bool {
        matches!(self.weights, Weights::Plain(_))
    }

    /// Ready to be scored, as a group of its own.
    ///
    /// # Errors
    /// [`FheError::Cipher`].
    pub fn prepare(&self) -> Result<Arc<PreparedTile>, FheError> {
        match &self.weights {
            Weights::Encrypted(group) => PreparedTile::new(std::slice::from_ref(group)),
            Weights::Plain(model) => model.prepare(),
        }
        .map(Arc::new)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn params() -> Params {
        Params::of_model(20, NormBound::new(4.0).unwrap()).unwrap()
    }

    fn model(classes: usize) -> PlainModel {
        let row = |c: usize| (0..21).map(|i| ((i * 7 + c * 3) % 11) as f32 / 10.0 - 0.5).collect();
        PlainModel::new(params(), &(0..classes).map(row).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_model_comes_back_from_its_bytes_and_goes_by_their_digest() {
        for classes in [1, 3, MAX_CLASSES] {
            let model = TierModel::plain(model(classes));
            let back = TierModel::from_bytes(model.bytes().to_vec()).unwrap();
            assert_eq!(back, model);
            assert_eq!(back.digest(), Digest::of(model.bytes()));
            assert!(back.is_plain() && model.bytes().len() <= TierModel::limit(model.params()));
        }
    }

    #[test]
    fn hostile_models_are_refused_by_name() {
        let bytes = TierModel::plain(model(3)).bytes().to_vec();
        let read = |bytes: &[u8]| TierModel::from_bytes(bytes.to_vec()).unwrap_err();
        assert!(matches!(read(b"{}"), FheError::Length { .. }));
        assert!(matches!(read(&[0; 100]), FheError::BadMagic { .. }));
        assert!(matches!(read(&bytes[..bytes.len() - 1]), FheError::Length { .. }));
        assert!(matches!(read(&[bytes.as_slice(), &[0]].concat()), FheError::Length { .. }));
        let with = |at: usize, new: &[u8]| {
            let mut bad = bytes.clone();
            bad[at..at + new.len()].copy_from_slice(new);
            read(&bad)
        };
        assert!(matches!(with(5, &[9]), FheError::Version { .. }));
        assert!(matches!(with(20, &[1]), FheError::ForeignScheme { .. }));
        assert!(matches!(with(HEADER, &0_u32.to_le_bytes()), FheError::Length { .. }));
        assert!(matches!(with(HEADER, &u32::MAX.to_le_bytes()), FheError::Classes { .. }));
        assert_eq!(with(HEADER + 4, &f32::NAN.to_le_bytes()), FheError::Weights);
        assert_eq!(with(HEADER + 4, &100_f32.to_le_bytes()), FheError::Weights);
        // A group of a collection is no model.
        let group = EncryptedGroup::from_parts(Params::new(8, 8).unwrap(), [0; 32], vec![0; RING_DEGREE]).unwrap();
        assert_eq!(read(&group.to_bytes()), FheError::Weights);
    }

    #[test]
    fn rows_of_a_model_are_checked() {
        let new = |rows: &[Vec<f32>]| PlainModel::new(params(), rows).unwrap_err();
        assert!(matches!(new(&[]), FheError::Classes { classes: 0, .. }));
        assert!(matches!(new(&vec![vec![0.0; 21]; MAX_CLASSES + 1]), FheError::Classes { .. }));
        assert!(matches!(new(&[vec![0.0; 20]]), FheError::Length { .. }));
        assert_eq!(new(&[vec![1.0; 21]]), FheError::Weights);
        assert!(matches!(Params::of_model(4096, NormBound::new(1.0).unwrap()), Err(FheError::Dimension { .. })));
    }
}
