use std::fmt;

use casemate_types::Digest;

use crate::{FheError, Measure};

/// Degree N of the ring `Z_2^64[X]/(X^N + 1)`. One polynomial per mask (k = 1).
pub const RING_DEGREE: usize = 2048;
/// Noise is TUniform(17): uniform in `-2^17..=2^17` with halved ends, the 132-bit bound tfhe 1.8.2 gives for k*N = 2048.
pub const NOISE_BOUND_LOG2: u32 = 17;
/// Bits B of one signed digit: one digit of each body, two of the mask.
pub const DIGIT_BITS: u32 = 25;
/// Cosine 1.0 on the torus, 2^62.9: below 2^63 with 7 % to spare for noise.
pub const SCORE_ONE: f64 = 9_223_372_036_854_775_808.0 * 0.933_032_991_536_807_4;
/// Bits kept of each coefficient of a query's bodies; the rest is below their noise.
pub const QUERY_BITS: u32 = 48;
/// The body of a reply has so many bits fewer than its mask, whose error the secret multiplies by sqrt(N/2) = 2^5.
pub const BODY_SAVING: u32 = 4;
/// Dimension of all-MiniLM-L6-v2.
pub const DEFAULT_DIMENSION: usize = 384;
/// Block size with 256 documents per group and a query of 0.6 MB at 384 dimensions.
pub const DEFAULT_BLOCK: usize = 8;
/// Bits of a reply's mask unless chosen otherwise.
pub const DEFAULT_REPLY_BITS: u32 = 20;
/// Bits of a body at rest unless chosen otherwise.
pub const DEFAULT_BODY_BITS: u32 = 24;
/// Largest dimension accepted.
pub const MAX_DIMENSION: usize = 4096;
/// Block sizes offered.
pub const BLOCKS: [usize; 4] = [4, 8, 16, 32];
/// Bits of a reply's mask offered.
pub const REPLY_BITS: [u32; 3] = [16, 18, 20];
/// Bits of a body at rest offered.
pub const BODY_BITS: [u32; 2] = [24, 32];

/// The choices of a collection. Everything else is a constant of this crate; every ciphertext is bound to both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Params {
    dimension: usize,
    block: usize,
    reply_bits: u32,
    body_bits: u32,
    measure: Measure,
}

impl Params {
    /// Parameters for vectors of `dimension` (1 to 4096) in blocks of `block` (4, 8, 16 or 32): cosine, replies of 20 bits,
    /// bodies of 24 bits.
    ///
    /// # Errors
    /// [`FheError::Dimension`] and [`FheError::Block`].
    pub fn new(dimension: usize, block: usize) -> Result<Self, FheError> {
        if !(1..=MAX_DIMENSION).contains(&dimension) {
            return Err(FheError::Dimension { dimension });
        }
        if !BLOCKS.contains(&block) {
            return Err(FheError::Block { block });
        }
        let (reply_bits, body_bits) = (DEFAULT_REPLY_BITS, DEFAULT_BODY_BITS);
        Ok(Self { dimension, block, reply_bits, body_bits, measure: Measure::Cosine })
    }

    /// The same with 16, 18 or 20 bits for each coefficient of a reply's mask.
    ///
    /// # Errors
    /// [`FheError::ReplyBits`].
    pub fn with_reply_bits(self, bits: u32) -> Result<Self, FheError> {
        if REPLY_BITS.contains(&bits) {
            Ok(Self { reply_bits: bits, ..self })
        } else {
            Err(FheError::ReplyBits { bits })
        }
    }

    /// The same with 24 or 32 bits for each coefficient at rest.
    ///
    /// # Errors
    /// [`FheError::BodyBits`].
    pub fn with_body_bits(self, bits: u32) -> Result<Self, FheError> {
        if BODY_BITS.contains(&bits) { Ok(Self { body_bits: bits, ..self }) } else { Err(FheError::BodyBits { bits }) }
    }

