use std::fmt;

use crate::fft::{fraction, round_small};
use crate::wire::{self, Kind, Reader};
use crate::{EncryptedQuery, FheError, Params, PreparedQuery, RING_DEGREE};

/// The scores of one group under the query's output secret, switched to a small modulus.
///
/// The N coefficients of the mask at 16, 18 or 20 bits and, of the body, only the P coefficients that are scores, at 4 bits
/// fewer: an error in the mask is multiplied by the secret, one in the body is not.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupReply {
    values: Vec<u32>,
}

impl GroupReply {
    /// `values` holds the mask and the P wanted coefficients of the body.
    pub(crate) fn new(values: Vec<u32>) -> Self {
        Self { values }
    }

    /// The mask: N values of [`Params::reply_bits`].
    pub fn mask(&self) -> &[u32] {
        self.values.get(..RING_DEGREE).unwrap_or_default()
    }

    /// One value of [`Params::reply_body_bits`] per document slot.
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

    /// The answer to `query` from the replies of several parts, one per group in the owner's order.
    pub fn from_replies(query: &EncryptedQuery, replies: Vec<GroupReply>) -> Self {
        Self { params: *query.params(), query: *query.id(), replies }
    }

    /// The replies alone.
    pub fn into_replies(self) -> Vec<GroupReply> {
        self.replies
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

    /// The byte form: header, query identifier, number of groups (u32), then each group's mask and body, values packed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let each = Self::bytes_for_group(&self.params);
        let mut out = wire::header(Kind::Scores, &self.params, 20 + each * self.replies.len());
        out.extend_from_slice(&self.query);
        out.extend_from_slice(&(self.replies.len() as u32).to_le_bytes());
        for reply in &self.replies {
            wire::pack(reply.mask().iter().copied(), self.params.reply_bits(), &mut out);
            wire::pack(reply.bodies().iter().copied(), self.params.reply_body_bits(), &mut out);
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
        let each = Self::bytes_for_group(&params);
        let payload = reader.last(groups.checked_mul(each).ok_or(FheError::Range { what: Kind::Scores.name() })?)?;
        let replies = payload
            .chunks_exact(each)
            .map(|reply| {
                let (mask, body) = reply.split_at(RING_DEGREE * params.reply_bits() as usize / 8);
                let mut values = wire::unpack(mask, params.reply_bits(), RING_DEGREE);
                values.extend(wire::unpack(body, params.reply_body_bits(), params.documents_per_group()));
                GroupReply { values }
            })
            .collect();
        Ok(Self { params, query, replies })
    }

    /// Bytes of each group's reply. N and P are multiples of 64, so bytes come out whole.
    pub fn bytes_for_group(params: &Params) -> usize {
        let mask = RING_DEGREE * params.reply_bits() as usize;
        (mask + params.documents_per_group() * params.reply_body_bits() as usize) / 8
    }
}

impl fmt::Debug for EncryptedScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptedScores({}, {} groups)", self.params, self.replies.len())
    }
}

/// A small modulus 2^bits, with what rounding to it needs at hand: the loop over coefficients holds no check.
#[derive(Clone, Copy)]
pub(crate) struct SmallModulus {
    scale: f64,
    mask: u32,
}

impl SmallModulus {
    /// For at most 31 bits.
    pub(crate) fn new(bits: u32) -> Self {
        let modulus = 1_u32 << bits;
        Self { scale: f64::from(modulus), mask: modulus - 1 }
    }

    /// A torus element given as a real number, modulo one and rounded.
    #[inline(always)]
    pub(crate) fn round(self, value: f64) -> u32 {
        round_small(fraction(value) * self.scale) as u32 & self.mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modulus_switch_rounds_and_wraps() {
        assert_eq!(SmallModulus::new(20).round(0.0), 0);
        assert_eq!(SmallModulus::new(20).round(-1e-9), 0);
        assert_eq!(SmallModulus::new(20).round(7.5), 1 << 19);
        assert_eq!(SmallModulus::new(16).round(-3.5), 1 << 15);
        assert_eq!(SmallModulus::new(20).round(2f64.powi(-20) * 0.49), 0);
        assert_eq!(SmallModulus::new(20).round(2f64.powi(30) - 2f64.powi(-20)), (1 << 20) - 1);
    }

    #[test]
    fn default_reply_takes_twenty_two_bytes_a_document() {
        assert_eq!(EncryptedScores::bytes_for_group(&Params::default()), 22 * 256);
    }
}
