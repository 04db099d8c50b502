use std::fmt;

use crate::fft::{fraction, round_small};
use crate::wire::{self, Kind, Reader};
use crate::{FheError, Params, PreparedQuery, REPLY_BITS, RING_DEGREE};

/// The scores of one group under the query's output secret, switched to modulus 2^20.
///
/// The N coefficients of the mask and, of the body, only the P coefficients that are scores.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupReply {
    values: Vec<u32>,
}

impl GroupReply {
    /// `values` holds the mask and the P wanted coefficients of the body.
    pub(crate) fn new(values: Vec<u32>) -> Self {
        Self { values }
    }

    /// The mask: N values below 2^20.
    pub fn mask(&self) -> &[u32] {
        self.values.get(..RING_DEGREE).unwrap_or_default()
    }

    /// One value below 2^20 per document slot.
    pub fn bodies(&self) -> &[u32] {
        self.values.get(RING_DEGREE..).unwrap_or_default()
    }
}

/// The answer to one query: one reply per group, in the order the groups were given.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptedScores {
    params: Params,
    query: [u8; 16],
    replies: Vec<GroupReply>,
}

impl EncryptedScores {
    /// An answer without groups, to [`append`](Self::append) to.
    pub fn empty(query: &PreparedQuery) -> Self {
        Self { params: *query.params(), query: *query.id(), replies: Vec::new() }
    }

    pub(crate) fn with(query: &PreparedQuery, replies: Vec<GroupReply>) -> Self {
        Self { params: *query.params(), query: *query.id(), replies }
    }

    /// Adds the replies of `more` behind these.
    ///
    /// # Errors
    /// [`FheError::ForeignQuery`] or [`FheError::ParamsMismatch`] when `more` answers another query.
    pub fn append(&mut self, more: Self) -> Result<(), FheError> {
        if self.params != more.params {
            return Err(FheError::ParamsMismatch { expected: self.params, actual: more.params });
        }
        if self.query != more.query {
            return Err(FheError::ForeignQuery);
        }
        self.replies.extend(more.replies);
        Ok(())
    }

    /// The parameters of query and groups.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The identifier of the query answered.
    pub fn query_id(&self) -> &[u8; 16] {
        &self.query
    }

    /// One reply per group.
    pub fn replies(&self) -> &[GroupReply] {
        &self.replies
    }

    /// The byte form: header, query identifier, number of groups (u32), 20-bit values in pairs of five bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let each = reply_bytes(&self.params);
        let mut out = wire::header(Kind::Scores, &self.params, 20 + each * self.replies.len());
        out.extend_from_slice(&self.query);
        out.extend_from_slice(&(self.replies.len() as u32).to_le_bytes());
        for reply in &self.replies {
            for [low, high] in reply.values.as_chunks::<2>().0 {
                let pair = u64::from(*low) | u64::from(*high) << REPLY_BITS;
                let [a, b, c, d, e, ..] = pair.to_le_bytes();
                out.extend_from_slice(&[a, b, c, d, e]);
            }
        }
        out
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// Foreign, damaged, truncated or extended bytes, each by name.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FheError> {
        let (params, mut reader) = Reader::open(Kind::Scores, bytes)?;
        let query = reader.array()?;
        let groups = u32::from_le_bytes(reader.array()?) as usize;
        let each = reply_bytes(&params);
        let payload = reader.last(groups.checked_mul(each).ok_or(FheError::Range { what: Kind::Scores.name() })?)?;
        let replies = payload
            .chunks_exact(each)
            .map(|reply| GroupReply {
                values: reply
                    .as_chunks::<5>()
                    .0
                    .iter()
                    .flat_map(|&[a, b, c, d, e]| {
                        let pair = u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]);
                        const MASK: u64 = (1 << REPLY_BITS) - 1;
                        [(pair & MASK) as u32, (pair >> REPLY_BITS) as u32]
                    })
                    .collect(),
            })
            .collect();
        Ok(Self { params, query, replies })
    }
}

impl fmt::Debug for EncryptedScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptedScores({}, {} groups)", self.params, self.replies.len())
    }
}

/// N and P are even, so pairs come out whole.
fn reply_bytes(params: &Params) -> usize {
    (RING_DEGREE + params.documents_per_group()) / 2 * 5
}

/// A torus element given as a real number, modulo one and rounded to 20 bits.
#[inline(always)]
pub(crate) fn switch_modulus(value: f64) -> u32 {
    const MODULUS: f64 = (1 << REPLY_BITS) as f64;
    round_small(fraction(value) * MODULUS) as u32 & ((1 << REPLY_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modulus_switch_rounds_and_wraps() {
        assert_eq!(switch_modulus(0.0), 0);
        assert_eq!(switch_modulus(-1e-9), 0);
        assert_eq!(switch_modulus(7.5), 1 << 19);
        assert_eq!(switch_modulus(-3.5), 1 << 19);
        assert_eq!(switch_modulus(2f64.powi(-20) * 0.49), 0);
        assert_eq!(switch_modulus(2f64.powi(30) - 2f64.powi(-20)), (1 << 20) - 1);
    }

    #[test]
    fn default_reply_takes_twenty_two_and_a_half_bytes_a_document() {
        assert_eq!(reply_bytes(&Params::default()), 5760);
    }
}
