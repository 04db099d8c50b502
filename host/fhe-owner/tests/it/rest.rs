//! What reaches the disk: planted vectors, passages and metadata must not be found there.

use std::collections::HashSet;
use std::path::Path;

use casemate_fhe::{EncryptedGroup, Params};
use casemate_fhe_owner::DataKey;
use casemate_types::CollectionName;
use casemate_vectors::{Change, DocumentId, GroupRecord, PassageRecord, Position, SledStore, VectorStore};
use zeroize::Zeroizing;

use crate::{encrypt, key, serve, unit_vectors};

const PASSAGE: &[u8] = b"the courier crosses at the northern bridge on tuesday";

fn files(directory: &Path) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(std::fs::read(path).unwrap()) }
    }
    out
}

fn holds(files: &[Vec<u8>], needle: &[u8]) -> bool {
    files.iter().any(|file| file.windows(needle.len()).any(|window| window == needle))
}

#[test]
fn no_plaintext_vector_or_passage_reaches_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path()).unwrap();
    let alpha: CollectionName = "alpha".parse().unwrap();
    let key = key(1, Params::default());
    let data_key = DataKey::from_bytes(&Zeroizing::new([2; 32])).unwrap();
    let documents = unit_vectors(40, 384, 1);
    let id = DocumentId::from_bytes([7; 16]);

    let version = store.reserve_version(&alpha).unwrap();
    let ciphertext = encrypt(&key, &documents).remove(0).to_bytes();
    let sealed = data_key.seal("a passage", &[b"alpha", id.as_bytes()], PASSAGE).unwrap();
    let passage = PassageRecord { position: Position { group: 0, slot: 0 }, metadata: Vec::new(), sealed };
    let record = GroupRecord { version, count: 40, ciphertext };
    let digest = record.digest(&alpha, 0);
    store
        .apply(
            &alpha,
            Change {
                version,
                put_groups: vec![(0, record)],
                put_passages: vec![(id, passage)],
                manifest: data_key.seal("a manifest", &[b"alpha"], b"one group").unwrap(),
                ..Change::default()
            },
        )
        .unwrap();
    drop(store);

    // The search itself works: a planted pattern is found.
    std::fs::write(dir.path().join("planted"), [b"xx".as_slice(), &documents[3][5].to_le_bytes(), PASSAGE].concat())
        .unwrap();
    assert!(holds(&files(dir.path()), PASSAGE) && holds(&files(dir.path()), &documents[3][5].to_le_bytes()));
    std::fs::remove_file(dir.path().join("planted")).unwrap();

    let files = files(dir.path());
    assert!(files.iter().map(Vec::len).sum::<usize>() > 294_912);
    assert!(!holds(&files, &PASSAGE[..12]));
    let pairs: HashSet<[u8; 8]> = documents
        .iter()
        .flat_map(|vector| vector.as_chunks::<2>().0)
        .flat_map(|pair| [pair.map(f32::to_le_bytes), pair.map(f32::to_be_bytes)])
        .filter_map(|bytes| bytes.as_flattened().try_into().ok())
        .collect();
    assert_eq!(pairs.len(), 40 * 192 * 2);
    assert!(files.iter().flat_map(|file| file.array_windows()).all(|window| !pairs.contains(window)));

    // And what is there still answers.
    let store = SledStore::open(dir.path()).unwrap();
    let record = store.group(&alpha, 0).unwrap().unwrap();
    assert_eq!(record.digest(&alpha, 0), digest);
    let group = EncryptedGroup::from_bytes(&record.ciphertext).unwrap();
    let (query, secret) = key.query(&documents[3]).unwrap();
    let scores = secret.decrypt(&serve(&[group], &query), &[40]).unwrap().concat();
    assert!((scores[3] - 1.0).abs() < 1e-3);
    let passage = store.passage(&alpha, &id).unwrap().unwrap();
    assert_eq!(*data_key.open("a passage", &[b"alpha", id.as_bytes()], &passage.sealed).unwrap(), PASSAGE);
}
