use std::sync::Arc;

use rayon::prelude::*;

use crate::fft::Fft;
use crate::kernel::{self, Accumulator};
use crate::reply::SmallModulus;
use crate::{EncryptedScores, FheError, GROUPS_PER_TILE, GroupReply, PreparedQuery, PreparedTile, RING_DEGREE};

/// Queries that share one pass over the groups at most; more are taken in several passes.
pub const QUERIES_PER_PASS: usize = 4;

/// Scores every document of `tiles` against `query`, all cores of the current rayon pool. No key is involved.
///
/// # Errors
/// [`FheError::ParamsMismatch`] when a group was encrypted under other parameters.
pub fn score(tiles: &[Arc<PreparedTile>], query: &PreparedQuery) -> Result<EncryptedScores, FheError> {
    let replies: Vec<Vec<GroupReply>> = tiles
        .par_iter()
        .map_init(Worker::new, |worker, tile| {
            worker.score(tile, &[query]).map(|replies| replies.into_iter().flatten().collect())
        })
        .collect::<Result<_, _>>()?;
    Ok(EncryptedScores::with(query, replies.into_iter().flatten().collect()))
}

/// As [`score`], for several queries that share the passes over memory: one answer per query, in their order.
///
/// # Errors
/// As [`score`].
pub fn score_many(tiles: &[Arc<PreparedTile>], queries: &[PreparedQuery]) -> Result<Vec<EncryptedScores>, FheError> {
    let mut answers = Vec::with_capacity(queries.len());
    for queries in queries.chunks(QUERIES_PER_PASS) {
        let queries: Vec<&PreparedQuery> = queries.iter().collect();
        let replies: Vec<Vec<Vec<GroupReply>>> = tiles
            .par_iter()
            .map_init(Worker::new, |worker, tile| worker.score(tile, &queries))
            .collect::<Result<_, _>>()?;
        let mut of_query = vec![Vec::new(); queries.len()];
        for tile in replies {
            for (answer, replies) in of_query.iter_mut().zip(tile) {
                answer.extend(replies);
            }
        }
        answers.extend(queries.iter().zip(of_query).map(|(query, replies)| EncryptedScores::with(query, replies)));
    }
    Ok(answers)
}

/// As [`score`], on the calling thread alone, for measurements per core.
///
/// # Errors
/// As [`score`].
pub fn score_one_thread(tiles: &[Arc<PreparedTile>], query: &PreparedQuery) -> Result<EncryptedScores, FheError> {
    let mut worker = Worker::new();
    let mut replies = Vec::with_capacity(tiles.len() * GROUPS_PER_TILE);
    for tile in tiles {
        replies.extend(worker.score(tile, &[query])?.into_iter().flatten());
    }
    Ok(EncryptedScores::with(query, replies))
}

/// What one thread needs, allocated once per request.
struct Worker {
    fft: Fft,
    sums: Vec<Accumulator>,
}

impl Worker {
    fn new() -> Self {
        Self { fft: Fft::new(), sums: Vec::new() }
    }

