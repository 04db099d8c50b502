use std::fmt;

use crate::fft::{self, Fft, Lane, from_torus};
use crate::stream::{self, Domain, SEED_BYTES};
use crate::wire::{self, HEADER, Kind, Reader};
use crate::{FheError, Params, QUERY_BITS, RING_DEGREE};

/// Low bits of a body that are not kept.
const DROPPED_BITS: u32 = 64 - QUERY_BITS;

/// A query under an output secret drawn for it alone: one seed for all masks, and m + 2 bodies of N values, of which the top
/// 48 bits are kept.
///
/// Rows: `Enc(q_j 2^(64-B))` for each block, then `Enc(-K 2^(64-B))` and `Enc(-K 2^(64-2B))` with `K = sum q_j s_j`.
/// At 384 dimensions and block 8: 614,500 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptedQuery {
    params: Params,
    id: [u8; 16],
    seed: [u8; SEED_BYTES],
    bodies: Vec<u64>,
}

impl EncryptedQuery {
    /// A query from its parts: `bodies` holds (m + 2) * N values, row after row, the low 16 bits of each zero.
    ///
    /// # Errors
    /// [`FheError::Length`] when the number of values is another, [`FheError::Range`] when a dropped bit is set.
    pub fn from_parts(
        params: Params,
        id: [u8; 16],
        seed: [u8; SEED_BYTES],
        bodies: Vec<u64>,
    ) -> Result<Self, FheError> {
        let expected = params.rows() * RING_DEGREE;
        if bodies.len() != expected {
            return Err(FheError::Length {
                what: Kind::Query.name(),
                expected: expected * 8,
                actual: bodies.len().saturating_mul(8),
            });
        }
        if bodies.iter().any(|body| body & ((1 << DROPPED_BITS) - 1) != 0) {
            return Err(FheError::Range { what: Kind::Query.name() });
        }
        Ok(Self { params, id, seed, bodies })
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// Foreign, damaged, truncated or extended bytes, each by name.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FheError> {
        let (params, mut reader) = Reader::open(Kind::Query, bytes)?;
        let id = reader.array()?;
        let seed = reader.array()?;
        let bodies = reader.last(Self::bytes_for(&params) - HEADER - 16 - SEED_BYTES)?;
        let body = |[a, b, c, d, e, f]: &[u8; 6]| u64::from_le_bytes([0, 0, *a, *b, *c, *d, *e, *f]);
        Self::from_parts(params, id, seed, bodies.as_chunks().0.iter().map(body).collect())
    }

    /// The byte form: header, identifier, seed, bodies of six bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = wire::header(Kind::Query, &self.params, Self::bytes_for(&self.params) - HEADER);
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.seed);
        out.extend(self.bodies.iter().flat_map(|body| body.to_le_bytes().into_iter().skip(2)));
        out
    }

    /// Bytes of a query of these parameters.
    pub fn bytes_for(params: &Params) -> usize {
        HEADER + 16 + SEED_BYTES + params.rows() * RING_DEGREE * QUERY_BITS as usize / 8
    }

    /// The parameters it was built for.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Random identifier; replies carry it.
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// The mask of row `row`: N coefficients.
    ///
    /// # Errors
    /// [`FheError::Cipher`].
    pub fn mask(&self, row: usize) -> Result<Vec<u64>, FheError> {
        stream::mask(&self.seed, Domain::QueryMask, row)
    }

    /// The bodies, one slice of N per row.
    pub fn bodies(&self) -> impl Iterator<Item = &[u64]> {
        self.bodies.chunks_exact(RING_DEGREE)
    }
}

impl fmt::Debug for EncryptedQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptedQuery({}, {:02x?})", self.params, self.id)
    }
}

/// A query in the Fourier domain, `[lane][row][mask, body]`: what stays in the first-level cache while groups stream by.
pub struct PreparedQuery {
    params: Params,
    id: [u8; 16],
    lanes: Vec<Lane>,
}

impl PreparedQuery {
    /// Expands the masks and transforms all rows.
    ///
    /// # Errors
    /// [`FheError::Cipher`].
    pub fn new(query: &EncryptedQuery) -> Result<Self, FheError> {
        let mut fft = Fft::new();
        let columns = 2 * query.params.rows();
        let mut lanes = fft::lanes(columns);
        for (row, body) in query.bodies().enumerate() {
            let mask = query.mask(row)?;
            fft.forward(&mask, from_torus, &mut lanes[2 * row..], columns);
            fft.forward(body, from_torus, &mut lanes[2 * row + 1..], columns);
        }
        Ok(Self { params: query.params, id: query.id, lanes })
    }

    /// The parameters it was built for.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The identifier of the query.
    pub fn id(&self) -> &[u8; 16] {
        &self.id
    }

    pub(crate) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }
}

impl fmt::Debug for PreparedQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedQuery({}, {:02x?})", self.params, self.id)
    }
}
