use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_fhe::{
    EncryptedGroup, EncryptedQuery, EncryptedScores, FheError, GROUPS_PER_TILE, Params, PreparedQuery, PreparedTile,
};
use casemate_types::{CollectionName, Digest};
use casemate_vectors::{GroupEntry, VectorStore};
use rayon::prelude::*;

use crate::InferenceError;
use crate::cache::Cache;
use crate::models::Models;

/// Groups scored at a time: bounds the memory for groups that do not fit the cache to about 50 MB at 384 dimensions.
const BATCH: usize = 64;
/// A tile takes at most this share of the memory: what is evicted or kept at a time.
const TILES_IN_MEMORY: usize = 8;

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
    memory: usize,
    cache: Mutex<Cache>,
    pub(crate) models: Models,
}

impl Tier {
    /// A tier over `store` that keeps up to `memory` bytes of prepared groups (3,200 per document at 384 dimensions).
    ///
    /// A collection may be larger: what does not fit is prepared anew from the store for each query.
    pub fn new(store: Arc<dyn VectorStore>, memory: usize) -> Self {
        Self { store, memory, cache: Mutex::new(Cache::new(memory)), models: Models::default() }
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
        let mut scores = self.score_many(collection, std::slice::from_ref(query), expected)?;
        scores.pop().ok_or_else(|| refused(collection, FheError::Range { what: "encrypted scores" }))
    }

    /// As [`Self::score`], for several queries of the same parameters that share each pass over memory.
    ///
    /// # Errors
    /// As [`Self::score`]; nothing is scored then for any of them.
    pub fn score_many(
        &self,
        collection: &CollectionName,
        queries: &[EncryptedQuery],
        expected: &[ExpectedGroup],
    ) -> Result<Vec<EncryptedScores>, InferenceError> {
        let refuse = |source| refused(collection, source);
        let Some(first) = queries.first() else { return Ok(Vec::new()) };
        let params = *first.params();
        if let Some(other) = queries.iter().find(|query| *query.params() != params) {
            return Err(refuse(FheError::ParamsMismatch { expected: params, actual: *other.params() }));
        }
        let prepared = queries.iter().map(PreparedQuery::new).collect::<Result<Vec<_>, _>>().map_err(refuse)?;
        let mut scores: Vec<EncryptedScores> = prepared.iter().map(EncryptedScores::empty).collect();

        let each = (self.memory / TILES_IN_MEMORY / PreparedTile::bytes_for(&params)).clamp(1, GROUPS_PER_TILE);
        let tiles = tiles(expected, each);
        let names: Vec<Digest> = tiles.iter().map(|groups| name(groups)).collect();
        let cached = self.cache().begin(names.iter().copied());
        let wanted: Vec<_> = tiles.into_iter().zip(names).zip(cached).collect();
        for wanted in wanted.chunks(BATCH / each) {
            let tiles = wanted
                .par_iter()
                .map(|((groups, name), cached)| match cached {
                    Some(tile) => same_params(collection, groups, tile.params(), &params).map(|()| tile.clone()),
                    None => self.load(collection, groups, *name, &params),
                })
                .collect::<Result<Vec<_>, _>>()?;
            let more = casemate_fhe::score_many(&tiles, &prepared).map_err(refuse)?;
            for (scores, more) in scores.iter_mut().zip(more) {
                scores.append(more).map_err(refuse)?;
            }
        }
        Ok(scores)
    }

    /// How full the cache is.
    pub fn cache_use(&self) -> CacheUse {
        let (groups, bytes) = self.cache().used();
        CacheUse { groups, bytes }
    }

