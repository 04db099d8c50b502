use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use casemate_fhe::{EncryptedQuery, EncryptedScores, FheError, PreparedQuery, PreparedTile, TierModel, score};
use casemate_types::Digest;

use crate::{InferenceError, Tier};

/// Models that a tier keeps at a time: 13 MB at 384 dimensions, 135 MB at 4,096. Whose model is gone sends it again.
const KEPT: usize = 16;

/// The models that were used last, the last one at the end.
#[derive(Default)]
pub(crate) struct Models(Mutex<VecDeque<(Digest, Arc<PreparedTile>)>>);

impl Models {
    fn find(&self, digest: &Digest) -> Option<Arc<PreparedTile>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(held, _)| held == digest)?;
        let found = kept.remove(place)?;
        let tile = Arc::clone(&found.1);
        kept.push_back(found);
        Some(tile)
    }

    fn keep(&self, digest: Digest, tile: Arc<PreparedTile>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(held, _)| *held != digest);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((digest, tile));
    }
}

impl Tier {
    /// Prepares a model and keeps it, under the digest of its bytes, until others push it out.
    ///
    /// # Errors
    /// [`InferenceError::Model`].
    pub fn keep_model(&self, model: &TierModel) -> Result<(), InferenceError> {
        if self.models.find(&model.digest()).is_none() {
            self.models.keep(model.digest(), model.prepare().map_err(refused)?);
        }
        Ok(())
    }

    /// The encrypted logits of a query under a model that is kept: one group, a slot for each class.
    ///
    /// # Errors
    /// [`InferenceError::ModelMissing`], and [`InferenceError::Model`] for a query of other parameters.
    pub fn classify_with(&self, model: &Digest, query: &EncryptedQuery) -> Result<EncryptedScores, InferenceError> {
        let tile = self.models.find(model).ok_or(InferenceError::ModelMissing { model: *model })?;
        if tile.params() != query.params() {
            let (expected, actual) = (*tile.params(), *query.params());
            return Err(refused(FheError::ParamsMismatch { expected, actual }));
        }
        score(&[tile], &PreparedQuery::new(query).map_err(refused)?).map_err(refused)
    }
}

fn refused(source: FheError) -> InferenceError {
    InferenceError::Model { source }
}