    /// The replies of each query, one per group of the tile.
    fn score(&mut self, tile: &PreparedTile, queries: &[&PreparedQuery]) -> Result<Vec<Vec<GroupReply>>, FheError> {
        let params = *tile.params();
        if let Some(query) = queries.iter().find(|query| *query.params() != params) {
            return Err(FheError::ParamsMismatch { expected: *query.params(), actual: params });
        }
        let wanted = tile.groups() * queries.len();
        if self.sums.len() < wanted {
            self.sums.resize(wanted, Accumulator::ZERO);
        }
        let lanes: Vec<_> = queries.iter().map(|query| query.lanes()).collect();
        kernel::accumulate(tile.lanes(), tile.groups(), &lanes, params.rows(), &mut self.sums);
        let fft = &mut self.fft;
        let to_mask = SmallModulus::new(params.reply_bits());
        let to_body = SmallModulus::new(params.reply_body_bits());
        let mut reply = |sums: &Accumulator| {
            // Of the body only the coefficients that are scores are sent, and computed.
            let mut values = vec![0; RING_DEGREE + params.documents_per_group()];
            let (mask, body) = values.split_at_mut(RING_DEGREE);
            fft.inverse(&sums.mask, mask, |out, value| *out = to_mask.round(value));
            fft.inverse_every(params.block(), &sums.body, body, |out, value| *out = to_body.round(value));
            GroupReply::new(values)
        };
        let of_query = self.sums.get(..wanted).unwrap_or_default().chunks(tile.groups());
        Ok(of_query.map(|sums| sums.iter().map(&mut reply).collect()).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::stream::{self, Domain};
    use crate::{DIGIT_BITS, EncryptedGroup, EncryptedQuery, Params};

    /// Ciphertexts from fixed key streams: no key is needed to score them.
    fn fixed(params: Params) -> (EncryptedGroup, EncryptedQuery) {
        let bodies = (0..params.blocks())
            .flat_map(|j| stream::mask(&[11; 32], Domain::GroupMask, j + 1).unwrap())
            .map(|value| (value as u32) << (32 - params.body_bits()))
            .collect();
        let rows =
            (0..params.rows()).flat_map(|row| stream::mask(&[12; 32], Domain::Secrets, row).unwrap()).map(|x| x << 16);
        (
            EncryptedGroup::from_parts(params, [11; 32], bodies).unwrap(),
            EncryptedQuery::from_parts(params, [1; 16], [12; 32], rows.collect()).unwrap(),
        )
    }

    /// The sum over rows of digit times row, coefficient `k`, with integers modulo 2^64.
    fn exact(digits: &[Vec<i64>], rows: &[Vec<u64>], k: usize) -> u64 {
        digits.iter().zip(rows).fold(0_u64, |sum, (digits, row)| {
            digits.iter().enumerate().fold(sum, |sum, (i, digit)| {
                let term = (*digit as u64).wrapping_mul(row[(k + RING_DEGREE - i) % RING_DEGREE]);
                if i <= k { sum.wrapping_add(term) } else { sum.wrapping_sub(term) }
            })
        })
    }

    /// The digits of a group, straight from their definition: body = d 2^(64-B), mask = d1 2^(64-B) + d2 2^(64-2B), rounded.
    fn digits(group: &EncryptedGroup) -> Vec<Vec<i64>> {
        let round = |value: u64, low: u32| (value.wrapping_add(1 << (low - 1)) as i64) >> low;
        let (first, second) = (64 - DIGIT_BITS, 64 - 2 * DIGIT_BITS);
        let mut digits: Vec<Vec<i64>> =
            group.bodies().map(|body| body.iter().map(|body| round(u64::from(*body) << 32, first)).collect()).collect();
        let mask = group.mask().unwrap();
        // To a multiple of 2^(64-2B), then the part above 2^(64-B), then what is left.
        let rounded = |a: &u64| a.wrapping_add(1 << (second - 1)) >> second << second;
        let high = |a: &u64| round(rounded(a), first);
        let low = |a: &u64| rounded(a).wrapping_sub((high(a) as u64) << first) as i64 >> second;
        digits.push(mask.iter().map(high).collect());
        digits.push(mask.iter().map(low).collect());
        digits
    }

    /// Known answers for transform, kernel and modulus switch together: schoolbook arithmetic on integers, and pinned values of
    /// its result, so that neither can drift.
    #[test]
    fn known_answers_of_the_scoring_path() {
        for (dimension, block, body_bits, pinned) in [(20, 8, 32, PINNED_32), (40, 32, 24, PINNED_24)] {
            let params = Params::new(dimension, block).unwrap().with_body_bits(body_bits).unwrap();
            let (group, query) = fixed(params);
            let tile = Arc::new(PreparedTile::new(std::slice::from_ref(&group)).unwrap());
            let scores = score(&[tile], &PreparedQuery::new(&query).unwrap()).unwrap();
            let reply = &scores.replies()[0];
            let digits = digits(&group);
            let masks: Vec<Vec<u64>> = (0..params.rows()).map(|row| query.mask(row).unwrap()).collect();
            let bodies: Vec<Vec<u64>> = query.bodies().map(<[u64]>::to_vec).collect();
            let near = |value: u32, exact: u64, bits: u32| {
                let modulus = 1_i64 << bits;
                let off = (i64::from(value) - (exact >> (64 - bits)) as i64).rem_euclid(modulus);
                assert!(off <= 1 || off == modulus - 1, "{params}: {value} for {exact:x}");
            };
            for k in (0..RING_DEGREE).step_by(97) {
                near(reply.mask()[k], exact(&digits, &masks, k), params.reply_bits());
            }
            for slot in (0..params.documents_per_group()).step_by(7) {
                let exact = exact(&digits, &bodies, params.score_coefficient(slot));
                near(reply.bodies()[slot], exact, params.reply_body_bits());
            }
            assert_eq!([exact(&digits, &masks, 0), exact(&digits, &bodies, RING_DEGREE - 1)], pinned, "{params}");
        }
    }

    const PINNED_32: [u64; 2] = [1_327_152_850_258_843_267, 6_664_503_167_824_363_520];
    const PINNED_24: [u64; 2] = [10_942_825_239_788_235_446, 10_274_005_941_101_723_648];

    #[test]
    fn several_queries_in_a_pass_score_as_each_alone() {
        let params = Params::new(30, 8).unwrap();
        let (group, _) = fixed(params);
        let tiles = PreparedTile::prepare(&vec![group; 11]).unwrap();
        assert_eq!(tiles.iter().map(|tile| tile.groups()).collect::<Vec<_>>(), [8, 3]);
        let queries: Vec<PreparedQuery> = (0..6_u8)
            .map(|n| {
                let rows = (0..params.rows()).flat_map(|row| stream::mask(&[n; 32], Domain::Secrets, row).unwrap());
                let query = EncryptedQuery::from_parts(params, [n; 16], [n; 32], rows.map(|x| x << 16).collect());
                PreparedQuery::new(&query.unwrap()).unwrap()
            })
            .collect();
        let alone: Vec<_> = queries.iter().map(|query| score(&tiles, query).unwrap()).collect();
        assert_eq!(score_many(&tiles, &queries).unwrap(), alone);
        assert_eq!(alone[0].replies().len(), 11);
        assert!(alone[0].replies() != alone[1].replies());
    }
}