    /// The same for another measure.
    pub fn with_measure(self, measure: Measure) -> Self {
        Self { measure, ..self }
    }

    /// Components of a vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Components that are encrypted: those of a vector, and one more for the Euclidean distance.
    pub fn width(&self) -> usize {
        self.dimension + self.measure.extra()
    }

    /// Components of one block, b.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Bits of each coefficient of a reply's mask.
    pub fn reply_bits(&self) -> u32 {
        self.reply_bits
    }

    /// Bits of each coefficient of a reply's body.
    pub fn reply_body_bits(&self) -> u32 {
        self.reply_bits - BODY_SAVING
    }

    /// Bits of each coefficient at rest.
    pub fn body_bits(&self) -> u32 {
        self.body_bits
    }

    /// What a score means.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// Blocks of a vector, m; the last one may be padded with zeros.
    pub fn blocks(&self) -> usize {
        self.width().div_ceil(self.block)
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

    /// Euclidean norm of the query once rounded to integers. A larger one rounds the query more finely and magnifies the
    /// rounding of the bodies; each form of the bodies has its optimum.
    pub fn query_scale(&self) -> f64 {
        if self.body_bits == 24 { 2896.0 } else { 4096.0 }
    }

    /// Torus value of an encrypted component of 1.0: the score's scale less the query's.
    pub fn delta(&self) -> f64 {
        SCORE_ONE / self.query_scale()
    }

    /// Binds a ciphertext to these parameters and to every constant of the scheme.
    pub fn digest(&self) -> Digest {
        Digest::of(
            format!(
                "casemate shared-mask rlwe 2; N={RING_DEGREE}; k=1; q=2^64; tuniform={NOISE_BOUND_LOG2}; \
                 digit={DIGIT_BITS}; query={}, {QUERY_BITS} bits; one=2^62.9; reply body={}; mask=aes-256-ctr; \
                 bound={:08x}; {self}",
                self.query_scale(),
                self.reply_body_bits(),
                self.measure.to_tag().1,
            )
            .as_bytes(),
        )
    }
}

impl Default for Params {
    fn default() -> Self {
        Self {
            dimension: DEFAULT_DIMENSION,
            block: DEFAULT_BLOCK,
            reply_bits: DEFAULT_REPLY_BITS,
            body_bits: DEFAULT_BODY_BITS,
            measure: Measure::Cosine,
        }
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dimension, block, reply_bits, body_bits, measure } = self;
        write!(f, "dimension {dimension}, block {block}, reply {reply_bits} bits, bodies {body_bits} bits, {measure}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tfhe::core_crypto::commons::noise_formulas::secure_noise::minimal_glwe_bound_for_132_bits_security_tuniform;
    use tfhe::core_crypto::prelude::{GlweDimension, PolynomialSize};

    use super::*;
    use crate::NormBound;

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
        assert_eq!(Params::default().with_reply_bits(17), Err(FheError::ReplyBits { bits: 17 }));
        assert_eq!(Params::default().with_body_bits(16), Err(FheError::BodyBits { bits: 16 }));
    }

    #[test]
    fn digest_separates_parameters() {
        let params = Params::new(384, 8).unwrap();
        let bound = |bound| NormBound::new(bound).unwrap();
        let others = [
            Params::new(384, 16).unwrap(),
            Params::new(385, 8).unwrap(),
            params.with_reply_bits(18).unwrap(),
            params.with_body_bits(32).unwrap(),
            params.with_measure(Measure::Dot(bound(1.0))),
            params.with_measure(Measure::Dot(bound(1.000_000_1))),
            params.with_measure(Measure::Euclidean(bound(1.0))),
        ];
        let digests: std::collections::BTreeSet<_> =
            others.iter().chain([&params]).map(|params| params.digest().hex()).collect();
        assert_eq!(digests.len(), others.len() + 1);
    }
}
