//! Each back end against the suite for all of them, on a real server, and against that server's sudden death.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod http;
mod postgres;
mod servers;

use casemate_types::CollectionName;
use casemate_vectors::{Change, DocumentId, GroupRecord, PassageRecord, Position};

fn name(text: &str) -> CollectionName {
    text.parse().unwrap()
}

/// A change that rewrites `groups` groups and as many passages, all of which say which version they are of.
fn rewrite(version: u64, groups: u32) -> Change {
    let passage = |group: u32| {
        let position = Position { group, slot: 0 };
        let metadata = vec![("version".to_owned(), version.to_string())];
        let sealed = version.to_be_bytes().repeat(20);
        (DocumentId::from_bytes([group as u8; 16]), PassageRecord { position, metadata, sealed })
    };
    let group = |group: u32| (group, GroupRecord { version, count: 1, ciphertext: vec![version as u8; 50_000] });
    Change {
        version,
        manifest: version.to_be_bytes().to_vec(),
        put_groups: (0..groups).map(group).collect(),
        put_passages: (0..groups).map(passage).collect(),
        ..Change::default()
    }
}

/// The store holds one change whole, and which one.
fn whole(store: &dyn casemate_vectors::VectorStore, collection: &CollectionName, groups: u32) -> u64 {
    let version = store.version(collection).unwrap();
    let all: Vec<u32> = (0..groups).collect();
    let change = rewrite(version, groups);
    assert_eq!(store.manifest(collection).unwrap().unwrap(), change.manifest);
    assert_eq!(store.groups(collection).unwrap(), all);
    for (number, record) in change.put_groups {
        assert_eq!(store.group(collection, number).unwrap().unwrap(), record, "group {number} is of another change");
    }
    for (document, record) in change.put_passages {
        assert_eq!(store.passage(collection, &document).unwrap().unwrap(), record, "of another change");
    }
    let token = [("version".to_owned(), version.to_string())];
    assert_eq!(store.matching(collection, &token).unwrap().len(), groups as usize);
    assert_eq!(store.documents(collection).unwrap().len(), groups as usize);
    version
}
