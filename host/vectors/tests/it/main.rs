//! The store against re-ingest, filters, deletion, damage and sudden death.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod crash;
mod store;

use casemate_types::CollectionName;
use casemate_vectors::{Change, DocumentId, GroupRecord, PassageRecord, Position, VectorStore};

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
