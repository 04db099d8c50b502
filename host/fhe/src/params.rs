use std::fmt;

use casemate_types::Digest;

use crate::FheError;

/// Degree N of the ring `Z_2^64[X]/(X^N + 1)`. One polynomial per mask (k = 1).
pub const RING_DEGREE: usize = 2048;
/// Noise is TUniform(17): uniform in `-2^17..=2^17` with halved ends, the 132-bit bound tfhe 1.8.2 gives for k*N = 2048.
pub const NOISE_BOUND_LOG2: u32 = 17;
/// Bits B of one signed digit: one digit of each body, two of the mask.
pub const DIGIT_BITS: u32 = 25;
/// Euclidean norm of the query once rounded to integers.
pub const QUERY_SCALE: f64 = 4096.0;
/// Cosine 1.0 on the torus, 2^62.9: below 2^63 with 7 % to spare for noise.
pub const SCORE_ONE: f64 = 9_223_372_036_854_775_808.0 * 0.933_032_991_536_807_4;
/// Bits kept of each coefficient of a reply.
pub const REPLY_BITS: u32 = 20;
/// Dimension of all-MiniLM-L6-v2.
pub const DEFAULT_DIMENSION: usize = 384;
/// Block size with 256 documents per group and a query of 0.8 MB at 384 dimensions.
pub const DEFAULT_BLOCK: usize = 8;
/// Largest dimension accepted.
pub const MAX_DIMENSION: usize = 4096;

/// The two choices of a collection: dimension and block size. Everything else is a constant of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Params {
    dimension: usize,
    block: usize,
}

impl Params {
    /// Parameters for vectors of `dimension` (1 to 4096) in blocks of `block` (4, 8, 16 or 32).
    ///
    /// # Errors
    /// [`FheError::Dimension`] and [`FheError::Block`].
    pub fn new(dimension: usize, block: usize) -> Result<Self, FheError> {
        if !(1..=MAX_DIMENSION).contains(&dimension) {
            return Err(FheError::Dimension { dimension });
        }
        if ![4, 8, 16, 32].contains(&block) {
            return Err(FheError::Block { block });
        }
        Ok(Self { dimension, block })
    }

    /// Components of a vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Components of one block, b.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Blocks of a vector, m; the last one may be padded with zeros.
    pub fn blocks(&self) -> usize {
        self.dimension.div_ceil(self.block)
    }

    /// Documents that share one mask, P.
    pub fn documents_per_group(&self) -> usize {
        RING_DEGREE / self.block
    }

    /// Rows of a prepared group and of a query: one per block, two for the mask.
    pub fn rows(&self) -> usize {
        self.blocks() + 2
    }

    /// The coefficient of a result polynomial that holds the score of document `slot`.
    pub fn score_coefficient(&self, slot: usize) -> usize {
        slot * self.block + self.block - 1
    }

    /// Binds a ciphertext to these parameters and to every constant of the scheme.
    pub fn digest(&self) -> Digest {
        Digest::of(
            format!(
                "casemate shared-mask rlwe 1; N={RING_DEGREE}; k=1; q=2^64; tuniform={NOISE_BOUND_LOG2}; \
                 digit={DIGIT_BITS}; query={QUERY_SCALE}; one=2^62.9; reply={REPLY_BITS}; mask=aes-256-ctr; {self}"
            )
            .as_bytes(),
        )
    }
}

impl Default for Params {
    fn default() -> Self {
        Self { dimension: DEFAULT_DIMENSION, block: DEFAULT_BLOCK }
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dimension {}, block {}", self.dimension, self.block)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tfhe::core_crypto::commons::noise_formulas::secure_noise::minimal_glwe_bound_for_132_bits_security_tuniform;
    use tfhe::core_crypto::prelude::{GlweDimension, PolynomialSize};

    use super::*;

    #[test]
    fn noise_is_what_tfhe_asks_for_at_132_bits() {
        let bound = minimal_glwe_bound_for_132_bits_security_tuniform(
            GlweDimension(1),
            PolynomialSize(RING_DEGREE),
            2f64.powi(64),
        );
        assert_eq!(bound, NOISE_BOUND_LOG2);
    }

    #[test]
    fn default_sizes_are_those_of_the_evidence() {
        let params = Params::default();
        assert_eq!((params.blocks(), params.documents_per_group(), params.rows()), (48, 256, 50));
        assert!((SCORE_ONE.log2() - 62.9).abs() < 1e-12);
    }

    #[test]
    fn hostile_parameters_are_named() {
        assert_eq!(Params::new(0, 8), Err(FheError::Dimension { dimension: 0 }));
        assert_eq!(Params::new(4097, 8), Err(FheError::Dimension { dimension: 4097 }));
        assert_eq!(Params::new(384, 0), Err(FheError::Block { block: 0 }));
        assert_eq!(Params::new(384, 12), Err(FheError::Block { block: 12 }));
    }

    #[test]
    fn digest_separates_parameters() {
        assert_ne!(Params::new(384, 8).unwrap().digest(), Params::new(384, 16).unwrap().digest());
        assert_ne!(Params::new(384, 8).unwrap().digest(), Params::new(385, 8).unwrap().digest());
    }
}
