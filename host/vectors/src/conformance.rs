//! What every back end must do, as a suite that a back end's author runs against a real one: [`check`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a suite of tests: it ends by panicking")]

use std::sync::Arc;

use casemate_types::CollectionName;

use crate::{Change, DocumentId, GroupRecord, PassageRecord, Position, VectorStore, VectorsError};

/// How the suite gets at stores of the back end under test.
pub trait BackEnd {
    /// A store that holds nothing and shares nothing with those before.
    fn empty(&self) -> Arc<dyn VectorStore>;

    /// The same store after whatever serves it was restarted.
    fn reopen(&self, store: Arc<dyn VectorStore>) -> Arc<dyn VectorStore>;
}

/// Runs every rule, and ends in a panic at the first that the back end breaks. `each` is told the rule's name before.
pub fn check(back_end: &dyn BackEnd, mut each: impl FnMut(&str)) {
    type Rule = fn(&dyn BackEnd);
    let rules: [(&str, Rule); 9] = [
        ("added documents are found by id position and token", added_documents_are_found_by_id_position_and_token),
        ("other collections see nothing", other_collections_see_nothing),
        ("deletion and re ingest leave no trace in the index", deletion_and_re_ingest_leave_no_trace_in_the_index),
        ("documents may trade places", documents_may_trade_places),
        ("contradictory changes are named and change nothing", contradictory_changes_are_named_and_change_nothing),
        ("stale and invented versions are refused", stale_and_invented_versions_are_refused),
        ("versions never repeat even after deletion", versions_never_repeat_even_after_deletion),
        ("export and import give the same store", export_and_import_give_the_same_store),
        ("damaged export leaves the store empty", damaged_export_leaves_the_store_empty),
    ];
    for (name, rule) in rules {
        each(name);
        rule(back_end);
    }
}

fn name(text: &str) -> CollectionName {
    text.parse().unwrap()
}

fn id(byte: u8) -> DocumentId {
    DocumentId::from_bytes([byte; 16])
}

fn passage(group: u32, slot: u32, tokens: &[(&str, &str)]) -> PassageRecord {
    PassageRecord {
        position: Position { group, slot },
        metadata: tokens.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect(),
        sealed: format!("sealed {group} {slot}").into_bytes(),
    }
}

fn group(version: u64, count: u32) -> GroupRecord {
    GroupRecord { version, count, ciphertext: vec![version as u8; 50_000] }
}

/// Reserves a version and applies what `fill` puts into the change.
fn apply(store: &dyn VectorStore, collection: &CollectionName, fill: impl FnOnce(&mut Change)) -> u64 {
    let version = store.reserve_version(collection).unwrap();
    let mut change = Change { version, manifest: version.to_be_bytes().to_vec(), ..Change::default() };
    fill(&mut change);
    store.apply(collection, change).unwrap();
    version
}

fn filled(back_end: &dyn BackEnd) -> Arc<dyn VectorStore> {
    let store = back_end.empty();
    for collection in ["alpha", "beta"] {
        apply(&*store, &name(collection), |change| {
            change.put_groups = vec![(0, group(1, 1)), (7, group(2, 1))];
            change.put_passages = vec![(id(1), passage(0, 0, &[("f", "v")]))];
        });
    }
    store
}

fn at(group: u32, slot: u32) -> Position {
    Position { group, slot }
}

fn tokens(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
}

fn added_documents_are_found_by_id_position_and_token(back_end: &dyn BackEnd) {
    let alpha = name("alpha");
    let store = back_end.empty();
    let version = apply(&*store, &alpha, |change| {
        change.put_groups = vec![(0, group(1, 3))];
        change.put_passages = vec![
            (id(1), passage(0, 0, &[("year", "t1"), ("kind", "k1")])),
            (id(2), passage(0, 1, &[("year", "t1"), ("kind", "k2")])),
            (id(3), passage(0, 2, &[("year", "t2"), ("kind", "k1")])),
        ];
    });
    let store = back_end.reopen(store);
    assert_eq!(store.version(&alpha).unwrap(), version);
    assert_eq!(store.manifest(&alpha).unwrap(), Some(version.to_be_bytes().to_vec()));
    assert_eq!(store.group(&alpha, 0).unwrap(), Some(group(1, 3)));
    assert_eq!(store.groups(&alpha).unwrap(), [0]);
    assert_eq!(store.passage(&alpha, &id(2)).unwrap().unwrap().sealed, b"sealed 0 1");
    assert_eq!(store.document_at(&alpha, at(0, 2)).unwrap(), Some(id(3)));
    assert_eq!(store.matching(&alpha, &tokens(&[("year", "t1")])).unwrap(), [at(0, 0), at(0, 1)]);
    assert_eq!(store.matching(&alpha, &tokens(&[("year", "t1"), ("kind", "k1")])).unwrap(), [at(0, 0)]);
    assert_eq!(store.matching(&alpha, &tokens(&[("year", "t3")])).unwrap(), []);
    assert_eq!(store.matching(&alpha, &tokens(&[("year", "t")])).unwrap(), []);
    assert_eq!(store.matching(&alpha, &[]).unwrap().len(), 3);
    assert_eq!(store.collections().unwrap(), [alpha]);
}

