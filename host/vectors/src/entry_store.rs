use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use casemate_types::CollectionName;

use crate::database::{Database, Entries, Hints};
use crate::key::{self, Kind};
use crate::{Change, DocumentId, GroupRecord, PassageRecord, Position, VectorStore, VectorsError, transfer};

/// Largest blob accepted, below what an export record can hold.
const MAX_BLOB: usize = 1 << 30;
const MAX_TOKEN: usize = 65_535;

/// A vector store over an ordered map of bytes: one layout for every database, so that what one exports another imports.
pub struct EntryStore<D> {
    pub(crate) database: D,
}

impl<D: Database> EntryStore<D> {
    /// The store in `database`.
    pub fn new(database: D) -> Self {
        Self { database }
    }

    /// What it lies in.
    pub fn database(&self) -> &D {
        &self.database
    }
}

impl<D: Database> VectorStore for EntryStore<D> {
    fn reserve_version(&self, collection: &CollectionName) -> Result<u64, VectorsError> {
        self.database.write(|entries, batch| {
            let key = key::prefix(Kind::Counter, collection);
            let next = number(entries, &key)?
                .checked_add(1)
                .ok_or_else(|| VectorsError::VersionsExhausted { collection: collection.clone() })?;
            batch.insert(key, next.to_be_bytes().to_vec());
            Ok(next)
        })
    }

    fn apply(&self, collection: &CollectionName, change: Change) -> Result<(), VectorsError> {
        check(collection, &change)?;
        if !D::HINTS && !change.hints.is_empty() {
            return Err(VectorsError::NoIndex { collection: collection.clone() });
        }
        let version = change.version;
        let done = self.database.write(|entries, batch| {
            let head = key::prefix(Kind::Head, collection);
            let applied = number(entries, &head)?;
            let reserved = number(entries, &key::prefix(Kind::Counter, collection))?;
            if version <= applied || version > reserved {
                return Err(VectorsError::StaleVersion { collection: collection.clone(), version, applied });
            }
            // First everything old goes, then everything new comes, so that documents may trade places.
            let mut freed = BTreeSet::new();
            for document in change.delete_passages.iter().chain(change.put_passages.iter().map(|(id, _)| id)) {
                let key = key::passage(collection, document);
                let Some(old) = entries.get(&key)? else { continue };
                let old = PassageRecord::decode(&old)?;
                batch.remove(key);
                batch.remove(key::slot(collection, old.position));
                for token in &old.metadata {
                    batch.remove(key::token(collection, token, old.position));
                }
                freed.insert(old.position);
            }
            for (document, passage) in &change.put_passages {
                let slot = key::slot(collection, passage.position);
                if !freed.contains(&passage.position)
                    && let Some(other) = entries.get(&slot)?
                {
                    let (collection, position) = (collection.clone(), passage.position);
                    return Err(VectorsError::PositionTaken { collection, position, document: document_id(&other)? });
                }
                batch.insert(slot, document.as_bytes().to_vec());
                batch.insert(key::passage(collection, document), passage.encode());
                for token in &passage.metadata {
                    batch.insert(key::token(collection, token, passage.position), Vec::new());
                }
            }
            let groups = change.delete_groups.iter().chain(change.put_groups.iter().map(|(group, _)| group));
            for group in groups {
                let mut hints = change.hints.iter().filter(|(of, _)| of == group);
                let vectors = hints.next().map(|(_, vectors)| vectors.clone()).unwrap_or_default();
                batch.replace_hints(Hints { collection: collection.clone(), group: Some(*group), vectors });
            }
            for group in change.delete_groups {
                batch.remove(key::group(collection, group));
            }
            for (group, record) in change.put_groups {
                batch.insert(key::group(collection, group), record.encode());
            }
            batch.insert(head, [&version.to_be_bytes(), change.manifest.as_slice()].concat());
            Ok(())
        });
        match done {
            // A server may have applied the change and died before it said so. Versions are drawn once: this one is this change.
            Err(VectorsError::Backend { .. }) if self.version(collection).is_ok_and(|found| found == version) => Ok(()),
            done => done,
        }
    }

    fn version(&self, collection: &CollectionName) -> Result<u64, VectorsError> {
        leading_number(self.database.get(&key::prefix(Kind::Head, collection))?)
    }

    fn manifest(&self, collection: &CollectionName) -> Result<Option<Vec<u8>>, VectorsError> {
        let head = self.database.get(&key::prefix(Kind::Head, collection))?;
        head.map(|bytes| bytes.get(8..).map(<[u8]>::to_vec).ok_or(VectorsError::Malformed { what: "a manifest" }))
            .transpose()
    }

