//! What each offered setting costs, from the parameters alone: sizes to the byte, and the error the noise budget predicts.

use crate::params::{BLOCKS, BODY_BITS, BODY_SAVING, DIGIT_BITS, NOISE_BOUND_LOG2, QUERY_BITS, REPLY_BITS};
use crate::{EncryptedGroup, EncryptedQuery, EncryptedScores, FheError, Params, PreparedTile, RING_DEGREE, SCORE_ONE};

impl Params {
    /// Every setting offered for vectors of `dimension`: block sizes, bits of replies, bits of bodies at rest.
    ///
    /// # Errors
    /// [`FheError::Dimension`].
    pub fn offered(dimension: usize) -> Result<Vec<Self>, FheError> {
        let mut offered = Vec::new();
        for block in BLOCKS {
            for body_bits in BODY_BITS {
                for reply_bits in REPLY_BITS {
                    let params = Self::new(dimension, block)?;
                    offered.push(params.with_body_bits(body_bits)?.with_reply_bits(reply_bits)?);
                }
            }
        }
        Ok(offered)
    }

    /// Bytes of a group at rest, without the store's own.
    pub fn group_bytes(&self) -> usize {
        EncryptedGroup::bytes_for(self)
    }

    /// Bytes of a prepared group in memory.
    pub fn memory_bytes(&self) -> usize {
        PreparedTile::bytes_for(self)
    }

    /// Bytes of a query.
    pub fn query_bytes(&self) -> usize {
        EncryptedQuery::bytes_for(self)
    }

    /// Bytes of a reply for each group, without the header of the whole.
    pub fn reply_bytes(&self) -> usize {
        EncryptedScores::bytes_for_group(self)
    }

    /// The noise budget: what each step adds to the RMS error of a score, as a share of a full score. For vectors shorter
    /// than the norm bound and for other measures the share is of the largest score they could have.
    pub fn noise_budget(&self) -> NoiseBudget {
        let one = SCORE_ONE / 2f64.powi(64);
        let uniform = |bits: f64| 2f64.powf(-bits) / 12f64.sqrt();
        let products = (self.rows() * RING_DEGREE) as f64;
        let digit = 2f64.powi(DIGIT_BITS as i32) / 12f64.sqrt();
        // A binary secret has N/2 ones.
        let secret = (RING_DEGREE as f64 / 2.0).sqrt();
        let noise = (2f64.powi(2 * NOISE_BOUND_LOG2 as i32 + 1) / 6.0 + 2f64.powi(2 * (64 - QUERY_BITS as i32)) / 12.0)
            .sqrt()
            / 2f64.powi(64);
        let kept = f64::from(self.body_bits().min(DIGIT_BITS));
        NoiseBudget {
            query_noise: products.sqrt() * digit * noise / one,
            transform: 2f64.powf(-51.2) * digit / 12f64.sqrt() * products.sqrt() * secret / one,
            body_rounding: uniform(kept) * self.query_scale() / one,
            query_rounding: uniform(0.0) / self.query_scale(),
            reply: uniform(f64::from(self.reply_bits())) * secret / one,
            reply_body: uniform(f64::from(self.reply_bits() - BODY_SAVING)) / one,
        }
    }
}

/// RMS errors of a score, as shares of a full score. Independent, so their squares add up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseBudget {
    /// The noise of the query's rows, multiplied by the digits of a group.
    pub query_noise: f64,
    /// The f64 transform, multiplied by the secret in the result's mask.
    pub transform: f64,
    /// The bits a body loses at rest and in its digit, multiplied by the query.
    pub body_rounding: f64,
    /// The query's rounding to integers.
    pub query_rounding: f64,
    /// The bits the reply's mask loses, multiplied by the secret.
    pub reply: f64,
    /// The bits the reply's body loses.
    pub reply_body: f64,
}

impl NoiseBudget {
    /// The RMS error of a score.
    pub fn total(&self) -> f64 {
        let Self { query_noise, transform, body_rounding, query_rounding, reply, reply_body } = self;
        [query_noise, transform, body_rounding, query_rounding, reply, reply_body]
            .iter()
            .map(|e| *e * *e)
            .sum::<f64>()
            .sqrt()
    }

    /// Ten times the RMS error: what no honest score exceeds, and what a check may therefore refuse.
    pub fn tolerance(&self) -> f64 {
        10.0 * self.total()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn per_document(params: &Params, bytes: usize) -> f64 {
        bytes as f64 / params.documents_per_group() as f64
    }

    #[test]
    fn offered_settings_reach_the_promised_sizes() {
        let all = Params::offered(384).unwrap();
        assert_eq!(all.len(), 24);
        // Without the 84 bytes of header and seed a group.
        assert!(all.iter().any(|p| p.group_bytes() - 84 == 1152 * p.documents_per_group()));
        assert!(all.iter().any(|p| per_document(p, p.memory_bytes()) <= 3200.0));
        assert!(all.iter().any(|p| per_document(p, p.reply_bytes()) <= 11.0 && p.reply_bits() == 18));
        assert!(all.iter().any(|p| p.query_bytes() < 250_000));
    }

    #[test]
    fn default_sizes() {
        let params = Params::default();
        assert_eq!(per_document(&params, params.memory_bytes()), 3200.0);
        assert_eq!(params.reply_bytes(), 5632);
        assert_eq!(params.query_bytes(), 614_500);
    }

    #[test]
    fn budget_is_balanced_and_grows_with_fewer_bits() {
        let error = |reply, body| {
            Params::default().with_reply_bits(reply).unwrap().with_body_bits(body).unwrap().noise_budget().total()
        };
        assert!((1.0e-4..1.3e-4).contains(&error(20, 32)), "{}", error(20, 32));
        assert!((1.3e-4..1.8e-4).contains(&error(20, 24)), "{}", error(20, 24));
        assert!(error(16, 32) > error(18, 32) && error(18, 32) > error(20, 32));
        assert_eq!(Params::offered(5000), Err(FheError::Dimension { dimension: 5000 }));
    }
}