fn other_collections_see_nothing(back_end: &dyn BackEnd) {
    let store = back_end.empty();
    apply(&*store, &name("alpha"), |change| {
        change.put_groups = vec![(0, group(1, 1))];
        change.put_passages = vec![(id(1), passage(0, 0, &[("a", "b")]))];
    });
    for other in ["alph", "alphabet", "beta"] {
        let other = name(other);
        assert_eq!(store.group(&other, 0).unwrap(), None);
        assert_eq!(store.passage(&other, &id(1)).unwrap(), None);
        assert!(store.documents(&other).unwrap().is_empty());
        assert!(store.matching(&other, &tokens(&[("a", "b")])).unwrap().is_empty());
        assert_eq!(store.version(&other).unwrap(), 0);
    }
}

fn deletion_and_re_ingest_leave_no_trace_in_the_index(back_end: &dyn BackEnd) {
    let alpha = name("alpha");
    let store = back_end.empty();
    apply(&*store, &alpha, |change| {
        change.put_groups = vec![(0, group(1, 2)), (1, group(1, 1))];
        change.put_passages = vec![
            (id(1), passage(0, 0, &[("f", "old")])),
            (id(2), passage(0, 1, &[("f", "v")])),
            (id(3), passage(1, 0, &[("f", "v")])),
        ];
    });
    // Document 2 goes, 3 takes its place, 1 is ingested again with other metadata.
    apply(&*store, &alpha, |change| {
        change.put_groups = vec![(0, group(2, 2))];
        change.delete_groups = vec![1];
        change.delete_passages = vec![id(2)];
        change.put_passages = vec![(id(3), passage(0, 1, &[("f", "v")])), (id(1), passage(0, 0, &[("f", "new")]))];
    });
    assert_eq!(store.groups(&alpha).unwrap(), [0]);
    assert_eq!(store.group(&alpha, 0).unwrap().unwrap().version, 2);
    assert_eq!(store.passage(&alpha, &id(2)).unwrap(), None);
    assert_eq!(store.documents(&alpha).unwrap(), [(at(0, 0), id(1)), (at(0, 1), id(3))]);
    assert_eq!(store.matching(&alpha, &tokens(&[("f", "v")])).unwrap(), [at(0, 1)]);
    assert_eq!(store.matching(&alpha, &tokens(&[("f", "old")])).unwrap(), []);
    assert_eq!(store.matching(&alpha, &tokens(&[("f", "new")])).unwrap(), [at(0, 0)]);
}

fn documents_may_trade_places(back_end: &dyn BackEnd) {
    let alpha = name("alpha");
    let store = back_end.empty();
    apply(&*store, &alpha, |change| {
        change.put_passages = vec![(id(1), passage(0, 0, &[("f", "1")])), (id(2), passage(0, 1, &[("f", "2")]))];
    });
    apply(&*store, &alpha, |change| {
        change.put_passages = vec![(id(1), passage(0, 1, &[("f", "1")])), (id(2), passage(0, 0, &[("f", "2")]))];
    });
    assert_eq!(store.document_at(&alpha, at(0, 0)).unwrap(), Some(id(2)));
    assert_eq!(store.matching(&alpha, &tokens(&[("f", "1")])).unwrap(), [at(0, 1)]);
}