    fn group(&self, collection: &CollectionName, group: u32) -> Result<Option<GroupRecord>, VectorsError> {
        self.database.get(&key::group(collection, group))?.map(|bytes| GroupRecord::decode(&bytes)).transpose()
    }

    fn groups(&self, collection: &CollectionName) -> Result<Vec<u32>, VectorsError> {
        let prefix = key::prefix(Kind::Group, collection);
        let keys = self.database.read(|entries| entries.keys(&prefix))?;
        let mut groups = keys
            .iter()
            .map(|key| {
                let malformed = VectorsError::Malformed { what: "a group's key" };
                let number = key.get(prefix.len()..).and_then(|tail| tail.try_into().ok()).ok_or(malformed)?;
                Ok(u32::from_be_bytes(number))
            })
            .collect::<Result<Vec<_>, VectorsError>>()?;
        groups.sort_unstable();
        Ok(groups)
    }

    fn passage(
        &self,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<PassageRecord>, VectorsError> {
        self.database.get(&key::passage(collection, document))?.map(|bytes| PassageRecord::decode(&bytes)).transpose()
    }

    fn document_at(&self, collection: &CollectionName, position: Position) -> Result<Option<DocumentId>, VectorsError> {
        self.database.get(&key::slot(collection, position))?.map(|bytes| document_id(&bytes)).transpose()
    }

    fn documents(&self, collection: &CollectionName) -> Result<Vec<(Position, DocumentId)>, VectorsError> {
        let mut documents = Vec::new();
        self.database.read(|entries| {
            entries.pairs(&key::prefix(Kind::Slot, collection), &mut |key, value| {
                documents.push((key::trailing_position(key)?, document_id(value)?));
                Ok(())
            })
        })?;
        documents.sort_unstable();
        Ok(documents)
    }

    fn matching(
        &self,
        collection: &CollectionName,
        tokens: &[(String, String)],
    ) -> Result<Vec<Position>, VectorsError> {
        let found = self.database.read(|entries| {
            let mut found: Option<BTreeSet<Position>> = None;
            for (field, value) in tokens {
                let these = positions(entries, &key::token_prefix(collection, field, value))?;
                found = Some(match found {
                    Some(found) => &found & &these,
                    None => these,
                });
            }
            match found {
                Some(found) => Ok(found),
                None => positions(entries, &key::prefix(Kind::Slot, collection)),
            }
        })?;
        Ok(found.into_iter().collect())
    }

    fn nearest(&self, collection: &CollectionName, hint: &[f32], count: u32) -> Result<Vec<Position>, VectorsError> {
        self.database.nearest(collection, hint, count)
    }

    fn collections(&self) -> Result<Vec<CollectionName>, VectorsError> {
        let malformed = || VectorsError::Malformed { what: "a collection's key" };
        let keys = self.database.read(|entries| entries.keys(&[Kind::Head as u8]))?;
        let mut names = keys
            .iter()
            .map(|key| key::parse(key).map(|(_, name)| name).ok_or_else(malformed))
            .collect::<Result<Vec<_>, _>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn delete_collection(&self, collection: &CollectionName) -> Result<(), VectorsError> {
        self.database.write(|entries, batch| {
            batch.replace_hints(Hints { collection: collection.clone(), group: None, vectors: Vec::new() });
            for kind in Kind::CONTENT {
                entries.keys(&key::prefix(kind, collection))?.into_iter().for_each(|key| batch.remove(key));
            }
            Ok(())
        })
    }

    fn export(&self, to: &mut dyn Write) -> Result<(), VectorsError> {
        self.database.read(|entries| transfer::write(to, |each| entries.pairs(&[], each)))
    }

    fn import(&self, from: &mut dyn Read) -> Result<(), VectorsError> {
        self.database.fill(&mut |each| transfer::read(from, |key, value| each(&key, &value)))
    }
}

fn number(entries: &dyn Entries, key: &[u8]) -> Result<u64, VectorsError> {
    leading_number(entries.get(key)?)
}

/// The number a value begins with; 0 where there is none.
fn leading_number(value: Option<Vec<u8>>) -> Result<u64, VectorsError> {
    let Some(value) = value else { return Ok(0) };
    let malformed = VectorsError::Malformed { what: "a version" };
    value.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes)).ok_or(malformed)
}

fn positions(entries: &dyn Entries, prefix: &[u8]) -> Result<BTreeSet<Position>, VectorsError> {
    let keys = entries.keys(prefix)?.into_iter();
    keys.filter(|key| key.len() == prefix.len() + 8).map(|key| key::trailing_position(&key)).collect()
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
    for (group, vectors) in &change.hints {
        let documents = change.put_groups.iter().find(|(put, _)| put == group).map(|(_, record)| record.count as usize);
        if documents != Some(vectors.len()) {
            return Err(VectorsError::Malformed { what: "hints of a group" });
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
