use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use casemate_types::CollectionName;
use sled::Batch;

use crate::key::{self, Kind};
use crate::{Change, DocumentId, GroupRecord, PassageRecord, Position, VectorStore, VectorsError, transfer};

/// Largest blob accepted, below what the back end and an export record can hold.
const MAX_BLOB: usize = 1 << 30;
const MAX_TOKEN: usize = 65_535;
/// Present while an import runs, so that a crash in the middle leaves an empty store. Sorts behind all other keys: a
/// clearing that is cut short has not removed it yet.
const IMPORTING: &[u8] = b"~importing";

/// The default back end: one directory, one ordered map.
pub struct SledStore {
    db: sled::Db,
    /// Readers that look twice see one state; a change reads and writes as one step.
    lock: RwLock<()>,
}

impl SledStore {
    /// Opens or creates the store in `directory`. One process at a time.
    ///
    /// # Errors
    /// [`VectorsError::Backend`] when the directory cannot be opened or another process holds it.
    pub fn open(directory: &Path) -> Result<Self, VectorsError> {
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(64 << 20)
            // Changes are flushed where they are applied.
            .flush_every_ms(None);
        // A process that is just being started may hold a copy of the database's lock until it runs: wait a little.
        let mut patience = 40;
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                Err(sled::Error::Io(_)) if patience > 0 => {
                    patience -= 1;
                    std::thread::sleep(std::time::Duration::from_millis(25));
                }
                Err(error) => return Err(backend("open the vector store")(error)),
            }
        };
        let store = Self { db, lock: RwLock::new(()) };
        if store.get(IMPORTING)?.is_some() {
            store.clear()?;
        }
        Ok(store)
    }

    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, VectorsError> {
        self.db.get(key).map_err(backend("read the vector store"))
    }

    fn scan(&self, prefix: Vec<u8>) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec), VectorsError>> + use<> {
        self.db.scan_prefix(prefix).map(|entry| entry.map_err(backend("read the vector store")))
    }

    fn commit(&self, batch: Batch) -> Result<(), VectorsError> {
        self.db.apply_batch(batch).map_err(backend("write the vector store"))?;
        self.flush()
    }

    pub(crate) fn flush(&self) -> Result<(), VectorsError> {
        self.db.flush().map(drop).map_err(backend("flush the vector store"))
    }

    fn clear(&self) -> Result<(), VectorsError> {
        self.db.clear().map_err(backend("clear the vector store"))?;
        self.flush()
    }

    fn number(&self, key: &[u8]) -> Result<u64, VectorsError> {
        let Some(value) = self.get(key)? else {
            return Ok(0);
        };
        let malformed = VectorsError::Malformed { what: "a version" };
        value.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes)).ok_or(malformed)
    }

    fn passage_unlocked(
        &self,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<PassageRecord>, VectorsError> {
        self.get(&key::passage(collection, document))?.map(|bytes| PassageRecord::decode(&bytes)).transpose()
    }

    fn positions(&self, prefix: Vec<u8>) -> Result<BTreeSet<Position>, VectorsError> {
        let len = prefix.len() + 8;
        self.scan(prefix)
            .filter(|entry| entry.as_ref().map_or(true, |(key, _)| key.len() == len))
            .map(|entry| key::trailing_position(&entry?.0))
            .collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, ()> {
        // The lock guards no data of its own: a panic elsewhere leaves nothing half done.
        self.lock.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.lock.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VectorStore for SledStore {
    fn reserve_version(&self, collection: &CollectionName) -> Result<u64, VectorsError> {
        let _guard = self.write();
        let key = key::prefix(Kind::Counter, collection);
        let next = self
            .number(&key)?
            .checked_add(1)
            .ok_or_else(|| VectorsError::VersionsExhausted { collection: collection.clone() })?;
        let mut batch = Batch::default();
        batch.insert(key, next.to_be_bytes().as_slice());
        self.commit(batch)?;
        Ok(next)
    }

    fn apply(&self, collection: &CollectionName, change: Change) -> Result<(), VectorsError> {
        check(collection, &change)?;
        let _guard = self.write();
        let head = key::prefix(Kind::Head, collection);
        let applied = self.number(&head)?;
        let reserved = self.number(&key::prefix(Kind::Counter, collection))?;
        if change.version <= applied || change.version > reserved {
            let (collection, version) = (collection.clone(), change.version);
            return Err(VectorsError::StaleVersion { collection, version, applied });
        }

        // First everything old goes, then everything new comes, so that documents may trade places.
        let mut batch = Batch::default();
        let mut freed = BTreeSet::new();
        for document in change.delete_passages.iter().chain(change.put_passages.iter().map(|(id, _)| id)) {
            if let Some(old) = self.passage_unlocked(collection, document)? {
                batch.remove(key::passage(collection, document));
                batch.remove(key::slot(collection, old.position));
                for token in &old.metadata {
                    batch.remove(key::token(collection, token, old.position));
                }
                freed.insert(old.position);
            }
        }
        for (document, passage) in &change.put_passages {
            let slot = key::slot(collection, passage.position);
            if !freed.contains(&passage.position)
                && let Some(other) = self.get(&slot)?
            {
                let (collection, position) = (collection.clone(), passage.position);
                return Err(VectorsError::PositionTaken { collection, position, document: document_id(&other)? });
            }
            batch.insert(slot, document.as_bytes().as_slice());
            batch.insert(key::passage(collection, document), passage.encode());
            for token in &passage.metadata {
                batch.insert(key::token(collection, token, passage.position), &[]);
            }
        }
        for group in change.delete_groups {
            batch.remove(key::group(collection, group));
        }
        for (group, record) in change.put_groups {
            batch.insert(key::group(collection, group), record.encode());
        }
        batch.insert(head, [&change.version.to_be_bytes(), change.manifest.as_slice()].concat());
        self.commit(batch)
    }

    fn version(&self, collection: &CollectionName) -> Result<u64, VectorsError> {
        self.number(&key::prefix(Kind::Head, collection))
    }

    fn manifest(&self, collection: &CollectionName) -> Result<Option<Vec<u8>>, VectorsError> {
        let head = self.get(&key::prefix(Kind::Head, collection))?;
        head.map(|bytes| bytes.get(8..).map(<[u8]>::to_vec).ok_or(VectorsError::Malformed { what: "a manifest" }))
            .transpose()
    }

    fn group(&self, collection: &CollectionName, group: u32) -> Result<Option<GroupRecord>, VectorsError> {
        self.get(&key::group(collection, group))?.map(|bytes| GroupRecord::decode(&bytes)).transpose()
    }

    fn groups(&self, collection: &CollectionName) -> Result<Vec<u32>, VectorsError> {
        let _guard = self.read();
        let prefix = key::prefix(Kind::Group, collection);
        let start = prefix.len();
        self.scan(prefix)
            .map(|entry| {
                let malformed = VectorsError::Malformed { what: "a group's key" };
                let (key, _) = entry?;
                let number = key.get(start..).and_then(|tail| tail.try_into().ok()).ok_or(malformed)?;
                Ok(u32::from_be_bytes(number))
            })
            .collect()
    }

    fn passage(
        &self,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<PassageRecord>, VectorsError> {
        self.passage_unlocked(collection, document)
    }

    fn document_at(&self, collection: &CollectionName, position: Position) -> Result<Option<DocumentId>, VectorsError> {
        self.get(&key::slot(collection, position))?.map(|bytes| document_id(&bytes)).transpose()
    }

    fn documents(&self, collection: &CollectionName) -> Result<Vec<(Position, DocumentId)>, VectorsError> {
        let _guard = self.read();
        self.scan(key::prefix(Kind::Slot, collection))
            .map(|entry| {
                let (key, value) = entry?;
                Ok((key::trailing_position(&key)?, document_id(&value)?))
            })
            .collect()
    }

    fn matching(
        &self,
        collection: &CollectionName,
        tokens: &[(String, String)],
    ) -> Result<Vec<Position>, VectorsError> {
        let _guard = self.read();
        let mut found: Option<BTreeSet<Position>> = None;
        for (field, value) in tokens {
            let these = self.positions(key::token_prefix(collection, field, value))?;
            found = Some(match found {
                Some(found) => &found & &these,
                None => these,
            });
        }
        let found = match found {
            Some(found) => found,
            None => self.positions(key::prefix(Kind::Slot, collection))?,
        };
        Ok(found.into_iter().collect())
    }

    fn collections(&self) -> Result<Vec<CollectionName>, VectorsError> {
        self.scan(vec![Kind::Head as u8])
            .map(|entry| {
                let malformed = VectorsError::Malformed { what: "a collection's key" };
                Ok(key::parse(&entry?.0).ok_or(malformed)?.1)
            })
            .collect()
    }

    fn delete_collection(&self, collection: &CollectionName) -> Result<(), VectorsError> {
        let _guard = self.write();
        let mut batch = Batch::default();
        for kind in Kind::CONTENT {
            for entry in self.scan(key::prefix(kind, collection)) {
                batch.remove(entry?.0);
            }
        }
        self.commit(batch)
    }

    fn export(&self, to: &mut dyn Write) -> Result<(), VectorsError> {
        let _guard = self.read();
        transfer::write(to, self.scan(Vec::new()))
    }

    fn import(&self, from: &mut dyn Read) -> Result<(), VectorsError> {
        let _guard = self.write();
        if !self.db.is_empty() {
            return Err(VectorsError::NotEmpty);
        }
        let mut batch = Batch::default();
        batch.insert(IMPORTING, &[]);
        self.commit(batch)?;
        let imported = transfer::read(from, |key, value| {
            self.db.insert(key, value).map(drop).map_err(backend("write the vector store"))
        });
        match imported {
            Ok(()) => {
                self.flush()?;
                let mut batch = Batch::default();
                batch.remove(IMPORTING);
                self.commit(batch)
            }
            Err(error) => {
                self.clear()?;
                Err(error)
            }
        }
    }
}

/// What can be refused without looking at the store.
fn check(collection: &CollectionName, change: &Change) -> Result<(), VectorsError> {
    let duplicate = |what: String| VectorsError::Duplicate { collection: collection.clone(), what };
    let too_long = |what| VectorsError::TooLong { collection: collection.clone(), what };
    let mut documents = BTreeSet::new();
    let mut positions = BTreeMap::new();
    for document in change.delete_passages.iter().chain(change.put_passages.iter().map(|(id, _)| id)) {
        if !documents.insert(document) {
            return Err(duplicate(format!("document {document}")));
        }
    }
    for (document, passage) in &change.put_passages {
        if positions.insert(passage.position, document).is_some() {
            return Err(duplicate(passage.position.to_string()));
        }
        if passage.metadata.iter().any(|(field, value)| field.len().max(value.len()) > MAX_TOKEN) {
            return Err(too_long("a metadata token"));
        }
        if passage.sealed.len() > MAX_BLOB {
            return Err(too_long("a passage"));
        }
    }
    let mut groups = BTreeSet::new();
    for group in change.delete_groups.iter().chain(change.put_groups.iter().map(|(group, _)| group)) {
        if !groups.insert(group) {
            return Err(duplicate(format!("group {group}")));
        }
    }
    if change.put_groups.iter().any(|(_, record)| record.ciphertext.len() > MAX_BLOB) {
        return Err(too_long("a group"));
    }
    if change.manifest.len() > MAX_BLOB {
        return Err(too_long("a manifest"));
    }
    Ok(())
}

fn document_id(bytes: &[u8]) -> Result<DocumentId, VectorsError> {
    let malformed = VectorsError::Malformed { what: "a document identifier" };
    bytes.try_into().map(DocumentId::from_bytes).map_err(|_| malformed)
}

pub(crate) fn backend(action: &'static str) -> impl Fn(sled::Error) -> VectorsError + Copy {
    move |source| VectorsError::Backend { action, source: Box::new(source) }
}