    /// Reads, checks and prepares the groups of a tile, and keeps it if there is room.
    fn load(
        &self,
        collection: &CollectionName,
        groups: &[ExpectedGroup],
        name: Digest,
        params: &Params,
    ) -> Result<Arc<PreparedTile>, InferenceError> {
        let encrypted =
            groups.iter().map(|expected| self.read(collection, expected, params)).collect::<Result<Vec<_>, _>>()?;
        let tile = PreparedTile::new(&encrypted).map_err(|source| refused(collection, source))?;
        let tile = Arc::new(tile);
        self.cache().offer(name, &tile);
        Ok(tile)
    }

    fn read(
        &self,
        collection: &CollectionName,
        expected: &ExpectedGroup,
        params: &Params,
    ) -> Result<EncryptedGroup, InferenceError> {
        let ExpectedGroup { group, version, digest } = *expected;
        let owned = || collection.clone();
        let record = self
            .store
            .group(collection, group)
            .map_err(|source| InferenceError::Store { collection: owned(), source })?
            .ok_or_else(|| InferenceError::GroupMissing { collection: owned(), group })?;
        if record.version != version {
            let (expected, actual) = (version, record.version);
            return Err(InferenceError::GroupVersion { collection: owned(), group, expected, actual });
        }
        // Before anything parses the bytes.
        if record.digest(collection, group) != digest {
            return Err(InferenceError::GroupAltered { collection: owned(), group });
        }
        let encrypted = EncryptedGroup::from_bytes(&record.ciphertext).map_err(|source| refused(collection, source))?;
        same_params(collection, std::slice::from_ref(expected), encrypted.params(), params)?;
        Ok(encrypted)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // A panic elsewhere leaves at worst an entry too few.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is prepared together: `each` groups of consecutive numbers, the first a multiple of `each`; any other group alone. So a search of
/// a few groups finds what searches of other few have prepared.
fn tiles(mut expected: &[ExpectedGroup], each: usize) -> Vec<&[ExpectedGroup]> {
    let mut tiles = Vec::new();
    while let Some(first) = expected.first() {
        let consecutive = |groups: &&[ExpectedGroup]| groups.iter().zip(first.group..).all(|(each, n)| each.group == n);
        let aligned = (first.group as usize).is_multiple_of(each);
        let whole = expected.get(..each).filter(|_| aligned).filter(consecutive);
        let (tile, rest) = expected.split_at(whole.map_or(1, <[_]>::len));
        tiles.push(tile);
        expected = rest;
    }
    tiles
}

/// Names a tile by the digests of its groups, in their order.
fn name(groups: &[ExpectedGroup]) -> Digest {
    let digests: Vec<&[u8]> = groups.iter().map(|group| group.digest.as_bytes().as_slice()).collect();
    Digest::of_parts(&digests)
}

fn refused(collection: &CollectionName, source: FheError) -> InferenceError {
    InferenceError::Ciphertext { collection: collection.clone(), source }
}

/// A tile's groups have one set of parameters; its first group stands for it.
fn same_params(
    collection: &CollectionName,
    groups: &[ExpectedGroup],
    actual: &Params,
    expected: &Params,
) -> Result<(), InferenceError> {
    if actual == expected {
        return Ok(());
    }
    let (collection, group) = (collection.clone(), groups.first().map_or(0, |group| group.group));
    Err(InferenceError::Params { collection, group, expected: *expected, actual: *actual })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_of_few_groups_shares_tiles_with_others() {
        let groups = |numbers: &[u32]| -> Vec<ExpectedGroup> {
            numbers.iter().map(|group| ExpectedGroup { group: *group, version: 1, digest: Digest::of(b"") }).collect()
        };
        let sizes =
            |numbers: &[u32], each| tiles(&groups(numbers), each).iter().map(|tile| tile.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 4), [4, 4, 1, 1]);
        assert_eq!(sizes(&[1, 2, 3, 4, 8, 9, 11], 4), [1; 7]);
        assert_eq!(sizes(&[3, 4, 5, 6, 7, 9], 4), [1, 4, 1]);
        assert_eq!(sizes(&[5, 6], 1), [1, 1]);
        assert_eq!(sizes(&[], 8), []);
    }
}
