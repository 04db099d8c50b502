//! A store that counts how often a group is read.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use casemate_types::CollectionName;
use casemate_vectors::{
    Change, DocumentId, GroupRecord, PassageRecord, Position, SledStore, VectorStore, VectorsError,
};

type Result<T> = std::result::Result<T, VectorsError>;

pub struct Counting {
    pub store: Arc<SledStore>,
    pub reads: AtomicUsize,
}

impl VectorStore for Counting {
    fn group(&self, collection: &CollectionName, group: u32) -> Result<Option<GroupRecord>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.group(collection, group)
    }

    fn reserve_version(&self, collection: &CollectionName) -> Result<u64> {
        self.store.reserve_version(collection)
    }

    fn apply(&self, collection: &CollectionName, change: Change) -> Result<()> {
        self.store.apply(collection, change)
    }

    fn version(&self, collection: &CollectionName) -> Result<u64> {
        self.store.version(collection)
    }

    fn manifest(&self, collection: &CollectionName) -> Result<Option<Vec<u8>>> {
        self.store.manifest(collection)
    }

    fn groups(&self, collection: &CollectionName) -> Result<Vec<u32>> {
        self.store.groups(collection)
    }

    fn passage(&self, collection: &CollectionName, document: &DocumentId) -> Result<Option<PassageRecord>> {
        self.store.passage(collection, document)
    }

    fn document_at(&self, collection: &CollectionName, position: Position) -> Result<Option<DocumentId>> {
        self.store.document_at(collection, position)
    }

    fn documents(&self, collection: &CollectionName) -> Result<Vec<(Position, DocumentId)>> {
        self.store.documents(collection)
    }

    fn matching(&self, collection: &CollectionName, tokens: &[(String, String)]) -> Result<Vec<Position>> {
        self.store.matching(collection, tokens)
    }

    fn collections(&self) -> Result<Vec<CollectionName>> {
        self.store.collections()
    }

    fn delete_collection(&self, collection: &CollectionName) -> Result<()> {
        self.store.delete_collection(collection)
    }

    fn export(&self, to: &mut dyn Write) -> Result<()> {
        self.store.export(to)
    }

    fn import(&self, from: &mut dyn Read) -> Result<()> {
        self.store.import(from)
    }
}
