use casemate_fhe::{FheError, Params};
use casemate_types::{CollectionName, Digest};
use casemate_vectors::VectorsError;

/// Why a query was not scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// The store's bytes are not those the owner sealed into the manifest.
    #[error("score `{collection}`: group {group} is not the one its owner stored; restore the store from an export")]
    GroupAltered {
        /// The collection.
        collection: CollectionName,
        /// Number of the group.
        group: u32,
    },
    /// The store does not have the group.
    #[error("score `{collection}`: group {group} is missing from the store; restore the store from an export")]
    GroupMissing {
        /// The collection.
        collection: CollectionName,
        /// Number of the group.
        group: u32,
    },
    /// The store has the group in another version than expected.
    #[error(
        "score `{collection}`: group {group} has version {actual}, expected {expected}; ask again with the current manifest"
    )]
    GroupVersion {
        /// The collection.
        collection: CollectionName,
        /// Number of the group.
        group: u32,
        /// The version the owner expects.
        expected: u64,
        /// The version in the store.
        actual: u64,
    },
    /// The group was encrypted under other parameters than the query.
    #[error("score `{collection}`: group {group} has parameters {actual}, the query {expected}")]
    Params {
        /// The collection.
        collection: CollectionName,
        /// Number of the group.
        group: u32,
        /// Those of the query.
        expected: Params,
        /// Those of the group.
        actual: Params,
    },
    /// A ciphertext was refused.
    #[error("score `{collection}`: a ciphertext was refused")]
    Ciphertext {
        /// The collection.
        collection: CollectionName,
        /// Which rule it broke.
        source: FheError,
    },
    /// A model, or a query to one, was refused.
    #[error("classify: the model or the query was refused")]
    Model {
        /// Which rule it broke.
        source: FheError,
    },
    /// The tier does not have the model, or no longer.
    #[error("classify: the model {model} is not here; send it again")]
    ModelMissing {
        /// Its digest.
        model: Digest,
    },
    /// A tier in another process did not classify as it should.
    #[error("classify: the inference tier gave no answer")]
    RemoteModel {
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store failed.
    #[error("score `{collection}`: the store failed")]
    Store {
        /// The collection.
        collection: CollectionName,
        /// Its own error.
        source: VectorsError,
    },
    /// A tier in another process did not answer as it should.
    #[error("score `{collection}`: the inference tier gave no answer")]
    Remote {
        /// The collection.
        collection: CollectionName,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
