use casemate_fhe::fft::{self, ExactFactor, Fft, round_small};
use casemate_fhe::stream::{self, Domain};
use casemate_fhe::{
    DIGIT_BITS, EncryptedQuery, EncryptedScores, GroupReply, Params, QUERY_BITS, RING_DEGREE, SCORE_ONE,
};
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::key::SecretSpectrum;
use crate::vector::{Meaning, NORM_TOLERANCE};
use crate::{OwnerError, noise};

/// Opens the reply to one query, once. Wiped when used or dropped; no `Debug`, no `Clone`.
pub struct QuerySecret {
    params: Params,
    id: [u8; 16],
    secret: SecretSpectrum,
    meaning: Meaning,
}

impl QuerySecret {
    /// How far an honest score may be from the exact one: ten times the RMS error of the noise budget, in units of the score.
    pub fn tolerance(&self) -> f32 {
        (self.params.noise_budget().tolerance() * self.meaning.factor.abs()) as f32
    }

    /// The score of each document by the collection's [measure](casemate_fhe::Measure), per group: `counts[g]` values for group
    /// `g`, in slot order.
    ///
    /// Scores are approximate and their low bits carry noise: hand out ranks or rounded values, never these.
    ///
    /// # Errors
    /// A reply to another query, another number of groups, or values that no honest tier computes: above a full score, or not
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
        // Documents may be longer than one by their own tolerance.
        let tolerance = (self.params.noise_budget().tolerance() + NORM_TOLERANCE) as f32;
        replies
            .par_iter()
            .zip(counts)
            .enumerate()
            .map_init(Fft::new, |fft, (group, (reply, count))| {
                let mut shares = self.open(fft, reply);
                let honest = shares
                    .iter()
                    .enumerate()
                    .all(|(slot, share)| share.abs() <= tolerance + if slot < *count { 1.0 } else { 0.0 });
                if !honest {
                    return Err(OwnerError::ReplyAltered { group });
                }
                shares.truncate(*count);
                Ok(shares.into_iter().map(|share| self.meaning.score(share)).collect())
            })
            .collect()
    }

    /// Shares of a full score, one per slot.
    fn open(&self, fft: &mut Fft, reply: &GroupReply) -> Vec<f32> {
        let (mask_bits, body_bits) = (self.params.reply_bits(), self.params.reply_body_bits());
        let mut spectrum = fft::lanes(1);
        fft.forward(reply.mask(), |mask| f64::from(centred(mask, mask_bits)), &mut spectrum, 1);
        let mut product = Zeroizing::new(fft::lanes(1));
        fft::multiply_add(&mut product, &spectrum, &self.secret.0);
        // At most 20 bits times 2^11 ones: exact.
        let mut shift = Zeroizing::new(vec![0; RING_DEGREE]);
        fft.inverse(&product, &mut shift, |out, value| *out = round_small(value) as u32);
        let block = self.params.block();
        let scores = shift.iter().skip(block - 1).step_by(block).zip(reply.bodies());
        let one = SCORE_ONE / 2f64.powi(64 - mask_bits as i32);
        let finer = mask_bits - body_bits;
        scores
            .map(|(shift, body)| (f64::from(centred((body << finer).wrapping_sub(*shift), mask_bits)) / one) as f32)
            .collect()
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
pub(crate) fn encrypt(
    params: &Params,
    rows: &[RowMessage<'_>],
    meaning: Meaning,
) -> Result<(EncryptedQuery, QuerySecret), OwnerError> {
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
                // Bits below the noise are not sent: public post-processing of a finished ciphertext.
                *body = body.wrapping_add(1 << (DROPPED_BITS - 1)) >> DROPPED_BITS << DROPPED_BITS;
            }
            Ok(body)
        })
        .collect::<Result<_, OwnerError>>()?;
    let query = EncryptedQuery::from_parts(*params, id, seed, bodies.concat())?;
    Ok((query, QuerySecret { params: *params, id, secret, meaning }))
}

/// Low bits of a query's body that are not sent.
const DROPPED_BITS: u32 = 64 - QUERY_BITS;

/// A value modulo 2^bits as a number in -2^(bits-1)..2^(bits-1).
fn centred(value: u32, bits: u32) -> i32 {
    let spare = 32 - bits;
    ((value << spare) as i32) >> spare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn centred_is_signed() {
        assert_eq!(centred(0, 20), 0);
        assert_eq!(centred((1 << 20) - 1, 20), -1);
        assert_eq!(centred(1 << 19, 20), -(1 << 19));
        assert_eq!(centred(1 << 15, 16), -(1 << 15));
        assert_eq!(centred(0_u32.wrapping_sub(5), 18), -5);
    }

    #[test]
    fn mask_message_is_minus_k() {
        let mixed = [3, -2];
        let row = RowMessage::Mask { mixed: &mixed, digits: 2 };
        assert_eq!(row.coefficient(0), (3_u64 << 14).wrapping_neg());
        assert_eq!(row.coefficient(1), 2 << 14);
    }
}
