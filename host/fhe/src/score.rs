use std::sync::Arc;

use rayon::prelude::*;

use crate::fft::Fft;
use crate::kernel::{self, Accumulator, GROUPS_PER_TILE};
use crate::reply::switch_modulus;
use crate::{EncryptedScores, FheError, GroupReply, PreparedGroup, PreparedQuery, RING_DEGREE};

/// Scores every document of `groups` against `query`, all cores of the current rayon pool. No key is involved.
///
/// # Errors
/// [`FheError::ParamsMismatch`] when a group was encrypted under other parameters.
pub fn score(groups: &[Arc<PreparedGroup>], query: &PreparedQuery) -> Result<EncryptedScores, FheError> {
    let tiles: Vec<Vec<GroupReply>> = groups
        .par_chunks(GROUPS_PER_TILE)
        .map_init(Worker::new, |worker, groups| worker.score(groups, query))
        .collect::<Result<_, _>>()?;
    Ok(EncryptedScores::with(query, tiles.into_iter().flatten().collect()))
}

/// The same on the calling thread alone, for measurements per core.
///
/// # Errors
/// As [`score`].
pub fn score_one_thread(groups: &[Arc<PreparedGroup>], query: &PreparedQuery) -> Result<EncryptedScores, FheError> {
    let mut worker = Worker::new();
    let mut replies = Vec::with_capacity(groups.len());
    for groups in groups.chunks(GROUPS_PER_TILE) {
        replies.extend(worker.score(groups, query)?);
    }
    Ok(EncryptedScores::with(query, replies))
}

/// What one thread needs, allocated once per request.
struct Worker {
    fft: Fft,
    sums: Vec<Accumulator>,
    body: Vec<u32>,
}

impl Worker {
    fn new() -> Self {
        Self { fft: Fft::new(), sums: vec![Accumulator::ZERO; GROUPS_PER_TILE], body: vec![0; RING_DEGREE] }
    }

    fn score(&mut self, groups: &[Arc<PreparedGroup>], query: &PreparedQuery) -> Result<Vec<GroupReply>, FheError> {
        let params = *query.params();
        if let Some(group) = groups.iter().find(|group| *group.params() != params) {
            return Err(FheError::ParamsMismatch { expected: params, actual: *group.params() });
        }
        let lanes: Vec<_> = groups.iter().map(|group| group.lanes()).collect();
        kernel::accumulate(&lanes, query.lanes(), params.rows(), &mut self.sums);
        let replies = self.sums.iter().take(groups.len()).map(|sums| {
            let mut values = Vec::with_capacity(RING_DEGREE + params.documents_per_group());
            values.resize(RING_DEGREE, 0);
            self.fft.inverse(&sums.mask, &mut values, |out, value| *out = switch_modulus(value));
            self.fft.inverse(&sums.body, &mut self.body, |out, value| *out = switch_modulus(value));
            values.extend(self.body.iter().skip(params.block() - 1).step_by(params.block()));
            GroupReply::new(values)
        });
        Ok(replies.collect())
    }
}
