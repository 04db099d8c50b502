//! The tier against a store that lies. Ciphertexts are random: the tier cannot tell, and no key is needed here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod counting;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use casemate_fhe::stream::{Domain, mask};
use casemate_fhe::{EncryptedGroup, EncryptedQuery, Params, PreparedQuery, PreparedTile, score};
use casemate_inference::{CacheUse, ExpectedGroup, InferenceError, Tier};
use casemate_types::CollectionName;
use casemate_vectors::{Change, GroupRecord, SledStore, VectorStore};

use crate::counting::Counting;

struct Site {
    _dir: tempfile::TempDir,
    store: Arc<SledStore>,
    alpha: CollectionName,
    params: Params,
    groups: Vec<EncryptedGroup>,
    expected: Vec<ExpectedGroup>,
}

fn random_group(params: Params, byte: u8) -> EncryptedGroup {
    let bodies = (0..params.blocks())
        .flat_map(|j| mask(&[byte; 32], Domain::GroupMask, j + 1).unwrap())
        .map(|value| value as u32 & !0xff)
        .collect();
    EncryptedGroup::from_parts(params, [byte; 32], bodies).unwrap()
}

fn random_query(params: Params, byte: u8) -> EncryptedQuery {
    let bodies = (0..params.rows()).flat_map(|row| mask(&[byte; 32], Domain::Secrets, row).unwrap());
    let bodies = bodies.map(|value| value & !0xffff).collect();
    EncryptedQuery::from_parts(params, [byte; 16], [byte; 32], bodies).unwrap()
}

impl Site {
    fn new(count: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SledStore::open(dir.path()).unwrap());
        let alpha: CollectionName = "alpha".parse().unwrap();
        let params = Params::new(16, 8).unwrap();
        let groups: Vec<_> = (0..count).map(|number| random_group(params, number as u8)).collect();
        let version = store.reserve_version(&alpha).unwrap();
        let records: Vec<_> = groups
            .iter()
            .map(|group| GroupRecord { version, count: 256, ciphertext: group.to_bytes() })
            .zip(0..)
            .map(|(record, number)| (number, record))
            .collect();
        let expected = records
            .iter()
            .map(|(group, record)| ExpectedGroup { group: *group, version, digest: record.digest(&alpha, *group) })
            .collect();
        store.apply(&alpha, Change { version, put_groups: records, ..Change::default() }).unwrap();
        Self { _dir: dir, store, alpha, params, groups, expected }
    }

    fn tier(&self, memory: usize) -> Tier {
        Tier::new(self.store.clone(), memory)
    }

    /// Puts `record` in the place of group `number` without telling the owner.
    fn replace(&self, number: u32, record: GroupRecord) {
        let version = self.store.reserve_version(&self.alpha).unwrap();
        let change = Change { version, put_groups: vec![(number, record)], ..Change::default() };
        self.store.apply(&self.alpha, change).unwrap();
    }
}

#[test]
fn every_memory_budget_gives_the_same_scores() {
    // More groups than one batch.
    let site = Site::new(70);
    let one = PreparedTile::bytes_for(&site.params);
    let query = random_query(site.params, 200);
    let prepared = PreparedTile::prepare(&site.groups).unwrap();
    let direct = score(&prepared, &PreparedQuery::new(&query).unwrap()).unwrap();
    for (memory, kept) in [(0, 0), (one - 1, 0), (one, 1), (10 * one + 5, 10), (16 * one, 16), (1000 * one, 70)] {
        let tier = site.tier(memory);
        for _ in 0..3 {
            assert_eq!(tier.score(&site.alpha, &query, &site.expected).unwrap(), direct);
            assert_eq!((tier.cache_use().groups, tier.cache_use().bytes), (kept, kept * one));
        }
    }
}

/// A collection far larger than memory, over a store that counts: each query reads what was evicted, and no more.
#[test]
fn with_memory_for_one_group_the_rest_is_rebuilt_from_the_store() {
    let site = Site::new(6);
    let one = PreparedTile::bytes_for(&site.params);
    let counting = Arc::new(Counting { store: site.store.clone(), reads: AtomicUsize::new(0) });
    let tier = Tier::new(counting.clone(), one);
    let query = random_query(site.params, 3);
    let reads = |tier: &Tier| {
        counting.reads.store(0, Ordering::Relaxed);
        tier.score(&site.alpha, &query, &site.expected).unwrap();
        counting.reads.load(Ordering::Relaxed)
    };
    assert_eq!(reads(&tier), 6);
    // One is kept; the other five are rebuilt, each time.
    assert_eq!((reads(&tier), reads(&tier)), (5, 5));
    assert_eq!(tier.cache_use(), CacheUse { groups: 1, bytes: one });
    assert_eq!(reads(&Tier::new(counting.clone(), 100 * one)), 6);
}

#[test]
fn several_queries_share_a_pass_and_score_as_each_alone() {
    let site = Site::new(11);
    let tier = site.tier(1 << 30);
    let queries: Vec<_> = (0..5).map(|byte| random_query(site.params, byte)).collect();
    let together = tier.score_many(&site.alpha, &queries, &site.expected).unwrap();
    let alone: Vec<_> = queries.iter().map(|query| tier.score(&site.alpha, query, &site.expected).unwrap()).collect();
    assert_eq!(together, alone);
    assert!(tier.score_many(&site.alpha, &[], &site.expected).unwrap().is_empty());
    let mixed = [random_query(site.params, 1), random_query(Params::new(16, 4).unwrap(), 2)];
    let error = tier.score_many(&site.alpha, &mixed, &site.expected).unwrap_err();
    assert!(matches!(error, InferenceError::Ciphertext { .. }), "{error}");
}

