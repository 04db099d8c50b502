use std::io::{Read, Write};

use casemate_types::CollectionName;

use crate::{DocumentId, GroupRecord, PassageRecord, Position, VectorsError};

/// One step of a collection from version to version: applied whole or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// From [`VectorStore::reserve_version`].
    pub version: u64,
    /// Groups to add or replace.
    pub put_groups: Vec<(u32, GroupRecord)>,
    /// Groups to remove.
    pub delete_groups: Vec<u32>,
    /// Passages to add, or to replace with their position and metadata.
    pub put_passages: Vec<(DocumentId, PassageRecord)>,
    /// Passages to remove with their metadata; unknown ones are ignored.
    pub delete_passages: Vec<DocumentId>,
    /// For groups among `put_groups`, where a site asked for it: a vector a slot, perturbed by the owner, by which
    /// [`VectorStore::nearest`] finds them. Their distances show. Those of a group go when it is put without, or deleted.
    pub hints: Vec<(u32, Vec<Vec<f32>>)>,
    /// The new manifest, sealed by the owner.
    pub manifest: Vec<u8>,
}

/// What a back end of the vector store offers. It sees ciphertext and tokens only, and is not trusted: the owner checks
/// groups against the sealed manifest, and passages by their authentication tag.
///
/// Every method fails with [`VectorsError::Backend`] when the back end does, and with [`VectorsError::Malformed`] when a
/// stored record does not parse.
pub trait VectorStore: Send + Sync {
    /// Draws the next version of a collection. Versions never repeat, not after a crash nor after a deletion.
    fn reserve_version(&self, collection: &CollectionName) -> Result<u64, VectorsError>;

    /// Applies a change atomically and durably: after a crash all of it is there, or nothing of it.
    ///
    /// # Errors
    /// [`VectorsError::StaleVersion`] unless the version was reserved and is newer than the one in force;
    /// [`VectorsError::PositionTaken`], [`VectorsError::Duplicate`] and [`VectorsError::TooLong`] for entries that
    /// contradict each other or do not fit.
    fn apply(&self, collection: &CollectionName, change: Change) -> Result<(), VectorsError>;

    /// The version in force: that of the last change, 0 before the first.
    fn version(&self, collection: &CollectionName) -> Result<u64, VectorsError>;

    /// The sealed manifest of the last change.
    fn manifest(&self, collection: &CollectionName) -> Result<Option<Vec<u8>>, VectorsError>;

    /// One group.
    fn group(&self, collection: &CollectionName, group: u32) -> Result<Option<GroupRecord>, VectorsError>;

    /// The numbers of all groups, ascending.
    fn groups(&self, collection: &CollectionName) -> Result<Vec<u32>, VectorsError>;

    /// One passage.
    fn passage(
        &self,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<PassageRecord>, VectorsError>;

    /// The document at a position.
    fn document_at(&self, collection: &CollectionName, position: Position) -> Result<Option<DocumentId>, VectorsError>;

    /// Every document with its position, ordered by position.
    fn documents(&self, collection: &CollectionName) -> Result<Vec<(Position, DocumentId)>, VectorsError>;

    /// The positions whose documents carry all of `tokens` (field, value), ascending. No token: every position.
    fn matching(&self, collection: &CollectionName, tokens: &[(String, String)])
    -> Result<Vec<Position>, VectorsError>;

    /// About `count` positions whose hints are near to `hint`, nearest first, by an index that may miss some.
    ///
    /// # Errors
    /// [`VectorsError::NoIndex`] from a back end that has none.
    fn nearest(&self, collection: &CollectionName, hint: &[f32], count: u32) -> Result<Vec<Position>, VectorsError> {
        let _ = (hint, count);
        Err(VectorsError::NoIndex { collection: collection.clone() })
    }

    /// The collections that hold anything, by name.
    fn collections(&self) -> Result<Vec<CollectionName>, VectorsError>;

    /// Removes everything of a collection but its version counter, atomically and durably.
    fn delete_collection(&self, collection: &CollectionName) -> Result<(), VectorsError>;

    /// Writes the whole store as one checksummed stream.
    fn export(&self, to: &mut dyn Write) -> Result<(), VectorsError>;

    /// Reads such a stream into an empty store. On any error the store is empty again.
    ///
    /// # Errors
    /// [`VectorsError::NotEmpty`] and [`VectorsError::Import`].
    fn import(&self, from: &mut dyn Read) -> Result<(), VectorsError>;
}
