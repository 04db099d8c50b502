use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_fhe::{EncryptedGroup, EncryptedQuery, EncryptedScores, FheError, Params, PreparedGroup, PreparedQuery};
use casemate_types::{CollectionName, Digest};
use casemate_vectors::{GroupEntry, VectorStore};
use rayon::prelude::*;

use crate::InferenceError;
use crate::cache::Cache;

/// Groups scored at a time: bounds the memory for groups that do not fit the cache to about 50 MB at 384 dimensions.
const BATCH: usize = 64;

/// A group the owner expects: number, version, and [`GroupRecord::digest`](casemate_vectors::GroupRecord::digest).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedGroup {
    /// Number of the group.
    pub group: u32,
    /// The version in which it was encrypted.
    pub version: u64,
    /// Digest of its record.
    pub digest: Digest,
}

impl From<&GroupEntry> for ExpectedGroup {
    fn from(entry: &GroupEntry) -> Self {
        Self { group: entry.group, version: entry.version, digest: entry.digest }
    }
}

/// How full the cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheUse {
    /// Prepared groups kept.
    pub groups: usize,
    /// Bytes they take.
    pub bytes: usize,
}

/// Scores queries over a store. Shared between threads; cores are those of the current rayon pool.
pub struct Tier {
    store: Arc<dyn VectorStore>,
    cache: Mutex<Cache>,
}

impl Tier {
    /// A tier over `store` that keeps up to `memory` bytes of prepared groups (3,200 per document at 384 dimensions).
    pub fn new(store: Arc<dyn VectorStore>, memory: usize) -> Self {
        Self { store, cache: Mutex::new(Cache::new(memory)) }
    }

    /// Scores every document of the expected groups: one reply per group, in the order of `expected`.
    ///
    /// # Errors
    /// A group that is missing, altered, of another version or of other parameters, by number; nothing is scored then.
    pub fn score(
        &self,
        collection: &CollectionName,
        query: &EncryptedQuery,
        expected: &[ExpectedGroup],
    ) -> Result<EncryptedScores, InferenceError> {
        let refuse = |source: FheError| InferenceError::Ciphertext { collection: collection.clone(), source };
        let prepared_query = PreparedQuery::new(query).map_err(refuse)?;
        let mut scores = EncryptedScores::empty(&prepared_query);
        let cached = self.cache().begin(expected.iter().map(|expected| expected.digest));
        for (expected, cached) in expected.chunks(BATCH).zip(cached.chunks(BATCH)) {
            let groups = expected
                .par_iter()
                .zip(cached)
                .map(|(expected, cached)| match cached {
                    Some(group) => {
                        same_params(collection, expected, group.params(), query.params()).map(|()| group.clone())
                    }
                    None => self.load(collection, expected, query.params()),
                })
                .collect::<Result<Vec<_>, _>>()?;
            scores.append(casemate_fhe::score(&groups, &prepared_query).map_err(refuse)?).map_err(refuse)?;
        }
        Ok(scores)
    }

    /// How full the cache is.
    pub fn cache_use(&self) -> CacheUse {
        let (groups, bytes) = self.cache().used();
        CacheUse { groups, bytes }
    }

    /// Reads, checks and prepares a group, and keeps it if there is room.
    fn load(
        &self,
        collection: &CollectionName,
        expected: &ExpectedGroup,
        params: &Params,
    ) -> Result<Arc<PreparedGroup>, InferenceError> {
        let ExpectedGroup { group, version, digest } = *expected;
        let collection = || collection.clone();
        let record = self
            .store
            .group(&collection(), group)
            .map_err(|source| InferenceError::Store { collection: collection(), source })?
            .ok_or_else(|| InferenceError::GroupMissing { collection: collection(), group })?;
        if record.version != version {
            let (expected, actual) = (version, record.version);
            return Err(InferenceError::GroupVersion { collection: collection(), group, expected, actual });
        }
        // Before anything parses the bytes.
        if record.digest(&collection(), group) != digest {
            return Err(InferenceError::GroupAltered { collection: collection(), group });
        }
        let refuse = |source| InferenceError::Ciphertext { collection: collection(), source };
        let encrypted = EncryptedGroup::from_bytes(&record.ciphertext).map_err(refuse)?;
        same_params(&collection(), expected, encrypted.params(), params)?;
        let prepared = Arc::new(PreparedGroup::new(&encrypted).map_err(refuse)?);
        self.cache().offer(digest, &prepared);
        Ok(prepared)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // A panic elsewhere leaves at worst an entry too few.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same_params(
    collection: &CollectionName,
    group: &ExpectedGroup,
    actual: &Params,
    expected: &Params,
) -> Result<(), InferenceError> {
    if actual == expected {
        return Ok(());
    }
    let (collection, group) = (collection.clone(), group.group);
    Err(InferenceError::Params { collection, group, expected: *expected, actual: *actual })
}
