use casemate_vectors::{SledStore, VectorStore, VectorsError};

use crate::{apply, group, id, name, passage};

fn filled(dir: &std::path::Path) -> SledStore {
    let store = SledStore::open(dir).unwrap();
    for collection in ["alpha", "beta"] {
        apply(&store, &name(collection), |change| {
            change.put_groups = vec![(0, group(1, 1)), (7, group(2, 1))];
            change.put_passages = vec![(id(1), passage(0, 0, &[("f", "v")]))];
        });
    }
    store
}

#[test]
fn export_and_import_give_the_same_store() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = filled(from.path());
    let mut stream = Vec::new();
    source.export(&mut stream).unwrap();
    let target = SledStore::open(to.path()).unwrap();
    target.import(&mut stream.as_slice()).unwrap();
    let mut again = Vec::new();
    target.export(&mut again).unwrap();
    assert_eq!(stream, again);
    assert_eq!(target.reserve_version(&name("alpha")).unwrap(), 2);
    assert!(matches!(target.import(&mut stream.as_slice()), Err(VectorsError::NotEmpty)));
}

#[test]
fn damaged_export_leaves_the_store_empty() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut stream = Vec::new();
    filled(from.path()).export(&mut stream).unwrap();
    let target = SledStore::open(to.path()).unwrap();
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
        assert!(matches!(target.import(&mut &*bytes), Err(VectorsError::Import { .. })), "{what}");
        assert!(target.collections().unwrap().is_empty(), "{what}");
    }
    target.import(&mut stream.as_slice()).unwrap();
}