#[test]
fn cache_gives_way_to_the_groups_of_a_later_request() {
    let site = Site::new(4);
    let one = PreparedTile::bytes_for(&site.params);
    let tier = site.tier(2 * one);
    let query = random_query(site.params, 1);
    tier.score(&site.alpha, &query, &site.expected[..2]).unwrap();
    tier.score(&site.alpha, &query, &site.expected[2..]).unwrap();
    assert_eq!(tier.cache_use().groups, 2);
    // Groups 2 and 3 are served from memory: the store may lose them now.
    site.replace(2, GroupRecord { version: 9, count: 0, ciphertext: Vec::new() });
    tier.score(&site.alpha, &query, &site.expected[2..]).unwrap();
    assert_eq!(tier.score(&site.alpha, &query, &[]).unwrap().replies().len(), 0);
}

#[test]
fn altered_group_is_named() {
    let site = Site::new(3);
    let mut record = site.store.group(&site.alpha, 1).unwrap().unwrap();
    *record.ciphertext.last_mut().unwrap() ^= 1;
    site.replace(1, record);
    let error = site.tier(1 << 30).score(&site.alpha, &random_query(site.params, 1), &site.expected).unwrap_err();
    assert!(matches!(error, InferenceError::GroupAltered { group: 1, .. }), "{error}");
}

#[test]
fn swapped_groups_are_named() {
    let site = Site::new(2);
    let (first, second) =
        (site.store.group(&site.alpha, 0).unwrap().unwrap(), site.store.group(&site.alpha, 1).unwrap().unwrap());
    site.replace(0, second);
    site.replace(1, first);
    let error = site.tier(0).score(&site.alpha, &random_query(site.params, 1), &site.expected).unwrap_err();
    assert!(matches!(error, InferenceError::GroupAltered { .. }), "{error}");
}

#[test]
fn rolled_back_count_is_named() {
    let site = Site::new(1);
    let record = site.store.group(&site.alpha, 0).unwrap().unwrap();
    site.replace(0, GroupRecord { count: 255, ..record });
    let error = site.tier(0).score(&site.alpha, &random_query(site.params, 1), &site.expected).unwrap_err();
    assert!(matches!(error, InferenceError::GroupAltered { group: 0, .. }), "{error}");
}

#[test]
fn missing_and_outdated_groups_are_named() {
    let site = Site::new(2);
    let query = random_query(site.params, 1);
    let mut expected = site.expected.clone();
    expected[1].version += 1;
    let error = site.tier(0).score(&site.alpha, &query, &expected).unwrap_err();
    assert!(matches!(error, InferenceError::GroupVersion { group: 1, expected: 2, actual: 1, .. }), "{error}");
    expected = site.expected.clone();
    expected[0].group = 7;
    let error = site.tier(0).score(&site.alpha, &query, &expected).unwrap_err();
    assert!(matches!(error, InferenceError::GroupMissing { group: 7, .. }), "{error}");
    let beta = "beta".parse().unwrap();
    let error = site.tier(0).score(&beta, &query, &site.expected).unwrap_err();
    assert!(matches!(error, InferenceError::GroupMissing { .. }), "{error}");
}

#[test]
fn group_of_another_collection_is_refused() {
    let site = Site::new(1);
    let beta: CollectionName = "beta".parse().unwrap();
    let record = site.store.group(&site.alpha, 0).unwrap().unwrap();
    let version = site.store.reserve_version(&beta).unwrap();
    let change = Change { version, put_groups: vec![(0, record)], ..Change::default() };
    site.store.apply(&beta, change).unwrap();
    let error = site.tier(0).score(&beta, &random_query(site.params, 1), &site.expected).unwrap_err();
    assert!(matches!(error, InferenceError::GroupAltered { group: 0, .. }), "{error}");
}

#[test]
fn query_of_other_parameters_is_refused_cold_and_warm() {
    let site = Site::new(1);
    let tier = site.tier(1 << 30);
    let foreign = random_query(Params::new(16, 4).unwrap(), 1);
    for _ in 0..2 {
        let error = tier.score(&site.alpha, &foreign, &site.expected).unwrap_err();
        assert!(matches!(error, InferenceError::Params { group: 0, .. }), "{error}");
        tier.score(&site.alpha, &random_query(site.params, 1), &site.expected).unwrap();
    }
}

#[test]
fn foreign_bytes_under_a_valid_digest_are_refused() {
    let site = Site::new(1);
    let record = GroupRecord { version: 1, count: 1, ciphertext: b"no group at all".to_vec() };
    let expected = [ExpectedGroup { group: 0, version: 1, digest: record.digest(&site.alpha, 0) }];
    site.replace(0, record);
    let error = site.tier(0).score(&site.alpha, &random_query(site.params, 1), &expected).unwrap_err();
    assert!(matches!(error, InferenceError::Ciphertext { .. }), "{error}");
}