fn contradictory_changes_are_named_and_change_nothing(back_end: &dyn BackEnd) {
    let alpha = name("alpha");
    let store = back_end.empty();
    apply(&*store, &alpha, |change| change.put_passages = vec![(id(1), passage(0, 0, &[]))]);
    let before = store.documents(&alpha).unwrap();
    let refuse = |fill: &dyn Fn(&mut Change)| {
        let mut change = Change { version: store.reserve_version(&alpha).unwrap(), ..Change::default() };
        fill(&mut change);
        store.apply(&alpha, change).unwrap_err()
    };
    assert!(matches!(
        refuse(&|change| change.put_passages = vec![(id(2), passage(0, 0, &[]))]),
        VectorsError::PositionTaken { document, .. } if document == id(1)
    ));
    assert!(matches!(
        refuse(&|change| change.put_passages = vec![(id(2), passage(1, 0, &[])), (id(3), passage(1, 0, &[]))]),
        VectorsError::Duplicate { .. }
    ));
    assert!(matches!(
        refuse(&|change| {
            change.delete_passages = vec![id(2)];
            change.put_passages = vec![(id(2), passage(1, 0, &[]))];
        }),
        VectorsError::Duplicate { .. }
    ));
    assert!(matches!(
        refuse(&|change| {
            change.delete_groups = vec![4];
            change.put_groups = vec![(4, group(1, 1))];
        }),
        VectorsError::Duplicate { .. }
    ));
    let long = "x".repeat(65_536);
    assert!(matches!(
        refuse(&|change| change.put_passages = vec![(id(2), passage(1, 0, &[("f", &long)]))]),
        VectorsError::TooLong { .. }
    ));
    assert_eq!(store.documents(&alpha).unwrap(), before);
    assert_eq!(store.version(&alpha).unwrap(), 1);
}

fn stale_and_invented_versions_are_refused(back_end: &dyn BackEnd) {
    let alpha = name("alpha");
    let store = back_end.empty();
    let (first, second) = (store.reserve_version(&alpha).unwrap(), store.reserve_version(&alpha).unwrap());
    let change = |version| Change { version, ..Change::default() };
    store.apply(&alpha, change(second)).unwrap();
    for version in [0, first, second, second + 1, u64::MAX] {
        assert!(matches!(store.apply(&alpha, change(version)), Err(VectorsError::StaleVersion { .. })), "{version}");
    }
}

fn versions_never_repeat_even_after_deletion(back_end: &dyn BackEnd) {
    let (alpha, beta) = (name("alpha"), name("beta"));
    let store = back_end.empty();
    let fill = |change: &mut Change| {
        change.put_groups = vec![(0, group(1, 1))];
        change.put_passages = vec![(id(1), passage(0, 0, &[("f", "v")]))];
    };
    let version = apply(&*store, &alpha, fill);
    apply(&*store, &beta, fill);
    store.delete_collection(&alpha).unwrap();
    assert_eq!(store.collections().unwrap(), std::slice::from_ref(&beta));
    assert_eq!(store.manifest(&alpha).unwrap(), None);
    assert!(store.groups(&alpha).unwrap().is_empty() && store.documents(&alpha).unwrap().is_empty());
    assert!(store.matching(&alpha, &tokens(&[("f", "v")])).unwrap().is_empty());
    assert_eq!(store.documents(&beta).unwrap().len(), 1);
    let store = back_end.reopen(store);
    assert!(store.reserve_version(&alpha).unwrap() > version);
}

fn export_and_import_give_the_same_store(back_end: &dyn BackEnd) {
    let source = filled(back_end);
    let mut stream = Vec::new();
    source.export(&mut stream).unwrap();
    let target = back_end.empty();
    target.import(&mut stream.as_slice()).unwrap();
    let mut again = Vec::new();
    target.export(&mut again).unwrap();
    assert_eq!(stream, again);
    assert_eq!(target.reserve_version(&name("alpha")).unwrap(), 2);
    assert!(matches!(target.import(&mut stream.as_slice()), Err(VectorsError::NotEmpty)));
}

fn damaged_export_leaves_the_store_empty(back_end: &dyn BackEnd) {
    let mut stream = Vec::new();
    filled(back_end).export(&mut stream).unwrap();
    let target = back_end.empty();
    let mut flipped = stream.clone();
    flipped[stream.len() / 2] ^= 1;
    let mut trailing = stream.clone();
    trailing.push(0);
    let mut key = stream.clone();
    key[24] = b'!';
    let mut long = stream.clone();
    long[16] = 0xff;
    let cut = &stream[..stream.len() - 1];
    let short = &stream[..1000];
    for (what, bytes) in [
        ("flipped bit", flipped.as_slice()),
        ("trailing byte", &trailing),
        ("foreign key", &key),
        ("long record", &long),
        ("cut checksum", cut),
        ("cut record", short),
        ("nothing", &[]),
        ("other file", b"something else entirely"),
    ] {
        assert!(target.import(&mut &*bytes).is_err(), "{what}");
        assert!(target.collections().unwrap().is_empty(), "{what}");
    }
    target.import(&mut stream.as_slice()).unwrap();
}
