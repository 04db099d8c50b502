use casemate_types::CollectionName;

use crate::{DocumentId, Position};

/// Why the store refused, or what failed underneath.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorsError {
    /// The back end failed.
    #[error("{action}: the store's back end failed; check disk space and permissions")]
    Backend {
        /// What was being done.
        action: &'static str,
        /// The back end's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The same document or group twice in one change.
    #[error("change collection `{collection}`: {what} occurs twice in one change")]
    Duplicate {
        /// The collection.
        collection: CollectionName,
        /// Which entry.
        what: String,
    },
    /// The import stream ended early, or its checksum does not match.
    #[error("import a store: {reason}; nothing was imported, export it again")]
    Import {
        /// What was wrong.
        reason: &'static str,
    },
    /// A stored value does not parse.
    #[error("read {what}: the stored bytes are damaged; restore the store from an export")]
    Malformed {
        /// The kind of record.
        what: &'static str,
    },
    /// The back end cannot look up perturbed vectors.
    #[error(
        "candidates of collection `{collection}`: this store has no index over perturbed vectors; keep it in PostgreSQL with pgvector, \
         or take the compartment out of [candidates]"
    )]
    NoIndex {
        /// The collection.
        collection: CollectionName,
    },
    /// Import wants an empty store.
    #[error("import a store: this one already holds data; import into a new directory")]
    NotEmpty,
    /// Another document lives there.
    #[error("change collection `{collection}`: {position} already holds another document ({document})")]
    PositionTaken {
        /// The collection.
        collection: CollectionName,
        /// Where.
        position: Position,
        /// Who is there.
        document: DocumentId,
    },
    /// The version was not drawn, or a later change was applied since.
    #[error(
        "change collection `{collection}`: version {version} is not newer than {applied} or was never reserved; read the collection again"
    )]
    StaleVersion {
        /// The collection.
        collection: CollectionName,
        /// The version of the change.
        version: u64,
        /// The version in force.
        applied: u64,
    },
    /// A field or value beyond 65,535 bytes, or a blob beyond 1 GiB.
    #[error("change collection `{collection}`: {what} is too long to store")]
    TooLong {
        /// The collection.
        collection: CollectionName,
        /// Which entry.
        what: &'static str,
    },
    /// There is no next version.
    #[error("reserve a version of `{collection}`: the counter is exhausted")]
    VersionsExhausted {
        /// The collection.
        collection: CollectionName,
    },
}
