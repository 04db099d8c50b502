//! What a database must offer so that [`EntryStore`](crate::EntryStore) makes a store of it: an ordered map of bytes.

use std::collections::BTreeMap;

use casemate_types::CollectionName;

use crate::{Position, VectorsError};

/// One state of the map.
pub trait Entries {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VectorsError>;

    /// The keys that begin with `prefix`, without their values. Only prefixes among [`scopes`](crate::scopes) are asked for.
    fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, VectorsError>;

    /// Hands every key that begins with `prefix` to `each`, with its value, always in the same order. Prefixes as for [`Self::keys`].
    fn pairs(&self, prefix: &[u8], each: &mut Each<'_>) -> Result<(), VectorsError>;
}

/// Takes a key and its value.
pub type Each<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), VectorsError> + 'a;

/// Hands entries to what it is given, until there are no more.
pub type Feed<'a> = dyn FnMut(&mut Each<'_>) -> Result<(), VectorsError> + 'a;

/// Entries to put (a value) and to remove (none). Of several for one key the last counts.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    entries: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    hints: Vec<Hints>,
}

/// The hints of a group, or of all groups, replaced by others or by none.
#[derive(Debug, Clone)]
pub struct Hints {
    /// The collection.
    pub collection: CollectionName,
    /// Which group; none stands for all.
    pub group: Option<u32>,
    /// A vector a slot.
    pub vectors: Vec<Vec<f32>>,
}

impl Batch {
    /// Puts an entry.
    pub fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.entries.insert(key, Some(value));
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.entries.insert(key, None);
    }

    /// Replaces hints. A database without [`Database::HINTS`] has none, and passes over this.
    pub fn replace_hints(&mut self, hints: Hints) {
        self.hints.push(hints);
    }

    /// The hints to replace, in this order.
    pub fn take_hints(&mut self) -> Vec<Hints> {
        std::mem::take(&mut self.hints)
    }
}

impl IntoIterator for Batch {
    type Item = (Vec<u8>, Option<Vec<u8>>);
    type IntoIter = std::collections::btree_map::IntoIter<Vec<u8>, Option<Vec<u8>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

/// A database, shared between threads and, where it is a server, between processes.
///
/// Every method fails with [`VectorsError::Backend`] when the database does, and with what `work` fails with.
pub trait Database: Send + Sync {
    /// Whether it keeps hints and finds them again.
    const HINTS: bool = false;

    /// Looks at one state of the map.
    fn read<T>(&self, work: impl FnOnce(&dyn Entries) -> Result<T, VectorsError>) -> Result<T, VectorsError>;

    /// Looks at the map, and applies the batch that `work` fills: atomically, durably, and with no other writer between.
    /// Where `work` fails nothing is changed.
    fn write<T>(
        &self,
        work: impl FnOnce(&dyn Entries, &mut Batch) -> Result<T, VectorsError>,
    ) -> Result<T, VectorsError>;

    /// Fills an empty map with what `feed` hands over; it is empty again after any failure, a crash included.
    ///
    /// # Errors
    /// [`VectorsError::NotEmpty`].
    fn fill(&self, feed: &mut Feed<'_>) -> Result<(), VectorsError>;

    /// As [`VectorStore::nearest`](crate::VectorStore::nearest).
    ///
    /// # Errors
    /// [`VectorsError::NoIndex`] where there are no [hints](Self::HINTS).
    fn nearest(&self, collection: &CollectionName, hint: &[f32], count: u32) -> Result<Vec<Position>, VectorsError> {
        let _ = (hint, count);
        Err(VectorsError::NoIndex { collection: collection.clone() })
    }

    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VectorsError> {
        self.read(|entries| entries.get(key))
    }
}
