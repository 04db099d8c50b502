use casemate_fhe::{EncryptedQuery, EncryptedScores, TierModel};
use casemate_types::CollectionName;

use crate::{ExpectedGroup, InferenceError, Tier};

/// Whoever scores: this process's own [`Tier`], one behind a socket, several of them. The owner trusts none and checks every
/// answer; see `docs/encrypted-search.md`.
pub trait Scorer: Send + Sync {
    /// Scores every document of the expected groups: one reply per group, in the order of `expected`.
    ///
    /// # Errors
    /// What the tier says it cannot do. Nothing may be concluded from it, or from the lack of it.
    fn score(
        &self,
        collection: &CollectionName,
        query: &EncryptedQuery,
        expected: &[ExpectedGroup],
    ) -> Result<EncryptedScores, InferenceError>;

    /// The encrypted logits of a query under a model: one reply, a slot for each class. Whoever does not have the model yet is sent
    /// it; nobody is sent what its classes are called.
    ///
    /// # Errors
    /// As [`Self::score`].
    fn classify(&self, model: &TierModel, query: &EncryptedQuery) -> Result<EncryptedScores, InferenceError>;
}

impl Scorer for Tier {
    fn score(
        &self,
        collection: &CollectionName,
        query: &EncryptedQuery,
        expected: &[ExpectedGroup],
    ) -> Result<EncryptedScores, InferenceError> {
        Self::score(self, collection, query, expected)
    }

    fn classify(&self, model: &TierModel, query: &EncryptedQuery) -> Result<EncryptedScores, InferenceError> {
        self.keep_model(model)?;
        self.classify_with(&model.digest(), query)
    }
}
