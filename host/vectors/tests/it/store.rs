use casemate_vectors::{Change, Position, SledStore, VectorStore, VectorsError};

use crate::{apply, group, id, name, passage};

fn at(group: u32, slot: u32) -> Position {
    Position { group, slot }
}

fn tokens(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn added_documents_are_found_by_id_position_and_token() {
    let dir = tempfile::tempdir().unwrap();
    let alpha = name("alpha");
    let store = SledStore::open(dir.path()).unwrap();
    let version = apply(&store, &alpha, |change| {
        change.put_groups = vec![(0, group(1, 3))];
        change.put_passages = vec![
            (id(1), passage(0, 0, &[("year", "t1"), ("kind", "k1")])),
            (id(2), passage(0, 1, &[("year", "t1"), ("kind", "k2")])),
            (id(3), passage(0, 2, &[("year", "t2"), ("kind", "k1")])),
        ];
    });
    drop(store);
    let store = SledStore::open(dir.path()).unwrap();
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

#[test]
fn other_collections_see_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    apply(&store, &name("alpha"), |change| {
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

#[test]
fn deletion_and_re_ingest_leave_no_trace_in_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let alpha = name("alpha");
    let store = SledStore::open(dir.path()).unwrap();
    apply(&store, &alpha, |change| {
        change.put_groups = vec![(0, group(1, 2)), (1, group(1, 1))];
        change.put_passages = vec![
            (id(1), passage(0, 0, &[("f", "old")])),
            (id(2), passage(0, 1, &[("f", "v")])),
            (id(3), passage(1, 0, &[("f", "v")])),
        ];
    });
    // Document 2 goes, 3 takes its place, 1 is ingested again with other metadata.
    apply(&store, &alpha, |change| {
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

#[test]
fn documents_may_trade_places() {
    let dir = tempfile::tempdir().unwrap();
    let alpha = name("alpha");
    let store = SledStore::open(dir.path()).unwrap();
    apply(&store, &alpha, |change| {
        change.put_passages = vec![(id(1), passage(0, 0, &[("f", "1")])), (id(2), passage(0, 1, &[("f", "2")]))];
    });
    apply(&store, &alpha, |change| {
        change.put_passages = vec![(id(1), passage(0, 1, &[("f", "1")])), (id(2), passage(0, 0, &[("f", "2")]))];
    });
    assert_eq!(store.document_at(&alpha, at(0, 0)).unwrap(), Some(id(2)));
    assert_eq!(store.matching(&alpha, &tokens(&[("f", "1")])).unwrap(), [at(0, 1)]);
}

#[test]
fn contradictory_changes_are_named_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let alpha = name("alpha");
    let store = SledStore::open(dir.path()).unwrap();
    apply(&store, &alpha, |change| change.put_passages = vec![(id(1), passage(0, 0, &[]))]);
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

#[test]
fn stale_and_invented_versions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let alpha = name("alpha");
    let store = SledStore::open(dir.path()).unwrap();
    let (first, second) = (store.reserve_version(&alpha).unwrap(), store.reserve_version(&alpha).unwrap());
    let change = |version| Change { version, ..Change::default() };
    store.apply(&alpha, change(second)).unwrap();
    for version in [0, first, second, second + 1, u64::MAX] {
        assert!(matches!(store.apply(&alpha, change(version)), Err(VectorsError::StaleVersion { .. })), "{version}");
    }
}

#[test]
fn versions_never_repeat_even_after_deletion() {
    let dir = tempfile::tempdir().unwrap();
    let (alpha, beta) = (name("alpha"), name("beta"));
    let store = SledStore::open(dir.path()).unwrap();
    let fill = |change: &mut Change| {
        change.put_groups = vec![(0, group(1, 1))];
        change.put_passages = vec![(id(1), passage(0, 0, &[("f", "v")]))];
    };
    let version = apply(&store, &alpha, fill);
    apply(&store, &beta, fill);
    store.delete_collection(&alpha).unwrap();
    assert_eq!(store.collections().unwrap(), std::slice::from_ref(&beta));
    assert_eq!(store.manifest(&alpha).unwrap(), None);
    assert!(store.groups(&alpha).unwrap().is_empty() && store.documents(&alpha).unwrap().is_empty());
    assert!(store.matching(&alpha, &tokens(&[("f", "v")])).unwrap().is_empty());
    assert_eq!(store.documents(&beta).unwrap().len(), 1);
    drop(store);
    let store = SledStore::open(dir.path()).unwrap();
    assert!(store.reserve_version(&alpha).unwrap() > version);
}

#[test]
fn second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let _store = SledStore::open(dir.path()).unwrap();
    assert!(matches!(SledStore::open(dir.path()), Err(VectorsError::Backend { .. })));
}
