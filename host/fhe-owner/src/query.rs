use casemate_fhe::fft::{self, ExactFactor, Fft, round_small};
use casemate_fhe::stream::{self, Domain};
use casemate_fhe::{
    DIGIT_BITS, EncryptedQuery, EncryptedScores, GroupReply, Params, REPLY_BITS, RING_DEGREE, SCORE_ONE,
};
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::key::SecretSpectrum;
use crate::{OwnerError, noise};

/// Beyond this a score is no noise: the error of an honest reply stays near 1.3e-4.
const SCORE_TOLERANCE: f32 = 5e-3;

/// Opens the reply to one query, once. Wiped when used or dropped; no `Debug`, no `Clone`.
pub struct QuerySecret {
    params: Params,
    id: [u8; 16],
    secret: SecretSpectrum,
}

impl QuerySecret {
    /// The cosine of each document, per group: `counts[g]` values for group `g`, in slot order.
    ///
    /// Scores are approximate and their low bits carry noise: hand out ranks or rounded values, never these.
    ///
    /// # Errors
    /// A reply to another query, another number of groups, or values that no honest tier computes: above one, or not
    /// zero in slots without a document.
    pub fn decrypt(self, scores: &EncryptedScores, counts: &[usize]) -> Result<Vec<Vec<f32>>, OwnerError> {
        if *scores.params() != self.params {
            return Err(OwnerError::ParamsMismatch { expected: self.params, actual: *scores.params() });
        }
        if *scores.query_id() != self.id {
            return Err(OwnerError::ForeignReply);
        }
        let replies = scores.replies();
        if replies.len() != counts.len() {
            return Err(OwnerError::Counts { replies: replies.len(), counts: counts.len() });
        }
        let limit = self.params.documents_per_group();
        if let Some(actual) = counts.iter().copied().find(|count| *count > limit) {
            return Err(OwnerError::TooMany { limit, actual });
        }
        replies
            .par_iter()
            .zip(counts)
            .enumerate()
            .map_init(Fft::new, |fft, (group, (reply, count))| {
                let mut scores = self.open(fft, reply);
                let honest = scores
                    .iter()
                    .enumerate()
                    .all(|(slot, score)| score.abs() <= SCORE_TOLERANCE + if slot < *count { 1.0 } else { 0.0 });
                if !honest {
                    return Err(OwnerError::ReplyAltered { group });
                }
                scores.truncate(*count);
                Ok(scores)
            })
            .collect()
    }

    fn open(&self, fft: &mut Fft, reply: &GroupReply) -> Vec<f32> {
        let mut spectrum = fft::lanes(1);
        fft.forward(reply.mask(), |mask| f64::from(centred(mask)), &mut spectrum, 1);
        let mut product = Zeroizing::new(fft::lanes(1));
        fft::multiply_add(&mut product, &spectrum, &self.secret.0);
        // 20 bits times 2^11 ones: exact.
        let mut shift = Zeroizing::new(vec![0; RING_DEGREE]);
        fft.inverse(&product, &mut shift, |out, value| *out = round_small(value) as u32);
        let block = self.params.block();
        let scores = shift.iter().skip(block - 1).step_by(block).zip(reply.bodies());
        const ONE: f64 = SCORE_ONE / (1_u64 << (64 - REPLY_BITS)) as f64;
        scores.map(|(shift, body)| (f64::from(centred(body.wrapping_sub(*shift))) / ONE) as f32).collect()
    }
}

/// What a row of a query encrypts.
pub(crate) enum RowMessage<'a> {
    /// One block of the rounded query, times 2^(64 - B).
    Block { q: &'a [f64], block: usize },
    /// Minus K, times 2^(64 - B * digits).
    Mask { mixed: &'a [i64], digits: u32 },
}

impl RowMessage<'_> {
    fn coefficient(&self, k: usize) -> u64 {
        match self {
            // Reversed: coefficient k of the sum over i of q_i X^(b-1-i).
            Self::Block { q, block } => {
                let q = (block - 1).checked_sub(k).and_then(|i| q.get(i)).copied().unwrap_or(0.0);
                (q as i64 as u64) << (64 - DIGIT_BITS)
            }
            Self::Mask { mixed, digits } => (mixed[k] as u64).wrapping_neg() << (64 - DIGIT_BITS * digits),
        }
    }
}

/// RLWE encryptions of `rows` under a fresh binary secret.
pub(crate) fn encrypt(params: &Params, rows: &[RowMessage<'_>]) -> Result<(EncryptedQuery, QuerySecret), OwnerError> {
    let bits = noise::secret::<{ RING_DEGREE / 8 }>()?;
    let secret = SecretSpectrum::new(&mut Fft::new(), bits.as_slice());
    let (id, seed) = (noise::public()?, noise::public()?);
    let bodies: Vec<Vec<u64>> = rows
        .par_iter()
        .enumerate()
        .map_init(Fft::new, |fft, (row, message)| {
            let mask = stream::mask(&seed, Domain::QueryMask, row)?;
            let mut body = vec![0; RING_DEGREE];
            ExactFactor::new(fft, &mask).multiply(fft, &secret.0, &mut body);
            let noise = noise::polynomial()?;
            for (k, (body, noise)) in body.iter_mut().zip(noise.iter()).enumerate() {
                *body = body.wrapping_add(*noise).wrapping_add(message.coefficient(k));
            }
            Ok(body)
        })
        .collect::<Result<_, OwnerError>>()?;
    let query = EncryptedQuery::from_parts(*params, id, seed, bodies.concat())?;
    Ok((query, QuerySecret { params: *params, id, secret }))
}

/// A value modulo 2^20 as a number in -2^19..2^19.
fn centred(value: u32) -> i32 {
    const SPARE: u32 = 32 - REPLY_BITS;
    ((value << SPARE) as i32) >> SPARE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn centred_is_signed() {
        assert_eq!(centred(0), 0);
        assert_eq!(centred((1 << 20) - 1), -1);
        assert_eq!(centred(1 << 19), -(1 << 19));
        assert_eq!(centred(0_u32.wrapping_sub(5)), -5);
    }

    #[test]
    fn mask_message_is_minus_k() {
        let mixed = [3, -2];
        let row = RowMessage::Mask { mixed: &mixed, digits: 2 };
        assert_eq!(row.coefficient(0), (3_u64 << 14).wrapping_neg());
        assert_eq!(row.coefficient(1), 2 << 14);
    }
}
