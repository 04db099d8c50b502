use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use casemate_fhe::stream::{Domain, mask};
use casemate_fhe::{EncryptedGroup, EncryptedQuery, EncryptedScores, Params};
use casemate_inference::{ExpectedGroup, InferenceError, Scorer, Tier};
use casemate_tier::{Endpoint, Limits, Shared};
use casemate_types::CollectionName;
use casemate_vectors::{Change, GroupRecord, SledStore, VectorStore};

use crate::{remote, serve, sled};

/// More groups than one part of an answer.
const GROUPS: u32 = 700;

struct Site {
    dir: tempfile::TempDir,
    store: Arc<SledStore>,
    alpha: CollectionName,
    expected: Vec<ExpectedGroup>,
    query: EncryptedQuery,
    direct: EncryptedScores,
}

fn random_group(params: Params, number: u32) -> EncryptedGroup {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    let bodies = (0..params.blocks()).flat_map(|j| mask(&seed, Domain::GroupMask, j + 1).unwrap());
    EncryptedGroup::from_parts(params, seed, bodies.map(|value| value as u32 & !0xff).collect()).unwrap()
}

fn random_query(params: Params, byte: u8) -> EncryptedQuery {
    let bodies = (0..params.rows()).flat_map(|row| mask(&[byte; 32], Domain::Secrets, row).unwrap());
    EncryptedQuery::from_parts(params, [byte; 16], [byte; 32], bodies.map(|value| value & !0xffff).collect()).unwrap()
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = sled(&dir.path().join("store"));
        let alpha: CollectionName = "alpha".parse().unwrap();
        let params = Params::new(16, 8).unwrap();
        let version = store.reserve_version(&alpha).unwrap();
        let record = |number| GroupRecord { version, count: 256, ciphertext: random_group(params, number).to_bytes() };
        let put_groups: Vec<_> = (0..GROUPS).map(|number| (number, record(number))).collect();
        let expected = put_groups.iter().map(|(group, record)| ExpectedGroup {
            group: *group,
            version,
            digest: record.digest(&alpha, *group),
        });
        let expected: Vec<_> = expected.collect();
        store.apply(&alpha, Change { version, put_groups, ..Change::default() }).unwrap();
        let query = random_query(params, 200);
        let direct = Tier::new(store.clone(), 0).score(&alpha, &query, &expected).unwrap();
        Self { dir, store, alpha, expected, query, direct }
    }

    fn socket(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn tier(&self, name: &str) -> Endpoint {
        serve(self.store.clone(), &self.socket(name), Limits::default())
    }

    fn score(&self, tiers: &[&Endpoint]) -> Result<EncryptedScores, InferenceError> {
        let shared = Shared::new(tiers.iter().map(|endpoint| Arc::new(remote(endpoint))));
        shared.score(&self.alpha, &self.query, &self.expected)
    }
}

/// A tier that does what it likes with each connection.
fn rogue(socket: &Path, act: impl Fn(std::os::unix::net::UnixStream) + Send + 'static) -> Endpoint {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| act(stream.unwrap())));
    Endpoint::Unix(socket.to_owned())
}

/// Answers every message with the same bytes.
fn answers(bytes: &'static [u8]) -> impl Fn(std::os::unix::net::UnixStream) + Send + 'static {
    move |mut stream| {
        let mut length = [0; 4];
        while stream.read_exact(&mut length).is_ok() {
            let mut body = vec![0; u32::from_be_bytes(length) as usize];
            if stream.read_exact(&mut body).is_err() || stream.write_all(bytes).is_err() {
                return;
            }
        }
    }
}

#[test]
fn one_tier_and_several_give_the_scores_of_this_process() {
    let site = Site::new();
    let (a, b, c) = (site.tier("a"), site.tier("b"), site.tier("c"));
    assert_eq!(site.score(&[&a]).unwrap(), site.direct);
    assert_eq!(site.score(&[&a, &b, &c]).unwrap(), site.direct);
    assert_eq!(site.score(&[&c, &a]).unwrap(), site.direct);
    let none = Shared::new([Arc::new(remote(&a))]).score(&site.alpha, &site.query, &[]).unwrap();
    assert!(none.replies().is_empty());
}

#[test]
fn share_of_a_tier_that_is_gone_goes_to_the_others() {
    let site = Site::new();
    let (a, b) = (site.tier("a"), site.tier("b"));
    let gone = Endpoint::Unix(site.socket("gone"));
    let hangs_up = rogue(&site.socket("hangs-up"), drop);
    assert_eq!(site.score(&[&gone, &a, &b]).unwrap(), site.direct);
    assert_eq!(site.score(&[&hangs_up, &a]).unwrap(), site.direct);
    assert!(matches!(site.score(&[&gone, &hangs_up]), Err(InferenceError::Remote { .. })));
}

/// `Done`, then the same again where scores are due; bytes that are no message; an end without scores.
#[test]
fn share_of_a_tier_that_lies_about_messages_goes_to_the_others() {
    let site = Site::new();
    let a = site.tier("a");
    let lies: [&[u8]; 4] = [&[0, 0, 0, 1, 0], &[0, 0, 0, 2, 99, 99], &[0xff; 16], &[0, 0, 0, 1, 12]];
    for (number, lie) in lies.into_iter().enumerate() {
        let liar = rogue(&site.socket(&format!("liar-{number}")), answers(lie));
        assert_eq!(site.score(&[&liar, &a]).unwrap(), site.direct, "{number}");
        assert!(matches!(site.score(&[&liar]), Err(InferenceError::Remote { .. })), "{number}");
    }
}

/// A tier over an old copy of the store answers that a group is not the expected one: another has it.
#[test]
fn share_of_a_tier_with_an_old_store_goes_to_the_others() {
    let site = Site::new();
    let old = sled(&site.socket("old-store"));
    let mut export = Vec::new();
    site.store.export(&mut export).unwrap();
    old.import(&mut export.as_slice()).unwrap();
    let version = old.reserve_version(&site.alpha).unwrap();
    let change = Change { version, delete_groups: (0..GROUPS).collect(), ..Change::default() };
    old.apply(&site.alpha, change).unwrap();
    let stale = serve(old, &site.socket("stale"), Limits::default());
    let a = site.tier("a");
    assert_eq!(site.score(&[&stale, &a]).unwrap(), site.direct);
    assert!(matches!(site.score(&[&stale]), Err(InferenceError::GroupMissing { .. })));
}

#[test]
fn a_tier_that_only_scores_reads_groups_from_the_one_that_keeps_them() {
    let site = Site::new();
    let keeper = site.tier("keeper");
    let scoring = UnixListener::bind(site.socket("scoring")).unwrap();
    let server = casemate_tier::TierServer::new(Arc::new(remote(&keeper)), false, 64 << 20, Limits::default());
    let server = Arc::new(server);
    std::thread::spawn(move || server.serve_unix(&scoring));
    let scoring = Endpoint::Unix(site.socket("scoring"));
    assert_eq!(site.score(&[&scoring]).unwrap(), site.direct);
    // It is no way around to the store.
    assert!(remote(&scoring).delete_collection(&site.alpha).is_err());
    assert!(remote(&scoring).documents(&site.alpha).is_err());
    assert_eq!(site.store.groups(&site.alpha).unwrap().len(), GROUPS as usize);
}
